//! Numbers that name things in the store. None is ever used again.

use shm_transport::wire::NodeId;
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A file system object; also its `st_ino`. An object of the base has its host inode number,
    /// everything made on a branch has a number from [`ObjectId::FIRST_NEW`] on.
    ObjectId
}
id! {
    /// A node of the version tree: a branch head or a frozen ancestor of one.
    EpochId
}
id! {
    /// A branch.
    BranchId
}
id! {
    /// A content file.
    ContentId
}
id! {
    /// A base directory.
    BaseId
}

impl ObjectId {
    /// First number of objects that a branch made. Host inode numbers from here on are refused: they
    /// would collide. Numbers stay below 2^53, the bits of a node id that name an object, and the
    /// largest integers that JavaScript programs read exactly from `stat`.
    pub const FIRST_NEW: u64 = 1 << 52;
    /// One more than the greatest object number. The last two below 2^53 are those of the control door.
    pub const END: u64 = NodeId::CONTROL_FILE.0;

    /// Whether the object comes from the base.
    pub fn is_base(self) -> bool {
        self.0 < Self::FIRST_NEW
    }
}
