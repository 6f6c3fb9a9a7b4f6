/* A training round as one device sees it: where its model and data are, and what its guest's output becomes. Pure. */
#ifndef PROPELLER_ROUND_H
#define PROPELLER_ROUND_H

#include "messages.h"

/* The registry's path of the model that `MODEL_URI` names: `/models/{N}` for the global model, else
 * `/models/{name}/versions/{N}`. False if it names none. */
bool model_path(span_t model_uri, text_t *path);
void dataset_path(const char *proplet, text_t *path);

/* The update's JSON from what a guest put or printed, completed where it left out who and where. NULL, or why it is
 * no update of this round and proplet. `text` needs as much room as `output` and `base_model_uri` (six bytes for
 * each of its own) and 256 bytes. */
const char *make_update(span_t output, const char *round, const char *proplet, span_t base_model_uri, text_t *text);

/* What the task shows: who sent how much and how it went; the weights stay with the coordinator. */
void update_result(span_t update, const attempt_key_t *key, const char *round, const char *proplet, text_t *text);

#endif
