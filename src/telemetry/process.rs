//! What the kernel knows of this process, under the names that Prometheus' own client libraries use.

use std::fs;

/// Clock ticks a second of /proc (`USER_HZ`): 100 wherever Linux runs on DPDK's machines.
const TICKS: f64 = 100.0;

/// Numbers of one moment; 0 where /proc does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// User and system, of all threads.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_descriptors: u64,
    pub most_descriptors: u64,
    /// Seconds since 1970.
    pub started: f64,
}

impl Process {
    /// As it is now.
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        Self {
            open_descriptors: open,
            ..Self::of(
                &read("/proc/self/stat"),
                &read("/proc/self/status"),
                &read("/proc/self/limits"),
                &read("/proc/stat"),
            )
        }
    }

    /// By the texts of proc(5).
    fn of(stat: &str, status: &str, limits: &str, machine: &str) -> Self {
        // The name, in parentheses, may hold anything; the third word follows it.
        let words: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |number: usize| words.get(number - 3).and_then(|word| word.parse().ok()).unwrap_or(0.0) / TICKS;
        let line = |text: &str, name: &str, word: usize| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(word)?.parse::<u64>().ok()
        };
        let kilobytes = |name| line(status, name, 0).unwrap_or(0) * 1024;
        Self {
            cpu_seconds: ticks(14) + ticks(15),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            threads: line(status, "Threads:", 0).unwrap_or(0),
            open_descriptors: 0,
            most_descriptors: line(limits, "Max open files", 0).unwrap_or(0),
            started: line(machine, "btime", 0).unwrap_or(0) as f64 + ticks(22),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 12345 1 2";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t    3 kB\nThreads:\t9\n";
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files\n";
        let process = Process::of(stat, status, limits, "cpu 1 2\nbtime 1000\n");
        let wanted = Process {
            cpu_seconds: 2.0,
            resident_bytes: 3072,
            virtual_bytes: 2_097_152,
            threads: 9,
            open_descriptors: 0,
            most_descriptors: 1024,
            started: 1123.45,
        };
        assert_eq!(process, wanted);
        assert_eq!(Process::of("", "", "", ""), Process::default());
    }

    #[test]
    fn this_process_has_memory_descriptors_and_a_beginning() {
        let process = Process::now();
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.threads >= 1 && (1..=process.most_descriptors).contains(&process.open_descriptors));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.started > 1e9 && process.started <= now + 1.0, "{process:?}");
    }
}
