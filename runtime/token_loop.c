/* The loop of a greedy answer over llama.cpp: compute a token, take the likeliest next one, and so on.
 *
 * Python does the same in runtime/answer_loop.py, at 2 to 4 us a token more, and it waits for the interpreter's lock
 * after every token, up to 5 ms where another thread computes in Python. Nothing of Python or llama.cpp is included or
 * linked here: functions and addresses come by ctypes, so one build fits every Python.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* llama.h's llama_batch. Who calls compares its size with that of llama-cpp-python's. */
typedef struct {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
} batch;

typedef struct {
    int32_t (*decode)(void *context, batch one); /* llama_decode: 0 when it went well */
    void *context;
    const batch *one;                   /* of one token, the sequence's last, which isn't computed yet */
    const float *logits;                /* [vocabulary], where llama.cpp writes those after the batch's last token */
    const volatile uint8_t *cancelled;  /* not 0: end after the token that is being computed */
    const int32_t *ends;                /* token ids that end the answer, end_count of them */
    int32_t *tokens;                    /* out: made ids */
    double *seconds;                    /* out: what each took */
    double longest;                     /* seconds after which to come back, whatever is left */
    int32_t vocabulary, end_count;
    int32_t count;                      /* of tokens wanted, at least 1 */
    int32_t made;                       /* out */
    int32_t code;                       /* out: llama_decode's */
    int32_t not_numbers;                /* out: 1 when a logit after the last computed token is NaN; none was taken */
} loop;

enum { BLOCK = 64 };

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

/* Whether a block has a value larger than one, or a NaN. (Without a branch: compilers make vectors of it.) */
static int has_larger(const float *block, float than) {
    unsigned found = 0;
    for (int i = 0; i < BLOCK; ++i) found |= (unsigned)!(block[i] <= than);
    return found != 0;
}

/* The first of the largest, or the first NaN, as numpy's argmax. Few blocks hold a larger one than all before. */
static int32_t largest(const float *values, int32_t count) {
    int32_t best = 0;
    float most = values[0];
    if (isnan(most)) return 0;
    for (int32_t start = 0; start < count; start += BLOCK) {
        const int32_t end = count - start < BLOCK ? count : start + BLOCK;
        if (end - start == BLOCK && !has_larger(values + start, most)) continue;
        for (int32_t i = start; i < end; ++i) {
            if (values[i] <= most) continue;
            if (isnan(values[i])) return i;
            most = values[best = i];
        }
    }
    return best;
}

size_t edgestill_batch_bytes(void) { return sizeof(batch); }

size_t edgestill_loop_bytes(void) { return sizeof(loop); }

void edgestill_decode_greedily(loop *self) {
    const double begun = now();
    double before = begun;
    self->made = self->code = self->not_numbers = 0;
    while (self->made < self->count) {
        self->code = self->decode(self->context, *self->one);
        if (self->code != 0) return;
        const int32_t token = largest(self->logits, self->vocabulary);
        if (isnan(self->logits[token])) {
            self->not_numbers = 1;
            return;
        }
        const double after = now();
        self->tokens[self->made] = *self->one->token = token;
        self->seconds[self->made++] = after - before;
        before = after;
        for (int32_t i = 0; i < self->end_count; ++i) {
            if (token == self->ends[i]) return;
        }
        if (*self->cancelled || after - begun >= self->longest) return;
    }
}
