//! A server of one's own, a client that speaks bytes, and waiting for what is to come.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ringkeeper::jute::{Reader, Write};
use ringkeeper::proto::client::{AclList, ConnectRequest, ConnectResponse, Password, ReplyHeader, Stat};
use ringkeeper::proto::op::MultiHeader;
use ringkeeper::types::SessionId;
use rustix::process::{Pid, Signal, kill_process};

/// Whatever is waited for comes within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(POLL);
    }
}

/// The lower-case digits, without blanks.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from digits; blanks and `|` are for the reader.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A stream of numbers from a seed (SplitMix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// The seed is `RINGKEEPER_TEST_SEED`, or new; it is printed, which shows if the test fails.
    pub fn from_environment() -> Random {
        let given = std::env::var("RINGKEEPER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = given.unwrap_or_else(now);
        println!("RINGKEEPER_TEST_SEED={seed}");
        Random::from_seed(seed)
    }

    /// The same numbers each time.
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// Another stream, its own for each `number`.
    pub fn fork(&mut self, number: u64) -> Random {
        Random(self.next() ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A directory below the build directory, on a real disk. It goes with the value, unless the test fails.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let test = thread::current().name().unwrap_or("unnamed").replace("::", "-");
        let path = scratch().join(format!("{test}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the build directory can be written to");
        Dir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and the directories above it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("it can be made");
        fs::write(&path, text).expect("it can be written");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("kept for a look: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("it")
}

/// A port that no other test has. It stays ours over restarts, because it is locked for this process, and because
/// Linux does not take ports of outgoing connections from this range unless told to.
pub struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    pub fn free() -> Port {
        const RANGE: std::ops::Range<u32> = 10_000..30_000;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let locks = scratch().join("ports");
        fs::create_dir_all(&locks).expect("the build directory can be written to");
        let start = std::process::id().wrapping_mul(131);
        for _ in RANGE {
            let step = COUNT.fetch_add(1, Ordering::Relaxed);
            let number = (RANGE.start + start.wrapping_add(step) % (RANGE.end - RANGE.start)) as u16;
            let lock = File::create(locks.join(number.to_string())).expect("a lock file can be made");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no port from {RANGE:?} is free");
    }
}

/// The program under test: the one that was built with the tests, or that `RINGKEEPER_TEST_PROGRAM` names, for figures.
pub fn program() -> Command {
    let named = std::env::var_os("RINGKEEPER_TEST_PROGRAM");
    let mut command = Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_ringkeeper").into()));
    // What the developer's environment says about servers is not meant for these.
    for name in ["SERVER_JVMFLAGS", "JVMFLAGS", "ZOOCFGDIR", "ZOOCFG", "ZOO_LOG_DIR", "ZOOPIDFILE", "ZOOMAIN"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A ringkeeper with its directory and its port. It ends with the value.
pub struct Server {
    pub dir: Dir,
    port: Port,
    /// The address that it listens on.
    host: String,
    /// The network namespace that it runs in; `None` for that of the test.
    namespace: Option<String>,
    process: Option<Child>,
    starts: u32,
    /// What a shell does before it becomes the server; none if it is empty.
    pub prelude: &'static str,
    /// What it finds in its environment besides what the test has there.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl Server {
    /// Lays out a server; `settings` are lines of its configuration, which win over the usual ones.
    pub fn new(settings: &str) -> Server {
        Server::place("127.0.0.1", None, settings)
    }

    /// Lays out a server that is elsewhere: on that address, in that network namespace.
    pub fn place(host: &str, namespace: Option<String>, settings: &str) -> Server {
        let server = Server {
            dir: Dir::new(),
            port: Port::free(),
            host: host.to_owned(),
            namespace,
            process: None,
            starts: 0,
            prelude: "",
            environment: Vec::new(),
        };
        server.configure(settings);
        server
    }

    /// Lays out a server and starts it.
    pub fn run(settings: &str) -> Server {
        let mut server = Server::new(settings);
        server.start();
        server
    }

    /// A server of the same configuration on a copy of this one's data, not started.
    pub fn copy(&self) -> Server {
        let mut copy = Server::new("");
        copy.prelude = self.prelude;
        let ours = fs::read_to_string(self.config_path()).expect("written by new");
        let moved = ours
            .replace(&self.dir.path().display().to_string(), &copy.dir.path().display().to_string())
            .replace(&format!("clientPort={}", self.port.number), &format!("clientPort={}", copy.port.number));
        fs::write(copy.config_path(), moved).expect("it can be written");
        fs::create_dir_all(copy.log_dir()).expect("it can be made");
        for entry in fs::read_dir(self.log_dir()).expect("it is there") {
            let entry = entry.expect("it can be read");
            fs::copy(entry.path(), copy.log_dir().join(entry.file_name())).expect("it can be copied");
        }
        copy
    }

    /// Writes the configuration anew.
    pub fn configure(&self, settings: &str) {
        let usual = format!(
            "tickTime=2000\ndataDir={}\nclientPort={}\nclientPortAddress={}\nmaxClientCnxns=0\n\
             ringkeeper.segmentBytes=1048576\nadmin.enableServer=false\n",
            self.dir.path().join("data").display(),
            self.port.number,
            self.host
        );
        let is_set = |key: &str| settings.lines().any(|line| line.split('=').next() == Some(key));
        let mut text: String = usual
            .lines()
            .filter(|line| !is_set(line.split('=').next().unwrap_or_default()))
            .map(|line| format!("{line}\n"))
            .collect();
        text.push_str(settings);
        self.dir.write("zoo.cfg", &text);
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("zoo.cfg")
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port.number)
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Where the log and the snapshots are.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("data/version-2")
    }

    /// Starts it and waits until it serves clients.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        let address = self.address();
        wait_for("the server to serve", || {
            if let Some(code) = self.exit_code() {
                panic!("the server ended with {code:?} instead of serving:\n{}", self.printed());
            }
            try_ask(&address, "srvr").filter(|answer| answer.contains("Mode:"))
        });
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        self.starts += 1;
        let out = File::create(self.out_path()).expect("its output can be kept");
        let err = out.try_clone().expect("a descriptor can be had");
        let mut command = if !self.prelude.is_empty() {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{}; exec \"$@\"", self.prelude), "sh"]).arg(program().get_program());
            shell
        } else if let Some(namespace) = &self.namespace {
            // It becomes the program, so the process is ours.
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", namespace]).arg(program().get_program());
            ip
        } else {
            program()
        };
        command.arg("start-foreground").arg(self.config_path()).current_dir(self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        self.process = Some(command.spawn().expect("the program can be run"));
    }

    /// Starts a server that is expected to end by itself. Returns its exit code and what it printed.
    #[track_caller]
    pub fn start_in_vain(&mut self) -> (Option<i32>, String) {
        self.spawn();
        let code = self.wait_for_end();
        (code, self.printed())
    }

    /// Waits until it ends by itself. Returns its exit code.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let code = wait_for("the server to end", || self.exit_code());
        self.process = None;
        code
    }

    /// `Some` if it has ended.
    pub fn exit_code(&mut self) -> Option<Option<i32>> {
        let process = self.process.as_mut()?;
        process.try_wait().expect("it is our child").map(|status| status.code())
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it is our child");
            process.wait().expect("it is our child");
        }
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        assert_eq!(self.wait_for_end(), Some(0), "{}", self.printed());
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.process.as_ref().expect("it runs"))
    }

    /// What it has printed since its last start.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.out_path()).unwrap_or_default()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.address())
    }

    /// Its memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    fn out_path(&self) -> PathBuf {
        self.dir.path().join(format!("out.{}", self.starts))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let printed = self.printed();
            let lines: Vec<&str> = printed.lines().collect();
            println!("the server's last words:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// The answer to a four-letter word.
#[track_caller]
pub fn ask(address: &str, word: &str) -> String {
    wait_for(word, || try_ask(address, word))
}

pub fn try_ask(address: &str, word: &str) -> Option<String> {
    try_ask_for(address, word, PATIENCE)
}

/// Gives up after that time, on a connection and on each part of the answer.
pub fn try_ask_for(address: &str, word: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().ok()?, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Where the tests of the protocol take place: a server, and a znode on it that is the test's own.
pub struct Place {
    pub address: String,
    /// Exists, is open to all, and had no children.
    pub root: String,
}

impl Place {
    fn new(address: String) -> Place {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        let root = format!("/point-{}-{now}", std::process::id());
        Client::connect(&address).call(&create(&root, Some(b""))).ok();
        Place { address, root }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// A path below the root.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }
}

/// Runs the check against a new ringkeeper, and against the Apache that `RINGKEEPER_TEST_APACHE` names.
///
/// Sessions time out quickly if the client asks for it: after 400 ms here, after two ticks there.
pub fn everywhere(check: impl Fn(&Place)) {
    everywhere_with("tickTime=200\nmaxSessionTimeout=60000\n", "RINGKEEPER_TEST_APACHE", check);
}

/// The same with other settings, and the Apache that another variable names.
pub fn everywhere_with(settings: &str, variable: &str, check: impl Fn(&Place)) {
    let server = Server::run(settings);
    check(&Place::new(server.address()));
    drop(server);
    if let Ok(address) = std::env::var(variable) {
        println!("now against {address}");
        check(&Place::new(address));
    }
}

/// A connection, as bytes.
pub struct Wire(TcpStream);

impl Wire {
    /// Connects; a server that is still starting is given time.
    #[track_caller]
    pub fn dial(address: &str) -> Wire {
        wait_for("a connection", || Wire::try_dial(address))
    }

    /// Connects, unless nobody listens.
    pub fn try_dial(address: &str) -> Option<Wire> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_nodelay(true).expect("it is TCP");
        Some(Wire(stream))
    }

    /// Sends bytes as they are. If the server is gone the next read says so.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Err(error) if !is_gone(error.kind()) => panic!("cannot send: {error}"),
            _ => {}
        }
    }

    /// Sends one frame.
    pub fn send(&mut self, payload: &[u8]) {
        self.send_bytes(&framed(payload));
    }

    /// The next frame with its length; `None` if the server has closed the connection, or died in the middle of it.
    #[track_caller]
    pub fn receive_bytes(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 4];
        self.fill(&mut head)?;
        let len = i32::from_be_bytes(head);
        assert!((0..64 << 20).contains(&len), "a frame of {len} bytes");
        let mut frame = head.to_vec();
        frame.resize(4 + len as usize, 0);
        self.fill(&mut frame[4..])?;
        Some(frame)
    }

    /// The next frame's payload; see [`Wire::receive_bytes`].
    #[track_caller]
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        self.receive_bytes().map(|frame| frame[4..].to_vec())
    }

    /// The server closes the connection, and sends nothing before.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("a byte {:02x} came instead of the end", byte[0]),
            Err(error) if is_gone(error.kind()) => {}
            Err(error) => panic!("the server does not close the connection: {error}"),
        }
    }

    /// All that comes until the server closes the connection.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("the server closes it in order");
        bytes
    }

    /// Drops the connection as a client that is cut off: without a word.
    pub fn hang_up(self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    #[track_caller]
    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof || is_gone(error.kind()) => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted)
}

