/* From a start message to a guest that can run: module, environment, and for a training round model and data.
 *
 * What cannot be had fails the attempt with its reason; nothing is made up. */
#include "device.h"

#include <string.h>

#include <zephyr/logging/log.h>

#include "base64.h"
#include "digest.h"
#include "image.h"

LOG_MODULE_REGISTER(prepare, LOG_LEVEL_INF);

enum { CHUNK_WAIT_MS = 20000, MODEL_WAIT_MS = 3000, PATH_CHARS_MAX = 384 };

static const char MANIFESTS[] = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
                                "application/vnd.docker.distribution.manifest.v2+json";

/* A string of the start message, decoded. */
static bool word(span_t raw, char *into, size_t capacity)
{
    text_t text;

    text_open(&text, into, capacity);
    return json_decode_string(raw, &text) && !text.overflow;
}

static bool variable(const job_t *job, const char *name, char *into, size_t capacity)
{
    text_t text;

    text_open(&text, into, capacity);
    return start_env(&job->start, name, &text) && !text.overflow && text.length > 0;
}

/* --- HTTP -------------------------------------------------------------------------------------------------- */

static bool permitted(job_t *job, const origin_t *origin, const char *what)
{
    return origin_allowed(origin, me.config.allow, me.broker_ip) ||
           job_fail(job, "configuration", "%s is at %u.%u.%u.%u:%u, where this proplet may not go; see `set allow`", what,
                    origin->ip[0], origin->ip[1], origin->ip[2], origin->ip[3], origin->port);
}

/* GET, patiently; the body is the caller's. */
static bool get(job_t *job, const origin_t *origin, span_t path, const char *bearer, const char *accept,
                const char *failure, const char *what, fetched_t *got)
{
    fetch_patiently(origin, path, bearer, accept, job->deadline_ms, got);
    if (got->status == 200) {
        return true;
    }
    if (got->status == 0) {
        job_fail(job, failure, "%s: %s", what, got->error);
    } else {
        job_fail(job, failure, "%s: GET %.*s answered %d: %.*s", what, (int)path.length, path.at, got->status,
                 (int)MIN(got->length, 120), got->body);
    }
    heap_free(got->body);
    got->body = NULL;
    return false;
}

/* --- module ------------------------------------------------------------------------------------------------ */

static bool take_module(job_t *job, fetched_t *got)
{
    job->module = got->body;
    job->module_length = got->length;
    return true;
}

static bool by_reference(job_t *job)
{
    char url[URL_CHARS_MAX + 1], wanted[DIGEST_HEX_CHARS + 1], found[DIGEST_HEX_CHARS + 1];
    origin_t origin;
    span_t path;
    fetched_t got;

    if (!word(job->start.module_url, url, sizeof url) || !word(job->start.module_sha256, wanted, sizeof wanted) ||
        !url_parse(span_of(url), me.broker_ip, &origin, &path)) {
        return job_fail(job, "configuration", "the module's URL is none that this device can fetch");
    }
    if (!permitted(job, &origin, "the task's module") || !get(job, &origin, path, "", "", "image", "the module", &got)) {
        return false;
    }
    take_module(job, &got);
    sha256_hex(got.body, got.length, found);
    return strcmp(found, wanted) == 0 || job_fail(job, "image", "the module has sha256 %s, not %s", found, wanted);
}

static bool inline_file(job_t *job)
{
    job->module = heap_alloc(base64_room(job->start.file.length));
    if (job->module == NULL) {
        return job_fail(job, "memory", "no memory for the module");
    }
    return base64_decode_json(job->start.file, (uint8_t *)job->module, &job->module_length) ||
           job_fail(job, "image", "`file` of the task is not base64");
}

static bool by_url(job_t *job, const char *url)
{
    origin_t origin;
    span_t path;
    fetched_t got;

    if (!url_parse(span_of(url), me.broker_ip, &origin, &path)) {
        return job_fail(job, "configuration", "image_url %.80s is none that this device can fetch", url);
    }
    return permitted(job, &origin, "the image") && get(job, &origin, path, "", "", "image", "the image", &got) &&
           take_module(job, &got);
}

