//! Wrong paths, stores, peers and a full disk: a clear error or right behaviour, nothing lost, no panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::format_push_string,
    clippy::ignore_without_reason,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::run;
use harness::small_disk::SmallDisk;
use harness::tree::Columns;
use harness::{Tree, World, procs, sys};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_mountpoint_inside_the_base_is_refused() {
    let Some(world) = World::start("a_mountpoint_inside_the_base") else { return };
    let base = world.base("p");
    std::fs::create_dir_all(base.join("sub/mnt")).unwrap();
    for at in [base.join("sub/mnt"), base.clone(), base.join("sub/../sub/mnt")] {
        let out = world.cli_fails(&["mount", "--base", text(&base), "--branch", "b", text(&at)]);
        assert!(out.says("inside") || out.says("base"), "{out}");
        assert!(harness::mounts::below(&base).is_empty(), "{} is mounted", at.display());
    }
    // Through a link as well.
    sys::symlink(sys::bytes(&base.join("sub")), &world.out().join("way")).unwrap();
    world.cli_fails(&["mount", "--base", text(&base), "--branch", "b", text(&world.out().join("way/mnt"))]);
    assert!(harness::mounts::below(world.dir()).is_empty());
    // The store inside the base would see itself.
    let at = world.mountpoint();
    for missing in [world.out().join("no-such-mountpoint"), world.out().join("a-file")] {
        std::fs::write(world.out().join("a-file"), "").unwrap();
        world.cli_fails(&["mount", "--base", text(&base), "--branch", "b", text(&missing)]);
    }
    world.cli(&["mount", "--base", text(&base), "--branch", "b", text(&at)]);
}

#[test]
fn bases_that_cannot_be_bases_are_refused() {
    let Some(world) = World::start("bases_that_cannot_be_bases") else { return };
    let at = world.mountpoint();
    let missing = world.dir().join("host/missing");
    let file = world.base("x").join("file");
    std::fs::write(&file, "").unwrap();
    let outside = world.out().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let escape = world.dir().join("host/escape");
    sys::symlink(sys::bytes(&outside), &escape).unwrap();
    for base in [&missing, &file, &outside, &escape, &world.store().to_path_buf()] {
        for command in [
            vec!["branch", "create", "b", "--base", text(base)],
            vec!["mount", "--base", text(base), "--branch", "b", text(&at)],
        ] {
            let out = world.cli_fails(&command);
            assert!(out.says(base.file_name().unwrap().to_str().unwrap()), "the message names the base: {out}");
        }
        if base == &outside {
            let out = world.cli_fails(&["branch", "create", "b", "--base", text(base)]).code(78);
            assert!(out.says("allow"), "and says how to allow it: {out}");
        }
    }
    // A base that vanishes under a mount: errors, no hang, no panic; what the branch has stays.
    let base = world.base("vanishing");
    std::fs::write(base.join("f"), "f").unwrap();
    let mnt = world.mount("v", Some(&base));
    std::fs::write(mnt.join("own"), "own").unwrap();
    std::fs::rename(&base, world.dir().join("host/gone")).unwrap();
    assert_eq!(std::fs::read(mnt.join("own")).unwrap(), b"own");
    std::fs::read(mnt.join("f")).ok();
    world.umount(&mnt);
    world.stop();
    world.cli(&["daemon", "start"]);
    assert!(world.branches().contains(&"v".to_owned()), "a missing base does not keep the daemon from starting");
    world.assert_no_panics();
}

#[test]
fn a_git_file_that_points_outside_is_told() {
    let Some(world) = World::start("a_git_file_that_points_outside") else { return };
    let main = world.base("main");
    world.program(&main, "git", &["init", "-q", "-b", "main"]);
    std::fs::write(main.join("f"), "f").unwrap();
    world.program(&main, "git", &["add", "."]);
    world.program(&main, "git", &["commit", "-q", "-m", "first"]);
    let tree = world.dir().join("host/worktree");
    world.program(&main, "git", &["worktree", "add", "-q", text(&tree)]);
    let before = Tree::of(&main, Columns::UNTOUCHED);
    let out = world.try_cli(&["branch", "create", "b", "--base", text(&tree)]);
    assert!(out.says(".git") || out.says("worktree"), "refused or warned about: {out}");
    let out = world.try_cli(&["run", "--base", text(&tree), "--branch", "r", "--", "true"]);
    assert!(out.says(".git") || out.says("worktree"), "refused or warned about: {out}");
    before.assert_same(&Tree::of(&main, Columns::UNTOUCHED), "the repository of the worktree");
}

