//! Every cap of the wire, with its reason. Neither side accepts more, whatever the peer says.

/// Longest name of a directory entry or extended attribute, in bytes (`NAME_MAX`, `XATTR_NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest symbolic link target, in bytes (`PATH_MAX` less its terminating zero).
pub const SYMLINK_MAX: usize = 4095;
/// Longest extended attribute value and attribute list, in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub const XATTR_SIZE_MAX: usize = 65536;
/// Room for one encoded request in a slot, in bytes: two names and the fixed fields.
pub const REQUEST_MAX: usize = 1024;
/// Room for one encoded reply in a slot, in bytes: two attribute blocks and the fixed fields.
pub const REPLY_MAX: usize = 512;
/// Largest payload of one request or reply, in bytes: the `max_write` that is negotiated with the
/// kernel. More gained nothing when measured.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Most bytes that an ioctl takes or gives: what its number has room to say (`_IOC_SIZEBITS`).
pub const IOCTL_MAX: usize = (1 << 14) - 1;
/// Where in the payload the data that an ioctl gives begins: behind all that it can take.
pub const IOCTL_OUT_AT: usize = 1 << 14;
/// Where in the payload the names that an ioctl's answer lets expire begin: behind its data.
pub const IOCTL_NAMES_AT: usize = 2 << 14;
/// Most bytes of such names.
pub const IOCTL_NAMES_MAX: usize = PAYLOAD_MAX - IOCTL_NAMES_AT;
/// Longest wait before the answer to an ioctl, in milliseconds.
pub const IOCTL_SETTLE_MAX: u32 = 10_000;
/// Most node ids in one forget message.
pub const FORGET_MAX: usize = 4096;
/// Most slots of a region.
pub const SLOTS_MAX: u32 = 1024;
/// Most queue pairs of a region.
pub const QUEUES_MAX: u32 = 64;
