//! `agentfs daemon upgrade`.

use crate::context::{Context, Told};
use crate::error::{CliError, Kind, Result};
use crate::output::count;
use crate::siblings;
use shm_transport::control::client::Client;
use shm_transport::control::holder::{self, Upgraded};
use shm_transport::control::versions::{Asked, Versions};
use std::path::Path;

/// What a service manager is told to do.
const UNITS: &str = "systemctl restart agentfsd.service 'agentfs-mount@*.service'";

pub(super) fn upgrade(context: &Context) -> Result<()> {
    let running = match Client::connect(&context.paths.socket) {
        Ok(mut client) => Some(client.status().told()?),
        Err(e) if e.is_not_running() => None,
        Err(e) => return Err(e).told(),
    };
    let managed = running.as_ref().is_some_and(|status| status.managed);
    if let (true, Some(versions)) = (managed, running.as_ref().and_then(|status| status.versions.as_ref())) {
        check(versions)?;
    }
    let upgraded = match holder::Client::connect(&context.paths.socket) {
        Ok(mut holder) => Some(holder.upgrade()?),
        Err(_) => None,
    };
    if managed {
        let kept = upgraded.map_or(0, |done| done.frontends);
        let message = format!(
            "a service manager keeps the daemon and its mounts, and has to start them again; {} upgraded here",
            count(kept, "frontend", "frontends")
        );
        return Err(CliError::new(Kind::Busy, message).hint(format!("the installed programs fit: {UNITS}")));
    }
    let Some(upgraded) = upgraded else {
        return Err(CliError::new(Kind::Unreachable, "no holder runs that could replace anything")
            .hint("what is installed serves from the next start on: agentfs daemon start"));
    };
    context.output.result(&upgraded, || describe(&upgraded))?;
    Ok(())
}

/// Whether the installed programs fit what a service manager keeps.
fn check(running: &Versions) -> Result<()> {
    for name in ["agentfsd", "agentfs-fuse"] {
        let program = siblings::find(name)?;
        let shown = program.display();
        let new = Asked::begin(Path::new(&program)).and_then(Asked::answer).map_err(|e| {
            CliError::new(Kind::Version, format!("{shown} cannot be used: {e}"))
                .hint("nothing was changed; do not restart the units before it is repaired")
        })?;
        if let Some(why) = new.misfit(running) {
            let message = format!("{shown} (release {}) does not fit what runs: it has {why}", new.release);
            return Err(CliError::new(Kind::Version, message)
                .hint("the build that runs goes on serving; install one that fits before the units are restarted"));
        }
    }
    Ok(())
}

fn describe(upgraded: &Upgraded) -> String {
    let mut text = format!("release {} serves", upgraded.release);
    if let (Some(pid), Some(ms)) = (upgraded.daemon_pid, upgraded.daemon_ms) {
        text.push_str(&format!(": daemon {pid}, after {ms} ms"));
    }
    text.push_str(&format!(
        "; {} replaced, each within {} ms\n",
        count(upgraded.frontends, "frontend", "frontends"),
        upgraded.frontend_ms_max
    ));
    for mountpoint in &upgraded.later {
        text.push_str(&format!("{}: replaced when its requests are done\n", mountpoint.display()));
    }
    text
}
