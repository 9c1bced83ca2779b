//! Instructions that the pipeline takes for a packet, counted by callgrind: the same on every run and every day, whatever else the
//! machine does. Not a rate, but where a rate has changed they say whose doing it was; and a gate: `--check` fails where a case takes
//! more than the baseline that is committed beside this crate says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service::Forwarding;
use penstock::snapshot::{Millis, PortIndex, Snapshot};

use crate::bare::Bare;
use crate::node::{Family, Memory, Task};
use crate::traffic::Kind;

#[derive(clap::Args)]
pub struct Options {
    /// Those cases alone whose names hold one of these words.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Fail where a case takes over 2 % more than the baseline says.
    #[arg(long)]
    check: bool,
    /// Write the baseline anew. Commit it with what changed it, and say why in the message.
    #[arg(long, conflicts_with_all = ["check", "only"])]
    store: bool,
    #[arg(long, default_value = "perf/instructions.baseline")]
    baseline: PathBuf,
}

#[derive(clap::Args)]
pub struct Work {
    #[arg(long)]
    case: String,
    #[arg(long)]
    bursts: usize,
}

/// Bursts of the two runs whose difference is taken: what warms up is in both.
const BURSTS: [usize; 2] = [200, 1_200];
/// How much more than the baseline is no more than another compiler's mood.
const MOST: f64 = 1.02;

/// What is counted.
struct Case {
    name: String,
    task: Task,
    traffic: Kind,
    verdict: fn(&Verdict) -> bool,
    /// Milliseconds from one burst to the next.
    pace: u64,
}

fn cases() -> Vec<Case> {
    let forwarded = |verdict: &Verdict| *verdict == Verdict::Forward(PortIndex(0));
    let dropped = |verdict: &Verdict| matches!(verdict, Verdict::Drop(_));
    let none = Task::ipip(Memory::None);
    let case = |name: &str, task, traffic| Case { name: name.to_owned(), task, traffic, verdict: forwarded, pace: 0 };
    let tracked = Task::ipip(Memory::Going(1 << 20));
    let mut cases = vec![
        case("hit, 1 flow", tracked, Kind::Acks(1)),
        case("hit, 1 k flows", tracked, Kind::Acks(1_000)),
        // Each packet is its flow's first of a second.
        Case { pace: 1_000, ..case("noted, 1 k flows", tracked, Kind::Acks(1_000)) },
        case("at rest, 1 flow", Task::ipip(Memory::Rest), Kind::Acks(1)),
        case("at rest, 1 k flows", Task::ipip(Memory::Rest), Kind::Acks(1_000)),
        // Full after the first of the two runs.
        case("SYN", Task::ipip(Memory::Beginning(BURSTS[0] * BURST / 2)), Kind::Syns(BURSTS[1] * BURST)),
        case("untracked, 1 flow", none, Kind::Acks(1)),
        case("UDP, 1 k flows", Task { family: Family::Udp, ..none }, Kind::Udp(1_000)),
        case("IPv6, 1 k flows", Task { family: Family::Tcp6, ..none }, Kind::V6(1_000)),
        Case { verdict: dropped, ..case("malformed", none, Kind::Malformed(1_000)) },
        Case { verdict: dropped, ..case("no service", none, Kind::Services { flows: 1_000, services: 400 }) },
    ];
    // A service that no packet is for.
    if let Some(case) = cases.last_mut() {
        case.task.family = Family::Udp;
    }
    let modes = Forwarding::NAMES.iter().filter_map(|name| Forwarding::named(name));
    cases.extend(modes.map(|forwarding| {
        case(&format!("{}, 1 k flows", forwarding.name()), Task { forwarding, ..none }, Kind::Acks(1_000))
    }));
    cases
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let baseline = match options.store {
        true => BTreeMap::new(),
        false => read(&options.baseline)?,
    };
    println!("Instructions a packet, parse to apply, by callgrind; bursts of {BURST}.\n");
    println!("| case | instructions | baseline |\n|---|--:|--:|");
    let (mut new, mut worse) = (String::new(), Vec::new());
    for Case { name, .. } in cases() {
        if !options.only.is_empty() && !options.only.iter().any(|word| name.contains(word)) {
            continue;
        }
        let count = count(&name)?;
        let known = baseline.get(&name).copied();
        println!("| {name} | {count:.1} | {} |", known.map_or("–".into(), |known| format!("{known:.1}")));
        let _ = writeln!(new, "{count:8.1}  {name}");
        if known.is_none_or(|known| count > known * MOST) {
            worse.push(format!("{name}: {count:.1}, baseline {}", known.unwrap_or_default()));
        }
    }
    if options.store {
        fs::write(&options.baseline, format!("{HEAD}{new}")).with_context(|| options.baseline.display().to_string())?;
    }
    ensure!(
        !options.check || worse.is_empty(),
        "more instructions than the baseline allows (see perf/README.md, \"The gate\"):\n{}",
        worse.join("\n")
    );
    Ok(())
}

