//! A bounded cache of open files. The clock hand gives every entry that was used since it last came by
//! a second chance.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::ids::ContentId;

#[derive(Debug)]
struct Entry<T> {
    id: ContentId,
    value: Arc<T>,
    used: bool,
}

/// Keeps up to a fixed number of values.
#[derive(Debug)]
pub(super) struct Cache<T> {
    entries: Vec<Entry<T>>,
    index: HashMap<ContentId, usize>,
    hand: usize,
    capacity: usize,
}

impl<T> Cache<T> {
    /// `capacity` of 0 counts as 1.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), index: HashMap::new(), hand: 0, capacity: capacity.max(1) }
    }

    pub(super) fn get(&mut self, id: ContentId) -> Option<Arc<T>> {
        let entry = self.entries.get_mut(*self.index.get(&id)?)?;
        entry.used = true;
        Some(Arc::clone(&entry.value))
    }

    /// Keeps `value` unless one with this number is there already. Gives the one that is kept, and what
    /// had to go.
    pub(super) fn insert(&mut self, id: ContentId, value: Arc<T>) -> (Arc<T>, Option<Arc<T>>) {
        match self.get(id) {
            Some(kept) => (kept, Some(value)),
            None => (Arc::clone(&value), self.add(id, value)),
        }
    }

    /// Keeps `value` in place of one with this number. Gives what had to go.
    pub(super) fn replace(&mut self, id: ContentId, value: Arc<T>) -> Option<Arc<T>> {
        match self.index.get(&id).and_then(|at| self.entries.get_mut(*at)) {
            Some(entry) => Some(std::mem::replace(&mut entry.value, value)),
            None => self.add(id, value),
        }
    }

    fn add(&mut self, id: ContentId, value: Arc<T>) -> Option<Arc<T>> {
        // Unused at first: a walk over many files displaces its own, not those in steady use.
        let entry = Entry { id, value, used: false };
        if self.entries.len() < self.capacity {
            self.index.insert(id, self.entries.len());
            self.entries.push(entry);
            return None;
        }
        // Ends: each entry passed loses its second chance.
        loop {
            self.hand = (self.hand + 1) % self.capacity;
            let at = self.entries.get_mut(self.hand)?;
            if std::mem::take(&mut at.used) {
                continue;
            }
            let old = std::mem::replace(at, entry);
            self.index.remove(&old.id);
            self.index.insert(id, self.hand);
            return Some(old.value);
        }
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, id: ContentId) -> Option<Arc<T>> {
        let at = self.index.remove(&id)?;
        let old = self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.id, at);
        }
        Some(old.value)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) -> Vec<Arc<T>> {
        self.index.clear();
        self.entries.drain(..).map(|entry| entry.value).collect()
    }
}
