/* paho C, the library of most programs in C; the contract is that of contract.py.
 *
 * A process for each version and transport. The library's own thread calls back; a check waits
 * on the condition `changed`. */
#define _GNU_SOURCE
#include <MQTTClient.h>
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 60, MESSAGES_MAX = 200, CLIENTS_MAX = 8, TOKENS_MAX = 1000 };
enum { NAME_MAX_LEN = 200 };

typedef struct {
  char *text;
  int qos, retained;
  MQTTProperties properties;
} Message;

typedef struct {
  MQTTClient handle;
  int descriptor, session_present, granted;
  Message messages[MESSAGES_MAX];
  int arrived, taken;
  /* By delivery token: what has been acknowledged, and with which code (-1: not yet). */
  int codes[TOKENS_MAX];
  int is_lost, disconnect_code;
} Client;

typedef struct {
  const char *name;
  int qos, is_durable, is_resumed;
  const char *filter, *will;
} Wish;

static const char *version, *transport, *check_name;
static char topic[NAME_MAX_LEN];
static Client *clients[CLIENTS_MAX];
static int clients_len;
static jmp_buf failed;
static char why[300];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static _Noreturn void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  longjmp(failed, 1);
}

static void same(const char *what, int got, int expected) {
  if (got != expected) fail("%s: %d, not %d", what, got, expected);
}

static void same_text(const char *what, const char *got, const char *expected) {
  if (strcmp(got, expected) != 0) fail("%s: %.60s, not %.60s", what, got, expected);
}

static int is_5(void) { return strcmp(version, "5") == 0; }
static int is_websocket(void) { return transport[0] == 'W'; }
static int is_tls(void) { return strcmp(transport, "TLS") == 0 || strcmp(transport, "WSS") == 0; }

/* Waits until `*value` is something else than `old`. */
static void wait_while(const char *what, const int *value, int old) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += PATIENCE_S;
  pthread_mutex_lock(&lock);
  int error = 0;
  while (*value == old && error == 0) error = pthread_cond_timedwait(&changed, &lock, &deadline);
  pthread_mutex_unlock(&lock);
  if (error != 0) fail("%s: nothing in %d s", what, PATIENCE_S);
}

static void change(int *value, int to) {
  pthread_mutex_lock(&lock);
  *value = to;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static int on_message(void *context, char *name, int len, MQTTClient_message *message) {
  (void)len;
  Client *client = context;
  if (client->arrived == MESSAGES_MAX) abort();
  Message *kept = &client->messages[client->arrived];
  kept->text = strndup(message->payload, message->payloadlen);
  kept->qos = message->qos;
  kept->retained = message->retained;
  kept->properties = MQTTProperties_copy(&message->properties);
  change(&client->arrived, client->arrived + 1);
  MQTTClient_freeMessage(&message);
  MQTTClient_free(name);
  return 1;
}

/* Only where the protocol has no Reason Codes; `on_published` comes in MQTT 5. */
static void on_delivered(void *context, MQTTClient_deliveryToken token) {
  if (!is_5()) change(&((Client *)context)->codes[token], 0);
}

static void on_published(void *context, int token, int kind, MQTTProperties *properties,
                         enum MQTTReasonCodes code) {
  (void)kind, (void)properties;
  change(&((Client *)context)->codes[token], code);
}

static void on_lost(void *context, char *cause) {
  (void)cause;
  change(&((Client *)context)->is_lost, 1);
}

static void on_disconnect(void *context, MQTTProperties *properties, enum MQTTReasonCodes code) {
  (void)properties;
  change(&((Client *)context)->disconnect_code, code);
}

static int port(void) { return atoi(getenv(transport)); }

/* Whether a descriptor is a connection to the broker. */
static int is_connection(int descriptor) {
  struct sockaddr_storage peer;
  socklen_t len = sizeof peer;
  if (getpeername(descriptor, (struct sockaddr *)&peer, &len) != 0) return 0;
  in_port_t number = peer.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&peer)->sin6_port
                                                : ((struct sockaddr_in *)&peer)->sin_port;
  return ntohs(number) == port();
}

/* The connection that no client has: the library does not tell. */
static int new_connection(void) {
  for (int descriptor = 3; descriptor < 256; descriptor++) {
    int is_known = 0;
    for (int n = 0; n < clients_len; n++) is_known |= clients[n]->descriptor == descriptor;
    if (!is_known && is_connection(descriptor)) return descriptor;
  }
  return -1;
}

