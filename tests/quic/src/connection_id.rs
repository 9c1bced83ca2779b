//! Connection IDs of the form that QUIC-LB gives them without encryption (draft-ietf-quic-load-balancers):
//!
//! ```text
//! config_id (3 bits), length of the rest (5 bits) | server_id | nonce
//! ```

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quinn::{ConnectionId, ConnectionIdGenerator};

/// Bytes of the nonce, which makes the IDs of a server differ. No fewer than four.
const NONCE: usize = 8;

/// Makes the connection IDs of one server.
#[derive(Debug, Clone)]
pub struct Ids {
    config_id: u8,
    server_id: Vec<u8>,
}

impl Ids {
    /// `server_id`: in hex.
    pub fn new(config_id: u8, server_id: &str) -> Result<Self> {
        ensure!(config_id < 7, "config_id {config_id}: 7 means \"not routable\"");
        let bytes = (0..server_id.len()).step_by(2);
        let bytes = bytes.map(|at| u8::from_str_radix(server_id.get(at..at + 2).unwrap_or("?"), 16));
        let server_id: Vec<u8> = bytes.collect::<Result<_, _>>().context("server_id, in hex")?;
        // 20 bytes is the longest ID of QUIC version 1.
        ensure!((1..=20 - 1 - NONCE).contains(&server_id.len()), "a server_id of {} bytes", server_id.len());
        Ok(Self { config_id, server_id })
    }

    fn with_nonce(&self, nonce: [u8; NONCE]) -> Vec<u8> {
        let rest = (self.server_id.len() + NONCE) as u8;
        [&[self.config_id << 5 | rest][..], &self.server_id, &nonce].concat()
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        // Each state has keys of its own, so each hash is another number.
        let nonce = RandomState::new().build_hasher().finish().to_be_bytes();
        ConnectionId::new(&self.with_nonce(nonce))
    }

    fn cid_len(&self) -> usize {
        1 + self.server_id.len() + NONCE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_server() {
        let mut ids = Ids::new(3, "0a0b0c0d").unwrap();
        assert_eq!(
            ids.with_nonce([0xee; 8]),
            [0x6c, 0x0a, 0x0b, 0x0c, 0x0d, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]
        );
        let (one, other) = (ids.generate_cid(), ids.generate_cid());
        assert_eq!((one.len(), &one[..5]), (ids.cid_len(), &other[..5]));
        assert_ne!(one, other);
    }

    #[test]
    fn what_names_no_server_is_refused() {
        for (config_id, server_id) in [(7, "0a"), (0, ""), (0, "0"), (0, "xy"), (0, "000102030405060708090a0b")] {
            assert!(Ids::new(config_id, server_id).is_err(), "{config_id} {server_id}");
        }
    }
}
