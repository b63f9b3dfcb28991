#include "runtime/base/config.h"
#include "runtime/base/files.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct settings {
    int64_t steps, width;
    double lr;
    const char *path;
    lks_option_integers sizes;
    int precision;
    bool flag;
} settings;

static const lks_option train_table[] = {
    {"steps", LKS_OPTION_INTEGER, offsetof(settings, steps), "100", 1, 1e15, NULL,
     LKS_OPTION_SCHEDULED, "steps"},
    {"global_batch", LKS_OPTION_INTEGER, offsetof(settings, width), "64", 1, 1e9, NULL,
     LKS_OPTION_FIXED, "batch"},
    {"precision", LKS_OPTION_CHOICE, offsetof(settings, precision), "f32", 0, 0, "f32|bf16",
     LKS_OPTION_FIXED, "precision"},
    {"flag", LKS_OPTION_BOOL, offsetof(settings, flag), "no", 0, 0, NULL, LKS_OPTION_FREE, "flag"},
    {"path", LKS_OPTION_TEXT, offsetof(settings, path), NULL, 0, 0, NULL, LKS_OPTION_FREE, "path"},
    LKS_OPTIONS_END};
static const lks_option model_table[] = {{"width", LKS_OPTION_INTEGER, offsetof(settings, width),
                                          "384", 1, 1e6, NULL, LKS_OPTION_FIXED, "width"},
                                         {"sizes", LKS_OPTION_LIST, offsetof(settings, sizes),
                                          "64,32", 1, 1e6, NULL, LKS_OPTION_FIXED, "sizes"},
                                         LKS_OPTIONS_END};
static const lks_option optimizer_table[] = {{"lr", LKS_OPTION_NUMBER, offsetof(settings, lr),
                                              "1e-3", 0, 1e3, NULL, LKS_OPTION_SCHEDULED, "lr"},
                                             LKS_OPTIONS_END};

static lks_config *config;
static settings train, model, optimizer;

static void setup(void)
{
    ASSERT_OK(lks_config_create(&config));
}
static void teardown(void)
{
    lks_config_destroy(config);
}

static lks_status read_text(const char *yaml)
{
    return lks_config_read_text(config, yaml, strlen(yaml), "gpt.yaml");
}

static void bind_all(void)
{
    ASSERT_OK(lks_config_bind(config, "train", train_table, &train));
    ASSERT_OK(lks_config_bind(config, "model", model_table, &model));
    ASSERT_OK(lks_config_bind(config, "optimizer", optimizer_table, &optimizer));
}

START_TEST(defaults_fill_everything)
{
    bind_all();
    ASSERT_OK(lks_config_check_unknown(config));
    ck_assert_int_eq(train.steps, 100);
    ck_assert_int_eq(train.precision, 0);
    ck_assert(!train.flag);
    ck_assert_str_eq(train.path, "");
    ck_assert_int_eq(model.width, 384);
    ck_assert_uint_eq(model.sizes.count, 2);
    ck_assert(optimizer.lr == 1e-3);
}
END_TEST

START_TEST(later_sources_win_in_any_order)
{
    const char *environment[] = {"HOME=/", "LOCKSTEP_TRAIN_GLOBAL_BATCH=3",
                                 "LOCKSTEP_MODEL_WIDTH=3", "LOCKSTEP_OPTIMIZER_LR=3", NULL};
    ASSERT_OK(lks_config_set(config, "optimizer.lr=4", "--set"));
    ASSERT_OK(lks_config_use_environment(config, (char **)environment));
    ASSERT_OK(read_text("train: {steps: 2, global_batch: 2}\nmodel:\n  width: 2\n"
                        "optimizer: {lr: 2}\n"));
    ASSERT_OK(lks_config_set(config, "model.width=4", "--set"));
    bind_all();
    ASSERT_OK(lks_config_check_unknown(config));
    ck_assert_int_eq(train.steps, 2);
    ck_assert_int_eq(train.width, 3);
    ck_assert_int_eq(model.width, 4);
    ck_assert(optimizer.lr == 4);
    ASSERT_OK(lks_config_set(config, "optimizer.lr=5", "--set"));
    bind_all();
    ck_assert(optimizer.lr == 5);
}
END_TEST

