//! Holder, mounter and frontend as real processes; the daemon is this test: programs on the mount see
//! no error while frontends are killed and daemons come and go. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod treefs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_transport::control::holder::Client;
use shm_transport::control::line::LineStream;
use shm_transport::control::{Answer, Attached, Call, Command as Ask, ErrorCode, Failure};
use shm_transport::{DaemonEnd, Handler, frontend, handshake};
use std::fs;
use std::io::BufRead;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use treefs::TreeFs;

/// What stands in for the daemon.
struct Fake {
    fs: Arc<TreeFs>,
    /// Connections of attached sessions.
    attached: Mutex<Vec<UnixStream>>,
    /// Nobody is served: as if no daemon ran.
    away: AtomicBool,
    attaches: AtomicU32,
    detaches: AtomicU32,
}

impl Fake {
    fn start(socket: &Path) -> Arc<Self> {
        let fake = Arc::new(Self {
            fs: Arc::new(TreeFs::default()),
            attached: Mutex::new(Vec::new()),
            away: AtomicBool::new(false),
            attaches: AtomicU32::new(0),
            detaches: AtomicU32::new(0),
        });
        let listener = UnixListener::bind(socket).unwrap();
        let served = Arc::clone(&fake);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let fake = Arc::clone(&served);
                thread::spawn(move || fake.client(stream.unwrap()));
            }
        });
        fake
    }

    fn client(&self, stream: UnixStream) {
        let mut lines = LineStream::new(stream);
        while let Ok(Some(line)) = lines.read() {
            if self.away.load(Ordering::SeqCst) {
                return;
            }
            let call: Call = line.parse().unwrap();
            let ok = |value| Answer::Ok(value);
            match call.command {
                Ask::Attach { branch, .. } if branch != "good" => {
                    let code = ErrorCode::NotFound;
                    let failure = Failure { code, message: format!("no branch is called {branch}"), hint: None };
                    lines.write(&Answer::Error(failure)).ok();
                }
                Ask::Attach { session, epoch, .. } => {
                    let (_, end) = handshake::accept(line.fds, session, epoch).unwrap();
                    self.attaches.fetch_add(1, Ordering::SeqCst);
                    let attached = Attached { daemon_pid: 1 };
                    lines.write(&ok(serde_json::to_value(attached).unwrap())).ok();
                    let stream = lines.into_stream();
                    self.attached.lock().unwrap().push(stream.try_clone().unwrap());
                    self.serve(&end, &stream);
                    return;
                }
                Ask::Detach { .. } => {
                    self.detaches.fetch_add(1, Ordering::SeqCst);
                    lines.write(&ok(serde_json::Value::Null)).ok();
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Serves until the frontend's side or ours is closed.
    fn serve(&self, end: &DaemonEnd, stream: &UnixStream) {
        use std::os::fd::AsFd;
        loop {
            if frontend::wait(stream.as_fd(), 0).unwrap() {
                return;
            }
            while let Ok(Some(running)) = end.pop() {
                if running.run(&*self.fs as &dyn Handler).is_err() {
                    return;
                }
            }
            if end.arm() {
                frontend::wait(end.doorbell(), 20).unwrap();
            }
            end.disarm().unwrap();
        }
    }

    /// Ends every session's connection, as the death of the daemon would.
    fn die(&self) {
        for stream in self.attached.lock().unwrap().drain(..) {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

/// Everything one test starts, ended with it.
struct World {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    holder: Child,
}

fn can_mount() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("not run: needs root and /dev/fuse");
    }
    can
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "timed out: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("agentfs-front-").tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let install = |from: &Path, to: &str| {
            // By a child: a program that is open for writing in a process that forks cannot be executed.
            let status = Command::new("install").args(["-m", "755"]).arg(from).arg(bin.join(to)).status();
            assert!(status.unwrap().success());
        };
        install(Path::new(env!("CARGO_BIN_EXE_agentfs-fuse")), "agentfs-fuse");
        // The holder's child: says that it serves, as the test does in its place.
        let script = "#!/bin/sh\nfor a; do [ \"$p\" = --ready-fd ] && echo ready > /proc/self/fd/$a; p=$a; done\nexec sleep 600\n";
        let source = dir.path().join("agentfsd.sh");
        fs::write(&source, script).unwrap();
        install(&source, "agentfsd");
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::create_dir_all(dir.path().join("store/log")).unwrap();
        let fake = Fake::start(&dir.path().join("sock"));
        let log = fs::File::create(dir.path().join("store/log/holder.log")).unwrap();
        let holder = Self::program(dir.path())
            .arg("--hold")
            .env("AGENTFS_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let world = Self { dir, fake, holder };
        wait_for("the holder listens", || Client::connect(&world.socket()).is_ok());
        let pong = world.client().await_daemon(Duration::from_secs(10)).unwrap();
        assert_eq!(pong.pid, world.holder.id().cast_signed());
        world
    }

    fn program(dir: &Path) -> Command {
        let mut command = Command::new(dir.join("bin/agentfs-fuse"));
        command.arg("--store").arg(dir.join("store")).arg("--socket").arg(dir.join("sock"));
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    fn mount(&self, branch: &str) -> std::process::Output {
        let mut command = Self::program(self.dir.path());
        command.args(["--mount", "--json", "--branch", branch, "--mountpoint"]).arg(self.mnt()).output().unwrap()
    }

    /// The process that stands in for the daemon must not touch the mount: a child does.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60", "sh", "-ec", script, "sh"]).arg(self.mnt()).stdin(Stdio::null());
        command
    }

    fn succeed(&self, script: &str) -> String {
        let output = self.shell(script).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("store/log/holder.log")).unwrap_or_default()
    }

    fn frontend(&self) -> i32 {
        let mut pid = None;
        wait_for("a frontend runs", || {
            pid = self.client().mounts().unwrap().first().and_then(|mount| mount.frontend_pid);
            pid.is_some()
        });
        pid.unwrap()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.mnt().to_str())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.fake.away.store(false, Ordering::SeqCst);
        if self.is_mounted() {
            Command::new("umount").arg("-l").arg(self.mnt()).output().ok();
        }
        if let Ok(mut client) = Client::connect(&self.socket()) {
            client.stop(true).ok();
        }
        self.holder.kill().ok();
        self.holder.wait().ok();
        if thread::panicking() {
            eprintln!("--- holder.log\n{}", self.log());
        }
    }
}

/// Writes, lists, renames and removes in a loop, and reports the first thing that is not right.
const BUSY: &str = "cd $1; mkdir -p w; i=0
while [ ! -e stop ] && [ $i -lt 100000 ]; do
  i=$((i+1)); f=w/f$((i % 7))
  echo $i > $f; read -r got < $f; [ \"$got\" = $i ]
  mv $f w/g; [ ! -e $f ]; ls w > /dev/null; rm w/g; mkdir w/d; rmdir w/d
done; echo $i";

#[test]
fn programs_survive_killed_frontends_and_daemons() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let output = world.mount("good");
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    assert!(world.is_mounted());
    world.succeed("echo kept > $1/kept");
    let busy = world.shell(BUSY).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut killed = 0;
    for round in 0..12 {
        thread::sleep(Duration::from_millis(60));
        if round % 3 == 2 {
            world.fake.away.store(true, Ordering::SeqCst);
            world.fake.die();
            thread::sleep(Duration::from_millis(80));
            world.fake.away.store(false, Ordering::SeqCst);
        } else {
            let pid = world.frontend();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            killed += 1;
            wait_for("another frontend adopts", || world.frontend() != pid);
        }
        if round % 4 == 3 {
            // Both at once.
            let pid = world.frontend();
            world.fake.die();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            killed += 1;
        }
    }
    let attaches = world.fake.attaches.load(Ordering::SeqCst);
    world.succeed("touch $1/stop");
    let output = busy.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    let turns: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(turns > 10, "only {turns} turns");
    // Some are killed before they have attached.
    assert!(attaches > killed / 2, "{attaches} attaches after {killed} kills");
    assert_eq!(world.fake.fs.ran_twice(), 0);
    assert_eq!(world.succeed("cat $1/kept"), "kept\n");

    let refused = world.client().stop(false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Busy);
    let detaches = world.fake.detaches.load(Ordering::SeqCst);
    assert!(Command::new("umount").arg(world.mnt()).status().unwrap().success());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    assert_eq!(world.fake.detaches.load(Ordering::SeqCst), detaches + 1);
    world.client().stop(false).unwrap();
}

#[test]
fn an_open_file_outlives_its_frontend() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    let script = "cd $1; exec 3> file; echo one >&3; : > /proc/self/fd/9; read go <&8; echo two >&3; cat file";
    let (dir, mnt) = (world.dir.path(), world.mnt());
    let fifo = |name: &str| {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let (ready, go) = (fifo("ready"), fifo("go"));
    let script = format!("exec 8<> {} 9<> {}; {script}", go.display(), ready.display());
    let script = script.replace(": > /proc/self/fd/9", "echo >&9");
    let child = Command::new("timeout")
        .args(["-s", "KILL", "60", "sh", "-ec", &script, "sh"])
        .arg(&mnt)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(fs::File::open(&ready).unwrap()).read_line(&mut line).unwrap();
    let pid = world.frontend();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    fs::write(&go, "go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", world.log());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\ntwo\n");
    let held = world.client().mounts().unwrap();
    assert_eq!(held[0].restarts, 1);
}

#[test]
fn a_mount_that_the_daemon_refuses_does_not_stay() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let output = world.mount("missing");
    assert!(!output.status.success());
    let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
    let Answer::Error(failure) = answer else { panic!("{answer:?}") };
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::NotFound, "no branch is called missing"));
    assert!(!world.is_mounted());
    wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
}

