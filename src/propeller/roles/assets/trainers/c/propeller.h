/* The trainer kit: everything between the guest ABIs and a training loop, in one header for C17.
 *
 * Include it in one file. It finds the base model, the data set and the hyperparameters whichever way the host
 * gives them (files under /fl, else the environment; with PROPELLER_HOST_FUNCTIONS defined, the host functions of
 * module `env`), and sends the update back the same way. What is missing or malformed ends the guest with a
 * sentence on standard error and status 1: a trainer never trains on anything made up. docs/reference/guest-abi.md
 * is the ABI itself. Numbers are `real_t`: float, or double with PROPELLER_DOUBLE defined. It knows no algorithm. */
#ifndef PROPELLER_H
#define PROPELLER_H

#if defined PROPELLER_HOST_FUNCTIONS && !defined _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* open_memstream, for which this header must be the first */
#endif

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PROPELLER_DOUBLE
typedef double real_t;
#define PROPELLER_DIGITS "%.17g"
#define PROPELLER_DTYPE "F64"
#else
typedef float real_t;
#define PROPELLER_DIGITS "%.9g"
#define PROPELLER_DTYPE "F32"
#endif

/* A program need not use all of the kit. */
#define PROPELLER_FN __attribute__((unused)) static

enum {
    PROPELLER_NAME_CHARS = 128,
    PROPELLER_DIMS_MAX = 8,
    PROPELLER_HEADER_BYTES_MAX = 4 << 20,
    JSON_DEPTH_MAX = 64,
};

/* One named tensor, its elements in C order. */
typedef struct {
    char name[PROPELLER_NAME_CHARS + 1];
    size_t dims, shape[PROPELLER_DIMS_MAX], count;
    real_t *values;
} tensor_t;

typedef struct {
    tensor_t *tensors;
    size_t count;
} model_t;

/* Row i is the numbers x[i * features ...] with the label y[i]. */
typedef struct {
    size_t rows, features;
    real_t *x, *y;
} data_t;

typedef struct {
    const char *name;
    double value;
} metric_t;

/* --- ending ----------------------------------------------------------------------------------------------- */

/* Say why on standard error and end with status 1. */
PROPELLER_FN _Noreturn __attribute__((format(printf, 1, 2))) void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("trainer: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* Memory for `count` things of `size` bytes, all zero; never NULL. */
PROPELLER_FN void *allocate(size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        die("out of memory: %zu times %zu bytes", count, size);
    }
    return memory;
}

typedef struct {
    real_t *values;
    size_t count, capacity;
} vector_t;

PROPELLER_FN void push(vector_t *vector, double value) {
    if (vector->count == vector->capacity) {
        size_t capacity = vector->capacity == 0 ? 64 : vector->capacity + vector->capacity / 2;
        real_t *values = capacity > SIZE_MAX / sizeof *values ? NULL : realloc(vector->values, capacity * sizeof *values);
        if (values == NULL) {
            die("out of memory: %zu numbers", capacity);
        }
        vector->values = values;
        vector->capacity = capacity;
    }
    vector->values[vector->count++] = (real_t)value;
}

/* --- JSON: a cursor over one text that allocates nothing ---------------------------------------------------- */

/* It accepts exactly RFC 8259 (no NaN, no trailing commas), bounds nesting, and never reads past `end`. The first
 * thing that is not as expected sets `error` and stays; every call after it fails, so a caller may read a whole
 * shape and check once. */
typedef struct {
    const char *begin, *at, *end;
    const char *error; /* NULL, or what was wrong at `at` */
    bool first;        /* the next member or item is its container's first */
} json_t;

/* Record `error` unless there is one already; always false. */
PROPELLER_FN bool json_fail(json_t *json, const char *error) {
    if (json->error == NULL) {
        json->error = error;
    }
    return false;
}

/* Begin to read `text`, which must end with a NUL (numbers are converted in place). */
PROPELLER_FN void json_open(json_t *json, const char *text) {
    *json = (json_t){.begin = text, .at = text, .end = text + strlen(text)};
}

/* The next character that is no white space, 0 at the end or after an error. */
PROPELLER_FN char json_peek(json_t *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\t' || *json->at == '\r' || *json->at == '\n')) {
        json->at++;
    }
    return json->error == NULL && json->at < json->end ? *json->at : 0;
}

PROPELLER_FN bool json_take(json_t *json, char expected, const char *error) {
    if (json_peek(json) != expected) {
        return json_fail(json, error);
    }
    json->at++;
    return true;
}

