//! A control thread with a file to read, or a kernel to follow, and one lcore.

use std::fs;
use std::process::Command;

use std::path::Path;

use super::kept::Kept;
use super::*;
use crate::service::State;
use crate::snapshot::PortIndex;
use crate::wire::Mac;

/// A control thread with a file to read and one lcore, which this test plays.
struct Scene {
    directory: tempfile::TempDir,
    control: Control,
    lcore: Reader<Snapshot>,
}

/// Definitions of one service with these backends.
fn set(version: &str, backends: &[u8]) -> String {
    let backends: Vec<_> = backends.iter().map(|last| format!(r#"{{"address": "10.1.0.{last}"}}"#)).collect();
    format!(
        r#"{{"version": "{version}", "services": [{{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
            "forwarding": "ipip", "backends": [{}]}}]}}"#,
        backends.join(", ")
    )
}

const FILE: &str = r#"kind = "file"
            path = "services.json""#;

const NONE: &str = r#"kind = "none""#;

fn config(directory: &Path, feed: &str, encap: &str) -> Config {
    let document = format!(
        r#"
            [node]
            state_dir = "{}"
            [dpdk]
            lcores = [0]
            [[port]]
            name = "wan0"
            device = "net_null0"
            [encap]
            ipv4_source = "10.0.0.1"
            {encap}
            [hash]
            seed = "AAECAwQFBgcICQoLDA0ODw=="
            [feed]
            {feed}
        "#,
        directory.display()
    );
    Config::read(document, &directory.join("penstock.toml").display().to_string()).unwrap().0
}

impl Scene {
    fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    fn in_directory(directory: tempfile::TempDir) -> Self {
        Self::with_twins(directory, vec![])
    }

    fn with_twins(directory: tempfile::TempDir, twins: Vec<Twin>) -> Self {
        let config = config(directory.path(), FILE, "");
        Self::with(directory, twins, config)
    }

    /// Written by callers, with more of `[encap]`.
    fn authored(directory: tempfile::TempDir, encap: &str) -> Self {
        let config = config(directory.path(), NONE, encap);
        Self::with(directory, vec![], config)
    }

    fn with(directory: tempfile::TempDir, twins: Vec<Twin>, config: Config) -> Self {
        let clock: Clock = Box::new(|| Millis(0));
        let setup = Setup {
            through: None,
            fixed: config.fabric(),
            config,
            twins,
            clock,
            remembered: Vec::new(),
            clients: Arc::new(Clients::new(8, [0; 2])),
            knows_flows: false,
            memory: 0,
        };
        let (control, mut lcores) = Control::start(setup).unwrap();
        Self { directory, control, lcore: lcores.remove(0) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, text: &str) {
        fs::write(self.path().join("new"), text).unwrap();
        fs::rename(self.path().join("new"), self.path().join("services.json")).unwrap();
    }

    /// Polls as an lcore does until the version is this one; how long that took.
    fn until(&mut self, version: &str) -> Duration {
        let start = Instant::now();
        while self.lcore.quiescent().version() != Some(version) {
            assert!(start.elapsed() < Duration::from_secs(3), "version {version} never came");
            std::hint::spin_loop();
        }
        start.elapsed()
    }

    /// Has a change made, and plays the lcore until it is in force.
    fn change(&mut self, edit: Edit) -> Result<Written, Refused> {
        let client = self.control.client();
        let write = Write { edit, expected_version: None, is_dry_run: false };
        self.hear(async move { client.write(write).await })
    }

    /// Plays the lcore until somebody has an answer.
    fn hear<T: Send + 'static>(&mut self, answer: impl Future<Output = T> + Send + 'static) -> T {
        let asking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(answer)
        });
        while !asking.is_finished() {
            self.lcore.quiescent();
            std::thread::sleep(LOOK);
        }
        asking.join().unwrap()
    }

    /// Names of the services in force.
    fn names(&self) -> Vec<String> {
        let services = self.report().definitions.map_or(Vec::new(), |definitions| definitions.services.clone());
        services.iter().map(|service| service.name.to_string()).collect()
    }

    fn stop(self) -> tempfile::TempDir {
        drop(self.control);
        self.directory
    }

    fn report(&self) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.control.client().report()).unwrap()
    }
}

