/* The settings that no driver owns, a section each. */
#ifndef LKS_TRAIN_SETTINGS_H
#define LKS_TRAIN_SETTINGS_H

#include "collectives/verbs_options.h"
#include "runtime/base/config.h"
#include "runtime/train/notice.h"

/* checkpoint.busy */
enum { LKS_BUSY_SKIP, LKS_BUSY_WAIT };
/* report.ledger: no lines, a line with the chain, one with the sample ids too */
enum { LKS_LEDGER_NONE, LKS_LEDGER_CHAIN, LKS_LEDGER_IDS };

typedef struct lks_settings {
    struct {
        const char *train, *validation; /* dataset directories */
        int64_t threads, ring;
    } data;
    struct {
        int64_t steps, global_batch, lanes, micro_batch, seed, validate_every_steps;
        double epochs;
        int precision;
        const char *initialize;
    } train;
    struct {
        int64_t every_steps, keep, buffers;
        int64_t memory_every_steps; /* resolved: 0: none */
        const char *memory_directory;
        bool keep_best;
        int busy; /* LKS_BUSY_... */
    } checkpoint;
    struct {
        const char *link;
        int64_t bucket_bytes;
        int order; /* 1: any */
        double timeout_seconds;
    } collectives;
    lks_verbs_options verbs;
    struct {
        int64_t every_steps;
        int ledger; /* LKS_LEDGER_... */
    } report;
    struct {
        const char *name;
    } device;
    lks_preemption preemption;
} lks_settings;

lks_status lks_settings_bind(lks_settings *settings, lks_config *config) LKS_MUST_CHECK;

#endif
