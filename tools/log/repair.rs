//! `repair`: cuts a log where it is damaged, and keeps what it takes away.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ringkeeper::proto::txn::LoggedTxn;
use ringkeeper::storage::format::BLOCK_BYTES;
use ringkeeper::storage::inspect::{
    FileKind, FileSurvey, Item, LogFile, LogReader, Severity, Survey, Window, find_logs,
};
use ringkeeper::storage::segments::sync_dir;
use ringkeeper::types::Zxid;
use rustix::fs::{FlockOperation, flock};

use crate::offline::Verdict;
use crate::options::RepairOptions;
use crate::verify::finding_line;

/// Repairs of one run. With checksums that are trusted there may be one a record.
const REPAIRS_MAX: u32 = 10_000;

/// See the options.
pub fn run(options: &RepairOptions) -> Result<Verdict, Box<dyn Error>> {
    let dir = directory(&options.path);
    // A server holds the same lock. It goes with the file.
    let lock = File::open(&dir).map_err(|error| format!("cannot open {}: {error}", dir.display()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("a server runs on {}: stop it first", dir.display()))?;

    let mut changed = 0;
    // A checksum that is put right may show the next damage.
    while let Some(plan) = plan(options)? {
        if changed == REPAIRS_MAX {
            return Err("there is always more: restore the directory from a copy".into());
        }
        plan.print();
        if options.dry_run {
            println!("Nothing was changed.");
            return Ok(Verdict::Found);
        }
        if !options.yes && !confirm()? {
            println!("Nothing was changed.");
            return Ok(Verdict::Found);
        }
        plan.carry_out()?;
        changed += 1;
        if !has_logs(&options.path) {
            break;
        }
    }
    println!(
        "{}",
        if changed > 0 { "Done. The log is whole now." } else { "The log is whole: there is nothing to repair." }
    );
    Ok(Verdict::Fine)
}

/// Whether anything is left to look at.
fn has_logs(path: &Path) -> bool {
    find_logs(path).is_ok()
}

fn directory(path: &Path) -> PathBuf {
    let below = path.join("version-2");
    match (path.is_dir(), below.is_dir()) {
        (true, true) => below,
        (true, false) => path.to_owned(),
        (false, _) => path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")).to_owned(),
    }
}

/// What is to be done to one file, and to those behind it.
struct Plan {
    findings: Vec<String>,
    file: PathBuf,
    action: Action,
    /// The last transaction that stays.
    last: Option<Zxid>,
    /// Files that go: they come after the cut.
    later: Vec<PathBuf>,
    /// Transactions that are whole and are lost all the same.
    lost: u64,
}

enum Action {
    /// Nothing of the file stays.
    TakeAway,
    /// Zeros from here on.
    CutAt(u64),
    /// Another checksum, for the record at this place.
    Checksum { position: u64, checksum: i64, zxid: Zxid },
}

/// The first damage, and what to do about it.
fn plan(options: &RepairOptions) -> Result<Option<Plan>, Box<dyn Error>> {
    let files = find_logs(&options.path)?;
    let mut survey = Survey::new();
    let surveys: Vec<FileSurvey> = files.iter().map(|file| survey.file(file, |_| {})).collect::<Result<_, _>>()?;
    let end = survey.finish();
    let Some(first) = end.findings.iter().find(|finding| finding.severity == Severity::Damage) else { return Ok(None) };
    let at = files.iter().position(|file| file.path == first.path).expect("the finding is about one of them");
    let (file, found) = (&files[at], &surveys[at]);
    let damage = end.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    let findings: Vec<String> = damage.map(finding_line).collect();

    if options.trust_bytes
        && let Some(action) = checksum(file, first.offset, last_before(file, first.offset)?)?
    {
        let (file, last) = (file.path.clone(), None);
        return Ok(Some(Plan { findings, file, action, last, later: Vec::new(), lost: 0 }));
    }
    // A segment that ends too early for the next one is whole itself: what comes after it goes.
    let is_end = first.offset >= found.end && found.broken.is_none();
    let action = match file.kind {
        FileKind::NativeLog | FileKind::ApacheLog if is_end => Action::CutAt(found.end),
        FileKind::NativeLog if first.offset < BLOCK_BYTES as u64 => Action::TakeAway,
        FileKind::NativeLog | FileKind::ApacheLog if first.offset > 0 => Action::CutAt(first.offset),
        _ => Action::TakeAway,
    };
    let (kept, last) = match action {
        Action::CutAt(offset) => count_before(file, offset)?,
        _ => (0, None),
    };
    let last = last.or_else(|| surveys[..at].iter().rev().find_map(|survey| survey.last));
    let whole =
        |survey: &FileSurvey| survey.transactions + survey.beyond.as_ref().map_or(0, |beyond| beyond.transactions);
    let lost = whole(found) - kept + surveys[at + 1..].iter().map(whole).sum::<u64>();
    let later = files[at + 1..].iter().map(|file| file.path.clone()).collect();
    Ok(Some(Plan { findings, file: file.path.clone(), action, last, later, lost }))
}

/// Transactions in front of a place, and the last of them.
fn count_before(file: &LogFile, offset: u64) -> Result<(u64, Option<Zxid>), Box<dyn Error>> {
    let (mut count, mut last) = (0, None);
    let Some(mut reader) = LogReader::open(file)? else { return Ok((0, None)) };
    while let Item::Txn(entry) = reader.read()? {
        if entry.position >= offset {
            break;
        }
        count += 1;
        last = Some(entry.zxid);
    }
    Ok((count, last))
}

fn last_before(file: &LogFile, offset: u64) -> Result<Option<Zxid>, Box<dyn Error>> {
    Ok(if file.kind == FileKind::ApacheLog { count_before(file, offset)?.1 } else { None })
}

/// Of a record with nothing wrong but its checksum: a transaction in its place.
fn checksum(file: &LogFile, position: u64, last: Option<Zxid>) -> Result<Option<Action>, Box<dyn Error>> {
    let Some(mut reader) = LogReader::open(file)? else { return Ok(None) };
    let broken = loop {
        match reader.read()? {
            Item::Txn(_) => {}
            Item::Break(broken) => break broken,
            Item::End => return Ok(None),
        }
    };
    if broken.position != position || !broken.is_checksum {
        return Ok(None);
    }
    let Some(payload) = reader.payload_at_break(position)? else { return Ok(None) };
    let Ok(logged) = LoggedTxn::decode(&payload) else { return Ok(None) };
    let zxid = logged.header.zxid;
    if last.is_some_and(|last| !zxid.follows(last)) {
        return Ok(None);
    }
    let checksum = i64::from(simd_adler32::adler32(&&payload[..]));
    Ok(Some(Action::Checksum { position, checksum, zxid }))
}

impl Plan {
    fn print(&self) {
        for finding in &self.findings {
            println!("{finding}");
        }
        println!();
        let file = self.file.display();
        match self.action {
            Action::CutAt(offset) => println!("To be changed: {file}: nothing stays from byte {offset} on"),
            Action::TakeAway => println!("To be taken away: {file}"),
            Action::Checksum { position, zxid, .. } => {
                println!("To be changed: {file}: the checksum of {zxid}, at byte {position}, is made to fit its bytes");
            }
        }
        for later in &self.later {
            println!("To be taken away: {}", later.display());
        }
        if !matches!(self.action, Action::Checksum { .. }) {
            let last = self.last.map_or("nothing of this log".to_owned(), |last| last.to_string());
            println!("The last transaction that stays: {last}");
            println!("Lost for good: what is damaged, and {} transactions that are whole behind it", self.lost);
        }
        println!("A copy of each of these files stays beside it, as {}", copy_name(&self.file).display());
    }

    fn carry_out(&self) -> Result<(), Box<dyn Error>> {
        for later in &self.later {
            take_away(later)?;
        }
        match &self.action {
            Action::TakeAway => take_away(&self.file)?,
            Action::CutAt(offset) => {
                keep_copy(&self.file)?;
                cut(&self.file, *offset)?;
            }
            Action::Checksum { position, checksum, .. } => {
                keep_copy(&self.file)?;
                write_at(&self.file, *position, &checksum.to_be_bytes())?;
            }
        }
        sync_dir(&directory(&self.file))?;
        Ok(())
    }
}

/// Where a file is kept: a name that no server takes for a log.
fn copy_name(path: &Path) -> PathBuf {
    let named = |suffix: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let names = std::iter::once(".damaged".to_owned()).chain((2..).map(|number| format!(".damaged-{number}")));
    names.map(named).find(|name| fs::symlink_metadata(name).is_err()).expect("the numbers do not end")
}

fn take_away(path: &Path) -> Result<(), Box<dyn Error>> {
    let to = copy_name(path);
    fs::rename(path, &to).map_err(|error| format!("cannot rename {} to {}: {error}", path.display(), to.display()))?;
    say(&format!("{} is now {}", path.display(), to.display()));
    Ok(())
}

/// A repair that has begun goes on, whether or not anybody reads what it says.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A copy that is durable before the original is touched.
fn keep_copy(path: &Path) -> Result<(), Box<dyn Error>> {
    let to = copy_name(path);
    let copied = fs::copy(path, &to).and_then(|_| File::open(&to)?.sync_all());
    copied.map_err(|error| format!("cannot copy {} to {}: {error}", path.display(), to.display()))?;
    sync_dir(&directory(path))?;
    say(&format!("{} is kept as {}", path.display(), to.display()));
    Ok(())
}

/// Zeros from `offset` to where there are only zeros: a file of both kinds ends where only zeros follow, and keeps its size.
fn cut(path: &Path, offset: u64) -> Result<(), Box<dyn Error>> {
    let bytes = Window::open(path)?.data_end()?;
    let file =
        File::options().write(true).open(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let zeros = vec![0; 1 << 20];
    let mut at = offset;
    while at < bytes {
        let now = (bytes - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..now], at).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        at += now as u64;
    }
    file.sync_all().map_err(|error| format!("cannot fsync {}: {error}", path.display()))?;
    Ok(())
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let written = File::options().write(true).open(path).and_then(|file| {
        file.write_all_at(bytes, offset)?;
        file.sync_all()
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

fn confirm() -> Result<bool, Box<dyn Error>> {
    if !io::stdin().is_terminal() {
        return Err("there is nobody to ask: look at this, and run it again with --yes".into());
    }
    print!("Do it? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
