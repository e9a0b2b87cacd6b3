//! What every command needs: where the store is, how to answer, and a connection to the daemon, which is
//! started where that helps.

use crate::args::Global;
use crate::error::{CliError, Doing, Kind, Result};
use crate::mountinfo;
use crate::output::Output;
use crate::start;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::escape::escape;
use shm_transport::control::line::LineError;
use shm_transport::control::paths::Paths;
use shm_transport::control::{BranchInfo, Command, ErrorCode, Failure, MountInfo, holder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the holder may take to bring the daemon back.
const BACK_MAX: Duration = Duration::from_secs(30);

/// The surroundings of one command.
#[derive(Debug)]
pub(crate) struct Context {
    /// Store and socket.
    pub(crate) paths: Paths,
    /// How to answer.
    pub(crate) output: Output,
    /// Both store and socket were named: they may not belong together.
    both_named: bool,
}

impl Context {
    /// From the options of the command line.
    pub(crate) fn new(global: &Global) -> Result<Self> {
        let paths = Paths::resolve(global.store.as_deref(), global.socket.as_deref())
            .map_err(|e| CliError::new(Kind::Usage, e.to_string()))?;
        let both_named = global.store.is_some() && global.socket.is_some();
        Ok(Self { paths, output: Output { json: global.json }, both_named })
    }

    /// A connection to a daemon that runs, with a limit for each answer.
    pub(crate) fn connect_within(&self, limit: Duration) -> Result<Client> {
        let mut client = Client::connect(&self.paths.socket).told()?;
        client.set_timeout(Some(limit)).doing(|| "limit the wait".into())?;
        self.check_store(&mut client)?;
        Ok(client)
    }

    /// A connection to the daemon, which is started if none runs.
    pub(crate) fn ensure(&self) -> Result<Client> {
        let mut client = match Client::connect(&self.paths.socket) {
            Err(e) if e.is_not_running() => start::start(&self.paths, &[])?,
            other => other.told()?,
        };
        self.check_store(&mut client)?;
        Ok(client)
    }

    /// The same, for what a holder is needed for too: a daemon may have lost its own.
    pub(crate) fn ensure_held(&self) -> Result<Client> {
        match holder::Client::connect(&self.paths.socket) {
            Ok(_) => self.ensure(),
            Err(_) => {
                let mut client = start::start(&self.paths, &[])?;
                self.check_store(&mut client)?;
                Ok(client)
            }
        }
    }

    /// A connection to a daemon that ran before, and that its holder brings back if it just died.
    pub(crate) fn reconnect(&self) -> Result<Client> {
        match Client::connect(&self.paths.socket) {
            Err(e) if e.is_not_running() => {
                if let Ok(mut holder) = holder::Client::connect(&self.paths.socket) {
                    holder.await_daemon(BACK_MAX)?;
                }
                Client::connect(&self.paths.socket).told()
            }
            other => other.told(),
        }
    }

    /// Asks; when the daemon dies over it, asks its successor. Only for what changes nothing.
    pub(crate) fn ask<T>(
        &self,
        client: &mut Client,
        mut question: impl FnMut(&mut Client) -> std::result::Result<T, ClientError>,
    ) -> Result<T> {
        match question(client) {
            Err(ClientError::Closed | ClientError::Line(LineError::Io(_) | LineError::Cut)) => {
                *client = self.reconnect()?;
                question(client).told()
            }
            other => other.told(),
        }
    }

    /// Refuses a daemon of another store than the one that was named.
    pub(crate) fn check_store(&self, client: &mut Client) -> Result<()> {
        if !self.both_named {
            return Ok(());
        }
        let serves = client.status().told()?.store;
        let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if canonical(&serves) == canonical(&self.paths.store) {
            return Ok(());
        }
        Err(CliError::new(
            Kind::Usage,
            format!(
                "the daemon on {} serves the store {}, not {}",
                self.paths.socket.display(),
                serves.display(),
                self.paths.store.display()
            ),
        )
        .hint("name the socket that belongs to the store, or leave --socket out"))
    }

    /// Makes a branch, or takes the one of that name. A base that this user's own, automatically started
    /// daemon may not read yet is added to what it may, unless `AGENTFS_ALLOW_BASE` says what may be read.
    pub(crate) fn create_branch(&self, client: &mut Client, create: &Command) -> Result<BranchInfo> {
        self.allowed(client, create, |client| client.branch_create(create.clone()))
    }

    /// The same of a copy of a base, see [`Command::BranchSeal`].
    pub(crate) fn seal_branch(&self, client: &mut Client, seal: &Command) -> Result<Option<BranchInfo>> {
        self.allowed(client, seal, |client| client.branch_seal(seal.clone()))
    }

    fn allowed<T>(
        &self,
        client: &mut Client,
        command: &Command,
        ask: impl Fn(&mut Client) -> std::result::Result<T, ClientError>,
    ) -> Result<T> {
        let refused = match ask(client) {
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::BaseNotAllowed => failure,
            other => return other.told(),
        };
        let (Command::BranchCreate { base: Some(base), .. } | Command::BranchSeal { base, .. }) = command else {
            return Err(not_allowed(refused));
        };

        // On a mount that is younger than the daemon, which a new one takes along.
        let late = client.status().told()?.allow_base.iter().any(|allowed| base.starts_with(allowed));
        if !late && std::env::var_os("AGENTFS_ALLOW_BASE").is_some() {
            return Err(not_allowed(refused));
        }
        // Before the daemon starts afresh for it.
        std::fs::read_dir(base).map_err(|e| {
            CliError::new(Kind::Base, format!("{} cannot be a base: {e}", base.display()))
                .hint("name a directory that exists and that you can read")
        })?;
        let Ok(mut holder) = holder::Client::connect(&self.paths.socket) else { return Err(not_allowed(refused)) };
        holder.allow_base(base)?;
        self.output.note(&if late {
            format!("the daemon started afresh: {} was mounted after it", base.display())
        } else {
            format!("the daemon may now read below {}", base.display())
        });
        *client = self.reconnect()?;
        ask(client).told()
    }

    /// Waits until a session is gone from the daemon's list; whether it is.
    pub(crate) fn wait_detached(
        &self,
        client: &mut Client,
        gone: impl Fn(&MountInfo) -> bool,
        limit: Duration,
    ) -> Result<bool> {
        let end = Instant::now() + limit;
        let mut nap = Duration::from_millis(1);
        loop {
            let mounts = self.ask(client, Client::mounts)?;
            if !mounts.iter().any(&gone) {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }
}

fn not_allowed(refused: Failure) -> CliError {
    let hint = refused.hint.clone();
    let error = CliError::from(refused);
    match hint {
        Some(_) => error,
        None => error.hint(
            "allow it: set AGENTFS_ALLOW_BASE to that directory and whatever else is to be allowed (colon-separated) and restart the daemon, or `agentfs daemon start --allow-base DIR`",
        ),
    }
}

/// A base directory as the daemon knows it: absolute, without symbolic links.
pub(crate) fn resolve_base(base: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| CliError::new(Kind::Base, format!("the base {} {why}", base.display()));
    let path = std::fs::canonicalize(base).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            refuse("does not exist").hint("name an existing directory with --base")
        } else {
            refuse(&format!("cannot be reached: {e}"))
        }
    })?;
    if !path.is_dir() {
        return Err(refuse("is not a directory"));
    }
    check_utf8(&path, Kind::Base, "base")?;
    if let Some(mount) = mountinfo::around(&path).doing(|| "read the list of mounts".into())? {
        return Err(refuse(&format!("lies on the mounted branch {}", mount.branch))
            .hint(format!("make a branch of that branch: agentfs branch create NAME --from {}", mount.branch)));
    }
    Ok(path)
}