START_TEST(lists_and_quotes_in_yaml)
{
    ASSERT_OK(read_text("# comment\nmodel:\n  sizes: [8,\n    16]\n  width: '12'\ntrain:\n"
                        "  path: \"a \\\"b\\\" c\"\noptimizer:\n"));
    bind_all();
    ck_assert_uint_eq(model.sizes.count, 2);
    ck_assert_int_eq(model.sizes.values[1], 16);
    ck_assert_int_eq(model.width, 12);
    ck_assert_str_eq(train.path, "a \"b\" c");
}
END_TEST

START_TEST(unknown_keys_name_the_nearest)
{
    ASSERT_OK(read_text("train:\n  steps: 5\n\n\n\nmodel:\n  widht: 5\n"));
    bind_all();
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE,
                 "gpt.yaml:7: unknown key model.widht, did you mean model.width?");
}
END_TEST

START_TEST(unknown_keys_name_what_there_is)
{
    ASSERT_OK(lks_config_set(config, "optimizer.foo_bar_baz=5", "--set"));
    bind_all();
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE,
                 "--set: unknown key optimizer.foo_bar_baz, known here are: lr");
    lks_config_destroy(config);
    ASSERT_OK(lks_config_create(&config));
    ASSERT_OK(lks_config_set(config, "zzzzzz.y=5", "--set"));
    bind_all();
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE,
                 "known here are: train, model, optimizer");
}
END_TEST

START_TEST(unknown_variables_are_errors)
{
    const char *environment[] = {"LOCKSTEP_TRAIN_STPES=3", NULL};
    const char *shapeless[] = {"LOCKSTEP_DEBUG=3", NULL};
    ASSERT_OK(lks_config_use_environment(config, (char **)environment));
    bind_all();
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE,
                 "LOCKSTEP_TRAIN_STPES: unknown key train.stpes, did you mean train.steps?");
    ASSERT_FAILS(lks_config_use_environment(config, (char **)shapeless), LKS_ERR_USAGE,
                 "LOCKSTEP_DEBUG");
}
END_TEST

START_TEST(values_out_of_range_name_their_origin)
{
    ASSERT_OK(read_text("train:\n  steps: -3\n"));
    ASSERT_FAILS(lks_config_bind(config, "train", train_table, &train), LKS_ERR_USAGE,
                 "train.steps is -3 (gpt.yaml:2), want an integer from 1 to 1e+15");
    const char *environment[] = {"LOCKSTEP_TRAIN_STEPS=many", NULL};
    ASSERT_OK(lks_config_use_environment(config, (char **)environment));
    ASSERT_FAILS(lks_config_bind(config, "train", train_table, &train), LKS_ERR_USAGE,
                 "train.steps is many (LOCKSTEP_TRAIN_STEPS)");
    ASSERT_OK(lks_config_set(config, "train.steps=0", "--set"));
    ASSERT_FAILS(lks_config_bind(config, "train", train_table, &train), LKS_ERR_USAGE,
                 "train.steps is 0 (--set)");
}
END_TEST

START_TEST(required_keys_are_asked_for)
{
    static const lks_option table[] = {{"depth", LKS_OPTION_INTEGER, offsetof(settings, steps),
                                        NULL, 1, 9, NULL, LKS_OPTION_FIXED, "number of layers"},
                                       LKS_OPTIONS_END};
    ASSERT_FAILS(lks_config_bind(config, "model", table, &model), LKS_ERR_USAGE,
                 "model.depth is not set and has no default: number of layers");
}
END_TEST

