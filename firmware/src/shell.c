/* The console: settings by name, for now or for good, and the command that starts the proplet. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/shell/shell.h>
#include <zephyr/sys/reboot.h>

static int cmd_set(const struct shell *sh, size_t argc, char **argv)
{
    const char *wrong = proplet_begun() ? "the proplet runs; reset the device first" : NULL;

    wrong = wrong != NULL ? wrong : config_set(&me.config, argv[1], span_of(argc > 2 ? argv[2] : ""));
    if (wrong != NULL) {
        shell_error(sh, "set %s: %s", argv[1], wrong);
        return -EINVAL;
    }
    shell_print(sh, "ok");
    return 0;
}

static int cmd_show(const struct shell *sh, size_t argc, char **argv)
{
    const char *name, *value, *help;
    bool secret;

    for (int i = 0; config_show(&me.config, i, &name, &value, &help, &secret); i++) {
        shell_print(sh, "%-12s %-24s %s", name, secret && value[0] != 0 ? "(set)" : value, help);
    }
    return 0;
}

/* `run`: by the settings. `run dhcp` or `run <ipv4> [key=value …]`: the address first, as in the zfl paper. */
static int cmd_run(const struct shell *sh, size_t argc, char **argv)
{
    const char *wrong = proplet_begun() ? "it runs already" : NULL;

    if (wrong == NULL && argc > 1) {
        wrong = config_set(&me.config, "ip", strcmp(argv[1], "dhcp") == 0 ? SPAN("") : span_of(argv[1]));
    }
    for (size_t i = 2; wrong == NULL && i < argc; i++) {
        char *equals = strchr(argv[i], '=');

        if (equals == NULL) {
            wrong = "after the address come settings, name=value";
            break;
        }
        *equals = 0;
        wrong = config_set(&me.config, argv[i], span_of(equals + 1));
    }
    wrong = wrong != NULL ? wrong : proplet_begin();
    if (wrong != NULL) {
        shell_error(sh, "run: %s", wrong);
        return -EINVAL;
    }
    shell_print(sh, "running as %s at %s", me.config.id, me.address);
    return 0;
}

static int cmd_status(const struct shell *sh, size_t argc, char **argv)
{
    metrics_t metrics = {0};
    size_t total, free, most, held = 0;
    bool welcomed = false;
    uint32_t connects = 0, ignored = 0;

    heap_usage(&total, &free, &most);
    network_counters(&metrics);
    if (proplet_begun()) {
        link_status(&held, &welcomed, &connects, &ignored);
    }
    shell_print(sh,
                "{\"up_ms\":%lld,\"address\":\"%s\",\"connected\":%s,\"welcomed\":%s,\"connects\":%u,\"held\":%zu,"
                "\"ignored\":%u,\"guests\":%u,\"heap_bytes\":%zu,\"heap_free\":%zu,\"heap_most\":%zu,"
                "\"sent\":%llu,\"received\":%llu,\"tcp_dropped\":%llu,\"tcp_resent\":%llu}",
                now_ms(), me.address, proplet_begun() && link_connected() ? "true" : "false", welcomed ? "true" : "false",
                connects, held, ignored, guests_begun(), total, free, most, metrics.bytes_sent, metrics.bytes_received,
                metrics.tcp_dropped, metrics.tcp_resent);
    return 0;
}

static int kept(const struct shell *sh, const char *command, const char *wrong)
{
    if (wrong != NULL) {
        shell_error(sh, "%s: %s", command, wrong);
        return -EIO;
    }
    shell_print(sh, "ok");
    return 0;
}

static int cmd_save(const struct shell *sh, size_t argc, char **argv)
{
    const char *missing = config_ready(&me.config);

    return kept(sh, "save", missing != NULL ? missing : kept_save());
}

static int cmd_forget(const struct shell *sh, size_t argc, char **argv) { return kept(sh, "forget", kept_forget()); }

static int cmd_reset(const struct shell *sh, size_t argc, char **argv)
{
    sys_reboot(SYS_REBOOT_COLD);
    return 0;
}

SHELL_CMD_ARG_REGISTER(set, NULL, "NAME [VALUE]: a setting; without a value, empty", cmd_set, 2, 1);
SHELL_CMD_REGISTER(show, NULL, "all settings", cmd_show);
SHELL_CMD_ARG_REGISTER(run, NULL, "[dhcp | IPV4 [NAME=VALUE …]]: start the proplet", cmd_run, 1, 18);
SHELL_CMD_REGISTER(status, NULL, "one line of JSON", cmd_status);
SHELL_CMD_REGISTER(save, NULL, "keep the settings over a reset, and start by them", cmd_save);
SHELL_CMD_REGISTER(forget, NULL, "keep no settings over a reset", cmd_forget);
SHELL_CMD_REGISTER(reset, NULL, "start again", cmd_reset);
