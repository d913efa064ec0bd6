/* The bundle: opened, tested on its first start, and asked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

#define DIGEST 64
#define MOST_PATH 4096

struct prompt {
    char *text;
    size_t length;
};

static void keep(void *user, const char *text, size_t length) {
    struct prompt *prompt = user;
    prompt->text = malloc(length + 1);
    if (prompt->text == NULL) return;
    memcpy(prompt->text, text, length);
    prompt->text[length] = '\0';
    prompt->length = length;
}

static void say(void *stream, const char *text, size_t length) {
    fwrite(text, 1, length, stream);
    fputc('\n', stream);
}

/* The file that says that this very bundle passed here: named by the manifest's digest. */
static int stamp_path(const struct settings *settings, char *path, size_t room) {
    char manifest[MOST_PATH], head[512];
    if (snprintf(manifest, sizeof manifest, "%s/manifest.json", settings->bundle) >= (int)sizeof manifest) return 1;
    FILE *file = fopen(manifest, "r");
    if (file == NULL) return 1;
    head[fread(head, 1, sizeof head - 1, file)] = '\0';
    fclose(file);
    const char *digest = strstr(head, "\"digest\": \"");
    if (digest == NULL || strlen(digest += strlen("\"digest\": \"")) < DIGEST) return 1;
    const char *artifact = settings->artifact == NULL ? "shipped" : settings->artifact;
    return snprintf(path, room, "%s/tested-%.64s-%s", settings->state, digest, artifact) >= (int)room;
}

es_session *open_tested(const struct settings *settings) {
    es_session *session = NULL;
    es_options options = {0};
    options.size = sizeof options;
    options.threads = settings->threads;
    if (es_open(settings->bundle, settings->artifact, &options, &session) != ES_OK) {
        fprintf(stderr, "error: %s\n", es_error());
        return NULL;
    }
    char stamp[MOST_PATH];
    const int stamped = settings->state != NULL && stamp_path(settings, stamp, sizeof stamp) == 0;
    FILE *file = stamped ? fopen(stamp, "r") : NULL;
    if (file != NULL) { /* tested at an earlier start */
        fclose(file);
        return session;
    }
    fprintf(stderr, "first start: the bundle's golden answers are tried on this machine\n");
    if (es_selftest(session, say, stderr) != ES_OK) {
        fprintf(stderr, "error: %s\n", es_error());
        es_close(session);
        return NULL;
    }
    if (stamped && (file = fopen(stamp, "w")) == NULL) {
        fprintf(stderr, "%s: %s; the test will run at the next start too\n", stamp, strerror(errno));
    } else if (file != NULL) {
        fclose(file);
    }
    return session;
}

struct pieces {
    on_piece on_piece;
    void *user;
};

static int pass_on(void *user, int32_t token, const char *text, size_t length) {
    const struct pieces *pieces = user;
    (void)token;
    return length == 0 ? 0 : pieces->on_piece(pieces->user, text, length);
}

/* A prompt as the model was trained on it: through the chat template where the bundle has one. */
static es_status prepared(es_session *session, const char *text, size_t length, struct prompt *prompt) {
    char *content = json_string(text, length);
    if (content == NULL) return ES_MEMORY;
    const char form[] = "[{\"role\": \"user\", \"content\": %s}]";
    const size_t room = sizeof form + strlen(content);
    char *messages = malloc(room);
    es_status status = ES_MEMORY;
    if (messages != NULL) {
        snprintf(messages, room, form, content);
        status = es_apply_template(session, messages, keep, prompt);
        if (status == ES_OK && prompt->text == NULL) status = ES_MEMORY;
    }
    free(messages);
    free(content);
    return status;
}

int answer(es_session *session, const struct settings *settings, const char *prompt, size_t length, on_piece on_piece,
           void *user) {
    struct prompt chat = {NULL, 0};
    es_status status = ES_OK;
    if (CHAT) {
        status = prepared(session, prompt, length, &chat);
        prompt = chat.text;
        length = chat.length;
    }
    int32_t *ids = NULL;
    size_t count = 0;
    if (status == ES_OK) {
        /* No text has more tokens than bytes, and the few around it. */
        ids = malloc((length + 8) * sizeof *ids);
        status = ids == NULL ? ES_MEMORY : es_tokenize(session, prompt, length, !CHAT, ids, length + 8, &count);
    }
    if (status == ES_OK) {
        es_generation generation = {0};
        struct pieces pieces = {on_piece, user};
        generation.size = sizeof generation;
        generation.max_new_tokens = settings->max_new_tokens;
        status = es_generate(session, ids, count, &generation, pass_on, &pieces);
    }
    if (status != ES_OK && status != ES_CANCELLED) {
        fprintf(stderr, "error: %s\n", status == ES_MEMORY && ids == NULL ? "too little memory" : es_error());
    }
    free(ids);
    free(chat.text);
    return status != ES_OK;
}
