/* One round of federated learning as a module without WASI: host functions of module `env` and nothing else.
 *
 * The counterpart of the original's embedded example. It takes the model and the data set from its host, makes one
 * pass of gradient descent for a linear model in float32, and puts the update; docs/reference/guest-abi.md says what
 * each function promises. It needs no C library: the allocator, the numbers in and the numbers out are here. What is
 * missing or malformed ends it with a status other than 0 by `main`, and it never trains on data of its own making. */
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) extern int name
#define EXPORT(name) __attribute__((export_name(#name)))

IMPORT(get_proplet_id)(char **text, unsigned *length);
IMPORT(get_model_data)(char **text, unsigned *length);
IMPORT(get_dataset_data)(char **text, unsigned *length);
IMPORT(get_env)(const char *name, unsigned name_length, char **text, unsigned *length);
IMPORT(put_result)(const void *content, unsigned length);

enum { FEATURES_MAX = 64, OUT_BYTES = 4096 };

/* --- memory: what the host's strings are placed in; nothing is given back, the module lives for one round ------- */

extern unsigned char __heap_base;
static unsigned heap_at;

EXPORT(malloc) void *malloc(unsigned size) {
    if (heap_at == 0) {
        heap_at = (unsigned)&__heap_base;
    }
    unsigned from = (heap_at + 7) & ~7u, pages = (unsigned)__builtin_wasm_memory_size(0);
    unsigned wanted = from + size;
    if (wanted < from) {
        return 0;
    }
    if (wanted > pages * 65536u && __builtin_wasm_memory_grow(0, (wanted - pages * 65536u + 65535u) / 65536u) == (__SIZE_TYPE__)-1) {
        return 0;
    }
    heap_at = wanted;
    return (void *)from;
}

/* --- reading: just enough JSON to find a name and the numbers behind it ------------------------------------------ */

static const char *after_name(const char *text, const char *end, const char *name) {
    for (const char *at = text; at < end; at++) {
        const char *from = at;
        const char *wanted = name;
        if (*at != '"') {
            continue;
        }
        for (at++; at < end && *wanted != 0 && *at == *wanted; at++, wanted++) {
        }
        if (*wanted == 0 && at < end && *at == '"') {
            for (at++; at < end && (*at == ' ' || *at == ':'); at++) {
            }
            return at;
        }
        at = from;
    }
    return 0;
}

static float number(const char **at, const char *end) {
    float sign = 1, value = 0, scale = 1;
    int exponent = 0, negative = 0;
    const char *c = *at;
    if (c < end && *c == '-') {
        sign = -1;
        c++;
    }
    for (; c < end && *c >= '0' && *c <= '9'; c++) {
        value = value * 10 + (float)(*c - '0');
    }
    if (c < end && *c == '.') {
        for (c++; c < end && *c >= '0' && *c <= '9'; c++) {
            scale /= 10;
            value += scale * (float)(*c - '0');
        }
    }
    if (c < end && (*c | 32) == 'e') {
        c++;
        negative = c < end && *c == '-';
        c += c < end && (*c == '-' || *c == '+');
        for (; c < end && *c >= '0' && *c <= '9' && exponent < 60; c++) {
            exponent = exponent * 10 + *c - '0';
        }
    }
    for (; exponent > 0; exponent--) {
        value = negative ? value / 10 : value * 10;
    }
    *at = c;
    return sign * value;
}

/* The numbers of the array at `at`, or -1 if it is none; `*at` is behind it then. */
static int numbers(const char **at, const char *end, float *into, int most) {
    int count = 0;
    const char *c = *at;
    if (c >= end || *c != '[') {
        return -1;
    }
    for (c++; c < end && *c != ']';) {
        if (*c == ' ' || *c == ',') {
            c++;
            continue;
        }
        const char *before = c;
        float value = number(&c, end);
        if (c == before || count == most) {
            return -1;
        }
        into[count++] = value;
    }
    *at = c + 1;
    return c < end ? count : -1;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static char out[OUT_BYTES];
static unsigned out_length;

static void put(const char *text) {
    while (*text != 0 && out_length < OUT_BYTES) {
        out[out_length++] = *text++;
    }
}

static void put_text(const char *name, const char *text) {
    put("\"");
    put(name);
    put("\":\"");
    put(text);
    put("\",");
}

static void put_whole(unsigned value) {
    char digits[12];
    int at = 11;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put(digits + at);
}

/* Nine decimal places of a number below 2^20, which is more than a float32 of this size holds. */
static void put_number(float value) {
    double rest = value;
    if (rest < 0) {
        put("-");
        rest = -rest;
    }
    unsigned whole = (unsigned)rest;
    put_whole(whole);
    put(".");
    rest -= whole;
    for (int i = 0; i < 9; i++) {
        char digit[2] = {0, 0};
        rest *= 10;
        digit[0] = (char)('0' + (int)rest);
        rest -= (int)rest;
        put(digit);
    }
}

/* --- the round ---------------------------------------------------------------------------------------------------- */

static float w[FEATURES_MAX], x[FEATURES_MAX], b;
static int features;
static unsigned samples;

static int read_model(void) {
    char *text;
    unsigned length;
    if (!get_model_data(&text, &length)) {
        return 1;
    }
    const char *end = text + length, *at = after_name(text, end, "w"), *bias = after_name(text, end, "b");
    if (at == 0 || bias == 0) {
        return 2;
    }
    features = numbers(&at, end, w, FEATURES_MAX);
    b = number(&bias, end);
    return features > 0 ? 0 : 2;
}

/* One step of least squares per row: w ← w − lr (w·x + b − y) x. */
static int train(float lr) {
    char *text;
    unsigned length;
    if (!get_dataset_data(&text, &length)) {
        return 3;
    }
    const char *end = text + length, *at = text;
    while ((at = after_name(at, end, "x")) != 0) {
        if (numbers(&at, end, x, FEATURES_MAX) != features) {
            return 4;
        }
        const char *label = after_name(at, end, "y");
        if (label == 0) {
            return 4;
        }
        float error = b - number(&label, end);
        for (int i = 0; i < features; i++) {
            error += w[i] * x[i];
        }
        for (int i = 0; i < features; i++) {
            w[i] -= lr * error * x[i];
        }
        b -= lr * error;
        samples++;
    }
    return samples > 0 ? 0 : 4;
}

static float learning_rate(void) {
    char *text;
    unsigned length;
    if (!get_env("HYPERPARAMS", sizeof "HYPERPARAMS" - 1, &text, &length)) {
        return 0.01f;
    }
    const char *at = after_name(text, text + length, "lr");
    return at == 0 ? 0.01f : number(&at, text + length);
}

static int put_update(void) {
    char *proplet, *round;
    unsigned length;
    if (!get_proplet_id(&proplet, &length) || !get_env("ROUND_ID", sizeof "ROUND_ID" - 1, &round, &length)) {
        return 5;
    }
    put("{");
    put_text("round_id", round);
    put_text("proplet_id", proplet);
    put("\"num_samples\":");
    put_whole(samples);
    put(",\"update\":{\"w\":[");
    for (int i = 0; i < features; i++) {
        put(i == 0 ? "" : ",");
        put_number(w[i]);
    }
    put("],\"b\":");
    put_number(b);
    put("}}");
    return out_length < OUT_BYTES && put_result(out, out_length) ? 0 : 6;
}

EXPORT(main) int train_round(void) {
    int wrong = read_model();
    wrong = wrong != 0 ? wrong : train(learning_rate());
    wrong = wrong != 0 ? wrong : put_update();
    if (wrong != 0) {
        __builtin_trap();
    }
    return 0;
}
