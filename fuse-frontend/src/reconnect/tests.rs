use super::{BACK_OFF_MAX, BACK_OFF_MIN, pause};
use shm_transport::wire::SessionId;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn pauses_grow_to_a_bound_and_differ_between_mounts() {
    let of = |ms, session| pause(Duration::from_millis(ms), SessionId(session));
    assert_eq!(of(0, 64), BACK_OFF_MIN);
    assert_eq!(of(500, 64), Duration::from_millis(50));
    assert_eq!(of(60_000, 64), BACK_OFF_MAX);
    assert!(of(60_000, 63) < BACK_OFF_MAX * 3 / 2);
    let moments: BTreeSet<Duration> = (0..64).map(|session| of(60_000, session)).collect();
    assert_eq!(moments.len(), 64, "none with another");
}
