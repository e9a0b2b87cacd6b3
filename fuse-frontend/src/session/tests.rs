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
    fn left_behind(&self) -> Vec<LeftBehind> {
        Vec::new()
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
    fn detach(&mut self) {}
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

#[test]
fn a_mount_over_the_in_process_transport() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let request = MountRequest {
        branch: "test".into(),
        mountpoint: dir.path().to_owned(),
        read_only: false,
        allow_other: true,
        default_permissions: true,
        suid_dev: true,
        flags: vec![mount::MountFlag::NoAtime],
    };
    let mounted = mount::mount(&request).unwrap();
    let unmount = Unmount(dir.path());
    let kernel = Channel::new(mounted.fuse().try_clone_to_owned().unwrap()).unwrap();
    assert!(mounted.state().minor >= 31);
    assert_eq!(mounted.state().max_write, 1 << 20);
    mounted.leave();
    let fs = Arc::new(TreeFs::default());
    let handler: Arc<dyn Handler> = Arc::clone(&fs) as _;
    let serve = std::thread::spawn(move || {
        let transport = InProcess::new(handler, Geometry { queues: 1, slots: 8 }, SessionId(1)).unwrap();
        let mut session = Session::adopt(kernel, Here(transport), LookupTable::create().unwrap(), 1).unwrap();
        session.run().unwrap();
        session.counts.len()
    });

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
