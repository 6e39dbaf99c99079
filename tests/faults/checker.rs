//! Whether a history is one that ZooKeeper promises: writes are linearizable, and each session sees its own writes and
//! everybody's in one order ("ordered sequential consistency").
//!
//! To find such an order from the outside is hard in general (it is NP-complete). But the servers name the order that they
//! claim: each write has a zxid, and each read tells the zxid up to which its server had applied. So the order is taken from
//! the zxids, and what is checked is that it is one that can be. It is if
//!
//! - each version of a znode was written by one write that somebody asked for, and zxids rise with the versions;
//! - a write that was answered before another was asked for has the smaller zxid (real time);
//! - in each session zxids do not fall, and its own writes come after all it has seen (session order);
//! - a read tells the newest value as of its zxid, and a refused condition was not met as of its zxid (legality).
//!
//! A server that lies about zxids cannot pass either: then the order that it claims is none of these. Writes that were never
//! answered may have been done or not. Whoever saw one tells its place; versions that nobody saw must be as many as there are
//! unanswered writes that could have made them.
//!
//! Nothing of the server is used here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::history::{Action, Answer, History, NEVER, Nanos, Operation};

/// What a history breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A value is read that nobody asked to be written there, or not yet, or whose write was refused.
    Origin,
    /// Two writes made the same version, or one version has two values or two zxids.
    OneVersion,
    /// Two transactions have the same zxid, or a later version has the smaller one.
    ZxidOrder,
    /// A write that was answered before another was asked for comes after it.
    RealTime,
    /// A session sees something older than what it had seen, or not what it had written.
    SessionOrder,
    /// A read shows an older or a newer value than there was at its zxid: what was acknowledged is lost or not yet there.
    Newest,
    /// A conditional write was done although its condition was not met, or refused although it was.
    Condition,
    /// A version was made by nobody.
    Nobody,
}

/// A broken rule, with the operations that show it.
#[derive(Debug)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// What a history that keeps all rules consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub reads: usize,
    pub writes: usize,
    pub refused: usize,
    pub unanswered: usize,
    /// Of the unanswered writes, those that were done as far as anybody knows.
    pub done: usize,
}

/// Checks all rules.
pub fn check(history: &History) -> Result<Summary, Violation> {
    let mut order = Order::of(history)?;
    order.fill_gaps(history)?;
    order.check_zxids(history)?;
    check_real_time(history, &order)?;
    check_sessions(history, &order)?;
    for operation in &history.operations {
        match operation.answer {
            Answer::Read { .. } => order.check_read(operation)?,
            Answer::WrongVersion { .. } => order.check_refusal(operation)?,
            Answer::Written { .. } | Answer::Nothing => {}
        }
    }
    let count = |is: fn(&Operation) -> bool| history.operations.iter().filter(|operation| is(operation)).count();
    Ok(Summary {
        reads: count(|operation| matches!(operation.answer, Answer::Read { .. })),
        writes: count(|operation| matches!(operation.answer, Answer::Written { .. })),
        refused: count(|operation| matches!(operation.answer, Answer::WrongVersion { .. })),
        unanswered: count(|operation| operation.answer == Answer::Nothing),
        done: order.done,
    })
}

/// One version of a znode.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// `None` if nobody has ever seen it.
    value: Option<u64>,
    zxid: Option<i64>,
}

/// The versions of each znode, as the answers tell of them.
struct Order {
    keys: Vec<BTreeMap<i32, Version>>,
    /// What is known of unanswered writes: the zxid of those that somebody saw, by the number of the operation.
    seen: HashMap<usize, i64>,
    done: usize,
}

