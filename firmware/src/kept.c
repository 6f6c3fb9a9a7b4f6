/* Settings that survive a reset: in the board's storage partition, by Zephyr's settings subsystem.
 *
 * They are there as they were set, the password too: who has the device's flash has its identity. */
#include "device.h"

#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/settings/settings.h>

LOG_MODULE_REGISTER(kept, LOG_LEVEL_INF);

#define PLACE "propeller"

#ifdef CONFIG_PROPELLER_SETTINGS

static int take(const char *name, size_t length, settings_read_cb read, void *from, void *count)
{
    char value[sizeof me.config.allow];
    ssize_t got = length <= sizeof value ? read(from, value, length) : -1;
    const char *wrong = got < 0 ? "not to be read" : config_set(&me.config, name, (span_t){value, (size_t)got});

    if (wrong != NULL) {
        LOG_WRN("kept setting %s: %s", name, wrong);
    } else {
        ++*(int *)count;
    }
    return 0;
}

bool kept_load(void)
{
    int count = 0, error = settings_subsys_init();

    error = error != 0 ? error : settings_load_subtree_direct(PLACE, take, &count);
    if (error != 0) {
        LOG_WRN("no settings are kept on this board: %d", error);
    }
    return count > 0;
}

/* Each setting as it is now, or none of them. */
static const char *store(bool keep)
{
    const char *name, *value, *help;
    bool secret;
    int error = 0;

    for (int i = 0; error == 0 && config_show(&me.config, i, &name, &value, &help, &secret); i++) {
        char key[sizeof PLACE + 32];
        text_t text;

        text_open(&text, key, sizeof key);
        text_add(&text, PLACE "/");
        text_add(&text, name);
        /* Of length 0 it is deleted. */
        error = settings_save_one(key, value, keep ? strlen(value) : 0);
    }
    return error == 0 ? NULL : "the board's storage does not take it";
}

#else

bool kept_load(void) { return false; }
static const char *store(bool keep) { return "this board has no storage that survives a reset"; }

#endif

const char *kept_save(void) { return store(true); }
const char *kept_forget(void) { return store(false); }
