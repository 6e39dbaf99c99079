//! What clients did to a few znodes, and what they were told: the input of the checker.

/// Nanoseconds since the history began.
pub type Nanos = u64;

/// When an answer came that never came.
pub const NEVER: Nanos = Nanos::MAX;

/// What a client asks of one of the znodes of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// `getData`.
    Read,
    /// `setData`, with the version that the znode must have, if one is asked for. No two writes have the same value.
    Write { value: u64, expected: Option<i32> },
}

/// What the client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Data, version and mzxid of the znode, and the zxid in the reply's header: what the server had applied.
    Read { value: u64, version: i32, mzxid: i64, zxid: i64 },
    /// The znode's version after the write, and the write's zxid.
    Written { version: i32, zxid: i64 },
    /// The znode had another version; the refusal takes a zxid as well.
    WrongVersion { zxid: i64 },
    /// Nothing: the connection was lost. A write may have been done, or not, or may yet be.
    Nothing,
}

/// One request with its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The number of the session, unique in the history.
    pub session: usize,
    /// The number of the znode.
    pub key: usize,
    pub action: Action,
    /// Before the request was sent.
    pub called: Nanos,
    /// After the answer had come, or [`NEVER`].
    pub answered: Nanos,
    pub answer: Answer,
}

/// Operations of all clients. Those of one session stand in the order in which it asked for them.
#[derive(Clone, Default, Debug)]
pub struct History {
    /// For each znode the zxid that created it, with value 0 and version 0, before the history began.
    pub created: Vec<i64>,
    pub operations: Vec<Operation>,
}
