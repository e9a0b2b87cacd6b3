//! A daemon that is told to end while it has much to do ends in order, and soon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::control::Command as Call;
use shm_transport::control::client::{Client, ClientError};
use shm_transport::handshake;
use shm_transport::stats::StatsReader;
use shm_transport::wire::{NodeId, Op, Reply};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use support::{Daemon, Frontend};

/// What the programs on one mount do until the daemon is gone. No request may fail because of its end.
fn work(daemon: &Daemon, session: u64, over: &AtomicBool) -> u64 {
    let branch = format!("b{session}");
    let mut frontend = Frontend::new(session);
    match frontend.attach(daemon, &branch) {
        Ok(()) => {}
        // It ended before.
        Err(e) if handshake::is_transient(&e) => return 0,
        Err(e) => panic!("{e}"),
    }
    let mut answered = 0;
    while !over.load(Relaxed) {
        let name = format!("{answered}").into_bytes();
        let mut under_way = 0;
        for op in [Op::Mkdir { name, mode: 0o755, umask: 0 }, Op::GetAttr, Op::SyncFs, Op::StatFs] {
            under_way += u64::from(frontend.submit(NodeId::ROOT, op, 0));
        }
        for _ in 0..under_way {
            match frontend.complete() {
                Some(Reply::Error(error)) => panic!("a request failed with {error:?} though it only had to wait"),
                Some(_) => answered += 1,
                None => return answered,
            }
        }
    }
    answered
}

/// Short commands until the daemon is gone.
fn command(socket: &Path, over: &AtomicBool) {
    let mut made = 0;
    while !over.load(Relaxed) {
        let name = format!("c{made}");
        made += 1;
        let create = Call::BranchCreate {
            name: name.clone(),
            base: None,
            from: None,
            frozen: false,
            reuse: true,
            limits: shm_transport::control::Limits::default(),
        };
        let run = |client: &mut Client| -> Result<(), ClientError> {
            client.branch_create(create)?;
            client.mounts()?;
            client.branch_delete(&name, false)?;
            client.status().map(drop)
        };
        if Client::connect(socket).and_then(|mut client| run(&mut client)).is_err() {
            return;
        }
    }
}

#[test]
fn it_ends_in_order_fifty_times_under_load() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50_u64 {
        let mut daemon = Daemon::start_in(dir.path(), None);
        assert_eq!(daemon.client().status().unwrap().recoveries, 0, "the stop before round {round} was none in order");
        let sessions = [round * 4 + 1, round * 4 + 2, round * 4 + 3];
        for session in sessions {
            daemon.make(&format!("b{session}"));
        }
        let over = AtomicBool::new(false);
        let socket = daemon.paths.socket.clone();
        // Half a line, and one that waits for an answer it never reads.
        let silent = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        std::io::Write::write_all(&mut &silent, b"{\"v\":1,\"op\":\"mounts\"}\n{\"v\":").unwrap();
        let ended = std::thread::scope(|scope| {
            let (daemon, over, socket) = (&mut daemon, &over, &socket);
            let shared = &*daemon;
            let workers = sessions.map(|session| scope.spawn(move || work(shared, session, over)));
            let commands = [0, 1].map(|_| scope.spawn(move || command(socket, over)));
            std::thread::sleep(Duration::from_millis(5 + round * 7 % 40));
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(shared.pid()), nix::sys::signal::Signal::SIGTERM)
                .unwrap();
            let begun = std::time::Instant::now();
            for worker in workers {
                worker.join().unwrap();
            }
            over.store(true, Relaxed);
            for command in commands {
                command.join().unwrap();
            }
            begun
        });
        let status = daemon.wait();
        assert!(status.success(), "{status}");
        assert!(ended.elapsed() < Duration::from_secs(8), "round {round}: {:?}", ended.elapsed());
        assert!(!socket.exists());
        assert!(StatsReader::open(&daemon.paths.store).is_err(), "the counters stay");
        drop(silent);
    }
}
