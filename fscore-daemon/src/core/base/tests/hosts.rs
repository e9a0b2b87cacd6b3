//! What lies under a base: layers, subvolumes, mounts, leases.

use super::*;
use nix::sys::stat::fstat;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

/// `None` where mounts cannot be made here.
fn mount(test: &str, args: &[&str], at: &Path) -> Option<Mounted> {
    std::fs::create_dir_all(at).unwrap();
    let made = Command::new("mount").args(args).arg(at).stderr(Stdio::piped()).output().unwrap();
    if made.status.success() {
        return Some(Mounted(at.to_owned()));
    }
    println!("skipped: {test}: {}", String::from_utf8_lossy(&made.stderr).trim());
    None
}

fn base_at(path: &Path, store: &Arc<Counting>) -> Base {
    Base::open(&Grounds::anywhere(), BaseId(1), record(path), Arc::clone(store) as Arc<dyn Store>).unwrap()
}

#[test]
fn an_overlay_is_shown_whatever_its_layers_say() {
    let mut ground = Ground::new(|_| {});
    let dir = ground.dir.path().to_owned();
    let Some(_upper) = mount("overlay", &["-t", "tmpfs", "none"], &dir.join("upper")) else { return };
    for made in ["upper/u", "upper/w", "lower/d/e"] {
        std::fs::create_dir_all(dir.join(made)).unwrap();
    }
    std::fs::write(dir.join("lower/f"), "lower").unwrap();
    std::fs::write(dir.join("lower/d/g"), "deep").unwrap();
    let layers = ["lowerdir=lower", "upperdir=upper/u", "workdir=upper/w"]
        .map(|l| l.split_once('=').map(|(k, v)| format!("{k}={}", dir.join(v).display())).unwrap());
    let at = dir.join("merged");
    let Some(_merged) = mount("overlay", &["-t", "overlay", "none", "-o", &layers.join(",")], &at) else { return };
    std::fs::write(at.join("upper"), "upper").unwrap();
    ground.path = at.clone();
    ground.base = base_at(&at, &ground.store);
    let before = ground.walk(ground.base.root());
    assert_eq!(before.len(), 5);
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "numbers are distinct");
    let (d, f, g) = (ground.find("d").object, ground.find("f").object, ground.find("d/g").object);
    assert_eq!((ground.read(f), ground.read(g)), (b"lower".to_vec(), b"deep".to_vec()));
    // The host writes: both move to the upper layer. Its caches go: directories get new inode numbers.
    std::fs::write(at.join("f"), "written").unwrap();
    std::fs::write(at.join("d/g"), "too").unwrap();
    ground.base.let_go();
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(ground.walk(ground.base.root()), before);
    ground.restart();
    assert_eq!(ground.read(g), b"too", "found after a restart");
    assert_eq!((ground.find("d").object, ground.read(f)), (d, b"written".to_vec()));
}

#[test]
fn subvolumes_are_shown_with_numbers_of_their_own() {
    let mut ground = Ground::new(|_| {});
    let dir = ground.dir.path().to_owned();
    let image = dir.join("image");
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    match Command::new("mkfs.btrfs").arg("-q").arg(&image).output() {
        Ok(made) if made.status.success() => {}
        _ => return println!("skipped: subvolumes: mkfs.btrfs does not work here"),
    }
    let at = dir.join("mnt");
    let Some(_mounted) = mount("subvolumes", &["-o", "loop", &image.display().to_string()], &at) else { return };
    for subvolume in ["one", "two", "one/inner"] {
        let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(at.join(subvolume)).status();
        assert!(made.unwrap().success());
    }
    for path in ["f", "one/f", "two/f", "one/inner/f"] {
        std::fs::write(at.join(path), path).unwrap();
    }
    assert_eq!(
        std::fs::metadata(at.join("two/f")).unwrap().ino(),
        std::fs::metadata(at.join("one/inner/f")).unwrap().ino()
    );
    ground.path = at.clone();
    ground.base = base_at(&at, &ground.store);
    let before = ground.walk(ground.base.root());
    assert_eq!(before.len(), 7);
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), 7, "numbers are distinct");
    assert!(before.iter().all(|o| o.is_base()));
    for path in ["f", "one/f", "two/f", "one/inner/f"] {
        assert_eq!(ground.read(ground.find(path).object), path.as_bytes());
    }
    let inner = ground.find("one/inner/f").object;
    ground.restart();
    assert_eq!(ground.read(inner), b"one/inner/f", "found after a restart");
    assert_eq!(ground.walk(ground.base.root()), before);
    // No number depends on the store having taken it.
    let refusing = Arc::new(Counting::default());
    refusing.refuse.store(true, Ordering::Relaxed);
    ground.base = base_at(&at, &refusing);
    assert_eq!(ground.walk(ground.base.root()), before);
}

