/* Runs one guest on WAMR: see wamr_guest.h.
 *
 * The runtime is set up in the job's pool for every guest and taken down after it, so that nothing a guest did can
 * be left over for the next. Only this device's own functions are linked; any other import is denied before anything
 * runs. One guest runs at a time. */
#include "wamr_guest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "lib_export.h"
#include "platform_api_vmcore.h"
#include "wasm_export.h"

enum { ARGUMENTS_MAX = 16, PAGE = 65536 };

/* The guest that runs now; `wamr_stop` may come from another thread at any time. */
static struct {
    korp_mutex lock;
    bool has_lock, stopping;
    wasm_module_inst_t instance;
} now;

typedef struct {
    const wamr_job_t *job;
    guest_t *guest;
    wamr_ended_t *ended;
    wasm_module_t module;
    wasm_module_inst_t instance;
    wasm_exec_env_t thread;
    wasm_function_inst_t malloc;
    bool refused; /* the guest asked for memory and did not get it */
} run_t;

const char *ran_name(ran_t ran) {
    static const char *const names[] = {"", "invalid_module", "trap", "exit", "memory", "stack", "output", "denied", "stopped"};
    return names[ran];
}

static bool fail(run_t *run, ran_t ran, const char *what, const char *detail) {
    run->ended->ran = ran;
    snprintf(run->ended->error, sizeof run->ended->error, "%s%s", what, detail);
    return false;
}

/* --- imports ----------------------------------------------------------------------------------------------- */

static run_t *run_of(wasm_exec_env_t env) {
    return wasm_runtime_get_custom_data(wasm_runtime_get_module_inst(env));
}

static guest_t *guest_of(wasm_exec_env_t env) { return run_of(env)->guest; }

static uint32_t n_get_proplet_id(wasm_exec_env_t env, uint32_t offset_at, uint32_t length_at) {
    return guest_get(guest_of(env), "PROPLET_ID", true, offset_at, length_at);
}
static uint32_t n_get_model_data(wasm_exec_env_t env, uint32_t offset_at, uint32_t length_at) {
    return guest_get(guest_of(env), "MODEL_DATA", false, offset_at, length_at);
}
static uint32_t n_get_dataset_data(wasm_exec_env_t env, uint32_t offset_at, uint32_t length_at) {
    return guest_get(guest_of(env), "DATASET_DATA", false, offset_at, length_at);
}
static uint32_t n_get_env(wasm_exec_env_t env, uint32_t name, uint32_t length, uint32_t offset_at, uint32_t length_at) {
    return guest_get_env(guest_of(env), name, length, offset_at, length_at);
}
static uint32_t n_put_result(wasm_exec_env_t env, uint32_t at, uint32_t length) {
    return guest_put_result(guest_of(env), at, length);
}

