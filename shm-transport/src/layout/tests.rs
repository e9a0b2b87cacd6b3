#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;

#[test]
fn parts_follow_each_other_without_overlap_in_every_geometry() {
    for queues in [1, 2, 3, 7, 64] {
        for per_queue in [1, 2, 5, 16] {
            let layout = Layout::new(Geometry { queues, slots: queues * per_queue }).unwrap();
            let mut end = size_of::<RegionHeader>();
            for queue in 0..queues {
                for side in [Side::Submission, Side::Completion] {
                    assert!(layout.ring_offset(queue, side) >= end);
                    assert!(layout.ring_offset(queue, side).is_multiple_of(LINE));
                    assert!(layout.geometry.ring_capacity() >= per_queue);
                    end = layout.entries_offset(queue, side) + layout.geometry.ring_capacity() as usize * 4;
                }
            }
            for slot in 0..layout.geometry.slots {
                assert!(layout.slot_offset(slot) >= end && layout.slot_offset(slot).is_multiple_of(64));
                end = layout.reply_offset(slot) + REPLY_MAX;
            }
            for slot in 0..layout.geometry.slots {
                assert!(layout.payload_offset(slot) >= end && layout.payload_offset(slot).is_multiple_of(PAGE));
                end = layout.payload_offset(slot) + PAYLOAD_MAX;
            }
            assert_eq!(end, layout.len);
            assert!(layout.len <= Layout::len_max());
        }
    }
    assert!(Layout::new(Geometry { queues: 1, slots: SLOTS_MAX }).unwrap().len <= Layout::len_max());
    assert!(Layout::new(Geometry { queues: 64, slots: SLOTS_MAX }).unwrap().len <= Layout::len_max());
}

#[test]
fn a_geometry_outside_the_limits_has_no_layout() {
    let max = u32::MAX;
    for (queues, slots) in [(0, 64), (1, 0), (65, 65), (1, SLOTS_MAX + 1), (3, 64), (max, max), (1, max), (max, 1)] {
        assert_eq!(Layout::new(Geometry { queues, slots }), None, "{queues} {slots}");
    }
}

#[test]
fn the_default_geometry_has_the_offsets_of_the_specification() {
    let layout = Layout::new(Geometry::default()).unwrap();
    assert_eq!(layout.ring_offset(0, Side::Submission), 4096);
    assert_eq!(layout.entries_offset(0, Side::Submission), 4480);
    assert_eq!(layout.ring_offset(0, Side::Completion), 4736);
    assert_eq!(layout.slot_offset(0), 5376);
    assert_eq!(layout.request_offset(1), 5376 + 1600 + 64);
    assert_eq!(layout.payload_offset(0), 110_592);
    assert_eq!(layout.len, 110_592 + 64 * (1 << 20));
}
