//! SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) under the fleet's seed.
//!
//! Messages of several kinds are hashed; their lengths differ, and SipHash takes the length in, so none can stand for
//! another: an IPv4 source (4 bytes), an IPv4 client (6), a redraw of a slot (8), an IPv6 source (16), an IPv6 client (18), a
//! member of a table (19).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The keyed hash that every choice is made by. Equal on every node, in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionHash {
    k0: u64,
    k1: u64,
}

/// A client as the hash takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(u64);

impl Client {
    /// A value to begin arrays with.
    pub const NONE: Self = Self(0);

    /// An IPv4 client: its address (4 bytes) and port (2), both in network order.
    #[inline(always)]
    pub const fn v4(address: Ipv4Addr, port: u16) -> Self {
        Self(address.to_bits().swap_bytes() as u64 | (port.swap_bytes() as u64) << 32)
    }

    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.0 as u32).swap_bytes())
    }
}

/// An IPv6 client as the hash takes it: its address in two words, and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientV6([u64; 3]);

impl ClientV6 {
    /// The address as a little-endian word.
    #[inline(always)]
    pub const fn new(address: u128, port: u16) -> Self {
        Self([address as u64, (address >> 64) as u64, port.swap_bytes() as u64])
    }
}

/// Compiled thrice, and chosen when the program runs: where the CPU has AVX-512, which can rotate, eight hashes go in step, with AVX2 four. (The first
/// CPUs with AVX-512 take their clock down for wide registers; those with VBMI2 do not.)
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vbmi2", "x86_64+avx2"))]
fn fill(hash: &SelectionHash, clients: &[Client], hashes: &mut [u64]) {
    for (hashed, &client) in hashes.iter_mut().zip(clients) {
        *hashed = hash.client(client);
    }
}

/// The same over IPv6; `clients` as [`SelectionHash::clients_v6`] has them.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vbmi2", "x86_64+avx2"))]
fn fill_v6(hash: &SelectionHash, [low, high, ports]: [&[u64]; 3], hashes: &mut [u64]) {
    for (hashed, ((&low, &high), &port)) in hashes.iter_mut().zip(low.iter().zip(high).zip(ports)) {
        *hashed = hash.client_v6(ClientV6([low, high, port & 0xffff]));
    }
}

/// What a member's hash is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Offset = 1,
    Skip = 2,
}

impl SelectionHash {
    pub const fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { k0: seed as u64, k1: (seed >> 64) as u64 }
    }

    /// Of a client.
    #[inline(always)]
    pub fn client(&self, client: Client) -> u64 {
        State::new(self).finish(client.0, 6)
    }

    /// Of a client of either family: its address and port, both in network order.
    pub fn end(&self, address: IpAddr, port: u16) -> u64 {
        match address {
            IpAddr::V4(address) => self.client(Client::v4(address, port)),
            IpAddr::V6(address) => self.address(address).finish(u64::from(port.swap_bytes()), 18),
        }
    }

    /// Of an IPv6 client.
    #[inline(always)]
    pub fn client_v6(&self, ClientV6([low, high, port]): ClientV6) -> u64 {
        self.words([low, high]).finish(port, 18)
    }

    /// Of a client's address alone.
    pub fn source(&self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(address) => State::new(self).finish(u64::from(address.to_bits().swap_bytes()), 4),
            IpAddr::V6(address) => self.address(address).finish(0, 16),
        }
    }

    /// After the 16 bytes of an address.
    #[inline(always)]
    fn address(&self, address: Ipv6Addr) -> State {
        let address = u128::from_le_bytes(address.octets());
        self.words([address as u64, (address >> 64) as u64])
    }

    #[inline(always)]
    fn words(&self, words: [u64; 2]) -> State {
        let mut state = State::new(self);
        words.into_iter().for_each(|word| state.word(word));
        state
    }

    /// Of the first `count` of a burst's clients (at most `N`), each into its place: many at once where the CPU can.
    #[inline]
    pub fn clients<const N: usize>(&self, clients: &[Client; N], hashes: &mut [u64; N], count: usize) {
        let count = count.min(N);
        fill(self, &clients[..count], &mut hashes[..count]);
    }

    /// The same of IPv6 clients: the addresses' two halves as little-endian words, and words whose lowest two bytes are the ports, in network order.
    #[inline]
    pub fn clients_v6<const N: usize>(&self, clients: [&[u64; N]; 3], hashes: &mut [u64; N], count: usize) {
        let count = count.min(N);
        fill_v6(self, clients.map(|words| &words[..count]), &mut hashes[..count]);
    }

    /// Of a table's member: its address (16 bytes, IPv4 mapped into IPv6), its port (2, network order; 0 = none), the
    /// purpose (1).
    pub(super) fn member(&self, address: IpAddr, port: Option<u16>, purpose: Purpose) -> u64 {
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        self.address(mapped).finish(u64::from(port.unwrap_or(0).swap_bytes()) | (purpose as u64) << 16, 19)
    }

    /// Of the `attempt`-th redraw of a slot: slot (4 bytes), attempt (4), both in network order.
    pub(super) fn redraw(&self, slot: u32, attempt: u32) -> u64 {
        let mut state = State::new(self);
        state.word(u64::from(slot.swap_bytes()) | u64::from(attempt.swap_bytes()) << 32);
        state.finish(0, 8)
    }
}

