//! The test suites, for `agentfs-harness list`.

/// Name and promise of each suite under `harness/tests/`.
pub const SUITES: [(&str, &str); 10] = [
    ("basic_ops", "every operation of a file system, and contents from 0 bytes to 1 GiB"),
    ("negative_ops", "every refusal has the errno that POSIX and Linux give it"),
    ("overlay", "a branch over a base: pass-through, copy-up, whiteouts, hard links, inode numbers"),
    ("branches", "isolation, snapshots, branches of branches, restart, deletion"),
    ("diff_commit", "diff lists every change; commit makes the base equal to the branch, or changes nothing"),
    ("run_command", "`agentfs run` as a user sees it, also without privilege"),
    ("crash", "programs see no error and lose nothing when the daemon or the frontend is killed"),
    ("real_input", "git, cargo, npm, SQLite and tar on a branch of a real project"),
    ("bad_input", "a clear error or right behaviour for wrong paths, stores, peers, and a full disk"),
    ("differential", "random operations behave on a branch as on tmpfs"),
];
