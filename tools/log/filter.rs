//! Which transactions are wanted.

use ringkeeper::proto::txn::{LoggedTxn, Txn};
use ringkeeper::storage::inspect::{Entry, LogFile};

use crate::options::FilterOptions;
use crate::text;

/// A transaction that was read from a log: the record and what is in it.
pub struct Logged<'a> {
    /// The record.
    pub entry: &'a Entry,
    /// What is in it.
    pub txn: LoggedTxn,
}

impl FilterOptions {
    /// Whether any of it can be in this file, if the next one begins where it does.
    pub fn may_be_in(&self, file: &LogFile, next: Option<&LogFile>) -> bool {
        let begins_too_late = self.to.is_some_and(|to| file.after >= to);
        let ends_too_early = self.from.is_some_and(|from| next.is_some_and(|next| next.after < from));
        !begins_too_late && !ends_too_early
    }

    /// Whether this transaction is wanted.
    pub fn wants(&self, logged: &Logged<'_>) -> bool {
        let header = &logged.txn.header;
        let time = header.time.0;
        self.from.is_none_or(|from| logged.entry.zxid >= from)
            && self.to.is_none_or(|to| logged.entry.zxid <= to)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
            && (self.session.is_empty() || self.session.contains(&header.session))
            && (self.types.is_empty() || self.has_type(&logged.txn.txn, text::type_code(&logged.entry.payload)))
            && (self.path.is_empty() || self.has_path(&logged.txn.txn))
    }

    fn has_type(&self, txn: &Txn, code: i32) -> bool {
        let is_wanted = |code: i32| self.types.contains(&text::type_name(code));
        let parts = if let Txn::Multi(parts) = txn { &parts[..] } else { &[] };
        is_wanted(code) || parts.iter().any(|part| is_wanted(part.type_code()))
    }

    fn has_path(&self, txn: &Txn) -> bool {
        let is_wanted = |path: &str| {
            let is_below = |prefix: &String| {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            self.path.iter().any(is_below)
        };
        match txn {
            Txn::Multi(parts) => parts.iter().any(|part| self.has_path(part)),
            Txn::CloseSession { paths } => paths.iter().flatten().any(|path| is_wanted(path)),
            txn => text::path(txn).is_some_and(is_wanted),
        }
    }
}
