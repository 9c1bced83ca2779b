//! The translations of one lcore's `snat` flows: found by the client's ends, and by the source that its packets got.
//!
//! **A source is one flow's.** Each (protocol, source address, port) of the lcore's share is a slot with room for one
//! translation, so a reply finds its flow by arithmetic and a compare, and can never be taken for another's. A slot is used
//! again only when its flow is closed or idle for as long as its service says. A client has one address as long as that has a port
//! left ("paired", RFC 4787, section 4.1), of whose ports the one that was left longest comes first. When no source at all is
//! free a new flow is refused.
//!
//! **No timers.** Each slot says until when it lives, in whole seconds. Who is looked for after that is not found; what is over
//! is collected when no slot is free, by one pass over those numbers, once a second at most.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Sources, fold};
use crate::service::{IdleTimeout, Protocol};
use crate::wire::checksum::Delta;
use crate::wire::{be16, tcp};

/// Whole seconds on the caller's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u32);

/// An address of either family, in a packet's bytes.
pub trait Address: AsRef<[u8]> + Copy + Eq + std::fmt::Debug {
    const ZERO: Self;
    /// What a client's packets have in common: who sends to which VIP.
    type Key: Copy + Eq + std::fmt::Debug;
    fn key(client: Ends<Self>, vip: Ends<Self>, protocol: Protocol) -> Self::Key;
    /// The client and the VIP of a key.
    fn ends(key: Self::Key) -> (Ends<Self>, Ends<Self>);
    fn protocol(key: Self::Key) -> Protocol;
    /// Every bit of it depends on all of the key and the seed.
    fn mix(key: Self::Key, seed: [u64; 2]) -> u64;
    fn table(nat: &mut Nat) -> &mut Table<Self>;
}

/// Protocol, addresses and ports in one number, in the order of a packet's bytes: two zeros' room for what differs between packets, as
/// the pipeline reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyV4(pub u128);

impl KeyV4 {
    /// Its two halves.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyV6 {
    client: [u8; 16],
    vip: [u8; 16],
    ports: [u16; 2],
    protocol: Protocol,
}

/// An address and a port.
pub type Ends<A> = (A, u16);

/// Names a translation of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u32);

/// Where a chain of translations begins.
#[derive(Debug, Clone, Copy)]
pub struct Head(u32);

impl Head {
    /// That of an empty one.
    pub const NONE: Self = Self(NONE);
}

/// What the caller found for a flow in a snapshot: numbers that mean something to the caller alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Via {
    /// Of the snapshot; 0 is none's.
    pub serial: u32,
    pub service: u32,
    pub target: u32,
}

/// Which side a segment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Backend,
}

/// One flow's translation: `client -> VIP` becomes `source -> backend`, and back.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Translation<A: Address> {
    /// Client and VIP, and the protocol.
    pub key: A::Key,
    /// What stands in the client's place on the way to the backend.
    pub source: Ends<A>,
    /// What stands in the VIP's place.
    pub backend: Ends<A>,
    /// How a sum over both addresses changes on the way to the backend (RFC 1624).
    pub addresses: Delta,
    /// The same over addresses and ports.
    pub transport: Delta,
    pub via: Via,
    /// Seconds that it lives beyond its last packet: while it is being opened or closed, and between; and the one of today.
    idle: [u32; 2],
    lives: u32,
    /// The next of the chain that the key is in.
    next: u32,
    seen: u8,
}

/// What was seen of a flow, a bit each.
mod seen {
    /// A reply, other than a reset.
    pub const REPLY: u8 = 1;
    /// After that, the client's next segment: the connection is established. (A forged SYN gets no further than a reply.)
    pub const ESTABLISHED: u8 = 2;
    pub const CLIENTS_FIN: u8 = 4;
    pub const BACKENDS_FIN: u8 = 8;
    pub const CLIENTS_RST: u8 = 16;
    pub const BACKENDS_RST: u8 = 32;
    /// It has been left for another backend: its source stays taken, and translates nothing.
    pub const RETIRED: u8 = 64;
}

impl<A: Address> Translation<A> {
    /// Whether both sides have closed it, or one has reset it (RFC 5382, section 5).
    #[inline]
    pub fn is_closed(&self) -> bool {
        let both = seen::CLIENTS_FIN | seen::BACKENDS_FIN;
        self.seen & both == both || self.seen & (seen::CLIENTS_RST | seen::BACKENDS_RST) != 0
    }

