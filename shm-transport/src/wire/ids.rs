//! Newtypes for the numbers that name things on the wire.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// The number by which the kernel names an object of one mount (FUSE `nodeid`).
///
/// Bits 0..53 are the object id (which is also `st_ino`), bits 53..64 the view slot of the session;
/// slot 0 is the branch the session mounted. The root of every view has object bits 1, because the
/// kernel fixes the root's nodeid. 0 means "no object" (a negative entry).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory of the session's default view (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
    /// The directory `.agentfs` in the root; its number is that of no object.
    pub const CONTROL_DIR: Self = Self((1 << 53) - 1);
    /// The file `control` in it.
    pub const CONTROL_FILE: Self = Self((1 << 53) - 2);
    /// Bits that name the object; the ones above name the view.
    const OBJECT_BITS: u32 = 53;

    /// The view of the session that the object belongs to. The root has that of whoever asks.
    pub fn slot(self) -> ViewSlot {
        ViewSlot((self.0 >> Self::OBJECT_BITS) as u16)
    }

    /// The same object in the default view, that is its number.
    #[must_use]
    pub fn without_slot(self) -> Self {
        Self(self.0 & ((1 << Self::OBJECT_BITS) - 1))
    }

    /// The node of the object of this number in a view.
    #[must_use]
    pub fn in_view(number: u64, slot: ViewSlot) -> Self {
        Self(u64::from(slot.0) << Self::OBJECT_BITS | number)
    }

    /// No object: the reply to a lookup of a name that does not exist.
    pub const NONE: Self = Self(0);
}

/// One of the views that a session shows: 0 is the branch that it mounted, others are branches that processes were
/// bound to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ViewSlot(pub u16);

impl ViewSlot {
    /// The branch that is mounted.
    pub const MAIN: Self = Self(0);
}

/// The kernel's own number of one request (FUSE `unique`) without the resend mark (bit 63).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// One kernel connection: made once per mount, survives both processes, never used again.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
)]
#[serde(transparent)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Index of a slot in its region, `0..geometry.slots`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotIndex(pub u32);
