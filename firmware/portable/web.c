/* URLs and HTTP/1.1 messages: see web.h. */
#include "web.h"

#include <string.h>

bool ipv4_parse(span_t text, uint8_t ip[4]) {
    for (int i = 0; i < 4; i++) {
        size_t dot = span_find(text, '.');
        uint64_t value;
        if ((i < 3 && dot == text.length) || dot > 3 || !span_number((span_t){text.at, i < 3 ? dot : text.length}, 255, &value)) {
            return false;
        }
        ip[i] = (uint8_t)value;
        text = span_from(text, dot + 1);
    }
    return true;
}

void ipv4_put(text_t *text, const uint8_t ip[4]) {
    for (int i = 0; i < 4; i++) {
        if (i > 0) {
            text_char(text, '.');
        }
        text_unsigned(text, ip[i]);
    }
}

bool origin_parse(span_t text, uint16_t default_port, const uint8_t here[4], origin_t *origin) {
    size_t colon = span_find(text, ':');
    span_t host = {text.at, colon};
    uint64_t port = default_port;
    if (colon < text.length && (!span_number(span_from(text, colon + 1), 65535, &port) || port == 0)) {
        return false;
    }
    origin->port = (uint16_t)port;
    if (span_is(host, "localhost")) {
        memcpy(origin->ip, here, 4);
        return true;
    }
    if (!ipv4_parse(host, origin->ip)) {
        return false;
    }
    if (origin->ip[0] == 127) {
        memcpy(origin->ip, here, 4);
    }
    return true;
}

static bool sane(span_t path) {
    for (size_t i = 0; i < path.length; i++) {
        if (path.at[i] <= ' ' || path.at[i] > '~') {
            return false;
        }
    }
    return true;
}

bool url_parse(span_t url, const uint8_t here[4], origin_t *origin, span_t *path) {
    if (!span_begins(url, "http://") || url.length > URL_CHARS_MAX) {
        return false;
    }
    span_t rest = span_from(url, sizeof "http://" - 1);
    size_t slash = span_find(rest, '/');
    *path = slash < rest.length ? span_from(rest, slash) : SPAN("/");
    return sane(*path) && origin_parse((span_t){rest.at, slash}, 80, here, origin);
}

bool origin_allowed(const origin_t *origin, const char *allowed, const uint8_t here[4]) {
    span_t rest = span_of(allowed);
    origin_t other;
    if (memcmp(origin->ip, here, 4) == 0) {
        return true;
    }
    while (rest.length > 0) {
        size_t comma = span_find(rest, ',');
        span_t one = {rest.at, comma};
        bool any_port = span_find(one, ':') == one.length;
        if (span_is(one, "*") || (origin_parse(one, 1, here, &other) && memcmp(other.ip, origin->ip, 4) == 0 &&
                                  (any_port || other.port == origin->port))) {
            return true;
        }
        rest = span_from(rest, comma + 1);
    }
    return false;
}

void http_get(text_t *request, const origin_t *origin, span_t path, const char *bearer, const char *accept) {
    text_add(request, "GET ");
    text_put(request, path);
    text_add(request, " HTTP/1.1\r\nHost: ");
    ipv4_put(request, origin->ip);
    text_char(request, ':');
    text_unsigned(request, origin->port);
    text_add(request, "\r\nConnection: close\r\nUser-Agent: propeller-firmware\r\n");
    if (accept[0] != 0) {
        text_add(request, "Accept: ");
        text_add(request, accept);
        text_add(request, "\r\n");
    }
    if (bearer[0] != 0) {
        text_add(request, "Authorization: Bearer ");
        text_add(request, bearer);
        text_add(request, "\r\n");
    }
    text_add(request, "\r\n");
}

static bool name_is(span_t name, const char *lower) {
    if (name.length != strlen(lower)) {
        return false;
    }
    for (size_t i = 0; i < name.length; i++) {
        char c = name.at[i];
        if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != lower[i]) {
            return false;
        }
    }
    return true;
}

