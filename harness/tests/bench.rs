//! The measurements run: their figures are for people, but every one of them comes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports a broken promise by panicking"
)]

use harness::World;
use std::time::Duration;

#[test]
fn branches_in_depth_are_measured() {
    let Some(world) = World::start("branches_in_depth_are_measured") else { return };
    world.limit(Duration::from_mins(10));
    let json = world.out().join("figures.json");
    let mut command = world.command(env!("CARGO_BIN_EXE_agentfs-harness"));
    command.args(["bench", "--only", "depth", "--rounds", "1", "--entries", "500", "--changes", "7", "--files", "300"]);
    command.args(["--versions", "9", "--empty", "5", "--image-gib", "1", "--json"]).arg(&json);
    harness::run::run(&mut command, Duration::from_mins(8)).success();
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let names = |part: &str| -> Vec<String> {
        let list = told[part].as_array().unwrap();
        let measured = |of: &serde_json::Value| of["ratio"].is_number() || of["median"].is_number();
        list.iter().inspect(|of| assert!(measured(of), "{of}")).map(|of| of["name"].as_str().unwrap().into()).collect()
    };
    let (growth, singles, workloads) = (names("growth"), names("measurements"), names("workloads"));
    for what in ["lookup", "lookup of no name", "create", "listing of 1,001 names"] {
        for many in ["branches", "snapshots"] {
            assert!(growth.contains(&format!("{what}, beside 9 {many}")), "{what} beside {many}: {growth:?}");
        }
    }
    for what in ["p50", "p99"] {
        assert!(growth.contains(&format!("create, write, stat: {what}, beside gc")), "{growth:?}");
    }
    for what in [
        "memory per empty branch, of 5",
        "disk per empty branch, of 5",
        "branch create beside 5 others, in the daemon",
        "branch create beside 5 others, the command",
        "snapshot create beside 5 branches, in the daemon",
        "snapshot create beside 5 branches, the command",
        "snapshot create with 100 files open and written, in the daemon",
        "diff --stat of 7 changes",
        "gc: records moved or dropped",
        "gc: bytes given back",
    ] {
        assert!(singles.iter().any(|name| name == what), "{what}: {singles:?}");
    }
    for what in ["commit 7 new files", "commit 7 new files into the parent"] {
        assert!(workloads.iter().any(|name| name == what), "{what}: {workloads:?}");
    }
}
