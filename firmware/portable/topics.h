/* Every MQTT topic of a proplet, built and parsed in one place. Knows no payloads.
 *
 * `B` is `m/{domain}/c/{channel}`. On the directed lane a topic ends in the proplet's id, which the broker ties to
 * the publisher; on the shared lane, the original's, it does not. */
#ifndef PROPELLER_TOPICS_H
#define PROPELLER_TOPICS_H

#include "text.h"

enum { ID_CHARS_MAX = 63, TOPIC_CHARS_MAX = 320 };

typedef enum { LANE_DIRECTED, LANE_SHARED } lane_t;

typedef struct {
    char domain[ID_CHARS_MAX + 1], channel[ID_CHARS_MAX + 1], me[ID_CHARS_MAX + 1];
    lane_t lane;
} topics_t;

/* What a proplet says. `SAY_UPDATE` is about a round; the others are below `B/control/proplet`. */
typedef enum { SAY_CREATE, SAY_ALIVE, SAY_EVENTS, SAY_RESULTS, SAY_METRICS, SAY_WANT_IMAGE, SAY_UPDATE } say_t;

typedef enum { HEAR_NOTHING, HEAR_START, HEAR_STOP, HEAR_ACK, HEAR_WELCOME, HEAR_VERDICT, HEAR_CHUNK, HEAR_MODEL } hear_t;

/* 1 to 63 characters of letters, digits, `.`, `_` and `-`, beginning with a letter or digit. */
bool id_lawful(span_t id);

/* The topic of a saying; `round` is used by `SAY_UPDATE` only. */
void topic_of(const topics_t *topics, say_t say, const char *round, text_t *topic);
/* The proplet's subscriptions, one by one: false when there is no `index`-th. */
bool topic_subscription(const topics_t *topics, int index, text_t *topic);
/* Where the model of a `MODEL_URI` is retained. */
void topic_of_model(const topics_t *topics, span_t model_uri, text_t *topic);
/* What a received topic means; `round` gets the round of a verdict and is empty otherwise. */
hear_t topic_meaning(const topics_t *topics, span_t topic, span_t *round);

#endif
