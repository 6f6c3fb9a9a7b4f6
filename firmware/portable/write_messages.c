/* Writing messages: see messages.h. What has its default is left out, as the other side leaves it out. */
#include "messages.h"

static void put_known(text_t *text, const char *name, const char *value) {
    if (value != NULL && value[0] != 0) {
        json_put_member(text, name, span_of(value));
    }
}

static void put_number(text_t *text, const char *name, uint64_t value) {
    json_put_name(text, name);
    text_unsigned(text, value);
}

static void put_tags(text_t *text, const char *tags) {
    span_t rest = span_of(tags);
    if (rest.length == 0) {
        return;
    }
    json_put_name(text, "tags");
    text_char(text, '[');
    while (rest.length > 0) {
        size_t comma = span_find(rest, ',');
        json_put_string(text, (span_t){rest.at, comma});
        rest = span_from(rest, comma + 1);
        if (rest.length > 0) {
            text_char(text, ',');
        }
    }
    text_char(text, ']');
}

static void put_metadata(text_t *text, const device_t *device) {
    json_put_name(text, "metadata");
    text_char(text, '{');
    put_known(text, "description", device->description);
    put_tags(text, device->tags);
    put_known(text, "location", device->location);
    put_known(text, "ip", device->ip);
    put_known(text, "environment", "embedded");
    put_known(text, "os", device->os);
    put_known(text, "hostname", device->hostname);
    put_known(text, "cpu_arch", device->cpu_arch);
    if (device->memory_bytes > 0) {
        json_put_name(text, "total_memory_bytes");
        text_unsigned(text, device->memory_bytes);
        text_add(text, ".0");
    }
    put_known(text, "proplet_version", device->version);
    put_known(text, "wasm_runtime", device->runtime);
    text_char(text, '}');
}

void write_create(text_t *text, const device_t *device, lane_t lane) {
    text_char(text, '{');
    put_known(text, "proplet_id", device->id);
    put_known(text, "namespace", "embedded");
    put_metadata(text, device);
    if (lane == LANE_DIRECTED) {
        put_number(text, "protocol", 2);
    }
    text_char(text, '}');
}

static void put_key(text_t *text, const attempt_key_t *key) {
    put_known(text, "task_id", key->task);
    put_number(text, "run", key->run);
    put_number(text, "attempt", key->attempt);
}

void write_alive(text_t *text, const char *id, const held_t *held, size_t count, const char *boot) {
    static const char *const states[] = {
        [HELD_ACCEPTED] = "accepted", [HELD_RUNNING] = "running", [HELD_FINISHED] = "finished"};
    text_char(text, '{');
    put_known(text, "proplet_id", id);
    if (held == NULL) {
        /* The original reads `status`; protocol 2 leaves the default out. */
        put_known(text, "status", "alive");
    }
    put_known(text, "namespace", "embedded");
    if (held != NULL) {
        json_put_name(text, "attempts");
        text_char(text, '[');
        for (size_t i = 0; i < count; i++) {
            text_add(text, i == 0 ? "{" : ",{");
            put_key(text, &held[i].key);
            put_known(text, "state", states[held[i].state]);
            text_char(text, '}');
        }
        text_char(text, ']');
    }
    put_known(text, "boot", boot);
    text_char(text, '}');
}

void write_offline(text_t *text, const char *id, const char *boot) {
    text_char(text, '{');
    put_known(text, "proplet_id", id);
    put_known(text, "status", "offline");
    put_known(text, "namespace", "embedded");
    put_known(text, "boot", boot);
    text_char(text, '}');
}

void write_event(text_t *text, const attempt_key_t *key, bool started) {
    text_char(text, '{');
    put_key(text, key);
    put_known(text, "kind", started ? "started" : "accepted");
    text_char(text, '}');
}

/* The first `most` bytes of an error, not ending inside a character. */
static span_t head(span_t span, size_t most) {
    if (span.length <= most) {
        return span;
    }
    while (most > 0 && ((unsigned char)span.at[most] & 0xc0) == 0x80) {
        most--;
    }
    return (span_t){span.at, most};
}

