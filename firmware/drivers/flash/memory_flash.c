/* Plain memory as a flash device, for emulated boards: what is in it survives a reset, and no more.
 *
 * Emulators keep the content of memory over a reset, except where they put the image. It must not know what is kept. */
#define DT_DRV_COMPAT propeller_memory_flash

#include <errno.h>
#include <string.h>

#include <zephyr/device.h>
#include <zephyr/drivers/flash.h>
#include <zephyr/sys/mem_manage.h>

#define ADDRESS DT_INST_PROP_BY_IDX(0, memory, 0)
#define BYTES DT_INST_PROP_BY_IDX(0, memory, 1)
enum { BLOCK = 1024, ERASED = 0xff };

static uint8_t *memory;

static bool outside(off_t offset, size_t length) { return offset < 0 || length > BYTES || offset > BYTES - length; }

static int read(const struct device *device, off_t offset, void *into, size_t length)
{
    if (outside(offset, length)) {
        return -EINVAL;
    }
    memcpy(into, memory + offset, length);
    return 0;
}

static int write(const struct device *device, off_t offset, const void *from, size_t length)
{
    if (outside(offset, length)) {
        return -EINVAL;
    }
    memcpy(memory + offset, from, length);
    return 0;
}

static int erase(const struct device *device, off_t offset, size_t length)
{
    if (outside(offset, length) || offset % BLOCK != 0 || length % BLOCK != 0) {
        return -EINVAL;
    }
    memset(memory + offset, ERASED, length);
    return 0;
}

static const struct flash_parameters *parameters(const struct device *device)
{
    static const struct flash_parameters ours = {.write_block_size = 4, .erase_value = ERASED};

    return &ours;
}

static void layout(const struct device *device, const struct flash_pages_layout **pages, size_t *count)
{
    static const struct flash_pages_layout ours = {.pages_count = BYTES / BLOCK, .pages_size = BLOCK};

    *pages = &ours;
    *count = 1;
}

static int set_up(const struct device *device)
{
#ifdef CONFIG_MMU
    z_phys_map(&memory, ADDRESS, BYTES, K_MEM_PERM_RW | K_MEM_CACHE_WB);
#else
    memory = (uint8_t *)ADDRESS;
#endif
    for (size_t i = 0; i < BYTES; i++) {
        if (memory[i] != 0) {
            return 0;
        }
    }
    return erase(device, 0, BYTES);
}

static const struct flash_driver_api api = {
    .read = read, .write = write, .erase = erase, .get_parameters = parameters, .page_layout = layout};

DEVICE_DT_INST_DEFINE(0, set_up, NULL, NULL, NULL, POST_KERNEL, CONFIG_FLASH_INIT_PRIORITY, &api);
