/* What a guest sees of the world, and what it leaves behind: the ABIs of docs/reference/guest-abi.md without any
 * particular Wasm runtime.
 *
 * A runtime gives access to the guest's linear memory through `guest_ports_t` and calls the functions below from its
 * imports. Offsets and lengths come from the guest and are checked here, every time. */
#ifndef PROPELLER_GUEST_H
#define PROPELLER_GUEST_H

#include "messages.h"

typedef struct {
    /* The runtime's; it fills them in when it runs the guest. */
    void *to;
    /* The guest's linear memory as it is now; it may move at any call of `malloc`. */
    uint8_t *(*memory)(void *to, uint64_t *size);
    /* The guest's own exported `malloc`, or 0. */
    uint32_t (*malloc)(void *to, uint32_t size);

    /* The device's. */
    uint64_t (*now_ns)(void); /* of a clock that never goes back */
    bool (*random)(uint8_t *into, size_t length);
    void *(*alloc)(size_t size);
    void (*free)(void *block);
} guest_ports_t;

/* Strings one after the other, each with its NUL. */
typedef struct {
    char *at;
    size_t length;
    uint32_t count;
} strings_t;

enum { GUEST_STDERR_BYTES = 4096 };

typedef struct {
    guest_ports_t ports;
    strings_t env, args;
    size_t output_most; /* bytes of standard output; more fails the guest */
    char *output;
    size_t output_length, output_room;
    char *result; /* what put_result got last, or NULL */
    size_t result_length;
    char standard_error[GUEST_STDERR_BYTES]; /* the end of it */
    size_t standard_error_length;
    bool exited, output_full, in_malloc;
    uint32_t status;
} guest_t;

void guest_open(guest_t *guest, const guest_ports_t *ports, size_t output_most);
/* Frees what the guest was given and what it left behind. */
void guest_close(guest_t *guest);

/* The environment of a start message with what the device adds; `model` and `data` may be empty. False without
 * memory. What the task itself names goes before `PROPLET_ID` and `SEED`, not before model and data. */
bool guest_environment(guest_t *guest, const start_t *start, const char *proplet, span_t model, span_t data);
/* `guest` and the task's arguments. */
bool guest_arguments(guest_t *guest, const start_t *start);
bool guest_variable(const guest_t *guest, const char *name, span_t *value);

/* What counts as the result: what put_result got, else standard output. */
span_t guest_output(const guest_t *guest);

/* --- module `env`: 1 for done, 0 for not done ---------------------------------------------------------------- */
uint32_t guest_get(guest_t *guest, const char *variable, bool required, uint32_t offset_at, uint32_t length_at);
uint32_t guest_get_env(guest_t *guest, uint32_t name, uint32_t name_length, uint32_t offset_at, uint32_t length_at);
uint32_t guest_put_result(guest_t *guest, uint32_t at, uint32_t length);

/* --- module `wasi_snapshot_preview1`: WASI's error numbers --------------------------------------------------- */
uint32_t wasi_args_sizes_get(guest_t *guest, uint32_t count_at, uint32_t size_at);
uint32_t wasi_args_get(guest_t *guest, uint32_t pointers_at, uint32_t strings_at);
uint32_t wasi_environ_sizes_get(guest_t *guest, uint32_t count_at, uint32_t size_at);
uint32_t wasi_environ_get(guest_t *guest, uint32_t pointers_at, uint32_t strings_at);
uint32_t wasi_clock_res_get(guest_t *guest, uint32_t clock, uint32_t result_at);
uint32_t wasi_clock_time_get(guest_t *guest, uint32_t clock, uint64_t precision, uint32_t result_at);
uint32_t wasi_random_get(guest_t *guest, uint32_t at, uint32_t length);
uint32_t wasi_fd_write(guest_t *guest, uint32_t fd, uint32_t vectors_at, uint32_t count, uint32_t written_at);
uint32_t wasi_fd_read(guest_t *guest, uint32_t fd, uint32_t vectors_at, uint32_t count, uint32_t read_at);
uint32_t wasi_fd_fdstat_get(guest_t *guest, uint32_t fd, uint32_t result_at);
/* For every function on a file descriptor that a standard stream cannot do: wrong descriptor, or not supported. */
uint32_t wasi_fd_other(guest_t *guest, uint32_t fd);
uint32_t wasi_fd_seek(guest_t *guest, uint32_t fd);
uint32_t wasi_not_supported(void);
void wasi_proc_exit(guest_t *guest, uint32_t status);

#endif
