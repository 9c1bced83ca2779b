//! The table: each member claims slots in its own random order, in turns, until its quota is full.

use std::net::IpAddr;

use super::NOBODY;
use super::siphash::{Purpose, SelectionHash};

/// One owner of slots. Its identity is address and port, not its place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub address: IpAddr,
    /// Where a mode sends to a port of its own; `None`: the service's.
    pub port: Option<u16>,
    /// Its share of the slots; 0: none.
    pub weight: u16,
}

/// The owner of each of `size` slots, as an index into `members`; empty where no member has weight.
///
/// `members` are sorted and distinct (fewer than 65,535), so that equal sets give equal tables. `size` is a prime of at
/// least the number of members. Each member gets its quota by weight, rounded down or up, exactly.
pub fn table(members: &[Member], size: u32, hash: &SelectionHash) -> Vec<u16> {
    debug_assert!(members.is_sorted() && is_prime(size));
    if members.iter().all(|member| member.weight == 0) {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member, size, hash)).collect();
    let mut owners = vec![NOBODY; size as usize];
    let turns = turns(members, &quotas(members, size));
    // To f free slots a walk is size / f steps long, half of all steps for the last √size. Asking each free slot how far
    // away it is costs f, each several steps: less from there on.
    let (most, last) = turns.split_at(turns.len().saturating_sub(size.isqrt() as usize / 2));
    for &member in most {
        let slot = walks[usize::from(member)].next_free(&owners, size);
        owners[slot as usize] = member;
    }
    let mut free: Vec<u64> = (0..u64::from(size)).filter(|&slot| owners[slot as usize] == NOBODY).collect();
    for &member in last {
        let slot = walks[usize::from(member)].nearest(&mut free, size);
        owners[slot as usize] = member;
    }
    owners
}

/// A member's preference list (the paper's `permutation[i]`), generated as it is walked.
struct Walk {
    next: u64,
    skip: u64,
}

impl Walk {
    fn new(member: &Member, size: u32, hash: &SelectionHash) -> Self {
        let of = |purpose| hash.member(member.address, member.port, purpose);
        // `size` is prime, so any skip but 0 visits every slot.
        let skip = of(Purpose::Skip) % u64::from(size - 1) + 1;
        Self { next: of(Purpose::Offset) % u64::from(size), skip }
    }

    /// The slot behind `self.next`.
    #[inline(always)]
    fn step(&self, size: u32) -> u64 {
        let sum = self.next + self.skip;
        // Modulo `size`: where the sum did not pass the end, the difference wraps and is more.
        sum.min(sum.wrapping_sub(u64::from(size)))
    }

    /// Goes to the first free slot of the list, and past it. There must be one.
    #[inline(always)]
    fn next_free(&mut self, owners: &[u16], size: u32) -> u32 {
        loop {
            let slot = self.next;
            self.next = self.step(size);
            if owners[slot as usize] == NOBODY {
                return slot as u32;
            }
        }
    }

    /// Claims the slot of `free` that comes first in the rest of the list: slot = next + steps * skip (mod size), solved
    /// for the steps. `free` must not be empty.
    fn nearest(&self, free: &mut Vec<u64>, size: u32) -> u32 {
        let size = u64::from(size);
        let inverse = power(self.skip, size - 2, size);
        let steps = |slot: u64| (slot + size - self.next) % size * inverse % size;
        let first = (0..free.len()).min_by_key(|&at| steps(free[at])).expect("as many slots as turns");
        free.swap_remove(first) as u32
    }
}

/// `base` to the `exponent`, modulo `modulus`. For a prime p, b to the p - 2 is the inverse of b (Fermat).
fn power(base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let (mut result, mut square) = (1, base);
    while exponent > 0 {
        if exponent & 1 != 0 {
            result = result * square % modulus;
        }
        square = square * square % modulus;
        exponent >>= 1;
    }
    result
}

/// Slots for each member: the exact share rounded down, the rest to the largest remainders (ties: the first).
fn quotas(members: &[Member], size: u32) -> Vec<u32> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let share = |member: &Member| u64::from(size) * u64::from(member.weight);
    let mut quotas: Vec<u32> = members.iter().map(|member| (share(member) / total) as u32).collect();
    let left = size - quotas.iter().sum::<u32>();
    let mut by_remainder: Vec<usize> = (0..members.len()).collect();
    by_remainder.sort_by_key(|&k| std::cmp::Reverse(share(&members[k]) % total));
    for &k in &by_remainder[..left as usize] {
        quotas[k] += 1;
    }
    quotas
}

