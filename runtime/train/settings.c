#include "runtime/train/settings.h"

#include <stddef.h>

#define AT(member) offsetof(lks_settings, member)

static const lks_option data_options[] = {
    {"train", LKS_OPTION_TEXT, AT(data.train), "", 0, 0, NULL, LKS_OPTION_FREE,
     "directory of the training dataset (its content is fixed, its place is not)"},
    {"validation", LKS_OPTION_TEXT, AT(data.validation), "", 0, 0, NULL, LKS_OPTION_FREE,
     "directory of the validation dataset; empty: none"},
    {"threads", LKS_OPTION_INTEGER, AT(data.threads), "1", 1, 64, NULL, LKS_OPTION_FREE,
     "reader threads per rank"},
    {"ring", LKS_OPTION_INTEGER, AT(data.ring), "8", 2, 4096, NULL, LKS_OPTION_FREE,
     "micro-batches that the readers may be ahead"},
    LKS_OPTIONS_END,
};

static const lks_option train_options[] = {
    {"steps", LKS_OPTION_INTEGER, AT(train.steps), "0", 0, 1e15, NULL, LKS_OPTION_SCHEDULED,
     "optimizer updates in all; 0: as train.epochs says"},
    {"epochs", LKS_OPTION_NUMBER, AT(train.epochs), "0", 0, 1e9, NULL, LKS_OPTION_SCHEDULED,
     "passes over the data, when train.steps is 0"},
    {"global_batch", LKS_OPTION_INTEGER, AT(train.global_batch), "64", 1, 1e9, NULL,
     LKS_OPTION_FIXED, "samples per step, over all ranks"},
    {"lanes", LKS_OPTION_INTEGER, AT(train.lanes), "0", 0, 65536, NULL, LKS_OPTION_FIXED,
     "fixed shares of every batch, the most ranks there can be; 0: the largest divisor of "
     "global_batch up to 8"},
    {"micro_batch", LKS_OPTION_INTEGER, AT(train.micro_batch), "0", 0, 1e9, NULL, LKS_OPTION_FIXED,
     "samples that go through the model at once; 0: a lane's whole share"},
    {"seed", LKS_OPTION_INTEGER, AT(train.seed), "1", 0, 9e15, NULL, LKS_OPTION_FIXED,
     "of initial parameters, order and dropout"},
    {"precision", LKS_OPTION_CHOICE, AT(train.precision), "f32", 0, 0, "f32|bf16", LKS_OPTION_FIXED,
     "arithmetic of the forward and backward pass"},
    {"initialize", LKS_OPTION_TEXT, AT(train.initialize), "", 0, 0, NULL, LKS_OPTION_FREE,
     "checkpoint or run directory whose parameters a new job starts from"},
    {"validate_every_steps", LKS_OPTION_INTEGER, AT(train.validate_every_steps), "0", 0, 1e15, NULL,
     LKS_OPTION_FREE, "steps between validations; 0: only after the last step"},
    LKS_OPTIONS_END,
};

static const lks_option checkpoint_options[] = {
    {"every_steps", LKS_OPTION_INTEGER, AT(checkpoint.every_steps), "200", 0, 1e15, NULL,
     LKS_OPTION_FREE, "steps between checkpoints; 0: only at the end and on notice"},
    {"memory_every_steps", LKS_OPTION_INTEGER, AT(checkpoint.memory_every_steps), "-1", -1, 1e15,
     NULL, LKS_OPTION_FREE,
     "steps between copies of the state in the nodes' memory; -1: as every_steps; 0: none"},
    {"memory_directory", LKS_OPTION_TEXT, AT(checkpoint.memory_directory), "/dev/shm", 0, 0, NULL,
     LKS_OPTION_FREE, "where a node's memory can hold files that outlive the ranks"},
    {"keep", LKS_OPTION_INTEGER, AT(checkpoint.keep), "3", 1, 1e6, NULL, LKS_OPTION_FREE,
     "newest checkpoints that stay"},
    {"keep_best", LKS_OPTION_BOOL, AT(checkpoint.keep_best), "true", 0, 0, NULL, LKS_OPTION_FREE,
     "the one with the lowest validation loss stays too"},
    {"busy", LKS_OPTION_CHOICE, AT(checkpoint.busy), "skip", 0, 0, "skip|wait", LKS_OPTION_FREE,
     "what a checkpoint does that is due while checkpoint.buffers others are still to be written"},
    {"buffers", LKS_OPTION_INTEGER, AT(checkpoint.buffers), "2", 1, 2, NULL, LKS_OPTION_FREE,
     "copies of the own share of the state in memory: one is written while the next is taken"},
    LKS_OPTIONS_END,
};

