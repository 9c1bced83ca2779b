//! The environment abstraction layer: DPDK's start, once a process, and which thread runs on which CPU.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use crate::errno::{self, Errno};
use crate::lcore::Lcore;

/// Proof that DPDK runs. It runs until the process ends: memory, rings and devices may be in use anywhere, and DPDK
/// cannot tell when the last user has gone.
///
/// Free to copy and to use from any thread.
#[derive(Debug, Clone, Copy)]
pub struct Eal(());

/// Why DPDK did not start, or may not be asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// One process starts DPDK once, even if the first time failed.
    #[error("DPDK was started before in this process; it starts only once")]
    Twice,
    /// EAL arguments are C strings.
    #[error("EAL argument {0:?} has a zero byte in it")]
    ZeroByte(String),
    /// There must be something to poll with.
    #[error("no polling core is named; name at least one CPU")]
    NoCore,
    /// A CPU may carry one polling core only: two would take turns by the millisecond.
    #[error("CPU {0} is named twice as a polling core")]
    CoreTwice(u16),
    /// The CPU does not exist, or the process may not run on it (cpuset, container, taskset).
    #[error("CPU {cpu} cannot be a polling core: this process may run on {allowed:?}")]
    NoSuchCpu {
        /// The CPU that was asked for.
        cpu: u16,
        /// The CPUs that the process may run on.
        allowed: Vec<u16>,
    },
    /// The kernel did not say which CPUs the process may run on.
    #[error("/proc/self/status does not tell which CPUs may be used: {0}")]
    Cpus(String),
    /// `rte_errno` EACCES, EPERM.
    #[error("DPDK may not use memory or devices: run as root")]
    NotPermitted,
    /// `rte_errno` EINVAL.
    #[error("DPDK refuses its arguments {0:?}; its own message stands above")]
    Arguments(Vec<String>),
    /// `rte_errno` ENOMEM.
    #[error("DPDK got no memory: set hugepages (sysctl vm.nr_hugepages=256), or pass --no-huge and -m MEGABYTES")]
    NoMemory,
    /// Any other code.
    #[error("DPDK does not start: {0}; its own message stands above")]
    Other(Errno),
}

impl Eal {
    /// Starts DPDK with one lcore a CPU in `polling`, and its main thread (the caller, which is pinned by this) on the
    /// other CPUs; see [`lcores_argument`]. `arguments` go to EAL as they are.
    ///
    /// Threads that the caller starts later inherit its CPUs, so they too keep off the polling ones.
    pub fn init<S: AsRef<str>>(polling: &[u16], arguments: impl IntoIterator<Item = S>) -> Result<Self, EalError> {
        let mut all = vec!["penstock".to_owned(), "--lcores".to_owned(), lcores_argument(polling, &allowed_cpus()?)?];
        all.extend(["--main-lcore".to_owned(), "0".to_owned()]);
        all.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        Self::init_raw(&all)
    }

    /// `arguments[0]` is the program's name.
    fn init_raw(arguments: &[String]) -> Result<Self, EalError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let strings: Vec<CString> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()).map_err(|_| EalError::ZeroByte(argument.clone())))
            .collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::Twice);
        }
        // For good: EAL may rewrite the strings, and the libraries that it loads may keep pointers to them.
        let mut argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        let argc = c_int::try_from(arguments.len()).expect("few arguments");
        // SAFETY: argv holds argc writable C strings and a null after them, never freed; the flag above makes this the
        // only call in the process, as EAL demands.
        if unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) } >= 0 {
            return Ok(Self(()));
        }
        Err(match errno::last() {
            Errno::AccessDenied | Errno::NotPermitted => EalError::NotPermitted,
            Errno::Invalid => EalError::Arguments(arguments[1..].to_vec()),
            Errno::OutOfMemory => EalError::NoMemory,
            Errno::Already => EalError::Twice,
            other => EalError::Other(other),
        })
    }

    /// The lcores that can be given work, in the order of the `polling` CPUs of [`Eal::init`].
    pub fn lcores(self) -> Vec<Lcore> {
        let next = |lcore: u32| {
            // SAFETY: walks EAL's table of lcores, which does not change after start; skips the main one.
            Some(unsafe { sys::rte_get_next_lcore(lcore, 1, 0) }).filter(|&lcore| lcore < sys::RTE_MAX_LCORE)
        };
        std::iter::successors(next(u32::MAX), |&lcore| next(lcore)).map(|id| Lcore::new(self, id)).collect()
    }
}

/// EAL's `--lcores`: lcore 0, the main one, floats over the CPUs of `allowed` that do not poll (over all, where all
/// poll); lcore k > 0 is pinned to the k-th of `polling`.
///
/// With `polling = [1]` on CPUs 0 and 1: `0@(0),1@1`.
pub fn lcores_argument(polling: &[u16], allowed: &[u16]) -> Result<String, EalError> {
    let mut seen = BTreeSet::new();
    for &cpu in polling {
        if !allowed.contains(&cpu) {
            return Err(EalError::NoSuchCpu { cpu, allowed: allowed.to_vec() });
        }
        if !seen.insert(cpu) {
            return Err(EalError::CoreTwice(cpu));
        }
    }
    if polling.is_empty() {
        return Err(EalError::NoCore);
    }
    let rest: Vec<u16> = allowed.iter().copied().filter(|cpu| !seen.contains(cpu)).collect();
    let main = if rest.is_empty() { allowed } else { &rest };
    let main = main.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let lcores = polling.iter().zip(1..).map(|(cpu, lcore)| format!(",{lcore}@{cpu}")).collect::<String>();
    Ok(format!("0@({main}){lcores}"))
}

/// The CPUs that this process may run on, ascending.
pub fn allowed_cpus() -> Result<Vec<u16>, EalError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| EalError::Cpus(error.to_string()))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| cpu_list(list.trim())).ok_or_else(|| EalError::Cpus("no Cpus_allowed_list".to_owned()))
}

/// Reads the kernel's `0-3,8`.
fn cpu_list(text: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_thread_keeps_off_the_polling_cpus() {
        assert_eq!(lcores_argument(&[1], &[0, 1]).unwrap(), "0@(0),1@1");
        assert_eq!(lcores_argument(&[6, 2], &[0, 2, 4, 6]).unwrap(), "0@(0,4),1@6,2@2");
    }

    #[test]
    fn the_main_thread_floats_where_all_poll() {
        assert_eq!(lcores_argument(&[0, 1], &[0, 1]).unwrap(), "0@(0,1),1@0,2@1");
    }

    #[test]
    fn impossible_cores_are_named() {
        assert_eq!(lcores_argument(&[], &[0]), Err(EalError::NoCore));
        assert_eq!(lcores_argument(&[0, 0], &[0]), Err(EalError::CoreTwice(0)));
        assert_eq!(lcores_argument(&[2], &[0, 1]), Err(EalError::NoSuchCpu { cpu: 2, allowed: vec![0, 1] }));
    }

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(cpu_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!((cpu_list("5"), cpu_list(""), cpu_list("a-b")), (Some(vec![5]), None, None));
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
