/* The connection to the broker, and the agent that speaks through it, on one thread.
 *
 * Everything that changes the agent happens here: messages as they come, time as it passes, and what the worker
 * reports. Messages are read whole into the heap, piece by piece; one that is too large is read to its end and
 * dropped. A lost connection is made again with growing pauses; what was not said then is said by the agent. */
#include "device.h"

#include <errno.h>
#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/net/mqtt.h>
#include <zephyr/net/socket.h>
#include <zephyr/posix/sys/eventfd.h>
#include <zephyr/random/rand32.h>

#include "agent.h"

LOG_MODULE_REGISTER(link, LOG_LEVEL_INF);

enum {
    BUFFER_BYTES = 1024, /* of MQTT headers; payloads do not pass through it */
    ANSWER_WAIT_MS = 5000,
    STALL_MS = 15000,
    PAUSE_MS = 200,
    PAUSE_MS_MAX = 10000,
    HANDOVER_WAIT_MS = 20000,
    UNANSWERED_PINGS_MAX = 2,
};

/* What other threads ask of this one. */
typedef enum { ASK_BEGUN, ASK_ENDED, ASK_SAY, ASK_SUBSCRIBE } ask_kind_t;
typedef struct {
    ask_kind_t kind;
    attempt_key_t key;
    ended_t *ended;
    say_t say;
    const char *text; /* a round or a topic */
    span_t payload;
    bool *done;
    struct k_sem *answered;
} ask_t;

K_MSGQ_DEFINE(asked, sizeof(ask_t), 8, 4);
K_THREAD_STACK_DEFINE(stack, 8192);
static struct k_thread thread;

static struct mqtt_client client;
static struct sockaddr_in broker;
static uint8_t rx_buffer[BUFFER_BYTES], tx_buffer[BUFFER_BYTES];
static char will_text[256], will_topic_text[TOPIC_CHARS_MAX];
static struct mqtt_utf8 user, password, will_message;
static struct mqtt_topic will_topic;

static agent_t agent;
static int wake = -1;
static volatile bool connected;
static bool subscribed, broken;
static uint16_t message_id;
static uint32_t connects, ignored;
static int64_t metrics_due_ms;

/* --- saying ------------------------------------------------------------------------------------------------ */

static uint16_t next_id(void)
{
    message_id = message_id == UINT16_MAX ? 1 : message_id + 1;
    return message_id;
}

static bool publish(say_t say, const char *round, span_t payload)
{
    char buffer[TOPIC_CHARS_MAX];
    text_t topic;
    struct mqtt_publish_param param = {0};

    if (!connected || broken) {
        return false;
    }
    text_open(&topic, buffer, sizeof buffer);
    topic_of(&me.topics, say, round, &topic);
    param.message.topic.topic.utf8 = (const uint8_t *)topic.at;
    param.message.topic.topic.size = topic.length;
    param.message.topic.qos = say == SAY_METRICS ? MQTT_QOS_0_AT_MOST_ONCE : MQTT_QOS_1_AT_LEAST_ONCE;
    param.message.payload.data = (uint8_t *)payload.at;
    param.message.payload.len = payload.length;
    param.message_id = next_id();
    int error = mqtt_publish(&client, &param);
    if (error != 0) {
        LOG_WRN("publish: %d", error);
        broken = true;
    }
    return error == 0;
}

static void port_say(void *to, say_t say, span_t payload) { publish(say, "", payload); }
static void port_run(void *to, const attempt_key_t *key, span_t message) { work_begin(key, message); }
static void port_kill(void *to, const attempt_key_t *key) { work_kill(); }
static void *port_alloc(void *to, size_t size) { return heap_alloc(size); }
static void port_free(void *to, void *block) { heap_free(block); }
static void port_ignored(void *to, const char *why, const char *task)
{
    ignored++;
    LOG_INF("order ignored: %s, task %s", why, task);
}

static const agent_ports_t ports = {NULL, port_say, port_run, port_kill, port_ignored, port_alloc, port_free};

static void say_metrics(void)
{
    char buffer[768];
    text_t text;
    metrics_t metrics = {.uptime_ms = (uint64_t)now_ms()};
    size_t total, free, most;

    heap_usage(&total, &free, &most);
    metrics.memory_total = total;
    metrics.memory_free = free;
    metrics.memory_most = most;
    network_counters(&metrics);
    text_open(&text, buffer, sizeof buffer);
    write_metrics(&text, me.config.id, &metrics);
    publish(SAY_METRICS, "", text_span(&text));
}

/* --- hearing ----------------------------------------------------------------------------------------------- */

static void acked(void *to, const attempt_key_t *key, acked_t what) { agent_acked(&agent, key, what); }