impl Order {
    fn of(history: &History) -> Result<Order, Violation> {
        let first = |zxid: &i64| BTreeMap::from([(0, Version { value: Some(0), zxid: Some(*zxid) })]);
        let mut order = Order { keys: history.created.iter().map(first).collect(), seen: HashMap::new(), done: 0 };
        let mut writers = HashMap::new();
        for (number, operation) in history.operations.iter().enumerate() {
            let Action::Write { value, expected } = operation.action else { continue };
            assert!(writers.insert(value, number).is_none() && value != 0, "the test's own values are unique");
            if let Answer::Written { version, zxid } = operation.answer {
                order.add(operation, version, value, zxid)?;
                if expected.is_some_and(|expected| expected + 1 != version) {
                    return Err(violation(Rule::Condition, &[operation]));
                }
            }
        }
        for operation in &history.operations {
            let Answer::Read { value, version, mzxid, .. } = operation.answer else { continue };
            if value == 0 {
                order.add(operation, version, value, mzxid)?;
                continue;
            }
            let Some(number) = writers.get(&value) else { return Err(violation(Rule::Origin, &[operation])) };
            let writer = &history.operations[*number];
            let is_refused = matches!(writer.answer, Answer::WrongVersion { .. });
            if writer.key != operation.key || writer.called > operation.answered || is_refused {
                return Err(violation(Rule::Origin, &[operation, writer]));
            }
            order.add(operation, version, value, mzxid)?;
            if writer.answer == Answer::Nothing {
                if matches!(writer.action, Action::Write { expected: Some(expected), .. } if expected + 1 != version) {
                    return Err(violation(Rule::Condition, &[operation, writer]));
                }
                order.seen.insert(*number, mzxid);
            }
        }
        // Two versions of one value would be a write that was done twice.
        for versions in &order.keys {
            let mut values = BTreeSet::new();
            if let Some((version, _)) = versions.iter().find(|(_, version)| !values.insert(version.value)) {
                return Err(Violation { rule: Rule::OneVersion, what: format!("version {version} repeats a value") });
            }
        }
        Ok(order)
    }

    /// Takes note of a version that an answer tells of.
    fn add(&mut self, told_by: &Operation, version: i32, value: u64, zxid: i64) -> Result<(), Violation> {
        let told = Version { value: Some(value), zxid: Some(zxid) };
        let known = self.keys[told_by.key].entry(version).or_insert(told);
        let is_same = (known.value, known.zxid) == (told.value, told.zxid);
        // A write tells of a version once. That it tells of one that another write has made shows by the value.
        if is_same { Ok(()) } else { Err(violation(Rule::OneVersion, &[told_by])) }
    }

    /// Gives each version that nobody saw to an unanswered write.
    ///
    /// Such writes can stand for each other, because nobody ever saw their values. What counts is that each was asked for
    /// before a later version was seen, so the earliest serve best; and a conditional one serves at one place only.
    fn fill_gaps(&mut self, history: &History) -> Result<(), Violation> {
        for (key, versions) in self.keys.iter_mut().enumerate() {
            let unanswered = history.operations.iter().enumerate().filter(|(number, operation)| {
                operation.key == key && operation.answer == Answer::Nothing && !self.seen.contains_key(number)
            });
            let mut unconditional = BTreeSet::new();
            let mut conditional: BTreeMap<i32, Nanos> = BTreeMap::new();
            for (number, operation) in unanswered {
                match operation.action {
                    Action::Read => {}
                    Action::Write { expected: None, .. } => drop(unconditional.insert((operation.called, number))),
                    Action::Write { expected: Some(expected), .. } => {
                        let earliest = conditional.entry(expected + 1).or_insert(NEVER);
                        *earliest = operation.called.min(*earliest);
                    }
                }
            }
            let last = *versions.last_key_value().expect("version 0").0;
            // When each later version had been seen, at the latest.
            let seen = first_seen(history, key);
            for missing in 0..=last {
                if versions.contains_key(&missing) {
                    continue;
                }
                let before = seen.range(missing..).map(|(_, nanos)| *nanos).min().unwrap_or(NEVER);
                let is_filled = conditional.get(&missing).is_some_and(|called| *called < before) || {
                    let earliest = unconditional.first().copied().filter(|(called, _)| *called < before);
                    earliest.is_some_and(|earliest| unconditional.remove(&earliest))
                };
                if !is_filled {
                    let what = format!("version {missing} of znode {key} was made by no write that anybody asked for");
                    return Err(Violation { rule: Rule::Nobody, what });
                }
                versions.insert(missing, Version { value: None, zxid: None });
                self.done += 1;
            }
        }
        self.done += self.seen.len();
        Ok(())
    }

    /// Zxids rise with the versions, and each belongs to one transaction.
    fn check_zxids(&self, history: &History) -> Result<(), Violation> {
        let mut all = BTreeSet::new();
        let mut once = |zxid: i64| {
            let what = || format!("two transactions have zxid {zxid:#x}");
            if all.insert(zxid) { Ok(()) } else { Err(Violation { rule: Rule::ZxidOrder, what: what() }) }
        };
        for (key, versions) in self.keys.iter().enumerate() {
            let mut before = 0;
            for (version, zxid) in versions.iter().filter_map(|(version, known)| Some((*version, known.zxid?))) {
                if zxid <= before {
                    let what =
                        format!("version {version} of znode {key} has zxid {zxid:#x}, one before has {before:#x}");
                    return Err(Violation { rule: Rule::ZxidOrder, what });
                }
                before = zxid;
                once(zxid)?;
            }
        }
        for operation in &history.operations {
            if let Answer::WrongVersion { zxid } = operation.answer {
                once(zxid)?;
            }
        }
        Ok(())
    }

