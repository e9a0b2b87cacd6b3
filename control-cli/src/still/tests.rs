use super::shared_mapping;

#[test]
fn shared_mappings_of_a_device_are_told_from_private_ones() {
    let line = |text: &str| shared_mapping(text.as_bytes());
    assert_eq!(line("7f0000000000-7f0000001000 rw-s 00000000 00:36 12 /mnt/a/f1"), Some((0, 0x36)));
    assert_eq!(line("7f0000000000-7f0000001000 r--s 00000000 103:02 12   /mnt/a b"), Some((0x103, 2)));
    assert_eq!(line("7f0000000000-7f0000001000 rw-p 00000000 00:36 12 /mnt/a/f1"), None);
    assert_eq!(line("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0"), None);
    assert_eq!(line(""), None);
    let bytes = b"7f0000000000-7f0000001000 rw-s 00000000 00:36 12 /mnt/\xff\xfe";
    assert_eq!(shared_mapping(bytes), Some((0, 0x36)));
    let long = format!("7f0000000000-7f0000001000 rw-s 00000000 00:36 12 /{}", "ü".repeat(200));
    assert_eq!(line(&long), Some((0, 0x36)));
}
