/* The proplet's decisions: see agent.h. */
#include "agent.h"

#include <string.h>

static const char STOPPED[] = "stopped";

static int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }
static int64_t most(int64_t one, int64_t other) { return one > other ? one : other; }

void agent_init(agent_t *agent, const agent_ports_t *ports, const device_t *device, lane_t lane, const char *boot,
                int64_t heartbeat_ms) {
    memset(agent, 0, sizeof *agent);
    agent->ports = *ports;
    agent->device = *device;
    agent->lane = lane;
    agent->boot = boot;
    agent->heartbeat_ms = heartbeat_ms;
    agent->heartbeat_due_ms = AGENT_NEVER;
    agent->announce_ms = INT64_MIN;
    agent->announce_pause_ms = AGENT_RESEND_MS;
}

static bool live(const agent_entry_t *entry) { return entry->used && entry->state != HELD_FINISHED; }

static agent_entry_t *find(agent_t *agent, const attempt_key_t *key) {
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        if (agent->entries[i].used && key_same(&agent->entries[i].key, key)) {
            return &agent->entries[i];
        }
    }
    return NULL;
}

static bool is_done(const agent_t *agent, const attempt_key_t *key) {
    for (size_t i = 0; i < agent->done_count; i++) {
        if (key_same(&agent->done[i], key)) {
            return true;
        }
    }
    return false;
}

/* The used entry that comes after `order` in the order of arrival, or NULL. */
static agent_entry_t *next(agent_t *agent, uint32_t order) {
    agent_entry_t *found = NULL;
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        agent_entry_t *entry = &agent->entries[i];
        if (entry->used && entry->order > order && (found == NULL || entry->order < found->order)) {
            found = entry;
        }
    }
    return found;
}

size_t agent_held(const agent_t *agent) {
    size_t count = 0;
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        count += agent->entries[i].used;
    }
    return count;
}

/* --- saying ---------------------------------------------------------------------------------------------- */

static void say(agent_t *agent, say_t kind, const text_t *text) {
    if (!text->overflow) {
        agent->ports.say(agent->ports.to, kind, text_span(text));
    }
}

static void ignore(agent_t *agent, const char *why, const char *task) { agent->ports.ignored(agent->ports.to, why, task); }

static void say_alive(agent_t *agent, int64_t now) {
    char buffer[AGENT_MESSAGE_MAX];
    held_t held[AGENT_HELD_MAX];
    size_t count = 0;
    text_t text;
    text_open(&text, buffer, sizeof buffer);
    for (agent_entry_t *entry = next(agent, 0); entry != NULL; entry = next(agent, entry->order)) {
        held[count++] = (held_t){entry->key, entry->state};
    }
    write_alive(&text, agent->device.id, agent->lane == LANE_DIRECTED ? held : NULL, count, agent->boot);
    say(agent, SAY_ALIVE, &text);
    agent->heartbeat_due_ms = now + agent->heartbeat_ms;
}

/* An end there was no memory to keep is at least said as what it is. */
static void say_bare_end(agent_t *agent, const attempt_key_t *key, const char *error, const char *failure) {
    char buffer[AGENT_MESSAGE_MAX];
    text_t text;
    outcome_t outcome = {.error = span_of(error), .failure = span_of(failure)};
    text_open(&text, buffer, sizeof buffer);
    if (agent->lane == LANE_DIRECTED) {
        write_finished(&text, key, agent->device.id, &outcome);
    } else {
        write_shared_result(&text, key, agent->device.id, &outcome);
    }
    say(agent, SAY_RESULTS, &text);
}

static void say_end(agent_t *agent, const agent_entry_t *entry) {
    if (entry->finished == NULL) {
        say_bare_end(agent, &entry->key, "the device had no memory left for the result", "memory");
    } else {
        agent->ports.say(agent->ports.to, SAY_RESULTS, (span_t){entry->finished, entry->finished_length});
    }
}

static void say_event(agent_t *agent, const agent_entry_t *entry) {
    char buffer[AGENT_MESSAGE_MAX];
    text_t text;
    text_open(&text, buffer, sizeof buffer);
    write_event(&text, &entry->key, entry->state == HELD_RUNNING);
    say(agent, SAY_EVENTS, &text);
}