/// The control protocol carries paths as text.
pub(crate) fn check_utf8(path: &Path, kind: Kind, what: &str) -> Result<()> {
    if path.to_str().is_some() {
        return Ok(());
    }
    let shown = escape(path.as_os_str().as_bytes());
    Err(CliError::new(kind, format!("the path of the {what}, {shown}, is not UTF-8"))
        .hint("rename the directory; what lies in it may have any names"))
}

/// A refusal of a base tells where the base really is; this adds the path that the user gave.
pub(crate) fn with_base_as_given(error: CliError, given: Option<&Path>) -> CliError {
    let of_base = matches!(error.kind, Kind::Base | Kind::BaseNotAllowed);
    match given.map(|path| path.display().to_string()) {
        Some(given) if of_base && !error.message.contains(&given) => error.prefix(&format!("the base {given}")),
        _ => error,
    }
}

/// Turns a client's error into what the user is told.
pub(crate) trait Told<T> {
    /// As the user is told it.
    fn told(self) -> Result<T>;
}

impl<T> Told<T> for std::result::Result<T, ClientError> {
    fn told(self) -> Result<T> {
        self.map_err(|error| {
            let message = error.to_string();
            let because = |kind| CliError::new(kind, message);
            match error {
                ClientError::Refused(failure) => failure.into(),
                ClientError::NotRunning { .. } => because(Kind::Unreachable).hint("start it: agentfs daemon start"),
                ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                    because(Kind::Denied).hint("each user has a daemon of their own: leave --store and --socket out")
                }
                ClientError::Connect { .. } | ClientError::NotTaken { .. } => because(Kind::Unreachable),
                ClientError::Line(LineError::Io(e))
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    CliError::new(Kind::Busy, "the daemon does not answer in time")
                        .hint("it is busy or stuck; look at `agentfs status` and at its log")
                }
                ClientError::Line(_) | ClientError::Closed => {
                    because(Kind::Unreachable).hint("the daemon ended meanwhile; try again, and look at its log")
                }
                ClientError::Data(_) => {
                    because(Kind::Version).hint("restart the daemon, so that it is of this release")
                }
            }
        })
    }
}
