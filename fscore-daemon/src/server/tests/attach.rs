use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_transport::control::client::ClientError;
use shm_transport::handshake::{self, Attach, Connection};
use shm_transport::wire::limits::IOCTL_OUT_AT;
use shm_transport::wire::{Caller, NodeId, Op, Reply, Request, RequestId, SessionId};
use shm_transport::{Completion, FsTransport, Geometry, SessionFds, ShmTransport};

/// A frontend without a kernel.
pub(crate) struct Frontend {
    session: SessionId,
    fds: SessionFds,
    end: ShmTransport,
    pub(super) connection: Option<Connection>,
    read_only: bool,
    next: u64,
}

impl Frontend {
    pub(crate) fn new(session: u64, read_only: bool) -> Self {
        let session = SessionId(session);
        let fds = SessionFds::create(Geometry::default(), session).unwrap();
        let end = ShmTransport::attach(&fds).unwrap().remove(0);
        Self { session, fds, end, connection: None, read_only, next: 2 }
    }

    pub(crate) fn attach(&mut self, running: &super::Running, branch: &str) -> Result<(), ClientError> {
        let epoch = self.end.reset_for_new_daemon().unwrap();
        let attach = Attach {
            session: self.session,
            branch: branch.into(),
            mountpoint: "/mnt/x".into(),
            read_only: self.read_only,
            epoch,
        };
        self.connection = None;
        self.connection = Some(handshake::attach(&running.paths.socket, &attach, &self.fds)?);
        Ok(())
    }

    pub(crate) fn submit(&mut self, op: Op) {
        let lease = self.end.lease().unwrap();
        let request = Request { caller: Caller::default(), node: NodeId::ROOT, op };
        self.next += 2;
        self.end.submit(lease, RequestId(self.next), &request, 0).unwrap();
    }

    pub(crate) fn complete(&mut self) -> Reply {
        let done = self.completion();
        self.end.release(done.lease);
        done.reply
    }

    fn completion(&mut self) -> Completion {
        loop {
            if let Some(done) = self.end.complete().unwrap() {
                return done;
            }
            if self.end.arm() {
                let mut fds = [PollFd::new(self.end.doorbell(), PollFlags::POLLIN)];
                assert!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap() > 0, "no completion came");
                self.end.disarm();
            }
        }
    }

    /// An ioctl on the control file by a user; the reply and its data.
    pub(crate) fn ioctl(&mut self, id: u64, uid: u32, buffer: &[u8]) -> (Reply, Vec<u8>) {
        let lease = self.end.lease().unwrap();
        let cmd = shm_transport::control::door::command(buffer.len()).unwrap();
        let op = Op::Ioctl { fh: 0, cmd, out_size: buffer.len() as u32 };
        let request = Request { caller: Caller { uid, gid: uid, pid: 1 }, node: NodeId::CONTROL_FILE, op };
        assert!(self.end.payload(&lease).copy_in(0, buffer));
        self.end.submit(lease, RequestId(id), &request, buffer.len() as u32).unwrap();
        let done = self.completion();
        let len = if let Reply::Ioctl { len, .. } = done.reply { len } else { 0 };
        let mut data = vec![0; len as usize];
        assert!(self.end.payload(&done.lease).copy_out(IOCTL_OUT_AT, &mut data));
        let mut sent = vec![0; buffer.len()];
        assert!(self.end.payload(&done.lease).copy_out(0, &mut sent));
        assert_eq!(sent, buffer, "what is submitted again after a crash is as it was");
        self.end.release(done.lease);
        (done.reply, data)
    }

    pub(crate) fn run(&mut self, op: Op) -> Reply {
        self.submit(op);
        self.complete()
    }
}

pub(crate) fn with_branch(name: &str) -> super::Running {
    let running = start();
    make(&running, name);
    running
}

pub(crate) fn make(running: &super::Running, name: &str) {
    let create = Command::BranchCreate {
        name: name.into(),
        base: None,
        from: None,
        frozen: false,
        reuse: false,
        limits: shm_transport::control::Limits::default(),
    };
    running.client().branch_create(create).unwrap();
}

pub(crate) fn state_of(running: &super::Running) -> Vec<String> {
    running.client().mounts().unwrap().into_iter().map(|mount| mount.state).collect()
}

