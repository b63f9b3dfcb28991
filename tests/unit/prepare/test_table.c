#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *schema_of(const char *directory)
{
    json_t *manifest = load_manifest(directory);
    json_t *schema = json_incref(json_object_get(manifest, "schema"));
    json_decref(manifest);
    return schema;
}

static int64_t schema_integer(const char *directory, const char *key)
{
    json_t *schema = schema_of(directory);
    int64_t value = json_integer_value(json_object_get(schema, key));
    json_decref(schema);
    return value;
}

static void check_features(const char *directory, const float *wanted, size_t count)
{
    size_t bytes;
    float *found = read_array(directory, "features", &bytes);
    ck_assert_uint_eq(bytes, count * sizeof *found);
    for (size_t i = 0; i < count; ++i)
        ck_assert_msg(found[i] == wanted[i], "feature %zu: %g, wanted %g", i, found[i], wanted[i]);
    free(found);
}

static void check_classes(const char *directory, const int32_t *wanted, size_t count)
{
    size_t bytes;
    int32_t *found = read_array(directory, "target", &bytes);
    ck_assert_uint_eq(bytes, count * sizeof *found);
    for (size_t i = 0; i < count; ++i)
        ck_assert_int_eq(found[i], wanted[i]);
    free(found);
}

static json_t *names_of(const char *directory, int column, const char *key)
{
    json_t *schema = schema_of(directory);
    json_t *holder = column < 0
                         ? json_object_get(schema, "target")
                         : json_array_get(json_object_get(schema, "columns"), (size_t)column);
    json_t *list = json_incref(json_object_get(holder, key));
    json_decref(schema);
    return list;
}

static void check_names(const char *directory, int column, const char *key, const char *wanted)
{
    json_t *list = names_of(directory, column, key);
    char found[256] = "";
    for (size_t i = 0; i < json_array_size(list); ++i)
        sprintf(found + strlen(found), "%s%s", i ? "|" : "",
                json_string_value(json_array_get(list, i)));
    ck_assert_str_eq(found, wanted);
    json_decref(list);
}

/* Ages 1 3: mean 2, deviation 1. */
START_TEST(encodes_by_the_training_part)
{
    write_text("t.csv", "age,color,y\n"
                        "1,red,no\n"
                        "?,blue,yes\n"
                        "3,,no\n"
                        "3,red,?\n"
                        "1,blue,yes\n"
                        "5,green,no\n"
                        "NA,red,yes\n");
    ck_assert_msg(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.3) == LKS_OK, "%s",
                  lks_status_message());
    ck_assert_int_eq(schema_integer("out/train", "features"), 4);
    ck_assert_int_eq(schema_integer("out/validation", "classes"), 2);
    check_names("out/validation", 1, "categories", "blue|red");
    check_names("out/train", -1, "classes", "no|yes");
    const float train[] = {-1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, -1, 0, 1, 0};
    check_features("out/train", train, 20);
    check_features("out/validation", (float[]){3, 0, 0, 0, 0, 1, 0, 1}, 8);
    check_classes("out/train", (int32_t[]){0, 1, 0, -1, 1}, 5);
    check_classes("out/validation", (int32_t[]){0, 1}, 2);
}
END_TEST

/* Without missing values in the training part there is no indicator; a constant has deviation 1. */
START_TEST(standardises_numbers)
{
    write_text("t.csv", "a,b,y\n10,7,0.5\n20,7,1.5\n30,7,\n,8,2.5\n");
    ck_assert_int_eq(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.25), LKS_OK);
    ck_assert_int_eq(schema_integer("out/train", "features"), 2);
    ck_assert_int_eq(schema_integer("out/train", "classes"), 0);
    double deviation = sqrt(200.0 / 3);
    const float train[] = {(float)(-10 / deviation), 0, 0, 0, (float)(10 / deviation), 0};
    check_features("out/train", train, 6);
    check_features("out/validation", (float[]){0, 1}, 2);
    size_t bytes;
    float *target = read_array("out/train", "target", &bytes);
    ck_assert_uint_eq(bytes, 12);
    ck_assert_float_eq(target[0], -1);
    ck_assert_float_eq(target[1], 1);
    ck_assert(isnan(target[2]));
    free(target);
    target = read_array("out/validation", "target", &bytes);
    ck_assert_float_eq(target[0], 3);
    free(target);
}
END_TEST

