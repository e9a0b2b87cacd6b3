//! Garbage collection, to its end and step by step. Nothing is different afterwards, nor in between.

use super::world::{World, same};
use shm_transport::control::{Collected, Command};
use std::collections::BTreeSet;

impl World {
    /// Everything that can be given back is.
    pub(super) fn collect(&mut self) {
        let command = Command::Gc { branches: Vec::new(), dry_run: false };
        let Some(first) = self.commanded::<Collected>(&command) else { return };
        self.see_states("after a collection");
        if first.left || self.may_fail {
            return;
        }
        let again: Collected = self.real.ask(&command).unwrap();
        let nothing = (again.removed, again.folded, again.contents, again.left) == (0, 0, 0, false);
        assert!(nothing, "first {first:?}, and again {again:?}");
        let records = self.real.branches.records().unwrap();
        let forks: BTreeSet<_> = records.iter().filter_map(|(_, record)| record.from).map(|(_, epoch)| epoch).collect();
        let snapshots: usize = self.model.lines.values().map(|line| line.snapshots.len()).sum();
        let most = 2 * (self.model.lines.len() + snapshots + forks.len());
        let epochs = self.real.branches.gc_info().epochs;
        assert!(epochs as usize <= most, "{epochs} epochs where {most} are the most");
    }

    /// Some steps of a collection, and then nobody goes on.
    pub(super) fn collect_some(&mut self, steps: u8) {
        let mut left = steps;
        let ids: BTreeSet<_> = self.real.branches.records().unwrap().into_iter().map(|(id, _)| id).collect();
        let world = &*self;
        let result = world.real.branches.collect(&ids, |step, _| {
            world.see_states(&format!("a step of a collection: {step:?}"));
            left = left.saturating_sub(1);
            left > 0
        });
        if let Err(e) = result {
            assert!(self.may_fail, "{e:?}");
            self.dead = true;
        }
    }

    fn see_states(&self, context: &str) {
        if self.may_fail {
            return;
        }
        for (name, tree) in Self::states(&self.model) {
            same(&self.real.read(&self.real.view(&name), &self.numbers), tree, &format!("{context}: {name}"));
        }
        self.real.sound(false, context);
    }
}
