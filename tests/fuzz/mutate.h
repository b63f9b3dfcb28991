/* Deterministic mutations of sample inputs, for tests of parsers. */
#ifndef LKS_TESTS_FUZZ_MUTATE_H
#define LKS_TESTS_FUZZ_MUTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fuzz_corpus {
    const char *const *samples; /* valid inputs, NUL-terminated */
    size_t sample_count;
    const char *const *tokens; /* pieces that matter to the parser */
    size_t token_count;
    const size_t *sample_bytes; /* their lengths, where samples are binary; NULL: they are text */
} fuzz_corpus;

/* Gives the parser one input (with a NUL behind it); false and a line on stderr when
 * what it did is wrong. */
typedef bool (*fuzz_target)(const char *data, size_t bytes);

/* Runs --rounds inputs (default `rounds`) from --seed (default 1); the exit status of
 * the test. A failing input is printed, escaped. */
int fuzz_main(int argc, char **argv, const fuzz_corpus *corpus, uint64_t rounds,
              fuzz_target target);

#endif
