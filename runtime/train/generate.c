#include "runtime/train/generate.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

typedef struct writer {
    lks_predictor *predictor;
    const lks_sampling *sampling;
    uint64_t key;
    int32_t *window; /* [context] the last tokens, then zeros that a causal model does not see */
    int64_t length;
    candidate *candidates; /* [vocabulary] */
} writer;

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static double uniform(const writer *w, uint64_t number)
{
    lks_rng_block block = lks_rng_words(w->key, number, 0);
    return ((double)(block.word[0] >> 5) * 0x1p26 + (double)(block.word[1] >> 6)) * 0x1p-53;
}

/* From softmax(logits / temperature) over the top_k likeliest. */
static int32_t sample(writer *w, const float *logits, int64_t vocabulary, uint64_t number)
{
    for (int64_t i = 0; i < vocabulary; ++i)
        w->candidates[i] = (candidate){logits[i], (int32_t)i};
    qsort(w->candidates, (size_t)vocabulary, sizeof *w->candidates, by_logit);
    double temperature = w->sampling->temperature, sum = 0, below = 0;
    if (temperature == 0)
        return w->candidates[0].token;
    int64_t count =
        w->sampling->top_k && w->sampling->top_k < vocabulary ? w->sampling->top_k : vocabulary;
    for (int64_t i = 0; i < count; ++i)
        sum += exp((w->candidates[i].logit - w->candidates[0].logit) / temperature);
    double target = uniform(w, number) * sum;
    for (int64_t i = 0; i < count; ++i) {
        below += exp((w->candidates[i].logit - w->candidates[0].logit) / temperature);
        if (below > target)
            return w->candidates[i].token;
    }
    return w->candidates[count - 1].token;
}

static void push(writer *w, int32_t token)
{
    int64_t context = w->predictor->schema.context;
    if (w->length == context)
        memmove(w->window, w->window + 1, (size_t)--w->length * sizeof *w->window);
    w->window[w->length++] = token;
}

static lks_status next_token(writer *w, uint64_t number, int32_t *out)
{
    const float *logits;
    lks_shape shape;
    LKS_TRY(lks_predictor_run(w->predictor, w->window, "logits", &logits, &shape));
    const float *row = logits + (w->length - 1) * shape.size[shape.axes - 1];
    *out = sample(w, row, w->predictor->schema.vocabulary, number);
    return LKS_OK;
}

static lks_status write_tokens(writer *w, lks_sink sink, void *user)
{
    for (int64_t i = 0; i < w->sampling->tokens; ++i) {
        int32_t token;
        LKS_TRY(next_token(w, (uint64_t)i, &token));
        push(w, token);
        LKS_TRY(sink(user, &(char){(char)token}, 1));
    }
    return LKS_OK;
}

lks_status lks_generate_text(lks_predictor *predictor, const char *prompt, size_t prompt_bytes,
                             const lks_sampling *sampling, uint32_t stream, lks_sink sink,
                             void *user)
{
    writer w = {predictor, sampling, lks_rng_key(sampling->seed, LKS_RNG_SAMPLE, stream),
                NULL,      0,        NULL};
    lks_status status = LKS_NEW_ARRAY(&w.window, (size_t)predictor->schema.context);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&w.candidates, (size_t)predictor->schema.vocabulary);
    if (status == LKS_OK && !prompt_bytes)
        push(&w, '\n');
    for (size_t i = 0; i < prompt_bytes && status == LKS_OK; ++i)
        push(&w, (unsigned char)prompt[i]);
    if (status == LKS_OK)
        status = write_tokens(&w, sink, user);
    lks_memory_free(w.window);
    lks_memory_free(w.candidates);
    return status;
}