/* The digest of the module's layer, through an index if there is one. */
static bool find_layer(job_t *job, const image_t *image, const origin_t *origin, text_t *digest)
{
    char buffer[PATH_CHARS_MAX], reference[160];
    text_t path;
    fetched_t got;
    bool nested = true;

    span_copy(image->reference, reference, sizeof reference);
    for (int depth = 0; nested && depth < 2; depth++) {
        text_open(&path, buffer, sizeof buffer);
        image_manifest_path(image, span_of(reference), &path);
        if (path.overflow || !get(job, origin, text_span(&path), "", MANIFESTS, "image", "the manifest", &got)) {
            return path.overflow ? job_fail(job, "image", "the image's reference is too long") : false;
        }
        text_open(digest, digest->at, digest->capacity);
        bool found = manifest_layer((span_t){got.body, got.length}, digest, &nested);
        heap_free(got.body);
        if (!found) {
            return job_fail(job, "image", "the image's manifest names no layer with a module");
        }
        span_copy(text_span(digest), reference, sizeof reference);
    }
    return !nested || job_fail(job, "image", "the image is an index of indexes");
}

static bool from_registry(job_t *job, const image_t *image, const origin_t *origin)
{
    char buffer[PATH_CHARS_MAX], digest_text[160], found[sizeof "sha256:" + DIGEST_HEX_CHARS] = "sha256:";
    text_t path, digest = {.at = digest_text, .capacity = sizeof digest_text};
    fetched_t got;

    if (!permitted(job, origin, "the image") || !find_layer(job, image, origin, &digest)) {
        return false;
    }
    text_open(&path, buffer, sizeof buffer);
    image_blob_path(image, text_span(&digest), &path);
    if (!get(job, origin, text_span(&path), "", "", "image", "the image's layer", &got)) {
        return false;
    }
    take_module(job, &got);
    sha256_hex(got.body, got.length, found + sizeof "sha256:" - 1);
    return span_is(text_span(&digest), found) || job_fail(job, "image", "the layer is %s, not %s", found, digest.at);
}

static void *assembly_alloc(void *to, size_t size) { return heap_alloc(size); }
static void assembly_free(void *to, void *block) { heap_free(block); }

/* Ask on the broker, and put together what comes in any order. */
static bool by_chunks(job_t *job, const char *reference)
{
    static assembly_t assembly; /* large; only the worker uses it */
    char buffer[512];
    text_t wish;
    chunk_t chunk;
    size_t length;
    const char *wrong = NULL;

    assembly_open(&assembly, span_of(reference), CONFIG_PROPELLER_FETCH_BYTES_MAX, assembly_alloc, assembly_free, NULL);
    text_open(&wish, buffer, sizeof buffer);
    write_want_image(&wish, span_of(reference));
    while (wrong == NULL && !assembly_whole(&assembly)) {
        char *payload = NULL;

        if (assembly.arrived == 0 && !link_say(SAY_WANT_IMAGE, "", text_span(&wish))) {
            wrong = "there is no connection to ask for the image";
        } else {
            payload = work_await_content(HEAR_CHUNK, &length, CHUNK_WAIT_MS);
            wrong = payload == NULL ? "nobody sends the image's chunks" : read_chunk((span_t){payload, length}, &chunk);
        }
        wrong = wrong != NULL ? wrong : assembly_take(&assembly, &chunk);
        heap_free(payload);
    }
    job->module = wrong == NULL ? assembly_join(&assembly, &job->module_length) : NULL;
    assembly_drop(&assembly);
    return job->module != NULL || job_fail(job, "image", "%.80s: %s", reference, wrong == NULL ? "no memory" : wrong);
}

static bool by_image(job_t *job)
{
    char reference[URL_CHARS_MAX + 1];
    image_t image;
    origin_t origin;

    if (!word(job->start.image_url, reference, sizeof reference)) {
        return job_fail(job, "configuration", "image_url is too long for this device");
    }
    if (strncmp(reference, "http://", 7) == 0) {
        return by_url(job, reference);
    }
    /* A registry that is named by its address is asked itself; every other image comes through the broker. */
    if (image_parse(span_of(reference), &image) && origin_parse(image.registry, 5000, me.broker_ip, &origin)) {
        return from_registry(job, &image, &origin);
    }
    return by_chunks(job, reference);
}

static bool fetch_module(job_t *job)
{
    if (job->start.module_url.at != NULL) {
        return by_reference(job);
    }
    if (job->start.file.length > 2) {
        return inline_file(job);
    }
    return job->start.image_url.length > 2 ? by_image(job) : job_fail(job, "image", "the start message has no module");
}

/* --- a training round -------------------------------------------------------------------------------------- */