/* Between the values of a container: true if another follows, false at its end, which is consumed. */
PROPELLER_FN bool json_another(json_t *json, char closing, const char *error) {
    bool first = json->first;
    json->first = false;
    char next = json_peek(json);
    if (next == closing) {
        json->at++;
        return false;
    }
    if (first) {
        return next != 0 || json_fail(json, error);
    }
    return json_take(json, ',', error);
}

PROPELLER_FN bool json_digits(json_t *json) {
    const char *begin = json->at;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        json->at++;
    }
    return json->at > begin || json_fail(json, "expected a digit");
}

PROPELLER_FN bool json_next_is(const json_t *json, char c) { return json->at < json->end && *json->at == c; }

/* One number by the grammar: strtod alone would also take hexadecimal, infinities and NaN. */
PROPELLER_FN bool json_scan_number(json_t *json) {
    char next = json_peek(json);
    if (next != '-' && !(next >= '0' && next <= '9')) {
        return json_fail(json, "expected a number");
    }
    json->at += next == '-';
    if (json_next_is(json, '0')) {
        json->at++;
    } else if (!json_digits(json)) {
        return false;
    }
    if (json_next_is(json, '.')) {
        json->at++;
        if (!json_digits(json)) {
            return false;
        }
    }
    if (json_next_is(json, 'e') || json_next_is(json, 'E')) {
        json->at++;
        json->at += json_next_is(json, '+') || json_next_is(json, '-');
        return json_digits(json);
    }
    return true;
}

PROPELLER_FN int json_hex(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character of an escape after its backslash; those outside ASCII become 0x7f, which no known key has. */
PROPELLER_FN int json_escape(json_t *json) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char name = json->at < json->end ? *json->at++ : 0;
    const char *found = name != 0 ? strchr(names, name) : NULL;
    if (found != NULL) {
        return values[found - names];
    }
    int code = 0, left = name == 'u' && json->end - json->at >= 4 ? 4 : 0;
    bool good = left > 0;
    for (; left > 0; left--) {
        int value = json_hex(*json->at++);
        good = good && value >= 0;
        code = code * 16 + value;
    }
    if (!good) {
        json_fail(json, "bad escape in a string");
        return -1;
    }
    return code < 0x7f ? code : 0x7f;
}

/* One string; its characters go to `text` if they fit, and `text` is empty if they do not. */
PROPELLER_FN bool json_string(json_t *json, char *text, size_t capacity) {
    size_t length = 0;
    if (!json_take(json, '"', "expected a string")) {
        return false;
    }
    while (json->at < json->end && *json->at != '"') {
        unsigned char c = (unsigned char)*json->at++;
        int value = c == '\\' ? json_escape(json) : c;
        if (value < 0 || c < 0x20) {
            return json_fail(json, "control character in a string");
        }
        if (length < capacity) {
            text[length] = (char)value;
        }
        length++;
    }
    if (capacity > 0) {
        text[length < capacity ? length : 0] = 0;
    }
    return json_take(json, '"', "a string without an end");
}

/* Enter an object; then `json_key` is true once per member, with its value next. Keys that do not fit in
 * `capacity` are given empty: no key that a caller knows is that long. */
PROPELLER_FN bool json_object(json_t *json) {
    json->first = json_take(json, '{', "expected an object");
    return json->first;
}

PROPELLER_FN bool json_key(json_t *json, char *key, size_t capacity) {
    return json_another(json, '}', "expected `,` or `}`") && json_string(json, key, capacity) &&
           json_take(json, ':', "expected `:`");
}

/* Enter an array; then `json_item` is true once per item, with the item next. */
PROPELLER_FN bool json_array(json_t *json) {
    json->first = json_take(json, '[', "expected an array");
    return json->first;
}

PROPELLER_FN bool json_item(json_t *json) { return json_another(json, ']', "expected `,` or `]`"); }

/* digits / 10^places, rightly rounded, for digits > 0 and places <= 27: 5^27 has 63 bits. Where both are doubles,
 * one division is that. Else the quotient is computed with at least 64 bits, of which 53 are kept by rounding half
 * to even; what was cut off and the remainder decide. */