/// The four words of the function's state.
struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn new(key: &SelectionHash) -> Self {
        Self([
            key.k0 ^ 0x736f_6d65_7073_6575,
            key.k1 ^ 0x646f_7261_6e64_6f6d,
            key.k0 ^ 0x6c79_6765_6e65_7261,
            key.k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v1);
        *v0 = v0.wrapping_add(*v3);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    /// Takes in the last, short word with the message's length above it, and ends.
    #[inline(always)]
    fn finish(mut self, last: u64, length: u64) -> u64 {
        self.word(last | length << 56);
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        let [v0, v1, v2, v3] = self.0;
        v0 ^ v1 ^ v2 ^ v3
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher;

    fn reference(seed: [u8; 16], message: &[u8]) -> u64 {
        let mut hasher = siphasher::sip::SipHasher13::new_with_key(&seed);
        hasher.write(message);
        hasher.finish()
    }

    proptest! {
        #[test]
        fn it_is_siphash_1_3(seed: [u8; 16], address: [u8; 4], long: [u8; 16], port: u16, slot: u32, attempt: u32, count in 0usize..=32) {
            let hash = SelectionHash::new(seed);
            let client = [&address[..], &port.to_be_bytes()].concat();
            prop_assert_eq!(hash.client(Client::v4(address.into(), port)), reference(seed, &client));

            let member = [&long[..], &port.to_be_bytes(), &[2]].concat();
            prop_assert_eq!(hash.member(IpAddr::from(long), Some(port), Purpose::Skip), reference(seed, &member));
            let mapped = [&[0; 10][..], &[0xff, 0xff], &address, &[0, 0, 1]].concat();
            prop_assert_eq!(hash.member(IpAddr::from(address), None, Purpose::Offset), reference(seed, &mapped));

            prop_assert_eq!(hash.end(address.into(), port), reference(seed, &client));
            prop_assert_eq!(hash.end(long.into(), port), reference(seed, &[&long[..], &port.to_be_bytes()].concat()));
            prop_assert_eq!(hash.source(address.into()), reference(seed, &address));
            prop_assert_eq!(hash.source(long.into()), reference(seed, &long));

            let of = |k: u16| Client::v4(address.into(), port.wrapping_add(k));
            let (clients, mut hashes) = (std::array::from_fn::<_, 32, _>(|k| of(k as u16)), [0; 32]);
            hash.clients(&clients, &mut hashes, count);
            let singly = clients.map(|client| hash.client(client));
            prop_assert_eq!((&hashes[..count], &hashes[count..]), (&singly[..count], &[0; 32][count..]));

            let of = |k: u16| ClientV6::new(u128::from_le_bytes(long), port.wrapping_add(k));
            let (clients, mut hashes) = (std::array::from_fn::<_, 32, _>(|k| of(k as u16)), [0; 32]);
            // Above the port stands what is not looked at.
            let words = [0, 1, 2].map(|word| clients.map(|ClientV6(words)| words[word] | if word == 2 { 0xa5 << 16 } else { 0 }));
            hash.clients_v6(words.each_ref(), &mut hashes, count);
            let singly: [u64; 32] = std::array::from_fn(|k| {
                reference(seed, &[&long[..], &port.wrapping_add(k as u16).to_be_bytes()].concat())
            });
            prop_assert_eq!((&hashes[..count], &hashes[count..]), (&singly[..count], &[0; 32][count..]));

            let redraw = [slot.to_be_bytes(), attempt.to_be_bytes()].concat();
            prop_assert_eq!(hash.redraw(slot, attempt), reference(seed, &redraw));
        }
    }
}