static const lks_option collectives_options[] = {
    {"link", LKS_OPTION_TEXT, AT(collectives.link), "auto", 0, 0, NULL, LKS_OPTION_FREE,
     "how gradients travel: auto, shm, verbs or mpi; on cuda devices auto, nccl or staged"},
    {"order", LKS_OPTION_CHOICE, AT(collectives.order), "fixed", 0, 0, "fixed|any", LKS_OPTION_FREE,
     "of the sum over lanes: fixed gives the same bits at any number of ranks; any leaves it to "
     "NCCL"},
    {"timeout_seconds", LKS_OPTION_NUMBER, AT(collectives.timeout_seconds), "300", 1, 1e6, NULL,
     LKS_OPTION_FREE, "that NCCL may take for what it was given before a peer counts as lost"},
    {"bucket_bytes", LKS_OPTION_INTEGER, AT(collectives.bucket_bytes), "4194304", 4096, 1e12, NULL,
     LKS_OPTION_FREE, "gradient bytes that travel together"},
    LKS_OPTIONS_END,
};

/* The last two are what earlier checkpoints say: no ids, and ids. */
#define LEDGER_CHOICES "none|chain|ids|false|true"

static int ledger_choice(int index)
{
    static const int meaning[] = {LKS_LEDGER_NONE, LKS_LEDGER_CHAIN, LKS_LEDGER_IDS,
                                  LKS_LEDGER_NONE, LKS_LEDGER_IDS};
    return meaning[index];
}

static const lks_option report_options[] = {
    {"every_steps", LKS_OPTION_INTEGER, AT(report.every_steps), "1", 1, 1e15, NULL, LKS_OPTION_FREE,
     "steps between lines of metrics.jsonl"},
    {"ledger", LKS_OPTION_CHOICE, AT(report.ledger), "chain", 0, 0, LEDGER_CHOICES, LKS_OPTION_FREE,
     "what ledger.jsonl has of every step: its hash chain, or the ids of its samples too (ids, "
     "true); none, false: nothing"},
    LKS_OPTIONS_END,
};

static const lks_option device_options[] = {
    {"name", LKS_OPTION_TEXT, AT(device.name), "auto", 0, 0, NULL, LKS_OPTION_FREE,
     "device of each rank: auto, cpu or cuda"},
    LKS_OPTIONS_END,
};

static const lks_option preemption_options[] = {
    {"file", LKS_OPTION_TEXT, AT(preemption.file), "", 0, 0, NULL, LKS_OPTION_FREE,
     "a file whose existence tells to save and stop; empty: none"},
    {"source", LKS_OPTION_CHOICE, AT(preemption.source), "none", 0, 0, "none|aws|gcp|azure",
     LKS_OPTION_FREE, "the cloud whose metadata service tells of this machine's end"},
    {"url", LKS_OPTION_TEXT, AT(preemption.url), "", 0, 0, NULL, LKS_OPTION_FREE,
     "where that service answers; empty: where the cloud has it"},
    {"poll_seconds", LKS_OPTION_NUMBER, AT(preemption.poll_seconds), "5", 0.05, 3600, NULL,
     LKS_OPTION_FREE, "seconds between two questions to it"},
    {"grace_seconds", LKS_OPTION_NUMBER, AT(preemption.grace_seconds), "0", 0, 1e6, NULL,
     LKS_OPTION_FREE, "seconds from a notice to the end; 0: what the cloud promises"},
    LKS_OPTIONS_END,
};

lks_status lks_settings_bind(lks_settings *settings, lks_config *config)
{
    LKS_TRY(lks_config_bind(config, "data", data_options, settings));
    LKS_TRY(lks_config_bind(config, "train", train_options, settings));
    LKS_TRY(lks_config_bind(config, "checkpoint", checkpoint_options, settings));
    if (settings->checkpoint.memory_every_steps < 0)
        settings->checkpoint.memory_every_steps = settings->checkpoint.every_steps;
    LKS_TRY(lks_config_bind(config, "collectives", collectives_options, settings));
    LKS_TRY(lks_config_bind(config, "verbs", lks_verbs_option_table, &settings->verbs));
    LKS_TRY(lks_config_bind(config, "report", report_options, settings));
    settings->report.ledger = ledger_choice(settings->report.ledger);
    LKS_TRY(lks_config_bind(config, "preemption", preemption_options, settings));
    return lks_config_bind(config, "device", device_options, settings);
}
