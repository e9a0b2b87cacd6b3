//! Names in the head of a patch.

use crate::output::shown;
use std::fmt::Write as _;

/// What stands before a name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// `a/`
    Old,
    /// `b/`
    New,
    /// Nothing.
    Bare,
}

/// A name with its prefix, quoted as git does where it has bytes that are not plain text.
pub(super) fn quoted(side: Side, path: &[u8]) -> String {
    let prefix = match side {
        Side::Old => "a/",
        Side::New => "b/",
        Side::Bare => "",
    };
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(['"', '\\']) && shown(text) == text => format!("{prefix}{text}"),
        _ => {
            let mut out = format!("\"{prefix}");
            for &byte in path {
                match byte {
                    b'"' | b'\\' => {
                        out.push('\\');
                        out.push(char::from(byte));
                    }
                    b' '..=b'~' => out.push(char::from(byte)),
                    // Writing to a string cannot fail.
                    _ => drop(write!(out, "\\{byte:03o}")),
                }
            }
            out.push('"');
            out
        }
    }
}
