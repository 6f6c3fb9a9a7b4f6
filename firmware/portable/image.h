/* Where a module comes from: an image reference taken apart, a manifest read, a set of chunks put together. Fetches
 * nothing. */
#ifndef PROPELLER_IMAGE_H
#define PROPELLER_IMAGE_H

#include "messages.h"
#include "web.h"

/* `host[:port]/repository[:tag][@sha256:…]`, `oci://` before it or not. */
typedef struct {
    span_t registry, repository, reference; /* reference: the digest if there is one, else the tag, else `latest` */
} image_t;

bool image_parse(span_t reference, image_t *image);
void image_manifest_path(const image_t *image, span_t reference, text_t *path);
void image_blob_path(const image_t *image, span_t digest, text_t *path);

/* The digest of the layer that holds the module: of Wasm's media type, else named `*.wasm`, else the largest. If the
 * manifest is an index, `*nested` is set and the digest is that of its first manifest. */
bool manifest_layer(span_t manifest, text_t *digest, bool *nested);

bool is_wasm(span_t content);

/* Modules arrive in pieces of any order and number of repetitions. Memory comes from outside and belongs to the
 * assembly until it is whole or dropped. */
enum { ASSEMBLY_CHUNKS_MAX = 256 };

typedef struct {
    char app[256];
    uint64_t count;
    uint64_t arrived;
    char *pieces[ASSEMBLY_CHUNKS_MAX];
    size_t lengths[ASSEMBLY_CHUNKS_MAX];
    size_t total, most;
    void *(*alloc)(void *to, size_t size);
    void (*free)(void *to, void *block);
    void *to;
} assembly_t;

void assembly_open(assembly_t *assembly, span_t app, size_t most, void *(*alloc)(void *, size_t),
                   void (*free)(void *, void *), void *to);
/* NULL: taken, or it was here already, or of another image. Else why the assembly cannot become whole. */
const char *assembly_take(assembly_t *assembly, const chunk_t *chunk);
bool assembly_whole(const assembly_t *assembly);
/* The whole module in one block from `alloc`, or NULL without memory. The pieces are freed as they are copied. */
char *assembly_join(assembly_t *assembly, size_t *length);
void assembly_drop(assembly_t *assembly);

#endif
