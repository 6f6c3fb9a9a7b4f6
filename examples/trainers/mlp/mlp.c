/* A multilayer perceptron of any layer sizes by mini-batch SGD, as a Wasm trainer for one round on one device.
 *
 * The model's tensors say what it is: `w1`, `b1`, `w2`, `b2`, ... with `wk` of shape [units, inputs] and `bk` of
 * shape [units]. Hidden units are rectified; the last layer is a softmax over classes 0, 1, ... or, with one unit,
 * a logistic for the labels 0 and 1. With `w1` and `b1` alone it is softmax regression. All arithmetic is float32
 * in a fixed order, so the result is a function of inputs and seed alone, to the last bit, on every machine.
 *
 * Told `scaffold`, it corrects its drift by control variates (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh:
 * "SCAFFOLD", ICML 2020, algorithm 1, option II). The server's c is `scaffold.c/w1`, ... beside the model, zero if it
 * is not there yet; the same names carry the difference of its own c back, which it keeps from round to round. */
#include "propeller.h"

enum { LAYERS_MAX = 64, EPOCHS_MAX = 1000000, NAME_CHARS = 16 };

static const char VARIATE[] = "scaffold.c/";

/* `out` holds each row's values, `delta` the loss's gradient by them before the rectifier, for a whole batch. `*_pull`
 * are momentum, `*_base` where the round began, `*_drift` what is added to each gradient; NULL when not asked for. */
typedef struct {
    size_t inputs, units;
    float *w, *b, *out, *delta;
    float *w_pull, *b_pull, *w_base, *b_base, *w_drift, *b_drift;
} layer_t;

typedef struct {
    layer_t layers[LAYERS_MAX];
    size_t depth, steps;
    float lr, momentum, mu;
} net_t;

/* --- reading ------------------------------------------------------------------------------------------------ */

/* The layer's tensors, or false if the model has no layer `number`. */
static bool find_layer(const model_t *model, size_t number, tensor_t **w, tensor_t **b) {
    char name[NAME_CHARS];
    snprintf(name, sizeof name, "w%zu", number);
    *w = find_tensor(model, name);
    name[0] = 'b';
    *b = find_tensor(model, name);
    return *w != NULL && *b != NULL;
}

static net_t open_net(const model_t *model) {
    net_t net = {.depth = 0};
    tensor_t *w, *b;
    while (net.depth < LAYERS_MAX && find_layer(model, net.depth + 1, &w, &b)) {
        layer_t *layer = &net.layers[net.depth++];
        if (w->dims != 2 || b->dims != 1 || w->shape[0] != b->shape[0] || w->count == 0) {
            die("w%zu and b%zu of the model are no layer: they need the shapes [units, inputs] and [units]", net.depth,
                net.depth);
        }
        *layer = (layer_t){.units = w->shape[0], .inputs = w->shape[1], .w = w->values, .b = b->values};
        if (net.depth > 1 && layer->inputs != layer[-1].units) {
            die("w%zu of the model takes %zu inputs; the layer before has %zu units", net.depth, layer->inputs, layer[-1].units);
        }
    }
    size_t others = model->count - net.depth * 2;
    for (size_t i = 0; i < model->count; i++) {
        others -= strncmp(model->tensors[i].name, VARIATE, sizeof VARIATE - 1) == 0;
    }
    if (net.depth == 0 || others != 0) {
        die("the model is no perceptron: it needs the tensors w1, b1, w2, b2, ... and has %zu others", others);
    }
    return net;
}

static void check_labels(const data_t *data, const net_t *net) {
    size_t units = net->layers[net->depth - 1].units;
    double classes = units == 1 ? 2 : (double)units;
    for (size_t i = 0; i < data->rows; i++) {
        double y = data->y[i];
        if (!(y >= 0 && y < classes) || y != floor(y)) {
            die("row %zu of DATASET_DATA has the label %g; the model knows 0 to %g", i, y, classes - 1);
        }
    }
}

