/* Clearing and copying that write nothing where nothing changes: see sparse.h. */
#include "sparse.h"

#include <stdint.h>
#include <string.h>

enum { LARGE_BYTES = 4096, WORD_BYTES = sizeof(uint32_t) }; /* a page: with less there is nothing to be won */

/* Bytes before the first whole word at or after `at`. */
static size_t head_of(const void *at) { return (size_t)(-(uintptr_t)at % WORD_BYTES); }

void *sparse_memset(void *at, int value, size_t size) {
    if (value != 0 || size < LARGE_BYTES) {
        return memset(at, value, size);
    }
    size_t head = head_of(at), words = (size - head) / WORD_BYTES;
    memset(at, 0, head);
    uint32_t *word = (uint32_t *)((uint8_t *)at + head);
    for (size_t i = 0; i < words; i++) {
        if (word[i] != 0) {
            word[i] = 0;
        }
    }
    memset(word + words, 0, size - head - words * WORD_BYTES);
    return at;
}

void *sparse_memcpy(void *restrict to, const void *restrict from, size_t size) {
    if (size < LARGE_BYTES || head_of(to) != head_of(from)) {
        return memcpy(to, from, size);
    }
    size_t head = head_of(to), words = (size - head) / WORD_BYTES, done = head + words * WORD_BYTES;
    memcpy(to, from, head);
    uint32_t *into = (uint32_t *)((uint8_t *)to + head);
    const uint32_t *word = (const uint32_t *)((const uint8_t *)from + head);
    for (size_t i = 0; i < words; i++) {
        if (into[i] != word[i]) {
            into[i] = word[i];
        }
    }
    memcpy((uint8_t *)to + done, (const uint8_t *)from + done, size - done);
    return to;
}