/// A payload with its length before it.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// A request for a new session, as the Java client sends it.
pub fn new_session(timeout_ms: i32) -> ConnectRequest {
    ConnectRequest::new_session(timeout_ms)
}

/// The payload of a connect request.
pub fn encoded(request: &ConnectRequest) -> Vec<u8> {
    let mut payload = Vec::new();
    request.encode(&mut payload);
    payload
}

/// A client with a session.
pub struct Client {
    pub wire: Wire,
    pub session: SessionId,
    pub password: Password,
    pub timeout_ms: i32,
    /// Of the last request.
    pub xid: i32,
    /// Events that came while a reply was waited for.
    pub events: VecDeque<Event>,
}

/// What a server sends after the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    Event(Event),
    Reply(Reply),
}

/// A watch event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub zxid: i64,
    pub kind: i32,
    pub state: i32,
    pub path: String,
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

impl Client {
    const TIMEOUT_MS: i32 = 30_000;

    #[track_caller]
    pub fn connect(address: &str) -> Client {
        Client::connect_with(address, &new_session(Client::TIMEOUT_MS)).expect("the server gives a session")
    }

    #[track_caller]
    pub fn connect_for(address: &str, timeout_ms: i32) -> Client {
        Client::connect_with(address, &new_session(timeout_ms)).expect("the server gives a session")
    }

