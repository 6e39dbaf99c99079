//! What each flush engine reaches, beside fio's sync engine on the same file: `docs/decisions/0003-flush-engine.md` keeps a
//! table.
//!
//! ```text
//! cargo bench --bench log [-- [--dir DIR] [--rounds N] [--ms MS] [--txns N,...] [--in-flight N,...]]
//! ```
//!
//! DIR is where the segment is made, `target` by default: it must be on the disk that is asked about. A flush carries so many
//! transactions of 1,100 bytes. With one flush in flight each goes on where the last ended, as in the server, so it
//! writes the last block again; with several each begins a block. fio writes as many whole blocks as that takes, and calls
//! fdatasync after each write; several in flight are so many jobs of fio on one file. Everything takes turns, and the
//! figures are the medians of the rounds. Bytes written are the kernel's count.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use hdrhistogram::Histogram;
use ringkeeper::server::config::FlushEngine;
use ringkeeper::shard::disk::Disk;
use ringkeeper::storage::format::BLOCK_BYTES;
use ringkeeper::storage::group_commit::Batch;
use ringkeeper::storage::segments;
use ringkeeper::types::Zxid;

/// What a setData of 1,000 bytes takes up, about.
const TXN_BYTES: usize = 1100;
/// As the server's by default.
const SEGMENT_BYTES: u64 = 64 << 20;
const SEQUENCE: u64 = 1;
/// Those of the server's ordering shard.
const RING_DEPTH: usize = 1024;
const RING_BUFFER_BYTES: usize = 4 << 20;

/// Who flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flusher {
    Fio,
    Ours(FlushEngine),
}

const FLUSHERS: [(Flusher, &str); 4] = [
    (Flusher::Fio, "fio sync, fdatasync"),
    (Flusher::Ours(FlushEngine::Direct), "direct: O_DIRECT, O_DSYNC"),
    (Flusher::Ours(FlushEngine::Ring), "ring: fdatasync"),
    (Flusher::Ours(FlushEngine::Thread), "thread: fdatasync"),
];

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    txns: usize,
    in_flight: usize,
    flusher: Flusher,
}

/// What a run, or the median of the runs, came to.
#[derive(Clone, Copy, Default, Debug)]
struct Figures {
    p50_us: f64,
    p99_us: f64,
    flushes_per_s: f64,
    kib_per_flush: f64,
}

