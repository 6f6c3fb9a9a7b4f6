/* The portable parts of the firmware as a program for tests: lines of JSON in, one line out for each.
 *
 * Every line is an object with `do` and what that needs; the answer is text that the tests compare with what the
 * Python side says of the same thing. The `agent` commands drive one agent for the life of the process. `fuzz` runs
 * every reader over the bytes given and answers `ok`: only a crash, which the sanitizers see, is a failure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base64.h"
#include "config.h"
#include "digest.h"
#include "guest.h"
#include "image.h"
#include "round.h"
#include "sparse.h"
#include "web.h"

enum { LINE_MAX_BYTES = 4 << 20, OUT_BYTES = 8 << 20 };

static char out_bytes[OUT_BYTES];
static text_t out;
static const uint8_t here[4] = {10, 0, 2, 2};

/* --- what a line says ------------------------------------------------------------------------------------------ */

/* A string member, decoded, on the heap; NULL if there is none. */
static char *string_of(span_t line, const char *name, size_t *length) {
    span_t raw;
    text_t text;
    if (!json_member(line, name, &raw) || raw.at[0] != '"') {
        return NULL;
    }
    char *copy = malloc(raw.length + 1);
    text_open(&text, copy, raw.length + 1);
    json_decode_string(raw, &text);
    if (length != NULL) {
        *length = text.length;
    }
    return copy;
}

static uint64_t number_of(span_t line, const char *name) {
    span_t raw;
    json_t json;
    uint64_t value = 0;
    if (json_member(line, name, &raw)) {
        json_open(&json, raw);
        json_unsigned(&json, UINT64_MAX, &value);
    }
    return value;
}

/* The bytes of a line's `text`, in a block of exactly their size, so that a read past them is seen. */
static char *exact(span_t line, const char *name, span_t *content) {
    size_t length = 0;
    char *decoded = string_of(line, name, &length);
    char *block = malloc(length == 0 ? 1 : length);
    if (length > 0) {
        memcpy(block, decoded, length);
    }
    free(decoded);
    *content = (span_t){block, length};
    return block;
}

/* --- messages -------------------------------------------------------------------------------------------------- */

static void put_raw(const char *name, span_t raw) {
    if (raw.at != NULL) {
        json_put_name(&out, name);
        text_put(&out, raw);
    }
}

static void put_number(const char *name, uint64_t value) {
    json_put_name(&out, name);
    text_unsigned(&out, value);
}

static void show_start(span_t text) {
    start_t start;
    if (read_start(text, &start) != NULL) {
        text_add(&out, "refused");
        return;
    }
    text_char(&out, '{');
    json_put_member(&out, "id", span_of(start.key.task));
    put_raw("name", start.name);
    put_raw("image_url", start.image_url);
    put_raw("file", start.file);
    put_raw("inputs", start.inputs);
    put_raw("cli_args", start.cli_args);
    put_raw("env", start.env);
    put_raw("module_url", start.module_url);
    put_raw("module_sha256", start.module_sha256);
    put_raw("seed", start.seed.at == NULL ? (span_t){0} : start.seed);
    if (start.has_attempt) {
        put_number("run", start.key.run);
        put_number("attempt", start.key.attempt);
    }
    put_number("wall_ms", start.wall_ms);
    put_number("memory_bytes", start.memory_bytes);
    put_number("flags", (uint64_t)(start.broadcast | start.encrypted << 1 | start.latent << 2));
    text_char(&out, '}');
}

static void show_acked(void *to, const attempt_key_t *key, acked_t what) {
    (void)to;
    text_add(&out, key->task);
    text_char(&out, '/');
    text_unsigned(&out, key->run);
    text_char(&out, '/');
    text_unsigned(&out, key->attempt);
    text_add(&out, what == ACKED_ACCEPTED ? "a;" : what == ACKED_STARTED ? "s;" : "f;");
}

