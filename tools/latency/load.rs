//! A run from beginning to end: make the subtree, put it under load, remove it.
//!
//! ```text
//! <prefix>/run-<time>-<pid>      the root: new for every run
//!     /p00000                    one parent a connection, so no znode grows wide by all of them
//!         /n0000000000 …         the keys, or what the creates made
//! ```

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io, process, thread};

use ringkeeper::proto::ErrorCode;

use crate::clock::now_ns;
use crate::connection::{Lane, Mix};
use crate::dial::{Control, Server, open_sessions};
use crate::during::{During, Runner};
use crate::fanout::{self, FannedOut};
use crate::faults::Faults;
use crate::live::Live;
use crate::options::{LoadOptions, Op};
use crate::progress::Progress;
use crate::recorder::{Recorder, Summary, Window};
use crate::request::{Kind, parent_path};
use crate::schedule::Schedule;
use crate::sessions;
use crate::worker::{Backlog, Pacing, Recovery, Worker};

/// Unanswered requests on each connection while the subtree is made and removed.
const BULK_OUTSTANDING: usize = 32;
/// No end but the work's own.
const NO_END: u64 = u64::MAX;

/// What a run came to.
pub struct Outcome {
    /// The measurement.
    pub summary: Summary,
    /// For an open loop.
    pub backlog: Option<Backlog>,
    /// What went wrong, from the measurement on.
    pub faults: Faults,
    /// What came of lost connections in the measurement.
    pub recovery: Recovery,
    /// The command that was run during the measurement.
    pub during: Option<During>,
    /// The subtree, if it was left in place.
    pub kept: Option<String>,
    /// Time to make the keys.
    pub prepare_ns: u64,
    /// Time to remove the subtree.
    pub clean_up_ns: u64,
}

/// Carries out the load. An error is what kept it from being measured at all.
pub fn run(options: &LoadOptions) -> Result<Outcome, Box<dyn Error>> {
    if matches!(options.op, Op::Session | Op::Resume) {
        return sessions::run(options);
    }
    // All keys of a fan-out are below one parent.
    let around = match options.op {
        Op::Watch => LoadOptions { connections: 1, threads: 1, ..options.clone() },
        _ => options.clone(),
    };
    let mut trial = Trial::open(&around)?;
    let mut outcome = match options.op {
        Op::Watch => trial.measure_fan_out(options, &around)?,
        _ => trial.measure(options, "")?,
    };
    trial.close(&around, &mut outcome)?;
    Ok(outcome)
}

/// Carries out a load again and again with the same sessions and znodes, as `next` says: from what the runs so far came
/// to, it makes the options of the next one, or `None` when that was the last.
pub fn run_steps(
    options: &LoadOptions,
    mut next: impl FnMut(&[(LoadOptions, Outcome)]) -> Option<LoadOptions>,
) -> Result<Vec<(LoadOptions, Outcome)>, Box<dyn Error>> {
    let mut trial = Trial::open(options)?;
    let mut steps = Vec::new();
    while let Some(step) = next(&steps) {
        let outcome = trial.measure(&step, &format!("step {}: ", steps.len() + 1))?;
        let is_broken = outcome.faults.lost > 0;
        steps.push((step, outcome));
        if is_broken {
            break;
        }
    }
    if let Some((_, last)) = steps.last_mut() {
        trial.close(options, last)?;
    }
    Ok(steps)
}

/// A subtree with its keys, and the sessions that load it.
struct Trial {
    servers: Arc<[Server]>,
    top: Top,
    load: Load,
    prepare_ns: u64,
}

impl Trial {
    fn open(options: &LoadOptions) -> Result<Trial, Box<dyn Error>> {
        let servers: Arc<[Server]> =
            options.servers.iter().map(|name| Server::resolve(name)).collect::<Result<_, _>>()?;
        let top = Top::make(&servers, options)?;
        let prepare_start_ns = now_ns();
        let mut load = Load::open(options, &servers, &top.root, Shares::new(options))?;
        load.prepare()?;
        let prepare_ns = now_ns() - prepare_start_ns;
        Ok(Trial { servers, top, load, prepare_ns })
    }

    /// One measurement; `label` goes before the progress line.
    fn measure(&mut self, options: &LoadOptions, label: &str) -> Result<Outcome, Box<dyn Error>> {
        let Measured { summary, backlog, during } = self.load.measure(options, label)?;
        let (faults, recovery) = (self.load.take_faults(), self.load.take_recovery());
        let prepare_ns = self.prepare_ns;
        Ok(Outcome { summary, backlog, faults, recovery, during, kept: None, prepare_ns, clean_up_ns: 0 })
    }

