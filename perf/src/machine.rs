//! What the figures were measured on, and whether it was free for it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{interrupt, tsc};

/// The machine and the versions, each as its own tool names it.
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub tsc_hz: f64,
    pub kernel: String,
    pub dpdk: String,
    pub rustc: String,
    pub commit: String,
    /// When the run began, UTC.
    pub date: String,
}

impl Machine {
    pub fn look() -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let field = |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
        Ok(Self {
            cpu: cpuinfo.lines().find_map(field).unwrap_or_else(|| "unknown CPU".into()),
            cpus: std::thread::available_parallelism()?.get(),
            tsc_hz: tsc::hz(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?.trim().to_owned(),
            dpdk: output("pkg-config", &["--modversion", "libdpdk"])?,
            rustc: output("rustc", &["--version"])?,
            commit: output("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|_| "no git".into()),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"])?,
        })
    }

    /// One of no kind, for tests of what is written.
    #[cfg(test)]
    pub fn example() -> Self {
        let [cpu, kernel, dpdk, rustc] = [(); 4].map(|()| "x".to_owned());
        Self { cpu, cpus: 2, tsc_hz: 2e9, kernel, dpdk, rustc, commit: "abc".into(), date: "2026-01-02 03:04".into() }
    }

    /// The directory of a run, by its time and commit, in that of RESULTS.md.
    pub fn run_directory(&self) -> String {
        let stamp: String = self.date.chars().filter(char::is_ascii_digit).collect();
        format!("runs/{stamp}-{}", self.commit)
    }

    /// How a section of RESULTS.md begins that no DPDK has a part in; its next line says how it was measured.
    pub fn heading(&self, what: &str) -> String {
        let Self { cpu, cpus, kernel, rustc, commit, date, .. } = self;
        format!("## {date} UTC, {commit}: {what}\n\n{cpu}, {cpus} CPUs · Linux {kernel} · {rustc}\n")
    }
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} does not start"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The load averages, as the kernel prints them.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Megabytes of memory that programs can have, hugepages that nobody uses among them.
pub fn megabytes_available() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        value.and_then(|value| value.parse::<u64>().ok()).with_context(|| format!("/proc/meminfo has no {name}"))
    };
    Ok((number("MemAvailable:")? + number("HugePages_Free:")? * number("Hugepagesize:")?) / 1_000)
}

/// From now on this thread, and what it starts, runs on these CPUs.
pub fn pin(cpus: &[u16]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu.into()));
    sched_setaffinity(None, &set).with_context(|| format!("CPUs {cpus:?}; see --lcore and --main"))
}

/// The CPUs of a measurement, and what becomes of it where others use them.
#[derive(clap::Args)]
pub struct Cpus {
    /// The CPU on which a forwarder polls.
    #[arg(long, default_value_t = 1)]
    pub lcore: u16,
    /// The CPU of everything else.
    #[arg(long, default_value_t = 0)]
    pub main: u16,
    /// Run the forwarders ahead of all ordinary work (SCHED_RR), for a machine that others use too.
    #[arg(long)]
    pub realtime: bool,
    /// Measure even while other work runs on these CPUs; the result says so.
    #[arg(long)]
    force: bool,
    /// Seconds to wait for these CPUs to become idle.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
}

impl Cpus {
    /// Waits until they are idle; whether others use them all the same, and that is no matter.
    pub fn wait_until_idle(&self) -> anyhow::Result<bool> {
        let waited = wait_until_idle(self.lcore, self.main, Duration::from_secs_f64(self.patience));
        interrupt::check()?;
        match waited {
            Err(busy) if !self.force => Err(busy),
            waited => Ok(waited.is_err()),
        }
    }
}

/// The busiest that a CPU may be before a run: the polling one must be idle, the other leaves room for the control side.
const MOST_BUSY: [f64; 2] = [0.03, 0.20];

/// Waits until CPU `lcore` is idle and `main` nearly so. Fails when they are not within `patience`.
fn wait_until_idle(lcore: u16, main: u16, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let before = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        interrupt::sleep(Duration::from_secs(1))?;
        let after = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let busy = [busy_share(&before, &after, lcore)?, busy_share(&before, &after, main)?];
        if busy.iter().zip(MOST_BUSY).all(|(&busy, most)| busy <= most) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "CPU {lcore} is {:.0} % busy and CPU {main} {:.0} % (load {}): stop what runs there, or measure anyway \
                 with --force (the result will say so)",
                busy[0] * 100.0,
                busy[1] * 100.0,
                load()
            );
        }
    }
}

/// The share of the time between two readings of /proc/stat in which a CPU was not idle.
fn busy_share(before: &str, after: &str, cpu: u16) -> anyhow::Result<f64> {
    let (busy0, all0) = jiffies(before, cpu)?;
    let (busy1, all1) = jiffies(after, cpu)?;
    Ok((busy1 - busy0) as f64 / (all1 - all0).max(1) as f64)
}

/// Busy and all jiffies of a CPU; busy is all but idle and iowait (the fourth and fifth).
fn jiffies(stat: &str, cpu: u16) -> anyhow::Result<(u64, u64)> {
    let prefix = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&prefix));
    let line = line.with_context(|| format!("this machine has no CPU {cpu}; see --lcore and --main"))?;
    // Guest time (the ninth and tenth) is in user and nice already.
    let numbers: Vec<u64> = line.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
    let all = numbers.iter().sum();
    Ok((all - numbers.iter().skip(3).take(2).sum::<u64>(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_busy_when_it_is_not_idle() {
        let before = "cpu  1 1 1 1\ncpu0 100 0 100 1000 50 0 0 0 0 0\ncpu1 0 0 0 10 0 0 0 0 0 0";
        let after = "cpu  1 1 1 1\ncpu0 120 0 105 1060 60 0 0 5 20 0\ncpu1 0 0 0 110 0 0 0 0 0 0";
        assert_eq!(busy_share(before, after, 0).unwrap(), 0.3);
        assert_eq!(busy_share(before, after, 1).unwrap(), 0.0);
        assert!(busy_share(before, after, 2).is_err());
    }
}