PROPELLER_FN double json_quotient(uint64_t digits, unsigned places) {
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (digits >> 53 == 0 && places < sizeof powers / sizeof *powers) {
        return (double)digits / powers[places];
    }
    uint64_t divisor = 1;
    for (unsigned i = 0; i < places; i++) {
        divisor *= 5;
    }
    int zeros = __builtin_clzll(digits);
    unsigned __int128 dividend = (unsigned __int128)(digits << zeros) << 64, quotient = dividend / divisor;
    bool rest = quotient * divisor != dividend;
    uint64_t high = (uint64_t)(quotient >> 64);
    int cut = 75 - __builtin_clzll(high);
    uint64_t kept = (uint64_t)(quotient >> cut);
    unsigned __int128 lost = quotient & (((unsigned __int128)1 << cut) - 1), half = (unsigned __int128)1 << (cut - 1);
    kept += lost > half || (lost == half && (rest || (kept & 1) != 0));
    return ldexp((double)kept, cut - 64 - zeros - (int)places);
}

/* A scanned number's value. The C library's strtod works in 128-bit floats, which Wasm must emulate: it would take
 * nine tenths of a small round. Up to 19 digits with a fraction of up to 27 places are read here, others there. */
PROPELLER_FN double json_value(const char *begin, const char *end) {
    const char *c = begin + (*begin == '-');
    uint64_t digits = 0;
    unsigned count = 0, places = 0;
    for (bool fraction = false; c < end && *c != 'e' && *c != 'E'; c++) {
        if (*c == '.') {
            fraction = true;
            continue;
        }
        count += count > 0 || *c != '0';
        places += fraction;
        digits = digits * 10 + (uint64_t)(*c - '0');
    }
    if (c < end || count > 19 || places > 27) {
        return strtod(begin, NULL);
    }
    double value = digits == 0 ? 0.0 : json_quotient(digits, places);
    return *begin == '-' ? -value : value;
}

/* A finite number. */
PROPELLER_FN bool json_number(json_t *json, double *value) {
    json_peek(json);
    const char *begin = json->at;
    if (!json_scan_number(json)) {
        return false;
    }
    *value = json_value(begin, json->at);
    return isfinite(*value) || json_fail(json, "a number too large for 64 bits");
}

/* A whole number from 0 to 2^64-1. */
PROPELLER_FN bool json_whole(json_t *json, uint64_t *value) {
    json_peek(json);
    *value = 0;
    const char *begin = json->at;
    if (!json_scan_number(json)) {
        return false;
    }
    for (const char *c = begin; c < json->at; c++) {
        uint64_t units = (uint64_t)(*c - '0');
        if (*c < '0' || *c > '9' || *value > (UINT64_MAX - units) / 10) {
            return json_fail(json, "expected a whole number from 0 to 2^64-1");
        }
        *value = *value * 10 + units;
    }
    return true;
}

PROPELLER_FN bool json_skip_scalar(json_t *json) {
    static const char *const words[] = {"true", "false", "null"};
    char next = json_peek(json);
    if (next == '"') {
        return json_string(json, NULL, 0);
    }
    if (next == '-' || (next >= '0' && next <= '9')) {
        return json_scan_number(json);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(json->end - json->at) >= length && memcmp(json->at, words[i], length) == 0) {
            json->at += length;
            return true;
        }
    }
    return json_fail(json, "expected a value");
}

/* Pass over one value of any kind, nested at most JSON_DEPTH_MAX deep. */
PROPELLER_FN bool json_skip(json_t *json) {
    char closing[JSON_DEPTH_MAX];
    int depth = 0;
    for (;;) {
        char next = json_peek(json);
        if (next == '{' || next == '[') {
            if (depth == JSON_DEPTH_MAX) {
                return json_fail(json, "nested too deeply");
            }
            closing[depth++] = next == '{' ? '}' : ']';
            json->at++;
            json->first = true;
        } else if (!json_skip_scalar(json)) {
            return false;
        }
        /* A value ended or a container began: go up as long as containers end here. */
        for (;;) {
            if (depth == 0) {
                return json->error == NULL;
            }
            if (closing[depth - 1] == '}' ? json_key(json, NULL, 0) : json_item(json)) {
                break;
            }
            if (json->error != NULL) {
                return false;
            }
            depth--;
        }
    }
}

/* True if nothing failed and nothing but white space is left. */
PROPELLER_FN bool json_close(json_t *json) {
    json_peek(json);
    return json->error == NULL && (json->at == json->end || json_fail(json, "something follows the value"));
}

/* End the guest unless the text named `name` was read to its end. */
PROPELLER_FN void json_done(json_t *json, const char *name) {
    if (!json_close(json)) {
        die("%s is malformed at byte %zu: %s", name, (size_t)(json->at - json->begin), json->error);
    }
}

/* --- inputs ------------------------------------------------------------------------------------------------- */

