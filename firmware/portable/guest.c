/* A guest's world: what it is given, what it leaves behind, and the host functions of module `env`. See guest.h. */
#include "guest.h"

#include <string.h>

enum { ENV_NAME_MAX = 4096 };

void guest_open(guest_t *guest, const guest_ports_t *ports, size_t output_most) {
    memset(guest, 0, sizeof *guest);
    guest->ports = *ports;
    guest->output_most = output_most;
}

static void release(guest_t *guest, char **block) {
    if (*block != NULL) {
        guest->ports.free(*block);
        *block = NULL;
    }
}

void guest_close(guest_t *guest) {
    release(guest, &guest->env.at);
    release(guest, &guest->args.at);
    release(guest, &guest->output);
    release(guest, &guest->result);
}

/* --- what it is given -------------------------------------------------------------------------------------- */

static bool strings_room(guest_t *guest, strings_t *strings, text_t *text, size_t room) {
    strings->at = guest->ports.alloc(room);
    if (strings->at != NULL) {
        text_open(text, strings->at, room);
    }
    return strings->at != NULL;
}

/* A string that was put at `from` ends; one with a NUL inside would be two, and is dropped. */
static void string_ends(strings_t *strings, text_t *text, size_t from) {
    if (memchr(text->at + from, 0, text->length - from) != NULL) {
        text->length = from;
        return;
    }
    text_put(text, (span_t){"", 1});
    strings->count++;
    strings->length = text->length;
}

static void put_variable(strings_t *strings, text_t *text, const char *name, span_t value) {
    size_t from = text->length;
    text_add(text, name);
    text_char(text, '=');
    text_put(text, value);
    string_ends(strings, text, from);
}

static void put_task_variables(strings_t *strings, text_t *text, span_t env) {
    json_t json;
    char key[256];
    json_open(&json, env);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        size_t from = text->length;
        bool taken = key[0] == 0 || strchr(key, '=') != NULL || strcmp(key, "MODEL_DATA") == 0 ||
                     strcmp(key, "DATASET_DATA") == 0;
        if (taken) {
            json_skip(&json);
            continue;
        }
        text_add(text, key);
        text_char(text, '=');
        json_string(&json, text);
        string_ends(strings, text, from);
    }
}

bool guest_variable(const guest_t *guest, const char *name, span_t *value) {
    size_t length = strlen(name);
    const char *at = guest->env.at;
    for (uint32_t i = 0; i < guest->env.count; i++, at += strlen(at) + 1) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            *value = span_of(at + length + 1);
            return true;
        }
    }
    return false;
}

static void put_if_unnamed(guest_t *guest, text_t *text, const char *name, span_t value) {
    span_t named;
    if (value.length > 0 && !guest_variable(guest, name, &named)) {
        put_variable(&guest->env, text, name, value);
    }
}

bool guest_environment(guest_t *guest, const start_t *start, const char *proplet, span_t model, span_t data) {
    text_t text;
    size_t room = start->env.length + model.length + data.length + ID_CHARS_MAX + 256;
    if (!strings_room(guest, &guest->env, &text, room)) {
        return false;
    }
    if (start->env.at != NULL) {
        put_task_variables(&guest->env, &text, start->env);
    }
    put_if_unnamed(guest, &text, "PROPLET_ID", span_of(proplet));
    put_if_unnamed(guest, &text, "SEED", start->seed);
    if (model.at != NULL) {
        put_variable(&guest->env, &text, "MODEL_DATA", model);
    }
    if (data.at != NULL) {
        put_variable(&guest->env, &text, "DATASET_DATA", data);
    }
    return !text.overflow;
}

bool guest_arguments(guest_t *guest, const start_t *start) {
    text_t text;
    json_t json;
    if (!strings_room(guest, &guest->args, &text, start->cli_args.length + sizeof "guest" + 1)) {
        return false;
    }
    text_add(&text, "guest");
    string_ends(&guest->args, &text, 0);
    if (start->cli_args.at != NULL) {
        json_open(&json, start->cli_args);
        for (json_array(&json); json_item(&json);) {
            size_t from = text.length;
            json_string(&json, &text);
            string_ends(&guest->args, &text, from);
        }
    }
    return !text.overflow;
}

span_t guest_output(const guest_t *guest) {
    return guest->result != NULL ? (span_t){guest->result, guest->result_length}
                                 : (span_t){guest->output == NULL ? "" : guest->output, guest->output_length};
}

/* --- module `env` ------------------------------------------------------------------------------------------ */

static uint8_t *range(const guest_t *guest, uint32_t at, uint64_t length) {
    uint64_t size;
    uint8_t *memory = guest->ports.memory(guest->ports.to, &size);
    return memory == NULL || length > size || at > size - length ? NULL : memory + at;
}

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* Place `value` and a NUL in memory of the guest's own, and say where it is and how long. */
static uint32_t give(guest_t *guest, span_t value, uint32_t offset_at, uint32_t length_at) {
    if (guest->in_malloc || range(guest, offset_at, 4) == NULL || range(guest, length_at, 4) == NULL ||
        value.length >= UINT32_MAX) {
        return 0;
    }
    guest->in_malloc = true;
    uint32_t at = guest->ports.malloc(guest->ports.to, (uint32_t)value.length + 1);
    guest->in_malloc = false;
    uint8_t *into = at == 0 ? NULL : range(guest, at, (uint64_t)value.length + 1);
    if (into == NULL) {
        return 0;
    }
    memcpy(into, value.at, value.length);
    into[value.length] = 0;
    put_u32(range(guest, offset_at, 4), at);
    put_u32(range(guest, length_at, 4), (uint32_t)value.length);
    return 1;
}

uint32_t guest_get(guest_t *guest, const char *variable, bool required, uint32_t offset_at, uint32_t length_at) {
    span_t value = {"", 0};
    return guest_variable(guest, variable, &value) || !required ? give(guest, value, offset_at, length_at) : 0;
}

uint32_t guest_get_env(guest_t *guest, uint32_t name, uint32_t name_length, uint32_t offset_at, uint32_t length_at) {
    span_t wanted = {(const char *)range(guest, name, name_length), name_length};
    const char *at = guest->env.at;
    if (wanted.at == NULL || name_length > ENV_NAME_MAX) {
        return 0;
    }
    for (uint32_t i = 0; i < guest->env.count; i++, at += strlen(at) + 1) {
        span_t variable = span_of(at);
        size_t equals = span_find(variable, '=');
        if (span_same((span_t){at, equals}, wanted)) {
            return give(guest, span_from(variable, equals + 1), offset_at, length_at);
        }
    }
    return 0;
}

uint32_t guest_put_result(guest_t *guest, uint32_t at, uint32_t length) {
    const uint8_t *from = range(guest, at, length);
    char *copy = from == NULL || length > guest->output_most ? NULL : guest->ports.alloc(length + 1u);
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, from, length);
    copy[length] = 0;
    release(guest, &guest->result);
    guest->result = copy;
    guest->result_length = length;
    return 1;
}
