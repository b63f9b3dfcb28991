#include "runtime/optimizers/unknown.h"

#include "runtime/base/text.h"

lks_status optimizers_fail_unknown(const char *key, const char *name, const char *const *names,
                                   size_t count)
{
    lks_text known = {0};
    for (size_t i = 0; i < count; ++i)
        lks_text_append(&known, "%s%s", i ? ", " : "", names[i]);
    const char *nearest = lks_text_nearest(name, names, count);
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "%s is %s, want one of %s%s%s%s", key, *name ? name : "\"\"",
                 known.data ? known.data : "none", nearest ? "; did you mean " : "",
                 nearest ? nearest : "", nearest ? "?" : "");
    lks_text_release(&known);
    return status;
}
