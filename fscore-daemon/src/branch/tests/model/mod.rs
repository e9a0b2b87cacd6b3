//! A reference model of branches, and random histories held against it.
//!
//! ```text
//! tree       a state as a whole tree in memory; a snapshot or a branch is a copy of one
//! three_way  a merge of three trees, as `specs/branch-semantics.md` §9 says it
//! told       whether a diff tells the difference between two trees
//! real       the core, with mounts in this process
//! commands   its steps that are commands over whole states
//! collecting garbage collection
//! limits     what operations need of a branch's limits
//! world      both side by side: each step is done to both
//! crash      commands on a store that dies at each of its writes
//! ```
//!
//! `AGENTFS_HISTORIES` says how many histories each test runs, `AGENTFS_HISTORY_STEPS` how long they are at most.
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod collecting;
mod commands;
mod crash;
mod histories;
mod limits;
mod real;
mod three_way;
mod told;
mod tree;
mod world;

use crash::{Image, die_everywhere};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use shm_transport::wire::Reply;
use world::World;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Create,
    Mkdir,
    Symlink,
    Fifo,
    Write,
    Truncate,
    Chmod,
    SetXattr,
    RemoveXattr,
    Link,
    Rename,
    Exchange,
    Remove,
    RemoveAll,
    Snapshot,
    DeleteSnapshot,
    NewBranch,
    Fork,
    DeleteBranch,
    Commit,
    CommitOurs,
    CommitTheirs,
    Refresh,
    RefreshOurs,
    RefreshTheirs,
    Undo,
    UndoPaths,
    Collect,
    CollectSome,
    Limit,
    Diff,
    Restart,
}

/// One step of a history; the numbers choose among what is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step(pub(super) What, pub(super) u8, pub(super) u8, pub(super) u8, pub(super) u8);

/// How often each is done.
const WEIGHTS: [(u32, What); 32] = [
    (12, What::Create),
    (6, What::Mkdir),
    (2, What::Symlink),
    (1, What::Fifo),
    (12, What::Write),
    (4, What::Truncate),
    (4, What::Chmod),
    (3, What::SetXattr),
    (2, What::RemoveXattr),
    (4, What::Link),
    (12, What::Rename),
    (2, What::Exchange),
    (6, What::Remove),
    (3, What::RemoveAll),
    (4, What::Snapshot),
    (2, What::DeleteSnapshot),
    (1, What::NewBranch),
    (5, What::Fork),
    (2, What::DeleteBranch),
    (4, What::Commit),
    (1, What::CommitOurs),
    (1, What::CommitTheirs),
    (4, What::Refresh),
    (1, What::RefreshOurs),
    (1, What::RefreshTheirs),
    (3, What::Undo),
    (3, What::UndoPaths),
    (2, What::Collect),
    (3, What::CollectSome),
    (2, What::Limit),
    (3, What::Diff),
    (1, What::Restart),
];

fn step() -> impl Strategy<Value = Step> {
    among(|_| true)
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn config(histories: usize) -> Config {
    Config {
        cases: number("AGENTFS_HISTORIES", histories) as u32,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: number("AGENTFS_HISTORY_SHRINKS", 4000) as u32,
        ..Config::default()
    }
}

/// Does the steps to a new world, and holds the core against the model on the way.
pub(super) fn play(steps: &[Step]) {
    let mut world = World::new();
    for (at, step) in steps.iter().enumerate() {
        world.step(*step);
        if at % 5 == 4 {
            world.check();
        }
    }
    world.check();
    world.check_mounts();
}

proptest! {
#![proptest_config(config(24))]

/// Every head and every snapshot is what it would be if all of them were copies.
#[test]
fn branches_are_like_copies(steps in proptest::collection::vec(step(), 1..number("AGENTFS_HISTORY_STEPS", 120))) {
    play(&steps);
}}

fn among(wanted: impl Fn(What) -> bool) -> impl Strategy<Value = Step> {
    let weights = WEIGHTS.iter().filter(|(_, what)| wanted(*what));
    let whats: Vec<What> = weights.flat_map(|(weight, what)| std::iter::repeat_n(*what, *weight as usize)).collect();
    (proptest::sample::select(whats), any::<[u8; 4]>()).prop_map(|(what, [on, a, b, c])| Step(what, on, a, b, c))
}

/// Changes of what a branch shows, as programs make them.
fn edit() -> impl Strategy<Value = Step> {
    let commands = position(What::Snapshot);
    among(move |what| position(what) < commands)
}

fn position(of: What) -> usize {
    WEIGHTS.iter().position(|(_, what)| *what == of).unwrap()
}

proptest! {
    #![proptest_config(config(48))]

    /// Two branches that went apart for a while become one, each time in one of the ways that there are.
    #[test]
    fn merges_lose_nothing(
        before in proptest::collection::vec(edit(), 0..8),
        apart in proptest::collection::vec(edit(), 1..24),
        merge in among(|what| (position(What::Commit)..=position(What::RefreshTheirs)).contains(&position(what))),
        later in proptest::collection::vec(step(), 0..4),
    ) {
        let fork = Step(What::Fork, 0, 0, 0, 0);
        let merge = Step(merge.0, 1, merge.2, merge.3, merge.4);
        play(&[before.as_slice(), &[fork], &apart, &[merge], &later].concat());
    }
}

/// Commands on branches and snapshots: what a crash must leave whole.
fn command() -> impl Strategy<Value = Step> {
    let commands = position(What::Snapshot);
    among(move |what| {
        position(what) >= commands && !matches!(what, What::NewBranch | What::Limit | What::Diff | What::Restart)
    })
}

proptest! {
    #![proptest_config(config(4))]

    /// At whichever write the store dies, the last commands were done or not, and nothing else is different.
    #[test]
    fn a_crash_leaves_a_command_done_or_not(
        before in proptest::collection::vec(step(), 1..number("AGENTFS_HISTORY_STEPS", 60)),
        commands in proptest::collection::vec(command(), 1..5),
        stride in 1..4_usize,
    ) {
        let mut world = World::new();
        for step in before {
            world.step(step);
        }
        die_everywhere(&Image::of(world), &commands, stride);
    }
}
