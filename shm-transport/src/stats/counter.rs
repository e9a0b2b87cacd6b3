//! The counters of the daemon as a whole.

/// What the daemon counts for all mounts together, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Requests answered.
    Requests,
    /// Of these, with an error number.
    Errors,
    /// Bytes read by programs.
    BytesRead,
    /// Bytes written by programs.
    BytesWritten,
    /// Sessions attached.
    Attaches,
    /// Sessions ended because the peer broke a rule.
    ProtocolErrors,
    /// Control calls answered.
    ControlCalls,
    /// Requests answered from the record of an earlier run.
    Replays,
    /// Files copied before their first change.
    CopyUps,
    /// Syncs of the store: for `fsync`, and for what must not be lost.
    Syncs,
    /// Requests that look a name up or forget a node.
    Lookups,
    /// Requests that open or close a file.
    Opens,
    /// Requests that read a file.
    Reads,
    /// Requests that change the bytes of a file.
    Writes,
    /// Requests that read or change attributes, extended ones too.
    Attributes,
    /// Requests that make, move or remove names.
    Names,
    /// Requests that list a directory.
    Listings,
    /// Requests that ask for durability.
    Fsyncs,
    /// All other requests.
    Others,
    /// Waits for a request that ended without a sleep.
    SpinsWon,
    /// Waits for a request that spun in vain and slept.
    SpinsLost,
}

impl Counter {
    /// All of them, in the order of the segment.
    pub const ALL: [Self; 21] = [
        Self::Requests,
        Self::Errors,
        Self::BytesRead,
        Self::BytesWritten,
        Self::Attaches,
        Self::ProtocolErrors,
        Self::ControlCalls,
        Self::Replays,
        Self::CopyUps,
        Self::Syncs,
        Self::Lookups,
        Self::Opens,
        Self::Reads,
        Self::Writes,
        Self::Attributes,
        Self::Names,
        Self::Listings,
        Self::Fsyncs,
        Self::Others,
        Self::SpinsWon,
        Self::SpinsLost,
    ];

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Errors => "errors",
            Self::BytesRead => "bytes_read",
            Self::BytesWritten => "bytes_written",
            Self::Attaches => "attaches",
            Self::ProtocolErrors => "protocol_errors",
            Self::ControlCalls => "control_calls",
            Self::Replays => "replays",
            Self::CopyUps => "copy_ups",
            Self::Syncs => "syncs",
            Self::Lookups => "lookups",
            Self::Opens => "opens",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Attributes => "attributes",
            Self::Names => "names",
            Self::Listings => "listings",
            Self::Fsyncs => "fsyncs",
            Self::Others => "others",
            Self::SpinsWon => "spins_won",
            Self::SpinsLost => "spins_lost",
        }
    }
}
