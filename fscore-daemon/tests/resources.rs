//! What runs out: descriptors, slots, patience. Each ends or slows its own mount at most; the others feel nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use shm_transport::FsTransport;
use shm_transport::handshake::Connection;
use shm_transport::stats::{Counter, StatsReader};
use shm_transport::wire::{NodeId, Op, Reply, SessionId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Daemon, Frontend};

fn created(reply: Option<Reply>) -> NodeId {
    match reply {
        Some(Reply::Created(entry, _)) => entry.node,
        other => panic!("{other:?}"),
    }
}

fn create(name: String) -> Op {
    Op::Create { name: name.into_bytes(), mode: 0o644, umask: 0, flags: 0 }
}

/// Writes or reads a file of a few bytes.
fn write(end: &mut Frontend, node: NodeId, text: &[u8]) {
    let lease = end.end.lease().unwrap();
    assert!(end.end.payload(&lease).copy_in(0, text));
    end.end.release(lease);
    // The slot used last is the next one.
    assert!(end.submit(node, Op::Write { fh: 0, offset: 0, kill_suidgid: false }, text.len() as u32));
    let written = end.complete();
    assert!(matches!(written, Some(Reply::Written { size }) if size as usize == text.len()), "{written:?}");
}

#[test]
fn twenty_thousand_open_files_need_no_descriptor_each() {
    const FILES: u64 = 20_000;
    const LIMIT: u32 = 128;
    let daemon = Daemon::start_limited(Some(LIMIT));
    daemon.make("many");
    let mut end = Frontend::new(1);
    end.attach(&daemon, "many").unwrap();
    let mut nodes = Vec::new();
    for n in 0..FILES {
        assert!(end.submit(NodeId::ROOT, create(format!("f{n}")), 0));
        // Open from here on: nothing releases it.
        let node = created(end.complete());
        if n % 16 == 0 {
            write(&mut end, node, format!("text {n}").as_bytes());
        }
        nodes.push(node);
    }
    assert!(daemon.used().0 < LIMIT as usize, "{:?}", daemon.used());
    for (n, node) in nodes.iter().enumerate().step_by(16) {
        assert!(end.submit(*node, Op::Read { fh: 0, offset: 0, size: 64 }, 0));
        let reply = end.complete();
        assert!(
            matches!(reply, Some(Reply::Data { len }) if len as usize == format!("text {n}").len()),
            "{n} {reply:?}"
        );
    }
    daemon.client().status().unwrap();
}

/// It fills its ring and takes nothing back.
#[test]
fn a_frontend_that_takes_no_completions_holds_up_itself_alone() {
    let daemon = Daemon::start();
    daemon.make("a");
    daemon.make("b");
    let mut good = Frontend::new(1);
    good.attach(&daemon, "b").unwrap();
    let before = daemon.used();
    let mut lazy = Frontend::new(2);
    lazy.attach(&daemon, "a").unwrap();
    let mut submitted = 0;
    while lazy.submit(NodeId::ROOT, Op::Mkdir { name: format!("d{submitted}").into_bytes(), mode: 0o755, umask: 0 }, 0)
    {
        submitted += 1;
    }
    assert_eq!(submitted, lazy.end.slots(), "until all slots are used up");
    for n in 0..500 {
        assert!(good.submit(NodeId::ROOT, create(format!("f{n}")), 0));
        created(good.complete());
    }
    let (descriptors, threads) = daemon.used();
    assert!(descriptors <= before.0 + 16 && threads <= before.1 + 8, "{before:?} {descriptors} {threads}");
    // Its replies wait for it all the same.
    for _ in 0..submitted {
        assert!(matches!(lazy.complete(), Some(Reply::Entry(_))));
    }
    drop(lazy);
    daemon.client().detach(SessionId(2)).unwrap();
    assert!(good.submit(NodeId::ROOT, Op::GetAttr, 0) && good.complete().is_some());
}

/// Random bytes over the whole region while it is used, by a thread of the liar's; beside it an honest mount.
#[test]
fn a_region_full_of_noise_ends_one_session_with_a_reason() {
    let daemon = Daemon::start();
    daemon.make("a");
    daemon.make("b");
    let mut good = Frontend::new(1);
    good.attach(&daemon, "b").unwrap();
    let broken = || {
        let sample = StatsReader::open(&daemon.paths.store).unwrap().sample().unwrap();
        let name = Counter::ProtocolErrors.name();
        sample.counters.iter().find(|(counter, _)| *counter == name).map_or(0, |(_, n)| *n)
    };
    let (mut ended, mut served) = (0, 0);
    for round in 0..24_u64 {
        let mut liar = Frontend::new(2);
        liar.attach(&daemon, "a").unwrap();
        let region = File::from(liar.fds.region.try_clone().unwrap());
        let whole = region.metadata().unwrap().len();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&written));
        let noise = std::thread::spawn(move || {
            let mut state = 0x9e37_79b9_7f4a_7c15 ^ round;
            let mut roll = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            while !until.load(Ordering::Relaxed) {
                // Rings and slots lie in the first pages, payloads behind them.
                let below = if roll() % 4 == 0 { whole - 8 } else { 108 << 10 };
                region.write_all_at(&roll().to_le_bytes(), roll() % below).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        for n in 0..200_u64 {
            liar.submit(NodeId::ROOT, create(format!("r{round}-{n}")), 0);
            // It is told of no doorbell's state that could be believed.
            nix::unistd::write(&liar.fds.sq, &1_u64.to_le_bytes()).unwrap();
            if let Ok(Some(done)) = liar.end.complete() {
                liar.end.release(done.lease);
            }
            assert!(good.submit(NodeId::ROOT, create(format!("r{round}-{n}")), 0));
            created(good.complete());
            served += 1;
        }
        stop.store(true, Ordering::Relaxed);
        noise.join().unwrap();
        assert!(written.load(Ordering::Relaxed) > 100);
        ended += usize::from(liar.connection.as_ref().is_some_and(Connection::is_closed));
    }
    assert_eq!(served, 24 * 200);
    assert!(ended > 0, "the noise never broke a rule");
    assert!(broken() >= ended as u64, "{ended} sessions ended, {} reasons were counted", broken());
    daemon.client().status().unwrap();
    // What was made beside the noise is there.
    assert!(good.submit(NodeId::ROOT, Op::Mkdir { name: b"r0-0".to_vec(), mode: 0o755, umask: 0 }, 0));
    assert!(matches!(good.complete(), Some(Reply::Error(shm_transport::wire::Errno::EEXIST))));
}
