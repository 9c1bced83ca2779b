//! Which clients a service takes: `source_ranges` and `deny_ranges`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::prefixes::Prefixes;

/// `source_ranges` and `deny_ranges` of a service that has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    allowed: Option<Prefixes<()>>,
    denied: Prefixes<()>,
}

impl Ranges {
    /// Of a service that takes clients of the family of `vip`. `None` where it takes all of them.
    pub fn new(vip: IpAddr, source_ranges: &[IpNet], deny_ranges: &[IpNet]) -> Option<Self> {
        let set = |ranges: &[IpNet]| Prefixes::new(ranges.iter().map(|&range| (range, ())));
        let is_all = |range: &IpNet| range.prefix_len() == 0 && range.addr().is_ipv4() == vip.is_ipv4();
        let takes_all = source_ranges.is_empty() || source_ranges.iter().any(is_all);
        let allowed = (!takes_all).then(|| set(source_ranges));
        (allowed.is_some() || !deny_ranges.is_empty()).then(|| Self { allowed, denied: set(deny_ranges) })
    }

    /// Denial wins.
    pub fn accept(&self, client: IpAddr) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.get(client).is_some()) && self.denied.get(client).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(allowed: &[&str], denied: &[&str]) -> Option<Ranges> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        Ranges::new("192.0.2.1".parse().unwrap(), &parse(allowed), &parse(denied))
    }

    #[test]
    fn without_ranges_there_is_no_test() {
        assert_eq!(ranges(&[], &[]), None);
        assert_eq!(ranges(&["10.0.0.0/8", "0.0.0.0/0"], &[]), None);
        assert!(ranges(&["::/0"], &[]).is_some(), "of the other family");
    }

    #[test]
    fn denial_wins() {
        let ranges = ranges(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16", "2001:db8:1::/48"]).unwrap();
        let accepts = |address: &str| ranges.accept(address.parse().unwrap());
        assert_eq!(
            [accepts("10.0.255.255"), accepts("10.1.0.0"), accepts("10.2.0.0"), accepts("11.0.0.0")],
            [true, false, true, false]
        );
        assert_eq!([accepts("2001:db8::1"), accepts("2001:db8:1::1"), accepts("2001:db9::")], [true, false, false]);
    }

    #[test]
    fn denials_alone_take_everybody_else() {
        let ranges = ranges(&[], &["10.0.0.0/8"]).unwrap();
        assert!(ranges.accept("11.0.0.1".parse().unwrap()) && !ranges.accept("10.0.0.1".parse().unwrap()));
    }
}
