#![allow(clippy::unwrap_used, reason = "tests")]
use super::HEAD;
use super::opcode::Opcode;

#[test]
fn the_private_head_is_80_bytes() {
    assert_eq!(HEAD, 80);
}

#[test]
fn every_opcode_of_protocol_7_45_has_a_name() {
    let gaps = [7, 19];
    let known: Vec<u32> = (1..=53).filter(|n| !gaps.contains(n)).collect();
    assert_eq!(Opcode::KNOWN.iter().map(|o| o.0).collect::<Vec<_>>(), known);
    assert_eq!(format!("{:?}", Opcode(1)), "LOOKUP");
    assert_eq!(format!("{:?}", Opcode(54)), "opcode 54");
}
