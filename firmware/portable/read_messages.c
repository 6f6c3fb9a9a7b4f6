/* Reading messages: see messages.h. */
#include <string.h>

#include "messages.h"

enum { KEY_CHARS = 32 };

static const uint64_t MILLISECONDS_MAX = 1000ull * 1000 * 1000 * 1000;
static const uint64_t COUNT_MAX = 1ull << 53;

bool key_same(const attempt_key_t *one, const attempt_key_t *other) {
    return one->run == other->run && one->attempt == other->attempt && strcmp(one->task, other->task) == 0;
}

static void read_id(json_t *json, char id[ID_CHARS_MAX + 1]) {
    if (json_word(json, id, ID_CHARS_MAX + 1) && !id_lawful(span_of(id))) {
        json_fail(json, "an id is not lawful");
    }
}

/* A string that may be absent or null, kept raw. */
static void read_raw_string(json_t *json, span_t *raw) {
    *raw = (span_t){0};
    if (!json_null(json) && json_peek(json) != '"') {
        json_fail(json, "expected a string");
    } else if (json_peek(json) == '"') {
        json_raw(json, raw);
    }
}

/* An array of strings that may be null, kept raw. */
static void read_strings(json_t *json, span_t *raw) {
    text_t nothing = {.overflow = true};
    *raw = (span_t){0};
    if (json_null(json)) {
        return;
    }
    json_peek(json);
    const char *from = json->at;
    for (json_array(json); json_item(json);) {
        json_string(json, &nothing);
    }
    *raw = (span_t){from, (size_t)(json->at - from)};
}

/* The inputs, kept raw: texts, or numbers as managers give them to microcontrollers on the shared lane. */
static void read_inputs(json_t *json, span_t *raw) {
    *raw = (span_t){0};
    if (json_null(json)) {
        return;
    }
    json_peek(json);
    const char *from = json->at;
    for (json_array(json); json_item(json);) {
        char first = json_peek(json);
        if (first != '"' && first != '-' && (first < '0' || first > '9')) {
            json_fail(json, "expected a string or a number");
        }
        json_skip(json);
    }
    *raw = (span_t){from, (size_t)(json->at - from)};
}

static void read_env(json_t *json, span_t *raw) {
    text_t nothing = {.overflow = true};
    *raw = (span_t){0};
    if (json_null(json)) {
        return;
    }
    json_peek(json);
    const char *from = json->at;
    for (json_object(json); json_key(json, NULL, 0);) {
        json_string(json, &nothing);
    }
    *raw = (span_t){from, (size_t)(json->at - from)};
}

static void read_module(json_t *json, start_t *start) {
    char key[KEY_CHARS];
    uint64_t bytes;
    start->module_url = start->module_sha256 = (span_t){0};
    for (json_object(json); json_key(json, key, sizeof key);) {
        span_t *into = strcmp(key, "url") == 0      ? &start->module_url
                       : strcmp(key, "sha256") == 0 ? &start->module_sha256
                                                    : NULL;
        if (into != NULL && json_peek(json) == '"') {
            json_raw(json, into);
        } else if (into != NULL) {
            json_fail(json, "expected a string");
        } else if (strcmp(key, "bytes") == 0) {
            json_unsigned(json, UINT64_MAX, &bytes);
        } else {
            json_skip(json);
        }
    }
    if (start->module_url.at == NULL || start->module_sha256.at == NULL) {
        json_fail(json, "a module needs url and sha256");
    }
}

static void read_limits(json_t *json, start_t *start) {
    char key[KEY_CHARS];
    start->wall_ms = start->cpu_ms = start->memory_bytes = start->stdout_bytes = 0;
    for (json_object(json); json_key(json, key, sizeof key);) {
        if (json_null(json)) {
            continue;
        }
        if (strcmp(key, "wall_s") == 0) {
            json_thousandths(json, MILLISECONDS_MAX, &start->wall_ms);
        } else if (strcmp(key, "cpu_s") == 0) {
            json_thousandths(json, MILLISECONDS_MAX, &start->cpu_ms);
        } else if (strcmp(key, "memory_bytes") == 0) {
            json_unsigned(json, UINT64_MAX, &start->memory_bytes);
        } else if (strcmp(key, "stdout_bytes") == 0) {
            json_unsigned(json, UINT64_MAX, &start->stdout_bytes);
        } else {
            json_skip(json);
        }
    }
}

static void read_seed(json_t *json, span_t *seed) {
    uint64_t value;
    json_peek(json);
    const char *from = json->at;
    if (json_unsigned(json, UINT64_MAX, &value)) {
        *seed = (span_t){from, (size_t)(json->at - from)};
    }
}

