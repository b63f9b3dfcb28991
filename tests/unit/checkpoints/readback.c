/* Writes a checkpoint and lets other programs read it: `readback h5py SCRIPT` and `readback h5dump`. Exits 77,
 * which Meson counts as skipped, when the other program is not there. */
#include "runtime/base/files.h"
#include "tests/unit/checkpoints/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { SKIPPED = 77 };

static int run(const char *command)
{
    int status = system(command);
    return status >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int read_with_h5py(const fixture *f, const char *script)
{
    char command[512], hex[65];
    lks_checkpoint *checkpoint;
    if (run("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) {
        printf("skipped: /usr/bin/python3 has no h5py (python3-h5py)\n");
        return SKIPPED;
    }
    if (lks_checkpoint_find(&checkpoint, f->run, LKS_CHECK_ALL, false, false) != LKS_OK ||
        lks_checkpoint_digest(checkpoint, hex) != LKS_OK)
        return 1;
    snprintf(command, sizeof command, "/usr/bin/python3 %s %s %s", script,
             lks_checkpoint_path(checkpoint), hex);
    lks_checkpoint_close(checkpoint);
    return run(command) == 0 ? 0 : 1;
}

/* What h5dump prints of a dataset has this line. */
static int dump_has(const fixture *f, const char *options, const char *wanted)
{
    char command[512];
    snprintf(command, sizeof command, "h5dump %s %s | grep -qF -- '%s'", options,
             fixture_path(f, "step-00000003", "state.h5"), wanted);
    if (run(command) == 0)
        return 0;
    printf("not in the output of h5dump %s: %s\n", options, wanted);
    return 1;
}

static int read_with_h5dump(const fixture *f)
{
    char line[64];
    if (run("command -v h5dump >/dev/null") != 0) {
        printf("skipped: there is no h5dump (hdf5-tools)\n");
        return SKIPPED;
    }
    snprintf(line, sizeof line, "(0): %g", (double)fixture_value(2, 3, 0, 3));
    return dump_has(f, "-d /optimizer/v/scale", line) +
           dump_has(f, "-d /optimizer/v/scale", "DATASPACE  SCALAR") +
           dump_has(f, "-d /model/h.0.conv", "SIMPLE { ( 2, 3, 5 ) / ( 2, 3, 5 ) }") +
           dump_has(f, "-d /model/wte -H -p", "CONTIGUOUS") +
           dump_has(f, "-a /loader/position", "(0): 192") +
           dump_has(f, "-a /run_id", "(0): \"run-1\"") + dump_has(f, "-d /config", "steps: 7");
}

int main(int argc, char **argv)
{
    fixture f;
    bool saved = false;
    int result = 1;
    if (fixture_open(&f, "self", "/tmp") != LKS_OK || fixture_save(&f, 3, NAN, &saved) != LKS_OK) {
        fprintf(stderr, "%s\n", lks_status_message());
        return 1;
    }
    if (saved && argc == 3 && strcmp(argv[1], "h5py") == 0)
        result = read_with_h5py(&f, argv[2]);
    if (saved && argc == 2 && strcmp(argv[1], "h5dump") == 0)
        result = read_with_h5dump(&f);
    fixture_close(&f);
    return result;
}
