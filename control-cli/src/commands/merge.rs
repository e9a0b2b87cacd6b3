//! `agentfs refresh`, and `agentfs commit --into-parent`.

use super::{diff, mount};
use crate::args;
use crate::args::merge::Sides;
use crate::context::{Context, Told};
use crate::error::{CliError, Kind, Result};
use crate::output::{count, shown};
use serde_json::json;
use shm_transport::control::{Command, Conflict, Merged, Preference, Side};
use std::fmt::Write;

/// Who wins where, as the daemon takes it.
pub(super) fn preferences(sides: &Sides) -> Vec<Preference> {
    let of = |paths: &[String], side| -> Vec<Preference> {
        paths.iter().map(|path| Preference { path: path.trim_end_matches('/').to_owned(), side }).collect()
    };
    [of(&sides.ours, Side::Ours), of(&sides.theirs, Side::Theirs)].concat()
}

/// `agentfs refresh`.
pub(super) fn refresh(context: &Context, args: &args::merge::Refresh) -> Result<()> {
    merge(context, &args.branch, false, args.dry_run, &args.sides)
}

/// Either of them.
pub(super) fn merge(context: &Context, branch: &str, into_parent: bool, dry_run: bool, sides: &Sides) -> Result<()> {
    let mut client = context.ensure()?;
    let command = Command::Merge { branch: branch.to_owned(), into_parent, dry_run, prefer: preferences(sides) };
    let merged = client.merge(command).told().map_err(|e| mount::in_use(e, &mut client, branch))?;
    let document = json!({
        "branch": merged.branch,
        "with": merged.with,
        "into_parent": into_parent,
        "dry_run": dry_run,
        "applied": merged.applied,
        "summary": merged.changes,
        "settled": merged.settled,
        "kept": merged.kept,
        "snapshot": merged.snapshot,
        "conflicts": merged.conflicts,
    });
    if merged.conflicts.is_empty() {
        return context.output.result(&document, || told(&merged, into_parent, dry_run));
    }
    context.output.result(&document, || listed(&merged.conflicts))?;
    let (paths, with) = (count(merged.conflicts.len() as u64, "path", "paths"), shown(&merged.with));
    let message = format!("{} and {with} both changed {paths}; nothing was done", shown(branch));
    Err(CliError::new(Kind::Conflict, message).hint("--ours or --theirs decides, for all or as --ours=PATH for a path"))
}

/// Conflicts, a line each.
pub(super) fn listed(conflicts: &[Conflict]) -> String {
    let line = |Conflict { path, reason }: &Conflict| format!("conflict: {}: {}\n", shown(path), shown(reason));
    conflicts.iter().map(line).collect()
}

fn told(merged: &Merged, into_parent: bool, dry_run: bool) -> String {
    let (branch, with) = (shown(&merged.branch), shown(&merged.with));
    let (from, to) = if into_parent { (&branch, &with) } else { (&with, &branch) };
    if !merged.applied && (!dry_run || (diff::total(&merged.changes) == 0 && merged.kept == 0)) {
        return format!("nothing to do: {from} has no changes that {to} lacks\n");
    }
    let verb = match (into_parent, dry_run) {
        (true, true) => "would commit",
        (true, false) => "committed",
        (false, true) => "would take",
        (false, false) => "took",
    };
    let mut text = if diff::total(&merged.changes) == 0 {
        String::new()
    } else {
        format!("{verb} {from} into {to}: {}\n", diff::counts(&merged.changes))
    };
    if merged.kept > 0 {
        let keeps = if dry_run { "would keep" } else { "kept" };
        let paths = count(merged.kept, "path", "paths");
        writeln!(text, "{keeps} the branch's at {paths} that changed in {with}: the next commit replaces them").ok();
    }
    if let Some(snapshot) = &merged.snapshot {
        writeln!(text, "the state before is {branch}@{snapshot}").ok();
    }
    if dry_run {
        merged.changes.changes.iter().for_each(|change| text.push_str(&diff::line(change)));
    }
    text
}
