//! `agentfs run`.

use super::checkpoint::Taking;
use super::{branch, commit, diff, mount};
use crate::args;
use crate::child;
use crate::context::{Context, Told, resolve_base, with_base_as_given};
use crate::error::{Doing, Kind, Result};
use crate::mounter::{self, Request};
use crate::namespace;
use crate::output::{count, shown};
use serde_json::{Value, json};
use shm_transport::control::client::Client;
use shm_transport::control::{BranchInfo, Change, ChangeKind, Diff};
use shm_transport::wire::SessionId;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How long a frontend may take to leave after its mount ended.
const DETACH_MAX: Duration = Duration::from_secs(5);
/// So many changed paths are shown after the command, deletions not counted: they are all shown.
const SHOWN: usize = 20;

/// A mounted branch with a command to run on it.
struct Stage {
    root: PathBuf,
    session: SessionId,
    /// Where the command begins.
    cwd: PathBuf,
}

/// `agentfs run`; the exit code of the command.
pub(super) fn run(context: &Context, args: args::Run) -> Result<u8> {
    let base = args.base.as_deref().map(resolve_base).transpose()?;
    let here = std::env::current_dir().doing(|| "find the current directory".into())?;
    let mut client = context.ensure_held()?;
    commit::recover(context, &mut client);
    let name = args.branch.clone().unwrap_or_else(generated_name);
    let info =
        mount::branch_for(context, &mut client, &name, (base, args.frozen), args.materialize, args.quota.limits())
            .map_err(|e| with_base_as_given(e, args.base.as_deref()))?;
    branch::warn(context, &info);
    if args.branch.is_none() {
        context.output.note_on_terminal(&format!("new branch {name}"));
    }
    // An empty base: a directory of our own to mount on.
    let scratch = if info.base.is_none() { Some(scratch_dir()?) } else { None };
    let taking = Taking::new(context, &info.name, args.checkpoints);
    let done = on_stage(context, &args, (&info, &taking), scratch.as_deref(), here);
    let done = done.map(|(code, stage)| {
        let ended = leave(context, &stage);
        (code, stage, ended)
    });
    if let Some(dir) = &scratch {
        // While the mount is in use it stays, for the cleaner of temporary directories.
        std::fs::remove_dir(dir).ok();
    }
    let (code, stage, ended) = match done {
        Ok(done) => done,
        Err(e) => {
            // Nothing ran, so that nothing is lost of a branch that nobody will ask for by its name.
            if info.made && (args.discard || args.branch.is_none()) {
                context.reconnect().and_then(|mut client| client.branch_delete(&info.name, false).told()).ok();
            }
            return Err(e);
        }
    };
    finish(context, &args, (&info, &taking), &stage, code, ended);
    Ok(code)
}

