//! `cargo build` of a small program, changed and run again and again.

use super::{Place, Workload, program};
use crate::chaos::journal::Journal;
use crate::chaos::random::Random;
use std::path::Path;

const MODULES: usize = 8;

pub(super) struct Build {
    place: Place,
    random: Random,
    values: [u64; MODULES],
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))
}

impl Build {
    pub(super) fn begin(place: &Place) -> Result<Self, String> {
        let src = place.dir.join("src");
        std::fs::create_dir(&src).map_err(|e| format!("mkdir src: {e}"))?;
        write(
            &place.dir.join("Cargo.toml"),
            "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
        )?;
        let mut main: String = (0..MODULES).map(|n| format!("mod m{n};\n")).collect();
        main.push_str("fn main() {\n    let sum: u64 = [");
        main.extend((0..MODULES).map(|n| format!("m{n}::value(), ")));
        main.push_str("].iter().sum();\n    println!(\"{sum}\");\n}\n");
        write(&src.join("main.rs"), &main)?;
        let build = Self { place: place.clone(), random: Random::new(place.seed), values: [1; MODULES] };
        for n in 0..MODULES {
            build.module(n)?;
        }
        Ok(build)
    }

    fn module(&self, n: usize) -> Result<(), String> {
        let text = format!("pub fn value() -> u64 {{\n    {}\n}}\n", self.values[n]);
        write(&self.place.dir.join(format!("src/m{n}.rs")), &text)
    }
}

fn says(place: &Place, journal: &mut Journal, want: u64) -> Result<(), String> {
    let said = journal.run(&mut program("target/debug/small", &place.dir))?;
    if said.trim() == want.to_string() { Ok(()) } else { Err(format!("the program says {said:?}, should say {want}")) }
}

impl Workload for Build {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        for _ in 0..2 {
            let n = self.random.below(MODULES);
            self.values[n] = self.random.below(1_000_000) as u64;
            self.module(n)?;
        }
        if self.random.below(8) == 0 {
            journal.run(program("cargo", &self.place.dir).args(["clean", "-q"]))?;
        }
        // A file's time must be later than the last build's for cargo to see the change.
        std::thread::sleep(std::time::Duration::from_millis(20));
        journal.run(program("cargo", &self.place.dir).args(["build", "-q", "--offline"]))?;
        says(&self.place, journal, self.values.iter().sum())
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<(), String> {
        // Stopped before its first step, it has built nothing.
        journal.run(program("cargo", &self.place.dir).args(["build", "-q", "--offline"]))?;
        self.place.control.save(&self.values.iter().sum::<u64>())
    }
}

pub(super) fn verify(place: &Place, journal: &mut Journal) -> Result<(), String> {
    let want: u64 = place.control.load()?;
    says(place, journal, want)
}
