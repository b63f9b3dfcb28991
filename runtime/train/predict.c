#include "runtime/train/predict.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"
#include "runtime/datasets/encode.h"
#include "runtime/train/generate.h"

#include <math.h>
#include <string.h>

enum { PREDICT_BATCH = 64 };

/* --- Lines ------------------------------------------------------------------ */

/* CSV (RFC 4180): quoted where it must be. */
static void append_csv(lks_text *line, const char *text, size_t bytes)
{
    bool quote = memchr(text, '"', bytes) || memchr(text, ',', bytes) ||
                 memchr(text, '\n', bytes) || memchr(text, '\r', bytes);
    lks_text_append(line, "%s", quote ? "\"" : "");
    for (size_t i = 0; i < bytes; ++i) {
        if (text[i] == '"')
            lks_text_append(line, "\"");
        lks_text_append_bytes(line, &text[i], 1);
    }
    lks_text_append(line, "%s", quote ? "\"" : "");
}

/* The length of the UTF-8 sequence at `text`, 0 if it is none. */
static size_t utf8_length(const unsigned char *text, size_t bytes)
{
    size_t length = text[0] < 0x80                      ? 1
                    : text[0] >= 0xC2 && text[0] < 0xE0 ? 2
                    : text[0] >= 0xE0 && text[0] < 0xF0 ? 3
                    : text[0] >= 0xF0 && text[0] < 0xF5 ? 4
                                                        : 0;
    if (!length || length > bytes)
        return 0;
    for (size_t i = 1; i < length; ++i)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* A JSON string; bytes that are not UTF-8 become U+FFFD. */
static void append_json(lks_text *line, const char *text, size_t bytes)
{
    lks_text_append(line, "\"");
    for (size_t i = 0; i < bytes;) {
        unsigned char c = (unsigned char)text[i];
        size_t length = utf8_length((const unsigned char *)text + i, bytes - i);
        if (c == '"' || c == '\\')
            lks_text_append(line, "\\%c", c);
        else if (c < 0x20)
            lks_text_append(line, "\\u%04x", c);
        else if (length)
            lks_text_append_bytes(line, text + i, length);
        else
            lks_text_append(line, "\xEF\xBF\xBD");
        i += length ? length : 1;
    }
    lks_text_append(line, "\"");
}

static lks_status send(const lks_predict_spec *spec, lks_text *line)
{
    lks_text_append(line, "\n");
    if (line->failed)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a line of output");
    lks_status status = spec->sink(spec->user, line->data, line->length);
    lks_text_clear(line);
    return status;
}

/* --- Text ------------------------------------------------------------------- */

static lks_status collect(void *user, const char *data, size_t bytes)
{
    lks_text_append_bytes(user, data, bytes);
    return LKS_OK;
}

static lks_status continue_prompt(const lks_predict_spec *spec, lks_predictor *predictor,
                                  const char *prompt, uint32_t index)
{
    size_t bytes = strlen(prompt);
    lks_text continuation = {0}, line = {0};
    lks_status status =
        lks_generate_text(predictor, prompt, bytes, spec->sampling, index, collect, &continuation);
    if (status == LKS_OK && spec->csv) {
        lks_text_append(&line, "%u,", index);
        append_csv(&line, prompt, bytes);
        lks_text_append(&line, ",");
        append_csv(&line, continuation.data, continuation.length);
    } else if (status == LKS_OK) {
        lks_text_append(&line, "{\"index\": %u, \"prompt\": ", index);
        append_json(&line, prompt, bytes);
        lks_text_append(&line, ", \"continuation\": ");
        append_json(&line, continuation.data, continuation.length);
        lks_text_append(&line, "}");
    }
    if (status == LKS_OK)
        status = send(spec, &line);
    lks_text_release(&continuation);
    lks_text_release(&line);
    return status;
}

/* --- Classes and numbers ------------------------------------------------------- */

typedef struct record_work {
    const lks_predict_spec *spec;
    lks_predictor *predictor;
    lks_encoder *encoder;
    void *fields[LKS_SCHEMA_FIELDS];
    uint64_t index;
    lks_text line;
} record_work;

/* The likeliest class (the first of equals) and its softmax. */
static int64_t best_class(const float *logits, int64_t classes, double *probability)
{
    int64_t best = 0;
    double sum = 0;
    for (int64_t i = 1; i < classes; ++i)
        best = logits[i] > logits[best] ? i : best;
    for (int64_t i = 0; i < classes; ++i)
        sum += exp((double)logits[i] - logits[best]);
    *probability = 1 / sum;
    return best;
}

static lks_status write_class(record_work *w, const float *logits)
{
    double probability;
    int64_t best = best_class(logits, w->predictor->schema.classes, &probability);
    const char *name = lks_encoder_class_name(w->encoder, best);
    unsigned long long index = w->index;
    lks_text_append(&w->line, w->spec->csv ? "%llu," : "{\"index\": %llu, \"class\": ", index);
    (w->spec->csv ? append_csv : append_json)(&w->line, name, strlen(name));
    lks_text_append(&w->line, w->spec->csv ? ",%.6f" : ", \"probability\": %.6f}", probability);
    return send(w->spec, &w->line);
}

static lks_status write_number(record_work *w, const float *prediction)
{
    double value = lks_encoder_number(w->encoder, *prediction);
    lks_text_append(&w->line, w->spec->csv ? "%llu,%.9g" : "{\"index\": %llu, \"value\": %.9g}",
                    (unsigned long long)w->index, value);
    return send(w->spec, &w->line);
}

static lks_status predict_batch(record_work *w, int64_t count)
{
    bool classes = w->predictor->schema.classes > 0;
    const float *output;
    lks_shape shape;
    if (w->predictor->schema.kind == LKS_DATA_TEXT)
        return continue_prompt(w->spec, w->predictor, lks_encoder_prompt(w->encoder, 0),
                               (uint32_t)w->index++);
    LKS_TRY(lks_predictor_run(w->predictor, w->fields[0], classes ? "logits" : "prediction",
                              &output, &shape));
    for (int64_t i = 0; i < count; ++i, ++w->index)
        LKS_TRY((classes ? write_class : write_number)(w, output + i * shape.size[shape.axes - 1]));
    return LKS_OK;
}

static const char *csv_header(const lks_schema *schema)
{
    if (schema->kind == LKS_DATA_TEXT)
        return "index,prompt,continuation";
    return schema->classes > 0 ? "index,class,probability" : "index,value";
}

static lks_status predict_all(record_work *w)
{
    int64_t batch = w->predictor->batch, count;
    const lks_schema *schema = &w->predictor->schema;
    if (lks_files_is_directory(w->spec->input))
        return LKS_FAIL(LKS_ERR_USAGE, "%s is a directory, want a file", w->spec->input);
    for (int i = 0; i < LKS_SCHEMA_FIELDS; ++i)
        LKS_TRY(lks_memory_allocate(&w->fields[i], (size_t)batch,
                                    lks_field_bytes(&w->predictor->fields[i])));
    LKS_TRY(lks_encoder_open(&w->encoder, w->predictor->manifest->json, w->spec->input,
                             schema->kind == LKS_DATA_TEXT ? schema->context : 1));
    if (w->spec->csv) {
        lks_text_append(&w->line, "%s", csv_header(schema));
        LKS_TRY(send(w->spec, &w->line));
    }
    for (;;) {
        LKS_TRY(lks_encoder_next(w->encoder, batch, w->fields, &count));
        if (!count)
            return LKS_OK;
        LKS_TRY(predict_batch(w, count));
    }
}

lks_status lks_predict_records(const lks_predict_spec *spec)
{
    lks_predictor predictor;
    bool text = lks_model_context(spec->session->experiment.model) > 0;
    LKS_TRY(lks_predictor_init(&predictor, spec->session, text ? 1 : PREDICT_BATCH));
    record_work work = {.spec = spec, .predictor = &predictor};
    lks_status status = predict_all(&work);
    lks_encoder_close(work.encoder);
    for (int i = 0; i < LKS_SCHEMA_FIELDS; ++i)
        lks_memory_free(work.fields[i]);
    lks_text_release(&work.line);
    lks_predictor_release(&predictor);
    return status;
}
