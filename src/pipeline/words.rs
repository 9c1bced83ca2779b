//! The flows of a burst's plain trains as arrays of words, of which the loops over all take several at once.

use super::BURST;
#[cfg(target_arch = "x86_64")]
use super::heads;
use super::parse::{Flow, FlowV6, OPENS_OR_ENDS};
use crate::maglev::{Client, SelectionHash};
use crate::snapshot::Common;

/// By train, the lower and the upper half of each flow.
#[derive(Debug)]
pub struct Words {
    low: [u64; BURST],
    high: [u64; BURST],
}

impl Words {
    pub const NONE: Self = Self { low: [0; BURST], high: [0; BURST] };

    #[inline(always)]
    pub fn get(&self, train: usize) -> Flow {
        Flow::from_words([self.low[train], self.high[train]])
    }

    #[inline(always)]
    pub fn set(&mut self, train: usize, flow: Flow) {
        [self.low[train], self.high[train]] = flow.words();
    }

    /// The halves of the first `count`.
    #[inline(always)]
    fn pairs(&self, count: usize) -> impl Iterator<Item = [u64; 2]> {
        let count = count.min(BURST);
        self.low[..count].iter().zip(&self.high[..count]).map(|(&low, &high)| [low, high])
    }

    /// Whether the first `count` have the endpoint of the first of all, and none of their sources may be a VIP.
    #[inline(always)]
    pub fn are_for_one(&self, count: usize, vip: Common<u32>) -> bool {
        let first = self.get(0);
        let (differ, sources) = self.pairs(count).fold((0, false), |(differ, any), words| {
            let flow = Flow::from_words(words);
            (differ | flow.endpoint_differs(first), any | vip.may_be(flow.source_word()))
        });
        differ == 0 && !sources
    }

    /// Those of the first `count`, a bit each, that open or end something.
    #[inline(always)]
    pub fn telling(&self, count: usize) -> u32 {
        // Of most bursts none does, which is told at once.
        if self.pairs(count).fold(0, |any, [low, _]| any | low) & u64::from(OPENS_OR_ENDS) == 0 {
            return 0;
        }
        let flows = self.low[..count.min(BURST)].iter();
        flows.rev().fold(0, |all, &low| all << 1 | u32::from(Flow::from_words([low, 0]).is_telling()))
    }

    /// The clients of the first `count`, as they are hashed.
    #[inline(always)]
    pub fn clients(&self, count: usize, clients: &mut [Client; BURST]) {
        for (client, words) in clients.iter_mut().zip(self.pairs(count)) {
            *client = Flow::from_words(words).client();
        }
    }

    /// Of four at once.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn set_four(&mut self, first: usize, four: &heads::Four) {
        self.low[first..][..heads::FOUR].copy_from_slice(&four.low);
        self.high[first..][..heads::FOUR].copy_from_slice(&four.high);
    }

    /// Whether the first `count` are one flow.
    #[inline(always)]
    pub fn are_one(&self, count: usize) -> bool {
        let [low, high] = [self.low[0], self.high[0]];
        self.pairs(count).fold(0, |any, words| any | (words[0] ^ low) | (words[1] ^ high)) == 0
    }
}

/// By train, the words of each flow over IPv6.
#[derive(Debug)]
pub struct WordsV6([[u64; BURST]; 5]);

impl WordsV6 {
    pub const NONE: Self = Self([[0; BURST]; 5]);

    #[inline(always)]
    pub fn get(&self, train: usize) -> FlowV6 {
        FlowV6::from_words(std::array::from_fn(|word| self.0[word][train]))
    }

    #[inline(always)]
    pub fn set(&mut self, train: usize, flow: &FlowV6) {
        let words = flow.words();
        (0..words.len()).for_each(|word| self.0[word][train] = words[word]);
    }

    /// Whether the first `count` have the endpoint of the first of all, and none of their sources may be a VIP.
    #[inline(always)]
    pub fn are_for_one(&self, count: usize, vip: Common<u128>) -> bool {
        let (first, [vip_low, vip_high]) = (self.get(0), vip.halves());
        let (mut differ, mut any) = (0, false);
        for train in 0..count.min(BURST) {
            let flow = self.get(train);
            let [low, high, ..] = flow.words();
            differ |= flow.endpoint_differs(&first);
            any |= vip_low.may_be(low) & vip_high.may_be(high);
        }
        differ == 0 && !any
    }

