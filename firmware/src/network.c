/* The network interface: an address by DHCP or as set, and the counters of the stack. */
#include "device.h"

#include <zephyr/logging/log.h>
#include <zephyr/net/net_if.h>
/* dhcpv4.h needs net_if.h before it. */
#include <zephyr/net/dhcpv4.h>
#include <zephyr/net/net_mgmt.h>
#include <zephyr/net/net_stats.h>

LOG_MODULE_REGISTER(network, LOG_LEVEL_INF);

enum { ADDRESS_WAIT_MS = 30000 };

static void put_address(const uint8_t ip[4])
{
    text_t text;

    text_open(&text, me.address, sizeof me.address);
    ipv4_put(&text, ip);
}

static bool take_fixed(struct net_if *iface)
{
    struct in_addr own, mask, gateway;

    if (!ipv4_parse(span_of(me.config.ip), own.s4_addr) || !ipv4_parse(span_of(me.config.netmask), mask.s4_addr)) {
        return false;
    }
    net_if_ipv4_addr_add(iface, &own, NET_ADDR_MANUAL, 0);
    net_if_ipv4_set_netmask(iface, &mask);
    if (ipv4_parse(span_of(me.config.gateway), gateway.s4_addr)) {
        net_if_ipv4_set_gw(iface, &gateway);
    }
    put_address(own.s4_addr);
    return true;
}

static bool take_leased(struct net_if *iface)
{
    int64_t deadline = now_ms() + ADDRESS_WAIT_MS;

    net_dhcpv4_start(iface);
    while (now_ms() < deadline) {
        struct in_addr *own = net_if_ipv4_get_global_addr(iface, NET_ADDR_PREFERRED);

        if (own != NULL) {
            put_address(own->s4_addr);
            return true;
        }
        k_sleep(K_MSEC(20));
    }
    return false;
}

bool network_start(void)
{
    struct net_if *iface = net_if_get_default();

    if (iface == NULL) {
        LOG_ERR("there is no network interface");
        return false;
    }
    net_if_set_mtu(iface, CONFIG_PROPELLER_MTU);
    bool up = me.config.ip[0] != 0 ? take_fixed(iface) : take_leased(iface);
    if (up) {
        LOG_INF("address %s", me.address);
    } else {
        LOG_ERR("no address: %s", me.config.ip[0] != 0 ? "ip or netmask is not set rightly" : "no DHCP server answers");
    }
    return up;
}

void network_counters(metrics_t *metrics)
{
    struct net_stats stats;

    if (net_mgmt(NET_REQUEST_STATS_GET_ALL, NULL, &stats, sizeof stats) != 0) {
        return;
    }
    metrics->bytes_sent = stats.bytes.sent;
    metrics->bytes_received = stats.bytes.received;
    metrics->tcp_dropped = stats.tcp.drop + stats.tcp.seg_drop;
    metrics->tcp_resent = stats.tcp.rexmit;
    metrics->packets_dropped = stats.ipv4.drop + stats.processing_error;
}
