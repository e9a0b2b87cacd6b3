//! Limits of branches.

use clap::Args;
use shm_transport::control::{Limit, Limits};

/// Limits of a branch that is made.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Quota {
    /// A new branch may hold so many bytes of its own, as 500M or 10G, or none for no limit [default: as its source]
    #[arg(long, value_name = "N", value_parser = bytes)]
    quota_bytes: Option<Limit>,
    /// A new branch may make so many files and directories, as 5000 or 100k, or none [default: as its source]
    #[arg(long, value_name = "N", value_parser = inodes)]
    quota_inodes: Option<Limit>,
}

impl Quota {
    /// As the daemon takes them.
    pub(crate) fn limits(self) -> Limits {
        Limits { bytes: self.quota_bytes, inodes: self.quota_inodes }
    }
}

/// Limits of a branch that there is.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct NewQuota {
    /// So many bytes of its own, as 500M or 10G, or none for no limit
    #[arg(long, value_name = "N", value_parser = bytes)]
    bytes: Option<Limit>,
    /// So many files and directories that it made, as 5000 or 100k, or none for no limit
    #[arg(long, value_name = "N", value_parser = inodes)]
    inodes: Option<Limit>,
}

impl NewQuota {
    /// As the daemon takes them.
    pub(crate) fn limits(self) -> Limits {
        Limits { bytes: self.bytes, inodes: self.inodes }
    }
}

/// A number of bytes; K is 1024.
pub(super) fn bytes(text: &str) -> Result<Limit, String> {
    let text = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    limit(text, 1024).ok_or_else(|| "give a number, with K, M, G or T behind it if you like, or none".into())
}

/// A number of objects; k is 1000.
pub(super) fn inodes(text: &str) -> Result<Limit, String> {
    limit(text, 1000).ok_or_else(|| "give a number, with k or M behind it if you like, or none".into())
}

fn limit(text: &str, thousand: u64) -> Option<Limit> {
    if text == "none" {
        return Some(Limit::None);
    }
    let power = match text.chars().last()? {
        'k' | 'K' => 1,
        'm' | 'M' => 2,
        'g' | 'G' => 3,
        't' | 'T' => 4,
        _ => 0,
    };
    let digits = if power == 0 { text } else { text.get(..text.len() - 1)? };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(thousand.pow(power)).filter(|max| *max < u64::MAX).map(Limit::Max)
}

#[cfg(test)]
mod tests;