static bool check_round(job_t *job)
{
    char proplet[ID_CHARS_MAX + 2];

    if (!variable(job, "ROUND_ID", job->round, sizeof job->round) || !id_lawful(span_of(job->round))) {
        return job_fail(job, "configuration", "ROUND_ID is not an id");
    }
    if (!variable(job, "MODEL_URI", job->model_uri, sizeof job->model_uri)) {
        return job_fail(job, "configuration", "round %s needs MODEL_URI in the task's env", job->round);
    }
    if (variable(job, "PROPLET_ID", proplet, sizeof proplet) && strcmp(proplet, me.config.id) != 0) {
        return job_fail(job, "configuration", "the task's env names another PROPLET_ID; leave it out");
    }
    return true;
}

/* The service that the task names, else the one that this device was told. */
static bool service(job_t *job, const char *name, const char *own, origin_t *origin)
{
    char url[URL_CHARS_MAX];
    span_t path;

    if (!variable(job, name, url, sizeof url) && !span_copy(span_of(own), url, sizeof url)) {
        url[0] = 0;
    }
    if (!url_parse(span_of(url), me.broker_ip, origin, &path)) {
        return job_fail(job, "configuration", "no usable %s: set it in the task's env or on this device", name);
    }
    return permitted(job, origin, name);
}

/* The model as a retained message, where no registry can be reached. */
static bool model_by_mqtt(job_t *job, fetched_t *got)
{
    char buffer[TOPIC_CHARS_MAX];
    text_t topic;

    text_open(&topic, buffer, sizeof buffer);
    topic_of_model(&me.topics, span_of(job->model_uri), &topic);
    if (topic.overflow || !link_subscribe(topic.at)) {
        return false;
    }
    got->body = work_await_content(HEAR_MODEL, &got->length, MODEL_WAIT_MS);
    return got->body != NULL && json_valid((span_t){got->body, got->length});
}

static bool fetch_model(job_t *job, fetched_t *got)
{
    char buffer[PATH_CHARS_MAX];
    text_t path;
    origin_t origin;
    bool named = service(job, "MODEL_REGISTRY_URL", me.config.registry, &origin);

    text_open(&path, buffer, sizeof buffer);
    if (!model_path(span_of(job->model_uri), &path) || path.overflow) {
        return job_fail(job, "model", "MODEL_URI %.80s names no model version", job->model_uri);
    }
    if (named) {
        fetch(&origin, text_span(&path), "", "", got);
        if (got->status == 200) {
            return true;
        }
        heap_free(got->body);
        got->body = NULL;
    }
    if (model_by_mqtt(job, got)) {
        job->failure = NULL;
        return true;
    }
    heap_free(got->body);
    got->body = NULL;
    return named && get(job, &origin, text_span(&path), "", "", "model", "the model", got);
}

static bool fetch_data(job_t *job, fetched_t *got)
{
    char buffer[PATH_CHARS_MAX];
    text_t path;
    origin_t origin;

    text_open(&path, buffer, sizeof buffer);
    dataset_path(me.config.id, &path);
    return service(job, "DATA_STORE_URL", me.config.store, &origin) &&
           get(job, &origin, text_span(&path), me.config.key, "", "data", "the data set", got);
}

/* --- together ---------------------------------------------------------------------------------------------- */

static bool give_inputs(job_t *job, span_t model, span_t data)
{
    uint64_t asked = job->start.stdout_bytes;
    guest_ports_t ports = {.now_ns = device_now_ns, .random = device_random, .alloc = heap_alloc, .free = heap_free};

    guest_open(&job->guest, &ports, asked > 0 ? (size_t)MIN(asked, SIZE_MAX / 2) : CONFIG_PROPELLER_GUEST_STDOUT_BYTES);
    return (guest_environment(&job->guest, &job->start, me.config.id, model, data) &&
            guest_arguments(&job->guest, &job->start)) ||
           job_fail(job, "memory", "no memory for the guest's environment");
}

static bool prepare_round(job_t *job)
{
    fetched_t model = {0}, data = {0};
    bool well = check_round(job) && fetch_model(job, &model);

    well = well && fetch_data(job, &data);
    well = well && give_inputs(job, (span_t){model.body, model.length}, (span_t){data.body, data.length});
    heap_free(model.body);
    heap_free(data.body);
    return well;
}

bool job_prepare(job_t *job)
{
    if (read_start(job->message, &job->start) != NULL) {
        return job_fail(job, "internal", "the start message changed after it was accepted");
    }
    if (job->start.encrypted || job->start.latent) {
        return job_fail(job, "configuration", "this device runs neither encrypted nor latent tasks");
    }
    job->federated = start_federated(&job->start);
    return (job->federated ? prepare_round(job) : give_inputs(job, (span_t){0}, (span_t){0})) && fetch_module(job);
}
