//! The order of a listing, and what it costs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

fn listing(cookies: &[(u64, &str)]) -> Listing {
    let mut it = Listing::default();
    for (cookie, name) in cookies {
        it.push(*cookie, name.as_bytes(), ObjectId(7), FileKind::Regular).unwrap();
    }
    it.order();
    it
}

fn order(listing: &Listing) -> Vec<(u64, &str)> {
    listing.entries.iter().map(|e| (e.cookie, std::str::from_utf8(listing.name(e)).unwrap())).collect()
}

#[test]
fn names_with_one_cookie_are_all_listed() {
    let it = listing(&[(9, "b"), (5, "x"), (9, "a"), (10, "c"), (9, "d"), (1, "small")]);
    assert_eq!(order(&it), [(3, "small"), (5, "x"), (9, "a"), (10, "b"), (11, "d"), (12, "c")]);
    // Read one at a time, each going on behind the cookie of the one before.
    let (mut cookie, mut seen) = (0, 0);
    while let Some(next) = it.entries.get(it.entries.partition_point(|e| e.cookie <= cookie)) {
        (cookie, seen) = (next.cookie, seen + 1);
    }
    assert_eq!(seen, 6);
}

#[test]
fn a_million_names_take_little_more_than_their_bytes() {
    let mut it = Listing::default();
    for n in 0..1_000_000_u64 {
        it.push(n.wrapping_mul(0x9e37_79b9), format!("file-{n:07}").as_bytes(), ObjectId(n), FileKind::Regular)
            .unwrap();
    }
    it.order();
    assert_eq!(it.size(), 1_000_000 * (12 + 24));
}

#[test]
fn kept_listings_are_bounded_by_their_bytes() {
    let listings = Listings::new((1, 2));
    let big = Arc::new(Listing { names: vec![0; KEPT_MAX / 3], entries: Vec::new() });
    for fh in 0..10 {
        listings.keep((fh, ObjectId(2)), &big);
    }
    assert_eq!(lock(&listings.kept).len(), 2);
    let over = Arc::new(Listing { names: vec![0; KEPT_MAX + 1], entries: Vec::new() });
    listings.keep((11, ObjectId(2)), &over);
    assert_eq!(lock(&listings.kept).len(), 1, "one is kept whatever its size, or reading it would never end");
    listings.close(11, ObjectId(2));
    assert!(lock(&listings.kept).is_empty());
}