static void show_read(const char *kind, span_t text) {
    uint64_t heartbeat_ms;
    verdict_t verdict;
    stop_t stop;
    chunk_t chunk;
    const char *refused = NULL;
    if (strcmp(kind, "start") == 0) {
        show_start(text);
        return;
    }
    if (strcmp(kind, "ack") == 0) {
        refused = read_ack(text, show_acked, NULL);
    } else if (strcmp(kind, "welcome") == 0) {
        refused = read_welcome(text, &heartbeat_ms);
        text_unsigned(&out, heartbeat_ms);
    } else if (strcmp(kind, "verdict") == 0 && (refused = read_verdict(text, &verdict)) == NULL) {
        text_add(&out, verdict.round);
        text_char(&out, ' ');
        text_unsigned(&out, verdict.status);
        text_char(&out, ' ');
        text_add(&out, verdict.reason);
    } else if (strcmp(kind, "stop") == 0 && (refused = read_stop(text, &stop)) == NULL) {
        text_add(&out, stop.key.task);
        text_char(&out, stop.has_attempt ? '+' : '-');
        text_unsigned(&out, stop.key.run);
        text_char(&out, '/');
        text_unsigned(&out, stop.key.attempt);
        text_char(&out, ' ');
        text_add(&out, stop.reason);
    } else if (strcmp(kind, "chunk") == 0 && (refused = read_chunk(text, &chunk)) == NULL) {
        text_add(&out, chunk.app);
        text_char(&out, ' ');
        text_unsigned(&out, chunk.index);
        text_char(&out, '/');
        text_unsigned(&out, chunk.count);
    }
    if (refused != NULL) {
        text_open(&out, out_bytes, sizeof out_bytes);
        text_add(&out, "refused");
    }
}

/* --- the agent ------------------------------------------------------------------------------------------------- */

static agent_t agent;
static const char *const says[] = {"create", "alive", "events", "results", "metrics", "want_image", "update"};

static void put_key(const attempt_key_t *key) {
    text_add(&out, key->task);
    text_char(&out, ' ');
    text_unsigned(&out, key->run);
    text_char(&out, ' ');
    text_unsigned(&out, key->attempt);
    text_char(&out, '\t');
}

static void port_say(void *to, say_t say, span_t payload) {
    (void)to;
    text_add(&out, says[say]);
    text_char(&out, ' ');
    text_put(&out, payload);
    text_char(&out, '\t');
}
static void port_run(void *to, const attempt_key_t *key, span_t message) {
    (void)to, (void)message;
    text_add(&out, "run ");
    put_key(key);
}
static void port_kill(void *to, const attempt_key_t *key) {
    (void)to;
    text_add(&out, "kill ");
    put_key(key);
}
static void port_ignored(void *to, const char *why, const char *task) {
    (void)to;
    text_add(&out, "ignored ");
    text_add(&out, why);
    text_char(&out, ' ');
    text_add(&out, task);
    text_char(&out, '\t');
}
static bool starved;
static void *port_alloc(void *to, size_t size) {
    (void)to;
    return starved ? NULL : malloc(size);
}
static void port_free(void *to, void *block) {
    (void)to;
    free(block);
}

static void agent_begin(span_t line) {
    static char id[ID_CHARS_MAX + 1], boot[20];
    const agent_ports_t ports = {NULL, port_say, port_run, port_kill, port_ignored, port_alloc, port_free};
    char *given = string_of(line, "id", NULL), *lane = string_of(line, "lane", NULL);
    for (size_t i = 0; i < AGENT_HELD_MAX; i++) {
        free(agent.entries[i].message);
        free(agent.entries[i].finished);
    }
    span_copy(span_of(given), id, sizeof id);
    span_copy(SPAN("boot"), boot, sizeof boot);
    device_t device = {.id = id};
    agent_init(&agent, &ports, &device, lane != NULL ? LANE_SHARED : LANE_DIRECTED, boot, 10000);
    free(given);
    free(lane);
}