/// Who takes a turn, in order. The heaviest member plays in every round, the others as often as their weight allows,
/// so that nobody is left with only what others refused: claim j of a member comes in round j * heaviest / weight.
fn turns(members: &[Member], quotas: &[u32]) -> Vec<u16> {
    let heaviest = members.iter().map(|member| u32::from(member.weight)).max().unwrap_or(0);
    if members.iter().all(|member| u32::from(member.weight) == heaviest) {
        // Of equals each plays in each round, and in the last one those whose share was rounded up.
        let least = quotas.iter().copied().min().unwrap_or(0);
        let everyone: Vec<u16> = (0..members.len() as u16).collect();
        let mut order = everyone.repeat(least as usize);
        order.extend(everyone.into_iter().filter(|&k| quotas[usize::from(k)] > least));
        return order;
    }
    let rounds_of = |k: usize| Rounds::new(heaviest, u32::from(members[k].weight)).take(quotas[k] as usize);
    let playing: Vec<usize> = (0..members.len()).filter(|&k| quotas[k] > 0).collect();
    // Sorted by counting: `places[r]` becomes where round r's next turn stands in the order.
    let last = playing.iter().map(|&k| u64::from(quotas[k] - 1) * u64::from(heaviest) / u64::from(members[k].weight));
    let mut places = vec![0u32; last.max().map_or(0, |last| last as usize + 1)];
    for &k in &playing {
        for round in rounds_of(k) {
            places[round as usize] += 1;
        }
    }
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    let mut order = vec![0; sum as usize];
    for &k in &playing {
        for round in rounds_of(k) {
            let place = &mut places[round as usize];
            order[*place as usize] = k as u16;
            *place += 1;
        }
    }
    order
}

/// floor(j * heaviest / weight) for j = 0, 1, 2, …, without a division a step.
struct Rounds {
    round: u32,
    remainder: u32,
    step: u32,
    step_remainder: u32,
    weight: u32,
}

impl Rounds {
    fn new(heaviest: u32, weight: u32) -> Self {
        Self { round: 0, remainder: 0, step: heaviest / weight, step_remainder: heaviest % weight, weight }
    }
}

impl Iterator for Rounds {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let round = self.round;
        self.round += self.step;
        self.remainder += self.step_remainder;
        if self.remainder >= self.weight {
            self.remainder -= self.weight;
            self.round += 1;
        }
        Some(round)
    }
}

/// Whether `number` is prime, by trial division.
pub fn is_prime(number: u32) -> bool {
    let number = u64::from(number);
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const HASH: SelectionHash = SelectionHash::new([0; 16]);

    fn members(weights: &[u16]) -> Vec<Member> {
        let address = |k| Ipv4Addr::from_bits(0x0a01_0000 + k).into();
        weights.iter().zip(0u32..).map(|(&weight, k)| Member { address: address(k), port: None, weight }).collect()
    }

    /// The paper's pseudocode with the permutations written out; turns by sorting all claims.
    fn obvious(members: &[Member], size: u32) -> Vec<u16> {
        let permutation = |member: &Member| -> Vec<u32> {
            let offset = HASH.member(member.address, member.port, Purpose::Offset) % u64::from(size);
            let skip = HASH.member(member.address, member.port, Purpose::Skip) % u64::from(size - 1) + 1;
            (0..u64::from(size)).map(|j| ((offset + j * skip) % u64::from(size)) as u32).collect()
        };
        let heaviest = members.iter().map(|member| u64::from(member.weight)).max().unwrap();
        let mut claims: Vec<(u64, usize)> = Vec::new();
        for (k, quota) in quotas(members, size).into_iter().enumerate() {
            claims.extend((0..u64::from(quota)).map(|j| (j * heaviest / u64::from(members[k].weight), k)));
        }
        claims.sort();
        let lists: Vec<_> = members.iter().map(permutation).collect();
        let mut owners = vec![NOBODY; size as usize];
        for (_, k) in claims {
            let slot = lists[k].iter().find(|&&slot| owners[slot as usize] == NOBODY).unwrap();
            owners[*slot as usize] = k as u16;
        }
        owners
    }

    #[test]
    fn nobody_with_weight_means_no_table() {
        assert!(table(&[], 7, &HASH).is_empty());
        assert!(table(&members(&[0, 0]), 7, &HASH).is_empty());
    }

    #[test]
    fn quotas_are_exact_whatever_the_weights() {
        for weights in [&[100; 100][..], &[1, 3], &[1, 2, 3], &[65535, 1, 1, 1], &[0, 5, 0, 7], &[1], &[65535; 3]] {
            let owners = table(&members(weights), 65537, &HASH);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (k, &weight) in weights.iter().enumerate() {
                let count = owners.iter().filter(|&&owner| usize::from(owner) == k).count();
                let exact = 65537.0 * f64::from(weight) / total;
                assert!((count as f64 - exact).abs() < 1.0, "{count} slots, exactly {exact}, of {weights:?}");
            }
        }
    }

    #[test]
    fn one_of_a_hundred_leaves_and_few_others_move() {
        let all = members(&[100; 100]);
        let mut fewer = all.clone();
        fewer.remove(41);
        let (before, after) = (table(&all, 65537, &HASH), table(&fewer, 65537, &HASH));
        let moved = |&(&one, &two): &(&u16, &u16)| one != 41 && all[usize::from(one)] != fewer[usize::from(two)];
        let moved = before.iter().zip(&after).filter(moved).count();
        // The paper's section 5.3: a percent or two; a plain modulo would move 99 %.
        assert!(moved < 65537 * 3 / 100, "{moved} slots of members that stayed moved");
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|&number| is_prime(number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65537) && is_prime(4_294_967_291) && !is_prime(65536) && !is_prime(4_294_967_295));
    }

    proptest! {
        #[test]
        fn it_is_the_table_of_the_obvious_way(
            weights in proptest::collection::vec(prop_oneof![Just(1u16), 1u16..5, 1..=u16::MAX], 1..12),
            size in prop_oneof![Just(13u32), Just(101), Just(1009)],
        ) {
            let members = members(&weights);
            prop_assert_eq!(table(&members, size, &HASH), obvious(&members, size));
        }
    }
}
