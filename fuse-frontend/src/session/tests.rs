#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
//! A real mount over the in-process transport. Needs root and /dev/fuse; says so when it cannot run.

#[allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "shared with the integration tests"
)]
#[path = "../../tests/treefs/mod.rs"]
mod treefs;

use super::*;
use crate::mount::{self, MountRequest};
use shm_transport::wire::SessionId;
use shm_transport::{Geometry, Handler, InProcess};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use treefs::TreeFs;

struct Here(InProcess);

impl Daemon for Here {
    type Transport = InProcess;
    fn transport(&mut self) -> &mut InProcess {
        &mut self.0
    }
    fn transport_ref(&self) -> &InProcess {
        &self.0
    }
    fn slots(&self) -> usize {
        8
    }
    fn occupied(&self) -> usize {
        self.0.in_flight()
    }
    fn left_behind(&self) -> Vec<LeftBehind> {
        Vec::new()
    }
    fn last_id(&self) -> RequestId {
        RequestId(0)
    }
    fn connection(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn lose(&mut self, why: &str) {
        panic!("{why}");
    }
    fn retry_in(&self) -> Option<Duration> {
        None
    }
    fn retry(&mut self) -> bool {
        true
    }
    fn detach(&mut self) -> bool {
        true
    }
    fn gives_up_in(&self) -> Option<Duration> {
        None
    }
    fn give_up(&mut self) -> Vec<SlotIndex> {
        Vec::new()
    }
    fn given_up(&self) -> Vec<RequestId> {
        Vec::new()
    }
    fn show_waiting(&mut self) {}
}

/// The process that serves a mount must not touch it: a child does, and not for ever.
fn child(script: &str, dir: &Path) -> Output {
    Command::new("timeout").args(["-s", "KILL", "30", "sh", "-ec", script, "sh"]).arg(dir).output().unwrap()
}

fn succeed(script: &str, dir: &Path) -> String {
    let output = child(script, dir);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{script}: {} {err}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Unmounts whatever happens.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).output().ok();
    }
}

fn can_mount() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("not run: needs root and /dev/fuse");
    }
    can
}

fn request(dir: &Path, without: &[&str]) -> MountRequest {
    MountRequest {
        allow_other: true,
        default_permissions: true,
        suid_dev: true,
        flags: vec![mount::MountFlag::NoAtime],
        without: crate::feature::flags_of(without).unwrap(),
        ..MountRequest::new("test".into(), dir.to_owned(), &crate::options::Options::default()).unwrap()
    }
}

/// Serves the mount in a thread that ends with it, and tells how many nodes were counted at the end.
fn serve(kernel: Channel, fs: &Arc<TreeFs>, incarnation: u32, resends: bool) -> std::thread::JoinHandle<usize> {
    let handler: Arc<dyn Handler> = Arc::clone(fs) as _;
    std::thread::spawn(move || {
        let transport = InProcess::new(handler, Geometry { queues: 1, slots: 8 }, SessionId(1)).unwrap();
        let counts = LookupTable::create().unwrap();
        let mut session = Session::adopt(kernel, Here(transport), counts, incarnation, resends).unwrap();
        session.run().unwrap();
        session.counts.len()
    })
}

#[test]
fn a_mount_over_the_in_process_transport() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = mount::mount(&request(dir.path(), &[])).unwrap();
    let unmount = Unmount(dir.path());
    let kernel = Channel::new(mounted.fuse().try_clone_to_owned().unwrap()).unwrap();
    assert!(mounted.state().minor >= 31);
    assert_eq!(mounted.state().max_write, 1 << 20);
    mounted.leave();
    let fs = Arc::new(TreeFs::default());
    let serve = serve(kernel, &fs, 1, true);

    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(dir.path().to_str().unwrap())).unwrap().to_owned();
    assert!(line.starts_with("test ") && line.contains(" fuse.agentfs rw,noatime"), "{line}");
    assert!(line.contains("default_permissions,allow_other") && !line.contains("nosuid"), "{line}");

    succeed(
        "cd $1; mkdir d; echo hello > d/a; ln -s a d/l; mv d/a d/b; test -L d/l; test \"$(readlink d/l)\" = a",
        dir.path(),
    );
    assert_eq!(succeed("cd $1; cat d/b; ls -a d", dir.path()), "hello\n.\n..\nb\nl\n");
    let sums = succeed(
        "cd $1; head -c 5000000 /dev/urandom > big; sha256sum < big; cp big /tmp/agentfs-test-$$; \
         cat big | sha256sum; rm /tmp/agentfs-test-$$; truncate -s 3 big; stat -c %s big",
        dir.path(),
    );
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!(sums.first(), sums.get(1));
    assert_eq!(sums.get(2), Some(&"3"));
    // More entries than one listing holds, and each comes exactly once.
    let listed = succeed("cd $1; mkdir many; cd many; seq 1 3000 | xargs touch; ls | wc -l; ls -l | wc -l", dir.path());
    assert_eq!(listed, "3000\n3001\n");
    let missing = child("cat $1/nothing", dir.path());
    assert!(String::from_utf8(missing.stderr).unwrap().contains("No such file"));
    assert!(!child("getfattr -n user.a $1/d/b || exit 1", dir.path()).status.success());
    succeed("stat -f $1 > /dev/null; sync; flock $1/d/b true", dir.path());
    succeed("rm -r $1/many; rm $1/big; echo 2 > /proc/sys/vm/drop_caches; sleep 0.2; ls $1", dir.path());
    let forgotten = fs.forgotten();
    assert!(forgotten.len() >= 3000, "{} nodes were forgotten", forgotten.len());
    let output = Command::new("umount").arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let known = serve.join().unwrap();
    assert!(known < 10, "{known} nodes are still counted");
    drop(unmount);
}

