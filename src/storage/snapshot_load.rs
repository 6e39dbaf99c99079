//! Reads a snapshot with the cores there are.
//!
//! Making a znode of its record (allocating it, its digest, the hash of its name) is most of the work, and needs nothing
//! but the record. So the calling thread reads the file, sums it up, and cuts it into batches of whole records; helper
//! threads make znodes of them; and the calling thread puts these into the tree in their order. Where the helpers have
//! enough to do it makes znodes too, so that with two cores neither waits for the other.
//!
//! ```text
//! caller    read, checksum, cut ──batch──▶ helper 0: make znodes ──▶ caller: into the tree
//!                               ──batch──▶ helper 1: make znodes ──▶ in the order in which they were cut
//!                               ──batch──▶ caller:   make znodes ──▶
//! ```

use std::collections::VecDeque;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread::{self, Scope};

use super::snapshot_format::{Decoded, Decoder, Form, FormatError, ZnodeParser, Znodes};
use crate::types::Zxid;

/// What is read and handed on at a time. A znode that is longer makes the buffer grow.
const BATCH_BYTES: usize = 1 << 20;
/// Helper threads at the most: with more of them, the calling thread is what the others wait for.
const HELPERS_MAX: usize = 4;
/// Batches that each helper, and the caller, has waiting or done, at the most.
const BATCHES_AHEAD: usize = 3;

/// Why a snapshot was not read.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be read.
    Io(io::Error),
    /// The bytes are not a snapshot.
    Format(FormatError),
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> LoadError {
        LoadError::Io(error)
    }
}

impl From<FormatError> for LoadError {
    fn from(error: FormatError) -> LoadError {
        LoadError::Format(error)
    }
}

/// Reads the state as of `zxid` from the bytes of a file. `progress` is told now and then how many were read.
pub fn load(mut from: impl Read, zxid: Zxid, mut progress: impl FnMut(u64)) -> Result<Decoded, LoadError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = (cores - 1).clamp(1, HELPERS_MAX);
    let mut decoder = Decoder::new(Form::File, zxid);
    let rest = thread::scope(|scope| {
        let mut crew: Option<Crew> = None;
        let (mut buffer, mut filled, mut bytes) = (vec![0; BATCH_BYTES], 0, 0);
        loop {
            let is_end = fill(&mut from, &mut buffer, &mut filled, &mut bytes)?;
            progress(bytes);
            let mut consumed = decoder.feed_tables(&buffer[..filled])?;
            if decoder.is_at_znodes() {
                let crew = crew.get_or_insert_with(|| Crew::start(scope, helpers, decoder.parser()));
                let taken = match decoder.take_znodes(&buffer[consumed..filled]) {
                    Ok(taken) => taken,
                    Err(error) => {
                        // What is wrong before it is told in its place.
                        while crew.collect(&mut decoder, true)? {}
                        return Err(error.into());
                    }
                };
                let (start, end) = (consumed, consumed + taken.records);
                consumed += taken.consumed;
                let mut next = crew.spare.pop().unwrap_or_default();
                // One that was used before is as long as it must be, and is not cleared again.
                let rest = filled - consumed;
                next.resize(BATCH_BYTES.max(2 * rest).max(next.len()), 0);
                next[..rest].copy_from_slice(&buffer[consumed..filled]);
                filled = rest;
                let bytes = std::mem::replace(&mut buffer, next);
                crew.hand_out(Batch { bytes, start, end, offset: taken.offset }, &mut decoder)?;
            } else {
                buffer.copy_within(consumed..filled, 0);
                filled -= consumed;
                buffer.resize(BATCH_BYTES.max(2 * filled), 0);
            }
            if is_end {
                while let Some(crew) = &mut crew
                    && crew.collect(&mut decoder, true)?
                {}
                buffer.truncate(filled);
                return Ok::<_, LoadError>(buffer);
            }
        }
    })?;
    Ok(decoder.finish(&rest)?)
}

