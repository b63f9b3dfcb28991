#include "support.h"

#include "runtime/base/config.h"
#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"
#include "runtime/datasets/dataset.h"
#include "runtime/datasets/prepare.h"

#include <hdf5.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

enum { RANKS_MAX = 8, SLOT_BYTES = 16 << 20, MESSAGE_BYTES = 1024 };

static char test_directory[64]; /* of this test process */

void enter_directory(void)
{
    strcpy(test_directory, "/tmp/lockstep-prepare-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(test_directory));
    ck_assert_int_eq(chdir(test_directory), 0);
}

void leave_directory(void)
{
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(lks_files_remove_tree(test_directory), LKS_OK);
}

void write_bytes(const char *path, const void *data, size_t bytes)
{
    unlink(path); /* some file systems flush a file that was truncated */
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
}

void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

void write_gzip(const char *path, const void *data, size_t bytes)
{
    gzFile file = gzopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(gzwrite(file, data, (unsigned)bytes), (int)bytes);
    ck_assert_int_eq(gzclose(file), Z_OK);
}

void write_idx(const char *path, bool gzip, int axes, const uint32_t *sizes, const uint8_t *data)
{
    size_t bytes = 1, header = 4 + 4 * (size_t)axes;
    for (int a = 0; a < axes; ++a)
        bytes *= sizes[a];
    uint8_t *all = calloc(1, header + bytes);
    all[2] = 8;
    all[3] = (uint8_t)axes;
    for (int a = 0; a < axes; ++a) {
        for (int b = 0; b < 4; ++b)
            all[4 + 4 * a + b] = (uint8_t)(sizes[a] >> (24 - 8 * b));
    }
    memcpy(all + header, data, bytes);
    if (gzip)
        write_gzip(path, all, header + bytes);
    else
        write_bytes(path, all, header + bytes);
    free(all);
}

/* Ranks as processes: slots in shared memory, and a barrier. */
typedef struct team {
    pthread_barrier_t barrier;
    int size;
    lks_status status[RANKS_MAX];
    char message[RANKS_MAX][MESSAGE_BYTES];
    size_t bytes[RANKS_MAX];
} team;

typedef struct member {
    team *team;
    unsigned char *slots;
    int rank;
} member;

static lks_status team_agree(void *user, lks_status mine)
{
    member *me = user;
    team *we = me->team;
    we->status[me->rank] = mine;
    snprintf(we->message[me->rank], MESSAGE_BYTES, "%s", lks_status_message());
    pthread_barrier_wait(&we->barrier);
    int worst = 0;
    for (int r = 1; r < we->size; ++r)
        worst = we->status[r] > we->status[worst] ? r : worst;
    lks_status status = we->status[worst];
    if (status != LKS_OK)
        lks_status_set_message(me->rank == 0 ? we->message[worst] : "");
    pthread_barrier_wait(&we->barrier);
    return status;
}

static lks_status team_all_gather(void *user, const void *mine, size_t bytes, void **out,
                                  size_t *counts)
{
    member *me = user;
    team *we = me->team;
    if (bytes > SLOT_BYTES)
        return LKS_FAIL(LKS_ERR_INTERNAL, "the test's slots are too small");
    if (bytes > 0)
        memcpy(me->slots + (size_t)me->rank * SLOT_BYTES, mine, bytes);
    we->bytes[me->rank] = bytes;
    pthread_barrier_wait(&we->barrier);
    size_t total = 0;
    for (int r = 0; r < we->size; ++r)
        total += counts[r] = we->bytes[r];
    unsigned char *to = malloc(total + 1);
    *out = to;
    for (int r = 0; r < we->size; to += counts[r], ++r)
        memcpy(to, me->slots + (size_t)r * SLOT_BYTES, counts[r]);
    pthread_barrier_wait(&we->barrier);
    return LKS_OK;
}

static lks_status prepare_with(const prep *what, const lks_parallel *parallel)
{
    lks_config *config;
    ck_assert_int_eq(lks_config_create(&config), LKS_OK);
    for (int i = 0; i < 6 && what->settings[i]; ++i) {
        char assignment[512];
        snprintf(assignment, sizeof assignment, "prepare.%s", what->settings[i]);
        ck_assert_int_eq(lks_config_set(config, assignment, "test"), LKS_OK);
    }
    const lks_option *table = lks_prepare_options(what->format);
    void *options = calloc(1, lks_prepare_options_bytes(what->format) + 1);
    if (table)
        ck_assert_msg(lks_config_bind(config, "prepare", table, options) == LKS_OK, "%s",
                      lks_status_message());
    int count = 0;
    while (count < 6 && what->inputs[count])
        ++count;
    lks_prepare_spec spec = {.format = what->format,
                             .output = what->output,
                             .inputs = what->inputs,
                             .input_count = count,
                             .validation_fraction = what->split,
                             .shuffle = what->shuffle,
                             .shuffle_seed = what->seed,
                             .force = what->force,
                             .shard_bytes = what->shard_bytes,
                             .format_options = options};
    lks_status status = lks_prepare(&spec, parallel);
    free(options);
    lks_config_destroy(config);
    return status;
}

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    return memory;
}

