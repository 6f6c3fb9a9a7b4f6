/* SHA-256: see digest.h. The names of the variables are those of FIPS 180-4, section 6.2. */
#include "digest.h"

#include <string.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void schedule(uint32_t W[64], const uint8_t block[64]) {
    for (int t = 0; t < 16; t++) {
        const uint8_t *at = block + 4 * t;
        W[t] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t low = rotate(W[t - 15], 7) ^ rotate(W[t - 15], 18) ^ W[t - 15] >> 3;
        uint32_t high = rotate(W[t - 2], 17) ^ rotate(W[t - 2], 19) ^ W[t - 2] >> 10;
        W[t] = high + W[t - 7] + low + W[t - 16];
    }
}

static void compress(uint32_t H[8], const uint8_t block[64]) {
    uint32_t W[64], v[8];
    schedule(W, block);
    memcpy(v, H, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t a = v[0], e = v[4];
        uint32_t T1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + K[t] + W[t];
        uint32_t T2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += T1;
        v[0] = T1 + T2;
    }
    for (int i = 0; i < 8; i++) {
        H[i] += v[i];
    }
}

/* What follows the last whole block: the rest, a one bit, zeros, the length in bits. */
static void finish(uint32_t H[8], const uint8_t *rest, size_t left, uint64_t length) {
    uint8_t block[128] = {0};
    size_t blocks = left < 56 ? 1 : 2;
    if (left > 0) {
        memcpy(block, rest, left);
    }
    block[left] = 0x80;
    for (int i = 0; i < 8; i++) {
        block[64 * blocks - 1 - (size_t)i] = (uint8_t)(length * 8 >> (8 * i));
    }
    for (size_t i = 0; i < blocks; i++) {
        compress(H, block + 64 * i);
    }
}

void sha256_hex(const void *content, size_t length, char hex[DIGEST_HEX_CHARS + 1]) {
    static const char digits[] = "0123456789abcdef";
    uint32_t H[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *at = content;
    size_t left = length;
    for (; left >= 64; left -= 64, at += 64) {
        compress(H, at);
    }
    finish(H, at, left, length);
    for (int i = 0; i < 64; i++) {
        hex[i] = digits[H[i / 8] >> (28 - 4 * (i % 8)) & 15];
    }
    hex[64] = 0;
}