    /// The measurement of a fan-out, with sessions of its own.
    fn measure_fan_out(&mut self, options: &LoadOptions, around: &LoadOptions) -> Result<Outcome, Box<dyn Error>> {
        // These sessions would fall asleep meanwhile.
        self.load.close()?;
        let sessions = open_sessions(&self.servers, options.connections as usize, options.session_timeout)?;
        let fanned_out = fanout::run(options, &self.servers, sessions, &self.top.root, options.keys())?;
        let FannedOut { summary, backlog, faults } = fanned_out;
        let present = std::mem::take(&mut self.load.present);
        self.load = Load::open(around, &self.servers, &self.top.root, self.load.shares)?;
        self.load.present = present;
        let (recovery, during, prepare_ns) = (Recovery::default(), None, self.prepare_ns);
        Ok(Outcome { summary, backlog, faults, recovery, during, kept: None, prepare_ns, clean_up_ns: 0 })
    }

    /// Removes the subtree and ends the sessions; what becomes of that is noted in the last outcome.
    fn close(mut self, options: &LoadOptions, outcome: &mut Outcome) -> Result<(), Box<dyn Error>> {
        let clean_up_start_ns = now_ns();
        let Outcome { faults, kept, .. } = outcome;
        if options.keep {
            *kept = Some(self.top.root);
        } else {
            self.load.clean_up(faults)?;
            // Lost connections may leave znodes that nobody knows of: the faults tell already.
            if !self.load.is_connected() {
                faults.say(format!("{} is left behind: no connection is left to remove it with", self.top.root));
            } else if let Err(error) = self.top.remove(&self.servers, options) {
                if faults.is_empty() {
                    return Err(error);
                }
                faults.say(error.to_string());
            }
        }
        outcome.clean_up_ns = now_ns() - clean_up_start_ns;
        self.load.close()
    }
}

/// The top of the subtree: what exists before any load.
struct Top {
    root: String,
    /// Components of the prefix that did not exist before, the outermost first.
    made: Vec<String>,
}

impl Top {
    fn make(servers: &[Server], options: &LoadOptions) -> Result<Top, Box<dyn Error>> {
        let mut control = Control::open(servers, options.session_timeout)?;
        let mut made = Vec::new();
        for (end, _) in options.prefix.match_indices('/').skip(1).chain([(options.prefix.len(), "")]) {
            let path = &options.prefix[..end];
            match control.create(path)? {
                0 => made.push(path.to_owned()),
                err if err == ErrorCode::NodeExists.code() => {}
                err => return Err(format!("creating {path}: error {err}").into()),
            }
        }
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let root = format!("{}/run-{time_ms}-{}", options.prefix, process::id());
        let parents = (0..options.connections).map(|parent| parent_path(&root, parent));
        for path in [root.clone()].into_iter().chain(parents) {
            match control.create(&path)? {
                0 => {}
                err => return Err(format!("creating {path}: error {err}").into()),
            }
        }
        control.close()?;
        Ok(Top { root, made })
    }

    fn remove(&self, servers: &[Server], options: &LoadOptions) -> Result<(), Box<dyn Error>> {
        let mut control = Control::open(servers, options.session_timeout)?;
        let parents = (0..options.connections).map(|parent| parent_path(&self.root, parent));
        for path in parents.chain([self.root.clone()]) {
            match control.delete(&path)? {
                0 => {}
                err => return Err(format!("{} is left behind: deleting {path}: error {err}", self.root).into()),
            }
        }
        for path in self.made.iter().rev() {
            match control.delete(path)? {
                0 => {}
                // Another run's subtree is there.
                err if err == ErrorCode::NotEmpty.code() => break,
                err => return Err(format!("deleting {path}: error {err}").into()),
            }
        }
        control.close()?;
        Ok(())
    }
}

/// How keys and operations are divided among connections.
#[derive(Clone, Copy)]
struct Shares {
    connections: u32,
    keys: u32,
    count: Option<u64>,
}

impl Shares {
    fn new(options: &LoadOptions) -> Shares {
        Shares { connections: options.connections, keys: options.keys(), count: options.count }
    }

    /// Keys below the connection's own parent.
    fn keys(self, connection: u32) -> u32 {
        self.keys / self.connections + u32::from(connection < self.keys % self.connections)
    }

    /// The parent of the keys that the connection works on: its own, unless there are fewer keys than connections.
    fn parent(self, connection: u32) -> u32 {
        if self.keys > 0 && self.keys < self.connections { connection % self.keys } else { connection }
    }

    /// Operations that the connection does in the measurement.
    fn operations(self, connection: u32) -> u64 {
        let connections = u64::from(self.connections);
        match self.count {
            Some(count) => count / connections + u64::from(u64::from(connection) < count % connections),
            None => u64::MAX,
        }
    }

