use super::*;
use shm_transport::control::CommitPlan;

/// A branch with something to commit.
fn changed(running: &Running, base: &Path) {
    use super::attach::Frontend;
    use shm_transport::wire::Op;
    std::fs::create_dir(base).unwrap();
    let create = Command::BranchCreate {
        name: "a".into(),
        base: Some(base.to_owned()),
        from: None,
        frozen: false,
        reuse: false,
        limits: shm_transport::control::Limits::default(),
    };
    running.client().branch_create(create).unwrap();
    let mut frontend = Frontend::new(1, false);
    frontend.attach(running, "a").unwrap();
    frontend.run(Op::Mkdir { name: b"new".to_vec(), mode: 0o755, umask: 0 });
    drop(frontend);
    running.client().detach(shm_transport::wire::SessionId(1)).unwrap();
}

fn rig() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    let server =
        Server::start(Config { paths: paths_in(&top), allow_base: vec![top.clone()], only_these: false }).unwrap();
    let daemon = Arc::clone(&server.daemon);
    let thread = std::thread::spawn(move || server.run(None));
    let running = Running { paths: paths_in(&top), daemon, thread: Some(thread), dir: Some(dir) };
    changed(&running, &top.join("base"));
    running
}

const PREPARE: &[u8] = b"{\"v\":1,\"op\":\"commit-prepare\",\"branch\":\"a\"}\n";

#[test]
fn a_commit_of_who_was_killed_before_it_began_is_none() {
    let running = rig();
    // The call waits its turn while its caller is killed.
    let turn = lock(&running.daemon.admin);
    let mut killed = Raw::connect(&running);
    killed.send(PREPARE).unwrap();
    eventually("it is being served", || running.daemon.connections.count() == 1);
    drop(killed);
    drop(turn);
    eventually("its connection ends", || running.daemon.connections.count() == 0);
    assert!(running.client().commit_pending().unwrap().is_empty());
    // The branch is free at once.
    super::attach::Frontend::new(2, false).attach(&running, "a").unwrap();
}

#[test]
fn a_commit_that_is_being_prepared_is_told_to_who_asks() {
    let running = rig();
    let turn = lock(&running.daemon.admin);
    let mut first = Raw::connect(&running);
    first.send(PREPARE).unwrap();
    let mut second = Raw::connect(&running);
    second.send(b"{\"v\":1,\"op\":\"commit-pending\"}\n").unwrap();
    second.0.get_ref().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = std::io::Read::read(&mut second.0, &mut [0; 1]);
    assert!(early.is_err(), "it was told of commits though one was being prepared");
    drop(turn);
    let Some(Answer::Ok(plan)) = first.answer() else { panic!("it is not prepared") };
    assert!(serde_json::from_value::<CommitPlan>(plan).unwrap().id > 0);
}
