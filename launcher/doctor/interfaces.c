#include "launcher/doctor/interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int mtu_of(const char *interface)
{
    struct ifreq request = {0};
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
    int mtu = any >= 0 && ioctl(any, SIOCGIFMTU, &request) == 0 ? request.ifr_mtu : -1;
    if (any >= 0)
        close(any);
    return mtu;
}

static in_addr_t address_of(const struct sockaddr *address)
{
    return ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr;
}

static void subnet_text(const struct ifaddrs *it, char *out, size_t size)
{
    struct in_addr mask = {address_of(it->ifa_netmask)}, net = mask;
    net.s_addr = address_of(it->ifa_addr) & mask.s_addr;
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &net, text, sizeof text);
    snprintf(out, size, "%s/%d", text, __builtin_popcount(mask.s_addr));
}

json_t *lks_interfaces_list(void)
{
    struct ifaddrs *list = NULL;
    json_t *all = json_array();
    if (getifaddrs(&list))
        return all;
    for (const struct ifaddrs *it = list; it; it = it->ifa_next) {
        char address[INET_ADDRSTRLEN], subnet[INET_ADDRSTRLEN + 4];
        if (!it->ifa_addr || it->ifa_addr->sa_family != AF_INET || !it->ifa_netmask ||
            !(it->ifa_flags & IFF_UP) || (it->ifa_flags & IFF_LOOPBACK))
            continue;
        struct in_addr own = {address_of(it->ifa_addr)};
        inet_ntop(AF_INET, &own, address, sizeof address);
        subnet_text(it, subnet, sizeof subnet);
        json_array_append_new(all,
                              json_pack("{s:s, s:s, s:s, s:i}", "name", it->ifa_name, "address",
                                        address, "subnet", subnet, "mtu", mtu_of(it->ifa_name)));
    }
    freeifaddrs(list);
    return all;
}

/* --- The guess --------------------------------------------------------------------- */

static bool is_in(const char *address, const char *subnet)
{
    char net[INET_ADDRSTRLEN + 4];
    struct in_addr a, n;
    snprintf(net, sizeof net, "%s", subnet);
    char *slash = strchr(net, '/');
    if (!slash)
        return false;
    *slash = '\0';
    int bits = atoi(slash + 1);
    uint32_t mask = bits ? htonl(~0u << (32 - bits)) : 0;
    return inet_pton(AF_INET, address, &a) == 1 && inet_pton(AF_INET, net, &n) == 1 &&
           (a.s_addr & mask) == (n.s_addr & mask);
}

static bool is_address_of(const json_t *interfaces, const char *address)
{
    bool own = false;
    json_t *it;
    size_t i;
    json_array_foreach(interfaces, i, it) own |=
        !strcmp(address, json_string_value(json_object_get(it, "address")));
    return own;
}

static const char *subnet_with(const json_t *interfaces, const char *address)
{
    json_t *it;
    size_t i;
    json_array_foreach(interfaces, i, it)
    {
        const char *subnet = json_string_value(json_object_get(it, "subnet"));
        if (is_in(address, subnet))
            return subnet;
    }
    return NULL;
}

/* The network of this host on which an address of "1.0;tcp://10.0.0.1,172.17.0.1:4711" lies: that of mpirun, or
 * of its daemon here. When mpirun runs here all of them do, and it says nothing. */
static const char *subnet_of_mpirun(const json_t *interfaces, const char *uri)
{
    const char *subnet = NULL, *at = uri ? strstr(uri, "tcp://") : NULL;
    for (at = at ? at + 6 : NULL; at && *at && *at != ':';) {
        char address[INET_ADDRSTRLEN] = "";
        size_t length = strcspn(at, ",:");
        snprintf(address, sizeof address, "%.*s", (int)length, at);
        const char *found = subnet_with(interfaces, address);
        if (found && !is_address_of(interfaces, address))
            return found;
        subnet = subnet ? subnet : found;
        at += length;
        at += *at == ',';
    }
    return json_array_size(interfaces) == 1 ? subnet : NULL;
}

static const char *subnet_of_name(const json_t *interfaces)
{
    char host[256] = "", address[INET_ADDRSTRLEN] = "";
    struct addrinfo hints = {.ai_family = AF_INET}, *found = NULL;
    gethostname(host, sizeof host - 1);
    if (getaddrinfo(host, NULL, &hints, &found) || !found)
        return NULL;
    struct in_addr own = {address_of(found->ai_addr)};
    inet_ntop(AF_INET, &own, address, sizeof address);
    freeaddrinfo(found);
    return subnet_with(interfaces, address);
}

bool lks_interfaces_guess(char *subnet, size_t size)
{
    json_t *interfaces = lks_interfaces_list();
    const char *found = subnet_of_mpirun(interfaces, getenv("OMPI_MCA_orte_hnp_uri"));
    found = found ? found : subnet_of_name(interfaces);
    if (found)
        snprintf(subnet, size, "%s", found);
    json_decref(interfaces);
    return found != NULL;
}
