/* A JSON reader that allocates nothing: a cursor over one text, moved by what the caller expects next.
 *
 * It accepts exactly RFC 8259 (no NaN, no trailing commas), bounds nesting, and never reads past `end`. The
 * first thing that is not as expected sets `error` and stays; every call after it fails, so a caller may read
 * a whole shape and check once. It knows nothing of models or data sets. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 64 };

typedef struct {
    const char *begin;
    const char *at;
    const char *end;
    const char *error; /* NULL, or what was wrong at `at` */
    bool first;        /* the next member or item is its container's first */
} json_t;

/* Begin to read `text`, which must end with a NUL (numbers are converted in place). */
void json_open(json_t *json, const char *text);

/* Enter an object; then `json_key` is true once per member, with its value next. Keys that do not fit in
 * `capacity` are given empty: no key that a caller knows is that long. */
bool json_object(json_t *json);
bool json_key(json_t *json, char *key, size_t capacity);

/* Enter an array; then `json_item` is true once per item, with the item next. */
bool json_array(json_t *json);
bool json_item(json_t *json);

/* A finite number; a whole number from 0 to 2^64-1. */
bool json_number(json_t *json, double *value);
bool json_whole(json_t *json, uint64_t *value);

/* Pass over one value of any kind, nested at most JSON_DEPTH_MAX deep. */
bool json_skip(json_t *json);

/* True if nothing failed and nothing but white space is left. */
bool json_close(json_t *json);

/* Record `error` unless there is one already; always false. */
bool json_fail(json_t *json, const char *error);

#endif
