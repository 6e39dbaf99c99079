//! crates.io's `zookeeper-client` against a running server.
//!
//! `rust_client HOST:PORT [--has NEED]... [TEST...]` runs the tests, or those whose name contains one
//! of the given words, one after the other, and prints a line for each. It exits with 1 if any failed.
//! A NEED is something beyond the basic operations that the server can do; see `Need`.

mod relay;
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use zookeeper_client::{Acls, Client, CreateMode, SessionState, WatchedEvent};

/// No test needs more than a few seconds.
const TEST_LIMIT: Duration = Duration::from_secs(30);

/// The bound of each single wait inside a test.
const WAIT_LIMIT: Duration = Duration::from_secs(15);

pub type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What a test asks of a server beyond the basic operations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Persistent and recursive watches (operation 106).
    AddWatch,
    /// The numbers of all children, and the ephemerals of a session (operations 104 and 103).
    Counts,
    /// Several reads in one request (operation 22).
    MultiRead,
    /// The identities of a connection (operation 107).
    WhoAmI,
}

impl Need {
    fn parse(word: &str) -> Option<Need> {
        match word {
            "add-watch" => Some(Need::AddWatch),
            "counts" => Some(Need::Counts),
            "multi-read" => Some(Need::MultiRead),
            "whoami" => Some(Need::WhoAmI),
            _ => None,
        }
    }
}

pub struct Test {
    pub name: &'static str,
    pub need: Need,
    pub run: fn(Env) -> Pin<Box<dyn Future<Output = TestResult> + Send>>,
}

/// A server, and a path of the test's own on it.
pub struct Env {
    pub server: String,
    base: String,
}

impl Env {
    /// A client with a session of its own, whose root is the path of the test.
    pub async fn client(&self) -> Result<Client, zookeeper_client::Error> {
        Client::connect(&self.at(&self.server)).await
    }

    /// The connection string for the path of the test on `server`.
    pub fn at(&self, server: &str) -> String {
        format!("{server}{}", self.base)
    }
}

/// Fails after WAIT_LIMIT.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("never happened: {what}"),
    }
}

/// Waits until the session of `client` is in `state`.
pub async fn soon_in_state(client: &Client, state: SessionState) {
    let mut watcher = client.state_watcher();
    soon("a session state", async {
        while client.state() != state {
            watcher.changed().await;
        }
    })
    .await;
}

/// `type path` of an event.
pub fn text(event: &WatchedEvent) -> String {
    format!("{} {}", event.event_type, event.path)
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut has = vec![Need::Nothing];
    let mut words = Vec::new();
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().expect("usage: rust_client HOST:PORT [--has NEED]... [TEST...]");
    while let Some(argument) = arguments.next() {
        if argument == "--has" {
            let word = arguments.next().unwrap_or_default();
            has.push(Need::parse(&word).unwrap_or_else(|| panic!("--has {word}: no such need")));
        } else {
            words.push(argument);
        }
    }

    let mut ran = 0;
    let mut failed = Vec::new();
    for test in tests::TESTS {
        let is_wanted = words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str()));
        if !is_wanted || !has.contains(&test.need) {
            continue;
        }
        ran += 1;
        let started = Instant::now();
        let result = run(test, &server).await;
        let ms = started.elapsed().as_millis();
        match result {
            Ok(()) => println!("ok   {} ({ms} ms)", test.name),
            Err(reason) => {
                println!("FAIL {} ({ms} ms)\n    {reason}", test.name);
                failed.push(test.name);
            }
        }
    }
    println!("rust_client: {ran} tests, {} failed {}", failed.len(), failed.join(" "));
    if ran > 0 && failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(test: &Test, server: &str) -> Result<(), String> {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let env = Env { server: server.to_owned(), base: format!("/rust-{}-{nanos:x}", test.name) };
    let root = Client::connect(server).await.map_err(|error| format!("cannot connect to {server}: {error}"))?;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    root.create(&env.base, b"", &options).await.map_err(|error| format!("cannot create {}: {error}", env.base))?;

    // In a task of its own, a failed assertion fails the test only; its message is on stderr.
    let task = tokio::spawn((test.run)(env));
    let abort = task.abort_handle();
    match tokio::time::timeout(TEST_LIMIT, task).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_) => {
            abort.abort();
            Err(format!("still running after {} s", TEST_LIMIT.as_secs()))
        }
    }
}