/// A frontend that dies between reading a request and submitting it: here, whoever reads and forgets.
fn steal(kernel: &Channel) -> u64 {
    let mut bytes = vec![0; HEAD + (1 << 20)];
    let mut fds = [nix::poll::PollFd::new(kernel.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut fds, 20_000u16).unwrap(), 1, "no request came");
    let len = nix::unistd::read(kernel, &mut bytes).unwrap();
    assert!(len >= 40);
    u64::from_le_bytes(bytes.get(8..16).unwrap().try_into().unwrap())
}

#[test]
fn a_request_that_was_read_and_not_submitted_is_served_by_the_next_frontend() {
    if !can_mount() {
        return;
    }
    // With resends the kernel sends it again. Without, it is told to try the system call again.
    for without in [&[][..], &["resend"]] {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount::mount(&request(dir.path(), without)).unwrap();
        let unmount = Unmount(dir.path());
        let kernel = Channel::new(mounted.fuse().try_clone_to_owned().unwrap()).unwrap();
        let resends = mounted.state().flags & crate::abi::HAS_RESEND != 0;
        assert_eq!(resends, without.is_empty(), "{without:?}");
        mounted.leave();
        let script = "mkdir $1/made; ls $1";
        let program = Command::new("timeout")
            .args(["-s", "KILL", "30", "sh", "-ec", script, "sh"])
            .arg(dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let unique = steal(&kernel);
        assert_eq!(unique & 1, 0);
        let fs = Arc::new(TreeFs::default());
        let serve = serve(kernel, &fs, 2, resends);
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "without {without:?}: {output:?}");
        assert_eq!(output.stdout, b"made\n");
        assert_eq!(fs.ran_twice(), 0);
        drop(unmount);
        serve.join().unwrap();
    }
}

#[test]
fn the_kernel_keeps_a_listing_until_the_directory_changes() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = mount::mount(&request(dir.path(), &[])).unwrap();
    let unmount = Unmount(dir.path());
    let kernel = Channel::new(mounted.fuse().try_clone_to_owned().unwrap()).unwrap();
    mounted.leave();
    let fs = Arc::new(TreeFs::default());
    let serve = serve(kernel, &fs, 1, true);
    succeed("cd $1; mkdir d e; touch d/a d/b d/c; ls d; ls d", dir.path());
    let listings = fs.listings();
    assert_eq!(succeed("ls $1/d; ls $1/d", dir.path()), "a\nb\nc\na\nb\nc\n");
    assert_eq!(fs.listings(), listings, "a listing that did not change was asked for again");
    // Whatever changes it through the mount ends what is kept.
    for (change, listed) in [
        ("touch $1/d/d", "a\nb\nc\nd\n"),
        ("rm $1/d/a", "b\nc\nd\n"),
        ("mv $1/d/b $1/d/x", "c\nd\nx\n"),
        ("mv $1/d/x $1/e/x", "c\nd\n"),
        ("mv $1/e/x $1/d/y", "c\nd\ny\n"),
        ("mkdir $1/d/z", "c\nd\ny\nz\n"),
        ("rmdir $1/d/z", "c\nd\ny\n"),
        ("ln -s a $1/d/l", "c\nd\nl\ny\n"),
    ] {
        succeed(change, dir.path());
        assert_eq!(succeed("ls $1/d", dir.path()), listed, "after {change}");
        assert_eq!(succeed("ls $1/d", dir.path()), listed, "after {change}, again");
    }
    drop(unmount);
    serve.join().unwrap();
}