#[test]
fn what_git_borrows_and_submodules_outside_are_told() {
    let Some(world) = World::start("what_git_borrows") else { return };
    let lender = world.base("lender");
    world.program(&lender, "git", &["init", "-q", "-b", "main"]);
    std::fs::write(lender.join("f"), "f").unwrap();
    world.program(&lender, "git", &["add", "."]);
    world.program(&lender, "git", &["commit", "-q", "-m", "first"]);
    let borrower = world.dir().join("host/borrower");
    world.program(world.dir(), "git", &["clone", "-q", "--shared", text(&lender), text(&borrower)]);
    // A submodule as git makes it: its repository is in the base.
    let allow = ["-c", "protocol.file.allow=always"];
    world.program(&borrower, "git", &[&allow[..], &["submodule", "add", "-q", text(&lender), "sub"]].concat());
    world.program(&borrower, "git", &["commit", "-q", "-m", "with a submodule"]);
    let out = world.cli(&["branch", "create", "b", "--base", text(&borrower)]);
    assert!(out.says(text(&lender.join(".git/objects"))) && out.says("not part of the branch"), "{out}");
    assert!(!out.says("sub/.git") && !out.says("the repository of"), "{out}");
    // git works in it, on the branch and nowhere else.
    let before = Tree::of(&borrower, Columns::UNTOUCHED);
    let script =
        "cd sub && echo more >>f && git commit -q -a -m more && cd .. && git add sub && git commit -q -m moved";
    let out = world.cli(&["run", "--base", text(&borrower), "--branch", "r", "--", "sh", "-c", script]);
    assert!(out.says("not part of the branch"), "told by run as well: {out}");
    before.assert_same(&Tree::of(&borrower, Columns::UNTOUCHED), "the borrower");
    // One whose repository is somewhere else.
    let away = world.dir().join("host/away");
    sys::rename(&borrower.join(".git/modules/sub"), &away).unwrap();
    std::fs::write(borrower.join("sub/.git"), format!("gitdir: {}\n", away.display())).unwrap();
    let out = world.cli(&["branch", "create", "c", "--base", text(&borrower)]);
    assert!(out.says("the repository of") && out.says(text(&away)), "{out}");
}

#[test]
fn a_second_daemon_on_one_store_is_refused() {
    let Some(world) = World::start("a_second_daemon_on_one_store") else { return };
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("f"), "f").unwrap();
    let first = world.daemon_pid();
    let other = world.dir().join("other-sock");
    let mut command = world.command(world.bins().path("agentfsd"));
    command.args(["--store", text(world.store()), "--socket", text(&other)]);
    let out = run(&mut command, Duration::from_secs(30)).clear_failure();
    assert!(out.says("store") || out.says("lock"), "{out}");
    let mut command = world.command(world.bins().path("agentfsd"));
    command.args(["--store", text(&world.dir().join("store2")), "--socket", text(world.socket())]);
    run(&mut command, Duration::from_secs(30)).clear_failure();
    assert_eq!(world.daemon_pid(), first);
    assert_eq!(std::fs::read(mnt.join("f")).unwrap(), b"f");
    world.cli(&["status"]);
}

/// Files in the store that hold records of metadata.
fn store_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !["log", "run", "contents", "content"].contains(&entry.file_name().to_str().unwrap()) {
                found.extend(store_files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let Some(world) = World::start("a_store_of_a_newer_format") else { return };
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("f"), "precious").unwrap();
    world.stop();
    let files = store_files(world.store());
    let path = files.iter().find(|p| p.file_name().is_some_and(|n| n.eq_ignore_ascii_case("format"))).cloned();
    let path = path.unwrap_or_else(|| panic!("no format file in {files:?}"));
    let old = std::fs::read(&path).unwrap();
    let newer = String::from_utf8_lossy(&old).replace('1', "999");
    assert_ne!(newer.as_bytes(), old, "{} does not tell a version: {newer}", path.display());
    std::fs::write(&path, &newer).unwrap();
    let before: Vec<_> = store_files(world.store()).into_iter().map(|p| (sys::sha256_file(&p), p)).collect();
    let mut command = world.command(world.bins().path("agentfsd"));
    command.args(["--store", text(world.store()), "--socket", text(world.socket())]);
    let out = run(&mut command, Duration::from_secs(30)).clear_failure();
    assert!(out.says("999") || out.says("newer") || out.says("version"), "{out}");
    for (sha, path) in before {
        assert_eq!(sys::sha256_file(&path), sha, "{} was changed", path.display());
    }
    std::fs::write(&path, old).unwrap();
    let mnt = world.mount("b", None);
    assert_eq!(std::fs::read(mnt.join("f")).unwrap(), b"precious");
}