static span_t trimmed(span_t span) {
    while (span.length > 0 && (span.at[0] == ' ' || span.at[0] == '\t')) {
        span = span_from(span, 1);
    }
    while (span.length > 0 && (span.at[span.length - 1] == ' ' || span.at[span.length - 1] == '\t')) {
        span.length--;
    }
    return span;
}

/* One header line; false if what it says cannot be read. */
static bool read_field(span_t line, http_head_t *head) {
    size_t colon = span_find(line, ':');
    span_t name = {line.at, colon}, value = trimmed(span_from(line, colon + 1));
    if (name_is(name, "content-length")) {
        head->has_length = true;
        return span_number(value, UINT32_MAX, &head->length);
    }
    if (name_is(name, "transfer-encoding")) {
        head->chunked = name_is(value, "chunked");
        return head->chunked;
    }
    return colon < line.length;
}

int http_read_head(span_t received, http_head_t *head) {
    span_t rest = received;
    uint64_t status = 0;
    *head = (http_head_t){0};
    for (int number = 0;; number++) {
        size_t end = span_find(rest, '\n');
        if (end == rest.length) {
            return received.length > HTTP_HEAD_BYTES_MAX ? -1 : 0;
        }
        span_t line = {rest.at, end > 0 && rest.at[end - 1] == '\r' ? end - 1 : end};
        rest = span_from(rest, end + 1);
        if (number == 0) {
            if (!span_begins(line, "HTTP/1.") || line.length < 12 || !span_number((span_t){line.at + 9, 3}, 999, &status)) {
                return -1;
            }
        } else if (line.length == 0) {
            head->status = (int)status;
            head->head_bytes = received.length - rest.length;
            return 1;
        } else if (!read_field(line, head)) {
            return -1;
        }
    }
}

/* --- chunked coding (RFC 9112, section 7.1) ---------------------------------------------------------------- */

enum { IN_SIZE, IN_EXTENSION, IN_DATA, AFTER_DATA, IN_TRAILER, IN_TRAILER_LINE };

static int hex(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void size_ends(dechunk_t *state) { state->state = state->left == 0 ? IN_TRAILER : IN_DATA; }

/* One character that is not data. */
static void step(dechunk_t *state, char c) {
    int digit = hex(c);
    switch (state->state) {
    case IN_SIZE:
        if (digit >= 0 && state->left < UINT32_MAX / 16) {
            state->left = state->left * 16 + (uint64_t)digit;
        } else if (c == '\n') {
            size_ends(state);
        } else if (c == ';' || c == '\r' || c == ' ') {
            state->state = IN_EXTENSION;
        } else {
            state->bad = true;
        }
        return;
    case IN_EXTENSION:
        if (c == '\n') {
            size_ends(state);
        }
        return;
    case AFTER_DATA:
        state->state = c == '\n' ? IN_SIZE : state->state;
        state->bad = c != '\n' && c != '\r';
        return;
    case IN_TRAILER:
        state->ended = c == '\n';
        state->state = c == '\n' || c == '\r' ? IN_TRAILER : IN_TRAILER_LINE;
        return;
    default:
        state->state = c == '\n' ? IN_TRAILER : IN_TRAILER_LINE;
    }
}

size_t http_dechunk(dechunk_t *state, char *body, size_t added) {
    const char *from = body + state->kept, *end = from + added;
    while (from < end && !state->ended && !state->bad) {
        if (state->state != IN_DATA) {
            step(state, *from++);
            continue;
        }
        size_t here = (size_t)(end - from);
        here = here < state->left ? here : (size_t)state->left;
        memmove(body + state->kept, from, here);
        state->kept += here;
        state->left -= here;
        from += here;
        if (state->left == 0) {
            state->state = AFTER_DATA;
        }
    }
    return state->kept;
}
