/* Continuing text, token by token. */
#ifndef LKS_TRAIN_GENERATE_H
#define LKS_TRAIN_GENERATE_H

#include "runtime/train/session.h"

/* `predictor` of a text model, batch 1. `stream` keeps the continuations of several prompts apart: its
 * random numbers are a function of (seed, stream, number of the token). */
lks_status lks_generate_text(lks_predictor *predictor, const char *prompt, size_t prompt_bytes,
                             const lks_sampling *sampling, uint32_t stream, lks_sink sink,
                             void *user) LKS_MUST_CHECK;

#endif
