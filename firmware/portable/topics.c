/* Topics: see topics.h. */
#include "topics.h"

static bool alphanumeric(char c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

bool id_lawful(span_t id) {
    if (id.length == 0 || id.length > ID_CHARS_MAX || !alphanumeric(id.at[0])) {
        return false;
    }
    for (size_t i = 1; i < id.length; i++) {
        if (!alphanumeric(id.at[i]) && id.at[i] != '.' && id.at[i] != '_' && id.at[i] != '-') {
            return false;
        }
    }
    return true;
}

static void base(const topics_t *topics, text_t *topic) {
    text_add(topic, "m/");
    text_add(topic, topics->domain);
    text_add(topic, "/c/");
    text_add(topic, topics->channel);
}

static void update_topic(const topics_t *topics, const char *round, text_t *topic) {
    /* On the shared lane the root spelling of the older application is the one that somebody hears. */
    if (topics->lane == LANE_DIRECTED) {
        base(topics, topic);
        text_char(topic, '/');
    }
    text_add(topic, "fl/rounds/");
    text_add(topic, round);
    text_add(topic, "/updates/");
    text_add(topic, topics->me);
}

void topic_of(const topics_t *topics, say_t say, const char *round, text_t *topic) {
    static const char *const levels[] = {
        [SAY_CREATE] = "/control/proplet/create",   [SAY_ALIVE] = "/control/proplet/alive",
        [SAY_EVENTS] = "/control/proplet/events",   [SAY_RESULTS] = "/control/proplet/results",
        [SAY_METRICS] = "/control/proplet/metrics", [SAY_WANT_IMAGE] = "/registry/proplet",
    };
    if (say == SAY_UPDATE) {
        update_topic(topics, round, topic);
        return;
    }
    base(topics, topic);
    text_add(topic, levels[say]);
    /* The announcement and the wish for an image are shared on both lanes. */
    if (topics->lane == LANE_DIRECTED && say != SAY_CREATE && say != SAY_WANT_IMAGE) {
        text_char(topic, '/');
        text_add(topic, topics->me);
    }
}

bool topic_subscription(const topics_t *topics, int index, text_t *topic) {
    static const char *const directed[] = {"/control/manager/+/", "/fl/rounds/+/verdicts/", "/registry/server"};
    static const char *const shared[] = {"/control/manager/start", "/control/manager/stop", "/registry/server"};
    if (index < 0 || index >= 3) {
        return false;
    }
    base(topics, topic);
    text_add(topic, (topics->lane == LANE_DIRECTED ? directed : shared)[index]);
    if (topics->lane == LANE_DIRECTED && index < 2) {
        text_add(topic, topics->me);
    }
    return true;
}

void topic_of_model(const topics_t *topics, span_t model_uri, text_t *topic) {
    if (!span_begins(model_uri, "m/")) {
        base(topics, topic);
        text_char(topic, '/');
    }
    text_put(topic, model_uri);
}

/* The first level of `*rest`, which loses it and the slash behind it. */
static span_t level(span_t *rest) {
    size_t slash = span_find(*rest, '/');
    span_t first = {rest->at, slash};
    *rest = span_from(*rest, slash + 1);
    return first;
}

static hear_t order(const topics_t *topics, span_t rest) {
    static const struct {
        const char *name;
        hear_t means;
        bool directed_only;
    } orders[] = {
        {"start", HEAR_START, false}, {"stop", HEAR_STOP, false}, {"ack", HEAR_ACK, true}, {"welcome", HEAR_WELCOME, true},
    };
    bool slash = span_find(rest, '/') < rest.length;
    span_t kind = level(&rest);
    bool directed = slash && span_is(rest, topics->me);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        if (span_is(kind, orders[i].name)) {
            return directed || (!slash && !orders[i].directed_only) ? orders[i].means : HEAR_NOTHING;
        }
    }
    return HEAR_NOTHING;
}

static hear_t verdict(const topics_t *topics, span_t rest, span_t *round) {
    span_t named = level(&rest);
    if (!span_is(level(&rest), "verdicts") || !span_is(rest, topics->me) || !id_lawful(named)) {
        return HEAR_NOTHING;
    }
    *round = named;
    return HEAR_VERDICT;
}

hear_t topic_meaning(const topics_t *topics, span_t topic, span_t *round) {
    char begin[TOPIC_CHARS_MAX];
    text_t prefix;
    *round = (span_t){"", 0};
    text_open(&prefix, begin, sizeof begin);
    base(topics, &prefix);
    text_char(&prefix, '/');
    span_t rest = span_begins(topic, prefix.at) ? span_from(topic, prefix.length) : topic;
    if (span_begins(rest, "fl/models/")) {
        return HEAR_MODEL;
    }
    if (rest.at == topic.at) {
        return HEAR_NOTHING;
    }
    if (span_begins(rest, "control/manager/")) {
        return order(topics, span_from(rest, sizeof "control/manager/" - 1));
    }
    if (span_begins(rest, "fl/rounds/")) {
        return verdict(topics, span_from(rest, sizeof "fl/rounds/" - 1), round);
    }
    return span_is(rest, "registry/server") ? HEAR_CHUNK : HEAR_NOTHING;
}
