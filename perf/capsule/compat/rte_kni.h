/* What capsule's bindings take from the headers of DPDK 19.11, and those of Debian's 22.11 do not have. For bindgen alone, which reads
 * this file last, in the place of the real one. */
#ifndef RTE_KNI_H
#define RTE_KNI_H

#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>

/* These had no prefix before 21.11, and since 22.11 they have no other names. */
static const uint64_t ETH_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t ETH_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t ETH_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t ETH_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint64_t DEV_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

/* KNI, as far as capsule names it. Nothing of it is ever called: see src/compat.rs. */
struct rte_kni;
struct rte_kni_conf {
    char name[32];
    uint16_t group_id;
    unsigned mbuf_size;
    struct rte_ether_addr mac_addr;
};
struct rte_kni_ops {
    uint16_t port_id;
    int (*change_mtu)(uint16_t port_id, unsigned mtu);
    int (*config_network_if)(uint16_t port_id, uint8_t up);
    int (*config_mac_address)(uint16_t port_id, uint8_t *address);
    int (*config_promiscusity)(uint16_t port_id, uint8_t on);
};
int rte_kni_init(unsigned most);
void rte_kni_close(void);
struct rte_kni *rte_kni_alloc(struct rte_mempool *pool, const struct rte_kni_conf *conf, struct rte_kni_ops *ops);
int rte_kni_release(struct rte_kni *kni);
int rte_kni_handle_request(struct rte_kni *kni);
const char *rte_kni_get_name(const struct rte_kni *kni);
unsigned rte_kni_rx_burst(struct rte_kni *kni, struct rte_mbuf **mbufs, unsigned most);
unsigned rte_kni_tx_burst(struct rte_kni *kni, struct rte_mbuf **mbufs, unsigned count);

#endif
