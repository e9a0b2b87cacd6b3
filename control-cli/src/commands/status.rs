//! `agentfs status`: what the daemon says, and without it what else can be known.

use super::{commit, mount};
use crate::context::{Context, Told};
use crate::error::{Doing, Kind, Result};
use crate::exit;
use crate::output::{count, shown, size, span};
use serde_json::{Value, json};
use shm_transport::control::holder::{self, Pong};
use shm_transport::control::{BranchInfo, GcInfo, Sandbox, SandboxState, Status};
use shm_transport::stats::{Sample, StatsReader};
use std::time::Duration;

/// How long the daemon may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

struct View {
    daemon: Option<Status>,
    /// Why it does not answer, with the exit code of that.
    silent: Option<(u8, String)>,
    branches: Vec<BranchInfo>,
    holder: Option<Pong>,
    sample: Option<Sample>,
}

/// `agentfs status`.
pub(super) fn status(context: &Context) -> Result<u8> {
    let view = look(context, true)?;
    let (mounts, _) = if view.silent.as_ref().is_some_and(|(code, _)| *code != exit::code(Kind::Unreachable)) {
        // It is not asked again, having kept us waiting once.
        (view.sample.iter().flat_map(|s| &s.mounts).map(|m| json!(m)).collect(), None)
    } else {
        mount::collect(context)
    };
    let mut document = document(&view);
    if let Some(map) = document.as_object_mut() {
        map.insert("branches".into(), json!(view.branches));
        map.insert("mounts".into(), json!(mounts));
    }
    context.output.result(&document, || {
        let mut text = describe(context, &view);
        if view.daemon.is_some() {
            text.push_str(&format!("branches   {}\n", names(&view.branches)));
        }
        text.push_str("mounts     ");
        if mounts.is_empty() {
            text.push_str("none\n");
        } else {
            text.push('\n');
            text.push_str(&mount::listing(&mounts));
        }
        text
    })?;
    Ok(view.silent.map_or(exit::OK, |(code, _)| code))
}

/// `agentfs daemon status`.
pub(super) fn daemon(context: &Context) -> Result<u8> {
    let view = look(context, false)?;
    context.output.result(&document(&view), || describe(context, &view))?;
    Ok(view.silent.map_or(exit::OK, |(code, _)| code))
}

fn look(context: &Context, whole: bool) -> Result<View> {
    let asked = context.connect_within(ANSWER_MAX).and_then(|mut client| {
        let status = client.status().told()?;
        let branches = if whole {
            // Applying what is left of a commit may take longer than an answer.
            client.set_timeout(None).doing(|| "wait".into())?;
            commit::recover(context, &mut client);
            context.ask(&mut client, |c| c.branch_list(false))?
        } else {
            Vec::new()
        };
        Ok((status, branches))
    });
    let holder = holder::Client::connect(&context.paths.socket).ok().and_then(|mut h| h.ping().ok());
    let sample = StatsReader::open(&context.paths.store).ok().and_then(|r| r.sample());
    let (daemon, branches, silent) = match asked {
        Ok((status, branches)) => (Some(status), branches, None),
        Err(e) if matches!(e.kind, Kind::Unreachable | Kind::Busy) => {
            (None, Vec::new(), Some((exit::code(e.kind), e.message)))
        }
        Err(e) => return Err(e),
    };
    Ok(View { daemon, silent, branches, holder, sample })
}

fn document(view: &View) -> Value {
    let mut document = match &view.daemon {
        Some(status) => json!(status),
        None => json!({}),
    };
    if let Some(map) = document.as_object_mut() {
        map.insert("running".into(), view.daemon.is_some().into());
        if let Some((_, why)) = &view.silent {
            map.insert("silent".into(), why.clone().into());
        }
        if let (None, Some(sample)) = (&view.daemon, view.sample.as_ref().filter(|s| s.alive)) {
            map.insert("pid".into(), sample.pid.into());
        }
        map.insert("holder".into(), json!(view.holder));
        map.insert("counters".into(), counters(view.sample.as_ref()));
    }
    document
}

fn counters(sample: Option<&Sample>) -> Value {
    sample.map_or(Value::Null, |s| s.counters.iter().map(|(name, n)| ((*name).to_owned(), json!(n))).collect())
}

fn garbage(gc: &GcInfo) -> String {
    let freed = format!("{} folded and {} given back since the start", gc.folded + gc.removed, size(gc.bytes_freed));
    let epochs = count(gc.epochs, "state", "states");
    if gc.running || gc.waiting > 0 {
        let left = gc.foldable + gc.unreachable;
        format!("{epochs}, {left} to fold or remove, {} to give back; {freed}", size(gc.bytes))
    } else {
        format!("{epochs}, nothing to do; {freed}")
    }
}

fn sandbox(sandbox: &Sandbox) -> String {
    match sandbox.state {
        SandboxState::On => "on".into(),
        SandboxState::Partial => {
            let missing: Vec<_> = sandbox.missing.iter().map(|part| shown(part)).collect();
            format!("PARTIAL: missing {}", missing.join("; "))
        }
        SandboxState::Off => "OFF: the daemon can do whatever its user can".into(),
    }
}

fn describe(context: &Context, view: &View) -> String {
    let mut text = match (&view.daemon, &view.silent) {
        (Some(status), _) => {
            let mut text = format!(
                "daemon     runs, pid {}, for {}, release {}\nstore      {}\nsocket     {}\n",
                status.pid,
                span(status.uptime_seconds),
                shown(&status.version),
                status.store.display(),
                status.socket.display(),
            );
            if let Some(why) = &status.refusing_writes {
                text.push_str(&format!("           REFUSES WRITES: {}\n", shown(why)));
            }
            if let Some(why) = &status.failed_sync {
                text.push_str(&format!("           SYNCS FAIL: {}\n", shown(why)));
            }
            let bases: Vec<_> = status.allow_base.iter().map(|b| b.display().to_string()).collect();
            text.push_str(&format!("bases      below {}\n", bases.join(", ")));
            text.push_str(&format!("sandbox    {}\n", sandbox(&status.sandbox)));
            if let Some(gc) = &status.gc {
                text.push_str(&format!("garbage    {}\n", garbage(gc)));
            }
            if status.recoveries > 0 {
                text.push_str(&format!(
                    "recovered  {} after an unclean end\n",
                    count(status.recoveries, "time", "times")
                ));
            }
            text
        }
        (None, silent) => {
            let why = silent.as_ref().map_or("", |(_, why)| why);
            format!("daemon     no answer: {why}\nstore      {}\n", context.paths.store.display())
        }
    };
    text.push_str(&match &view.holder {
        Some(h) => {
            format!("holder     pid {}, daemon restarted {}\n", h.pid, count(h.daemon_restarts, "time", "times"))
        }
        None => "holder     none\n".into(),
    });
    if let Some(sample) = &view.sample {
        let figures: Vec<_> = sample.counters.iter().map(|(name, n)| format!("{name} {n}")).collect();
        text.push_str(&format!("counters   {}\n", figures.join(", ")));
        if view.daemon.is_none() {
            let state = match (sample.alive, sample.ended) {
                (_, true) => "ended as it should",
                (true, false) => "is alive but does not answer",
                (false, false) => "is dead",
            };
            text.push_str(&format!("           (from shared memory, of daemon {}, which {state})\n", sample.pid));
        }
    }
    text
}

fn names(branches: &[BranchInfo]) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<_> = branches.iter().take(SHOWN).map(|b| shown(&b.name)).collect();
    if branches.len() > SHOWN {
        names.push(format!("and {} more", branches.len() - SHOWN));
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
