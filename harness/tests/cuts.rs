//! A snapshot is one point in time: what it shows of two files that programs change one after the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::{World, procs, sys};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Writes the same counter into two files in order, by `write` or by memory, until it is killed.
const COUNT: &str = r"
import mmap, os, struct, sys
how, paths = sys.argv[1], sys.argv[2:4]
files = [os.open(p, os.O_RDWR) for p in paths]
if how == 'write':
    put = [lambda b, f=f: os.pwrite(f, b, 0) for f in files]
else:
    def store(m):
        words = memoryview(m).cast('Q')
        def put(b):
            words[0] = struct.unpack('<Q', b)[0]
        return put
    put = [store(mmap.mmap(f, 4096)) for f in files]
n = 0
while True:
    n += 1
    b = struct.pack('<Q', n)
    put[0](b)
    put[1](b)
";

fn counter(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Starts writers, takes snapshots with these options beside them, and looks into each.
fn cuts(world: &World, hows: &[&str], options: &[&str], rounds: usize) {
    let base = world.base("p");
    for n in 0..hows.len() {
        for which in ["first", "second"] {
            std::fs::write(base.join(format!("{which}{n}")), vec![0; 4096]).unwrap();
        }
    }
    let mnt = world.mount("b", Some(&base));
    let mut writers: Vec<_> = hows
        .iter()
        .enumerate()
        .map(|(n, how)| {
            let mut command = world.command("python3");
            command.args(["-c", COUNT, how]).args([mnt.join(format!("first{n}")), mnt.join(format!("second{n}"))]);
            command.spawn().unwrap()
        })
        .collect();
    let moving = procs::wait_for(Duration::from_secs(30), || {
        (0..hows.len()).all(|n| counter(&mnt.join(format!("second{n}"))) > 0)
    });
    assert!(moving, "the writers do not begin");
    let (mut last, mut begun) = (vec![0; hows.len()], vec![None; hows.len()]);
    for round in 0..rounds {
        let name = format!("s{round}");
        world.cli(&[&["snapshot", "create", "--branch", "b", "--name", &name], options].concat());
        let seen = format!("seen{round}");
        world.branch_from(&seen, &format!("b@{name}"));
        let at = world.mount(&seen, None);
        for (n, how) in hows.iter().enumerate() {
            let (first, second) = (counter(&at.join(format!("first{n}"))), counter(&at.join(format!("second{n}"))));
            let cut = first == second || first == second + 1;
            assert!(cut, "{how}, round {round}: the first file is at {first}, the second at {second}");
            // By memory without --freeze nothing need have come; that is not asked here.
            // A writer may have to wait for a whole round.
            assert!(first >= last[n], "{how}, round {round}: back from {} to {first}", last[n]);
            begun[n].get_or_insert(first);
            last[n] = first;
        }
        world.umount(&at);
        world.cli(&["discard", &seen]);
        for writer in &mut writers {
            assert!(writer.try_wait().unwrap().is_none(), "a writer ended");
        }
    }
    for (n, how) in hows.iter().enumerate() {
        assert!(begun[n].is_some_and(|first| last[n] > first), "{how}: nothing went on in {rounds} rounds");
    }
    let pids: Vec<_> = writers.iter().map(|writer| writer.id().cast_signed()).collect();
    for pid in &pids {
        assert_ne!(procs::state(*pid), Some('t'), "a writer is still held");
    }
    procs::kill_all(&pids);
    for mut writer in writers {
        writer.wait().unwrap();
    }
    world.assert_no_panics();
}

#[test]
fn a_snapshot_shows_no_later_write_without_an_earlier_one() {
    let Some(world) = World::start("a_snapshot_shows_no_later_write") else { return };
    cuts(&world, &["write"; 4], &[], 12);
}

#[test]
fn a_frozen_snapshot_shows_no_later_store_without_an_earlier_one() {
    let Some(world) = World::start("a_frozen_snapshot_shows_no_later_store") else { return };
    cuts(&world, &["memory", "memory", "memory", "write"], &["--freeze"], 12);
}

/// Stores a counter into the first page of a file and into the last one, or into all those between, round and round.
const ENDS: &str = r"
import mmap, os, sys
f, pages = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2])
words = memoryview(mmap.mmap(f, pages * 4096)).cast('Q')
places = [0, (pages - 1) * 512] if sys.argv[3] == 'ends' else range(512, (pages - 1) * 512, 512)
n = 0
while True:
    n += 1
    for at in places:
        words[at] = n
";

