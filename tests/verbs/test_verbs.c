/* What is chosen and how a pair is set up, with devices that no test machine has: the library is a
 * fake. Real ones are in verbs.sh.
 */
#include "collectives/verbs/pair.h"
#include "runtime/base/memory.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fake_gid {
    const char *address;
    enum ibv_gid_type type;
} fake_gid;

typedef struct fake_device {
    struct ibv_device base;
    struct ibv_context context;
    struct ibv_port_attr ports[2];
    int port_count, opened;
    fake_gid gids[4]; /* of port 1 */
    uint32_t first_gid;
    bool broken;
} fake_device;

static fake_device devices[3];
static int device_count;
static int list_errno; /* not 0: there is no list */

static fake_device *device_of(struct ibv_context *context)
{
    return (fake_device *)((char *)context - offsetof(fake_device, context));
}

static struct ibv_device **fake_list(int *count)
{
    struct ibv_device **list = calloc(4, sizeof *list);
    if (list_errno) {
        free(list);
        errno = list_errno;
        return NULL;
    }
    for (int i = 0; i < device_count; ++i)
        list[i] = &devices[i].base;
    *count = device_count;
    return list;
}

static void fake_free_list(struct ibv_device **list)
{
    free(list);
}

static struct ibv_context *fake_open(struct ibv_device *device)
{
    fake_device *fake = (fake_device *)device;
    errno = EPERM;
    fake->opened += !fake->broken;
    return fake->broken ? NULL : &fake->context;
}

static int fake_close(struct ibv_context *context)
{
    --device_of(context)->opened;
    return 0;
}

static int fake_query_device(struct ibv_context *context, struct ibv_device_attr *out)
{
    out->phys_port_cnt = (uint8_t)device_of(context)->port_count;
    return 0;
}

static int fake_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *out)
{
    *out = device_of(context)->ports[port - 1];
    out->gid_tbl_len = 4;
    return 0;
}

static ssize_t fake_gids(struct ibv_context *context, struct ibv_gid_entry *out, size_t capacity,
                         uint32_t flags, size_t entry_bytes)
{
    fake_device *fake = device_of(context);
    ssize_t count = 0;
    ck_assert_uint_eq(flags, 0);
    ck_assert_uint_eq(entry_bytes, sizeof *out);
    for (uint32_t i = 0; i < 4 && fake->gids[i].address; ++i) {
        ck_assert_uint_lt((size_t)count, capacity);
        out[count] = (struct ibv_gid_entry){
            .gid_index = fake->first_gid + i, .port_num = 1, .gid_type = fake->gids[i].type};
        ck_assert_int_eq(inet_pton(AF_INET6, fake->gids[i].address, out[count].gid.raw), 1);
        ++count;
    }
    return count;
}

static struct ibv_qp fake_qp = {.qp_num = 77};
static struct ibv_qp_attr modified[3];
static int modified_masks[3], modified_count, modify_fails_at;

static struct ibv_qp *fake_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *wanted)
{
    (void)pd;
    ck_assert_int_eq(wanted->qp_type, IBV_QPT_RC);
    ck_assert_uint_eq(wanted->cap.max_send_wr, 72);
    ck_assert_uint_eq(wanted->cap.max_recv_wr, 66);
    ck_assert_int_eq(wanted->sq_sig_all, 1);
    return &fake_qp;
}

static int fake_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *wanted, int mask)
{
    ck_assert_ptr_eq(qp, &fake_qp);
    modified[modified_count] = *wanted;
    modified_masks[modified_count++] = mask;
    return modified_count == modify_fails_at ? EHOSTUNREACH : 0;
}

static const lks_verbs_ops ops = {.get_device_list = fake_list,
                                  .free_device_list = fake_free_list,
                                  .open_device = fake_open,
                                  .close_device = fake_close,
                                  .query_device = fake_query_device,
                                  .query_port = fake_query_port,
                                  .query_gid_table = fake_gids,
                                  .create_qp = fake_create_qp,
                                  .modify_qp = fake_modify_qp};

enum { SPEED_25 = 32, SPEED_50 = 64, WIDTH_1 = 1, WIDTH_4 = 2 };

static fake_device *add_device(const char *name, int link_layer, uint8_t speed)
{
    fake_device *fake = &devices[device_count++];
    *fake = (fake_device){.port_count = 1};
    snprintf(fake->base.name, sizeof fake->base.name, "%s", name);
    fake->ports[0] = (struct ibv_port_attr){.state = IBV_PORT_ACTIVE,
                                            .active_mtu = IBV_MTU_4096,
                                            .max_msg_sz = 1u << 30,
                                            .lid = link_layer == IBV_LINK_LAYER_INFINIBAND ? 17 : 0,
                                            .link_layer = (uint8_t)link_layer,
                                            .active_speed = speed,
                                            .active_width = WIDTH_4};
    return fake;
}

