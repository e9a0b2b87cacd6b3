//! `agentfs diff`, and how changes are shown elsewhere.

use crate::args;
use crate::context::Context;
use crate::error::Result;
use crate::output::{count, shown};
use crate::patch::patch;
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::escape::escape;
use shm_transport::control::{Change, ChangeKind, Command, Diff};

/// So many changes are asked for at once.
const PAGE: u32 = 5000;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct States<'a> {
    /// The old state; none for the base.
    pub(super) old: Option<&'a str>,
    /// The new one.
    pub(super) new: &'a str,
    /// Whether to tell where their bytes are.
    pub(super) sources: bool,
}

impl<'a> States<'a> {
    /// A branch and its base.
    pub(super) fn of(branch: &'a str) -> Self {
        Self { old: None, new: branch, sources: false }
    }
}

/// `agentfs diff`.
pub(super) fn diff(context: &Context, args: &args::Diff) -> Result<()> {
    let mut client = context.ensure()?;
    let limit = if args.stat { 0 } else { args.limit.unwrap_or(u64::MAX) };
    let mut states = States { sources: args.patch, ..States::of(&args.of) };
    if let Some(new) = &args.to {
        (states.old, states.new) = (Some(args.of.as_str()), new);
    }
    let diff = fetch(context, &mut client, states, limit)?;
    if args.patch {
        return show_patches(context, diff);
    }
    context.output.result(&diff, || text(&diff, args.stat))?;
    Ok(())
}

/// A diff for people; with `stat` its counts.
pub(crate) fn text(diff: &Diff, stat: bool) -> String {
    let mut text: String = diff.changes.iter().map(line).collect();
    if stat {
        text.push_str(&counts(diff));
        text.push('\n');
    } else if diff.changes.is_empty() && total(diff) == 0 {
        text.push_str("no changes\n");
    } else {
        text.push_str(&more(diff));
    }
    text
}

fn more(diff: &Diff) -> String {
    match total(diff) - diff.changes.len() as u64 {
        0 => String::new(),
        more => format!("... and {}\n", count(more, "more path", "more paths")),
    }
}

/// The changes as patches; in a document each change has its own, escaped as paths are.
fn show_patches(context: &Context, mut diff: Diff) -> Result<()> {
    if !context.output.json {
        for change in &diff.changes {
            context.output.raw(&patch(change, &line(change)))?;
        }
        return context.output.raw(more(&diff).as_bytes());
    }
    let changes = std::mem::take(&mut diff.changes);
    let changes: Vec<_> = changes
        .into_iter()
        .map(|change| {
            let patch = escape(&patch(&change, &line(&change)));
            let mut document = json!(Change { old: None, new: None, ..change });
            if let Some(fields) = document.as_object_mut() {
                fields.insert("patch".into(), patch.into());
            }
            document
        })
        .collect();
    let mut document = json!(diff);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("changes".into(), changes.into());
    }
    context.output.result(&document, String::new)
}

/// All changes, or the first `limit`; the counts are always whole.
pub(super) fn fetch(context: &Context, client: &mut Client, states: States<'_>, limit: u64) -> Result<Diff> {
    let command = |limit: u32, skip: u64| Command::Diff {
        branch: states.new.into(),
        against: states.old.map(Into::into),
        limit,
        skip,
        sources: states.sources,
    };
    paged(limit, |limit, skip| context.ask(client, |c| c.diff(command(limit, skip))))
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
    diff.added + diff.modified + diff.deleted + diff.retyped + diff.renamed
}

/// The counts in words.
pub(super) fn counts(diff: &Diff) -> String {
    let mut text = format!("{} added, {} modified, {} deleted", diff.added, diff.modified, diff.deleted);
    if diff.renamed > 0 {
        text.push_str(&format!(", {} renamed", diff.renamed));
    }
    if diff.retyped > 0 {
        text.push_str(&format!(", {} of another kind", diff.retyped));
    }
    text
}

/// One change as a line.
pub(super) fn line(change: &Change) -> String {
    let letters = match change.kind {
        ChangeKind::Added => "A ",
        ChangeKind::Modified if change.metadata_only => "m ",
        ChangeKind::Modified => "M ",
        ChangeKind::Deleted => "D ",
        ChangeKind::Retyped => "T ",
        ChangeKind::Renamed if change.edited => "RM",
        ChangeKind::Renamed => "R ",
    };
    let slash = if change.object == "dir" { "/" } else { "" };
    let from = change.from.as_ref().map(|from| format!("{}{slash} -> ", shown(from))).unwrap_or_default();
    format!("{letters} {from}{}{slash}\n", shown(&change.path))
}