static uint32_t n_args_sizes_get(wasm_exec_env_t env, uint32_t a, uint32_t b) {
    return wasi_args_sizes_get(guest_of(env), a, b);
}
static uint32_t n_args_get(wasm_exec_env_t env, uint32_t a, uint32_t b) { return wasi_args_get(guest_of(env), a, b); }
static uint32_t n_environ_sizes_get(wasm_exec_env_t env, uint32_t a, uint32_t b) {
    return wasi_environ_sizes_get(guest_of(env), a, b);
}
static uint32_t n_environ_get(wasm_exec_env_t env, uint32_t a, uint32_t b) {
    return wasi_environ_get(guest_of(env), a, b);
}
static uint32_t n_clock_res_get(wasm_exec_env_t env, uint32_t clock, uint32_t at) {
    return wasi_clock_res_get(guest_of(env), clock, at);
}
static uint32_t n_clock_time_get(wasm_exec_env_t env, uint32_t clock, uint64_t precision, uint32_t at) {
    return wasi_clock_time_get(guest_of(env), clock, precision, at);
}
static uint32_t n_random_get(wasm_exec_env_t env, uint32_t at, uint32_t length) {
    return wasi_random_get(guest_of(env), at, length);
}
static uint32_t n_fd_write(wasm_exec_env_t env, uint32_t fd, uint32_t at, uint32_t count, uint32_t written_at) {
    uint32_t answer = wasi_fd_write(guest_of(env), fd, at, count, written_at);
    if (guest_of(env)->output_full) {
        wasm_runtime_set_exception(wasm_runtime_get_module_inst(env), "too much standard output");
    }
    return answer;
}
static uint32_t n_fd_read(wasm_exec_env_t env, uint32_t fd, uint32_t at, uint32_t count, uint32_t read_at) {
    return wasi_fd_read(guest_of(env), fd, at, count, read_at);
}
static uint32_t n_fd_fdstat_get(wasm_exec_env_t env, uint32_t fd, uint32_t at) {
    return wasi_fd_fdstat_get(guest_of(env), fd, at);
}
static uint32_t n_fd_other(wasm_exec_env_t env, uint32_t fd) { return wasi_fd_other(guest_of(env), fd); }
static uint32_t n_fd_seek(wasm_exec_env_t env, uint32_t fd) { return wasi_fd_seek(guest_of(env), fd); }
static uint32_t n_not_supported(wasm_exec_env_t env) {
    (void)env;
    return wasi_not_supported();
}
static uint32_t n_sched_yield(wasm_exec_env_t env) {
    (void)env;
    return 0;
}
static void n_proc_exit(wasm_exec_env_t env, uint32_t status) {
    wasi_proc_exit(guest_of(env), status);
    /* An exception is the way out of the guest's frames; `exited` tells it from a failure. */
    wasm_runtime_set_exception(wasm_runtime_get_module_inst(env), "wasi proc exit");
}

#define NATIVE(name, signature) {#name, (void *)n_##name, signature, NULL}
#define REFUSED(name, function, signature) {#name, (void *)n_##function, signature, NULL}

static NativeSymbol env_symbols[] = {
    NATIVE(get_proplet_id, "(ii)i"), NATIVE(get_model_data, "(ii)i"), NATIVE(get_dataset_data, "(ii)i"),
    NATIVE(get_env, "(iiii)i"),      NATIVE(put_result, "(ii)i"),
};

/* All of preview 1, so that every module links as it does elsewhere; what a device has not is refused when called. */
static NativeSymbol wasi_symbols[] = {
    NATIVE(args_get, "(ii)i"),
    NATIVE(args_sizes_get, "(ii)i"),
    NATIVE(environ_get, "(ii)i"),
    NATIVE(environ_sizes_get, "(ii)i"),
    NATIVE(clock_res_get, "(ii)i"),
    NATIVE(clock_time_get, "(iIi)i"),
    NATIVE(random_get, "(ii)i"),
    NATIVE(fd_write, "(iiii)i"),
    NATIVE(fd_read, "(iiii)i"),
    NATIVE(fd_fdstat_get, "(ii)i"),
    NATIVE(fd_seek, "(iIii)i"),
    NATIVE(proc_exit, "(i)"),
    NATIVE(sched_yield, "()i"),
    REFUSED(fd_tell, fd_seek, "(ii)i"),
    REFUSED(fd_advise, fd_other, "(iIIi)i"),
    REFUSED(fd_allocate, fd_other, "(iII)i"),
    REFUSED(fd_close, fd_other, "(i)i"),
    REFUSED(fd_datasync, fd_other, "(i)i"),
    REFUSED(fd_fdstat_set_flags, fd_other, "(ii)i"),
    REFUSED(fd_fdstat_set_rights, fd_other, "(iII)i"),
    REFUSED(fd_filestat_get, fd_other, "(ii)i"),
    REFUSED(fd_filestat_set_size, fd_other, "(iI)i"),
    REFUSED(fd_filestat_set_times, fd_other, "(iIIi)i"),
    REFUSED(fd_pread, fd_other, "(iiiIi)i"),
    REFUSED(fd_prestat_get, fd_other, "(ii)i"),
    REFUSED(fd_prestat_dir_name, fd_other, "(iii)i"),
    REFUSED(fd_pwrite, fd_other, "(iiiIi)i"),
    REFUSED(fd_readdir, fd_other, "(iiiIi)i"),
    REFUSED(fd_renumber, fd_other, "(ii)i"),
    REFUSED(fd_sync, fd_other, "(i)i"),
    REFUSED(path_create_directory, fd_other, "(iii)i"),
    REFUSED(path_filestat_get, fd_other, "(iiiii)i"),
    REFUSED(path_filestat_set_times, fd_other, "(iiiiIIi)i"),
    REFUSED(path_link, fd_other, "(iiiiiii)i"),
    REFUSED(path_open, fd_other, "(iiiiiIIii)i"),
    REFUSED(path_readlink, fd_other, "(iiiiii)i"),
    REFUSED(path_remove_directory, fd_other, "(iii)i"),
    REFUSED(path_rename, fd_other, "(iiiiii)i"),
    REFUSED(path_symlink, not_supported, "(iiiii)i"),
    REFUSED(path_unlink_file, fd_other, "(iii)i"),
    REFUSED(poll_oneoff, not_supported, "(iiii)i"),
    REFUSED(proc_raise, not_supported, "(i)i"),
    REFUSED(sock_accept, fd_other, "(iii)i"),
    REFUSED(sock_recv, fd_other, "(iiiiii)i"),
    REFUSED(sock_send, fd_other, "(iiiii)i"),
    REFUSED(sock_shutdown, fd_other, "(ii)i"),
};