static fake_device *add_roce(const char *name, uint8_t speed)
{
    fake_device *fake = add_device(name, IBV_LINK_LAYER_ETHERNET, speed);
    fake->gids[0] = (fake_gid){"fe80::1", IBV_GID_TYPE_ROCE_V2};
    fake->gids[1] = (fake_gid){"::ffff:10.0.0.1", IBV_GID_TYPE_ROCE_V1};
    fake->gids[2] = (fake_gid){"::ffff:10.0.0.1", IBV_GID_TYPE_ROCE_V2};
    return fake;
}

static fake_device *add_infiniband(const char *name, uint8_t speed)
{
    fake_device *fake = add_device(name, IBV_LINK_LAYER_INFINIBAND, speed);
    fake->gids[0] = (fake_gid){"fe80::2:c903:0:1", IBV_GID_TYPE_IB};
    return fake;
}

/* Each test starts with none. */
static void forget_devices(void)
{
    memset(devices, 0, sizeof devices);
    device_count = list_errno = modified_count = modify_fails_at = 0;
}

static lks_verbs_options options = {.device = "", .gid = -1};

static lks_status choose(lks_verbs_port *out, const char *names, int numa_node, int local_rank)
{
    lks_verbs_options named = options;
    named.device = names;
    lks_verbs_wish wish = {.options = &named, .numa_node = numa_node, .local_rank = local_rank};
    lks_status status = lks_verbs_choose(&ops, &wish, out, NULL);
    for (int i = 0; i < device_count; ++i)
        ck_assert_int_eq(devices[i].opened, 0);
    return status;
}

static void check_chosen(const char *wanted, const char *names, int numa_node, int local_rank)
{
    lks_verbs_port port = {.device = ""};
    ck_assert_msg(choose(&port, names, numa_node, local_rank) == LKS_OK, "%s",
                  lks_status_message());
    ck_assert_str_eq(port.device, wanted);
}

static void check_refused(const char *names, const char *reason)
{
    lks_verbs_port port;
    ck_assert_int_eq(choose(&port, names, -1, 0), LKS_ERR_USAGE);
    ck_assert_msg(strstr(lks_status_message(), reason) != NULL, "%s", lks_status_message());
}

START_TEST(test_gid)
{
    lks_verbs_port port;
    fake_device *roce = add_roce("roce0", SPEED_25);
    ck_assert_int_eq(choose(&port, "", -1, 0), LKS_OK);
    ck_assert_int_eq(port.gid_index, 2);
    ck_assert(port.ethernet && port.ipv4);
    ck_assert_uint_eq(port.megabits, 4 * 25781);
    char text[160];
    ck_assert_str_eq(lks_verbs_port_text(&port, text, sizeof text),
                     "roce0 port 1, RoCE v2 ::ffff:10.0.0.1 (GID 2), packets of 4096 bytes, 103124 "
                     "Mbit/s");
    roce->gids[2].address = "::ffff:169.254.3.4";
    roce->gids[3] = (fake_gid){"2001:db8::5", IBV_GID_TYPE_ROCE_V2};
    ck_assert_int_eq(choose(&port, "", -1, 0), LKS_OK);
    ck_assert_int_eq(port.gid_index, 3);
    ck_assert(!port.ipv4);
    roce->gids[3].address = NULL;
    check_refused("", "roce0 port 1 has no RoCE v2 GID but link-local ones (of 3)");
    options.gid = 0;
    ck_assert_int_eq(choose(&port, "", -1, 0), LKS_OK);
    ck_assert_int_eq(port.gid_index, 0);
    options.gid = 9;
    check_refused("", "roce0 port 1 has no GID 9");
    options.gid = -1;
    roce->gids[2].address = "::ffff:10.0.0.1";
    roce->first_gid = 254; /* 256 does not fit an address handle */
    check_refused("", "has no RoCE v2 GID");
}
END_TEST

START_TEST(test_states)
{
    check_refused("", "there is no device");
    list_errno = ENOSYS;
    check_refused("", "there is no device");
    list_errno = EACCES;
    check_refused("", "listing devices: Permission denied");
    list_errno = 0;
    fake_device *down = add_roce("adown", SPEED_50);
    down->ports[0].state = IBV_PORT_DOWN;
    check_refused("", "adown port 1 is down");
    add_roce("bup", SPEED_25);
    check_chosen("bup", "", -1, 0);
    check_refused("adown", "adown port 1 is down, bup is not in verbs.device");
    fake_device *broken = add_roce("broken", SPEED_50);
    broken->broken = true;
    check_chosen("bup", "", -1, 0);
    check_refused("broken", "broken cannot be opened (Operation not permitted)");
}
END_TEST