static void agent_ended_as(span_t line, int64_t now) {
    char *failure = string_of(line, "failure", NULL), *error = string_of(line, "error", NULL);
    char *task = string_of(line, "task", NULL);
    attempt_key_t key = {.run = (uint32_t)number_of(line, "run"), .attempt = (uint32_t)number_of(line, "attempt")};
    outcome_t outcome = {.failure = span_of(failure), .error = span_of(error), .results = SPAN("\"r\"")};
    span_copy(span_of(task), key.task, sizeof key.task);
    if (outcome.failure.length > 0) {
        outcome.results = (span_t){0};
    }
    agent_ended(&agent, &key, &outcome, now);
    free(failure);
    free(error);
    free(task);
}

static void agent_order(span_t line, const char *event, int64_t now) {
    span_t text;
    start_t start;
    stop_t stop;
    char *block = exact(line, "text", &text);
    const char *refused = NULL;
    if (strcmp(event, "start") == 0 && (refused = read_start(text, &start)) == NULL) {
        agent_start(&agent, &start, text, now);
    } else if (strcmp(event, "stop") == 0 && (refused = read_stop(text, &stop)) == NULL) {
        agent_stop(&agent, &stop, now);
    }
    if (refused != NULL) {
        text_add(&out, "refused");
    }
    free(block);
}

static void act(void *to, const attempt_key_t *key, acked_t what) {
    (void)to;
    agent_acked(&agent, key, what);
}

static void drive_agent(span_t line, const char *event) {
    int64_t now = (int64_t)number_of(line, "at");
    span_t text;
    if (strcmp(event, "begin") == 0) {
        agent_begin(line);
    } else if (strcmp(event, "connected") == 0) {
        agent_connected(&agent, now);
    } else if (strcmp(event, "welcomed") == 0) {
        agent_welcomed(&agent, number_of(line, "heartbeat_ms"), now);
    } else if (strcmp(event, "tick") == 0) {
        agent_tick(&agent, now);
    } else if (strcmp(event, "ack") == 0) {
        char *block = exact(line, "text", &text);
        read_ack(text, act, NULL);
        free(block);
    } else if (strcmp(event, "started") == 0) {
        char *task = string_of(line, "task", NULL);
        attempt_key_t key = {.run = (uint32_t)number_of(line, "run"), .attempt = (uint32_t)number_of(line, "attempt")};
        span_copy(span_of(task), key.task, sizeof key.task);
        agent_started(&agent, &key, now);
        free(task);
    } else if (strcmp(event, "ended") == 0) {
        agent_ended_as(line, now);
    } else if (strcmp(event, "starve") == 0) {
        starved = number_of(line, "on") != 0;
    } else {
        agent_order(line, event, now);
    }
    if (!agent_valid(&agent)) {
        text_add(&out, "IMPOSSIBLE");
    }
    text_add(&out, "due ");
    text_unsigned(&out, agent_due(&agent) == AGENT_NEVER ? 0 : (uint64_t)agent_due(&agent));
}

/* --- the rest -------------------------------------------------------------------------------------------------- */

static void show_update(span_t line) {
    span_t text;
    char *block = exact(line, "text", &text);
    char *room = malloc(text.length + 2048);
    text_t update;
    text_open(&update, room, text.length + 2048);
    const char *wrong = make_update(text, "r1", "p1", SPAN("fl/models/global_model_v0"), &update);
    text_add(&out, wrong == NULL ? "" : "refused");
    text_put(&out, wrong == NULL ? text_span(&update) : (span_t){"", 0});
    free(room);
    free(block);
}

static void show_finished(span_t line) {
    span_t results = {0};
    attempt_key_t key = {.run = (uint32_t)number_of(line, "run"), .attempt = (uint32_t)number_of(line, "attempt")};
    char *task = string_of(line, "task", NULL), *error = string_of(line, "error", NULL);
    char *failure = string_of(line, "failure", NULL), *said = string_of(line, "stderr", NULL);
    json_member(line, "results", &results);
    span_copy(span_of(task), key.task, sizeof key.task);
    outcome_t outcome = {results, span_of(error), span_of(failure), span_of(said),
                         {number_of(line, "wall_ms"), number_of(line, "cpu_ms"), number_of(line, "memory_bytes")}};
    write_finished(&out, &key, "p1", &outcome);
    free(task);
    free(error);
    free(failure);
    free(said);
}

