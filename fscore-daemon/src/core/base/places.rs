//! Where objects of a base were seen, in memory. What is not here any more can be searched for, so the
//! table is bounded and forgets what was not asked for in a long time.

use crate::core::ids::ObjectId;
use shm_transport::wire::Timestamp;
use std::collections::HashMap;

/// Most objects in each of the two generations; about 110 bytes each.
const GENERATION_MAX: usize = 1 << 19;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) parent: ObjectId,
    pub(super) name: Box<[u8]>,
}

/// What is known of one object. An object of a base mostly has one name; hard links have more.
#[derive(Debug, Clone)]
struct Known {
    /// Birth time of the object that has the number; 0 when it is not known.
    born: Timestamp,
    place: Option<Place>,
    more: Option<Box<More>>,
}

#[derive(Debug, Clone, Default)]
struct More {
    places: Vec<Place>,
    /// Recorded places that were found dead.
    dead: Vec<Place>,
}

/// The table: objects asked for lately, and those before them.
#[derive(Debug)]
pub(super) struct Places {
    young: HashMap<ObjectId, Known>,
    old: HashMap<ObjectId, Known>,
    generation_max: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self::bounded(GENERATION_MAX)
    }
}

impl Places {
    /// With at most twice so many objects.
    pub(super) fn bounded(generation_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max }
    }

    fn known(&mut self, object: ObjectId) -> Option<&mut Known> {
        if let Some(known) = self.old.remove(&object) {
            self.put(object, known);
        }
        self.young.get_mut(&object)
    }

    fn put(&mut self, object: ObjectId, known: Known) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(object, known);
    }

    /// An object was seen at a place. `born` is 0 when nobody looked at the object itself.
    pub(super) fn seen(&mut self, object: ObjectId, born: Timestamp, parent: ObjectId, name: &[u8]) {
        let Some(known) = self.known(object) else {
            let place = Some(Place { parent, name: name.into() });
            return self.put(object, Known { born, place, more: None });
        };
        if !super::look::may_be_same(known.born, born) {
            // Another object has the number now.
            (known.place, known.more) = (None, None);
        }
        if born != Timestamp::default() {
            known.born = born;
        }
        let here = |p: &Place| p.parent == parent && *p.name == *name;
        if let Some(more) = &mut known.more {
            more.dead.retain(|p| !here(p));
        }
        if known.place.as_ref().is_some_and(here) || known.more.as_ref().is_some_and(|m| m.places.iter().any(here)) {
            return;
        }
        let place = Place { parent, name: name.into() };
        match &known.place {
            None => known.place = Some(place),
            Some(_) => known.more.get_or_insert_default().places.push(place),
        }
    }

    /// An object that has one name was seen at it: it is nowhere else.
    pub(super) fn moved(&mut self, object: ObjectId, born: Timestamp, parent: ObjectId, name: &[u8]) {
        if let Some(known) = self.known(object) {
            known.place = None;
            if let Some(more) = &mut known.more {
                more.places.clear();
            }
        }
        self.seen(object, born, parent, name);
    }

    /// The object is not at this place. `recorded` says that the store has the place all the same.
    pub(super) fn dead(&mut self, object: ObjectId, place: &Place, recorded: bool) {
        if recorded && self.known(object).is_none() {
            self.put(object, Known { born: Timestamp::default(), place: None, more: None });
        }
        let Some(known) = self.known(object) else { return };
        if let Some(more) = &mut known.more {
            more.places.retain(|p| p != place);
        }
        if known.place.as_ref() == Some(place) {
            known.place = known.more.as_mut().and_then(|more| more.places.pop());
        }
        if recorded {
            known.more.get_or_insert_default().dead.push(place.clone());
        }
    }

    /// The places of an object, and which recorded ones are dead.
    pub(super) fn of(&mut self, object: ObjectId) -> (Vec<Place>, Vec<Place>) {
        let Some(known) = self.known(object) else { return (Vec::new(), Vec::new()) };
        let mut places: Vec<_> = known.place.iter().cloned().collect();
        let more = known.more.as_deref().cloned().unwrap_or_default();
        places.extend(more.places);
        (places, more.dead)
    }

    /// A place that was not found dead, without looking at the others.
    pub(super) fn first(&mut self, object: ObjectId) -> Option<Place> {
        self.known(object).and_then(|known| known.place.clone())
    }

    /// Birth time of the object that was last seen under a number; 0 when that is not known.
    pub(super) fn born(&mut self, object: ObjectId) -> Timestamp {
        self.known(object).map(|known| known.born).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