/// It once became a store, with everything else in it.
#[test]
fn a_directory_of_somebody_else_does_not_become_a_store() {
    let Some(world) = World::start("a_directory_of_somebody_else") else { return };
    let home = world.base("home");
    std::fs::write(home.join("thesis"), "mine").unwrap();
    let store = ["--store".as_ref(), home.as_os_str()];
    for command in [&["daemon", "start"][..], &["branch", "create", "b"], &["run", "--", "true"]] {
        let mut args: Vec<&std::ffi::OsStr> = store.to_vec();
        args.extend(command.iter().map(std::ffi::OsStr::new));
        let mut command = world.agentfs(&args);
        let refused = run(command.env_remove("AGENTFS_SOCKET"), Duration::from_secs(60)).clear_failure();
        assert!(refused.says("thesis") && refused.says("--store"), "{refused}");
        assert_eq!(refused.status.code(), Some(74), "{refused}");
    }
    for program in ["agentfsd", "agentfs-fuse"] {
        let hold: &[&str] = if program == "agentfs-fuse" { &["--hold"] } else { &[] };
        let mut command = world.command(world.bins().path(program));
        command.args(hold).args(store).env_remove("AGENTFS_SOCKET");
        let refused = run(&mut command, Duration::from_secs(60)).clear_failure();
        assert!(refused.says("thesis"), "{program}: {refused}");
    }
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 1, "something was put there");
}

