//! After the kills: is everything there, and is nothing left over?

use super::arena::{Arena, files_below};
use super::census::Census;
use super::verdict::Violation;
use crate::run::run;
use crate::{mounts, procs};
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How long what is being given back may take.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// All checks after a run. The workloads have ended; the mounts are still there, at the end nothing is.
pub(super) fn check(arena: &mut Arena, before: &Census, limit: Duration) -> Vec<Violation> {
    let mut wrong = Vec::new();
    wrong.extend(arena.verify("after the run", limit));
    let mut changes = Vec::new();
    procs::wait_for(SETTLE_MAX, || {
        changes = before.changes(&Census::take(&arena.world));
        changes.is_empty()
    });
    wrong.extend(changes.into_iter().map(|c| Violation::new("leaks", c)));
    // What only panics when it fails is a step of its own: the next one is tried all the same.
    wrong.extend(step("a clean stop", || arena.world.stop()));
    wrong.extend(step("a fresh start", || {
        for m in &arena.mounts {
            arena.world.mount_at(&m.branch, None, &[], &m.at);
        }
    }));
    if arena.mounts.iter().all(|m| mounts::is_mounted(&m.at)) {
        wrong.extend(arena.verify("after a clean restart", limit));
    }
    wrong.extend(step("unmounting", || {
        for m in &arena.mounts {
            arena.world.umount(&m.at);
        }
    }));
    wrong.extend(orphans(arena, limit));
    wrong.extend(step("the last stop", || arena.world.stop()));
    wrong.extend(step("the logs", || arena.world.assert_no_panics()));
    let left: Vec<_> = mounts::below(arena.world.dir()).into_iter().map(|m| m.mountpoint).collect();
    if !left.is_empty() {
        wrong.push(Violation::new("leaks", format!("mounts are left: {left:?}")));
    }
    let left = procs::describe(arena.world.dir());
    if !left.is_empty() {
        wrong.push(Violation::new("leaks", format!("processes are left:\n{left}")));
    }
    wrong
}

fn step(name: &str, run: impl FnOnce()) -> Option<Violation> {
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
    Some(Violation::new(name, text))
}

/// Once the branches are deleted, a content file that is still there belongs to nothing.
fn orphans(arena: &Arena, limit: Duration) -> Vec<Violation> {
    let mut wrong = Vec::new();
    // A branch that others were made from goes after them.
    let mut left = Vec::new();
    wrong.extend(step("listing the branches", || left = arena.world.branches()));
    let mut before = left.len() + 1;
    while !left.is_empty() && left.len() < before {
        before = left.len();
        left.retain(|branch| {
            let mut delete = arena.world.agentfs([OsStr::new("branch"), "delete".as_ref(), branch.as_ref()]);
            // It removes every content file of the branch: on a busy disk that takes its time.
            let mut deleted = false;
            wrong.extend(step("deleting a branch", || deleted = run(&mut delete, limit).status.success()));
            !deleted
        });
    }
    if !left.is_empty() {
        wrong.push(Violation::new("deleting the branches", format!("these cannot be deleted: {left:?}")));
    }
    let content = arena.world.store().join("contents");
    if wrong.is_empty() && !procs::wait_for(SETTLE_MAX, || files_below(&content) == 0) {
        let what = format!("{} content files are left in {}", files_below(&content), content.display());
        wrong.push(Violation::new("orphans", what));
    }
    wrong
}
