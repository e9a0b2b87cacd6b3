//! `-o` options as mount(8) and fstab give them.

use crate::mount::MountFlag;
use shm_transport::Caching;
use shm_transport::control::{ErrorCode, Failure};
use shm_transport::wire::limits::PAYLOAD_MAX;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Everything that `-o` can say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `base=DIR`: make the branch from this directory if there is none yet.
    pub(crate) base: Option<PathBuf>,
    /// `frozen`: nobody edits the base.
    pub(crate) frozen: bool,
    /// `store=DIR`.
    pub(crate) store: Option<PathBuf>,
    /// `socket=PATH`.
    pub(crate) socket: Option<PathBuf>,
    /// `allow_base=DIR`, repeatable.
    pub(crate) allow_base: Vec<PathBuf>,
    /// `ro`.
    pub(crate) read_only: bool,
    /// `allow_other`; `None` leaves it to the caller's rights.
    pub(crate) allow_other: Option<bool>,
    /// `no_default_permissions` switches the kernel's checks off.
    pub(crate) no_default_permissions: bool,
    /// `nosuid` or `nodev`.
    pub(crate) no_suid_dev: bool,
    /// `without=FEATURE`, repeatable.
    pub(crate) without: Vec<String>,
    /// `remount`: what is mounted there gets other flags.
    pub(crate) remount: bool,
    /// `give_up_after=SECONDS`.
    pub(crate) give_up_after: Option<Duration>,
    /// `entry_timeout`, `attr_timeout` and `negative_timeout`, `=SECONDS`, and `direct_io`.
    pub(crate) caching: Caching,
    /// `writeback_cache`.
    pub(crate) writeback: bool,
    /// `max_write=BYTES`.
    pub(crate) max_write: Option<u32>,
    /// `max_background=REQUESTS`.
    pub(crate) max_background: Option<u16>,
    /// Passed on.
    pub(crate) flags: Vec<MountFlag>,
}

/// Smallest `max_write`: what the kernel takes for the least itself.
const PAGE: u32 = 4096;
/// Most background requests: three quarters of the slots of a mount.
pub(crate) const BACKGROUND_MAX: u16 = 48;
/// Longest of the timeouts, in seconds: a day, longer than anything is kept.
const SECONDS_MAX: f64 = 86_400.0;

/// Options that say something to others than us.
const IGNORED: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "exec",
    "suid",
    "dev",
    "async",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "loud",
    "silent",
    "nonempty",
    "default_permissions",
];

/// Splits at commas; `\,` is a comma and `\\` a backslash within a value.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (',', _) => parts.push(String::new()),
            ('\\', Some(last)) => last.push(chars.next().unwrap_or('\\')),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

impl Options {
    /// Whether a text asks for a remount: mount(8) then passes on whatever the mount table says, too.
    pub(crate) fn asks_remount(text: &str) -> bool {
        split(text).iter().any(|option| option == "remount")
    }

    /// Adds the options of one `-o`. With `sloppy`, unknown ones are passed over.
    pub(crate) fn add(&mut self, text: &str, sloppy: bool) -> Result<(), Failure> {
        for option in split(text) {
            let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
            if !self.take(name, value)? && !sloppy {
                return Err(usage(format!("the mount option {option:?} is not known")));
            }
        }
        Ok(())
    }

    /// `false` for an unknown option.
    fn take(&mut self, name: &str, value: Option<&str>) -> Result<bool, Failure> {
        let path = || match value {
            Some(value) if value.starts_with('/') => Ok(PathBuf::from(value)),
            _ => Err(usage(format!("the mount option {name} needs an absolute path: {name}=/some/path"))),
        };
        match name {
            "base" => self.base = Some(path()?),
            "store" => self.store = Some(path()?),
            "socket" => self.socket = Some(path()?),
            "allow_base" => self.allow_base.push(path()?),
            "without" => self.without.extend(value.map(str::to_owned)),
            "give_up_after" => self.give_up_after = Some(seconds(value)?),
            "entry_timeout" => self.caching.names_ms = Some(milliseconds(name, value)?),
            "attr_timeout" => self.caching.attributes_ms = Some(milliseconds(name, value)?),
            "negative_timeout" => self.caching.missing_ms = Some(milliseconds(name, value)?),
            "direct_io" => self.caching.direct_io = true,
            "writeback_cache" => self.writeback = true,
            "max_write" => self.max_write = Some(within(name, value, (PAGE, PAYLOAD_MAX as u32))?),
            "max_background" => self.max_background = Some(within(name, value, (1, BACKGROUND_MAX))?),
            "frozen" => self.frozen = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "no_default_permissions" => self.no_default_permissions = true,
            "nosuid" | "nodev" => self.no_suid_dev = true,
            "remount" => self.remount = true,
            "noexec" => self.flags.push(MountFlag::NoExec),
            "noatime" => self.flags.push(MountFlag::NoAtime),
            "sync" => self.flags.push(MountFlag::Sync),
            "dirsync" => self.flags.push(MountFlag::DirSync),
            _ => {
                let foreign = name.starts_with("x-") || name.starts_with("X-") || name == "comment";
                return Ok(foreign || IGNORED.contains(&name));
            }
        }
        Ok(true)
    }
}

/// A number within bounds.
fn within<N>(name: &str, value: Option<&str>, (least, most): (N, N)) -> Result<N, Failure>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    match value.and_then(|value| value.parse::<N>().ok()).filter(|number| (least..=most).contains(number)) {
        Some(number) => Ok(number),
        None => Err(usage(format!("the mount option {name} needs a number from {least} to {most}"))),
    }
}

/// Seconds with a fraction, as libfuse has them; 0 keeps nothing.
fn milliseconds(name: &str, value: Option<&str>) -> Result<u32, Failure> {
    let seconds = within(name, value, (0.0, SECONDS_MAX))?;
    Ok((seconds * 1000.0).round() as u32)
}

/// A limit of whole seconds, one at least.
fn seconds(value: Option<&str>) -> Result<Duration, Failure> {
    match value.and_then(|value| value.parse::<u32>().ok()) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(usage("the mount option give_up_after needs a number of seconds, 1 at least".into())),
    }
}

fn usage(message: String) -> Failure {
    Failure {
        code: ErrorCode::Usage,
        message,
        hint: Some(
            "known are base=, frozen, store=, socket=, allow_base=, ro, allow_other, no_default_permissions, without=, \
             give_up_after=, entry_timeout=, attr_timeout=, negative_timeout=, direct_io, writeback_cache, max_write=, \
             max_background= and the flags of mount(8)"
                .into(),
        ),
    }
}