static void show_create(span_t line) {
    char *description = string_of(line, "description", NULL), *tags = string_of(line, "tags", NULL);
    device_t device = {.id = "p1", .description = description, .tags = tags, .os = "zephyr", .runtime = "wamr",
                       .version = "0.1.0", .memory_bytes = number_of(line, "memory_bytes")};
    write_create(&out, &device, LANE_DIRECTED);
    free(description);
    free(tags);
}

static void show_topics(span_t line) {
    topics_t topics = {.domain = "d", .channel = "c", .me = "p1"};
    char *topic = string_of(line, "topic", NULL);
    span_t round;
    static const char *const means[] = {"nothing", "start", "stop", "ack", "welcome", "verdict", "chunk", "model"};
    text_add(&out, means[topic_meaning(&topics, span_of(topic), &round)]);
    free(topic);
}

static void show_said_topics(void) {
    topics_t topics = {.domain = "d", .channel = "c", .me = "p1"};
    char buffer[TOPIC_CHARS_MAX];
    text_t topic;
    for (int say = SAY_CREATE; say <= SAY_UPDATE; say++) {
        text_open(&topic, buffer, sizeof buffer);
        topic_of(&topics, (say_t)say, "r1", &topic);
        text_add(&out, topic.at);
        text_char(&out, ' ');
    }
    for (int i = 0; text_open(&topic, buffer, sizeof buffer), topic_subscription(&topics, i, &topic); i++) {
        text_add(&out, topic.at);
        text_char(&out, ' ');
    }
}

static void show_http(span_t line) {
    span_t text;
    char *block = exact(line, "text", &text);
    http_head_t head;
    dechunk_t chunks = {0};
    int whole = http_read_head(text, &head);
    text_char(&out, (char)('1' + whole));
    if (whole == 1) {
        text_char(&out, ' ');
        text_unsigned(&out, (uint64_t)head.status);
        text_char(&out, ' ');
        span_t body = span_from(text, head.head_bytes);
        char *copy = malloc(body.length + 1);
        memcpy(copy, body.at, body.length);
        size_t length = body.length;
        if (head.chunked) {
            /* Byte by byte: every state of the coding is cut through once. */
            length = 0;
            for (size_t i = 0; i < body.length; i++) {
                copy[length] = body.at[i];
                length = http_dechunk(&chunks, copy, 1);
            }
            text_add(&out, chunks.ended ? "whole " : "cut ");
        }
        text_put(&out, (span_t){copy, length});
        free(copy);
    }
    free(block);
}

static void show_model(span_t line) {
    char buffer[256];
    text_t path;
    char *uri = string_of(line, "uri", NULL);
    text_open(&path, buffer, sizeof buffer);
    text_add(&out, model_path(span_of(uri), &path) ? path.at : "refused");
    free(uri);
}

static void show_layer(span_t line) {
    char buffer[160];
    text_t digest;
    bool nested;
    span_t text;
    char *block = exact(line, "text", &text);
    text_open(&digest, buffer, sizeof buffer);
    text_add(&out, manifest_layer(text, &digest, &nested) ? digest.at : "refused");
    free(block);
}

static void *chunk_alloc(void *to, size_t size) {
    (void)to;
    return malloc(size);
}
static void chunk_free(void *to, void *block) {
    (void)to;
    free(block);
}

static void show_assembly(span_t line) {
    static assembly_t assembly;
    span_t list, raw;
    json_t json;
    chunk_t chunk;
    size_t length = 0;
    assembly_open(&assembly, SPAN("app"), 65536, chunk_alloc, chunk_free, NULL);
    const char *wrong = NULL;
    json_member(line, "chunks", &list);
    json_open(&json, list);
    for (json_array(&json); wrong == NULL && json_item(&json) && json_raw(&json, &raw);) {
        wrong = read_chunk(raw, &chunk);
        wrong = wrong != NULL ? wrong : assembly_take(&assembly, &chunk);
    }
    if (wrong == NULL && assembly_whole(&assembly)) {
        char *whole = assembly_join(&assembly, &length);
        text_put(&out, (span_t){whole, length});
        free(whole);
    } else {
        text_add(&out, wrong == NULL ? "incomplete" : "refused");
    }
    assembly_drop(&assembly);
}

