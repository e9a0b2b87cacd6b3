//! Automatic snapshots while an agent works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::World;
use harness::run::{Output, run};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(2);

fn project(world: &World) -> PathBuf {
    let base = world.base("project");
    std::fs::write(base.join("file"), "0").unwrap();
    base
}

fn agent(world: &World, options: &[&str], script: &str) -> Output {
    let base = world.base("project");
    let fixed = ["run", "--base", base.to_str().unwrap(), "--branch", "b"];
    let args = [&fixed, options, &["--", "sh", "-c", script]].concat();
    run(&mut world.agentfs(args), LIMIT)
}

/// Names of the snapshots in order, automatic and others.
fn snapshots(world: &World) -> (Vec<String>, Vec<String>) {
    let list = world.json(&["snapshot", "list", "b"].map(OsStr::new));
    let names = |automatic: bool| {
        let of_kind = list.as_array().unwrap().iter().filter(|s| (s["automatic"] == true) == automatic);
        of_kind.map(|s| s["name"].as_str().unwrap().to_owned()).collect()
    };
    (names(true), names(false))
}

fn contents_at(world: &World, snapshot: &str) -> String {
    world.branch_from("seen", &format!("b@{snapshot}"));
    let at = world.mount("seen", None);
    let text = std::fs::read_to_string(at.join("file")).unwrap();
    world.umount(&at);
    world.cli(&["discard", "seen"]);
    text
}

#[test]
fn each_command_leaves_a_snapshot_and_the_oldest_automatic_ones_go() {
    let Some(world) = World::start("each_command_leaves_a_snapshot") else { return };
    project(&world);
    let options = ["--checkpoint", "each-command", "--checkpoint-keep", "3"];
    agent(&world, &options, "echo -n 1 > file").code(0);
    world.snapshot("b", "auto-20000101T000000.000Z");
    agent(&world, &options, "true").code(0);
    let (first, named) = snapshots(&world);
    assert_eq!((first.len(), named.as_slice()), (1, &["auto-20000101T000000.000Z".to_owned()][..]));
    for n in 2..=5 {
        // In place as well: the same file, again and again.
        agent(&world, &options, &format!("echo -n {n} > file; exit {n}")).code(n);
    }
    let (kept, named) = snapshots(&world);
    assert_eq!((kept.len(), named.len()), (3, 1), "{kept:?} {named:?}");
    assert!(kept.is_sorted() && first[0] < kept[0], "{first:?} {kept:?}");
    let shown: Vec<_> = kept.iter().map(|name| contents_at(&world, name)).collect();
    assert_eq!(shown, ["3", "4", "5"]);
    // What a branch was made from stays, and counts no more than others.
    world.branch_from("other", &format!("b@{}", kept[0]));
    for n in 6..=9 {
        agent(&world, &options, &format!("echo -n {n} > file")).code(0);
    }
    let (now, named) = snapshots(&world);
    assert!(now.contains(&kept[0]) && !now.contains(&kept[1]), "{now:?}");
    assert_eq!((now.len(), named.len()), (4, 1), "{now:?} {named:?}");
    let out = world.cli(&["snapshot", "list", "b"]);
    assert!(out.says("automatic") && out.says("named"), "{out}");
    // Without being asked none is taken; wrong words are refused before anything runs.
    agent(&world, &[], "echo -n x > file").code(0);
    assert_eq!(snapshots(&world).0, now);
    agent(&world, &["--checkpoint", "sometimes"], "true").code(2);
    agent(&world, &["--checkpoint-keep", "3"], "true").code(2);
    world.assert_no_panics();
}

#[test]
fn a_shell_has_one_after_each_of_its_commands() {
    let Some(world) = World::start("a_shell_has_one_after_each") else { return };
    let base = project(&world);
    let mut command = world.agentfs(["run", "--base", base.to_str().unwrap(), "--branch", "b"]);
    command.args(["--checkpoint", "each-command", "--", "bash", "--norc", "--noprofile", "-i"]);
    command.env("PROMPT_COMMAND", "echo prompt >> \"$HOME/prompts\"").env("HOME", world.out());
    let input = world.out().join("input");
    std::fs::write(&input, "echo -n a > file\ntrue\necho -n b > file\n(exit 3)\necho -n $? > file\nexit 4\n").unwrap();
    command.stdin(Stdio::from(std::fs::File::open(&input).unwrap()));
    run(&mut command, LIMIT).code(4);
    let (taken, _) = snapshots(&world);
    // One at the first prompt, and one after each command that changed something.
    let shown: Vec<_> = taken.iter().map(|name| contents_at(&world, name)).collect();
    assert_eq!(shown, ["0", "a", "b", "3"]);
    let prompts = std::fs::read_to_string(world.out().join("prompts")).unwrap();
    assert!(prompts.lines().count() >= 6, "what was to be done before each prompt goes on: {prompts:?}");
    world.assert_no_panics();
}

#[test]
fn time_leaves_snapshots_while_the_command_runs() {
    let Some(world) = World::start("time_leaves_snapshots") else { return };
    project(&world);
    let script = "for n in 1 2 3 4 5 6 7 8; do echo -n $n > file; sleep 0.5; done; exit 7";
    agent(&world, &["--checkpoint", "1s"], script).code(7);
    let (taken, _) = snapshots(&world);
    assert!((2..=5).contains(&taken.len()), "{taken:?}");
    let shown: Vec<u32> = taken.iter().map(|name| contents_at(&world, name).parse().unwrap()).collect();
    assert!(shown.is_sorted_by(|a, b| a < b) && *shown.last().unwrap() >= 3, "{shown:?}");
    world.assert_no_panics();
}

#[test]
fn a_failing_checkpoint_disturbs_nobody_and_is_told() {
    let Some(world) = World::start("a_failing_checkpoint_disturbs_nobody") else { return };
    project(&world);
    let socket = world.socket().to_str().unwrap();
    let script = format!("echo -n 1 > file; mv {socket} {socket}.away; sleep 3; mv {socket}.away {socket}; exit 5");
    let out = agent(&world, &["--checkpoint", "1s"], &script).code(5);
    assert!(out.says("could not be taken"), "{out}");
    let out = agent(&world, &["--checkpoint", "each-command", "--no-summary"], "echo -n 2 > file").code(0);
    assert!(!out.says("could not be taken"), "{out}");
    // By hand, as a hook does.
    let taken = snapshots(&world).0.len();
    let out = world.cli(&["checkpoint", "b"]);
    assert!(out.says("did not change"), "{out}");
    let own = world.bins().path("agentfs");
    agent(&world, &[], &format!("echo -n 3 > file; {} checkpoint --quiet", own.display())).code(0);
    assert_eq!(snapshots(&world).0.len(), taken + 1);
    world.cli_fails(&["checkpoint", "nobody"]).code(68);
    world.cli_fails(&["checkpoint"]).code(2);
    world.assert_no_panics();
}
