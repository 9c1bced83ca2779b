#include "shim.h"
#include <stddef.h>

int shim_errno(void) { return rte_errno; }
unsigned shim_lcore_id(void) { return rte_lcore_id(); }
uint64_t shim_tsc(void) { return rte_rdtsc(); }

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_rx_burst(port, queue, mbufs, count);
}
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}
void shim_mbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

unsigned shim_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned count) {
    return rte_ring_enqueue_burst(ring, (void *const *)mbufs, count, NULL);
}
unsigned shim_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned count) {
    return rte_ring_dequeue_burst(ring, (void **)mbufs, count, NULL);
}
unsigned shim_ring_count(const struct rte_ring *ring) { return rte_ring_count(ring); }

#define AT(field) offsetof(struct rte_mbuf, field)
const size_t shim_mbuf_layout[10] = {
    sizeof(struct rte_mbuf), AT(buf_addr), AT(data_off), AT(refcnt),  AT(nb_segs),
    AT(port),                AT(pkt_len),  AT(data_len), AT(buf_len), AT(next),
};
