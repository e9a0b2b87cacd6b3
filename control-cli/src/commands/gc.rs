//! `agentfs gc`.

use crate::args;
use crate::context::{Context, Told};
use crate::error::{CliError, Doing, Result};
use crate::output::{count, size};
use shm_transport::control::client::ClientError;
use shm_transport::control::{Collected, ErrorCode};

/// Collects, or says what there is to collect.
pub(super) fn gc(context: &Context, args: args::Gc) -> Result<()> {
    let mut client = context.ensure()?;
    // As long as it takes.
    client.set_timeout(None).doing(|| "wait".into())?;
    let told = match client.gc(args.branches, args.dry_run) {
        // Of a release before it could.
        Err(ClientError::Refused(failure)) if failure.code == ErrorCode::Usage => {
            return Err(CliError::from(failure).hint("restart the daemon, so that it is of this release"));
        }
        other => other.told()?,
    };
    context.output.result(&told, || describe(&told))
}

fn describe(told: &Collected) -> String {
    let would = if told.dry_run { "would be " } else { "" };
    let mut text = format!(
        "{} {would}removed, {} {would}folded; {}, {} {would}given back\n",
        count(told.removed, "state", "states"),
        told.folded,
        count(told.contents, "content file", "content files"),
        size(told.bytes),
    );
    if told.left && !told.dry_run {
        text.push_str("something is left that is in use: run it again later\n");
    }
    text
}
