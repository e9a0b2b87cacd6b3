use super::{World, create};
use crate::core::keys;
use crate::core::member::Member;
use crate::store::Batch;
use shm_transport::control::{BranchInfo, Command, ErrorCode, Removed, SnapshotInfo};
use shm_transport::wire::SessionId;
use std::os::unix::fs::symlink;
use std::path::Path;

fn snapshot(branch: &str, name: &str) -> Command {
    Command::SnapshotCreate { branch: branch.into(), name: name.into() }
}

#[test]
fn names_are_plain() {
    let world = World::new();
    for good in ["a", "team/fix_2.x", &"n".repeat(100)] {
        let info: BranchInfo = world.ask(&create(good, None, None, false)).unwrap();
        assert_eq!((info.name.as_str(), info.uid), (good, 7));
    }
    for bad in ["", "-a", ".a", "a b", "a@b", "é", "a\n", &"n".repeat(101)] {
        assert_eq!(world.refused(&create(bad, None, None, false)), ErrorCode::Usage, "{bad:?}");
    }
    assert_eq!(world.refused(&create("a", None, None, false)), ErrorCode::Exists);
}

#[test]
fn a_branch_is_used_again_and_survives_a_restart() {
    let mut world = World::new();
    let id = world.make("a");
    world.restart();
    assert_eq!(world.branches.find("a").unwrap(), id);
    let again: BranchInfo = world.ask(&create("a", Some(world.base()), None, true)).unwrap();
    assert!(!again.made);
    assert_eq!((again.id, again.base), (id.0, Some(world.base())));
    assert_eq!(world.refused(&create("a", Some(world.base().join("d")), None, true)), ErrorCode::Exists);
    let other: BranchInfo = world.ask(&create("b", Some(world.base()), None, false)).unwrap();
    assert!(other.micros.is_some());
    let bases = |id| world.core.branch_record(id).unwrap().base;
    assert_eq!(bases(id), bases(crate::core::ids::BranchId(other.id)));
    assert_eq!(world.branches.counts(), (2, 0));
}

#[test]
fn bases_are_checked() {
    let world = World::new();
    let dir = std::fs::canonicalize(world.dir.path()).unwrap();
    let code = |path: std::path::PathBuf| world.refused(&create("x", Some(path), None, false));
    assert_eq!(code(dir.join("missing")), ErrorCode::Base);
    assert_eq!(code(dir.join("base/f")), ErrorCode::Base);
    assert_eq!(code(dir.clone()), ErrorCode::Base, "the store lies in it");
    std::fs::create_dir(dir.join("store/inner")).unwrap();
    assert_eq!(code(dir.join("store/inner")), ErrorCode::Base);
    assert_eq!(code("/usr".into()), ErrorCode::BaseNotAllowed);
    let failure = world.branches.handle(&create("x", Some("/usr".into()), None, false)).unwrap_err();
    assert!(failure.hint.unwrap().contains("--allow-base /usr"));
    symlink(dir.join("base"), dir.join("link")).unwrap();
    let info: BranchInfo = world.ask(&create("x", Some(dir.join("link")), None, false)).unwrap();
    assert_eq!(info.base, Some(dir.join("base")));
}

#[test]
fn git_checkouts_are_told_apart() {
    let world = World::new();
    let (base, dir) = (world.base(), world.dir.path());
    std::fs::create_dir_all(dir.join("main/.git/worktrees/w")).unwrap();
    std::fs::write(base.join(".git"), "gitdir: ../main/.git/worktrees/w\n").unwrap();
    let hint = || world.branches.handle(&create("a", Some(base.clone()), None, false)).unwrap_err().hint.unwrap();
    assert_eq!(world.refused(&create("a", Some(base.clone()), None, false)), ErrorCode::Base);
    let (main, both) = (dir.join("main"), dir.display());
    assert_eq!(hint(), format!("use the main checkout, {}, or a directory that holds both, {both}", main.display()));
    // As `git init --separate-git-dir` makes it, and as a link.
    std::fs::write(base.join(".git"), "gitdir: ../main\n").unwrap();
    assert_eq!(hint(), format!("use a directory that holds both: {both}"));
    std::fs::remove_file(base.join(".git")).unwrap();
    symlink("../main/.git", base.join(".git")).unwrap();
    assert_eq!(world.refused(&create("a", Some(base.clone()), None, false)), ErrorCode::Base);
    std::fs::remove_file(base.join(".git")).unwrap();
    std::fs::create_dir(base.join(".git")).unwrap();
    // As `git new-workdir` makes it: a repository with parts of another one.
    symlink("../../main/.git/refs", base.join(".git/refs")).unwrap();
    assert_eq!(world.refused(&create("a", Some(base.clone()), None, false)), ErrorCode::Base);
    std::fs::remove_file(base.join(".git/refs")).unwrap();
    let info: BranchInfo = world.ask(&create("a", Some(base.clone()), None, false)).unwrap();
    assert_eq!(info.warnings.len(), 1);
    let frozen = Command::BranchCreate {
        name: "b".into(),
        base: Some(base),
        from: None,
        frozen: true,
        reuse: false,
        limits: shm_transport::control::Limits::default(),
    };
    assert!(world.ask::<BranchInfo>(&frozen).unwrap().warnings.is_empty());
}