#ifdef PROPELLER_HOST_FUNCTIONS
#define PROPELLER_IMPORT(name) __attribute__((import_module("env"), import_name(#name))) extern int name
PROPELLER_IMPORT(get_proplet_id)(char **text, unsigned *length);
PROPELLER_IMPORT(get_model_data)(char **text, unsigned *length);
PROPELLER_IMPORT(get_dataset_data)(char **text, unsigned *length);
PROPELLER_IMPORT(get_env)(const char *name, unsigned name_length, char **text, unsigned *length);
PROPELLER_IMPORT(put_result)(const void *content, unsigned length);
/* The host places its strings with this. */
__attribute__((export_name("malloc"))) void *propeller_malloc(size_t size);
void *propeller_malloc(size_t size) { return malloc(size); }
#endif

/* A variable by its name; NULL if it is absent or empty. */
PROPELLER_FN const char *variable(const char *name) {
#ifdef PROPELLER_HOST_FUNCTIONS
    char *value = NULL;
    unsigned length = 0;
    int given = strcmp(name, "MODEL_DATA") == 0     ? get_model_data(&value, &length)
                : strcmp(name, "DATASET_DATA") == 0 ? get_dataset_data(&value, &length)
                : strcmp(name, "PROPLET_ID") == 0   ? get_proplet_id(&value, &length)
                                                    : get_env(name, (unsigned)strlen(name), &value, &length);
    return given && length > 0 ? value : NULL;
#else
    const char *value = getenv(name);
    return value != NULL && *value != 0 ? value : NULL;
#endif
}

PROPELLER_FN const char *variable_or(const char *name, const char *otherwise) {
    const char *value = variable(name);
    return value != NULL ? value : otherwise;
}

PROPELLER_FN FILE *propeller_file(const char *path, const char *mode) {
#ifdef PROPELLER_HOST_FUNCTIONS
    (void)path, (void)mode;
    return NULL;
#else
    return fopen(path, mode);
#endif
}

/* Read or write, a megabyte at a time: a host may hold a copy of what one call moves. */
PROPELLER_FN bool propeller_move(FILE *file, void *values, uint64_t bytes, bool writing) {
    unsigned char *at = values;
    while (bytes > 0) {
        size_t piece = bytes < (1 << 20) ? (size_t)bytes : (1 << 20);
        if ((writing ? fwrite(at, 1, piece, file) : fread(at, 1, piece, file)) != piece) {
            return false;
        }
        at += piece;
        bytes -= piece;
    }
    return true;
}

/* A whole small file as text, NULL if there is none. */
PROPELLER_FN char *propeller_file_text(const char *path) {
    FILE *file = propeller_file(path, "rb");
    size_t length = 0, capacity = 1 << 16, got;
    if (file == NULL) {
        return NULL;
    }
    char *text = allocate(capacity, 1);
    while ((got = fread(text + length, 1, capacity - length - 1, file)) > 0) {
        length += got;
        if (capacity - length < capacity / 4) {
            capacity *= 2;
            text = realloc(text, capacity);
            if (text == NULL) {
                die("out of memory: %s", path);
            }
        }
    }
    if (ferror(file)) {
        die("%s cannot be read", path);
    }
    fclose(file);
    text[length] = 0;
    return text;
}

/* What the round is: ends the guest if there is none. */
PROPELLER_FN const char *round_id(void) {
    const char *value = variable("ROUND_ID");
    if (value == NULL) {
        die("ROUND_ID is not set: this trainer runs as part of a round");
    }
    return value;
}

/* Whether this call is to evaluate the model and train nothing. */
PROPELLER_FN bool evaluating(void) {
    const char *mode = variable_or("FL_MODE", "train");
    if (strcmp(mode, "evaluate") != 0 && strcmp(mode, "train") != 0) {
        die("FL_MODE is %s; this trainer knows train and evaluate", mode);
    }
    return *mode == 'e';
}

/* The hyperparameter `name`, `otherwise` if it is not given; it must be a number. */
PROPELLER_FN double hyperparam(const char *name, double otherwise) {
    static const char *text;
    char key[64];
    json_t json;
    if (text == NULL && (text = variable("HYPERPARAMS")) == NULL) {
        text = propeller_file_text("/fl/hyperparams.json");
    }
    json_open(&json, text == NULL ? "{}" : text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, name) != 0) {
            json_skip(&json);
        } else if (!json_number(&json, &otherwise)) {
            break;
        }
    }
    json_done(&json, "HYPERPARAMS");
    return otherwise;
}

/* A whole hyperparameter from `least` to `most`. */
PROPELLER_FN uint64_t hyperparam_whole(const char *name, uint64_t otherwise, uint64_t least, uint64_t most) {
    double value = hyperparam(name, (double)otherwise);
    if (!(value >= (double)least && value <= (double)most) || value != floor(value)) {
        die("HYPERPARAMS: %s is %g, not a whole number from %" PRIu64 " to %" PRIu64, name, value, least, most);
    }
    return (uint64_t)value;
}

