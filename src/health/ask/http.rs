//! `http`: a GET, and the status line of its answer (RFC 9112). Nothing after that line is read.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::{Failure, Fault, by};
use crate::health::probe::Question;
use crate::service::CheckKind;

/// Bytes that a status line may have.
const MOST: usize = 512;

pub async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &Question,
    address: SocketAddr,
    deadline: Instant,
) -> Result<(), Fault> {
    let request = request(question, address);
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let (mut line, mut filled) = ([0; MOST], 0);
        while filled < MOST && !line[..filled].contains(&b'\n') {
            match stream.read(&mut line[filled..]).await? {
                0 => return Ok(Err(Failure::Closed)),
                read => filled += read,
            }
        }
        Ok(status(&line[..filled]).ok_or(Failure::NotHttp))
    };
    match by(deadline, Failure::NoAnswer, exchange).await? {
        Ok(status) if status == question.expect_status => Ok(()),
        Ok(other) => Err(Fault::Backend(Failure::Status(other))),
        Err(failure) => Err(Fault::Backend(failure)),
    }
}

fn request(question: &Question, address: SocketAddr) -> String {
    let usual = if question.kind == CheckKind::Https { 443 } else { 80 };
    let host = match &question.host {
        Some(host) => host.to_string(),
        None if address.port() != usual => address.to_string(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    };
    let path = &question.path;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: penstock-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

/// The status of an answer that begins with these bytes; `None`: its first line is not HTTP/1's, or has no end.
fn status(answer: &[u8]) -> Option<u16> {
    let end = answer.iter().position(|&byte| byte == b'\n')?;
    let line = answer[..end].strip_suffix(b"\r").unwrap_or(&answer[..end]);
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', digits @ ..] = rest else { return None };
    let (digits, reason) = digits.split_at_checked(3)?;
    let is_one = digits.iter().all(u8::is_ascii_digit) && matches!(reason, [] | [b' ', ..]);
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (is_one && (100..600).contains(&status)).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_strictly() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some(200)),
            ("HTTP/1.0 503 Service Unavailable\r\n", Some(503)),
            ("HTTP/1.1 204\r\n", Some(204)),
            ("HTTP/1.1 204 \r\n", Some(204)),
            ("HTTP/1.1 404 Not Found\n", Some(404)),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 +20 OK\r\n", None),
            ("HTTP/1.1 20\r\n", None),
            ("HTTP/1.1 600 ?\r\n", None),
            ("HTTP/1.1  200 OK\r\n", None),
            ("HTTP/2 200\r\n", None),
            ("http/1.1 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("\r\nHTTP/1.1 200 OK\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(answer.as_bytes()), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_request_names_the_host_that_a_client_would() {
        let asked = |kind, host: Option<&str>, address: &str| {
            let host = host.map(Into::into);
            let question = Question { kind, path: "/ready?full".into(), host, expect_status: 200 };
            request(&question, address.parse().unwrap())
        };
        let plain = asked(CheckKind::Http, None, "192.0.2.1:80");
        assert_eq!(
            plain,
            "GET /ready?full HTTP/1.1\r\nHost: 192.0.2.1\r\nUser-Agent: penstock-health\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        for (kind, host, address, expected) in [
            (CheckKind::Http, Some("a.example"), "192.0.2.1:80", "a.example"),
            (CheckKind::Http, None, "192.0.2.1:8080", "192.0.2.1:8080"),
            (CheckKind::Https, None, "[2001:db8::1]:443", "[2001:db8::1]"),
            (CheckKind::Https, None, "[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert!(asked(kind, host, address).contains(&format!("\r\nHost: {expected}\r\n")), "{expected}");
        }
    }
}