    /// The zxid of the next version after this one of which the zxid is known.
    fn zxid_after(&self, key: usize, version: i32) -> Option<(i32, i64)> {
        self.keys[key].range(version + 1..).find_map(|(version, known)| Some((*version, known.zxid?)))
    }

    fn check_read(&self, read: &Operation) -> Result<(), Violation> {
        let Answer::Read { version, mzxid, zxid, .. } = read.answer else { return Ok(()) };
        let is_over = self.zxid_after(read.key, version).is_some_and(|(_, after)| after <= zxid);
        if mzxid > zxid || is_over { Err(violation(Rule::Newest, &[read])) } else { Ok(()) }
    }

    fn check_refusal(&self, write: &Operation) -> Result<(), Violation> {
        let Answer::WrongVersion { zxid } = write.answer else { return Ok(()) };
        let Action::Write { expected: Some(expected), .. } = write.action else {
            return Err(violation(Rule::Condition, &[write]));
        };
        let made = self.keys[write.key].get(&expected).and_then(|known| known.zxid);
        // Where the next version's zxid is not known it may have been there already.
        let next = self.keys[write.key].get(&(expected + 1)).map(|known| known.zxid);
        let is_met =
            made.is_some_and(|made| made < zxid) && next.is_none_or(|next| next.is_some_and(|next| next > zxid));
        if is_met { Err(violation(Rule::Condition, &[write])) } else { Ok(()) }
    }
}

/// When the answers had come that tell of each version of a znode: the first of them.
fn first_seen(history: &History, key: usize) -> BTreeMap<i32, Nanos> {
    let mut seen: BTreeMap<i32, Nanos> = BTreeMap::new();
    for operation in history.operations.iter().filter(|operation| operation.key == key) {
        if let Answer::Read { version, .. } | Answer::Written { version, .. } = operation.answer {
            let first = seen.entry(version).or_insert(NEVER);
            *first = operation.answered.min(*first);
        }
    }
    seen
}

/// The zxid that a write took, if it is known.
fn zxid_of_write(number: usize, operation: &Operation, order: &Order) -> Option<i64> {
    match operation.answer {
        Answer::Written { zxid, .. } | Answer::WrongVersion { zxid } => Some(zxid),
        Answer::Nothing => order.seen.get(&number).copied(),
        Answer::Read { .. } => None,
    }
}

fn check_real_time(history: &History, order: &Order) -> Result<(), Violation> {
    let writes = history.operations.iter().enumerate();
    let mut writes: Vec<(i64, &Operation)> =
        writes.filter_map(|(number, operation)| Some((zxid_of_write(number, operation, order)?, operation))).collect();
    writes.sort_unstable_by_key(|(zxid, _)| *zxid);
    let mut latest: Option<&Operation> = None;
    for (_, write) in writes {
        if let Some(latest) = latest.filter(|latest| latest.called > write.answered) {
            return Err(violation(Rule::RealTime, &[latest, write]));
        }
        if latest.is_none_or(|latest| latest.called < write.called) {
            latest = Some(write);
        }
    }
    Ok(())
}

