//! Every `--help` as a text file beside this one. `UPDATE_HELP=1 cargo test --test it help` rewrites them.

use std::path::PathBuf;

use clap::CommandFactory;
use rekindle::cli::program::Program;

use super::Desk;

/// Every noun and verb with its words, each below the one it belongs to.
fn verbs() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    gather(&Program::command(), &[], &mut all);
    all
}

fn gather(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
    all.push(words.to_vec());
    for below in command.get_subcommands() {
        gather(below, &[words, &[below.get_name().to_owned()]].concat(), all);
    }
}

/// Whether it does something, other than naming what is below it.
fn is_verb(words: &[String]) -> bool {
    let program = Program::command();
    let found = words.iter().try_fold(&program, |command, word| command.find_subcommand(word));
    words.len() > 1 && found.is_some_and(|command| command.get_subcommands().next().is_none())
}

fn fixture(words: &[String]) -> PathBuf {
    let name = if words.is_empty() { "rekindle".to_owned() } else { words.join("-") };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/cli/help").join(format!("{name}.txt"))
}

#[test]
fn every_help_reads_as_it_was_reviewed() {
    let desk = Desk::bare();
    let mut wrong = Vec::new();
    for words in verbs() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let said = desk.args(&args).code(0);
        assert_eq!(said.err, "");
        if std::env::var_os("UPDATE_HELP").is_some() {
            std::fs::write(fixture(&words), &said.out).unwrap();
        } else if std::fs::read_to_string(fixture(&words)).unwrap_or_default() != said.out {
            wrong.push(words.join(" "));
        }
    }
    assert!(wrong.is_empty(), "--help of these changed: {wrong:?}; review with UPDATE_HELP=1 and git diff");
}

#[test]
fn verbs_begin_their_help_with_examples() {
    let desk = Desk::bare();
    for words in verbs().into_iter().filter(|words| is_verb(words)) {
        let said = desk.run(&format!("{} --help", words.join(" "))).code(0);
        assert!(said.out.starts_with("Examples:\n  "), "{words:?}: {}", said.out);
        assert!(said.out.lines().all(|line| line.chars().count() <= 140), "{words:?}");
    }
}

#[test]
fn no_verb_at_all_prints_one_screen() {
    let desk = Desk::bare();
    let said = desk.run("").code(0);
    assert_eq!(said.out, desk.run("--help").out);
    assert!(said.out.lines().count() <= 24);
}