#[test]
fn a_dead_daemon_is_started_again_and_a_second_holder_is_refused() {
    let world = World::new();
    let first = world.client().ping().unwrap().daemon_pid.unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let mut pong = world.client().ping().unwrap();
    wait_for("another daemon", || {
        pong = world.client().ping().unwrap();
        pong.daemon_pid.is_some_and(|pid| pid != first) && pong.daemon_ready
    });
    assert_eq!(pong.daemon_restarts, 1);
    let second = World::program(world.dir.path()).arg("--hold").output().unwrap();
    assert!(!second.status.success());
    let err = String::from_utf8(second.stderr).unwrap();
    assert!(err.contains("a holder runs already"), "{err}");
    let refused = world.client().allow_base(Path::new("relative")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Usage);
    world.client().stop(false).unwrap();
    wait_for("the daemon is gone", || kill(Pid::from_raw(pong.daemon_pid.unwrap()), None).is_err());
}

#[test]
fn a_mount_in_a_namespace_of_its_own_ends_with_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let script = "\"$2\" --store \"$3\" --socket \"$4\" --mount --branch good --mountpoint \"$1\"
        cd \"$1\"; echo inside > f; grep inside f; grep \"$1\" /proc/self/mounts";
    let dir = world.dir.path();
    let inside = |flags: &str| {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "30", "unshare", flags, "sh", "-ec", script, "sh"]).arg(world.mnt());
        command.arg(dir.join("bin/agentfs-fuse")).arg(dir.join("store")).arg(world.socket());
        command.stdin(Stdio::null()).output().unwrap()
    };
    // With privilege, and as the root of a user namespace, where mount(2) is allowed too.
    for flags in ["-m", "-rm"] {
        let output = inside(flags);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success(), "{flags}: {output:?}");
        assert!(text.starts_with("inside\n") && text.contains("fuse.agentfs"), "{flags}: {text}");
        assert!(!world.is_mounted());
        wait_for("the holder forgets the mount", || world.client().mounts().unwrap().is_empty());
    }
    assert!(world.fake.detaches.load(Ordering::SeqCst) >= 2);
}

