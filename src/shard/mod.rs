//! The shards: glommio executors, each pinned to its core, that carry bytes and messages between the world and
//! the pure core.
//!
//! ```text
//! sockets <-> clients (Cnxns) --Ask--> broadcast (Pipeline, Log) --flush--> disk
//!                  ^------- commits, answers -----------'
//! ```
//!
//! Shards share nothing but messages over bounded channels ([`mesh`]); where two roles are folded onto one core the
//! messages are calls. After start-up nothing here blocks: files are flushed through the ring, and what must block,
//! making segments ready and writing snapshots, runs on helper threads.

pub mod broadcast;
pub mod client_port;
pub mod clients;
pub mod clock;
pub mod closing;
pub mod disk;
pub mod learner_port;
pub mod listener;
pub mod mesh;
pub mod peers;
pub mod segment_file;
pub mod stalls;
pub mod upkeep;

/// How far a thread that has time stands back from the shards and from other processes: it gets a tenth of what they get,
/// where they want the same core.
const LEISURE_NICENESS: i32 = 10;

/// Runs what takes long and has time, on a thread of its own that leaves the cores to others. A helper thread makes it,
/// because it inherits the cores that it may use.
async fn at_leisure<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    let run = || {
        let thread = std::thread::Builder::new().name("leisure".into()).spawn(|| {
            // Of this thread alone. Where it is refused, the work is only in the way a little more.
            let _ = rustix::process::setpriority_process(None, LEISURE_NICENESS);
            work()
        })?;
        thread.join().map_err(|_| std::io::Error::other("it panicked"))
    };
    blocking(run).await
}

/// Runs what blocks on a helper thread of this shard.
///
/// Whoever waits for it may be cancelled: then what it gives is dropped. glommio alone would forget it, and a socket that was
/// opened for nobody would keep its port for as long as the process runs.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let run = async move { glommio::executor().spawn_blocking(work).await };
    glommio::spawn_local(run).detach().await.expect("nobody cancels it")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use glommio::{LocalExecutorBuilder, Placement};

    use super::blocking;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_was_made_for_nobody_is_dropped() {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(4096).ring_depth(8);
        let made = Arc::new(());
        let result = Arc::clone(&made);
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let work = move || {
            begun.send(()).expect("it is waited for");
            may_go_on.recv().expect("it is told");
            result
        };
        let shard = async move {
            let waiting = glommio::spawn_local(blocking(work)).detach();
            let begin = Instant::now();
            while has_begun.try_recv().is_err() {
                assert!(begin.elapsed() < PATIENCE, "the work never began");
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            waiting.cancel();
            assert!(waiting.await.is_none(), "it was cancelled");
            go_on.send(()).expect("it waits");
            while Arc::strong_count(&made) > 1 {
                assert!(begin.elapsed() < PATIENCE, "nobody will ever have it, and it is there still");
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        };
        builder.make().expect("a ring can be had").run(shard);
    }
}