/* --- chance -------------------------------------------------------------------------------------------------- */

/* SEED, else the hyperparameter `seed`, else 0: all of a trainer's randomness comes from it. */
PROPELLER_FN uint64_t seed(void) {
    const char *text = variable("SEED");
    uint64_t value = 0;
    json_t json;
    if (text == NULL) {
        return hyperparam_whole("seed", 0, 0, (uint64_t)1 << 53);
    }
    json_open(&json, text);
    json_whole(&json, &value);
    json_done(&json, "SEED");
    return value;
}

/* SplitMix64 (Steele, Lea, Flood 2014): one 64-bit word of state, every seed as good as another. */
PROPELLER_FN uint64_t random_next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, bound): values of the last, incomplete interval are drawn again. */
PROPELLER_FN size_t random_below(uint64_t *state, size_t bound) {
    uint64_t usable = UINT64_MAX - UINT64_MAX % bound;
    uint64_t drawn;
    do {
        drawn = random_next(state);
    } while (drawn >= usable);
    return (size_t)(drawn % bound);
}

PROPELLER_FN void shuffle(size_t *order, size_t count, uint64_t *state) {
    for (size_t i = count; i > 1; i--) {
        size_t j = random_below(state, i);
        size_t swapped = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swapped;
    }
}

/* --- the model ------------------------------------------------------------------------------------------------ */

PROPELLER_FN tensor_t *add_tensor(model_t *model) {
    size_t bytes = (model->count + 1) * sizeof *model->tensors;
    tensor_t *tensors = realloc(model->tensors, bytes);
    if (tensors == NULL) {
        die("out of memory: %zu tensors", model->count + 1);
    }
    model->tensors = tensors;
    memset(&tensors[model->count], 0, sizeof *tensors);
    return &tensors[model->count++];
}

/* The tensor of that name, NULL if there is none. */
PROPELLER_FN tensor_t *find_tensor(const model_t *model, const char *name) {
    for (size_t i = 0; i < model->count; i++) {
        if (strcmp(model->tensors[i].name, name) == 0) {
            return &model->tensors[i];
        }
    }
    return NULL;
}

/* A number or nested lists of numbers; `depth` lists are open. The first list of each depth fixes its length. */
PROPELLER_FN void read_nested(json_t *json, tensor_t *tensor, vector_t *values, size_t depth) {
    double number;
    if (json_peek(json) != '[') {
        if (json_number(json, &number)) {
            if (values->count > 0 && depth != tensor->dims) {
                json_fail(json, "a ragged list");
            }
            tensor->dims = depth;
            push(values, number);
        }
        return;
    }
    if (depth == PROPELLER_DIMS_MAX) {
        json_fail(json, "too many dimensions");
    }
    size_t length = 0;
    for (json_array(json); json_item(json); length++) {
        read_nested(json, tensor, values, depth + 1);
    }
    if (json->error == NULL && tensor->shape[depth] != 0 && tensor->shape[depth] != length) {
        json_fail(json, "a ragged list");
    }
    if (json->error == NULL) {
        tensor->shape[depth] = length;
    }
}

PROPELLER_FN model_t model_of_json(const char *text) {
    model_t model = {0};
    char key[PROPELLER_NAME_CHARS + 1];
    json_t json;
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "version") == 0) {
            json_skip(&json);
            continue;
        }
        if (find_tensor(&model, key) != NULL) {
            json_fail(&json, "a tensor that is there twice");
        }
        vector_t values = {0};
        tensor_t *tensor = add_tensor(&model);
        memcpy(tensor->name, key, sizeof key);
        read_nested(&json, tensor, &values, 0);
        tensor->values = values.values;
        tensor->count = values.count;
    }
    json_done(&json, "MODEL_DATA");
    return model;
}

/* One member of a safetensors header: dtype, shape, data_offsets. */
PROPELLER_FN void read_entry(json_t *json, tensor_t *tensor, char dtype[4], uint64_t offsets[2]) {
    char key[16];
    for (json_object(json); json_key(json, key, sizeof key);) {
        if (strcmp(key, "dtype") == 0) {
            json_string(json, dtype, 4);
        } else if (strcmp(key, "shape") == 0) {
            for (json_array(json); json_item(json) && tensor->dims < PROPELLER_DIMS_MAX;) {
                uint64_t size = 0;
                json_whole(json, &size);
                tensor->shape[tensor->dims++] = (size_t)size;
            }
        } else if (strcmp(key, "data_offsets") == 0) {
            json_array(json);
            for (size_t i = 0; json_item(json) && i < 2; i++) {
                json_whole(json, &offsets[i]);
            }
        } else {
            json_skip(json);
        }
    }
}

