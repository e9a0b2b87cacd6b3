//! `agentfs commit`, and what finishes interrupted commits.

use super::{diff, merge, mount};
use crate::args;
use crate::commit::{Outcome, carry_out};
use crate::context::{Context, Told};
use crate::error::{CliError, Kind, Result};
use crate::output::{count, shown};
use crate::start;
use nix::fcntl::FlockArg;
use serde_json::json;
use shm_transport::control::client::Client;
use shm_transport::control::{CommitPlan, Diff};

const LOCK: &str = "commit.lock";

/// `agentfs commit`.
pub(super) fn commit(context: &Context, args: &args::Commit) -> Result<()> {
    if args.into_parent {
        return merge::merge(context, &args.branch, true, args.dry_run, &args.sides);
    }
    let mut client = context.ensure()?;
    let lock = if let Some(lock) = start::lock(&context.paths, LOCK, FlockArg::LockExclusiveNonblock)? {
        Some(lock)
    } else {
        context.output.note_on_terminal("waiting for another commit to end");
        start::lock(&context.paths, LOCK, FlockArg::LockExclusive)?
    };
    finish_pending(context, &mut client)?;
    let changes = if args.dry_run {
        Some(diff::fetch(context, &mut client, diff::States::of(&args.branch), u64::MAX)?)
    } else {
        None
    };
    let plan = prepare(context, &mut client, args).map_err(|e| mount::in_use(e, &mut client, &args.branch))?;
    if !plan.conflicts.is_empty() {
        if !args.dry_run {
            client.commit_abort(plan.id).told()?;
        }
        return Err(conflicts(context, &plan, args.dry_run));
    }
    if let Some(changes) = changes {
        return report(context, &plan, &changes, true);
    }
    if plan.journal.is_some() {
        apply(context, &mut client, &plan)?;
    }
    drop(lock);
    report(context, &plan, &plan.summary, false)
}

/// Prepares with the lock held. A daemon may still have been preparing for a command that was killed when
/// pending commits were asked for: such a commit is taken up then, and this one begun again.
fn prepare(context: &Context, client: &mut Client, args: &args::Commit) -> Result<CommitPlan> {
    let prefer = merge::preferences(&args.sides);
    match client.commit_prepare(&args.branch, args.dry_run, prefer.clone()).told() {
        Err(e) if e.kind == Kind::Busy => {
            let pending = context.ask(client, Client::commit_pending)?;
            if !pending.iter().any(|plan| plan.branch == args.branch) {
                return Err(e);
            }
            finish_pending(context, client)?;
            client.commit_prepare(&args.branch, args.dry_run, prefer).told()
        }
        other => other,
    }
}

fn apply(context: &Context, client: &mut Client, plan: &CommitPlan) -> Result<()> {
    let store = context.ask(client, Client::status)?.store;
    let outcome = carry_out(plan, &store, false, &mut |n, of| context.output.progress("committing", n, of));
    context.output.progress_end();
    match outcome {
        Outcome::Applied => end(context, client, plan.id, true),
        Outcome::RolledBack(why) => {
            end(context, client, plan.id, false)?;
            let why = why.unwrap_or_else(|| CliError::new(Kind::Internal, "the commit was taken back"));
            Err(why.prefix(&format!("nothing was committed into {}", plan.base.display())))
        }
        Outcome::Pending(why) => Err(still_pending(plan, why)),
    }
}

/// Tells the daemon; a daemon that just died is told when it is back.
fn end(context: &Context, client: &mut Client, id: u64, applied: bool) -> Result<()> {
    let tell = |client: &mut Client| if applied { client.commit_finish(id) } else { client.commit_abort(id) };
    match tell(client).told() {
        Err(e) if e.kind == Kind::Unreachable => {
            *client = context.reconnect()?;
            match tell(client).told() {
                // The one that died had done it.
                Err(e) if e.kind == Kind::NotFound => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

fn still_pending(plan: &CommitPlan, why: CliError) -> CliError {
    let hint = why.hint.clone().unwrap_or_else(|| "remove the cause".into());
    why.prefix(&format!(
        "the commit of {} into {} is neither finished nor taken back",
        plan.branch,
        plan.base.display()
    ))
    .hint(format!("{hint}; the next `agentfs commit` or `agentfs status` goes on with it"))
}

/// Finishes or takes back what an interrupted commit left, unless a commit is running now. Failures are
/// told and do not keep the command from its own work.
pub(super) fn recover(context: &Context, client: &mut Client) {
    let run = |client: &mut Client| {
        if context.ask(client, Client::commit_pending)?.is_empty() {
            return Ok(());
        }
        match start::lock(&context.paths, LOCK, FlockArg::LockExclusiveNonblock)? {
            Some(_lock) => finish_pending(context, client),
            None => Ok(()),
        }
    };
    if let Err(e) = run(client) {
        context.output.note(&format!("warning: {}", e.message));
    }
}

/// As [`recover`], with the lock held.
fn finish_pending(context: &Context, client: &mut Client) -> Result<()> {
    let pending = context.ask(client, Client::commit_pending)?;
    if pending.is_empty() {
        return Ok(());
    }
    let store = context.ask(client, Client::status)?.store;
    for plan in pending {
        let (branch, base) = (shown(&plan.branch), plan.base.display());
        match carry_out(&plan, &store, true, &mut |_, _| {}) {
            Outcome::Applied => {
                end(context, client, plan.id, true)?;
                context.output.note(&format!("finished the interrupted commit of {branch} into {base}"));
            }
            Outcome::RolledBack(_) => {
                end(context, client, plan.id, false)?;
                context.output.note(&format!("took the interrupted commit of {branch} into {base} back"));
            }
            Outcome::Pending(why) => {
                let error = still_pending(&plan, why);
                let hint = error.hint.unwrap_or_default();
                context.output.note(&format!("warning: {} ({hint})", error.message));
            }
        }
    }
    Ok(())
}

fn document(plan: &CommitPlan, changes: &Diff, dry_run: bool, applied: bool) -> serde_json::Value {
    json!({
        "branch": plan.branch,
        "base": plan.base,
        "dry_run": dry_run,
        "applied": applied,
        "summary": changes,
        "conflicts": plan.conflicts,
    })
}

fn report(context: &Context, plan: &CommitPlan, changes: &Diff, dry_run: bool) -> Result<()> {
    context.output.result(&document(plan, changes, dry_run, !dry_run), || {
        let (branch, base) = (shown(&plan.branch), plan.base.display());
        if diff::total(changes) == 0 {
            return format!("nothing to commit: {branch} does not differ from {base}\n");
        }
        let verb = if dry_run { "would commit" } else { "committed" };
        let mut text = format!("{verb} {branch} into {base}: {}\n", diff::counts(changes));
        if dry_run {
            changes.changes.iter().for_each(|change| text.push_str(&diff::line(change)));
        }
        text
    })
}

fn conflicts(context: &Context, plan: &CommitPlan, dry_run: bool) -> CliError {
    let listed =
        context.output.result(&document(plan, &plan.summary, dry_run, false), || merge::listed(&plan.conflicts));
    if let Err(e) = listed {
        context.output.error(&e);
    }
    let n = count(plan.conflicts.len() as u64, "path", "paths");
    CliError::new(
        Kind::Conflict,
        format!(
            "{n} changed in {} since {} first changed them; nothing was committed",
            plan.base.display(),
            plan.branch
        ),
    )
    .hint("--ours or --theirs decides, for all or as --ours=PATH for a path")
}
