/* A guest in a thread of its own, watched: it ends by itself, at a limit, or when it is stopped. */
#include "device.h"

#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/sys/atomic.h>
#include <zephyr/sys/sys_heap.h>

#include "wamr_guest.h"

LOG_MODULE_REGISTER(supervise, LOG_LEVEL_INF);

enum { LOOK_MS = 20, STOP_AGAIN_MS = 50 };

/* The guest's pool, made anew for every guest; only its thread takes from it. */
static struct sys_heap pool;

static void *pool_alloc(unsigned int size) { return sys_heap_alloc(&pool, size); }
static void *pool_realloc(void *block, unsigned int size) { return sys_heap_realloc(&pool, block, size); }
static void pool_free(void *block) { sys_heap_free(&pool, block); }

static size_t pool_most(void)
{
    struct sys_memory_stats stats = {0};

    sys_heap_runtime_stats_get(&pool, &stats);
    return stats.max_allocated_bytes;
}

K_THREAD_STACK_DEFINE(guest_stack, CONFIG_PROPELLER_GUEST_THREAD_STACK_BYTES);
static struct k_thread guest_thread;
static atomic_t guests;

typedef struct {
    job_t *job;
    wamr_job_t wamr;
    wamr_ended_t ended;
    struct k_sem done;
    int64_t begun_ms; /* 0 until the guest is entered */
    uint64_t cpu_before_ms; /* the thread's account goes on from guest to guest */
} run_t;

static uint64_t thread_cpu_ms(void)
{
    k_thread_runtime_stats_t stats;

    return k_thread_runtime_stats_get(&guest_thread, &stats) == 0 ? k_cyc_to_ms_floor64(stats.execution_cycles) : 0;
}

uint32_t guests_begun(void) { return (uint32_t)atomic_get(&guests); }

static void begun(void *to)
{
    run_t *run = to;

    run->cpu_before_ms = thread_cpu_ms();
    run->begun_ms = now_ms();
    atomic_inc(&guests);
    link_begun(&run->job->key);
}

static void enter(void *a, void *b, void *c)
{
    run_t *run = a;

    wamr_run(&run->wamr, &run->job->guest, &run->ended, begun, run);
    k_sem_give(&run->done);
}

static uint64_t least(uint64_t asked, uint64_t most) { return asked > 0 && asked < most ? asked : most; }

static uint64_t cpu_ms(const run_t *run)
{
    uint64_t now = thread_cpu_ms();

    if (run->begun_ms == 0 || now <= run->cpu_before_ms) {
        return 0;
    }
    /* Where a cycle counter may step back, as an emulated SysTick does, the kernel's account takes a step for 2^32
     * cycles forward. A thread cannot have had more of the one processor than there was time. */
    return MIN(now - run->cpu_before_ms, (uint64_t)(now_ms() - run->begun_ms));
}

static void set_up(run_t *run, job_t *job, char *name, size_t name_size)
{
    text_t text;

    memset(run, 0, sizeof *run);
    text_open(&text, name, name_size);
    if (!json_decode_string(job->start.name, &text) || text.overflow) {
        name[0] = 0; /* no export has so long a name */
    }
    run->job = job;
    run->wamr = (wamr_job_t){
        .module = (uint8_t *)job->module,
        .module_length = job->module_length,
        .name = name,
        .inputs = job->start.inputs,
        .alloc = pool_alloc,
        .realloc = pool_realloc,
        .free = pool_free,
        .memory_most = (size_t)least(job->start.memory_bytes, CONFIG_PROPELLER_GUEST_POOL_BYTES),
        .stack = CONFIG_PROPELLER_GUEST_STACK_BYTES,
    };
    sys_heap_init(&pool, guest_pool(), CONFIG_PROPELLER_GUEST_POOL_BYTES);
    k_sem_init(&run->done, 0, 1);
}

/* Wait for the end; past a limit or an order to stop, keep telling the guest. The limit that was passed, or NULL. */
static const char *watch(run_t *run)
{
    uint64_t wall_ms = least(run->job->start.wall_ms, 1000ull * CONFIG_PROPELLER_GUEST_WALL_S);
    uint64_t processor_ms = least(run->job->start.cpu_ms, wall_ms + 1);
    const char *passed = NULL;

    while (k_sem_take(&run->done, K_MSEC(passed == NULL ? LOOK_MS : STOP_AGAIN_MS)) != 0) {
        if (passed == NULL && run->begun_ms > 0) {
            passed = (uint64_t)(now_ms() - run->begun_ms) > wall_ms ? "timeout" : cpu_ms(run) > processor_ms ? "cpu" : NULL;
        }
        if (work_killed()) {
            passed = "stopped";
        }
        if (passed != NULL) {
            wamr_stop();
        }
    }
    return passed;
}

static void judge(run_t *run, const char *passed)
{
    job_t *job = run->job;

    /* A guest that ended well in the moment of its limit has ended well. */
    if (run->ended.ran == RAN_STOPPED && passed != NULL) {
        job_fail(job, passed, strcmp(passed, "stopped") == 0 ? "stopped" : "the guest's %s limit has passed", passed);
    } else if (run->ended.ran != RAN_WELL) {
        job_fail(job, ran_name(run->ended.ran), "%s", run->ended.error);
    }
    job->has_value = run->ended.has_value;
    memcpy(job->value, run->ended.value, sizeof job->value);
    job->usage.memory_bytes = run->ended.memory_bytes;
}

void job_supervise(job_t *job)
{
    static run_t run;
    char name[264];

    set_up(&run, job, name, sizeof name);
    k_thread_create(&guest_thread, guest_stack, K_THREAD_STACK_SIZEOF(guest_stack), enter, &run, NULL, NULL, 12,
                    COND_CODE_1(CONFIG_FPU_SHARING, (K_FP_REGS), (0)) COND_CODE_1(CONFIG_X86_SSE, (| K_SSE_REGS), ()),
                    K_NO_WAIT);
    k_thread_name_set(&guest_thread, "guest");
    const char *passed = watch(&run);
    job->usage.cpu_ms = cpu_ms(&run);
    k_thread_join(&guest_thread, K_FOREVER);
    job->usage.wall_ms = run.begun_ms > 0 ? (uint64_t)(now_ms() - run.begun_ms) : 0;
    job->deadline_ms = run.begun_ms + (int64_t)least(job->start.wall_ms, 1000ull * CONFIG_PROPELLER_GUEST_WALL_S);
    judge(&run, passed);
    LOG_INF("guest of %s: pool %zu of %d bytes, memory %zu", job->key.task, pool_most(), CONFIG_PROPELLER_GUEST_POOL_BYTES,
            run.ended.memory_bytes);
}
