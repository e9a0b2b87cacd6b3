//! The disk as the store sees it: few operations, so that tests can put a failing one in its place.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

/// A directory tree. Names are relative to its root, `""` is the root itself.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing, empty, made if it is not there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, atomically over what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Names of the files in a directory, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory; one that is there is fine.
    fn mkdir(&self, dir: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn fsync_dir(&self, dir: &str) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all bytes at an offset. After an error any part of them may be written.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Reserves space for the first `len` bytes, which read as zeros where nothing was written.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes written data and the length durable.
    fn fdatasync(&self) -> io::Result<()>;
    /// Drops what is cached and not waiting to be written, so that the next read comes from the
    /// medium: after a failed `fdatasync` the cache may hold bytes that never reached it.
    fn forget_cached(&self);
}

/// A directory of the host.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The tree below `root`, which must exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = options.read(true).write(true).mode(0o600).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, &mut OpenOptions::new())
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, OpenOptions::new().create(true).truncate(true))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
    fn mkdir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.path(dir)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }
    fn fsync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len as i64) {
            Ok(()) => Ok(()),
            // A filesystem without preallocation: written zeros reserve the space as well.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let zeros = vec![0; 64 << 10];
                let mut at = self.len()?;
                while at < len {
                    let n = (len - at).min(zeros.len() as u64);
                    self.0.write_all_at(zeros.get(..n as usize).unwrap_or_default(), at)?;
                    at += n;
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn fdatasync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn forget_cached(&self) {
        if let Err(e) = posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
            tracing::warn!("cannot drop cached pages of the log: {e}");
        }
    }
}