    /// Whether either side has begun to close it.
    #[inline]
    pub fn is_closing(&self) -> bool {
        use seen::*;
        self.seen & (CLIENTS_FIN | BACKENDS_FIN | CLIENTS_RST | BACKENDS_RST) != 0
    }

    /// Whether client and backend have spoken with each other.
    #[inline]
    pub fn is_established(&self) -> bool {
        self.seen & seen::ESTABLISHED != 0 && !self.is_closed()
    }

    /// Whether a client's segment with these flags may change anything that is known of the flow.
    #[inline(always)]
    fn is_news(&self, flags: u8) -> bool {
        // Of UDP no flags are given, and no reply is noted.
        let is_to_be_established = self.seen & (seen::REPLY | seen::ESTABLISHED) == seen::REPLY;
        flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 || is_to_be_established || self.seen & seen::CLIENTS_RST != 0
    }

    fn update(&mut self) {
        // Another second, since some of the one that is under way is over.
        self.lives = self.idle[usize::from(self.is_established())].saturating_add(1);
    }

    #[inline(never)]
    fn note(&mut self, flags: u8, by: By) {
        use seen::*;
        let has = |flag| flags & flag != 0;
        match by {
            By::Client if has(tcp::RST) => self.seen |= CLIENTS_RST,
            By::Client if has(tcp::SYN) => {}
            By::Client => {
                // Who goes on talking has not reset anything: that was forged (RFC 5961).
                self.seen &= !CLIENTS_RST;
                if self.seen & REPLY != 0 {
                    self.seen |= ESTABLISHED;
                }
                if has(tcp::FIN) {
                    self.seen |= CLIENTS_FIN;
                }
            }
            By::Backend if has(tcp::RST) => self.seen |= BACKENDS_RST,
            By::Backend => {
                self.seen &= !BACKENDS_RST;
                self.seen |= REPLY;
                if has(tcp::FIN) {
                    self.seen |= BACKENDS_FIN;
                }
            }
        }
    }
}

/// All translations of one lcore.
#[derive(Debug)]
pub struct Nat {
    lcore: usize,
    lcores: usize,
    pub v4: Table<[u8; 4]>,
    pub v6: Table<[u8; 16]>,
}

impl Nat {
    /// For the lcore's share of `sources`. `seed` should be a secret of the process: it keys the hash that flows are found by, and
    /// says which source comes first.
    pub fn new(sources: &Sources, lcore: usize, seed: [u64; 2]) -> Self {
        let ports: Vec<u16> = {
            let share = sources.share(lcore);
            (share.first..=share.last).collect()
        };
        let v4: Vec<_> = sources.v4().iter().map(Ipv4Addr::octets).collect();
        let v6: Vec<_> = sources.v6().iter().map(Ipv6Addr::octets).collect();
        let lcores = sources.lcores();
        Self { lcore, lcores, v4: Table::new(&v4, &ports, seed), v6: Table::new(&v6, &ports, seed) }
    }

    /// Of an lcore that translates nothing.
    pub fn none(lcore: usize) -> Self {
        Self { lcore, lcores: 1, v4: Table::new(&[], &[], [0; 2]), v6: Table::new(&[], &[], [0; 2]) }
    }

    /// Whose they are.
    pub fn lcore(&self) -> usize {
        self.lcore
    }

    /// How many lcores share the sources.
    pub fn lcores(&self) -> usize {
        self.lcores
    }
}

/// "None", in place of a slot's number.
const NONE: u32 = u32::MAX;

/// The translations of one family.
#[derive(Debug)]
pub struct Table<A: Address> {
    /// By protocol, then source address, then port.
    translations: Box<[Translation<A>]>,
    /// The second that each is over at; 0: it is free.
    until: Box<[u32]>,
    /// First translation of each chain, by the hash of the key.
    chains: Box<[u32]>,
    /// Free slots, by protocol, then source address; of each the one that was left longest first.
    free: Box<[VecDeque<u32>]>,
    /// When those of each protocol that were over were last collected.
    collected: [Seconds; 2],
    /// Sorted, as the ports are.
    addresses: Box<[A]>,
    ports: (u16, u16),
    key: [u64; 2],
}