    /// What the connection does in a measurement, in which `present` is what its own parent has.
    fn lane(self, connection: u32, options: &LoadOptions, present: &Range<u32>) -> Lane {
        if connection >= options.connections {
            return Lane::idle();
        }
        let parent = self.parent(connection);
        let operations = self.operations(connection);
        // Steps of a sweep with fewer connections leave out those with high numbers, and so their parents.
        let is_exclusive = self.keys >= self.connections;
        let around = |mix| {
            let around = Some(self.keys(parent));
            Lane { parent, mix, first: 0, around, spread: options.spread, is_exclusive, operations }
        };
        match options.op {
            Op::Set => around(Mix::Only(Kind::Set)),
            Op::Get => around(Mix::Only(Kind::Get)),
            Op::Multi => around(Mix::Only(Kind::Multi)),
            Op::Mixed => around(Mix::Reads(options.reads)),
            Op::Watch | Op::Session | Op::Resume => unreachable!("they have loops of their own"),
            Op::Create => Lane::growing(connection, Kind::Create, present.end, operations),
            Op::Delete => Lane::growing(connection, Kind::Delete, present.start, operations.min(present.len() as u64)),
        }
    }
}

/// What a measurement came to.
struct Measured {
    summary: Summary,
    /// For an open loop.
    backlog: Option<Backlog>,
    during: Option<During>,
}

/// The threads' workers. Connection `i` of the run is connection `i / threads` of worker `i % threads`.
struct Load {
    workers: Vec<Worker>,
    shares: Shares,
    /// Below each parent: the sequence numbers of the znodes that are there.
    present: Vec<Range<u32>>,
}

impl Load {
    fn open(
        options: &LoadOptions,
        servers: &Arc<[Server]>,
        root: &str,
        shares: Shares,
    ) -> Result<Load, Box<dyn Error>> {
        let threads = options.threads.min(options.connections) as usize;
        let sessions = open_sessions(servers, options.connections as usize, options.session_timeout)?;
        let mut by_worker: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        for (i, session) in sessions.into_iter().enumerate() {
            by_worker[i % threads].push(session);
        }
        let mut workers = Vec::new();
        for sessions in by_worker {
            workers.push(Worker::new(servers, sessions, root, options.size as usize, options.multi)?);
        }
        Ok(Load { workers, shares, present: vec![0..0; options.connections as usize] })
    }

    /// Makes the keys, and lets every connection see them.
    fn prepare(&mut self) -> Result<(), Box<dyn Error>> {
        let shares = self.shares;
        let create = |connection| Lane::growing(connection, Kind::Create, 0, shares.keys(connection).into());
        self.bulk("making the keys", create)?;
        // A connection to another server of an ensemble may lag behind the creates.
        self.bulk("", |connection| Lane::growing(connection, Kind::Sync, 0, 1))?;
        for (connection, present) in (0..).zip(&mut self.present) {
            *present = 0..shares.keys(connection);
        }
        let faults = self.take_faults();
        if faults.is_empty() { Ok(()) } else { Err(format!("making the keys: {}", in_words(&faults)).into()) }
    }

    fn measure(&mut self, options: &LoadOptions, label: &str) -> Result<Measured, Box<dyn Error>> {
        let shares = self.shares;
        let present = self.present.clone();
        self.assign(|connection| shares.lane(connection, options, &present[connection as usize]));
        // All threads begin at the same instant, a little from now.
        let start_ns = now_ns() + 1_000_000;
        let from_ns = start_ns + options.warmup_ns();
        let until_ns = options.duration_ns().map_or(NO_END, |duration_ns| from_ns + duration_ns);
        let window = Window { from_ns, until_ns, by_due_time: options.rate.is_some() };
        let threads = self.workers.len();
        let live = Arc::<Live>::default();
        let _progress = Progress::of_measurement(label, Arc::clone(&live), options);
        let at_ns = options.during_at_ns();
        let command = options.during.as_deref().map(|command| Runner::start(command, from_ns, at_ns));
        let results = self.each_worker(|thread, worker| {
            let server_pid = options.server_pid.filter(|_| thread == 0);
            let mut recorder = Recorder::new(window, Arc::clone(&live), server_pid);
            let pacing = match options.rate {
                Some(rate) => Pacing::Open(Schedule::new(start_ns, rate, thread, threads)),
                None => Pacing::Closed { outstanding: options.outstanding as usize },
            };
            thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
            let backlog = worker.run(pacing, until_ns, &mut recorder)?;
            Ok((recorder, backlog))
        })?;
        let during = command.map(Runner::finish);
        let mut recorders = Vec::new();
        let mut total = Backlog::default();
        for (recorder, backlog) in results {
            recorders.push(recorder);
            total.peak += backlog.peak;
            total.limit += backlog.limit;
            total.held_back += backlog.held_back;
            total.never_sent += backlog.never_sent;
        }
        self.note_what_is_present(options.op);
        Ok(Measured { summary: Recorder::summarize(recorders), backlog: options.rate.map(|_| total), during })
    }

