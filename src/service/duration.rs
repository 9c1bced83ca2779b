//! Durations as people write them: `15m`, `2h4m`, `500ms`.
//!
//! Grammar: one or more of a whole number and a unit (`d`, `h`, `m`, `s`, `ms`), larger units first, each at most once,
//! nothing between. At most 365 days.

use std::time::Duration;

/// The units, largest first, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const MOST: u64 = 365 * UNITS[0].1;

/// The same language as [`parse`], for the JSON Schema.
pub const PATTERN: &str = "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// `None`: not a duration, or more than a year.
pub fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut units) = (text, 0_u64, UNITS.iter());
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[digits..digits + letters];
        // What was passed over in `units` may not come any more: larger units first, each once.
        let (_, milliseconds) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*milliseconds)?)?;
        rest = &rest[digits + letters..];
    }
    (!text.is_empty() && total <= MOST).then(|| Duration::from_millis(total))
}

/// The shortest text that [`parse`] reads as `duration`; parts of a millisecond are left out.
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS {
        if rest >= milliseconds {
            text += &format!("{}{unit}", rest / milliseconds);
            rest %= milliseconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        for (text, milliseconds) in
            [("15m", 900_000), ("2h4m", 7_440_000), ("500ms", 500), ("0ms", 0), ("1d", 86_400_000), ("1m1ms", 60_001)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            "15",
            "m",
            "4m2h",
            "1s1s",
            "1 s",
            "-1s",
            "1.5s",
            "+1s",
            "366d",
            "99999999999999999999s",
            "1S",
            "1sec",
            "٣s",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_as_it_was_written(milliseconds in 0..=MOST) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&format(duration)), Some(duration));
        }
    }
}