fn on_stage(
    context: &Context,
    args: &args::Run,
    (info, taking): (&BranchInfo, &Taking<'_>),
    scratch: Option<&Path>,
    here: PathBuf,
) -> Result<(u8, Stage)> {
    let stage = set_up(context, (info, &args.options), scratch, here)?;
    let (program, rest) = args.command.split_first().map_or((None, &[][..]), |(p, r)| (Some(p), r));
    let mut command = Command::new(program.map(std::ffi::OsString::as_os_str).unwrap_or_default());
    command.args(rest).current_dir(&stage.cwd).env("AGENTFS_ROOT", &stage.root).env("AGENTFS_BRANCH", &info.name);
    taking.prepare(&mut command);
    let ran = std::thread::scope(|scope| {
        let clock = taking.begin(scope);
        let ran = child::run(&mut command);
        if ran.is_ok() {
            taking.end(clock);
        }
        ran
    });
    match ran {
        Ok(code) => Ok((code, stage)),
        Err(e) => {
            // Nothing ran on it; why the command did not start is what matters.
            leave(context, &stage).ok();
            Err(e)
        }
    }
}

fn set_up(
    context: &Context,
    (info, options): (&BranchInfo, &[String]),
    scratch: Option<&Path>,
    here: PathBuf,
) -> Result<Stage> {
    let root = scratch.or(info.base.as_deref()).unwrap_or(Path::new("/")).to_owned();
    let namespace = namespace::enter()?;
    let request = Request {
        branch: &info.name,
        mountpoint: &root,
        apart_from: None,
        read_only: false,
        allow_other: false,
        give_up_after: None,
        options,
    };
    let held = mounter::mount(context, &request).map_err(|e| match context.reconnect() {
        Ok(mut client) => mount::in_use(e, &mut client, &info.name),
        Err(_) => e,
    })?;
    namespace.end_of_mounting()?;
    // The command begins on the branch, wherever it was started: a relative path in it must never
    // reach the host's directory by surprise.
    let cwd = if here.starts_with(&root) && here.is_dir() { here } else { root.clone() };
    Ok(Stage { root, session: held.name.session, cwd })
}

/// Ends the mount and waits until the daemon knows; `false` while processes of the command use it.
fn leave(context: &Context, stage: &Stage) -> Result<bool> {
    if !namespace::unmount(&stage.root)? {
        return Ok(false);
    }
    let mut client = context.reconnect()?;
    context.wait_detached(&mut client, |m| m.session == stage.session, DETACH_MAX)
}

fn finish(
    context: &Context,
    args: &args::Run,
    (info, taking): (&BranchInfo, &Taking<'_>),
    stage: &Stage,
    code: u8,
    ended: Result<bool>,
) {
    let checkpoints = taking.report();
    // The command is over: what goes wrong from here on is told, and its exit code stays.
    let told = |result: Result<()>| {
        if let Err(e) = result {
            context.output.error(&e);
        }
    };
    let unreachable = matches!(&ended, Err(e) if e.kind == Kind::Unreachable);
    let in_use = ended.as_ref().is_ok_and(|ended| !ended);
    told(ended.map(drop));
    if unreachable {
        // Stopped by force, say: what follows would only say so again.
        return;
    }
    if !args.no_summary {
        told(
            context
                .reconnect()
                .and_then(|mut client| summary(context, &mut client, args, (info, stage, code, checkpoints))),
        );
    }
    if in_use {
        context.output.note("background processes of the command still use the branch; it stays mounted for them");
    }
    if args.discard {
        told(context.reconnect().and_then(|mut client| {
            client.branch_delete(&info.name, false).told()?;
            context.output.note(&format!("discarded the branch {}", shown(&info.name)));
            Ok(())
        }));
    }
}

fn summary(
    context: &Context,
    client: &mut Client,
    args: &args::Run,
    (info, stage, code, checkpoints): (&BranchInfo, &Stage, u8, Value),
) -> Result<()> {
    let diff = diff::fetch(context, client, diff::States::of(&info.name), u64::MAX)?;
    let changes = chosen(&diff);
    let more = diff.changes.len() - changes.len();
    let document = json!({
        "run": {
            "branch": info.name,
            "base": info.base,
            "root": stage.root,
            "cwd": stage.cwd,
            "made": info.made,
            "warnings": info.warnings,
            "exit_code": code,
            "checkpoints": checkpoints,
        },
        "added": diff.added,
        "modified": diff.modified,
        "deleted": diff.deleted,
        "retyped": diff.retyped,
        "renamed": diff.renamed,
        "changes": changes,
        "changes_left_out": more,
    });
    context.output.after(&document, || {
        let name = shown(&info.name);
        let mut text = format!("agentfs: branch {name}: {}\n", diff::counts(&diff));
        for change in &changes {
            text.push_str("  ");
            text.push_str(&diff::line(change));
        }
        if more > 0 {
            let paths = count(more as u64, "more path", "more paths");
            text.push_str(&format!("  ... and {paths}, no deletion among them\n"));
        }
        if diff::total(&diff) > 0 && info.base.is_some() && !args.discard {
            text.push_str(&format!(
                "agentfs: to take the changes over: agentfs commit {name}; to throw them away: agentfs discard {name}\n"
            ));
        }
        text
    });
    Ok(())
}

/// All deletions, and the first of everything else, in order of path.
fn chosen(diff: &Diff) -> Vec<&Change> {
    let mut others = 0;
    diff.changes
        .iter()
        .filter(|change| {
            others += usize::from(change.kind != ChangeKind::Deleted);
            change.kind == ChangeKind::Deleted || others <= SHOWN
        })
        .collect()
}

fn generated_name() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("run-{seconds}-{}", std::process::id())
}

fn scratch_dir() -> Result<PathBuf> {
    let template = std::env::temp_dir().join("agentfs-run-XXXXXX");
    nix::unistd::mkdtemp(&template).doing(|| format!("make the directory {}", template.display()))
}

#[cfg(test)]
mod tests;
