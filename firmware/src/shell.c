/* The console: settings by name, and the command that starts the proplet. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/net/net_if.h>
#include <zephyr/shell/shell.h>
#include <zephyr/sys/reboot.h>

#include "digest.h"

static bool running;

static int cmd_set(const struct shell *sh, size_t argc, char **argv)
{
    const char *wrong = running ? "the proplet runs; reset the device first" : NULL;

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

static void make_boot(void)
{
    struct {
        uint32_t cycles;
        uint8_t random[16];
        config_t config;
        uint8_t link[6];
    } mixed = {.cycles = k_cycle_get_32(), .config = me.config};
    char hex[DIGEST_HEX_CHARS + 1];
    struct net_if *iface = net_if_get_default();

    device_random(mixed.random, sizeof mixed.random);
    if (iface != NULL && net_if_get_link_addr(iface)->len == sizeof mixed.link) {
        memcpy(mixed.link, net_if_get_link_addr(iface)->addr, sizeof mixed.link);
    }
    sha256_hex(&mixed, sizeof mixed, hex);
    memcpy(me.boot, hex, sizeof me.boot - 1);
}

static const char *begin(void)
{
    origin_t origin;
    const uint8_t nowhere[4] = {0};
    const char *missing = config_ready(&me.config);

    if (missing != NULL) {
        return missing;
    }
    origin_parse(span_of(me.config.broker), 1883, nowhere, &origin);
    memcpy(me.broker_ip, origin.ip, 4);
    me.broker_port = origin.port;
    strcpy(me.topics.domain, me.config.domain);
    strcpy(me.topics.channel, me.config.channel);
    strcpy(me.topics.me, me.config.id);
    me.topics.lane = strcmp(me.config.lane, "shared") == 0 ? LANE_SHARED : LANE_DIRECTED;
    make_boot();
    if (!network_start()) {
        return "there is no network";
    }
    running = true;
    work_start();
    link_start();
    return NULL;
}

/* `run`: by the settings. `run dhcp` or `run <ipv4> [key=value …]`: the address first, as in the zfl paper. */
static int cmd_run(const struct shell *sh, size_t argc, char **argv)
{
    const char *wrong = running ? "it runs already" : NULL;

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
    wrong = wrong != NULL ? wrong : begin();
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
    if (running) {
        link_status(&held, &welcomed, &connects, &ignored);
    }
    shell_print(sh,
                "{\"up_ms\":%lld,\"address\":\"%s\",\"connected\":%s,\"welcomed\":%s,\"connects\":%u,\"held\":%zu,"
                "\"ignored\":%u,\"heap_bytes\":%zu,\"heap_free\":%zu,\"heap_most\":%zu,\"sent\":%llu,\"received\":%llu,"
                "\"tcp_dropped\":%llu,\"tcp_resent\":%llu}",
                now_ms(), me.address, running && link_connected() ? "true" : "false", welcomed ? "true" : "false",
                connects, held, ignored, total, free, most, metrics.bytes_sent, metrics.bytes_received,
                metrics.tcp_dropped, metrics.tcp_resent);
    return 0;
}

static int cmd_reset(const struct shell *sh, size_t argc, char **argv)
{
    sys_reboot(SYS_REBOOT_COLD);
    return 0;
}

SHELL_CMD_ARG_REGISTER(set, NULL, "NAME [VALUE]: a setting; without a value, empty", cmd_set, 2, 1);
SHELL_CMD_REGISTER(show, NULL, "all settings", cmd_show);
SHELL_CMD_ARG_REGISTER(run, NULL, "[dhcp | IPV4 [NAME=VALUE …]]: start the proplet", cmd_run, 1, 18);
SHELL_CMD_REGISTER(status, NULL, "one line of JSON", cmd_status);
SHELL_CMD_REGISTER(reset, NULL, "start again from nothing", cmd_reset);
