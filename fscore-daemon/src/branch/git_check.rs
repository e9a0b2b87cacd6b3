//! Git repositories that reach out of a base: what git would write, or read, beside the branch.

use super::info::refuse;
use shm_transport::control::{ErrorCode, Failure};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Longest file of git that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most submodules and worktrees that are looked at.
const CHECKOUTS_MAX: usize = 1000;
/// Parts of a repository that git writes to, and that may be links to those of another one.
const PARTS: [&str; 8] = ["objects", "refs", "logs", "config", "packed-refs", "HEAD", "index", "modules"];

/// A checkout whose repository lies elsewhere is refused: programs on the branch would change that repository. What
/// else is not isolated, or not where git looks for it, is answered to be told.
pub(super) fn check(base: &Path, frozen: bool) -> Result<Vec<String>, Failure> {
    let git = base.join(".git");
    let Ok(meta) = std::fs::symlink_metadata(&git) else { return Ok(Vec::new()) };
    if !meta.is_dir() {
        return match git_dir(&git, &meta) {
            Some(dir) => outside(base, &resolve(base, &dir)).map(|()| Vec::new()),
            None => Ok(Vec::new()),
        };
    }
    for part in PARTS {
        if let Ok(to) = std::fs::read_link(git.join(part)) {
            outside(base, &resolve(&git, &to))?;
        }
    }
    let mut warnings = Vec::new();
    if !frozen {
        warnings.push(format!(
            "{} is a live git checkout: changes made to it on the host show on the branch; leave it alone or declare it --frozen",
            base.display()
        ));
    }
    for dir in alternates(&git.join("objects")).into_iter().filter(|dir| !dir.starts_with(base)) {
        warnings.push(format!(
            "git reads objects of this repository from {}, which is not part of the branch: what is removed there is missing here; `git repack -a -d` in {} makes it independent",
            dir.display(),
            base.display()
        ));
    }
    for checkout in checkouts(base, &git) {
        warnings.extend(warning(base, &checkout));
    }
    Ok(warnings)
}

/// Refuses a repository that is not in the base.
fn outside(base: &Path, dir: &Path) -> Result<(), Failure> {
    if dir.starts_with(base) {
        return Ok(());
    }
    let message = format!("{} belongs to a git repository outside of it ({})", base.display(), dir.display());
    let main = dir.ancestors().find(|d| d.ends_with(".git")).and_then(Path::parent);
    let both = base.ancestors().find(|above| dir.starts_with(above)).filter(|above| above.parent().is_some());
    let hint = match (main, both) {
        (Some(main), Some(both)) if main == both => format!("use the checkout that holds both: {}", main.display()),
        (Some(main), Some(both)) => {
            format!("use the main checkout, {}, or a directory that holds both, {}", main.display(), both.display())
        }
        (Some(main), None) => format!("use the main checkout: {}", main.display()),
        (None, Some(both)) => format!("use a directory that holds both: {}", both.display()),
        (None, None) => "use a directory that holds both".to_owned(),
    };
    Err(refuse(ErrorCode::Base, message).hint(hint).done())
}

/// What there is to say of a submodule or worktree in the base.
fn warning(base: &Path, checkout: &Path) -> Option<String> {
    let git = checkout.join(".git");
    let meta = std::fs::symlink_metadata(&git).ok().filter(|meta| !meta.is_dir())?;
    let named = git_dir(&git, &meta)?;
    let dir = resolve(checkout, &named);
    let place = checkout.display();
    if !dir.starts_with(base) {
        return Some(format!(
            "the repository of {place} is {}, which is not part of the branch: git in it changes that one; use a base that holds both, or a clone of it",
            dir.display()
        ));
    }
    named.is_absolute().then(|| {
        format!(
            "{place} names its repository by its absolute path, {}: on a mount elsewhere git in it changes that one and not the branch's; use `agentfs run`, where the branch is at that path, or let git write it relative",
            named.display()
        )
    })
}

/// Where submodules and worktrees in the base are, as far as its repository knows of them.
fn checkouts(base: &Path, git: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let modules = read(&base.join(".gitmodules")).unwrap_or_default();
    for line in modules.split(|byte| *byte == b'\n') {
        if let Some((key, value)) = split_once(line, b'=')
            && key.trim_ascii().eq_ignore_ascii_case(b"path")
        {
            let value = value.trim_ascii();
            let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
            found.insert(resolve(base, Path::new(OsStr::from_bytes(value))));
        }
    }
    for entry in std::fs::read_dir(git.join("worktrees")).into_iter().flatten().flatten().take(CHECKOUTS_MAX) {
        let Some(named) = read(&entry.path().join("gitdir")) else { continue };
        let file = resolve(&entry.path(), Path::new(OsStr::from_bytes(named.trim_ascii())));
        found.extend(file.parent().map(Path::to_path_buf));
    }
    found.into_iter().filter(|dir| dir.starts_with(base)).take(CHECKOUTS_MAX).collect()
}

/// Directories that a repository borrows objects from, and those that these borrow from.
fn alternates(objects: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![objects.to_path_buf()];
    while let Some(at) = left.pop() {
        for line in read(&at.join("info/alternates")).unwrap_or_default().split(|byte| *byte == b'\n') {
            if !line.is_empty() && !line.starts_with(b"#") {
                let dir = resolve(&at, Path::new(OsStr::from_bytes(line)));
                if found.len() < CHECKOUTS_MAX && found.insert(dir.clone()) {
                    left.push(dir);
                }
            }
        }
    }
    found
}

/// Where a path leads; of what does not exist, where it would be.
fn resolve(from: &Path, path: &Path) -> PathBuf {
    let path = from.join(path);
    if let Ok(found) = std::fs::canonicalize(&path) {
        return found;
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

fn split_once(line: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|byte| *byte == at)?;
    Some((line.get(..at)?, line.get(at + 1..)?))
}

/// A regular file that is not too long. Not a FIFO, which would be waited for.
fn read(path: &Path) -> Option<Vec<u8>> {
    let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    if meta.len() > FILE_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Where a `.git` that is no directory leads, relative to the directory it lies in.
fn git_dir(git: &Path, meta: &std::fs::Metadata) -> Option<PathBuf> {
    if meta.is_symlink() {
        return std::fs::read_link(git).ok();
    }
    let bytes = read(git)?;
    let dir = bytes.strip_prefix(b"gitdir:")?.trim_ascii();
    Some(PathBuf::from(OsStr::from_bytes(dir)))
}
