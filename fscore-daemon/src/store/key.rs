//! A key of the map. Most are short and live in the map's own nodes: looking one up follows no pointer for each
//! comparison, and recovery, which programs wait for, allocates nothing for it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// With the length and the variant's tag this makes 32 bytes.
const SHORT_MAX: usize = 30;

/// A key.
#[derive(Clone)]
pub(super) struct Key(Kept);

#[derive(Clone)]
enum Kept {
    Short(u8, [u8; SHORT_MAX]),
    Long(Box<[u8]>),
}

impl Key {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT_MAX];
        Self(match short.get_mut(..bytes.len()) {
            Some(to) => {
                to.copy_from_slice(bytes);
                Kept::Short(bytes.len() as u8, short)
            }
            None => Kept::Long(bytes.into()),
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kept::Short(len, short) => short.get(..usize::from(*len)).unwrap_or_default(),
            Kept::Long(bytes) => bytes,
        }
    }
}

// As a map asks: a key orders as its bytes do.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.bytes(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_order_as_their_bytes() {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for len in 0..2 * SHORT_MAX {
            keys.extend([vec![0; len], vec![0xff; len], [vec![7; len], vec![0]].concat()]);
        }
        for one in &keys {
            assert_eq!(Key::new(one).bytes(), one);
            for other in &keys {
                assert_eq!(Key::new(one).cmp(&Key::new(other)), one.cmp(other), "{one:?} {other:?}");
                assert_eq!(Key::new(one) == Key::new(other), one == other);
            }
        }
        assert_eq!(size_of::<Key>(), 32);
    }
}