struct Options {
    dir: PathBuf,
    rounds: usize,
    time: Duration,
    txns: Vec<usize>,
    in_flight: Vec<usize>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        dir: PathBuf::from("target"),
        rounds: 3,
        time: Duration::from_millis(1000),
        txns: vec![1, 8, 64, 512],
        in_flight: vec![1, 4],
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let bad = || format!("{name}: {value:?}");
        let numbers = || -> Result<Vec<usize>, String> {
            value.split(',').map(|number| number.parse().map_err(|_| bad())).collect()
        };
        let number = || value.parse::<usize>().map_err(|_| bad());
        match name.as_str() {
            "--dir" => options.dir = PathBuf::from(&value),
            "--rounds" => options.rounds = number()?.max(1),
            "--ms" => options.time = Duration::from_millis(number()? as u64),
            "--txns" => options.txns = numbers()?,
            "--in-flight" => options.in_flight = numbers()?,
            _ => return Err(format!("{name} is not known")),
        }
    }
    let largest = options.txns.iter().max().map_or(0, |txns| (txns * TXN_BYTES).next_multiple_of(BLOCK_BYTES));
    let most = options.in_flight.iter().max().copied().unwrap_or(0);
    if options.txns.contains(&0) || options.in_flight.contains(&0) || (largest * most * 2) as u64 > SEGMENT_BYTES {
        return Err("so many transactions a flush and flushes in flight do not fit into the segment".to_owned());
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().map_err(io::Error::other).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let dir = options.dir.join(format!("bench-log-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let measured = segments::prepare(&dir, SEQUENCE, SEGMENT_BYTES, 7, None)
        .map_err(io::Error::other)
        .and_then(|_| measure_all(options, &dir));
    fs::remove_dir_all(&dir)?;
    let cases = measured?;
    println!("{}", machine());
    println!(
        "| txns a flush | in flight | engine | p50 µs | p99 µs | flushes/s | KiB a flush | p50 to fio | flushes/s to fio |"
    );
    println!("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut floor = None;
    for (case, runs) in &cases {
        let figures = median(runs);
        if case.flusher == Flusher::Fio {
            floor = (!runs.is_empty()).then_some(figures);
        }
        let name = FLUSHERS.iter().find(|(flusher, _)| *flusher == case.flusher).map_or("", |(_, name)| name);
        let Figures { p50_us, p99_us, flushes_per_s, kib_per_flush } = figures;
        let ratios = floor.map_or("| |".to_owned(), |floor| {
            format!("{:.2} | {:.2} |", p50_us / floor.p50_us, flushes_per_s / floor.flushes_per_s)
        });
        println!(
            "| {} | {} | {name} | {p50_us:.0} | {p99_us:.0} | {flushes_per_s:.0} | {kib_per_flush:.1} | {ratios}",
            case.txns, case.in_flight
        );
    }
    Ok(())
}

/// All cases, a round at a time, so that what the machine does meanwhile falls on all of them.
fn measure_all(options: &Options, dir: &Path) -> io::Result<Vec<(Case, Vec<Figures>)>> {
    let mut cases = Vec::new();
    for &in_flight in &options.in_flight {
        for &txns in &options.txns {
            cases.extend(FLUSHERS.map(|(flusher, _)| (Case { txns, in_flight, flusher }, Vec::new())));
        }
    }
    let watched = io::stderr().is_terminal();
    for round in 0..options.rounds {
        for (case, runs) in &mut cases {
            if watched {
                eprint!("\rround {} of {}: {case:?}\x1b[K", round + 1, options.rounds);
            }
            match case.flusher {
                Flusher::Fio => runs.extend(fio(dir, *case, options.time)?),
                Flusher::Ours(engine) => runs.push(flush(dir, *case, engine, options.time)?),
            }
        }
    }
    if watched {
        eprintln!("\r\x1b[K");
    }
    Ok(cases)
}

/// Flushes for that long through the server's own disk.
fn flush(dir: &Path, case: Case, engine: FlushEngine, time: Duration) -> io::Result<Figures> {
    let core = std::thread::available_parallelism()?.get() - 1;
    let dir = dir.to_owned();
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core))
        .ring_depth(RING_DEPTH)
        .io_memory(RING_BUFFER_BYTES)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(case.in_flight));
    let measure = move || async move {
        let disk = Rc::new(Disk::new(&dir, engine, true));
        disk.open(SEQUENCE).await?;
        let latency = Rc::new(RefCell::new(histogram()));
        let place = Rc::new(Cell::new(BLOCK_BYTES as u64));
        let (begin, before) = (Instant::now(), written_bytes()?);
        let mut flushers = Vec::new();
        for _ in 0..case.in_flight {
            let (disk, latency, place) = (Rc::clone(&disk), Rc::clone(&latency), Rc::clone(&place));
            flushers.push(glommio::spawn_local(async move {
                let mut batch = batch(case);
                while begin.elapsed() < time {
                    batch.position = take_place(&place, case);
                    let since = Instant::now();
                    disk.flush(&batch).await?;
                    latency.borrow_mut().saturating_record(since.elapsed().as_nanos() as u64);
                }
                Ok::<(), io::Error>(())
            }));
        }
        for flusher in flushers {
            flusher.await?;
        }
        let (took, bytes) = (begin.elapsed(), written_bytes()? - before);
        disk.close_before(u64::MAX).await;
        let latency = latency.borrow();
        Ok(Figures {
            p50_us: latency.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: latency.value_at_quantile(0.99) as f64 / 1e3,
            flushes_per_s: latency.len() as f64 / took.as_secs_f64(),
            kib_per_flush: bytes as f64 / 1024.0 / latency.len() as f64,
        })
    };
    let executor = executor.spawn(measure).map_err(|error| io::Error::other(error.to_string()))?;
    executor.join().map_err(|error| io::Error::other(error.to_string()))?
}

