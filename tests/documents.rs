//! The documents say what is true: their links lead somewhere, the commands and flags that they name exist, their tables
//! are the program's own, and what they show as output is what comes out.
//!
//! Tables of the program's own are written anew by
//!
//! ```text
//! PENSTOCK_DOCUMENTS=write cargo test --test documents
//! ```

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "docs/alerts.md",
    "docs/architecture.md",
    "docs/connections.md",
    "docs/dependencies.md",
    "docs/feeds.md",
    "docs/health.md",
    "docs/kubernetes.md",
    "docs/lab.md",
    "docs/metrics.md",
    "docs/modes.md",
    "docs/packets.md",
    "docs/performance.md",
    "docs/selection.md",
    "docs/operate.md",
    "docs/orchestration.md",
    "vagrant/README.md",
    "perf/README.md",
    "perf/CONSISTENCY.md",
    "perf/RESULTS.md",
    "perf/pktgen/README.md",
    "perf/capsule/README.md",
    "perf/katran/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn documents() -> impl Iterator<Item = (&'static str, String)> {
    DOCUMENTS.iter().map(|&name| (name, read(name)))
}

fn penstock(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock")).current_dir(root()).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap()
}

/// The anchor that a heading gets on a forge.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(document: &str) -> BTreeSet<String> {
    document.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    for (name, text) in documents() {
        for (_, rest) in text.match_indices("](").map(|(at, token)| text.split_at(at + token.len())) {
            let link = &rest[..rest.find(')').unwrap()];
            if link.starts_with("https://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => root().join(name),
                file => root().join(name).parent().unwrap().join(file),
            };
            let leads = path.exists()
                && (fragment.is_empty() || anchors(&fs::read_to_string(path).unwrap()).contains(fragment));
            if !leads {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn every_document_of_docs_is_tested_here() {
    let there = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeSet<PathBuf> = there.collect();
    let tested = DOCUMENTS.iter().filter(|name| name.starts_with("docs/")).map(|name| root().join(name)).collect();
    assert_eq!(there, tested);
}

/// Rust files below a directory.
fn sources(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    below.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn every_file_with_unsafe_code_is_named() {
    let readme = read("README.md");
    let allowing = sources(&root().join("src")).into_iter();
    let allowing = allowing.filter(|path| fs::read_to_string(path).unwrap().contains("allow(unsafe_code"));
    let names: Vec<String> = allowing.map(|path| path.strip_prefix(root()).unwrap().display().to_string()).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(readme.contains(&format!("[{name}]({name})")), "{name} is not named among those that have unsafe code");
    }
}

/// What stands in code: spans between backquotes, fenced blocks, and lines indented by four spaces.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            // A comment after a command is prose.
            found.push(line.split(" # ").next().unwrap().to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The words after each `command` that begins a piece of code or follows a prompt.
fn calls<'a>(code: &'a str, command: &str) -> Option<Vec<&'a str>> {
    let code = code.trim_start().trim_start_matches("$ ");
    let rest = code.strip_prefix(command)?.strip_prefix(' ')?;
    Some(rest.split_whitespace().collect())
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().find_map(|line| line.strip_prefix(".PHONY:")).unwrap().split_whitespace().collect();
    let mut named = BTreeSet::new();
    for (name, text) in documents() {
        for code in code(&text) {
            if let Some(words) = calls(&code, "make") {
                assert!(targets.contains(words[0]), "{name}: there is no `make {}`", words[0]);
                named.insert(words[0].to_owned());
            }
        }
    }
    assert!(named.len() >= 5, "only {named:?} are named");
}

/// What there is without DPDK and control side.
const CORE: &[&str] = &["backend", "check", "explain", "replay", "schema"];

#[test]
fn every_subcommand_and_flag_that_is_named_exists() {
    let mut seen = BTreeSet::new();
    for (name, text) in documents() {
        for code in code(&text) {
            let Some(words) = calls(&code, "penstock") else { continue };
            if !cfg!(all(feature = "dpdk", feature = "api")) && !CORE.contains(&words[0]) {
                continue;
            }
            // `backend` has subcommands of its own.
            let command = &words[..if words[0] == "backend" { 2 } else { 1 }];
            let help = penstock(&[command, &["--help"]].concat());
            let command = command.join(" ");
            assert!(help.contains(&format!("Usage: penstock {command}")), "{name}: no penstock {command}");
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let named = help.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
                assert!(named.into_iter().any(|word| word == *flag), "{name}: penstock {command} has no {flag}");
            }
            seen.insert(command);
        }
    }
    for command in ["backend recipe", "check", "explain", "replay", "schema"] {
        assert!(seen.contains(command), "no document shows penstock {command}");
    }
}

/// The cells of the first column of each table under a heading, and the rows as they stand.
fn table<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let start = document.find(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let lines = document[start..].lines().skip_while(|line| !line.starts_with('|')).skip(2);
    lines.take_while(|line| line.starts_with('|')).collect()
}

/// The table under a heading has these rows, or gets them where that is asked for.
fn is_the_programs(name: &str, heading: &str, rows: &[String]) {
    let text = read(name);
    let there = table(&text, heading);
    if there == rows {
        return;
    }
    let wanted = rows.join("\n");
    if std::env::var("PENSTOCK_DOCUMENTS").is_ok_and(|value| value == "write") {
        assert!(!there.is_empty(), "{name}: no row under {heading:?} to begin at");
        fs::write(root().join(name), text.replacen(&there.join("\n"), &wanted, 1)).unwrap();
    } else {
        panic!(
            "{name}, {heading}: PENSTOCK_DOCUMENTS=write cargo test --test documents would make the table\n{wanted}"
        );
    }
}

/// What `penstock schema counters` says of something, as rows of a table.
fn counters(of: &str) -> Vec<String> {
    let schema: serde_json::Value = serde_json::from_str(&penstock(&["schema", "counters", "--json"])).unwrap();
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().replace('|', "\\|");
    let row = |entry| format!("| `{}` | {} |", text(entry, "name"), text(entry, "meaning"));
    schema[of].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn the_tables_of_verdicts_and_reasons_are_the_programs() {
    is_the_programs("README.md", "Why a packet was dropped", &counters("reasons"));
    is_the_programs("docs/packets.md", "The verdicts", &counters("verdicts"));
    is_the_programs("docs/packets.md", "The reasons for a drop", &counters("reasons"));
}

#[cfg(feature = "api")]
#[test]
fn the_table_of_metrics_is_the_programs() {
    let schema: serde_json::Value = serde_json::from_str(&penstock(&["schema", "counters", "--json"])).unwrap();
    let row = |metric: &serde_json::Value| {
        let [name, kind, meaning] = ["name", "kind", "meaning"].map(|key| metric[key].as_str().unwrap());
        format!("| `{name}` | {kind} | {meaning} |")
    };
    let rows: Vec<_> = schema["metrics"].as_array().unwrap().iter().map(row).collect();
    is_the_programs("docs/metrics.md", "The metrics", &rows);
}

#[cfg(feature = "api")]
#[test]
fn the_metrics_that_are_named_exist() {
    let declared = penstock(&["schema", "counters"]);
    let declared: BTreeSet<&str> = declared.split_whitespace().filter(|word| word.starts_with("penstock_")).collect();
    let mut named = 0;
    for (name, text) in documents() {
        for code in code(&text) {
            for word in code.split(|letter: char| !letter.is_alphanumeric() && letter != '_') {
                if word.starts_with("penstock_") && word != "penstock_loom" {
                    assert!(declared.contains(word), "{name}: no metric {word}");
                    named += 1;
                }
            }
        }
    }
    assert!(named > 15, "only {named} metrics are named");
}

/// The keys of a JSON Schema, as the table of `docs/operate.md` has them.
fn keys(schema: &serde_json::Value, path: &str, rows: &mut String) {
    for (name, key) in schema["properties"].as_object().unwrap() {
        let required = schema["required"].as_array().is_some_and(|required| required.iter().any(|other| other == name));
        let (inner, path) = match key["type"].as_str() {
            Some("object") if key.get("properties").is_some() => (key, format!("{path}{name}.")),
            Some("array") if key["items"].get("properties").is_some() => (&key["items"], format!("[[{name}]] ")),
            _ => {
                let default = match (&key["default"], required) {
                    (serde_json::Value::Null, true) => "required".to_owned(),
                    (serde_json::Value::Null, false) => String::new(),
                    (default, _) => format!("`{default}`"),
                };
                // Behind the meaning may stand, in brackets, what a value looks like; the table does without.
                let description = key["description"].as_str().unwrap();
                let end = description.find(" (").filter(|_| description.ends_with(')')).unwrap_or(description.len());
                let meaning = description[..end].trim_end_matches('.').replace('|', "\\|");
                writeln!(rows, "| `{path}{name}` | {default} | {meaning}. |").unwrap();
                continue;
            }
        };
        keys(inner, &path, rows);
    }
}

#[test]
fn the_table_of_configuration_keys_is_the_programs() {
    let schema = serde_json::from_str(&penstock(&["schema", "config"])).unwrap();
    let mut rows = String::new();
    keys(&schema, "", &mut rows);
    let rows: Vec<String> = rows.lines().map(str::to_owned).collect();
    is_the_programs("docs/operate.md", "Configuration", &rows);
    let of_feeds = rows.iter().filter_map(|row| Some(format!("| `{}", row.strip_prefix("| `feed.")?)));
    is_the_programs("docs/feeds.md", "The keys", &of_feeds.collect::<Vec<_>>());
}

/// The blocks `[feed]` that the page of feeds shows, each in a configuration.
#[test]
fn feeds_that_are_shown_hold() {
    let text = read("docs/feeds.md");
    let blocks: Vec<_> = text.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    let least = "[dpdk]\nlcores = [1]\n[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n[hash]\nseed = \"AAECAwQFBgcICQoLDA0ODw==\"\n";
    for block in &blocks {
        let read = penstock::config::Config::read(format!("{least}{block}"), "docs/feeds.md");
        assert!(read.is_ok_and(|(_, warnings)| warnings.is_empty()), "{block}");
    }
    assert!(blocks.len() >= 3, "only {} feeds are shown", blocks.len());
}

/// The recipes that the modes' page shows are run, twice, in a network namespace of their own; in the lab traffic comes to such servers.
#[cfg(feature = "control")]
#[test]
fn recipes_that_are_shown_run() {
    let run = |before: &str, script: &str| {
        let all = format!("set -e\n{before}\nsh -c \"$1\" && sh -c \"$1\"");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", &all, "sh", script]).output().unwrap()
    };
    let mut recipes = 0;
    for code in code(&read("docs/modes.md")) {
        let Some(words) = calls(&code, "penstock") else { continue };
        if words.len() < 3 || words[..2] != ["backend", "recipe"] {
            continue;
        }
        let script = penstock(&words);
        assert!(script.starts_with("#!/bin/sh\n"), "{code}\n{script}");
        // Not every kernel has every tunnel.
        let tunnel =
            script.split(" type ").nth(1).and_then(|rest| rest.split(' ').next()).filter(|kind| *kind != "filter");
        let lacks = |kind| {
            !run("", &format!("ip link show probe >/dev/null 2>&1 || ip link add probe type {kind} local 10.1.0.11"))
                .status
                .success()
        };
        let may_run = !tunnel.is_some_and(lacks);
        let checked =
            if may_run { script.clone() } else { format!("sh -n <<'END_OF_RECIPE'\n{script}\nEND_OF_RECIPE") };
        let server =
            "ip link add eth0 type veth peer name other; ip address add 10.1.0.11/24 dev eth0; ip link set eth0 up";
        let done = run(server, &checked);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && errors.is_empty(), "{code}\n{script}\n{errors}");
        recipes += 1;
    }
    assert!(recipes >= 3, "only {recipes} recipes are shown");
}

/// What `make lab-control` runs is what the page shows.
#[test]
fn the_orchestrators_example_is_the_one_that_the_lab_runs() {
    let page = read("docs/orchestration.md");
    for (language, file) in [("python", "example.py"), ("text", "example.out")] {
        let block = format!("\n```{language}\n{}```\n", read(&format!("tests/lab/orchestrator/{file}")));
        assert!(page.contains(&block), "docs/orchestration.md does not show {file} as it is");
    }
}

/// A fenced block `console` is a session: each `$` line is run, and prints what follows it.
#[test]
fn shown_sessions_are_what_comes_out() {
    let mut sessions = 0;
    for (name, text) in documents() {
        for block in text.split("\n```console\n").skip(1) {
            let block = &block[..block.find("\n```").unwrap() + 1];
            for session in block.split("$ penstock ").skip(1) {
                let (arguments, output) = session.split_once('\n').unwrap();
                let came = penstock(&arguments.split_whitespace().collect::<Vec<_>>());
                assert_eq!(came, output, "{name}: penstock {arguments}");
                sessions += 1;
            }
        }
    }
    assert!(sessions >= 2, "only {sessions} sessions are shown");
}

/// The servers of vagrant/ are set up by what the program prints.
#[test]
fn the_recipe_of_vagrant_is_the_programs() {
    let printed = penstock(&["backend", "recipe", "--mode", "ipip", "--vip", "192.0.2.1", "--device", "servers"]);
    assert_eq!(read("vagrant/recipes/ipip.sh"), printed);
}
