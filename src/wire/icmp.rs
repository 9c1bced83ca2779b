//! ICMP (RFC 792): echo.

use super::Malformed;

/// Bytes of type, code, checksum and the word behind them.
pub const HEADER: usize = 8;
/// Where the checksum lies, in bytes from the start of the message.
pub const CHECKSUM: usize = 2;

pub const ECHO_REPLY: u8 = 0;
pub const ECHO_REQUEST: u8 = 8;

/// Whether `message`, the IP payload without padding, asks for an echo.
#[inline]
pub fn is_echo_request(message: &[u8]) -> Result<bool, Malformed> {
    let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed)?;
    Ok(header[0] == ECHO_REQUEST && header[1] == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_echo_request_is_one() {
        assert_eq!(is_echo_request(&[8, 0, 0, 0, 0, 0, 0, 0]), Ok(true));
        assert_eq!(is_echo_request(&[0, 0, 0, 0, 0, 0, 0, 0]), Ok(false));
        assert_eq!(is_echo_request(&[8, 1, 0, 0, 0, 0, 0, 0]), Ok(false));
        assert_eq!(is_echo_request(&[8, 0, 0, 0, 0, 0, 0]), Err(Malformed));
    }
}
