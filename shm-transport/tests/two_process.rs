//! Two real processes: a daemon that is killed at any moment, and peers on either side that write
//! random bytes over the shared memory while it is in use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::control::line::LineStream;
use shm_transport::control::{Answer, Attached, Call, Command as Control};
use shm_transport::handshake::{self, Attach, Connection};
use shm_transport::wire::{RequestId, SessionId};
use shm_transport::{FsTransport, Geometry, SessionFds, ShmTransport, TransportError, daemon, frontend};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Echo, PATIENCE, next, request, round_trip};

const SESSION: SessionId = SessionId(0xd00d);
const SLOTS: u32 = 8;
/// Header, rings and slots of a region of that geometry: all but the payloads.
const CONTROL_BYTES: u64 = 17_920;
const ROLE: &str = "AGENTFS_TEST_ROLE";
const SOCKET: &str = "AGENTFS_TEST_SOCKET";
const SEED: &str = "AGENTFS_TEST_SEED";

/// A child process that does not outlive its test.
struct Peer(Child);

impl Peer {
    fn start(role: &str, socket: &Path, seed: u64) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_second_process", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .env(SEED, seed.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL: nothing of it runs on, nothing is cleaned up.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.kill();
        }
    }
}

/// xorshift64: reproducible noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Writes noise over the control part of the region until told to stop. The seed chooses what: only
/// slots (bytes that are read as messages), only rings, the header too, or small changes anywhere.
fn scribble(region: &File, seed: u64, stop: &AtomicBool) {
    let mut noise = Noise(seed | 1);
    let (from, to) =
        [(5_120, CONTROL_BYTES), (4_096, 5_120), (0, CONTROL_BYTES), (4_096, CONTROL_BYTES)][seed as usize % 4];
    while !stop.load(Ordering::Relaxed) {
        let at = from + noise.next() % (to - from - 8);
        let bytes = match noise.next() % 3 {
            0 => noise.next().to_le_bytes(),
            1 => (noise.next() % 4).to_le_bytes(),
            _ => [0xff; 8],
        };
        let len = 1 + noise.next() as usize % 8;
        region.write_all_at(&bytes[..len], at).unwrap();
        if noise.next().is_multiple_of(4) {
            std::thread::yield_now();
        }
    }
}

fn with_scribbler<T>(fds: &SessionFds, seed: u64, work: impl FnOnce() -> T) -> T {
    let region = File::from(fds.region.try_clone().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || scribble(&region, seed, &stopped));
    let done = work();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    done
}

/// Takes one attach from the listener and serves it until the connection ends.
fn serve_one(listener: &UnixListener, hostile: Option<u64>) -> Result<(), TransportError> {
    let mut lines = LineStream::new(listener.accept().unwrap().0);
    let Ok(Some(line)) = lines.read() else { return Ok(()) };
    let call: Call = line.parse().unwrap();
    let Control::Attach { session, epoch, .. } = call.command else { panic!("not an attach") };
    let (fds, end) = handshake::accept(line.fds, session, epoch)?;
    let attached = Attached { daemon_pid: std::process::id() as i32 };
    lines.write(&Answer::Ok(serde_json::to_value(attached).unwrap())).unwrap();
    match hostile {
        Some(seed) => with_scribbler(&fds, seed, || daemon::serve(&end, &Echo, lines.as_fd())),
        None => daemon::serve(&end, &Echo, lines.as_fd()),
    }
}

fn attach(transport: &mut ShmTransport, fds: &SessionFds, socket: &Path) -> Connection {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let epoch = transport.reset_for_new_daemon().unwrap();
        let attach = Attach { session: SESSION, branch: "b".into(), mountpoint: "/m".into(), read_only: false, epoch };
        match handshake::attach(socket, &attach, fds) {
            Ok(connection) => return connection,
            Err(e) => assert!(handshake::is_transient(&e), "{e}"),
        }
        assert!(Instant::now() < deadline, "no daemon came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn session() -> (SessionFds, ShmTransport) {
    let fds = SessionFds::create(Geometry { queues: 1, slots: SLOTS }, SESSION).unwrap();
    let transport = ShmTransport::attach(&fds).unwrap().remove(0);
    (fds, transport)
}

/// Run only as the child of the other tests.
#[test]
#[ignore = "the second process of the other tests"]
fn the_second_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = std::env::var_os(SOCKET).unwrap();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let socket = Path::new(&socket);
    match role.as_str() {
        "daemon" | "hostile daemon" => {
            if socket.exists() {
                std::fs::remove_file(socket).unwrap();
            }
            let listener = UnixListener::bind(socket).unwrap();
            let hostile = (role == "hostile daemon").then_some(seed);
            loop {
                // A session that ends by a broken rule ends alone.
                drop(serve_one(&listener, hostile));
            }
        }
        "hostile frontend" => hostile_frontend(socket, seed),
        other => panic!("no such role: {other}"),
    }
}

