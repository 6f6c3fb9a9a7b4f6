/* Modules: see image.h. */
#include "image.h"

#include <string.h>

#include "base64.h"

bool is_wasm(span_t content) { return content.length >= 8 && memcmp(content.at, "\0asm\1\0\0\0", 8) == 0; }

bool image_parse(span_t reference, image_t *image) {
    if (span_begins(reference, "oci://")) {
        reference = span_from(reference, sizeof "oci://" - 1);
    }
    size_t slash = span_find(reference, '/');
    image->registry = (span_t){reference.at, slash};
    span_t rest = span_from(reference, slash + 1);
    size_t at = span_find(rest, '@');
    image->reference = span_from(rest, at + 1);
    rest.length = at;
    size_t colon = span_find_last(rest, ':');
    if (image->reference.length == 0) {
        image->reference = colon < rest.length ? span_from(rest, colon + 1) : SPAN("latest");
    }
    image->repository = (span_t){rest.at, colon};
    return image->registry.length > 0 && image->repository.length > 0 && image->reference.length > 0;
}

static void path_of(const image_t *image, const char *kind, span_t reference, text_t *path) {
    text_add(path, "/v2/");
    text_put(path, image->repository);
    text_add(path, kind);
    text_put(path, reference);
}

void image_manifest_path(const image_t *image, span_t reference, text_t *path) {
    path_of(image, "/manifests/", reference, path);
}

void image_blob_path(const image_t *image, span_t digest, text_t *path) { path_of(image, "/blobs/", digest, path); }

/* How likely a layer is the module: larger is better, 0 is no layer. */
static uint64_t worth(span_t layer) {
    char text[128];
    span_t raw;
    text_t value;
    uint64_t size = 1;
    json_t json;
    if (json_member(layer, "size", &raw)) {
        json_open(&json, raw);
        json_unsigned(&json, 1ull << 40, &size);
    }
    text_open(&value, text, sizeof text);
    if (json_member(layer, "mediaType", &raw) && json_decode_string(raw, &value) && strstr(text, "wasm") != NULL) {
        return (2ull << 41) + size;
    }
    text_open(&value, text, sizeof text);
    if (json_member(layer, "annotations", &raw) && json_member(raw, "org.opencontainers.image.title", &raw) &&
        json_decode_string(raw, &value) && value.length >= 5 && strcmp(text + value.length - 5, ".wasm") == 0) {
        return (1ull << 41) + size;
    }
    return size;
}

static bool best_of(span_t list, bool first, text_t *digest) {
    json_t json;
    span_t one, raw, found = {0};
    uint64_t best = 0;
    json_open(&json, list);
    for (json_array(&json); json_item(&json) && json_raw(&json, &one);) {
        uint64_t value = first ? 1 : worth(one);
        if (value > best && json_member(one, "digest", &raw)) {
            best = value;
            found = raw;
        }
    }
    return json.error == NULL && json_decode_string(found, digest) && !digest->overflow;
}

bool manifest_layer(span_t manifest, text_t *digest, bool *nested) {
    span_t list;
    *nested = json_member(manifest, "manifests", &list);
    return *nested ? best_of(list, true, digest) : json_member(manifest, "layers", &list) && best_of(list, false, digest);
}

/* --- chunks ---------------------------------------------------------------------------------------------- */

void assembly_open(assembly_t *assembly, span_t app, size_t most, void *(*alloc)(void *, size_t),
                   void (*free)(void *, void *), void *to) {
    memset(assembly, 0, sizeof *assembly);
    span_copy(app, assembly->app, sizeof assembly->app);
    assembly->most = most;
    assembly->alloc = alloc;
    assembly->free = free;
    assembly->to = to;
}

const char *assembly_take(assembly_t *assembly, const chunk_t *chunk) {
    if (strcmp(chunk->app, assembly->app) != 0) {
        return NULL;
    }
    if (chunk->count > ASSEMBLY_CHUNKS_MAX) {
        return "the image has too many chunks";
    }
    if (assembly->count != 0 && chunk->count != assembly->count) {
        return "the chunks of the image do not agree on their number";
    }
    if (assembly->pieces[chunk->index] != NULL) {
        return NULL;
    }
    size_t room = base64_room(chunk->data.length), length;
    char *piece = room > assembly->most ? NULL : assembly->alloc(assembly->to, room);
    if (piece == NULL) {
        return "the image is larger than this device's memory";
    }
    if (!base64_decode_json(chunk->data, (uint8_t *)piece, &length) || length > assembly->most - assembly->total) {
        assembly->free(assembly->to, piece);
        return "a chunk of the image is not base64 or too large";
    }
    assembly->count = chunk->count;
    assembly->pieces[chunk->index] = piece;
    assembly->lengths[chunk->index] = length;
    assembly->total += length;
    assembly->arrived++;
    return NULL;
}

bool assembly_whole(const assembly_t *assembly) { return assembly->count > 0 && assembly->arrived == assembly->count; }

char *assembly_join(assembly_t *assembly, size_t *length) {
    char *whole = assembly->alloc(assembly->to, assembly->total + 1);
    *length = 0;
    for (uint64_t i = 0; whole != NULL && i < assembly->count; i++) {
        memcpy(whole + *length, assembly->pieces[i], assembly->lengths[i]);
        *length += assembly->lengths[i];
    }
    assembly_drop(assembly);
    return whole;
}

void assembly_drop(assembly_t *assembly) {
    for (size_t i = 0; i < ASSEMBLY_CHUNKS_MAX; i++) {
        if (assembly->pieces[i] != NULL) {
            assembly->free(assembly->to, assembly->pieces[i]);
            assembly->pieces[i] = NULL;
        }
    }
    assembly->count = assembly->arrived = 0;
    assembly->total = 0;
}