START_TEST(test_ranking)
{
    fake_device *six = add_roce("av6", SPEED_50);
    six->gids[2].address = "2001:db8::5";
    add_roce("bslow", SPEED_25);
    add_roce("cfast", SPEED_50);
    check_chosen("cfast", "", -1, 0);
    check_chosen("cfast", "", -1, 1);
    check_chosen("bslow", "av6,bslow", -1, 0);
    check_chosen("av6", "av6:1", -1, 0);
    check_refused("av6:2", "cfast is not in verbs.device");
    check_refused("cfas", "cfast is not in verbs.device");
    devices[1].ports[0].active_speed = SPEED_50;
    check_chosen("bslow", "", -1, 0);
    check_chosen("cfast", "", -1, 1);
    check_chosen("bslow", "", -1, 2);
}
END_TEST

START_TEST(test_second_port)
{
    fake_device *two = add_infiniband("ib0", SPEED_25);
    lks_verbs_port port;
    two->port_count = 2;
    two->ports[1] = two->ports[0];
    two->ports[0].state = IBV_PORT_DOWN;
    check_refused("",
                  "ib0 port 1 is down, ib0 port 2 has no GID"); /* the fake's GIDs are port 1's */
    two->ports[0].state = IBV_PORT_ACTIVE;
    ck_assert_int_eq(choose(&port, "ib0:1", -1, 0), LKS_OK);
    ck_assert_int_eq(port.number, 1);
    check_refused("ib0:2", "ib0 port 2 has no GID");
}
END_TEST

static void put_numa_node(fake_device *fake, const char *folder, int node)
{
    char path[512];
    snprintf(fake->base.ibdev_path, sizeof fake->base.ibdev_path, "%s/%s", folder, fake->base.name);
    ck_assert_int_eq(mkdir(fake->base.ibdev_path, 0700), 0);
    snprintf(path, sizeof path, "%s/device", fake->base.ibdev_path);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/device/numa_node", fake->base.ibdev_path);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fprintf(file, "%d\n", node);
    fclose(file);
}

static void remove_numa_node(const fake_device *fake)
{
    char path[512];
    snprintf(path, sizeof path, "%s/device/numa_node", fake->base.ibdev_path);
    unlink(path);
    snprintf(path, sizeof path, "%s/device", fake->base.ibdev_path);
    rmdir(path);
    rmdir(fake->base.ibdev_path);
}

