#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use super::tree;
use shm_transport::control::BranchInfo;

fn info(name: &str, from: Option<&str>) -> BranchInfo {
    BranchInfo {
        name: name.into(),
        id: 1,
        base: Some("/base".into()),
        frozen: false,
        from: from.map(Into::into),
        uid: 0,
        created: 0,
        snapshots: Vec::new(),
        bound_at: Vec::new(),
        mounts: Vec::new(),
        made: false,
        warnings: Vec::new(),
        micros: None,
        changes: Some(3),
        own_bytes: Some(4096),
        quota: None,
        sealed: None,
    }
}

#[test]
fn branches_stand_below_their_parents() {
    let list = [info("a", None), info("b", Some("a@s")), info("c", Some("b")), info("d", Some("a")), info("e", None)];
    let text = tree(&list);
    let names: Vec<_> = text.lines().skip(1).map(|line| line.split("  ").next().unwrap().trim_end()).collect();
    assert_eq!(names, ["a", "├─ b", "│", "└─ d", "e"]);
    assert!(text.lines().nth(3).unwrap().starts_with("│  └─ c"));
    assert!(text.contains("a@s") && text.contains("4.0 KiB"), "{text}");
    assert_eq!(tree(&[]), "no branches\n");
}
