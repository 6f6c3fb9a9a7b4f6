/* Logistic regression by mini-batch SGD, as a Wasm trainer for one round on one device; with FL_MODE=evaluate it
 * measures the model and leaves it as it is.
 *
 * The model is `w`, a list of numbers, and `b`, a number; labels are 0 and 1. All arithmetic is float64 in a fixed
 * order, so the result is a function of inputs and seed alone, to the last bit. propeller.h has everything else. */
#define PROPELLER_DOUBLE
#include "propeller.h"

enum { EPOCHS_MAX = 1000000 };

/* Beyond this the sigmoid differs from 0 or 1 by less than 2.1e-9, and exp needs no care. */
static const double LOGIT_MAX = 20.0;

typedef struct {
    size_t features;
    double *w, *b;
} regression_t;

static regression_t open_regression(const model_t *model) {
    tensor_t *w = find_tensor(model, "w"), *b = find_tensor(model, "b");
    if (model->count != 2 || w == NULL || b == NULL || w->dims != 1 || w->count == 0 || b->count != 1) {
        die("the model is no logistic regression: it needs numbers `w` (at least one) and `b`, and nothing else");
    }
    return (regression_t){.features = w->count, .w = w->values, .b = b->values};
}

static void check_labels(const data_t *data) {
    for (size_t i = 0; i < data->rows; i++) {
        if (data->y[i] != 0 && data->y[i] != 1) {
            die("row %zu of DATASET_DATA has the label %g, not 0 or 1", i, data->y[i]);
        }
    }
}

static double logit(const regression_t *model, const double *x) {
    double z = *model->b;
    for (size_t j = 0; j < model->features; j++) {
        z += model->w[j] * x[j];
    }
    return z < -LOGIT_MAX ? -LOGIT_MAX : z > LOGIT_MAX ? LOGIT_MAX : z;
}

/* One step along the mean gradient of the batch; `gradient` has room for w and b. */
static void step(regression_t *model, const data_t *data, const size_t *batch, size_t count, double lr, double *gradient) {
    size_t features = model->features;
    memset(gradient, 0, (features + 1) * sizeof *gradient);
    for (size_t i = 0; i < count; i++) {
        const double *x = data->x + batch[i] * features;
        double error = 1 / (1 + exp(-logit(model, x))) - data->y[batch[i]];
        for (size_t j = 0; j < features; j++) {
            gradient[j] += error * x[j];
        }
        gradient[features] += error;
    }
    for (size_t j = 0; j < features; j++) {
        model->w[j] -= lr * (gradient[j] / (double)count);
    }
    *model->b -= lr * (gradient[features] / (double)count);
}

static void train(regression_t *model, const data_t *data) {
    uint64_t epochs = hyperparam_whole("epochs", 1, 1, EPOCHS_MAX), state = seed();
    uint64_t asked = hyperparam_whole("batch_size", 16, 1, (uint64_t)1 << 53);
    double lr = hyperparam("lr", 0.01);
    size_t rows = data->rows, batch = asked < rows ? (size_t)asked : rows;
    size_t *order = allocate(rows, sizeof *order);
    double *gradient = allocate(model->features + 1, sizeof *gradient);
    if (!(lr > 0)) {
        die("HYPERPARAMS: lr is %g, not over 0", lr);
    }
    for (size_t i = 0; i < rows; i++) {
        order[i] = i;
    }
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        shuffle(order, rows, &state);
        for (size_t begin = 0; begin < rows; begin += batch) {
            size_t left = rows - begin;
            step(model, data, order + begin, left < batch ? left : batch, lr, gradient);
        }
    }
    free(order);
    free(gradient);
}

/* The mean log loss log(1 + e^z) - yz, and the share of rows on the right side of one half. */
static void measure(const regression_t *model, const data_t *data, metric_t metrics[2]) {
    double loss = 0;
    size_t right = 0;
    for (size_t i = 0; i < data->rows; i++) {
        double z = logit(model, data->x + i * model->features);
        double y = data->y[i];
        loss += (z > 0 ? z : 0) - y * z + log1p(exp(-fabs(z)));
        right += (z >= 0) == (y == 1);
    }
    metrics[0] = (metric_t){"loss", loss / (double)data->rows};
    metrics[1] = (metric_t){"accuracy", (double)right / (double)data->rows};
}

int main(void) {
    metric_t metrics[2];
    round_id();
    model_t model = read_model();
    regression_t regression = open_regression(&model);
    data_t data = read_data(regression.features);
    check_labels(&data);
    if (!evaluating()) {
        train(&regression, &data);
    }
    require_finite(&model);
    measure(&regression, &data, metrics);
    send_update(evaluating() ? NULL : &model, data.rows, metrics, 2);
    return 0;
}
