//! What a confined process can still do, tried from within one; and whose files a daemon shows to whom.
//!
//! A process is confined once and for good: each trial runs in a process of its own, this program started
//! again for one ignored test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]
#![allow(clippy::print_stdout, reason = "a check that cannot run says so")]

mod support;

use fscore_daemon::core::base::Grounds;
use fscore_daemon::sandbox::{Needs, confine};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use shm_transport::control::client::{Client, ClientError};
use shm_transport::control::{Command as Call, ErrorCode, SandboxState};
use shm_transport::mem::sys::{Forbidden, refusal_of};
use shm_transport::wire::{NodeId, Op, Reply};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Daemon, Frontend, PATIENCE};

/// A user that owns nothing here. Not 65534, which stands for any owner that is not known, and is trusted by nobody.
const NOBODY: u32 = 65533;
/// Tells the inner test where it works.
const PLACE: &str = "AGENTFS_TEST_PLACE";

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs one of the ignored tests in a process of its own, in `place`.
#[track_caller]
fn within(test: &str, place: &Path, uid: Option<u32>) -> String {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--ignored", "--exact", "--nocapture", test]).env(PLACE, place).stdin(Stdio::null());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let ended = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.contains("1 passed"), "{}\n{said}", ended.status);
    said
}

/// The same with something in the store, for who takes the place of a daemon there.
fn occupied(uid: Option<u32>) -> tempfile::TempDir {
    let dir = place(uid);
    let at = |name: &str| dir.path().join(name);
    fs::write(at("store/kept"), "before").unwrap();
    symlink(at("outside/f"), at("store/link")).unwrap();
    if uid.is_some() {
        chown(at("store/kept"), uid, uid).unwrap();
    }
    dir
}

/// store, run, base with a file, and outside with a file and a socket; all of it `uid`'s.
fn place(uid: Option<u32>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for made in ["store", "run", "base", "base/d", "outside"] {
        fs::create_dir(at(made)).unwrap();
    }
    for file in ["base/f", "base/d/g", "outside/f"] {
        fs::write(at(file), "before").unwrap();
    }
    symlink(at("outside/f"), at("base/link")).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    if uid.is_some() {
        for path in ["store", "run", "base", "base/d", "outside", "base/f", "base/d/g", "outside/f"] {
            chown(at(path), uid, uid).unwrap();
        }
    }
    dir
}

#[track_caller]
fn refused<T>(what: &str, tried: io::Result<T>, with: &[i32]) {
    let error = tried.err().unwrap_or_else(|| panic!("{what} was possible"));
    assert!(error.raw_os_error().is_some_and(|errno| with.contains(&errno)), "{what}: {error:?}");
}

fn sys<T>(result: nix::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::from)
}

const LANDLOCK: &[i32] = &[libc::EACCES];
const FILTER: &[i32] = &[libc::ENOSYS];
/// By Landlock, or by the clone of the mount, whichever is asked first.
const READ_ONLY: &[i32] = &[libc::EACCES, libc::EROFS];

