use super::*;
use shm_transport::control::LINE_MAX;
use shm_transport::control::client::ClientError;
use shm_transport::stats::StatsReader;
use shm_transport::wire::SessionId;

#[test]
fn status_tells_store_and_socket() {
    let running = start();
    let status = running.client().status().unwrap();
    assert_eq!(status.store, running.paths.store);
    assert_eq!(status.socket, running.paths.socket);
    assert_eq!(status.pid, std::process::id() as i32);
    assert_eq!((status.mounts, status.recoveries), (0, 0));
    assert_eq!(status.refusing_writes, None);
}

#[test]
fn a_connection_goes_on_after_lines_that_are_not_understood() {
    let running = start();
    let mut raw = Raw::connect(&running);
    for (line, code) in [
        (&b"{\"v\":1,\"op\":\"frobnicate\"}\n"[..], ErrorCode::Usage),
        (b"\n", ErrorCode::Usage),
        (b"hello\n", ErrorCode::Usage),
        (b"{\"v\":1}\n", ErrorCode::Usage),
        (b"{\"op\":\"status\"}\n", ErrorCode::Usage),
        (b"{\"v\":1,\"op\":\"detach\"}\n", ErrorCode::Usage),
        (b"{\"v\":1,\"op\":\"attach\",\"session\":-1}\n", ErrorCode::Usage),
        (b"\xff\xfe\n", ErrorCode::Usage),
        (b"{\"v\":2,\"op\":\"status\"}\n", ErrorCode::Version),
        (b"{\"v\":2,\"op\":\"of-the-future\"}\n", ErrorCode::Version),
    ] {
        raw.send(line).unwrap();
        assert_eq!(raw.refusal().code, code, "{}", line.escape_ascii());
    }
    raw.send(b"{\"v\":1,\"op\":\"status\"}\n{\"v\":1,\"op\":\"mounts\"}\n").unwrap();
    assert!(matches!(raw.answer(), Some(Answer::Ok(_))));
    assert!(matches!(raw.answer(), Some(Answer::Ok(list)) if list == serde_json::json!([])));
}

#[test]
fn an_overlong_line_is_refused_and_ends_the_connection() {
    let running = start();
    let mut raw = Raw::connect(&running);
    let long = vec![b'x'; LINE_MAX + 100_000];
    // The daemon may close before all of it went.
    raw.send(&long).ok();
    let refusal = raw.refusal();
    assert_eq!(refusal.code, ErrorCode::Usage);
    assert!(refusal.message.contains("exceeds"), "{refusal}");
    assert!(raw.answer().is_none());
    running.client().status().unwrap();
}

#[test]
fn a_cut_line_harms_nobody() {
    let running = start();
    let mut raw = Raw::connect(&running);
    raw.send(b"{\"v\":1,\"op\":\"sta").unwrap();
    drop(raw);
    running.client().status().unwrap();
    eventually("the thread ends", || running.daemon.connections.count() == 0);
}

#[test]
fn detaching_what_only_a_former_daemon_knew_is_done() {
    let running = start();
    running.client().detach(SessionId(7)).unwrap();
}

#[test]
fn shutdown_answers_then_ends_and_leaves_no_socket() {
    let mut running = start();
    let idle = running.client();
    let counters = StatsReader::open(&running.paths.store).unwrap();
    running.client().shutdown().unwrap();
    running.join();
    drop(idle);
    assert!(!running.paths.socket.exists());
    assert!(Client::connect(&running.paths.socket).unwrap_err().is_not_running());
    let sample = counters.sample().unwrap();
    assert!(sample.ended);
    assert!(sample.counters.contains(&("control_calls", 1)));
    assert_eq!(StatsReader::open(&running.paths.store).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_daemon_hands_over_only_when_it_is_meant() {
    let mut running = start();
    let own = std::process::id() as i32;
    let refused = running.client().hand_over(own + 1).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(failure) if failure.code == ErrorCode::NotFound));
    running.client().status().unwrap();
    running.client().hand_over(own).unwrap();
    running.join();
}

#[test]
fn a_second_daemon_on_the_store_is_refused_and_leaves_the_first_alone() {
    let running = start();
    let mut paths = running.paths.clone();
    let second = Server::start(Config { paths: paths.clone(), allow_base: Vec::new(), only_these: false });
    assert!(matches!(second, Err(ServeError::Store { source: StoreError::InUse { .. }, .. })));
    paths.store.set_file_name("other");
    let third = Server::start(Config { paths: paths.clone(), allow_base: Vec::new(), only_these: false });
    assert!(matches!(third, Err(ServeError::SocketInUse(_))));
    assert_eq!(StatsReader::open(&paths.store).unwrap_err().kind(), io::ErrorKind::NotFound, "it left its counters");
    running.client().status().unwrap();
}

#[test]
fn requests_are_counted_by_what_they_are() {
    use shm_transport::wire::{NodeId, Op, Reply};
    let running = super::attach::with_branch("a");
    let mut frontend = super::attach::Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    for op in
        [Op::GetAttr, Op::Lookup { name: b"none".to_vec() }, Op::Mkdir { name: b"d".to_vec(), mode: 0o755, umask: 0 }]
    {
        assert!(!matches!(frontend.run(op), Reply::Error(_)));
    }
    assert!(matches!(frontend.run(Op::Mkdir { name: b"d".to_vec(), mode: 0o755, umask: 0 }), Reply::Error(_)));
    assert_eq!(frontend.run(Op::SyncFs), Reply::Ok);
    let before = StatsReader::open(&running.paths.store).unwrap().sample().unwrap();
    let now = |name: &str| before.counters.iter().find(|(found, _)| *found == name).unwrap().1;
    assert_eq!((now("requests"), now("errors")), (5, 1));
    assert_eq!((now("attributes"), now("lookups"), now("names"), now("fsyncs")), (1, 1, 2, 1));
    assert!(now("syncs") >= 1);
    assert_eq!((now("replays"), now("copy_ups"), now("reads"), now("writes")), (0, 0, 0, 0));
    assert_eq!(before.mounts[0].in_flight, 0);
    assert_ne!(NodeId::ROOT, NodeId::NONE);
}