static const char *hear_start(span_t payload)
{
    static start_t start; /* large; only this thread uses it */
    const char *refused = read_start(payload, &start);

    if (refused == NULL) {
        agent_start(&agent, &start, payload, now_ms());
    }
    return refused;
}

static const char *hear_stop(span_t payload)
{
    stop_t stop;
    const char *refused = read_stop(payload, &stop);

    if (refused == NULL) {
        agent_stop(&agent, &stop, now_ms());
    }
    return refused;
}

static const char *hear_welcome(span_t payload)
{
    uint64_t heartbeat_ms;
    const char *refused = read_welcome(payload, &heartbeat_ms);

    if (refused == NULL) {
        if (!agent.welcomed) {
            LOG_INF("welcomed by the manager");
        }
        agent_welcomed(&agent, heartbeat_ms, now_ms());
    }
    return refused;
}

static const char *hear_verdict(span_t payload, span_t round)
{
    verdict_t verdict;
    const char *refused = read_verdict(payload, &verdict);

    if (refused == NULL && !span_is(round, verdict.round)) {
        refused = "it speaks of another round than its topic";
    }
    if (refused == NULL) {
        work_verdict(&verdict);
    }
    return refused;
}

/* Whether the payload was taken over. */
static bool hear(span_t topic, char *payload, size_t length)
{
    span_t round, content = {payload, length};
    const char *refused = NULL;
    hear_t what = topic_meaning(&me.topics, topic, &round);

    switch (what) {
    case HEAR_START:
        refused = hear_start(content);
        break;
    case HEAR_STOP:
        refused = hear_stop(content);
        break;
    case HEAR_ACK:
        refused = read_ack(content, acked, NULL);
        break;
    case HEAR_WELCOME:
        refused = hear_welcome(content);
        break;
    case HEAR_VERDICT:
        refused = hear_verdict(content, round);
        break;
    case HEAR_CHUNK:
    case HEAR_MODEL:
        work_content(what, payload, length);
        return true;
    default:
        refused = "it means nothing to a proplet";
    }
    if (refused != NULL) {
        ignored++;
        LOG_WRN("message on %.*s ignored: %s", (int)topic.length, topic.at, refused);
    }
    return false;
}

static void drain(size_t length)
{
    uint8_t piece[128];

    while (length > 0) {
        int got = mqtt_read_publish_payload_blocking(&client, piece, MIN(length, sizeof piece));

        if (got <= 0) {
            broken = true;
            return;
        }
        length -= (size_t)got;
    }
}

static void on_publish(const struct mqtt_publish_param *param)
{
    char topic_text[TOPIC_CHARS_MAX];
    size_t length = param->message.payload.len, topic_length = param->message.topic.topic.size;
    struct mqtt_puback_param ack = {.message_id = param->message_id};
    bool wanted = length <= CONFIG_PROPELLER_MESSAGE_BYTES_MAX && topic_length < sizeof topic_text;
    char *payload = wanted ? heap_alloc(length + 1) : NULL;

    if (wanted) {
        memcpy(topic_text, param->message.topic.topic.utf8, topic_length);
    }
    if (payload == NULL) {
        ignored++;
        LOG_WRN("a message of %zu bytes is too large for this device", length);
        drain(length);
    } else if (mqtt_readall_publish_payload(&client, (uint8_t *)payload, length) != 0) {
        broken = true;
    } else {
        payload[length] = 0;
        if (hear((span_t){topic_text, topic_length}, payload, length)) {
            payload = NULL;
        }
    }
    heap_free(payload);
    if (!broken && param->message.topic.qos == MQTT_QOS_1_AT_LEAST_ONCE) {
        mqtt_publish_qos1_ack(&client, &ack);
    }
}

static void on_event(struct mqtt_client *from, const struct mqtt_evt *event)
{
    switch (event->type) {
    case MQTT_EVT_CONNACK:
        connected = event->result == 0;
        broken = broken || !connected;
        if (!connected) {
            LOG_ERR("the broker refuses this proplet: %d", event->result);
        }
        break;
    case MQTT_EVT_SUBACK:
        subscribed = true;
        break;
    case MQTT_EVT_PUBLISH:
        on_publish(&event->param.publish);
        break;
    case MQTT_EVT_DISCONNECT:
        broken = true;
        break;
    default:
        break;
    }
}

/* --- connecting -------------------------------------------------------------------------------------------- */

static struct mqtt_utf8 utf8(const char *text)
{
    return (struct mqtt_utf8){.utf8 = (const uint8_t *)text, .size = strlen(text)};
}