static void show_digest(span_t line) {
    span_t text;
    char *block = exact(line, "text", &text), hex[DIGEST_HEX_CHARS + 1];
    sha256_hex(text.at, text.length, hex);
    text_add(&out, hex);
    free(block);
}

/* Copies and clears `size` bytes from and to offsets into blocks of exactly their size; both must come out equal. */
static void show_sparse(span_t line) {
    size_t size = (size_t)number_of(line, "size"), to = (size_t)number_of(line, "to"), at = (size_t)number_of(line, "from");
    uint8_t *from = malloc(at + size), *into = malloc(to + size), *wanted = malloc(to + size);
    for (size_t i = 0; i < at + size; i++) {
        from[i] = i % 7 == 0 ? (uint8_t)i : 0;
    }
    for (size_t i = 0; i < to + size; i++) {
        into[i] = wanted[i] = i % 5 == 0 ? (uint8_t)(3 * i) : 0;
    }
    memcpy(wanted + to, from + at, size);
    bool same = sparse_memcpy(into + to, from + at, size) == into + to && memcmp(into, wanted, to + size) == 0;
    memset(wanted + to, 0, size);
    same = same && sparse_memset(into + to, 0, size) == into + to && memcmp(into, wanted, to + size) == 0;
    memset(wanted + to, 9, size);
    same = same && sparse_memset(into + to, 9, size) == into + to && memcmp(into, wanted, to + size) == 0;
    text_add(&out, same ? "same" : "different");
    free(from);
    free(into);
    free(wanted);
}

static void show_base64(span_t line) {
    span_t raw;
    size_t length;
    json_member(line, "text", &raw);
    uint8_t *into = malloc(base64_room(raw.length));
    if (base64_decode_json(raw, into, &length)) {
        for (size_t i = 0; i < length; i++) {
            text_unsigned(&out, into[i]);
            text_char(&out, ' ');
        }
    } else {
        text_add(&out, "refused");
    }
    free(into);
}

static void show_url(span_t line) {
    char *url = string_of(line, "url", NULL);
    origin_t origin;
    span_t path;
    if (url_parse(span_of(url), here, &origin, &path)) {
        ipv4_put(&out, origin.ip);
        text_char(&out, ':');
        text_unsigned(&out, origin.port);
        text_put(&out, path);
        text_add(&out, origin_allowed(&origin, "192.0.2.7:80,192.0.2.8", here) ? " yes" : " no");
    } else {
        text_add(&out, "refused");
    }
    free(url);
}

static void show_config(span_t line) {
    static config_t config;
    char *name = string_of(line, "name", NULL), *value = string_of(line, "value", NULL);
    config_defaults(&config);
    const char *wrong = config_set(&config, name, span_of(value));
    text_add(&out, wrong == NULL ? "ok" : wrong);
    free(name);
    free(value);
}

/* --- a guest without a runtime: its memory is an array, its malloc a number that grows --------------------------- */

static uint8_t linear[65536];
static uint32_t next_free;

static uint8_t *guest_memory(void *to, uint64_t *size) {
    (void)to;
    *size = sizeof linear;
    return linear;
}
static uint32_t guest_malloc(void *to, uint32_t size) {
    (void)to;
    uint32_t at = next_free;
    next_free += size;
    return at;
}
static uint64_t guest_now(void) { return 1; }
static bool guest_random(uint8_t *into, size_t length) {
    memset(into, 7, length);
    return true;
}

static uint32_t word_at(uint32_t at) {
    return (uint32_t)linear[at] | (uint32_t)linear[at + 1] << 8 | (uint32_t)linear[at + 2] << 16 |
           (uint32_t)linear[at + 3] << 24;
}

