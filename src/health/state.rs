//! What is known of a probe: rise and fall, counted; and the sentence that says why.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::probe::{Question, Rhythm, Subject, Target};
use crate::service::{CheckKind, Forwarding};

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Good,
    Failed(Failure),
    /// We could not ask (errno): it says nothing of the backend, and counts for nothing.
    NoVerdict(i32),
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    #[error("no connection within the timeout")]
    NoConnection,
    #[error("no answer within the timeout")]
    NoAnswer,
    #[error("connection refused")]
    Refused,
    #[error("connection reset")]
    Reset,
    #[error("unreachable")]
    Unreachable,
    #[error("connection closed before an answer")]
    Closed,
    #[error("HTTP {0}")]
    Status(u16),
    #[error("the answer is not HTTP/1")]
    NotHttp,
    #[error("TLS: {0}")]
    Tls(Box<str>),
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Os(i32),
}

impl Failure {
    /// Of each variant, for metrics.
    pub const NAMES: [&str; 10] =
        ["no_connection", "no_answer", "refused", "reset", "unreachable", "closed", "status", "not_http", "tls", "os"];

    /// Its place in [`Failure::NAMES`].
    pub(super) const fn index(&self) -> usize {
        match self {
            Self::NoConnection => 0,
            Self::NoAnswer => 1,
            Self::Refused => 2,
            Self::Reset => 3,
            Self::Unreachable => 4,
            Self::Closed => 5,
            Self::Status(_) => 6,
            Self::NotHttp => 7,
            Self::Tls(_) => 8,
            Self::Os(_) => 9,
        }
    }
}

/// What is known of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub up: bool,
    /// When it became so, or was first wanted.
    pub since: SystemTime,
    /// Good probes in a row, the last ones.
    pub good: u32,
    /// Failed probes in a row, the last ones.
    pub bad: u32,
    pub last: Option<Look>,
    /// The last failure, however long ago.
    pub failed: Option<Failed>,
}

/// The last time that the backend was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub at: SystemTime,
    pub latency: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub at: SystemTime,
    pub why: Failure,
}

impl State {
    /// Up until it has failed.
    pub(super) fn unknown(now: SystemTime) -> Self {
        Self { up: true, since: now, good: 0, bad: 0, last: None, failed: None }
    }

    /// As it was when it was last looked at, which is down: only that is remembered.
    pub(super) fn down(since: SystemTime, failed: Failed) -> Self {
        Self { up: false, failed: Some(failed), ..Self::unknown(since) }
    }

    /// Counts an outcome, and says whether it turned the verdict.
    pub(super) fn count(&mut self, look: Look, rhythm: &Rhythm) -> bool {
        let at = look.at;
        let turned = match &look.outcome {
            Outcome::Good => {
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
                !self.up && self.good >= u32::from(rhythm.rise)
            }
            Outcome::Failed(why) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                self.failed = Some(Failed { at, why: why.clone() });
                self.up && self.bad >= u32::from(rhythm.fall)
            }
            Outcome::NoVerdict(_) => false,
        };
        if turned {
            (self.up, self.since) = (!self.up, at);
        }
        self.last = Some(look);
        turned
    }

    /// One sentence for people, without its full stop: "3 of 3 failed: HTTP 503, last 2 s ago".
    pub fn why(&self, rhythm: &Rhythm, now: SystemTime) -> String {
        let ago = |at: SystemTime| Ago(now.duration_since(at).unwrap_or_default());
        let Rhythm { rise, fall, .. } = *rhythm;
        let mut why = match (&self.failed, &self.last) {
            (Some(Failed { at, why }), _) if self.bad > 0 => {
                format!("{} of {fall} failed: {why}, last {}", self.bad.min(u32::from(fall)), ago(*at))
            }
            (Some(Failed { at, why }), _) if !self.up && self.good > 0 => {
                format!("{} of {rise} good again, after it failed {}: {why}", self.good, ago(*at))
            }
            (Some(Failed { at, why }), _) if !self.up => {
                format!("down when last asked, {}: {why}", ago(*at))
            }
            (_, Some(Look { at, outcome: Outcome::Good, .. })) => format!("good, last {}", ago(*at)),
            _ => "not asked yet".to_owned(),
        };
        if let Some(Look { at, outcome: Outcome::NoVerdict(errno), .. }) = &self.last {
            why += &format!("; could not ask, {}: {}", ago(*at), io::Error::from_raw_os_error(*errno));
        }
        why
    }
}

/// A time that has passed, in its largest unit.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms ago", self.0.as_millis()),
            seconds @ 1..120 => write!(f, "{seconds} s ago"),
            seconds @ 120..7_200 => write!(f, "{} min ago", seconds / 60),
            seconds @ 7_200..172_800 => write!(f, "{} h ago", seconds / 3_600),
            seconds => write!(f, "{} days ago", seconds / 86_400),
        }
    }
}

/// A verdict that outlives a restart: somebody was found down. Who was up needs no memory, as the unknown is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastState {
    /// As definitions write it.
    pub kind: String,
    /// The backend.
    pub address: SocketAddr,
    /// Where it was asked through a service: the VIP, and by which mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<(SocketAddr, String)>,
    pub path: String,
    pub host: Option<String>,
    pub expect_status: u16,
    /// Seconds of Unix time.
    pub since: u64,
    pub failed_at: u64,
    pub failure: Failure,
}

