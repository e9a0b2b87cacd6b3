//! Content files that nothing refers to any more, and the thread that removes them.

use super::error::FsResult;
use super::ids::ContentId;
use super::keys;
use super::state::{Core, lock};
use std::sync::{Condvar, Mutex, Weak};
use std::time::Duration;

/// Contents to be removed once nothing durable refers to them, and the bell for who removes them.
#[derive(Debug, Default)]
pub(super) struct Doom {
    pub(super) state: Mutex<Doomed>,
    pub(super) bell: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Doomed {
    pub(super) ids: Vec<ContentId>,
    pub(super) over: bool,
}

/// How long removed contents wait for others, so that one sync serves many.
const REAP_PAUSE: Duration = Duration::from_millis(250);
/// The same while the host does not let them go.
const REAP_PAUSE_MAX: Duration = Duration::from_secs(16);

/// Removes content files that nothing refers to: first those that a crash left, numbered below `mark`,
/// then what the running core dooms. Ends with the core.
pub(super) fn reap(core: &Weak<Core>, doom: &Doom, mark: u64) {
    // Programs may have waited for this start: what they ask for comes first.
    std::thread::sleep(REAP_PAUSE);
    if let Some(core) = core.upgrade()
        && let Err(error) = sweep(&core, mark)
    {
        tracing::warn!(%error, "content files that a crash left were not all found");
    }
    let mut pause = REAP_PAUSE;
    loop {
        // Nothing of the core is held while there is nothing to do.
        let idle = |d: &mut Doomed| d.ids.is_empty() && !d.over;
        drop(doom.bell.wait_while(lock(&doom.state), idle));
        std::thread::sleep(pause);
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core.sync() {
            tracing::error!(%error, "removed contents cannot be given back");
        }
        // What is left could not be removed now.
        pause = if lock(&doom.state).ids.is_empty() { REAP_PAUSE } else { (pause * 2).min(REAP_PAUSE_MAX) };
    }
}

/// Names are dropped meanwhile: what has no record may have one in what is durable, and waits for the next sync as well.
pub(super) fn sweep(core: &Core, mark: u64) -> FsResult<()> {
    let io = super::error::io;
    for id in core.contents.ids().map_err(io("list contents"))? {
        let id = id.map_err(io("list contents"))?;
        if id.0 < mark && core.store.get(&keys::content(id)).is_none() {
            core.doom(id);
        }
    }
    Ok(())
}
