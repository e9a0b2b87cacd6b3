//! What a build speaks and stores, asked of a program before it takes the place of another:
//! `agentfsd --versions` and `agentfs-fuse --versions` print it as one JSON object.

use super::holder;
use crate::layout;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to print it.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const ANSWER_LEN: u64 = 4096;

/// The numbers of one build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Release.
    pub release: String,
    /// Version of the control protocol: [`super::VERSION`].
    pub control: u32,
    /// Version of the holder's protocol: [`holder::VERSION`].
    pub holder: u32,
    /// Version of the shared-memory region: [`layout::VERSION`].
    pub region: u32,
    /// Format of the store; none of a program that has nothing to do with stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<u32>,
}

impl Versions {
    /// Those of this build.
    pub fn current(store: Option<u32>) -> Self {
        let release = env!("CARGO_PKG_VERSION").into();
        Self { release, control: super::VERSION, holder: holder::VERSION, region: layout::VERSION, store }
    }

    /// What keeps this build from taking the place of the one that runs: a part of a sentence, or nothing.
    pub fn misfit(&self, running: &Self) -> Option<String> {
        let differs = |what: &str, new: u32, now: u32| (new != now).then(|| format!("{what} {new} instead of {now}"));
        let store = self.store.zip(running.store).and_then(|(new, now)| differs("store format", new, now));
        let found = [
            store,
            differs("version of the region", self.region, running.region),
            differs("version of the control protocol", self.control, running.control),
            differs("version of the holder's protocol", self.holder, running.holder),
        ];
        let found: Vec<String> = found.into_iter().flatten().collect();
        (!found.is_empty()).then(|| found.join(", "))
    }
}

/// A program that was asked for its versions.
#[derive(Debug)]
pub struct Asked(Child);

impl Asked {
    /// Asks a program.
    pub fn begin(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--versions").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().map(Self)
    }

    /// Its answer. A program that does not answer is ended.
    pub fn answer(mut self) -> io::Result<Versions> {
        let end = Instant::now() + ANSWER_MAX;
        let status = loop {
            match self.0.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= end => {
                    self.0.kill()?;
                    self.0.wait()?;
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not tell its versions"));
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let mut text = String::new();
        if let Some(out) = self.0.stdout.take() {
            out.take(ANSWER_LEN).read_to_string(&mut text)?;
        }
        if !status.success() {
            return Err(io::Error::other(format!("asked for its versions, it ended with {status}")));
        }
        serde_json::from_str(text.trim())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("its versions are not understood: {e}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_equal_numbers_fit_and_each_other_one_is_named() {
        let running = Versions::current(Some(1));
        assert_eq!(running.misfit(&running), None);
        let next = Versions { release: "99.0.0".into(), ..running.clone() };
        assert_eq!(next.misfit(&running), None, "a release by itself changes nothing");
        let frontend = Versions { store: None, ..running.clone() };
        assert_eq!(frontend.misfit(&running), None, "a frontend has no store");
        let other = Versions { store: Some(2), region: running.region + 1, ..running.clone() };
        let said = other.misfit(&running).unwrap();
        assert!(said.starts_with("store format 2 instead of 1, version of the region "), "{said}");
        for other in [
            Versions { control: 0, ..running.clone() },
            Versions { holder: 0, ..running.clone() },
            Versions { region: 0, ..running.clone() },
            Versions { store: Some(0), ..running.clone() },
        ] {
            assert!(other.misfit(&running).is_some(), "{other:?}");
        }
    }

    #[test]
    fn a_program_is_asked_and_a_strange_answer_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let ask = |path: &Path| Asked::begin(path).and_then(Asked::answer);
        let mine = Versions::current(Some(7));
        let good = program("good", &format!("[ $1 = --versions ] && echo '{}'", serde_json::to_string(&mine).unwrap()));
        assert_eq!(ask(&good).unwrap(), mine);
        for (name, script) in [("mute", "true"), ("odd", "echo '{\"release\":\"1\"}'"), ("old", "exit 2")] {
            ask(&program(name, script)).unwrap_err();
        }
        ask(&dir.path().join("missing")).unwrap_err();
    }
}
