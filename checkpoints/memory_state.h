/* The instance behind lks_memory_copies, and what its files share. */
#ifndef LKS_CHECKPOINTS_MEMORY_STATE_H
#define LKS_CHECKPOINTS_MEMORY_STATE_H

#include "checkpoints/memory_file.h"
#include "checkpoints/worker.h"

enum {
    LKS_MEMORY_NAME = 160,  /* bytes for any file name below */
    LKS_MEMORY_SLOTS = 2,   /* generations */
    LKS_MEMORY_PREFIX = 43, /* characters of "lockstep-<16 hex>-<16 hex>-" */
    LKS_MEMORY_TAG = LKS_TAG_FREE + 64,
};

/* One file of this node that looks like a part of a copy, as all ranks come to know it. */
typedef struct lks_memory_entry {
    uint64_t step, start;
    uint32_t world_size, rank; /* whose blocks */
    uint32_t first_block, end_block;
    int32_t holder; /* rank that looked at it */
    int32_t valid;
    char name[LKS_MEMORY_NAME], note[LKS_MEMORY_NOTE], arithmetic[256];
} lks_memory_entry;

/* A file that is written again and again: under a name that is nobody's while it changes. */
typedef struct lks_memory_slot {
    char partial[LKS_MEMORY_NAME];
    char name[LKS_MEMORY_NAME]; /* what it is called now */
    void *map;                  /* NULL: not made */
    size_t bytes;
} lks_memory_slot;

/* Of one rank's blocks: this one's, or one's that sends them here. */
typedef struct lks_memory_series {
    int rank;
    lks_memory_shape shape;
    lks_memory_slot slots[LKS_MEMORY_SLOTS];
    lks_comm_request *receive; /* NULL: none under way */
} lks_memory_series;

typedef enum lks_memory_stage {
    LKS_MEMORY_READY,
    LKS_MEMORY_WARMING,   /* the worker reserves pages */
    LKS_MEMORY_SEALING,   /* the worker hashes the own blocks */
    LKS_MEMORY_SENDING,   /* messages are under way */
    LKS_MEMORY_VERIFYING, /* the worker checks what came in */
} lks_memory_stage;

struct lks_memory_copies {
    lks_comm *comm;
    char *directory, *run_directory;
    char prefix[LKS_MEMORY_PREFIX + 1];
    lks_memory_identity identity;
    uint32_t *first_blocks; /* [size + 1] of all ranks */
    uint64_t start;
    int lock; /* -1: none */

    lks_memory_entry *found; /* [found_count] of the set found, one or more per rank of its world */
    int found_count;
    uint64_t disk_step; /* newest checkpoint's, by name; 0: none */

    bool on;                   /* copies are taken; the same on all ranks */
    bool keeps_former;         /* the copy that the job was resumed from is still there */
    lks_memory_series *series; /* [series_count]: own, then the neighbours' */
    int series_count;
    int to; /* rank that gets the own blocks, -1: none */
    lks_comm_request *send;

    lks_worker *worker;
    bool working;
    lks_memory_stage stage;
    bool untried; /* room was made, and the ranks have not agreed that it is there */
    bool failed;  /* this rank's part of what is under way */
    bool copying; /* not known to be whole everywhere */
    int slot;     /* of the copy under way */
    int whole;    /* slot of the last whole copy, -1: none */
    lks_memory_header header;
    uint64_t next_look, look_gap; /* steps: when ranks next agree on whether it is whole */
    lks_memory_stats stats;
};

/* One rank of a node does what is to be done once. */
static inline bool lks_memory_leads(const lks_memory_copies *c)
{
    return !lks_comm_local_rank(c->comm);
}

/* memory_clean.c: this node's directory. */
lks_status lks_memory_lock(lks_memory_copies *c) LKS_MUST_CHECK;
/* Of other runs: what their processes, which are dead, have no use for. */
lks_status lks_memory_clean_others(const lks_memory_copies *c) LKS_MUST_CHECK;
/* Of this run: all but the lock, and but the copies of `keep` (NULL: none) and of start `c->start`. */
lks_status lks_memory_clean_own(const lks_memory_copies *c,
                                const lks_memory_entry *keep) LKS_MUST_CHECK;
/* The lock, when it is all that is left. */
void lks_memory_leave(const lks_memory_copies *c);
/* All of this run, the lock too. */
lks_status lks_memory_remove_run(const lks_memory_copies *c) LKS_MUST_CHECK;
/* Newest step of the checkpoints of a run directory, by name; 0 when there is none. */
uint64_t lks_memory_disk_step(const char *run_directory);
void lks_memory_copy_name(const lks_memory_copies *c, uint64_t step, int world_size, int rank,
                          char out[LKS_MEMORY_NAME]);

/* memory_find.c (collective): fills `found`. */
lks_status lks_memory_search(lks_memory_copies *c) LKS_MUST_CHECK;

/* memory_slots.c */
void lks_memory_slot_name(const lks_memory_copies *c, int rank, int slot,
                          char out[LKS_MEMORY_NAME]);
/* Makes slot `slot` of every series: files of their size, mapped; no page is there yet. */
lks_status lks_memory_slots_make(lks_memory_copies *c, int slot) LKS_MUST_CHECK;
/* A task: all pages of the slots that are there. */
lks_status lks_memory_slots_warm(void *user) LKS_MUST_CHECK;
/* Under its partial name, to be written. */
lks_status lks_memory_slot_withdraw(const lks_memory_copies *c,
                                    lks_memory_slot *slot) LKS_MUST_CHECK;
lks_status lks_memory_slot_publish(const lks_memory_copies *c, lks_memory_slot *slot,
                                   const char *name) LKS_MUST_CHECK;
/* Whether the node has room for so much. */
lks_status lks_memory_check_room(const lks_memory_copies *c, uint64_t node_bytes) LKS_MUST_CHECK;
/* Unmaps; removes what is not whole. */
void lks_memory_slots_close(lks_memory_copies *c);

/* memory_take.c */
/* The worker reserves the pages of the slots that are not whole. */
void lks_memory_slots_start(lks_memory_copies *c);
/* Local progress. */
lks_status lks_memory_tick(lks_memory_copies *c) LKS_MUST_CHECK;
/* (collective) Until this rank has nothing under way. */
lks_status lks_memory_drain(lks_memory_copies *c) LKS_MUST_CHECK;
/* (collective) `mine` failed on some rank: each that failed warns, and *well is false everywhere. */
lks_status lks_memory_all_well(lks_memory_copies *c, lks_status mine, bool *well) LKS_MUST_CHECK;

#endif
