//! A Linux error number on the wire.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// A Linux error number, `1..=4095`, as the kernel expects it from a FUSE server (without sign).
///
/// Success cannot be expressed; the named constants are those of `errno(3)`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "` of `errno(3)`.")]
            pub const $name: Self = Self(libc::$name as u16);)*

            /// The symbolic name, for logs and messages.
            pub fn name(self) -> &'static str {
                match i32::from(self.0) {
                    $(libc::$name => stringify!($name),)*
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EBUSY EEXIST EXDEV ENODEV ENOTDIR
    EISDIR EINVAL EMFILE ENFILE ENOTTY EFBIG ENOSPC ESPIPE EROFS EMLINK ERANGE EDEADLK ENAMETOOLONG
    ENOSYS ENOTEMPTY ELOOP ENODATA EPROTO EOVERFLOW EOPNOTSUPP ESTALE EDQUOT ECONNABORTED ENOTCONN
    ETIMEDOUT EMSGSIZE EPROTONOSUPPORT
}

impl Errno {
    /// The number, positive.
    pub fn get(self) -> i32 {
        i32::from(self.0)
    }

    /// From a number that the kernel or libc gave; anything outside `1..=4095` becomes `EIO`.
    pub fn from_raw(raw: i32) -> Self {
        u16::try_from(raw).ok().filter(|n| (1..=4095).contains(n)).map_or(Self::EIO, Self)
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(e: nix::errno::Errno) -> Self {
        Self::from_raw(e as i32)
    }
}

impl From<&std::io::Error> for Errno {
    fn from(e: &std::io::Error) -> Self {
        Self::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
