/* As much of `wasi_snapshot_preview1` as a program without files needs: arguments, environment, clocks, randomness,
 * standard streams, exit. Everything else is refused with WASI's own error numbers. See guest.h. */
#include <string.h>

#include "guest.h"

enum { DONE = 0, E_BADF = 8, E_FAULT = 21, E_INVAL = 28, E_IO = 29, E_NOTSUP = 58, E_SPIPE = 70 };
enum { STDIN = 0, STDOUT = 1, STDERR = 2 };
enum { FILETYPE_CHARACTER_DEVICE = 2, RIGHT_FD_READ = 1 << 1, RIGHT_FD_WRITE = 1 << 6 };
enum { CLOCKS = 4 };
static const uint64_t CLOCK_RESOLUTION_NS = 1000000;

static uint8_t *range(const guest_t *guest, uint32_t at, uint64_t length) {
    uint64_t size;
    uint8_t *memory = guest->ports.memory(guest->ports.to, &size);
    return memory == NULL || length > size || at > size - length ? NULL : memory + at;
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t put(const guest_t *guest, uint32_t at, uint64_t value, int bytes) {
    uint8_t *into = range(guest, at, (uint64_t)bytes);
    for (int i = 0; into != NULL && i < bytes; i++) {
        into[i] = (uint8_t)(value >> (8 * i));
    }
    return into == NULL ? E_FAULT : DONE;
}

/* --- arguments and environment ----------------------------------------------------------------------------- */

static uint32_t sizes(const guest_t *guest, const strings_t *strings, uint32_t count_at, uint32_t size_at) {
    uint32_t wrong = put(guest, count_at, strings->count, 4);
    return wrong != DONE ? wrong : put(guest, size_at, strings->length, 4);
}

static uint32_t strings_get(const guest_t *guest, const strings_t *strings, uint32_t pointers_at, uint32_t strings_at) {
    uint8_t *pointers = range(guest, pointers_at, 4ull * strings->count);
    uint8_t *into = range(guest, strings_at, strings->length);
    if (pointers == NULL || into == NULL) {
        return E_FAULT;
    }
    if (strings->length > 0) {
        memcpy(into, strings->at, strings->length);
    }
    size_t from = 0;
    for (uint32_t i = 0; i < strings->count; i++) {
        put(guest, pointers_at + 4 * i, strings_at + from, 4);
        from += strlen(strings->at + from) + 1;
    }
    return DONE;
}

uint32_t wasi_args_sizes_get(guest_t *guest, uint32_t count_at, uint32_t size_at) {
    return sizes(guest, &guest->args, count_at, size_at);
}

uint32_t wasi_args_get(guest_t *guest, uint32_t pointers_at, uint32_t strings_at) {
    return strings_get(guest, &guest->args, pointers_at, strings_at);
}

uint32_t wasi_environ_sizes_get(guest_t *guest, uint32_t count_at, uint32_t size_at) {
    return sizes(guest, &guest->env, count_at, size_at);
}

uint32_t wasi_environ_get(guest_t *guest, uint32_t pointers_at, uint32_t strings_at) {
    return strings_get(guest, &guest->env, pointers_at, strings_at);
}

/* --- time and chance --------------------------------------------------------------------------------------- */

uint32_t wasi_clock_res_get(guest_t *guest, uint32_t clock, uint32_t result_at) {
    return clock >= CLOCKS ? E_INVAL : put(guest, result_at, CLOCK_RESOLUTION_NS, 8);
}

uint32_t wasi_clock_time_get(guest_t *guest, uint32_t clock, uint64_t precision, uint32_t result_at) {
    (void)precision;
    /* A device has no calendar: every clock counts from its reset. */
    return clock >= CLOCKS ? E_INVAL : put(guest, result_at, guest->ports.now_ns(), 8);
}

uint32_t wasi_random_get(guest_t *guest, uint32_t at, uint32_t length) {
    uint8_t *into = range(guest, at, length);
    return into == NULL ? E_FAULT : guest->ports.random(into, length) ? DONE : E_IO;
}

/* --- standard streams -------------------------------------------------------------------------------------- */

/* Room for `more` bytes of output, in steps that double. */
static bool output_room(guest_t *guest, size_t more) {
    size_t wanted = guest->output_length + more, room = guest->output_room == 0 ? 1024 : guest->output_room;
    if (more > guest->output_most - guest->output_length) {
        guest->output_full = true;
        return false;
    }
    while (room < wanted) {
        room *= 2;
    }
    if (room == guest->output_room) {
        return true;
    }
    char *larger = guest->ports.alloc(room);
    if (larger == NULL) {
        guest->output_full = true;
        return false;
    }
    if (guest->output != NULL) {
        memcpy(larger, guest->output, guest->output_length);
        guest->ports.free(guest->output);
    }
    guest->output = larger;
    guest->output_room = room;
    return true;
}

static bool write_output(guest_t *guest, const uint8_t *from, size_t length) {
    if (!output_room(guest, length)) {
        return false;
    }
    memcpy(guest->output + guest->output_length, from, length);
    guest->output_length += length;
    return true;
}

/* Keeps the end: what was first gives way. */
static void write_error(guest_t *guest, const uint8_t *from, size_t length) {
    size_t room = sizeof guest->standard_error;
    if (length > room) {
        from += length - room;
        length = room;
    }
    if (guest->standard_error_length + length > room) {
        size_t gone = guest->standard_error_length + length - room;
        memmove(guest->standard_error, guest->standard_error + gone, guest->standard_error_length - gone);
        guest->standard_error_length -= gone;
    }
    memcpy(guest->standard_error + guest->standard_error_length, from, length);
    guest->standard_error_length += length;
}

static uint32_t write_one(guest_t *guest, uint32_t fd, const uint8_t *vector, uint64_t *total) {
    uint32_t length = get_u32(vector + 4);
    const uint8_t *from = range(guest, get_u32(vector), length);
    if (from == NULL) {
        return E_FAULT;
    }
    if (fd == STDERR) {
        write_error(guest, from, length);
    } else if (!write_output(guest, from, length)) {
        return E_IO;
    }
    *total += length;
    return DONE;
}

uint32_t wasi_fd_write(guest_t *guest, uint32_t fd, uint32_t vectors_at, uint32_t count, uint32_t written_at) {
    const uint8_t *vectors = range(guest, vectors_at, 8ull * count);
    uint64_t total = 0;
    if (fd != STDOUT && fd != STDERR) {
        return E_BADF;
    }
    if (vectors == NULL) {
        return E_FAULT;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t wrong = write_one(guest, fd, vectors + 8ull * i, &total);
        if (wrong != DONE) {
            return wrong;
        }
    }
    return put(guest, written_at, total, 4);
}

uint32_t wasi_fd_read(guest_t *guest, uint32_t fd, uint32_t vectors_at, uint32_t count, uint32_t read_at) {
    (void)vectors_at, (void)count;
    /* Standard input is empty. */
    return fd == STDIN ? put(guest, read_at, 0, 4) : E_BADF;
}

uint32_t wasi_fd_fdstat_get(guest_t *guest, uint32_t fd, uint32_t result_at) {
    uint8_t *into = range(guest, result_at, 24);
    if (fd > STDERR) {
        return E_BADF;
    }
    if (into == NULL) {
        return E_FAULT;
    }
    memset(into, 0, 24);
    into[0] = FILETYPE_CHARACTER_DEVICE;
    into[8] = fd == STDIN ? RIGHT_FD_READ : RIGHT_FD_WRITE;
    return DONE;
}

uint32_t wasi_fd_other(guest_t *guest, uint32_t fd) {
    (void)guest;
    return fd > STDERR ? E_BADF : E_NOTSUP;
}

uint32_t wasi_fd_seek(guest_t *guest, uint32_t fd) {
    (void)guest;
    return fd > STDERR ? E_BADF : E_SPIPE;
}

uint32_t wasi_not_supported(void) { return E_NOTSUP; }

void wasi_proc_exit(guest_t *guest, uint32_t status) {
    guest->exited = true;
    guest->status = status;
}