#[test]
fn what_git_reads_or_writes_beside_the_branch_is_told() {
    let world = World::new();
    let (base, dir) = (world.base(), std::fs::canonicalize(world.dir.path()).unwrap());
    for sub in ["base/.git/objects/info", "base/.git/worktrees/w", "lender/objects/info", "third/objects", "elsewhere"]
    {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let warnings = |name: &str| {
        let frozen = Command::BranchCreate {
            name: name.into(),
            base: Some(world.base()),
            from: None,
            frozen: true,
            reuse: false,
            limits: shm_transport::control::Limits::default(),
        };
        world.ask::<BranchInfo>(&frozen).unwrap().warnings
    };
    assert!(warnings("none").is_empty());
    // Borrowed objects, by a relative path, and what the lender borrows.
    std::fs::write(base.join(".git/objects/info/alternates"), "../../../lender/objects\n").unwrap();
    std::fs::write(dir.join("lender/objects/info/alternates"), format!("{}\n", dir.join("third/objects").display()))
        .unwrap();
    let told = warnings("borrowed");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains(&format!("from {}", dir.join("lender/objects").display())), "{told:?}");
    assert!(told[1].contains("third/objects"), "{told:?}");
    std::fs::write(base.join(".git/objects/info/alternates"), "# none\n").unwrap();
    // A submodule as git makes it is part of the base; another is not, or only at its own path.
    let submodule = |gitdir: &str| std::fs::write(base.join("d/.git"), format!("gitdir: {gitdir}\n")).unwrap();
    std::fs::write(base.join(".gitmodules"), "[submodule \"d\"]\n\tpath = d\n\turl = ../d\n").unwrap();
    std::fs::create_dir_all(base.join(".git/modules/d")).unwrap();
    submodule("../.git/modules/d");
    assert!(warnings("inside").is_empty());
    submodule(&base.join(".git/modules/d").display().to_string());
    let told = warnings("absolute");
    assert!(told.len() == 1 && told[0].contains("absolute path") && told[0].contains("agentfs run"), "{told:?}");
    submodule("../../elsewhere");
    let told = warnings("outside");
    assert!(told.len() == 1 && told[0].contains(&dir.join("elsewhere").display().to_string()), "{told:?}");
    std::fs::remove_file(base.join(".gitmodules")).unwrap();
    // A worktree in the base, which the repository knows of.
    submodule(&base.join(".git/worktrees/w").display().to_string());
    std::fs::write(base.join(".git/worktrees/w/gitdir"), format!("{}\n", base.join("d/.git").display())).unwrap();
    let told = warnings("worktree");
    assert!(told.len() == 1 && told[0].contains("absolute path"), "{told:?}");
}

#[test]
fn a_snapshot_freezes_the_head() {
    let world = World::new();
    let id = world.make("a");
    world.write(id, "f", "changed");
    let before = world.view(id);
    let info: SnapshotInfo = world.ask(&snapshot("a", "s")).unwrap();
    assert!(info.micros.is_some());
    let after = world.view(id);
    assert_eq!(after.chain[1..], before.chain[..]);
    assert_eq!(world.core.branch_record(id).unwrap().head, after.head());
    assert_eq!(world.core.chain(after.head()).unwrap(), after.chain);
    assert_eq!(world.refused(&snapshot("a", "s")), ErrorCode::Exists);
    assert_eq!(world.refused(&snapshot("b", "s")), ErrorCode::NotFound);
    // What comes after is not in a branch made from it.
    world.unlink(id, "d", "g");
    let fork: BranchInfo = world.ask(&create("b", None, Some("s"), false)).unwrap();
    assert_eq!(fork.from.as_deref(), Some("a@s"));
    assert_eq!(world.diff("b"), ["Modified f file 7"]);
    assert_eq!(world.diff("a"), ["Deleted d/g file 3", "Modified f file 7"]);
    let delete = Command::SnapshotDelete { branch: "a".into(), name: "s".into(), dry_run: false };
    assert_eq!(world.refused(&delete), ErrorCode::Busy);
    let list: Vec<SnapshotInfo> = world.ask(&Command::SnapshotList { branch: None }).unwrap();
    assert_eq!(list[0].branches, ["b"]);
    world.ask::<Removed>(&Command::BranchDelete { name: "b".into(), dry_run: false }).unwrap();
    world.branches.handle(&delete).unwrap();
    assert_eq!(world.diff("a"), ["Deleted d/g file 3", "Modified f file 7"]);
}

