#include "tests/golden/golden.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void golden_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

static void golden_read_bytes(golden *g, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        golden_die("%s: cannot be read", path);
    g->size = (size_t)ftell(file);
    g->bytes = malloc(g->size ? g->size : 1);
    rewind(file);
    if (!g->bytes || fread(g->bytes, 1, g->size, file) != g->size)
        golden_die("%s: cannot be read", path);
    fclose(file);
}

void golden_open(golden *g, const char *path)
{
    char name[4096];
    json_error_t error;
    snprintf(name, sizeof name, "%s.json", path);
    g->index = json_load_file(name, 0, &error);
    if (!g->index)
        golden_die("%s:%d: %s", name, error.line, error.text);
    snprintf(name, sizeof name, "%s.bin", path);
    golden_read_bytes(g, name);
}

void golden_close(golden *g)
{
    json_decref(g->index);
    free(g->bytes);
}

static size_t element_bytes(const char *dtype)
{
    return !strcmp(dtype, "f64") ? 8 : !strcmp(dtype, "u8") ? 1 : 4;
}

golden_tensor golden_read(const golden *g, const json_t *entry)
{
    const json_t *shape = json_object_get(entry, "shape"), *size;
    golden_tensor t = {.elements = 1, .dtype = json_string_value(json_object_get(entry, "dtype"))};
    size_t at = (size_t)json_integer_value(json_object_get(entry, "at"));
    size_t i;
    if (!t.dtype || json_array_size(shape) > sizeof t.size / sizeof *t.size)
        golden_die("golden: an entry is not a tensor");
    json_array_foreach(shape, i, size)
    {
        t.size[t.axes++] = (long)json_integer_value(size);
        t.elements *= (size_t)json_integer_value(size);
    }
    if (at > g->size || t.elements * element_bytes(t.dtype) > g->size - at)
        golden_die("golden: a tensor lies beyond the end of the file");
    t.data = g->bytes + at;
    return t;
}

double golden_at(const golden_tensor *tensor, size_t i)
{
    if (!strcmp(tensor->dtype, "f64"))
        return ((const double *)tensor->data)[i];
    if (!strcmp(tensor->dtype, "f32"))
        return (double)((const float *)tensor->data)[i];
    golden_die("golden: a tensor of %s is not of numbers", tensor->dtype);
}
