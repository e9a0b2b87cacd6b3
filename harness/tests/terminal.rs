//! `agentfs run` on a real terminal, and what becomes of it when it is signalled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    reason = "a test reports a broken promise by panicking"
)]

use harness::run::{Output, run};
use harness::{World, procs};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Runs a command on a new terminal and plays a user: waits for texts, types, changes the size of the window.
/// Prints what the terminal showed, then how the command ended.
const PLAYER: &str = r#"
import fcntl, json, os, pty, select, struct, sys, termios, time
steps, argv = json.loads(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
shown, seen = b"", 0
def read(limit):
    global shown
    if not select.select([fd], [], [], limit)[0]:
        return True
    try:
        piece = os.read(fd, 65536)
    except OSError:
        piece = b""
    shown += piece
    return piece != b""
def fail(why):
    sys.exit("%s; the terminal showed:\n%s" % (why, shown.decode(errors="replace")))
for step in steps:
    if "await" in step:
        text, end = step["await"].encode(), time.monotonic() + 60
        while text not in shown[seen:]:
            if time.monotonic() > end or not read(0.2):
                if text in shown[seen:]:
                    break
                fail("no %r" % text)
        seen += shown[seen:].index(text) + len(text)
    elif "type" in step:
        os.write(fd, step["type"].encode())
    else:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *step["size"], 0, 0))
end = time.monotonic() + 60
while read(0.2):
    if time.monotonic() > end:
        fail("it does not end")
sys.stdout.write(shown.decode(errors="replace"))
print("ENDED %d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn no_python(name: &str) -> bool {
    let missing = std::process::Command::new("python3").arg("--version").output().map_or(true, |o| !o.status.success());
    if missing {
        eprintln!("skipped: {name}: no python3");
    }
    missing
}

fn play(world: &World, steps: &Value, argv: &[&str]) -> Output {
    let mut command = world.command("python3");
    command.args(["-c", PLAYER, &steps.to_string()]).args(argv).env("TERM", "dumb");
    run(&mut command, LIMIT).success()
}

