//! Commands that are waited for, and processes that run beside the lab and never outlive it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::until;

/// Runs a command to its end and gives what it printed; an error tells the command and what it said.
pub fn output(command: &mut Command) -> Result<String> {
    // In a process group of its own: Ctrl-C is for the lab, which then takes everything down in order.
    let done = command.process_group(0).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("cannot run {}", shown(command)))?;
    if !done.status.success() {
        let said = [done.stderr, done.stdout].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string());
        bail!("{} failed ({}): {}", shown(command), done.status, said.join(" "));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A running helper: nginx, tcpdump, penstock. Dropped, it is stopped.
pub struct Process {
    child: Child,
    command: String,
    log: PathBuf,
    standing: bool,
}

impl Process {
    /// Starts `command` with its output appended to `log`. Give it `Stdio::piped()` as stdin to be able to close that.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        command.process_group(0).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
        Ok(Self { child, command: shown(command), log: log.to_path_buf(), standing: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed.
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until it has printed `text`; its end before that is an error.
    pub fn until_it_says(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("\"{text}\" in {}", self.log.display());
        let ended = until(&what, deadline, || {
            if self.said().contains(text) {
                return Ok(Some(None));
            }
            Ok(self.child.try_wait()?.map(Some))
        })?;
        match ended {
            Some(status) => bail!("{} ended ({status}):\n{}", self.command, self.tail()),
            None => Ok(()),
        }
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name without "SIG".
    pub fn signal(&self, name: &str) -> Result<()> {
        output(Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid()))).map(drop)
    }

    /// Writes a line to its stdin.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().with_context(|| format!("{} takes no input", self.command))?;
        writeln!(stdin, "{line}").with_context(|| format!("{} takes no input any more", self.command))
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin.take();
    }

    pub fn until_it_ends(&mut self, deadline: Duration) -> Result<ExitStatus> {
        until(&format!("the end of {}", self.command), deadline, || Ok(self.child.try_wait()?))
    }

    /// The last lines of its log, to show with an error.
    pub fn tail(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Lets it go on after the lab's own end.
    pub fn leave_standing(&mut self) {
        self.standing = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.standing {
            return;
        }
        self.close_stdin();
        let stopped = self.running() && self.signal("TERM").is_ok();
        if stopped
            && (0..150).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                !self.running()
            })
        {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
