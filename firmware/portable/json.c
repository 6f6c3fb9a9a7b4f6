/* JSON reading and writing: see json.h. */
#include "json.h"

#include <string.h>

bool json_fail(json_t *json, const char *error) {
    if (json->error == NULL) {
        json->error = error;
    }
    return false;
}

void json_open(json_t *json, span_t text) {
    *json = (json_t){.begin = text.at, .at = text.at, .end = text.at + text.length};
}

char json_peek(json_t *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\t' || *json->at == '\r' || *json->at == '\n')) {
        json->at++;
    }
    return json->error == NULL && json->at < json->end ? *json->at : 0;
}

static bool take(json_t *json, char expected, const char *error) {
    if (json_peek(json) != expected) {
        return json_fail(json, error);
    }
    json->at++;
    return true;
}

static bool enter(json_t *json, char opening, const char *error) {
    if (!take(json, opening, error)) {
        return false;
    }
    if (json->depth == JSON_DEPTH_MAX) {
        return json_fail(json, "nested too deeply");
    }
    json->depth++;
    json->first = true;
    return true;
}

/* Between the members of a container: true if another follows, false at its end, which is taken. */
static bool another(json_t *json, char closing, const char *error) {
    bool first = json->first;
    json->first = false;
    char next = json_peek(json);
    if (next == closing) {
        json->at++;
        json->depth--;
        return false;
    }
    if (first) {
        return next != 0 || json_fail(json, error);
    }
    return take(json, ',', error);
}

bool json_object(json_t *json) { return enter(json, '{', "expected an object"); }
bool json_array(json_t *json) { return enter(json, '[', "expected an array"); }
bool json_item(json_t *json) { return json->error == NULL && another(json, ']', "expected , or ] in an array"); }

static int hex(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits, or a failure. */
static bool code_unit(json_t *json, uint32_t *unit) {
    if (json->end - json->at < 4) {
        return json_fail(json, "bad escape in a string");
    }
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        int value = hex(*json->at++);
        if (value < 0) {
            return json_fail(json, "bad escape in a string");
        }
        *unit = *unit * 16 + (uint32_t)value;
    }
    return true;
}

static void put_utf8(text_t *text, uint32_t point) {
    if (point < 0x80) {
        text_char(text, (char)point);
        return;
    }
    int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};
    text_char(text, (char)(leads[more] | (point >> (6 * more))));
    while (more-- > 0) {
        text_char(text, (char)(0x80 | ((point >> (6 * more)) & 0x3f)));
    }
}

/* A \u escape, both halves of a surrogate pair together. */
static bool unicode_escape(json_t *json, text_t *text) {
    uint32_t point, low;
    if (!code_unit(json, &point)) {
        return false;
    }
    if (point >= 0xdc00 && point < 0xe000) {
        return json_fail(json, "half a surrogate pair in a string");
    }
    if (point >= 0xd800 && point < 0xdc00) {
        if (json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u') {
            return json_fail(json, "half a surrogate pair in a string");
        }
        json->at += 2;
        if (!code_unit(json, &low) || low < 0xdc00 || low >= 0xe000) {
            return json_fail(json, "half a surrogate pair in a string");
        }
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    put_utf8(text, point);
    return true;
}

static bool escape(json_t *json, text_t *text) {
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    char name = json->at < json->end ? *json->at++ : 0;
    const char *found = name == 0 ? NULL : strchr(names, name);
    if (found != NULL) {
        text_char(text, values[found - names]);
        return true;
    }
    return name == 'u' ? unicode_escape(json, text) : json_fail(json, "bad escape in a string");
}

/* How many bytes the UTF-8 sequence at `at` has; 0 if it is none (overlong, surrogate, too large, cut off). */
static size_t utf8_length(const unsigned char *at, size_t left) {
    static const struct {
        unsigned char lead, lead_max, second, second_max;
        size_t length;
    } forms[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (at[0] < forms[i].lead || at[0] > forms[i].lead_max) {
            continue;
        }
        if (left < forms[i].length || at[1] < forms[i].second || at[1] > forms[i].second_max) {
            return 0;
        }
        for (size_t j = 2; j < forms[i].length; j++) {
            if ((at[j] & 0xc0) != 0x80) {
                return 0;
            }
        }
        return forms[i].length;
    }
    return 0;
}

/* Characters up to the next quote or backslash, put as they are. */
static bool plain(json_t *json, text_t *text) {
    const char *from = json->at;
    while (json->at < json->end && *json->at != '"' && *json->at != '\\') {
        unsigned char c = (unsigned char)*json->at;
        size_t length = c < 0x80 ? 1 : utf8_length((const unsigned char *)json->at, (size_t)(json->end - json->at));
        if (c < 0x20 || length == 0) {
            return json_fail(json, c < 0x20 ? "control character in a string" : "a string is not UTF-8");
        }
        json->at += length;
    }
    text_put(text, (span_t){from, (size_t)(json->at - from)});
    return true;
}

bool json_string(json_t *json, text_t *text) {
    if (!take(json, '"', "expected a string")) {
        return false;
    }
    while (plain(json, text)) {
        if (json->at == json->end) {
            return json_fail(json, "a string does not end");
        }
        if (*json->at++ == '"') {
            return true;
        }
        if (!escape(json, text)) {
            return false;
        }
    }
    return false;
}

bool json_word(json_t *json, char *into, size_t capacity) {
    text_t text;
    text_open(&text, into, capacity);
    if (!json_string(json, &text)) {
        return false;
    }
    if (text.overflow || memchr(text.at, 0, text.length) != NULL) {
        into[0] = 0;
        return json_fail(json, "a string is too long or holds a NUL");
    }
    return true;
}

bool json_key(json_t *json, char *name, size_t capacity) {
    text_t text;
    if (json->error != NULL || !another(json, '}', "expected , or } in an object")) {
        return false;
    }
    text_open(&text, name, capacity);
    if (!json_string(json, &text) || !take(json, ':', "expected : after a name")) {
        return false;
    }
    if (text.overflow && capacity > 0) {
        name[0] = 0;
    }
    return true;
}

static bool digits(json_t *json) {
    const char *from = json->at;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        json->at++;
    }
    return json->at > from || json_fail(json, "expected a digit");
}