impl<A: Address + Ord> Table<A> {
    fn new(addresses: &[A], ports: &[u16], seed: [u64; 2]) -> Self {
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let free = |place: usize| {
            // All ports, from somewhere on.
            let start = (seed[0] % ports.len().max(1) as u64) as usize;
            (0..ports.len()).map(|index| (place * ports.len() + (start + index) % ports.len()) as u32).collect()
        };
        let sources = || addresses.iter().flat_map(|&address| ports.iter().map(move |&port| (address, port)));
        let blank = |(protocol, source)| Translation {
            key: A::key((A::ZERO, 0), (A::ZERO, 0), protocol),
            source,
            backend: (A::ZERO, 0),
            addresses: Delta::NONE,
            transport: Delta::NONE,
            via: Via::default(),
            idle: [0; 2],
            lives: 0,
            next: NONE,
            seen: 0,
        };
        let slots = protocols.into_iter().flat_map(|protocol| sources().map(move |source| (protocol, source)));
        let translations: Box<[_]> = slots.map(blank).collect();
        Self {
            until: vec![0; translations.len()].into(),
            chains: vec![NONE; translations.len().next_power_of_two()].into(),
            free: (0..protocols.len() * addresses.len()).map(free).collect(),
            collected: [Seconds(0); 2],
            addresses: addresses.into(),
            ports: (ports.first().copied().unwrap_or(1), ports.last().copied().unwrap_or(0)),
            translations,
            key: super::key(seed),
        }
    }

    /// The flow whose packets came to the source `to` as replies from `from`.
    pub fn find_reply(&self, to: Ends<A>, from: Ends<A>, protocol: Protocol, now: Seconds) -> Option<Slot> {
        let address = self.addresses.binary_search(&to.0).ok()?;
        let (first, last) = self.ports;
        if !(first..=last).contains(&to.1) {
            return None;
        }
        let ports = usize::from(last - first) + 1;
        let place = protocol as usize * self.addresses.len() + address;
        let slot = place * ports + usize::from(to.1 - first);
        let translation = &self.translations[slot];
        let is_it = self.until[slot] > now.0 && translation.backend == from && translation.seen & seen::RETIRED == 0;
        is_it.then_some(Slot(slot as u32))
    }
}

