/* The messages of a proplet: reading is total and bounded, writing is exact.
 *
 * Field names and defaults are those of protocol 2 and of the original (docs/reference/embedded.md). What a peer may
 * leave out may be left out, unknown fields are ignored, and a value of the wrong type refuses the message. Spans in
 * a message point into the bytes it was read from. Knows no topics and keeps nothing. */
#ifndef PROPELLER_MESSAGES_H
#define PROPELLER_MESSAGES_H

#include "json.h"
#include "topics.h"

enum {
    ERROR_CHARS_MAX = 512,  /* of an error, decoded; the rest is cut */
    STDERR_CHARS_MAX = 2048, /* of a guest's standard error: its end */
};

/* One attempt of one run of one task. On the shared lane run and attempt are this device's own count. */
typedef struct {
    char task[ID_CHARS_MAX + 1];
    uint32_t run, attempt;
} attempt_key_t;

bool key_same(const attempt_key_t *one, const attempt_key_t *other);

/* --- read ------------------------------------------------------------------------------------------------ */

/* A start message. Spans of JSON are raw: with their quotes and escapes, empty (`at` NULL) if absent or null. */
typedef struct {
    attempt_key_t key;
    bool has_attempt; /* run and attempt are named: protocol 2 */
    char proplet[ID_CHARS_MAX + 1];
    bool has_proplet, broadcast, encrypted, latent;
    span_t name, image_url, file, inputs, cli_args, env; /* raw JSON */
    span_t module_url, module_sha256;                    /* raw JSON strings */
    span_t seed;                                         /* decimal digits */
    uint64_t wall_ms, cpu_ms, memory_bytes, stdout_bytes; /* 0: not asked for */
} start_t;

typedef struct {
    attempt_key_t key;
    bool has_attempt, has_proplet, broadcast;
    char proplet[ID_CHARS_MAX + 1];
    char reason[ERROR_CHARS_MAX + 1];
} stop_t;

typedef enum { ACKED_ACCEPTED, ACKED_STARTED, ACKED_FINISHED } acked_t;
typedef void acked_fn(void *to, const attempt_key_t *key, acked_t what);

typedef struct {
    char round[ID_CHARS_MAX + 1];
    uint64_t status;
    char reason[ERROR_CHARS_MAX + 1];
} verdict_t;

/* A piece of an image: `data` is a raw JSON string of base64. */
typedef struct {
    char app[256];
    uint64_t index, count;
    span_t data;
} chunk_t;

/* Each answers NULL, or why the message means nothing. */
const char *read_start(span_t text, start_t *start);
const char *read_stop(span_t text, stop_t *stop);
/* Calls `each` for every event named, but for none if the message is refused. */
const char *read_ack(span_t text, acked_fn *each, void *to);
const char *read_welcome(span_t text, uint64_t *heartbeat_ms);
const char *read_verdict(span_t text, verdict_t *verdict);
const char *read_chunk(span_t text, chunk_t *chunk);

/* A variable of the start's environment; false if there is none. The text may overflow. */
bool start_env(const start_t *start, const char *name, text_t *value);
/* Whether the task is a training round: its environment has a `ROUND_ID` that is not empty. */
bool start_federated(const start_t *start);

/* --- write ----------------------------------------------------------------------------------------------- */

/* What a device says of itself. Empty and 0 mean unknown. */
typedef struct {
    const char *id, *description, *location, *tags; /* tags: separated by commas */
    const char *ip, *os, *hostname, *cpu_arch, *version, *runtime;
    uint64_t memory_bytes;
} device_t;

typedef struct {
    uint64_t wall_ms, cpu_ms, memory_bytes;
} usage_t;

/* How an attempt ended. `results` is raw JSON (empty: null); `failure` and `error` are empty on success. */
typedef struct {
    span_t results, error, failure, standard_error;
    usage_t usage;
} outcome_t;

typedef enum { HELD_ACCEPTED, HELD_RUNNING, HELD_FINISHED } held_state_t;
typedef struct {
    attempt_key_t key;
    held_state_t state;
} held_t;

typedef struct {
    uint64_t uptime_ms, memory_total, memory_free, memory_most, cpu_ms;
    uint64_t bytes_sent, bytes_received, tcp_dropped, tcp_resent, packets_dropped;
} metrics_t;

void write_create(text_t *text, const device_t *device, lane_t lane);
/* `held` NULL leaves the inventory out, as the shared lane does. */
void write_alive(text_t *text, const char *id, const held_t *held, size_t count, const char *boot);
void write_offline(text_t *text, const char *id, const char *boot);
void write_event(text_t *text, const attempt_key_t *key, bool started);
void write_finished(text_t *text, const attempt_key_t *key, const char *id, const outcome_t *outcome);
/* The original's result, for the shared lane. */
void write_shared_result(text_t *text, const attempt_key_t *key, const char *id, const outcome_t *outcome);
void write_want_image(text_t *text, span_t app);
void write_metrics(text_t *text, const char *id, const metrics_t *metrics);

#endif
