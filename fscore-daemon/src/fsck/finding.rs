//! What a check tells.

use crate::core::ids::ContentId;
use crate::core::keys;
use shm_transport::control::escape::escape;
use shm_transport::control::{FsckFinding, FsckSeverity};

pub(super) use shm_transport::control::FsckSeverity as Severity;

/// One step of a repair that loses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Writes a record.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a record.
    Delete(Vec<u8>),
    /// Removes a content file, after the records that named it are gone for good.
    Remove(ContentId),
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// As the user is told it.
    pub told: FsckFinding,
    /// What mends it without a loss; empty where nothing does.
    pub repair: Vec<Repair>,
    /// The content file that it is about.
    pub content: Option<ContentId>,
}

/// What can be done by those who have no repair.
const RESTORE: &str = "restore a backup of the store, or copy what you need out of the branch and delete it";

impl Finding {
    pub(super) fn new(kind: &str, severity: FsckSeverity, key: String, message: impl Into<String>) -> Self {
        let hint = match severity {
            FsckSeverity::Error => RESTORE,
            FsckSeverity::Leftover => "harmless; `agentfs fsck --repair` removes it while the daemon is stopped",
        };
        let told = FsckFinding {
            kind: kind.into(),
            severity,
            key,
            path: None,
            message: message.into(),
            hint: hint.into(),
            repaired: false,
        };
        Self { told, repair: Vec::new(), content: None }
    }

    /// An error.
    pub(super) fn error(kind: &str, key: &[u8], message: impl Into<String>) -> Self {
        Self::new(kind, FsckSeverity::Error, shown_key(key), message)
    }

    /// Something that nothing needs.
    pub(super) fn leftover(kind: &str, key: &[u8], message: impl Into<String>) -> Self {
        Self::new(kind, FsckSeverity::Leftover, shown_key(key), message)
    }

    #[must_use]
    pub(super) fn at(mut self, path: Option<String>) -> Self {
        self.told.path = path;
        self
    }

    #[must_use]
    pub(super) fn mend(mut self, repair: Vec<Repair>) -> Self {
        if self.told.severity == FsckSeverity::Error && !repair.is_empty() {
            self.told.hint = "`agentfs fsck --repair` mends it while the daemon is stopped".into();
        }
        self.repair = repair;
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.told.hint = hint.into();
        self
    }

    #[must_use]
    pub(super) fn content(mut self, id: ContentId) -> Self {
        self.content = Some(id);
        self
    }
}

/// How many numbers the keys of a letter begin with.
fn numbers(letter: u8) -> usize {
    match letter {
        b'M' => 0,
        b'D' | b'L' | b'O' | b'R' | b'U' | b'W' | b'X' | b'p' | b'q' => 2,
        b'N' => 3,
        _ => 1,
    }
}

/// A key for people: its letter, its numbers, and its name.
pub(super) fn shown_key(key: &[u8]) -> String {
    let Some(letter) = key.first() else { return "(empty)".into() };
    let count = numbers(*letter);
    let mut parts = vec![escape(&[*letter])];
    for at in 0..count {
        match keys::number(key, at) {
            Some(number) => parts.push(number.to_string()),
            None => {
                parts.push(escape(keys::tail(key, at).unwrap_or_default()));
                return parts.join(" ");
            }
        }
    }
    let tail = keys::tail(key, count).unwrap_or_default();
    // The change index has a second key behind its first number.
    let second = tail.split_first().filter(|_| *letter == b'C').and_then(|(letter, rest)| {
        let (number, name) = rest.split_first_chunk::<8>()?;
        Some([escape(&[*letter]), u64::from_be_bytes(*number).to_string(), escape(name)])
    });
    match second {
        Some(second) => parts.extend(second),
        None => parts.push(escape(tail)),
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}
