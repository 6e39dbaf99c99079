//! Mistakes that are put into what a server has answered, to see that the comparison finds them.

use clap::ValueEnum;

use crate::records::Decoder;
use crate::run::{Entry, Trace, What};

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Plant {
    /// The version in the reply to a set is one too high.
    Version,
    /// A missing node is reported as one that may not be read.
    Error,
    /// mtime is a millisecond late.
    Time,
    /// ephemeralOwner is another session.
    Owner,
    /// pzxid is the one before.
    Pzxid,
    /// A node that is deleted makes no event.
    NoEvent,
    /// An event comes after the reply that it belongs before.
    LateEvent,
    /// A name is missing from a list of children.
    Name,
    /// Null data become empty ones.
    Null,
    /// A connection stays open that is to be closed.
    StaysOpen,
    /// The handshake grants a millisecond more.
    Timeout,
    /// A reply has a byte too many.
    Trailing,
}

impl Plant {
    /// Makes the mistake wherever there is occasion for it.
    pub fn apply(self, trace: &mut Trace) {
        match self {
            Plant::NoEvent => trace.entries.retain(|entry| !is_deletion(&entry.what)),
            Plant::StaysOpen => trace.entries.retain(|entry| entry.what != What::Closed),
            Plant::LateEvent => late_events(&mut trace.entries),
            _ => trace.entries.iter_mut().for_each(|entry| self.alter(&mut entry.what)),
        }
    }

    fn alter(self, what: &mut What) {
        match (self, what) {
            (Plant::Version, What::Reply { code: Some(5), err: 0, body, .. }) => body[35] = body[35].wrapping_add(1),
            (Plant::Time, What::Reply { code: Some(5), err: 0, body, .. }) => body[31] = body[31].wrapping_add(1),
            (Plant::Owner, What::Reply { code: Some(3), err: 0, body, .. }) => body[51] ^= 1,
            (Plant::Pzxid, What::Reply { code: Some(3), err: 0, body, .. }) => body[67] = body[67].wrapping_sub(1),
            (Plant::Error, What::Reply { code: Some(4), err: err @ -101, .. }) => *err = -102,
            (Plant::Name, What::Reply { code: Some(8), err: 0, body, .. }) => drop_last_name(body),
            (Plant::Null, What::Reply { code: Some(4), err: 0, body, .. }) if body.starts_with(&[0xff; 4]) => {
                body[..4].fill(0);
            }
            (Plant::Timeout, What::Connected(reply)) if reply.len() > 7 => reply[7] = reply[7].wrapping_add(1),
            (Plant::Trailing, What::Reply { code: Some(2), err: 0, body, .. }) => body.push(0),
            _ => {}
        }
    }
}

fn is_deletion(what: &What) -> bool {
    matches!(what, What::Event { body, .. } if body.starts_with(&[0, 0, 0, 2]))
}

fn late_events(entries: &mut [Entry]) {
    for at in 1..entries.len() {
        let (before, after) = (&entries[at - 1], &entries[at]);
        let belongs = matches!((&before.what, &after.what),
            (What::Event { zxid: event, .. }, What::Reply { zxid: reply, .. }) if event == reply);
        if belongs && (before.step, before.cnxn) == (after.step, after.cnxn) {
            entries.swap(at - 1, at);
        }
    }
}

fn drop_last_name(body: &mut Vec<u8>) {
    let mut fields = Decoder(body);
    let count = fields.int().unwrap_or(0);
    for _ in 1..count {
        let _ = fields.buffer();
    }
    if count > 0 {
        let kept = body.len() - fields.0.len();
        body.truncate(kept);
        body[..4].copy_from_slice(&(count - 1).to_be_bytes());
    }
}