static void connect_client(Client *client, const Wish *wish) {
  MQTTClient_connectOptions options5 = MQTTClient_connectOptions_initializer5;
  MQTTClient_connectOptions options = MQTTClient_connectOptions_initializer;
  MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
  MQTTClient_SSLOptions ssl = MQTTClient_SSLOptions_initializer;
  ssl.trustStore = getenv("CA");
  ssl.verify = 1;
  will.topicName = topic;
  will.message = wish->will;
  will.qos = 1;
  if (is_5()) options = options5;
  options.reliable = 0;
  options.will = wish->will ? &will : NULL;
  options.ssl = is_tls() ? &ssl : NULL;
  client->descriptor = -1;
  client->is_lost = 0;
  int code;
  if (is_5()) {
    options.cleanstart = !wish->is_durable;
    MQTTProperty expiry = {.identifier = MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL};
    expiry.value.integer4 = wish->is_durable ? 300 : 0;
    MQTTProperties properties = MQTTProperties_initializer;
    MQTTProperties_add(&properties, &expiry);
    MQTTResponse response = MQTTClient_connect5(client->handle, &options, &properties, NULL);
    code = response.reasonCode;
    MQTTResponse_free(response);
    MQTTProperties_free(&properties);
  } else {
    options.MQTTVersion = strcmp(version, "3.1") == 0 ? MQTTVERSION_3_1 : MQTTVERSION_3_1_1;
    options.cleansession = !wish->is_durable;
    code = MQTTClient_connect(client->handle, &options);
  }
  same("the code of CONNACK", code, 0);
  client->session_present = options.returned.sessionPresent;
  client->descriptor = new_connection();
}

static Client *open_client(Wish wish) {
  if (clients_len == CLIENTS_MAX) abort();
  Client *client = calloc(1, sizeof *client);
  memset(client->codes, 0xFF, sizeof client->codes);
  client->disconnect_code = -1;
  char uri[100], id[NAME_MAX_LEN + 20];
  const char *scheme = strcmp(transport, "TCP") == 0   ? "tcp"
                       : strcmp(transport, "TLS") == 0 ? "ssl"
                       : strcmp(transport, "WS") == 0  ? "ws"
                                                       : "wss";
  const char *path = is_websocket() ? "/mqtt" : "";
  snprintf(uri, sizeof uri, "%s://localhost:%d%s", scheme, port(), path);
  snprintf(id, sizeof id, "%s/%s", topic, wish.name);
  MQTTClient_createOptions options = MQTTClient_createOptions_initializer;
  options.MQTTVersion = is_5() ? MQTTVERSION_5 : MQTTVERSION_DEFAULT;
  same("creation", MQTTClient_createWithOptions(&client->handle, uri, id,
                                                MQTTCLIENT_PERSISTENCE_NONE, NULL, &options), 0);
  MQTTClient_setCallbacks(client->handle, client, on_lost, on_message, on_delivered);
  if (is_5()) {
    MQTTClient_setPublished(client->handle, client, on_published);
    MQTTClient_setDisconnected(client->handle, client, on_disconnect);
  }
  client->descriptor = -1;
  clients[clients_len++] = client;
  connect_client(client, &wish);
  if (wish.filter && !wish.is_resumed) {
    MQTTResponse response =
        MQTTClient_subscribe5(client->handle, wish.filter, wish.qos, NULL, NULL);
    same("the code of SUBACK", response.reasonCode, is_5() ? wish.qos : 0);
    MQTTResponse_free(response);
  }
  return client;
}

static Client *sender(void) { return open_client((Wish){.name = "s"}); }

static Client *subscriber(const char *name, const char *filter, int qos) {
  return open_client((Wish){.name = name, .filter = filter, .qos = qos});
}

static int start_publish(Client *client, const char *name, const char *text, int qos,
                         int is_retained, MQTTProperties *properties) {
  MQTTClient_deliveryToken token = 0;
  MQTTResponse response = MQTTClient_publish5(client->handle, name, strlen(text), text, qos,
                                              is_retained, properties, &token);
  same("publishing", response.reasonCode, 0);
  MQTTResponse_free(response);
  if (token >= TOKENS_MAX) abort();
  return token;
}

/* Publishes and waits for the acknowledgement; its Reason Code. */
static int publish(Client *client, const char *name, const char *text, int qos) {
  int token = start_publish(client, name, text, qos, 0, NULL);
  if (qos == 0) return 0;
  wait_while("an acknowledgement", &client->codes[token], -1);
  return client->codes[token];
}

static void publish_number(Client *client, int number, int qos) {
  char text[12];
  snprintf(text, sizeof text, "%d", number);
  publish(client, topic, text, qos);
}

static void publish_retained(Client *client, const char *text) {
  int token = start_publish(client, topic, text, 1, 1, NULL);
  wait_while("an acknowledgement", &client->codes[token], -1);
}

