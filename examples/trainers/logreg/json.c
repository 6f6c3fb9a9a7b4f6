#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool json_fail(json_t *json, const char *error) {
    if (json->error == NULL) {
        json->error = error;
    }
    return false;
}

void json_open(json_t *json, const char *text) {
    *json = (json_t){.begin = text, .at = text, .end = text + strlen(text)};
}

/* The next character that is no white space, 0 at the end or after an error. */
static char peek(json_t *json) {
    while (json->at < json->end && strchr(" \t\r\n", *json->at) != NULL) {
        json->at++;
    }
    return json->error == NULL && json->at < json->end ? *json->at : 0;
}

static bool take(json_t *json, char expected, const char *error) {
    if (peek(json) != expected) {
        return json_fail(json, error);
    }
    json->at++;
    return true;
}

/* Between the values of a container: true if another follows, false at its end, which is consumed. */
static bool another(json_t *json, char closing, const char *error) {
    bool first = json->first;
    json->first = false;
    char next = peek(json);
    if (next == closing) {
        json->at++;
        return false;
    }
    if (first) {
        return next != 0 || json_fail(json, error);
    }
    return take(json, ',', error);
}

static bool digit(const json_t *json) {
    return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

static bool digits(json_t *json) {
    if (!digit(json)) {
        return json_fail(json, "expected a digit");
    }
    while (digit(json)) {
        json->at++;
    }
    return true;
}

/* One number by the grammar: strtod alone would also take hexadecimal, infinities and NaN. */
static bool scan_number(json_t *json) {
    char next = peek(json);
    if (next != '-' && !(next >= '0' && next <= '9')) {
        return json_fail(json, "expected a number");
    }
    if (next == '-') {
        json->at++;
    }
    if (json->at < json->end && *json->at == '0') {
        json->at++;
    } else if (!digits(json)) {
        return false;
    }
    if (json->at < json->end && *json->at == '.') {
        json->at++;
        if (!digits(json)) {
            return false;
        }
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        json->at++;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-')) {
            json->at++;
        }
        return digits(json);
    }
    return true;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character of an escape after its backslash; those outside ASCII become 0x7f, which no known key has. */
static int escape(json_t *json) {
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    char name = json->at < json->end ? *json->at++ : 0;
    const char *found = name != 0 ? strchr(names, name) : NULL;
    if (found != NULL) {
        return values[found - names];
    }
    if (name != 'u' || json->end - json->at < 4) {
        json_fail(json, "bad escape in a string");
        return -1;
    }
    int code = 0;
    for (int i = 0; i < 4; i++) {
        int value = hex(*json->at++);
        if (value < 0) {
            json_fail(json, "bad escape in a string");
            return -1;
        }
        code = code * 16 + value;
    }
    return code < 0x7f ? code : 0x7f;
}

/* One string; its characters go to `text` if they fit, and `text` is empty if they do not. */
static bool scan_string(json_t *json, char *text, size_t capacity) {
    size_t length = 0;
    if (!take(json, '"', "expected a string")) {
        return false;
    }
    while (json->at < json->end && *json->at != '"') {
        unsigned char c = (unsigned char)*json->at++;
        int value = c == '\\' ? escape(json) : c;
        if (value < 0 || c < 0x20) {
            return json_fail(json, "control character in a string");
        }
        if (length < capacity) {
            text[length] = (char)value;
        }
        length++;
    }
    if (capacity > 0) {
        text[length < capacity ? length : 0] = 0;
    }
    return take(json, '"', "a string without an end");
}

bool json_object(json_t *json) {
    json->first = take(json, '{', "expected an object");
    return json->first;
}

bool json_key(json_t *json, char *key, size_t capacity) {
    return another(json, '}', "expected `,` or `}`") && scan_string(json, key, capacity) &&
           take(json, ':', "expected `:`");
}

bool json_array(json_t *json) {
    json->first = take(json, '[', "expected an array");
    return json->first;
}

bool json_item(json_t *json) { return another(json, ']', "expected `,` or `]`"); }

bool json_number(json_t *json, double *value) {
    peek(json);
    const char *begin = json->at;
    if (!scan_number(json)) {
        return false;
    }
    *value = strtod(begin, NULL);
    return isfinite(*value) || json_fail(json, "a number too large for 64 bits");
}

bool json_whole(json_t *json, uint64_t *value) {
    peek(json);
    *value = 0;
    const char *begin = json->at;
    if (!scan_number(json)) {
        return false;
    }
    for (const char *c = begin; c < json->at; c++) {
        uint64_t units = (uint64_t)(*c - '0');
        if (*c < '0' || *c > '9' || *value > (UINT64_MAX - units) / 10) {
            return json_fail(json, "expected a whole number from 0 to 2^64-1");
        }
        *value = *value * 10 + units;
    }
    return true;
}

static bool skip_word(json_t *json) {
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(json->end - json->at) >= length && memcmp(json->at, words[i], length) == 0) {
            json->at += length;
            return true;
        }
    }
    return json_fail(json, "expected a value");
}

static bool skip_scalar(json_t *json) {
    char next = peek(json);
    if (next == '"') {
        return scan_string(json, NULL, 0);
    }
    return next == '-' || (next >= '0' && next <= '9') ? scan_number(json) : skip_word(json);
}

bool json_skip(json_t *json) {
    char closing[JSON_DEPTH_MAX];
    int depth = 0;
    for (;;) {
        char next = peek(json);
        if (next == '{' || next == '[') {
            if (depth == JSON_DEPTH_MAX) {
                return json_fail(json, "nested too deeply");
            }
            closing[depth++] = next == '{' ? '}' : ']';
            json->at++;
            json->first = true;
        } else if (!skip_scalar(json)) {
            return false;
        }
        /* A value ended or a container began: go up as long as containers end here. */
        for (;;) {
            if (depth == 0) {
                return json->error == NULL;
            }
            bool object = closing[depth - 1] == '}';
            if (object ? json_key(json, NULL, 0) : json_item(json)) {
                break;
            }
            if (json->error != NULL) {
                return false;
            }
            depth--;
        }
    }
}

bool json_close(json_t *json) {
    peek(json);
    return json->error == NULL && (json->at == json->end || json_fail(json, "something follows the value"));
}
