//! POSIX access control lists, and the permission bits and umasks beside them, as on ext4.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use harness::small_disk::SmallDisk;
use harness::world::COMMAND_LIMIT;
use harness::{World, run::run};
use std::path::Path;

/// What a script says in a directory, both streams in one.
fn said(world: &World, dir: &Path, script: &str) -> String {
    let whole = format!("exec 2>&1; cd {}; {script}", dir.display());
    run(world.command("bash").args(["-c", &whole]), COMMAND_LIMIT).stdout
}

fn as_user(uid: u32, groups: &str, script: &str) -> String {
    format!("setpriv --reuid {uid} --regid {uid} --groups {groups} --inh-caps=-all bash -c '{script}' 2>&1\n")
}

fn tools(world: &World) -> bool {
    let there = run(world.command("sh").args(["-c", "command -v setfacl getfacl setpriv mkfs.ext4"]), COMMAND_LIMIT);
    if !there.status.success() {
        eprintln!("skipped: posix_acl: no setfacl, getfacl, setpriv or mkfs.ext4");
    }
    there.status.success()
}

/// The same lines on ext4 and on a branch.
fn script() -> String {
    let show = "getfacl -n -a -d -p a d d/f d/s d/s/f m t 2>/dev/null; stat -c '%n %a %u %g' a d d/f d/s d/s/f m\n";
    let mut script = String::from(
        "umask 022; chmod 755 .\n\
         echo a >a; chmod 640 a; mkdir d m; echo t >t\n\
         setfacl -m u:1001:rw,g:1002:r a; stat -c %a a; chmod 604 a; getfacl -n a; chmod 660 a\n\
         setfacl -m u::rwx,g::r,o::- t; stat -c %a t; getfattr -n system.posix_acl_access t | head -1\n\
         setfacl -m d:u:1001:rwx,d:g:1002:rx,d:o::- d; chmod 2775 d; chgrp 1002 d\n\
         echo f >d/f; mkdir d/s; (umask 077; echo f >d/s/f); ln -s f d/l; mkfifo d/p; getfacl -n d/p\n\
         setfacl -m d:u:5:r a; setfacl -h -m u:5:r d/l; setfacl -b t; setfacl -k m; setfacl -x u:99 a\n\
         setfattr -n system.posix_acl_access -v 0x02000000010007 a\n\
         setfattr -n system.posix_acl_access -v 0x0200000001000700ffffffff a\n\
         listxattrs() { getfattr -m - \"$@\"; }; listxattrs a d d/f\n",
    );
    script += show;
    script += &as_user(1001, "1001", "cat a; echo more >>a; cat d/f; echo new >d/n; cat d/n; stat -c \"%a %u %g\" d/n");
    script += &as_user(1003, "1002", "cat a; echo more >>a; ls d; cat d/f; touch d/x");
    script += &as_user(1004, "1004", "cat a; ls d");
    // setgid goes when somebody who is not of the group sets a list, and stays for root.
    script += "echo g >g; chown 1001:1002 g; chmod 2770 g\n";
    script += &as_user(1001, "1001", "setfacl -m u:7:rw g; stat -c %a g");
    script += "chmod 2770 g; setfacl -m u:8:rw g; stat -c %a g; setfacl -b g; stat -c %a g\n";
    script += "mv d/f m/f; ln a m/a; getfacl -n m/f m/a; cp -a d e; getfacl -n $(find e | sort); rm -rf e d\n";
    script
}

#[test]
fn lists_behave_as_on_ext4() {
    let Some(world) = World::start("lists_behave_as_on_ext4") else { return };
    if !tools(&world) {
        return;
    }
    let disk = SmallDisk::new(&world, 16, &[]);
    let expected = said(&world, disk.path(), &script());
    assert!(expected.contains("user:1001:rwx") && expected.contains("Permission denied"), "{expected}");
    let mnt = world.mount("b", None);
    let found = said(&world, &mnt, &script());
    for (n, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {n} of\n{}", said(&world, disk.path(), "true"));
    }
    assert_eq!(found, expected);
    // Nothing of it lives in the kernel alone.
    let look = "getfacl -n -p $(find . | sort); stat -c '%n %a' *";
    let before = said(&world, &mnt, look);
    world.remount("b", &mnt);
    assert_eq!(said(&world, &mnt, look), before);
    world.umount(&mnt);
}

