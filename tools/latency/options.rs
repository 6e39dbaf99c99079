//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load and latency of a ZooKeeper server.
///
/// Makes a subtree of its own, puts it under load, checks every reply, prints latencies and throughput, and
/// removes the subtree. With --rate the loop is open: requests go out when they are due, and latency counts from then.
/// Exits with 1 if any reply was wrong or any connection was lost, with 2 if there was nothing to measure.
#[derive(Parser, Debug)]
#[command(name = "ringkeeper-latency", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Anything but a load.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Anything but a load.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the floor: one durable write, durable bandwidth, one loopback round trip.
    Probe(ProbeOptions),
    /// Draw pictures of results that --json has written, two or more of them over each other.
    Plot(PlotOptions),
}

/// What the load is.
#[derive(Args, Clone, Debug)]
pub struct LoadOptions {
    /// Servers; connections are spread over them, and one that is lost goes on with the next server.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', default_value = "127.0.0.1:2181")]
    pub servers: Vec<String>,
    /// The operation.
    #[arg(long, value_enum, default_value_t = Op::Set)]
    pub op: Op,
    /// With --op mixed: how many percent are gets; the others are sets.
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub reads: u32,
    /// With --op multi: how many setData are in each.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub multi: u32,
    /// Which keys are used.
    #[arg(long, value_enum, default_value_t = Spread::Turns)]
    pub spread: Spread,
    /// Bytes of data in a znode.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1_040_000))]
    pub size: u32,
    /// Sessions, each on its own connection.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Closed loop: unanswered requests on each connection.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub outstanding: u32,
    /// Open loop: operations a second over all connections, in place of --outstanding.
    #[arg(long, value_name = "OPS_PER_SECOND", conflicts_with = "outstanding", value_parser = positive)]
    pub rate: Option<f64>,
    /// Length of the measurement [default: 10, or until the --count is reached].
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub duration: Option<f64>,
    /// Load before the measurement that is not counted [default: 2, or 0 with --count or --op delete].
    #[arg(long, value_name = "SECONDS", value_parser = not_negative)]
    pub warmup: Option<f64>,
    /// Stop after so many operations, warm-up included.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000_000_000))]
    pub count: Option<u64>,
    /// Znodes to work on, made before the measurement [default: 1000; 100000 for delete, which ends when they are gone;
    /// 1 for watch; none for create and
    /// sessions].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub keys: Option<u32>,
    /// Where the subtree is made.
    #[arg(long, value_name = "PATH", default_value = "/ringkeeper-latency", value_parser = prefix)]
    pub prefix: String,
    /// Session timeout to ask for.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub session_timeout: u32,
    /// Threads to spread the connections over; one is enough for most servers.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// From low load to saturation, for a latency-throughput curve: open loop at growing rates, or closed loop with
    /// growing concurrency up to --connections x --outstanding. Each step has the --warmup and the --duration.
    #[arg(long, value_enum, conflicts_with_all = ["rate", "count", "hgrm", "timeseries"])]
    pub sweep: Option<SweepBy>,
    /// With --sweep: these rates, or these numbers of unanswered requests, in place of those that the tool chooses.
    #[arg(long, value_name = "N,..", value_delimiter = ',', requires = "sweep", value_parser = positive)]
    pub steps: Vec<f64>,
    /// A shell command to run while the load goes on, such as 'kill -9 123' for a server of an ensemble: lost connections
    /// are no faults then, and the table tells how long nothing was answered.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["sweep", "count"])]
    pub during: Option<String>,
    /// When --during is run, counted from the beginning of the measurement [default: after a fourth of it].
    #[arg(long, value_name = "SECONDS", requires = "during", value_parser = not_negative)]
    pub during_at: Option<f64>,
    /// Leave the subtree in place.
    #[arg(long)]
    pub keep: bool,
    /// Sample the CPU time of this process (the server, on this machine) over the measurement.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the distribution of all latencies in HdrHistogram's text form, in microseconds.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write completions and latencies over time as CSV, in microseconds: a line for every 20 ms, or more if it takes
    /// longer than 30 s.
    #[arg(long, value_name = "FILE")]
    pub timeseries: Option<PathBuf>,
}

/// What the probe does.
#[derive(Args, Clone, Debug)]
pub struct ProbeOptions {
    /// A directory on the disk to measure; a file of 64 MiB is made and removed there.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Time for each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = positive)]
    pub seconds: f64,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What to draw.
#[derive(Args, Clone, Debug)]
pub struct PlotOptions {
    /// Files of results, each with a name for the legend before it, if the file's own name will not do.
    #[arg(value_name = "[NAME=]FILE", required = true, num_args = 1..=8)]
    pub results: Vec<String>,
    /// Where the pictures go: OUT-percentiles.png, OUT-timeline.png, OUT-throughput.png, as far as the results
    /// have something to show in them, and the same as .svg.
    #[arg(long, value_name = "PREFIX", default_value = "latency")]
    pub out: PathBuf,
    /// The heading of the pictures [default: what was measured].
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
}

/// The operation of a load.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// setData on the keys in turn.
    Set,
    /// A new znode each time.
    Create,
    /// getData of the keys in turn.
    Get,
    /// delete of the keys, each once.
    Delete,
    /// get and set, see --reads.
    Mixed,
    /// setData on several keys in one transaction, see --multi.
    Multi,
    /// Watch fan-out: one session sets the keys, all others have a watch on each and set it again after each event.
    Watch,
    /// A storm of sessions: each opened on a connection of its own and closed again.
    Session,
    /// A storm of sessions that are taken up again, each on a new connection.
    Resume,
}

