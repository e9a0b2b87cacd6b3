//! The directories of a store's bases, in the file `bases`: a daemon must know them before it gives up the rights that
//! it needs to take them along, and that is before it opens the store. The records in the store are the truth.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const LEN_MAX: u64 = 16 << 20;
/// Ends each path.
const END: u8 = 0;

/// The paths in the list; none where there is no list.
pub fn read(store: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let file = match File::open(store.join("bases")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LEN_MAX), &mut bytes)?;
    let paths = bytes.split(|byte| *byte == END).map(|path| Path::new(OsStr::from_bytes(path)).to_owned());
    Ok(paths.filter(|path| path.is_absolute()).collect())
}

/// Replaces the list; one writer at a time. A power loss may take it: the next daemon makes it anew.
pub fn write(store: &Path, paths: impl IntoIterator<Item = PathBuf>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for path in paths.into_iter().collect::<BTreeSet<_>>() {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(END);
    }
    let new = store.join("bases.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    fs::rename(&new, store.join("bases"))
}
