//! `agentfs undo`.

use super::{diff, mount};
use crate::args;
use crate::context::{Context, Told};
use crate::error::Result;
use crate::output::shown;
use serde_json::json;
use shm_transport::control::Command;

/// `agentfs undo`.
pub(super) fn undo(context: &Context, args: args::merge::Undo) -> Result<()> {
    let mut client = context.ensure()?;
    let args::merge::Undo { branch, to, dry_run, paths, last: _ } = args;
    let command = Command::Undo { branch: branch.clone(), to, paths, dry_run };
    let undone = client.undo(command).told().map_err(|e| mount::in_use(e, &mut client, &branch))?;
    let document = json!({
        "branch": undone.branch,
        "to": undone.to,
        "dry_run": dry_run,
        "snapshot": undone.snapshot,
        "summary": undone.changes,
    });
    context.output.result(&document, || {
        let (branch, to) = (shown(&undone.branch), shown(&undone.to));
        if diff::total(&undone.changes) == 0 && undone.snapshot.is_none() {
            return format!("nothing to undo: {branch} is as {to} there\n");
        }
        let verb = if dry_run { "would bring" } else { "brought" };
        let mut text = format!("{verb} {branch} back to {to}: {}\n", diff::counts(&undone.changes));
        undone.changes.changes.iter().for_each(|change| text.push_str(&diff::line(change)));
        if let Some(snapshot) = &undone.snapshot {
            text.push_str(&format!("what it was before is the snapshot {branch}@{}\n", shown(snapshot)));
        }
        text
    })
}