/* Everything a guest may ask, with offsets that come from the line and may be anything. */
static void play_guest(span_t line) {
    guest_t guest;
    start_t start;
    span_t text;
    const guest_ports_t ports = {NULL, guest_memory, guest_malloc, guest_now, guest_random, malloc, free};
    uint32_t a = (uint32_t)number_of(line, "a"), b = (uint32_t)number_of(line, "b"), c = (uint32_t)number_of(line, "c");
    char *block = exact(line, "text", &text);
    memset(linear, 0, sizeof linear);
    next_free = (uint32_t)number_of(line, "free");
    if (read_start(text, &start) != NULL) {
        text_add(&out, "refused");
        free(block);
        return;
    }
    guest_open(&guest, &ports, 4096);
    guest_environment(&guest, &start, "p1", SPAN("{\"w\":[1]}"), SPAN("{}"));
    guest_arguments(&guest, &start);
    uint32_t got = guest_get(&guest, "MODEL_DATA", false, a, b);
    text_unsigned(&out, got);
    /* The two answers may overlap, or lie where the guest put the text; then they say nothing. */
    if (got == 1 && (uint64_t)word_at(a) + word_at(b) <= sizeof linear) {
        text_char(&out, ' ');
        text_put(&out, (span_t){(const char *)linear + word_at(a), word_at(b)});
    }
    text_char(&out, ' ');
    text_unsigned(&out, wasi_environ_sizes_get(&guest, a, b));
    text_char(&out, ' ');
    text_unsigned(&out, wasi_environ_get(&guest, a, b));
    text_char(&out, ' ');
    text_unsigned(&out, wasi_args_get(&guest, a, b));
    text_char(&out, ' ');
    text_unsigned(&out, wasi_fd_write(&guest, 1, a, c, b));
    wasi_fd_write(&guest, 2, a, c, b);
    wasi_random_get(&guest, a, c);
    wasi_fd_fdstat_get(&guest, 0, a);
    wasi_clock_time_get(&guest, 0, 0, a);
    guest_put_result(&guest, a, c);
    guest_get_env(&guest, a, c, b, b);
    guest_close(&guest);
    free(block);
}

static void fuzz(span_t line) {
    static const char *const kinds[] = {"start", "stop", "ack", "welcome", "verdict", "chunk"};
    span_t text;
    char *block = exact(line, "text", &text);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        show_read(kinds[i], text);
    }
    free(block);
    show_update(line);
    show_http(line);
    show_layer(line);
    show_base64(line);
    text_open(&out, out_bytes, sizeof out_bytes);
    text_add(&out, "ok");
}

typedef struct {
    const char *name;
    void (*run)(span_t line);
} command_t;

static void do_read(span_t line) {
    span_t text;
    char *kind = string_of(line, "kind", NULL), *block = exact(line, "text", &text);
    show_read(kind, text);
    free(kind);
    free(block);
}

static void do_agent(span_t line) {
    char *event = string_of(line, "event", NULL);
    drive_agent(line, event);
    free(event);
}

static void do_said(span_t line) {
    (void)line;
    show_said_topics();
}

static const command_t commands[] = {
    {"read", do_read},          {"agent", do_agent},     {"update", show_update}, {"finished", show_finished},
    {"create", show_create},    {"topic", show_topics},  {"topics", do_said},     {"http", show_http},
    {"model", show_model},      {"layer", show_layer},   {"chunks", show_assembly}, {"sha256", show_digest},
    {"base64", show_base64},    {"url", show_url},       {"config", show_config}, {"guest", play_guest},
    {"sparse", show_sparse},    {"fuzz", fuzz},
};

int main(void) {
    char *line = malloc(LINE_MAX_BYTES);
    while (fgets(line, LINE_MAX_BYTES, stdin) != NULL) {
        span_t content = {line, strcspn(line, "\n")};
        char *what = string_of(content, "do", NULL);
        text_open(&out, out_bytes, sizeof out_bytes);
        for (size_t i = 0; what != NULL && i < sizeof commands / sizeof *commands; i++) {
            if (strcmp(commands[i].name, what) == 0) {
                commands[i].run(content);
            }
        }
        fwrite(out.at, 1, out.length, stdout);
        putchar('\n');
        fflush(stdout);
        free(what);
    }
    agent_begin(SPAN("{\"id\":\"end\"}"));
    free(line);
    return 0;
}