static void set_up_client(void)
{
    text_t text;

    mqtt_client_init(&client);
    broker = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(me.broker_port)};
    memcpy(broker.sin_addr.s4_addr, me.broker_ip, 4);
    text_open(&text, will_text, sizeof will_text);
    write_offline(&text, me.config.id, me.topics.lane == LANE_DIRECTED ? me.boot : "");
    text_open(&text, will_topic_text, sizeof will_topic_text);
    topic_of(&me.topics, SAY_ALIVE, "", &text);
    user = utf8(me.config.id);
    password = utf8(me.config.key);
    will_message = utf8(will_text);
    will_topic = (struct mqtt_topic){.topic = utf8(will_topic_text), .qos = MQTT_QOS_1_AT_LEAST_ONCE};
    client.broker = &broker;
    client.evt_cb = on_event;
    client.client_id = utf8(me.config.id);
    client.user_name = &user;
    client.password = me.config.key[0] != 0 ? &password : NULL;
    client.will_topic = &will_topic;
    client.will_message = &will_message;
    client.protocol_version = MQTT_VERSION_3_1_1;
    client.rx_buf = rx_buffer;
    client.rx_buf_size = sizeof rx_buffer;
    client.tx_buf = tx_buffer;
    client.tx_buf_size = sizeof tx_buffer;
    client.transport.type = MQTT_TRANSPORT_NON_SECURE;
}

/* Feed what comes to the client until `flag` is set. */
static bool await(const bool volatile *flag)
{
    int64_t deadline = now_ms() + ANSWER_WAIT_MS;
    struct zsock_pollfd one = {.fd = client.transport.tcp.sock, .events = ZSOCK_POLLIN};

    while (!*flag && !broken && now_ms() < deadline) {
        if (zsock_poll(&one, 1, (int)(deadline - now_ms())) > 0 && mqtt_input(&client) != 0) {
            broken = true;
        }
    }
    return *flag && !broken;
}

static bool subscribe_all(void)
{
    static char texts[3][TOPIC_CHARS_MAX];
    static struct mqtt_topic topics[3];
    struct mqtt_subscription_list list = {.list = topics, .message_id = next_id()};
    text_t text;

    text_open(&text, texts[0], sizeof texts[0]);
    while (list.list_count < 3 && topic_subscription(&me.topics, list.list_count, &text)) {
        topics[list.list_count] =
            (struct mqtt_topic){.topic = utf8(texts[list.list_count]), .qos = MQTT_QOS_1_AT_LEAST_ONCE};
        if (++list.list_count < 3) {
            text_open(&text, texts[list.list_count], sizeof texts[0]);
        }
    }
    return mqtt_subscribe(&client, &list) == 0;
}