#[test]
fn a_bases_lists_count_on_a_branch_and_changes_come_back() {
    let Some(world) = World::start("a_bases_lists_count") else { return };
    if !tools(&world) {
        return;
    }
    let disk = SmallDisk::new(&world, 64, &[]);
    let base = disk.path();
    said(&world, base, "rmdir lost+found");
    let planted = "mkdir d; echo f >f; echo k >k; chmod 640 f k; setfacl -m u:1001:rw f k; setfacl -m d:u:1001:rwx,u:1001:rwx d; \
                   chmod o-rx d; echo in >d/in";
    assert_eq!(said(&world, base, planted), "");
    let mnt = world.mount("b", Some(base));
    let look = "getfacl -n -p f k d d/in; stat -c '%n %a' f k d d/in";
    let original = said(&world, base, look);
    assert!(original.contains("user:1001:rw-"), "{original}");
    assert_eq!(said(&world, &mnt, look), original);
    // They decide access, also once the file has content of the branch's own.
    let one = as_user(1001, "1001", "cat f; echo more >>f; echo n >d/n; stat -c %a d/n; cat d/in");
    assert_eq!(said(&world, &mnt, &one), "f\n664\nin\n");
    let other = as_user(1002, "1002", "cat f; ls d");
    assert_eq!(said(&world, &mnt, &other).matches("Permission denied").count(), 2);
    assert_eq!(said(&world, &mnt, look), original);
    // chmod goes through the mask; a new list, and one taken away.
    let changes = "chmod 600 f; setfacl -b k; setfacl -m d:u:1002:rx d";
    assert_eq!(said(&world, &mnt, changes), "");
    let changed = said(&world, &mnt, look);
    assert_ne!(changed, original);
    assert!(said(&world, &mnt, "getfacl -n f").contains("#effective:---"));
    assert_eq!(said(&world, base, look), original, "the base is not touched");
    world.umount(&mnt);
    world.cli(&["commit", "b"]);
    assert_eq!(said(&world, base, look), changed);
    assert!(said(&world, base, "getfacl -n d/n").contains("user:1001:rwx"));
    assert_eq!(world.diff("b").total(), 0, "{:?}", world.diff("b"));
}

#[test]
fn names_of_trusted_attributes_are_for_root() {
    let Some(world) = World::start("names_of_trusted_attributes") else { return };
    let mnt = world.mount("b", None);
    let plant = "chmod 755 .; echo f >f; setfattr -n trusted.t -v 1 f; setfattr -n user.u -v 1 f; getfattr -m - f";
    assert_eq!(said(&world, &mnt, plant), "# file: f\ntrusted.t\nuser.u\n\n");
    let look = as_user(1001, "1001", "getfattr -m - f; getfattr -n trusted.t f; setfattr -n security.x -v 1 f");
    let found = said(&world, &mnt, &look);
    assert!(found.starts_with("# file: f\nuser.u\n\n"), "{found}");
    assert!(found.contains("trusted.t: ") && found.contains("Operation not permitted"), "{found}");
    world.umount(&mnt);
}

#[test]
fn birth_times_are_told() {
    let Some(world) = World::start("birth_times_are_told") else { return };
    let disk = SmallDisk::new(&world, 64, &[]);
    said(&world, disk.path(), "echo f >f; mkdir d");
    let mnt = world.mount("b", Some(disk.path()));
    let born = |dir: &Path, name: &str| said(&world, dir, &format!("stat -c %w {name}"));
    assert_ne!(born(disk.path(), "f"), "-\n");
    for name in ["f", "d"] {
        assert_eq!(born(&mnt, name), born(disk.path(), name), "{name}");
    }
    let before = born(&mnt, "f");
    said(&world, &mnt, "echo more >>f; touch -d 2001-01-01 f; mv f g; echo n >n");
    assert_eq!(born(&mnt, "g"), before, "copy-up and rename keep it");
    assert_ne!(born(&mnt, "n"), "-\n");
    let own = born(&mnt, "n");
    world.remount("b", &mnt);
    assert_eq!(born(&mnt, "n"), own);
    world.umount(&mnt);
}
