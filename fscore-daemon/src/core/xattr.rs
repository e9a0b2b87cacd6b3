//! Extended attributes. The first change of an object's set takes the base's set over.

use super::acl::{self, Acl};
use super::base::Base;
use super::edit::Edit;
use super::error::{FsError, FsResult};
use super::ids::ObjectId;
use super::record::XattrSet;
use super::session::{Op, Session};
use super::view::View;
use shm_transport::mem::Payload;
use shm_transport::wire::{FileKind, Reply, limits};

/// Most bytes of names and values of one object, so that a set stays one modest record.
const SET_MAX: usize = 1 << 20;

/// The name spaces that are served, and POSIX ACLs.
fn served(name: &[u8]) -> FsResult<()> {
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match spaces.iter().find_map(|space| name.strip_prefix(*space)) {
        // No host file system has one, so that a commit could not bring it there.
        Some([]) => Err(FsError::Invalid),
        Some(_) => Ok(()),
        None if acl::is_acl(name) => Ok(()),
        None => Err(FsError::Unsupported),
    }
}

pub(super) fn set_of(view: &View, object: ObjectId) -> FsResult<XattrSet> {
    if let Some(found) = view.xattrs(object)? {
        return Ok(found.value);
    }
    let Some(base) = view.base_of(object) else { return Ok(XattrSet::default()) };
    match base_set(base, object) {
        // A changed object outlives its original; attributes that it had were taken over then.
        Err(FsError::Stale) if view.object(object)?.is_some() => Ok(XattrSet::default()),
        read => read,
    }
}

/// The served attributes that an object has in the base.
pub fn base_set(base: &Base, object: ObjectId) -> FsResult<XattrSet> {
    let mut set = base.xattrs(object)?;
    set.retain(|(name, _)| served(name).is_ok());
    set.sort();
    Ok(XattrSet(set))
}

fn answer(bytes: &[u8], size: usize, payload: &mut Payload<'_>) -> FsResult<Reply> {
    let len = bytes.len() as u32;
    if size == 0 {
        return Ok(Reply::XattrSize { size: len });
    }
    if bytes.len() > size || !payload.copy_in(0, bytes) {
        return Err(FsError::Range);
    }
    Ok(Reply::Data { len })
}

impl Session {
    /// `GETXATTR`.
    pub(super) fn get_xattr(
        &self,
        view: &View,
        object: ObjectId,
        name: &[u8],
        size: usize,
        payload: &mut Payload<'_>,
    ) -> FsResult<Reply> {
        served(name)?;
        let set = set_of(view, object)?;
        let value = set.0.iter().find(|(n, _)| n == name).map(|(_, v)| v).ok_or(FsError::NoData)?;
        answer(value, size, payload)
    }

    /// `LISTXATTR`.
    pub(super) fn list_xattrs(
        &self,
        op: &Op<'_>,
        object: ObjectId,
        size: usize,
        payload: &mut Payload<'_>,
    ) -> FsResult<Reply> {
        let mut list = Vec::new();
        for (name, _) in set_of(op.view, object)?.0 {
            // The kernel keeps others from reading them; that they are there is not told either.
            if op.caller.uid != 0 && name.starts_with(b"trusted.") {
                continue;
            }
            list.extend_from_slice(&name);
            list.push(0);
        }
        if list.len() > limits::XATTR_SIZE_MAX {
            return Err(FsError::TooBig);
        }
        answer(&list, size, payload)
    }

    /// `SETXATTR`.
    pub(super) fn set_xattr(
        &self,
        op: &Op<'_>,
        object: ObjectId,
        name: &[u8],
        value: Vec<u8>,
        flags: u32,
    ) -> FsResult<Reply> {
        served(name)?;
        let _names = self.branch.names();
        let mut set = set_of(op.view, object)?;
        let at = set.0.binary_search_by(|(n, _)| n.as_slice().cmp(name));
        if at.is_ok() && flags & libc::XATTR_CREATE as u32 != 0 {
            return Err(FsError::Exists);
        }
        match at {
            Ok(at) => {
                if let Some(slot) = set.0.get_mut(at) {
                    slot.1 = value;
                }
            }
            Err(_) if flags & libc::XATTR_REPLACE as u32 != 0 => return Err(FsError::NoData),
            Err(at) => set.0.insert(at, (name.to_vec(), value)),
        }
        if set.0.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() > SET_MAX {
            return Err(FsError::Store(crate::store::StoreError::Full));
        }
        self.put_set(op, object, &set)
    }

    /// `REMOVEXATTR`.
    pub(super) fn remove_xattr(&self, op: &Op<'_>, object: ObjectId, name: &[u8]) -> FsResult<Reply> {
        served(name)?;
        let _names = self.branch.names();
        let mut set = set_of(op.view, object)?;
        let before = set.0.len();
        set.0.retain(|(n, _)| n != name);
        if set.0.len() == before {
            return Err(FsError::NoData);
        }
        self.put_set(op, object, &set)
    }

    /// `SETXATTR` and `REMOVEXATTR` of a POSIX ACL: the permission bits go with an access list, and one that says no
    /// more than they can is not kept. Taking away what is not there is no error.
    pub(super) fn set_acl(
        &self,
        op: &Op<'_>,
        object: ObjectId,
        name: &[u8],
        value: &[u8],
        clear_setgid: bool,
    ) -> FsResult<Reply> {
        let list = Acl::parse(value)?;
        let _names = self.branch.names();
        let mut set = set_of(op.view, object)?;
        let mut edit = Edit::new(&self.core, op.view);
        let now = edit.now;
        let record = edit.record(object)?;
        let kind = record.kind();
        if kind == FileKind::Symlink {
            return Err(FsError::Unsupported);
        }
        let kept = if name == acl::DEFAULT {
            if kind != FileKind::Directory && list.is_some() {
                return Err(FsError::Invalid);
            }
            list
        } else {
            if let Some(list) = &list {
                record.mode = record.mode & !0o777 | list.bits();
            }
            if clear_setgid {
                record.mode &= !libc::S_ISGID;
            }
            list.filter(Acl::is_extended)
        };
        record.ctime = now;
        acl::put(&mut set, name, kept.as_ref());
        edit.change.xattrs(object, &set);
        self.finish(op, edit.into_change(), Reply::Ok, self.core.store.as_ref())
    }

    fn put_set(&self, op: &Op<'_>, object: ObjectId, set: &XattrSet) -> FsResult<Reply> {
        let mut edit = Edit::new(&self.core, op.view);
        let now = edit.now;
        edit.record(object)?.ctime = now;
        edit.change.xattrs(object, set);
        self.finish(op, edit.into_change(), Reply::Ok, self.core.store.as_ref())
    }
}
