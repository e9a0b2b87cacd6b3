//! `agentfs fsck`: by the daemon while it runs, else by a process of its own that takes the store's lock.

use crate::args;
use crate::context::{Context, Told};
use crate::error::{CliError, Doing, Kind, Result};
use crate::exit;
use crate::output::{count, shown};
use crate::siblings;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::{ErrorCode, FsckFinding, FsckReport, FsckSeverity};
use std::process::{Command, Stdio};

/// `agentfs fsck`; the exit code.
pub(super) fn fsck(context: &Context, args: &args::Fsck) -> Result<u8> {
    let report = match Client::connect(&context.paths.socket) {
        Err(e) if e.is_not_running() => offline(context, args.repair)?,
        Err(e) => return Err(e).told(),
        Ok(_) if args.repair => {
            return Err(CliError::new(Kind::Busy, "the daemon uses the store, and a repair needs it alone")
                .hint("agentfs daemon stop"));
        }
        Ok(mut client) => {
            context.check_store(&mut client)?;
            online(&mut client)?
        }
    };
    let code = if report.errors > 0 { exit::code(Kind::Store) } else { exit::OK };
    context.output.result(&report, || describe(&report))?;
    Ok(code)
}

fn online(client: &mut Client) -> Result<FsckReport> {
    match client.fsck() {
        // Of a release before it could.
        Err(ClientError::Refused(failure)) if failure.code == ErrorCode::Usage => {
            Err(CliError::from(failure).hint("restart the daemon, so that it is of this release"))
        }
        other => other.told(),
    }
}

fn offline(context: &Context, repair: bool) -> Result<FsckReport> {
    let program = siblings::find("agentfsd")?;
    let mut command = Command::new(&program);
    command.arg("--check").args(repair.then_some("--repair")).arg("--store").arg(&context.paths.store);
    // What it tells goes into our own words.
    let output = command.stdin(Stdio::null()).output().doing(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let message = told.lines().last().unwrap_or("it was killed").trim_start_matches("agentfsd: ").to_owned();
        let kind = match output.status.code() {
            Some(75) => Kind::Busy,
            Some(76) => Kind::Version,
            Some(28) => Kind::NoSpace,
            Some(74) => Kind::Store,
            _ => Kind::System,
        };
        let error = CliError::new(kind, message);
        return Err(if kind == Kind::Busy {
            error.hint("let its daemon check it: name its socket with --socket, or stop that process")
        } else {
            error
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|e| {
        CliError::new(Kind::Version, format!("the answer of {} is not understood: {e}", program.display()))
            .hint("use an agentfs and an agentfsd of one release")
    })
}

fn describe(report: &FsckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&line(finding));
    }
    let listed = report.findings.len() as u64;
    let all = report.errors + report.leftovers + report.repaired;
    if listed < all {
        text.push_str(&format!("... and {} more\n", all - listed));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {}\n", shown(note)));
    }
    let how = if report.online { "in use" } else { "not in use" };
    text.push_str(&format!(
        "{}, {how}: {}, {}; {}, {}, {} mended\n",
        report.store.display(),
        count(report.records, "record", "records"),
        count(report.contents, "content file", "content files"),
        count(report.errors, "error", "errors"),
        count(report.leftovers, "leftover", "leftovers"),
        report.repaired,
    ));
    text
}

fn line(finding: &FsckFinding) -> String {
    let state = match (finding.repaired, finding.severity) {
        (true, _) => "mended",
        (false, FsckSeverity::Error) => "ERROR",
        (false, FsckSeverity::Leftover) => "leftover",
    };
    let path = finding.path.as_ref().map(|path| format!(" {}", shown(path))).unwrap_or_default();
    let hint = if finding.repaired { String::new() } else { format!("    {}\n", shown(&finding.hint)) };
    let (key, message) = (shown(&finding.key), shown(&finding.message));
    format!("{state}  {} [{key}]{path}: {message}\n{hint}", finding.kind)
}