static void publish_with(Client *client, const char *name, const char *text, int is_retained,
                         MQTTProperties *properties) {
  int token = start_publish(client, name, text, 1, is_retained, properties);
  wait_while("an acknowledgement", &client->codes[token], -1);
  MQTTProperties_free(properties);
}

static Message *receive(Client *client) {
  wait_while("a message", &client->arrived, client->taken);
  return &client->messages[client->taken++];
}

static void cut(Client *client) {
  if (client->descriptor < 0) fail("no descriptor");
  shutdown(client->descriptor, SHUT_RDWR);
}

static void close_client(Client *client) {
  if (MQTTClient_isConnected(client->handle)) MQTTClient_disconnect(client->handle, 1000);
  client->descriptor = -1;
}

static MQTTLenString string(const char *text) {
  return (MQTTLenString){(int)strlen(text), (char *)text};
}

static void add_text(MQTTProperties *properties, int code, const char *text) {
  MQTTProperty property = {.identifier = code};
  property.value.data = string(text);
  MQTTProperties_add(properties, &property);
}

static void add_pair(MQTTProperties *properties, const char *name, const char *value) {
  MQTTProperty property = {.identifier = MQTTPROPERTY_CODE_USER_PROPERTY};
  property.value.data = string(name);
  property.value.value = string(value);
  MQTTProperties_add(properties, &property);
}

static void same_string(const char *what, MQTTLenString got, const char *expected) {
  char text[NAME_MAX_LEN + 20];
  snprintf(text, sizeof text, "%.*s", got.len, got.data);
  same_text(what, text, expected);
}

static void same_property(Message *message, int code, const char *expected) {
  MQTTProperty *property = MQTTProperties_getProperty(&message->properties, code);
  if (!property) fail("property %d is missing", code);
  same_string("a property", property->value.data, expected);
}

static void qos(int level) {
  Client *receiver = subscriber("r", topic, 2), *from = sender();
  char large[50001] = "";
  /* The library cannot send large WebSocket frames. */
  memset(large, 'x', level == 0 ? 10 : is_websocket() ? 1000 : sizeof large - 1);
  const char *texts[] = {"small", large};
  for (int n = 0; n < 2; n++) {
    publish(from, topic, texts[n], level);
    Message *message = receive(receiver);
    same("QoS", message->qos, level);
    same_text("payload", message->text, texts[n]);
  }
}

static void qos_0(void) { qos(0); }
static void qos_1(void) { qos(1); }
static void qos_2(void) { qos(2); }

static void expect(Message *message, const char *text, int is_retained) {
  same_text("payload", message->text, text);
  same("RETAIN", message->retained, is_retained);
}

static void retained(void) {
  Client *early = subscriber("early", topic, 1), *from = sender();
  publish_retained(from, "kept");
  expect(receive(early), "kept", 0);
  expect(receive(subscriber("late", topic, 1)), "kept", 1);
  publish_retained(from, "");
  Client *after = subscriber("after", topic, 1);
  publish(from, topic, "live", 1);
  expect(receive(after), "live", 0);
}

static void will(void) {
  Client *watcher = subscriber("watcher", topic, 1);
  close_client(open_client((Wish){.name = "calm", .will = "disconnected"}));
  cut(open_client((Wish){.name = "gone", .will = "cut"}));
  Message *message = receive(watcher);
  same_text("payload", message->text, "cut");
  same("QoS", message->qos, 1);
}

static const Wish DURABLE = {.name = "d", .qos = 2, .is_durable = 1, .filter = topic};
static const Wish RESUMED = {
    .name = "d", .qos = 2, .is_durable = 1, .is_resumed = 1, .filter = topic};

/* Counts messages by number until "end"; the library shows QoS 2 when it is released, so they
 * are in order by QoS if `is_ordered`. */
static void count_until_end(Client *client, int *counts, int is_ordered) {
  int last[3] = {-1, -1, -1};
  for (;;) {
    Message *message = receive(client);
    if (strcmp(message->text, "end") == 0) return;
    int number = atoi(message->text);
    same("QoS", message->qos, 1 + number % 2);
    if (is_ordered && number <= last[message->qos]) fail("%d after %d", number, last[message->qos]);
    last[message->qos] = number;
    counts[number]++;
  }
}

