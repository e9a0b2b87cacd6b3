//! What the store keeps of a mount that shows several branches: which view is which branch, and which process sees which
//! view. The numbers of processes mean nothing to the core.

use super::codec::{Malformed, Reader, Writer};
use super::ids::BranchId;
use shm_transport::wire::ViewSlot;

/// Version of the record's layout.
const V: u8 = 1;

/// Who sees a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The view.
    pub slot: ViewSlot,
    /// The process.
    pub pid: u32,
    /// When it was started, in the kernel's ticks; with the number it names one process for ever.
    pub start: u64,
    /// Its control group, if the binding is by that: all processes in it, and below, are meant.
    pub cgroup: Option<Vec<u8>>,
    /// It was not named itself: a process above it was.
    pub inherited: bool,
}

/// The views of a mount beside its own branch, and the bindings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Division {
    /// Branches by view. A view is never given to another branch.
    pub views: Vec<(ViewSlot, BranchId)>,
    /// In the order in which they were made.
    pub bindings: Vec<Binding>,
}

impl Division {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(V);
        w.u32(self.views.len() as u32);
        for (slot, branch) in &self.views {
            w.u32(slot.0.into()).u64(branch.0);
        }
        w.u32(self.bindings.len() as u32);
        for binding in &self.bindings {
            w.u32(binding.slot.0.into()).u32(binding.pid).u64(binding.start).u8(u8::from(binding.inherited));
            w.u8(u8::from(binding.cgroup.is_some())).bytes(binding.cgroup.as_deref().unwrap_or_default());
        }
        w.finish()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes, V)?;
        let mut division = Self::default();
        for _ in 0..r.u32()? {
            division.views.push((slot(&mut r)?, BranchId(r.u64()?)));
        }
        for _ in 0..r.u32()? {
            let (slot, pid, start, inherited) = (slot(&mut r)?, r.u32()?, r.u64()?, r.u8()? != 0);
            let (by_cgroup, cgroup) = (r.u8()? != 0, r.bytes()?.to_vec());
            let cgroup = by_cgroup.then_some(cgroup);
            division.bindings.push(Binding { slot, pid, start, cgroup, inherited });
        }
        r.end().map(|()| division)
    }
}

fn slot(r: &mut Reader<'_>) -> Result<ViewSlot, Malformed> {
    u16::try_from(r.u32()?).map(ViewSlot).map_err(|_| Malformed)
}
