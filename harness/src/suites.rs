//! The test suites, for `agentfs-harness list`.

/// Name and promise of each suite under `harness/tests/`.
pub const SUITES: &[(&str, &str)] = &[
    ("basic_ops", "every operation of a file system, and contents from 0 bytes to 1 GiB"),
    ("negative_ops", "every refusal has the errno that POSIX and Linux give it"),
    ("overlay", "a branch over a base: pass-through, copy-up, whiteouts, hard links, inode numbers"),
    ("branches", "isolation, snapshots, branches of branches, restart, deletion"),
    ("cuts", "a snapshot is one point in time across files, for writes, and with --freeze for mappings"),
    ("collecting", "gc and folding beside programs that work, and by itself; space comes back"),
    ("checkpoints", "automatic snapshots of `run`: when, how many stay, and that they disturb nobody"),
    ("quota", "limits of a branch: EDQUOT for who grows, exact after kills, true to df; a full store takes deletions"),
    ("diff_commit", "diff lists every change; commit makes the base equal to the branch, or changes nothing"),
    ("run_command", "`agentfs run` as a user sees it, also without privilege"),
    (
        "commit_failures",
        "commit on full, read-only and foreign bases, over mounts, interrupted, large: whole, or not at all",
    ),
    ("terminal", "`agentfs run` on a real terminal, and under signals"),
    ("mount_helper", "mount(8), umount(8) and fstab lines, at once and by users"),
    ("user_mounts", "`agentfs mount` by a user without privilege, through fusermount3"),
    ("crash", "programs see no error and lose nothing when the daemon or the frontend is killed"),
    ("chaos", "real programs under random kills of daemon, frontends and both; needs most of its time for itself"),
    ("control_door", "the control file of a mount: who may, what is refused, and that commands are carried out once"),
    (
        "bindings",
        "processes that see different branches through one mount, under kills, and never a byte of another one",
    ),
    ("real_input", "git, cargo, npm, SQLite and tar on a branch of a real project"),
    ("bad_input", "a clear error or right behaviour for wrong paths, stores, peers, and a full disk"),
    ("mount_life", "a hundred mounts leave nothing; eight at once; refusals that help; programs at their limits"),
    ("posix_acl", "POSIX ACLs, umasks, trusted attributes and birth times as on ext4, of a base and of a branch"),
    ("differential", "random operations behave on a branch as on tmpfs"),
];
