/* Base64 (RFC 4648, section 4), in which modules travel inside messages. */
#ifndef PROPELLER_BASE64_H
#define PROPELLER_BASE64_H

#include "text.h"

/* The most bytes that `chars` characters decode to. */
size_t base64_room(size_t chars);
/* Decode into `into` (base64_room bytes), which may begin where `encoded` does. Padding is required, as is a
 * canonical alphabet; nothing else may be among the characters. */
bool base64_decode(span_t encoded, uint8_t *into, size_t *length);
/* Decode a raw JSON string of base64, of which only \/ may be escaped; `into` may begin where it does. */
bool base64_decode_json(span_t raw, uint8_t *into, size_t *length);

#endif
