/* The proplet's decisions: events in, orders to its ports out. No clock, network, thread or file; time is given.
 *
 * The same rules as the ordinary proplet's (src/propeller/proplet/agent.py), against which it is tested event by
 * event: an attempt is held until the manager has acknowledged how it ended; its latest event, which implies those
 * before it, is said again with backoff and after every reconnection; what is over stays over, so that a start that
 * comes late, twice or after its stop changes nothing. There is no spool: after a reset this device holds nothing,
 * its heartbeat says so, and the manager sends again what it still wants.
 *
 * On the shared lane there is no acknowledgement: a result is said once, and a start of a live task is ignored. */
#ifndef PROPELLER_AGENT_H
#define PROPELLER_AGENT_H

#include "messages.h"

#ifndef AGENT_HELD_MAX
#define AGENT_HELD_MAX 8 /* attempts held at once; further starts are not taken, and come again */
#endif
#ifndef AGENT_TOMBSTONES_MAX
#define AGENT_TOMBSTONES_MAX 32 /* attempts remembered as done; the oldest is forgotten first */
#endif

enum {
    AGENT_RESEND_MS = 1000,
    AGENT_RESEND_MS_MAX = 15000,
    AGENT_ANNOUNCE_MS = 60000,
    AGENT_HEARTBEAT_MS_MIN = 100,
    AGENT_HEARTBEAT_MS_MAX = 3600000,
    AGENT_MESSAGE_MAX = 1024 + AGENT_HELD_MAX * 160, /* of everything but results */
};

#define AGENT_NEVER INT64_MAX

/* What the agent may ask for. Each is done before it returns, or queued in order. `to` is `agent_ports_t.to`. */
typedef struct {
    void *to;
    void (*say)(void *to, say_t say, span_t payload);
    /* Work on the attempt; answer with agent_started and agent_ended. `message` lives until agent_ended. */
    void (*run)(void *to, const attempt_key_t *key, span_t message);
    /* End the attempt's work soon; agent_ended is still called. */
    void (*kill)(void *to, const attempt_key_t *key);
    /* An order was not followed; `why` is a short stable word. */
    void (*ignored)(void *to, const char *why, const char *task);
    void *(*alloc)(void *to, size_t size);
    void (*free)(void *to, void *block);
} agent_ports_t;

typedef struct {
    attempt_key_t key;
    held_state_t state;
    bool used, told, busy;
    uint32_t order;
    int64_t pause_ms, resend_ms;
    char *message; /* of a live attempt: its start, as it came */
    size_t message_length;
    char *finished; /* of a finished one: how it ended; NULL if there was no memory for it */
    size_t finished_length;
} agent_entry_t;

typedef struct {
    agent_ports_t ports;
    device_t device;
    lane_t lane;
    const char *boot; /* random per reset: tells a restarted device from a reconnected one */
    bool welcomed;
    int64_t heartbeat_ms, heartbeat_due_ms;
    int64_t announce_ms, announce_pause_ms;
    uint32_t orders;
    attempt_key_t working; /* the attempt whose work was asked for and is not over, if any */
    bool is_working;
    agent_entry_t entries[AGENT_HELD_MAX];
    attempt_key_t done[AGENT_TOMBSTONES_MAX]; /* a ring */
    size_t done_count, done_next;
} agent_t;

void agent_init(agent_t *agent, const agent_ports_t *ports, const device_t *device, lane_t lane, const char *boot,
                int64_t heartbeat_ms);

/* --- events; `now` in milliseconds of a clock that never goes back ----------------------------------------- */
void agent_connected(agent_t *agent, int64_t now);
void agent_welcomed(agent_t *agent, uint64_t heartbeat_ms, int64_t now);
void agent_start(agent_t *agent, const start_t *start, span_t message, int64_t now);
void agent_stop(agent_t *agent, const stop_t *stop, int64_t now);
void agent_acked(agent_t *agent, const attempt_key_t *key, acked_t what);
void agent_started(agent_t *agent, const attempt_key_t *key, int64_t now);
void agent_ended(agent_t *agent, const attempt_key_t *key, const outcome_t *outcome, int64_t now);
/* Does what is due by `now`: heartbeats, announcements, repetitions. */
void agent_tick(agent_t *agent, int64_t now);
/* When agent_tick is needed next. */
int64_t agent_due(const agent_t *agent);

/* Whether the state is possible; tests ask after every event. */
bool agent_valid(const agent_t *agent);
size_t agent_held(const agent_t *agent);

#endif