/// The kernel writes out the first page of a file long before the last one, where many between are to be written too, and
/// lets a program store into both meanwhile: without holding it still, the last page shows stores that the first one lacks.
#[test]
fn a_frozen_snapshot_shows_stores_to_pages_far_apart_in_their_order() {
    const PAGES: u64 = 16384;
    let Some(world) = World::start("stores_to_pages_far_apart") else { return };
    let mnt = world.mount("b", None);
    let file = mnt.join("f");
    std::fs::write(&file, vec![0; PAGES as usize * 4096]).unwrap();
    let mut programs = ["ends", "between"].map(|which| {
        let mut command = world.command("python3");
        command.args(["-c", ENDS]).arg(&file).args([&PAGES.to_string(), which]).spawn().unwrap()
    });
    let stored = |path: &Path| -> [u64; 3] {
        let file = std::fs::File::open(path).unwrap();
        let word = |page: u64| {
            let mut bytes = [0; 8];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, page * 4096).unwrap();
            u64::from_le_bytes(bytes)
        };
        [word(0), word(PAGES / 2), word(PAGES - 1)]
    };
    // Every page is to be written out, and the program goes on.
    let moves = |[_, middle, last]: [u64; 3]| {
        procs::wait_for(Duration::from_mins(1), || {
            let now = stored(&file);
            now[1] > middle + 1 && now[2] > last
        })
    };
    assert!(moves([0; 3]));
    for round in 0..6 {
        let name = format!("s{round}");
        let [_, _, before] = stored(&file);
        world.cli(&["snapshot", "create", "--branch", "b", "--name", &name, "--freeze"]);
        world.branch_from(&name, &format!("b@{name}"));
        let at = world.mount(&name, None);
        let [first, _, last] = stored(&at.join("f"));
        assert!(first == last || first == last + 1, "round {round}: the first page is at {first}, the last at {last}");
        assert!(last >= before, "round {round}: {before} was stored before, {last} is in the snapshot");
        world.umount(&at);
        assert!(moves(stored(&file)), "the programs do not go on");
    }
    for program in &mut programs {
        assert!(program.try_wait().unwrap().is_none(), "a program ended");
        procs::kill_all(&[program.id().cast_signed()]);
        program.wait().unwrap();
    }
    world.assert_no_panics();
}

/// What was stored before the command was given is in the snapshot, and the program goes on with its signals.
#[test]
fn what_was_stored_in_memory_is_in_a_frozen_snapshot() {
    let Some(world) = World::start("what_was_stored_in_memory") else { return };
    let mnt = world.mount("b", None);
    std::fs::write(mnt.join("f"), vec![0; 8 << 20]).unwrap();
    let script = r"
import mmap, os, signal, sys, threading, time
f = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(f, 8 << 20)
m[:] = b'm' * (8 << 20)
caught = threading.Event()
signal.signal(signal.SIGRTMIN + 3, lambda *_: caught.set())
threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
open(sys.argv[2], 'w').write('stored')
while not caught.is_set():
    time.sleep(0.01)
open(sys.argv[2], 'w').write('caught')
";
    let said = world.out().join("said");
    let mut command = world.command("python3");
    let mut program = command.args(["-c", script]).args([&mnt.join("f"), &said]).spawn().unwrap();
    let says = |what: &str| std::fs::read_to_string(&said).is_ok_and(|said| said == what);
    assert!(procs::wait_for(Duration::from_secs(30), || says("stored")));
    world.cli(&["snapshot", "create", "--branch", "b", "--name", "s", "--freeze"]);
    world.branch_from("seen", "b@s");
    let at = world.mount("seen", None);
    assert_eq!(sys::sha256_file(&at.join("f")).unwrap(), sys::sha256(&vec![b'm'; 8 << 20]));
    let pid = program.id().to_string();
    world.program(
        &at,
        "python3",
        &["-c", "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGRTMIN + 3)", &pid],
    );
    assert!(procs::wait_for(Duration::from_secs(10), || says("caught")), "the program goes on");
    assert!(program.wait().unwrap().success());
    // Nothing to hold.
    world.cli(&["snapshot", "create", "--branch", "b", "--name", "t", "--freeze"]);
    world.cli_fails(&["snapshot", "create", "--branch", "nobody", "--name", "t", "--freeze"]).code(68);
    world.assert_no_panics();
}

/// Somebody else's hold on a program is no reason to take a snapshot that promises more than it shows.
#[test]
fn a_program_that_cannot_be_held_is_named() {
    let Some(world) = World::start("a_program_that_cannot_be_held") else { return };
    let mnt = world.mount("b", None);
    for name in ["first", "second"] {
        std::fs::write(mnt.join(name), vec![0; 4096]).unwrap();
    }
    // A parent that asked for it traces its child, which then maps the files.
    let traced = format!(
        "import ctypes, os, sys, time\n\
         libc = ctypes.CDLL(None)\n\
         pid = os.fork()\n\
         if pid == 0:\n    sys.argv = ['-c', 'memory'] + sys.argv[1:]\n    time.sleep(0.5)\n    exec({COUNT:?})\n\
         libc.ptrace(0x4206, pid, None, None)\n\
         print(pid, flush=True)\n\
         time.sleep(600)\n"
    );
    let mut command = world.command("python3");
    command.args(["-c", &traced]).args([mnt.join("first"), mnt.join("second")]);
    let mut tracer = command.stdout(Stdio::piped()).spawn().unwrap();
    assert!(procs::wait_for(Duration::from_secs(30), || counter(&mnt.join("second")) > 0));
    let out = world.cli_fails(&["snapshot", "create", "--branch", "b", "--name", "s", "--freeze"]).code(77);
    assert!(out.says("cannot be held") && out.says("python3"), "{out}");
    assert!(world.json(&["snapshot", "list", "b"].map(std::ffi::OsStr::new)).as_array().unwrap().is_empty());
    let mut said = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut said).unwrap();
    procs::kill_all(&[said.trim().parse().unwrap(), tracer.id().cast_signed()]);
    tracer.wait().unwrap();
    world.cli(&["snapshot", "create", "--branch", "b", "--name", "s", "--freeze"]);
}