/// The base of a process that may not clone mounts.
fn in_place(ground: &Ground) -> Base {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(&ground.path, flags, Mode::empty()).unwrap();
    Base::beneath(root, BaseId(1), record(&ground.path), Arc::clone(&ground.store) as Arc<dyn Store>).unwrap()
}

#[test]
fn a_mount_in_the_base_is_an_empty_directory() {
    let mut ground = Ground::new(|b| std::fs::write(b.join("f"), "").unwrap());
    let Some(_mounted) = mount("mount_in_the_base", &["-t", "tmpfs", "none"], &ground.at("d/mnt")) else { return };
    std::fs::write(ground.at("d/mnt/secret"), "").unwrap();
    for cloned in [false, true] {
        ground.base = if cloned { base_at(&ground.path, &ground.store) } else { in_place(&ground) };
        let found = ground.find("d/mnt");
        assert_eq!(found.kind, FileKind::Directory);
        assert_eq!(ground.walk(ground.base.root()).len(), 3, "what is listed can be looked up");
        assert!(ground.list(found.object).is_empty());
        assert!(ground.base.lookup(found.object, b"secret").unwrap().is_none());
        assert!(ground.base.xattrs(found.object).unwrap().is_empty());
        assert_eq!(ground.base.place_of(found.object).unwrap().1, b"mnt");
    }
    ground.restart();
    let mnt = ground.find("d/mnt").object;
    ground.base = in_place(&ground);
    assert_eq!(ground.base.stat(mnt).unwrap().object, mnt, "found by a search too");
}

#[test]
fn grounds_are_the_mounts_that_were_there_when_they_were_taken() {
    let ground = Ground::new(|b| std::fs::create_dir_all(b.join("deep/er")).unwrap());
    let top = ground.path.canonicalize().unwrap();
    let take = |bases: &[PathBuf]| Grounds::take(&[top.clone(), top.join("missing")], bases);
    let grounds = take(&[]);
    if grounds.in_place().next().is_some() {
        return println!("skipped: grounds: mounts cannot be cloned here");
    }
    assert!(fstat(grounds.open(&top).unwrap()).unwrap().st_ino == std::fs::metadata(&top).unwrap().ino());
    let found = grounds.open(&top.join("deep/er")).unwrap();
    let write = format!("/proc/self/fd/{}", found.as_raw_fd());
    let refused = std::fs::File::create(Path::new(&write).join("new")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "whoever asks, root too");
    let out_of_reach =
        |grounds: &Grounds, path: &str| matches!(grounds.open(&top.join(path)), Err(FsError::OutOfReach(_)));
    assert!(matches!(grounds.open(top.parent().unwrap()), Err(FsError::OutOfReach(_))), "nothing above");
    assert!(matches!(grounds.open(&top.join("nothing")), Err(FsError::Io { .. })));
    let Some(mounted) = mount("grounds", &["-t", "tmpfs", "none"], &top.join("deep")) else { return };
    std::fs::create_dir(top.join("deep/er")).unwrap();
    // Neither what it covers nor what came later is taken for the other.
    assert!(out_of_reach(&grounds, "deep") && out_of_reach(&grounds, "deep/er"));
    assert!(out_of_reach(&take(&[]), "deep/er"), "mounts below a prefix are left alone");
    let with_base = take(&[top.join("deep/er")]);
    assert!(with_base.open(&top.join("deep/er")).is_ok());
    assert!(out_of_reach(&with_base, "deep"));
    drop(mounted);
    assert!(grounds.open(&top.join("deep/er")).is_ok(), "uncovered again");
}

/// Holds a write lease on its argument; gives it back when somebody wants the file.
const HOLDER: &str = "
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
signal.sigwait([signal.SIGIO])
os.write(fd, b'last words')
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
";

#[test]
fn a_file_under_a_lease_is_waited_for() {
    let ground = Ground::new(|b| std::fs::write(b.join("f"), "").unwrap());
    let object = ground.find("f").object;
    let holder = Command::new("python3").args(["-c", HOLDER]).arg(ground.at("f")).stdout(Stdio::piped()).spawn();
    let Ok(mut holder) = holder else { return println!("skipped: lease: no python3 to hold one") };
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    assert_eq!(ground.read(object), b"last words", "opened when the lease was given back");
    assert!(holder.wait().unwrap().success());
}
