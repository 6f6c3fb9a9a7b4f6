/* Your trainer: logistic regression by gradient descent, to begin with. propeller.h has the rest. */
#define PROPELLER_DOUBLE
#include "propeller.h"

static double probability(const tensor_t *w, const tensor_t *b, const double *x) {
    double z = b->values[0];
    for (size_t j = 0; j < w->count; j++) {
        z += w->values[j] * x[j];
    }
    return 1 / (1 + exp(-z));
}

/* One pass over the data in a random order, a step for every row. */
static void epoch(tensor_t *w, tensor_t *b, const data_t *data, double lr, uint64_t *chance, size_t *order) {
    shuffle(order, data->rows, chance);
    for (size_t i = 0; i < data->rows; i++) {
        const double *x = data->x + order[i] * data->features;
        double error = probability(w, b, x) - data->y[order[i]];
        for (size_t j = 0; j < w->count; j++) {
            w->values[j] -= lr * error * x[j];
        }
        b->values[0] -= lr * error;
    }
}

static double loss(const tensor_t *w, const tensor_t *b, const data_t *data) {
    double sum = 0;
    for (size_t i = 0; i < data->rows; i++) {
        double p = probability(w, b, data->x + i * data->features);
        sum -= log(fmax(data->y[i] > 0.5 ? p : 1 - p, 1e-300));
    }
    return sum / (double)data->rows;
}

int main(void) {
    model_t model = read_model();
    tensor_t *w = find_tensor(&model, "w"), *b = find_tensor(&model, "b");
    if (w == NULL || b == NULL || b->count != 1 || model.count != 2) {
        die("the model needs the tensors w and b");
    }
    data_t data = read_data(w->count);
    if (!evaluating()) {
        uint64_t chance = seed();
        size_t *order = allocate(data.rows, sizeof *order);
        for (size_t i = 0; i < data.rows; i++) {
            order[i] = i;
        }
        for (uint64_t left = hyperparam_whole("epochs", 1, 1, 1000000); left > 0; left--) {
            epoch(w, b, &data, hyperparam("lr", 0.01), &chance, order);
        }
    }
    metric_t metrics[] = {{"loss", loss(w, b, &data)}};
    send_update(evaluating() ? NULL : &model, data.rows, metrics, 1);
    return 0;
}
