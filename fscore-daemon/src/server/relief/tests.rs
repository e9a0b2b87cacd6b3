#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::tests::attach::{Frontend, with_branch};
use super::super::tests::eventually;
use super::*;
use shm_transport::wire::{Errno, Op, Reply};

fn mkdir(name: &str) -> Op {
    Op::Mkdir { name: name.into(), mode: 0o755, umask: 0 }
}

#[test]
fn a_request_that_is_held_up_holds_up_no_other_and_its_thread_ends_with_it() {
    let running = with_branch("a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    let branch = running.daemon.branches.find("a").unwrap();
    let branch = running.daemon.core.branch(branch).unwrap();
    let relief = running.daemon.crew.relief();
    let threads = || lock(&relief.shared.threads).iter().filter(|seen| seen.thread.strong_count() > 0).count();

    // Whoever changes a name waits for this lock.
    let held = branch.names();
    frontend.submit(mkdir("one"));
    assert!(matches!(frontend.run(Op::GetAttr), Reply::Attr { .. }));
    // The relief is relieved, too.
    frontend.submit(mkdir("two"));
    assert!(matches!(frontend.run(Op::GetAttr), Reply::Attr { .. }));
    // On a busy machine a thread may get relief that would not have needed it.
    assert!(relief.shared.relieved.load(Ordering::Relaxed) >= 2);
    drop(held);
    for _ in 0..2 {
        assert!(matches!(frontend.complete(), Reply::Entry(_)));
    }
    let relieved = || relief.shared.relieved.load(Ordering::Relaxed);
    eventually("who was relieved ends", || threads() == 1 && relieved() == 0);
    assert_eq!(frontend.run(mkdir("one")), Reply::Error(Errno::EEXIST));
}

#[test]
fn the_watch_sleeps_while_nothing_runs_and_is_woken() {
    let running = with_branch("a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    let relief = running.daemon.crew.relief();
    for _ in 0..2 {
        assert!(matches!(frontend.run(Op::GetAttr), Reply::Attr { .. }));
        eventually("the watch sleeps", || relief.shared.sleeping.load(Ordering::Relaxed));
    }
}

#[test]
fn what_is_forgotten_is_forgotten_before_the_next_request_begins() {
    let running = with_branch("a");
    let mut frontend = Frontend::new(1, false);
    frontend.attach(&running, "a").unwrap();
    let branch = running.daemon.branches.find("a").unwrap();
    let branch = running.daemon.core.branch(branch).unwrap();
    // Whoever runs a request looks at the branch; so long the forgetting takes.
    let held = branch.view_mut();
    frontend.submit(Op::Forget { count: 0 });
    frontend.submit(Op::GetAttr);
    std::thread::sleep(TICK * 20);
    let relief = running.daemon.crew.relief();
    assert_eq!(relief.shared.relieved.load(Ordering::Relaxed), 0, "a request overtook the forgetting");
    drop(held);
    assert_eq!(frontend.complete(), Reply::Ok);
    assert!(matches!(frontend.complete(), Reply::Attr { .. }));
}