fn check_sessions(history: &History, order: &Order) -> Result<(), Violation> {
    /// The latest zxids of a session with the operations that tell of them: what it was told, and what it has written, be
    /// that told or not.
    #[derive(Default)]
    struct Latest<'a> {
        told: Option<(i64, &'a Operation)>,
        written: Option<(i64, &'a Operation)>,
    }
    let mut sessions: HashMap<usize, Latest> = HashMap::new();
    for (number, operation) in history.operations.iter().enumerate() {
        let latest = sessions.entry(operation.session).or_default();
        if let Answer::Read { zxid, .. } = operation.answer {
            // Whether a read must see a write that was not answered depends on when that was done, which nobody knows.
            if let Some((_, before)) = latest.told.filter(|(before, _)| zxid < *before) {
                return Err(violation(Rule::SessionOrder, &[before, operation]));
            }
            latest.told = Some((zxid, operation));
        } else if let Some(zxid) = zxid_of_write(number, operation, order) {
            for (before, by) in [latest.told, latest.written].into_iter().flatten() {
                if zxid <= before {
                    return Err(violation(Rule::SessionOrder, &[by, operation]));
                }
            }
            latest.written = Some((zxid, operation));
            if operation.answer != Answer::Nothing {
                latest.told = Some((zxid, operation));
            }
        }
    }
    Ok(())
}

fn violation(rule: Rule, operations: &[&Operation]) -> Violation {
    let lines: Vec<String> = operations.iter().map(|operation| format!("{operation:?}")).collect();
    Violation { rule, what: lines.join("\n    ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(session: usize, at: Nanos, (value, version, mzxid): (u64, i32, i64), zxid: i64) -> Operation {
        let answer = Answer::Read { value, version, mzxid, zxid };
        Operation { session, key: 0, action: Action::Read, called: at, answered: at + 10, answer }
    }

    fn write(session: usize, at: Nanos, value: u64, version: i32, zxid: i64) -> Operation {
        let action = Action::Write { value, expected: None };
        let answer = Answer::Written { version, zxid };
        Operation { session, key: 0, action, called: at, answered: at + 10, answer }
    }

    fn unanswered(session: usize, at: Nanos, value: u64) -> Operation {
        Operation { answered: NEVER, answer: Answer::Nothing, ..write(session, at, value, 0, 0) }
    }

    fn on_condition(expected: i32, operation: Operation) -> Operation {
        let Action::Write { value, .. } = operation.action else { panic!("not a write") };
        Operation { action: Action::Write { value, expected: Some(expected) }, ..operation }
    }

    fn refused(session: usize, at: Nanos, value: u64, expected: i32, zxid: i64) -> Operation {
        let answer = Answer::WrongVersion { zxid };
        on_condition(expected, Operation { answer, ..write(session, at, value, 0, 0) })
    }

    fn judge(operations: &[Operation]) -> Result<Summary, Violation> {
        check(&History { created: vec![1, 2], operations: operations.to_vec() })
    }

    #[track_caller]
    fn assert_breaks(rule: Rule, operations: &[Operation]) {
        let violation = judge(operations).expect_err("the history is broken");
        assert_eq!(violation.rule, rule, "{violation}");
    }

    /// Two sessions, one of them on a server that is behind; a write that was lost and one that was done without an answer.
    fn good() -> Vec<Operation> {
        vec![
            read(1, 0, (0, 0, 1), 2),
            write(1, 20, 11, 1, 5),
            read(2, 40, (0, 0, 1), 4),
            refused(2, 60, 12, 0, 6),
            on_condition(1, write(2, 80, 13, 2, 7)),
            read(1, 100, (11, 1, 5), 6),
            unanswered(3, 110, 14),
            unanswered(4, 110, 15),
            read(1, 120, (14, 3, 9), 10),
            read(2, 140, (13, 2, 7), 7),
            write(2, 160, 16, 4, 11),
        ]
    }

    #[test]
    fn what_zookeeper_promises_is_accepted() {
        let summary = judge(&good()).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(summary, Summary { reads: 5, writes: 3, refused: 1, unanswered: 2, done: 1 });
    }

    #[test]
    fn a_value_must_have_been_asked_for_there_before_and_not_refused() {
        assert_breaks(Rule::Origin, &[read(1, 0, (99, 1, 5), 5)]);
        assert_breaks(Rule::Origin, &[read(1, 0, (11, 1, 5), 5), write(1, 20, 11, 1, 5)]);
        let elsewhere = Operation { key: 1, ..write(1, 0, 11, 1, 5) };
        assert_breaks(Rule::Origin, &[elsewhere, read(1, 20, (11, 1, 5), 5)]);
        assert_breaks(Rule::Origin, &[refused(1, 0, 11, 3, 5), read(1, 20, (11, 1, 5), 5)]);
    }

    #[test]
    fn a_version_has_one_writer() {
        assert_breaks(Rule::OneVersion, &[write(1, 0, 11, 1, 5), write(2, 0, 12, 1, 6)]);
        // Done twice: retried by a server on its own.
        assert_breaks(Rule::OneVersion, &[unanswered(1, 0, 11), read(1, 9, (11, 1, 5), 5), read(1, 30, (11, 2, 6), 6)]);
        // A write was lost, and its version made again in another epoch.
        let after = read(2, 30, (12, 1, 1 << 32 | 1), 1 << 32 | 1);
        assert_breaks(Rule::OneVersion, &[write(1, 0, 11, 1, 5), unanswered(2, 20, 12), after]);
    }

    #[test]
    fn an_acknowledged_write_must_not_be_lost() {
        assert_breaks(Rule::Newest, &[write(1, 0, 11, 1, 5), read(2, 20, (0, 0, 1), 7)]);
        assert_breaks(Rule::Newest, &[write(1, 0, 11, 1, 5), write(1, 20, 12, 2, 6), read(2, 40, (11, 1, 5), 6)]);
    }

    #[test]
    fn a_read_must_not_show_what_is_not_applied_yet() {
        assert_breaks(Rule::Newest, &[write(1, 0, 11, 1, 5), read(2, 20, (11, 1, 5), 4)]);
    }

    #[test]
    fn zxids_rise_and_belong_to_one_transaction_each() {
        assert_breaks(Rule::ZxidOrder, &[write(1, 0, 11, 1, 6), write(2, 0, 12, 2, 5)]);
        assert_breaks(Rule::ZxidOrder, &[write(1, 0, 11, 1, 6), refused(2, 0, 12, 7, 6)]);
        let other = Operation { key: 1, ..write(2, 0, 12, 1, 6) };
        assert_breaks(Rule::ZxidOrder, &[write(1, 0, 11, 1, 6), other]);
    }

    #[test]
    fn real_time_holds_between_sessions_and_znodes() {
        let other = Operation { key: 1, ..write(2, 20, 12, 1, 5) };
        assert_breaks(Rule::RealTime, &[write(1, 0, 11, 1, 6), other]);
        assert_breaks(Rule::RealTime, &[write(1, 0, 11, 1, 6), refused(2, 20, 12, 7, 5)]);
        // At the same time either may come first.
        let other = Operation { key: 1, ..write(2, 5, 12, 1, 5) };
        judge(&[write(1, 0, 11, 1, 6), other]).unwrap_or_else(|violation| panic!("{violation}"));
    }

    #[test]
    fn a_session_sees_what_it_wrote_and_nothing_older_than_what_it_saw() {
        assert_breaks(Rule::SessionOrder, &[write(1, 0, 11, 1, 5), read(1, 20, (0, 0, 1), 4)]);
        let read_twice = [write(1, 0, 11, 1, 5), read(2, 20, (11, 1, 5), 6), read(2, 40, (11, 1, 5), 5)];
        assert_breaks(Rule::SessionOrder, &read_twice);
        // Seen through one znode, hidden in the other.
        let other = Operation { key: 1, ..read(2, 40, (0, 0, 2), 4) };
        assert_breaks(Rule::SessionOrder, &[write(1, 0, 11, 1, 5), read(2, 20, (11, 1, 5), 5), other]);
        // A write over a lost connection may be done long after, but not behind what the session wrote afterwards.
        let lost = unanswered(2, 0, 11);
        let in_time = [lost, write(2, 40, 12, 2, 6), read(1, 80, (11, 1, 5), 5)];
        judge(&in_time).unwrap_or_else(|violation| panic!("{violation}"));
        assert_breaks(Rule::SessionOrder, &[lost, write(2, 40, 12, 1, 5), read(1, 80, (11, 2, 6), 6)]);
    }

    #[test]
    fn conditions_are_kept() {
        assert_breaks(Rule::Condition, &[on_condition(3, write(1, 0, 11, 1, 5))]);
        assert_breaks(Rule::Condition, &[write(1, 0, 11, 1, 5), refused(2, 20, 12, 1, 6)]);
        assert_breaks(Rule::Condition, &[on_condition(3, unanswered(1, 0, 11)), read(1, 20, (11, 1, 5), 5)]);
        let not_conditional = Operation { answer: Answer::WrongVersion { zxid: 5 }, ..write(1, 0, 11, 1, 5) };
        assert_breaks(Rule::Condition, &[not_conditional]);
    }

    #[test]
    fn versions_that_nobody_saw_need_writes_that_nobody_was_told_of() {
        let jump = [write(1, 0, 11, 1, 5), write(1, 20, 12, 3, 7)];
        assert_breaks(Rule::Nobody, &jump);
        let explained = [jump[0], unanswered(2, 0, 13), jump[1]];
        judge(&explained).unwrap_or_else(|violation| panic!("{violation}"));
        let too_late = [jump[0], unanswered(2, 40, 13), jump[1]];
        assert_breaks(Rule::Nobody, &too_late);
        let elsewhere = [jump[0], on_condition(0, unanswered(2, 0, 13)), jump[1]];
        assert_breaks(Rule::Nobody, &elsewhere);
        let conditional = [jump[0], on_condition(1, unanswered(2, 0, 13)), jump[1]];
        judge(&conditional).unwrap_or_else(|violation| panic!("{violation}"));
    }
}