/* Fill `tensor` with its elements, which lie in the file as `dtype` from `begin` on. */
PROPELLER_FN void read_elements(FILE *file, long begin, uint64_t bytes, const char *dtype, tensor_t *tensor) {
    bool wide = strcmp(dtype, "F64") == 0;
    size_t size = wide ? 8 : 4;
    if (!wide && strcmp(dtype, "F32") != 0) {
        die("tensor %s of the model has the type %s; this kit reads F32 and F64", tensor->name, dtype);
    }
    tensor->count = 1;
    for (size_t i = 0; i < tensor->dims; i++) {
        tensor->count *= tensor->shape[i];
    }
    if (bytes != (uint64_t)tensor->count * size || fseek(file, begin, SEEK_SET) != 0) {
        die("tensor %s of the model is not as long as its shape says", tensor->name);
    }
    tensor->values = allocate(tensor->count, sizeof *tensor->values);
    if (size == sizeof *tensor->values) {
        if (!propeller_move(file, tensor->values, bytes, false)) {
            die("the model file ends within tensor %s", tensor->name);
        }
        return;
    }
    for (size_t i = 0; i < tensor->count; i++) {
        double d = 0;
        float f = 0;
        if (fread(wide ? (void *)&d : (void *)&f, size, 1, file) != 1) {
            die("the model file ends within tensor %s", tensor->name);
        }
        tensor->values[i] = (real_t)(wide ? d : (double)f);
    }
}

/* The tensors of the safetensors file at `path`. */
PROPELLER_FN model_t model_of_file(FILE *file, const char *path) {
    model_t model = {0};
    uint64_t length = 0;
    char key[PROPELLER_NAME_CHARS + 1];
    json_t json;
    if (fread(&length, 8, 1, file) != 1 || length == 0 || length > PROPELLER_HEADER_BYTES_MAX) {
        die("%s has no header of at most %d bytes", path, PROPELLER_HEADER_BYTES_MAX);
    }
    char *header = allocate((size_t)length + 1, 1);
    if (fread(header, 1, (size_t)length, file) != length) {
        die("%s ends within its header", path);
    }
    json_open(&json, header);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "__metadata__") == 0) {
            json_skip(&json);
            continue;
        }
        char dtype[4] = "";
        uint64_t offsets[2] = {0, 0};
        tensor_t *tensor = add_tensor(&model);
        memcpy(tensor->name, key, sizeof key);
        read_entry(&json, tensor, dtype, offsets);
        if (json.error == NULL) {
            read_elements(file, (long)(8 + length + offsets[0]), offsets[1] - offsets[0], dtype, tensor);
        }
    }
    json_done(&json, path);
    free(header);
    return model;
}

/* Whether the host gave files; then the update goes to files too. */
PROPELLER_FN bool propeller_by_files;

/* The base model: /fl/model.safetensors, else MODEL_DATA. Ends the guest if there is none. */
PROPELLER_FN model_t read_model(void) {
    FILE *file = propeller_file("/fl/model.safetensors", "rb");
    model_t model;
    if (file != NULL) {
        propeller_by_files = true;
        model = model_of_file(file, "/fl/model.safetensors");
        fclose(file);
    } else {
        const char *text = variable("MODEL_DATA");
        if (text == NULL) {
            die("MODEL_DATA is not set: there is no model to train");
        }
        model = model_of_json(text);
    }
    if (model.count == 0) {
        die("the model has no tensors");
    }
    return model;
}

/* What this trainer wrote with `write_state` in its last round of this experiment on this device; no tensors if it
 * wrote nothing yet. Ends the guest where there are no files: then nothing can be kept. */
PROPELLER_FN model_t read_state(void) {
    model_t state = {0};
    FILE *file;
    if (!propeller_by_files) {
        die("what this round asks for is kept from round to round, in files: its task must say FL_ABI=files");
    }
    file = propeller_file("/fl/state.safetensors", "rb");
    if (file != NULL) {
        state = model_of_file(file, "/fl/state.safetensors");
        fclose(file);
    }
    return state;
}

/* --- the data set --------------------------------------------------------------------------------------------- */