    /// The hashes of the clients of the first `count`.
    #[inline(always)]
    pub fn hash(&self, count: usize, hash: &SelectionHash, hashes: &mut [u64; BURST]) {
        let Self([low, high, .., rest]) = self;
        hash.clients_v6([low, high, rest], hashes, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Says;
    use crate::pipeline::parse::DATAGRAM;
    use crate::wire::tcp;
    use proptest::prelude::*;

    fn of(flows: impl IntoIterator<Item = Flow>) -> Words {
        let mut words = Words::NONE;
        flows.into_iter().enumerate().for_each(|(train, flow)| words.set(train, flow));
        words
    }

    #[test]
    fn what_opens_or_ends_is_told_of_all_as_of_each() {
        let mixed = |first: u8| std::array::from_fn(|k| (first + k as u8 * 7) % (DATAGRAM + 1));
        let one_among = |other: u8| std::array::from_fn(|k| if k == 17 { tcp::SYN } else { other });
        let alike = [0, tcp::ACK, tcp::SYN | tcp::ACK, DATAGRAM].into_iter();
        let bursts = (0..=DATAGRAM).map(mixed).chain(alike.flat_map(|flags| [[flags; 32], one_among(flags)]));
        for flags in bursts {
            let flows: [Flow; 32] = flags.map(|flags: u8| Flow::from_words([flags.into(), 0]));
            for count in [0, 1, 17, 18, 32] {
                let each = |k: &usize| matches!(flows[*k].says(), Says::Opens | Says::Ends);
                let expected = (0..count).filter(each).fold(0, |all, k| all | 1 << k);
                assert_eq!(of(flows).telling(count), expected, "{flags:?}");
            }
        }
    }

    /// Of few, so that neighbours and endpoints are often the same.
    fn flow() -> impl Strategy<Value = Flow> {
        let word = |at: u32| prop::sample::select(vec![0x0a01_0002_0000_0600, 0x0a01_0002_0000_0600 ^ 1 << at]);
        let alike = prop::sample::select(vec![0_u32, 0, 0, 0, 0, 8, 13, 33, 56]);
        (alike.clone(), alike).prop_flat_map(move |(low, high)| {
            (word(low), word(high)).prop_map(|(low, high)| Flow::from_words([low, high]))
        })
    }

    const SOURCE: u128 = 0x7_0000_0000_0000_0000_0000_b80d_0120;

    fn flow_v6() -> impl Strategy<Value = FlowV6> {
        let alike = [SOURCE as u64, (SOURCE >> 64) as u64, 0xb80d_0120, 9, 0x10_0650_0040_9c00];
        let differs = prop::sample::select(vec![
            None,
            None,
            None,
            Some((0, 3)),
            Some((1, 35)),
            Some((2, 1)),
            Some((3, 63)),
            Some((4, 1)),
            Some((4, 20)),
            Some((4, 33)),
            Some((4, 41)),
        ]);
        differs.prop_map(move |differs| {
            let mut words = alike;
            differs.into_iter().for_each(|(word, bit): (usize, u32)| words[word] ^= 1 << bit);
            FlowV6::from_words(words)
        })
    }

    proptest! {
        #[test]
        fn of_all_is_told_what_is_of_each(flows in prop::collection::vec(flow(), 1..=BURST), vip in 0_u32..2) {
            let (words, count) = (of(flows.iter().copied()), flows.len());
            prop_assert_eq!(words.are_one(count), flows.iter().all(|flow| *flow == flows[0]));
            let vip = Common::of([[0x0a01_0002 ^ vip, 0x0100_0003]].into_iter());
            let is_for_one = |flow: &Flow| flow.endpoint() == flows[0].endpoint() && !vip.may_be(flow.source_word());
            prop_assert_eq!(words.are_for_one(count, vip), flows.iter().all(is_for_one));
            let mut clients = [Client::NONE; BURST];
            words.clients(count, &mut clients);
            prop_assert!(flows.iter().zip(clients).all(|(flow, client)| flow.client() == client));
        }

        #[test]
        fn of_all_over_ipv6_is_told_what_is_of_each(flows in prop::collection::vec(flow_v6(), 1..=BURST), vip in 0_u128..2, wide in 0_u32..2) {
            let (mut words, count) = (WordsV6::NONE, flows.len());
            flows.iter().enumerate().for_each(|(train, flow)| words.set(train, flow));
            prop_assert!(flows.iter().enumerate().all(|(train, flow)| words.get(train) == *flow));
            let vip = Common::of([[SOURCE ^ vip << 99, 1 << 99 | u128::from(wide) << 3]].into_iter());
            let is_for_one = |flow: &FlowV6| flow.endpoint() == flows[0].endpoint() && !vip.may_be(flow.source_word());
            prop_assert_eq!(words.are_for_one(count, vip), flows.iter().all(is_for_one));
            let (hash, mut hashes) = (SelectionHash::new([7; 16]), [0; BURST]);
            words.hash(count, &hash, &mut hashes);
            prop_assert!(flows.iter().zip(hashes).all(|(flow, hashed)| hash.client_v6(flow.client()) == hashed));
        }
    }
}
