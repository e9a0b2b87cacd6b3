//! A process that must see its own branch and no other's: it changes and reads the same paths as others do on theirs.

use crate::sys;
use rustix::fs::OFlags;
use std::fs;
use std::io;
use std::path::Path;

/// Works `rounds` times below `root`, the root of a mount. All that it writes has `word` in it, and it must read nothing
/// else.
///
/// # Errors
/// Something else was read, or an operation failed.
pub fn run(root: &Path, word: &str, rounds: u64) -> Result<(), String> {
    let at = |name: &str| root.join(name);
    let told = |what: &'static str, round: u64| move |e: io::Error| format!("{word}: {what} in round {round}: {e}");
    let own = |what: &str, round: u64, bytes: &[u8], wanted: &str| {
        if bytes == wanted.as_bytes() {
            return Ok(());
        }
        Err(format!("{word}: {what} in round {round} has {:?}, not {wanted:?}", String::from_utf8_lossy(bytes)))
    };
    for round in 0..rounds {
        let text = format!("{word} {round}");
        fs::write(at("same"), &text).map_err(told("writing", round))?;
        own("the file", round, &fs::read(at("same")).map_err(told("reading", round))?, &text)?;
        if round % 16 == 0 {
            // A name that comes and goes.
            let made = sys::open(&at("made"), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, 0o644);
            made.map_err(|e| told("creating", round)(e.into()))?;
            fs::rename(at("made"), at("moved")).map_err(told("renaming", round))?;
            if at("made").exists() {
                return Err(format!("{word}: a renamed file has its old name in round {round}"));
            }
            fs::remove_file(at("moved")).map_err(told("removing", round))?;
        }
        if round % 64 == 0 {
            let dir = at("dir");
            fs::create_dir(&dir).map_err(told("making a directory", round))?;
            fs::write(dir.join("in"), &text).map_err(told("writing in a directory", round))?;
            own(
                "a file in a directory",
                round,
                &fs::read(dir.join("in")).map_err(told("reading there", round))?,
                &text,
            )?;
            let names = sys::readdir(root).map_err(|e| told("listing", round)(e.into()))?;
            let mine = format!("only-{word}");
            let only: Vec<_> = names.iter().map(|(n, ..)| n.as_slice()).filter(|n| n.starts_with(b"only-")).collect();
            if only != [mine.as_bytes()] {
                return Err(format!("{word}: the names of another branch in round {round}: {names:?}"));
            }
            fs::remove_dir_all(&dir).map_err(told("removing a directory", round))?;
        }
    }
    Ok(())
}
