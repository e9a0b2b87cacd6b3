//! A program that works on a mount all the time.
#![allow(unreachable_pub, dead_code, reason = "shared by several tests")]

use harness::probe::Model;
use harness::run::Running;
use harness::{World, procs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program that changes a directory without pause and checks itself.
pub struct Churner {
    running: Running,
    dir: PathBuf,
    control: PathBuf,
}

impl Churner {
    pub fn start(world: &World, dir: &Path, seed: u64) -> Self {
        let control = world.out().join(format!("churn{seed}"));
        std::fs::create_dir(&control).unwrap();
        std::fs::create_dir(dir).unwrap();
        let mut command = world.command(env!("CARGO_BIN_EXE_agentfs-harness"));
        command.args(["probe", "churn"]).arg(dir).arg(&control).args(["--seed", &seed.to_string()]);
        Self { running: world.spawn(&mut command), dir: dir.to_path_buf(), control }
    }

    pub fn progress(&self) -> u64 {
        let bytes = std::fs::read(self.control.join("progress")).unwrap_or_default();
        bytes.try_into().map_or(0, u64::from_le_bytes)
    }

    /// Waits until it did at least so many operations more.
    #[track_caller]
    pub fn await_more(&mut self, more: u64, when: &str) {
        let from = self.progress();
        let mut ended = false;
        let moved = procs::wait_for(Duration::from_secs(40), || {
            ended = self.running.poll().is_some();
            ended || self.progress() >= from + more
        });
        assert!(!ended, "{when}: the program ended: see its output below\n{}", self.running.stdout());
        assert!(moved, "{when}: no progress beyond operation {} within 40 s", self.progress());
    }

    /// Ends it; what it says its directory must look like.
    #[track_caller]
    pub fn finish(self) -> (PathBuf, Model) {
        std::fs::write(self.control.join("stop"), "").unwrap();
        self.running.finish(Duration::from_secs(60)).success();
        let model = std::fs::read(self.control.join("model")).unwrap();
        (self.dir, serde_json::from_slice(&model).unwrap())
    }
}
