/* libedgestill: a bundle's GGUF artifact inside any program.
 *
 * Every function returns ES_OK or a status, and es_error() then has one line of text. Strings are UTF-8. Neither side
 * frees what the other allocated: text is given to a function of the caller's, ids go into the caller's buffer. With
 * too little room there nothing is written, the count says how much there is, and the status is ES_ROOM. No exception
 * crosses this border. Sessions are apart from each other: each may be used from any thread, by one at a time; only
 * es_cancel may be called meanwhile.
 */
#ifndef EDGESTILL_H
#define EDGESTILL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define ES_API __declspec(dllexport)
#else
#define ES_API __attribute__((visibility("default")))
#endif

#define ES_ABI_VERSION 2

typedef enum es_status {
    ES_OK = 0,
    ES_USAGE = 1,     /* an argument is out of its range */
    ES_NOT_FOUND = 2, /* no such file, or no such artifact in the bundle */
    ES_CHANGED = 3,   /* a file or the manifest isn't what was packed, or damaged */
    ES_VERSION = 4,   /* a manifest that is newer than this library */
    ES_MEMORY = 5,    /* too little memory */
    ES_CONTEXT = 6,   /* the prompt doesn't fit the context */
    ES_IO = 7,        /* a file can't be written or read; errno's text is in es_error() */
    ES_CANCELLED = 8, /* es_cancel was called */
    ES_MISMATCH = 9,  /* the self-test found another answer than the bundle's golden one */
    ES_ROOM = 10,     /* the caller's buffer is too small */
    ES_INTERNAL = 11  /* llama.cpp refuses or fails; its reason is in es_error() */
} es_status;

typedef struct es_session es_session;

/* How a model is opened. Set `size` to sizeof(es_options); zeros are the defaults. */
typedef struct es_options {
    size_t size;
    int32_t threads;        /* 0: one for each 4 MiB of the model, at most the cores there are */
    int32_t context_length; /* tokens; 0: what the model was trained for, at most 4096 */
    int32_t no_mmap;        /* 1: read the weights into memory */
    int32_t no_verify;      /* 1: don't check the files' hashes (sizes and the manifest are checked all the same) */
    const char *kv_precision; /* "f16", "f32", "q8_0", "q4_0"; NULL: f32 where all of the file is float32, else f16 */
    int32_t no_repack; /* 1: leave 4-bit weights as they lie in the file: no copy of them in memory, and slower */
} es_options;

/* How an answer is made. Set `size` to sizeof(es_generation); zeros are the defaults: greedy, 256 tokens. */
typedef struct es_generation {
    size_t size;
    int32_t max_new_tokens;
    int32_t ignore_eos;
    float temperature; /* 0: greedy */
    int32_t top_k;     /* 0: all */
    float top_p;       /* 0: all */
    float min_p;
    uint64_t seed;
    const char *const *stop; /* strings that end the answer and aren't part of it */
    size_t stops;
} es_generation;

/* One token of an answer and the text that it completes (perhaps none; never half a character). Return other than 0
 * to end the answer. `text` is valid during the call. */
typedef int (*es_on_token)(void *user, int32_t token, const char *text, size_t length);

/* A whole text, with a zero at its end; valid during the call. */
typedef void (*es_on_text)(void *user, const char *text, size_t length);

/* The version of this header that the library was built from. */
ES_API uint32_t es_abi_version(void);

/* The text of this thread's last failure; valid until its next call. Never NULL. */
ES_API const char *es_error(void);

/* Open a bundle's artifact (NULL: the one it ships, else its first GGUF one), or a .gguf file, whose bytes nothing
 * vouches for. The manifest's schema and digest, and the sizes and hashes of the artifact's files, are checked before
 * any of their bytes is used. */
ES_API es_status es_open(const char *path, const char *artifact, const es_options *options, es_session **session);

ES_API void es_close(es_session *session);

/* Token ids of a text. `add_special`: with what the model expects around a text (BOS). */
ES_API es_status es_tokenize(es_session *session, const char *text, size_t length, int add_special, int32_t *ids,
                             size_t room, size_t *count);

/* A conversation as the model was trained on it, ready for its answer. `messages` is JSON: [{"role", "content"}]. */
ES_API es_status es_apply_template(es_session *session, const char *messages, es_on_text on_text, void *user);

/* Answer a prompt of token ids. What it shares with the sequence before isn't computed again. `on_token` may be NULL.
 * After ES_CANCELLED the answer up to there stands in the statistics, and the session is as good as before. */
ES_API es_status es_generate(es_session *session, const int32_t *ids, size_t count, const es_generation *generation,
                             es_on_token on_token, void *user);

/* The last answer's token ids, the one that ended it included. */
ES_API es_status es_answer(es_session *session, int32_t *ids, size_t room, size_t *count);

/* The last answer's text: what `on_token` was given, in one. */
ES_API es_status es_text(es_session *session, es_on_text on_text, void *user);

/* End the answer, bench or self-test under way after the token (or the piece of a prompt) being computed. From any
 * thread. */
ES_API void es_cancel(es_session *session);

/* Forget the sequence in the KV cache. */
ES_API es_status es_reset(es_session *session);

/* Write the sequence in the KV cache to a file, whole or not at all, and read it back: for this model and version. */
ES_API es_status es_save_state(es_session *session, const char *path);
ES_API es_status es_load_state(es_session *session, const char *path);

/* JSON of the model and the last answer: counts, and seconds of the load, the first token and each one after. */
ES_API es_status es_statistics(es_session *session, es_on_text on_json, void *user);

/* Measure: prompts of `prompt_tokens`, `new_tokens` after each, `repetitions` times; JSON of all samples. */
ES_API es_status es_bench(es_session *session, int32_t prompt_tokens, int32_t new_tokens, int32_t repetitions,
                          es_on_text on_json, void *user);

/* Go along the bundle's golden answers and look whether each of their tokens is this machine's, or nearly: its logit
 * below the largest by at most a twentieth of that one's height over the mean. Kernels for another processor round
 * differently and choose otherwise between tokens that are nearly as likely. ES_MISMATCH says which token of which
 * prompt differs by more. JSON: prompts, tokens, close_tokens (nearly), largest_gap (share of the height). */
ES_API es_status es_selftest(es_session *session, es_on_text on_json, void *user);

/* Measure this device: bytes a second that one core and all cores read from memory, their int8 and float32 operations
 * a second by the engine's own kernels, and bytes of weights that these multiply by a vector; some ten seconds, and
 * at most an eighth of the free memory. JSON. */
ES_API es_status es_probe(es_on_text on_json, void *user);

#ifdef __cplusplus
}
#endif
#endif
