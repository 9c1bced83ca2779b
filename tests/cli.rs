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
         502 bytes for 1 more table, while backends are draining or down\n\
         ipip: 1 service, IPv4: packets grow by 20 bytes; clients will see an MSS of at most 1440\n"
    );
    assert_eq!(
        errors,
        "warning: services.json: services[0].backends: a draining backend's flows move in this release, which remembers no \
         flows: as under \"down\"\n"
    );
    assert_eq!(code, 0);
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
        serde_json::json!({"count": 1, "bytes": 502, "masked_count": 1, "masked_bytes": 502})
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
