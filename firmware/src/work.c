/* The work on one attempt at a time: prepare, run the guest, deliver. Decides nothing about any other attempt.
 *
 * Whatever goes wrong ends here as a typed failure in what the link is told; the thread lives on. */
#include "device.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/random/rand32.h>
#include <zephyr/sys/atomic.h>

LOG_MODULE_REGISTER(work, LOG_LEVEL_INF);

enum {
    DELIVERY_LEAST_MS = 10000, /* an update has at least this long for its delivery */
    VERDICT_WAIT_MS = 2000,    /* a verdict is waited for at least this long before the next try */
    VERDICT_WAIT_MS_MAX = 15000,
    FETCH_MS = 60000,
};

typedef struct {
    attempt_key_t key;
    span_t message;
} order_t;

typedef struct {
    hear_t what;
    char *payload;
    size_t length;
} content_t;

K_MSGQ_DEFINE(orders, sizeof(order_t), 2, 4);
K_MSGQ_DEFINE(verdicts, sizeof(verdict_t), 1, 8);
K_MSGQ_DEFINE(contents, sizeof(content_t), 4, 4);
K_THREAD_STACK_DEFINE(work_stack, 10240);
static struct k_thread thread;
static atomic_t killed, waiting_for; /* waiting_for: the hear_t that an attempt waits for, or 0 */

void work_begin(const attempt_key_t *key, span_t message)
{
    order_t order = {*key, message};

    atomic_set(&killed, 0);
    k_msgq_put(&orders, &order, K_FOREVER);
}

void work_kill(void) { atomic_set(&killed, 1); }
bool work_killed(void) { return atomic_get(&killed) != 0; }

void work_verdict(const verdict_t *verdict)
{
    /* The latest is the one that counts. */
    k_msgq_purge(&verdicts);
    k_msgq_put(&verdicts, verdict, K_NO_WAIT);
}

void work_content(hear_t what, char *payload, size_t length)
{
    content_t content = {what, payload, length};

    if (atomic_get(&waiting_for) != (atomic_val_t)what || k_msgq_put(&contents, &content, K_NO_WAIT) != 0) {
        heap_free(payload);
    }
}

char *work_await_content(hear_t what, size_t *length, int64_t wait_ms)
{
    content_t content;
    int64_t deadline = now_ms() + wait_ms;

    atomic_set(&waiting_for, (atomic_val_t)what);
    while (!work_killed() && now_ms() < deadline) {
        if (k_msgq_get(&contents, &content, K_MSEC(100)) == 0) {
            *length = content.length;
            return content.payload;
        }
    }
    return NULL;
}

static void await_nothing(void)
{
    content_t content;

    atomic_set(&waiting_for, 0);
    while (k_msgq_get(&contents, &content, K_NO_WAIT) == 0) {
        heap_free(content.payload);
    }
}

bool work_await_verdict(const char *round, verdict_t *verdict, int64_t wait_ms)
{
    int64_t deadline = now_ms() + wait_ms;

    while (!work_killed() && now_ms() < deadline) {
        if (k_msgq_get(&verdicts, verdict, K_MSEC(100)) == 0 && strcmp(verdict->round, round) == 0) {
            return true;
        }
    }
    return false;
}

bool job_fail(job_t *job, const char *failure, const char *format, ...)
{
    va_list values;

    job->failure = failure;
    va_start(values, format);
    vsnprintf(job->error, sizeof job->error, format, values);
    va_end(values);
    return false;
}

/* --- delivering -------------------------------------------------------------------------------------------- */

/* Whether the same update may be taken later. */
static bool come_again(const verdict_t *verdict) { return verdict->status == 429 || verdict->status >= 500; }

/* Say the update until the coordinator has answered for it. On the shared lane nobody answers. */
static bool deliver(job_t *job, span_t update)
{
    int64_t deadline = MAX(job->deadline_ms, now_ms() + DELIVERY_LEAST_MS), wait = VERDICT_WAIT_MS;
    verdict_t verdict;

    k_msgq_purge(&verdicts);
    while (!work_killed() && now_ms() < deadline) {
        bool said = link_say(SAY_UPDATE, job->round, update);

        if (said && me.topics.lane == LANE_SHARED) {
            return true;
        }
        if (!said) {
            k_sleep(K_MSEC(200 + sys_rand32_get() % 300));
            continue;
        }
        if (work_await_verdict(job->round, &verdict, wait) && !come_again(&verdict)) {
            return (verdict.status >= 200 && verdict.status < 300) ||
                   job_fail(job, "update_refused", "the coordinator refused the update: %u %s",
                            (unsigned int)verdict.status, verdict.reason);
        }
        wait = MIN(2 * wait, VERDICT_WAIT_MS_MAX);
    }
    return job_fail(job, "update_undelivered", "nobody answered for the update in time");
}

