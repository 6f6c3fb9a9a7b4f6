/* The device's large memory: one heap for everything that comes from the network (messages, modules, models, data
 * sets, results), and the pool that a guest lives in.
 *
 * Neither is cleared at the start, and neither is a part of the image: a loader that copies the image, as QEMU's
 * does, would make an emulated device take all of it from its host, twice. With an MMU both are mapped; a board with
 * a second memory names it in its overlay (`propeller,memory`), and they are its beginning. */
#include "device.h"

#include <zephyr/init.h>
#include <zephyr/sys/mem_manage.h>
#include <zephyr/sys/sys_heap.h>

static struct k_heap heap;
static void *pool;

enum {
    HEAP_BYTES = ROUND_UP(CONFIG_PROPELLER_HEAP_BYTES, 4096),
    POOL_BYTES = ROUND_UP(CONFIG_PROPELLER_GUEST_POOL_BYTES, 4096),
};

#if defined(CONFIG_MMU)
static void *take(size_t bytes) { return k_mem_map(bytes, K_MEM_PERM_RW | K_MEM_MAP_UNINIT); }
static void *take_heap(void) { return take(HEAP_BYTES); }
static void *take_pool(void) { return take(POOL_BYTES); }
#elif DT_HAS_CHOSEN(propeller_memory)
BUILD_ASSERT(HEAP_BYTES + POOL_BYTES <= DT_REG_SIZE(DT_CHOSEN(propeller_memory)),
             "the heap and the guest's pool are larger than the board's memory for them");
static uint8_t *const memory = (uint8_t *)DT_REG_ADDR(DT_CHOSEN(propeller_memory));
static void *take_heap(void) { return memory; }
static void *take_pool(void) { return memory + HEAP_BYTES; }
#else
static uint8_t heap_memory[HEAP_BYTES] __noinit __aligned(8);
static uint8_t pool_memory[POOL_BYTES] __noinit __aligned(16);
static void *take_heap(void) { return heap_memory; }
static void *take_pool(void) { return pool_memory; }
#endif

static int set_up(void)
{
    void *from_network = take_heap();

    pool = take_pool();
    if (from_network == NULL || pool == NULL) {
        printk("this board has not the %d + %d bytes that the firmware is built for\n", CONFIG_PROPELLER_HEAP_BYTES,
               CONFIG_PROPELLER_GUEST_POOL_BYTES);
        k_panic();
    }
    k_heap_init(&heap, from_network, CONFIG_PROPELLER_HEAP_BYTES);
    return 0;
}
SYS_INIT(set_up, POST_KERNEL, 0);

void *guest_pool(void) { return pool; }

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
    *total = CONFIG_PROPELLER_HEAP_BYTES;
    *free = stats.free_bytes;
    *most = stats.max_allocated_bytes;
}
