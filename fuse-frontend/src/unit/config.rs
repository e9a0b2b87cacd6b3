//! `/etc/agentfs/mounts/NAME.conf`: what the unit `agentfs-mount@NAME` mounts.
//!
//! ```text
//! # Lines of KEY = VALUE.
//! branch = fix-1
//! base = /srv/project
//! mountpoint = /mnt/fix-1
//! options = ro,noatime
//! ```

use crate::options::Options;
use shm_transport::control::paths::Paths;
use shm_transport::control::{ErrorCode, Failure};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the files are, when nothing else is said.
const DIR: &str = "/etc/agentfs/mounts";
/// Longest file.
const LEN_MAX: u64 = 64 << 10;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnitConfig {
    pub(super) branch: String,
    pub(super) mountpoint: PathBuf,
    pub(super) options: Options,
}

fn refuse(file: &Path, why: &str) -> Failure {
    Failure {
        code: ErrorCode::Usage,
        message: format!("{}: {why}", file.display()),
        hint: Some(
            "its lines are: branch = NAME, base = DIR, mountpoint = DIR, options = …; # begins a comment".into(),
        ),
    }
}

/// The file of a unit.
pub(super) fn file_of(name: &str) -> PathBuf {
    let dir =
        std::env::var_os("AGENTFS_MOUNTS").filter(|dir| !dir.is_empty()).map_or_else(|| DIR.into(), PathBuf::from);
    dir.join(format!("{name}.conf"))
}

impl UnitConfig {
    /// Reads the file of a unit; without a line for it, the branch has the unit's name.
    pub(super) fn read(name: &str) -> Result<Self, Failure> {
        let file = file_of(name);
        if name.is_empty() || name.contains('/') {
            return Err(refuse(&file, "the name of a unit is that of a file"));
        }
        let text = || -> io::Result<String> {
            if fs::metadata(&file)?.len() > LEN_MAX {
                return Err(io::Error::other(format!("it has more than {LEN_MAX} bytes")));
            }
            fs::read_to_string(&file)
        };
        let text = text().map_err(|e| refuse(&file, &format!("cannot be read: {e}")))?;
        Self::parse(name, &file, &text)
    }

    pub(super) fn parse(name: &str, file: &Path, text: &str) -> Result<Self, Failure> {
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(refuse(file, "the last line has no end: it may be half written"));
        }
        let (mut branch, mut base, mut mountpoint, mut options) = (None, None, None, None);
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = at + 1;
            let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                return Err(refuse(file, &format!("line {at} is no KEY = VALUE")));
            };
            let field = match key {
                "branch" => &mut branch,
                "base" => &mut base,
                "mountpoint" => &mut mountpoint,
                "options" => &mut options,
                _ => return Err(refuse(file, &format!("line {at}: {key:?} is not known"))),
            };
            if value.is_empty() || field.is_some() {
                let what = if value.is_empty() { "has no value" } else { "stands there twice" };
                return Err(refuse(file, &format!("line {at}: {key:?} {what}")));
            }
            *field = Some(value.to_owned());
        }
        let absolute = |key: &str, value: String| {
            let path = PathBuf::from(value);
            if path.is_absolute() { Ok(path) } else { Err(refuse(file, &format!("{key} is not an absolute path"))) }
        };
        let mountpoint = mountpoint.ok_or_else(|| refuse(file, "no line says where the mountpoint is"))?;
        let mountpoint = absolute("mountpoint", mountpoint)?;
        let mut read = Options::default();
        read.add(&options.unwrap_or_default(), false)
            .map_err(|f| Failure { message: format!("{}: {}", file.display(), f.message), ..f })?;
        if !read.allow_base.is_empty() {
            return Err(refuse(
                file,
                "allow_base is the daemon's: set AGENTFS_ALLOW_BASE in /etc/agentfs/agentfsd.conf",
            ));
        }
        if let Some(base) = base {
            read.base = Some(absolute("base", base)?);
        }
        Ok(Self { branch: branch.unwrap_or_else(|| name.to_owned()), mountpoint, options: read })
    }

    /// Store and socket.
    pub(super) fn paths(&self) -> Result<Paths, Failure> {
        resolve(self.options.store.as_deref(), self.options.socket.as_deref())
    }
}

/// Store and socket of a unit whose file cannot be used.
pub(super) fn paths_without_file() -> Result<Paths, Failure> {
    resolve(None, None)
}

fn resolve(store: Option<&Path>, socket: Option<&Path>) -> Result<Paths, Failure> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let store = store.map(Path::to_owned).or_else(|| of("AGENTFS_STORE"));
    let socket = socket.map(Path::to_owned).or_else(|| of("AGENTFS_SOCKET"));
    Paths::resolve(store.as_deref(), socket.as_deref()).map_err(|e| Failure {
        code: ErrorCode::Usage,
        message: e.to_string(),
        hint: None,
    })
}
