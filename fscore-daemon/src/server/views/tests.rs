#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::process::{Child, Command, Stdio};

/// A process with one below it, which says its number.
fn two() -> (Child, u32) {
    let mut outer = Command::new("sh");
    outer.args(["-c", "sleep 60 & echo $!; wait"]).stdout(Stdio::piped());
    let mut outer = outer.spawn().unwrap();
    let mut line = String::new();
    let out = outer.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    (outer, line.trim().parse().unwrap())
}

fn there(pid: u32) -> Option<Process> {
    Process::of(pid).unwrap()
}

fn end(mut outer: Child, inner: u32) {
    let inner = nix::unistd::Pid::from_raw(inner.cast_signed());
    nix::sys::signal::kill(inner, nix::sys::signal::Signal::SIGKILL).unwrap();
    outer.wait().unwrap();
}

fn state(bindings: Vec<Binding>) -> State {
    let now = Instant::now();
    let division = Division { views: Vec::new(), bindings };
    let deserted = BTreeSet::new();
    State { others: BTreeMap::new(), division, began: now, pruned: now, pruned_groups: now, deserted }
}

fn bound(slot: u16, process: Process) -> Binding {
    Binding { slot: ViewSlot(slot), pid: process.pid, start: process.start, cgroup: None, inherited: false }
}

#[test]
fn the_nearest_process_above_decides() {
    let (outer, inner) = two();
    let (upper, lower) = (there(outer.id()).unwrap(), there(inner).unwrap());
    let own = Process::of_thread(nix::unistd::gettid().as_raw().cast_unsigned()).unwrap().unwrap();
    assert_eq!(own.pid, std::process::id());
    assert!(lower.line().any(|process| process == upper) && lower.line().any(|process| process == own));
    let of =
        |bindings: Vec<Binding>, process| state(bindings).find(process).map(|(b, inherited)| (b.slot.0, inherited));
    assert_eq!(of(vec![bound(3, upper)], lower), Some((3, true)));
    assert_eq!(of(vec![bound(3, upper)], upper), Some((3, false)));
    assert_eq!(of(vec![bound(3, upper)], own), None);
    assert_eq!(of(vec![bound(3, upper), bound(0, lower)], lower), Some((0, false)));
    assert_eq!(of(vec![bound(3, lower), bound(4, own)], lower), Some((3, false)));
    // Another process that had the number before.
    let earlier = Binding { start: upper.start - 1, ..bound(3, upper) };
    assert_eq!(of(vec![earlier], lower), None);
    end(outer, inner);
    assert_eq!(there(inner), None);
}

#[test]
fn groups_reach_down_and_not_sideways() {
    assert!(is_within(b"/a/agentfs-1", b"/a/agentfs-1") && is_within(b"/a/agentfs-1/x", b"/a/agentfs-1"));
    assert!(!is_within(b"/a/agentfs-12", b"/a/agentfs-1") && !is_within(b"/a", b"/a/agentfs-1"));
    let own = there(std::process::id()).unwrap();
    if let Some(group) = own.cgroup() {
        assert!(process::all_cgroups().unwrap().contains(&group));
        let by_group = Binding { cgroup: Some(group), pid: 1, start: 0, ..bound(5, own) };
        let found = |bindings| state(bindings).find(own).map(|(b, inherited)| (b.slot.0, inherited));
        assert_eq!(found(vec![by_group.clone()]), Some((5, false)));
        // What was bound inside of the group is the inner one.
        assert_eq!(found(vec![by_group, bound(6, own)]), Some((6, false)));
    }
}

#[test]
fn a_division_comes_back_from_its_bytes() {
    let binding = |cgroup| Binding { slot: ViewSlot(2), pid: 7, start: 99, cgroup, inherited: true };
    let division = Division {
        views: vec![(ViewSlot(2), crate::core::ids::BranchId(5))],
        bindings: vec![binding(None), binding(Some(b"/agentfs-1".to_vec()))],
    };
    let bytes = division.encode();
    assert_eq!(Division::decode(&bytes).unwrap(), division);
    for len in 0..bytes.len() {
        assert!(Division::decode(&bytes[..len]).is_err());
    }
}

#[test]
fn a_process_lives_as_long_as_any_of_its_threads() {
    let line = |state: &str, threads: u32| {
        format!(
            "7 (a) b) {state} 3 7 7 0 -1 4228108 100 0 0 0 0 0 0 0 20 0 {threads} 0 4711 0 0 18446744073709551615\n"
        )
    };
    let parsed = Process::parse(7, line("S", 1).as_bytes()).unwrap();
    assert_eq!((parsed.pid, parsed.start), (7, 4711));
    assert_eq!(Process::parse(7, line("Z", 3).as_bytes()), Some(parsed));
    for dead in [line("Z", 1), line("Z", 0), line("X", 1), "7 (a".into(), String::new()] {
        assert_eq!(Process::parse(7, dead.as_bytes()), None, "{dead}");
    }
}

#[test]
fn who_is_numbered_or_owned_in_two_ways_is_not_taken_for_one() {
    assert!(process::is_of_our_namespace(std::process::id()) && !process::is_of_our_namespace(0));
    assert!(process::is_numbered_once("Pid:\t7\nNSpid:\t7\nNSpgid:\t7\t1\n"));
    assert!(!process::is_numbered_once("Pid:\t7\nNSpid:\t7\t1\n"));
    assert_eq!(process::only("1000\t1000\t1000\t1000"), Some(1000));
    assert_eq!(process::only("1000\t0\t0\t0"), None);
}

#[test]
fn a_group_stays_bound_when_its_first_process_is_bound_anew() {
    let own = there(std::process::id()).unwrap();
    let Some(group) = own.cgroup() else {
        eprintln!("skipped: a_group_stays_bound_when_its_first_process_is_bound_anew: no unified control groups");
        return;
    };
    let mut bindings = vec![Binding { cgroup: Some(group.clone()), ..bound(3, own) }];
    bind::forget(&mut bindings, own);
    let kept = state(bindings.clone());
    assert_eq!(kept.find(own).map(|(b, inherited)| (b.slot.0, inherited)), Some((3, false)), "others are in it");
    // A group below it, made for the same process: who is not in it stays with the outer one.
    let (outer, inner) = two();
    let lower = there(inner).unwrap();
    let below = [group.as_slice(), b"/agentfs-1"].concat();
    bindings.push(Binding { cgroup: Some(below), ..bound(4, own) });
    let rebound = state(bindings);
    assert_eq!(rebound.find(own).map(|(b, _)| b.slot.0), Some(4));
    assert_eq!(rebound.find(lower).map(|(b, _)| b.slot.0), Some(3));
    end(outer, inner);
}
