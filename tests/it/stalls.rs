//! A shard never blocks once the server runs: it sleeps on its ring and nowhere else.
//!
//! This is seen by looking, again and again, at what the shard's thread sleeps in, as the kernel tells it in `/proc`. How
//! long a shard works in one go depends on the machine, so that is no test but a figure: `ringkeeper.stallDetector=true` has
//! the server warn of what is too long.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support::*;

/// `io_uring_enter`, on every architecture.
const IO_URING_ENTER: &str = "426";
/// `membarrier`, with which glommio parks. It waits until all cores have seen it, so it takes as long as they are taken.
const MEMBARRIER: &str = if cfg!(target_arch = "x86_64") { "324" } else { "283" };
/// A sleep outside of the ring is a stall if it is longer than this: longer than a busy machine keeps a thread from a core
/// that has some short lock.
const STALL: Duration = Duration::from_millis(100);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Looks at one thread.
struct Watch {
    task: PathBuf,
    /// The sleep that was seen last: how many the thread had had before, the system call, and when it was seen first.
    sleep: Option<(String, String, Instant)>,
    looks: u64,
    /// System calls that the thread was seen asleep in, outside of its ring, over two looks further apart than [`STALL`].
    stalls: Vec<String>,
}

impl Watch {
    fn new(task: PathBuf) -> Watch {
        Watch { task, sleep: None, looks: 0, stalls: Vec::new() }
    }

    fn field(&self, name: &str) -> Option<String> {
        let status = fs::read_to_string(self.task.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    }

    fn look(&mut self) {
        self.looks += 1;
        let call = fs::read_to_string(self.task.join("syscall")).unwrap_or_default();
        let call = call.split_whitespace().next().unwrap_or_default().to_owned();
        let state = self.field("State").unwrap_or_default();
        let sleeps = self.field("voluntary_ctxt_switches").unwrap_or_default();
        if !state.starts_with(['S', 'D']) || matches!(&*call, IO_URING_ENTER | MEMBARRIER | "running" | "") {
            self.sleep = None;
            return;
        }
        match &self.sleep {
            // The same sleep: the thread has not gone to sleep anew since.
            Some((before, _, since)) if *before == sleeps => {
                if since.elapsed() > STALL {
                    self.stalls.push(format!("{call} in state {state}"));
                }
            }
            _ => self.sleep = Some((sleeps, call, Instant::now())),
        }
    }
}

#[test]
fn a_thread_that_blocks_is_found_out() {
    let (told, tell) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        told.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        ended.recv().unwrap_err();
    });
    let tid = tell.recv().unwrap();
    let mut watch = Watch::new(PathBuf::from(format!("/proc/self/task/{tid}")));
    wait_for("the sleep to be seen", || {
        watch.look();
        (!watch.stalls.is_empty()).then_some(())
    });
    drop(end);
    thread.join().unwrap();
}

/// Threads of the server that are shards, by their names.
fn shards(server: &Server) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).expect("it runs");
    let mut shards: Vec<(i32, PathBuf)> = tasks
        .map(|task| task.expect("it can be listed").path())
        .filter(|task| {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.starts_with("broadcast") || name.starts_with("clients")
        })
        .map(|task| (task.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a thread's id"), task))
        .collect();
    // A shard's helper threads have its name too, and come after it.
    shards.sort();
    let mut names = Vec::new();
    shards.retain(|(_, task)| {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        let is_first = !names.contains(&name);
        names.push(name);
        is_first
    });
    shards.into_iter().map(|(_, task)| task).collect()
}

#[test]
fn no_shard_sleeps_but_on_its_ring() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 60;
    const PIPELINED: usize = 16;
    // Small segments and few transactions a snapshot: both come again and again.
    let server = Server::run("ringkeeper.segmentBytes=1048576\nsnapCount=500\n");
    let shards = shards(&server);
    assert!(!shards.is_empty());
    let done = AtomicBool::new(false);
    let watches = thread::scope(|scope| {
        let (done, server) = (&done, &server);
        let watching: Vec<_> = shards
            .into_iter()
            .map(|task| {
                scope.spawn(move || {
                    let mut watch = Watch::new(task);
                    while !done.load(Ordering::Relaxed) {
                        watch.look();
                        thread::sleep(LOOK);
                    }
                    watch
                })
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = server.client();
                    let data = vec![7; 1024];
                    client.call(&create(&format!("/c{number}"), None)).ok();
                    for round in 0..ROUNDS {
                        let node = |i: usize| format!("/c{number}/n{}", round * PIPELINED + i);
                        let creates: Vec<_> = (0..PIPELINED).map(|i| create(&node(i), Some(&data))).collect();
                        let sets: Vec<_> = (0..PIPELINED).map(|i| set(&node(i), Some(&data))).collect();
                        for requests in [creates, sets] {
                            for _ in client.pipeline(&requests) {
                                client.next_reply().ok();
                            }
                        }
                    }
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(clients.iter().all(Result::is_ok), "a client failed");
        watching.into_iter().map(|watch| watch.join().expect("looking does not fail")).collect::<Vec<_>>()
    });
    for watch in watches {
        assert!(watch.looks > 0 && watch.stalls.is_empty(), "{}: {:?}", watch.task.display(), watch.stalls);
    }
    assert!(server.printed().contains("Snapshotting"), "the load was too small for a snapshot");
}
