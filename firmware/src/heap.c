/* One heap for everything that comes from the network: messages, modules, models, data sets, results.
 *
 * Its memory is not cleared at the start, so that an emulated device takes from its host only what it uses. */
#include "device.h"

#include <zephyr/init.h>
#include <zephyr/sys/sys_heap.h>

static struct k_heap heap;
static uint8_t memory[CONFIG_PROPELLER_HEAP_BYTES] __noinit __aligned(8);

static int set_up(void)
{
    k_heap_init(&heap, memory, sizeof(memory));
    return 0;
}
SYS_INIT(set_up, POST_KERNEL, 0);

void *heap_alloc(size_t size) { return k_heap_alloc(&heap, size == 0 ? 1 : size, K_NO_WAIT); }
void heap_free(void *block)
{
    if (block != NULL) {
        k_heap_free(&heap, block);
    }
}

void heap_usage(size_t *total, size_t *free, size_t *most)
{
    struct sys_memory_stats stats;
    k_spinlock_key_t key = k_spin_lock(&heap.lock);

    sys_heap_runtime_stats_get(&heap.heap, &stats);
    k_spin_unlock(&heap.lock, key);
    *total = sizeof(memory);
    *free = stats.free_bytes;
    *most = stats.max_allocated_bytes;
}