/* One row {"x": [...], "y": label}; other members are passed over. */
PROPELLER_FN void read_row(json_t *json, vector_t *x, vector_t *y, size_t features) {
    size_t before = x->count;
    bool labelled = false;
    double number;
    char key[8];
    for (json_object(json); json_key(json, key, sizeof key);) {
        if (strcmp(key, "x") == 0 && x->count == before) {
            for (json_array(json); json_item(json) && json_number(json, &number);) {
                push(x, number);
            }
        } else if (strcmp(key, "y") == 0 && !labelled) {
            labelled = json_number(json, &number);
            push(y, labelled ? number : 0);
        } else {
            json_skip(json);
        }
    }
    if (json->error == NULL && (!labelled || x->count - before != features)) {
        die("row %zu of DATASET_DATA has %zu features and %s label `y`; the model has %zu features",
            y->count - labelled, x->count - before, labelled ? "a" : "no", features);
    }
}

/* The data set: /fl/dataset/data.json, else DATASET_DATA. Ends the guest unless every row has `features` numbers. */
PROPELLER_FN data_t read_data(size_t features) {
    vector_t x = {0}, y = {0};
    double size = -1;
    char key[8];
    json_t json;
    char *file = propeller_file_text("/fl/dataset/data.json");
    const char *text = file != NULL ? file : variable("DATASET_DATA");
    if (text == NULL) {
        die("DATASET_DATA is not set: there is no data to train on");
    }
    json_open(&json, text);
    for (json_object(&json); json_key(&json, key, sizeof key);) {
        if (strcmp(key, "data") == 0 && y.count == 0) {
            for (json_array(&json); json_item(&json);) {
                read_row(&json, &x, &y, features);
            }
        } else if (strcmp(key, "size") == 0) {
            json_number(&json, &size);
        } else {
            json_skip(&json);
        }
    }
    json_done(&json, "DATASET_DATA");
    free(file);
    if (y.count == 0) {
        die("DATASET_DATA has no rows to train on");
    }
    if (size >= 0 && size != (double)y.count) {
        die("DATASET_DATA is incomplete: its size is %g, its rows are %zu", size, y.count);
    }
    return (data_t){.rows = y.count, .features = features, .x = x.values, .y = y.values};
}

/* --- the update ----------------------------------------------------------------------------------------------- */

PROPELLER_FN void print_string(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text != 0; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            fprintf(out, "\\%c", c);
        } else if (c < 0x20) {
            fprintf(out, "\\u%04x", c);
        } else {
            fputc(c, out);
        }
    }
    fputc('"', out);
}

PROPELLER_FN void print_member(FILE *out, const char *name, const char *value) {
    print_string(out, name);
    fputc(':', out);
    print_string(out, value);
    fputc(',', out);
}

/* A parameter in as many digits as bring back the same bits. For floats of usual size the nine digits come from an
 * exact product with a power of ten, rounded once: printf works in 128-bit floats, as strtod does. */
PROPELLER_FN void print_real(FILE *out, real_t value) {
    double size = fabs((double)value);
    if (sizeof(real_t) != sizeof(float) || !(size >= 1e-5 && size < 1e8)) {
        fprintf(out, PROPELLER_DIGITS, (double)value);
        return;
    }
    int places = 0;
    double power = 1;
    while (size * power < 1e8) {
        power *= 10;
        places++;
    }
    uint64_t digits = (uint64_t)(size * power + 0.5);
    while (places > 0 && digits % 10 == 0) {
        digits /= 10;
        places--;
    }
    char text[24];
    char *at = text + sizeof text;
    for (int i = 0; digits != 0 || i <= places; i++) {
        if (i == places && places > 0) {
            *--at = '.';
        }
        *--at = (char)('0' + digits % 10);
        digits /= 10;
    }
    if (value < 0) {
        *--at = '-';
    }
    fwrite(at, 1, (size_t)(text + sizeof text - at), out);
}

/* Nested lists as the shape says; the elements from `*at` on. */
PROPELLER_FN void print_nested(FILE *out, const tensor_t *tensor, size_t depth, size_t *at) {
    if (depth == tensor->dims) {
        print_real(out, tensor->values[(*at)++]);
        return;
    }
    fputc('[', out);
    for (size_t i = 0; i < tensor->shape[depth]; i++) {
        if (i > 0) {
            fputc(',', out);
        }
        print_nested(out, tensor, depth + 1, at);
    }
    fputc(']', out);
}

PROPELLER_FN void print_tensors(FILE *out, const model_t *model) {
    fputc('{', out);
    for (size_t i = 0; i < model->count; i++) {
        size_t at = 0;
        if (i > 0) {
            fputc(',', out);
        }
        print_string(out, model->tensors[i].name);
        fputc(':', out);
        print_nested(out, &model->tensors[i], 0, &at);
    }
    fputc('}', out);
}

