//! Peers that break every rule. The daemon goes on serving others, and afterwards uses no more descriptors and
//! threads than before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use memfd::{FileSeal, MemfdOptions};
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::{Answer, ErrorCode};
use shm_transport::mem::fds;
use shm_transport::wire::{NodeId, Op, SessionId};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};
use support::{Daemon, Frontend, eventually};

fn raw(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(&daemon.paths.socket).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream
}

fn answer(stream: &UnixStream) -> Option<Answer> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn code(result: Result<(), ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// A generator of numbers that look like chance and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

#[test]
fn garbage_half_lines_and_endless_lines_leave_nothing() {
    let daemon = Daemon::start();
    let before = daemon.used();
    let mut dice = Dice(7);
    let mut kept = Vec::new();
    for round in 0..40 {
        let mut stream = raw(&daemon);
        let bytes: Vec<u8> = (0..dice.below(5000)).map(|_| dice.roll() as u8).collect();
        // It may have been closed meanwhile.
        stream.write_all(&bytes).ok();
        match round % 3 {
            0 => kept.push(stream),
            1 => drop(stream),
            _ => {
                let long = vec![b'['; 200_000];
                while stream.write_all(&long).is_ok() {}
            }
        }
    }
    daemon.client().status().unwrap();
    drop(kept);
    daemon.returns_to(before);
}

#[test]
fn more_connections_than_it_takes_are_told_so_and_leave_nothing() {
    let daemon = Daemon::start_limited(Some(1024));
    let before = daemon.used();
    let mut open = Vec::new();
    let mut told = 0;
    for _ in 0..1000 {
        let mut stream = raw(&daemon);
        stream.write_all(b"{\"v\":1,\"op\":\"status\"}\n").ok();
        match answer(&stream) {
            Some(Answer::Ok(_)) => open.push(stream),
            Some(Answer::Error(refusal)) => {
                assert_eq!(refusal.code, ErrorCode::Busy);
                told += 1;
            }
            // Closed before the answer was read: what we wrote was not read.
            None => {}
        }
    }
    assert!(told > 100 && open.len() >= 100, "{told} were told, {} are open", open.len());
    drop(open);
    daemon.returns_to(before);
    daemon.client().status().unwrap();
}

#[test]
fn without_descriptors_it_waits_without_spinning_and_comes_back() {
    let daemon = Daemon::start_limited(Some(64));
    let before = daemon.used();
    let null = File::open("/dev/null").unwrap();
    // Descriptors beside lines that never end, until there are no more.
    let hoarders: Vec<UnixStream> = (0..4).map(|_| raw(&daemon)).collect();
    for hoarder in &hoarders {
        for _ in 0..4 {
            fds::send(hoarder.as_fd(), b"x", &[null.as_fd(); 9]).ok();
        }
    }
    let waiting: Vec<UnixStream> = (0..8).map(|_| raw(&daemon)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let (begun, at_first) = (Instant::now(), daemon.processor_time());
    std::thread::sleep(Duration::from_secs(1));
    let share = (daemon.processor_time() - at_first) / begun.elapsed().as_secs_f64();
    assert!(share < 0.3, "it uses {share} of a processor to wait");
    drop((hoarders, waiting));
    eventually("it serves again", || Client::connect(&daemon.paths.socket).is_ok_and(|mut c| c.status().is_ok()));
    daemon.returns_to(before);
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let daemon = Daemon::start();
    daemon.make("a");
    let before = daemon.used();
    let null = File::open("/dev/null").unwrap();
    let attach = b"{\"v\":1,\"op\":\"attach\",\"session\":9,\"branch\":\"a\",\"mountpoint\":\"/m\",\"epoch\":1}\n";
    for count in [1, 3, 4, 67, 68, fds::FDS_MAX] {
        for line in [&b"{\"v\":1,\"op\":\"status\"}\n"[..], attach, b"garbage\n"] {
            let stream = raw(&daemon);
            fds::send(stream.as_fd(), line, &vec![null.as_fd(); count]).unwrap();
            assert!(answer(&stream).is_some());
            daemon.returns_to((before.0 + 2, before.1 + 1));
        }
    }
    // Too many in all, beside pieces of one line.
    let stream = raw(&daemon);
    for _ in 0..3 {
        fds::send(stream.as_fd(), b"{", &[null.as_fd(); 60]).ok();
    }
    assert_eq!((&stream).read(&mut [0; 8]).unwrap_or(0), 0);
    drop(stream);
    daemon.returns_to(before);
    daemon.client().status().unwrap();
}

/// An attach line with descriptors of the caller's choice.
fn attach_with(daemon: &Daemon, session: u64, epoch: u32, row: &[BorrowedFd<'_>]) -> Option<Answer> {
    let stream = raw(daemon);
    let line = format!(
        "{{\"v\":1,\"op\":\"attach\",\"session\":{session},\"branch\":\"a\",\"mountpoint\":\"/m\",\"epoch\":{epoch}}}\n"
    );
    fds::send(stream.as_fd(), line.as_bytes(), row).unwrap();
    answer(&stream)
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let daemon = Daemon::start();
    daemon.make("a");
    let before = daemon.used();
    let honest = Frontend::new(5);
    let row = honest.fds.row();
    let length = File::from(honest.fds.region.try_clone().unwrap()).metadata().unwrap().len();
    let memory = |length: u64, seals: &[FileSeal]| {
        let memfd = MemfdOptions::new().allow_sealing(true).create("x").unwrap();
        let mut header = vec![0; 4096];
        File::from(honest.fds.region.try_clone().unwrap()).read_exact_at(&mut header, 0).unwrap();
        memfd.as_file().set_len(length).unwrap();
        memfd.as_file().write_all_at(&header[..4096.min(length as usize)], 0).unwrap();
        memfd.add_seals(seals).unwrap();
        OwnedFd::from(memfd.into_file())
    };
    let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
    let null = OwnedFd::from(File::open("/dev/null").unwrap());
    let (pipe, _other) = std::io::pipe().unwrap();
    let read_only = File::open(format!("/proc/self/fd/{}", honest.fds.region.as_raw_fd())).unwrap();
    let regions = [
        memory(length, &[]),
        memory(length, &seals[1..]),
        memory(length - 4096, &seals),
        memory(length + 4096, &seals),
        memory(50, &seals),
        memory(0, &seals),
        null.try_clone().unwrap(),
        OwnedFd::from(tempfile::tempfile().unwrap()),
        OwnedFd::from(read_only),
    ];
    for (n, region) in regions.iter().enumerate() {
        let refused = attach_with(&daemon, 5, 0, &[region.as_fd(), row[1], row[2], row[3]]);
        assert!(matches!(refused, Some(Answer::Error(_))), "region {n}: {refused:?}");
    }
    for bell in [null.as_fd(), pipe.as_fd(), honest.fds.region.as_fd()] {
        for row in [[row[0], row[1], bell, row[3]], [row[0], row[1], row[2], bell]] {
            let refused = attach_with(&daemon, 5, 0, &row);
            assert!(matches!(refused, Some(Answer::Error(_))), "{refused:?}");
        }
    }
    // Another session's number, another epoch, too many doorbells.
    for (session, epoch, row) in [(6, 0, row.clone()), (5, 1, row.clone()), (5, 0, [&row[..], &row[3..]].concat())] {
        let refused = attach_with(&daemon, session, epoch, &row);
        assert!(matches!(refused, Some(Answer::Error(_))), "{refused:?}");
    }
    assert!(daemon.client().mounts().unwrap().is_empty(), "what was refused is a mount");
    daemon.returns_to(before);
}

#[test]
fn a_table_that_is_none_and_doorbells_that_block_hold_nobody_up() {
    let daemon = Daemon::start();
    daemon.make("a");
    let before = daemon.used();
    let mut frontend = Frontend::new(5);
    // The table shrinks and grows while the session lives; the bells are made blocking and full.
    frontend.fds.table = OwnedFd::from(File::open("/dev/null").unwrap());
    frontend.attach(&daemon, "a").unwrap();
    for bell in [&frontend.fds.sq, &frontend.fds.cq[0]] {
        let flags = nix::fcntl::fcntl(bell, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(flags & libc::O_NONBLOCK != 0, "the daemon left a doorbell blocking");
    }
    for _ in 0..50 {
        assert!(frontend.submit(NodeId::ROOT, Op::GetAttr, 0));
        assert!(frontend.complete().is_some());
    }
    drop(frontend);
    daemon.client().detach(SessionId(5)).unwrap();
    daemon.returns_to(before);
}

#[test]
fn a_frontend_that_lies_in_every_field_ends_its_own_connection_at_most() {
    let daemon = Daemon::start();
    daemon.make("a");
    daemon.make("b");
    let before = daemon.used();
    let mut good = Frontend::new(1);
    good.attach(&daemon, "b").unwrap();
    let mut dice = Dice(0x1234_5678_9abc);
    for round in 0..60 {
        let mut liar = Frontend::new(2);
        liar.attach(&daemon, "a").unwrap_or_else(|e| panic!("round {round}: an honest attach is refused: {e}"));
        let region = File::from(liar.fds.region.try_clone().unwrap());
        for _ in 0..30 {
            match dice.below(5) {
                0 => {
                    liar.submit(NodeId(dice.below(4)), Op::GetAttr, 0);
                }
                1 => {
                    let name = format!("{}", dice.below(9)).into_bytes();
                    liar.submit(NodeId::ROOT, Op::Mkdir { name, mode: 0o755, umask: 0 }, 0);
                }
                2 => {
                    liar.submit(NodeId::ROOT, Op::Forget { count: dice.below(4096) as u32 }, 1 << 20);
                }
                _ => {
                    // Header, rings and the first slots; mostly small numbers, sometimes any.
                    let at = dice.below(16 << 10) & !3;
                    let value = if dice.below(2) == 0 { dice.below(70) } else { dice.roll() };
                    region.write_all_at(&(value as u32).to_le_bytes(), at).unwrap();
                }
            }
            nix::unistd::write(&liar.fds.sq, &1u64.to_le_bytes()).unwrap();
        }
        // Its completions are never taken.
        drop(liar);
        assert!(good.submit(NodeId::ROOT, Op::GetAttr, 0));
        assert!(good.complete().is_some(), "round {round}: another mount's connection ended");
    }
    daemon.client().detach(SessionId(2)).unwrap();
    daemon.client().detach(SessionId(2)).unwrap();
    drop(good);
    daemon.client().detach(SessionId(1)).unwrap();
    daemon.returns_to(before);
}

#[test]
fn one_region_under_two_sessions_harms_neither_daemon_nor_others() {
    let daemon = Daemon::start();
    daemon.make("a");
    daemon.make("b");
    let before = daemon.used();
    let mut first = Frontend::new(1);
    first.attach(&daemon, "a").unwrap();
    let mut second = Frontend::new(2);
    second.fds = first.fds.try_clone().unwrap();
    // The header now says that it is the second one's.
    File::from(first.fds.region.try_clone().unwrap()).write_all_at(&2u64.to_le_bytes(), 56).unwrap();
    let epoch = first.end.epoch();
    assert!(matches!(attach_with(&daemon, 2, epoch, &second.fds.row()), Some(Answer::Ok(_) | Answer::Error(_))));
    for _ in 0..20 {
        first.submit(NodeId::ROOT, Op::GetAttr, 0);
    }
    daemon.client().status().unwrap();
    drop((first, second));
    for session in [1, 2] {
        daemon.client().detach(SessionId(session)).unwrap();
    }
    daemon.returns_to(before);
}

#[test]
fn another_users_frontend_or_client_is_refused() {
    const ASKED: &str = "AGENTFS_TEST_ASK_AS_ANOTHER_USER";
    if let Some(socket) = std::env::var_os(ASKED) {
        let refused = Client::connect(socket.as_ref()).unwrap().status().map(drop);
        assert_eq!(code(refused), ErrorCode::Denied);
        return;
    }
    let daemon = Daemon::start();
    let before = daemon.used();
    // As if somebody had opened the socket for everybody.
    let run = daemon.paths.socket.parent().unwrap();
    for (path, mode) in [(run.parent().unwrap(), 0o755), (run, 0o755), (&daemon.paths.socket, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // A copy that everybody may run.
    let program = run.join("ask");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut ask = std::process::Command::new(&program);
    ask.args(["--exact", "another_users_frontend_or_client_is_refused"]).env(ASKED, &daemon.paths.socket);
    match ask.uid(65_534).gid(65_534).current_dir("/").output() {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: another_users_frontend_or_client_is_refused: needs root");
        }
        ran => {
            let ran = ran.unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        }
    }
    daemon.client().status().unwrap();
    daemon.returns_to(before);
}
