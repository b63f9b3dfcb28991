/* What a look and its rank say to each other: JSON in a frame of kind and length. */
#ifndef LKS_LAUNCHER_DOCTOR_CHANNEL_H
#define LKS_LAUNCHER_DOCTOR_CHANNEL_H

#include "runtime/base/text.h"

#include <jansson.h>

enum { LKS_CHANNEL_EXCHANGE = 'x', LKS_CHANNEL_DONE = 'd', LKS_CHANNEL_FAILED = 'f' };

/* False: the other end is gone. */
bool lks_channel_write(int channel, char kind, const char *text, size_t bytes);
/* 1: a whole frame; 0: `deadline_ns` is over (0: waits for ever); -1: the other end is gone. */
int lks_channel_read(int channel, uint64_t deadline_ns, char *kind, lks_text *text);

#endif
