//! POSIX access control lists, in the form that the kernel gives extended attributes of these names. The kernel decides
//! access by them; here they are kept at one with the permission bits, and inherited.

use super::error::{FsError, FsResult};
use super::ids::ObjectId;
use super::record::XattrSet;
use super::view::View;

/// Whose entries decide access to the object.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// What new objects in the directory begin with.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION` of `linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// Tags of `linux/posix_acl.h`.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whether an attribute is a list.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list: the owner, the group and the others once each, and a mask where anybody else is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// From the attribute's value; none for an empty list, by which the kernel takes one away.
    pub(super) fn parse(value: &[u8]) -> FsResult<Option<Self>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (header, rest) = value.split_first_chunk::<HEADER>().ok_or(FsError::Invalid)?;
        if u32::from_le_bytes(*header) != VERSION || rest.len() % ENTRY != 0 {
            return Err(FsError::Invalid);
        }
        let mut entries = Vec::with_capacity(rest.len() / ENTRY);
        for chunk in rest.chunks_exact(ENTRY) {
            let &[t0, t1, p0, p1, i0, i1, i2, i3] = chunk else { return Err(FsError::Invalid) };
            let (tag, perm) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            entries.push(Entry { tag, perm, id });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Self(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(FsError::Invalid) }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let known = self
            .0
            .iter()
            .all(|e| matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && e.perm & !0o7 == 0);
        let masks = count(MASK);
        known
            && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
            && (masks == 1 || masks == 0 && !self.names_others())
    }

    fn names_others(&self) -> bool {
        self.0.iter().any(|e| matches!(e.tag, USER | GROUP))
    }

    /// To the attribute's value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            value.extend(e.tag.to_le_bytes());
            value.extend(e.perm.to_le_bytes());
            value.extend(e.id.to_le_bytes());
        }
        value
    }

    /// Whether it says more than permission bits can.
    pub(super) fn is_extended(&self) -> bool {
        self.0.iter().any(|e| matches!(e.tag, USER | GROUP | MASK))
    }

    /// The entry that the group bits stand for: the mask, where there is one.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    /// The permission bits that it amounts to.
    pub(super) fn bits(&self) -> u32 {
        let of = |tag| self.0.iter().find(|e| e.tag == tag).map_or(0, |e| u32::from(e.perm));
        of(USER_OBJ) << 6 | of(self.group_class()) << 3 | of(OTHER)
    }

    fn with(mut self, bits: impl Fn(u16, u16) -> u16) -> Self {
        let group = self.group_class();
        for e in &mut self.0 {
            let shift = match e.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            e.perm = bits(e.perm, shift);
        }
        self
    }

    /// After `chmod`.
    pub(super) fn with_mode(self, mode: u32) -> Self {
        self.with(|_, shift| (mode >> shift) as u16 & 0o7)
    }

    /// What a new object gets from its directory's default list: no more than it was asked to be made with.
    pub(super) fn inherited(self, mode: u32) -> Self {
        self.with(|perm, shift| perm & ((mode >> shift) as u16 & 0o7))
    }

    /// Mode and attributes of a new object in a directory that has this as its default list.
    pub(super) fn begin(self, mode: u32, directory: bool) -> (u32, XattrSet) {
        let mut lists = XattrSet::default();
        if directory {
            put(&mut lists, DEFAULT, Some(&self));
        }
        let access = self.inherited(mode);
        if access.is_extended() {
            put(&mut lists, ACCESS, Some(&access));
        }
        (mode & !0o777 | access.bits(), lists)
    }
}

/// The default list of a directory.
pub(super) fn inherited_from(view: &View, dir: ObjectId) -> FsResult<Option<Acl>> {
    if let Some(found) = view.xattrs(dir)? {
        return of_set(&found.value, DEFAULT);
    }
    let value = match view.base_of(dir) {
        Some(base) => base.xattr_of_directory(dir, DEFAULT)?,
        None => None,
    };
    value.map_or(Ok(None), |value| Acl::parse(&value))
}

/// The list of that name in a set.
pub(super) fn of_set(set: &XattrSet, name: &[u8]) -> FsResult<Option<Acl>> {
    let value = set.0.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    // What a host's file system gave out is what it made sure of; a list that it keeps in another form decides nothing here.
    value.map_or(Ok(None), |value| Acl::parse(value))
}

/// Puts a list into a set, or takes it out.
pub(super) fn put(set: &mut XattrSet, name: &[u8], acl: Option<&Acl>) {
    set.0.retain(|(n, _)| n != name);
    if let Some(acl) = acl {
        set.0.push((name.to_vec(), acl.encode()));
        set.0.sort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect()).encode()
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn the_bytes_are_those_of_the_kernel() {
        let value = acl(&[(USER_OBJ, 7, NONE)]);
        assert_eq!(value, [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let whole = [(USER_OBJ, 6, NONE), (USER, 7, 1000), (GROUP_OBJ, 5, NONE), (MASK, 7, NONE), (OTHER, 4, NONE)];
        assert!(Acl::parse(&acl(&whole)).unwrap().is_some());
        assert_eq!(Acl::parse(b"").unwrap(), None);
        assert_eq!(Acl::parse(&[2, 0, 0, 0]).unwrap(), None);
        for missing in [0, 2, 3, 4] {
            let mut entries = whole.to_vec();
            entries.remove(missing);
            assert!(matches!(Acl::parse(&acl(&entries)), Err(FsError::Invalid)), "without {:?}", whole[missing]);
        }
        for (at, entry) in [(0, (USER_OBJ, 8, NONE)), (1, (0x40, 7, 1)), (1, (USER_OBJ, 7, NONE))] {
            let mut entries = whole.to_vec();
            entries[at] = entry;
            assert!(matches!(Acl::parse(&acl(&entries)), Err(FsError::Invalid)), "{entry:?}");
        }
        let mut cut = acl(&whole);
        cut.pop();
        assert!(Acl::parse(&cut).is_err());
        cut[0] = 1;
        assert!(Acl::parse(&cut).is_err());
    }

    #[test]
    fn the_mask_is_the_group_class() {
        let list = Acl::parse(&acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 7, 9),
            (GROUP_OBJ, 5, NONE),
            (MASK, 6, NONE),
            (OTHER, 1, NONE),
        ]));
        let list = list.unwrap().unwrap();
        assert!(list.is_extended());
        assert_eq!(list.bits(), 0o761);
        let changed = list.clone().with_mode(0o640);
        assert_eq!(changed.bits(), 0o640);
        assert_eq!(changed.0[2].perm, 5, "the owning group keeps its own");
        let child = list.inherited(0o666);
        assert_eq!(child.bits(), 0o660);
        assert_eq!(child.0[1].perm, 7);
    }

    #[test]
    fn a_list_of_three_is_permission_bits() {
        let list = Acl::parse(&acl(&[(USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE)])).unwrap().unwrap();
        assert!(!list.is_extended());
        assert_eq!(list.bits(), 0o640);
        assert_eq!(list.inherited(0o444).bits(), 0o440);
    }
}
