//! A kernel of its own for receivers that this machine's has no modules for: User Mode Linux, a Linux kernel that runs as a process
//! (Debian's package `user-mode-linux`). It sees this machine's files, and one cable leads to it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::{until, with};

const INIT: &str = include_str!("../guest/init.sh");
const PROGRAM: &str = "linux.uml";
/// Where the package has the modules.
const MODULES: &str = "/usr/lib/uml/modules";
/// The one end of its cable, a tap in the namespace that it runs in.
pub const TAP: &str = "guest";
/// The bridge inside that the cable's other end is connected to.
pub const BRIDGE: &str = "fabric";

/// Where a kernel dies at the first process that it starts, since the machine's kernel takes floating-point registers only all at once,
/// and it knows fewer: seen on a CPU with AMX.
const NO_REGISTERS: &str = "put_fp_registers";

/// There is no such kernel on this machine, and what needs one cannot be checked.
#[derive(Debug, Clone, Copy)]
pub struct NotHere;

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("User Mode Linux cannot set this CPU's registers, which are more than it knows, and does not start")
    }
}

impl std::error::Error for NotHere {}

pub struct Guest {
    process: RefCell<Process>,
    directory: PathBuf,
    commands: Cell<usize>,
}

impl Guest {
    /// Boots it, with a cable to `host`. `directory`: the lab's.
    pub fn boot(host: &Namespace, mtu: u16, lab: &Path) -> Result<Self> {
        let directory = lab.join("guest");
        std::fs::create_dir_all(directory.join("lib"))?;
        symlink(MODULES, directory.join("lib/modules"))?;
        script(&directory.join("init"), INIT)?;
        let modprobe = format!("#!/bin/sh\nexec modprobe -d {} \"$@\"\n", directory.display());
        script(&directory.join("modprobe"), &modprobe)?;

        host.ip(&format!("tuntap add {TAP} mode tap"))?;
        host.ip(&format!("link set {TAP} mtu {mtu} up"))?;
        let mut command = host.helper(PROGRAM);
        command.args(["mem=256M", "quiet", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        // The serial line is what it is spoken to by; what the kernel has to say goes to the same log.
        command.args(["con=null", "con0=null,fd:2", "ssl0=fd:0,fd:1"]);
        command.arg(format!("vec0:transport=tap,ifname={TAP},mtu={mtu},depth=64,gro=0"));
        command.arg(format!("init={}", directory.join("init").display()));
        command.arg(format!("uml_dir={}/", directory.display())).arg("umid=uml");
        command.arg(format!("LAB={}", lab.display())).stdin(Stdio::piped());
        let mut process = Process::start(&mut command, &lab.join("guest.log"))
            .with_context(|| format!("{PROGRAM}, which the package user-mode-linux has"))?;
        if let Err(error) = process.until_it_says("is ready", Duration::from_secs(60)) {
            return Err(if process.said().contains(NO_REGISTERS) { NotHere.into() } else { error });
        }
        Ok(Self { process: process.into(), directory, commands: 0.into() })
    }

    /// Runs a command of sh in it, one line, and gives what it printed.
    pub fn run(&self, command: &str) -> Result<String> {
        let number = self.commands.get();
        self.commands.set(number + 1);
        let mut process = self.process.borrow_mut();
        process.tell(&format!("{number} {command}"))?;
        let ended = format!("guest: {number} ended with ");
        let code = until(&format!("the guest has run {command}"), Duration::from_secs(60), || {
            let said = process.said();
            let line = said.lines().find_map(|line| line.strip_prefix(&ended)).map(str::to_owned);
            // A line that is half there has no number yet.
            Ok(line.filter(|_| said.ends_with('\n')))
        })
        .map_err(with(|| process.tail()))?;
        let printed = std::fs::read(self.directory.join(format!("out.{number}")))?;
        let printed = String::from_utf8_lossy(&printed).into_owned();
        if code.trim() != "0" {
            bail!("in the guest, {command} failed ({}): {}", code.trim(), printed.trim());
        }
        Ok(printed)
    }

    /// Its kernel's release.
    pub fn release(&self) -> Result<String> {
        Ok(self.run("uname -r")?.trim().to_owned())
    }
}

/// The end of its serial line takes it down.
impl Drop for Guest {
    fn drop(&mut self) {
        let process = self.process.get_mut();
        process.close_stdin();
        let _ = process.until_it_ends(Duration::from_secs(5));
    }
}

fn script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
