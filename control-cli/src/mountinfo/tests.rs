#![allow(clippy::unwrap_used, reason = "tests")]

use super::{Mount, parse};
use std::path::PathBuf;

#[test]
fn our_mounts_are_found_among_others() {
    let text = br"22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
90 28 0:50 / /mnt/a\040b\134c rw,relatime shared:9 master:1 - fuse.agentfs fix-1 rw,user_id=0
91 28 0:51 / /mnt/ro ro,nosuid - fuse.agentfs fix\0402 ro
92 28 0:52 / /mnt/x rw - fuse.sshfs fix-1 rw
broken line
";
    let mount = |branch: &str, at: &str, read_only, device: &str| Mount {
        branch: branch.into(),
        mountpoint: PathBuf::from(at),
        read_only,
        device: device.into(),
    };
    assert_eq!(parse(text), [mount("fix-1", r"/mnt/a b\c", false, "0:50"), mount("fix 2", "/mnt/ro", true, "0:51")]);
}

#[test]
fn the_list_of_this_process_is_read() {
    super::ours().unwrap();
    assert_eq!(super::locate("/".as_ref()).unwrap(), PathBuf::from("/"));
    assert_eq!(super::locate("/proc/./no-such".as_ref()).unwrap(), PathBuf::from("/proc/no-such"));
}