impl<A: Address> Table<A> {
    /// Of one source: the translation, its end, its place among the free ones and in the chains (at most two of these).
    pub(super) const BYTES: usize = size_of::<Translation<A>>() + 5 * size_of::<u32>();

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.translations.is_empty()
    }

    /// The flow with these ends.
    pub fn find(&self, key: &A::Key, now: Seconds) -> Option<Slot> {
        self.find_behind(self.head(key), key, now).map(|(slot, _)| slot)
    }

    /// Where [`Table::find_behind`] begins. Who looks for several flows asks this for all of them first, so that the misses overlap.
    #[inline(always)]
    pub fn head(&self, key: &A::Key) -> Head {
        Head(self.chains.get(self.chain(key)).copied().unwrap_or(NONE))
    }

    /// As [`Table::find`], with the translation itself.
    #[inline(always)]
    pub fn find_behind(&self, head: Head, key: &A::Key, now: Seconds) -> Option<(Slot, &Translation<A>)> {
        let mut at = head.0;
        loop {
            let translation = self.translations.get(at as usize)?;
            if translation.key == *key && *self.until.get(at as usize)? > now.0 {
                return Some((Slot(at), translation));
            }
            at = translation.next;
        }
    }

    /// The translation of a slot that this table gave, live or not.
    #[inline(always)]
    pub fn get(&self, slot: Slot) -> &Translation<A> {
        &self.translations[slot.0 as usize]
    }

    /// Opens a translation to `backend` for a flow that has none. `None`: no source is free.
    pub fn open(&mut self, key: A::Key, backend: Ends<A>, idle: &IdleTimeout, now: Seconds) -> Option<Slot> {
        let slot = self.take_free(&key).or_else(|| {
            self.collect(A::protocol(key), now);
            self.take_free(&key)
        })?;
        let chain = self.chain(&key);
        let translation = &mut self.translations[slot as usize];
        let source = translation.source;
        let (addresses, transport) = changes::<A>(key, source, backend);
        *translation = Translation {
            key,
            source,
            backend,
            addresses,
            transport,
            via: Via::default(),
            idle: [0; 2],
            lives: 0,
            next: self.chains[chain],
            seen: 0,
        };
        self.chains[chain] = slot;
        let slot = Slot(slot);
        self.take_times(slot, idle, now);
        Some(slot)
    }

    /// A free source for a flow: of its client's address, or else of the next that has one.
    fn take_free(&mut self, key: &A::Key) -> Option<u32> {
        let addresses = self.addresses.len();
        let (protocol, (client, _)) = (A::protocol(*key), A::ends(*key).0);
        let hash = A::mix(A::key((client, 0), (A::ZERO, 0), Protocol::Tcp), self.key);
        let first = (hash % addresses.max(1) as u64) as usize;
        let free = self.free.get_mut(protocol as usize * addresses..)?.get_mut(..addresses)?;
        (0..addresses).find_map(|step| free[(first + step) % addresses].pop_front())
    }

    /// Takes new timeouts, and starts them.
    pub fn take_times(&mut self, slot: Slot, idle: &IdleTimeout, now: Seconds) {
        let translation = &mut self.translations[slot.0 as usize];
        let times = match A::protocol(translation.key) {
            Protocol::Tcp => [idle.tcp_closing, idle.tcp],
            Protocol::Udp => [idle.udp; 2],
        };
        translation.idle = times.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        translation.update();
        self.touch(slot, now);
    }

    /// A new connection begins between the ends of one that is over.
    pub fn reopen(&mut self, slot: Slot) {
        let translation = &mut self.translations[slot.0 as usize];
        translation.seen = 0;
        translation.update();
    }

    /// Notes what was found for the flow in a snapshot.
    pub fn set_via(&mut self, slot: Slot, via: Via) {
        self.translations[slot.0 as usize].via = via;
    }

    /// A packet of the client's goes by, with these flags where it is TCP; gives what becomes of it.
    #[inline(always)]
    pub fn pass(&mut self, slot: Slot, flags: u8, now: Seconds) -> Option<&Translation<A>> {
        let translation = self.translations.get_mut(slot.0 as usize)?;
        if translation.is_news(flags) {
            translation.note(flags, By::Client);
            translation.update();
        }
        *self.until.get_mut(slot.0 as usize)? = now.0.saturating_add(translation.lives);
        Some(translation)
    }

    /// A packet of it goes by.
    #[inline(always)]
    pub fn touch(&mut self, slot: Slot, now: Seconds) {
        self.until[slot.0 as usize] = now.0.saturating_add(self.translations[slot.0 as usize].lives);
    }

    /// A reply with these TCP flags goes by.
    pub fn note_reply(&mut self, slot: Slot, flags: u8, now: Seconds) {
        let translation = &mut self.translations[slot.0 as usize];
        translation.note(flags, By::Backend);
        translation.update();
        self.touch(slot, now);
    }

    /// Ends a translation whose flow goes elsewhere: its source stays taken until nothing of the flow can come any more.
    pub fn retire(&mut self, slot: Slot, now: Seconds) {
        self.unchain(slot.0);
        let translation = &mut self.translations[slot.0 as usize];
        translation.seen = seen::RETIRED;
        self.until[slot.0 as usize] = now.0.saturating_add(translation.idle[0]).saturating_add(1);
    }

    /// Frees what is over.
    #[cold]
    fn collect(&mut self, protocol: Protocol, now: Seconds) {
        // Nothing more is over within the same second.
        if std::mem::replace(&mut self.collected[protocol as usize], now) == now {
            return;
        }
        let (half, ports) = (self.until.len() / 2, self.until.len() / self.free.len().max(1));
        for slot in protocol as usize * half..(protocol as usize + 1) * half {
            if self.until[slot] != 0 && self.until[slot] <= now.0 {
                self.unchain(slot as u32);
                self.until[slot] = 0;
                self.free[slot / ports].push_back(slot as u32);
            }
        }
    }

    /// Takes a translation out of its chain, where it is in one.
    fn unchain(&mut self, slot: u32) {
        let chain = self.chain(&self.translations[slot as usize].key);
        let next = self.translations[slot as usize].next;
        if self.chains[chain] == slot {
            self.chains[chain] = next;
            return;
        }
        let mut at = self.chains[chain];
        while let Some(before) = self.translations.get_mut(at as usize) {
            if before.next == slot {
                before.next = next;
                return;
            }
            at = before.next;
        }
    }

    #[inline(always)]
    fn chain(&self, key: &A::Key) -> usize {
        A::mix(*key, self.key) as usize & (self.chains.len() - 1)
    }
}

