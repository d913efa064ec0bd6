/* Prompts and answers over MQTT, by libmosquitto: its network thread receives, the main thread answers. */
#define _POSIX_C_SOURCE 200809L
#include <mosquitto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway.h"

#define MOST_WAITING 16
#define MOST_PROMPT (1 << 16)
#define MOST_TOPIC 512

/* Prompts that came and aren't answered yet; a full queue drops the newest, and says so. */
struct queue {
    pthread_mutex_t lock;
    pthread_cond_t came;
    char *prompts[MOST_WAITING];
    int count;
};

struct service {
    struct mosquitto *client;
    const char *topic;
    char stream[MOST_TOPIC], answer[MOST_TOPIC];
    struct queue queue;
    char *text; /* of the answer under way */
    size_t length;
};

static void connected(struct mosquitto *client, void *user, int status) {
    const struct service *service = user;
    /* Subscribed at each connection: the broker may have forgotten. */
    if (status == 0) mosquitto_subscribe(client, NULL, service->topic, 1);
    fprintf(stderr, status == 0 ? "waiting for prompts on %s\n" : "%s: the broker refuses\n", service->topic);
}

static void received(struct mosquitto *client, void *user, const struct mosquitto_message *message) {
    struct service *service = user;
    struct queue *queue = &service->queue;
    (void)client;
    if (message->payloadlen <= 0 || message->payloadlen > MOST_PROMPT) {
        fprintf(stderr, "a prompt of %d bytes was dropped\n", message->payloadlen);
        return;
    }
    char *prompt = strndup(message->payload, (size_t)message->payloadlen);
    pthread_mutex_lock(&queue->lock);
    const int room = prompt != NULL && queue->count < MOST_WAITING;
    if (room) queue->prompts[queue->count++] = prompt;
    pthread_cond_signal(&queue->came);
    pthread_mutex_unlock(&queue->lock);
    if (!room) {
        fprintf(stderr, "a prompt was dropped: %d are waiting\n", MOST_WAITING);
        free(prompt);
    }
}

/* The next prompt, or NULL when the gateway is to stop. A signal can't wake a thread that waits: look each second. */
static char *next_prompt(struct queue *queue) {
    char *prompt = NULL;
    pthread_mutex_lock(&queue->lock);
    while (queue->count == 0 && !stopping) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&queue->came, &queue->lock, &until);
    }
    if (queue->count > 0 && !stopping) {
        prompt = queue->prompts[0];
        memmove(queue->prompts, queue->prompts + 1, (size_t)--queue->count * sizeof prompt);
    }
    pthread_mutex_unlock(&queue->lock);
    return prompt;
}

static int publish_piece(void *user, const char *text, size_t length) {
    struct service *service = user;
    char *longer = realloc(service->text, service->length + length);
    if (longer == NULL) return 1;
    service->text = longer;
    memcpy(service->text + service->length, text, length);
    service->length += length;
    mosquitto_publish(service->client, NULL, service->stream, (int)length, text, 0, false);
    return 0;
}

static void answer_prompts(es_session *session, const struct settings *settings, struct service *service) {
    char *prompt;
    while ((prompt = next_prompt(&service->queue)) != NULL) {
        service->length = 0;
        const int failed = answer(session, settings, prompt, strlen(prompt), publish_piece, service);
        char *asked = json_string(prompt, strlen(prompt));
        char *said = json_string(service->text == NULL ? "" : service->text, service->length);
        const size_t room = 64 + (asked == NULL ? 0 : strlen(asked)) + (said == NULL ? 0 : strlen(said));
        char *json = malloc(room);
        if (asked != NULL && said != NULL && json != NULL) {
            const int length = snprintf(json, room, "{\"prompt\": %s, \"answer\": %s, \"ok\": %s}", asked, said,
                                        failed ? "false" : "true");
            mosquitto_publish(service->client, NULL, service->answer, length, json, 1, false);
        }
        free(json);
        free(said);
        free(asked);
        free(prompt);
    }
}

/* The first line of a file that only this user reads: passwords aren't for a command line, which others see. */
static int set_password(struct mosquitto *client, const struct settings *settings) {
    char password[256] = "";
    FILE *file = fopen(settings->password_file, "r");
    if (file == NULL || fgets(password, sizeof password, file) == NULL) {
        fprintf(stderr, "error: %s: no password to read there\n", settings->password_file);
        if (file != NULL) fclose(file);
        return 1;
    }
    fclose(file);
    password[strcspn(password, "\r\n")] = '\0';
    return mosquitto_username_pw_set(client, settings->user, password) != MOSQ_ERR_SUCCESS;
}

int serve_mqtt(es_session *session, const struct settings *settings) {
    struct service service;
    memset(&service, 0, sizeof service);
    pthread_mutex_init(&service.queue.lock, NULL);
    pthread_cond_init(&service.queue.came, NULL);
    service.topic = settings->topic;
    const int fits = snprintf(service.stream, MOST_TOPIC, "%s/stream", settings->topic) < MOST_TOPIC &&
                     snprintf(service.answer, MOST_TOPIC, "%s/answer", settings->topic) < MOST_TOPIC;
    if (!fits || mosquitto_pub_topic_check(settings->topic) != MOSQ_ERR_SUCCESS) {
        fprintf(stderr, "error: --topic %s: not a topic\n", settings->topic);
        return 2;
    }
    mosquitto_lib_init();
    service.client = mosquitto_new(NULL, true, &service);
    int failed = service.client == NULL;
    if (!failed && settings->password_file != NULL) failed = set_password(service.client, settings);
    if (!failed && settings->ca_file != NULL) {
        failed = mosquitto_tls_set(service.client, settings->ca_file, NULL, NULL, NULL, NULL) != MOSQ_ERR_SUCCESS;
        if (failed) fprintf(stderr, "error: --ca-file %s can't be used\n", settings->ca_file);
    }
    if (!failed) {
        mosquitto_connect_callback_set(service.client, connected);
        mosquitto_message_callback_set(service.client, received);
        mosquitto_reconnect_delay_set(service.client, 1, 60, true);
        const int status = mosquitto_connect(service.client, settings->host, settings->port, 60);
        failed = status != MOSQ_ERR_SUCCESS;
        if (failed) fprintf(stderr, "error: %s:%d: %s\n", settings->host, settings->port, mosquitto_strerror(status));
    }
    if (!failed && mosquitto_loop_start(service.client) == MOSQ_ERR_SUCCESS) {
        answer_prompts(session, settings, &service);
        mosquitto_disconnect(service.client);
        mosquitto_loop_stop(service.client, false);
    }
    if (service.client != NULL) mosquitto_destroy(service.client);
    mosquitto_lib_cleanup();
    for (int at = 0; at < service.queue.count; ++at) free(service.queue.prompts[at]);
    free(service.text);
    return failed;
}