    /// Takes up a session again; `None` if the server does not know it any more or died.
    #[track_caller]
    pub fn attach(address: &str, session: SessionId, password: &[u8]) -> Option<Client> {
        let request = ConnectRequest { session, password: password.to_vec(), ..new_session(Client::TIMEOUT_MS) };
        Client::connect_with(address, &request)
    }

    /// `None` if there is no session to be had.
    #[track_caller]
    pub fn connect_with(address: &str, request: &ConnectRequest) -> Option<Client> {
        Client::shake_hands(Wire::dial(address), request)
    }

    /// `None` if there is no session to be had on that connection.
    #[track_caller]
    pub fn shake_hands(mut wire: Wire, request: &ConnectRequest) -> Option<Client> {
        wire.send(&encoded(request));
        let response = ConnectResponse::decode(&wire.receive()?).expect("a connect response");
        let ConnectResponse { timeout_ms, session, password, .. } = response;
        (session != SessionId::NONE).then_some(Client {
            wire,
            session,
            password,
            timeout_ms,
            xid: 0,
            events: VecDeque::new(),
        })
    }

    /// Sends a request with the next xid, which it returns.
    pub fn send(&mut self, request: &Request) -> i32 {
        self.xid += 1;
        self.send_as(self.xid, request);
        self.xid
    }