static float *copied(const float *values, size_t count) {
    float *copy = allocate(count, sizeof *copy);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

/* Room for a batch of `rows`, and for what momentum and the proximal term remember. */
static void prepare(net_t *net, size_t rows) {
    for (size_t k = 0; k < net->depth; k++) {
        layer_t *layer = &net->layers[k];
        size_t weights = layer->units * layer->inputs;
        layer->out = allocate(rows * layer->units, sizeof(float));
        layer->delta = allocate(rows * layer->units, sizeof(float));
        if (net->momentum > 0) {
            layer->w_pull = allocate(weights, sizeof(float));
            layer->b_pull = allocate(layer->units, sizeof(float));
        }
        if (net->mu > 0) {
            layer->w_base = copied(layer->w, weights);
            layer->b_base = copied(layer->b, layer->units);
        }
    }
}

/* --- forward and back --------------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, size_t count) {
    /* Four sums side by side, so that an addition need not wait for the one before. */
    float sums[4] = {0, 0, 0, 0};
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (size_t j = 0; j < 4; j++) {
            sums[j] += a[i + j] * b[i + j];
        }
    }
    for (; i < count; i++) {
        sums[0] += a[i] * b[i];
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Fill row `row` of every layer's `out` from the inputs `x`. */
static void forward(net_t *net, const float *x, size_t row) {
    for (size_t k = 0; k < net->depth; k++) {
        layer_t *layer = &net->layers[k];
        float *out = layer->out + row * layer->units;
        for (size_t unit = 0; unit < layer->units; unit++) {
            float z = layer->b[unit] + dot(layer->w + unit * layer->inputs, x, layer->inputs);
            out[unit] = k + 1 < net->depth && z < 0 ? 0 : z;
        }
        x = out;
    }
}

/* The cross entropy of one row; its logits become the loss's gradient by them. */
static float loss_of(float *logits, size_t units, float label, bool *right) {
    if (units == 1) {
        float z = logits[0], size = fabsf(z);
        *right = (z >= 0) == (label > 0.5f);
        logits[0] = 1 / (1 + expf(-z)) - label;
        return (z > 0 ? z : 0) - label * z + log1pf(expf(-size));
    }
    size_t best = 0, wanted = (size_t)label;
    float sum = 0, gap;
    for (size_t i = 1; i < units; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    *right = best == wanted;
    gap = logits[best] - logits[wanted];
    for (size_t i = 0; i < units; i++) {
        /* The others are measured by the greatest, so that none overflows. */
        if (i != best) {
            logits[i] = expf(logits[i] - logits[best]);
            sum += logits[i];
        }
    }
    logits[best] = 1;
    sum += 1;
    for (size_t i = 0; i < units; i++) {
        logits[i] /= sum;
    }
    logits[wanted] -= 1;
    return gap + logf(sum);
}

/* From the last layer's `delta` of this row to all the layers' before. */
static void backward(net_t *net, size_t row) {
    for (size_t k = net->depth - 1; k > 0; k--) {
        const layer_t *layer = &net->layers[k];
        const layer_t *before = &net->layers[k - 1];
        const float *delta = layer->delta + row * layer->units;
        const float *out = before->out + row * before->units;
        float *back = before->delta + row * before->units;
        memset(back, 0, before->units * sizeof *back);
        for (size_t unit = 0; unit < layer->units; unit++) {
            const float *w = layer->w + unit * layer->inputs;
            for (size_t i = 0; i < layer->inputs; i++) {
                back[i] += delta[unit] * w[i];
            }
        }
        for (size_t i = 0; i < before->units; i++) {
            back[i] = out[i] > 0 ? back[i] : 0;
        }
    }
}

/* --- steps -------------------------------------------------------------------------------------------------- */

/* Move one parameter along its gradient without its drift, drawn back to the base by mu and carried on by momentum. */
static void move(const net_t *net, float *value, float gradient, float *pull, const float *base, const float *drift) {
    if (base != NULL) {
        gradient += net->mu * (*value - *base);
    }
    if (drift != NULL) {
        gradient += *drift;
    }
    if (pull != NULL) {
        gradient = *pull = net->momentum * *pull + gradient;
    }
    *value -= net->lr * gradient;
}

static void step_unit(const net_t *net, layer_t *layer, size_t unit, const float *const *inputs, size_t count, float *gradient) {
    float bias = 0;
    memset(gradient, 0, layer->inputs * sizeof *gradient);
    for (size_t row = 0; row < count; row++) {
        float delta = layer->delta[row * layer->units + unit];
        if (delta == 0) {
            continue;
        }
        for (size_t i = 0; i < layer->inputs; i++) {
            gradient[i] += delta * inputs[row][i];
        }
        bias += delta;
    }
    size_t at = unit * layer->inputs;
    for (size_t i = 0; i < layer->inputs; i++) {
        move(net, &layer->w[at + i], gradient[i] / (float)count, layer->w_pull ? &layer->w_pull[at + i] : NULL,
             layer->w_base ? &layer->w_base[at + i] : NULL, layer->w_drift ? &layer->w_drift[at + i] : NULL);
    }
    move(net, &layer->b[unit], bias / (float)count, layer->b_pull ? &layer->b_pull[unit] : NULL,
         layer->b_base ? &layer->b_base[unit] : NULL, layer->b_drift ? &layer->b_drift[unit] : NULL);
}

typedef struct {
    const float **inputs;
    float *gradient;
} scratch_t;

/* One step along the mean gradient of the batch. Gradients are made unit by unit, so no second model is held. */
static void step(net_t *net, const data_t *data, const size_t *batch, size_t count, scratch_t scratch) {
    layer_t *last = &net->layers[net->depth - 1];
    bool right;
    for (size_t row = 0; row < count; row++) {
        forward(net, data->x + batch[row] * data->features, row);
        memcpy(last->delta + row * last->units, last->out + row * last->units, last->units * sizeof(float));
        loss_of(last->delta + row * last->units, last->units, data->y[batch[row]], &right);
        backward(net, row);
    }
    for (size_t k = 0; k < net->depth; k++) {
        layer_t *layer = &net->layers[k];
        for (size_t row = 0; row < count; row++) {
            scratch.inputs[row] = k == 0 ? data->x + batch[row] * data->features : layer[-1].out + row * layer[-1].units;
        }
        for (size_t unit = 0; unit < layer->units; unit++) {
            step_unit(net, layer, unit, scratch.inputs, count, scratch.gradient);
        }
    }
}

static size_t widest(const net_t *net) {
    size_t most = 0;
    for (size_t k = 0; k < net->depth; k++) {
        most = net->layers[k].inputs > most ? net->layers[k].inputs : most;
    }
    return most;
}

static void train(net_t *net, const data_t *data) {
    uint64_t epochs = hyperparam_whole("epochs", 1, 1, EPOCHS_MAX), state = seed();
    uint64_t asked = hyperparam_whole("batch_size", 16, 1, (uint64_t)1 << 53);
    size_t batch = asked < data->rows ? (size_t)asked : data->rows;
    prepare(net, batch);
    size_t *order = allocate(data->rows, sizeof *order);
    scratch_t scratch = {allocate(batch, sizeof *scratch.inputs), allocate(widest(net), sizeof *scratch.gradient)};
    for (size_t i = 0; i < data->rows; i++) {
        order[i] = i;
    }
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        shuffle(order, data->rows, &state);
        for (size_t begin = 0; begin < data->rows; begin += batch) {
            size_t left = data->rows - begin;
            step(net, data, order + begin, left < batch ? left : batch, scratch);
            net->steps++;
        }
    }
}

/* --- control variates --------------------------------------------------------------------------------------- */

/* One tensor's: where the round began, the server's c and the client's own, all as long as the tensor. */
typedef struct {
    const float *now;
    float *begin, *c, *own;
    size_t count;
} variate_t;

typedef struct {
    variate_t of[2 * LAYERS_MAX];
    model_t state;
} variates_t;

/* The tensor `name` of `model`, as large as `like`; added with zeros if it is not there. */
static float *tensor_like(model_t *model, const char *name, const tensor_t *like) {
    tensor_t *found = find_tensor(model, name);
    if (found == NULL) {
        found = add_tensor(model);
        *found = *like;
        found->values = allocate(like->count, sizeof *found->values);
        snprintf(found->name, sizeof found->name, "%s", name);
    }
    if (found->count != like->count) {
        die("%s has %zu numbers where %s has %zu", name, found->count, like->name, like->count);
    }
    return found->values;
}

/* Both variates of one tensor of the model; the answer is c minus its own, for each gradient to be corrected by. */
static float *open_variate(variate_t *variate, model_t *model, model_t *state, char kind, size_t layer) {
    char name[NAME_CHARS], beside[sizeof VARIATE + NAME_CHARS];
    snprintf(name, sizeof name, "%c%zu", kind, layer);
    snprintf(beside, sizeof beside, "%s%s", VARIATE, name);
    tensor_t like = *find_tensor(model, name);
    *variate = (variate_t){
        .now = like.values,
        .begin = copied(like.values, like.count),
        .c = tensor_like(model, beside, &like),
        .own = tensor_like(state, name, &like),
        .count = like.count,
    };
    float *drift = allocate(like.count, sizeof *drift);
    for (size_t i = 0; i < like.count; i++) {
        drift[i] = variate->c[i] - variate->own[i];
    }
    return drift;
}

static variates_t *open_variates(net_t *net, model_t *model) {
    variates_t *variates = allocate(1, sizeof *variates);
    variates->state = read_state();
    if (net->momentum > 0 || net->mu > 0) {
        die("HYPERPARAMS: SCAFFOLD's variates are those of plain steps: momentum and mu must be 0");
    }
    for (size_t k = 0; k < net->depth; k++) {
        variate_t *of = &variates->of[2 * k];
        net->layers[k].w_drift = open_variate(&of[0], model, &variates->state, 'w', k + 1);
        net->layers[k].b_drift = open_variate(&of[1], model, &variates->state, 'b', k + 1);
    }
    return variates;
}

/* The client's own become what its steps say the gradient was; the differences go where the model had c. */
static void close_variates(variates_t *variates, const net_t *net) {
    float way = net->lr * (float)net->steps;
    for (size_t k = 0; k < 2 * net->depth; k++) {
        variate_t *of = &variates->of[k];
        for (size_t i = 0; i < of->count; i++) {
            float difference = (of->begin[i] - of->now[i]) / way - of->c[i];
            of->own[i] += difference;
            of->c[i] = difference;
        }
    }
    require_finite(&variates->state);
    write_state(&variates->state);
}

/* The mean cross entropy and the share of rows whose class is the likeliest. */
static void measure(net_t *net, const data_t *data, metric_t metrics[2]) {
    layer_t *last = &net->layers[net->depth - 1];
    double loss = 0;
    size_t hits = 0;
    if (last->out == NULL) {
        prepare(net, 1);
    }
    for (size_t i = 0; i < data->rows; i++) {
        bool right;
        forward(net, data->x + i * data->features, 0);
        loss += (double)loss_of(last->out, last->units, data->y[i], &right);
        hits += right;
    }
    metrics[0] = (metric_t){"loss", loss / (double)data->rows};
    metrics[1] = (metric_t){"accuracy", (double)hits / (double)data->rows};
}

/* A hyperparameter from 0 on, below `below`. */
static float share(const char *name, double otherwise, double below) {
    double value = hyperparam(name, otherwise);
    if (!(value >= 0 && value < below)) {
        die("HYPERPARAMS: %s is %g, not from 0 to below %g", name, value, below);
    }
    return (float)value;
}

int main(void) {
    metric_t metrics[2];
    round_id();
    model_t model = read_model();
    net_t net = open_net(&model);
    data_t data = read_data(net.layers[0].inputs);
    check_labels(&data, &net);
    if (!evaluating()) {
        net.lr = share("lr", 0.01, 1e9);
        net.momentum = share("momentum", 0, 1);
        net.mu = share("mu", 0, 1e9);
        if (!(net.lr > 0)) {
            die("HYPERPARAMS: lr is %g, not over 0", (double)net.lr);
        }
        variates_t *variates = hyperparam("scaffold", 0) > 0 ? open_variates(&net, &model) : NULL;
        train(&net, &data);
        if (variates != NULL) {
            close_variates(variates, &net);
        }
    }
    measure(&net, &data, metrics);
    send_update(evaluating() ? NULL : &model, data.rows, metrics, 2);
    return 0;
}
