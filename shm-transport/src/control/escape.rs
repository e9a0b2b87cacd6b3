//! Paths, link targets and attribute values as text: bytes that are not UTF-8 stand as `\xNN`, a
//! backslash as `\\`, everything else as itself. Every byte string has exactly one such form.

/// Why a text is no escaped byte string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backslash at byte {at} is followed neither by a backslash nor by `x` and two hexadecimal digits")]
pub struct EscapeError {
    /// Where the backslash stands, in bytes.
    pub at: usize,
}

/// Bytes as text.
///
/// ```
/// # use shm_transport::control::escape::{escape, unescape};
/// assert_eq!(escape(b"a\\b\xff"), r"a\\b\xff");
/// assert_eq!(unescape(r"a\\b\xff").unwrap(), b"a\\b\xff");
/// ```
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push('\\');
            }
            text.push(character);
        }
        for byte in chunk.invalid() {
            text.push_str("\\x");
            text.extend([byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
        }
    }
    text
}

/// Text back to bytes. Takes digits of either case, and escapes of bytes that need none.
pub fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = if byte == b'\\' {
            escaped(after).ok_or(EscapeError { at: text.len() - rest.len() })?
        } else {
            (byte, after)
        };
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

/// What follows a backslash: the byte it means, and what comes after.
fn escaped(after: &[u8]) -> Option<(u8, &[u8])> {
    match after {
        [b'\\', after @ ..] => Some((b'\\', after)),
        [b'x', high, low, after @ ..] => {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let byte = digit(high)? << 4 | digit(low)?;
            Some((u8::try_from(byte).ok()?, after))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