/// How sums change on the way to the backend: over both addresses, and over the ports, too.
fn changes<A: Address>(key: A::Key, source: Ends<A>, backend: Ends<A>) -> (Delta, Delta) {
    let (client, vip) = A::ends(key);
    let addresses = change(&client.0, &source.0).and(change(&vip.0, &backend.0));
    let ports = Delta::word(client.1, source.1).and(Delta::word(vip.1, backend.1));
    (addresses, addresses.and(ports))
}

/// How a sum over an address changes.
fn change<A: Address>(old: &A, new: &A) -> Delta {
    let words = old.as_ref().chunks_exact(2).zip(new.as_ref().chunks_exact(2));
    words.fold(Delta::NONE, |sum, (old, new)| sum.and(Delta::word(be16(old, 0), be16(new, 0))))
}

impl Address for [u8; 4] {
    const ZERO: Self = [0; 4];
    type Key = KeyV4;

    fn key(client: Ends<Self>, vip: Ends<Self>, protocol: Protocol) -> KeyV4 {
        let mut bytes = [0; 16];
        bytes[1] = protocol.number();
        bytes[4..8].copy_from_slice(&client.0);
        bytes[8..12].copy_from_slice(&vip.0);
        bytes[12..14].copy_from_slice(&client.1.to_be_bytes());
        bytes[14..].copy_from_slice(&vip.1.to_be_bytes());
        KeyV4(u128::from_le_bytes(bytes))
    }

    fn ends(key: KeyV4) -> (Ends<Self>, Ends<Self>) {
        let bytes = key.0.to_le_bytes();
        let address = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        ((address(4), be16(&bytes, 12)), (address(8), be16(&bytes, 14)))
    }

    #[inline(always)]
    fn protocol(key: KeyV4) -> Protocol {
        if (key.0 >> 8) as u8 == Protocol::Tcp.number() { Protocol::Tcp } else { Protocol::Udp }
    }

    #[inline(always)]
    fn mix(key: KeyV4, seed: [u64; 2]) -> u64 {
        fold(fold(key.0 as u64 ^ seed[0], (key.0 >> 64) as u64 ^ seed[1]), seed[0])
    }

    fn table(nat: &mut Nat) -> &mut Table<Self> {
        &mut nat.v4
    }
}

impl Address for [u8; 16] {
    const ZERO: Self = [0; 16];
    type Key = KeyV6;

    fn key(client: Ends<Self>, vip: Ends<Self>, protocol: Protocol) -> KeyV6 {
        KeyV6 { client: client.0, vip: vip.0, ports: [client.1, vip.1], protocol }
    }

    fn ends(key: KeyV6) -> (Ends<Self>, Ends<Self>) {
        ((key.client, key.ports[0]), (key.vip, key.ports[1]))
    }

    fn protocol(key: KeyV6) -> Protocol {
        key.protocol
    }

    fn mix(key: KeyV6, seed: [u64; 2]) -> u64 {
        let half = |address: [u8; 16], at: u32| (u128::from_ne_bytes(address) >> (64 * at)) as u64;
        let ports = u64::from(key.ports[0]) << 32 | u64::from(key.ports[1]) << 8 | key.protocol as u64;
        let client = fold(half(key.client, 0) ^ seed[0], half(key.client, 1) ^ seed[1]);
        let both = fold(half(key.vip, 0) ^ client, half(key.vip, 1) ^ seed[1]);
        fold(both ^ seed[0], ports ^ seed[1])
    }

