//! The identifiers that must not be mixed up, each with the meaning ZooKeeper gives it.

use std::fmt;

/// A transaction id: the leader's epoch in the high 32 bits, a counter in the low 32.
///
/// Ordered as a signed 64-bit integer, as Apache compares it. Counter 0 of an epoch is never a
/// transaction. Prints as `0x…` in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(pub i64);

impl Zxid {
    /// The state before any transaction.
    pub const ZERO: Zxid = Zxid(0);

    /// The transaction after this one: the next of the same epoch, or, when its 2^32 - 1 are used up, the
    /// first of the next.
    pub fn next(self) -> Zxid {
        if self.counter() == u32::MAX { Zxid(self.0 + 2) } else { Zxid(self.0 + 1) }
    }

    /// Whether this transaction may stand right after `last`: the next of its epoch, or the first of a later one.
    pub fn follows(self, last: Zxid) -> bool {
        self == last.next() || (self.epoch() > last.epoch() && self.counter() == 1)
    }

    /// High 32 bits.
    pub fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Low 32 bits.
    pub fn counter(self) -> u32 {
        self.0 as u32
    }
}

/// A leader's term: the high 32 bits of its zxids. Epochs only grow; 0 is that of an ensemble that never had a leader.
///
/// Apache keeps it in a `long` with -1 for "none yet"; here that is `Option<Epoch>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

impl Epoch {
    /// No ensemble comes so far: beyond it zxids are negative. What a file or another server says must be less.
    pub const MAX: Epoch = Epoch(i32::MAX as u32);

    /// The zxid of the epoch's NEWLEADER, counter 0, which no transaction has.
    pub fn zxid(self) -> Zxid {
        Zxid(i64::from(self.0) << 32)
    }

    /// The epoch after this one. Panics at [`Epoch::MAX`], which an ensemble that elects a leader each second reaches after
    /// 68 years.
    pub fn next(self) -> Epoch {
        assert!(self < Epoch::MAX, "the epochs are used up");
        Epoch(self.0 + 1)
    }
}

/// The id of a server of an ensemble: the number in `server.N` and in the file `myid`, practically 1 to 255.
///
/// On the wire it is a `long`, and it is compared as one. Apache's messages call it `sid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerId(pub i64);

impl ServerId {
    /// Whom a server without a vote votes for: nobody, since no server has this id. -2^63 on the wire.
    pub const NOBODY: ServerId = ServerId(i64::MIN);
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A session id: never 0 for a live session. Prints as `0x…` in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub i64);

impl SessionId {
    /// "No session": what a client sends to ask for a new one, and what an expired one is told.
    pub const NONE: SessionId = SessionId(0);
}

/// Milliseconds since 1970 on the ordering server's wall clock: what goes into a transaction header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct WallMs(pub i64);

/// A point on this process's monotonic clock, in milliseconds since some fixed start.
///
/// Core code never reads a clock; it is handed one of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant moved `ms` later.
    pub fn after_ms(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant, 0 if it is not later.
    pub fn since_ms(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Which client connection of which shard: unique for the life of the process.
///
/// `slot` is reused; `generation` tells two users of a slot apart, so a late message for a closed
/// connection finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CnxnId {
    /// Index of the client shard that owns the connection.
    pub shard: u16,
    /// Slot in that shard's table.
    pub slot: u32,
    /// How often the slot had been used before.
    pub generation: u32,
}

impl CnxnId {
    /// The shard that learners have in the leader's eyes: a request that comes from a learner has an id of this shard as
    /// its connection, and whoever answers it finds no client there.
    pub const LEARNERS: u16 = u16::MAX;

    /// How a leader names the link to a learner where a connection is asked for.
    pub fn of_learner(link: u32) -> CnxnId {
        CnxnId { shard: CnxnId::LEARNERS, slot: link, generation: 0 }
    }

    /// Whether it stands for a learner.
    pub fn is_learner(self) -> bool {
        self.shard == CnxnId::LEARNERS
    }
}

macro_rules! hex_fmt {
    ($t:ty) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{:x}", self.0)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{:x}", self.0)
            }
        }
    };
}
hex_fmt!(Zxid);
hex_fmt!(Epoch);
hex_fmt!(SessionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h20_zxids_are_signed_and_an_epoch_is_not_a_large_counter() {
        let z = |epoch: i64, counter: i64| Zxid(epoch << 32 | counter);
        assert!(Zxid(-1) < Zxid::ZERO && z(1, 0x8000_0000) > z(1, 0x7fff_ffff) && z(2, 1) > z(1, 0xffff_ffff));
        assert_eq!((z(1, 0xffff_ffff).epoch(), z(1, 0xffff_ffff).counter()), (1, u32::MAX));
        // A server that stands alone goes on in the next epoch.
        assert_eq!(z(1, 0xffff_ffff).next(), z(2, 1));
        for last in [z(1, 7), z(1, 0xffff_ffff)] {
            assert!(z(2, 1).follows(last) && z(5, 1).follows(last), "epochs may be passed over, {last}");
            assert!(!z(2, 2).follows(last) && !z(2, 0).follows(last), "counters may not, {last}");
        }
        assert!(z(1, 8).follows(z(1, 7)) && !z(1, 9).follows(z(1, 7)) && !z(1, 7).follows(z(1, 7)));
        assert!(!z(1, 1).follows(z(2, 7)));
    }
}