/// Ticks (1/100 s) of processor time that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn more_requests_than_slots_wait_quietly_for_a_daemon() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    assert!(world.mount("good").status.success());
    // Each in a directory of its own: the kernel lets one program at a time change a directory.
    world.succeed("cd $1; for i in $(seq 90); do mkdir m$i; done");
    let script = "cd $1; stat . > /dev/null; echo; while [ ! -e $2 ]; do sleep 0.02; done
        for i in $(seq 90); do mkdir m$i/d & done; wait; ls -d m*/d | wc -l";
    let go = world.dir.path().join("go");
    let mut waiting = Command::new("timeout")
        .args(["-s", "KILL", "60", "bash", "-ec", script, "bash"])
        .args([world.mnt(), go.clone()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(waiting.stdout.take().unwrap());
    let mut line = String::new();
    // Once it is in the directory, its children need nothing of the daemon before their own request.
    said.read_line(&mut line).unwrap();
    world.fake.away.store(true, Ordering::SeqCst);
    world.fake.die();
    fs::write(&go, "").unwrap();
    thread::sleep(Duration::from_millis(700));
    let pid = world.frontend();
    let before = ticks(pid);
    thread::sleep(Duration::from_secs(1));
    let used = ticks(pid) - before;
    assert!(used <= 10, "{used} ticks while waiting");
    assert!(world.log().lines().all(|line| !line.contains("ERROR")), "{}", world.log());
    // A frontend that takes over now finds every slot but one in use.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("another frontend adopts", || world.frontend() != pid);
    wait_for("it finds them", || world.log().contains("under way requests=63"));
    world.fake.away.store(false, Ordering::SeqCst);
    assert!(waiting.wait().unwrap().success());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "\n90\n");
    assert_eq!(world.fake.fs.ran_twice(), 0);
}
