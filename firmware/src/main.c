/* Where the firmware begins. Everything else waits for the console's `run`. */
#include "device.h"

#include <zephyr/sys/printk.h>

int main(void)
{
    config_defaults(&me.config);
    printk("propeller firmware %s on %s, ready after %u ms\n", FIRMWARE_VERSION, CONFIG_BOARD, k_uptime_get_32());
    return 0;
}
