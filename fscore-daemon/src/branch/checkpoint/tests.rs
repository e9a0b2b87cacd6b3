use super::*;

#[test]
fn names_sort_as_times_do() {
    for (seconds, told) in [
        (0, "19700101T000000.000Z"),
        (951_782_399, "20000228T235959.000Z"),
        (951_782_400, "20000229T000000.000Z"),
        (951_868_800, "20000301T000000.000Z"),
        (1_709_164_800, "20240229T000000.000Z"),
        (1_735_689_599, "20241231T235959.000Z"),
        (4_107_542_400, "21000301T000000.000Z"),
    ] {
        assert_eq!(stamp(seconds * 1000), told);
    }
    let time = Timestamp { sec: 1_709_164_800, nsec: 7_900_000 };
    assert_eq!(free_name(time, |_| false), "auto-20240229T000000.007Z");
    let next = free_name(time, |name| name == "auto-20240229T000000.007Z");
    assert_eq!(next, "auto-20240229T000000.008Z");
}
