//! `agentfs snapshot`.

use crate::args::snapshot::Snapshot;
use crate::context::{Context, Told};
use crate::error::Result;
use crate::output::{or_dash, shown, table};
use crate::still::Still;
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::{MountInfo, SnapshotInfo};

/// `agentfs snapshot`.
pub(super) fn snapshot(context: &Context, args: Snapshot) -> Result<()> {
    let mut client = context.ensure()?;
    match args {
        Snapshot::Create { branch, name, freeze } => {
            let mounts = if freeze { context.ask(&mut client, Client::mounts)? } else { Vec::new() };
            // Also those that show it to processes which were bound to it.
            let shows =
                |mount: &MountInfo| mount.branch == branch || mount.others.iter().any(|other| other.branch == branch);
            let mounts: Vec<_> = mounts.into_iter().filter(shows).collect();
            let still = freeze.then(|| Still::hold(&mounts)).transpose()?;
            let info = client.snapshot_create(&branch, &name).told()?;
            drop(still);
            context.output.result(&info, || made(&info))?;
        }
        Snapshot::List { of, branch } => {
            let branch = of.or(branch);
            let list = context.ask(&mut client, |c| c.snapshot_list(branch.as_deref()))?;
            context.output.result(&list, || listing(&list))?;
        }
        Snapshot::Delete { branch, name, dry_run } => {
            client.snapshot_delete(&branch, &name, dry_run).told()?;
            let verb = if dry_run { "would delete" } else { "deleted" };
            context.output.result(&json!({"branch": branch, "name": name, "dry_run": dry_run}), || {
                format!("{verb} the snapshot {}@{}\n", shown(&branch), shown(&name))
            })?;
        }
    }
    Ok(())
}

/// A new snapshot.
pub(crate) fn made(info: &SnapshotInfo) -> String {
    let micros = info.micros.map(|us| format!(" in {us} µs")).unwrap_or_default();
    format!("made the snapshot {}@{}{micros}\n", shown(&info.branch), shown(&info.name))
}

/// Snapshots as a table.
pub(crate) fn listing(list: &[SnapshotInfo]) -> String {
    if list.is_empty() {
        return "no snapshots\n".into();
    }
    let rows: Vec<_> = list
        .iter()
        .map(|info| {
            let branches: Vec<_> = info.branches.iter().map(|b| shown(b)).collect();
            let kind = if info.automatic { "automatic" } else { "named" };
            vec![shown(&info.branch), shown(&info.name), kind.into(), or_dash(branches.join(", "))]
        })
        .collect();
    table(&["BRANCH", "SNAPSHOT", "KIND", "BRANCHES MADE FROM IT"], &rows)
}