static void session_resumed(void) {
  Client *durable = open_client(DURABLE), *from = sender();
  same("Session Present", durable->session_present, 0);
  close_client(durable);
  for (int n = 0; n < 20; n++) publish_number(from, n, 1 + n % 2);
  durable = open_client(RESUMED);
  /* MQTT 3.1 has no such flag, and of MQTT 5 the library does not show it. */
  if (strcmp(version, "3.1.1") == 0) same("Session Present", durable->session_present, 1);
  publish(from, topic, "end", 2);
  int counts[20] = {0};
  count_until_end(durable, counts, 1);
  for (int n = 0; n < 20; n++) same("copies", counts[n], 1);
}

static void cut_in_flight(void) {
  Client *durable = open_client(DURABLE), *from = sender();
  int tokens[60], counts[60] = {0};
  for (int n = 0; n < 60; n++) {
    char text[12];
    snprintf(text, sizeof text, "%d", n);
    tokens[n] = start_publish(from, topic, text, 1 + n % 2, 0, NULL);
    if (n % 20 == 10) {
      cut(durable);
      wait_while("the loss", &durable->is_lost, 0);
      connect_client(durable, &RESUMED);
    }
  }
  for (int n = 0; n < 60; n++) {
    wait_while("an acknowledgement", &from->codes[tokens[n]], -1);
  }
  publish(from, topic, "end", 2);
  count_until_end(durable, counts, 0);
  for (int n = 0; n < 60; n++) {
    if (counts[n] < 1 || (n % 2 && counts[n] > 1)) fail("%d copies of %d", counts[n], n);
  }
}

static void shared_subscription(void) {
  char filter[NAME_MAX_LEN + 20];
  snprintf(filter, sizeof filter, "$share/g/%s", topic);
  Client *members[] = {subscriber("m1", filter, 1), subscriber("m2", filter, 1)};
  Client *from = sender();
  int counts[20] = {0};
  for (int n = 0; n < 20; n++) publish_number(from, n, 1);
  for (int n = 0; n < 20; n++) counts[atoi(receive(members[n % 2])->text)]++;
  for (int n = 0; n < 20; n++) same("copies", counts[n], 1);
  /* What comes next is new: no member holds a second copy. */
  for (int n = 0; n < 2; n++) publish(from, topic, "end", 1);
  for (int n = 0; n < 2; n++) same_text("payload", receive(members[n])->text, "end");
}

static void user_properties(void) {
  static const char *pairs[][2] = {{"a", "1"}, {"a", "2"}, {"größe", "ß"}};
  Client *receiver = subscriber("r", topic, 1), *from = sender();
  MQTTProperties properties = MQTTProperties_initializer;
  for (int n = 0; n < 3; n++) add_pair(&properties, pairs[n][0], pairs[n][1]);
  publish_with(from, topic, "x", 0, &properties);
  Message *message = receive(receiver);
  int code = MQTTPROPERTY_CODE_USER_PROPERTY;
  same("User Properties", MQTTProperties_propertyCount(&message->properties, code), 3);
  for (int n = 0; n < 3; n++) {
    MQTTProperty *got = MQTTProperties_getPropertyAt(&message->properties, code, n);
    same_string("name", got->value.data, pairs[n][0]);
    same_string("value", got->value.value, pairs[n][1]);
  }
}

static void request_and_response(void) {
  char answers[NAME_MAX_LEN + 20];
  snprintf(answers, sizeof answers, "%s/answers", topic);
  Client *asker = subscriber("asker", answers, 1), *answerer = subscriber("answerer", topic, 1);
  Client *from = sender();
  MQTTProperties properties = MQTTProperties_initializer;
  add_text(&properties, MQTTPROPERTY_CODE_RESPONSE_TOPIC, answers);
  add_text(&properties, MQTTPROPERTY_CODE_CORRELATION_DATA, "4,2");
  publish_with(from, topic, "?", 0, &properties);
  Message *request = receive(answerer);
  same_property(request, MQTTPROPERTY_CODE_RESPONSE_TOPIC, answers);
  same_property(request, MQTTPROPERTY_CODE_CORRELATION_DATA, "4,2");
  MQTTProperties answer = MQTTProperties_initializer;
  add_text(&answer, MQTTPROPERTY_CODE_CORRELATION_DATA, "4,2");
  publish_with(from, answers, "!", 0, &answer);
  same_property(receive(asker), MQTTPROPERTY_CODE_CORRELATION_DATA, "4,2");
}

static void publish_expiring(Client *client, int number, const char *text, int seconds,
                             int is_retained) {
  char name[NAME_MAX_LEN + 20];
  snprintf(name, sizeof name, "%s/%d", topic, number);
  MQTTProperty expiry = {.identifier = MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL};
  expiry.value.integer4 = seconds;
  MQTTProperties properties = MQTTProperties_initializer;
  MQTTProperties_add(&properties, &expiry);
  publish_with(client, name, text, is_retained, &properties);
}

