//! How a NIC deals frames to lcores: receive-side scaling, by a Toeplitz hash and a table in which the queues take turns.
//!
//! TCP and UDP are dealt by addresses and ports, all else (fragments, ICMP, other protocols) by addresses alone. So a fragment,
//! or an error about a flow, mostly comes to another lcore than the flow's whole packets; where these come says [`Dealing::lcore`].

use std::net::IpAddr;

/// Dealing under [`Dealing::KEY`] to so many lcores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealing {
    /// Entries of the table.
    entries: u32,
    lcores: u32,
}

impl Dealing {
    /// The key of the hash: that of Microsoft's specification, so that its test vectors hold. The ports are told it.
    pub const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// `entries`: of the table, whose n-th names lcore n modulo `lcores`.
    pub fn evenly(entries: u16, lcores: usize) -> Self {
        Self { entries: u32::from(entries).max(1), lcores: lcores.max(1) as u32 }
    }

    /// The lcore that gets a frame from `source` to `destination`, with its ports where they count.
    pub fn lcore(&self, source: IpAddr, destination: IpAddr, ports: Option<(u16, u16)>) -> usize {
        if self.lcores == 1 {
            return 0;
        }
        let (mut input, mut length) = ([0; 36], 0);
        let mut put = |bytes: &[u8]| {
            input[length..][..bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        for address in [source, destination] {
            match address {
                IpAddr::V4(v4) => put(&v4.octets()),
                IpAddr::V6(v6) => put(&v6.octets()),
            }
        }
        if let Some((source, destination)) = ports {
            put(&source.to_be_bytes());
            put(&destination.to_be_bytes());
        }
        (toeplitz(&input[..length]) % self.entries % self.lcores) as usize
    }
}

/// The Toeplitz hash ("RSS Hashing Functions", Microsoft): for each bit that is set in `input`, at most 36 bytes, the 32 bits of
/// the key that begin at its place.
fn toeplitz(input: &[u8]) -> u32 {
    let mut hash = 0;
    for (&byte, key) in input.iter().zip(Dealing::KEY.windows(5)) {
        let bits = key.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        for bit in 0..8 {
            if byte & 0x80 >> bit != 0 {
                hash ^= (bits >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Verifying the RSS hash calculation", Microsoft: of addresses alone, and with ports.
    #[test]
    fn the_vectors_of_the_specification() {
        let hash = |source: &str, destination: &str, ports: Option<(u16, u16)>| {
            let mut input = Vec::new();
            for address in [source, destination] {
                match address.parse().unwrap() {
                    IpAddr::V4(v4) => input.extend(v4.octets()),
                    IpAddr::V6(v6) => input.extend(v6.octets()),
                }
            }
            let (source, destination) = ports.unwrap_or_default();
            if ports.is_some() {
                input.extend(source.to_be_bytes().into_iter().chain(destination.to_be_bytes()));
            }
            toeplitz(&input)
        };
        for (destination, to, source, from, alone, with_ports) in [
            ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2, 0x51cc_c178),
            ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
            ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
            ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
            ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
        ] {
            assert_eq!(hash(source, destination, None), alone, "{source}");
            assert_eq!(hash(source, destination, Some((from, to))), with_ports, "{source}");
        }
    }

    #[test]
    fn lcores_take_turns_in_the_table() {
        let (source, destination) = ("66.9.149.187".parse().unwrap(), "161.142.100.80".parse().unwrap());
        let lcore = |lcores| Dealing::evenly(128, lcores).lcore(source, destination, Some((2794, 1766)));
        // 0x51ccc178 ends in 0x78, the entry.
        assert_eq!([1, 2, 3, 7].map(lcore), [1, 2, 3, 7].map(|lcores| 0x78 % lcores));
    }
}
