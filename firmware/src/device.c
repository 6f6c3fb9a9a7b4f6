/* Who this device is, its clock and its randomness: see device.h. */
#include "device.h"

#include <string.h>

#include <zephyr/net/net_if.h>
#include <zephyr/random/rand32.h>

identity_t me;

int64_t now_ms(void) { return k_uptime_get(); }

uint64_t device_now_ns(void) { return k_ticks_to_ns_floor64(k_uptime_ticks()); }

bool device_random(uint8_t *into, size_t length)
{
    sys_rand_get(into, length);
    return true;
}

void device_describe(device_t *device)
{
    *device = (device_t){
        .id = me.config.id,
        .description = me.config.description,
        .location = me.config.location,
        .tags = me.config.tags,
        .ip = me.address,
        .os = "zephyr",
        .cpu_arch = CONFIG_ARCH,
        .hostname = CONFIG_BOARD,
        .version = FIRMWARE_VERSION,
        .runtime = "wamr",
        .memory_bytes = (uint64_t)CONFIG_SRAM_SIZE * 1024,
    };
}
