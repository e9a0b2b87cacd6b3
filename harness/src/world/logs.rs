//! Showing the logs of a failed test.

use std::path::Path;

const LINES: usize = 40;

/// Prints the ends of all logs of a store to standard error.
pub(super) fn print(store: &Path, world: &Path) {
    let Ok(entries) = std::fs::read_dir(store.join("log")) else {
        eprintln!("--- no logs in {}", store.display());
        return;
    };
    for entry in entries.flatten() {
        let text = std::fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace(&*world.to_string_lossy(), "$WORLD");
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}, the last lines", entry.path().display());
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            eprintln!("    {line}");
        }
    }
}

/// Whether any log of the store tells of a panic.
pub(super) fn panics(store: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(store.join("log")) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|e| {
            let text = std::fs::read(e.path()).unwrap_or_default();
            String::from_utf8_lossy(&text)
                .lines()
                .filter(|l| l.contains("panicked at"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}