/// Submits what it can while its own region is scribbled over, and never mind the errors.
fn hostile_frontend(socket: &Path, seed: u64) {
    let (fds, mut transport) = session();
    let connection = attach(&mut transport, &fds, socket);
    let until = Instant::now() + Duration::from_millis(150);
    with_scribbler(&fds, seed, || {
        let mut id = 0;
        while Instant::now() < until && !connection.is_closed() {
            while let Some(lease) = transport.lease() {
                id += 1;
                if transport.submit(lease, RequestId(id), &request(id), 0).is_err() {
                    break;
                }
            }
            while let Ok(Some(done)) = transport.complete() {
                transport.release(done.lease);
            }
            // The doorbell is rung also when nobody asked for it.
            nix::unistd::write(&fds.sq, &1u64.to_le_bytes()).ok();
        }
    });
}

#[test]
fn a_daemon_killed_at_any_moment_costs_no_request_and_doubles_none() {
    const KILLS: u32 = 12;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let (fds, mut transport) = session();
    let mut noise = Noise(0x9e37_79b9);
    let (mut sent, mut outstanding, mut completed) = (0, BTreeSet::new(), 0u64);
    let mut kills = 0;
    let mut peer = Peer::start("daemon", &socket, 0);
    let mut connection = attach(&mut transport, &fds, &socket);
    let mut next_kill = Instant::now() + Duration::from_millis(10);
    while kills < KILLS || !outstanding.is_empty() {
        while kills < KILLS
            && let Some(lease) = transport.lease()
        {
            outstanding.insert(sent);
            transport.submit(lease, RequestId(sent), &request(sent), 0).unwrap();
            sent += 1;
        }
        while let Some(done) = transport.complete().unwrap() {
            assert!(outstanding.remove(&done.id.0), "request {} was completed twice", done.id.0);
            assert_eq!(done.reply, shm_transport::wire::Reply::Offset(done.id.0));
            transport.release(done.lease);
            completed += 1;
        }
        if kills < KILLS && Instant::now() >= next_kill {
            peer.kill();
            kills += 1;
            peer = Peer::start("daemon", &socket, 0);
            next_kill = Instant::now() + Duration::from_millis(5 + noise.next() % 40);
        }
        if connection.is_closed() {
            connection = attach(&mut transport, &fds, &socket);
        } else if transport.arm() {
            frontend::wait(transport.doorbell(), 1).unwrap();
        }
        transport.disarm();
    }
    assert_eq!((completed, transport.in_flight()), (sent, 0));
    assert!(completed > u64::from(KILLS), "the daemons did serve");
}

#[test]
fn a_hostile_frontend_ends_its_own_session_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut ended_by_rule = 0;
    for seed in 1..=24 {
        let mut peer = Peer::start("hostile frontend", &socket, seed);
        // The end of the child is the end of its connection: this returns, or the test hangs.
        match serve_one(&listener, None) {
            Ok(()) => {}
            Err(TransportError::Protocol { .. }) => ended_by_rule += 1,
            Err(e) => panic!("seed {seed}: {e}"),
        }
        assert!(peer.0.wait().unwrap().success(), "seed {seed}: the frontend's end panicked");
    }
    assert!(ended_by_rule > 0, "no rule was ever broken: the scribbling did not reach the daemon");
}

#[test]
fn a_frontend_outlives_a_hostile_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    for seed in 1..=12 {
        let (fds, mut transport) = session();
        let mut outstanding = BTreeSet::new();
        let mut id = 0;
        let mut hostile = Peer::start("hostile daemon", &socket, seed);
        let connection = attach(&mut transport, &fds, &socket);
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until && !connection.is_closed() {
            if let Some(lease) = transport.lease() {
                id += 1;
                outstanding.insert(id);
                match transport.submit(lease, RequestId(id), &request(id), 0) {
                    // Under way all the same: the next daemon gets it.
                    Ok(()) | Err((None, _)) => {}
                    Err((Some(_), e)) => panic!("seed {seed}: {e}"),
                }
            }
            match transport.complete() {
                Ok(Some(done)) => {
                    assert!(outstanding.remove(&done.id.0), "seed {seed}: completed twice");
                    transport.release(done.lease);
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        hostile.kill();
        drop(connection);

        let _honest = Peer::start("daemon", &socket, 0);
        let _connection = attach(&mut transport, &fds, &socket);
        while !outstanding.is_empty() {
            let done = next(&mut transport).unwrap();
            assert!(outstanding.remove(&done.id.0), "seed {seed}: completed twice");
            transport.release(done.lease);
        }
        assert_eq!(transport.in_flight(), 0);
        let reply = round_trip(&mut transport, u64::MAX, &request(77));
        assert_eq!(reply, shm_transport::wire::Reply::Offset(77), "seed {seed}");
    }
}
