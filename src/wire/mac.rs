//! Ethernet addresses (IEEE 802).

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address, in wire order; written `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not six hexadecimal bytes with colons between, like 02:00:00:00:00:01")]
pub struct ParseMacError(pub String);

impl Mac {
    /// Group addresses (multicast and broadcast) have the lowest bit of the first byte set.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as a number, which one instruction compares.
    #[inline]
    pub const fn bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        // (Of all six at once the compiler makes four times as many instructions.)
        (u32::from_le_bytes([a, b, c, d]) as u64) << 16 | (u16::from_le_bytes([e, f]) as u64) << 48
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let mac: Mac = "02:00:0a:00:00:fe".parse().unwrap();
        assert_eq!((mac, mac.to_string()), (Mac([2, 0, 10, 0, 0, 254]), "02:00:0a:00:00:fe".to_owned()));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "0g:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} was taken");
        }
    }
}