    /// After the measurement: what creates have added, or deletes have left.
    fn note_what_is_present(&mut self, op: Op) {
        let threads = self.workers.len();
        for (i, present) in self.present.iter_mut().enumerate() {
            let next = self.workers[i % threads].connections[i / threads].next_sequence();
            match op {
                Op::Create => present.end = next,
                Op::Delete => present.start = next,
                _ => {}
            }
        }
    }

    /// Deletes the znodes below the parents.
    fn clean_up(&mut self, faults: &mut Faults) -> Result<(), Box<dyn Error>> {
        let any_lost = !faults.is_empty();
        let mut left: Vec<_> = (0..).zip(std::mem::take(&mut self.present)).filter(|(_, p)| !p.is_empty()).collect();
        // One round, unless connections were lost: then the others take over their parents.
        while !left.is_empty() && self.is_connected() {
            let threads = self.workers.len();
            for i in 0..self.shares.connections as usize {
                let worker = &mut self.workers[i % threads];
                if worker.connections[i / threads].link.is_over() {
                    continue;
                }
                let lane = left.pop().map_or(Lane::idle(), |(parent, present)| {
                    Lane::growing(parent, Kind::Delete, present.start, present.len() as u64)
                });
                worker.assign(i / threads, lane);
            }
            self.run_bulk("cleaning up")?;
        }
        let mut of_clean_up = self.take_faults();
        if any_lost {
            // Creates that were never answered may not have happened.
            of_clean_up.refused.remove(&(Kind::Delete.name(), ErrorCode::NoNode.code()));
        }
        faults.add(of_clean_up);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.workers.iter().flat_map(|worker| &worker.connections).any(|connection| !connection.link.is_over())
    }

    /// Ends the sessions.
    fn close(&mut self) -> Result<(), Box<dyn Error>> {
        self.bulk("", |_| Lane::growing(0, Kind::Close, 0, 1))
    }

    fn bulk(&mut self, label: &str, lane: impl Fn(u32) -> Lane) -> Result<(), Box<dyn Error>> {
        self.assign(lane);
        self.run_bulk(label)
    }

    fn run_bulk(&mut self, label: &str) -> Result<(), Box<dyn Error>> {
        let live = Arc::<Live>::default();
        let operations = self.workers.iter().flat_map(|worker| &worker.connections).map(|c| c.lane().operations).sum();
        let _progress = Progress::of_bulk(label, Arc::clone(&live), operations);
        let pacing = || Pacing::Closed { outstanding: BULK_OUTSTANDING };
        self.each_worker(|_, worker| worker.run(pacing(), NO_END, &mut Recorder::idle(Arc::clone(&live)))).map(drop)
    }

    /// Gives every connection that is left its work.
    fn assign(&mut self, lane: impl Fn(u32) -> Lane) {
        let threads = self.workers.len();
        for connection in 0..self.shares.connections {
            let i = connection as usize;
            if !self.workers[i % threads].connections[i / threads].link.is_over() {
                self.workers[i % threads].assign(i / threads, lane(connection));
            }
        }
    }

    /// Runs each worker on a thread of its own, or on this one if there is only one.
    fn each_worker<T: Send>(
        &mut self,
        work: impl Fn(usize, &mut Worker) -> io::Result<T> + Sync,
    ) -> Result<Vec<T>, Box<dyn Error>> {
        if let [worker] = &mut self.workers[..] {
            return Ok(vec![work(0, worker)?]);
        }
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(&mut self.workers)
                .map(|(thread, worker)| scope.spawn(move || work(thread, worker)))
                .collect();
            let mut results = Vec::new();
            for thread in threads {
                results.push(thread.join().map_err(|_| "a load thread panicked")??);
            }
            Ok(results)
        })
    }

    fn take_recovery(&mut self) -> Recovery {
        let mut recovery = Recovery::default();
        for worker in &mut self.workers {
            recovery.add(&std::mem::take(&mut worker.recovery));
        }
        recovery
    }

    fn take_faults(&mut self) -> Faults {
        let mut faults = Faults::default();
        for worker in &mut self.workers {
            faults.add(std::mem::take(&mut worker.faults));
        }
        faults
    }
}

fn in_words(faults: &Faults) -> String {
    let refused = faults.refused.iter().map(|((kind, err), count)| format!("{count} times error {err} to {kind}"));
    let words: Vec<String> = refused.chain(faults.messages.iter().cloned()).collect();
    words.join("; ")
}
