/* URLs and HTTP/1.1 messages, as text: nothing here opens a connection.
 *
 * Only `http://` and only IPv4 addresses: a microcontroller of ours has neither TLS nor a resolver. `localhost` and
 * addresses of loopback mean the broker's machine, for a device has no services of its own. */
#ifndef PROPELLER_WEB_H
#define PROPELLER_WEB_H

#include "text.h"

enum { HTTP_HEAD_BYTES_MAX = 4096, URL_CHARS_MAX = 512 };

typedef struct {
    uint8_t ip[4];
    uint16_t port;
} origin_t;

bool ipv4_parse(span_t text, uint8_t ip[4]);
void ipv4_put(text_t *text, const uint8_t ip[4]);

/* `a.b.c.d[:port]`, or `localhost`. */
bool origin_parse(span_t text, uint16_t default_port, const uint8_t here[4], origin_t *origin);
/* Splits an `http://` URL; `path` is at least "/". */
bool url_parse(span_t url, const uint8_t here[4], origin_t *origin, span_t *path);
/* Whether `allowed` (a comma-separated list of `a.b.c.d[:port]`, or `*`) or `here` (any port) covers `origin`. */
bool origin_allowed(const origin_t *origin, const char *allowed, const uint8_t here[4]);

/* A GET request; `bearer` and `accept` may be empty. */
void http_get(text_t *request, const origin_t *origin, span_t path, const char *bearer, const char *accept);

typedef struct {
    int status;
    bool chunked, has_length;
    uint64_t length;
    size_t head_bytes;
} http_head_t;

/* The head of an answer, if it is whole: 1. 0: more is needed. -1: it is no HTTP. */
int http_read_head(span_t received, http_head_t *head);

/* Takes the chunked coding out of `body` in place, as far as it has come. */
typedef struct {
    size_t kept;  /* decoded bytes at the beginning of the body */
    uint64_t left; /* of the present chunk */
    int state;
    bool ended, bad;
} dechunk_t;

/* `body[kept + …)` gets longer: `added` new encoded bytes are at `body + kept`. Returns the new length, decoded. */
size_t http_dechunk(dechunk_t *state, char *body, size_t added);

#endif
