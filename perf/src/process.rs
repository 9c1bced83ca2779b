//! A child process that cannot outlive us, its output as it comes, and how long its polling thread had its core.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// A running program; ended and waited for when this goes.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// All lines so far.
    seen: Vec<String>,
}

impl Process {
    /// Starts `program` so that the kernel ends it should we be killed (`setpriv --pdeathsig`), with line-buffered output
    /// (`stdbuf`), stdout and stderr together; `realtime`: ahead of all ordinary work (`chrt`). By SCHED_RR: while DPDK starts, it waits for a thread of
    /// its own on the same CPU by sleeps of a microsecond, which on a fast machine are over before that thread gets its turn; by SCHED_FIFO it would
    /// wait for ever.
    pub fn start(program: &str, arguments: &[String], realtime: bool) -> anyhow::Result<Self> {
        let priority: &[&str] = if realtime { &["chrt", "--rr", "50"] } else { &[] };
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(priority)
            .args(["stdbuf", "-oL", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("setpriv … {program} cannot be started"))?;
        let (sender, lines) = mpsc::channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        Ok(Self { name: program.to_owned(), stdin: child.stdin.take(), child, lines, seen: Vec::new() })
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("{} does not listen", self.name))
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line for which `wanted` gives something.
    pub fn expect<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.seen.push(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {what} within {timeout:?}; {}", self.last_words())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended without {what}; {}", self.last_words())
                }
            }
        }
    }

    /// Takes its core from it (SIGSTOP); all its threads wait when this returns.
    pub fn hold(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let path = format!("/proc/{}/stat", self.child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
            // The state stands behind the name, which is in parentheses and may hold anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state == Some('T') {
                return Ok(());
            }
            self.check_alive()?;
            anyhow::ensure!(Instant::now() < deadline, "{} cannot be held: state {state:?}", self.name);
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Gives it back (SIGCONT).
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.check_alive()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        kill_process(pid, signal).with_context(|| format!("{}: {signal:?}", self.name))
    }

    /// Fails if the program has ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        interrupt::check()?;
        if let Some(status) = self.child.try_wait()? {
            thread::sleep(Duration::from_millis(100)); // its last words are on their way
            bail!("ended, {status}; {}", self.last_words());
        }
        Ok(())
    }

    /// The program's name and the end of its output, for a failure's message.
    fn last_words(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        format!("{} said:\n{}", self.name, self.seen[self.seen.len().saturating_sub(40)..].join("\n"))
    }

    /// The time that its threads have been on and off their cores so far.
    pub fn core_times(&self) -> anyhow::Result<CoreTimes> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut threads = HashMap::new();
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let task = task?;
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok();
            if let Some(time) = schedstat.and_then(|text| CoreTime::parse(&text)) {
                threads.insert(task.file_name().to_string_lossy().into_owned(), time);
            }
        }
        Ok(CoreTimes(threads))
    }

    /// Asks it to end (SIGTERM, and the end of its stdin), then does not ask.
    pub fn stop(&mut self, timeout: Duration) {
        self.stdin = None;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
            // Held, it would never hear of it.
            let _ = kill_process(pid, Signal::CONT);
        }
        let deadline = Instant::now() + timeout;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
    }
}

/// By the thread's number.
pub struct CoreTimes(HashMap<String, CoreTime>);

impl CoreTimes {
    /// The share of the time since `earlier` in which others had the core of the thread that ran longest in it, the polling one: 0 of an
    /// undisturbed measurement.
    pub fn off_core_since(&self, earlier: &Self) -> anyhow::Result<f64> {
        let (_, polling) = self.longest_since(earlier)?;
        Ok(polling.off.as_secs_f64() / (polling.on + polling.off).as_secs_f64().max(f64::MIN_POSITIVE))
    }

    /// The number of that thread.
    #[cfg(test)]
    pub fn polling_since(&self, earlier: &Self) -> anyhow::Result<String> {
        Ok(self.longest_since(earlier)?.0.clone())
    }

    fn longest_since(&self, earlier: &Self) -> anyhow::Result<(&String, CoreTime)> {
        let each = self.0.iter().filter_map(|(thread, time)| Some((thread, time.since(*earlier.0.get(thread)?))));
        each.max_by_key(|(_, time)| time.on).context("no thread was there all the time")
    }
}

/// How long a thread ran, and how long it was ready to run but had no core (`/proc/…/schedstat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CoreTime {
    on: Duration,
    off: Duration,
}

impl CoreTime {
    fn parse(schedstat: &str) -> Option<Self> {
        let mut numbers = schedstat.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
        Some(Self { on: numbers.next()?.ok()?, off: numbers.next()?.ok()? })
    }

    fn since(self, earlier: Self) -> Self {
        Self { on: self.on.saturating_sub(earlier.on), off: self.off.saturating_sub(earlier.off) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_off_the_core_is_that_of_the_thread_which_ran_longest_since() {
        let times = |threads: &[(&str, &str)]| {
            let parsed = |&(thread, text): &(&str, &str)| (thread.to_owned(), CoreTime::parse(text).unwrap());
            CoreTimes(threads.iter().map(parsed).collect())
        };
        // The main one read a long capture before the other began to poll.
        let before = times(&[("main", "9000 700 7"), ("polling", "100 50 7")]);
        let after = times(&[("main", "9010 800 8"), ("polling", "400 150 9\n"), ("new", "5000 5000 1")]);
        assert_eq!(after.off_core_since(&before).unwrap(), 0.25);
        assert_eq!(after.off_core_since(&after).unwrap(), 0.0);
        assert!(after.off_core_since(&times(&[])).is_err());
        assert_eq!(CoreTime::parse("1"), None);
    }

    #[test]
    fn who_is_held_has_no_core_and_can_still_be_ended() {
        let arguments = ["-c", "while :; do :; done"].map(str::to_owned);
        let mut process = Process::start("sh", &arguments, false).unwrap();
        process.hold().unwrap();
        let on = |process: &Process| process.core_times().unwrap().0.values().map(|time| time.on).max();
        let held = on(&process);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(on(&process), held);
        process.go_on().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(on(&process) > held);
        process.hold().unwrap();
        let begun = Instant::now();
        process.stop(Duration::from_secs(5));
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_process_is_heard_and_ended() {
        let arguments = ["-c", "read line; echo got $line; exec sleep 60"].map(str::to_owned);
        let mut process = Process::start("sh", &arguments, false).unwrap();
        process.say("this").unwrap();
        process.expect("echo", Duration::from_secs(5), |line| (line == "got this").then_some(())).unwrap();
        process.check_alive().unwrap();
        process.stop(Duration::from_secs(5));
        let error = process.check_alive().unwrap_err().to_string();
        assert!(error.contains("got this"), "{error}");
    }
}
