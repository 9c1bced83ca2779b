//! Two programs and a memif between them, as in the lab two machines and a line.

use std::path::Path;
use std::process::Command;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-perf");

/// Seconds after which a program is ended that has not ended by itself: a test fails then, and does not wait for ever.
const PATIENCE: &str = "120";

/// One end (`server`, `client`) of the memif.
pub fn device(role: &str, directory: &Path) -> String {
    format!("--device=net_memif0,role={role},socket={},socket-abstract=no,rsize=14", directory.join("memif").display())
}

/// The program, before others where that is allowed: what is known of these pairs is a time, and others would take of it. (Not by
/// SCHED_FIFO: the main thread of one side must have its turn on the CPU where the other polls.)
pub fn program() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE, "nice", "--adjustment=-20", PROGRAM]);
    command
}