/* A rank that dies leaves the others waiting: they go, too. */
static lks_status wait_for_ranks(const pid_t *ranks, int size)
{
    lks_status status = LKS_OK;
    for (int i = 0; i < size; ++i) {
        int how;
        pid_t ended = waitpid(-1, &how, 0);
        if (!WIFEXITED(how)) {
            for (int r = 0; r < size; ++r)
                kill(ranks[r], ended == ranks[r] ? 0 : SIGKILL);
            ck_abort_msg("a rank died of signal %d", WTERMSIG(how));
        }
        if (i == 0)
            status = (lks_status)WEXITSTATUS(how);
        ck_assert_int_eq(WEXITSTATUS(how), (int)status);
    }
    return status;
}

static lks_status prepare_as_team(const prep *what)
{
    team *we = shared_memory(sizeof *we);
    unsigned char *slots = shared_memory((size_t)what->ranks * SLOT_BYTES);
    we->size = what->ranks;
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&we->barrier, &shared, (unsigned)what->ranks);
    pid_t ranks[RANKS_MAX];
    for (int r = 0; r < what->ranks; ++r) {
        ranks[r] = fork();
        ck_assert_int_ge(ranks[r], 0);
        if (ranks[r] == 0) {
            member me = {we, slots, r};
            lks_parallel parallel = {.rank = r,
                                     .size = what->ranks,
                                     .agree = team_agree,
                                     .all_gather = team_all_gather,
                                     .user = &me};
            lks_status status = prepare_with(what, &parallel);
            snprintf(we->message[r], MESSAGE_BYTES, "%s", lks_status_message());
            _exit((int)status);
        }
    }
    lks_status status = wait_for_ranks(ranks, what->ranks);
    lks_status_set_message(we->message[0]);
    munmap(slots, (size_t)what->ranks * SLOT_BYTES);
    munmap(we, sizeof *we);
    return status;
}

lks_status run_prepare(const prep *what)
{
    return what->ranks > 1 ? prepare_as_team(what) : prepare_with(what, &lks_parallel_self);
}

void check_message(const char *part)
{
    ck_assert_msg(strstr(lks_status_message(), part) != NULL, "\"%s\" lacks \"%s\"",
                  lks_status_message(), part);
}

void check_refused(lks_status found, lks_status wanted, const char *part)
{
    ck_assert_msg(found == wanted, "status %d, wanted %d: %s", (int)found, (int)wanted,
                  lks_status_message());
    check_message(part);
}

size_t count_entries(const char *directory)
{
    lks_file_list list;
    ck_assert_int_eq(lks_files_list(directory, &list), LKS_OK);
    size_t count = list.count;
    lks_file_list_release(&list);
    return count;
}

json_t *load_manifest(const char *directory)
{
    char path[256];
    snprintf(path, sizeof path, "%s/manifest.json", directory);
    json_t *manifest;
    ck_assert_msg(lks_json_load(path, &manifest) == LKS_OK, "%s", lks_status_message());
    return manifest;
}

static void *read_shard(const char *path, const char *name, size_t *bytes)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    ck_assert_int_ge(file, 0);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    ck_assert_int_ge(dataset, 0);
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    hid_t native = H5Tget_native_type(type, H5T_DIR_ASCEND);
    *bytes = (size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(native);
    void *data = malloc(*bytes);
    ck_assert_int_ge(H5Dread(dataset, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), 0);
    H5Tclose(native);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(file);
    return data;
}

static void print_problem(void *user, const char *problem)
{
    (void)user;
    fprintf(stderr, "%s\n", problem);
}

void *read_array(const char *directory, const char *name, size_t *bytes)
{
    ck_assert_msg(lks_dataset_verify(directory, print_problem, NULL) == LKS_OK, "%s",
                  lks_status_message());
    json_t *manifest = load_manifest(directory), *shard;
    size_t i;
    char *all = NULL;
    *bytes = 0;
    json_array_foreach(json_object_get(manifest, "shards"), i, shard)
    {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", directory,
                 json_string_value(json_object_get(shard, "file")));
        size_t part;
        void *data = read_shard(path, name, &part);
        all = realloc(all, *bytes + part);
        memcpy(all + *bytes, data, part);
        *bytes += part;
        free(data);
    }
    json_decref(manifest);
    return all;
}

static void digest_into(lks_sha256 *hash, const char *directory)
{
    lks_file_list list;
    ck_assert_int_eq(lks_files_list(directory, &list), LKS_OK);
    for (size_t i = 0; i < list.count; ++i) {
        char *path = lks_files_join(directory, list.names[i]);
        lks_sha256_update(hash, list.names[i], strlen(list.names[i]) + 1);
        if (lks_files_is_directory(path)) {
            digest_into(hash, path);
        } else {
            char *data;
            size_t bytes;
            ck_assert_int_eq(lks_files_read(path, SIZE_MAX / 2, &data, &bytes), LKS_OK);
            lks_sha256_update(hash, data, bytes);
            free(data);
        }
        free(path);
    }
    lks_file_list_release(&list);
}

void digest_tree(const char *directory, char hex[65])
{
    lks_sha256 *hash;
    ck_assert_int_eq(lks_sha256_create(&hash), LKS_OK);
    digest_into(hash, directory);
    lks_sha256_finish(hash, hex);
}

uint32_t random_word(uint32_t stream, uint64_t i)
{
    return lks_rng_words(lks_rng_key(1, LKS_RNG_TEST, stream), 0, i).word[0];
}
