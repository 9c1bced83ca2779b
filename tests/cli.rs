//! The real binary, in a fresh directory each time: what it prints, and how it exits.

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const CONFIG: &str = r#"
[dpdk]
lcores = [1]
[[port]]
name = "wan0"
device = "net_null0"
[encap]
ipv4_source = "10.0.0.1"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 251
"#;

const SERVICES: &str = r#"{"version": "41", "services": [
    {"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip",
     "backends": [{"address": "10.1.0.11"}, {"address": "10.1.0.12", "state": "draining"}]}
]}"#;

/// A fresh directory with files in it, where penstock runs.
struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self(directory)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.current_dir(self.0.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// Exit code, stdout, stderr.
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn check_says_what_is_good_and_what_the_tables_take() {
    let place = Place::new(&[("penstock.toml", CONFIG), ("services.json", SERVICES)]);
    let (code, out, errors) = said(&place.run(&["check", "--config", "penstock.toml"]));
    assert_eq!(
        out,
        "penstock.toml: good: node \"penstock\", 1 port, 1 lcore, 0 static neighbors, 0 static routes\n\
         services.json: good: version \"41\", 1 service, 2 backends\n\
         memory: 502 bytes for 1 Maglev table, shared by all lcores\n        \
         502 bytes for 1 more table, while backends are draining or down\n        \
         502 bytes more for a table, while the flows of a change are remembered\n        \
         18.7 MB for 1048576 flows on 1 lcore, 10.5 MB for as many clients\n\
         ipip: 1 service, IPv4: packets grow by 20 bytes; clients will see an MSS of at most 1440\n"
    );
    assert_eq!((code, errors.as_str()), (0, ""));
}

#[test]
fn check_says_what_knowing_the_beginnings_of_flows_takes() {
    let services = SERVICES.replace("\"ipip\"", "\"dnat-dsr\", \"tracking\": \"full\"");
    let place = Place::new(&[("penstock.toml", CONFIG), ("services.json", &services), ("other.json", SERVICES)]);
    let (_, out, _) = said(&place.run(&["check", "--config", "penstock.toml"]));
    assert!(out.contains("        16.8 MB for the beginnings of flows that dnat-dsr knows\n"), "{out}");
    let (_, out, _) = said(&place.run(&["check", "--config", "penstock.toml", "--services", "other.json"]));
    assert!(!out.contains("beginnings"), "{out}");
}

#[test]
fn check_says_how_many_flows_snat_has_room_for() {
    let config = CONFIG.to_owned() + "[snat]\nipv4 = [\"10.0.0.1\", \"10.0.0.2\"]\nports = \"2000-2999\"\n";
    let place = Place::new(&[("penstock.toml", &config), ("services.json", SERVICES)]);
    let (_, out, _) = said(&place.run(&["check", "--config", "penstock.toml"]));
    let line = "snat: 2000 flows of TCP and as many of UDP at once; 336.0 kB, shared out among 1 lcore\n";
    assert!(out.contains(line), "{out}");
}

#[test]
fn check_prints_every_error_of_both_documents() {
    let (config, services) = (CONFIG.replace("251", "250"), SERVICES.replace("\"ipip\"", "\"ipop\""));
    let place = Place::new(&[("penstock.toml", &config), ("other.json", &services)]);
    let (code, out, errors) = said(&place.run(&["check", "--config", "penstock.toml", "--services", "other.json"]));
    assert_eq!(
        errors,
        "penstock.toml: hash.table_size: 250 is not a prime from 3 to 16777216\n\
         other.json: services[0].forwarding: \"ipop\" is not one of ipip, gre, gue, geneve, dscp, l2dsr, dnat, dnat-dsr, snat; \
         did you mean \"ipip\"?\n"
    );
    assert_eq!((code, out.as_str()), (2, ""));
}

#[test]
fn check_holds_the_definitions_against_the_node() {
    let place =
        Place::new(&[("penstock.toml", &CONFIG.replace("ipv4_source", "# ipv4_source")), ("services.json", SERVICES)]);
    let (code, _, errors) = said(&place.run(&["check", "--config", "penstock.toml"]));
    let reason = "services.json: services[0].forwarding: \"ipip\" needs an outer source address, and the node has none to send to 10.1.0.11 from: \
                  set [encap] ipv4_source in its configuration";
    assert_eq!((code, errors.lines().last()), (2, Some(reason)));
}

#[test]
fn files_that_are_not_there_are_named() {
    let place = Place::new(&[("penstock.toml", CONFIG)]);
    let none = "services.json: cannot be read: No such file or directory (os error 2)\n";
    assert_eq!(said(&place.run(&["check", "--config", "penstock.toml"])), (2, String::new(), none.to_owned()));
    let none = "x.toml: cannot be read: No such file or directory (os error 2)\n";
    assert_eq!(said(&place.run(&["check", "--config", "x.toml"])), (2, String::new(), none.to_owned()));
}

#[test]
fn with_json_stdout_is_one_document() {
    let place =
        Place::new(&[("penstock.toml", CONFIG), ("good.json", SERVICES), ("bad.json", "{\"services\": [], \"x\": 1}")]);
    let check = |services| said(&place.run(&["check", "--config", "penstock.toml", "--services", services, "--json"]));
    let (code, out, _) = check("good.json");
    let document = json(&out);
    assert_eq!((code, &document["good"], &document["errors"]), (0, &true.into(), &serde_json::json!([])));
    assert_eq!(
        document["tables"],
        serde_json::json!({"count": 1, "bytes": 502, "masked_count": 1, "masked_bytes": 502, "changing_bytes": 502})
    );
    assert_eq!(document["definitions"]["version"], "41");
    let (code, out, errors) = check("bad.json");
    let document = json(&out);
    assert_eq!((code, &document["good"]), (2, &false.into()));
    assert_eq!(document["errors"][0]["file"], "bad.json");
    assert_eq!(document["errors"][0]["path"], "x");
    assert!(errors.starts_with("bad.json: x: unknown key"), "{errors}");
}

#[test]
fn schemas_are_json_and_counters_are_for_people_or_json() {
    let place = Place::new(&[]);
    for of in ["services", "config"] {
        let (code, out, errors) = said(&place.run(&["schema", of]));
        assert_eq!((code, errors.as_str()), (0, ""));
        assert_eq!(json(&out)["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
    let (code, out, _) = said(&place.run(&["schema", "counters"]));
    let (json_code, json_out, _) = said(&place.run(&["schema", "counters", "--json"]));
    assert_eq!((code, json_code), (0, 0));
    let document = json(&json_out);
    let list = |key: &str| document[key].as_array().unwrap().clone();
    let verdicts: Vec<_> = list("verdicts").iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(verdicts, ["forwarded", "answered", "punted", "dropped"]);
    assert_eq!(list("reasons").len(), penstock::counters::Reason::COUNT);
    assert_eq!(list("metrics").is_empty(), cfg!(not(feature = "control")));
    for entry in [list("verdicts"), list("reasons"), list("metrics")].concat() {
        let (name, meaning) = (entry["name"].as_str().unwrap(), entry["meaning"].as_str().unwrap());
        assert!(out.lines().any(|line| line.trim_start().starts_with(name) && line.ends_with(meaning)), "{name}");
    }
}

#[test]
fn explain_says_why_a_packet_goes_nowhere() {
    let fabric = r#"
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
"#;
    let service = |more: &str| {
        format!(
            r#"{{"services": [{{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", {more}, "backends": [{{"address": "10.1.0.11"}}]}}]}}"#
        )
    };
    for (services, lines) in [
        (
            service(r#""forwarding": "l2dsr""#),
            [
                "next hop  none: 10.1.0.11 is no neighbour, as this mode needs (route 0.0.0.0/0 via 10.0.0.254)",
                "no_next_hop",
            ],
        ),
        (
            service(r#""forwarding": "ipip", "source_ranges": ["203.0.113.0/24"]"#),
            ["service   \"web\": VIP 192.0.2.1, port 80, tcp", "source_refused"],
        ),
    ] {
        let place = Place::new(&[("c.toml", &[CONFIG, fabric].concat()), ("s.json", &services)]);
        let arguments =
            ["explain", "--config", "c.toml", "--services", "s.json", "198.51.100.7:1000", "192.0.2.1:80", "tcp"];
        let (code, out, errors) = said(&place.run(&arguments));
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(lines.iter().all(|line| out.contains(line)), "{out}");
    }
}

/// The recipe for these words: exit code, stdout, stderr.
fn recipe(words: &str) -> (i32, String, String) {
    let arguments: Vec<&str> = ["backend", "recipe"].into_iter().chain(words.split_whitespace()).collect();
    said(&Place::new(&[]).run(&arguments))
}

#[test]
fn a_recipe_is_a_script_of_what_the_server_needs() {
    let (code, out, errors) = recipe("--mode ipip --vip 192.0.2.1 --backend 10.1.0.11 --port 80");
    assert_eq!((code, errors.as_str()), (0, ""));
    let commands: Vec<&str> = out.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(
        commands,
        [
            "set -eu",
            "ip link set lo up",
            "ip address replace 192.0.2.1/32 dev lo",
            "sysctl -qw net.ipv4.conf.eth0.arp_ignore=1",
            "sysctl -qw net.ipv4.conf.eth0.arp_announce=2",
            "ip link show dev vip-ipip >/dev/null 2>&1 || ip link add vip-ipip type ipip local 10.1.0.11 remote any",
            "ip address replace 192.0.2.1/32 dev vip-ipip",
            "ip link set vip-ipip up",
            "sysctl -qw net.ipv4.conf.vip-ipip.rp_filter=2",
            "ip -4 -o route show default | grep -v ' proto ra ' | tr -d '\\\\' |",
            "    sed 's/ advmss [0-9]*//; s/^default/& advmss 1440/' |",
            "    while read -r route; do ip -4 route replace $route; done",
        ]
    );
    assert!(out.contains("penstock backend recipe --mode ipip --vip 192.0.2.1 --backend 10.1.0.11 --port 80"), "{out}");
}

#[test]
fn each_mode_and_family_has_its_devices_and_its_segment_size() {
    // By mode, VIP and backend: what stands in the script, and the segment size of clients, if they have to heed one.
    let (four, six) = ("--vip 192.0.2.1", "--vip 2001:db8::1");
    let (to_four, to_six) = ("--backend 10.1.0.11", "--backend fd00::11");
    for (mode, vip, backend, device, segment) in [
        ("ipip", four, to_four, "type ipip local", Some(1440)),
        ("ipip", six, to_four, "type sit local", Some(1420)),
        ("ipip", four, to_six, "type ip6tnl mode any local", Some(1420)),
        ("ipip", six, to_six, "type ip6tnl mode any local", Some(1400)),
        ("gre", four, to_four, "type gre local", Some(1436)),
        ("gre", six, to_four, "type gre local", Some(1416)),
        ("gre", four, to_six, "type ip6gre local", Some(1416)),
        ("gre", six, to_six, "type ip6gre local", Some(1396)),
        ("gue", four, to_four, "ip -4 fou add port 6080 gue", Some(1428)),
        ("gue", six, to_four, "type sit local", Some(1408)),
        ("gue", four, to_six, "ip -6 fou add port 6080 gue", Some(1408)),
        ("gue", six, to_six, "type ip6tnl mode any local", Some(1388)),
        ("gue --gue-variant 1", four, to_four, "ip -4 fou add port 9886 gue", Some(1432)),
        ("gue --gue-port 6081", four, to_four, "ip -4 fou add port 6081 gue", Some(1428)),
        ("ipip --mtu 1520", four, to_four, "type ipip local", None),
        ("ipip --mtu 1519", four, to_four, "type ipip local", Some(1459)),
        ("ipip --mtu 9000 --client-mtu 9000", four, to_four, "type ipip local", Some(8940)),
        ("dscp --dscp 5", four, to_four, "ip daddr 10.1.0.11 ip dscp 5 ip daddr set 192.0.2.1", None),
        ("dscp --dscp 6", six, to_six, "ip6 daddr fd00::11 ip6 dscp 6 ip6 daddr set 2001:db8::1", None),
        ("l2dsr", four, to_four, "ip address replace 192.0.2.1/32 dev lo", None),
        ("l2dsr", six, to_six, "ip address replace 2001:db8::1/128 dev lo", None),
    ] {
        let words = format!("--mode {mode} {vip} {backend}");
        let (code, out, errors) = recipe(&words);
        assert_eq!((code, errors.as_str()), (0, ""), "{words}");
        assert!(out.contains(device), "{words}: no \"{device}\" in\n{out}");
        let segments: Vec<&str> = out.split("/& advmss ").skip(1).map(|rest| rest.split('/').next().unwrap()).collect();
        assert_eq!(segments, segment.iter().map(u16::to_string).collect::<Vec<_>>(), "{words}");
    }
}

#[test]
fn recipes_of_all_modes_are_scripts_and_those_without_work_for_the_server_are_comments() {
    for mode in penstock::service::Forwarding::NAMES {
        for more in ["", "--vip 2001:db8::1", "--format networkd --backend 10.1.0.11"] {
            let dscp = if *mode == "dscp" { "--dscp 5" } else { "" };
            let words = format!("--mode {mode} --vip 192.0.2.1 {more} {dscp}");
            let (code, out, errors) = recipe(&words);
            if more.contains("networkd") && ["dscp", "gue"].contains(mode) {
                assert_eq!((code, out.as_str()), (2, ""), "{words}");
                continue;
            }
            assert_eq!((code, errors.as_str()), (0, ""), "{words}");
            let place = Place::new(&[("recipe.sh", &out)]);
            let parsed = Command::new("sh").arg("-n").arg(place.0.path().join("recipe.sh")).output().unwrap();
            assert!(parsed.status.success(), "{words}: {}", String::from_utf8_lossy(&parsed.stderr));
            let commands = out.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
            let works = matches!(*mode, "ipip" | "gre" | "gue" | "dscp" | "l2dsr");
            assert_eq!(commands > 1, works, "{words}: {out}");
        }
    }
}

/// Those of tunnels need modules that not every kernel has; the lab runs them (`make lab-modes`).
#[cfg(feature = "control")]
#[test]
fn recipes_that_every_kernel_can_follow_run_in_a_bare_network_namespace_and_again() {
    let bare = "ip link add eth0 type veth peer name other; ip address add 10.1.0.11/24 dev eth0; \
                ip address add fd00::11/64 dev eth0 nodad; ip link set eth0 up; ip link set other up; \
                ip route add default via 10.1.0.1; ip -6 route add default via fd00::1";
    let look = "ip -br address show dev lo; ip route show default; nft list ruleset; cat /proc/sys/net/ipv4/conf/eth0/arp_ignore";
    let both = "--vip 192.0.2.1 --vip 2001:db8::1";
    for (words, wanted) in [
        (format!("--mode l2dsr {both}"), &["192.0.2.1/32 2001:db8::1/128", "\n1\n"][..]),
        (
            format!("--mode dscp --dscp 5 {both}"),
            &[
                "192.0.2.1/32 2001:db8::1/128",
                "ip daddr 10.1.0.11 ip dscp 0x05 ip daddr set 192.0.2.1\n",
                "ip6 daddr fd00::11 ip6 dscp 0x05 ip6 daddr set 2001:db8::1\n",
            ],
        ),
        ("--mode dnat --vip 192.0.2.1".into(), &["default via 10.1.0.1 dev eth0"]),
    ] {
        let (_, script, _) = recipe(&words);
        let place = Place::new(&[("recipe.sh", &script)]);
        let all = format!("set -e; {bare}; sh recipe.sh; sh recipe.sh; {look}");
        let mut run = Command::new("unshare");
        run.current_dir(place.0.path()).args(["--map-root-user", "--net", "sh", "-c", &all]);
        let (code, out, errors) = said(&run.output().unwrap());
        assert_eq!((code, errors.as_str()), (0, ""), "{words}");
        for part in wanted {
            assert_eq!(out.matches(part).count(), 1, "{words}: {part:?} in\n{out}");
        }
    }
}

#[test]
fn a_recipe_that_cannot_be_is_refused_by_the_flag() {
    for (words, complaint) in [
        ("--mode dscp --vip 192.0.2.1", "--dscp: required by \"dscp\""),
        ("--mode dscp --vip 192.0.2.1 --dscp 64", "--dscp: 64 is not a number from 1 to 63"),
        (
            "--mode dscp --vip 192.0.2.1 --vip 192.0.2.2 --dscp 5",
            "--vip: 192.0.2.1 and 192.0.2.2 cannot share a code point",
        ),
        ("--mode dscp --vip 192.0.2.0/24 --dscp 5", "--vip: 192.0.2.0/24 is a prefix"),
        ("--mode ipip --vip 192.0.2.1 --dscp 5", "--dscp: belongs to \"dscp\""),
        ("--mode gue --vip 192.0.2.1 --gue-variant 2", "--gue-variant: 2 is not a number from 0 to 1"),
        ("--mode ipip --vip 192.0.2.1 --gue-port 6080", "--gue-variant, --gue-port: belongs to \"gue\""),
        (
            "--mode l2dsr --vip 192.0.2.1 --backend fd00::1",
            "--backend: fd00::1 and the VIP 192.0.2.1 are of different families",
        ),
        ("--mode dnat --vip 192.0.2.0/24", "--vip: 192.0.2.0/24 is a prefix, and \"dnat\" needs one address"),
        ("--mode ipip --vip 192.0.2.0/24 --backend 192.0.2.7", "--backend: 192.0.2.7 is the service's own VIP"),
        ("--mode ipip --vip 192.0.2.1/24", "192.0.2.0/24 would be one"),
        ("--mode ipip --vip 127.0.0.1", "--vip: 127.0.0.1 is a loopback address"),
        ("--mode ipip --vip 192.0.2.1 --device eth0;reboot", "--device: \"eth0;reboot\" is not the name"),
        ("--mode ipip --vip 192.0.2.1 --mtu 60", "--mtu: 60 leaves no room"),
        ("--mode ipip --vip 192.0.2.1 --format networkd", "--backend: systemd-networkd finds no address"),
        (
            "--mode gue --vip 192.0.2.1 --backend 10.1.0.11 --format networkd",
            "--format: systemd-networkd opens no port for GUE",
        ),
        ("--mode ipop --vip 192.0.2.1", "invalid value 'ipop'"),
        ("--mode ipip", "--vip"),
    ] {
        let (code, out, errors) = recipe(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words}");
        assert!(errors.contains(complaint), "{words}: {errors}");
    }
}

#[test]
fn the_ready_examples_are_good() {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    let place = Place::new(&[]);
    let (code, _, errors) = said(&place.run(&["check", "--config", &format!("{conf}/penstock.toml")]));
    assert_eq!((code, errors.as_str()), (0, ""));
}

#[test]
fn a_wrong_command_line_is_bad_input() {
    let place = Place::new(&[]);
    for arguments in [&[][..], &["chekc"], &["check"], &["schema", "flows"], &["check", "--config"]] {
        let (code, out, errors) = said(&place.run(arguments));
        assert_eq!((code, out.as_str(), errors.is_empty()), (2, "", false), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new(&[]);
    for arguments in [&["schema", "services"][..], &["schema", "counters"], &["--help"]] {
        let mut child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