    /// Sends a request with that xid.
    pub fn send_as(&mut self, xid: i32, request: &Request) {
        self.wire.send(&request.encoded(xid));
    }

    /// Sends requests in one piece. Returns their xids.
    pub fn pipeline(&mut self, requests: &[Request]) -> Vec<i32> {
        let mut bytes = Vec::new();
        let mut xids = Vec::new();
        for request in requests {
            self.xid += 1;
            xids.push(self.xid);
            bytes.extend(framed(&request.encoded(self.xid)));
        }
        self.wire.send_bytes(&bytes);
        xids
    }

    /// The next event or reply; `None` if the connection is closed.
    #[track_caller]
    pub fn try_next(&mut self) -> Option<Frame> {
        let payload = self.wire.receive()?;
        let mut r = Reader::new(&payload);
        let header = ReplyHeader::decode(&mut r).expect("a reply header");
        if header.xid != -1 {
            let ReplyHeader { xid, zxid, err } = header;
            return Some(Frame::Reply(Reply { xid, zxid: zxid.0, err, body: r.rest().to_vec() }));
        }
        let event = Event {
            zxid: header.zxid.0,
            kind: r.int().expect("a type"),
            state: r.int().expect("a state"),
            path: r.required_string().expect("a path").into_owned(),
        };
        assert!(r.rest().is_empty(), "bytes behind an event");
        Some(Frame::Event(event))
    }

    /// The next event or reply, in the order in which the server sent them.
    #[track_caller]
    pub fn next(&mut self) -> Frame {
        self.try_next().expect("the server keeps the connection")
    }

