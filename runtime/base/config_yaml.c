#include "runtime/base/config_internal.h"
#include "runtime/base/files.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { CONFIG_FILE_LIMIT = 1 << 20 };

/* One reading of one text: events of libyaml, checked as they come. */
typedef struct yaml_reading {
    lks_config *config;
    const char *name;
    unsigned number;
    json_t *sections; /* a set */
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
} yaml_reading;

static int yaml_line(const yaml_reading *reading)
{
    return (int)reading->event.start_mark.line + 1;
}

static lks_status yaml_fail_parser(const yaml_reading *reading)
{
    const yaml_parser_t *parser = &reading->parser;
    if (parser->error == YAML_MEMORY_ERROR)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
    const char *problem = parser->problem ? parser->problem : "not valid YAML";
    size_t line = parser->problem_mark.line + 1;
    if (parser->error == YAML_READER_ERROR)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: %s at byte %zu, want YAML in UTF-8", reading->name,
                        problem, parser->problem_offset);
    return LKS_FAIL(LKS_ERR_USAGE, "%s:%zu: %s%s%s", reading->name, line,
                    parser->context ? parser->context : "", parser->context ? ": " : "", problem);
}

static bool yaml_is_decorated(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor || event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor || event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor || event->data.mapping_start.tag;
    default:
        return event->type == YAML_ALIAS_EVENT;
    }
}

/* Moves to the next event. */
static lks_status yaml_next(yaml_reading *reading)
{
    yaml_event_delete(&reading->event);
    if (!yaml_parser_parse(&reading->parser, &reading->event))
        return yaml_fail_parser(reading);
    const yaml_event_t *event = &reading->event;
    if (yaml_is_decorated(event))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s:%d: anchors, aliases and tags are not supported, write the value",
                        reading->name, yaml_line(reading));
    if (event->type == YAML_SCALAR_EVENT &&
        strlen((const char *)event->data.scalar.value) != event->data.scalar.length)
        return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: a value contains a NUL byte", reading->name,
                        yaml_line(reading));
    return LKS_OK;
}

/* The text of the current scalar; a plain null is "". */
static const char *yaml_scalar(const yaml_reading *reading)
{
    const char *text = (const char *)reading->event.data.scalar.value;
    bool plain = reading->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return plain && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0) ? "" : text;
}

static lks_status yaml_copy_scalar(const yaml_reading *reading, char **out)
{
    *out = lks_arena_copy(reading->config->arena, yaml_scalar(reading));
    return *out ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
}

/* The current sequence as "a,b,c". */
static lks_status yaml_read_list(yaml_reading *reading, const char *key, lks_text *out)
{
    lks_text_append_bytes(out, "", 0);
    for (bool first = true;; first = false) {
        LKS_TRY(yaml_next(reading));
        if (reading->event.type == YAML_SEQUENCE_END_EVENT)
            return LKS_OK;
        if (reading->event.type != YAML_SCALAR_EVENT)
            return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: %s nests too deep, want a flat list",
                            reading->name, yaml_line(reading), key);
        const char *value = yaml_scalar(reading);
        if (strchr(value, ','))
            return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: a value in the list %s contains a comma",
                            reading->name, yaml_line(reading), key);
        lks_text_append(out, "%s%s", first ? "" : ",", value);
    }
}

static lks_status yaml_read_value(yaml_reading *reading, const char *key)
{
    LKS_TRY(yaml_next(reading));
    const char *origin =
        lks_arena_format(reading->config->arena, "%s:%d", reading->name, yaml_line(reading));
    if (!origin)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
    if (reading->event.type == YAML_SCALAR_EVENT)
        return config_put(reading->config, key, yaml_scalar(reading), origin, CONFIG_FILE,
                          reading->number);
    if (reading->event.type != YAML_SEQUENCE_START_EVENT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: %s nests too deep, want a value or a list", origin,
                        key);
    lks_text list = {0};
    lks_status status = yaml_read_list(reading, key, &list);
    if (status == LKS_OK && list.failed)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
    if (status == LKS_OK)
        status = config_put(reading->config, key, list.data, origin, CONFIG_FILE, reading->number);
    if (status == LKS_OK)
        config_mark_list(reading->config, key, reading->number);
    lks_text_release(&list);
    return status;
}

