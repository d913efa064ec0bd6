/* What the parts of the gateway give each other. */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "edgestill.h"

/* How answers are made; as on the command line. */
struct settings {
    const char *bundle;
    const char *artifact; /* NULL: the one that the bundle ships */
    const char *state;    /* folder for the self-test's result; NULL: the test runs at each start */
    int32_t threads;      /* 0: the big cores, at most as many as the model needs */
    int32_t max_new_tokens;
    const char *host, *topic, *user, *password_file, *ca_file;
    int port;
};

/* Takes pieces of an answer as they come; other than 0 ends it. */
typedef int (*on_piece)(void *user, const char *text, size_t length);

/* answering.c: open the bundle, test it on its first start here, answer. NULL or other than 0: the reason is printed. */
es_session *open_tested(const struct settings *settings);
int answer(es_session *session, const struct settings *settings, const char *prompt, size_t length, on_piece on_piece,
           void *user);

/* cores.c: how many of this machine's cores are its fastest kind; 0 where it doesn't say. */
int32_t big_cores(void);

/* json.c: a text as a JSON string, quotes included; the caller frees it. NULL without memory. */
char *json_string(const char *text, size_t length);

/* mqtt.c: answer what comes on a topic until `session`'s answer is cancelled or the connection is given up. */
int serve_mqtt(es_session *session, const struct settings *settings);

extern volatile int stopping; /* set by SIGINT and SIGTERM */

#endif
