//! What EAL is told, and what is checked before it is asked, since its own messages are hard to read.

use std::fs;
use std::path::Path;

use super::state_dir;
use crate::config::Dpdk;

/// Why DPDK could not even be asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("penstock run needs root: DPDK takes devices and memory from the kernel")]
    NotRoot,
    #[error("no free hugepages: reserve some (sysctl vm.nr_hugepages=256), or add \"--no-huge\" to dpdk.eal_args")]
    NoHugepages,
}

/// Checks what can be said better than EAL says it.
pub fn check(dpdk: &Dpdk) -> Result<(), Error> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    check_these(dpdk, &status, free_hugepages(Path::new("/sys/kernel/mm/hugepages")))
}

fn check_these(dpdk: &Dpdk, status: &str, free_hugepages: u64) -> Result<(), Error> {
    // Uid: real, effective, saved, file system.
    if number(status, "Uid:", 1).is_some_and(|effective| effective != 0) {
        return Err(Error::NotRoot);
    }
    if free_hugepages == 0 && !names(dpdk, "--no-huge") {
        return Err(Error::NoHugepages);
    }
    Ok(())
}

/// Free pages of all sizes; none where the kernel knows no hugepages.
fn free_hugepages(sizes: &Path) -> u64 {
    let free =
        |size: fs::DirEntry| fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse::<u64>().ok();
    fs::read_dir(sizes).into_iter().flatten().flatten().filter_map(free).sum::<u64>()
}

/// Whether the user passes this argument.
fn names(dpdk: &Dpdk, name: &str) -> bool {
    dpdk.eal_args.iter().any(|argument| argument.split('=').next() == Some(name))
}

/// The `index`th number of the line that starts with `key`.
fn number(text: &str, key: &str, index: usize) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().nth(index)?.parse().ok()
}

/// EAL's arguments: the user's as they are, and what keeps one node out of another's way and leaves nothing behind. EAL
/// refuses some arguments that stand twice, so what the user names is left to them.
pub fn arguments(dpdk: &Dpdk, devices: &[&str], state_dir: &Path) -> Vec<String> {
    // What EAL finds on every machine is no news; a user's own level comes after it and wins.
    let mut arguments = vec!["--log-level=lib.eal:warning".to_owned()];
    arguments.extend_from_slice(&dpdk.eal_args);
    let names = |name: &str| names(dpdk, name);
    if !names("--file-prefix") && !names("--in-memory") {
        // The state directory belongs to one process at a time, and is the same again after a restart.
        arguments.push(format!("--file-prefix=penstock-{:08x}", state_dir::number(state_dir) as u32));
    }
    // Files of hugepages would outlive the process, and keep the pages.
    if !["--huge-unlink", "--no-huge", "--in-memory"].into_iter().any(names) {
        arguments.push("--huge-unlink".to_owned());
    }
    // EAL would take every PCI device that is bound to a driver of its, other programs' too: it gets those of our ports.
    if !["--no-pci", "-a", "--allow", "-b", "--block"].into_iter().any(names) {
        let pci: Vec<&str> = devices.iter().copied().filter(|device| is_pci(device)).collect();
        arguments.extend(pci.iter().map(|device| format!("--allow={device}")));
        if pci.is_empty() {
            arguments.push("--no-pci".to_owned());
        }
    }
    // Nobody asks DPDK's own telemetry socket; its thread would be one more on the control CPUs.
    if !names("--telemetry") && !names("--no-telemetry") {
        arguments.push("--no-telemetry".to_owned());
    }
    arguments
}

/// Whether a device is a PCI address, `[domain:]bus:device.function`, with or without driver arguments.
fn is_pci(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or_default();
    let Some((rest, function)) = address.rsplit_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let is_hex = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(parts.len(), 2 | 3) && parts.iter().all(is_hex) && is_hex(&function)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Idle;

    fn dpdk(eal_args: &[&str]) -> Dpdk {
        let eal_args = eal_args.iter().map(|&argument| argument.to_owned()).collect();
        Dpdk { lcores: vec![1], eal_args, mempool_mbufs: 1023, mbuf_data_room: 2176, idle: Idle::Poll }
    }

    const ROOT: &str = "Name:\tpenstock\nUid:\t0\t0\t0\t0\n";
    #[test]
    fn what_is_missing_is_said_before_eal_is_asked() {
        assert_eq!(check_these(&dpdk(&[]), "Uid:\t0\t1000\t0\t0\n", 128), Err(Error::NotRoot));
        assert_eq!(check_these(&dpdk(&[]), ROOT, 0), Err(Error::NoHugepages));
        assert_eq!(check_these(&dpdk(&["--no-huge"]), ROOT, 0), Ok(()));
        assert_eq!(check_these(&dpdk(&[]), ROOT, 128), Ok(()));
    }

    #[test]
    fn hugepages_of_all_sizes_count() {
        let directory = tempfile::tempdir().unwrap();
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n")] {
            fs::create_dir(directory.path().join(size)).unwrap();
            fs::write(directory.path().join(size).join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_hugepages(directory.path()), 4);
        assert_eq!(free_hugepages(&directory.path().join("none")), 0);
    }

    #[test]
    fn the_users_own_arguments_come_first_and_are_not_doubled() {
        let of = |eal_args: &[&str], state_dir: &str| arguments(&dpdk(eal_args), &[], Path::new(state_dir));
        let mine = of(&["--no-pci"], "/var/lib/penstock");
        assert_eq!(mine[1], "--no-pci");
        assert!(mine[2].starts_with("--file-prefix=penstock-"), "{mine:?}");
        assert_eq!(mine[3..], ["--huge-unlink", "--no-telemetry"]);
        assert_eq!(mine, of(&["--no-pci"], "/var/lib/penstock"));
        assert_ne!(mine, of(&["--no-pci"], "/var/lib/other"));
        let own = ["--file-prefix=x", "--telemetry", "--no-huge", "--no-pci"];
        assert_eq!(of(&own, "/var/lib/penstock")[1..], own);
    }

    #[test]
    fn only_the_ports_own_pci_devices_are_taken() {
        let of = |eal_args: &[&str], devices: &[&str]| {
            let arguments = arguments(&dpdk(eal_args), devices, Path::new("/"));
            arguments.into_iter().filter(|a| a.contains("pci") || a.contains("allow") || a == "-b").collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &["net_af_packet0,iface=veth0"]), ["--no-pci"]);
        assert_eq!(
            of(&[], &["0000:03:00.0", "net_null0", "81:00.1,mprq_en=1"]),
            ["--allow=0000:03:00.0", "--allow=81:00.1,mprq_en=1"]
        );
        assert_eq!(of(&["-b"], &["0000:03:00.0"]), ["-b"]);
    }
}