/* The update and, once it is accepted, what the task shows. */
static char *make_and_deliver(job_t *job, size_t *length)
{
    span_t output = guest_output(&job->guest), base = span_of(job->model_uri);
    size_t room = output.length + 6 * base.length + 2 * ID_CHARS_MAX + 256;
    char *update = heap_alloc(room), *result = NULL;
    text_t text;

    if (update == NULL) {
        job_fail(job, "memory", "no memory for the update");
        return NULL;
    }
    text_open(&text, update, room);
    const char *wrong = make_update(output, job->round, me.config.id, base, &text);
    if (wrong != NULL) {
        job_fail(job, "invalid_update", "%s", wrong);
    } else if (deliver(job, text_span(&text))) {
        text_t shown;

        result = heap_alloc(room);
        if (result != NULL) {
            text_open(&shown, result, room);
            update_result(text_span(&text), &job->key, job->round, me.config.id, &shown);
            *length = shown.length;
        }
    }
    heap_free(update);
    return result;
}

static char *text_result(span_t content, size_t *length)
{
    size_t room = json_string_room(content);
    char *result = heap_alloc(room);
    text_t text;

    if (result != NULL) {
        text_open(&text, result, room);
        json_put_string(&text, content);
        *length = text.length;
    }
    return result;
}

/* What the attempt shows: the update's receipt, what was put, the entry's value, or what was printed. */
static char *result_of(job_t *job, size_t *length)
{
    if (job->federated && job->failure == NULL) {
        return make_and_deliver(job, length);
    }
    bool value = job->has_value && job->guest.result == NULL && job->failure == NULL;
    char *result = text_result(value ? span_of(job->value) : guest_output(&job->guest), length);

    if (result == NULL && job->failure == NULL) {
        job_fail(job, "output", "the result is larger than this device's memory");
    }
    return result;
}

/* --- the thread -------------------------------------------------------------------------------------------- */

/* The link keeps an end only if there is memory for it, so wait for some: there is no work before it anyhow. */
static ended_t *new_end(const job_t *job)
{
    ended_t *ended;

    while ((ended = heap_alloc(sizeof *ended)) == NULL) {
        LOG_WRN("no memory to say how %s ended; waiting", job->key.task);
        k_sleep(K_MSEC(500));
    }
    memset(ended, 0, sizeof *ended);
    ended->key = job->key;
    return ended;
}

static void put_failure(const job_t *job, ended_t *ended)
{
    strncpy(ended->failure, job->failure, sizeof ended->failure - 1);
    ended->error = heap_alloc(sizeof job->error);
    if (ended->error != NULL) {
        memcpy(ended->error, job->error, sizeof job->error);
    }
}

static void report(job_t *job, char *result, size_t length)
{
    ended_t *ended = new_end(job);

    if (job->failure != NULL) {
        put_failure(job, ended);
        LOG_WRN("%s failed: %s: %s", job->key.task, job->failure, job->error);
    } else {
        LOG_INF("%s completed in %u ms, cpu %u ms", job->key.task, (unsigned int)job->usage.wall_ms,
                (unsigned int)job->usage.cpu_ms);
    }
    ended->results = result;
    ended->results_length = length;
    memcpy(ended->standard_error, job->guest.standard_error, job->guest.standard_error_length);
    ended->standard_error_length = job->guest.standard_error_length;
    ended->usage = job->usage;
    link_ended(ended);
}

static void work_on(const order_t *order)
{
    static job_t job; /* large; only this thread uses it */
    char *result = NULL;
    size_t length = 0;

    memset(&job, 0, sizeof job);
    job.key = order->key;
    job.message = order->message;
    job.deadline_ms = now_ms() + FETCH_MS;
    bool ready = job_prepare(&job);
    await_nothing();
    if (ready) {
        job_supervise(&job);
        result = result_of(&job, &length);
    }
    if (work_killed()) {
        job_fail(&job, "stopped", "stopped");
    }
    heap_free(job.module);
    guest_close(&job.guest);
    report(&job, result, length);
}

static void run(void *a, void *b, void *c)
{
    order_t order;

    for (;;) {
        k_msgq_get(&orders, &order, K_FOREVER);
        LOG_INF("%s run %u attempt %u", order.key.task, order.key.run, order.key.attempt);
        work_on(&order);
    }
}

void work_start(void)
{
    k_thread_create(&thread, work_stack, K_THREAD_STACK_SIZEOF(work_stack), run, NULL, NULL, NULL, 8, 0, K_NO_WAIT);
    k_thread_name_set(&thread, "work");
}