START_TEST(bad_yaml_names_the_line)
{
    static const struct {
        const char *yaml, *part;
    } wrong[] = {
        {"", "gpt.yaml is empty"},
        {"# nothing\n", "gpt.yaml is empty"},
        {"---\n", "want sections"},
        {"train\n", "gpt.yaml:1: want sections"},
        {"- a\n", "gpt.yaml:1: want sections"},
        {"train: 5\n", "gpt.yaml:1: train is not a section"},
        {"train: [5]\n", "gpt.yaml:1: train is not a section"},
        {"train:\n  a: {b: 1}\n", "gpt.yaml:2: train.a nests too deep"},
        {"train:\n  a: [1, [2]]\n", "gpt.yaml:2: train.a nests too deep"},
        {"train:\n  a: [x, 'y,z']\n", "contains a comma"},
        {"train:\n  steps: 1\n  steps: 2\n",
         "gpt.yaml:3: train.steps is already set at gpt.yaml:2"},
        {"train: {steps: 1}\ntrain: {lanes: 1}\n", "gpt.yaml:2: section train appears twice"},
        {"train:\n  a: &x 1\n", "gpt.yaml:2: anchors"},
        {"train: &x\n  a: 1\n", "gpt.yaml:1: anchors"},
        {"train:\n  a: *x\n", "gpt.yaml:2: anchors"},
        {"train:\n  a: !!int 5\n", "gpt.yaml:2: anchors, aliases and tags"},
        {"train: {a: 1}\n---\nmodel: {b: 1}\n", "second document"},
        {"train:\n  a: [1\nb: 2\n", "gpt.yaml:"},
        {"train:\n\ta: 1\n", "gpt.yaml:2: "},
        {"train:\n  a: \"\\0\"\n", "NUL"},
        {"train:\n  a: \xff\xfe\n", "UTF-8"},
        {"train:\n  a.b: 1\n", "not of the form section.key"},
        {"a.b: {c: 1}\n", "no name of a section"},
        {"? [a]\n: {c: 1}\n", "gpt.yaml:1: the name of a section"},
        {"train:\n  ? {a: 1}\n  : 1\n", "gpt.yaml:2: a key of train"},
        {"train:\n  : 1\n", "gpt.yaml:2: "},
        {"train:\n  '': 1\n", "not of the form"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        teardown();
        setup();
        ASSERT_FAILS(read_text(wrong[i].yaml), LKS_ERR_USAGE, wrong[i].part);
        ck_assert_msg(!strchr(lks_status_message(), '\n'), "%s", lks_status_message());
    }
}
END_TEST

START_TEST(files_are_bounded)
{
    enum { BYTES = (1 << 20) + 1 };
    char *text = malloc(BYTES);
    memset(text, '\n', BYTES);
    ASSERT_FAILS(lks_config_read_text(config, text, BYTES, "big.yaml"), LKS_ERR_USAGE, "1 MiB");
    ASSERT_FAILS(lks_config_read_text(config, text, BYTES - 1, "big.yaml"), LKS_ERR_USAGE, "empty");
    char path[] = "/tmp/lks-base-XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ASSERT_OK(lks_files_pwrite(file, path, text, BYTES, 0));
    ASSERT_FAILS(lks_config_read_file(config, path), LKS_ERR_USAGE, "1 MiB");
    ASSERT_OK(lks_files_remove_tree(path));
    ASSERT_FAILS(lks_config_read_file(config, path), LKS_ERR_USAGE, path);
    free(text);
}
END_TEST

START_TEST(assignments_are_checked)
{
    static const char *const wrong[] = {"train.steps", "steps=5", "=5", ".a=5", "a.=5", "a.b.c=5"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        ASSERT_FAILS(lks_config_set(config, wrong[i], "--set"), LKS_ERR_USAGE, "--set");
    ASSERT_FAILS(lks_config_set(config, "a.b=\xff", "--set"), LKS_ERR_USAGE, "UTF-8");
    ASSERT_OK(lks_config_set(config, "train.path=a=b", "--set"));
    bind_all();
    ck_assert_str_eq(train.path, "a=b");
}
END_TEST

START_TEST(names_can_be_asked_for)
{
    const char *environment[] = {"LOCKSTEP_SCHEDULE_NAME=cosine", NULL};
    ASSERT_OK(read_text("model: {name: gpt}\n"));
    ASSERT_OK(lks_config_use_environment(config, (char **)environment));
    ck_assert_str_eq(lks_config_get(config, "model.name"), "gpt");
    ck_assert_str_eq(lks_config_get(config, "schedule.name"), "cosine");
    ck_assert_str_eq(lks_config_get_default(config, "optimizer.name", "adamw"), "adamw");
    ck_assert_str_eq(lks_config_get(config, "optimizer.name"), "adamw");
    ck_assert_ptr_null(lks_config_get(config, "data.train"));
    ASSERT_OK(lks_config_check_unknown(config));
    json_t *json = lks_config_to_json(config);
    ck_assert_uint_eq(json_object_size(json), 3);
    const char *value, *origin, *change, *fallback;
    ck_assert_int_eq(json_unpack(json, "{s:{s:s, s:s, s:s, s:s}}", "optimizer.name", "value",
                                 &value, "origin", &origin, "change", &change, "default",
                                 &fallback),
                     0);
    ck_assert_str_eq(value, "adamw");
    ck_assert_str_eq(origin, "default");
    ck_assert_str_eq(change, "fixed");
    ck_assert_str_eq(fallback, "adamw");
    ck_assert_int_eq(
        json_unpack(json, "{s:{s:s, s:s}}", "schedule.name", "origin", &origin, "change", &change),
        0);
    ck_assert_str_eq(origin, "LOCKSTEP_SCHEDULE_NAME");
    ck_assert_str_eq(change, "scheduled");
    json_decref(json);
}
END_TEST

START_TEST(a_bound_key_keeps_its_class_when_asked_for)
{
    ASSERT_OK(read_text("train: {path: here}\n"));
    bind_all();
    ck_assert_str_eq(lks_config_get(config, "train.path"), "here");
    json_t *json = lks_config_to_json(config);
    const char *change;
    ck_assert_int_eq(json_unpack(json, "{s:{s:s}}", "train.path", "change", &change), 0);
    ck_assert_str_eq(change, "free");
    json_decref(json);
}
END_TEST

static void check_round_trip(bool origins)
{
    ASSERT_OK(read_text(
        "train: {steps: 1e3, path: \"x: #\\n\\\"\\\\\\xff \\N\\L\\uFEFF\\U0001F600 y\", flag: on}\n"
        "model: {name: 'null', sizes: []}\noptimizer: {lr: 0.30000000000000004}\n"));
    ck_assert_str_eq(lks_config_get(config, "model.name"), "null");
    bind_all();
    lks_text yaml = {0}, again = {0};
    lks_config_print_yaml(config, origins, &yaml);
    if (origins)
        ck_assert_ptr_nonnull(strstr(yaml.data, "  steps: 1000  # gpt.yaml:1\n"));
    lks_config *old = config;
    settings old_train = train;
    setup();
    ASSERT_OK(lks_config_read_text(config, yaml.data, yaml.length, "printed.yaml"));
    ck_assert_str_eq(lks_config_get(config, "model.name"), "null");
    bind_all();
    ASSERT_OK(lks_config_check_unknown(config));
    ck_assert_str_eq(train.path, old_train.path);
    ck_assert_uint_eq(model.sizes.count, 0);
    ck_assert(optimizer.lr == 0.30000000000000004);
    lks_config_print_yaml(old, false, &again);
    lks_text_clear(&yaml);
    lks_config_print_yaml(config, false, &yaml);
    ck_assert_str_eq(yaml.data, again.data);
    lks_text_release(&yaml);
    lks_text_release(&again);
    lks_config_destroy(old);
}

START_TEST(printed_yaml_reads_back)
{
    check_round_trip(false);
    teardown();
    setup();
    check_round_trip(true);
}
END_TEST

/* The JSON of a configuration that reads `yaml`, then a fresh `config`. */
static json_t *record(const char *yaml)
{
    if (yaml[0])
        ASSERT_OK(read_text(yaml));
    ck_assert_ptr_nonnull(lks_config_get_default(config, "optimizer.name", "adamw"));
    bind_all();
    json_t *json = lks_config_to_json(config);
    ck_assert_ptr_nonnull(json);
    teardown();
    setup();
    return json;
}

static lks_status resume(const json_t *recorded, const char *yaml, lks_text *changes)
{
    if (yaml[0])
        ASSERT_OK(read_text(yaml));
    ck_assert_ptr_nonnull(lks_config_get_default(config, "optimizer.name", "adamw"));
    bind_all();
    return lks_config_check_resume(config, recorded, changes);
}

START_TEST(equal_values_resume)
{
    lks_text changes = {0};
    json_t *recorded = record("train: {global_batch: 1e1}\noptimizer: {lr: 1e-3}\n");
    ASSERT_OK(resume(recorded, "train: {global_batch: 10, flag: yes}\noptimizer: {lr: 0.001}\n",
                     &changes));
    ck_assert_uint_eq(changes.length, 0);
    json_decref(recorded);
}
END_TEST

START_TEST(fixed_options_are_refused)
{
    lks_text changes = {0};
    json_t *recorded = record("");
    ASSERT_FAILS(resume(recorded, "train: {global_batch: 10}\n", &changes), LKS_ERR_USAGE,
                 "train.global_batch is 10 (gpt.yaml:1), but this job began with 64");
    teardown();
    setup();
    ASSERT_FAILS(resume(recorded, "optimizer: {name: sgd}\n", &changes), LKS_ERR_USAGE,
                 "optimizer.name is sgd (gpt.yaml:1), but this job began with adamw");
    json_decref(recorded);
}
END_TEST

START_TEST(scheduled_changes_are_told)
{
    lks_text changes = {0};
    json_t *recorded = record("train: {path: a}\n");
    ASSERT_OK(resume(recorded, "train: {steps: 200, path: b}\noptimizer: {lr: 2e-3}\n", &changes));
    ck_assert_str_eq(changes.data, "train.steps: 100 -> 200 (gpt.yaml:1), "
                                   "optimizer.lr: 0.001 -> 0.002 (gpt.yaml:2)");
    lks_text_release(&changes);
    json_decref(recorded);
}
END_TEST

START_TEST(keys_of_one_side_meet_the_default)
{
    lks_text changes = {0};
    json_t *recorded = record("");
    ck_assert_int_eq(json_object_del(recorded, "model.width"), 0); /* an older version */
    ASSERT_OK(resume(recorded, "", &changes));
    teardown();
    setup();
    ASSERT_FAILS(resume(recorded, "model: {width: 5}\n", &changes), LKS_ERR_USAGE,
                 "model.width is 5 (gpt.yaml:1), but this job began with 384");
    json_object_set_new(
        recorded, "model.gone",
        json_pack("{s:s,s:s,s:s}", "value", "1", "change", "fixed", "default", "1"));
    teardown();
    setup();
    ASSERT_OK(resume(recorded, "", &changes));
    json_object_set_new(json_object_get(recorded, "model.gone"), "value", json_string("2"));
    ASSERT_FAILS(lks_config_check_resume(config, recorded, &changes), LKS_ERR_USAGE,
                 "model.gone is not set (now), but this job began with 2");
    json_object_set_new(json_object_get(recorded, "model.gone"), "change",
                        json_string("scheduled"));
    ASSERT_OK(lks_config_check_resume(config, recorded, &changes));
    ck_assert_str_eq(changes.data, "model.gone: 2 -> not set (now)");
    lks_text_release(&changes);
    json_decref(recorded);
}
END_TEST

START_TEST(one_value_is_no_list)
{
    ASSERT_OK(read_text("model: {width: [5], sizes: [3]}"));
    bind_all();
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE,
                 "gpt.yaml:1: model.width is a list, want one value");
    ASSERT_OK(lks_config_set(config, "model.width=6", "--set"));
    ASSERT_OK(lks_config_check_unknown(config));
    ck_assert_int_eq(model.sizes.count, 1);
}
END_TEST

static const lks_option other_table[] = {
    {"momentum", LKS_OPTION_NUMBER, 0, "0", 0, 1, NULL, LKS_OPTION_FIXED, "of another optimizer"},
    {"lr", LKS_OPTION_NUMBER, 0, "1", 0, 1, NULL, LKS_OPTION_FIXED, "of both"},
    LKS_OPTIONS_END};

static void leave_out(const char *want)
{
    lks_text left_out = {0};
    ck_assert_str_eq(lks_config_get_default(config, "optimizer.name", "adamw"), "adamw");
    bind_all();
    ASSERT_OK(lks_config_leave_out(config, "optimizer.name", other_table, &left_out));
    ck_assert_str_eq(left_out.data ? left_out.data : "", want);
    lks_text_release(&left_out);
}

START_TEST(options_of_another_driver_give_way_to_a_later_name)
{
    ASSERT_OK(read_text("optimizer: {name: sgd, momentum: 0.9, lr: 0.1}"));
    ASSERT_OK(lks_config_set(config, "optimizer.name=adamw", "--set"));
    leave_out("optimizer.momentum (gpt.yaml:1)");
    ASSERT_OK(lks_config_check_unknown(config));
    ck_assert(optimizer.lr == 0.1);
    leave_out(""); /* once */
}
END_TEST

START_TEST(options_of_another_driver_are_errors_of_the_same_source)
{
    ASSERT_OK(read_text("optimizer: {name: adamw, momentum: 0.9}"));
    leave_out("");
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE, "optimizer.momentum");
    teardown();
    setup();
    ASSERT_OK(lks_config_set(config, "optimizer.name=adamw", "--set"));
    ASSERT_OK(lks_config_set(config, "optimizer.momentum=0.9", "--set"));
    leave_out("");
    ASSERT_FAILS(lks_config_check_unknown(config), LKS_ERR_USAGE, "optimizer.momentum");
}
END_TEST