/* The mapping of one section, from its start event to its end event. */
static lks_status yaml_read_section(yaml_reading *reading, const char *section)
{
    for (;;) {
        LKS_TRY(yaml_next(reading));
        if (reading->event.type == YAML_MAPPING_END_EVENT)
            return LKS_OK;
        if (reading->event.type != YAML_SCALAR_EVENT)
            return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: a key of %s is not plain text", reading->name,
                            yaml_line(reading), section);
        const char *key = lks_arena_format(reading->config->arena, "%s.%s", section,
                                           (const char *)reading->event.data.scalar.value);
        if (!key)
            return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
        LKS_TRY(yaml_read_value(reading, key));
    }
}

/* The current event is a section's name. */
static lks_status yaml_read_entry(yaml_reading *reading)
{
    if (reading->event.type != YAML_SCALAR_EVENT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: the name of a section is not plain text",
                        reading->name, yaml_line(reading));
    char *section;
    LKS_TRY(yaml_copy_scalar(reading, &section));
    if (section[0] == '\0' || strchr(section, '.'))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s:%d: \"%s\" is no name of a section, want section: {key: value}",
                        reading->name, yaml_line(reading), section);
    if (json_object_get(reading->sections, section))
        return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: section %s appears twice, want it once",
                        reading->name, yaml_line(reading), section);
    if (json_object_set_new(reading->sections, section, json_true()) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", reading->name);
    LKS_TRY(yaml_next(reading));
    if (reading->event.type == YAML_MAPPING_START_EVENT)
        return yaml_read_section(reading, section);
    if (reading->event.type == YAML_SCALAR_EVENT && yaml_scalar(reading)[0] == '\0')
        return LKS_OK; /* an empty section */
    return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: %s is not a section, want %s: {key: value}",
                    reading->name, yaml_line(reading), section, section);
}

static lks_status yaml_read_document(yaml_reading *reading)
{
    LKS_TRY(yaml_next(reading)); /* stream start */
    LKS_TRY(yaml_next(reading));
    if (reading->event.type == YAML_STREAM_END_EVENT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s is empty, want sections like train: {steps: 100}",
                        reading->name);
    LKS_TRY(yaml_next(reading)); /* document start */
    if (reading->event.type != YAML_MAPPING_START_EVENT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: want sections like train: {steps: 100}",
                        reading->name, yaml_line(reading));
    for (;;) {
        LKS_TRY(yaml_next(reading));
        if (reading->event.type == YAML_MAPPING_END_EVENT)
            break;
        LKS_TRY(yaml_read_entry(reading));
    }
    LKS_TRY(yaml_next(reading)); /* document end */
    LKS_TRY(yaml_next(reading));
    if (reading->event.type != YAML_STREAM_END_EVENT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: a second document begins, want one", reading->name,
                        yaml_line(reading));
    return LKS_OK;
}

lks_status lks_config_read_text(lks_config *config, const char *text, size_t bytes,
                                const char *name)
{
    if (bytes > CONFIG_FILE_LIMIT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s has more than 1 MiB, want a configuration", name);
    static const char byte_order_mark[] = "\xef\xbb\xbf"; /* libyaml takes it for a column */
    size_t mark = sizeof byte_order_mark - 1;
    if (bytes >= mark && !memcmp(text, byte_order_mark, mark)) {
        text += mark;
        bytes -= mark;
    }
    yaml_reading reading = {.config = config, .name = name, .number = ++config->readings};
    reading.sections = json_object();
    if (!reading.sections || !yaml_parser_initialize(&reading.parser)) {
        json_decref(reading.sections);
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", name);
    }
    yaml_parser_set_encoding(&reading.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reading.parser, (const unsigned char *)text, bytes);
    lks_status status = yaml_read_document(&reading);
    yaml_event_delete(&reading.event);
    yaml_parser_delete(&reading.parser);
    json_decref(reading.sections);
    return status;
}

lks_status lks_config_read_file(lks_config *config, const char *path)
{
    char *text;
    size_t bytes;
    if (!*path)
        return LKS_FAIL(LKS_ERR_USAGE, "the configuration's name is empty: give a YAML file");
    lks_status status = lks_files_read(path, CONFIG_FILE_LIMIT, &text, &bytes);
    if (status == LKS_ERR_CORRUPT)
        return LKS_FAIL(LKS_ERR_USAGE, "%s has more than 1 MiB, want a configuration", path);
    LKS_TRY(status);
    status = lks_config_read_text(config, text, bytes, path);
    free(text);
    return status;
}
