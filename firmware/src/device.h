/* What the parts of the firmware say to each other. Each part is one file; only what is here is shared. */
#ifndef PROPELLER_DEVICE_H
#define PROPELLER_DEVICE_H

#include <zephyr/kernel.h>

#include "config.h"
#include "guest.h"
#include "messages.h"
#include "round.h"
#include "topics.h"
#include "web.h"

#define FIRMWARE_VERSION "0.1.0"

/* --- device.c: who and where this device is; set before the link starts, constant after ------------------------ */
typedef struct {
    config_t config;
    topics_t topics;
    uint8_t broker_ip[4];
    uint16_t broker_port;
    char address[16]; /* own */
    char boot[17];
} identity_t;

extern identity_t me;
int64_t now_ms(void);
uint64_t device_now_ns(void);
bool device_random(uint8_t *into, size_t length);
void device_describe(device_t *device);

/* --- heap.c: one heap for everything that comes from the network, and the pool of the one guest ----------------- */
void *heap_alloc(size_t size);
void heap_free(void *block);
void heap_usage(size_t *total, size_t *free, size_t *most);
void *guest_pool(void); /* CONFIG_PROPELLER_GUEST_POOL_BYTES, aligned to 16 */

/* --- main.c ----------------------------------------------------------------------------------------------------- */
/* Start the proplet by its settings; NULL, or why not. */
const char *proplet_begin(void);
bool proplet_begun(void);

/* --- kept.c: settings over a reset ------------------------------------------------------------------------------ */
/* Whether there were any; they are set. */
bool kept_load(void);
/* NULL, or why not. */
const char *kept_save(void);
const char *kept_forget(void);

/* --- network.c -------------------------------------------------------------------------------------------------- */
/* Bring up the interface, by DHCP unless an address is set; wait for it. False if there is none in time. */
bool network_start(void);
void network_counters(metrics_t *metrics);

/* --- link.c: the connection to the broker, and the agent, on one thread ----------------------------------------- */
void link_start(void);
bool link_connected(void);
/* From the worker: what became of an attempt. `ended` and what it points to are heap blocks; the link frees them. */
typedef struct {
    attempt_key_t key;
    char *results, *error;
    size_t results_length;
    char failure[24];
    char standard_error[GUEST_STDERR_BYTES];
    size_t standard_error_length;
    usage_t usage;
} ended_t;
void link_begun(const attempt_key_t *key);
void link_ended(ended_t *ended);
/* Publish and come back when it is handed over; false if there is no connection. */
bool link_say(say_t say, const char *round, span_t payload);
bool link_subscribe(const char *topic);
/* Held attempts and what was sent and received, for the console. */
void link_status(size_t *held, bool *welcomed, uint32_t *connects, uint32_t *ignored);

/* --- work.c: one attempt at a time, on a thread of its own ------------------------------------------------------ */
void work_start(void);
void work_begin(const attempt_key_t *key, span_t message);
void work_kill(void);
bool work_killed(void);
/* Inbound messages that an attempt may wait for; those with a payload take the heap block over. */
void work_verdict(const verdict_t *verdict);
void work_content(hear_t what, char *payload, size_t length);

/* --- prepare.c, supervise.c: the parts of one attempt's work ---------------------------------------------------- */
typedef struct {
    attempt_key_t key;
    span_t message;
    start_t start;
    bool federated;
    char round[ID_CHARS_MAX + 1];
    char model_uri[256];
    char *module;
    size_t module_length;
    guest_t guest;
    int64_t deadline_ms;
    const char *failure; /* NULL: well so far */
    char error[ERROR_CHARS_MAX];
    char value[32];
    bool has_value;
    usage_t usage;
} job_t;

bool job_fail(job_t *job, const char *failure, const char *format, ...) __printf_like(3, 4);
/* Module, environment, model and data; false with the failure set. */
bool job_prepare(job_t *job);
/* The guest, to its end or to its limits. */
void job_supervise(job_t *job);
uint32_t guests_begun(void); /* since the reset */
/* The next message that was waited for, or NULL after `wait_ms`. The caller frees it. */
char *work_await_content(hear_t what, size_t *length, int64_t wait_ms);
bool work_await_verdict(const char *round, verdict_t *verdict, int64_t wait_ms);

/* --- fetch.c: HTTP ---------------------------------------------------------------------------------------------- */
typedef struct {
    int status; /* 0: no answer, see `error` */
    char *body; /* heap */
    size_t length;
    char error[96];
} fetched_t;
void fetch(const origin_t *origin, span_t path, const char *bearer, const char *accept, fetched_t *fetched);
/* Again while there is no answer or one that says to come again, until the job's deadline or its end. */
void fetch_patiently(const origin_t *origin, span_t path, const char *bearer, const char *accept, int64_t deadline_ms,
                     fetched_t *fetched);

#endif
