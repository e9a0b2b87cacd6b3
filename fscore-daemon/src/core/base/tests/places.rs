//! Finding objects again, and what that costs the store.

use super::*;

#[test]
fn reading_a_base_writes_nothing() {
    let ground = Ground::new(|b| {
        for dir in 0..20 {
            std::fs::create_dir(b.join(format!("d{dir}"))).unwrap();
            for file in 0..50 {
                std::fs::write(b.join(format!("d{dir}/f{file}")), "x").unwrap();
            }
        }
    });
    assert_eq!(ground.walk(ground.base.root()).len(), 20 + 20 * 50);
    assert_eq!(ground.read(ground.find("d3/f7").object), b"x");
    assert_eq!(ground.store.commits.load(Ordering::Relaxed), 0);
}

#[test]
fn reading_goes_on_while_the_store_refuses_batches() {
    let ground = Ground::new(|b| {
        std::fs::create_dir(b.join("d")).unwrap();
        std::fs::write(b.join("d/f"), "bytes").unwrap();
    });
    let f = ground.find("d/f").object;
    ground.pin(f);
    ground.store.refuse.store(true, Ordering::Relaxed);
    std::fs::hard_link(ground.at("d/f"), ground.at("d/g")).unwrap();
    std::fs::rename(ground.at("d"), ground.at("e")).unwrap();
    ground.base.let_go();
    assert_eq!(ground.find("e/g").object, f, "a new name of what a branch changed");
    ground.walk(ground.base.root());
    std::fs::remove_file(ground.at("e/f")).unwrap();
    assert_eq!(ground.read(f), b"bytes");
}

#[test]
fn an_object_is_found_after_a_restart() {
    let mut ground = Ground::new(|b| {
        std::fs::create_dir_all(b.join("a/b/c")).unwrap();
        std::fs::write(b.join("a/b/c/f"), "deep").unwrap();
    });
    let (c, f) = (ground.find("a/b/c").object, ground.find("a/b/c/f").object);
    ground.restart();
    assert_eq!(ground.read(f), b"deep");
    assert_eq!(ground.base.place_of(c).unwrap().1, b"c");
    assert!(is_stale(&ground.base.stat(ObjectId(f.0 + 1_000_000))));
}

#[test]
fn what_a_branch_changed_is_found_without_a_search() {
    let mut ground = Ground::new(|b| {
        std::fs::create_dir_all(b.join("a/b")).unwrap();
        std::fs::write(b.join("a/b/f"), "").unwrap();
    });
    let (b, f) = (ground.find("a/b").object, ground.find("a/b/f").object);
    ground.pin(f);
    ground.restart();
    assert!(ground.base.reach(b).unwrap().is_some());
    assert_eq!(ground.base.locators(f), [(b, b"f".to_vec())]);
}

#[test]
fn a_moved_directory_is_found_with_everything_in_it() {
    let ground = Ground::new(|b| {
        std::fs::create_dir_all(b.join("a/sub")).unwrap();
        std::fs::create_dir_all(b.join("x/y/z")).unwrap();
        std::fs::write(b.join("a/sub/f"), "moved along").unwrap();
    });
    let (a, f) = (ground.find("a").object, ground.find("a/sub/f").object);
    std::fs::rename(ground.at("a"), ground.at("x/y/z/new")).unwrap();
    ground.base.let_go();
    assert_eq!(ground.read(f), b"moved along");
    assert_eq!(ground.base.stat(a).unwrap().object, a);
    assert_eq!(ground.base.place_of(a).unwrap().1, b"new");
    assert_eq!(ground.base.locators(a).len(), 1, "the old place is forgotten");
}

#[test]
fn every_name_of_a_hard_link_is_good() {
    let ground = Ground::new(|b| {
        std::fs::create_dir(b.join("d")).unwrap();
        std::fs::write(b.join("one"), "same").unwrap();
        std::fs::hard_link(b.join("one"), b.join("d/two")).unwrap();
        std::fs::hard_link(b.join("one"), b.join("three")).unwrap();
    });
    let object = ground.find("one").object;
    for name in ["d/two", "three"] {
        assert_eq!(ground.find(name).object, object);
    }
    assert_eq!(ground.base.locators(object).len(), 3);
    std::fs::remove_file(ground.at("one")).unwrap();
    std::fs::remove_file(ground.at("three")).unwrap();
    assert_eq!(ground.base.stat(object).unwrap().attr.nlink, 1);
    assert_eq!(ground.read(object), b"same");
}

#[test]
fn places_do_not_pile_up() {
    let ground = Ground::new(|b| std::fs::write(b.join("f0"), "").unwrap());
    let object = ground.find("f0").object;
    ground.pin(object);
    for n in 0..50 {
        std::fs::rename(ground.at(&format!("f{n}")), ground.at(&format!("f{}", n + 1))).unwrap();
        assert_eq!(ground.find(&format!("f{}", n + 1)).object, object);
    }
    assert_eq!(ground.base.locators(object), [(ground.base.root(), b"f50".to_vec())]);
    assert_eq!(ground.base.recorded(object).len(), 1);
}

#[test]
fn a_dead_name_of_a_hard_link_is_taken_out_of_the_store() {
    let ground = Ground::new(|b| {
        std::fs::write(b.join("one"), "").unwrap();
        std::fs::hard_link(b.join("one"), b.join("two")).unwrap();
    });
    let object = ground.find("one").object;
    ground.find("two");
    ground.pin(object);
    assert_eq!(ground.base.recorded(object).len(), 2);
    std::fs::remove_file(ground.at("one")).unwrap();
    ground.base.stat(object).unwrap();
    assert_eq!(ground.base.locators(object), [(ground.base.root(), b"two".to_vec())]);
    std::fs::remove_file(ground.at("two")).unwrap();
    assert!(is_stale(&ground.base.stat(object)));
    assert_eq!(ground.base.recorded(object).len(), 1, "where it was expected");
}

#[test]
fn a_search_that_finds_nothing_is_not_repeated_at_once() {
    let ground = Ground::new(|b| {
        for n in 0..200 {
            std::fs::create_dir(b.join(format!("d{n}"))).unwrap();
        }
    });
    let began = std::time::Instant::now();
    assert!(is_stale(&ground.base.stat(ObjectId(1 << 40))));
    let walk = began.elapsed();
    let began = std::time::Instant::now();
    assert!(is_stale(&ground.base.stat(ObjectId(1 << 41))));
    assert!(began.elapsed() < walk / 2, "{:?} after {walk:?}", began.elapsed());
}

#[test]
fn the_table_of_places_is_bounded() {
    let mut places = Places::bounded(100);
    for n in 0..10_000_u64 {
        places.seen(ObjectId(n + 10), Timestamp::default(), ObjectId(2), n.to_string().as_bytes());
        places.first(ObjectId(10));
    }
    assert!(places.len() <= 201, "{}", places.len());
    assert!(places.first(ObjectId(10)).is_some(), "what is asked for stays");
    assert!(places.first(ObjectId(11)).is_none());
}