START_TEST(test_near)
{
    char folder[] = "/tmp/lockstep-test-verbs.XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(folder));
    put_numa_node(add_roce("a", SPEED_25), folder, 0);
    put_numa_node(add_roce("b", SPEED_25), folder, 1);
    put_numa_node(add_roce("c", SPEED_25), folder, -1);
    check_chosen("a", "", 0, 0);
    check_chosen("a", "", 0, 1);
    check_chosen("b", "", 1, 0);
    check_chosen("c", "", 3, 0); /* nobody knows is nearer than another node */
    check_chosen("b", "", -1, 1);
    devices[2].ports[0].active_speed = SPEED_50;
    check_chosen("c", "", 0, 0);
    for (int i = 0; i < device_count; ++i)
        remove_numa_node(&devices[i]);
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(test_infiniband)
{
    lks_verbs_port port;
    fake_device *ib = add_infiniband("ib0", SPEED_50);
    ck_assert_int_eq(choose(&port, "", -1, 0), LKS_OK);
    ck_assert(!port.ethernet);
    ck_assert_int_eq(port.lid, 17);
    char text[160];
    ck_assert_str_eq(lks_verbs_port_text(&port, text, sizeof text),
                     "ib0 port 1, InfiniBand LID 17, packets of 4096 bytes, 212500 Mbit/s");
    ib->ports[0].lid = 0;
    check_refused("", "ib0 port 1 has no LID: the fabric's subnet manager has not seen it");
    ib->ports[0].state = IBV_PORT_INIT;
    check_refused("", "ib0 port 1 is initializing");
}
END_TEST

static lks_verbs_port port_of(bool ethernet, const char *address, uint16_t lid, enum ibv_mtu mtu)
{
    lks_verbs_port port = {
        .device = "dev", .number = 2, .ethernet = ethernet, .lid = lid, .gid_index = 3, .mtu = mtu};
    ck_assert_int_eq(inet_pton(AF_INET6, address, port.gid.raw), 1);
    return port;
}

static lks_status connect_pair(const lks_verbs_port *own, const lks_verbs_port *peer)
{
    static const lks_verbs_options settings = {
        .retry_count = 6, .ack_timeout = 14, .traffic_class = 106, .service_level = 3};
    lks_verbs_pair_spec spec = {
        .ops = &ops, .options = &settings, .port = own, .sends = 72, .receives = 66};
    lks_verbs_end here = {77, 0x111111}, there = {88, 0x222222};
    struct ibv_qp *qp = NULL;
    modified_count = 0;
    LKS_TRY(lks_verbs_pair_open(&qp, &spec));
    return lks_verbs_pair_connect(qp, &spec, &here, "host7", peer, &there);
}

START_TEST(test_pair)
{
    lks_verbs_port own = port_of(true, "::ffff:10.0.0.1", 0, IBV_MTU_4096);
    lks_verbs_port peer = port_of(true, "::ffff:10.0.0.2", 0, IBV_MTU_1024);
    ck_assert_int_eq(connect_pair(&own, &peer), LKS_OK);
    ck_assert_int_eq(modified_count, 3);
    ck_assert_int_eq(modified[0].qp_state, IBV_QPS_INIT);
    ck_assert_int_eq(modified[0].port_num, 2);
    ck_assert_int_eq(modified[0].qp_access_flags, IBV_ACCESS_REMOTE_WRITE);
    const struct ibv_qp_attr *receive = &modified[1], *send = &modified[2];
    ck_assert_int_eq(receive->qp_state, IBV_QPS_RTR);
    ck_assert_int_eq(receive->path_mtu, IBV_MTU_1024);
    ck_assert_uint_eq(receive->dest_qp_num, 88);
    ck_assert_uint_eq(receive->rq_psn, 0x222222);
    ck_assert_int_eq(receive->min_rnr_timer, 12);
    ck_assert_int_eq(receive->ah_attr.is_global, 1);
    ck_assert_int_eq(receive->ah_attr.port_num, 2);
    ck_assert_int_eq(receive->ah_attr.sl, 3);
    ck_assert_int_eq(receive->ah_attr.grh.hop_limit, 255);
    ck_assert_int_eq(receive->ah_attr.grh.sgid_index, 3);
    ck_assert_int_eq(receive->ah_attr.grh.traffic_class, 106);
    ck_assert_mem_eq(receive->ah_attr.grh.dgid.raw, peer.gid.raw, 16);
    ck_assert_int_eq(send->qp_state, IBV_QPS_RTS);
    ck_assert_uint_eq(send->sq_psn, 0x111111);
    ck_assert_int_eq(send->retry_cnt, 6);
    ck_assert_int_eq(send->rnr_retry, 7);
    ck_assert_int_eq(send->timeout, 14);
    ck_assert_int_eq(modified_masks[1] & (IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_RQ_PSN),
                     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_RQ_PSN);
}
END_TEST

START_TEST(test_pair_infiniband)
{
    lks_verbs_port own = port_of(false, "fe80::1", 17, IBV_MTU_2048);
    lks_verbs_port near = port_of(false, "fe80::2", 18, IBV_MTU_4096);
    lks_verbs_port far = port_of(false, "fec0::2", 19, IBV_MTU_4096);
    ck_assert_int_eq(connect_pair(&own, &near), LKS_OK);
    ck_assert_int_eq(modified[1].ah_attr.is_global, 0);
    ck_assert_int_eq(modified[1].ah_attr.dlid, 18);
    ck_assert_int_eq(modified[1].path_mtu, IBV_MTU_2048);
    ck_assert_int_eq(connect_pair(&own, &far), LKS_OK);
    ck_assert_int_eq(modified[1].ah_attr.is_global, 1);
    ck_assert_mem_eq(modified[1].ah_attr.grh.dgid.raw, far.gid.raw, 16);
}
END_TEST

START_TEST(test_pair_refused)
{
    lks_verbs_port own = port_of(true, "::ffff:10.0.0.1", 0, IBV_MTU_4096);
    lks_verbs_port peer = port_of(true, "::ffff:10.9.0.2", 0, IBV_MTU_4096);
    modify_fails_at = 2;
    ck_assert_int_eq(connect_pair(&own, &peer), LKS_ERR_IO);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "dev port 2 of host7: No route to host"));
    modify_fails_at = 1;
    ck_assert_int_eq(connect_pair(&own, &peer), LKS_ERR_IO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("verbs");
    TCase *tests = tcase_create("choice and pairs");
    tcase_add_checked_fixture(tests, forget_devices, NULL);
    tcase_add_test(tests, test_gid);
    tcase_add_test(tests, test_states);
    tcase_add_test(tests, test_ranking);
    tcase_add_test(tests, test_second_port);
    tcase_add_test(tests, test_near);
    tcase_add_test(tests, test_infiniband);
    tcase_add_test(tests, test_pair);
    tcase_add_test(tests, test_pair_infiniband);
    tcase_add_test(tests, test_pair_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
