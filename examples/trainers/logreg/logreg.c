/* Logistic regression by mini-batch SGD, as a Wasm trainer for one round on one device; with FL_MODE=evaluate it
 * measures the model and leaves it as it is.
 *
 * Reads the environment ABI (docs/reference/guest-abi.md), trains the model it was given on the data it was
 * given, and prints one JSON update. Without a model or data, or when the two do not fit, it says so on standard
 * error and exits with 1: it never trains on anything made up. Its result is a function of its inputs and seed
 * alone, to the last bit. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { EPOCHS_MAX = 1000000, KEY_CHARS = 32 };

/* Beyond this the sigmoid differs from 0 or 1 by less than 2.1e-9, and exp needs no care. */
static const double LOGIT_MAX = 20.0;

typedef struct {
    double *values;
    size_t count, capacity;
} vector_t;

typedef struct {
    vector_t w;
    double b;
} model_t;

/* Row i is the w.count numbers x[i * w.count ...] with the label y[i]. */
typedef struct {
    vector_t x, y;
} data_t;

typedef struct {
    uint64_t epochs, batch_size, seed;
    double lr;
} hyperparams_t;

static _Noreturn void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("logreg: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static _Noreturn void die_at(const char *name, const json_t *json) {
    die("%s is malformed at byte %zu: %s", name, (size_t)(json->at - json->begin), json->error);
}

static const char *environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value != NULL && *value != 0 ? value : otherwise;
}

static const char *required(const char *name, const char *missing) {
    const char *value = environment(name, NULL);
    if (value == NULL) {
        die("%s is not set: %s", name, missing);
    }
    return value;
}

static void push(vector_t *vector, double value) {
    if (vector->count == vector->capacity) {
        size_t capacity = vector->capacity == 0 ? 64 : vector->capacity * 2;
        double *values = capacity > SIZE_MAX / sizeof *values ? NULL : realloc(vector->values, capacity * sizeof *values);
        if (values == NULL) {
            die("out of memory");
        }
        vector->values = values;
        vector->capacity = capacity;
    }
    vector->values[vector->count++] = value;
}

static bool read_numbers(json_t *json, vector_t *into) {
    double value;
    if (!json_array(json)) {
        return false;
    }
    while (json_item(json)) {
        if (!json_number(json, &value)) {
            return false;
        }
        push(into, value);
    }
    return json->error == NULL;
}

/* --- inputs ---------------------------------------------------------------------------------------------- */

static bool read_model_member(json_t *json, const char *key, model_t *model, bool *has_b) {
    if (strcmp(key, "w") == 0) {
        return model->w.count == 0 ? read_numbers(json, &model->w) : json_fail(json, "`w` is there twice");
    }
    if (strcmp(key, "b") == 0) {
        *has_b = true;
        return json_number(json, &model->b);
    }
    return json_skip(json);
}

static model_t read_model(const char *text) {
    model_t model = {0};
    bool has_b = false;
    char key[KEY_CHARS];
    json_t json;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        read_model_member(&json, key, &model, &has_b);
    }
    if (!json_close(&json)) {
        die_at("MODEL_DATA", &json);
    }
    if (model.w.count == 0 || !has_b) {
        die("MODEL_DATA holds no logistic regression: it needs numbers `w` (at least one) and `b`");
    }
    return model;
}

/* One row {"x": [...], "y": 0 or 1}; other members are passed over. */
static bool read_row(json_t *json, data_t *data, size_t features) {
    size_t before = data->x.count;
    double label = -1;
    char key[KEY_CHARS];
    for (json_object(json); json_key(json, key, sizeof key);) {
        if (strcmp(key, "x") == 0 && data->x.count == before) {
            read_numbers(json, &data->x);
        } else if (strcmp(key, "y") == 0) {
            json_number(json, &label);
        } else {
            json_skip(json);
        }
    }
    if (json->error != NULL) {
        return false;
    }
    if (data->x.count - before != features) {
        die("row %zu of DATASET_DATA has %zu features, the model has %zu", data->y.count, data->x.count - before,
            features);
    }
    if (label != 0 && label != 1) {
        die("row %zu of DATASET_DATA has no label `y` of 0 or 1", data->y.count);
    }
    push(&data->y, label);
    return true;
}