#[test]
fn a_renamed_file_reaches_the_lcores_within_milliseconds() {
    let mut scene = Scene::new();
    assert!(!scene.control.client().has_definitions());
    scene.write(&set("0", &[1, 2, 3]));
    scene.until("0");
    let hundred: Vec<u8> = (1..=100).collect();
    let mut delays = Vec::new();
    for version in 1..=10u8 {
        scene.write(&set(&version.to_string(), &hundred[usize::from(version)..]));
        delays.push(scene.until(&version.to_string()));
    }
    delays.sort();
    // Unoptimised, a table of 65537 slots takes tens of milliseconds by itself.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 5 });
    assert!(delays[5] < limit, "{delays:?}");
    assert!(scene.control.client().has_definitions());
}

#[test]
fn a_bad_file_changes_nothing_and_a_good_one_after_it_does() {
    let mut scene = Scene::new();
    scene.write(&set("1", &[1]));
    scene.until("1");
    scene.write(r#"{"version": "2", "services": [{}]}"#);
    scene.write("{");
    scene.control.client().reread();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(scene.lcore.quiescent().version(), Some("1"));
    scene.write(&set("3", &[1]));
    scene.until("3");
}

#[test]
fn a_restart_begins_with_the_last_good_definitions() {
    let mut scene = Scene::new();
    scene.write(&set("1", &[1]));
    scene.until("1");
    let Scene { directory, control, .. } = scene;
    drop(control);
    fs::remove_file(directory.path().join("services.json")).unwrap();
    let mut scene = Scene::in_directory(directory);
    assert_eq!(scene.lcore.quiescent().version(), Some("1"));
    assert!(scene.control.client().has_definitions());
    assert_eq!(scene.report().feed_last_success, None, "the feed has not answered");

    let Scene { directory, control, .. } = scene;
    drop(control);
    fs::write(Kept::Definitions.path(directory.path()), "damaged").unwrap();
    let mut scene = Scene::in_directory(directory);
    assert_eq!(scene.lcore.quiescent().version(), None);
    scene.write(&set("2", &[1]));
    scene.until("2");
}

#[test]
fn the_numbers_on_disk_are_those_that_flows_are_remembered_by_from_the_start() {
    let mut scene = Scene::new();
    for (version, backends) in [("1", &[3][..]), ("2", &[1, 2, 3])] {
        scene.write(&set(version, backends));
        scene.until(version);
    }
    let number_of_first = |directory: &Path| {
        let saved = bases::load(directory, Millis(0), true).unwrap().unwrap();
        let trace = saved.services.values().next().unwrap();
        trace.numbers.iter().find(|(endpoint, _)| endpoint.ip() == IpAddr::from([10, 1, 0, 1])).unwrap().1
    };
    let Scene { directory, control, .. } = scene;
    drop(control);
    assert_eq!(number_of_first(directory.path()), 1);
    // Its flows are lost, so the next process numbers anew. Nothing changes while it runs.
    let Scene { directory, control, .. } = Scene::in_directory(directory);
    drop(control);
    assert_eq!(number_of_first(directory.path()), 0);
}

#[test]
fn old_snapshots_are_dropped_here_and_counters_of_backends_that_left_forgotten() {
    let mut scene = Scene::new();
    scene.write(&set("1", &[1, 2]));
    scene.until("1");
    assert_eq!(scene.report().backends.len(), 2);
    scene.write(&set("2", &[1]));
    // Until the lcore has adopted the new one, it may count for both.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(scene.report().backends.len(), 2);
    scene.until("2");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(scene.report().backends.len(), 1);
}

/// Runs the test named `test` again, in a network namespace of its own; `true` in there.
fn in_a_namespace(test: &str) -> bool {
    if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
        return true;
    }
    let test = format!("control::tests::{test}");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture"]).env("PENSTOCK_IN_A_NAMESPACE", "1");
    assert!(command.status().unwrap().success(), "see above");
    false
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split_whitespace()).status().unwrap().success(), "ip {arguments}");
}

