/* `memset` and `memcpy` that write nothing where nothing changes; WAMR's, on boards that an emulator makes.
 *
 * A guest's memory is cleared before it is its own and copied whenever it grows, and most of it is zero all the time.
 * Memory that an emulated board never wrote to is zero already and takes nothing of the host; so what is there is
 * looked at, and written only where it is to be something else. CMakeLists.txt gives WAMR these under their old names. */
#ifndef PROPELLER_SPARSE_H
#define PROPELLER_SPARSE_H

#include <stddef.h>

void *sparse_memset(void *at, int value, size_t size);
void *sparse_memcpy(void *restrict to, const void *restrict from, size_t size);

#endif