/* Say the attempt's latest event now, if the directed lane is open, and plan the next time. */
static void tell(agent_t *agent, agent_entry_t *entry, int64_t now) {
    if (agent->lane == LANE_SHARED) {
        return;
    }
    if (!agent->welcomed) {
        entry->resend_ms = now;
        return;
    }
    if (entry->state == HELD_FINISHED) {
        say_end(agent, entry);
    } else {
        say_event(agent, entry);
    }
    entry->resend_ms = now + entry->pause_ms;
    entry->pause_ms = least(2 * entry->pause_ms, AGENT_RESEND_MS_MAX);
}

static void announce(agent_t *agent, int64_t now) {
    char buffer[AGENT_MESSAGE_MAX];
    text_t text;
    text_open(&text, buffer, sizeof buffer);
    write_create(&text, &agent->device, agent->lane);
    say(agent, SAY_CREATE, &text);
    agent->announce_ms = now + (agent->welcomed ? AGENT_ANNOUNCE_MS : agent->announce_pause_ms);
    agent->announce_pause_ms = least(2 * agent->announce_pause_ms, AGENT_RESEND_MS_MAX);
    if (!agent->welcomed) {
        agent->heartbeat_due_ms = agent->announce_ms;
    }
}

/* A heartbeat, and everything that the manager has not acknowledged. */
static void say_all(agent_t *agent, int64_t now) {
    say_alive(agent, now);
    for (agent_entry_t *entry = next(agent, 0); entry != NULL; entry = next(agent, entry->order)) {
        if (!entry->told) {
            entry->pause_ms = AGENT_RESEND_MS;
            tell(agent, entry, now);
        }
    }
}

/* --- connection ------------------------------------------------------------------------------------------ */

void agent_connected(agent_t *agent, int64_t now) {
    /* The shared lane has no welcome: its announcement is enough. */
    agent->welcomed = agent->welcomed || agent->lane == LANE_SHARED;
    agent->announce_pause_ms = AGENT_RESEND_MS;
    announce(agent, now);
    if (agent->welcomed) {
        say_all(agent, now);
    }
}

void agent_welcomed(agent_t *agent, uint64_t heartbeat_ms, int64_t now) {
    int64_t asked = heartbeat_ms > AGENT_HEARTBEAT_MS_MAX ? AGENT_HEARTBEAT_MS_MAX : (int64_t)heartbeat_ms;
    agent->heartbeat_ms = most(asked, AGENT_HEARTBEAT_MS_MIN);
    agent->announce_ms = now + AGENT_ANNOUNCE_MS;
    agent->announce_pause_ms = AGENT_RESEND_MS;
    if (!agent->welcomed) {
        agent->welcomed = true;
        say_all(agent, now);
    }
    agent->heartbeat_due_ms = least(agent->heartbeat_due_ms, now + agent->heartbeat_ms);
}

static void heartbeat(agent_t *agent, int64_t now) {
    if (agent->announce_ms <= now) {
        announce(agent, now);
    }
    if (agent->welcomed) {
        say_alive(agent, now);
    }
}

static void resend(agent_t *agent, int64_t now) {
    for (agent_entry_t *entry = next(agent, 0); entry != NULL; entry = next(agent, entry->order)) {
        if (!entry->told && entry->resend_ms <= now) {
            tell(agent, entry, now);
        }
    }
}

static int64_t resend_due(const agent_t *agent) {
    int64_t due = AGENT_NEVER;
    if (!agent->welcomed || agent->lane == LANE_SHARED) {
        return AGENT_NEVER;
    }
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        if (agent->entries[i].used && !agent->entries[i].told) {
            due = least(due, agent->entries[i].resend_ms);
        }
    }
    return due;
}

int64_t agent_due(const agent_t *agent) { return least(agent->heartbeat_due_ms, resend_due(agent)); }

