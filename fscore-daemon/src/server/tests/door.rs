//! Calls that come by ioctl.

use super::attach::{Frontend, make, with_branch};
use super::*;
use serde_json::Value;
use shm_transport::control::door::{self, BUFFER_MAX, HEAD, Head};
use shm_transport::wire::{Errno, Reply};

const LIST: &str = r#"{"v":1,"op":"snapshot-list","branch":""}"#;

fn snapshot(name: &str) -> String {
    format!(r#"{{"v":1,"op":"snapshot-create","branch":"","name":"{name}"}}"#)
}

/// A frontend of branch `a`.
fn attached(running: &Running) -> Frontend {
    let mut frontend = Frontend::new(1, false);
    frontend.attach(running, "a").unwrap();
    frontend
}

impl Frontend {
    /// Asks root's question under a request number; the errno, and the answer.
    fn ask(&mut self, id: u64, call: &str) -> (Option<Errno>, Value) {
        let buffer = door::encode(call.as_bytes(), 0, 0, 4096).unwrap();
        let (reply, part) = self.ioctl(id, 0, &buffer);
        let Reply::Ioctl { errno, .. } = reply else { panic!("{reply:?}") };
        let head = Head::decode(&part).unwrap();
        assert_eq!((head.total, head.from), (u64::from(head.len), 0));
        let answer: Value = serde_json::from_slice(&part[HEAD..]).unwrap();
        let value = if errno.is_some() { &answer["error"] } else { &answer["ok"] };
        (errno, value.clone())
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect()
}

#[test]
fn a_command_is_carried_out_once() {
    let mut running = with_branch("a");
    let mut frontend = attached(&running);
    let (errno, made) = frontend.ask(10, &snapshot("s"));
    assert_eq!((errno, &made["name"], &made["branch"]), (None, &"s".into(), &"a".into()));
    // Again, as after a crash of the daemon: by another slot, and by another daemon.
    let (errno, again) = frontend.ask(10, &snapshot("s"));
    assert_eq!((errno, &again["name"], &again["created"]), (None, &"s".into(), &made["created"]));
    let create = r#"{"v":1,"op":"branch-create","name":"b","from":"a@s"}"#;
    assert_eq!(frontend.ask(12, create).0, None);
    running.stop();
    let running = start_in(running.paths.clone(), running.dir.take());
    frontend.attach(&running, "a").unwrap();
    let (errno, again) = frontend.ask(12, create);
    assert_eq!((errno, &again["name"], &again["made"]), (None, &"b".into(), &true.into()));
    // Whoever asks anew is told.
    assert_eq!(frontend.ask(14, create).0, Some(Errno::EEXIST));
    assert_eq!(frontend.ask(16, &snapshot("s")).0, Some(Errno::EEXIST));
    let delete = r#"{"v":1,"op":"branch-delete","name":"b"}"#;
    let (errno, removed) = frontend.ask(18, delete);
    assert_eq!(errno, None);
    assert_eq!(frontend.ask(18, delete), (None, removed));
    assert_eq!(frontend.ask(20, delete).0, Some(Errno::ENOENT));
    let forget = r#"{"v":1,"op":"snapshot-delete","branch":"","name":"s"}"#;
    assert_eq!(frontend.ask(22, forget).0, None);
    assert_eq!(frontend.ask(22, forget).0, None);
    assert_eq!(frontend.ask(24, forget).0, Some(Errno::ENOENT));
    // The marks are records that a check knows, and go with the mount.
    assert_eq!(running.client().fsck().unwrap().findings, []);
    frontend.connection = None;
    running.client().detach(shm_transport::wire::SessionId(1)).unwrap();
    let mut left = 0;
    running.daemon.store.scan(b"V", &mut |key, _| {
        left += usize::from(key.starts_with(b"V"));
        true
    });
    assert_eq!(left, 0);
}

#[test]
fn refusals_have_their_errno_and_their_reason() {
    let running = with_branch("a");
    let mut frontend = attached(&running);
    let (errno, failure) = frontend.ask(10, &snapshot("-x"));
    assert_eq!((errno, &failure["code"]), (Some(Errno::EINVAL), &"usage".into()));
    let (errno, failure) = frontend.ask(12, r#"{"v":1,"op":"branch-delete","name":"a"}"#);
    assert_eq!((errno, &failure["code"]), (Some(Errno::EBUSY), &"busy".into()));
    for not_here in [r#"{"v":1,"op":"shutdown"}"#, r#"{"v":1,"op":"commit-pending"}"#, r#"{"v":1,"op":"fsck"}"#] {
        assert_eq!(frontend.ask(14, not_here).0, Some(Errno::EINVAL), "{not_here}");
    }
    assert_eq!(frontend.ask(16, r#"{"v":1,"op":"status"}"#).0, None);
    assert_eq!(frontend.ask(18, r#"{"v":1,"op":"branch-show","name":""}"#).1["name"], "a");
}

#[test]
fn only_root_and_the_owner_are_answered() {
    let running = with_branch("a");
    let mut frontend = attached(&running);
    let owner = nix::unistd::geteuid().as_raw();
    let good = door::encode(LIST.as_bytes(), 0, 0, 256).unwrap();
    // What is wrong with a call is not told either.
    for buffer in [good.clone(), vec![0; 5], vec![0xff; 256]] {
        let (reply, _) = frontend.ioctl(10, owner + 1, &buffer);
        assert_eq!(reply, Reply::Error(Errno::EPERM));
    }
    for uid in [0, owner] {
        assert!(matches!(frontend.ioctl(12, uid, &good).0, Reply::Ioctl { errno: None, .. }));
    }
    for (buffer, errno) in [(vec![0; 5], Errno::EINVAL), (vec![0xff; 256], Errno::EPROTONOSUPPORT)] {
        assert_eq!(frontend.ioctl(14, 0, &buffer).0, Reply::Error(errno));
    }
}

#[test]
fn a_long_answer_is_read_in_parts() {
    let running = with_branch("a");
    for n in 0..40 {
        make(&running, &format!("branch-with-a-name-that-is-long-{n}"));
    }
    let mut frontend = attached(&running);
    let list = br#"{"v":1,"op":"branch-list"}"#;
    let (mut answer, mut tag) = (Vec::new(), 0);
    for id in 10.. {
        let buffer = door::encode(list, answer.len() as u64, tag, 600).unwrap();
        let (reply, part) = frontend.ioctl(id, 0, &buffer);
        assert!(matches!(reply, Reply::Ioctl { errno: None, .. }), "{reply:?}");
        let head = Head::decode(&part).unwrap();
        assert!(part.len() <= 600 && head.from == answer.len() as u64);
        answer.extend_from_slice(&part[HEAD..]);
        tag = head.tag;
        if answer.len() as u64 >= head.total {
            break;
        }
        // What it is meanwhile does not matter.
        make(&running, &format!("meanwhile-{id}"));
    }
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["ok"].as_array().unwrap().len(), 41);
    assert!(names(&answer["ok"]).iter().all(|name| !name.starts_with("meanwhile")));
    // Of an answer that is not kept, and is another one now, there is no later part.
    let stale = door::encode(list, 5, tag + 1, 600).unwrap();
    assert_eq!(frontend.ioctl(900, 0, &stale).0, Reply::Error(Errno::ESTALE));
    let changing = door::encode(snapshot("s").as_bytes(), 5, tag, BUFFER_MAX).unwrap();
    let (reply, _) = frontend.ioctl(902, 0, &changing);
    assert!(matches!(reply, Reply::Error(Errno::ESTALE) | Reply::Ioctl { .. }));
    assert_eq!(names(&frontend.ask(904, LIST).1), [""; 0], "reading on changes nothing");
}
