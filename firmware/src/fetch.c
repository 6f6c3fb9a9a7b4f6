/* HTTP over sockets: one GET at a time, whole into memory, with an end to all patience. */
#include "device.h"

#include <errno.h>
#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/net/socket.h>
#include <zephyr/random/rand32.h>

LOG_MODULE_REGISTER(fetch, LOG_LEVEL_INF);

enum { ANSWER_WAIT_MS = 15000, SLICE_MS = 200, PAUSE_MS = 500, PAUSE_MS_MAX = 8000, REQUEST_BYTES = 1024 };

typedef struct {
    int socket;
    char *bytes; /* heap: head and body as they come */
    size_t length, room;
    const char *error;
} incoming_t;

static int open_to(const origin_t *origin)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(origin->port)};
    int socket = zsock_socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);

    memcpy(address.sin_addr.s4_addr, origin->ip, 4);
    if (socket >= 0 && zsock_connect(socket, (struct sockaddr *)&address, sizeof address) != 0) {
        zsock_close(socket);
        return -1;
    }
    return socket;
}

static bool send_all(int socket, span_t request)
{
    while (request.length > 0) {
        ssize_t sent = zsock_send(socket, request.at, request.length, 0);

        if (sent <= 0) {
            return false;
        }
        request = span_from(request, (size_t)sent);
    }
    return true;
}

static bool make_room(incoming_t *in, size_t wanted)
{
    if (wanted <= in->room) {
        return true;
    }
    size_t room = MAX(wanted, MIN(2 * in->room, CONFIG_PROPELLER_FETCH_BYTES_MAX + HTTP_HEAD_BYTES_MAX));
    char *larger = wanted > CONFIG_PROPELLER_FETCH_BYTES_MAX + HTTP_HEAD_BYTES_MAX ? NULL : heap_alloc(room);

    if (larger == NULL) {
        in->error = "the answer is larger than this device's memory";
        return false;
    }
    if (in->bytes != NULL) {
        memcpy(larger, in->bytes, in->length);
        heap_free(in->bytes);
    }
    in->bytes = larger;
    in->room = room;
    return true;
}

/* More bytes; 0 at the end of the connection, below 0 if there will be none. */
static ssize_t more(incoming_t *in)
{
    int64_t deadline = now_ms() + ANSWER_WAIT_MS;
    struct zsock_pollfd one = {.fd = in->socket, .events = ZSOCK_POLLIN};

    if (!make_room(in, in->length + 1024)) {
        return -1;
    }
    while (!work_killed() && now_ms() < deadline) {
        if (zsock_poll(&one, 1, SLICE_MS) > 0) {
            ssize_t got = zsock_recv(in->socket, in->bytes + in->length, in->room - in->length, 0);

            in->length += got > 0 ? (size_t)got : 0;
            return got;
        }
    }
    in->error = work_killed() ? "stopped" : "no answer in time";
    return -1;
}

static bool read_head(incoming_t *in, http_head_t *head)
{
    int whole = 0;

    while (whole == 0) {
        if (more(in) <= 0) {
            in->error = in->error != NULL ? in->error : "the connection closed before an answer";
            return false;
        }
        whole = http_read_head((span_t){in->bytes, in->length}, head);
    }
    in->error = whole < 0 ? "the answer is no HTTP" : NULL;
    return whole > 0;
}

/* The body behind the head, moved to the beginning of the block. */
static bool read_body(incoming_t *in, const http_head_t *head)
{
    dechunk_t chunks = {0};
    ssize_t got = 1;

    in->length -= head->head_bytes;
    memmove(in->bytes, in->bytes + head->head_bytes, in->length);
    if (head->has_length && !make_room(in, (size_t)head->length + 1024)) {
        return false;
    }
    if (head->chunked) {
        in->length = http_dechunk(&chunks, in->bytes, in->length);
    }
    while (!chunks.ended && !chunks.bad && !(head->has_length && in->length >= head->length)) {
        size_t before = in->length;

        got = more(in);
        if (got <= 0) {
            break;
        }
        if (head->chunked) {
            in->length = http_dechunk(&chunks, in->bytes, in->length - before);
        }
    }
    bool whole = head->chunked ? chunks.ended : head->has_length ? in->length >= head->length : got == 0;

    if (head->has_length && !head->chunked) {
        in->length = MIN(in->length, (size_t)head->length);
    }
    in->error = whole || in->error != NULL ? in->error : "the answer ended too early";
    return whole;
}

static void exchange(incoming_t *in, span_t request, fetched_t *fetched)
{
    http_head_t head;

    if (!send_all(in->socket, request)) {
        in->error = "the request could not be sent";
        return;
    }
    if (read_head(in, &head) && read_body(in, &head)) {
        fetched->status = head.status;
    }
}

void fetch(const origin_t *origin, span_t path, const char *bearer, const char *accept, fetched_t *fetched)
{
    char buffer[REQUEST_BYTES];
    text_t request, error;
    incoming_t in = {.socket = -1};

    memset(fetched, 0, sizeof *fetched);
    text_open(&request, buffer, sizeof buffer);
    http_get(&request, origin, path, bearer, accept);
    in.socket = request.overflow ? -1 : open_to(origin);
    if (in.socket < 0) {
        in.error = request.overflow ? "the request is too long" : "nobody accepts connections there";
    } else {
        exchange(&in, text_span(&request), fetched);
        zsock_close(in.socket);
    }
    text_open(&error, fetched->error, sizeof fetched->error);
    if (fetched->status == 0) {
        text_add(&error, in.error != NULL ? in.error : "no answer");
        heap_free(in.bytes);
        return;
    }
    fetched->body = in.bytes;
    fetched->length = in.length;
}

void fetch_patiently(const origin_t *origin, span_t path, const char *bearer, const char *accept, int64_t deadline_ms,
                     fetched_t *fetched)
{
    int64_t longest = PAUSE_MS;

    for (;;) {
        fetch(origin, path, bearer, accept, fetched);
        if ((fetched->status != 0 && fetched->status != 429 && fetched->status < 500) || work_killed() ||
            now_ms() >= deadline_ms) {
            return;
        }
        heap_free(fetched->body);
        fetched->body = NULL;
        k_sleep(K_MSEC(100 + sys_rand32_get() % (uint32_t)longest));
        longest = MIN(2 * longest, PAUSE_MS_MAX);
    }
}
