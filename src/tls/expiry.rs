//! Until when a certificate is good.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Error, files};

/// Until when the first certificate of a PEM file is good (its notAfter; RFC 5280, 4.1.2.5).
pub fn expiry(path: &Path) -> Result<SystemTime, Error> {
    let certificates = files::certificates(path, &files::read(path)?)?;
    let first = certificates.first().and_then(|first| not_after(first));
    first.ok_or_else(|| Error::NoExpiry { path: path.to_owned() })
}

/// Tags of DER (X.690).
mod tag {
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    /// The version, which version 1 leaves out.
    pub const VERSION: u8 = 0xa0;
}

fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if let Some((tag::VERSION, _, rest)) = element(fields) {
        fields = rest;
    }
    // Its serial number, the algorithm that it is signed by, its issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, not_after) = element(validity)?;
    let (kind, text, _) = element(not_after)?;
    time(kind, std::str::from_utf8(text).ok()?)
}

/// The element at the front: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// "YYMMDDHHMMSSZ" or "YYYYMMDDHHMMSSZ".
fn time(kind: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match kind {
        tag::UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let parts: Vec<u64> = (0..5).filter_map(|place| rest.get(place * 2..place * 2 + 2)?.parse().ok()).collect();
    let &[month, day, hour, minute, second] = parts.as_slice() else { return None };
    if rest.len() != 10 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Years that begin in March end with the day that some of them have more.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    /// Of 1970-01-01, so counted.
    const EPOCH: u64 = 719_468;
    let days = days.checked_sub(EPOCH)?;
    Some(UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::authority::Authority;

    fn seconds(time: SystemTime) -> u64 {
        time.duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn a_certificate_tells_when_it_expires() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cert.pem");
        let mut params = rcgen::CertificateParams::new(vec!["feed".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        std::fs::write(&path, Authority::new().sign(params).0).unwrap();
        // 2020-01-01T00:00:00Z
        assert_eq!(seconds(expiry(&path).unwrap()), 1_577_836_800);
        std::fs::write(&path, "nothing").unwrap();
        assert!(expiry(&path).unwrap_err().to_string().ends_with("cert.pem: no certificate in it"));
    }

    #[test]
    fn both_spellings_of_times_are_read() {
        let read = |kind, text| time(kind, text).map(seconds);
        assert_eq!(read(tag::UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(read(tag::UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(tag::GENERALIZED_TIME, "20000229120000Z"), Some(951_825_600));
        assert_eq!(read(tag::GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for text in ["", "Z", "7001010000Z", "700101000000", "701301000000Z", "7001010000000Z", "x00101000000Z"] {
            assert_eq!(read(tag::UTC_TIME, text), None, "{text}");
        }
        assert_eq!(read(tag::UTC_TIME, "691231235959Z"), None);
    }

    #[test]
    fn bytes_that_end_too_soon_are_no_certificate() {
        let pem = Authority::new().issue("feed").0;
        let whole = files::certificates(Path::new("x"), pem.as_bytes()).unwrap().remove(0);
        assert!(not_after(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "{length} bytes");
        }
    }
}