static bool read_rows(json_t *json, data_t *data, size_t features) {
    for (json_array(json); json_item(json);) {
        if (!read_row(json, data, features)) {
            return false;
        }
    }
    return json->error == NULL;
}

static data_t read_data(const char *text, size_t features) {
    data_t data = {0};
    double size = -1;
    char key[KEY_CHARS];
    json_t json;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "data") == 0 && data.y.count == 0) {
            read_rows(&json, &data, features);
        } else if (strcmp(key, "size") == 0) {
            json_number(&json, &size);
        } else {
            json_skip(&json);
        }
    }
    if (!json_close(&json)) {
        die_at("DATASET_DATA", &json);
    }
    if (data.y.count == 0) {
        die("DATASET_DATA has no rows to train on");
    }
    if (size >= 0 && size != (double)data.y.count) {
        die("DATASET_DATA is incomplete: its size is %g, its rows are %zu", size, data.y.count);
    }
    return data;
}

static bool read_hyperparam(json_t *json, const char *key, hyperparams_t *hyperparams) {
    if (strcmp(key, "epochs") == 0) {
        return json_whole(json, &hyperparams->epochs);
    }
    if (strcmp(key, "batch_size") == 0) {
        return json_whole(json, &hyperparams->batch_size);
    }
    if (strcmp(key, "seed") == 0) {
        return json_whole(json, &hyperparams->seed);
    }
    return strcmp(key, "lr") == 0 ? json_number(json, &hyperparams->lr) : json_skip(json);
}

static void read_seed(const char *text, uint64_t *seed) {
    json_t json;
    json_open(&json, text);
    json_whole(&json, seed);
    if (!json_close(&json)) {
        die_at("SEED", &json);
    }
}

static hyperparams_t read_hyperparams(const char *text, const char *seed) {
    hyperparams_t hyperparams = {.epochs = 1, .batch_size = 16, .seed = 0, .lr = 0.01};
    char key[KEY_CHARS];
    json_t json;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        read_hyperparam(&json, key, &hyperparams);
    }
    if (!json_close(&json)) {
        die_at("HYPERPARAMS", &json);
    }
    if (hyperparams.epochs < 1 || hyperparams.epochs > EPOCHS_MAX) {
        die("HYPERPARAMS: epochs is %" PRIu64 ", not from 1 to %d", hyperparams.epochs, EPOCHS_MAX);
    }
    if (hyperparams.batch_size < 1) {
        die("HYPERPARAMS: batch_size is 0");
    }
    if (!(hyperparams.lr > 0)) {
        die("HYPERPARAMS: lr is %g, not over 0", hyperparams.lr);
    }
    if (seed != NULL) {
        read_seed(seed, &hyperparams.seed);
    }
    return hyperparams;
}

/* --- training -------------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014): one 64-bit word of state, every seed as good as another. */
static uint64_t random_next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, bound): values of the last, incomplete interval are drawn again. */
static size_t random_below(uint64_t *state, size_t bound) {
    uint64_t usable = UINT64_MAX - UINT64_MAX % bound;
    uint64_t drawn;
    do {
        drawn = random_next(state);
    } while (drawn >= usable);
    return (size_t)(drawn % bound);
}

static void shuffle(size_t *order, size_t count, uint64_t *state) {
    for (size_t i = count; i > 1; i--) {
        size_t j = random_below(state, i);
        size_t swapped = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swapped;
    }
}

static double logit(const model_t *model, const double *x) {
    double z = model->b;
    for (size_t j = 0; j < model->w.count; j++) {
        z += model->w.values[j] * x[j];
    }
    return z < -LOGIT_MAX ? -LOGIT_MAX : z > LOGIT_MAX ? LOGIT_MAX : z;
}

/* One step along the mean gradient of the batch; `gradient` has room for w and b. */
static void step(model_t *model, const data_t *data, const size_t *batch, size_t count, double lr, double *gradient) {
    size_t features = model->w.count;
    memset(gradient, 0, (features + 1) * sizeof *gradient);
    for (size_t i = 0; i < count; i++) {
        const double *x = data->x.values + batch[i] * features;
        double error = 1 / (1 + exp(-logit(model, x))) - data->y.values[batch[i]];
        for (size_t j = 0; j < features; j++) {
            gradient[j] += error * x[j];
        }
        gradient[features] += error;
    }
    for (size_t j = 0; j < features; j++) {
        model->w.values[j] -= lr * (gradient[j] / (double)count);
    }
    model->b -= lr * (gradient[features] / (double)count);
}