/// Of nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds")
}

fn batch(case: Case) -> Batch {
    let bytes = (0..case.txns * TXN_BYTES).map(|at| at as u8 | 1).collect();
    Batch { segment: SEQUENCE, position: 0, bytes, records: case.txns as u32, last_zxid: Zxid(1) }
}

/// Where the next flush goes. Those that go one at a time follow each other to the byte; several each begin a block.
fn take_place(place: &Cell<u64>, case: Case) -> u64 {
    let bytes = (case.txns * TXN_BYTES) as u64;
    let step = if case.in_flight == 1 { bytes } else { bytes.next_multiple_of(BLOCK_BYTES as u64) };
    // From the start again, behind the header, before the end is reached.
    let at = if place.get() + step > SEGMENT_BYTES { BLOCK_BYTES as u64 } else { place.get() };
    place.set(at + step);
    at
}

/// Bytes that this process has had written.
fn written_bytes() -> io::Result<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).ok_or_else(|| io::Error::other("/proc/self/io has no write_bytes"))
}

/// fio on the same file; nothing where it is not installed.
fn fio(dir: &Path, case: Case, time: Duration) -> io::Result<Option<Figures>> {
    let block = (case.txns * TXN_BYTES).next_multiple_of(BLOCK_BYTES);
    let part = SEGMENT_BYTES / case.in_flight as u64 / block as u64 * block as u64;
    let mut command = Command::new("fio");
    command.args([
        "--name=floor",
        "--ioengine=sync",
        "--fdatasync=1",
        "--rw=write",
        "--overwrite=1",
        "--fallocate=none",
    ]);
    command.args(["--time_based", "--group_reporting", "--output-format=json", "--thread"]);
    command.arg(format!("--filename={}", segments::path(dir, SEQUENCE).display()));
    command.arg(format!("--bs={block}")).arg(format!("--size={part}")).arg(format!("--offset_increment={part}"));
    command.arg(format!("--numjobs={}", case.in_flight)).arg(format!("--runtime={}ms", time.as_millis()));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let failed =
        |what: &str| io::Error::other(format!("fio: {what}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let json = text.find('{').map(|at| &text[at..]).ok_or_else(|| failed("no report"))?;
    let report: serde_json::Value = serde_json::from_str(json).map_err(|error| failed(&error.to_string()))?;
    let job = &report["jobs"][0];
    // A flush is a write into the page cache and the fdatasync behind it, which fio counts apart.
    let us = |quantile: &str| {
        let part = |value: &serde_json::Value| value["percentile"][quantile].as_f64();
        Some((part(&job["write"]["clat_ns"])? + part(&job["sync"]["lat_ns"])?) / 1e3)
    };
    let (p50, p99) = (us("50.000000"), us("99.000000"));
    let (Some(p50_us), Some(p99_us), Some(flushes_per_s)) = (p50, p99, job["write"]["iops"].as_f64()) else {
        return Err(failed("a figure is missing"));
    };
    Ok(Some(Figures { p50_us, p99_us, flushes_per_s, kib_per_flush: block as f64 / 1024.0 }))
}

fn median(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Figures {
        p50_us: of(|run| run.p50_us),
        p99_us: of(|run| run.p99_us),
        flushes_per_s: of(|run| run.flushes_per_s),
        kib_per_flush: of(|run| run.kib_per_flush),
    }
}

fn machine() -> String {
    let kernel = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cores} cores; {TXN_BYTES} bytes a transaction.\n", kernel.release().to_string_lossy())
}
