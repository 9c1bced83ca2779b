//! Orchestrators in another language: Python programs (`tests/lab/orchestrator/`) that talk to the node's API, with stubs that are made from
//! the contract at run time, as an integrator makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Process, output};
use crate::wait::{PATIENCE, until, with};

/// Debian's own: the packages that `scripts/setup control` installs are for no other.
const PYTHON: &str = "/usr/bin/python3";

/// Where `penstock/v1/*.proto` are.
const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");

const FILES: [(&str, &str); 7] = [
    ("rpc.proto", include_str!("../orchestrator/rpc.proto")),
    ("example.py", include_str!("../orchestrator/example.py")),
    ("freeze.py", include_str!("../orchestrator/freeze.py")),
    ("hammer.py", include_str!("../orchestrator/hammer.py")),
    ("refused.py", include_str!("../orchestrator/refused.py")),
    ("replace.py", include_str!("../orchestrator/replace.py")),
    ("serve.py", include_str!("../orchestrator/serve.py")),
];

/// Programs and stubs, ready to run on the node's host.
pub struct Orchestrator {
    directory: PathBuf,
    host: Rc<Namespace>,
}

impl Orchestrator {
    pub fn of(lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("orchestrator");
        std::fs::create_dir_all(&directory)?;
        for (name, text) in FILES {
            std::fs::write(directory.join(name), text)?;
        }
        let mut protoc = Command::new("protoc");
        protoc.arg("--proto_path").arg(CONTRACT).arg("--proto_path").arg(&directory);
        protoc.arg("--python_out").arg(&directory).arg("--grpc_out").arg(&directory);
        protoc.arg("--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin").arg(directory.join("rpc.proto"));
        let contract = Path::new(CONTRACT).join("penstock/v1");
        for entry in std::fs::read_dir(&contract).with_context(|| contract.display().to_string())? {
            protoc.arg(entry?.path());
        }
        output(&mut protoc).context("the stubs are made by what scripts/setup control installs")?;
        Ok(Self { directory, host: lab.node.namespace.clone() })
    }

    /// Runs a program to its end, and gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.host.command(PYTHON).arg(self.directory.join(program)).args(arguments))
    }

    /// Starts one that answers each line of its input by a document.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<Running> {
        let log = self.directory.join(program).with_extension("log");
        let _ = std::fs::remove_file(&log);
        let mut command = self.host.helper(PYTHON);
        command.arg(self.directory.join(program)).args(arguments).stdin(Stdio::piped());
        Ok(Running { process: Process::start(&mut command, &log)?, answers: 0 })
    }
}

/// A program in the background.
pub struct Running {
    pub process: Process,
    /// Lines that were read.
    answers: usize,
}

impl Running {
    /// The document that it says next.
    pub fn answer(&mut self) -> Result<Value> {
        let process = &mut self.process;
        let line = until("the program answers", 2 * PATIENCE, || {
            let (said, has_ended) = (process.said(), !process.running());
            let line = said.split_inclusive('\n').nth(self.answers).filter(|line| has_ended || line.ends_with('\n'));
            Ok(line.map(str::to_owned).or(has_ended.then(String::new)))
        })
        .map_err(with(|| process.tail()))?;
        self.answers += 1;
        serde_json::from_str(&line).with_context(|| format!("the program said: {}", process.tail()))
    }

    /// What it says to a line.
    pub fn ask(&mut self, line: &str) -> Result<Value> {
        self.process.tell(line)?;
        self.answer()
    }
}
