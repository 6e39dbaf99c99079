//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringkeeper::types::Zxid;

/// Looks into snapshots, which have the same format for ringkeeper and for Apache ZooKeeper.
///
/// Snapshots are read in constant memory, however large they are, but by compare (about 150 bytes for each znode of A)
/// and at (the whole tree). Compressed ones (.gz, .snappy) are read as they are.
///
/// Exit codes: 0 all is well; 1 something was found (damage, differences); 2 the command could not run.
#[derive(Parser, Debug)]
#[command(name = "ringkeeper-snapshot", version, propagate_version = true, after_long_help = EXAMPLES)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringkeeper-snapshot verify version-2/snapshot.100000097
  ringkeeper-snapshot summary --depth 2 version-2/snapshot.100000097      where do the bytes lie?
  ringkeeper-snapshot compare one/snapshot.97 other/snapshot.97           do two servers hold the same?
  ringkeeper-snapshot convert --compression gz -o /tmp version-2/snapshot.100000097
  ringkeeper-snapshot at 0x100000050 /var/lib/zookeeper                   what was there at that transaction?";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print all znodes, one a line, and the sessions.
    Dump(DumpOptions),
    /// Check a snapshot: its seals, that each znode follows its parent, and the digest of the tree.
    ///
    /// The digest is compared where the file records that of this very transaction. Where Apache wrote the file while
    /// transactions went on, only a replay of the log could tell; that is no damage.
    Verify(FileOptions),
    /// Count znodes and bytes of data of each subtree.
    Summary(SummaryOptions),
    /// Print what was added, removed and changed from A to B.
    ///
    /// A and B may be of different servers, in which siblings stand in another order. What counts for a change is data, ACL
    /// and every field of the stat that is stored.
    Compare(CompareOptions),
    /// Write the same snapshot with another compression, or in the form of another release.
    ///
    /// The file is checked before and after. It gets the name that a server expects, snapshot.ZXID, .gz or .snappy behind it.
    Convert(ConvertOptions),
    /// Print the tree as of a transaction, from the newest snapshot before it and the log; or write it as a snapshot.
    At(AtOptions),
}

/// Options of `dump`.
#[derive(Args, Debug)]
pub struct DumpOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// Bytes of each znode's data to print.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub data: usize,
    /// Only this znode and what is below it.
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// Print the text of Apache's SnapshotFormatter (zkSnapShotToolkit.sh); znodes stand in the order of the file.
    #[arg(long, conflicts_with_all = ["json", "path"])]
    pub apache: bool,
    /// With --apache: the data in base64 rather than its length.
    #[arg(short = 'd', requires = "apache")]
    pub with_data: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// A file.
#[derive(Args, Debug)]
pub struct FileOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `summary`.
#[derive(Args, Debug)]
pub struct SummaryOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// The znode to begin with.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
    /// Levels below it that are printed; 0 for all. What is counted does not depend on it.
    #[arg(long, value_name = "LEVELS", default_value_t = 1)]
    pub depth: usize,
    /// Print the text of Apache's SnapshotRecursiveSummary.
    #[arg(long, conflicts_with = "json")]
    pub apache: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Options of `compare`.
#[derive(Args, Debug)]
pub struct CompareOptions {
    /// The snapshot to start from.
    pub a: PathBuf,
    /// The snapshot to come to.
    pub b: PathBuf,
    /// Print only znodes whose data is this much longer or shorter than before; 0 prints every change.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub bytes: u64,
    /// Leave out ephemerals, which are in one snapshot and not in the other by nature.
    #[arg(long)]
    pub no_ephemerals: bool,
    /// Print the text of Apache's SnapshotComparer, which compares subtrees: those that differ by more than --bytes, or by
    /// more than --nodes.
    #[arg(long, conflicts_with_all = ["json", "no_ephemerals"])]
    pub apache: bool,
    /// With --apache: print subtrees that differ by more znodes than this, too; 0 if it is left out.
    #[arg(long, value_name = "ZNODES", requires = "apache")]
    pub nodes: Option<u64>,
    /// With --apache: print what was looked at, too.
    #[arg(long, requires = "apache")]
    pub debug: bool,
    /// With --apache: ask before each depth. An empty line goes on, a number goes to that depth, a path prints what is below
    /// it.
    #[arg(long, requires = "apache")]
    pub interactive: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Options of `convert`.
#[derive(Args, Debug)]
pub struct ConvertOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// The directory to write into. Nothing that is there is replaced.
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// How it is to be compressed; as it is, if this is left out.
    #[arg(long, value_enum)]
    pub compression: Option<Method>,
    /// For which releases: 3.9 has the last transaction at the end, 3.6 to 3.8 the digest of the tree, 3.5 and earlier
    /// neither. What the file does not have is not made up.
    #[arg(long, value_enum, default_value = "3.9")]
    pub form: Release,
}

/// How a snapshot is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Method {
    /// Not at all.
    None,
    /// gzip.
    Gz,
    /// The stream of snappy-java.
    Snappy,
}

/// Apache's releases, as far as their snapshots differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Release {
    /// 3.5 and earlier.
    #[value(name = "3.5")]
    V35,
    /// 3.6 to 3.8.
    #[value(name = "3.6", aliases = ["3.7", "3.8"])]
    V36,
    /// 3.9.
    #[value(name = "3.9")]
    V39,
}

/// Options of `at`.
#[derive(Args, Debug)]
pub struct AtOptions {
    /// The last transaction that is to be in it, in hex with 0x, or decimal.
    #[arg(value_parser = zxid)]
    pub zxid: Zxid,
    /// The directory with snapshots, or that above its version-2.
    pub directory: PathBuf,
    /// The directory with logs, if it is another one.
    #[arg(long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// Write snapshot.ZXID into this directory, rather than print.
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Bytes of each znode's data to print.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub data: usize,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

fn zxid(text: &str) -> Result<Zxid, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(|number| number as i64),
        None => text.parse(),
    };
    number.map(Zxid).map_err(|_| "expected a number, in hex with 0x or decimal".to_owned())
}
