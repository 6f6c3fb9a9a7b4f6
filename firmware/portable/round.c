/* A training round on one device: see round.h. */
#include "round.h"

#include <string.h>

static const uint64_t VERSION_MAX = (1ull << 53) - 1;
static const char GLOBAL[] = "global_model";

static void put_path(text_t *path, span_t name, uint64_t version) {
    text_add(path, "/models/");
    if (!span_is(name, GLOBAL)) {
        text_put(path, name);
        text_add(path, "/versions/");
    }
    text_unsigned(path, version);
}

/* `name_v12` as name and version: the last `_v` that is followed by digits only. */
static bool named(span_t last, span_t *name, uint64_t *version) {
    for (size_t i = last.length; i >= 3; i--) {
        if (last.at[i - 2] == '_' && last.at[i - 1] == 'v') {
            *name = (span_t){last.at, i - 2};
            return i - 2 > 0 && last.length - i <= 16 && span_number(span_from(last, i), VERSION_MAX, version);
        }
    }
    return false;
}

bool model_path(span_t model_uri, text_t *path) {
    size_t slash = span_find_last(model_uri, '/');
    span_t last = slash < model_uri.length ? span_from(model_uri, slash + 1) : model_uri;
    span_t name = span_of(GLOBAL);
    uint64_t version = 0;
    if (!named(last, &name, &version)) {
        span_t digits = last.length > 0 && last.at[0] == 'v' ? span_from(last, 1) : last;
        if (digits.length > 16 || !span_number(digits, VERSION_MAX, &version)) {
            return false;
        }
        /* `…/{name}/versions/{N}` is the registry's own path. */
        span_t before = {model_uri.at, slash < model_uri.length ? slash : 0};
        size_t up = span_find_last(before, '/');
        if (up < before.length && span_is(span_from(before, up + 1), "versions")) {
            name = (span_t){before.at, up};
            size_t begin = span_find_last(name, '/');
            name = begin < name.length ? span_from(name, begin + 1) : name;
        }
    }
    if (!id_lawful(name)) {
        return false;
    }
    put_path(path, name, version);
    return true;
}

void dataset_path(const char *proplet, text_t *path) {
    text_add(path, "/datasets/");
    text_add(path, proplet);
}

/* --- the update ------------------------------------------------------------------------------------------ */

enum { ROUND, PROPLET, BASE, UPDATE, KNOWN };
static const char *const known[KNOWN] = {"round_id", "proplet_id", "base_model_uri", "update"};

/* Whether a member says something: it is there, and neither null nor an empty string. */
static bool says(span_t raw) { return raw.at != NULL && !span_is(raw, "null") && !span_is(raw, "\"\""); }

static bool string_is(span_t raw, const char *expected) {
    char buffer[ID_CHARS_MAX + 1];
    text_t text;
    text_open(&text, buffer, sizeof buffer);
    return json_decode_string(raw, &text) && !text.overflow && span_is(text_span(&text), expected);
}

static const char *check_update(const span_t raw[KNOWN], const char *round, const char *proplet) {
    if (raw[UPDATE].at == NULL || raw[UPDATE].at[0] != '{') {
        return "the guest's output has no object `update`";
    }
    if (says(raw[ROUND]) && !string_is(raw[ROUND], round)) {
        return "the update names another round_id";
    }
    return says(raw[PROPLET]) && !string_is(raw[PROPLET], proplet) ? "the update names another proplet_id" : NULL;
}

/* The known members of the guest's object; each at most once. */
static const char *find_members(span_t output, span_t raw[KNOWN]) {
    json_t json;
    char key[32];
    span_t value;
    json_open(&json, output);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        json_raw(&json, &value);
        for (int i = 0; i < KNOWN && json.error == NULL; i++) {
            if (strcmp(key, known[i]) == 0 && raw[i].at != NULL) {
                return "the guest's output has a member twice";
            }
            raw[i] = strcmp(key, known[i]) == 0 ? value : raw[i];
        }
    }
    return json_close(&json) ? NULL : "the guest's output is not one JSON object; it must be the update";
}

/* The guest's members in their order, with what is ours where it said nothing. */
static void copy_members(span_t output, const span_t raw[KNOWN], const span_t own[3], text_t *text) {
    json_t json;
    char key[32];
    span_t value;
    json_open(&json, output);
    for (json_object(&json);;) {
        json_peek(&json);
        const char *from = json.at;
        if (!json_key(&json, key, sizeof key)) {
            return;
        }
        const char *quote = memchr(from, '"', (size_t)(json.at - from));
        span_t name = {quote, (size_t)(json.at - quote)};
        json_raw(&json, &value);
        if (text->length > 1) {
            text_char(text, ',');
        }
        /* The name as the guest wrote it, up to the quote before the colon. */
        name.length = span_find_last(name, '"') + 1;
        text_put(text, name);
        text_char(text, ':');
        int is = -1;
        for (int i = 0; i < 3; i++) {
            is = strcmp(key, known[i]) == 0 ? i : is;
        }
        if (is >= 0 && !says(raw[is])) {
            json_put_string(text, own[is]);
        } else {
            text_put(text, value);
        }
    }
}

const char *make_update(span_t output, const char *round, const char *proplet, span_t base_model_uri, text_t *text) {
    span_t raw[KNOWN] = {{0}};
    span_t own[3] = {span_of(round), span_of(proplet), base_model_uri};
    const char *wrong = find_members(output, raw);
    wrong = wrong != NULL ? wrong : check_update(raw, round, proplet);
    if (wrong != NULL) {
        return wrong;
    }
    text_char(text, '{');
    copy_members(output, raw, own, text);
    for (int i = 0; i < 3; i++) {
        if (raw[i].at == NULL) {
            json_put_member(text, known[i], own[i]);
        }
    }
    text_char(text, '}');
    return text->overflow ? "the update is larger than this device's memory" : NULL;
}

void update_result(span_t update, const attempt_key_t *key, const char *round, const char *proplet, text_t *text) {
    static const char *const shown[] = {"base_model_uri", "num_samples", "metrics"};
    span_t raw;
    text_char(text, '{');
    json_put_member(text, "task_id", span_of(key->task));
    json_put_member(text, "round_id", span_of(round));
    json_put_member(text, "proplet_id", span_of(proplet));
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        json_put_name(text, shown[i]);
        text_put(text, json_member(update, shown[i], &raw) ? raw : SPAN("null"));
    }
    json_put_member(text, "status", SPAN("accepted"));
    json_put_member(text, "via", SPAN("mqtt"));
    text_char(text, '}');
}