    fn table(nat: &mut Nat) -> &mut Table<Self> {
        &mut nat.v6
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::service::Ports;

    const IDLE: IdleTimeout =
        IdleTimeout { tcp: Duration::from_secs(9), tcp_closing: Duration::from_secs(3), udp: Duration::from_secs(5) };

    fn key(client: u8, protocol: Protocol) -> KeyV4 {
        <[u8; 4]>::key(([198, 51, 100, client], 4000), ([192, 0, 2, 1], 80), protocol)
    }

    /// What the obvious memory knows of a flow.
    struct Known {
        source: Ends<[u8; 4]>,
        backend: Ends<[u8; 4]>,
        until: u32,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Packet { client: u8, udp: bool },
        Leave { client: u8, udp: bool },
        Wait(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..12, any::<bool>()).prop_map(|(client, udp)| Step::Packet { client, udp }),
            1 => (0u8..12, any::<bool>()).prop_map(|(client, udp)| Step::Leave { client, udp }),
            2 => (0u32..5).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_is_two_maps_and_a_clock(
            steps in proptest::collection::vec(step(), 1..300), seed: [u64; 2], addresses in 1u8..3, ports in 1u16..5,
        ) {
            let v4 = (0..addresses).map(|k| Ipv4Addr::new(10, 0, 0, k));
            let sources = Sources::new(v4, [], Ports { first: 2000, last: 1999 + ports }, 1);
            let mut table = Nat::new(&sources, 0, seed).v4;
            let mut live: HashMap<(u8, Protocol), Known> = HashMap::new();
            // What is taken, and until when, by protocol and source.
            let mut taken: HashMap<(Protocol, Ends<[u8; 4]>), u32> = HashMap::new();
            let mut now = 0;
            for (number, step) in (0u16..).zip(steps) {
                let protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::Leave { client, udp } => {
                        let at = (client, protocol(udp));
                        let known = live.remove(&at).filter(|known| known.until > now);
                        let slot = table.find(&key(client, at.1), Seconds(now));
                        prop_assert_eq!(slot.is_some(), known.is_some());
                        if let (Some(slot), Some(known)) = (slot, known) {
                            table.retire(slot, Seconds(now));
                            let idle = if udp { 5 } else { 3 };
                            taken.insert((at.1, known.source), now + idle + 1);
                            prop_assert_eq!(table.find_reply(known.source, known.backend, at.1, Seconds(now)), None);
                        }
                    }
                    Step::Packet { client, udp } => {
                        let at = (client, protocol(udp));
                        let until = now + if udp { 6 } else { 4 };
                        if let Some(known) = live.get_mut(&at).filter(|known| known.until > now) {
                            let slot = table.find(&key(client, at.1), Seconds(now)).unwrap();
                            let translation = table.get(slot);
                            prop_assert_eq!((translation.source, translation.backend), (known.source, known.backend));
                            prop_assert_eq!(table.find_reply(known.source, known.backend, at.1, Seconds(now)), Some(slot));
                            prop_assert_eq!(table.find_reply(known.source, ([9; 4], 9), at.1, Seconds(now)), None);
                            table.touch(slot, Seconds(now));
                            known.until = until;
                            taken.insert((at.1, known.source), until);
                        } else {
                            prop_assert_eq!(table.find(&key(client, at.1), Seconds(now)), None);
                            let backend = ([10, 1, 0, 1], number);
                            let is_full = taken.iter().filter(|((of, _), until)| *of == at.1 && **until > now).count()
                                == usize::from(addresses) * usize::from(ports);
                            let slot = table.open(key(client, at.1), backend, &IDLE, Seconds(now));
                            prop_assert_eq!(slot.is_none(), is_full);
                            if let Some(slot) = slot {
                                let source = table.get(slot).source;
                                let before = taken.insert((at.1, source), until);
                                prop_assert!(before.is_none_or(|until| until <= now), "{:?} was taken", source);
                                live.insert(at, Known { source, backend, until });
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_source_that_was_left_longest_comes_first() {
        let sources = Sources::new([Ipv4Addr::new(10, 0, 0, 1)], [], Ports { first: 2000, last: 2099 }, 1);
        let mut table = Nat::new(&sources, 0, [7, 7]).v4;
        let mut port = |client, now| {
            let slot = table.open(key(client, Protocol::Udp), ([10, 1, 0, 1], 53), &IDLE, Seconds(now)).unwrap();
            table.get(slot).source.1
        };
        let first: Vec<u16> = (0..100).map(|client| port(client, 0)).collect();
        assert_eq!(first[0], 2007, "it begins where the seed says");
        assert_eq!(port(200, 6), first.iter().copied().min().unwrap(), "all are free at once, the lowest first");
    }
}
