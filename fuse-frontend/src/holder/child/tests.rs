//! When the next one is started: programs on the mounts wait for it.
use super::{BACK_OFF_MAX, BACK_OFF_MIN, EARLY_DEATHS_FREE, Keeper, SETTLED};
use std::time::{Duration, Instant};

/// Starts one that lives for so long; gives how long the next one lets wait.
fn dies_after(keeper: &mut Keeper, now: &mut Instant, life: Duration) -> Duration {
    keeper.started = *now;
    *now += life;
    keeper.again(*now);
    let waits = keeper.due_in(*now).unwrap_or(Duration::MAX);
    *now += waits;
    waits
}

#[test]
fn one_that_served_is_followed_at_once_however_often_it_is_killed() {
    let mut now = Instant::now();
    let mut keeper = Keeper::new(now);
    for kill in 0..20 {
        assert_eq!(dies_after(&mut keeper, &mut now, SETTLED), Duration::ZERO, "kill {kill}");
    }
    assert_eq!(keeper.early_deaths, 0);
    // A burst of kills, each soon after the start, costs nothing either.
    for kill in 0..EARLY_DEATHS_FREE {
        assert_eq!(dies_after(&mut keeper, &mut now, Duration::from_millis(50)), Duration::ZERO, "kill {kill}");
    }
    // And where starts keep apart, the time of service counts.
    keeper.early_deaths = 100;
    assert_eq!(dies_after(&mut keeper, &mut now, BACK_OFF_MAX * 9 / 10), BACK_OFF_MAX / 10);
}

#[test]
fn one_that_cannot_live_is_started_once_a_second_in_the_end() {
    let mut now = Instant::now();
    let began = now;
    let mut keeper = Keeper::new(now);
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(dies_after(&mut keeper, &mut now, Duration::ZERO));
    }
    assert_eq!(waits.first(), Some(&BACK_OFF_MIN), "never without a pause");
    assert_eq!(waits.last(), Some(&BACK_OFF_MAX));
    assert!(waits.is_sorted());
    assert!(now.duration_since(began) > Duration::from_secs(8), "{waits:?}");
    // One that settles makes it forget.
    assert_eq!(dies_after(&mut keeper, &mut now, SETTLED), Duration::ZERO);
    assert_eq!(dies_after(&mut keeper, &mut now, Duration::ZERO), BACK_OFF_MIN);
}
