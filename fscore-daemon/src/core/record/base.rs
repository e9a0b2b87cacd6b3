//! A base directory, as the store has it.

use super::super::codec::{Malformed, Reader, Writer};
use super::super::ids::ObjectId;
use shm_transport::control::{SealInfo, seal};

/// Version of the layout.
const V: u8 = 1;
/// Of a base that was copied into the store.
const V_SEALED: u8 = 2;

/// A base directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRecord {
    /// Absolute, canonical host path.
    pub path: Vec<u8>,
    /// `st_dev` of its root when it was first used.
    pub dev: u64,
    /// Host inode number of its root.
    pub root: ObjectId,
    /// The copy that is shown in its place.
    pub seal: Option<SealRecord>,
}

/// A copy of a base in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealRecord {
    /// The name of its directory.
    pub name: String,
    /// What is told of it.
    pub info: SealInfo,
}

impl BaseRecord {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(if self.seal.is_some() { V_SEALED } else { V });
        w.bytes(&self.path).u64(self.dev).u64(self.root.0);
        if let Some(SealRecord { name, info }) = &self.seal {
            w.bytes(name.as_bytes()).u8(u8::from(info.cloned)).u64(info.files).u64(info.bytes);
        }
        w.finish()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut r, version) = Reader::up_to(bytes, V_SEALED)?;
        let (path, dev, root) = (r.bytes()?.to_vec(), r.u64()?, ObjectId(r.u64()?));
        let seal = if version >= V_SEALED {
            let name = super::text(&mut r)?;
            let info = SealInfo { cloned: super::flag(&mut r)?, files: r.u64()?, bytes: r.u64()? };
            // It becomes part of a path.
            if !seal::is_name(&name) {
                return Err(Malformed);
            }
            Some(SealRecord { name, info })
        } else {
            None
        };
        r.end().map(|()| Self { path, dev, root, seal })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop where they fail")]
    use super::*;

    #[test]
    fn a_base_without_a_copy_is_written_as_ever_and_a_copy_is_named_by_no_path() {
        let plain = BaseRecord { path: b"/p".to_vec(), dev: 3, root: ObjectId(7), seal: None };
        assert_eq!(plain.encode().first(), Some(&1), "releases that know of no copies read it");
        assert_eq!(BaseRecord::decode(&plain.encode()).unwrap(), plain);
        let info = SealInfo { cloned: true, files: 2, bytes: 9 };
        let sealed = |name: &str| BaseRecord { seal: Some(SealRecord { name: name.into(), info }), ..plain.clone() };
        assert_eq!(BaseRecord::decode(&sealed("1a-2").encode()).unwrap(), sealed("1a-2"));
        for name in ["", "..", "a/b"] {
            assert_eq!(BaseRecord::decode(&sealed(name).encode()), Err(Malformed), "{name:?}");
        }
    }
}
