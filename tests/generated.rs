//! What is generated from the command line's own types: completions, manual pages; and that every word of it is explained.
#![cfg(feature = "api")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use penstock::cli::Arguments;

fn penstock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).args(arguments).output().unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = penstock(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_installed(program: &str) -> bool {
    let probe = format!("command -v {program}");
    Command::new("sh").args(["-c", &probe]).stdout(Stdio::null()).status().unwrap().success()
}

/// Every subcommand with its words, those of `backend` too.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    let mut all = vec![(Vec::new(), Arguments::command())];
    let mut next = 0;
    while next < all.len() {
        let (words, command) = all[next].clone();
        for inner in command.get_subcommands() {
            all.push(([words.clone(), vec![inner.get_name().to_owned()]].concat(), inner.clone()));
        }
        next += 1;
    }
    all
}

#[test]
fn every_subcommand_and_option_has_a_help_text() {
    let mut silent = Vec::new();
    let mut options = 0;
    for (words, command) in commands() {
        if command.get_about().is_none() {
            silent.push(words.join(" "));
        }
        for argument in command.get_arguments() {
            options += 1;
            if argument.get_help().is_none() {
                silent.push(format!("{} {}", words.join(" "), argument.get_id()));
            }
        }
    }
    assert!(silent.is_empty() && options > 30, "no help for: {silent:?}, of {options}");
}

#[test]
fn completions_know_every_subcommand_and_each_shell_reads_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = printed(&["completions", shell]);
        for (words, _) in commands().iter().skip(1) {
            let word = words.last().unwrap();
            // As each shell's script offers a word; in bash's it is one of many.
            let offer = match shell {
                "zsh" => format!("\n'{word}:"),
                "fish" => format!("-a \"{word}\""),
                _ => continue,
            };
            assert!(script.contains(&offer), "{shell}: no {words:?}");
        }
        let file = directory.path().join(shell);
        fs::write(&file, script).unwrap();
        if is_installed(shell) {
            let read = Command::new(shell).arg(check).arg(&file).output().unwrap();
            assert!(read.status.success() && read.stderr.is_empty(), "{shell}: {read:?}");
        }
    }
    // Bash completes by it: each subcommand from all of its letters but the last.
    let ask = r#". "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _penstock penstock "${@: -1}"; printf '%s\n' "${COMPREPLY[@]}""#;
    for (words, _) in commands().iter().skip(1) {
        let (last, before) = words.split_last().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", ask, "bash"]).arg(directory.path().join("bash")).arg("penstock").args(before);
        let completed = bash.arg(&last[..last.len() - 1]).output().unwrap();
        let offers = String::from_utf8_lossy(&completed.stdout);
        assert!(offers.lines().any(|offer| offer == last), "{words:?}: {completed:?}");
    }
    let refused = penstock(&["completions", "tcsh"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// What `man` has to say against a page; nothing where it is not installed.
fn warnings(page: &Path) -> String {
    if !is_installed("man") || !is_installed("groff") {
        return String::new();
    }
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"])
        .arg(page)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .env("MANROFFSEQ", "");
    let shown = man.output().unwrap();
    assert!(shown.status.success() && !shown.stdout.is_empty(), "{}: {shown:?}", page.display());
    String::from_utf8(shown.stderr).unwrap()
}

#[test]
fn the_manual_has_a_page_for_every_subcommand_and_man_shows_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert_eq!(printed(&["man", path]), "");
    let main = printed(&["man"]);
    for (words, _) in commands() {
        let name = [vec!["penstock".to_owned()], words.clone()].concat().join("-");
        if words.len() == 1 {
            assert!(main.contains(&name.replace('-', "\\-")), "{name} is not in penstock.1:\n{main}");
        }
        let page = directory.path().join(format!("{name}.1"));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.contains("\n.TH ") && text.contains("\n.SH NAME\n"), "{text}");
        assert_eq!(warnings(&page), "", "{name}");
    }
    let refused = penstock(&["man", "/no/such/directory"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("/no/such/directory: "), "{refused:?}");
}

#[test]
fn top_without_a_terminal_says_what_to_do_instead() {
    let refused = Command::new(env!("CARGO_BIN_EXE_penstock")).arg("top").stdin(Stdio::null()).output().unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    let expected = "top needs a terminal; `penstock status` prints the same once\n";
    assert_eq!(String::from_utf8_lossy(&refused.stderr), expected);
}