/* One number by the grammar; gives its text. */
static bool scan_number(json_t *json, span_t *number) {
    json_peek(json);
    const char *from = json->at;
    if (json->at < json->end && *json->at == '-') {
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
        if (!digits(json)) {
            return false;
        }
    }
    *number = (span_t){from, (size_t)(json->at - from)};
    return true;
}

bool json_word_or_number(json_t *json, char *into, size_t capacity) {
    span_t number;
    if (json_peek(json) == '"') {
        return json_word(json, into, capacity);
    }
    if (json->error != NULL || !scan_number(json, &number)) {
        return false;
    }
    return span_copy(number, into, capacity) || json_fail(json, "a number is too long");
}

bool json_unsigned(json_t *json, uint64_t most, uint64_t *value) {
    span_t number;
    if (json->error != NULL || !scan_number(json, &number)) {
        return false;
    }
    return span_number(number, most, value) || json_fail(json, "expected a whole number in range");
}

/* The exponent of a number's text, held within ±100, beyond which every result is 0 or the most there is. */
static int exponent_of(span_t number, size_t *mantissa) {
    size_t at = 0;
    while (at < number.length && number.at[at] != 'e' && number.at[at] != 'E') {
        at++;
    }
    *mantissa = at;
    if (at == number.length) {
        return 0;
    }
    span_t rest = span_from(number, at + 1);
    bool negative = rest.length > 0 && rest.at[0] == '-';
    uint64_t value = 100;
    if (rest.length > 0 && (rest.at[0] == '-' || rest.at[0] == '+')) {
        rest = span_from(rest, 1);
    }
    if (!span_number(rest, 100, &value)) {
        value = 100;
    }
    return negative ? -(int)value : (int)value;
}

/* digits × 10^power, held at `most`. */
static uint64_t scaled(span_t digits_, int power, uint64_t most) {
    uint64_t sum = 0;
    long count = (long)digits_.length;
    /* The place of each digit falls by one per digit; the integer part ends at the point. */
    size_t whole = span_find(digits_, '.');
    long place = (long)whole - 1 + power;
    for (long i = 0; i < count; i++) {
        if (digits_.at[i] == '.') {
            continue;
        }
        if (place < 0) {
            break;
        }
        uint64_t digit = (uint64_t)(digits_.at[i] - '0');
        if (sum > (most - (digit < most ? digit : most)) / 10) {
            return most;
        }
        sum = sum * 10 + digit;
        place--;
    }
    for (; place >= 0 && sum > 0; place--) {
        if (sum > most / 10) {
            return most;
        }
        sum *= 10;
    }
    return sum < most ? sum : most;
}

bool json_thousandths(json_t *json, uint64_t most, uint64_t *value) {
    span_t number;
    size_t mantissa;
    if (json->error != NULL || !scan_number(json, &number)) {
        return false;
    }
    if (number.at[0] == '-') {
        return json_fail(json, "expected a number of at least 0");
    }
    int exponent = exponent_of(number, &mantissa);
    *value = scaled((span_t){number.at, mantissa}, exponent + 3, most);
    return true;
}

static bool word(json_t *json, const char *expected) {
    size_t length = strlen(expected);
    json_peek(json);
    if (json->error == NULL && (size_t)(json->end - json->at) >= length && memcmp(json->at, expected, length) == 0) {
        json->at += length;
        return true;
    }
    return false;
}

bool json_boolean(json_t *json, bool *value) {
    *value = word(json, "true");
    return *value || word(json, "false") || json_fail(json, "expected true or false");
}

