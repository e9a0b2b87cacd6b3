//! What being safe costs: a reply record with each change, and a confined daemon.

use super::report::Report;
use super::{Options, load};
use crate::world::World;
use fscore_daemon::branch::Branches;
use fscore_daemon::content::Contents;
use fscore_daemon::core::clock::HostClock;
use fscore_daemon::core::session::Session;
use fscore_daemon::core::state::Core;
use fscore_daemon::store::{Batch, LogStore, Options as StoreOptions, Store, StoreError};
use shm_transport::control::Command;
use shm_transport::mem::Payload;
use shm_transport::wire::{Caller, NodeId, Op, Reply, Request, RequestId, SessionId};
use shm_transport::{Context, FsTransport, Geometry, Handler, InProcess};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The first byte of a reply record's key (on-disk-format §5).
const REPLY: u8 = b'R';
/// Changes of one sample.
const CHANGES: u64 = 20_000;
/// Calls of one sample on a mount.
const CALLS: usize = 4000;

/// A store that leaves reply records out. It exists here alone: no daemon can be told to do this.
struct Forgetful(LogStore);

impl Store for Forgetful {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(from, visit);
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan_back(from, visit);
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut kept = batch.clone();
        kept.changes.retain(|(key, _)| key.first() != Some(&REPLY));
        self.0.commit(&kept)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}

/// The same copying of the batch as [`Forgetful`] does, so that only the record differs.
struct Whole(LogStore);

impl Store for Whole {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(from, visit);
    }
    fn scan_back(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan_back(from, visit);
    }
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.0.commit(&batch.clone())
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}

struct Served(Arc<Session>);

impl Handler for Served {
    fn may_block(&self, _: &Context, request: &Request) -> bool {
        self.0.may_block(request)
    }
    fn handle(&self, ctx: &Context, request: &Request, payload: &mut Payload<'_>, len: u32) -> Reply {
        self.0.run(ctx, request, payload, len)
    }
}

/// Changes of names in the core of a daemon, without a kernel or another process.
pub(super) fn replies(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    for round in 0..options.rounds {
        let mut took = [0.0; 2];
        for recorded in [round % 2 == 0, round % 2 == 1] {
            let dir = world.out().join(format!("core-{round}-{recorded}"));
            let store =
                LogStore::open(&dir.join("meta"), StoreOptions::default()).map_err(|e| format!("store: {e}"))?;
            let store: Arc<dyn Store> = if recorded { Arc::new(Whole(store)) } else { Arc::new(Forgetful(store)) };
            let micros = changes(&dir, store)?;
            took[usize::from(recorded)] = micros;
            let how = if recorded { "with" } else { "without" };
            report.single(&format!("mkdir or rmdir in the core, {how} its reply record"), "µs", micros);
            std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        report.single("a reply record, per change (the difference)", "µs", took[1] - took[0]);
    }
    Ok(())
}

/// Microseconds of one change.
fn changes(dir: &Path, store: Arc<dyn Store>) -> Result<f64, String> {
    let failed = |e: &dyn std::fmt::Display| format!("core: {e}");
    let contents = Contents::open(&dir.join("contents"), 16).map_err(|e| failed(&e))?;
    let core = Core::open(store, Arc::new(contents), Arc::new(HostClock)).map_err(|e| failed(&e))?;
    let branches = Branches::open(Arc::clone(&core), dir.to_owned(), Vec::new(), 0).map_err(|e| failed(&e))?;
    let create = Command::BranchCreate {
        name: "b".into(),
        base: None,
        from: None,
        frozen: false,
        reuse: false,
        limits: shm_transport::control::Limits::default(),
    };
    branches.handle(&create).map_err(|e| failed(&e))?;
    let id = branches.find("b").map_err(|e| failed(&e))?;
    let branch = core.branch(id).map_err(|e| failed(&e))?;
    let session = Session::open(core, SessionId(7), branch, false, Path::new("/mnt")).map_err(|e| failed(&e))?;
    let mut transport =
        InProcess::new(Arc::new(Served(session)), Geometry::default(), SessionId(7)).map_err(|e| failed(&e))?;
    let name = |n: u64| format!("d{}", n % 512).into_bytes();
    let begun = Instant::now();
    for n in 0..CHANGES {
        let made = n / 512 % 2 == 0;
        let op = if made { Op::Mkdir { name: name(n), mode: 0o755, umask: 0 } } else { Op::Rmdir { name: name(n) } };
        let lease = transport.lease().ok_or("no slot is free")?;
        let request = Request { caller: Caller::default(), node: NodeId::ROOT, op };
        transport.submit(lease, RequestId(2 * n + 2), &request, 0).map_err(|(_, e)| failed(&e))?;
        let done = loop {
            match transport.complete().map_err(|e| failed(&e))? {
                Some(done) => break done,
                None => std::thread::yield_now(),
            }
        };
        if let Reply::Error(errno) = done.reply {
            return Err(format!("change {n} failed: {errno:?}"));
        }
        transport.release(done.lease);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / CHANGES as f64)
}

/// Requests to, and starts of, a daemon that is confined and one that is not.
pub(super) fn sandbox(world: &World, options: &Options, report: &mut Report) -> Result<(), String> {
    let base = world.base("confined");
    std::fs::write(base.join("file"), "x").map_err(|e| format!("base: {e}"))?;
    let mnt = world.mount("confined", Some(&base));
    world.umount(&mnt);
    world.stop();
    for round in 0..options.rounds {
        for confined in [round % 2 == 0, round % 2 == 1] {
            let how = if confined { "sandbox on" } else { "sandbox off" };
            let mut start = world.agentfs(["daemon", "start"]);
            start.env("AGENTFS_NO_SANDBOX", if confined { "0" } else { "1" });
            let begun = Instant::now();
            let started = start.output().map_err(|e| format!("daemon start: {e}"))?;
            report.single(&format!("daemon start to ready, {how}"), "ms", begun.elapsed().as_secs_f64() * 1e3);
            if !started.status.success() {
                return Err(format!("daemon start: {}", String::from_utf8_lossy(&started.stderr)));
            }
            let state = world.status()["sandbox"]["state"].clone();
            if (state == "off") == confined {
                return Err(format!("{how}: the daemon says {state}"));
            }
            world.mount_at("confined", None, &[], &mnt);
            let getattr = load::getattr(&mnt.join("file"), CALLS)?;
            report.single(&format!("GETATTR of a base file, {how}"), "µs", getattr);
            let begun = Instant::now();
            for n in 0..CALLS {
                let path = mnt.join(format!("f{}", n % 8));
                std::fs::write(&path, "x").and_then(|()| std::fs::remove_file(&path)).map_err(|e| format!("f: {e}"))?;
            }
            let micros = begun.elapsed().as_secs_f64() * 1e6 / CALLS as f64;
            report.single(&format!("create, write, close and unlink a file, {how}"), "µs", micros);
            world.umount(&mnt);
            world.stop();
        }
    }
    Ok(())
}
