use super::{SHOWN, chosen, generated_name};
use shm_transport::control::{Change, ChangeKind, Diff};

fn change(path: String, kind: ChangeKind) -> Change {
    let object = "file".into();
    let (metadata_only, edited, size) = (false, false, 0);
    Change { path, kind, object, metadata_only, size, from: None, edited, old: None, new: None }
}

#[test]
fn no_deletion_is_left_out_of_a_summary() {
    let mut diff = Diff { added: 500, deleted: 300, ..Diff::default() };
    diff.changes.extend((0..500).map(|n| change(format!("a{n:03}"), ChangeKind::Added)));
    diff.changes.extend((0..300).map(|n| change(format!("d{n:03}"), ChangeKind::Deleted)));
    let chosen = chosen(&diff);
    assert_eq!(chosen.iter().filter(|c| c.kind == ChangeKind::Deleted).count(), 300);
    assert_eq!(chosen.len(), 300 + SHOWN);
}

#[test]
fn generated_names_say_what_they_are() {
    assert!(generated_name().starts_with("run-"));
}