TCase *case_config(void)
{
    TCase *tcase = tcase_create("config");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, defaults_fill_everything);
    tcase_add_test(tcase, later_sources_win_in_any_order);
    tcase_add_test(tcase, lists_and_quotes_in_yaml);
    tcase_add_test(tcase, unknown_keys_name_the_nearest);
    tcase_add_test(tcase, unknown_keys_name_what_there_is);
    tcase_add_test(tcase, unknown_variables_are_errors);
    tcase_add_test(tcase, values_out_of_range_name_their_origin);
    tcase_add_test(tcase, required_keys_are_asked_for);
    tcase_add_test(tcase, bad_yaml_names_the_line);
    tcase_add_test(tcase, files_are_bounded);
    tcase_add_test(tcase, assignments_are_checked);
    tcase_add_test(tcase, names_can_be_asked_for);
    tcase_add_test(tcase, a_bound_key_keeps_its_class_when_asked_for);
    tcase_add_test(tcase, printed_yaml_reads_back);
    tcase_add_test(tcase, one_value_is_no_list);
    tcase_add_test(tcase, options_of_another_driver_give_way_to_a_later_name);
    tcase_add_test(tcase, options_of_another_driver_are_errors_of_the_same_source);
    return tcase;
}

TCase *case_config_resume(void)
{
    TCase *tcase = tcase_create("config on resume");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, equal_values_resume);
    tcase_add_test(tcase, fixed_options_are_refused);
    tcase_add_test(tcase, scheduled_changes_are_told);
    tcase_add_test(tcase, keys_of_one_side_meet_the_default);
    return tcase;
}
