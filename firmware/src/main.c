/* Where the firmware begins: with a console that waits for `run`, or by itself where settings were kept. */
#include "device.h"

#include <string.h>

#include <zephyr/net/net_if.h>
#include <zephyr/sys/atomic.h>
#include <zephyr/sys/printk.h>

#include "digest.h"

enum { PAUSE_MS = 1000, PAUSE_MS_MAX = 60000 };

static atomic_t begun;

/* Random, and different on every device even where the random numbers are not. */
static void make_boot(void)
{
    static struct {
        uint32_t cycles;
        uint8_t random[16];
        config_t config;
        uint8_t link[6];
    } mixed;
    char hex[DIGEST_HEX_CHARS + 1];
    struct net_if *iface = net_if_get_default();

    mixed.cycles = k_cycle_get_32();
    mixed.config = me.config;
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
    work_start();
    link_start();
    return NULL;
}

bool proplet_begun(void) { return atomic_get(&begun) != 0; }

const char *proplet_begin(void)
{
    if (!atomic_cas(&begun, 0, 1)) {
        return "it runs already";
    }
    const char *wrong = begin();

    if (wrong != NULL) {
        atomic_set(&begun, 0);
    }
    return wrong;
}

/* By the settings that were kept. Where there is no network yet there may be one later. */
static void begin_by_itself(void)
{
    const char *wrong;

    for (int pause = PAUSE_MS; (wrong = proplet_begin()) != NULL; pause = MIN(2 * pause, PAUSE_MS_MAX)) {
        printk("run: %s\n", wrong);
        if (config_ready(&me.config) != NULL || proplet_begun()) {
            return;
        }
        k_sleep(K_MSEC(pause));
    }
    printk("running as %s at %s\n", me.config.id, me.address);
}

int main(void)
{
    config_defaults(&me.config);
    bool kept = kept_load();

    printk("propeller firmware %s on %s, ready after %u ms\n", FIRMWARE_VERSION, CONFIG_BOARD, k_uptime_get_32());
    if (kept) {
        begin_by_itself();
    }
    return 0;
}
