//! git: clone, checkout, change, commit, gc, fsck, of a repository that lies in the base.

use super::{Place, Workload, program};
use crate::chaos::journal::Journal;
use crate::chaos::random::Random;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Below a mount's root: see [`make_origin`].
const ORIGIN: &str = "origin";
const COMMITS: u64 = 12;
const FILES: u64 = 150;

/// Makes the repository that the workload clones: `COMMITS` commits of `FILES` files.
pub(in crate::chaos) fn make_origin(base: &Path, run: &mut dyn FnMut(&Path, &[&str])) {
    let dir = base.join(ORIGIN);
    std::fs::create_dir(&dir).expect("a directory for the repository");
    run(&dir, &["init", "-q", "-b", "main"]);
    for commit in 0..COMMITS {
        for file in (0..FILES).filter(|f| commit == 0 || f % COMMITS == commit) {
            let sub = dir.join(format!("d{}", file % 10));
            std::fs::create_dir_all(&sub).expect("a directory of the repository");
            let data = sys::pattern(commit * 1000 + file, 200 + (file as usize * 37) % 4000);
            std::fs::write(sub.join(format!("f{file}")), data).expect("a file of the repository");
        }
        run(&dir, &["add", "-A"]);
        run(&dir, &["commit", "-q", "-m", &format!("commit {commit}")]);
    }
}

/// What the last clone looks like.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    clone: String,
    head: String,
}

pub(super) struct Git {
    place: Place,
    random: Random,
    origin: PathBuf,
    clone: Option<String>,
    serial: u64,
}

fn git(journal: &mut Journal, dir: &Path, args: &[&str]) -> Result<String, String> {
    Ok(journal.run(program("git", dir).args(args))?.trim().to_owned())
}

impl Git {
    pub(super) fn begin(place: &Place) -> Self {
        let origin = place.dir.parent().unwrap_or(&place.dir).join(ORIGIN);
        Self { place: place.clone(), random: Random::new(place.seed), origin, clone: None, serial: 0 }
    }

    fn clone_afresh(&mut self, j: &mut Journal) -> Result<String, String> {
        if let Some(old) = self.clone.take() {
            let path = self.place.dir.join(&old);
            j.run(program("rm", &self.place.dir).arg("-r").arg(&path))?;
        }
        self.serial += 1;
        let name = format!("clone{}", self.serial);
        let origin = self.origin.to_string_lossy().into_owned();
        let args: &[&str] = if self.serial.is_multiple_of(2) {
            &["clone", "-q", "--no-local", &origin, &name]
        } else {
            &["clone", "-q", &origin, &name]
        };
        git(j, &self.place.dir, args)?;
        self.clone = Some(name.clone());
        Ok(name)
    }

    fn checkout(&mut self, j: &mut Journal, dir: &Path) -> Result<(), String> {
        let back = self.random.below(COMMITS as usize);
        git(j, dir, &["checkout", "-q", &format!("origin/main~{back}")])?;
        clean(j, dir)?;
        git(j, dir, &["checkout", "-q", "main"])?;
        clean(j, dir)
    }

    fn commit(&mut self, j: &mut Journal, dir: &Path) -> Result<(), String> {
        let before = git(j, dir, &["rev-list", "--count", "HEAD"])?;
        for _ in 0..10 {
            let file = self.random.below(FILES as usize) as u64;
            let path = dir.join(format!("d{}/f{file}", file % 10));
            std::fs::write(&path, sys::pattern(self.random.next_u64(), 3000))
                .map_err(|e| format!("write {}: {e}", path.display()))?;
        }
        git(j, dir, &["commit", "-q", "-a", "-m", "another"])?;
        let after = git(j, dir, &["rev-list", "--count", "HEAD"])?;
        let count = |text: &str| text.parse::<u64>().unwrap_or(0);
        if count(&after) == count(&before) + 1 {
            clean(j, dir)
        } else {
            Err(format!("{after} commits after one more on {before}"))
        }
    }
}

fn clean(j: &mut Journal, dir: &Path) -> Result<(), String> {
    let said = git(j, dir, &["status", "--porcelain"])?;
    if said.is_empty() { Ok(()) } else { Err(format!("git status is not clean: {said}")) }
}

fn whole(j: &mut Journal, dir: &Path) -> Result<(), String> {
    git(j, dir, &["fsck", "--full", "--strict", "--no-dangling", "--no-progress"]).map(drop)
}

impl Workload for Git {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        let name = match self.clone.clone() {
            Some(name) if self.random.below(4) != 0 => name,
            _ => self.clone_afresh(journal)?,
        };
        let dir = self.place.dir.join(name);
        self.checkout(journal, &dir)?;
        self.commit(journal, &dir)?;
        if self.random.below(2) == 0 {
            git(journal, &dir, &["gc", "-q", "--prune=now"])?;
        }
        whole(journal, &dir)
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<(), String> {
        let Some(clone) = self.clone.clone() else { return self.place.control.save(&None::<Left>) };
        let dir = self.place.dir.join(&clone);
        whole(journal, &dir)?;
        let head = git(journal, &dir, &["rev-parse", "HEAD"])?;
        self.place.control.save(&Some(Left { clone, head }))
    }
}

pub(super) fn verify(place: &Place, journal: &mut Journal) -> Result<(), String> {
    let Some(left) = place.control.load::<Option<Left>>()? else { return Ok(()) };
    let dir = place.dir.join(&left.clone);
    whole(journal, &dir)?;
    clean(journal, &dir)?;
    let head = git(journal, &dir, &["rev-parse", "HEAD"])?;
    if head == left.head { Ok(()) } else { Err(format!("HEAD is {head}, should be {}", left.head)) }
}
