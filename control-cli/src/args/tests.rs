#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::{Branch, Cli, Command, Daemon};
use clap::{CommandFactory, Parser};

fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("agentfs").chain(line.iter().copied()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_run_takes_its_command_as_it_is() {
    let cli = parse(&["run", "--base", "/b", "--branch", "x", "--", "bash", "-c", "--json; exit", "--branch"]).unwrap();
    assert!(!cli.global.json);
    let Command::Run(run) = cli.command else { panic!("not a run") };
    assert_eq!(run.branch.as_deref(), Some("x"));
    assert_eq!(run.command, ["bash", "-c", "--json; exit", "--branch"]);
    assert!(parse(&["run", "--base", "/b"]).is_err());
    assert!(parse(&["run", "--keep", "--discard", "true"]).is_err());
}

#[test]
fn global_options_stand_anywhere() {
    for line in [&["--json", "--store", "/s", "branch", "list"][..], &["branch", "list", "--store", "/s", "--json"]] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.store.unwrap().to_str(), Some("/s"));
    }
}

#[test]
fn commands_are_understood() {
    for line in [
        &["mount", "--base", "/b", "--branch", "x", "--ro", "/mnt"][..],
        &["umount", "--force", "/mnt"],
        &["umount", "--lazy", "/mnt"],
        &["mounts"],
        &["status"],
        &["daemon", "start", "--allow-base", "/a", "--allow-base", "/b"],
        &["daemon", "stop", "--force"],
        &["daemon", "upgrade"],
        &["branch", "create", "x", "--base", "/b", "--frozen"],
        &["branch", "create", "x", "--from", "y@s"],
        &["branch", "show", "x"],
        &["branch", "delete", "x", "--dry-run"],
        &["snapshot", "create", "--branch", "x", "--name", "s"],
        &["snapshot", "list"],
        &["snapshot", "delete", "--branch", "x", "--name", "s", "--dry-run"],
        &["diff", "x", "--stat", "--limit", "3"],
        &["diff", "x@s", "y", "--patch"],
        &["branch", "list", "--tree"],
        &["commit", "x", "--into-parent", "--dry-run"],
        &["commit", "x", "--ours", "--theirs=a/b", "--theirs=c"],
        &["refresh", "x", "--theirs"],
        &["undo", "x", "--last", "--dry-run"],
        &["undo", "x", "--to", "@base", "a", "b/c"],
        &["diff", "@base", "y", "-p"],
        &["commit", "x", "--dry-run"],
        &["discard", "x", "--force", "--dry-run"],
        &["completions", "bash"],
        &["help", "exit-codes"],
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_code_2() {
    for line in [
        &[][..],
        &["mount", "/mnt"],
        &["mount", "--branch", "x"],
        &["branch", "create"],
        &["branch", "create", "x", "--base", "/b", "--from", "y"],
        &["snapshot", "create", "--branch", "x"],
        &["diff"],
        &["diff", "x", "y", "z"],
        &["undo", "x", "--last", "--to", "s"],
        &["diff", "x", "--stat", "--patch"],
        &["diff", "x", "--limit", "-1"],
        &["commit"],
        &["completions", "tcsh-of-old"],
        &["no-such"],
        &["status", "--no-such"],
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line:?}");
    }
}

#[test]
fn nested_commands_have_their_arguments() {
    let Command::Daemon(Daemon::Start { allow_base, foreground }) =
        parse(&["daemon", "start", "--allow-base", "/a", "--foreground"]).unwrap().command
    else {
        panic!("not a start")
    };
    assert!(foreground && allow_base.len() == 1);
    let Command::Branch(Branch::Create { from, .. }) =
        parse(&["branch", "create", "x", "--from", "y"]).unwrap().command
    else {
        panic!("not a create")
    };
    assert_eq!(from.as_deref(), Some("y"));
}