impl LastState {
    pub(super) fn new(subject: &Subject, since: SystemTime, failed: &Failed) -> Self {
        let Subject { target, question } = subject;
        let (address, through) = match *target {
            Target::Direct { address } => (address, None),
            Target::Through { vip, backend, forwarding } => (backend, Some((vip, forwarding.name().to_owned()))),
        };
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            kind: question.kind.name().to_owned(),
            address,
            through,
            path: question.path.to_string(),
            host: question.host.as_ref().map(ToString::to_string),
            expect_status: question.expect_status,
            since: seconds(since),
            failed_at: seconds(failed.at),
            failure: failed.why.clone(),
        }
    }

    /// `None`: of a kind or mode that this release does not know.
    pub(super) fn read(&self) -> Option<(Subject, SystemTime, Failed)> {
        let question = Question {
            kind: CheckKind::named(&self.kind)?,
            path: self.path.as_str().into(),
            host: self.host.as_deref().map(Into::into),
            expect_status: self.expect_status,
        };
        let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let failed = Failed { at: time(self.failed_at)?, why: self.failure.clone() };
        let target = match &self.through {
            None => Target::Direct { address: self.address },
            Some((vip, mode)) => {
                Target::Through { vip: *vip, backend: self.address, forwarding: Forwarding::named(mode)? }
            }
        };
        let subject = Subject { target, question: question.into() };
        Some((subject, time(self.since)?, failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm =
        Rhythm { interval: Duration::from_secs(2), timeout: Duration::from_secs(1), rise: 2, fall: 3 };

    /// `g`ood, `f`ailed, `n`o verdict; after each, whether it is up.
    fn verdicts(outcomes: &str, mut state: State) -> String {
        let mut verdict = |outcome| {
            let outcome = match outcome {
                'g' => Outcome::Good,
                'f' => Outcome::Failed(Failure::Status(503)),
                _ => Outcome::NoVerdict(24),
            };
            let before = state.up;
            let turned = state.count(Look { at: second(9), latency: Duration::ZERO, outcome }, &RHYTHM);
            assert_eq!(turned, before != state.up);
            if state.up { 'U' } else { 'd' }
        };
        outcomes.chars().map(&mut verdict).collect()
    }

    fn second(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn remembered() -> State {
        State::down(second(1), Failed { at: second(2), why: Failure::Refused })
    }

    #[test]
    fn it_takes_fall_failures_in_a_row_to_go_down_and_rise_good_ones_to_come_up() {
        for (outcomes, expected) in [
            ("ff", "UU"),
            ("fff", "UUd"),
            ("ffgfff", "UUUUUd"),
            ("fffgg", "UUddU"),
            ("fffgfgg", "UUddddU"),
            ("fffggff", "UUddUUU"),
        ] {
            assert_eq!(verdicts(outcomes, State::unknown(second(0))), expected, "{outcomes}");
        }
        assert_eq!(verdicts("gg", remembered()), "dU");
    }

    #[test]
    fn what_gave_no_verdict_counts_for_nothing() {
        assert_eq!(verdicts("fnfnf", State::unknown(second(0))), "UUUUd");
        assert_eq!(verdicts("nnnnnn", State::unknown(second(0))), "UUUUUU");
        assert_eq!(verdicts("gngn", remembered()), "ddUU");
    }

    #[test]
    fn the_sentence_says_what_failed_how_often_and_when() {
        let why = |outcomes: &[(u64, Outcome)], mut state: State| {
            for (at, outcome) in outcomes.iter().cloned() {
                state.count(Look { at: second(at), latency: Duration::ZERO, outcome }, &RHYTHM);
            }
            state.why(&RHYTHM, second(10))
        };
        let bad = |at| (at, Outcome::Failed(Failure::Status(503)));
        let unknown = || State::unknown(second(0));
        assert_eq!(why(&[], unknown()), "not asked yet");
        assert_eq!(why(&[(4, Outcome::Good)], unknown()), "good, last 6 s ago");
        assert_eq!(why(&[bad(8)], unknown()), "1 of 3 failed: HTTP 503, last 2 s ago");
        assert_eq!(why(&[bad(4), bad(6), bad(8)], unknown()), "3 of 3 failed: HTTP 503, last 2 s ago");
        assert_eq!(why(&[bad(2), bad(4), bad(6), bad(8)], unknown()), "3 of 3 failed: HTTP 503, last 2 s ago");
        let rising = [bad(2), bad(4), bad(6), (8, Outcome::Good)];
        assert_eq!(why(&rising, unknown()), "1 of 2 good again, after it failed 4 s ago: HTTP 503");
        assert_eq!(why(&[], remembered()), "down when last asked, 8 s ago: connection refused");
        assert_eq!(
            why(&[(9, Outcome::NoVerdict(24))], unknown()),
            "not asked yet; could not ask, 1 s ago: Too many open files (os error 24)"
        );
        let old = State { last: None, ..remembered() };
        assert!(old.why(&RHYTHM, second(2 + 3 * 3600)).contains("3 h ago"));
    }

    #[test]
    fn a_last_state_is_the_same_after_writing_and_reading() {
        for host in [None, Some("a.example".into())] {
            let address = "[2001:db8::1]:80".parse().unwrap();
            let target = match &host {
                None => Target::Direct { address },
                Some(_) => Target::Through { vip: address, backend: address, forwarding: Forwarding::Gue },
            };
            let question = Question { kind: CheckKind::Http, path: "/ready".into(), host, expect_status: 204 };
            let subject = Subject { target, question: question.into() };
            let failed = Failed { at: second(7), why: Failure::Tls("handshake".into()) };
            let text = serde_json::to_string(&LastState::new(&subject, second(5), &failed)).unwrap();
            let read: LastState = serde_json::from_str(&text).unwrap();
            assert_eq!(read.read(), Some((subject, second(5), failed)), "{text}");
        }
    }
}
