//! `agentfs branch` and `agentfs discard`.

use super::mount::{self, unmount};
use super::{bind, branch_tree};
use crate::args;
use crate::context::{Context, Told, resolve_base, with_base_as_given};
use crate::error::{CliError, Doing, Kind, Result};
use crate::mountinfo;
use crate::output::{count, or_dash, shown, size, table};
use crate::seal;
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::{BranchInfo, Command, MountInfo, QuotaInfo, Removed};
use std::time::Duration;

/// How long a frontend may take to leave after its mount ended.
const DETACH_MAX: Duration = Duration::from_secs(5);

/// `agentfs branch`.
pub(super) fn branch(context: &Context, args: args::Branch) -> Result<()> {
    match args {
        args::Branch::Create { name, base: given, from, frozen, materialize, quota } => {
            let base = given.as_deref().map(resolve_base).transpose()?;
            let mut client = context.ensure()?;
            let limits = quota.limits();
            if let Some(wanted) = materialize.wanted(base.as_deref())? {
                let branch = seal::Branch { name: &name, base: wanted.base, frozen, reuse: false, limits };
                let made = seal::branch(context, &mut client, &branch, &wanted)
                    .map_err(|e| with_base_as_given(e, given.as_deref()))?;
                warn(context, &made.info);
                return context.output.result(&made, || self::made(&made.info));
            }
            let create = Command::BranchCreate { name, base, from, frozen, reuse: false, limits };
            let info =
                context.create_branch(&mut client, &create).map_err(|e| with_base_as_given(e, given.as_deref()))?;
            warn(context, &info);
            context.output.result(&info, || made(&info))?;
        }
        args::Branch::Quota { name, quota } => {
            let mut client = context.ensure()?;
            let info = context.ask(&mut client, |c| c.branch_quota(&name, quota.limits()))?;
            context.output.result(&info, || quota_details(&info))?;
        }
        args::Branch::List { tree } => {
            let mut client = context.ensure()?;
            let list = context.ask(&mut client, |c| c.branch_list(tree))?;
            context.output.result(&list, || if tree { branch_tree::tree(&list) } else { listing(&list) })?;
        }
        args::Branch::Show { name } => {
            let mut client = context.ensure()?;
            let info = context.ask(&mut client, |c| c.branch_show(&name))?;
            context.output.result(&info, || details(&info))?;
        }
        args::Branch::Bind { pid, mount, branch, by_descent } => {
            bind::bind(context.output, mount, &branch, pid, by_descent)?;
        }
        args::Branch::Unbind { pid, mount } => bind::unbind(context.output, mount, pid)?,
        args::Branch::Exec { mount, branch, by_descent, command } => {
            return Err(bind::exec(mount, &branch, by_descent, &command));
        }
        args::Branch::Delete { name, dry_run } => delete(context, &mut context.ensure()?, &name, dry_run)?,
    }
    Ok(())
}

/// `agentfs discard`.
pub(super) fn discard(context: &Context, args: &args::Discard) -> Result<()> {
    let mut client = context.ensure()?;
    if args.force && !args.dry_run {
        unmount_all(context, &mut client, &args.branch)?;
    }
    delete(context, &mut client, &args.branch, args.dry_run)
}

/// Deletes a branch, or says what would go.
pub(super) fn delete(context: &Context, client: &mut Client, name: &str, dry_run: bool) -> Result<()> {
    let removed = client.branch_delete(name, dry_run).told().map_err(|e| mount::in_use(e, client, name))?;
    let document = json!({"branch": name, "dry_run": dry_run, "removed": removed});
    context.output.result(&document, || told(name, &removed, dry_run))?;
    Ok(())
}

/// A new branch.
pub(crate) fn made(info: &BranchInfo) -> String {
    let of = origin(info);
    let micros = info.micros.map(|us| format!(" in {us} µs")).unwrap_or_default();
    format!("made the branch {}, {of}{micros}\n", shown(&info.name))
}

/// A deleted branch.
pub(crate) fn told(name: &str, removed: &Removed, dry_run: bool) -> String {
    let verb = if dry_run { "would delete" } else { "deleted" };
    let contents = count(removed.contents, "content file", "content files");
    let mut text = format!("{verb} the branch {} ({contents}, {})\n", shown(name), size(removed.bytes));
    for snapshot in &removed.snapshots {
        text.push_str(&format!("  {verb} the snapshot {}\n", shown(snapshot)));
    }
    text
}

