//! Small programs that tests run as child processes: under another user, in another namespace, or while
//! the product is killed under them.

mod model;
pub mod same;

use crate::sys::{self, Res};
use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use std::io::Write;
use std::path::Path;

pub use model::{Expected, Model, look};

/// Runs one operation on paths and gives its errno by name, or `OK`.
///
/// # Errors
/// The operation is not known, or paths are missing.
pub fn errno(op: &str, paths: &[std::path::PathBuf]) -> Result<&'static str, String> {
    let one: &Path = paths.first().ok_or("a path is missing")?;
    let two: &Path = paths.get(1).map_or(Path::new(""), |p| p);
    let result = match op {
        "stat" => sys::stat(one).map(drop),
        "open-r" => sys::open(one, OFlags::RDONLY, 0).map(drop),
        "open-w" => sys::open(one, OFlags::WRONLY, 0).map(drop),
        "create" => sys::open(one, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o644).map(drop),
        "append" => append(one),
        "truncate" => sys::truncate(one, 0),
        "mkdir" => sys::mkdir(one, 0o755),
        "rmdir" => sys::rmdir(one),
        "unlink" => sys::unlink(one),
        "readdir" => sys::readdir(one).map(drop),
        "chmod" => sys::chmod(one, 0o700),
        "chown" => sys::lchown(one, Some(0), None),
        "utimens" => sys::utimens(one, (1, 0), (1, 0)),
        "setxattr" => sys::setxattr(one, "user.probe", b"1", XattrFlags::empty()),
        "set-trusted" => sys::setxattr(one, "trusted.probe", b"1", XattrFlags::empty()),
        "rename" => sys::rename(one, two),
        "exchange" => sys::rename_with(one, two, RenameFlags::EXCHANGE),
        "link" => sys::link(one, two),
        "symlink" => sys::symlink(sys::bytes(one), two),
        "mknod-dev" => sys::mknod(one, rustix::fs::FileType::CharacterDevice, 0o600, 0x0103),
        _ => return Err(format!("no operation {op}")),
    };
    Ok(match result {
        Ok(()) => "OK",
        Err(e) => sys::errno_name(e),
    })
}

fn append(path: &Path) -> Res<()> {
    let mut file = sys::open(path, OFlags::WRONLY | OFlags::APPEND, 0)?;
    file.write_all(b"x").map_err(|e| sys::of_io(&e))
}
