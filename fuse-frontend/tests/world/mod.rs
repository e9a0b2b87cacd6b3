//! Holder, mounter and frontend as real processes; the daemon is the test itself.
#![allow(dead_code, reason = "shared by several tests")]

use crate::treefs::TreeFs;
use shm_transport::control::holder::Client;
use shm_transport::control::line::LineStream;
use shm_transport::control::versions::Versions;
use shm_transport::control::{Answer, Attached, Call, Command as Ask, ErrorCode, Failure};
use shm_transport::{DaemonEnd, Handler, frontend, handshake};
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What stands in for the daemon.
pub struct Fake {
    pub fs: Arc<TreeFs>,
    /// Connections of attached sessions.
    pub attached: Mutex<Vec<UnixStream>>,
    /// Nobody is served: as if no daemon ran.
    pub away: AtomicBool,
    /// Sessions are taken and left again at once.
    pub fickle: AtomicBool,
    /// The process that was started as the daemon, to end when told to shut down.
    pub stand_in: AtomicI32,
    pub attaches: AtomicU32,
    pub detaches: AtomicU32,
}

impl Fake {
    pub fn start(socket: &Path) -> Arc<Self> {
        let fake = Arc::new(Self {
            fs: Arc::new(TreeFs::default()),
            attached: Mutex::new(Vec::new()),
            away: AtomicBool::new(false),
            fickle: AtomicBool::new(false),
            stand_in: AtomicI32::new(0),
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

    pub fn client(&self, stream: UnixStream) {
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
                    let attached = Attached { daemon_pid: 1 };
                    lines.write(&ok(serde_json::to_value(attached).unwrap())).ok();
                    let stream = lines.into_stream();
                    if self.fickle.load(Ordering::SeqCst) {
                        self.attaches.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    self.attached.lock().unwrap().push(stream.try_clone().unwrap());
                    self.attaches.fetch_add(1, Ordering::SeqCst);
                    self.serve(&end, &stream);
                    return;
                }
                Ask::Detach { .. } => {
                    self.detaches.fetch_add(1, Ordering::SeqCst);
                    lines.write(&ok(serde_json::Value::Null)).ok();
                }
                // None of the frontends that it serves: as while they wait to be let in.
                Ask::Mounts => {
                    lines.write(&ok(serde_json::json!([]))).ok();
                }
                Ask::Status => {
                    let message = "the test has no state".into();
                    lines.write(&Answer::Error(Failure { code: ErrorCode::Internal, message, hint: None })).ok();
                }
                Ask::Shutdown | Ask::HandOver { .. } => {
                    let pid = self.stand_in.load(Ordering::SeqCst);
                    assert!(pid > 0, "nobody is to be shut down");
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
                    lines.write(&ok(serde_json::Value::Null)).ok();
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Serves until the frontend's side or ours is closed.
    pub fn serve(&self, end: &DaemonEnd, stream: &UnixStream) {
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
    pub fn die(&self) {
        for stream in self.attached.lock().unwrap().drain(..) {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

/// Everything one test starts, ended with it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub fake: Arc<Fake>,
    pub holder: Child,
}

pub fn can_mount() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("not run: needs root and /dev/fuse");
    }
    can
}

pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "timed out: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl World {
    pub fn new() -> Self {
        Self::in_dir(tempfile::Builder::new().prefix("agentfs-front-").tempdir().unwrap())
    }

    pub fn in_dir(dir: tempfile::TempDir) -> Self {
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let install = |from: &Path, to: &str| {
            // By a child: a program that is open for writing in a process that forks cannot be executed.
            let status = Command::new("install").args(["-m", "755"]).arg(from).arg(bin.join(to)).status();
            assert!(status.unwrap().success());
        };
        install(Path::new(env!("CARGO_BIN_EXE_agentfs-fuse")), "agentfs-fuse");
        // The holder's child: locks the store and says that it serves, as the test does in its place.
        let versions = serde_json::to_string(&Versions::current(Some(1))).unwrap();
        let script = "#!/bin/sh
[ \"$1\" = --versions ] && echo 'VERSIONS' && exit 0
for a; do
  [ \"$p\" = --store ] && store=$a
  [ \"$p\" = --ready-fd ] && ready=$a
  p=$a
done
exec 9> \"$store/lock\"; flock -n 9 || exit 1
echo ready > /proc/self/fd/$ready
exec sleep 600
";
        let source = dir.path().join("agentfsd.sh");
        fs::write(&source, script.replace("VERSIONS", &versions)).unwrap();
        install(&source, "agentfsd");
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::create_dir_all(dir.path().join("store/log")).unwrap();
        let fake = Fake::start(&dir.path().join("sock"));
        let holder = Self::hold(dir.path());
        let world = Self { dir, fake, holder };
        world.await_holder();
        world
    }

    /// Starts a holder.
    pub fn hold(dir: &Path) -> Child {
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(dir.join("store/log/holder.log")).unwrap();
        let mut command = Self::program(dir);
        command.arg("--hold").env("AGENTFS_LOG", "debug").stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Waits until the holder and its daemon serve.
    pub fn await_holder(&self) {
        wait_for("the holder listens", || Client::connect(&self.socket()).is_ok());
        let pong = self.client().await_daemon(Duration::from_secs(10)).unwrap();
        assert_eq!(pong.pid, self.holder.id().cast_signed());
        self.fake.stand_in.store(pong.daemon_pid.unwrap(), Ordering::SeqCst);
    }

    pub fn program(dir: &Path) -> Command {
        let mut command = Command::new(dir.join("bin/agentfs-fuse"));
        command.arg("--store").arg(dir.join("store")).arg("--socket").arg(dir.join("sock"));
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    pub fn mount(&self, branch: &str) -> std::process::Output {
        self.mount_with(branch, &[])
    }

    pub fn mount_with(&self, branch: &str, options: &[&str]) -> std::process::Output {
        let mut command = Self::program(self.dir.path());
        command
            .args(options)
            .args(["--mount", "--json", "--branch", branch, "--mountpoint"])
            .arg(self.mnt())
            .output()
            .unwrap()
    }

    /// The process that stands in for the daemon must not touch the mount: a child does.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60", "sh", "-ec", script, "sh"]).arg(self.mnt()).stdin(Stdio::null());
        command
    }

    pub fn succeed(&self, script: &str) -> String {
        let output = self.shell(script).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("store/log/holder.log")).unwrap_or_default()
    }

    pub fn frontend(&self) -> i32 {
        let mut pid = None;
        wait_for("a frontend runs", || {
            pid = self.client().mounts().unwrap().first().and_then(|mount| mount.frontend_pid);
            pid.is_some()
        });
        pid.unwrap()
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.mnt().to_str())
    }
}

/// What a process has open, as links.
pub fn open_files(pid: i32) -> Vec<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect()
}

/// Processes that are dead and not waited for by `parent`.
pub fn zombies_of(parent: i32) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let stats = processes.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let is_one = |stat: &String| {
        let mut fields = stat.rsplit(") ").next().unwrap().split(' ');
        fields.next() == Some("Z") && fields.next() == Some(parent.to_string().as_str())
    };
    stats.filter(is_one).count()
}

/// Ticks (1/100 s) of processor time that a process has used.
pub fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
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