static void train(model_t *model, const data_t *data, hyperparams_t hyperparams) {
    size_t rows = data->y.count;
    size_t batch_size = hyperparams.batch_size < rows ? (size_t)hyperparams.batch_size : rows;
    size_t *order = calloc(rows, sizeof *order);
    double *gradient = calloc(model->w.count + 1, sizeof *gradient);
    if (order == NULL || gradient == NULL) {
        die("out of memory");
    }
    for (size_t i = 0; i < rows; i++) {
        order[i] = i;
    }
    for (uint64_t epoch = 0; epoch < hyperparams.epochs; epoch++) {
        shuffle(order, rows, &hyperparams.seed);
        for (size_t begin = 0; begin < rows; begin += batch_size) {
            size_t left = rows - begin;
            step(model, data, order + begin, left < batch_size ? left : batch_size, hyperparams.lr, gradient);
        }
    }
    free(order);
    free(gradient);
}

/* The mean log loss log(1 + e^z) - yz, and the share of rows on the right side of one half. */
static double evaluate(const model_t *model, const data_t *data, double *accuracy) {
    double loss = 0;
    size_t right = 0;
    for (size_t i = 0; i < data->y.count; i++) {
        double z = logit(model, data->x.values + i * model->w.count);
        double y = data->y.values[i];
        loss += (z > 0 ? z : 0) - y * z + log1p(exp(-fabs(z)));
        right += (z >= 0) == (y == 1);
    }
    *accuracy = (double)right / (double)data->y.count;
    return loss / (double)data->y.count;
}

/* --- output ---------------------------------------------------------------------------------------------- */

static void require_finite(const model_t *model) {
    for (size_t j = 0; j < model->w.count; j++) {
        if (!isfinite(model->w.values[j])) {
            die("training diverged: w[%zu] is not finite; a smaller lr may help", j);
        }
    }
    if (!isfinite(model->b)) {
        die("training diverged: b is not finite; a smaller lr may help");
    }
}

static void print_string(const char *text) {
    putchar('"');
    for (; *text != 0; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void print_member(const char *name, const char *value) {
    printf("\"%s\":", name);
    print_string(value);
    putchar(',');
}

static void print_model(const model_t *model) {
    printf(",\"update\":{\"w\":[");
    for (size_t j = 0; j < model->w.count; j++) {
        printf(j == 0 ? "%.17g" : ",%.17g", model->w.values[j]);
    }
    printf("],\"b\":%.17g}", model->b);
}

static void print_result(const model_t *model, const data_t *data, const char *round_id, bool evaluates) {
    double accuracy;
    double loss = evaluate(model, data, &accuracy);
    if (!isfinite(loss)) {
        die("training diverged: the loss is not finite; a smaller lr may help");
    }
    putchar('{');
    print_member("round_id", round_id);
    print_member("proplet_id", environment("PROPLET_ID", "proplet-unknown"));
    print_member("base_model_uri", environment("MODEL_URI", ""));
    printf("\"num_samples\":%zu,\"metrics\":{\"loss\":%.17g,\"accuracy\":%.17g}", data->y.count, loss, accuracy);
    if (!evaluates) {
        print_model(model);
    }
    printf("}\n");
    if (fflush(stdout) != 0 || ferror(stdout)) {
        die("the update could not be written");
    }
}

int main(void) {
    const char *round_id = required("ROUND_ID", "this trainer runs as part of a round");
    hyperparams_t hyperparams = read_hyperparams(environment("HYPERPARAMS", "{}"), environment("SEED", NULL));
    model_t model = read_model(required("MODEL_DATA", "there is no model to train"));
    data_t data = read_data(required("DATASET_DATA", "there is no data to train on"), model.w.count);
    const char *mode = environment("FL_MODE", "train");
    bool evaluates = strcmp(mode, "evaluate") == 0;
    if (!evaluates && strcmp(mode, "train") != 0) {
        die("FL_MODE is %s; this trainer knows train and evaluate", mode);
    }
    if (!evaluates) {
        train(&model, &data, hyperparams);
    }
    require_finite(&model);
    print_result(&model, &data, round_id, evaluates);
    return 0;
}