/// Reads until the buffer is full; true at the end of the file.
fn fill(from: &mut impl Read, buffer: &mut [u8], filled: &mut usize, bytes: &mut u64) -> io::Result<bool> {
    while *filled < buffer.len() {
        match from.read(&mut buffer[*filled..]) {
            Ok(0) => return Ok(true),
            Ok(len) => {
                *filled += len;
                *bytes += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whole records of znodes.
struct Batch {
    bytes: Vec<u8>,
    /// Where they begin and end in `bytes`.
    start: usize,
    end: usize,
    /// Where they stand in the snapshot.
    offset: u64,
}

impl Batch {
    fn records(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

type Made = (Batch, Result<Znodes, FormatError>);

/// Who has a batch that was cut.
enum Out {
    /// That helper.
    With(usize),
    /// Nobody any more.
    Done(Made),
}

/// The helper threads. They end with the scope, once this is dropped.
struct Crew {
    helpers: Vec<(SyncSender<Batch>, Receiver<Made>)>,
    parser: ZnodeParser,
    /// The batches that were handed out and not collected, oldest first.
    out: VecDeque<Out>,
    next: usize,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

impl Crew {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, helpers: usize, parser: &ZnodeParser) -> Crew {
        let start_one = |_| {
            let (batches, take) = mpsc::sync_channel::<Batch>(BATCHES_AHEAD);
            let (give, made) = mpsc::sync_channel::<Made>(BATCHES_AHEAD);
            let parser = parser.clone();
            scope.spawn(move || {
                // Either end goes when the load is over, or has failed.
                for batch in take {
                    let znodes = parser.parse(batch.records(), batch.offset);
                    if give.send((batch, znodes)).is_err() {
                        return;
                    }
                }
            });
            (batches, made)
        };
        let helpers = (0..helpers).map(start_one).collect();
        Crew { helpers, parser: parser.clone(), out: VecDeque::new(), next: 0, spare: Vec::new() }
    }

    /// Hands a batch to a helper, or does its work where the helper has enough; and collects what is done.
    fn hand_out(&mut self, batch: Batch, decoder: &mut Decoder) -> Result<(), FormatError> {
        while self.out.len() >= (self.helpers.len() + 1) * BATCHES_AHEAD && self.collect(decoder, true)? {}
        match self.helpers[self.next].0.try_send(batch) {
            Ok(()) => self.out.push_back(Out::With(self.next)),
            Err(TrySendError::Full(batch)) => {
                let znodes = self.parser.parse(batch.records(), batch.offset);
                self.out.push_back(Out::Done((batch, znodes)));
            }
            // It has panicked, and the scope's end tells of it.
            Err(TrySendError::Disconnected(_)) => {}
        }
        self.next = (self.next + 1) % self.helpers.len();
        while self.collect(decoder, false)? {}
        Ok(())
    }

    /// Puts the znodes of the oldest batch into the tree. False if there is none, or if it is not done and nobody `waits`.
    fn collect(&mut self, decoder: &mut Decoder, waits: bool) -> Result<bool, FormatError> {
        let (batch, znodes) = match self.out.pop_front() {
            None => return Ok(false),
            Some(Out::Done(made)) => made,
            Some(Out::With(helper)) => {
                let made = &self.helpers[helper].1;
                match if waits { made.recv().map_err(TryRecvError::from) } else { made.try_recv() } {
                    Ok(made) => made,
                    Err(TryRecvError::Empty) => {
                        self.out.push_front(Out::With(helper));
                        return Ok(false);
                    }
                    // See above.
                    Err(TryRecvError::Disconnected) => return Ok(true),
                }
            }
        };
        decoder.link(batch.records(), znodes?)?;
        self.spare.push(batch.bytes);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::AclList;
    use crate::storage::snapshot_format::{Encoder, SnapshotSource};
    use crate::tree::{DataTree, Loader, Meta, Owner};
    use crate::types::WallMs;

    /// A state whose snapshot is several batches long, with one znode longer than a batch.
    fn state() -> DataTree {
        let mut loader = Loader::default();
        let meta = Meta::created(Zxid(1), WallMs(1), Owner::NONE);
        let long = vec![b'x'; BATCH_BYTES + BATCH_BYTES / 2];
        loader.znode("", None, AclList::OPEN, meta).unwrap();
        for parent in 0..40 {
            loader.znode(&format!("/{parent}"), None, AclList::OPEN, meta).unwrap();
            for child in 0..200 {
                let path = format!("/{parent}/{child}");
                let data = if (parent, child) == (17, 5) { &long[..] } else { &long[..600] };
                loader.znode(&path, Some(data), AclList::OPEN, meta).unwrap();
            }
        }
        loader.finish(Zxid(9)).unwrap()
    }

    fn encode(data_tree: &DataTree) -> Vec<u8> {
        let source = SnapshotSource::of(data_tree, true);
        let mut encoder = Encoder::new(&source, Form::File);
        let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
        while encoder.next_chunk(&mut chunk) {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    /// Gives a few bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.1);
            self.0.read(&mut buffer[..len])
        }
    }

    #[test]
    fn what_comes_in_batches_is_the_same_tree() {
        let data_tree = state();
        let bytes = encode(&data_tree);
        assert!(bytes.len() > 5 * BATCH_BYTES);
        for piece in [usize::MAX, 10_007] {
            let mut seen = 0;
            let loaded = load(Trickle(&bytes, piece), Zxid(9), |bytes| seen = bytes).unwrap().data_tree;
            assert_eq!(seen, bytes.len() as u64);
            assert!(encode(&loaded) == bytes, "another tree");
        }
    }

    #[test]
    fn what_is_wrong_in_any_batch_is_an_error_that_says_where() {
        let bytes = encode(&state());
        let error = |bytes: &[u8]| match load(bytes, Zxid(9), |_| {}) {
            Err(LoadError::Format(error)) => error,
            Err(LoadError::Io(error)) => panic!("{error}"),
            Ok(_) => panic!("it was loaded"),
        };
        for at in (100..bytes.len()).step_by(bytes.len() / 50) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            error(&damaged);
            let cut = error(&bytes[..at]);
            assert!(cut.offset <= at as u64, "{cut} where {at} bytes are left");
        }
        // The last znode hangs under no parent.
        let name = bytes.windows(7).rposition(|window| window == b"/39/199").unwrap();
        let mut orphan = bytes.clone();
        orphan[name..name + 7].copy_from_slice(b"/no/199");
        let orphan = error(&orphan);
        assert_eq!(
            (orphan.offset, orphan.what.as_str()),
            (name as u64 - 4, "the znode \"/no/199\" does not follow its parent")
        );
    }
}
