/* Base64: see base64.h. */
#include "base64.h"

static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t base64_room(size_t chars) { return chars / 4 * 3 + 3; }

typedef struct {
    uint32_t bits;
    int count, padding;
    uint8_t *into;
    size_t length;
    bool bad;
} decoder_t;

static void feed(decoder_t *decoder, char c) {
    int value = c == '=' ? 0 : value_of(c);
    /* Padding ends everything, and stands only for the last one or two of four. */
    if (value < 0 || (decoder->padding > 0 && c != '=') || (c == '=' && decoder->count < 2) || decoder->padding == 3) {
        decoder->bad = true;
        return;
    }
    decoder->padding += c == '=';
    decoder->bits = decoder->bits << 6 | (uint32_t)value;
    if (++decoder->count < 4) {
        return;
    }
    for (int i = 0; i < 3 - decoder->padding; i++) {
        decoder->into[decoder->length++] = (uint8_t)(decoder->bits >> (16 - 8 * i));
    }
    decoder->count = 0;
    decoder->bits = 0;
    decoder->padding = decoder->padding > 0 ? 3 : 0;
}

static bool finish(const decoder_t *decoder, size_t *length) {
    *length = decoder->length;
    return !decoder->bad && decoder->count == 0;
}

bool base64_decode(span_t encoded, uint8_t *into, size_t *length) {
    decoder_t decoder = {.into = into};
    for (size_t i = 0; i < encoded.length && !decoder.bad; i++) {
        feed(&decoder, encoded.at[i]);
    }
    return finish(&decoder, length);
}

bool base64_decode_json(span_t raw, uint8_t *into, size_t *length) {
    decoder_t decoder = {.into = into};
    if (raw.length < 2 || raw.at[0] != '"') {
        return false;
    }
    for (size_t i = 1; i + 1 < raw.length && !decoder.bad; i++) {
        if (raw.at[i] == '\\' && raw.at[i + 1] == '/') {
            continue;
        }
        feed(&decoder, raw.at[i]);
    }
    return finish(&decoder, length);
}