static void read_count(json_t *json, uint32_t *count, int *found, int bit) {
    uint64_t value = 0;
    if (json_unsigned(json, UINT32_MAX, &value)) {
        *count = (uint32_t)value;
        *found |= bit;
    }
}

static void read_addressee(json_t *json, char proplet[ID_CHARS_MAX + 1], bool *has) {
    text_t text;
    text_open(&text, proplet, ID_CHARS_MAX + 1);
    json_string(json, &text);
    if (text.overflow) {
        /* Longer than any id, so not this device's; what it says does not matter. */
        memcpy(proplet, "?", 2);
    }
    *has = true;
}

/* The fields that start and stop have in common; false if `key` is none of them. */
static bool read_common(json_t *json, const char *key, attempt_key_t *attempt, int *found) {
    if (strcmp(key, "id") == 0) {
        read_id(json, attempt->task);
    } else if (strcmp(key, "run") == 0) {
        read_count(json, &attempt->run, found, 1);
    } else if (strcmp(key, "attempt") == 0) {
        read_count(json, &attempt->attempt, found, 2);
    } else {
        return false;
    }
    return true;
}

static bool read_flag(json_t *json, const char *key, start_t *start) {
    bool other;
    bool *flag = strcmp(key, "broadcast") == 0   ? &start->broadcast
                 : strcmp(key, "encrypted") == 0 ? &start->encrypted
                 : strcmp(key, "latent") == 0    ? &start->latent
                 : strcmp(key, "daemon") == 0    ? &other
                                                 : NULL;
    return flag != NULL && (json_boolean(json, flag) || true);
}

static void read_start_field(json_t *json, const char *key, start_t *start, int *found) {
    if (read_common(json, key, &start->key, found) || read_flag(json, key, start)) {
        return;
    }
    if (strcmp(key, "name") == 0) {
        start->name = (span_t){0};
        if (json_peek(json) != '"') {
            json_fail(json, "expected a string");
        }
        json_raw(json, &start->name);
    } else if (strcmp(key, "image_url") == 0) {
        read_raw_string(json, &start->image_url);
    } else if (strcmp(key, "file") == 0) {
        read_raw_string(json, &start->file);
    } else if (strcmp(key, "inputs") == 0) {
        read_inputs(json, &start->inputs);
    } else if (strcmp(key, "cli_args") == 0) {
        read_strings(json, &start->cli_args);
    } else if (strcmp(key, "env") == 0) {
        read_env(json, &start->env);
    } else if (strcmp(key, "proplet_id") == 0) {
        read_addressee(json, start->proplet, &start->has_proplet);
    } else if (strcmp(key, "module") == 0) {
        read_module(json, start);
    } else if (strcmp(key, "limits") == 0) {
        read_limits(json, start);
    } else if (strcmp(key, "seed") == 0) {
        read_seed(json, &start->seed);
    } else {
        json_skip(json);
    }
}

const char *read_start(span_t text, start_t *start) {
    json_t json;
    char key[KEY_CHARS];
    int found = 0;
    *start = (start_t){0};
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        read_start_field(&json, key, start, &found);
    }
    if (!json_close(&json)) {
        return json.error;
    }
    start->has_attempt = found == 3;
    return start->key.task[0] == 0 ? "no id" : start->name.at == NULL ? "no name" : NULL;
}

const char *read_stop(span_t text, stop_t *stop) {
    json_t json;
    char key[KEY_CHARS];
    text_t reason;
    int found = 0;
    *stop = (stop_t){0};
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (read_common(&json, key, &stop->key, &found)) {
            continue;
        }
        if (strcmp(key, "broadcast") == 0) {
            json_boolean(&json, &stop->broadcast);
        } else if (strcmp(key, "proplet_id") == 0) {
            read_addressee(&json, stop->proplet, &stop->has_proplet);
        } else if (strcmp(key, "reason") == 0) {
            text_open(&reason, stop->reason, sizeof stop->reason);
            json_string(&json, &reason);
        } else {
            json_skip(&json);
        }
    }
    if (!json_close(&json)) {
        return json.error;
    }
    stop->has_attempt = found == 3;
    return stop->key.task[0] == 0 ? "no id" : NULL;
}

