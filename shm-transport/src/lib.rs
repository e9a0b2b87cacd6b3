//! Shared-memory request transport between a mount's frontend and the daemon.
//!
//! # Roles
//!
//! A **frontend** ([`ShmTransport`]) submits typed requests ([`wire::Request`]) and gets typed replies;
//! a **daemon** ([`DaemonEnd`]) takes requests, runs them, and answers each exactly once. Both are
//! behind traits ([`FsTransport`], [`Handler`]), so that [`InProcess`] can stand in for the pair.
//!
//! # The region
//!
//! One sealed memfd per session, mapped by both processes ([`layout`], `specs/wire-protocol.md` §2):
//!
//! ```text
//!  0         4096                              5376 (default geometry)          page
//!  ┌──────────┬───────────────┬───────────────┬────────────────────────────────┬─────────────────────
//!  │ header   │ submission    │ completion    │ slot 0 │ slot 1 │ …            │ payload 0 │ payload…
//!  │ geometry │ tail head     │ tail head     │ state, generation, epoch, id   │ 1 MiB each, filled
//!  │ epoch    │ armed         │ armed         │ request area (1024 B)          │ and emptied by the
//!  │ FUSE     │ slot indices  │ slot indices  │ reply area (512 B)             │ kernel, not copied
//!  └──────────┴───────────────┴───────────────┴────────────────────────────────┴─────────────────────
//!               └── one pair per frontend thread ──┘
//! ```
//!
//! Beside it travel a growable table of lookup counts ([`LookupTable`]) and one eventfd per direction
//! ([`doorbell::Doorbell`]), rung only when the other side sleeps.
//!
//! # Trust
//!
//! Neither side believes the other. Offsets follow from the checked geometry, never from shared memory;
//! cursors and the state of leases are kept in private memory; bytes are copied out before they are
//! decoded; a broken rule is [`TransportError::Protocol`] and ends that session alone.
//!
//! # Crashes
//!
//! The memory outlives both processes. When a daemon dies, [`ShmTransport::reset_for_new_daemon`] begins
//! an epoch: completed replies are delivered, everything else is submitted again. When a frontend dies,
//! [`ShmTransport::attach`] on the same descriptors takes over.
//!
//! # Example
//!
//! ```
//! use shm_transport::wire::{Caller, NodeId, Op, Reply, Request, RequestId, SessionId};
//! use shm_transport::{DaemonEnd, FsTransport, Geometry, SessionFds, ShmTransport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = SessionId(1);
//! let fds = SessionFds::create(Geometry::default(), session)?;
//!
//! // The frontend: one end per queue pair; an epoch begins before each attach.
//! let mut frontend = ShmTransport::attach(&fds)?.remove(0);
//! let epoch = frontend.reset_for_new_daemon()?;
//! // The daemon: usually in another process, which got `fds` over its socket (`handshake`).
//! let daemon = DaemonEnd::attach(&fds, session, epoch)?;
//!
//! let lease = frontend.lease().expect("a new session has free slots");
//! let request = Request { caller: Caller::default(), node: NodeId::ROOT, op: Op::ReadLink };
//! frontend.submit(lease, RequestId(42), &request, 0).map_err(|(_, e)| e)?;
//!
//! let mut running = daemon.pop()?.expect("it was submitted");
//! assert_eq!(running.request().op, Op::ReadLink);
//! assert!(running.payload().copy_in(0, b"target"));
//! running.complete(&Reply::Data { len: 6 })?;
//!
//! let done = frontend.complete()?.expect("it was answered");
//! assert_eq!((done.id, &done.reply), (RequestId(42), &Reply::Data { len: 6 }));
//! assert_eq!(frontend.payload(&done.lease).to_vec(6).as_deref(), Some(&b"target"[..]));
//! frontend.release(done.lease);
//! # Ok(())
//! # }
//! ```

pub mod control;
pub mod daemon;
pub mod doorbell;
pub mod frontend;
pub mod handshake;
pub mod inproc;
pub mod layout;
#[cfg(all(test, loom))]
mod loom_models;
#[allow(unsafe_code, reason = "the one module that may: it maps memory and wraps system calls")]
pub mod mem;
mod ring;
pub mod session;
mod slot;
pub mod spin;
pub mod stats;
pub mod table;
pub mod transport;
pub mod wire;

pub use daemon::{DaemonEnd, FULL_BELL, Running};
pub use frontend::ShmTransport;
pub use inproc::InProcess;
pub use layout::Geometry;
pub use session::{Caching, FuseState, SessionFds, SessionHeader, Waiting, monotonic_ms};
pub use table::LookupTable;
pub use transport::{Completion, Context, FsTransport, Handler, Lease, TransportError};
