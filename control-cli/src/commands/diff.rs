//! `agentfs diff`, and how changes are shown elsewhere.

use crate::args;
use crate::context::Context;
use crate::error::Result;
use crate::output::{count, shown};
use shm_transport::control::client::Client;
use shm_transport::control::{Change, ChangeKind, Diff};

/// So many changes are asked for at once.
const PAGE: u32 = 5000;

/// `agentfs diff`.
pub(super) fn diff(context: &Context, args: &args::Diff) -> Result<()> {
    let mut client = context.ensure()?;
    let limit = if args.stat { 0 } else { args.limit.unwrap_or(u64::MAX) };
    let diff = fetch(context, &mut client, &args.branch, limit)?;
    context.output.result(&diff, || text(&diff, args.stat))?;
    Ok(())
}

/// A diff for people; with `stat` its counts.
pub(crate) fn text(diff: &Diff, stat: bool) -> String {
    let mut text = String::new();
    for change in &diff.changes {
        text.push_str(&line(change));
    }
    if stat {
        text.push_str(&counts(diff));
        text.push('\n');
    } else if diff.changes.is_empty() && total(diff) == 0 {
        text.push_str("no changes\n");
    } else if (diff.changes.len() as u64) < total(diff) {
        let more = total(diff) - diff.changes.len() as u64;
        text.push_str(&format!("... and {}\n", count(more, "more path", "more paths")));
    }
    text
}

/// All changes, or the first `limit`; the counts are always whole.
pub(super) fn fetch(context: &Context, client: &mut Client, branch: &str, limit: u64) -> Result<Diff> {
    paged(limit, |limit, skip| context.ask(client, |c| c.diff(branch, limit, skip)))
}

/// The same from whoever answers a limit and what to skip.
pub(crate) fn paged(limit: u64, mut ask: impl FnMut(u32, u64) -> Result<Diff>) -> Result<Diff> {
    let page = |left: u64| u32::try_from(left.min(u64::from(PAGE))).unwrap_or(PAGE);
    let mut whole = ask(page(limit), 0)?;
    while (whole.changes.len() as u64) < limit.min(total(&whole)) {
        let have = whole.changes.len() as u64;
        let next = ask(page(limit - have), have)?;
        if next.changes.is_empty() {
            break;
        }
        whole.changes.extend(next.changes);
    }
    Ok(whole)
}

/// Number of changed paths.
pub(super) fn total(diff: &Diff) -> u64 {
    diff.added + diff.modified + diff.deleted + diff.retyped
}

/// The counts in words.
pub(super) fn counts(diff: &Diff) -> String {
    let mut text = format!("{} added, {} modified, {} deleted", diff.added, diff.modified, diff.deleted);
    if diff.retyped > 0 {
        text.push_str(&format!(", {} of another kind", diff.retyped));
    }
    text
}

/// One change as a line.
pub(super) fn line(change: &Change) -> String {
    let letter = match change.kind {
        ChangeKind::Added => 'A',
        ChangeKind::Modified if change.metadata_only => 'm',
        ChangeKind::Modified => 'M',
        ChangeKind::Deleted => 'D',
        ChangeKind::Retyped => 'T',
    };
    let slash = if change.object == "dir" { "/" } else { "" };
    format!("{letter}  {}{slash}\n", shown(&change.path))
}
