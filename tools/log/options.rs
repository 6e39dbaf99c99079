//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ringkeeper::types::{SessionId, Zxid};

use crate::when;

/// Looks into transaction logs, ringkeeper's (ringlog.*) and Apache's (log.*), and mends them.
///
/// The kind of a file is told by its content, not by its name. Where a PATH is a directory, all logs in it, or in its
/// version-2, are read as one, oldest first. Nothing is held in memory but the present record, however large the log
/// is. No command but repair and convert writes anything, so all others may run beside a server.
///
/// Exit codes: 0 all is well; 1 something was found (damage, missing transactions); 2 the command could not run.
#[derive(Parser, Debug)]
#[command(name = "ringkeeper-log", version, propagate_version = true, after_long_help = EXAMPLES)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringkeeper-log verify /var/lib/zookeeper          is the log whole, and if not, where is it broken?
  ringkeeper-log dump --path /app -f /var/lib/zookeeper
                                                    who changes what below /app, as it happens
  ringkeeper-log dump --since 10m --type delete --json /var/lib/zookeeper | jq .path
                                                    what was deleted in the last ten minutes";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print the transactions, one a line.
    #[command(after_long_help = DUMP_HELP)]
    Dump(DumpOptions),
    /// Check the whole chain, and name the first bad byte of each file and what is beyond it.
    ///
    /// Checks each record's checksum and its place in the chain, that each record is a transaction, that none is
    /// missing between two, and that each segment goes on where the one before ends. A record at the very end that was
    /// being written when a server stopped is no damage: it was not acknowledged, and the server cuts it at its start.
    Verify(VerifyOptions),
    /// Count transactions: by type, by path, by session, sizes, rate over time, and how many shared a flush.
    ///
    /// A flush is told in a native log only, by what each record says was durable when it was made. Flushes that ended
    /// between two records are one here, so the real batches may be smaller.
    Stats(StatsOptions),
    /// Cut a log where it is damaged, so that a server can start on what is before the damage.
    ///
    /// Says first what is damaged, what would be changed, and which transactions would be lost for good; then asks, unless
    /// told --yes. Each file that is changed or taken away is kept beside it, with .damaged behind its name. A log that is
    /// only torn at its end needs no repair: the server cuts that itself. No server may run on the directory.
    ///
    /// Where the rest of an ensemble is healthy, do not repair: move the data directory away, and let the server copy
    /// the data from the leader.
    Repair(RepairOptions),
    /// Write the log anew in the other format: ringkeeper's to Apache's, or Apache's to ringkeeper's.
    ///
    /// The transactions keep every byte. The log that is read is not changed, and nothing that is in the output directory
    /// is replaced. A log with damage is not converted: repair a copy of it first.
    #[command(after_long_help = CONVERT_HELP)]
    Convert(ConvertOptions),
}

const CONVERT_HELP: &str = "\
A log alone is no state: the server that starts on the converted log needs the snapshot that it goes on from, which has
the same format for both. Copy it beside the log.

  ringkeeper-log convert --to apache --output /tmp/out/version-2 /var/lib/zookeeper
  cp /var/lib/zookeeper/version-2/snapshot.* /tmp/out/version-2/";

const DUMP_HELP: &str = "\
Each line has the time, the zxid, the session, the cxid, and what was done. With --json it is an object with the
fields file, offset, zxid, time, session, cxid, type, those of the type (path, data in base64, acl, version, ...), and
digest. Zxids and session ids are strings in hex.

Where the log is broken, the dump of that file ends, with a line on standard error and exit code 1.";

