#![allow(clippy::unwrap_used, reason = "a test reports a broken promise by panicking")]

use super::census::Census;
use super::control::Control;
use super::killer::{Kill, Killer, Victim};
use super::pauses;
use super::point::Aims;
use super::random::Random;
use super::verdict::Violation;
use super::workloads::Kind;
use std::time::Duration;

fn kill(at: u64, victim: Victim) -> Kill {
    Kill { at, victim, pids: vec![7], point: None }
}

/// A control directory whose pulses ran at these times.
fn pulses(times: &[(u64, u64)]) -> (tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> =
        times.iter().flat_map(|(begun, ended)| [begun.to_le_bytes(), ended.to_le_bytes()].concat()).collect();
    std::fs::write(dir.path().join("pulses"), bytes).unwrap();
    let control = Control::new(dir.path());
    (dir, control)
}

#[test]
fn a_pause_ends_with_the_answer_to_what_began_after_the_kill_on_the_slowest_mount() {
    const MS: u64 = 1_000_000;
    // The operation that began before the kill was answered by the one that died: it does not count.
    let (_a, quick) = pulses(&[(MS, 2 * MS), (9 * MS, 11 * MS), (12 * MS, 20 * MS)]);
    let (_b, slow) = pulses(&[(8 * MS, 30 * MS), (31 * MS, 60 * MS)]);
    let found = pauses::measure(&[kill(10 * MS, Victim::Daemon)], &[quick.clone(), slow]);
    assert_eq!(found["daemon"].count, 1);
    assert!((found["daemon"].max_ms - 50.0).abs() < 1e-9, "{found:?}");
    let found = pauses::measure(&[kill(10 * MS, Victim::Daemon), kill(MS, Victim::Daemon)], &[quick]);
    assert!((found["daemon"].max_ms - 10.0).abs() < 1e-9, "{found:?}");
    assert!((found["daemon"].median_ms - 10.0).abs() < 1e-9, "{found:?}");
}

#[test]
fn a_mount_that_never_answers_again_has_no_pause() {
    let (_a, dead) = pulses(&[(1, 2)]);
    assert!(pauses::measure(&[kill(10, Victim::Both)], &[dead]).is_empty());
}

#[test]
fn the_kills_stand_among_the_events_at_their_times() {
    let events = vec!["100 > mkdir".to_owned(), "300 < ok".to_owned()];
    let kills = [kill(50, Victim::Daemon), kill(200, Victim::Frontend), kill(400, Victim::Both)];
    let told = Violation::new("here", "what").with_events(events, &kills).events;
    let starts: Vec<&str> = told.iter().map(|line| line.split(" [").next().unwrap()).collect();
    assert_eq!(starts, ["100 > mkdir", "200 KILL frontend", "300 < ok", "400 KILL both"]);
}

#[test]
fn a_seed_chooses_the_same_kills_again() {
    let choices = |seed| {
        let mut killer = Killer::new(seed, vec![Victim::Daemon, Victim::Both], Duration::from_millis(500));
        (0..50).map(|n| format!("{:?}", killer.next_kill(n == 0))).collect::<Vec<_>>()
    };
    assert_eq!(choices(3), choices(3));
    assert_ne!(choices(3), choices(4));
}

#[test]
fn every_victim_has_points_of_its_own() {
    let mut random = Random::new(1);
    let mut aims = Aims::new(&[Victim::Both], true);
    for _ in 0..100 {
        assert!(aims.choose(&mut random, Victim::Daemon).unwrap().is_daemons());
        assert!(!aims.choose(&mut random, Victim::Frontend).unwrap().is_daemons());
    }
    assert!(Aims::new(&[Victim::Daemon], true).choose(&mut random, Victim::Frontend).is_none());
}

#[test]
fn every_point_comes_to_its_turn_and_one_that_is_never_hit_is_told() {
    let mut random = Random::new(1);
    let mut aims = Aims::new(&[Victim::Daemon, Victim::Frontend], true);
    let count = aims.list().count();
    for _ in 0..count * 30 {
        let point = aims.choose(&mut random, Victim::Both).unwrap().name;
        if point != "daemon: during a commit" {
            aims.hit(point);
        }
    }
    assert!(aims.list().all(|(_, aimed, _)| aimed == 30), "{aims:?}");
    let told: Vec<String> = aims.list().filter_map(super::missed).map(|v| v.what).collect();
    assert_eq!(told, ["30 kills aimed at a point that none hit: daemon: during a commit"]);
    let commands = Aims::new(&[Victim::Daemon, Victim::Frontend], false);
    assert!(commands.list().all(|(name, ..)| !name.contains("commit")), "{commands:?}");
}

#[test]
fn every_workload_is_found_by_its_name() {
    for kind in Kind::defaults().into_iter().chain([Kind::Pulse]) {
        assert_eq!(Kind::named(kind.name()), Ok(kind));
    }
    assert!(Kind::named("none").is_err());
}

#[test]
fn one_descriptor_more_is_told() {
    let census = |n| Census([("daemon memfd".to_owned(), n)].into_iter().collect());
    assert!(census(4).changes(&census(4)).is_empty());
    assert_eq!(census(4).changes(&census(5)), ["daemon memfd: 4 before, 5 after"]);
    assert_eq!(Census::default().changes(&census(1)), ["daemon memfd: 0 before, 1 after"]);
}
