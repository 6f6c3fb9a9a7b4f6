/* Runs one guest to its end on WAMR, on the caller's thread. Knows no network, no messages and no operating system. */
#ifndef PROPELLER_WAMR_GUEST_H
#define PROPELLER_WAMR_GUEST_H

#include "guest.h"

/* The kinds of failure that the wire names; `RAN_WELL` is none. */
typedef enum { RAN_WELL, RAN_INVALID, RAN_TRAP, RAN_EXIT, RAN_MEMORY, RAN_STACK, RAN_OUTPUT, RAN_DENIED, RAN_STOPPED } ran_t;

typedef struct {
    uint8_t *module; /* changed while it is loaded; kept until the guest has ended */
    size_t module_length;
    const char *name;      /* the task's: an exported function of that name is entered */
    span_t inputs;         /* raw JSON array of strings and numbers, or empty */
    /* Everything the runtime needs comes from here; the first two give NULL if there is no more. */
    void *(*alloc)(unsigned int size);
    void *(*realloc)(void *block, unsigned int size);
    void (*free)(void *block);
    size_t memory_most; /* linear memory, bytes */
    size_t stack;       /* of the interpreter, bytes */
} wamr_job_t;

typedef struct {
    ran_t ran;
    char error[192];
    char value[32]; /* the entry's first result as text; empty if there is none */
    bool has_value;
    size_t memory_bytes; /* linear memory at the end */
} wamr_ended_t;

void wamr_run(const wamr_job_t *job, guest_t *guest, wamr_ended_t *ended, void (*begun)(void *to), void *to);
/* End the guest that runs now, from another thread: it stops at its next branch. Nothing if there is none. */
void wamr_stop(void);
const char *ran_name(ran_t ran);

#endif
