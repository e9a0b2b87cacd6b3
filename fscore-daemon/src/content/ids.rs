//! Walks over all content files.

use std::fs::{ReadDir, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use super::root::relative;
use crate::core::ids::ContentId;

/// The numbers of all content files. Files that are none of ours are passed over.
#[derive(Debug)]
pub struct Ids {
    root: PathBuf,
    /// Directories being read, the top one first.
    open: Vec<ReadDir>,
}

/// Directory levels above the files, the top one included.
const LEVELS: usize = 3;

impl Ids {
    /// Of the content files below `root`.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), open: vec![read_dir(root)?] })
    }

    fn content_id(&self, path: &Path) -> Option<ContentId> {
        let name = path.file_name()?.to_str()?;
        let id = ContentId(u64::from_str_radix(name, 16).ok()?);
        (self.root.join(relative(id)) == path).then_some(id)
    }
}

impl Iterator for Ids {
    type Item = io::Result<ContentId>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(dir) = self.open.last_mut() {
            let entry = match dir.next() {
                None => {
                    self.open.pop();
                    continue;
                }
                Some(Ok(entry)) => entry,
                Some(Err(e)) => return Some(Err(e)),
            };
            let path = entry.path();
            if self.open.len() == LEVELS {
                if let Some(id) = self.content_id(&path) {
                    return Some(Ok(id));
                }
                continue;
            }
            match entry.file_type() {
                Ok(kind) if !kind.is_dir() => {}
                Ok(_) => match read_dir(&path) {
                    Ok(dir) => self.open.push(dir),
                    Err(e) => return Some(Err(e)),
                },
                Err(e) => return Some(Err(e)),
            }
        }
        None
    }
}
