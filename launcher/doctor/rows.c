/* Facts and rows: what the judges read and write. */
#include "launcher/doctor/check.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* --- Facts ------------------------------------------------------------------------- */

const json_t *lks_doctor_facts(const lks_doctor *d, const char *check, int rank)
{
    return json_array_get(json_object_get(d->facts, check), (size_t)rank);
}

static const json_t *own_fact(const lks_doctor *d, int rank, const char *key)
{
    return json_object_get(lks_doctor_facts(d, d->check->name, rank), key);
}

const char *lks_doctor_text(const lks_doctor *d, int rank, const char *key)
{
    const char *text = json_string_value(own_fact(d, rank, key));
    return text ? text : "";
}

static double number_of(const json_t *value)
{
    if (json_is_boolean(value))
        return json_is_true(value);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

double lks_doctor_number(const lks_doctor *d, int rank, const char *key)
{
    return number_of(own_fact(d, rank, key));
}

bool lks_doctor_has(const lks_doctor *d, int rank, const char *key)
{
    const json_t *value = own_fact(d, rank, key);
    return value && !json_is_null(value);
}

double lks_doctor_plan(const lks_doctor *d, int rank, const char *key)
{
    return number_of(json_object_get(lks_doctor_facts(d, "plan", rank), key));
}

const char *lks_doctor_plan_text(const lks_doctor *d, const char *key)
{
    const char *text = NULL;
    for (int r = 0; r < d->size && !text; ++r)
        text = json_string_value(json_object_get(lks_doctor_facts(d, "plan", r), key));
    return text ? text : "";
}

bool lks_doctor_is_planned(const lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r)
        if (!isfinite(lks_doctor_plan(d, r, "ring_bytes")))
            return false;
    return true;
}

bool lks_doctor_is_first(const lks_doctor *d, int rank)
{
    for (int r = 0; r < rank; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, rank))
            return false;
    return true;
}

const char *lks_doctor_host(const lks_doctor *d, int rank)
{
    return lks_comm_host(d->comm, rank);
}

/* --- Texts ------------------------------------------------------------------------- */

const char *lks_doctor_say(const lks_doctor *d, const char *format, ...)
{
    lks_text text = {0};
    va_list arguments;
    va_start(arguments, format);
    lks_text_append_format(&text, format, arguments);
    va_end(arguments);
    const char *copy = text.data ? lks_arena_copy(d->arena, text.data) : NULL;
    lks_text_release(&text);
    return copy ? copy : "";
}

const char *lks_doctor_on(const lks_doctor *d, int rank, const char *line)
{
    if (!strcmp(lks_doctor_host(d, rank), lks_doctor_host(d, 0)))
        return line;
    const char *quote = strpbrk(line, "'>&|;") ? "\"" : "";
    return lks_doctor_say(d, "ssh %s %s%s%s", lks_doctor_host(d, rank), quote, line, quote);
}

const char *lks_doctor_bytes(const lks_doctor *d, double bytes)
{
    char text[32];
    return lks_doctor_say(d, "%s",
                          lks_text_bytes(text, sizeof text, bytes > 0 ? (uint64_t)bytes : 0));
}

static bool list_has(const char *list, const char *name)
{
    for (const char *at = list; *at;) {
        size_t length = strcspn(at, ";");
        if (strlen(name) == length && !strncmp(at, name, length))
            return true;
        at += length;
        at += *at == ';';
    }
    return false;
}

const char *lks_doctor_export(const lks_doctor *d, const char *assignments)
{
    const char *passed = getenv("OMPI_MCA_mca_base_env_list");
    lks_text names = {0};
    size_t before = passed ? strlen(passed) : 0;
    lks_text_append(&names, "%s", passed ? passed : "");
    for (const char *at = assignments; *at; at += strcspn(at, " "), at += *at == ' ') {
        const char *name = lks_doctor_say(d, "%.*s", (int)strcspn(at, "="), at);
        if (strncmp(name, "OMPI_MCA_", 9) != 0 && !list_has(names.data ? names.data : "", name))
            lks_text_append(&names, "%s%s", names.length ? ";" : "", name);
    }
    bool pass = getenv("OMPI_COMM_WORLD_SIZE") && names.length > before;
    const char *line = lks_doctor_say(d, "export %s%s%s%s", assignments,
                                      pass ? " OMPI_MCA_mca_base_env_list='" : "",
                                      pass ? names.data : "", pass ? "'" : "");
    lks_text_release(&names);
    return line;
}

/* --- Rows -------------------------------------------------------------------------- */

static const char *const severities[] = {"ok", "warn", "fail"};

static bool same_text(const json_t *row, const char *key, const char *text)
{
    const char *has = json_string_value(json_object_get(row, key));
    return has ? text && !strcmp(has, text) : !text;
}

static json_t *row_find(const lks_doctor *d, const char *subject, lks_severity severity,
                        const char *mend, const char *found)
{
    json_t *row;
    size_t i;
    json_array_foreach(d->rows, i, row)
    {
        if (same_text(row, "check", d->check->name) && same_text(row, "subject", subject) &&
            same_text(row, "status", severities[severity]) && same_text(row, "mend", mend) &&
            same_text(row, "found", found))
            return row;
    }
    return NULL;
}

static bool has_rank(const json_t *ranks, int rank)
{
    bool has = false;
    json_t *value;
    size_t i;
    json_array_foreach(ranks, i, value) has |= json_integer_value(value) == rank;
    return has;
}