/// Options of `dump`.
#[derive(Args, Debug)]
pub struct DumpOptions {
    /// Log files, or directories that hold them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Which transactions.
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Go on with what is logged from now on, across segments, until interrupted.
    #[arg(short, long, conflicts_with_all = ["apache", "beyond"])]
    pub follow: bool,
    /// Bytes of each znode's data to print.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub data: usize,
    /// Print what is whole behind damage, too.
    #[arg(long)]
    pub beyond: bool,
    /// Print the very text that Apache's TxnLogToolkit prints (zkTxnLogToolkit.sh).
    #[arg(long, conflicts_with = "json")]
    pub apache: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Which transactions. All that are given must hold.
#[derive(Args, Clone, Debug, Default)]
pub struct FilterOptions {
    /// From this transaction on, in hex with 0x, or decimal.
    #[arg(long, value_name = "ZXID", value_parser = zxid)]
    pub from: Option<Zxid>,
    /// Up to this transaction, inclusive.
    #[arg(long, value_name = "ZXID", value_parser = zxid)]
    pub to: Option<Zxid>,
    /// From this time on: 2026-11-21T22:53:54Z, "2026-11-21 22:53" (local), 2026-11-21, now, 10m (ago), or ms since 1970.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<i64>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub until: Option<i64>,
    /// Of this session, in hex with 0x, or decimal. Can be given more than once.
    #[arg(long, value_name = "ID", value_parser = session)]
    pub session: Vec<SessionId>,
    /// On this znode or below it. Can be given more than once.
    #[arg(long, value_name = "PREFIX", value_parser = znode)]
    pub path: Vec<String>,
    /// Of these types: create, create2, createContainer, createTTL, delete, deleteContainer, setData, setACL, check,
    /// multi, reconfig, createSession, closeSession, error. Parts of a multi count.
    #[arg(long = "type", value_name = "TYPE,..", value_delimiter = ',', value_parser = type_name)]
    pub types: Vec<String>,
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub struct VerifyOptions {
    /// Log files, or directories that hold them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print JSON Lines: an object for each file, one for each finding, and one for the whole.
    #[arg(long)]
    pub json: bool,
}

/// Options of `stats`.
#[derive(Args, Debug)]
pub struct StatsOptions {
    /// Log files, or directories that hold them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Which transactions.
    #[command(flatten)]
    pub filter: FilterOptions,
    /// Names of a path that make a prefix: 2 counts /app/locks and all below it as one.
    #[arg(long, value_name = "NAMES", default_value_t = 1)]
    pub depth: usize,
    /// Lines of each table.
    #[arg(long, value_name = "LINES", default_value_t = 20)]
    pub top: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `repair`.
#[derive(Args, Debug)]
pub struct RepairOptions {
    /// A log file, or a directory that holds some.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Only say what would be done.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Apache's logs: where a record's checksum is wrong and all else about it is right, write the checksum that fits
    /// its bytes, and keep the record. The bytes have changed since they were written, so look at them first (dump
    /// --beyond).
    #[arg(long)]
    pub trust_bytes: bool,
}

/// Options of `convert`.
#[derive(Args, Debug)]
pub struct ConvertOptions {
    /// A log file, or a directory that holds some.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The format to write.
    #[arg(long, value_enum)]
    pub to: Format,
    /// Where to write: a directory, which is made if it is not there; or, for one file of Apache's, a new file's name.
    #[arg(long, short, value_name = "PATH")]
    pub output: PathBuf,
    /// From this transaction on.
    #[arg(long, value_name = "ZXID", value_parser = zxid)]
    pub from: Option<Zxid>,
    /// Up to this transaction, inclusive.
    #[arg(long, value_name = "ZXID", value_parser = zxid)]
    pub until: Option<Zxid>,
    /// Size of native segments.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub segment_bytes: u64,
    /// Number of the first native segment.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub sequence: u64,
}

/// The format of a log.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// log.*, which Apache ZooKeeper reads.
    Apache,
    /// ringlog.*, which ringkeeper reads.
    Native,
}

fn number(text: &str) -> Result<i64, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(|number| number as i64),
        None => text.parse(),
    };
    number.map_err(|_| "expected a number, in hex with 0x or decimal".to_owned())
}

pub fn zxid(text: &str) -> Result<Zxid, String> {
    number(text).map(Zxid)
}

fn session(text: &str) -> Result<SessionId, String> {
    number(text).map(SessionId)
}

fn znode(text: &str) -> Result<String, String> {
    match text.trim_end_matches('/') {
        "" if text.starts_with('/') => Ok(String::new()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err("expected the path of a znode, which begins with /".to_owned()),
    }
}

fn type_name(text: &str) -> Result<String, String> {
    match crate::text::TYPES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)) {
        Some((_, name)) => Ok((*name).to_owned()),
        None => Err(format!("expected one of {}", crate::text::TYPES.map(|(_, name)| name).join(", "))),
    }
}
