#include "mutate.h"

#include "runtime/base/rng.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fuzz_random {
    uint64_t key, round, drawn;
} fuzz_random;

/* A number below `limit`, 0 when limit is 0. */
static size_t fuzz_draw(fuzz_random *random, size_t limit)
{
    uint64_t index = random->drawn++;
    uint32_t word = lks_rng_words(random->key, random->round, index / 4).word[index % 4];
    return limit ? word % limit : 0;
}

/* Replaces `removed` bytes at `at` by `added` bytes. */
static void fuzz_splice(lks_text *input, size_t at, size_t removed, const char *bytes, size_t added)
{
    lks_text result = {0};
    lks_text_append_bytes(&result, input->data, at);
    lks_text_append_bytes(&result, bytes, added);
    lks_text_append_bytes(&result, input->data + at + removed, input->length - at - removed);
    lks_text_release(input);
    *input = result;
}

static void fuzz_insert_token(lks_text *input, const fuzz_corpus *corpus, fuzz_random *random)
{
    const char *token = corpus->tokens[fuzz_draw(random, corpus->token_count)];
    size_t at = fuzz_draw(random, input->length + 1);
    size_t removed = fuzz_draw(random, 2) ? fuzz_draw(random, input->length - at + 1) % 8 : 0;
    fuzz_splice(input, at, removed, token, strlen(token));
}

static void fuzz_copy_piece(lks_text *input, const lks_text *from, fuzz_random *random)
{
    lks_text piece = {0};
    size_t begin = fuzz_draw(random, from->length + 1);
    size_t length = fuzz_draw(random, from->length - begin + 1);
    lks_text_append_bytes(&piece, from->data + begin, length);
    fuzz_splice(input, fuzz_draw(random, input->length + 1), 0, piece.data, piece.length);
    lks_text_release(&piece);
}

/* One token many times over: deep nesting, long numbers. */
static void fuzz_repeat_token(lks_text *input, const fuzz_corpus *corpus, fuzz_random *random)
{
    const char *token = corpus->tokens[fuzz_draw(random, corpus->token_count)];
    size_t times = (size_t)1 << fuzz_draw(random, 12);
    lks_text piece = {0};
    for (size_t i = 0; i < times; ++i)
        lks_text_append_bytes(&piece, token, strlen(token));
    fuzz_splice(input, fuzz_draw(random, input->length + 1), 0, piece.data, piece.length);
    lks_text_release(&piece);
}

static void fuzz_mutate(lks_text *input, const fuzz_corpus *corpus, fuzz_random *random)
{
    size_t at = fuzz_draw(random, input->length);
    char byte = (char)fuzz_draw(random, 256);
    switch (fuzz_draw(random, 8)) {
    case 0: /* one byte becomes another */
        if (input->length)
            input->data[at] = byte;
        break;
    case 1: /* one bit */
        if (input->length)
            input->data[at] ^= (char)(1 << fuzz_draw(random, 8));
        break;
    case 2:
        fuzz_splice(input, at, fuzz_draw(random, input->length - at + 1), "", 0);
        break;
    case 3:
        fuzz_splice(input, at, 0, &byte, 1);
        break;
    case 4: /* cut short */
        fuzz_splice(input, at, input->length - at, "", 0);
        break;
    case 5:
        fuzz_copy_piece(input, input, random);
        break;
    case 6:
        fuzz_repeat_token(input, corpus, random);
        break;
    default:
        fuzz_insert_token(input, corpus, random);
        break;
    }
}

static void fuzz_print(const lks_text *input)
{
    fprintf(stderr, "input of %zu bytes: \"", input->length);
    for (size_t i = 0; i < input->length; ++i) {
        unsigned char byte = (unsigned char)input->data[i];
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\')
            fputc(byte, stderr);
        else
            fprintf(stderr, "\\%03o", byte);
    }
    fprintf(stderr, "\"\n");
}

static bool fuzz_round(uint64_t seed, uint64_t round, const fuzz_corpus *corpus, fuzz_target target)
{
    fuzz_random random = {lks_rng_key(seed, LKS_RNG_TEST, 0), round, 0};
    lks_text input = {0};
    /* The first rounds are the samples as they are. */
    size_t which = round % corpus->sample_count;
    const char *sample = corpus->samples[which];
    lks_text_append_bytes(&input, sample,
                          corpus->sample_bytes ? corpus->sample_bytes[which] : strlen(sample));
    size_t mutations = round < corpus->sample_count ? 0 : 1 + fuzz_draw(&random, 6);
    for (size_t i = 0; i < mutations; ++i)
        fuzz_mutate(&input, corpus, &random);
    bool right = target(input.data, input.length);
    if (!right) {
        fprintf(stderr, "round %llu of seed %llu: ", (unsigned long long)round,
                (unsigned long long)seed);
        fuzz_print(&input);
    }
    lks_text_release(&input);
    return right;
}

int fuzz_main(int argc, char **argv, const fuzz_corpus *corpus, uint64_t rounds, fuzz_target target)
{
    uint64_t seed = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            rounds = strtoull(argv[i + 1], NULL, 10);
        else
            return EXIT_FAILURE;
    }
    for (uint64_t round = 0; round < rounds; ++round)
        if (!fuzz_round(seed, round, corpus, target))
            return EXIT_FAILURE;
    printf("%llu inputs of seed %llu: right\n", (unsigned long long)rounds,
           (unsigned long long)seed);
    return EXIT_SUCCESS;
}