const HEAD: &str =
    "# Instructions a packet by case, as `perf/instructions --store` counted them. CI fails on 2 % more.\n";

/// Instructions by case.
fn read(path: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (count, name) = line.trim().split_once("  ").with_context(|| format!("{line:?} is no count and name"))?;
        Ok((name.to_owned(), count.parse().with_context(|| format!("{line:?}"))?))
    });
    lines.collect::<anyhow::Result<_>>().with_context(|| path.display().to_string())
}

/// Of a packet of this case.
fn count(case: &str) -> anyhow::Result<f64> {
    let [few, many] = BURSTS.map(|bursts| collected(case, bursts));
    Ok((many? - few?) / ((BURSTS[1] - BURSTS[0]) * BURST) as f64)
}

fn collected(case: &str, bursts: usize) -> anyhow::Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions::counted*"]);
    valgrind.arg(std::env::current_exe()?).args(["pipeline", "--case", case, "--bursts", &bursts.to_string()]);
    let output = valgrind.stdin(Stdio::null()).output().context("valgrind cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let count = said.lines().find_map(|line| line.split_once("Collected :"));
    count.and_then(|(_, count)| count.trim().parse().ok()).with_context(|| format!("callgrind said: {said}"))
}

/// The one function in which callgrind counts.
#[inline(never)]
fn counted(
    pipeline: &mut Pipeline,
    snapshot: &Snapshot,
    now: Millis,
    buffers: &mut [Buffer],
    verdicts: &mut [Verdict; BURST],
) {
    pipeline.process(snapshot, now, PortIndex(0), buffers, verdicts);
}

/// What is counted: bursts of the bench's frames through one lcore's pipeline.
pub fn work(work: &Work) -> anyhow::Result<()> {
    let case = cases().into_iter().find(|case| case.name == work.case);
    let case = case.with_context(|| format!("there is no case {:?}", work.case))?;
    let mut bare = Bare::new(case.task, case.traffic)?;
    for burst in 0..work.bursts {
        let now = Millis(burst as u64 * case.pace);
        bare.receive();
        counted(&mut bare.pipeline, &bare.snapshot, now, &mut bare.frames, &mut bare.verdicts);
        ensure!(bare.verdicts.iter().all(case.verdict), "{:?}", bare.verdicts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_every_case_have_its_verdict() {
        for Case { name, .. } in cases() {
            work(&Work { case: name.clone(), bursts: 2 }).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn the_committed_baseline_has_every_case() {
        let known = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.baseline")).unwrap();
        let names: Vec<_> = cases().into_iter().map(|case| case.name).collect();
        assert_eq!(known.len(), names.len());
        assert!(names.iter().all(|name| known.contains_key(name)), "{known:?}");
    }

    #[test]
    fn a_baseline_that_is_none_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# x\n   12.5  a b\nseven\n").unwrap();
        let error = format!("{:#}", read(file.path()).unwrap_err());
        assert!(error.contains("\"seven\" is no count"), "{error}");
    }
}