static bool offered(const char *module, const char *name) {
    bool wasi = strcmp(module, "wasi_snapshot_preview1") == 0;
    const NativeSymbol *symbols = wasi ? wasi_symbols : env_symbols;
    size_t count = wasi ? sizeof wasi_symbols / sizeof *wasi_symbols : sizeof env_symbols / sizeof *env_symbols;
    if (!wasi && strcmp(module, "env") != 0) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(symbols[i].symbol, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Every import is a function of ours with its right type. */
static bool check_imports(run_t *run) {
    int32_t count = wasm_runtime_get_import_count(run->module);
    for (int32_t i = 0; i < count; i++) {
        wasm_import_t import;
        wasm_runtime_get_import_type(run->module, i, &import);
        if (import.kind == WASM_IMPORT_EXPORT_KIND_FUNC && import.linked) {
            continue;
        }
        char what[128];
        snprintf(what, sizeof what, "%s.%s", import.module_name, import.name);
        return offered(import.module_name, import.name)
                   ? fail(run, RAN_INVALID, "an import has a wrong type: ", what)
                   : fail(run, RAN_DENIED, "no guest is given the import ", what);
    }
    return true;
}

/* --- ports of the guest ------------------------------------------------------------------------------------ */

static uint8_t *linear(wasm_module_inst_t instance, uint64_t *size) {
    wasm_memory_inst_t memory = wasm_runtime_get_default_memory(instance);
    if (memory == NULL) {
        *size = 0;
        return NULL;
    }
    *size = wasm_memory_get_cur_page_count(memory) * wasm_memory_get_bytes_per_page(memory);
    return wasm_memory_get_base_address(memory);
}

static uint8_t *port_memory(void *to, uint64_t *size) { return linear(((run_t *)to)->instance, size); }

static uint32_t port_malloc(void *to, uint32_t size) {
    run_t *run = to;
    uint32_t cells[1] = {size};
    if (run->malloc == NULL || !wasm_runtime_call_wasm(run->thread, run->malloc, 1, cells)) {
        return 0;
    }
    return cells[0];
}

/* The guest's `malloc`, if it has one of the right type. */
static wasm_function_inst_t find_malloc(wasm_module_inst_t instance) {
    wasm_function_inst_t found = wasm_runtime_lookup_function(instance, "malloc");
    wasm_valkind_t takes[1], gives[1];
    if (found == NULL || wasm_func_get_param_count(found, instance) != 1 ||
        wasm_func_get_result_count(found, instance) != 1) {
        return NULL;
    }
    wasm_func_get_param_types(found, instance, takes);
    wasm_func_get_result_types(found, instance, gives);
    return takes[0] == WASM_I32 && gives[0] == WASM_I32 ? found : NULL;
}

static void growth_refused(uint32_t inc_page_count, uint64_t current_memory_size, uint32_t memory_index,
                           enlarge_memory_error_reason_t failure_reason, wasm_module_inst_t instance,
                           wasm_exec_env_t exec_env, void *user_data) {
    (void)inc_page_count, (void)current_memory_size, (void)memory_index, (void)failure_reason, (void)instance,
        (void)exec_env;
    ((run_t *)user_data)->refused = true;
}

/* --- entry ------------------------------------------------------------------------------------------------- */

static bool may_be_entry(const char *name) {
    return name[0] != 0 && strcmp(name, "_start") != 0 && strcmp(name, "_initialize") != 0 &&
           strncmp(name, "fl-round-", 9) != 0;
}

static wasm_function_inst_t find_entry(run_t *run, bool *command) {
    static const char *const names[] = {"_start", "main", "run"};
    wasm_function_inst_t found = NULL;
    *command = false;
    if (may_be_entry(run->job->name)) {
        found = wasm_runtime_lookup_function(run->instance, run->job->name);
    }
    for (size_t i = 0; found == NULL && i < sizeof names / sizeof *names; i++) {
        found = wasm_runtime_lookup_function(run->instance, names[i]);
        *command = found != NULL && i == 0;
    }
    return found;
}

/* A whole number with a sign and a base of its own, within the width. */
static bool whole(const char *text, int bits, uint64_t *value) {
    bool negative = *text == '-';
    text += negative || *text == '+';
    int base = 10;
    if (text[0] == '0' && text[1] != 0) {
        char c = (char)(text[1] | 0x20);
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        text += base == 0 ? 0 : 2;
        base = base == 0 ? 10 : base;
    }
    uint64_t most = bits == 32 ? UINT32_MAX : UINT64_MAX, sum = 0;
    if (*text == 0) {
        return false;
    }
    for (; *text != 0; text++) {
        char c = (char)(*text | 0x20);
        int digit = *text >= '0' && *text <= '9' ? *text - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (digit >= base || sum > (most - (uint64_t)digit) / (uint64_t)base) {
            return false;
        }
        sum = sum * (uint64_t)base + (uint64_t)digit;
    }
    if (negative && sum > most / 2 + 1) {
        return false;
    }
    *value = negative ? 0 - sum : sum;
    return true;
}

/* One input as cells of the call. Floating point needs `strtod`, which small C libraries lack: refused. */
static bool put_input(const char *text, wasm_valkind_t kind, uint32_t *cells, uint32_t *count) {
    uint64_t value;
    if ((kind != WASM_I32 && kind != WASM_I64) || !whole(text, kind == WASM_I32 ? 32 : 64, &value)) {
        return false;
    }
    cells[(*count)++] = (uint32_t)value;
    if (kind == WASM_I64) {
        cells[(*count)++] = (uint32_t)(value >> 32);
    }
    return true;
}

static bool read_inputs(run_t *run, wasm_function_inst_t entry, uint32_t cells[2 * ARGUMENTS_MAX], uint32_t *count) {
    wasm_valkind_t kinds[ARGUMENTS_MAX];
    uint32_t wanted = wasm_func_get_param_count(entry, run->instance), given = 0;
    char word[64];
    json_t json;
    if (wanted > ARGUMENTS_MAX) {
        return fail(run, RAN_INVALID, "the entry has too many parameters", "");
    }
    wasm_func_get_param_types(entry, run->instance, kinds);
    if (run->job->inputs.at != NULL) {
        json_open(&json, run->job->inputs);
        for (json_array(&json); json_item(&json); given++) {
            if (!json_word_or_number(&json, word, sizeof word) || given >= wanted || !put_input(word, kinds[given], cells, count)) {
                return fail(run, RAN_INVALID, "the inputs do not fit the entry's parameters", "");
            }
        }
    }
    return given == wanted || fail(run, RAN_INVALID, "the inputs do not fit the entry's parameters", "");
}

static void put_value(run_t *run, wasm_function_inst_t entry, const uint32_t *cells) {
    wasm_valkind_t kinds[ARGUMENTS_MAX];
    uint32_t count = wasm_func_get_result_count(entry, run->instance);
    if (count == 0 || count > ARGUMENTS_MAX) {
        return;
    }
    wasm_func_get_result_types(entry, run->instance, kinds);
    if (kinds[0] == WASM_I32) {
        snprintf(run->ended->value, sizeof run->ended->value, "%" PRId32, (int32_t)cells[0]);
        run->ended->has_value = true;
    } else if (kinds[0] == WASM_I64) {
        uint64_t value = (uint64_t)cells[1] << 32 | cells[0];
        bool negative = value >> 63 != 0;
        char buffer[24];
        text_t text;
        text_open(&text, buffer, sizeof buffer);
        if (negative) {
            text_char(&text, '-');
        }
        text_unsigned(&text, negative ? 0 - value : value);
        memcpy(run->ended->value, buffer, text.length + 1);
        run->ended->has_value = true;
    }
}

/* --- the run ----------------------------------------------------------------------------------------------- */

/* What an exception means; none is success. */
static void judge(run_t *run) {
    const char *exception = wasm_runtime_get_exception(run->instance);
    guest_t *guest = run->guest;
    if (guest->exited && guest->status == 0) {
        run->ended->ran = RAN_WELL;
        return;
    }
    if (exception == NULL && !guest->exited) {
        return;
    }
    if (strncmp(exception == NULL ? "" : exception, "Exception: ", 11) == 0) {
        exception += 11;
    }
    if (now.stopping) {
        fail(run, RAN_STOPPED, "stopped", "");
    } else if (guest->output_full) {
        fail(run, RAN_OUTPUT, "too much standard output", "");
    } else if (run->refused) {
        fail(run, RAN_MEMORY, "memory was refused, then: ", guest->exited ? "the guest exited" : exception);
    } else if (guest->exited) {
        char status[16];
        snprintf(status, sizeof status, "%" PRIu32, guest->status);
        fail(run, RAN_EXIT, "the guest exited with status ", status);
    } else if (strstr(exception, "stack overflow") != NULL) {
        fail(run, RAN_STACK, exception, "");
    } else if (strstr(exception, "allocate memory") != NULL) {
        fail(run, RAN_MEMORY, exception, "");
    } else {
        fail(run, RAN_TRAP, exception, "");
    }
}

static void call(run_t *run) {
    uint32_t cells[2 * ARGUMENTS_MAX] = {0}, count = 0;
    bool command;
    wasm_function_inst_t entry = find_entry(run, &command);
    if (entry == NULL) {
        fail(run, RAN_INVALID, "the module has no entry: neither the task's name nor _start, main or run", "");
        return;
    }
    wasm_function_inst_t initialize = command ? NULL : wasm_runtime_lookup_function(run->instance, "_initialize");
    bool ready = command ? true : read_inputs(run, entry, cells, &count);
    if (!ready) {
        return;
    }
    bool well = initialize == NULL || wasm_runtime_call_wasm(run->thread, initialize, 0, NULL);
    well = well && wasm_runtime_call_wasm(run->thread, entry, count, cells);
    judge(run);
    if (well && !command) {
        put_value(run, entry, cells);
    }
}

static void set_instance(wasm_module_inst_t instance) {
    os_mutex_lock(&now.lock);
    now.instance = instance;
    bool stop = instance != NULL && now.stopping;
    os_mutex_unlock(&now.lock);
    if (stop) {
        wasm_runtime_terminate(instance);
    }
}

void wamr_stop(void) {
    if (!now.has_lock) {
        return;
    }
    os_mutex_lock(&now.lock);
    now.stopping = true;
    if (now.instance != NULL) {
        wasm_runtime_terminate(now.instance);
    }
    os_mutex_unlock(&now.lock);
}

static void run_instance(run_t *run, void (*begun)(void *to), void *to) {
    char why[128] = "";
    InstantiationArgs args = {
        .default_stack_size = (uint32_t)run->job->stack,
        .max_memory_pages = (uint32_t)(run->job->memory_most / PAGE),
    };
    run->instance = wasm_runtime_instantiate_ex(run->module, &args, why, sizeof why);
    if (run->instance == NULL) {
        fail(run, strstr(why, "memory") != NULL ? RAN_MEMORY : strstr(why, "unreachable") != NULL ? RAN_TRAP : RAN_INVALID,
             why, "");
        return;
    }
    run->thread = wasm_runtime_create_exec_env(run->instance, (uint32_t)run->job->stack);
    if (run->thread == NULL) {
        fail(run, RAN_MEMORY, "no memory for the guest's stack", "");
    } else {
        wasm_runtime_set_custom_data(run->instance, run);
        run->malloc = find_malloc(run->instance);
        set_instance(run->instance);
        begun(to);
        call(run);
        set_instance(NULL);
        uint64_t size;
        linear(run->instance, &size);
        run->ended->memory_bytes = (size_t)size;
        wasm_runtime_destroy_exec_env(run->thread);
    }
    wasm_runtime_deinstantiate(run->instance);
}

static void run_module(run_t *run, void (*begun)(void *to), void *to) {
    char why[128] = "";
    run->module = wasm_runtime_load(run->job->module, (uint32_t)run->job->module_length, why, sizeof why);
    if (run->module == NULL) {
        fail(run, strstr(why, "allocate memory") != NULL ? RAN_MEMORY : RAN_INVALID, why, "");
        return;
    }
    if (check_imports(run)) {
        run_instance(run, begun, to);
    }
    wasm_runtime_unload(run->module);
}

static bool set_up(const wamr_job_t *job) {
    /* Not a pool of the runtime's own: it clears all of one for every guest. */
    RuntimeInitArgs args = {.mem_alloc_type = Alloc_With_Allocator, .max_thread_num = 1};
    args.mem_alloc_option.allocator.malloc_func = (void *)job->alloc;
    args.mem_alloc_option.allocator.realloc_func = (void *)job->realloc;
    args.mem_alloc_option.allocator.free_func = (void *)job->free;
    if (!wasm_runtime_full_init(&args)) {
        return false;
    }
    wasm_runtime_set_log_level(WASM_LOG_LEVEL_FATAL);
    return wasm_runtime_register_natives("env", env_symbols, sizeof env_symbols / sizeof *env_symbols) &&
           wasm_runtime_register_natives("wasi_snapshot_preview1", wasi_symbols,
                                         sizeof wasi_symbols / sizeof *wasi_symbols);
}

void wamr_run(const wamr_job_t *job, guest_t *guest, wamr_ended_t *ended, void (*begun)(void *to), void *to) {
    run_t run = {.job = job, .guest = guest, .ended = ended};
    memset(ended, 0, sizeof *ended);
    if (!now.has_lock) {
        os_mutex_init(&now.lock);
        now.has_lock = true;
    }
    now.stopping = false;
    guest->ports.to = &run;
    guest->ports.memory = port_memory;
    guest->ports.malloc = port_malloc;
    if (!is_wasm((span_t){(const char *)job->module, job->module_length})) {
        fail(&run, RAN_INVALID, "the module is no core Wasm module", "");
        return;
    }
    if (set_up(job)) {
        wasm_runtime_set_enlarge_mem_error_callback(growth_refused, &run);
        run_module(&run, begun, to);
    } else {
        fail(&run, RAN_MEMORY, "there is no memory for the runtime", "");
    }
    wasm_runtime_destroy();
}