static span_t tail(span_t span, size_t most) {
    size_t from = span.length <= most ? 0 : span.length - most;
    while (from > 0 && from < span.length && ((unsigned char)span.at[from] & 0xc0) == 0x80) {
        from++;
    }
    return span_from(span, from);
}

static void put_usage(text_t *text, const usage_t *usage) {
    json_put_name(text, "usage");
    text_char(text, '{');
    if (usage->wall_ms > 0) {
        json_put_name(text, "wall_s");
        text_thousandths(text, usage->wall_ms);
    }
    if (usage->cpu_ms > 0) {
        json_put_name(text, "cpu_s");
        text_thousandths(text, usage->cpu_ms);
    }
    if (usage->memory_bytes > 0) {
        put_number(text, "memory_bytes", usage->memory_bytes);
    }
    text_char(text, '}');
}

void write_finished(text_t *text, const attempt_key_t *key, const char *id, const outcome_t *outcome) {
    text_char(text, '{');
    put_key(text, key);
    put_known(text, "proplet_id", id);
    json_put_name(text, "results");
    text_put(text, outcome->results.length > 0 ? outcome->results : SPAN("null"));
    if (outcome->error.length > 0) {
        json_put_member(text, "error", head(outcome->error, ERROR_CHARS_MAX));
    }
    if (outcome->failure.length > 0) {
        json_put_member(text, "failure", outcome->failure);
    }
    if (outcome->standard_error.length > 0) {
        json_put_member(text, "stderr", tail(outcome->standard_error, STDERR_CHARS_MAX));
    }
    put_usage(text, &outcome->usage);
    text_char(text, '}');
}

void write_shared_result(text_t *text, const attempt_key_t *key, const char *id, const outcome_t *outcome) {
    text_char(text, '{');
    put_known(text, "task_id", key->task);
    put_known(text, "proplet_id", id);
    json_put_name(text, "results");
    text_put(text, outcome->results.length > 0 ? outcome->results : SPAN("null"));
    if (outcome->error.length > 0) {
        json_put_member(text, "error", head(outcome->error, ERROR_CHARS_MAX));
    }
    text_char(text, '}');
}

void write_want_image(text_t *text, span_t app) {
    text_char(text, '{');
    json_put_member(text, "app_name", app);
    text_char(text, '}');
}

void write_metrics(text_t *text, const char *id, const metrics_t *metrics) {
    text_char(text, '{');
    put_known(text, "proplet_id", id);
    put_known(text, "namespace", "embedded");
    put_number(text, "timestamp", metrics->uptime_ms);
    json_put_name(text, "cpu_metrics");
    text_add(text, "{\"user_seconds\":");
    text_thousandths(text, metrics->cpu_ms);
    text_add(text, ",\"system_seconds\":0.0,\"percent\":0.0}");
    json_put_name(text, "memory_metrics");
    text_char(text, '{');
    put_number(text, "rss_bytes", metrics->memory_total);
    put_number(text, "heap_alloc_bytes", metrics->memory_total - metrics->memory_free);
    put_number(text, "heap_sys_bytes", metrics->memory_total);
    put_number(text, "heap_inuse_bytes", metrics->memory_total - metrics->memory_free);
    put_number(text, "heap_free_bytes", metrics->memory_free);
    put_number(text, "heap_max_alloc_bytes", metrics->memory_most);
    text_char(text, '}');
    json_put_name(text, "network_metrics");
    text_char(text, '{');
    put_number(text, "bytes_sent", metrics->bytes_sent);
    put_number(text, "bytes_received", metrics->bytes_received);
    put_number(text, "tcp_segments_dropped", metrics->tcp_dropped);
    put_number(text, "tcp_segments_retransmitted", metrics->tcp_resent);
    put_number(text, "packets_dropped", metrics->packets_dropped);
    text_add(text, "}}");
}
