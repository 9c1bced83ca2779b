//! The order of the rooms, as `src/lib.rs` lists them, is law: a room uses only rooms above it.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order of lib.rs.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    lib.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.split_once(';')?.0.to_owned())).collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file of a room, without its comments.
fn files(room: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut directories) = (Vec::new(), vec![source().join(room)]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<_> =
                    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect();
                found.push((path, code.join("\n")));
            }
        }
    }
    found
}

/// The rooms that code names: `crate::room` in paths and imports, `crate::{room, …}` too.
fn named(code: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (_, after) in code.match_indices("crate::").map(|(at, token)| code.split_at(at + token.len())) {
        let Some(group) = after.strip_prefix('{') else {
            names.push(word(after));
            continue;
        };
        let (mut depth, mut part) = (0, String::new());
        for letter in group.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(word(&std::mem::take(&mut part))),
                _ => {}
            }
            if letter != ',' || depth > 0 {
                part.push(letter);
            }
        }
        names.push(word(&part));
    }
    names
}

#[test]
fn a_room_uses_only_rooms_above_it() {
    let rooms = rooms();
    assert!(rooms.len() > 9, "lib.rs lists {rooms:?}");
    let mut wrong = Vec::new();
    for (place, room) in rooms.iter().enumerate() {
        for (path, code) in files(room) {
            let below = |name: &String| rooms.iter().position(|room| room == name).is_some_and(|other| other > place);
            wrong.extend(named(&code).into_iter().filter(below).map(|name| format!("{} names {name}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_an_lcore_runs_knows_neither_tokio_nor_dpdk() {
    for room in ["wire", "counters", "maglev", "flow", "mode", "snapshot", "quiescent", "ring", "pipeline", "capture"] {
        for (path, code) in files(room) {
            for stranger in ["tokio", "dpdk"] {
                assert!(!code.contains(stranger), "{} names {stranger}", path.display());
            }
        }
    }
}

#[test]
fn names_are_found_in_paths_and_groups() {
    let code = "use crate::wire::Mac; use crate::{mode::{ipip, dnat}, pipeline}; fn f() -> crate::service::Service {}";
    assert_eq!(named(code), ["wire", "mode", "pipeline", "service"]);
}
