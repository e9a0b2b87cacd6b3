//! The one big match: each request to the verb that serves it.

use super::acl;
use super::error::{FsError, FsResult};
use super::quota::BLOCK;
use super::session::{Op, Session};
use shm_transport::mem::Payload;
use shm_transport::wire::{self, FileKind, FsStat, NodeId, Opened, Reply, Request};

impl Session {
    pub(super) fn dispatch(
        &self,
        op: &Op<'_>,
        request: &Request,
        payload: &mut Payload<'_>,
        payload_len: usize,
    ) -> FsResult<Reply> {
        if let wire::Op::Forget { count } = &request.op {
            let ids = payload.to_vec(*count as usize * 8).ok_or(FsError::Invalid)?;
            let nodes = ids.chunks_exact(8).map(|c| NodeId(c.try_into().map_or(0, u64::from_le_bytes)));
            return self.forget(op.view, nodes);
        }
        if let Some(reply) = self.at_door(op.view, request, payload)? {
            return Ok(reply);
        }
        let object = self.object(op.view, request.node)?;
        match &request.op {
            wire::Op::Forget { .. } | wire::Op::Flush { .. } => Ok(Reply::Ok),
            wire::Op::Release { flags, .. } => self.release(op.view, object, *flags),
            wire::Op::Lookup { name } => self.lookup(op.view, object, name),
            wire::Op::GetAttr | wire::Op::Statx => self.get_attr(op.view, object),
            wire::Op::SetAttr(set) => self.set_attr(op, object, set),
            wire::Op::ReadLink => self.read_link(op.view, object, payload),
            wire::Op::Symlink { name } => {
                if payload_len > wire::limits::SYMLINK_MAX {
                    return Err(FsError::NameTooLong);
                }
                let target = payload.to_vec(payload_len).ok_or(FsError::Invalid)?;
                self.symlink(op, object, name, target)
            }
            wire::Op::Mknod { name, mode, rdev, umask } => self.mknod(op, object, name, (*mode, *umask), *rdev),
            wire::Op::Mkdir { name, mode, umask } => self.mkdir(op, object, name, (*mode, *umask)),
            wire::Op::Create { name, mode, flags, umask } => self.create(op, object, name, (*mode, *umask), *flags),
            wire::Op::Tmpfile { mode, umask, .. } => self.tmpfile(op, object, (*mode, *umask)),
            wire::Op::Unlink { name } => self.remove(op, object, name, false),
            wire::Op::Rmdir { name } => self.remove(op, object, name, true),
            wire::Op::Rename { name, new_parent, new_name, flags } => {
                let to = self.object(op.view, *new_parent)?;
                let (from_root, to_root) = (request.node == NodeId::ROOT, *new_parent == NodeId::ROOT);
                let into_root = to_root && !from_root || from_root && !to_root && flags & libc::RENAME_EXCHANGE != 0;
                if into_root && self.is_divided() {
                    // The kernel would keep the name as long as in the directory that it comes from.
                    return Err(FsError::OtherView);
                }
                self.rename(op, (object, name), (to, new_name), *flags)
            }
            wire::Op::Link { target, name } => {
                let target = self.object(op.view, *target)?;
                self.link(op, target, object, name)
            }
            wire::Op::Open { flags, kill_suidgid } => self.open_file(op, object, *flags, *kill_suidgid),
            wire::Op::Read { offset, size, .. } => self.read(op.view, object, *offset, *size as usize, payload),
            wire::Op::Write { offset, kill_suidgid, .. } => {
                self.write(op, object, *offset, payload, payload_len, *kill_suidgid)
            }
            wire::Op::Fsync { datasync, .. } => self.fsync(op.view, object, *datasync),
            wire::Op::SyncFs | wire::Op::FsyncDir { .. } => self.sync_all(),
            wire::Op::OpenDir => {
                let fh = self.listings.open();
                // The kernel drops what it kept of a directory when a program changes it.
                // What the root has depends on who looks, then.
                let kept = (object != op.view.root || !self.is_divided())
                    && self.sees_all_changes(op.view, op.view.base_of(object).is_none());
                Ok(Reply::Opened(Opened { fh, keep_cache: kept, cache_dir: kept, direct_io: false, no_flush: true }))
            }
            wire::Op::ReadDir { fh, cookie, size, plus } => {
                self.read_dir(op.view, object, *fh, *cookie, (*size as usize).min(payload.capacity()), *plus, payload)
            }
            wire::Op::ReleaseDir { fh } => {
                self.listings.close(*fh, object);
                Ok(Reply::Ok)
            }
            wire::Op::GetXattr { name, size } => self.get_xattr(op.view, object, name, *size as usize, payload),
            wire::Op::ListXattr { size } => self.list_xattrs(op, object, *size as usize, payload),
            wire::Op::SetXattr { name, flags, clear_setgid } => {
                if payload_len > wire::limits::XATTR_SIZE_MAX {
                    return Err(FsError::TooBig);
                }
                let value = payload.to_vec(payload_len).ok_or(FsError::Invalid)?;
                if acl::is_acl(name) {
                    return self.set_acl(op, object, name, &value, *clear_setgid);
                }
                self.set_xattr(op, object, name, value, *flags)
            }
            wire::Op::RemoveXattr { name } if acl::is_acl(name) => self.set_acl(op, object, name, &[], false),
            wire::Op::RemoveXattr { name } => self.remove_xattr(op, object, name),
            wire::Op::StatFs => self.stat_fs(),
            wire::Op::Fallocate { offset, length, mode, .. } => {
                self.fallocate(op.view, object, *offset, *length, *mode)
            }
            wire::Op::Lseek { offset, whence, .. } => self.seek(op.view, object, *offset, *whence),
            wire::Op::CopyFileRange { offset, to, to_offset, length, .. } => {
                let to = self.object(op.view, *to)?;
                self.copy_range(op.view, (object, *offset), (to, *to_offset), *length)
            }
            wire::Op::Ioctl { .. } => Err(FsError::NotIoctl),
        }
    }

    pub(super) fn stat_fs(&self) -> FsResult<Reply> {
        let space = self.core.contents.space().map_err(super::error::io("statfs of the store"))?;
        let mut told = FsStat {
            blocks: space.blocks(),
            bfree: space.blocks_free(),
            bavail: space.blocks_available(),
            files: space.files(),
            ffree: space.files_free(),
            bsize: space.fragment_size() as u32,
            namelen: wire::limits::NAME_MAX as u32,
        };
        let quota = self.branch.ledger.quota();
        if let Some(used) = self.branch.ledger.usage() {
            if let Some(max) = quota.bytes {
                // In blocks that a quota counts in; no more is available than the disk has.
                let disk = told.bavail.saturating_mul(u64::from(told.bsize)) / BLOCK;
                told.bsize = BLOCK as u32;
                told.blocks = max / BLOCK;
                told.bfree = max.saturating_sub(used.bytes) / BLOCK;
                told.bavail = told.bfree.min(disk);
            }
            if let Some(max) = quota.inodes {
                told.files = max;
                told.ffree = max.saturating_sub(used.inodes);
            }
        }
        Ok(Reply::StatFs(told))
    }
}

/// The kind that `mode` names for `mknod`; no bits mean a regular file, as in `mknod(2)`.
pub(super) fn mknod_kind(mode: u32) -> FsResult<FileKind> {
    if mode & libc::S_IFMT == 0 {
        return Ok(FileKind::Regular);
    }
    match FileKind::from_mode(mode) {
        Some(FileKind::Directory | FileKind::Symlink) | None => Err(FsError::Invalid),
        Some(kind) => Ok(kind),
    }
}