#[test]
fn a_fork_of_a_head_shares_what_was() {
    let world = World::new();
    let a = world.make("a");
    world.write(a, "f", "changed");
    let info: BranchInfo = world.ask(&create("b", None, Some("a"), false)).unwrap();
    world.add(world.branches.find("b").unwrap(), world.ino(""), "new", "x");
    world.unlink(a, "", "f");
    assert_eq!(info.base, Some(world.base()));
    assert_eq!(world.diff("b"), ["Modified f file 7", "Added new file 1"]);
    assert_eq!(world.diff("a"), ["Deleted f file 3"]);
    assert_eq!(world.refused(&create("c", None, Some("nothing"), false)), ErrorCode::NotFound);
    world.ask::<SnapshotInfo>(&snapshot("a", "same")).unwrap();
    world.ask::<SnapshotInfo>(&snapshot("b", "same")).unwrap();
    assert_eq!(world.refused(&create("c", None, Some("same"), false)), ErrorCode::Usage);
    world.ask::<BranchInfo>(&create("c", None, Some("b@same"), false)).unwrap();
}

#[test]
fn deleting_leaves_nothing_but_the_base() {
    let mut world = World::new();
    let keep = world.make("keep");
    world.write(keep, "f", "kept");
    let count = |world: &World| {
        let mut keys = 0;
        world.store.scan(b"", &mut |key, _| {
            keys += u32::from(!matches!(key[0], b'M' | b'N'));
            true
        });
        (keys, world.core.contents.ids().unwrap().count())
    };
    let before = count(&world);
    let id = world.make("a");
    world.write(id, "f", "changed");
    world.ask::<SnapshotInfo>(&snapshot("a", "s")).unwrap();
    world.write(id, "f", "changed again");
    world.unlink(id, "d", "g");
    let delete = |dry_run| Command::BranchDelete { name: "a".into(), dry_run };
    world.core.join(&Member::new(SessionId(9), id, false, Path::new("/m"))).unwrap();
    assert_eq!(world.refused(&delete(false)), ErrorCode::Busy);
    world.core.end_session(SessionId(9)).unwrap();
    let would: Removed = world.ask(&delete(true)).unwrap();
    let did: Removed = world.ask(&delete(false)).unwrap();
    assert_eq!((would.contents, would.bytes), (did.contents, did.bytes));
    assert_eq!((did.contents, did.snapshots), (2, vec!["s".to_owned()]));
    assert_eq!(world.refused(&delete(false)), ErrorCode::NotFound);
    assert_eq!(count(&world), before);
    world.restart();
    assert_eq!(world.diff("keep"), ["Modified f file 4"]);
}

#[test]
fn an_interrupted_deletion_is_finished_at_the_next_start() {
    let mut world = World::new();
    let id = world.make("a");
    world.write(id, "f", "changed");
    let mut batch = Batch::default();
    batch.put(keys::meta(&format!("deleting-{id}")), []);
    batch.delete(keys::branch(id));
    world.store.commit(&batch).unwrap();
    world.restart();
    assert_eq!(world.branches.counts(), (0, 0));
    assert_eq!(world.core.contents.ids().unwrap().count(), 0);
    let epochs = crate::branch::paths::scan(world.store.as_ref(), b"E", |key, _| keys::number(key, 0)).unwrap();
    assert_eq!(epochs.len(), 1, "what branches of the base to come stand on");
    for letter in *b"CDKOSUXpq" {
        world.store.scan(&[letter], &mut |key, _| {
            assert_ne!(key[0], letter, "{key:?}");
            false
        });
    }
    world.make("a");
}