pub(crate) fn code(result: Result<(), ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_attached_session_is_served_listed_and_detached() {
    let running = with_branch("a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    assert!(matches!(frontend.run(Op::GetAttr), Reply::Attr { .. }));
    // One that may wait goes through the pool.
    assert_eq!(frontend.run(Op::SyncFs), Reply::Ok);
    let mounts = running.client().mounts().unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!((mounts[0].branch.as_str(), mounts[0].state.as_str(), mounts[0].requests), ("a", "attached", 2));
    let branch = running.client().branch_show("a").unwrap();
    assert_eq!(branch.mounts, [Path::new("/mnt/x")]);

    running.client().detach(SessionId(1)).unwrap();
    assert!(running.client().mounts().unwrap().is_empty());
    eventually("the socket is closed", || frontend.connection.as_ref().unwrap().is_closed());
    running.client().detach(SessionId(1)).unwrap();
}

#[test]
fn a_second_writer_waits_its_turn_and_readers_do_not() {
    let running = with_branch("a");
    make(&running, "b");
    let mut first = Frontend::new(1, false);
    first.attach(&running, "a").unwrap();
    assert_eq!(code(Frontend::new(2, false).attach(&running, "a")), ErrorCode::Busy);
    Frontend::new(3, true).attach(&running, "a").unwrap();
    Frontend::new(4, false).attach(&running, "b").unwrap();
    assert_eq!(code(Frontend::new(5, false).attach(&running, "none")), ErrorCode::NotFound);
    // The same session with other options is none that comes back.
    assert_eq!(code(first.attach(&running, "b")), ErrorCode::Usage);
    drop(first);
    // Nobody is left who could bring the first one back: its branch is free for the next.
    eventually("its end is seen", || Frontend::new(6, false).attach(&running, "a").is_ok());
}

#[test]
fn a_session_comes_back_after_its_connection_ended_and_takes_over_one_that_lives() {
    let running = with_branch("a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    frontend.connection = None;
    eventually("the end is seen", || state_of(&running) == ["reconnecting"]);
    frontend.submit(Op::GetAttr);
    frontend.attach(&running, "a").unwrap();
    assert!(!matches!(frontend.complete(), Reply::Error(_)));
    // Without an end in between: the old connection is closed by the daemon.
    let old = frontend.connection.take();
    frontend.attach(&running, "a").unwrap();
    eventually("the old socket is closed", || old.as_ref().unwrap().is_closed());
    assert!(!matches!(frontend.run(Op::GetAttr), Reply::Error(_)));
    assert_eq!(state_of(&running), ["attached"]);
}

#[test]
fn a_session_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths_in(dir.path());
    let mut running = start_in(paths.clone(), None);
    make(&running, "a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    assert!(!matches!(frontend.run(Op::Mkdir { name: b"d".to_vec(), mode: 0o755, umask: 0 }), Reply::Error(_)));
    running.stop();
    drop(running);
    eventually("the end is seen", || frontend.connection.as_ref().unwrap().is_closed());
    frontend.submit(Op::Lookup { name: b"d".to_vec() });
    let again = start_in(paths, Some(dir));
    frontend.attach(&again, "a").unwrap();
    assert!(matches!(frontend.complete(), Reply::Entry(entry) if entry.node != NodeId::NONE));
}

#[test]
fn a_peer_that_breaks_the_protocol_loses_its_connection_alone() {
    let running = with_branch("a");
    make(&running, "b");
    let (mut good, mut bad) = (Frontend::new(1, false), Frontend::new(2, false));
    good.attach(&running, "a").unwrap();
    bad.attach(&running, "b").unwrap();
    // A new epoch behind the daemon's back.
    bad.end.reset_for_new_daemon().unwrap();
    bad.submit(Op::GetAttr);
    nix::unistd::write(&bad.fds.sq, &1u64.to_le_bytes()).unwrap();
    eventually("it is thrown out", || bad.connection.as_ref().unwrap().is_closed());
    assert!(!matches!(good.run(Op::GetAttr), Reply::Error(_)));
    // It may come back.
    bad.attach(&running, "b").unwrap();
    assert!(!matches!(bad.complete(), Reply::Error(_)));
}

#[test]
fn a_peer_whose_doorbell_cannot_be_rung_holds_up_nobody_else() {
    let running = with_branch("a");
    make(&running, "b");
    let (mut good, mut bad) = (Frontend::new(1, false), Frontend::new(2, false));
    good.attach(&running, "a").unwrap();
    bad.attach(&running, "b").unwrap();
    // Full, and whoever writes waits; the flag is the peer's to change, since both share the open file.
    let bell = &bad.fds.cq[0];
    nix::fcntl::fcntl(bell, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    nix::unistd::write(bell, &(u64::MAX - 1).to_le_bytes()).unwrap();
    assert!(bad.end.arm());
    // More of them than there are threads that all mounts share.
    for _ in 0..2 * POOL_THREADS {
        bad.submit(Op::SyncFs);
    }
    eventually("it is thrown out", || bad.connection.as_ref().unwrap().is_closed());
    good.submit(Op::SyncFs);
    assert_eq!(good.complete(), Reply::Ok);
    // Who behaves again goes on where it was, in the next epoch.
    bad.end.disarm();
    bad.attach(&running, "b").unwrap();
    for _ in 0..2 * POOL_THREADS {
        assert_eq!(bad.complete(), Reply::Ok);
    }
}

#[test]
fn a_peer_whose_doorbell_never_becomes_quiet_is_thrown_out() {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    let running = with_branch("a");
    let mut bad = Frontend::new(2, false);
    let endless = EventFd::from_value_and_flags(u32::MAX, EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK).unwrap();
    let usual = std::mem::replace(&mut bad.fds.sq, endless.into());
    bad.attach(&running, "a").unwrap();
    eventually("it is thrown out", || bad.connection.as_ref().unwrap().is_closed());
    // Wakes for which there is nothing are no fault as such.
    bad.fds.sq = usual;
    bad.attach(&running, "a").unwrap();
    for _ in 0..2000 {
        nix::unistd::write(&bad.fds.sq, &1u64.to_le_bytes()).unwrap();
        std::thread::yield_now();
    }
    assert!(!matches!(bad.run(Op::GetAttr), Reply::Error(_)));
    assert!(!bad.connection.as_ref().unwrap().is_closed());
}

#[test]
fn an_attach_that_is_refused_leaves_nothing() {
    let running = with_branch("a");
    let mut raw = Raw::connect(&running);
    raw.send(b"{\"v\":1,\"op\":\"attach\",\"session\":9,\"branch\":\"a\",\"mountpoint\":\"/m\",\"epoch\":1}\n")
        .unwrap();
    assert_eq!(raw.refusal().code, ErrorCode::Version);
    assert_eq!(running.client().status().unwrap().mounts, 0);
    Frontend::new(1, false).attach(&running, "a").unwrap();
}
