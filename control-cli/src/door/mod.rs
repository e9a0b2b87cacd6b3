//! `agentfs-control-cli`: the same program under another name, which asks a mount's control file.

mod args;

use crate::commands::{bind, branch, diff, snapshot};
use crate::error::{CliError, Kind, Result, kind_of};
use crate::exit;
use crate::output::{Output, shown};
use args::{Cli, Command as Order};
use clap::Parser;
use serde_json::{Value, json};
use shm_transport::control::door::{Door, DoorError};
use shm_transport::control::{BranchInfo, Command, Diff, SnapshotInfo};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name by which the program is this one.
const NAME: &str = "agentfs-control-cli";

/// Whether the program was started by that name.
pub(crate) fn is_meant() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.as_deref().and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// Runs to its end.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return crate::misunderstood(&e),
    };
    let output = Output { json: cli.global.json };
    match obey(output, cli) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            output.error(&error);
            ExitCode::from(exit::code(error.kind))
        }
    }
}

/// The control file, asked as commands ask.
struct Asks(Door);

impl Asks {
    fn open(mount: Option<PathBuf>) -> Result<Self> {
        let root = || std::env::var_os("AGENTFS_ROOT").filter(|root| !root.is_empty()).map(PathBuf::from);
        let mount = mount.or_else(root).ok_or_else(|| {
            CliError::new(Kind::Usage, "no mount was named").hint(format!("{NAME} --mount MNT COMMAND"))
        })?;
        Door::open(&mount).map(Self).map_err(told)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, command: Command) -> Result<T> {
        self.0.ask(command).map_err(told)
    }

    /// The mounted branch's name.
    fn branch(&self) -> Result<String> {
        self.ask::<BranchInfo>(Command::BranchShow { name: String::new() }).map(|info| info.name)
    }

    /// `BRANCH@SNAPSHOT`, or a snapshot of the mounted branch.
    fn snapshot(&self, id: &str) -> Result<(String, String)> {
        match id.split_once('@') {
            Some((branch, name)) => Ok((branch.into(), name.into())),
            None => Ok((self.branch()?, id.into())),
        }
    }
}

/// What the user is told.
pub(crate) fn told(error: DoorError) -> CliError {
    let kind = match &error {
        DoorError::Refused(failure) => return failure.clone().into(),
        DoorError::Missing(_) => Kind::NotFound,
        DoorError::System { source, .. } if source.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT) => Kind::Version,
        DoorError::System { source, .. } => kind_of(source),
        DoorError::TooLong => Kind::Usage,
        DoorError::Data(_) => Kind::Version,
    };
    let denied = kind == Kind::Denied;
    let error = CliError::new(kind, error.to_string());
    if denied { error.hint("only root and the owner of the mounted branch may use it") } else { error }
}

fn obey(output: Output, cli: Cli) -> Result<()> {
    let door = Asks::open(cli.global.mount)?;
    match cli.command {
        Order::SnapshotCreate { name } => {
            let info: SnapshotInfo = door.ask(Command::SnapshotCreate { branch: String::new(), name })?;
            output.result(&with_id(&info), || snapshot::made(&info))?;
        }
        Order::SnapshotList { all } => {
            let branch = (!all).then(String::new);
            let list: Vec<SnapshotInfo> = door.ask(Command::SnapshotList { branch })?;
            let document: Vec<Value> = list.iter().map(with_id).collect();
            output.result(&document, || snapshot::listing(&list))?;
        }
        Order::SnapshotDelete { snapshot } => {
            let (branch, name) = door.snapshot(&snapshot)?;
            door.ask::<Value>(Command::SnapshotDelete { branch: branch.clone(), name: name.clone(), dry_run: false })?;
            output.result(&json!({"branch": branch, "name": name, "dry_run": false}), || {
                format!("deleted the snapshot {}@{}\n", shown(&branch), shown(&name))
            })?;
        }
        Order::BranchCreate { snapshot, name } => {
            let from = match snapshot {
                Some(id) => door.snapshot(&id).map(|(branch, name)| format!("{branch}@{name}"))?,
                None => door.branch()?,
            };
            let create = Command::BranchCreate {
                name,
                base: None,
                from: Some(from),
                frozen: false,
                reuse: false,
                limits: shm_transport::control::Limits::default(),
            };
            let info: BranchInfo = door.ask(create)?;
            output.result(&info, || branch::made(&info))?;
        }
        Order::BranchList => {
            let list: Vec<BranchInfo> = door.ask(Command::BranchList { weigh: false })?;
            output.result(&list, || branch::listing(&list))?;
        }
        Order::BranchDelete { branch: name } => {
            let removed = door.ask(Command::BranchDelete { name: name.clone(), dry_run: false })?;
            let document = json!({"branch": name, "dry_run": false, "removed": removed});
            output.result(&document, || branch::told(&name, &removed, false))?;
        }
        Order::BranchBind { branch, pid, by_descent } => {
            let bound = bind::carry_out(&door.0, &branch, Some(pid), by_descent)?;
            output.result(&bound, || format!("process {} sees the branch {}\n", bound.pid, shown(&bound.branch)))?;
        }
        Order::BranchUnbind { pid } => {
            door.ask::<Value>(Command::BranchUnbind { pid: Some(pid) })?;
            output.result(&json!({"pid": pid}), || format!("process {pid} sees the mounted branch\n"))?;
        }
        Order::Diff { stat, limit } => {
            let limit = if stat { 0 } else { limit.unwrap_or(u64::MAX) };
            let ask = |limit, skip| {
                let (branch, against, sources) = (String::new(), None, false);
                door.ask::<Diff>(Command::Diff { branch, against, limit, skip, sources })
            };
            let whole = diff::paged(limit, ask)?;
            output.result(&whole, || diff::text(&whole, stat))?;
        }
    }
    Ok(())
}

/// A snapshot with the one word that names it.
fn with_id(info: &SnapshotInfo) -> Value {
    let mut value = json!(info);
    if let Some(map) = value.as_object_mut() {
        map.insert("id".into(), format!("{}@{}", info.branch, info.name).into());
    }
    value
}
