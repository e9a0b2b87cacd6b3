//! The caller's side of the door.

use super::{BUFFER_MAX, DIRECTORY, FILE, HEAD, Head};
use crate::control::{Answer, Call, Command, Failure, VERSION};
use crate::mem::sys::FuseFile;
use crate::wire::NodeId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often an answer is begun anew that changed while it was read.
const TRIES: u32 = 16;
/// How long a daemon may have too many calls under way.
const BUSY_MAX: Duration = Duration::from_mins(1);
/// Pause before the next attempt.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why a call through the door has no result.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is none.
    #[error("{} has no control file: it is not the root of an AgentFS mount, or the directory has an entry .agentfs of its own", .0.display())]
    Missing(PathBuf),
    /// The system or the file system refused something.
    #[error("cannot use the control file of {}: {source}", mount.display())]
    System {
        /// The mount.
        mount: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// The call does not fit.
    #[error("the call is too long for a control file")]
    TooLong,
    /// The answer is not what it should be.
    #[error("the answer of the control file of {} is not understood", .0.display())]
    Data(PathBuf),
    /// The daemon refused; code and hint stand in it.
    #[error("{0}")]
    Refused(Failure),
}

/// The control file of a mount, open.
#[derive(Debug)]
pub struct Door {
    mount: PathBuf,
    file: FuseFile,
}

impl Door {
    /// Opens the control file below the root of a mount. Nothing else is opened that has its name.
    pub fn open(mount: &Path) -> Result<Self, DoorError> {
        let path = mount.join(OsStr::from_bytes(DIRECTORY)).join(OsStr::from_bytes(FILE));
        match FuseFile::open(&path, NodeId::CONTROL_FILE.0) {
            Ok(Some(file)) => Ok(Self { mount: mount.to_owned(), file }),
            Ok(None) => Err(DoorError::Missing(mount.to_owned())),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                Err(DoorError::Missing(mount.to_owned()))
            }
            Err(source) => Err(DoorError::System { mount: mount.to_owned(), source }),
        }
    }

    /// Asks, and waits for the answer's data.
    pub fn call(&self, command: Command) -> Result<Value, DoorError> {
        let call = serde_json::to_vec(&Call { v: VERSION, command }).map_err(|_| DoorError::TooLong)?;
        for _ in 0..TRIES {
            if let Some(answer) = self.whole(&call)? {
                return match serde_json::from_slice(&answer) {
                    Ok(Answer::Ok(value)) => Ok(value),
                    Ok(Answer::Error(failure)) => Err(DoorError::Refused(failure)),
                    Err(_) => Err(DoorError::Data(self.mount.clone())),
                };
            }
        }
        Err(self.system(io::Error::from_raw_os_error(libc::ESTALE)))
    }

    /// As [`Self::call`], with the data as its type.
    pub fn ask<T: DeserializeOwned>(&self, command: Command) -> Result<T, DoorError> {
        serde_json::from_value(self.call(command)?).map_err(|_| DoorError::Data(self.mount.clone()))
    }

    fn system(&self, source: io::Error) -> DoorError {
        DoorError::System { mount: self.mount.clone(), source }
    }

    /// The whole answer, part by part; none when it became another one meanwhile.
    fn whole(&self, call: &[u8]) -> Result<Option<Vec<u8>>, DoorError> {
        let mut answer = Vec::new();
        let mut tag = 0;
        loop {
            let from = answer.len() as u64;
            let mut buffer = super::encode(call, from, tag, BUFFER_MAX).ok_or(DoorError::TooLong)?;
            let refused = self.exchange(&mut buffer).err();
            let head = Head::decode(&buffer).filter(|head| head.total > 0 && head.from == from);
            let part = head.and_then(|head| Some((head, buffer.get(HEAD..HEAD + head.len as usize)?)));
            match (refused, part) {
                // It was not answered at all.
                (Some(e), None) if from > 0 && e.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
                (Some(e), None) => return Err(self.system(e)),
                (_, Some((head, part))) if !part.is_empty() => {
                    answer.extend_from_slice(part);
                    tag = head.tag;
                    if answer.len() as u64 >= head.total {
                        return Ok(Some(answer));
                    }
                }
                (_, _) => return Err(DoorError::Data(self.mount.clone())),
            }
        }
    }

    fn exchange(&self, buffer: &mut [u8]) -> io::Result<()> {
        let end = Instant::now() + BUSY_MAX;
        loop {
            match self.file.exchange(super::KIND, super::NUMBER, buffer) {
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && Instant::now() < end => {
                    std::thread::sleep(BUSY_PAUSE);
                }
                other => return other,
            }
        }
    }
}
