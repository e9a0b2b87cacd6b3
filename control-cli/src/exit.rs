//! Exit codes: one table, also printed by `agentfs help exit-codes`.

use crate::error::Kind;

/// Everything was done.
pub(crate) const OK: u8 = 0;
/// The command line was not understood (clap uses the same).
pub(crate) const USAGE: u8 = 2;

/// The exit code of a kind of failure.
pub(crate) fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => USAGE,
        Kind::Conflict => 10,
        Kind::NoSpace => 28,
        Kind::Base => 66,
        Kind::NotFound => 68,
        Kind::Unreachable => 69,
        Kind::Internal => 70,
        Kind::System => 71,
        Kind::Exists => 73,
        Kind::Store => 74,
        Kind::Busy => 75,
        Kind::Version => 76,
        Kind::Denied => 77,
        Kind::BaseNotAllowed => 78,
        Kind::NotExecutable => 126,
        Kind::CommandNotFound => 127,
    }
}

/// Code, name in JSON, meaning.
pub(crate) const TABLE: [(u8, &str, &str); 18] = [
    (0, "", "done"),
    (1, "", "failed in a way that has no code of its own"),
    (2, "usage", "the command line or an argument is not acceptable"),
    (10, "conflict", "commit: the base changed under the branch; nothing was applied"),
    (28, "no-space", "no space or inodes left in the store or the base"),
    (66, "base", "the base directory is missing, unreadable or must not be a base"),
    (68, "not-found", "no branch, snapshot or mount of that name"),
    (69, "unreachable", "holder or daemon do not answer or cannot be started"),
    (70, "internal", "a defect in AgentFS"),
    (71, "system", "the operating system refused something"),
    (73, "exists", "the name is taken"),
    (74, "store", "the store failed or is damaged"),
    (75, "busy", "mounted or in use; try again later"),
    (76, "version", "the other process is of an incompatible release"),
    (77, "denied", "the caller may not do that"),
    (78, "base-not-allowed", "the base lies outside the directories that the daemon may read"),
    (126, "not-executable", "run: the command cannot be executed"),
    (127, "command-not-found", "run: the command was not found"),
];

/// The table for programs.
pub(crate) fn document() -> serde_json::Value {
    let row = |(code, name, meaning): (u8, &str, &str)| {
        let name = Some(name).filter(|name| !name.is_empty());
        serde_json::json!({"exit_code": code, "code": name, "meaning": meaning})
    };
    TABLE.into_iter().map(row).collect()
}

/// The table as text.
pub(crate) fn table() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("Exit codes of agentfs\n\n  CODE  NAME IN JSON       MEANING\n");
    for (code, name, meaning) in TABLE {
        // Writing to a string cannot fail.
        writeln!(text, "  {code:>4}  {name:<17}  {meaning}").ok();
    }
    text.push_str(
        "\n`agentfs run` returns the exit code of its command, and 128 + N when signal N ended it;\n\
         the codes above only if the command was not started. With --json, errors are one line on\n\
         standard error: {\"error\":{\"code\":NAME,\"message\":...,\"hint\":...,\"exit_code\":CODE}}.\n",
    );
    text
}

#[cfg(test)]
mod tests;
