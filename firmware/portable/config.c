/* A device's settings: see config.h. */
#include "config.h"

#include <string.h>

static const uint8_t nowhere[4] = {0};

static const char *check_id(span_t value) {
    return id_lawful(value) ? NULL : "not an id: 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit";
}

static const char *check_any(span_t value) {
    (void)value;
    return NULL;
}

static const char *check_broker(span_t value) {
    origin_t origin;
    return origin_parse(value, 1883, nowhere, &origin) ? NULL : "not an address a.b.c.d or a.b.c.d:port";
}

static const char *check_lane(span_t value) {
    return span_is(value, "directed") || span_is(value, "shared") ? NULL : "neither directed nor shared";
}

static const char *check_ip(span_t value) {
    uint8_t ip[4];
    return value.length == 0 || ipv4_parse(value, ip) ? NULL : "not an address a.b.c.d";
}

static const char *check_url(span_t value) {
    origin_t origin;
    span_t path;
    return value.length == 0 || url_parse(value, nowhere, &origin, &path) ? NULL : "not a URL http://a.b.c.d[:port]";
}

static const char *check_heartbeat(span_t value) {
    uint64_t seconds;
    return span_number(value, 3600, &seconds) && seconds > 0 ? NULL : "not a number of seconds from 1 to 3600";
}

typedef struct {
    const char *name, *help, *otherwise;
    size_t offset, size;
    const char *(*check)(span_t value);
    bool secret;
} field_t;

#define FIELD(name, check, otherwise, help) \
    {#name, help, otherwise, offsetof(config_t, name), sizeof(((config_t *)0)->name), check, false}
#define SECRET(name, check, help) {#name, help, "", offsetof(config_t, name), sizeof(((config_t *)0)->name), check, true}

static const field_t fields[] = {
    FIELD(id, check_id, "", "this proplet's id at the broker"),
    SECRET(key, check_any, "its password"),
    FIELD(domain, check_id, "", "domain (tenant) of the channel"),
    FIELD(channel, check_id, "", "channel"),
    FIELD(broker, check_broker, "", "MQTT broker, a.b.c.d[:1883]"),
    FIELD(lane, check_lane, "directed", "directed (protocol 2) or shared (other managers)"),
    FIELD(ip, check_ip, "", "own address; empty: DHCP"),
    FIELD(netmask, check_ip, "255.255.255.0", "with ip"),
    FIELD(gateway, check_ip, "", "with ip"),
    FIELD(registry, check_url, "", "model registry's URL, if a task names none"),
    FIELD(store, check_url, "", "data store's URL, if a task names none"),
    FIELD(allow, check_any, "", "origins beside the broker's machine: a.b.c.d[:port],… or *"),
    FIELD(description, check_any, "", "shown by the manager"),
    FIELD(location, check_any, "", "shown by the manager"),
    FIELD(tags, check_any, "", "shown by the manager, separated by commas"),
    FIELD(heartbeat, check_heartbeat, "10", "seconds between heartbeats until the manager says otherwise"),
};
enum { FIELDS = sizeof fields / sizeof *fields };

void config_defaults(config_t *config) {
    memset(config, 0, sizeof *config);
    for (int i = 0; i < FIELDS; i++) {
        span_copy(span_of(fields[i].otherwise), (char *)config + fields[i].offset, fields[i].size);
    }
}

const char *config_set(config_t *config, const char *name, span_t value) {
    for (int i = 0; i < FIELDS; i++) {
        if (strcmp(fields[i].name, name) != 0) {
            continue;
        }
        const char *wrong = value.length >= fields[i].size ? "too long" : fields[i].check(value);
        if (wrong == NULL && !span_copy(value, (char *)config + fields[i].offset, fields[i].size)) {
            wrong = "holds a NUL";
        }
        return wrong;
    }
    return "no such setting";
}

bool config_show(const config_t *config, int index, const char **name, const char **value, const char **help,
                 bool *secret) {
    if (index < 0 || index >= FIELDS) {
        return false;
    }
    *name = fields[index].name;
    *value = (const char *)config + fields[index].offset;
    *help = fields[index].help;
    *secret = fields[index].secret;
    return true;
}

const char *config_ready(const config_t *config) {
    return config->id[0] == 0        ? "id is not set"
           : config->domain[0] == 0  ? "domain is not set"
           : config->channel[0] == 0 ? "channel is not set"
           : config->broker[0] == 0  ? "broker is not set"
                                     : NULL;
}
