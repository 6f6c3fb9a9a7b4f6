/* What a device is told before it starts, as text by name: from the shell, from settings, or from a fleet's server.
 * Nothing is compiled in. Checks every value when it is set. */
#ifndef PROPELLER_CONFIG_H
#define PROPELLER_CONFIG_H

#include "topics.h"
#include "web.h"

typedef struct {
    char id[ID_CHARS_MAX + 1], key[128];
    char domain[ID_CHARS_MAX + 1], channel[ID_CHARS_MAX + 1];
    char broker[32]; /* a.b.c.d[:port] */
    char lane[12];   /* directed or shared */
    char ip[16], netmask[16], gateway[16]; /* ip empty: DHCP */
    char registry[URL_CHARS_MAX], store[URL_CHARS_MAX];
    char allow[256]; /* further origins that tasks may name */
    char description[64], location[64], tags[64];
    char heartbeat[8]; /* seconds */
} config_t;

void config_defaults(config_t *config);
/* NULL, or why the name or value is refused. */
const char *config_set(config_t *config, const char *name, span_t value);
/* The `index`-th setting's name, value and help; false when there is none. Secrets say so. */
bool config_show(const config_t *config, int index, const char **name, const char **value, const char **help,
                 bool *secret);
/* NULL, or the first thing that is missing for a connection. */
const char *config_ready(const config_t *config);

#endif
