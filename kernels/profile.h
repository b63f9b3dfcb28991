/* How a device's calls are timed; for those who make the calls. Callers: lks_device_profile_* in device.h.
 *
 * Each kernel that is prepared, and each call on flat memory, has a line. While the profile runs, a device that is not the
 * host sets marks into its work before and after each call and says later how far apart they were; nothing waits for
 * that, until the ring of marks is full. On the host it is the clock. What goes into a link's order instead of the
 * device's has no marks and is in no line: its time is not the device's, and the ring would wait for a peer.
 */
#ifndef LKS_KERNELS_PROFILE_H
#define LKS_KERNELS_PROFILE_H

#include "kernels/device_driver.h"
#include "runtime/base/text.h"

/* What work must do at least, each input read once and each output written once: bytes of memory, and operations
 * of the matrix products in it, 2 M N K each. */
typedef struct lks_cost {
    double bytes, flops;
    double added_bytes[LKS_KERNEL_TENSORS_MAX]; /* more where output i is accumulated into */
} lks_cost;
lks_cost lks_kernel_cost(const lks_kernel_spec *spec);
lks_cost lks_sum_cost(const lks_sum *sum);
lks_cost lks_update_cost(const lks_update *update, const lks_update_blocks *what);

typedef struct lks_profile lks_profile;
typedef struct lks_profile_line lks_profile_line;
struct lks_profile_line {
    const char *name;
    char detail[64]; /* sizes; "": none */
    uint64_t calls, ns;
    double bytes, flops;
    lks_profile *profile;
    lks_profile_line *next, *previous;
};

typedef struct lks_profile_mark {
    void *from, *to; /* the device's */
    lks_profile_line *line;
} lks_profile_mark;

struct lks_profile {
    const lks_device_driver *driver;
    void *instance;
    bool running;
    bool timing;             /* the call that is given, between enter and leave */
    lks_profile_line lines;  /* before the first and after the last */
    lks_profile_mark *marks; /* a ring; NULL on the host and before the first profile */
    size_t oldest, pending;
    uint64_t began_ns; /* the call that is timed, on the host */
    uint64_t stretch_began_ns, stretch_ns, stretches;
};

void lks_profile_init(lks_profile *profile, const lks_device_driver *driver, void *instance);
void lks_profile_release(lks_profile *profile);
/* `line` must stay where it is until it is removed. */
void lks_profile_add(lks_profile *profile, lks_profile_line *line, const char *name);
void lks_profile_remove(lks_profile_line *line);
/* Sizes of a kernel, for people. */
void lks_profile_describe(lks_profile_line *line, const lks_kernel_spec *spec);

/* Around a call that succeeds; nothing while no profile runs. */
lks_status lks_profile_enter(lks_profile_line *line) LKS_MUST_CHECK;
lks_status lks_profile_leave(lks_profile_line *line, double bytes, double flops) LKS_MUST_CHECK;

lks_status lks_profile_begin(lks_profile *profile) LKS_MUST_CHECK;
lks_status lks_profile_end(lks_profile *profile) LKS_MUST_CHECK;
void lks_profile_print(const lks_profile *profile, lks_text *out);

#endif
