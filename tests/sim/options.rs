//! What a run is made of. All of it follows from the seed, and each can be set by name: so a failure can be repeated with
//! less of everything.

use std::fmt;

use ringkeeper::zab::history::Limits;

use crate::random::Random;

/// The options of one run. Faults are counted: so many of each kind happen before the faults end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    pub seed: u64,
    values: [u64; NAMES.len()],
}

macro_rules! options {
    ($($name:ident: $doc:literal,)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        // Faults are asked for by their names alone.
        #[allow(non_camel_case_types, dead_code)]
        enum At { $($name),* }
        #[allow(dead_code)]
        impl Options {
            $(#[doc = $doc] pub fn $name(&self) -> u64 { self.values[At::$name as usize] })*
        }
    };
}

options! {
    voters: "Participants.",
    observers: "Observers.",
    masters: "Whether followers serve the observers (`observerMasterPort`).",
    clients: "Clients.",
    seconds: "Simulated seconds with faults.",
    tick_ms: "`tickTime`.",
    shards: "Client shards of each server; the first is on the ordering shard's core.",
    flushes: "`ringkeeper.flushesInFlight`.",
    snap_count: "`snapCount`.",
    delay_us: "How long a packet takes, about.",
    flush_us: "How long a flush takes, about.",
    drift_ppm: "How much faster or slower than the others a server's clock runs, at the most.",
    think_ms: "Pause between two requests of a client, about.",
    depth: "Requests of a client that are under way at a time.",
    history: "Committed transactions that are kept for learners, who get a snapshot if they lack more.",
    stored_percent: "`snapshotSizeFactor`, in hundredths.",
    kills: "Processes that are killed; their kernel and its page cache live on.",
    powers: "Hosts that lose power, and unflushed writes with it.",
    groups: "Times that some hosts are cut off from the others.",
    oneways: "Times that packets are lost from one server to another, and not the other way.",
    slow_links: "Times that the packets between two servers take long.",
    slow_disks: "Times that the flushes of one server take long.",
    eio: "Flushes that fail.",
    pauses: "Processes that are stopped for a while.",
    jumps: "Times that a server's wall clock jumps.",
    blackouts: "Times that all servers lose power at once.",
    storms: "Times that all clients lose their connections at once.",
    isolations: "Times that the leader is cut off from all other servers, and not from its clients.",
    ambushes: "Losses of power at a moment that matters: see `faults::Moment`.",
    last_stands: "Times that the leader is alone with all clients, until all servers lose power.",
    stalls: "Of a hundred flushes, so many take far longer than the others.",
    stops: "Processes that are told to stop, and end by themselves.",
    full: "Times that a server's disk has no room for another file.",
    purge: "Snapshots that are kept when older ones are purged (`autopurge.snapRetainCount`), or 0 for all.",
    slow_stands: "Of a hundred last stands, so many are followed by a time in which the disks of the others are slow.",
    reconfigs: "Times that a client asks for another configuration of the ensemble.",
    damages: "Times that a server's files are damaged while it is down, always the same server's.",
    converts: "Of a hundred starts, so many find the log converted to Apache's format.",
}

/// Options that a failing run is tried with less of, and the least that makes sense.
pub const SHRINKABLE: &[(&str, u64)] = &[
    ("converts", 0),
    ("damages", 0),
    ("reconfigs", 0),
    ("stops", 0),
    ("full", 0),
    ("purge", 0),
    ("slow_stands", 0),
    ("last_stands", 0),
    ("ambushes", 0),
    ("isolations", 0),
    ("stalls", 0),
    ("blackouts", 0),
    ("storms", 0),
    ("jumps", 0),
    ("pauses", 0),
    ("eio", 0),
    ("slow_disks", 0),
    ("slow_links", 0),
    ("oneways", 0),
    ("groups", 0),
    ("powers", 0),
    ("kills", 0),
    ("clients", 1),
    ("masters", 0),
    ("observers", 0),
    ("voters", 1),
    ("shards", 1),
    ("drift_ppm", 0),
    ("flushes", 1),
    ("depth", 1),
    ("seconds", 1),
];

impl Options {
    /// The options that a seed stands for.
    pub fn of(seed: u64) -> Options {
        let (mut options, mut r) = Options::draw(seed);
        if seed % 4 == 3 {
            options.concentrate(&mut r);
        }
        options
    }

    fn draw(seed: u64) -> (Options, Random) {
        let mut r = Random::new(seed ^ 0x6f70_7469_6f6e_7321);
        let mut options = Options { seed, values: [0; NAMES.len()] };
        let mut set = |name, value| options.set(name, value).expect("it is one of the names");
        set("voters", r.weighted(&[(2, 1), (3, 2), (14, 3), (3, 4), (6, 5), (1, 7)]));
        set("observers", r.weighted(&[(6, 0), (2, 1), (1, 2)]));
        set("clients", 1 + r.below(6) as u64);
        set("seconds", 10 + r.below(40) as u64);
        set("tick_ms", r.pick(&[200, 500, 1000]));
        set("shards", r.weighted(&[(2, 1), (1, 2), (1, 3)]));
        set("flushes", r.pick(&[1, 2, 4]));
        set("snap_count", r.pick(&[20, 60, 200, 100_000]));
        set("delay_us", r.pick(&[50, 300, 2_000, 10_000]));
        set("flush_us", r.pick(&[50, 500, 3_000, 12_000]));
        set("drift_ppm", r.pick(&[0, 100, 5_000]));
        set("think_ms", r.pick(&[5, 20, 50, 200]));
        set("depth", r.pick(&[1, 1, 3, 10]));
        if options.think_ms() < 10 {
            // As much happens in less time.
            options.set("seconds", options.seconds().min(12)).expect("it is one of the names");
        }
        let mut set = |name, value| options.set(name, value).expect("it is one of the names");
        // A kind of fault is there or not, so that some runs have one kind only.
        for (name, most) in [
            ("kills", 8),
            ("powers", 8),
            ("groups", 5),
            ("oneways", 4),
            ("slow_links", 3),
            ("slow_disks", 3),
            ("eio", 3),
            ("pauses", 4),
            ("jumps", 3),
            ("storms", 3),
            ("blackouts", 3),
        ] {
            let count = if r.chance(45) { 1 + r.below(most) as u64 } else { 0 };
            set(name, count);
        }
        // From a chance of its own, so that the rest of a seed stays what it was.
        let masters = Random::new(seed ^ 0x6d61_7374_6572_733f).below(2) as u64;
        options.set("masters", masters.min(options.observers())).expect("it is one of the names");
        let mut set = |name, value| options.set(name, value).expect("it is one of the names");
        // What is new comes last, so that a seed is what it was otherwise.
        set("history", r.pick(&[3, 20, 100, 1_000_000]));
        for (name, most) in [("isolations", 5), ("ambushes", 8), ("last_stands", 4)] {
            let count = if r.chance(45) { 1 + r.below(most) as u64 } else { 0 };
            set(name, count);
        }
        set("stalls", r.pick(&[0, 0, 2, 10]));
        // From chances of their own, so that the rest of a seed stays what it was.
        for (name, most, salt) in [("stops", 6, b"stops..."), ("full", 3, b"full...."), ("damages", 5, b"damages.")] {
            let mut r = Random::new(seed ^ u64::from_le_bytes(*salt));
            let count = if r.chance(35) { 1 + r.below(most) as u64 } else { 0 };
            set(name, count);
        }
        let mut r_reconfigs = Random::new(seed ^ 0x7265_636f_6e66_6967);
        if r_reconfigs.chance(25) && options.voters() > 2 {
            // Of those that are left, nobody may have to begin anew.
            options.set("damages", 0).expect("it is one of the names");
            options.set("reconfigs", 1 + r_reconfigs.below(8) as u64).expect("it is one of the names");
        }
        let mut set = |name, value| options.set(name, value).expect("it is one of the names");
        set("purge", Random::new(seed ^ 0x7075_7267_6573_2e2e).pick(&[0, 3, 3]));
        set("converts", Random::new(seed ^ 0x636f_6e76_6572_7473).pick(&[0, 0, 0, 30]));
        set("slow_stands", Random::new(seed ^ 0x736c_6f77_7374_616e).pick(&[0, 50, 100]));
        set("stored_percent", Random::new(seed ^ 0x7374_6f72_6564_2e2e).pick(&[0, 0, 33, 100]));
        (options, r)
    }

    /// The same without what waits for moments that matter, which may keep other things from happening.
    #[cfg(debug_assertions)]
    pub fn unhurried(seed: u64) -> Options {
        let (mut options, _) = Options::draw(seed);
        options.set("history", 1_000_000).expect("it is one of the names");
        for name in [
            "isolations",
            "ambushes",
            "last_stands",
            "stalls",
            "stops",
            "full",
            "purge",
            "damages",
            "reconfigs",
            "converts",
        ] {
            options.set(name, 0).expect("it is one of the names");
        }
        options
    }

    /// One run in four has no faults but those that wait for moments that matter: what they lead to is seldom, and is not to
    /// be disturbed.
    fn concentrate(&mut self, r: &mut Random) {
        let mut set = |name, value| self.set(name, value).expect("it is one of the names");
        for name in
            ["kills", "powers", "groups", "oneways", "slow_links", "slow_disks", "eio", "pauses", "jumps", "storms"]
        {
            set(name, 0);
        }
        for name in ["blackouts", "stops", "full", "damages", "reconfigs"] {
            set(name, 0);
        }
        set("voters", r.weighted(&[(3, 3), (1, 5)]));
        set("clients", 2 + r.below(3) as u64);
        set("tick_ms", r.pick(&[200, 500]));
        set("snap_count", r.pick(&[20, 60]));
        set("seconds", 20 + r.below(20) as u64);
        set("isolations", r.below(7) as u64);
        set("ambushes", 1 + r.below(8) as u64);
        set("last_stands", r.below(7) as u64);
        set("stalls", r.pick(&[0, 10, 30]));
    }

    /// Sets one by its name.
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
        if name == "seed" {
            *self = Options::of(value);
            return Ok(());
        }
        let at = NAMES.iter().position(|known| *known == name);
        self.values[at.ok_or_else(|| format!("{name} is no option: {}", NAMES.join(", ")))?] = value;
        Ok(())
    }

    pub fn get(&self, name: &str) -> u64 {
        NAMES.iter().position(|known| *known == name).map_or(0, |at| self.values[at])
    }

    /// Reads `seed=7 voters=3 kills=0`: what a failure prints. The seed comes first; what is not named follows from it.
    pub fn parse(text: &str) -> Result<Options, String> {
        let mut options = Options::of(0);
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word} is no name=number"))?;
            options.set(name, value.parse().map_err(|_| format!("{word}: no number"))?)?;
        }
        if options.servers() == 0 || options.voters() == 0 || options.voters() > 9 {
            return Err(format!("{} voters are no ensemble", options.voters()));
        }
        Ok(options)
    }

    pub fn history_limits(&self) -> Limits {
        Limits { count_min: self.history() as usize, bytes_max: 0 }
    }

    pub fn servers(&self) -> usize {
        (self.voters() + self.observers()) as usize
    }
}

/// The seed, and what does not follow from it.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        let usual = Options::of(self.seed);
        for (at, name) in NAMES.iter().enumerate().filter(|(at, _)| self.values[*at] != usual.values[*at]) {
            write!(f, " {name}={}", self.values[at])?;
        }
        Ok(())
    }
}