/* Ends the guest if a number of the model is none. */
PROPELLER_FN void require_finite(const model_t *model) {
    for (size_t i = 0; i < model->count; i++) {
        for (size_t j = 0; j < model->tensors[i].count; j++) {
            if (!isfinite(model->tensors[i].values[j])) {
                die("training diverged: %s[%zu] is not finite; a smaller lr may help", model->tensors[i].name, j);
            }
        }
    }
}

PROPELLER_FN void write_tensors(const char *path, const model_t *model) {
    FILE *file = propeller_file(path, "wb");
    /* 64 characters hold dtype and offsets of an entry, 24 each of its dimensions. */
    size_t capacity = 16 + model->count * (PROPELLER_NAME_CHARS * 2 + 128 + 24 * PROPELLER_DIMS_MAX), length = 0;
    char *header = allocate(capacity, 1);
    uint64_t begin = 0;
    for (size_t i = 0; i < model->count; i++) {
        const tensor_t *tensor = &model->tensors[i];
        uint64_t end = begin + (uint64_t)tensor->count * sizeof(real_t);
        length += (size_t)snprintf(header + length, capacity - length, "%c\"%s\":{\"dtype\":\"" PROPELLER_DTYPE "\",\"shape\":[",
                                   i == 0 ? '{' : ',', tensor->name);
        for (size_t d = 0; d < tensor->dims; d++) {
            length += (size_t)snprintf(header + length, capacity - length, d == 0 ? "%zu" : ",%zu", tensor->shape[d]);
        }
        length += (size_t)snprintf(header + length, capacity - length, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
        begin = end;
    }
    header[length++] = '}';
    uint64_t prefix = length;
    bool good = file != NULL && fwrite(&prefix, 8, 1, file) == 1 && fwrite(header, 1, length, file) == length;
    for (size_t i = 0; good && i < model->count; i++) {
        good = propeller_move(file, model->tensors[i].values, model->tensors[i].count * sizeof(real_t), true);
    }
    if (!good || fclose(file) != 0) {
        die("%s could not be written", path);
    }
    free(header);
}

/* Keep these tensors for `read_state`. */
PROPELLER_FN void write_state(const model_t *state) { write_tensors("/fl/state.safetensors", state); }

PROPELLER_FN void print_update(FILE *out, const model_t *model, uint64_t samples, const metric_t *metrics, size_t count) {
    fputc('{', out);
    print_member(out, "round_id", round_id());
    print_member(out, "proplet_id", variable_or("PROPLET_ID", "proplet-unknown"));
    print_member(out, "base_model_uri", variable_or("MODEL_URI", ""));
    fprintf(out, "\"num_samples\":%" PRIu64 ",\"metrics\":{", samples);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(metrics[i].value)) {
            die("training diverged: the metric %s is not finite; a smaller lr may help", metrics[i].name);
        }
        fprintf(out, i == 0 ? "\"%s\":%.17g" : ",\"%s\":%.17g", metrics[i].name, metrics[i].value);
    }
    fputc('}', out);
    if (model != NULL) {
        fputs(",\"update\":", out);
        print_tensors(out, model);
    }
    fputs("}\n", out);
}

/* Send the trained model (NULL from an evaluation) the way the base came; once, as the last thing. */
PROPELLER_FN void send_update(const model_t *model, uint64_t samples, const metric_t *metrics, size_t count) {
    if (model != NULL) {
        require_finite(model);
    }
#ifdef PROPELLER_HOST_FUNCTIONS
    char *content = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&content, &length);
    if (out == NULL) {
        die("out of memory: the update");
    }
    print_update(out, model, samples, metrics, count);
    if (fclose(out) != 0 || !put_result(content, (unsigned)length)) {
        die("the update could not be put");
    }
#else
    FILE *out = propeller_by_files ? propeller_file("/fl/update.json", "wb") : stdout;
    if (out == NULL) {
        die("/fl/update.json cannot be written");
    }
    /* Every write leaves the sandbox, which costs more than what is written. */
    static char buffer[16 * 1024];
    setvbuf(out, buffer, _IOFBF, sizeof buffer);
    if (propeller_by_files && model != NULL) {
        write_tensors("/fl/update.safetensors", model);
    }
    print_update(out, propeller_by_files ? NULL : model, samples, metrics, count);
    if (fflush(out) != 0 || ferror(out)) {
        die("the update could not be written");
    }
#endif
}

#endif