fn shown(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_changed_mac_reaches_the_lcores_within_a_tenth_of_a_second() {
    if !in_a_namespace("a_changed_mac_reaches_the_lcores_within_a_tenth_of_a_second") {
        return;
    }
    ip("link add wan0 type veth peer name far");
    ip("link set far up");
    ip("address add 10.1.0.1/24 dev wan0");
    let twin = Twin { name: "wan0".to_owned(), port: PortIndex(0), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 };
    let mut scene = Scene::with_twins(tempfile::tempdir().unwrap(), vec![twin]);
    scene.write(&set("1", &[11]));
    scene.until("1");
    // The backend is wanted, so the kernel has been asked for it.
    let backend = "10.1.0.11".parse().unwrap();
    assert_eq!(scene.report().unresolved, 1);
    assert!(scene.lcore.quiescent().next_hop(backend).is_none());

    for last in 1..=5 {
        ip(&format!("neighbor replace 10.1.0.11 lladdr 02:00:00:00:aa:{last:02x} nud reachable dev wan0"));
        let changed = Instant::now();
        let mac = Mac([2, 0, 0, 0, 0xaa, last]);
        while scene.lcore.quiescent().next_hop(backend).map(|hop| hop.destination) != Some(mac) {
            assert!(changed.elapsed() < Duration::from_millis(100), "the new MAC has not come");
        }
    }
    assert_eq!(scene.report().unresolved, 0);
    // A client that a packet should have gone to is asked for too.
    scene.lcore.quiescent().next_hop("10.1.0.99".parse().unwrap());
    let asked = Instant::now();
    while !shown("neighbor show dev wan0").contains("10.1.0.99") {
        assert!(asked.elapsed() < Duration::from_millis(500), "the kernel was never asked for the client");
    }

    ip("neighbor replace 10.1.0.11 nud failed dev wan0");
    let changed = Instant::now();
    while scene.lcore.quiescent().next_hop(backend).is_some() {
        assert!(changed.elapsed() < Duration::from_secs(1), "a neighbour that failed is still used");
    }
}

/// One service of two backends that are checked every 50 ms.
fn checked(version: &str, more: &str) -> String {
    format!(
        r#"{{"version": "{version}", "services": [{{"name": "web", "vip": "192.0.2.1", "port": 8080, "protocol": "tcp",
            "forwarding": "ipip", "backends": [{{"address": "10.1.0.1"}}, {{"address": "10.1.0.2"}}]{more},
            "health_check": {{"kind": "tcp", "interval": "50ms", "timeout": "50ms", "rise": 2, "fall": 3}}}}]}}"#
    )
}

