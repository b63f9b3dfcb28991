/* Text: the bytes of the files, one after the other; a byte is a token. */
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/format_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

typedef enum text_separator { SEPARATOR_NONE, SEPARATOR_NUL, SEPARATOR_NEWLINE } text_separator;

typedef struct text_options {
    int separator;
} text_options;

static const lks_option text_option_table[] = {{.name = "separator",
                                                .type = LKS_OPTION_CHOICE,
                                                .offset = offsetof(text_options, separator),
                                                .fallback = "none",
                                                .choices = "none|nul|newline",
                                                .change = LKS_OPTION_FIXED,
                                                .about = "byte put between files"},
                                               LKS_OPTIONS_END};

typedef struct text_source {
    const lks_inputs *inputs;
    uint64_t *starts; /* [count + 1]: token at which a file, with the separator after it, begins */
    int separator;
    int file; /* of the input that was read last, -1: none */
    size_t open_input;
} text_source;

static const lks_shard_array text_arrays_of_shard[] = {
    {.name = "tokens", .dtype = LKS_U8, .shape = {0}}};

static void text_close(void *handle)
{
    text_source *source = handle;
    if (!source)
        return;
    if (source->file >= 0)
        close(source->file);
    lks_memory_free(source->starts);
    lks_memory_free(source);
}

static lks_status text_start(text_source *source, const lks_format_job *job)
{
    const text_options *options = job->options;
    source->inputs = job->inputs;
    source->separator = options->separator;
    source->file = -1;
    size_t count = job->inputs->count;
    LKS_TRY(LKS_NEW_ARRAY(&source->starts, count + 1));
    for (size_t i = 0; i < count; ++i) {
        bool separated = i + 1 < count && options->separator != SEPARATOR_NONE;
        source->starts[i + 1] = source->starts[i] + job->inputs->files[i].bytes + separated;
    }
    return LKS_OK;
}

static lks_status text_open(void **out, const lks_format_job *job)
{
    text_source *source = NULL;
    lks_status status = LKS_NEW(&source);
    if (status == LKS_OK)
        status = text_start(source, job);
    status = job->parallel->agree(job->parallel->user, status);
    if (status != LKS_OK)
        text_close(source);
    else
        *out = source;
    return status;
}

static uint64_t text_records(const void *handle)
{
    const text_source *source = handle;
    return source->starts[source->inputs->count];
}

static lks_status text_learn(void *handle, const lks_format_part *training)
{
    (void)handle;
    (void)training;
    return LKS_OK;
}

static const lks_shard_array *text_arrays(const void *handle, int *count)
{
    (void)handle;
    *count = 1;
    return text_arrays_of_shard;
}

static lks_status text_use_input(text_source *source, size_t input)
{
    if (source->file >= 0 && source->open_input == input)
        return LKS_OK;
    if (source->file >= 0)
        close(source->file);
    const char *path = source->inputs->files[input].path;
    source->file = open(path, O_RDONLY | O_CLOEXEC);
    source->open_input = input;
    if (source->file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", path, strerror(errno));
    return LKS_OK;
}

static size_t text_find_input(const text_source *source, uint64_t token)
{
    size_t low = 0, high = source->inputs->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (source->starts[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static lks_status text_read(void *handle, const lks_format_part *part, uint64_t index,
                            uint64_t count, void *const *data)
{
    text_source *source = handle;
    unsigned char *out = data[0];
    uint64_t token = part->first + index;
    while (count > 0) {
        size_t input = text_find_input(source, token);
        const lks_input *file = &source->inputs->files[input];
        uint64_t at = token - source->starts[input];
        uint64_t run = at < file->bytes ? file->bytes - at : 1;
        run = run < count ? run : count;
        if (at < file->bytes) {
            LKS_TRY(text_use_input(source, input));
            LKS_TRY(lks_files_pread(source->file, file->path, out, (size_t)run, at));
        } else {
            *out = source->separator == SEPARATOR_NEWLINE ? '\n' : 0;
        }
        out += run;
        token += run;
        count -= run;
    }
    return LKS_OK;
}

static lks_status text_describe(const void *handle, json_t **schema, json_t **statistics)
{
    (void)handle;
    *statistics = NULL;
    *schema = json_pack("{s:i, s:s}", "vocabulary", 256, "tokenizer", "bytes");
    return *schema ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the schema");
}

extern const lks_format_driver lks_text_format;
const lks_format_driver lks_text_format = {
    .name = "text",
    .about = "files of text, a byte being a token",
    .options = text_option_table,
    .options_bytes = sizeof(text_options),
    .no_shuffle = "the order of a text is what a model learns",
    .least_records = 2,
    .open = text_open,
    .close = text_close,
    .records = text_records,
    .learn = text_learn,
    .arrays = text_arrays,
    .read = text_read,
    .describe = text_describe,
};
