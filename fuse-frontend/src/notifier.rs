//! Notifications to the kernel, from a thread that answers nothing: the kernel may hold one up until a request about the
//! same directory is answered.

use crate::channel::{Channel, Written};
use crate::encode;
use shm_transport::wire::Errno;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// After the time `settle` has the kernel look the names of the root up again, `names` with a NUL behind each, and then
/// sends `answer` to the request `unique`, or an error if that failed. `under_way` is dropped when all is sent.
pub(crate) fn expire_then_answer(
    kernel: Channel,
    settle: Duration,
    names: Vec<u8>,
    (unique, answer): (u64, Vec<u8>),
    under_way: Arc<()>,
) -> io::Result<()> {
    let work = move || {
        std::thread::sleep(settle);
        let told = expire(&kernel, &names).and_then(|()| kernel.send(&answer));
        if let Err(error) = told {
            tracing::error!(%error, "the kernel could not be told to look names up again; the request fails with EIO");
            if let Err(error) = kernel.send(encode::error(unique, Errno::EIO).as_bytes()) {
                tracing::error!(%error, "the request stays without an answer until another frontend serves the mount");
            }
        }
        drop(under_way);
    };
    std::thread::Builder::new().name("notifier".into()).stack_size(128 << 10).spawn(work).map(drop)
}

fn expire(kernel: &Channel, names: &[u8]) -> io::Result<()> {
    // What it does not know by that name is as good.
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for notification in std::iter::once(encode::forget_root()).chain(names.map(encode::expire_name)) {
        if kernel.send(&notification)? == Written::Invalid {
            tracing::warn!("the kernel does not understand a notification");
        }
    }
    Ok(())
}