void agent_tick(agent_t *agent, int64_t now) {
    if (agent->heartbeat_due_ms <= now) {
        heartbeat(agent, now);
    }
    if (resend_due(agent) <= now) {
        resend(agent, now);
    }
}

/* --- attempts -------------------------------------------------------------------------------------------- */

static void release(agent_t *agent, char **block) {
    if (*block != NULL) {
        agent->ports.free(agent->ports.to, *block);
        *block = NULL;
    }
}

/* A free place for the attempt, filled in as accepted; NULL if there is none. */
static agent_entry_t *take_place(agent_t *agent, const attempt_key_t *key) {
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        if (!agent->entries[i].used && !agent->entries[i].busy) {
            agent->entries[i] = (agent_entry_t){
                .key = *key, .used = true, .order = ++agent->orders, .pause_ms = AGENT_RESEND_MS, .resend_ms = AGENT_NEVER};
            return &agent->entries[i];
        }
    }
    return NULL;
}

/* Give the free slot to the attempt that has waited longest. */
static void fill(agent_t *agent) {
    if (agent->is_working) {
        return;
    }
    for (agent_entry_t *entry = next(agent, 0); entry != NULL; entry = next(agent, entry->order)) {
        if (live(entry)) {
            agent->is_working = entry->busy = true;
            agent->working = entry->key;
            agent->ports.run(agent->ports.to, &entry->key, (span_t){entry->message, entry->message_length});
            return;
        }
    }
}

static void keep_end(agent_t *agent, agent_entry_t *entry, const outcome_t *outcome) {
    /* Every byte of a JSON string takes at most six. */
    size_t error = outcome->error.length < ERROR_CHARS_MAX ? outcome->error.length : ERROR_CHARS_MAX;
    size_t standard = outcome->standard_error.length;
    standard = standard < STDERR_CHARS_MAX ? standard : STDERR_CHARS_MAX;
    size_t room = AGENT_MESSAGE_MAX + outcome->results.length + 6 * (error + standard);
    text_t text;
    entry->finished = agent->ports.alloc(agent->ports.to, room);
    if (entry->finished == NULL) {
        return;
    }
    text_open(&text, entry->finished, room);
    if (agent->lane == LANE_DIRECTED) {
        write_finished(&text, &entry->key, agent->device.id, outcome);
    } else {
        write_shared_result(&text, &entry->key, agent->device.id, outcome);
    }
    entry->finished_length = text.length;
    if (text.overflow) {
        release(agent, &entry->finished);
    }
}

static void drop(agent_t *agent, agent_entry_t *entry) {
    release(agent, &entry->finished);
    if (!entry->busy) {
        release(agent, &entry->message);
    }
    /* The work on a dropped attempt may still read its message: the place is kept until it is over. */
    entry->used = false;
}

static void finish(agent_t *agent, agent_entry_t *entry, const outcome_t *outcome, int64_t now) {
    entry->state = HELD_FINISHED;
    entry->told = false;
    entry->pause_ms = AGENT_RESEND_MS;
    if (!entry->busy) {
        release(agent, &entry->message);
    }
    keep_end(agent, entry, outcome);
    if (agent->lane == LANE_SHARED) {
        say_end(agent, entry);
        drop(agent, entry);
    } else {
        tell(agent, entry, now);
    }
}

/* Finish a live attempt as stopped and kill its work; the slot is free once the work is over. */
static void end_by_order(agent_t *agent, agent_entry_t *entry, const char *reason, int64_t now) {
    outcome_t outcome = {.error = span_of(reason), .failure = SPAN(STOPPED)};
    if (!live(entry)) {
        return;
    }
    if (entry->busy) {
        agent->ports.kill(agent->ports.to, &entry->key);
    }
    finish(agent, entry, &outcome, now);
}

static void hold_stopped(agent_t *agent, const attempt_key_t *key, const char *reason, int64_t now) {
    outcome_t outcome = {.error = span_of(reason), .failure = SPAN(STOPPED)};
    agent_entry_t *entry = take_place(agent, key);
    if (entry == NULL) {
        ignore(agent, "full", key->task);
        return;
    }
    finish(agent, entry, &outcome, now);
}

