//! What the user gets to read: text or JSON, never both.

use crate::error::{CliError, Doing, Result};
use crate::exit;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Version of the JSON documents: a field's meaning never changes within one.
const SCHEMA_VERSION: u32 = 1;

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// The result of a command: the text, or the document.
    pub(crate) fn result<T: Serialize>(self, document: &T, text: impl FnOnce() -> String) -> Result<()> {
        let text = if self.json { format!("{}\n", versioned(document)) } else { text() };
        write_out(&text)
    }

    /// Text as it is, which may have bytes of any kind.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<()> {
        write_all(bytes)
    }

    /// Something the user should know, on standard error. Not with JSON: there it stands in the document.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            write_err(&format!("agentfs: {text}\n"));
        }
    }

    /// The same, only for somebody who sits before it.
    pub(crate) fn note_on_terminal(self, text: &str) {
        if io::stderr().is_terminal() {
            self.note(text);
        }
    }

    /// Why the command failed.
    pub(crate) fn error(self, error: &CliError) {
        let text = if self.json {
            let error = json!({
                "code": error.kind.name(),
                "message": error.message,
                "hint": error.hint,
                "exit_code": exit::code(error.kind),
            });
            format!("{}\n", json!({"schema_version": SCHEMA_VERSION, "error": error}))
        } else {
            let hint = error.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            format!("agentfs: {}\n{hint}", error.message)
        };
        write_err(&text);
    }

    /// A line on standard error after `run`.
    pub(crate) fn after<T: Serialize>(self, document: &T, text: impl FnOnce() -> String) {
        write_err(&if self.json { format!("{}\n", versioned(document)) } else { text() });
    }

    /// A line that is overwritten while long work goes on; only on a terminal.
    pub(crate) fn progress(self, what: &str, done: usize, of: usize) {
        // Often enough to see it move, too seldom to cost anything.
        if !self.json && of > 1000 && done.is_multiple_of(500) && io::stderr().is_terminal() {
            write_err(&format!("\r{what}: {done} of {of}\x1b[K"));
        }
    }

    /// A bar that is overwritten while files are copied; only on a terminal.
    pub(crate) fn bar(self, done: usize, of: usize, bytes: u64) {
        const WIDTH: usize = 30;
        if !self.json && io::stderr().is_terminal() {
            let full = (WIDTH * done).checked_div(of).unwrap_or(WIDTH).min(WIDTH);
            let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
            write_err(&format!("\r[{bar}] {done} of {of} files, {}\x1b[K", size(bytes)));
        }
    }

    /// Removes that line.
    pub(crate) fn progress_end(self) {
        if !self.json && io::stderr().is_terminal() {
            write_err("\r\x1b[K");
        }
    }
}

/// An object carries its version; in a list each element does.
pub(crate) fn versioned<T: Serialize>(document: &T) -> Value {
    let add_version = |value: &mut Value| {
        if let Some(map) = value.as_object_mut() {
            map.insert("schema_version".into(), SCHEMA_VERSION.into());
        }
    };
    let mut value = serde_json::to_value(document).unwrap_or_default();
    if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(add_version);
    } else {
        add_version(&mut value);
    }
    value
}

/// Writes to standard output. A reader that went away (`| head`) is no failure of the command.
pub(crate) fn write_out(text: &str) -> Result<()> {
    write_all(text.as_bytes())
}

fn write_all(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).doing(|| "write to standard output".into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_err(text: &str) {
    // Nobody is left to be told when standard error is closed.
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Rows with aligned columns; two spaces between them, none at the end of a line.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            // Writing to a string cannot fail.
            write!(out, "{cell:<width$}  ").ok();
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A text that may come from a file name, safe for a terminal: control characters are spelled out, and so are
/// those that change the order of what follows.
pub(crate) fn shown(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if harmful(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// One line per list entry, or a dash.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// A count with its noun.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return count(bytes, "byte", "bytes");
    }
    // In tenths of the unit.
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        if tenths < 10240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A span of time for people.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests;