static void expect_expiring(Message *message, const char *text, int least, int most) {
  int code = MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL;
  int seconds = MQTTProperties_getNumericValue(&message->properties, code);
  same_text("payload", message->text, text);
  if (seconds < least || seconds > most) fail("%s expires in %d s", text, seconds);
}

static void message_expiry(void) {
  char filter[NAME_MAX_LEN + 20];
  snprintf(filter, sizeof filter, "%s/+", topic);
  Client *from = sender();
  publish_expiring(from, 1, "stale", 1, 1);
  publish_expiring(from, 2, "fresh", 100, 1);
  /* Time itself is what is waited for. */
  sleep(2);
  Client *receiver = subscriber("r", filter, 1);
  expect_expiring(receive(receiver), "fresh", 50, 98);
  publish_expiring(from, 3, "live", 100, 0);
  expect_expiring(receive(receiver), "live", 50, 100);
}

static void reason_of_puback(void) {
  Client *from = sender();
  same("nobody", publish(from, topic, "nobody", 1), 0x10);
  subscriber("r", topic, 1);
  same("somebody", publish(from, topic, "somebody", 1), 0);
}

static int unsubscribe(Client *client) {
  MQTTResponse response = MQTTClient_unsubscribe5(client->handle, topic, NULL);
  int code = response.reasonCode;
  MQTTResponse_free(response);
  return code;
}

static void reason_of_unsuback(void) {
  Client *client = subscriber("r", topic, 1);
  same("subscribed", unsubscribe(client), 0);
  same("not subscribed", unsubscribe(client), 0x11);
}

static void reason_of_disconnect(void) {
  Client *first = open_client((Wish){.name = "same"});
  open_client((Wish){.name = "same"});
  wait_while("DISCONNECT", &first->disconnect_code, -1);
  same("the code of DISCONNECT", first->disconnect_code, 0x8E);
}

static const struct {
  const char *name;
  void (*run)(void);
  int needs_5;
} CHECKS[] = {
    {"QoS 0", qos_0, 0},
    {"QoS 1", qos_1, 0},
    {"QoS 2", qos_2, 0},
    {"retained", retained, 0},
    {"will", will, 0},
    {"session resumed", session_resumed, 0},
    {"cut in flight", cut_in_flight, 0},
    {"shared subscription", shared_subscription, 0},
    {"User Properties", user_properties, 1},
    {"request and response", request_and_response, 1},
    {"message expiry", message_expiry, 1},
    {"reason of PUBACK", reason_of_puback, 1},
    {"reason of UNSUBACK", reason_of_unsuback, 1},
    {"reason of DISCONNECT", reason_of_disconnect, 1},
};

static void run_check(void (*run)(void)) {
  snprintf(topic, sizeof topic, "paho-c/%s/%s/%s", version, transport, check_name);
  for (char *c = topic; *c; c++) *c = *c == ' ' ? '-' : *c;
  clients_len = 0;
  if (setjmp(failed) == 0) {
    run();
    printf("ok %s %s %s\n", version, transport, check_name);
  } else {
    printf("not ok %s %s %s: %s\n", version, transport, check_name, why);
  }
  /* The library's thread may still call back with a client: it is left to the process's end. */
  for (int n = 0; n < clients_len; n++) close_client(clients[n]);
}

static void run_column(void) {
  for (size_t n = 0; n < sizeof CHECKS / sizeof *CHECKS; n++) {
    check_name = CHECKS[n].name;
    if (CHECKS[n].needs_5 && !is_5()) continue;
    const char *fault = NULL;
    if (strcmp(transport, "WSS") == 0)
      fault = "the library sends CONNECT without a WebSocket frame now and then";
    if (fault)
      printf("skip %s %s %s: %s\n", version, transport, check_name, fault);
    else
      run_check(CHECKS[n].run);
  }
}

int main(void) {
  static const char *versions[] = {"3.1", "3.1.1", "5"};
  static const char *transports[] = {"TCP", "TLS", "WS", "WSS"};
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("client paho-c %s\n", MQTTClient_getVersionInfo()[1].value);
  fflush(stdout);
  for (int v = 0; v < 3; v++) {
    for (int t = 0; t < 4; t++) {
      version = versions[v], transport = transports[t];
      if (fork() == 0) {
        MQTTClient_init_options options = MQTTClient_init_options_initializer;
        options.do_openssl_init = 1;
        MQTTClient_global_init(&options);
        run_column();
        _exit(0);
      }
    }
  }
  int status, all = 0;
  while (wait(&status) > 0 || errno == EINTR) all |= status;
  return all != 0;
}