    /// The next reply; events before it are kept.
    #[track_caller]
    pub fn next_reply(&mut self) -> Reply {
        loop {
            match self.next() {
                Frame::Reply(reply) => return reply,
                Frame::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// The next event, one that was kept or one that comes before any reply.
    #[track_caller]
    pub fn next_event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.next() {
            Frame::Event(event) => event,
            Frame::Reply(reply) => panic!("{reply:?} instead of an event"),
        }
    }

    /// Sends a request and waits for its reply, which must be the next.
    #[track_caller]
    pub fn call(&mut self, request: &Request) -> Reply {
        self.try_call(request).expect("the server keeps the connection")
    }

    /// Sends a request and waits for its reply; `None` if the connection is closed first. Events before it are kept.
    #[track_caller]
    pub fn try_call(&mut self, request: &Request) -> Option<Reply> {
        let xid = self.send(request);
        loop {
            match self.try_next()? {
                Frame::Reply(reply) => {
                    assert_eq!(reply.xid, xid, "replies come in the order of requests");
                    return Some(reply);
                }
                Frame::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// Makes sure that all events of writes that were answered before have come: those that are new.
    ///
    /// A write of its own does that, because a connection sees the effects of writes in their order.
    #[track_caller]
    pub fn events_so_far(&mut self) -> Vec<Event> {
        // It fails, and takes its place all the same.
        assert_eq!(self.call(&delete("/zookeeper/none", -1)).err, -101);
        self.events.drain(..).collect()
    }

    /// Still connected.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        self.send_as(-2, &PING);
        let reply = self.next_reply();
        assert_eq!((reply.xid, reply.err, reply.body.len()), (-2, 0, 0));
    }
}

impl Reply {
    /// The body of a reply without an error.
    #[track_caller]
    pub fn ok(&self) -> &[u8] {
        assert_eq!(self.err, 0, "{self:?}");
        &self.body
    }

    /// The body as a `Stat`, whole.
    #[track_caller]
    pub fn stat(&self) -> Stat {
        assert_eq!(self.ok().len(), Stat::LEN);
        Stat::decode(&mut Reader::new(self.ok())).expect("68 bytes")
    }

    /// The body as data and `Stat`, whole.
    #[track_caller]
    pub fn data(&self) -> (Option<Vec<u8>>, Stat) {
        let mut r = Reader::new(self.ok());
        let data = r.buffer().expect("a buffer").map(<[u8]>::to_vec);
        let stat = Stat::decode(&mut r).expect("a Stat");
        assert!(r.rest().is_empty());
        (data, stat)
    }

    /// The body as a path, whole.
    #[track_caller]
    pub fn path(&self) -> String {
        let mut r = Reader::new(self.ok());
        let path = r.required_string().expect("a path").into_owned();
        assert!(r.rest().is_empty());
        path
    }

    /// The body as a path and `Stat`, whole.
    #[track_caller]
    pub fn path_and_stat(&self) -> (String, Stat) {
        let mut r = Reader::new(self.ok());
        let path = r.required_string().expect("a path").into_owned();
        let stat = Stat::decode(&mut r).expect("a Stat");
        assert!(r.rest().is_empty());
        (path, stat)
    }

    /// The body as names and `Stat`, whole; sorted.
    #[track_caller]
    pub fn children(&self) -> (Vec<String>, Stat) {
        let mut r = Reader::new(self.ok());
        let names = r.vector(|r| Ok(r.required_string()?.into_owned())).expect("a vector");
        let mut names = names.expect("not null");
        names.sort();
        let stat = Stat::decode(&mut r).expect("a Stat");
        assert!(r.rest().is_empty());
        (names, stat)
    }
}

/// A request without its xid.
#[derive(Clone, Debug)]
pub struct Request {
    pub op: i32,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(op: i32, body: impl FnOnce(&mut Vec<u8>)) -> Request {
        let mut request = Request { op, body: Vec::new() };
        body(&mut request.body);
        request
    }

    /// Header and body.
    pub fn encoded(&self, xid: i32) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.put_int(xid);
        payload.put_int(self.op);
        payload.put_raw(&self.body);
        payload
    }
}

pub const PING: Request = Request { op: 11, body: Vec::new() };
pub const CLOSE_SESSION: Request = Request { op: -11, body: Vec::new() };

/// `CreateMode` by number.
pub const PERSISTENT: i32 = 0;
pub const EPHEMERAL: i32 = 1;
pub const SEQUENTIAL: i32 = 2;
pub const CONTAINER: i32 = 4;
pub const WITH_TTL: i32 = 5;

/// `EventType` by number.
pub const CREATED: i32 = 1;
pub const DELETED: i32 = 2;
pub const DATA_CHANGED: i32 = 3;
pub const CHILDREN_CHANGED: i32 = 4;

pub fn create(path: &str, data: Option<&[u8]>) -> Request {
    create_as(1, path, data, &AclList::OPEN, PERSISTENT)
}

pub fn create_ephemeral(path: &str) -> Request {
    create_as(1, path, Some(b"e"), &AclList::OPEN, EPHEMERAL)
}

pub fn create_sequential(path: &str) -> Request {
    create_as(1, path, Some(b"s"), &AclList::OPEN, SEQUENTIAL)
}

pub fn create_as(op: i32, path: &str, data: Option<&[u8]>, acl: &AclList, flags: i32) -> Request {
    Request::new(op, |body| {
        body.put_string(path);
        body.put_buffer(data);
        acl.encode(body);
        body.put_int(flags);
    })
}

pub fn delete(path: &str, version: i32) -> Request {
    Request::new(2, |body| {
        body.put_string(path);
        body.put_int(version);
    })
}

pub fn set(path: &str, data: Option<&[u8]>) -> Request {
    set_version(path, data, -1)
}

pub fn set_version(path: &str, data: Option<&[u8]>, version: i32) -> Request {
    Request::new(5, |body| {
        body.put_string(path);
        body.put_buffer(data);
        body.put_int(version);
    })
}

pub fn set_acl(path: &str, acl: &AclList) -> Request {
    Request::new(7, |body| {
        body.put_string(path);
        acl.encode(body);
        body.put_int(-1);
    })
}

fn read(op: i32, path: &str, watch: bool) -> Request {
    Request::new(op, |body| {
        body.put_string(path);
        body.put_bool(watch);
    })
}

pub fn exists(path: &str, watch: bool) -> Request {
    read(3, path, watch)
}

pub fn get(path: &str, watch: bool) -> Request {
    read(4, path, watch)
}

/// Opcode 12: names and `Stat`.
pub fn children(path: &str, watch: bool) -> Request {
    read(12, path, watch)
}

pub fn check(path: &str, version: i32) -> Request {
    Request { op: 13, ..delete(path, version) }
}

pub fn sync(path: &str) -> Request {
    Request::new(9, |body| body.put_string(path))
}

pub fn add_watch(path: &str, mode: i32) -> Request {
    Request::new(106, |body| {
        body.put_string(path);
        body.put_int(mode);
    })
}

pub fn auth(scheme: &str, data: &[u8]) -> Request {
    Request::new(100, |body| {
        body.put_int(0);
        body.put_string(scheme);
        body.put_buffer(Some(data));
    })
}

pub fn set_watches(relative_zxid: i64, data: &[&str], exist: &[&str], child: &[&str]) -> Request {
    Request::new(101, |body| {
        body.put_long(relative_zxid);
        for paths in [data, exist, child] {
            body.put_vector(paths, |body, path| body.put_string(path));
        }
    })
}

pub fn multi(parts: &[Request]) -> Request {
    Request::new(14, |body| {
        for part in parts {
            MultiHeader { op: part.op, done: false, err: -1 }.encode(body);
            body.put_raw(&part.body);
        }
        MultiHeader::END.encode(body);
    })
}