/// Everything that must not be possible any more.
fn try_everything(dir: &Path, base: impl AsFd, parent: i32) {
    let at = |name: &str| dir.join(name);
    let write = |path: &Path| OpenOptions::new().write(true).open(path);
    // Files.
    refused("reading outside", File::open(at("outside/f")), LANDLOCK);
    refused("reading the host's", File::open("/etc/passwd"), LANDLOCK);
    refused("writing outside", write(&at("outside/f")), LANDLOCK);
    refused("listing outside", fs::read_dir(at("outside")), LANDLOCK);
    refused("making outside", File::create(at("outside/new")), LANDLOCK);
    refused("removing outside", fs::remove_file(at("outside/f")), LANDLOCK);
    refused("moving out", fs::rename(at("store/kept"), at("outside/kept")), &[libc::EACCES, libc::EXDEV]);
    refused("linking out", fs::hard_link(at("outside/f"), at("store/hard")), &[libc::EACCES, libc::EXDEV]);
    refused("a link out of the store", File::open(at("store/link")), LANDLOCK);
    refused("a link out of the base", File::open(at("base/link")), LANDLOCK);
    refused("making a link", symlink("/etc/passwd", at("store/new-link")), FILTER);
    refused("a device", OpenOptions::new().read(true).write(true).open("/dev/fuse"), LANDLOCK);
    refused("a disk", File::open("/dev/vda"), &[libc::EACCES, libc::ENOENT]);
    refused("another process's memory", File::open(format!("/proc/{parent}/mem")), LANDLOCK);
    refused("another process's environment", File::open(format!("/proc/{parent}/environ")), LANDLOCK);
    refused("another process's root", fs::read_dir(format!("/proc/{parent}/root/etc")), LANDLOCK);
    refused("a setting", write(Path::new("/proc/sys/kernel/core_pattern")), LANDLOCK);
    // The base: by its path, through the clone, and by a descriptor that is open already.
    refused("writing to the base", write(&at("base/f")), LANDLOCK);
    refused("making in the base", File::create(at("base/new")), LANDLOCK);
    refused("removing from the base", fs::remove_file(at("base/f")), LANDLOCK);
    refused("truncating in the base", OpenOptions::new().write(true).truncate(true).open(at("base/f")), LANDLOCK);
    let open = |path: &std::ffi::CStr, flags: i32| {
        let mode = if flags & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) == 0 { 0 } else { 0o600 };
        shm_transport::mem::sys::open_beneath(base.as_fd(), path, flags, mode)
    };
    refused("writing through the clone", open(c"f", libc::O_WRONLY), READ_ONLY);
    refused("making through the clone", open(c"new", libc::O_CREAT | libc::O_WRONLY), READ_ONLY);
    refused("a temporary file through the clone", open(c"d", libc::O_TMPFILE | libc::O_RDWR), READ_ONLY);
    let shown = open(c"f", libc::O_PATH).unwrap();
    let read = open(c"f", libc::O_RDONLY).unwrap();
    for fd in [&shown, &read] {
        let again = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        assert_eq!(fs::read(&again).unwrap(), b"before", "reading it again");
        refused("writing by an open descriptor", write(&again), READ_ONLY);
    }
    refused("writing to a descriptor for reading", sys(nix::unistd::write(&read, b"x")), &[libc::EBADF]);
    refused("a mode", fs::set_permissions(at("base/f"), Permissions::from_mode(0o4777)), FILTER);
    refused("an open file's mode", File::from(read).set_permissions(Permissions::from_mode(0o777)), FILTER);
    refused("an owner", chown(at("outside/f"), Some(1), None), FILTER);
    // Sockets.
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Netlink, AddressFamily::Unix] {
        refused("a socket", sys(socket(family, SockType::Datagram, SockFlag::empty(), None)), FILTER);
    }
    refused("a connection", UnixStream::connect(at("outside/socket")), FILTER);
    refused("a pair of sockets", UnixStream::pair(), FILTER);
    // Programs, processes, namespaces, mounts.
    refused("a program", Command::new("/bin/true").status(), &[libc::ENOSYS, libc::EACCES]);
    refused("becoming a program", Err::<(), _>(Command::new("/bin/true").exec()), &[libc::ENOSYS, libc::EACCES]);
    refused("a signal", sys(nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), None)), FILTER);
    refused("a namespace", sys(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)), FILTER);
    refused("another root", sys(nix::unistd::chroot(&at("store"))), FILTER);
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::MS_BIND;
    refused("a mount", sys(nix::mount::mount(Some("/etc"), &at("store"), none, flags, none)), FILTER);
    refused("an unmount", sys(nix::mount::umount(&at("store"))), FILTER);
    refused("another user", sys(nix::unistd::setuid(nix::unistd::Uid::from_raw(1))), FILTER);
    for call in Forbidden::ALL {
        refused(&format!("{call:?}"), refusal_of(call).map_or(Ok(()), Err), FILTER);
    }
}

/// What the daemon does must go on.
fn use_what_is_needed(dir: &Path, base: impl AsFd) {
    assert_eq!(fs::read(dir.join("base/d/g")).unwrap(), b"before");
    assert_eq!(fs::read_dir(dir.join("base")).unwrap().count(), 3);
    let found = shm_transport::mem::sys::open_beneath(base.as_fd(), c"d/g", libc::O_RDONLY, 0).unwrap();
    let mut text = String::new();
    File::from(found).read_to_string(&mut text).unwrap();
    assert_eq!(text, "before");
    fs::create_dir_all(dir.join("store/a/b")).unwrap();
    let mut file = File::create(dir.join("store/a/b/c")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    fs::rename(dir.join("store/a/b/c"), dir.join("store/c")).unwrap();
    fs::remove_dir_all(dir.join("store/a")).unwrap();
    fs::remove_file(dir.join("store/c")).unwrap();
    assert!(fs::read_dir("/proc").unwrap().count() > 10);
    assert!(!fs::read("/proc/self/cmdline").unwrap().is_empty());
}

#[test]
#[ignore = "started by the others, in a process of its own"]
fn inside() {
    let dir = PathBuf::from(std::env::var_os(PLACE).expect("where to work"));
    let parent = nix::unistd::getppid().as_raw();
    let base = dir.join("base");
    let grounds = Grounds::take(std::slice::from_ref(&base), &[]);
    let opened = grounds.open(&base).unwrap();
    let needs = Needs { store: &dir.join("store"), socket_dir: &dir.join("run"), grounds: &grounds };
    let made = confine(&needs).unwrap();
    assert_ne!(made.state, SandboxState::Off);
    println!("confined: {made:?}");
    use_what_is_needed(&dir, &opened);
    try_everything(&dir, &opened, parent);
    // Whoever starts later is confined as well.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use_what_is_needed(&dir, &opened);
            try_everything(&dir, &opened, parent);
        });
    });
}