static void row_add_rank(const lks_doctor *d, json_t *row, int rank)
{
    json_t *ranks = json_object_get(row, "ranks"), *hosts = json_object_get(row, "hosts"), *host;
    bool known = false;
    size_t i;
    if (rank < 0 || has_rank(ranks, rank))
        return;
    json_array_append_new(ranks, json_integer(rank));
    json_array_foreach(hosts, i, host) known |=
        !strcmp(json_string_value(host), lks_doctor_host(d, rank));
    if (!known)
        json_array_append_new(hosts, lks_json_text(lks_doctor_host(d, rank)));
}

void lks_doctor_row(lks_doctor *d, const char *subject, lks_severity severity, int rank,
                    const char *mend, const char *format, ...)
{
    lks_text found = {0};
    va_list arguments;
    va_start(arguments, format);
    lks_text_append_format(&found, format, arguments);
    va_end(arguments);
    subject = subject ? subject : d->check->name;
    json_t *row = row_find(d, subject, severity, mend, found.data ? found.data : "");
    if (!row) {
        row = json_pack("{s:s, s:o, s:s, s:[], s:[], s:o, s:o}", "check", d->check->name, "subject",
                        lks_json_text(subject), "status", severities[severity], "hosts", "ranks",
                        "found", lks_json_text(found.data ? found.data : ""), "mend",
                        lks_json_text(mend));
        json_array_append_new(d->rows, row);
    }
    if (row)
        row_add_rank(d, row, rank);
    lks_text_release(&found);
}

bool lks_doctor_has_trouble(const lks_doctor *d)
{
    bool trouble = false;
    json_t *row;
    size_t i;
    json_array_foreach(d->rows, i, row) trouble |=
        same_text(row, "check", d->check->name) && !same_text(row, "status", severities[0]);
    return trouble;
}

static lks_severity severity_of(const json_t *row)
{
    for (int s = LKS_DOCTOR_FAIL; s > LKS_DOCTOR_OK; --s)
        if (same_text(row, "status", severities[s]))
            return (lks_severity)s;
    return LKS_DOCTOR_OK;
}

lks_severity lks_doctor_worst(const json_t *report)
{
    lks_severity worst = LKS_DOCTOR_OK;
    json_t *row;
    size_t i;
    json_array_foreach(json_object_get(report, "rows"), i, row)
    {
        lks_severity it = severity_of(row);
        worst = it > worst ? it : worst;
    }
    return worst;
}

/* --- The table --------------------------------------------------------------------- */

/* "0-3, 6" */
static void print_ranks(const json_t *ranks, lks_text *out)
{
    size_t count = json_array_size(ranks);
    lks_text_append(out, "rank%s ", count == 1 ? "" : "s");
    for (size_t i = 0, end; i < count; i = end) {
        json_int_t first = json_integer_value(json_array_get(ranks, i));
        for (end = i + 1; end < count && json_integer_value(json_array_get(ranks, end)) ==
                                             first + (json_int_t)(end - i);)
            ++end;
        lks_text_append(out, i ? ", %lld" : "%lld", (long long)first);
        if (end - i > 1)
            lks_text_append(out, "-%lld", (long long)first + (long long)(end - i) - 1);
    }
}

/* "host1, host2 (ranks 0-3): ", nothing when it is said of all. */
static void print_place(const json_t *report, const json_t *row, lks_text *out)
{
    enum { HOSTS_NAMED = 8 };
    const json_t *hosts = json_object_get(row, "hosts"), *ranks = json_object_get(row, "ranks");
    size_t count = json_array_size(hosts);
    json_int_t all = json_integer_value(json_object_get(report, "ranks"));
    if (!count || (json_int_t)json_array_size(ranks) == all)
        return;
    for (size_t i = 0; i < count && i < HOSTS_NAMED; ++i)
        lks_text_append(out, i ? ", %s" : "%s", json_string_value(json_array_get(hosts, i)));
    if (count > HOSTS_NAMED)
        lks_text_append(out, " and %zu more hosts", count - HOSTS_NAMED);
    lks_text_append(out, " (");
    print_ranks(ranks, out);
    lks_text_append(out, "): ");
}

static void print_row(const json_t *report, const json_t *row, lks_text *out)
{
    const char *mend = json_string_value(json_object_get(row, "mend"));
    lks_text_append(out, "%-4s  %-14s ", severities[severity_of(row)],
                    json_string_value(json_object_get(row, "subject")));
    print_place(report, row, out);
    lks_text_append(out, "%s\n", json_string_value(json_object_get(row, "found")));
    if (mend)
        lks_text_append(out, "%22s %s\n",
                        severity_of(row) == LKS_DOCTOR_OK ? "set:" : "mend:", mend);
}

static void print_head(const json_t *report, lks_text *out)
{
    const json_t *hosts = json_object_get(report, "hosts");
    json_int_t ranks = json_integer_value(json_object_get(report, "ranks"));
    size_t count = json_array_size(hosts);
    lks_text_append(out, "lockstep doctor %s: %lld rank%s on %zu host%s, %s\n\n",
                    json_string_value(json_object_get(report, "version")), (long long)ranks,
                    ranks == 1 ? "" : "s", count, count == 1 ? "" : "s",
                    json_string_value(json_object_get(report, "comm")));
}

void lks_doctor_print(const json_t *report, lks_text *out)
{
    size_t i, counts[3] = {0};
    json_t *row;
    print_head(report, out);
    json_array_foreach(json_object_get(report, "rows"), i, row)
    {
        print_row(report, row, out);
        ++counts[severity_of(row)];
    }
    lks_text_append(out, "\n%zu ok, %zu warnings, %zu failures\n", counts[LKS_DOCTOR_OK],
                    counts[LKS_DOCTOR_WARN], counts[LKS_DOCTOR_FAIL]);
}
