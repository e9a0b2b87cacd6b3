use super::*;

#[test]
fn times_are_written_as_people_do() {
    let every = |seconds| Ok(When::Every(Duration::from_secs(seconds)));
    assert_eq!(when("each-command"), Ok(When::EachCommand));
    assert_eq!(when("5-minutes"), every(300));
    assert_eq!(when("1-minute"), every(60));
    assert_eq!(when("10m"), every(600));
    assert_eq!(when("30s"), every(30));
    assert_eq!(when("2h"), every(7200));
    for text in ["", "m", "0m", "5", "-5m", "5 m", "5d", "1.5m", "each", "99999999999999999999m", "9999999999s"] {
        assert!(when(text).is_err(), "{text:?} is taken");
    }
}