static bool connect_once(void)
{
    struct zsock_timeval stall = {.tv_sec = STALL_MS / 1000};

    connected = subscribed = broken = false;
    set_up_client();
    int error = mqtt_connect(&client);
    if (error != 0) {
        LOG_WRN("no connection to the broker %s: %d", me.config.broker, error);
        return false;
    }
    zsock_setsockopt(client.transport.tcp.sock, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall);
    zsock_setsockopt(client.transport.tcp.sock, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
    if (!await(&connected) || !subscribe_all() || !await(&subscribed)) {
        mqtt_abort(&client);
        connected = false;
        return false;
    }
    connects++;
    LOG_INF("connected to the broker %s", me.config.broker);
    return true;
}

/* --- other threads ----------------------------------------------------------------------------------------- */

static void put_ask(const ask_t *ask)
{
    k_msgq_put(&asked, ask, K_FOREVER);
    eventfd_write(wake, 1);
}

void link_begun(const attempt_key_t *key) { put_ask(&(ask_t){.kind = ASK_BEGUN, .key = *key}); }
void link_ended(ended_t *ended) { put_ask(&(ask_t){.kind = ASK_ENDED, .ended = ended}); }

static bool ask_and_wait(ask_t ask)
{
    struct k_sem answered;
    bool done = false;

    k_sem_init(&answered, 0, 1);
    ask.done = &done;
    ask.answered = &answered;
    put_ask(&ask);
    /* The link always answers: it never waits for this thread. */
    k_sem_take(&answered, K_FOREVER);
    return done;
}

bool link_say(say_t say, const char *round, span_t payload)
{
    return ask_and_wait((ask_t){.kind = ASK_SAY, .say = say, .text = round, .payload = payload});
}

bool link_subscribe(const char *topic) { return ask_and_wait((ask_t){.kind = ASK_SUBSCRIBE, .text = topic}); }

static bool subscribe_one(const char *topic)
{
    struct mqtt_topic one = {.topic = utf8(topic), .qos = MQTT_QOS_1_AT_LEAST_ONCE};
    struct mqtt_subscription_list list = {.list = &one, .list_count = 1, .message_id = next_id()};

    return connected && !broken && mqtt_subscribe(&client, &list) == 0;
}

static void take_end(ended_t *ended)
{
    outcome_t outcome = {
        .results = {ended->results, ended->results == NULL ? 0 : ended->results_length},
        .error = span_of(ended->error),
        .failure = span_of(ended->failure),
        .standard_error = {ended->standard_error, ended->standard_error_length},
        .usage = ended->usage,
    };

    agent_ended(&agent, &ended->key, &outcome, now_ms());
    heap_free(ended->results);
    heap_free(ended->error);
    heap_free(ended);
}

static void do_ask(const ask_t *ask)
{
    switch (ask->kind) {
    case ASK_BEGUN:
        agent_started(&agent, &ask->key, now_ms());
        return;
    case ASK_ENDED:
        take_end(ask->ended);
        return;
    case ASK_SAY:
        *ask->done = publish(ask->say, ask->text, ask->payload);
        break;
    case ASK_SUBSCRIBE:
        *ask->done = subscribe_one(ask->text);
        break;
    }
    k_sem_give(ask->answered);
}

static void do_asked(void)
{
    ask_t ask;
    eventfd_t count;

    eventfd_read(wake, &count);
    while (k_msgq_get(&asked, &ask, K_NO_WAIT) == 0) {
        do_ask(&ask);
    }
}

/* --- the thread -------------------------------------------------------------------------------------------- */

static int wait_ms(void)
{
    int64_t until = MIN(agent_due(&agent), now_ms() + mqtt_keepalive_time_left(&client));

    if (CONFIG_PROPELLER_METRICS_S > 0) {
        until = MIN(until, metrics_due_ms);
    }
    return (int)CLAMP(until - now_ms(), 0, 60000);
}

static void live(void)
{
    struct zsock_pollfd both[2] = {{.fd = client.transport.tcp.sock, .events = ZSOCK_POLLIN},
                                   {.fd = wake, .events = ZSOCK_POLLIN}};

    zsock_poll(both, 2, wait_ms());
    if (both[0].revents != 0 && mqtt_input(&client) != 0) {
        broken = true;
    }
    if (both[1].revents != 0) {
        do_asked();
    }
    agent_tick(&agent, now_ms());
    if (CONFIG_PROPELLER_METRICS_S > 0 && metrics_due_ms <= now_ms()) {
        say_metrics();
        metrics_due_ms = now_ms() + 1000 * CONFIG_PROPELLER_METRICS_S;
    }
    int error = mqtt_live(&client);
    if ((error != 0 && error != -EAGAIN) || client.unacked_ping > UNANSWERED_PINGS_MAX) {
        broken = true;
    }
}

/* Wait for the next try, answering the worker meanwhile. */
static void pause(int64_t longest)
{
    int64_t until = now_ms() + 1 + sys_rand32_get() % (uint32_t)longest;
    struct zsock_pollfd one = {.fd = wake, .events = ZSOCK_POLLIN};

    while (now_ms() < until) {
        if (zsock_poll(&one, 1, (int)(until - now_ms())) > 0) {
            do_asked();
        }
    }
}

static void run(void *a, void *b, void *c)
{
    int64_t longest = PAUSE_MS;

    for (;;) {
        if (!connect_once()) {
            pause(longest);
            longest = MIN(2 * longest, PAUSE_MS_MAX);
            continue;
        }
        longest = PAUSE_MS;
        metrics_due_ms = now_ms() + 1000;
        agent_connected(&agent, now_ms());
        while (!broken) {
            live();
        }
        LOG_WRN("the connection to the broker is lost");
        connected = false;
        mqtt_abort(&client);
        pause(longest);
    }
}

bool link_connected(void) { return connected; }

void link_status(size_t *held, bool *welcomed, uint32_t *times, uint32_t *not_followed)
{
    *held = agent_held(&agent);
    *welcomed = agent.welcomed;
    *times = connects;
    *not_followed = ignored;
}

void link_start(void)
{
    device_t device;
    uint64_t heartbeat_s = 10;

    wake = eventfd(0, EFD_NONBLOCK);
    device_describe(&device);
    span_number(span_of(me.config.heartbeat), 3600, &heartbeat_s);
    agent_init(&agent, &ports, &device, me.topics.lane, me.topics.lane == LANE_DIRECTED ? me.boot : "",
               (int64_t)heartbeat_s * 1000);
    k_thread_create(&thread, stack, K_THREAD_STACK_SIZEOF(stack), run, NULL, NULL, NULL, 6, 0, K_NO_WAIT);
    k_thread_name_set(&thread, "link");
}
