//! Whom a workload is run on, and the file systems that AgentFS is compared with.

use crate::mounts;
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The sides of a comparison, in the order of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// The host's own directory: what every ratio is of.
    Host,
    /// A branch of AgentFS.
    Mount,
    /// overlayfs of the kernel.
    Overlay,
    /// Debian's fuse-overlayfs.
    FuseOverlayfs,
    /// The example of libfuse, which passes everything on.
    PassthroughHp,
}

impl Side {
    /// Every side.
    pub(super) const ALL: [Self; 5] =
        [Self::Host, Self::Mount, Self::Overlay, Self::FuseOverlayfs, Self::PassthroughHp];

    /// As it is printed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Mount => "mount",
            Self::Overlay => "overlayfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::PassthroughHp => "passthrough_hp",
        }
    }
}

/// Another file system over the same base, mounted until it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) side: Side,
    program: PathBuf,
    base: PathBuf,
    dir: PathBuf,
}

impl Peer {
    /// Those that this machine has; says of the others why they are left out.
    pub(super) fn all(base: &Path, dir: &Path, passthrough_hp: Option<&Path>) -> Result<Vec<Self>, String> {
        let mut peers = Vec::new();
        for (side, program) in [
            (Side::Overlay, Some(Path::new("mount"))),
            (Side::FuseOverlayfs, Some(Path::new("fuse-overlayfs"))),
            (Side::PassthroughHp, passthrough_hp),
        ] {
            let Some(program) = program else {
                eprintln!("without {}: say where it is with --passthrough-hp", side.name());
                continue;
            };
            let peer = Self { side, program: program.into(), base: base.into(), dir: dir.join(side.name()) };
            for sub in ["upper", "work", "mnt"] {
                std::fs::create_dir_all(peer.dir.join(sub)).map_err(|e| format!("{}: {e}", side.name()))?;
            }
            if side == Side::PassthroughHp {
                // It has no layers: the base is copied, as a user would have to.
                let copy = Command::new("cp").arg("-a").arg(base.join(".")).arg(peer.dir.join("upper")).status();
                copy.map_err(|e| format!("cp: {e}"))?;
            }
            match peer.mount() {
                Ok(()) => peers.push(peer),
                Err(reason) => eprintln!("without {}: {reason}", side.name()),
            }
        }
        Ok(peers)
    }

    /// Where it shows its files.
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Mounts it again, so that the kernel knows nothing of it.
    pub(super) fn remount(&self) -> Result<(), String> {
        umount2(&self.mountpoint(), MntFlags::empty()).map_err(|e| format!("umount {}: {e}", self.side.name()))?;
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        let mnt = self.mountpoint();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.base.display(),
            self.dir.join("upper").display(),
            self.dir.join("work").display()
        );
        let mut command = Command::new(&self.program);
        match self.side {
            Side::Overlay => command.args(["-t", "overlay", "overlay", "-o", &layers]).arg(&mnt),
            Side::FuseOverlayfs => command.args(["-o", &layers]).arg(&mnt),
            Side::PassthroughHp => command.arg(self.dir.join("upper")).arg(&mnt),
            Side::Host | Side::Mount => return Err("is no peer".into()),
        };
        let out = command.output().map_err(|e| format!("{}: {e}", self.program.display()))?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        // Those that go into the background may return a moment before.
        if crate::procs::wait_for(Duration::from_secs(5), || mounts::is_mounted(&mnt)) {
            Ok(())
        } else {
            Err("it ended well and mounted nothing".into())
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mnt = self.mountpoint();
        if mounts::is_mounted(&mnt) && umount2(&mnt, MntFlags::empty()).is_err() {
            umount2(&mnt, MntFlags::MNT_DETACH).ok();
        }
    }
}