#[test]
fn a_confined_process_does_its_work_and_nothing_else() {
    let dir = occupied(None);
    let _outside = UnixListener::bind(dir.path().join("outside/socket")).unwrap();
    for call in Forbidden::ALL {
        // Else it is no proof that a confined process is told that there is no such call.
        let unconfined = refusal_of(call).and_then(|e| e.raw_os_error());
        if unconfined == Some(libc::ENOSYS) {
            println!("skipped: {call:?}: this kernel does not have it");
        }
    }
    println!("{}", within("inside", dir.path(), None));
    assert_eq!(fs::read(dir.path().join("base/f")).unwrap(), b"before");
}

#[test]
fn nor_does_one_of_a_user_who_has_no_rights() {
    if !is_root() {
        return println!("skipped: a_user_without_rights: only root can become another user");
    }
    let dir = occupied(Some(NOBODY));
    println!("{}", within("inside", dir.path(), Some(NOBODY)));
    assert_eq!(fs::read(dir.path().join("base/f")).unwrap(), b"before");
}

/// The program with its files in a directory, by other rules than [`Daemon`].
struct Started {
    child: Child,
    socket: PathBuf,
}

impl Started {
    fn command(dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentfsd"));
        command.arg("--store").arg(dir.join("store")).arg("--socket").arg(dir.join("run/s"));
        command.env_remove("AGENTFS_ALLOW_BASE").env_remove("AGENTFS_NO_SANDBOX");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn start(dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Self::command(dir);
        change(&mut command);
        let mut it = Self { child: command.spawn().unwrap(), socket: dir.join("run/s") };
        let end = Instant::now() + PATIENCE;
        while !Client::connect(&it.socket).is_ok_and(|mut client| client.status().is_ok()) {
            if let Some(status) = it.child.try_wait().unwrap() {
                panic!("{status}: {}", it.said());
            }
            assert!(Instant::now() < end, "the daemon does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
        it
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// What it wrote; it must have ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    fn stop(mut self) {
        self.client().shutdown().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn branch_of(client: &mut Client, name: &str, base: &Path) -> Result<(), ClientError> {
    let (name, base) = (name.to_owned(), Some(base.to_owned()));
    client
        .branch_create(Call::BranchCreate {
            name,
            base,
            from: None,
            frozen: false,
            reuse: true,
            limits: shm_transport::control::Limits::default(),
        })
        .map(drop)
}

fn code(result: Result<(), ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// Reads a file in the root of a mount's branch.
fn read(frontend: &mut Frontend, name: &str) -> Reply {
    let mut run = |node, op| {
        assert!(frontend.submit(node, op, 0));
        frontend.complete().unwrap()
    };
    let found = run(NodeId::ROOT, Op::Lookup { name: name.into() });
    let Reply::Entry(entry) = found else { return found };
    let node = entry.node;
    run(node, Op::Read { fh: 0, offset: 0, size: 4096 })
}

#[test]
fn a_daemon_is_confined_unless_it_is_told_not_to_be() {
    let daemon = Daemon::start();
    let sandbox = daemon.client().status().unwrap().sandbox;
    assert_ne!(sandbox.state, SandboxState::Off);
    let status = |what: &str| {
        let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(what).map(|rest| rest.trim().to_owned()));
        line.unwrap()
    };
    assert_eq!((status("NoNewPrivs:"), status("Seccomp:")), ("1".into(), "2".into()));
    for set in ["CapInh:", "CapBnd:", "CapAmb:"] {
        assert!(!is_root() || u64::from_str_radix(&status(set), 16).unwrap() == 0, "{set} {}", status(set));
    }
    // CAP_DAC_READ_SEARCH, and nothing else.
    assert_eq!(u64::from_str_radix(&status("CapPrm:"), 16).unwrap() & !4, 0);
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        // The one that answered us may have ended.
        let Ok(text) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        assert!(text.contains("Seccomp:\t2\n"), "a thread is not confined");
    }
    let dir = place(None);
    let free = Started::start(dir.path(), |command| {
        command.env("AGENTFS_NO_SANDBOX", "1");
    });
    assert_eq!(free.client().status().unwrap().sandbox.state, SandboxState::Off);
}

#[test]
fn bases_from_before_are_there_again_unless_the_list_of_prefixes_is_complete() {
    let dir = place(None);
    let base = dir.path().join("base").canonicalize().unwrap();
    let first = Started::start(dir.path(), |command| {
        command.arg("--allow-base").arg(&base);
    });
    branch_of(&mut first.client(), "b", &base).unwrap();
    first.stop();
    let reads = |daemon: &Started, session| {
        let mut frontend = Frontend::new(session);
        frontend.attach_at(&daemon.socket, "b").map(|()| read(&mut frontend, "f"))
    };
    let second = Started::start(dir.path(), |_| {});
    assert!(matches!(reads(&second, 1).unwrap(), Reply::Data { .. }));
    second.stop();
    let strict = Started::start(dir.path(), |command| {
        command.env("AGENTFS_ALLOW_BASE", "/srv");
    });
    assert_eq!(code(reads(&strict, 2).map(drop)), ErrorCode::BaseNotAllowed);
    strict.stop();
    // Lost, the list is made anew by a daemon that then makes place for the next one.
    fs::remove_file(dir.path().join("store/bases")).unwrap();
    let mut lost = Started::command(dir.path()).spawn().unwrap();
    assert_eq!(lost.wait().unwrap().code(), Some(74));
    let mut said = String::new();
    lost.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("start the daemon again"), "{said}");
    let again = Started::start(dir.path(), |_| {});
    assert!(matches!(reads(&again, 3).unwrap(), Reply::Data { .. }));
}

#[test]
fn a_directory_that_came_later_is_refused_with_what_to_do() {
    let dir = place(None);
    let late = dir.path().canonicalize().unwrap().join("late");
    let daemon = Started::start(dir.path(), |command| {
        command.arg("--allow-base").arg(&late);
    });
    fs::create_dir(&late).unwrap();
    match branch_of(&mut daemon.client(), "b", &late) {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!(refusal.code, ErrorCode::BaseNotAllowed, "{refusal}");
            assert!(refusal.hint.unwrap().contains("agentfs daemon start --allow-base"));
        }
        other => panic!("{other:?}"),
    }
    daemon.stop();
    let daemon = Started::start(dir.path(), |command| {
        command.arg("--allow-base").arg(&late);
    });
    branch_of(&mut daemon.client(), "b", &late).unwrap();
}

#[test]
#[ignore = "started by another one, as another user"]
fn as_a_stranger() {
    let socket = PathBuf::from(std::env::var_os(PLACE).expect("where to work")).join("run/s");
    let denied = |result| assert_eq!(code(result), ErrorCode::Denied);
    denied(Client::connect(&socket).and_then(|mut client| client.branch_list(false).map(drop)));
    denied(Client::connect(&socket).and_then(|mut client| client.branch_show("private").map(drop)));
    denied(Frontend::new(9).attach_at(&socket, "private"));
}

#[test]
fn nobody_names_the_branch_of_another_user_or_reads_what_that_user_may_not() {
    if !is_root() {
        return println!("skipped: other_users: only root can become another user");
    }
    // A daemon of root, whose socket stands open by mistake.
    let dir = place(None);
    let base = dir.path().join("base").canonicalize().unwrap();
    let owners = Started::start(dir.path(), |command| {
        command.arg("--allow-base").arg(&base);
    });
    branch_of(&mut owners.client(), "private", &base).unwrap();
    fs::set_permissions(&owners.socket, Permissions::from_mode(0o666)).unwrap();
    within("as_a_stranger", dir.path(), Some(NOBODY));
    // A daemon of somebody else, and root's files in the base: not even for root's frontend.
    let dir = place(Some(NOBODY));
    let base = dir.path().join("base").canonicalize().unwrap();
    fs::write(base.join("secret"), "of root").unwrap();
    fs::set_permissions(base.join("secret"), Permissions::from_mode(0o600)).unwrap();
    let users = Started::start(dir.path(), |command| {
        command.arg("--allow-base").arg(&base).uid(NOBODY).gid(NOBODY);
    });
    assert_ne!(users.client().status().unwrap().sandbox.state, SandboxState::Off);
    branch_of(&mut users.client(), "b", &base).unwrap();
    let mut frontend = Frontend::new(1);
    frontend.attach_at(&users.socket, "b").unwrap();
    assert!(!matches!(read(&mut frontend, "f"), Reply::Error(_)), "what it may read");
    match read(&mut frontend, "secret") {
        Reply::Error(error) => assert_eq!(error.get(), libc::EACCES),
        other => panic!("{other:?}"),
    }
}
