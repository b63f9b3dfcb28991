#include "runtime/base/module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lks_status module_path(const char *name, char out[PATH_MAX])
{
    const char *directory = getenv("LKS_MODULES");
    bool given = directory && *directory;
    int length = snprintf(out, PATH_MAX, "%s%sliblockstep-%s.so", given ? directory : "",
                          given ? "/" : "", name);
    if (length >= PATH_MAX)
        return LKS_FAIL(LKS_ERR_USAGE, "LKS_MODULES is too long: %.80s...", directory);
    return LKS_OK;
}

static lks_status fail_to_open(const char *name, const char *path, const char *why)
{
    const char *missing = "cannot open shared object file";
    if (strstr(why, missing) && strstr(why, path))
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "this build has no %s: %s is not there (it is built where its libraries are found when "
            "lockstep is configured)",
            name, path);
    return LKS_FAIL(LKS_ERR_USAGE, "%s cannot be used here: %s", name, why);
}

lks_status lks_module_symbol(const char *name, const char *symbol, const void **out)
{
    char path[PATH_MAX];
    *out = NULL;
    LKS_TRY(module_path(name, path));
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return fail_to_open(name, path, dlerror());
    *out = dlsym(module, symbol);
    if (*out)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE, "%s has no %s: it is of another version of lockstep", path,
                    symbol);
}
