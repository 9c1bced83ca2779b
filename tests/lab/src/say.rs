//! What the lab tells its reader: scenes, claims, and the evidence for each.
//!
//! A claim is printed, then checked, then its evidence is shown. There is no other way to print one, so a claim on the
//! screen with a tick is a claim that was checked.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::guest::NotHere;

/// Column in which the verdicts stand.
const WIDTH: usize = 76;

pub struct Story {
    started: Instant,
    colour: bool,
    scenes: usize,
    claims: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
}

impl Story {
    /// Colours only where a person reads them (<https://no-color.org>).
    pub fn new() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            started: Instant::now(),
            colour: std::io::stdout().is_terminal() && !no_color,
            scenes: 0,
            claims: 0,
            failures: Vec::new(),
            skipped: Vec::new(),
        }
    }

    pub fn line(&self, text: impl AsRef<str>) {
        println!("{}", text.as_ref());
    }

    /// A remark, as evidence is shown: dim and indented, any number of lines.
    pub fn note(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            println!("     {}", self.paint("2", line));
        }
    }

    /// Opens a scene, plays it and keeps its failure, if any, for the end; or why it cannot be played here.
    pub fn scene(&mut self, title: &str, play: impl FnOnce(&mut Self) -> Result<()>) {
        self.scenes += 1;
        let heading = format!("{:>2}  {title}", self.scenes);
        println!("\n{}", self.paint("1", &heading));
        let before = self.failures.len();
        if let Err(error) = play(self) {
            // A claim that failed has told its reason already.
            match error.downcast_ref::<NotHere>() {
                Some(why) => self.skip(&format!("{title}: {why}")),
                None if self.failures.len() == before => self.failed(title, &error),
                None => {}
            }
        }
    }

    /// Says `claim`, checks it, shows what the check found.
    pub fn claim(&mut self, claim: &str, check: impl FnOnce() -> Result<String>) -> Result<()> {
        let gap = WIDTH.saturating_sub(claim.chars().count()).max(1);
        print!("   · {claim}{:gap$}", "");
        std::io::stdout().flush()?;
        match check() {
            Ok(evidence) => {
                self.claims += 1;
                println!("{}", self.paint("32", "✔"));
                self.note(evidence);
                Ok(())
            }
            Err(error) => {
                println!("{}", self.paint("31", "✘"));
                self.failed(claim, &error);
                Err(anyhow!("{claim}: {error:#}"))
            }
        }
    }

    /// Says that something was not checked here, and why.
    pub fn skip(&mut self, why: &str) {
        println!("   · {}", self.paint("33", &format!("not checked: {why}")));
        self.skipped.push(why.to_string());
    }

    /// Whether no claim and no scene has failed.
    pub fn good(&self) -> bool {
        self.failures.is_empty()
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines: how many claims were checked, what failed, how long it took.
    pub fn end(&self) {
        println!();
        for failure in &self.failures {
            println!("{}", self.paint("31", &format!("Failed: {failure}")));
        }
        for why in &self.skipped {
            println!("{}", self.paint("33", &format!("Not checked: {why}")));
        }
        let (claims, seconds) = (self.claims, self.elapsed().as_secs_f64());
        let summary = if self.good() {
            self.paint("1;32", &format!("All {claims} claims checked and true, in {seconds:.1} s."))
        } else {
            self.paint("1;31", &format!("{} failed, {claims} claims true, in {seconds:.1} s.", self.failures.len()))
        };
        println!("{summary}");
    }

    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        for line in format!("{error:#}").lines() {
            println!("     {}", self.paint("31", line));
        }
        self.failures.push(what.to_string());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
