/* What DPDK offers only as macros or static inline functions, as real functions. Nothing here is called once a packet. */
#include <rte_bus.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

int shim_errno(void);
unsigned shim_lcore_id(void);
uint64_t shim_tsc(void);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void shim_mbuf_free(struct rte_mbuf *mbuf);

unsigned shim_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned count);
unsigned shim_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned count);
unsigned shim_ring_count(const struct rte_ring *ring);

/* Size of a struct rte_mbuf, then the offset of each field that Rust touches; the test `layout` names them. */
extern const size_t shim_mbuf_layout[10];