static void answer_done(agent_t *agent, const attempt_key_t *key) {
    char buffer[ID_CHARS_MAX + 128];
    text_t why;
    ignore(agent, "already_done", key->task);
    if (!agent->welcomed) {
        return;
    }
    text_open(&why, buffer, sizeof buffer);
    text_add(&why, key->task);
    text_add(&why, " run ");
    text_unsigned(&why, key->run);
    text_add(&why, " attempt ");
    text_unsigned(&why, key->attempt);
    text_add(&why, " has already been run and acknowledged on this proplet");
    say_bare_end(agent, key, why.at, "lost");
}

/* Whether `one` is a later attempt of the same task than `other`. */
static bool later(const attempt_key_t *one, const attempt_key_t *other) {
    return strcmp(one->task, other->task) == 0 &&
           (one->run > other->run || (one->run == other->run && one->attempt > other->attempt));
}

/* The latest attempt of the task that is or was here, if it is later than `key`. */
static const attempt_key_t *newer(const agent_t *agent, const attempt_key_t *key) {
    const attempt_key_t *found = NULL;
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        const attempt_key_t *other = &agent->entries[i].key;
        found = agent->entries[i].used && later(other, found == NULL ? key : found) ? other : found;
    }
    for (size_t i = 0; i < agent->done_count; i++) {
        found = later(&agent->done[i], found == NULL ? key : found) ? &agent->done[i] : found;
    }
    return found;
}

static void superseded(text_t *reason, const attempt_key_t *by) {
    text_add(reason, "superseded by run ");
    text_unsigned(reason, by->run);
    text_add(reason, " attempt ");
    text_unsigned(reason, by->attempt);
}

static void accept(agent_t *agent, const attempt_key_t *key, span_t message, int64_t now) {
    char buffer[64];
    text_t reason;
    text_open(&reason, buffer, sizeof buffer);
    superseded(&reason, key);
    for (agent_entry_t *other = next(agent, 0); other != NULL; other = next(agent, other->order)) {
        if (strcmp(other->key.task, key->task) == 0) {
            end_by_order(agent, other, reason.at, now);
        }
    }
    char *copy = agent->ports.alloc(agent->ports.to, message.length);
    agent_entry_t *entry = copy == NULL ? NULL : take_place(agent, key);
    if (entry == NULL) {
        release(agent, &copy);
        ignore(agent, "unsaved", key->task);
        return;
    }
    memcpy(copy, message.at, message.length);
    entry->message = copy;
    entry->message_length = message.length;
    tell(agent, entry, now);
    fill(agent);
}

static bool not_mine(const agent_t *agent, bool broadcast, bool has, const char *addressee) {
    return !broadcast && has && strcmp(addressee, agent->device.id) != 0;
}

static void start_directed(agent_t *agent, const attempt_key_t *key, span_t message, int64_t now) {
    agent_entry_t *entry = find(agent, key);
    const attempt_key_t *by = newer(agent, key);
    char buffer[64];
    text_t reason;
    if (entry != NULL) {
        tell(agent, entry, now);
    } else if (is_done(agent, key)) {
        answer_done(agent, key);
    } else if (agent_held(agent) >= AGENT_HELD_MAX) {
        ignore(agent, "full", key->task);
    } else if (by != NULL) {
        text_open(&reason, buffer, sizeof buffer);
        superseded(&reason, by);
        hold_stopped(agent, key, reason.at, now);
    } else {
        accept(agent, key, message, now);
    }
}

static agent_entry_t *live_of(agent_t *agent, const char *task) {
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        if (live(&agent->entries[i]) && strcmp(agent->entries[i].key.task, task) == 0) {
            return &agent->entries[i];
        }
    }
    return NULL;
}

