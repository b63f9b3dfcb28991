/* The digest, and what differs between two checkpoints. */
#include "runtime/base/json.h"
#include "tests/unit/checkpoints/suites.h"

#include <math.h>

/* Saves the arrays as they are. */
static void save(fixture *f, uint64_t step, const json_t *config)
{
    lks_checkpoints *checkpoints;
    double stall;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &f->spec));
    lks_checkpoint_info info = fixture_info(step);
    info.config_json = config;
    ASSERT_OK(lks_checkpoints_save(checkpoints, f->arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(saved);
    lks_checkpoints_close(checkpoints);
}

static lks_checkpoint *load(const fixture *f, const char *name)
{
    lks_checkpoint *checkpoint;
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(f, name, NULL), LKS_CHECK_ALL));
    return checkpoint;
}

START_TEST(test_digest)
{
    char have[65], want[65];
    fixture_fill(&self, 3);
    save(&self, 8, NULL);
    lks_checkpoint *checkpoint = load(&self, "step-00000008");
    ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
    fixture_digest(&self, 3, want);
    ck_assert_str_eq(have, want);
    fixture_digest(&self, 4, want);
    ck_assert_str_ne(have, want);
    lks_checkpoint_close(checkpoint);
}
END_TEST

typedef struct result {
    lks_text text;
    json_t *json;
    bool equal;
} result;

static result compare(const char *a, const char *b)
{
    result r = {0};
    lks_checkpoint *x = load(&self, a), *y = load(&self, b);
    ASSERT_OK(lks_checkpoint_diff(x, y, &r.text, &r.json, &r.equal));
    lks_checkpoint_close(x);
    lks_checkpoint_close(y);
    return r;
}

static void result_release(result *r)
{
    lks_text_release(&r->text);
    json_decref(r->json);
}

#define HAS(r, part)                                                                               \
    ck_assert_msg((r).text.data != NULL && strstr((r).text.data, (part)) != NULL,                  \
                  "\"%s\" is not in:\n%s", (part), (r).text.data)

START_TEST(test_same)
{
    fixture_fill(&self, 3);
    save(&self, 1, NULL);
    result r = compare("step-00000001", "step-00000001");
    ck_assert(r.equal && r.text.length == 0);
    ck_assert(json_is_true(json_object_get(r.json, "state_equal")));
    ck_assert_uint_eq(json_array_size(json_object_get(r.json, "differences")), 0);
    result_release(&r);
}
END_TEST

START_TEST(test_tensors)
{
    fixture_fill(&self, 3);
    save(&self, 1, NULL);
    uint64_t wte = self.layout->tensors[0].offset;
    self.data[0][wte + 7] += 0.5f;
    self.data[0][wte + 501] -= 2.25f; /* [1, 1] */
    self.data[0][wte + 140000] += 1;
    self.data[1][self.layout->tensors[3].offset] = NAN; /* the scalar */
    save(&self, 2, NULL);
    result r = compare("step-00000001", "step-00000002");
    ck_assert(!r.equal);
    HAS(r, "step: 1 | 2\n");
    HAS(r, "position: 64 | 128\n");
    HAS(r,
        "model/wte: 3 of 150000 elements differ, in 2 of 3 blocks (0, 2); the largest difference "
        "is 2.25 at [1, 1]");
    HAS(r,
        "optimizer/m/scale: 1 of 1 elements differ, in 1 of 1 blocks (0); the largest difference "
        "is inf at []");
    ck_assert_uint_eq(json_array_size(json_object_get(r.json, "differences")), 4);
    json_t *wte_entry = json_array_get(json_object_get(r.json, "differences"), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(wte_entry, "elements")), 3);
    ck_assert_int_eq(json_integer_value(json_object_get(wte_entry, "blocks")), 2);
    json_t *which = json_object_get(wte_entry, "which_blocks");
    ck_assert_uint_eq(json_array_size(which), 2);
    ck_assert_int_eq(json_integer_value(json_array_get(which, 1)), 2);
    ck_assert(json_real_value(json_object_get(wte_entry, "largest")) == 2.25);
    ck_assert(json_is_false(json_object_get(r.json, "state_equal")));
    result_release(&r);
}
END_TEST

START_TEST(test_all_blocks)
{
    fixture_fill(&self, 3);
    save(&self, 1, NULL);
    for (uint64_t i = 0; i < 150000; ++i)
        self.data[0][self.layout->tensors[0].offset + i] += 1;
    save(&self, 2, NULL);
    result r = compare("step-00000001", "step-00000002");
    HAS(r, "model/wte: 150000 of 150000 elements differ, in 3 of 3 blocks (0-2); the largest");
    result_release(&r);
}
END_TEST

START_TEST(test_signed_zero)
{
    fixture_fill(&self, 3);
    uint64_t gain = self.layout->tensors[1].offset;
    self.data[0][gain] = 0.0f;
    save(&self, 1, NULL);
    self.data[0][gain] = -0.0f;
    save(&self, 2, NULL);
    result r = compare("step-00000001", "step-00000002");
    HAS(r, "model/h.0.ln.gain: 1 of 12 elements differ");
    result_release(&r);
}
END_TEST

START_TEST(test_groups)
{
    fixture_fill(&self, 3);
    save(&self, 1, NULL);
    self.spec.array_count = 2; /* without optimizer/v */
    save(&self, 2, NULL);
    result r = compare("step-00000001", "step-00000002");
    HAS(r, "optimizer/v/h.0.conv: only in ");
    ck_assert_uint_eq(json_array_size(json_object_get(r.json, "differences")), 2 + 6);
    result back = compare("step-00000002", "step-00000001");
    ck_assert_uint_eq(json_array_size(json_object_get(back.json, "differences")), 2 + 6);
    result_release(&r);
    result_release(&back);
}
END_TEST

START_TEST(test_configs)
{
    json_t *a = json_pack("{s:{s:s,s:s}, s:{s:s,s:s}, s:{s:s}}", "train.seed", "value", "1",
                          "origin", "a.yaml:3", "train.steps", "value", "10", "origin", "a.yaml",
                          "only.a", "value", "x");
    json_t *b = json_pack("{s:{s:s,s:s}, s:{s:s,s:s}}", "train.seed", "value", "1", "origin",
                          "--set", "train.steps", "value", "20", "origin", "a.yaml");
    fixture_fill(&self, 3);
    save(&self, 1, a);
    save(&self, 2, b);
    result r = compare("step-00000001", "step-00000002");
    HAS(r, "config train.steps: 10 | 20\n");
    HAS(r, "config only.a: x | none\n");
    ck_assert_ptr_null(strstr(r.text.data, "train.seed"));
    ck_assert(!r.equal && json_is_true(json_object_get(r.json, "state_equal")));
    result_release(&r);
    json_decref(a);
    json_decref(b);
}
END_TEST

TCase *case_compare(void)
{
    TCase *c = tcase_create("compare");
    tcase_add_test(c, test_digest);
    tcase_add_test(c, test_same);
    tcase_add_test(c, test_tensors);
    tcase_add_test(c, test_all_blocks);
    tcase_add_test(c, test_signed_zero);
    tcase_add_test(c, test_groups);
    tcase_add_test(c, test_configs);
    return c;
}