bool json_null(json_t *json) { return word(json, "null"); }

static bool skip_scalar(json_t *json) {
    span_t number;
    text_t nothing = {.overflow = true};
    switch (json_peek(json)) {
    case '"':
        return json_string(json, &nothing);
    case 't':
        return word(json, "true") || json_fail(json, "expected a value");
    case 'f':
        return word(json, "false") || json_fail(json, "expected a value");
    case 'n':
        return word(json, "null") || json_fail(json, "expected a value");
    default:
        return json->error == NULL && scan_number(json, &number);
    }
}

bool json_skip(json_t *json) {
    char closing[JSON_DEPTH_MAX];
    int outside = json->depth;
    for (;;) {
        char next = json_peek(json);
        if (next == '{' || next == '[') {
            if (!(next == '{' ? json_object(json) : json_array(json))) {
                return false;
            }
            closing[json->depth - 1] = next == '{' ? '}' : ']';
        } else if (!skip_scalar(json)) {
            return false;
        }
        /* A value ended or a container began: go up as long as containers end here. */
        for (;;) {
            if (json->depth == outside) {
                json->first = false;
                return json->error == NULL;
            }
            if (closing[json->depth - 1] == '}' ? json_key(json, NULL, 0) : json_item(json)) {
                break;
            }
            if (json->error != NULL) {
                return false;
            }
        }
    }
}

bool json_raw(json_t *json, span_t *raw) {
    json_peek(json);
    const char *from = json->at;
    if (!json_skip(json)) {
        return false;
    }
    *raw = (span_t){from, (size_t)(json->at - from)};
    return true;
}

bool json_close(json_t *json) {
    json_peek(json);
    return json->error == NULL && (json->at == json->end || json_fail(json, "something follows the value"));
}

bool json_valid(span_t text) {
    json_t json;
    json_open(&json, text);
    return text.at != NULL && json_skip(&json) && json_close(&json);
}

bool json_member(span_t text, const char *name, span_t *raw) {
    json_t json;
    char key[64];
    span_t value;
    bool found = false;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (!json_raw(&json, &value)) {
            return false;
        }
        if (strcmp(key, name) == 0) {
            *raw = value;
            found = true;
        }
    }
    return found && json.error == NULL;
}

bool json_decode_string(span_t raw, text_t *text) {
    json_t json;
    if (raw.at == NULL) {
        return false;
    }
    json_open(&json, raw);
    return json_string(&json, text) && json_close(&json);
}

/* --- writing --------------------------------------------------------------------------------------------- */

/* The two-character escape of `c`, or 0 if it has none. */
static char short_escape(unsigned char c) {
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

static void put_control(text_t *text, unsigned char c) {
    static const char hexadecimal[] = "0123456789abcdef";
    char escaped[6] = {'\\', 'u', '0', '0', hexadecimal[c >> 4], hexadecimal[c & 15]};
    text_put(text, (span_t){escaped, sizeof escaped});
}

/* One character that JSON cannot hold as it is; bytes that are no UTF-8 become U+FFFD. Returns its bytes. */
static size_t put_special(text_t *text, const unsigned char *at, size_t left) {
    char escaped[2] = {'\\', short_escape(*at)};
    size_t length = *at < 0x80 ? 1 : utf8_length(at, left);
    if (escaped[1] != 0) {
        text_put(text, (span_t){escaped, sizeof escaped});
    } else if (*at < 0x20) {
        put_control(text, *at);
    } else {
        text_put(text, length == 0 ? SPAN("\xef\xbf\xbd") : (span_t){(const char *)at, length});
    }
    return length == 0 ? 1 : length;
}

void json_put_string(text_t *text, span_t content) {
    const unsigned char *at = (const unsigned char *)content.at, *end = at + content.length, *from = at;
    text_char(text, '"');
    while (at < end) {
        if (*at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') {
            at++;
            continue;
        }
        text_put(text, (span_t){(const char *)from, (size_t)(at - from)});
        at += put_special(text, at, (size_t)(end - at));
        from = at;
    }
    text_put(text, (span_t){(const char *)from, (size_t)(end - from)});
    text_char(text, '"');
}

size_t json_string_room(span_t content) {
    size_t room = content.length + 3;
    for (size_t i = 0; i < content.length; i++) {
        unsigned char c = (unsigned char)content.at[i];
        room += short_escape(c) != 0 ? 1 : c < 0x20 ? 5 : c >= 0x80 ? 2 : 0;
    }
    return room;
}

void json_put_name(text_t *text, const char *name) {
    if (text->length > 0 && text->at[text->length - 1] != '{') {
        text_char(text, ',');
    }
    json_put_string(text, span_of(name));
    text_char(text, ':');
}

void json_put_member(text_t *text, const char *name, span_t content) {
    json_put_name(text, name);
    json_put_string(text, content);
}