START_TEST(guesses_the_task)
{
    FILE *many = fopen("many.csv", "w"), *few = fopen("few.csv", "w");
    fputs("x,y\n", many);
    fputs("x,y\n", few);
    for (int i = 0; i < 42; ++i) {
        fprintf(many, "%d,%d\n", i, i / 2);
        fprintf(few, "%d,%d\n", i, i % 20);
    }
    fclose(many);
    fclose(few);
    ck_assert_int_eq(PREPARE("table", "many", {"many.csv"}, {"target=y"}), LKS_OK);
    ck_assert_int_eq(schema_integer("many", "classes"), 0);
    ck_assert_int_eq(PREPARE("table", "few", {"few.csv"}, {"target=y"}), LKS_OK);
    ck_assert_int_eq(schema_integer("few", "classes"), 20);
    check_names("few", -1, "classes", "0|1|2|3|4|5|6|7|8|9|10|11|12|13|14|15|16|17|18|19");
    ck_assert_int_eq(PREPARE("table", "forced", {"many.csv"}, {"target=y", "task=classification"}),
                     LKS_OK);
    ck_assert_int_eq(schema_integer("forced", "classes"), 21);
    ck_assert_int_eq(PREPARE("table", "number", {"few.csv"}, {"target=y", "task=regression"}),
                     LKS_OK);
    ck_assert_int_eq(schema_integer("number", "classes"), 0);
}
END_TEST

START_TEST(obeys_its_options)
{
    write_text("t.tsv", "id\tzip\tage\ty\nq\t10\t5\ta\nr\t9\t-\tb\ns\t10\t7\ta\n");
    ck_assert_msg(PREPARE("table", "out", {"t.tsv"},
                          {"target=y", "delimiter=tab", "ignore=id",
                           "types=zip:category,age:number", "missing=-,x"}) == LKS_OK,
                  "%s", lks_status_message());
    check_names("out", 0, "categories", "10|9");
    check_features("out", (float[]){1, 0, -1, 0, 0, 1, 0, 1, 1, 0, 1, 0}, 12);
}
END_TEST

START_TEST(reads_several_files_and_quotes)
{
    write_text("a.csv", "\"x, y\",t\r\n\"1\",\"say \"\"hi\"\"\"\r\n3,\xC3\xA9\r\n");
    write_text("b.csv", "\"x, y\",t\n1,\xC3\xA9\n3,\"say \"\"hi\"\"\"");
    ck_assert_int_eq(PREPARE("table", "out", {"a.csv", "b.csv"}, {"target=t"}, .shard_bytes = 16),
                     LKS_OK);
    check_features("out", (float[]){-1, 1, -1, 1}, 4);
    check_classes("out", (int32_t[]){0, 1, 1, 0}, 4);
    check_names("out", -1, "classes", "say \"hi\"|\xC3\xA9");
    ck_assert_uint_eq(count_entries("out"), 3);
}
END_TEST

/* Row i: number i, category and class of i; shuffled and not, over many seeks. */
static void write_rows(const char *path, int count)
{
    FILE *file = fopen(path, "w");
    fputs("n,c,y\n", file);
    for (int i = 0; i < count; ++i)
        fprintf(file, "%d,c%d,\"%s\n\"\n", i, i % 5, i % 3 ? "odd" : "third");
    fclose(file);
}

START_TEST(shuffles_rows_whole)
{
    enum { ROWS = 3000 };
    write_rows("t.csv", ROWS);
    ck_assert_int_eq(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.1, .shuffle = true,
                             .seed = 7, .shard_bytes = 10000),
                     LKS_OK);
    json_t *schema = schema_of("out/train");
    json_t *column = json_array_get(json_object_get(schema, "columns"), 0);
    double mean = json_number_value(json_object_get(column, "mean"));
    double deviation = json_number_value(json_object_get(column, "deviation"));
    json_decref(schema);
    bool seen[ROWS] = {false};
    int in_place = 0;
    for (int part = 0; part < 2; ++part) {
        size_t bytes;
        float *features = read_array(part ? "out/validation" : "out/train", "features", &bytes);
        int32_t *classes = read_array(part ? "out/validation" : "out/train", "target", &bytes);
        for (size_t i = 0; i < bytes / 4; ++i) {
            long row = lround(features[i * 6] * deviation + mean);
            ck_assert(row >= 0 && row < ROWS && !seen[row]);
            seen[row] = true;
            ck_assert_float_eq(features[i * 6 + 1 + (size_t)(row % 5)], 1);
            ck_assert_int_eq(classes[i], row % 3 ? 0 : 1);
            in_place += (size_t)row == i + (part ? 2700 : 0);
        }
        free(features);
        free(classes);
    }
    ck_assert_int_lt(in_place, 20);
}
END_TEST

static void check_table(const char *text, const char *target, lks_status status, const char *part)
{
    char setting[64];
    write_text("t.csv", text);
    snprintf(setting, sizeof setting, "target=%s", target);
    check_refused(PREPARE("table", "out", {"t.csv"}, {setting}), status, part);
    ck_assert_uint_eq(count_entries("."), 1);
}