fn agentfs(world: &World, base: &Path, script: &str) -> Vec<String> {
    let program = world.bins().path("agentfs");
    [program.to_str().unwrap(), "run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "bash", "-c", script]
        .map(str::to_owned)
        .to_vec()
}

fn on_terminal(world: &World, base: &Path, script: &str, steps: &Value) -> Output {
    let argv = agentfs(world, base, script);
    play(world, steps, &argv.iter().map(String::as_str).collect::<Vec<_>>())
}

fn nothing_left(world: &World) {
    let gone = procs::wait_for(Duration::from_secs(10), || world.frontend_pids().is_empty());
    assert!(gone, "frontends are left: {:?}", world.frontend_pids());
    assert!(harness::mounts::below(world.dir()).is_empty());
}

#[test]
fn ctrl_c_reaches_the_command_once_and_the_summary_comes() {
    const NAME: &str = "ctrl_c_reaches_the_command_once";
    let Some(world) = World::start(NAME) else { return };
    if no_python(NAME) {
        return;
    }
    let base = world.base("p");
    // Waits in pieces: a trap that comes just before `read` blocks would run after it only.
    let script = "n=0; trap 'n=$((n+1)); echo got $n' INT; echo > made; echo ready; while [ $n = 0 ]; do sleep 0.05; done; read line; echo n=$n; exit 9";
    let steps = json!([{"await": "ready"}, {"type": "\u{3}"}, {"await": "got 1"}, {"type": "go\r"}, {"await": "n="}]);
    let out = on_terminal(&world, &base, script, &steps);
    assert!(out.stdout.contains("n=1\r\n") && !out.stdout.contains("got 2"), "{out}");
    assert!(out.stdout.contains("1 added") && out.stdout.ends_with("ENDED 9\n"), "{out}");
    // One that does not care ends, and the summary comes all the same.
    let steps = json!([{"await": "ready"}, {"type": "\u{3}"}]);
    let out = on_terminal(&world, &base, "echo > second; echo ready; sleep 60", &steps);
    assert!(out.stdout.contains("2 added") && out.stdout.ends_with("ENDED 130\n"), "{out}");
    nothing_left(&world);
}

#[test]
fn the_size_of_the_window_passes() {
    const NAME: &str = "the_size_of_the_window_passes";
    let Some(world) = World::start(NAME) else { return };
    if no_python(NAME) {
        return;
    }
    let base = world.base("p");
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done";
    let steps = json!([{"await": "ready"}, {"size": [44, 99]}, {"await": "44 99"}]);
    let out = on_terminal(&world, &base, script, &steps);
    assert!(out.stdout.ends_with("ENDED 3\n"), "{out}");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on() {
    const NAME: &str = "ctrl_z_stops_the_job";
    let Some(world) = World::start(NAME) else { return };
    if no_python(NAME) {
        return;
    }
    let base = world.base("p");
    let job = world.out().join("job");
    let argv = agentfs(&world, &base, "echo ready; read line; echo got $line; exit 4");
    let quoted: Vec<String> = argv.iter().map(|word| format!("'{word}'")).collect();
    std::fs::write(&job, format!("exec {}\n", quoted.join(" "))).unwrap();
    let steps = json!([
        {"await": "prompt> "}, {"type": format!("bash {}\r", job.display())}, {"await": "ready\r\n"},
        {"type": "\u{1a}"}, {"await": "Stopped"}, {"await": "prompt> "},
        {"type": "fg\r"}, {"await": "bash "}, {"type": "line\r"}, {"await": "got line"}, {"await": "0 deleted"},
        {"await": "prompt> "}, {"type": "echo was $?; exit\r"}, {"await": "was 4"},
    ]);
    let settings = world.out().join("settings");
    std::fs::write(&settings, "PS1='prompt> '\n").unwrap();
    play(&world, &steps, &["bash", "--rcfile", settings.to_str().unwrap(), "--noediting", "-i"]);
    nothing_left(&world);
}

#[test]
fn a_terminal_in_raw_mode_is_the_commands_own() {
    const NAME: &str = "a_terminal_in_raw_mode";
    let Some(world) = World::start(NAME) else { return };
    if no_python(NAME) {
        return;
    }
    let base = world.base("p");
    let argv =
        agentfs(&world, &base, "saved=$(stty -g); stty raw -echo; echo ready; head -c 3 | od -An -tx1; stty $saved");
    let quoted: Vec<String> = argv.iter().map(|word| format!("'{word}'")).collect();
    let script = format!("stty -g > before; {}; stty -g > after; cmp before after && echo same", quoted.join(" "));
    // Ctrl-C and Ctrl-Z are bytes like others then.
    let steps = json!([{"await": "ready"}, {"type": "\u{3}\u{1a}x"}, {"await": "03 1a 78"}, {"await": "same"}]);
    let script = format!("cd {} && {script}", world.out().display());
    let out = play(&world, &steps, &["bash", "-c", &script]);
    assert!(out.stdout.ends_with("ENDED 0\n"), "{out}");
}

/// A program that runs until it is told, on a new branch; `ready` was printed.
fn running(world: &World, base: &Path, script: &str) -> harness::run::Running {
    let argv = agentfs(world, base, script);
    let running = world.spawn(world.command(&argv[0]).args(&argv[1..]));
    assert!(procs::wait_for(Duration::from_secs(30), || running.stdout().contains("ready")), "the command starts");
    running
}

#[test]
fn sigterm_to_agentfs_ends_the_command_and_the_mount() {
    let Some(world) = World::start("sigterm_to_agentfs") else { return };
    let base = world.base("p");
    let job = running(&world, &base, "echo > made; echo ready; exec sleep 60");
    kill(Pid::from_raw(job.pid()), Signal::SIGTERM).unwrap();
    let out = job.finish(Duration::from_secs(30)).code(128 + 15);
    assert!(out.stderr.contains("1 added"), "{out}");
    nothing_left(&world);
    // Killed for good, it cannot pass anything on: the mount ends with the command.
    let job = running(&world, &base, "echo > more; echo ready; exec sleep 60");
    killpg(Pid::from_raw(job.pid()), Signal::SIGKILL).unwrap();
    job.finish(Duration::from_secs(30));
    nothing_left(&world);
    assert_eq!(world.diff("b").added, 2);
    world.cli(&["commit", "b"]);
    assert!(base.join("made").exists() && base.join("more").exists());
}

#[test]
fn the_daemon_killed_under_a_run_is_not_noticed() {
    let Some(world) = World::start("the_daemon_killed_under_a_run") else { return };
    let base = world.base("p");
    std::fs::write(base.join("f"), "host").unwrap();
    let script = "echo ready; for i in $(seq 200); do echo $i > n$i; cat f > /dev/null; done; ls n* | wc -l; exit 6";
    let job = running(&world, &base, script);
    world.kill_daemon();
    let out = job.finish(LIMIT).code(6);
    assert!(out.stdout.ends_with("200\n") && out.stderr.contains("200 added"), "{out}");
    nothing_left(&world);
}

#[test]
fn a_run_interrupted_at_any_moment_leaves_nothing_mounted() {
    let Some(world) = World::start("a_run_interrupted_at_any_moment") else { return };
    let base = world.base("p");
    world.cli(&["daemon", "start"]);
    let argv = agentfs(&world, &base, "true");
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        for n in 0..12_u64 {
            let job = world.spawn(world.command(&argv[0]).args(&argv[1..]));
            std::thread::sleep(Duration::from_millis(n * 7));
            killpg(Pid::from_raw(job.pid()), signal).ok();
            job.finish(LIMIT);
        }
    }
    let free = procs::wait_for(Duration::from_secs(20), || {
        world.try_cli(&["run", "--branch", "b", "--", "true"]).status.success()
    });
    assert!(free, "the branch stays in use: {}", world.try_cli(&["mounts"]));
    nothing_left(&world);
}

#[test]
fn another_user_gets_a_daemon_and_a_store_of_their_own() {
    let Some(world) = World::start("another_user_gets_a_daemon") else { return };
    let base = world.base("p");
    std::fs::write(base.join("f"), "host").unwrap();
    world.cli(&["run", "--base", base.to_str().unwrap(), "--branch", "b", "--", "true"]);
    let bins: Vec<_> = harness::bins::NEEDED.iter().map(|n| world.bins().path(n)).collect();
    let bins = world.public_copies(&bins.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>());
    // As `sudo -u` does it: another user with root's environment, its store and socket named.
    let mut command = world.command("setpriv");
    command
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(bins.join("agentfs"))
        .args(["diff", "b"]);
    let out = run(&mut command, LIMIT).clear_failure();
    assert!(out.stderr.contains("hint: each user has a daemon of their own"), "{out}");
    out.code(77);
}