/* One event of an acknowledgement. An id that no attempt of ours can have is not looked at any further. */
static bool read_acked(json_t *json, attempt_key_t *key, acked_t *what) {
    static const char *const kinds[] = {"accepted", "started", "finished"};
    char name[KEY_CHARS], kind[KEY_CHARS] = "";
    int found = 0, is = -1;
    *key = (attempt_key_t){0};
    for (json_object(json); json_key(json, name, sizeof name);) {
        if (strcmp(name, "task_id") == 0) {
            text_t task;
            text_open(&task, key->task, sizeof key->task);
            json_string(json, &task);
            found |= 4;
        } else if (strcmp(name, "run") == 0) {
            read_count(json, &key->run, &found, 1);
        } else if (strcmp(name, "attempt") == 0) {
            read_count(json, &key->attempt, &found, 2);
        } else if (strcmp(name, "kind") == 0) {
            json_word(json, kind, sizeof kind);
        } else {
            json_skip(json);
        }
    }
    for (int i = 0; i < 3; i++) {
        is = strcmp(kind, kinds[i]) == 0 ? i : is;
    }
    *what = is < 0 ? ACKED_ACCEPTED : (acked_t)is;
    return (found == 7 && is >= 0) || json_fail(json, "an acknowledged event lacks a field");
}

/* Both passes over an acknowledgement: the first only checks. */
static const char *walk_ack(span_t text, acked_fn *each, void *to) {
    json_t json;
    char key[KEY_CHARS];
    attempt_key_t attempt;
    acked_t what;
    bool found = false;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "events") != 0) {
            json_skip(&json);
            continue;
        }
        if (found) {
            json_fail(&json, "events are there twice");
        }
        found = true;
        for (json_array(&json); json_item(&json);) {
            if (read_acked(&json, &attempt, &what) && each != NULL) {
                each(to, &attempt, what);
            }
        }
    }
    return !json_close(&json) ? json.error : found ? NULL : "no events";
}

const char *read_ack(span_t text, acked_fn *each, void *to) {
    const char *refused = walk_ack(text, NULL, NULL);
    return refused != NULL ? refused : walk_ack(text, each, to);
}

const char *read_welcome(span_t text, uint64_t *heartbeat_ms) {
    json_t json;
    char key[KEY_CHARS];
    *heartbeat_ms = 10000;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "heartbeat_s") == 0) {
            json_thousandths(&json, MILLISECONDS_MAX, heartbeat_ms);
        } else {
            json_skip(&json);
        }
    }
    return json_close(&json) ? NULL : json.error;
}

/* A reason of any length, of which the beginning is kept. */
static void read_reason(json_t *json, char *into, size_t capacity) {
    text_t text;
    span_t raw;
    if (json_peek(json) != '"') {
        json_fail(json, "expected a string");
    }
    if (json_raw(json, &raw)) {
        text_open(&text, into, capacity);
        json_decode_string(raw, &text);
    }
}

const char *read_verdict(span_t text, verdict_t *verdict) {
    json_t json;
    char key[KEY_CHARS], error[ERROR_CHARS_MAX + 1] = "";
    bool has_status = false;
    *verdict = (verdict_t){0};
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "round_id") == 0) {
            read_id(&json, verdict->round);
        } else if (strcmp(key, "status") == 0) {
            has_status = json_unsigned(&json, COUNT_MAX, &verdict->status);
        } else if (strcmp(key, "reason") == 0) {
            read_reason(&json, verdict->reason, sizeof verdict->reason);
        } else if (strcmp(key, "error") == 0) {
            read_reason(&json, error, sizeof error);
        } else {
            json_skip(&json);
        }
    }
    if (!json_close(&json)) {
        return json.error;
    }
    if (verdict->reason[0] == 0) {
        memcpy(verdict->reason, error, sizeof error);
    }
    return verdict->round[0] == 0 || !has_status ? "a verdict needs round_id and status" : NULL;
}

const char *read_chunk(span_t text, chunk_t *chunk) {
    json_t json;
    char key[KEY_CHARS];
    int found = 0;
    *chunk = (chunk_t){0};
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "app_name") == 0) {
            found |= json_word(&json, chunk->app, sizeof chunk->app) ? 1 : 0;
        } else if (strcmp(key, "chunk_idx") == 0) {
            found |= json_unsigned(&json, COUNT_MAX, &chunk->index) ? 2 : 0;
        } else if (strcmp(key, "total_chunks") == 0) {
            found |= json_unsigned(&json, COUNT_MAX, &chunk->count) ? 4 : 0;
        } else if (strcmp(key, "data") == 0 && json_peek(&json) == '"') {
            found |= json_raw(&json, &chunk->data) ? 8 : 0;
        } else {
            json_skip(&json);
        }
    }
    if (!json_close(&json)) {
        return json.error;
    }
    return found != 15 ? "a chunk lacks a field" : chunk->index >= chunk->count ? "a chunk is beyond its count" : NULL;
}

bool start_env(const start_t *start, const char *name, text_t *value) {
    span_t raw;
    return start->env.at != NULL && json_member(start->env, name, &raw) && json_decode_string(raw, value);
}

bool start_federated(const start_t *start) {
    char round[2];
    text_t value;
    text_open(&value, round, sizeof round);
    return start_env(start, "ROUND_ID", &value) && (value.length > 0 || value.overflow);
}
