//! The body of an answer, line by line.

use http_body_util::BodyExt;
use kube_client::client::Body;

use crate::feed::network::chain;

/// Why no more lines come.
#[derive(Debug, PartialEq)]
pub enum Fault {
    /// The connection is gone before its time.
    Broken(String),
    /// What came is of no use, however often it comes.
    Unfit(String),
}

impl Fault {
    pub fn why(&self) -> &str {
        match self {
            Self::Broken(why) | Self::Unfit(why) => why,
        }
    }
}

pub struct Lines {
    body: Body,
    /// What has come and was not given yet.
    bytes: Vec<u8>,
    /// How much of it has no end of a line in it.
    searched: usize,
    most: usize,
}

impl Lines {
    /// `most`: bytes of one line.
    pub fn new(body: Body, most: usize) -> Self {
        Self { body, bytes: Vec::new(), searched: 0, most }
    }

    /// The next line; `None` after the last. One that does not come whole is an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<String>, Fault> {
        loop {
            if let Some(at) = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.bytes.split_off(self.searched + at + 1);
                self.searched = 0;
                return text(std::mem::replace(&mut self.bytes, rest)).map(Some);
            }
            self.searched = self.bytes.len();
            if !self.more().await? {
                let is_cut = !self.bytes.is_empty();
                return if is_cut { Err(Fault::Broken("it ended amid a line".to_owned())) } else { Ok(None) };
            }
        }
    }

    /// All that comes until the end, as one text.
    pub async fn rest(mut self) -> Result<String, Fault> {
        while self.more().await? {}
        text(self.bytes)
    }

    /// Whether there was more.
    async fn more(&mut self) -> Result<bool, Fault> {
        let Some(frame) = self.body.frame().await else { return Ok(false) };
        let frame = frame.map_err(|error| Fault::Broken(format!("the connection broke: {}", reason(&error))))?;
        if let Ok(data) = frame.into_data() {
            if self.bytes.len() + data.len() > self.most {
                let most = self.most;
                let why = format!("more than {most} bytes in one piece; `max_bytes` sets how many are taken");
                return Err(Fault::Unfit(why));
            }
            self.bytes.extend_from_slice(&data);
        }
        Ok(true)
    }
}

/// What is behind an error of kube's.
pub fn reason(error: &kube_client::Error) -> String {
    match error {
        kube_client::Error::Service(behind) => chain(&**behind),
        other => chain(other),
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|_| Fault::Unfit("not UTF-8 text".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_or_not_at_all() {
        let lines = |text: &str| Lines::new(Body::from(text.as_bytes().to_vec()), 20);
        let mut whole = lines("one\n\ntwo\n");
        for expected in [Some("one\n"), Some("\n"), Some("two\n"), None] {
            assert_eq!(whole.next().await, Ok(expected.map(str::to_owned)));
        }
        let mut cut = lines("one\ntw");
        assert_eq!(cut.next().await, Ok(Some("one\n".to_owned())));
        assert_eq!(cut.next().await, Err(Fault::Broken("it ended amid a line".to_owned())));
        assert_eq!(lines("a text\nof two").rest().await, Ok("a text\nof two".to_owned()));
        let long = lines("a line of more than 20 bytes\n").next().await;
        let why = "more than 20 bytes in one piece; `max_bytes` sets how many are taken";
        assert_eq!(long, Err(Fault::Unfit(why.to_owned())));
    }
}