void agent_start(agent_t *agent, const start_t *start, span_t message, int64_t now) {
    attempt_key_t key = start->key;
    if (not_mine(agent, start->broadcast, start->has_proplet, start->proplet)) {
        ignore(agent, "not_mine", key.task);
    } else if (agent->lane == LANE_DIRECTED && start->has_attempt) {
        start_directed(agent, &key, message, now);
    } else if (agent->lane == LANE_DIRECTED) {
        ignore(agent, "no_attempt", key.task);
    } else if (live_of(agent, key.task) != NULL) {
        ignore(agent, "already_running", key.task);
    } else {
        /* The shared lane numbers no attempts: this device's own count tells them apart. */
        key.run = 0;
        key.attempt = agent->orders + 1;
        accept(agent, &key, message, now);
    }
}

static void stop_one(agent_t *agent, const attempt_key_t *key, const char *reason, int64_t now) {
    agent_entry_t *entry = find(agent, key);
    if (entry != NULL && live(entry)) {
        end_by_order(agent, entry, reason, now);
    } else if (entry != NULL) {
        tell(agent, entry, now);
    } else if (is_done(agent, key)) {
        answer_done(agent, key);
    } else {
        /* The stop overtook its start: hold the end, so that the start finds it when it comes. */
        hold_stopped(agent, key, reason, now);
    }
}

void agent_stop(agent_t *agent, const stop_t *stop, int64_t now) {
    const char *reason = stop->reason[0] != 0 ? stop->reason : "stopped by the manager";
    if (not_mine(agent, stop->broadcast, stop->has_proplet, stop->proplet)) {
        ignore(agent, "not_mine", stop->key.task);
        return;
    }
    if (stop->has_attempt && agent->lane == LANE_DIRECTED) {
        stop_one(agent, &stop->key, reason, now);
        return;
    }
    for (agent_entry_t *entry = next(agent, 0); entry != NULL; entry = next(agent, entry->order)) {
        if (strcmp(entry->key.task, stop->key.task) == 0) {
            end_by_order(agent, entry, reason, now);
        }
    }
}

static void remember_done(agent_t *agent, const attempt_key_t *key) {
    agent->done[agent->done_next] = *key;
    agent->done_next = (agent->done_next + 1) % AGENT_TOMBSTONES_MAX;
    agent->done_count += agent->done_count < AGENT_TOMBSTONES_MAX;
}

void agent_acked(agent_t *agent, const attempt_key_t *key, acked_t what) {
    agent_entry_t *entry = find(agent, key);
    if (entry == NULL) {
        return;
    }
    if (what == ACKED_FINISHED) {
        remember_done(agent, &entry->key);
        if (live(entry) && entry->busy) {
            agent->ports.kill(agent->ports.to, &entry->key);
        }
        drop(agent, entry);
    } else if ((what == ACKED_STARTED && entry->state == HELD_RUNNING) ||
               (what == ACKED_ACCEPTED && entry->state == HELD_ACCEPTED)) {
        entry->told = true;
    }
}

void agent_started(agent_t *agent, const attempt_key_t *key, int64_t now) {
    agent_entry_t *entry = find(agent, key);
    if (entry != NULL && entry->state == HELD_ACCEPTED) {
        entry->state = HELD_RUNNING;
        entry->told = false;
        entry->pause_ms = AGENT_RESEND_MS;
        tell(agent, entry, now);
    }
}

void agent_ended(agent_t *agent, const attempt_key_t *key, const outcome_t *outcome, int64_t now) {
    if (!agent->is_working || !key_same(&agent->working, key)) {
        return;
    }
    agent->is_working = false;
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        agent_entry_t *entry = &agent->entries[i];
        if (!entry->busy) {
            continue;
        }
        entry->busy = false;
        release(agent, &entry->message);
        if (live(entry)) {
            finish(agent, entry, outcome, now);
        }
    }
    fill(agent);
}

bool agent_valid(const agent_t *agent) {
    size_t waiting = 0, busy = 0;
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        const agent_entry_t *entry = &agent->entries[i];
        busy += entry->busy;
        if (!entry->used) {
            continue;
        }
        if ((live(entry) && entry->message == NULL) || (live(entry) && entry->finished != NULL) ||
            is_done(agent, &entry->key)) {
            return false;
        }
        waiting += live(entry) && !entry->busy;
    }
    return busy <= 1 && (busy == 1) == agent->is_working && (waiting == 0 || agent->is_working);
}
