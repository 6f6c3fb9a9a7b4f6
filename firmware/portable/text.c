/* Bounded text: see text.h. */
#include "text.h"

#include <string.h>

span_t span_of(const char *text) { return (span_t){text, text == NULL ? 0 : strlen(text)}; }

bool span_same(span_t one, span_t other) {
    return one.length == other.length && (one.length == 0 || memcmp(one.at, other.at, one.length) == 0);
}

bool span_is(span_t span, const char *text) { return span_same(span, span_of(text)); }

bool span_begins(span_t span, const char *prefix) {
    size_t length = strlen(prefix);
    return span.length >= length && memcmp(span.at, prefix, length) == 0;
}

span_t span_from(span_t span, size_t from) {
    return from >= span.length ? (span_t){"", 0} : (span_t){span.at + from, span.length - from};
}

size_t span_find(span_t span, char c) {
    const char *found = span.length == 0 ? NULL : memchr(span.at, c, span.length);
    return found == NULL ? span.length : (size_t)(found - span.at);
}

size_t span_find_last(span_t span, char c) {
    for (size_t i = span.length; i > 0; i--) {
        if (span.at[i - 1] == c) {
            return i - 1;
        }
    }
    return span.length;
}

bool span_number(span_t span, uint64_t most, uint64_t *value) {
    uint64_t sum = 0;
    if (span.length == 0) {
        return false;
    }
    for (size_t i = 0; i < span.length; i++) {
        if (span.at[i] < '0' || span.at[i] > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(span.at[i] - '0');
        if (digit > most || sum > (most - digit) / 10) {
            return false;
        }
        sum = sum * 10 + digit;
    }
    *value = sum;
    return true;
}

bool span_copy(span_t span, char *into, size_t capacity) {
    bool fits = span.length < capacity && (span.length == 0 || memchr(span.at, 0, span.length) == NULL);
    if (capacity == 0) {
        return false;
    }
    into[0] = 0;
    if (fits && span.length > 0) {
        memcpy(into, span.at, span.length);
        into[span.length] = 0;
    }
    return fits;
}

void text_open(text_t *text, char *buffer, size_t capacity) {
    *text = (text_t){.at = buffer, .capacity = capacity};
    if (capacity > 0) {
        buffer[0] = 0;
    }
}

void text_put(text_t *text, span_t span) {
    if (text->overflow || span.length >= text->capacity - text->length) {
        text->overflow = text->overflow || span.length > 0;
        return;
    }
    if (span.length > 0) {
        memcpy(text->at + text->length, span.at, span.length);
    }
    text->length += span.length;
    text->at[text->length] = 0;
}

void text_add(text_t *text, const char *words) { text_put(text, span_of(words)); }

void text_char(text_t *text, char c) { text_put(text, (span_t){&c, 1}); }

void text_unsigned(text_t *text, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    text_put(text, (span_t){digits + at, sizeof digits - at});
}

void text_thousandths(text_t *text, uint64_t value) {
    char places[3] = {(char)('0' + value / 100 % 10), (char)('0' + value / 10 % 10), (char)('0' + value % 10)};
    size_t count = places[2] != '0' ? 3 : places[1] != '0' ? 2 : 1;
    text_unsigned(text, value / 1000);
    text_char(text, '.');
    text_put(text, (span_t){places, count});
}

span_t text_span(const text_t *text) { return (span_t){text->at, text->length}; }