/// Unmounts every mount of a branch that can be seen from here.
fn unmount_all(context: &Context, client: &mut Client, branch: &str) -> Result<()> {
    let sessions: Vec<MountInfo> =
        context.ask(client, Client::mounts)?.into_iter().filter(|m| m.branch == branch).collect();
    let visible = mountinfo::ours().doing(|| "read the list of mounts".into())?;
    for session in &sessions {
        if !visible.iter().any(|m| m.branch == branch && mountinfo::same(&m.mountpoint, &session.mountpoint)) {
            return Err(CliError::new(
                Kind::Busy,
                format!(
                    "the branch {branch} is mounted on {} in another mount namespace",
                    session.mountpoint.display()
                ),
            )
            .hint("end the `agentfs run` that uses it"));
        }
        unmount(&session.mountpoint, false, true)?;
    }
    if !context.wait_detached(client, |m| m.branch == branch, DETACH_MAX)? {
        return Err(CliError::new(Kind::Busy, format!("programs still use the mount of the branch {branch}"))
            .hint("end them (fuser -m MNT shows them), then try again"));
    }
    Ok(())
}

/// Shows what the daemon wants the user to know.
pub(super) fn warn(context: &Context, info: &BranchInfo) {
    for warning in &info.warnings {
        context.output.note(&format!("warning: {}", shown(warning)));
    }
}

fn origin(info: &BranchInfo) -> String {
    match (&info.from, &info.base) {
        (Some(from), _) => format!("from {}", shown(from)),
        (None, Some(base)) => format!("of {}", shown(&base.display().to_string())),
        (None, None) => "empty".into(),
    }
}

/// Where a branch is mounted, or shown to bound processes.
pub(super) fn places(info: &BranchInfo) -> String {
    let mounts = info.mounts.iter().map(|m| shown(&m.display().to_string()));
    let bound = info.bound_at.iter().map(|m| format!("{} (bound)", shown(&m.display().to_string())));
    mounts.chain(bound).collect::<Vec<_>>().join(", ")
}

/// Branches as a table.
pub(crate) fn listing(list: &[BranchInfo]) -> String {
    if list.is_empty() {
        return "no branches\n".into();
    }
    let limited = list.iter().any(|info| info.quota.is_some());
    let rows: Vec<_> = list
        .iter()
        .map(|info| {
            let mut row = vec![
                shown(&info.name),
                or_dash(info.base.as_ref().map(|b| shown(&b.display().to_string())).unwrap_or_default()),
                or_dash(info.from.as_deref().map(shown).unwrap_or_default()),
                info.snapshots.len().to_string(),
                or_dash(places(info)),
            ];
            row.extend(limited.then(|| or_dash(info.quota.as_ref().map(quota).unwrap_or_default())));
            row
        })
        .collect();
    let mut head = vec!["BRANCH", "BASE", "FROM", "SNAPSHOTS", "MOUNTED ON"];
    head.extend(limited.then_some("QUOTA"));
    table(&head, &rows)
}

/// Limits and what is used of them, on one line.
pub(super) fn quota(of: &QuotaInfo) -> String {
    let part = |used: Option<String>, max: Option<String>, what: &str| match (used, max) {
        (Some(used), Some(max)) => Some(format!("{used} of {max}{what}")),
        (None, Some(max)) => Some(format!("at most {max}{what}")),
        (_, None) => None,
    };
    let bytes = part(of.bytes_used.map(size), of.bytes.map(size), "");
    let inodes = part(of.inodes_used.map(|n| n.to_string()), of.inodes.map(|n| n.to_string()), " inodes");
    bytes.into_iter().chain(inodes).collect::<Vec<_>>().join(", ")
}

fn quota_details(info: &BranchInfo) -> String {
    match &info.quota {
        Some(limits) => format!("branch {}: {}\n", shown(&info.name), quota(limits)),
        None => format!("branch {} has no limits\n", shown(&info.name)),
    }
}

fn details(info: &BranchInfo) -> String {
    let list = |items: Vec<String>| or_dash(items.join(", "));
    let base = info.base.as_ref().map(|b| shown(&b.display().to_string())).unwrap_or_default();
    let frozen = if info.frozen { " (frozen)" } else { "" };
    let mut text = format!(
        "branch     {}\nnumber     {}\nbase       {}{frozen}\nfrom       {}\nowner      {}\nsnapshots  {}\nmounted on {}\n",
        shown(&info.name),
        info.id,
        or_dash(base),
        or_dash(info.from.as_deref().map(shown).unwrap_or_default()),
        info.uid,
        list(info.snapshots.iter().map(|s| shown(s)).collect()),
        or_dash(places(info)),
    );
    if let Some(sealed) = &info.sealed {
        let how = if sealed.cloned { "cloned" } else { "copied" };
        let files = count(sealed.files, "file", "files");
        text.push_str(&format!("sealed     {how} when it was made: {files}, {}\n", size(sealed.bytes)));
    }
    if let Some(limits) = &info.quota {
        text.push_str(&format!("quota      {}\n", quota(limits)));
    }
    for warning in &info.warnings {
        text.push_str(&format!("warning    {}\n", shown(warning)));
    }
    text
}
