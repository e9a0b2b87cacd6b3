//! A directory that its owner may not read, and that is to be removed: it is made accessible to be looked into. Whoever
//! dies just then must not leave it so.

use super::*;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Without the capabilities by which root reads everything, which come back when it is dropped. They are the thread's.
struct Plain(CapabilitySets);

impl Plain {
    /// `None` for users, to whom a test that makes such a directory cannot look into it.
    fn begin(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: {test}: it needs root");
            return None;
        }
        let all = capabilities(None).unwrap();
        let reading = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, CapabilitySets { effective: all.effective - reading, ..all }).unwrap();
        Some(Self(all))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        set_capabilities(None, self.0).unwrap();
    }
}

fn shut_scene() -> Scene {
    Scene::new(
        |base| {
            for dir in ["shut", "other"] {
                std::fs::create_dir(base.join(dir)).unwrap();
                std::fs::write(base.join(dir).join("in"), dir).unwrap();
            }
            std::fs::set_permissions(base.join("shut"), std::fs::Permissions::from_mode(0o300)).unwrap();
        },
        &|_| vec![json!({"step": "remove", "path": "shut"}), json!({"step": "remove", "path": "other"})],
    )
}

#[test]
fn a_directory_that_was_made_accessible_gets_its_mode_back_after_a_crash() {
    let name = "a_directory_that_was_made_accessible_gets_its_mode_back_after_a_crash";
    let points = {
        let scene = shut_scene();
        let Some(_plain) = Plain::begin(name) else { return };
        arm(Faults::default());
        assert!(is_applied(&scene.go(false)));
        passed()
    };
    let mut crashed_in_between = 0;
    for crash_at in 1..=points {
        for fail_at in 1..=points {
            let scene = shut_scene();
            let before = look(scene.base());
            {
                let _plain = Plain::begin(name);
                assert!(scene.go_with(false, Faults { crash_at: Some(crash_at), fail_at: None }).is_none());
                let opened = |e: &std::fs::DirEntry| e.path().join("opened").exists();
                let is_open = std::fs::read_dir(scene.base()).unwrap().any(|e| opened(&e.unwrap()));
                crashed_in_between += u64::from(is_open);
                let mut outcome = scene.go_with(true, Faults { crash_at: None, fail_at: Some(fail_at) }).unwrap();
                for _ in 0..3 {
                    if matches!(outcome, Outcome::Pending(_)) {
                        outcome = scene.go(true);
                    }
                }
                assert!(!matches!(outcome, Outcome::Pending(_)), "{crash_at}, {fail_at}: {outcome:?}");
                assert!(!staging_left(scene.base()));
                if is_applied(&outcome) {
                    assert!(!scene.base().join("shut").exists());
                    continue;
                }
            }
            assert_eq!(look(scene.base()), before, "crash at {crash_at}, failure at {fail_at}");
        }
    }
    assert!(crashed_in_between >= 3 * points, "{crashed_in_between} of {points} points: the moment was not met");
}
