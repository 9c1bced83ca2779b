//! The stopwatch finds what is known: for how long a forwarder keeps each frame.

mod pair;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pair::{PROGRAM, device, program};

const EAL: &str = "--eal=--no-pci --no-huge --no-shconf --no-telemetry -m 128";

/// Milliseconds; long, beside what others on the machine take of the time.
const DELAY: f64 = 50.0;

/// A program that is told by stdin what to do; ready.
struct Told {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Told {
    fn start(arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(arguments).args(["--mbufs=16383", EAL]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut told = Self { child, stdin, lines: BufReader::new(stdout).lines() };
        told.expect("ready");
        told
    }

    fn expect(&mut self, start: &str) -> String {
        let line = self.lines.find(|line| line.as_ref().unwrap().starts_with(start));
        line.unwrap_or_else(|| panic!("{start:?} is not said")).unwrap()
    }

    fn ask(&mut self, line: &str, start: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.expect(start)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = writeln!(self.stdin, "quit");
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "takes time by the clock on CPUs 0 and 1, for itself: scripts/test runs it alone"]
fn no_frame_is_quicker_than_the_forwarder_and_few_are_much_slower() {
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("acks-100.pcap");
    let made =
        Command::new(PROGRAM).args(["captures", "acks-100", "--directory"]).arg(directory.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let delay = format!("--delay={}", DELAY / 1e3);
    let server = device("server", directory.path());
    // Who polls a memif must not see its other side go: the forwarder, which stands behind it here, ends first.
    let mut generator;
    let forwarder = Told::start(&["reflect", "--lcore=0", "--limit=1000000", &delay, &server]);
    generator = Told::start(&["generate", "--lcore=1", &device("client", directory.path())]);
    generator.ask(&format!("load {}", capture.display()), "loaded");
    let is_up = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        generator.ask("up", "up") == "up true"
    });
    assert!(is_up, "the memif is not up within 30 s");

    let said = generator.ask("latency 5000 0.1 0.5 1", "latency");
    drop(forwarder);
    let number = |key: &str| -> f64 {
        let value = said.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{key} in {said}")).parse().unwrap()
    };
    assert_eq!((number("sent"), number("returned"), number("stray")), (2500.0, 2500.0, 0.0), "{said}");
    // Both measure the clock's rate, and a histogram's places are 0.8 % wide. Upwards it is for others on the machine.
    let milliseconds = number("p50") / 1e6;
    assert!((0.98 * DELAY..3.0 * DELAY).contains(&milliseconds), "{milliseconds} of {DELAY} ms: {said}");
    assert!(
        number("p50") <= number("p99") && number("p99") <= number("p99.9") && number("p99.9") <= number("max"),
        "{said}"
    );
}
