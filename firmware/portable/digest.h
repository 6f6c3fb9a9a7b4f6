/* SHA-256 (FIPS 180-4), by which modules are named. */
#ifndef PROPELLER_DIGEST_H
#define PROPELLER_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_HEX_CHARS = 64 };

/* The digest of `length` bytes as lower-case hexadecimal with a NUL. */
void sha256_hex(const void *content, size_t length, char hex[DIGEST_HEX_CHARS + 1]);

#endif