/// The states that packets meet, until they are these.
fn until_states(scene: &Scene, expected: [State; 2]) {
    let start = Instant::now();
    loop {
        let states: Vec<State> = match scene.report().masked.services.first() {
            Some(service) => service.backends.iter().map(|backend| backend.state).collect(),
            None => Vec::new(),
        };
        if states == expected {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{states:?} is not {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_backend_that_fails_its_checks_is_out_until_it_answers_also_over_a_restart() {
    if !in_a_namespace("a_backend_that_fails_its_checks_is_out_until_it_answers_also_over_a_restart") {
        return;
    }
    use State::{Active, Down};
    ip("link set lo up");
    for last in [1, 2] {
        ip(&format!("address add 10.1.0.{last}/32 dev lo"));
    }
    let listen = |last: u8| std::net::TcpListener::bind(SocketAddr::from(([10, 1, 0, last], 8080))).unwrap();
    let (first, second) = (listen(1), listen(2));
    let mut scene = Scene::new();
    scene.write(&checked("1", ""));
    scene.until("1");
    until_states(&scene, [Active, Active]);
    let stopped = Instant::now();
    drop(first);
    until_states(&scene, [Down, Active]);
    assert!(stopped.elapsed() < Duration::from_millis(1150), "out within fall x interval + 1 s");
    assert_eq!(scene.lcore.quiescent().services().next().unwrap().slots().values().max(), Some(&65537));

    // A restart changes nothing, and other definitions do not either.
    let Scene { directory, control, .. } = scene;
    drop(control);
    let mut scene = Scene::in_directory(directory);
    let states = |scene: &Scene| {
        let masked = scene.report().masked;
        masked.services[0].backends.iter().map(|backend| backend.state).collect::<Vec<_>>()
    };
    assert_eq!(states(&scene), [Down, Active], "from the first moment");
    scene.write(&checked("2", ""));
    scene.until("2");
    assert_eq!(states(&scene), [Down, Active]);

    let _first = listen(1);
    until_states(&scene, [Active, Active]);
    // All down: none is used, or all.
    drop((_first, second));
    until_states(&scene, [Down, Down]);
    scene.write(&checked("3", r#", "all_down": "fail-open""#));
    scene.until("3");
    until_states(&scene, [Active, Active]);
}

/// A service of one backend.
fn service(name: &str, vip: u8, backend: &str) -> Arc<service::Service> {
    let text = format!(
        r#"{{"services": [{{"name": "{name}", "vip": "192.0.2.{vip}", "port": 80, "protocol": "tcp", "forwarding": "ipip",
            "backends": [{{"address": "{backend}"}}]}}]}}"#
    );
    service::native(&text, "s", None).unwrap().0.services.remove(0)
}

#[test]
fn services_that_do_not_fit_the_node_any_more_are_left_out_and_kept() {
    let six = r#"ipv6_source = "fd00::1""#;
    let mut scene = Scene::authored(tempfile::tempdir().unwrap(), six);
    for (name, vip, backend) in [("whole", 1, "10.1.0.1"), ("a", 2, "fd00::2"), ("b", 3, "fd00::3")] {
        scene.change(Edit::Upsert(service(name, vip, backend))).unwrap();
    }
    // One of them is in the set, the other among the changes.
    let mut services = scene.report().definitions.unwrap().services.clone();
    services.retain(|service| &*service.name != "b");
    scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
    scene.change(Edit::Upsert(service("c", 3, "fd00::3"))).unwrap();
    let mut scene = Scene::authored(scene.stop(), "");
    assert_eq!(scene.names(), ["whole"]);
    let left_out: Vec<_> = scene.report().left_out.iter().map(|left| left.service.clone()).collect();
    assert_eq!(left_out, ["a", "c"]);
    assert!(scene.report().left_out[0].reason.contains("ipv6_source"));
    // They still claim what is theirs.
    assert!(matches!(scene.change(Edit::Upsert(service("d", 2, "10.1.0.4"))), Err(Refused::Invalid(_))));
    scene.change(Edit::Upsert(service("d", 4, "10.1.0.4"))).unwrap();
    scene.change(Edit::Upsert(service("c", 3, "10.1.0.3"))).unwrap();
    assert_eq!(scene.names(), ["c", "d", "whole"]);
    assert_eq!(scene.report().left_out.len(), 1);
    let scene = Scene::authored(scene.stop(), six);
    assert_eq!(scene.names(), ["a", "c", "d", "whole"]);
}

#[test]
fn a_set_that_cannot_be_read_is_laid_aside_with_its_changes() {
    for is_set in [true, false] {
        let mut scene = Scene::authored(tempfile::tempdir().unwrap(), "");
        for (name, vip) in [("a", 1), ("b", 2), ("c", 3)] {
            scene.change(Edit::Upsert(service(name, vip, "10.1.0.1"))).unwrap();
        }
        let directory = scene.stop();
        let (set, changes) = (Kept::Definitions.path(directory.path()), directory.path().join("changes.1"));
        let damaged = if is_set { &set } else { &changes };
        let mut bytes = fs::read(damaged).unwrap();
        bytes[60] ^= 1;
        fs::write(damaged, bytes).unwrap();
        let before = [fs::read(set).unwrap(), fs::read(changes).unwrap()];
        let mut scene = Scene::authored(directory, "");
        assert_eq!(scene.names(), if is_set { &[][..] } else { &["a"] });
        for vip in [4, 5] {
            let services = vec![service("d", vip, "10.1.0.1")];
            scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
        }
        let directory = Scene::authored(scene.stop(), "").stop();
        let aside: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        let files = ["definitions.last-good", "changes.1"].map(|name| fs::read(aside[0].join(name)).unwrap());
        assert_eq!(files, before);
    }
}

#[test]
fn who_gives_up_before_anything_is_done_changes_nothing() {
    let mut scene = Scene::authored(tempfile::tempdir().unwrap(), "");
    let write = Write { edit: Edit::Upsert(service("a", 1, "10.1.0.1")), expected_version: None, is_dry_run: false };
    let (answer, _) = tokio::sync::oneshot::channel();
    let change = Request::Change(client::Change::Write(write, answer));
    assert!(scene.control.client().requests.send(change).is_ok());
    scene.change(Edit::Upsert(service("b", 2, "10.1.0.1"))).unwrap();
    assert_eq!(scene.names(), ["b"]);
}

/// What is loaded where slots have their owners by `position`, after whole sets took the place of one another.
fn loaded_before(directory: &Path, position: Option<journal::Position>) -> Vec<String> {
    let of = Of { position, drained: None };
    let before = load(&config(directory, NONE, ""), Some(&of)).before;
    before.map_or(Vec::new(), |before| before.services.iter().map(|service| service.name.to_string()).collect())
}

#[test]
fn what_was_in_force_before_a_whole_set_is_known_wherever_its_bases_were_kept() {
    let mut scene = Scene::authored(tempfile::tempdir().unwrap(), "");
    let mut replace = |name: &str| {
        let services = vec![service(name, 1, "10.1.0.1")];
        scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
    };
    for name in ["a", "b", "c"] {
        replace(name);
    }
    let directory = scene.stop();
    let at = |segment, line| Some(journal::Position { segment, line });
    assert_eq!(loaded_before(directory.path(), at(2, 0)), ["b"]);
    assert_eq!(loaded_before(directory.path(), at(1, 0)), ["b"], "b moved nothing, so no bases were kept of it");
    assert_eq!(loaded_before(directory.path(), None), ["b"], "nor of a");
    assert!(loaded_before(directory.path(), at(3, 0)).is_empty(), "c is in force");
}

#[test]
fn what_a_change_left_where_it_was_is_of_that_change() {
    let mut scene = Scene::authored(tempfile::tempdir().unwrap(), "");
    let services = vec![service("a", 1, "10.1.0.1")];
    scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
    // Who goes down holds no slot: nobody's base moves, nor does any number.
    let mut down = (*service("a", 1, "10.1.0.1")).clone();
    down.backends[0].state = service::State::Down;
    scene.change(Edit::Upsert(Arc::new(down))).unwrap();
    let saved = bases::load(scene.stop().path(), Millis(0), true).unwrap().unwrap();
    assert_eq!(saved.of.position, Some(journal::Position { segment: 1, line: 1 }));
}

#[test]
fn what_a_feed_gave_is_what_was_in_force_before_the_first_set_that_is_written() {
    let mut scene = Scene::new();
    scene.write(&set("f", &[1]));
    scene.until("f");
    let mut scene = Scene::authored(scene.stop(), "");
    let services = vec![service("a", 1, "10.1.0.1")];
    scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
    assert_eq!(loaded_before(scene.stop().path(), None), ["web"]);
}

#[test]
fn where_a_feed_rules_old_changes_are_forgotten() {
    let mut scene = Scene::authored(tempfile::tempdir().unwrap(), "");
    for vip in [1, 2] {
        let services = vec![service("a", vip, "10.1.0.1")];
        scene.change(Edit::Replace(Definitions { version: None, services })).unwrap();
    }
    let mut scene = Scene::in_directory(scene.stop());
    assert_eq!(scene.names(), ["a"]);
    scene.write(&set("f", &[1]));
    scene.until("f");
    let directory = scene.stop();
    let there = |name: &str| directory.path().join(name).exists();
    assert_eq!(["changes.1", "changes.2", "definitions.before"].map(there), [false; 3]);
    assert_eq!(bases::load(directory.path(), Millis(0), true).unwrap().unwrap().of.position, None);
}

/// A disk with room for so little.
fn small_disk(kilobytes: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"]).arg(directory.path());
    assert!(mount.status().unwrap().success());
    directory
}

#[test]
fn what_cannot_be_kept_never_was_and_others_go_on() {
    if !in_a_namespace("what_cannot_be_kept_never_was_and_others_go_on") {
        return;
    }
    let mut scene = Scene::authored(small_disk(512), "");
    scene.change(Edit::Upsert(service("a", 1, "10.1.0.1"))).unwrap();
    let filler = scene.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    let mut large = service::Service::clone(&service("b", 2, "10.1.0.1"));
    for last in 0..1000u32 {
        let address = IpAddr::from([10, 2, (last / 256) as u8, last as u8]);
        large.backends.push(service::Backend { address, ..large.backends[0].clone() });
    }
    let large = Arc::new(large);
    let whole = Definitions { version: None, services: vec![large.clone()] };
    for edit in [Edit::Upsert(large), Edit::Replace(whole)] {
        assert!(matches!(scene.change(edit), Err(Refused::NotKept(_))));
    }
    let whom = Whom { backend: "10.1.0.1".parse().unwrap(), service: None };
    let client = scene.control.client();
    let drained = scene.hear(async move { client.drain(whom).await });
    assert!(matches!(drained, Err(Refused::NotKept(_))), "{drained:?}");
    assert_eq!((scene.names(), scene.report().drained), (vec!["a".to_owned()], vec![]));
    drop(file);
    fs::remove_file(filler).unwrap();
    let written = scene.change(Edit::Upsert(service("c", 2, "10.1.0.1"))).unwrap();
    assert_eq!(written.version, "#2", "the VIP is free, and the version was never given");
    let scene = Scene::authored(scene.stop(), "");
    assert_eq!((scene.names(), scene.report().drained), (vec!["a".to_owned(), "c".to_owned()], vec![]));
}

#[test]
fn what_a_full_disk_refused_does_not_return() {
    if !in_a_namespace("what_a_full_disk_refused_does_not_return") {
        return;
    }
    let directory = small_disk(64);
    let line = |version: &str| journal::Change { version: version.to_owned(), upsert: None, delete: None }.line();
    let versions = || {
        let (changes, _, problem) = journal::read(directory.path(), 1);
        assert_eq!(problem, None);
        changes.into_iter().map(|(_, change)| change.version).collect::<Vec<_>>()
    };
    let mut journal = journal::Journal::begin(directory.path(), 1).unwrap();
    journal.append(&line("1")).unwrap();
    let error = journal.append(&(line("2") + &line(&"3".repeat(100_000)))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(versions(), ["1"]);
    journal.append(&line("4")).unwrap();
    assert_eq!(versions(), ["1", "4"]);
}
