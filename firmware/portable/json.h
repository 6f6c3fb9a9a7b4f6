/* JSON, read without a tree and written without one.
 *
 * Reading walks a span of text once: open a container, take its members one by one, close. Errors stick: after the
 * first one every call answers false and `error` says what was wrong at `at`. Depth and string lengths are bounded,
 * no memory is allocated, and the text is not changed. Strings must be UTF-8. Nothing here knows any message. */
#ifndef PROPELLER_JSON_H
#define PROPELLER_JSON_H

#include "text.h"

enum { JSON_DEPTH_MAX = 64 };

typedef struct {
    const char *begin, *at, *end;
    const char *error;
    int depth;
    bool first; /* the next member is the first of its container */
} json_t;

void json_open(json_t *json, span_t text);
/* Nothing follows the value, and nothing went wrong. */
bool json_close(json_t *json);
bool json_fail(json_t *json, const char *error);

/* The first character of the next value without taking it; 0 at the end. */
char json_peek(json_t *json);
bool json_object(json_t *json);
/* The next member's name, or false at the object's end. A name that does not fit is empty. */
bool json_key(json_t *json, char *name, size_t capacity);
bool json_array(json_t *json);
/* Whether another element follows. */
bool json_item(json_t *json);
/* The decoded string; `text` overflows rather than the call failing. */
bool json_string(json_t *json, text_t *text);
/* Like json_string into a C string: an error if it does not fit or holds a NUL. */
bool json_word(json_t *json, char *into, size_t capacity);
/* Like json_word, but a number is taken, too, as it is written. */
bool json_word_or_number(json_t *json, char *into, size_t capacity);
bool json_unsigned(json_t *json, uint64_t most, uint64_t *value);
/* A number in thousandths, rounded down; above `most` it is `most`. Negative numbers are errors. */
bool json_thousandths(json_t *json, uint64_t most, uint64_t *value);
bool json_boolean(json_t *json, bool *value);
/* Takes `null` if it is next. */
bool json_null(json_t *json);
/* Takes the next value and gives its text. */
bool json_raw(json_t *json, span_t *raw);
bool json_skip(json_t *json);

/* The member `name` of the object in `text`, the last one if there are several; false if there is none. */
bool json_member(span_t text, const char *name, span_t *raw);
/* Whether `text` is one JSON value. */
bool json_valid(span_t text);
/* A raw string's content. False if `raw` is no string; the text may overflow. */
bool json_decode_string(span_t raw, text_t *text);

void json_put_string(text_t *text, span_t content);
/* Bytes that json_put_string takes at most, with a NUL. */
size_t json_string_room(span_t content);
/* `,"name":` with the comma unless it is the object's first member. */
void json_put_name(text_t *text, const char *name);
void json_put_member(text_t *text, const char *name, span_t content);

#endif
