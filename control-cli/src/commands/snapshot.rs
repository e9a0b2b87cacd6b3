//! `agentfs snapshot`.

use crate::args::snapshot::Snapshot;
use crate::context::{Context, Told};
use crate::error::Result;
use crate::output::{count, or_dash, shown, table};
use crate::still::{Cost, Still};
use serde::Serialize;
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::{MountInfo, SnapshotInfo};
use std::time::Duration;

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
            let frozen = still.map(Still::release);
            context.output.result(&Made { info: &info, frozen }, || {
                made(&info) + &frozen.map(|cost| held(&cost)).unwrap_or_default()
            })?;
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

/// A new snapshot, and what came before it.
#[derive(Serialize)]
struct Made<'a> {
    #[serde(flatten)]
    info: &'a SnapshotInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<Cost>,
}

fn held(cost: &Cost) -> String {
    let millis = |micros| Duration::from_micros(micros).as_secs_f64() * 1e3;
    format!(
        "wrote out {} in {:.1} ms, held {} still for {:.1} ms\n",
        count(cost.files as u64, "mapped file", "mapped files"),
        millis(cost.drain_micros),
        count(cost.threads as u64, "thread", "threads"),
        millis(cost.held_micros)
    )
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