/// Sends bytes to the daemon; what it answers until it closes or falls silent.
fn talk(world: &World, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    // The daemon may hang up while we still write.
    let sent = stream.write_all(bytes).is_ok();
    if sent {
        stream.shutdown(std::net::Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = stream.read(&mut chunk) {
        if n == 0 || answer.len() > 1 << 20 {
            break;
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn garbage_on_the_socket_hurts_nobody() {
    let Some(world) = World::start("garbage_on_the_socket") else { return };
    let mnt = world.mount("b", None);
    let pid = world.daemon_pid();
    let version = talk(&world, b"{\"v\":999,\"op\":\"status\"}\n");
    assert!(version.contains("version"), "another version of the protocol is told: {version:?}");
    let attach = format!(
        "{{\"v\":1,\"op\":\"attach\",\"session\":{},\"branch\":\"b\",\"mountpoint\":\"/x\",\"epoch\":1}}\n",
        77
    );
    let long = vec![b'x'; 3 << 20];
    let deep = "[".repeat(200_000) + "\n";
    let cases: [&[u8]; 11] = [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"\0\xff\xfe\n",
        b"{\"v\":1}\n",
        b"{\"v\":1,\"op\":\"no-such\"}\n",
        b"{\"v\":1,\"op\":\"branch-create\",\"name\":7}\n",
        b"{\"v\":1,\"op\":\"status\"",
        attach.as_bytes(),
        &long,
        deep.as_bytes(),
    ];
    for case in cases {
        let answer = talk(&world, case);
        assert!(
            !answer.contains("\"ok\""),
            "{:?} is answered {answer:?}",
            String::from_utf8_lossy(&case[..case.len().min(80)])
        );
    }
    // Random bytes, and a hundred connections that say nothing.
    for n in 0..20 {
        talk(&world, &sys::pattern(n, 2000));
    }
    let idle: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(world.socket()).ok()).collect();
    assert_eq!(world.status()["pid"].as_i64(), Some(i64::from(pid)), "the daemon lives, and serves beside idle peers");
    drop(idle);
    std::fs::write(mnt.join("f"), "works").unwrap();
    // A right call by hand, as another language would do it.
    let mut stream = UnixStream::connect(world.socket()).unwrap();
    stream.write_all(b"{\"v\":1,\"op\":\"status\"}\n{\"v\":1,\"op\":\"branch-list\"}\n").unwrap();
    let mut lines = BufReader::new(stream);
    for word in ["uptime_seconds", "\"b\""] {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("\"ok\"") && line.contains(word), "{line}");
    }
    world.assert_no_panics();
}

#[test]
fn nonsense_on_the_command_line_is_refused() {
    let Some(world) = World::start("nonsense_on_the_command_line") else { return };
    for args in [&["no-such-command"][..], &["mount"], &["branch", "create"], &["diff"], &["--no-such-flag"], &["run"]]
    {
        world.cli_fails(args).code(2);
    }
    let long = world.dir().join("s".repeat(120));
    let out = world.cli_fails(&["status", "--socket", text(&long)]);
    assert!(out.says("long") || out.says("107"), "a socket path too long is told: {out}");
    let out = world.cli_fails(&["daemon", "start", "--store", "/proc/nowhere"]);
    assert!(out.says("/proc/nowhere"), "{out}");
    // With no daemon at all, commands say so or start one; they do not hang.
    let begun = Instant::now();
    world.try_cli(&["branch", "list"]);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn paths_that_are_no_text_are_told_at_once() {
    let Some(world) = World::start("paths_that_are_no_text") else { return };
    let good = world.base("p");
    let odd = world.dir().join("host").join(OsStr::from_bytes(b"odd-\xff"));
    std::fs::create_dir(&odd).unwrap();
    let begun = Instant::now();
    for command in [&["branch", "create", "b"][..], &["run", "--branch", "b"], &["mount", "--branch", "b"]] {
        let mut args: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        args.extend([OsStr::new("--base"), odd.as_os_str()]);
        args.extend(if command[0] == "run" { &["--", "true"][..] } else { &[] }.iter().map(OsStr::new));
        let at = world.mountpoint();
        args.extend((command[0] == "mount").then_some(at.as_os_str()));
        let out = world.cli_fails(&args).code(66);
        assert!(out.says(r"odd-\xff") && out.says("UTF-8"), "{out}");
    }
    let args = ["mount", "--branch", "b", "--base", text(&good)].map(OsStr::new);
    let out = world.cli_fails(&[&args[..], &[odd.as_os_str()]].concat()).code(2);
    assert!(out.says(r"odd-\xff") && out.says("UTF-8"), "{out}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it waited for an answer to what it could not ask");
}

#[test]
fn answers_that_cannot_be_written_are_failures() {
    let Some(world) = World::start("answers_that_cannot_be_written") else { return };
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["branch", "list"][..], &["branch", "list", "--json"], &["help", "exit-codes"], &["mounts"]] {
        let status = world.agentfs(args).stdout(full()).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(28), "{args:?}");
    }
    // A reader that has enough is none.
    let script = "agentfs help exit-codes | true; exit ${PIPESTATUS[0]}";
    let path = format!("{}:{}", world.bins().dir().display(), std::env::var("PATH").unwrap());
    run(world.command("bash").args(["-c", script]).env("PATH", path), Duration::from_secs(30)).success();
}

#[test]
fn mistakes_are_told_to_programs_too() {
    let Some(world) = World::start("mistakes_are_told_to_programs") else { return };
    let told = |args: &[&str], code: i32| {
        let out = world.cli_fails(args).code(code);
        assert_eq!(out.stdout, "", "{out}");
        let error: serde_json::Value = serde_json::from_str(&out.stderr).unwrap();
        error["error"]["message"].as_str().unwrap().to_owned()
    };
    assert!(told(&["--json", "diff"], 2).contains("<BRANCH>"));
    assert!(told(&["snapshot", "create", "--json"], 2).contains("--branch <NAME> --name <NAME>"));
    let codes = world.json(&["help", "exit-codes"].map(OsStr::new));
    assert!(codes.as_array().unwrap().iter().any(|row| row["code"] == "conflict" && row["exit_code"] == 10), "{codes}");
    // A mount of `agentfs run` is listed, and cannot be unmounted from outside.
    let base = world.base("p");
    let mut running =
        world.spawn(&mut world.agentfs(["run", "--base", text(&base), "--branch", "b", "--", "sleep", "60"]));
    assert!(procs::wait_for(Duration::from_secs(20), || world.cli(&["mounts"]).says(text(&base))));
    assert!(told(&["--json", "umount", text(&base)], 75).contains("another mount namespace"));
    assert!(world.cli_fails(&["daemon", "stop"]).code(75).says("agentfs run"));
    assert!(running.poll().is_none());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(running.pid()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    running.finish(Duration::from_secs(20)).code(143);
}

#[test]
fn a_disk_without_room_for_a_store_is_told_until_there_is() {
    let Some(outer) = World::start("a_disk_without_room") else { return };
    let disk = outer.out().join("disk");
    std::fs::create_dir(&disk).unwrap();
    outer.program(outer.dir(), "mount", &["-t", "tmpfs", "-o", "size=2m", "none", text(&disk)]);
    std::fs::write(disk.join("filler"), vec![1; 3 << 20]).unwrap_err();
    let store = disk.join("store");
    let agentfs = |args: &[&str]| {
        let mut command = outer.agentfs([&["--store", text(&store)], args].concat());
        run(command.env_remove("AGENTFS_SOCKET"), Duration::from_secs(60))
    };
    for _ in 0..2 {
        let out = agentfs(&["branch", "list"]).code(28);
        assert!(out.says("no space left for the store") && out.stderr.matches("does not start").count() == 1, "{out}");
    }
    // The daemon is not yet due again: whoever asks need not wait for that.
    outer.program(outer.dir(), "mount", &["-o", "remount,size=64m", "none", text(&disk)]);
    agentfs(&["branch", "list"]).success();
    agentfs(&["daemon", "stop"]).success();
    outer.program(outer.dir(), "umount", &[text(&disk)]);
}

#[test]
fn a_full_disk_is_enospc_to_the_writer_and_rm_still_works() {
    let Some(outer) = World::start("a_full_disk_outer") else { return };
    let disk = SmallDisk::new(&outer, 64, &[]);
    {
        let world = World::start_with("a_full_disk", Some(&disk.path().join("store"))).unwrap();
        let base = world.base("p");
        std::fs::write(base.join("big"), sys::pattern(1, 4 << 20)).unwrap();
        let mnt = world.mount("b", Some(&base));
        std::fs::write(mnt.join("early"), sys::pattern(2, 100_000)).unwrap();
        let mut file = std::fs::File::create(mnt.join("filler")).unwrap();
        let piece = sys::pattern(3, 1 << 20);
        let mut written = 0;
        let error = loop {
            match file.write(&piece) {
                Ok(n) => written += n,
                Err(e) => break e,
            }
            assert!(written < 100 << 20, "a disk of 64 MiB takes {written} bytes");
        };
        assert_eq!(sys::of_io(&error), sys::Errno::NOSPC, "{error}");
        assert!(written > 20 << 20, "only {written} bytes fitted");
        // Fill the rest with small files until names fail too.
        let mut made = 0;
        for n in 0..50_000 {
            if let Err(e) = std::fs::write(mnt.join(format!("small{n}")), &piece[..4000]) {
                assert_eq!(sys::of_io(&e), sys::Errno::NOSPC, "{e}");
                break;
            }
            made = n;
        }
        // Copy-up of a base file finds no room; the file stays readable as it was.
        let up = std::fs::OpenOptions::new().write(true).open(mnt.join("big")).and_then(|f| f.write_all_at(b"x", 0));
        if let Err(e) = up {
            assert_eq!(sys::of_io(&e), sys::Errno::NOSPC, "{e}");
            assert_eq!(sys::sha256_file(&mnt.join("big")).unwrap(), sys::sha256(&sys::pattern(1, 4 << 20)));
        }
        assert_eq!(sys::sha256_file(&mnt.join("early")).unwrap(), sys::sha256(&sys::pattern(2, 100_000)));
        drop(file);
        // The daemon lives through a restart on the full disk.
        world.kill_daemon();
        assert_eq!(sys::sha256_file(&mnt.join("early")).unwrap(), sys::sha256(&sys::pattern(2, 100_000)));
        std::fs::remove_file(mnt.join("filler")).expect("rm works on a full disk");
        // The one after the last may have got its name and no room for its bytes.
        for n in 0..=made + 1 {
            std::fs::remove_file(mnt.join(format!("small{n}"))).ok();
        }
        let roomy = procs::wait_for(Duration::from_secs(20), || std::fs::write(mnt.join("after"), &piece).is_ok());
        assert!(roomy, "after rm there is room again");
        world.remount("b", &mnt);
        assert_eq!(std::fs::read(mnt.join("after")).unwrap(), piece);
        assert_eq!(sys::names(&mnt).iter().filter(|n| n.starts_with("small") || *n == "filler").count(), 0);
        world.assert_no_panics();
    }
    drop(disk);
}
