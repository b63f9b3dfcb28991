/* A program that uses the library: lists the models, and trains what its argument says. */
#include "runtime/models/model_driver.h"
#include "runtime/train/train.h"

#include <stdio.h>

static lks_status train(lks_comm *comm, const char *file, const char *run)
{
    lks_config *config;
    volatile sig_atomic_t notice = 0;
    bool alone = false;
    LKS_TRY(lks_config_create(&config));
    lks_status status = lks_config_read_file(config, file);
    lks_train_request request = {
        .comm = comm, .config = config, .run_directory = run, .notice = &notice};
    if (status == LKS_OK)
        status = lks_train(&request, &alone);
    if (alone)
        lks_comm_abort(comm, status);
    lks_config_destroy(config);
    return status;
}

int main(int argc, char **argv)
{
    lks_comm *comm;
    if (argc != 3)
        return LKS_ERR_USAGE;
    lks_status status = lks_comm_open(&comm, "auto");
    if (status != LKS_OK)
        return status;
    for (const lks_model_driver *const *model = lks_model_drivers; *model; ++model)
        printf("%s: %s\n", (*model)->name, (*model)->about);
    status = train(comm, argv[1], argv[2]);
    if (status != LKS_OK)
        fprintf(stderr, "%s\n", lks_status_message());
    lks_comm_close(comm);
    return status;
}
