/* Text that is built up in a buffer of fixed size, and spans of text that somebody else owns.
 *
 * A `text_t` never writes past its buffer: what does not fit sets `overflow`, and the owner looks once at the end.
 * Nothing here knows what the text means. */
#ifndef PROPELLER_TEXT_H
#define PROPELLER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes owned by somebody else; `at` is NULL for what is not there. Not terminated. */
typedef struct {
    const char *at;
    size_t length;
} span_t;

/* A buffer being filled. After every call the content is `at[0..length)` followed by a NUL, if capacity > 0. */
typedef struct {
    char *at;
    size_t length, capacity;
    bool overflow;
} text_t;

#define SPAN(literal) ((span_t){(literal), sizeof(literal) - 1})

span_t span_of(const char *text);
bool span_is(span_t span, const char *text);
bool span_same(span_t one, span_t other);
bool span_begins(span_t span, const char *prefix);
/* The part of `span` from `from` on; empty if there is none. */
span_t span_from(span_t span, size_t from);
/* Where `c` is first, or `span.length`. */
size_t span_find(span_t span, char c);
/* Where `c` is last, or `span.length`. */
size_t span_find_last(span_t span, char c);
/* A whole number in decimal digits and nothing else, at most `most`. */
bool span_number(span_t span, uint64_t most, uint64_t *value);
/* Copy as a C string; false if it does not fit or has a NUL inside. `into` is empty then. */
bool span_copy(span_t span, char *into, size_t capacity);

void text_open(text_t *text, char *buffer, size_t capacity);
void text_put(text_t *text, span_t span);
void text_add(text_t *text, const char *words);
void text_char(text_t *text, char c);
void text_unsigned(text_t *text, uint64_t value);
/* Thousandths as a decimal with at least one place: 1250 is 1.25, 1000 is 1.0. */
void text_thousandths(text_t *text, uint64_t value);
span_t text_span(const text_t *text);

#endif
