//! What went wrong in a run: counted, with the first few in words.

use std::collections::BTreeMap;

use crate::request::Kind;

/// Messages kept of each sort; the others are only counted.
const MESSAGES_MAX: u64 = 5;

/// What went wrong. A run with any of it is not a measurement.
#[derive(Default, Debug)]
pub struct Faults {
    /// Replies with an error code, by kind of request and code.
    pub refused: BTreeMap<(&'static str, i32), u64>,
    /// Replies that were not what the request asked for.
    pub wrong: u64,
    /// Times that a connection was lost.
    pub lost: u64,
    /// Requests that were never answered: those of connections that could not be had again, and what the drain left.
    pub unanswered: u64,
    /// The first few in words.
    pub messages: Vec<String>,
}

impl Faults {
    /// A reply with an error code.
    pub fn refused(&mut self, kind: Kind, err: i32) {
        *self.refused.entry((kind.name(), err)).or_default() += 1;
    }

    /// A reply that is wrong.
    pub fn wrong(&mut self, message: impl FnOnce() -> String) {
        if self.wrong < MESSAGES_MAX {
            self.say(format!("wrong reply: {}", message()));
        }
        self.wrong += 1;
    }

    /// A connection that ended.
    pub fn lost(&mut self, message: impl FnOnce() -> String) {
        if self.lost < MESSAGES_MAX {
            self.say(format!("connection lost: {}", message()));
        }
        self.lost += 1;
    }

    /// Anything else that whoever reads the report must know; once.
    pub fn say(&mut self, message: String) {
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    /// Replies with an error code.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether nothing went wrong.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.wrong == 0 && self.lost == 0 && self.unanswered == 0
    }

    /// Adds those of another thread or phase.
    pub fn add(&mut self, other: Faults) {
        for (what, count) in other.refused {
            *self.refused.entry(what).or_default() += count;
        }
        self.wrong += other.wrong;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
        for message in other.messages {
            self.say(message);
        }
    }
}
