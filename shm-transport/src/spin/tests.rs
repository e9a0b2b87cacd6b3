use super::*;

fn spin() -> Spin {
    // More seats than other tests of this process take at once.
    Spin::new(Duration::from_micros(200), 64)
}

fn never() -> bool {
    false
}

/// Without the clock of a busy machine in the way: a preemption ends credit and rest anew.
fn lose(spin: &mut Spin, times: usize) {
    let mut lost = 0;
    while lost < times {
        spin.rests_until = None;
        let before = spin.credit;
        spin.wait(never, || true);
        lost += usize::from(spin.credit < before);
    }
}

#[test]
fn what_is_there_already_is_found() {
    assert_eq!(spin().wait(|| true, || true), Spun::Won);
}

#[test]
fn a_wait_in_vain_ends_with_its_window() {
    let mut spin = spin();
    let start = Instant::now();
    assert_eq!(spin.wait(never, || true), Spun::Lost);
    assert!(start.elapsed() >= PREEMPTED.min(spin.window));
}

#[test]
fn nobody_spins_for_a_peer_on_the_same_cpu() {
    let mut looked = false;
    let look = || {
        looked = true;
        false
    };
    assert_eq!(spin().wait(look, || false), Spun::Slept);
    assert!(!looked);
}

#[test]
fn a_single_cpu_and_a_window_of_zero_switch_it_off() {
    assert_eq!(Spin::new(WINDOW, 1).wait(|| true, || true), Spun::Slept);
    assert_eq!(Spin::new(Duration::ZERO, 64).wait(|| true, || true), Spun::Slept);
}

#[test]
fn who_keeps_losing_tries_seldom_and_who_wins_again_tries_always() {
    let mut spin = spin();
    lose(&mut spin, usize::from(CREDIT_MAX / 2));
    let tried = (0..PROBE).filter(|_| {
        spin.rests_until = None;
        spin.wait(never, || true) != Spun::Slept
    });
    assert_eq!(tried.count(), 1);
    let mut waits = 0;
    while spin.wait(|| true, || true) != Spun::Won {
        waits += 1;
        assert!(waits < PROBE);
    }
    assert_eq!(spin.wait(|| true, || true), Spun::Won);
}

#[test]
fn a_preemption_is_followed_by_rests_that_grow_to_a_bound_beside_programs_that_compute() {
    let mut spin = spin();
    let mut slow = || {
        std::thread::sleep(PREEMPTED * 2);
        false
    };
    assert_eq!(spin.wait(&mut slow, || true), Spun::Lost);
    assert_eq!(spin.wait(|| true, || true), Spun::Slept);
    let now = Instant::now();
    spin.preempted(now, PREEMPTED);
    assert_eq!(spin.rests_until, Some(now + BREATH));
    spin.crowded_at = None;
    for rest in [REST_MIN, REST_MIN * 2, REST_MIN * 4] {
        spin.preempted(now, CROWDED);
        assert_eq!(spin.rests_until, Some(now + rest));
    }
    for _ in 0..10 {
        spin.preempted(now, CROWDED);
    }
    assert_eq!(spin.rest, REST_MAX);
    // After a calm time it begins small again.
    spin.preempted(now + CALM, CROWDED);
    assert_eq!(spin.rest, REST_MIN);
}

#[test]
fn seats_are_bounded_and_given_back() {
    let mut one = Spin::new(WINDOW, 2);
    one.limit = SPINNING.load(Ordering::Relaxed);
    assert_eq!(one.wait(|| true, || true), Spun::Slept);
    one.limit = usize::MAX;
    assert_eq!(one.wait(|| true, || true), Spun::Won);
}