/// How often which keys are used.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// One after the other, and again.
    Turns,
    /// By chance, all alike.
    Even,
    /// By chance, the k-th key of a connection as 1/k.
    Skewed,
}

impl Spread {
    /// The word for it in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Spread::Turns => "turns",
            Spread::Even => "even",
            Spread::Skewed => "skewed",
        }
    }
}

/// What grows from step to step of a sweep.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SweepBy {
    /// Operations a second.
    Rate,
    /// Unanswered requests.
    Concurrency,
}

impl SweepBy {
    /// The word for it in options and results.
    pub fn name(self) -> &'static str {
        match self {
            SweepBy::Rate => "rate",
            SweepBy::Concurrency => "concurrency",
        }
    }
}

impl Op {
    /// The word for it in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Op::Set => "set",
            Op::Create => "create",
            Op::Get => "get",
            Op::Delete => "delete",
            Op::Mixed => "mixed",
            Op::Multi => "multi",
            Op::Watch => "watch",
            Op::Session => "session",
            Op::Resume => "resume",
        }
    }
}

impl LoadOptions {
    /// What the parser does not see: options that do not go together.
    pub fn check(&self) -> Result<(), String> {
        let (multi, connections) = (u64::from(self.multi), u64::from(self.connections));
        let is_plain = matches!(self.op, Op::Set | Op::Create | Op::Get | Op::Mixed | Op::Multi);
        let op = self.op.name();
        if self.op == Op::Multi && u64::from(self.keys()) / connections < multi {
            let keys = multi * connections;
            return Err(format!("a multi of {multi} needs as many keys for each connection: --keys {keys}"));
        }
        if self.op == Op::Watch && connections < 2 {
            return Err("a fan-out needs a connection that writes and one that watches: --connections 2".to_owned());
        }
        if self.sweep.is_some() && !is_plain {
            return Err(format!("a sweep cannot have --op {op}: only set, create, get, mixed and multi"));
        }
        if self.during.is_some() && !is_plain {
            return Err(format!("--during cannot have --op {op}: only set, create, get, mixed and multi"));
        }
        if self.threads > 1 && matches!(self.op, Op::Watch | Op::Session | Op::Resume) {
            return Err(format!("--op {op} has one thread: leave out --threads"));
        }
        for file in [&self.json, &self.hgrm, &self.timeseries].into_iter().flatten() {
            // Better now than when everything has been measured.
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
                return Err(format!("{}: there is no directory {}", file.display(), dir.display()));
            }
        }
        Ok(())
    }

    /// The share of gets, if it is for the options to say.
    pub fn reads_percent(&self) -> Option<u32> {
        (self.op == Op::Mixed).then_some(self.reads)
    }

    /// Znodes to make before the measurement.
    pub fn keys(&self) -> u32 {
        match (self.op, self.keys) {
            (Op::Create | Op::Session | Op::Resume, _) => 0,
            (Op::Watch, keys) => keys.unwrap_or(1),
            (_, Some(keys)) => keys,
            (Op::Delete, None) => self.count.map_or(100_000, |count| count as u32),
            (_, None) => 1_000,
        }
    }

    /// Unanswered requests on each connection, if that is for the options to say.
    pub fn outstanding(&self) -> Option<u32> {
        let is_said = self.rate.is_none() && !matches!(self.op, Op::Watch | Op::Session | Op::Resume);
        is_said.then_some(self.outstanding)
    }

    /// How many setData are in a multi, if that is what the load is made of.
    pub fn multi_parts(&self) -> Option<u32> {
        (self.op == Op::Multi).then_some(self.multi)
    }

    /// When the command is run, counted from the beginning of the measurement.
    pub fn during_at_ns(&self) -> u64 {
        self.during_at.map_or_else(|| self.duration_ns().unwrap_or(0) / 4, seconds_to_ns)
    }

    /// Length of the measurement in nanoseconds; `None` for "until the count is reached".
    pub fn duration_ns(&self) -> Option<u64> {
        let default = if self.count.is_some() { None } else { Some(10.0) };
        self.duration.or(default).map(seconds_to_ns)
    }

    /// Length of the warm-up in nanoseconds.
    pub fn warmup_ns(&self) -> u64 {
        let is_limited = self.count.is_some() || self.op == Op::Delete;
        seconds_to_ns(self.warmup.unwrap_or(if is_limited { 0.0 } else { 2.0 }))
    }
}

fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1e9).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1e9".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|number| if number > 0.0 { Ok(number) } else { Err("expected more than 0".to_owned()) })
}

fn prefix(text: &str) -> Result<String, String> {
    let components = text.strip_prefix('/').map(|rest| rest.split('/'));
    if components.is_some_and(|mut names| names.all(|name| !matches!(name, "" | "." | ".."))) {
        Ok(text.to_owned())
    } else {
        Err("expected a znode path other than /, such as /bench".to_owned())
    }
}