START_TEST(refuses_bad_files)
{
    check_table("a,b,c,d,e\n1,2,3,4,5\n\n1,2,3,4\n", "e", LKS_ERR_CORRUPT,
                "t.csv:4: 4 fields, the header has 5");
    check_table("a,y\n1,2\n1,2,3\n", "y", LKS_ERR_CORRUPT, "t.csv:3: 3 fields, the header has 2");
    check_table("a,y\n", "y", LKS_ERR_CORRUPT, "t.csv: has a header and no rows");
    check_table("\n\n", "y", LKS_ERR_CORRUPT, "t.csv: has no header");
    check_table("a,y,a\n1,2,3\n", "y", LKS_ERR_CORRUPT, "columns 1 and 3 are both named \"a\"");
    check_table("a,y\n\xFF,2\n1,3\n", "y", LKS_ERR_CORRUPT,
                "t.csv:2: column a holds text that is not UTF-8");
    check_table("\xFF,y\n1,2\n1,3\n", "y", LKS_ERR_CORRUPT, "column 1 is not UTF-8");
    check_table("a,y\n1,same\n2,same\n", "y", LKS_ERR_CORRUPT, "one class alone");
    check_table("a,y\n1,\n2,?\n", "y", LKS_ERR_CORRUPT,
                "every value of the training part is missing");
    check_table("a,y\n1e308,1\n-1e308,2\n", "y", LKS_ERR_CORRUPT, "too large to standardise");
    check_table("y\n1\n2\n", "y", LKS_ERR_USAGE, "no column is left that could predict y");
    check_table("a,price\n1,2\n", "prices", LKS_ERR_USAGE,
                "there is no column \"prices\": did you mean \"price\"?");
    check_table("a,b\n1,2\n", "", LKS_ERR_USAGE, "name the column to predict");
}
END_TEST

START_TEST(refuses_bad_options)
{
    write_text("t.csv", "a,b,y\n1,u,2\n2,v,3\n2,w,3\n");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "ignore=c"}), LKS_ERR_USAGE,
                  "ignore: there is no column \"c\"");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "ignore=y"}), LKS_ERR_USAGE,
                  "\"y\" is named twice");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "types=a:int"}), LKS_ERR_USAGE,
                  "write column:number or column:category");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "types=b:number"}),
                  LKS_ERR_CORRUPT, "t.csv:2: column b holds numbers, found \"u\"");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "max_categories=2"}),
                  LKS_ERR_USAGE, "column b has more than 2 different values");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=b", "max_categories=2"}),
                  LKS_ERR_USAGE, "target b has more than 2 classes");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=b", "task=regression"}),
                  LKS_ERR_CORRUPT, "t.csv:2: column b holds numbers");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y", "delimiter=ab"}), LKS_ERR_USAGE,
                  "give one character, or tab");
    ck_assert_uint_eq(count_entries("."), 1);
}
END_TEST

START_TEST(refuses_what_only_validation_has)
{
    write_text("t.csv", "a,y\n1,u\n2,v\n3,u\n4,w\n");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.25), LKS_ERR_CORRUPT,
                  "t.csv:5: the target y is \"w\", a class that the training part lacks");
    write_text("t.csv", "a,y\n1,u\n2,v\n3,u\nx,v\n");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.25), LKS_ERR_CORRUPT,
                  "t.csv:5: column a holds numbers, found \"x\"");
    write_text("t.csv", "a,y\n1,u\n2,v\n3,u\n1e300,v\n");
    check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.25), LKS_ERR_CORRUPT,
                  "t.csv:5: column a: 1e300 is too large");
    write_text("u.csv", "a,z\n1,u\n");
    check_refused(PREPARE("table", "out", {"t.csv", "u.csv"}, {"target=y"}), LKS_ERR_CORRUPT,
                  "u.csv: column 2 is \"z\", in t.csv it is \"y\"");
    ck_assert_uint_eq(count_entries("."), 2);
}
END_TEST

TCase *table_tests(void)
{
    TCase *tcase = tcase_create("table");
    tcase_add_test(tcase, encodes_by_the_training_part);
    tcase_add_test(tcase, standardises_numbers);
    tcase_add_test(tcase, guesses_the_task);
    tcase_add_test(tcase, obeys_its_options);
    tcase_add_test(tcase, reads_several_files_and_quotes);
    tcase_add_test(tcase, shuffles_rows_whole);
    tcase_add_test(tcase, refuses_bad_files);
    tcase_add_test(tcase, refuses_bad_options);
    tcase_add_test(tcase, refuses_what_only_validation_has);
    return tcase;
}
