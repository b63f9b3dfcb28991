#include "runtime/models/model.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"
#include "runtime/models/model_driver.h"

#include <dlfcn.h>
#include <string.h>

struct lks_model {
    const lks_model_driver *driver;
    void *library; /* NULL for a registered model */
    void *options;
};

static lks_status model_find(const char *name, const lks_model_driver **out)
{
    lks_text known = {0};
    for (const lks_model_driver *const *d = lks_model_drivers; *d; ++d) {
        if (!strcmp((*d)->name, name)) {
            *out = *d;
            lks_text_release(&known);
            return LKS_OK;
        }
        lks_text_append(&known, "%s%s", known.length ? ", " : "", (*d)->name);
    }
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "model.name is \"%s\", want %s or the path of a .so", name,
                 known.data ? known.data : "");
    lks_text_release(&known);
    return status;
}

static lks_status model_load(const char *path, void **library, const lks_model_driver **out)
{
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*library)
        return LKS_FAIL(LKS_ERR_USAGE, "model.name: want the shared object of a model: %s",
                        dlerror()); /* which names the path */
    const lks_model_driver *(*export)(void);
    *(void **)&export = dlsym(*library, "lks_model_driver_export");
    const lks_model_driver *driver = export ? export() : NULL;
    if (driver && driver->version == LKS_MODEL_DRIVER_VERSION && driver->build && driver->options) {
        *out = driver;
        return LKS_OK;
    }
    int version = driver ? driver->version : 0;
    dlclose(*library);
    *library = NULL;
    if (version && version != LKS_MODEL_DRIVER_VERSION)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "%s: a model for interface version %d, this lockstep has %d: build it again", path,
            version, LKS_MODEL_DRIVER_VERSION);
    return LKS_FAIL(LKS_ERR_USAGE,
                    "model.name: %s is no model: want a function lks_model_driver_export that "
                    "gives a driver",
                    path);
}

lks_status lks_model_open(lks_model **out, const char *name)
{
    *out = NULL;
    lks_model *model;
    LKS_TRY(LKS_NEW(&model));
    lks_status status = strchr(name, '/') ? model_load(name, &model->library, &model->driver)
                                          : model_find(name, &model->driver);
    if (status == LKS_OK)
        status = lks_memory_allocate(&model->options, 1, model->driver->options_bytes);
    if (status != LKS_OK) {
        lks_model_close(model);
        return status;
    }
    *out = model;
    return LKS_OK;
}

void lks_model_close(lks_model *model)
{
    if (!model)
        return;
    lks_memory_free(model->options);
    if (model->library)
        dlclose(model->library);
    lks_memory_free(model);
}

const char *lks_model_name(const lks_model *model)
{
    return model->driver->name;
}
const lks_option *lks_model_options(const lks_model *model)
{
    return model->driver->options;
}
const lks_option *lks_model_options_at(size_t index)
{
    size_t count = 0;
    while (lks_model_drivers[count])
        ++count;
    return index < count ? lks_model_drivers[index]->options : NULL;
}

void *lks_model_option_values(lks_model *model)
{
    return model->options;
}

int64_t lks_model_context(const lks_model *model)
{
    return model->driver->context ? model->driver->context(model->options) : 0;
}

lks_status lks_model_build(lks_model *model, const lks_schema *schema, lks_graph *graph)
{
    model->driver->build(graph, model->options, schema);
    return lks_graph_status(graph);
}
