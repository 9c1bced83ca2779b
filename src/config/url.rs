//! Where a feed on the network is: `https://host:port/path`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A URL of the schemes http and https, in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    /// A name or an address, in lower case, IPv6 without its brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, as they go into a request: begins with a slash.
    pub path: String,
}

/// What a URL must look like, to complete "… is not …".
pub const WHAT: &str = "a URL like \"https://feed.example:8443/services.json\", without user, password and fragment";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {WHAT}")]
pub struct NotUrl;

impl Url {
    /// Whether nothing leaves this machine on the way there.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Host and port, as a Host header has them.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.is_tls) { host } else { format!("{host}:{}", self.port) }
    }

    /// What a Location header of an answer from here means (RFC 9110 §10.2.2).
    pub fn join(&self, location: &str) -> Result<Self, NotUrl> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some(rest) = location.strip_prefix("//") {
            return format!("{}://{rest}", scheme(self.is_tls)).parse();
        }
        // A colon before any slash, question mark: a scheme.
        if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            return location.parse();
        }
        let own = self.path.split('?').next().unwrap_or("/");
        let path = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{own}{location}"),
            Some(_) => format!("{}/{location}", own.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        if is_path(&path) { Ok(Self { path, ..self.clone() }) } else { Err(NotUrl) }
    }
}

fn scheme(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte))
}

impl FromStr for Url {
    type Err = NotUrl;

    fn from_str(text: &str) -> Result<Self, NotUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(NotUrl)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(NotUrl),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(NotUrl)?;
                host.parse::<Ipv6Addr>().map_err(|_| NotUrl)?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().map_err(|_| NotUrl)?,
            None if port.is_empty() => default_port(is_tls),
            _ => return Err(NotUrl),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) || port == 0 || !is_path(&path) {
            return Err(NotUrl);
        }
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), port, path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", scheme(self.is_tls), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_in_its_parts() {
        let parts = |text| {
            let Url { is_tls, host, port, path } = url(text);
            (is_tls, host, port, path)
        };
        assert_eq!(parts("http://feed"), (false, "feed".to_owned(), 80, "/".to_owned()));
        assert_eq!(parts("HTTPS://Feed.Example/a?b=c"), (true, "feed.example".to_owned(), 443, "/a?b=c".to_owned()));
        assert_eq!(parts("https://[fd00::1]:8443?x"), (true, "fd00::1".to_owned(), 8443, "/?x".to_owned()));
    }

    #[test]
    fn a_url_is_written_as_it_was_read() {
        for text in ["http://feed/", "https://feed.example:8443/a/b?c=d", "http://[fd00::1]:8080/x"] {
            assert_eq!(url(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_url() {
        for text in [
            "",
            "feed",
            "feed:80",
            "ftp://feed/",
            "http://",
            "http:///x",
            "http://user@feed/",
            "http://feed:0/",
            "http://feed:99999/",
            "http://feed:+80/",
            "http://feed/a b",
            "http://feed/a\r\nb",
            "http://[::1/",
            "http://[x]/",
            "http://feed/#part",
        ] {
            assert_eq!(text.parse::<Url>(), Err(NotUrl), "{text:?}");
        }
    }

    #[test]
    fn a_location_is_read_from_where_it_was_said() {
        let from = url("https://feed:8443/a/b?c");
        let to = |location: &str| from.join(location).unwrap().to_string();
        assert_eq!(to("/x?y"), "https://feed:8443/x?y");
        assert_eq!(to("x"), "https://feed:8443/a/x");
        assert_eq!(to("?z#part"), "https://feed:8443/a/b?z");
        assert_eq!(to("//other/x"), "https://other/x");
        assert_eq!(to("http://feed/x"), "http://feed/x");
        assert_eq!(from.join("mailto:x"), Err(NotUrl));
        assert_eq!(from.join("/a b"), Err(NotUrl));
    }

    #[test]
    fn what_stays_on_this_machine() {
        for (text, is_loopback) in [("http://localhost/", true), ("http://127.9.0.1/", true), ("http://[::1]/", true)] {
            assert_eq!(url(text).is_loopback(), is_loopback, "{text}");
        }
        assert!(!url("http://10.0.0.1/").is_loopback());
        assert!(!url("http://localhost.example/").is_loopback());
    }
}
