//! Lines of a file that is only appended to: each a text behind its checksum.
//!
//! What ends without a newline was being written when the process or the machine stopped; anything else that does not hold is damage.

/// A line.
pub fn line(text: &str) -> String {
    format!("{:016x} {text}\n", fnv1a(text.as_bytes()))
}

/// The text of one, without its newline; `None`: it is damaged.
pub fn text(line: &[u8]) -> Option<&str> {
    let (sum, text) = str::from_utf8(line).ok()?.split_once(' ')?;
    (u64::from_str_radix(sum, 16).ok()? == fnv1a(text.as_bytes())).then_some(text)
}

/// The lines that are whole, without their newlines.
pub fn whole(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').map_while(|line| line.strip_suffix(b"\n"))
}

/// FNV-1a, 64 bits: against damage, not against anybody.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_fnv1a() {
        assert_eq!(
            (fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")),
            (0xcbf29ce484222325, 0xaf63dc4c8601ec8c, 0x85944171f73967e8)
        );
    }

    #[test]
    fn what_is_torn_is_no_line() {
        let two = line("a") + &line("b");
        for cut in 0..two.len() {
            let texts: Vec<_> = whole(&two.as_bytes()[..cut]).map(text).collect();
            assert_eq!(texts, if cut < line("a").len() { vec![] } else { vec![Some("a")] }, "cut to {cut} bytes");
        }
    }
}
