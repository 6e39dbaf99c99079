//! The floor that no server on this machine can get below: the disk's and the loopback's own latency.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{process, thread};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;

use crate::clock::{SECOND_NS, now_ns};
use crate::options::ProbeOptions;
use crate::recorder::latency_histogram;
use crate::report::{LATENCY_COLUMNS, latency_row};
use crate::results::{Latency, to_json};

/// The file written to: zero-written and flushed before, as a log segment is.
const FILE_BYTES: u64 = 64 << 20;
/// One block: the least that a flush can write.
const BLOCK_BYTES: usize = 4096;
/// A batch of a busy log.
const BATCH_BYTES: usize = 64 << 10;
/// What a lone small request and its reply are like.
const MESSAGE_BYTES: usize = 100;

/// What was measured; latencies in nanoseconds.
pub struct Floor {
    /// A write of one block and fdatasync.
    pub fdatasync: Histogram<u64>,
    /// A write of 64 KiB with O_DIRECT and O_DSYNC, one at a time.
    pub direct: Histogram<u64>,
    /// Of those, a second.
    pub direct_per_second: f64,
    /// A message to a thread behind a TCP connection, and back.
    pub loopback: Histogram<u64>,
}

/// Measures all three.
pub fn run(options: &ProbeOptions) -> Result<Floor, Box<dyn Error>> {
    let length_ns = (options.seconds * SECOND_NS as f64) as u64;
    let scratch = Scratch::make(&options.dir)?;
    let fdatasync = measure_fdatasync(&scratch.path, length_ns)?;
    let (direct, direct_per_second) = measure_direct(&scratch.path, length_ns)?;
    drop(scratch);
    let loopback = measure_loopback(length_ns)?;
    Ok(Floor { fdatasync, direct, direct_per_second, loopback })
}

/// The table.
pub fn text(options: &ProbeOptions, floor: &Floor) -> String {
    let megabytes = floor.direct_per_second * BATCH_BYTES as f64 / 1e6;
    let row = |histogram| latency_row(&Latency::new(histogram));
    let rows = [
        format!("floor in {}", options.dir.display()),
        String::new(),
        format!("  latency, us   {LATENCY_COLUMNS}"),
        format!("    fdatasync   {}   4 KiB written, then fdatasync", row(&floor.fdatasync)),
        format!("    direct      {}   64 KiB, O_DIRECT|O_DSYNC", row(&floor.direct)),
        format!("    loopback    {}   {MESSAGE_BYTES} bytes there and back", row(&floor.loopback)),
        format!("  direct        {:.0} writes/s, {megabytes:.0} MB/s durable", floor.direct_per_second),
    ];
    rows.join("\n") + "\n"
}

/// The same as JSON. Latencies are in microseconds.
pub fn json(options: &ProbeOptions, floor: &Floor) -> String {
    to_json(&serde_json::json!({
        "dir": options.dir.display().to_string(),
        "latency_us": {
            "fdatasync": Latency::new(&floor.fdatasync),
            "direct": Latency::new(&floor.direct),
            "loopback": Latency::new(&floor.loopback),
        },
        "direct_writes_per_second": floor.direct_per_second,
        "direct_bytes_per_second": floor.direct_per_second * BATCH_BYTES as f64,
    }))
}

/// The file, removed when dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make(dir: &Path) -> Result<Scratch, Box<dyn Error>> {
        let in_dir = |error: io::Error| format!("{}: {error}", dir.display());
        let kind = rustix::fs::statfs(dir).map_err(|error| in_dir(error.into()))?.f_type;
        if kind == TMPFS_MAGIC || kind == RAMFS_MAGIC {
            return Err(format!("{} is in memory: nothing there is ever durable", dir.display()).into());
        }
        let scratch = Scratch { path: dir.join(format!("ringkeeper-latency-probe-{}", process::id())) };
        let mut file = File::create_new(&scratch.path).map_err(in_dir)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("ringkeeper-latency: {} is left behind: {error}", self.path.display());
        }
    }
}

/// `f_type` of file systems in memory (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

fn measure_fdatasync(path: &Path, length_ns: u64) -> io::Result<Histogram<u64>> {
    let file = OpenOptions::new().write(true).open(path)?;
    let block = vec![0x5a; BLOCK_BYTES];
    repeat(length_ns, |i| {
        file.write_all_at(&block, i * BLOCK_BYTES as u64 % FILE_BYTES)?;
        file.sync_data()
    })
}

fn measure_direct(path: &Path, length_ns: u64) -> io::Result<(Histogram<u64>, f64)> {
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    // O_DIRECT wants memory aligned to a block, which a Vec is not: use the aligned part of a larger one.
    let memory = vec![0x5a; BATCH_BYTES + BLOCK_BYTES];
    let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
    let batch = &memory[skip..skip + BATCH_BYTES];
    let start_ns = now_ns();
    let histogram = repeat(length_ns, |i| file.write_all_at(batch, i * BATCH_BYTES as u64 % FILE_BYTES))?;
    let seconds = (now_ns() - start_ns) as f64 / SECOND_NS as f64;
    let per_second = histogram.len() as f64 / seconds;
    Ok((histogram, per_second))
}

fn measure_loopback(length_ns: u64) -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    // Ends when the near side is closed.
    let echo = thread::spawn(move || {
        let mut message = [0; MESSAGE_BYTES];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let mut message = [0; MESSAGE_BYTES];
    let histogram = repeat(length_ns, |_| {
        near.write_all(&message)?;
        near.read_exact(&mut message)
    });
    drop(near);
    echo.join().map_err(|_| io::Error::other("the echo thread panicked"))?;
    histogram
}

/// Does `once` with 0, 1, 2, … for that long, and at least once; how long each took.
fn repeat(length_ns: u64, mut once: impl FnMut(u64) -> io::Result<()>) -> io::Result<Histogram<u64>> {
    let mut histogram = latency_histogram();
    let start_ns = now_ns();
    let mut before_ns = start_ns;
    for i in 0.. {
        once(i)?;
        let after_ns = now_ns();
        histogram.saturating_record(after_ns - before_ns);
        if after_ns - start_ns >= length_ns {
            break;
        }
        before_ns = after_ns;
    }
    Ok(histogram)
}
