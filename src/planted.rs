//! Mistakes of the past, to be made again on purpose: the simulator is tested by planting one and looking whether it is found.
//!
//! Where a mistake can be made the code asks [`is`], which a release build answers with a constant `false`: nothing is left
//! of the question, and [`plant`] is not there at all. A debug build looks at one byte that nothing but the simulator sets.
//!
//! That was preferred to a feature of the package, which any build that asks for all features would switch on, and which
//! would have every test build the library twice; and to copies of the state machines with mistakes in them, which would not
//! be the code that is shipped.

/// One mistake. `docs/reliability.md` tells of each, and how soon it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)] // The table there is the documentation.
pub enum Bug {
    AckBeforeFlush = 1,
    EpochBeforeHistory,
    NewLeaderAckBeforeFlush,
    VoteIgnoresLog,
    FollowerShowsProposals,
    CommitWithoutQuorum,
    LeaderBeforeQuorumHasHistory,
    LateAudience,
    PendingLostAtNewLeader,
    HoleInHistory,
    PartialSnapshotKept,
    StaleLogKept,
    ReplaceNotDurable,
    MovedSessionWrites,
    EphemeralAfterClose,
    TouchesLost,
    SessionIdReused,
    WatchLostOnReconnect,
    ReplyBeforeEvent,
    ReadOvertakesWrite,
    ChecksumIgnored,
    EpochBehindRefused,
    FileNotFlushed,
    DirectoryNotFlushed,
    MarkerRemovedFirst,
    FlushErrorIgnored,
    SegmentsReleasedTooEarly,
    EpochReused,
    LonelyLeaderStays,
    TailDroppedAtEnd,
    ConvertedLogKept,
    StoredDiffUnchecked,
    StoredDiffBeginsLate,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 33] = [
        Bug::AckBeforeFlush,
        Bug::EpochBeforeHistory,
        Bug::NewLeaderAckBeforeFlush,
        Bug::VoteIgnoresLog,
        Bug::FollowerShowsProposals,
        Bug::CommitWithoutQuorum,
        Bug::LeaderBeforeQuorumHasHistory,
        Bug::LateAudience,
        Bug::PendingLostAtNewLeader,
        Bug::HoleInHistory,
        Bug::PartialSnapshotKept,
        Bug::StaleLogKept,
        Bug::ReplaceNotDurable,
        Bug::MovedSessionWrites,
        Bug::EphemeralAfterClose,
        Bug::TouchesLost,
        Bug::SessionIdReused,
        Bug::WatchLostOnReconnect,
        Bug::ReplyBeforeEvent,
        Bug::ReadOvertakesWrite,
        Bug::ChecksumIgnored,
        Bug::EpochBehindRefused,
        Bug::FileNotFlushed,
        Bug::DirectoryNotFlushed,
        Bug::MarkerRemovedFirst,
        Bug::FlushErrorIgnored,
        Bug::SegmentsReleasedTooEarly,
        Bug::EpochReused,
        Bug::LonelyLeaderStays,
        Bug::TailDroppedAtEnd,
        Bug::ConvertedLogKept,
        Bug::StoredDiffUnchecked,
        Bug::StoredDiffBeginsLate,
    ];
}

#[cfg(debug_assertions)]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Makes this mistake from now on, in the whole process; with `None`, none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    /// Whether this mistake is to be made.
    pub fn is(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(not(debug_assertions))]
mod switch {
    use super::Bug;

    /// No mistake is made on purpose.
    #[inline(always)]
    pub const fn is(_: Bug) -> bool {
        false
    }
}

pub use switch::is;
#[cfg(debug_assertions)]
pub use switch::plant;
