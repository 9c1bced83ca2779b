//! The kernel twin's device: a persistent tap.
//!
//! It outlives the process, so that its addresses, its routes and whatever routing daemon lives on it do too; while
//! nobody reads it, the kernel marks it as without carrier. It is multi-queue because that is how `net_tap`, or several
//! threads, could attach to the same device; a tap's kind is fixed when it is made.

use std::io;

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// An attached twin; reads and writes never wait.
pub struct Tap {
    name: String,
    device: SyncDevice,
}

/// Why there is no twin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the twin {name:?} needs the tun driver: /dev/net/tun is missing; load it with: modprobe tun")]
    NoDriver { name: String },
    #[error("the twin {name:?}: not permitted to make a tap; run as root (CAP_NET_ADMIN)")]
    NotPermitted { name: String },
    #[error(
        "the twin {name:?}: there is a link of that name, and it is no multi-queue tap; remove it (ip link delete {name}), or choose another name"
    )]
    OtherKind { name: String },
    #[error("the twin {name:?}: another process has it")]
    Busy { name: String },
    #[error("the twin {name:?}: {reason}")]
    Other { name: String, reason: io::Error },
}

impl Tap {
    /// Attaches to the tap of that name, which is made where there is none.
    pub fn open(name: &str) -> Result<Self, Error> {
        let explain = |error: io::Error| {
            let name = name.to_owned();
            match error.kind() {
                io::ErrorKind::NotFound => Error::NoDriver { name },
                io::ErrorKind::PermissionDenied => Error::NotPermitted { name },
                io::ErrorKind::InvalidInput => Error::OtherKind { name },
                io::ErrorKind::ResourceBusy => Error::Busy { name },
                _ => Error::Other { name, reason: error },
            }
        };
        let open = || {
            let builder = DeviceBuilder::new().name(name).layer(Layer::L2).inherit_enable_state();
            let builder = builder.with(|options| {
                options.multi_queue(true).packet_information(false);
            });
            let device = builder.build_sync()?;
            device.persist()?;
            device.set_nonblocking(true)?;
            Ok(device)
        };
        Ok(Self { name: name.to_owned(), device: open().map_err(explain)? })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives one frame to the kernel; whether it took it.
    pub fn write(&self, frame: &[u8]) -> bool {
        self.device.send(frame).is_ok_and(|written| written == frame.len())
    }

    /// Takes one frame that the kernel sends, cut to the buffer's length; `None` where there is none.
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        self.device.recv(buffer).ok().filter(|&length| length > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs the test named `test` again, in a network namespace of its own; `true` in there.
    fn in_a_namespace(test: &str) -> bool {
        if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
            return true;
        }
        let test = format!("punt::tap::tests::{test}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env("PENSTOCK_IN_A_NAMESPACE", "1");
        assert!(command.status().unwrap().success(), "see above");
        false
    }

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_twin_and_its_addresses_outlive_the_process() {
        if !in_a_namespace("a_twin_and_its_addresses_outlive_the_process") {
            return;
        }
        let tap = Tap::open("wan0").unwrap();
        ip("address add 10.0.0.1/24 dev wan0");
        drop(tap);
        assert!(ip("address show wan0").contains("10.0.0.1/24"));
        let link = ip("-details link show wan0");
        assert!(link.contains("type tap") && link.contains("multi_queue") && link.contains("persist on"), "{link}");
        Tap::open("wan0").unwrap();
    }

    #[test]
    fn frames_go_both_ways_and_nothing_waits() {
        if !in_a_namespace("frames_go_both_ways_and_nothing_waits") {
            return;
        }
        let tap = Tap::open("wan0").unwrap();
        assert!(!tap.write(&[0; 60]), "a link that is down took a frame");
        ip("address add 10.0.0.1/24 dev wan0");
        ip("link set wan0 up");
        // Who has 10.0.0.1? Tell 10.0.0.2.
        let ask = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 2],
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 2],
            &[10, 0, 0, 2],
            &[0; 6],
            &[10, 0, 0, 1],
        ]
        .concat();
        assert!(tap.write(&ask));
        let mut buffer = [0; 2048];
        let answers = std::iter::from_fn(|| tap.read(&mut buffer).map(|length| buffer[..length].to_vec()));
        let is_answer =
            |frame: &Vec<u8>| frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == [10, 0, 0, 1];
        assert!(answers.into_iter().any(|frame| is_answer(&frame)), "the kernel did not answer");
        assert_eq!(tap.read(&mut buffer), None);
    }

    #[test]
    fn a_link_of_another_kind_is_refused_with_what_to_do() {
        if !in_a_namespace("a_link_of_another_kind_is_refused_with_what_to_do") {
            return;
        }
        ip("tuntap add wan0 mode tap");
        let error = Tap::open("wan0").err().unwrap().to_string();
        assert!(error.contains("no multi-queue tap") && error.contains("ip link delete wan0"), "{error}");
    }
}
