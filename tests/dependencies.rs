//! `docs/dependencies.md` gives each direct dependency of the workspace one line, and no other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(directory: &str) -> Table {
    read(&format!("{directory}/Cargo.toml")).parse().unwrap()
}

/// Every table of dependencies, those of one target alone included.
fn tables(manifest: &Table) -> impl Iterator<Item = &Table> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let places = targets.filter_map(Value::as_table).chain([manifest]);
    places.flat_map(|place| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        kinds.into_iter().filter_map(|kind| place.get(kind)?.as_table())
    })
}

/// The crates that the workspace's members and the fuzz targets name, but for one another; each with who does.
fn named() -> BTreeMap<String, Vec<String>> {
    let root = manifest(".");
    let members = root["workspace"]["members"].as_array().unwrap().iter().map(|member| member.as_str().unwrap());
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in members.chain(["fuzz"]) {
        for (name, how) in tables(&manifest(member)).flatten() {
            if how.get("path").is_none() {
                let name = how.get("package").and_then(Value::as_str).unwrap_or(name);
                let users = named.entry(name.to_owned()).or_default();
                if users.last().is_none_or(|last| last != member) {
                    users.push(member.to_owned());
                }
            }
        }
    }
    named
}

#[test]
fn each_direct_dependency_is_justified_and_no_other() {
    let page = read("docs/dependencies.md");
    let rows = page.lines().filter(|line| line.starts_with("| [`"));
    let mut justified = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[link, users, why] = cells.as_slice() else { panic!("three cells: {row}") };
        let name = link.trim_start_matches("[`").split('`').next().unwrap();
        assert_eq!(link, format!("[`{name}`](https://crates.io/crates/{name})"));
        assert!(why.len() > 15, "{name} has no reason: {why}");
        let users = users.split(", ").map(|user| if user == "penstock" { "." } else { user }.to_owned()).collect();
        assert!(justified.insert(name.to_owned(), users).is_none(), "{name} stands twice");
    }
    assert_eq!(justified, named());
}
