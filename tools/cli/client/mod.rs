//! A client of the ZooKeeper protocol, for a command line.
//!
//! Why not crates.io's `zookeeper-client`: a shell has to show what the server said, and that crate, made for
//! programs, hides some of it. It cannot tell null data from empty data, in either direction; there is no client
//! before the first connection stands, and so nothing to show while it is being looked for; it gives up by itself
//! when no server answers; watches are objects that take themselves away when dropped, without a way to remove them
//! by kind; an error code that it does not know ends the connection. None of this can be built on top of it. What
//! is here stands on the codecs of the server, waits with `mio`, and needs no async runtime.

pub mod address;
pub mod error;
pub mod event;
mod link;
pub mod path;
mod watches;

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::Waker;
use ringkeeper::jute::{DecodeError, Reader, Write};
use ringkeeper::proto::client::{Acl, Stat};
use ringkeeper::proto::op::{CreateMode, MultiHeader, OpCode, Which};

pub use address::Address;
pub use error::{Error, code};
pub use event::{Level, Sink, State, WatchedEvent};
use link::{Link, Message, Reply, Request, Shared};
use watches::Change;

/// Session timeout that is asked for if nothing is said, in ms.
pub const TIMEOUT_MS_DEFAULT: i32 = 30_000;
/// Largest frame that is taken from a server, unless `jute.maxbuffer` says otherwise. Apache's client takes 1 MiB,
/// and cannot list a parent of many children by that.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// The znode that tells the members of the ensemble.
const CONFIG_NODE: &str = "/zookeeper/config";

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Session timeout to ask for, in ms. 0 asks for the server's shortest.
    pub timeout_ms: i32,
    /// Whether a server in read-only mode will do.
    pub read_only: bool,
    /// Largest frame that is taken from the server.
    pub frame_bytes_max: usize,
    /// How long a reply may take; `None` for as long as the connection stands.
    pub request_timeout: Option<Duration>,
    /// Forget the watches that fire once when a connection is lost.
    pub forget_watches: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout_ms: TIMEOUT_MS_DEFAULT,
            read_only: false,
            frame_bytes_max: FRAME_BYTES_MAX,
            request_timeout: None,
            forget_watches: false,
        }
    }
}

/// One session. Calls wait for their reply; [`Client::children_later`] and its like give a [`Ticket`] instead.
///
/// A dropped client leaves its session to expire; [`Client::close`] ends it.
pub struct Client {
    inbox: mpsc::Sender<Message>,
    waker: Waker,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    chroot: Option<String>,
    request_timeout: Option<Duration>,
}

/// A request that is under way; [`Ticket::wait`] is its result.
pub struct Ticket<'a, T> {
    client: &'a Client,
    reply: mpsc::Receiver<Reply>,
    path: Option<String>,
    decode: fn(&Client, &mut Reader<'_>) -> Result<T, DecodeError>,
}

impl<T> Ticket<'_, T> {
    /// Waits for the reply.
    pub fn wait(self) -> Result<T, Error> {
        let error = |code| Error::Keeper { code, path: self.path.clone() };
        let body = self.client.wait(&self.reply).map_err(error)?;
        let mut r = Reader::new(&body);
        (self.decode)(self.client, &mut r).map_err(|error| Error::BadReply(error.to_string()))
    }

    /// The result, if it is there within that time.
    pub fn wait_at_most(self, limit: Duration) -> Option<T> {
        let body = self.reply.recv_timeout(limit).ok()?.ok()?;
        (self.decode)(self.client, &mut Reader::new(&body)).ok()
    }
}

/// What a multi does.
pub enum Op<'a> {
    /// Any version.
    Delete { path: &'a str },
    /// Persistent.
    Create { path: &'a str, data: Option<&'a [u8]>, acl: &'a [Acl] },
}

/// A znode's data and metadata.
pub type Data = (Option<Vec<u8>>, Stat);

impl Client {
    /// Starts to look for a server. Does not wait for one. The error is of the operating system.
    pub fn connect(address: Address, options: Options, sink: Arc<dyn Sink>) -> std::io::Result<Client> {
        let (inbox, messages) = mpsc::channel();
        let shared = Arc::new(Shared::new());
        let (chroot, request_timeout) = (address.chroot.clone(), options.request_timeout);
        let (link, waker) = Link::new(address, options, Arc::clone(&shared), sink, messages)?;
        let thread = thread::Builder::new().name("link".to_owned()).spawn(move || link.run())?;
        Ok(Client { inbox, waker, shared, thread: Some(thread), chroot, request_timeout })
    }

    /// The state of the session.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// The newest transaction that a reply or an event of the server has told of.
    pub fn last_zxid(&self) -> i64 {
        self.shared.last_zxid()
    }

    /// Ends the session, and waits until that is done.
    pub fn close(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.tell(Message::Close);
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }

    /// Adds credentials; there is no reply.
    pub fn add_auth(&self, scheme: &str, data: Option<&[u8]>) {
        self.tell(Message::Auth { scheme: scheme.to_owned(), data: data.map(<[u8]>::to_vec) });
    }

    /// Creates a znode and returns its path. `ttl_ms` is for the modes that have one.
    pub fn create(
        &self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        mode: CreateMode,
        ttl_ms: i64,
    ) -> Result<String, Error> {
        path::validate(&if mode.is_sequential() { format!("{path}1") } else { path.to_owned() })
            .map_err(Error::BadPath)?;
        if acl.is_empty() {
            return Err(Error::Keeper { code: code::INVALID_ACL, path: None });
        }
        let mut body = Vec::new();
        self.put_create(&mut body, path, data, acl, mode);
        let op = match mode {
            CreateMode::Container => OpCode::CreateContainer,
            _ if mode.is_ttl() => {
                body.put_long(ttl_ms);
                OpCode::CreateTtl
            }
            _ => OpCode::Create,
        };
        let decode = |client: &Client, r: &mut Reader<'_>| Ok(client.client_path(&r.required_string()?));
        self.submit(op, Some(path), body, None, decode).wait()
    }

    /// Deletes a znode; version -1 is any.
    pub fn delete(&self, path: &str, version: i32) -> Result<(), Error> {
        let mut body = self.path_body(path)?;
        body.put_int(version);
        self.submit(OpCode::Delete, Some(path), body, None, nothing).wait()
    }

    /// Data and metadata of a znode.
    pub fn data(&self, path: &str, watch: bool) -> Result<Data, Error> {
        self.data_later(path, watch)?.wait()
    }

    /// The same, without waiting.
    pub fn data_later(&self, path: &str, watch: bool) -> Result<Ticket<'_, Data>, Error> {
        let mut body = self.path_body(path)?;
        body.put_bool(watch);
        let change = watch.then(|| Change::Data(path.to_owned()));
        Ok(self.submit(OpCode::GetData, Some(path), body, change, data))
    }

    /// Sets the data; version -1 is any.
    pub fn set_data(&self, path: &str, data: Option<&[u8]>, version: i32) -> Result<Stat, Error> {
        let mut body = self.path_body(path)?;
        body.put_buffer(data);
        body.put_int(version);
        self.submit(OpCode::SetData, Some(path), body, None, |_, r| Stat::decode(r)).wait()
    }

    /// Metadata, `None` if there is no such znode.
    pub fn exists(&self, path: &str, watch: bool) -> Result<Option<Stat>, Error> {
        let mut body = self.path_body(path)?;
        body.put_bool(watch);
        let change = watch.then(|| Change::Exists(path.to_owned()));
        let stat = self.submit(OpCode::Exists, Some(path), body, change, |_, r| Stat::decode(r)).wait();
        match stat {
            Err(error) if error.is(code::NO_NODE) => Ok(None),
            stat => stat.map(Some),
        }
    }

    /// Names of the children, in the server's order.
    pub fn children(&self, path: &str, watch: bool) -> Result<(Vec<String>, Stat), Error> {
        self.children_later(path, watch)?.wait()
    }

    /// The same, without waiting.
    pub fn children_later(&self, path: &str, watch: bool) -> Result<Ticket<'_, (Vec<String>, Stat)>, Error> {
        let mut body = self.path_body(path)?;
        body.put_bool(watch);
        let change = watch.then(|| Change::Children(path.to_owned()));
        Ok(self.submit(OpCode::GetChildren2, Some(path), body, change, |_, r| Ok((strings(r)?, Stat::decode(r)?))))
    }

    /// The access control list.
    pub fn acl(&self, path: &str) -> Result<(Vec<Acl>, Stat), Error> {
        self.acl_later(path)?.wait()
    }

    /// The same, without waiting.
    pub fn acl_later(&self, path: &str) -> Result<Ticket<'_, (Vec<Acl>, Stat)>, Error> {
        let body = self.path_body(path)?;
        let decode =
            |_: &Client, r: &mut Reader<'_>| Ok((r.vector(Acl::decode)?.unwrap_or_default(), Stat::decode(r)?));
        Ok(self.submit(OpCode::GetAcl, Some(path), body, None, decode))
    }

    /// Sets the access control list; version -1 is any.
    pub fn set_acl(&self, path: &str, acl: &[Acl], version: i32) -> Result<Stat, Error> {
        let mut body = self.path_body(path)?;
        if acl.is_empty() {
            return Err(Error::Keeper { code: code::INVALID_ACL, path: None });
        }
        body.put_vector(acl, |out, acl| acl.encode(out));
        body.put_int(version);
        self.submit(OpCode::SetAcl, Some(path), body, None, |_, r| Stat::decode(r)).wait()
    }

    /// Waits until the server has seen what the leader has.
    pub fn sync(&self, path: &str) -> Result<(), Error> {
        let body = self.path_body(path)?;
        self.submit(OpCode::Sync, Some(path), body, None, nothing).wait()
    }

    /// Leaves a watch that stays, on a znode or on all below it too.
    pub fn add_watch(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let mut body = self.path_body(path)?;
        body.put_int(recursive.into());
        let change = Change::Added { path: path.to_owned(), recursive };
        self.submit(OpCode::AddWatch, Some(path), body, Some(change), nothing).wait()
    }

    /// Takes watches away; with `local` also if the server cannot be told.
    pub fn remove_watches(&self, path: &str, which: Which, local: bool) -> Result<(), Error> {
        let mut body = self.path_body(path)?;
        body.put_int(match which {
            Which::Children => 1,
            Which::Data => 2,
            Which::Any => 3,
            Which::Persistent => 4,
            Which::PersistentRecursive => 5,
        });
        let change = Change::Removed { path: path.to_owned(), which, local };
        self.submit(OpCode::RemoveWatches, Some(path), body, Some(change), nothing).wait()
    }

    /// Paths of this session's ephemerals that begin with `prefix`. Neither is confined by the chroot, in Apache's
    /// client either.
    pub fn ephemerals(&self, prefix: &str) -> Result<Vec<String>, Error> {
        path::validate(prefix).map_err(Error::BadPath)?;
        let mut body = Vec::new();
        body.put_string(prefix);
        self.submit(OpCode::GetEphemerals, None, body, None, |_, r| strings(r)).wait()
    }

    /// How many znodes are below a path.
    pub fn descendants(&self, path: &str) -> Result<i32, Error> {
        let body = self.path_body(path)?;
        self.submit(OpCode::GetAllChildrenNumber, Some(path), body, None, |_, r| r.int()).wait()
    }

    /// The identities of the session, as scheme and name.
    pub fn who_am_i(&self) -> Result<Vec<(String, String)>, Error> {
        fn identity(r: &mut Reader<'_>) -> Result<(String, String), DecodeError> {
            let scheme = r.string()?.unwrap_or_default().into_owned();
            Ok((scheme, r.string()?.unwrap_or_default().into_owned()))
        }
        let decode = |_: &Client, r: &mut Reader<'_>| Ok(r.vector(identity)?.unwrap_or_default());
        self.submit(OpCode::WhoAmI, None, Vec::new(), None, decode).wait()
    }

    /// The members of the ensemble, as text.
    pub fn config(&self, watch: bool) -> Result<Data, Error> {
        let mut body = Vec::new();
        body.put_string(CONFIG_NODE);
        body.put_bool(watch);
        let change = watch.then(|| Change::Data(CONFIG_NODE.to_owned()));
        self.submit(OpCode::GetData, Some(CONFIG_NODE), body, change, data).wait()
    }

    /// Changes the members of the ensemble. `None` is null; `from_version` -1 is any.
    pub fn reconfigure(
        &self,
        joining: Option<&str>,
        leaving: Option<&str>,
        members: Option<&str>,
        from_version: i64,
    ) -> Result<Data, Error> {
        let mut body = Vec::new();
        for text in [joining, leaving, members] {
            body.put_buffer(text.map(str::as_bytes));
        }
        body.put_long(from_version);
        self.submit(OpCode::Reconfig, None, body, None, data).wait()
    }

    /// Carries out all or none. The error is of the operation that failed, with its path.
    pub fn multi(&self, ops: &[Op<'_>]) -> Result<(), Error> {
        self.multi_later(ops).wait().and_then(|failed| match failed {
            None => Ok(()),
            Some((at, code)) => {
                let path = ops.get(at).map(|op| match op {
                    Op::Delete { path } | Op::Create { path, .. } => (*path).to_owned(),
                });
                Err(Error::Keeper { code, path })
            }
        })
    }

    /// The same, without waiting; the result is the index and the code of the operation that failed.
    pub fn multi_later(&self, ops: &[Op<'_>]) -> Ticket<'_, Option<(usize, i32)>> {
        let mut body = Vec::new();
        for op in ops {
            match op {
                Op::Delete { path } => {
                    MultiHeader { op: OpCode::Delete as i32, done: false, err: -1 }.encode(&mut body);
                    body.put_string(&self.server_path(path));
                    body.put_int(-1);
                }
                Op::Create { path, data, acl } => {
                    MultiHeader { op: OpCode::Create as i32, done: false, err: -1 }.encode(&mut body);
                    self.put_create(&mut body, path, *data, acl, CreateMode::Persistent);
                }
            }
        }
        MultiHeader::END.encode(&mut body);
        self.submit(OpCode::Multi, None, body, None, |_, r| first_failure(r))
    }

    fn put_create(&self, body: &mut Vec<u8>, path: &str, data: Option<&[u8]>, acl: &[Acl], mode: CreateMode) {
        body.put_string(&self.server_path(path));
        body.put_buffer(data);
        body.put_vector(acl, |out, acl| acl.encode(out));
        body.put_int(match mode {
            CreateMode::Persistent => 0,
            CreateMode::Ephemeral => 1,
            CreateMode::PersistentSequential => 2,
            CreateMode::EphemeralSequential => 3,
            CreateMode::Container => 4,
            CreateMode::PersistentWithTtl => 5,
            CreateMode::PersistentSequentialWithTtl => 6,
        });
    }

    /// A body that begins with the path.
    fn path_body(&self, path: &str) -> Result<Vec<u8>, Error> {
        path::validate(path).map_err(Error::BadPath)?;
        let mut body = Vec::new();
        body.put_string(&self.server_path(path));
        Ok(body)
    }

    fn server_path(&self, path: &str) -> String {
        path::to_server(self.chroot.as_deref(), path)
    }

    fn client_path(&self, path: &str) -> String {
        path::to_client(self.chroot.as_deref(), path)
    }

    fn submit<T>(
        &self,
        op: OpCode,
        path: Option<&str>,
        body: Vec<u8>,
        change: Option<Change>,
        decode: fn(&Client, &mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Ticket<'_, T> {
        let (sender, reply) = mpsc::channel();
        self.tell(Message::Request(Request { op, body, change, reply: sender }));
        Ticket { client: self, reply, path: path.map(str::to_owned), decode }
    }

    fn wait(&self, reply: &mpsc::Receiver<Reply>) -> Reply {
        // A closed channel means that the thread has ended.
        let ended = || match self.state() {
            State::AuthFailed => code::AUTH_FAILED,
            _ => code::SESSION_EXPIRED,
        };
        let Some(limit) = self.request_timeout else { return reply.recv().unwrap_or_else(|_| Err(ended())) };
        match reply.recv_timeout(limit) {
            Ok(reply) => reply,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ended()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.tell(Message::Abort);
                Err(code::REQUEST_TIMEOUT)
            }
        }
    }

    fn tell(&self, message: Message) {
        // A thread that has ended takes no message, and no reply will come: `wait` sees that.
        if self.inbox.send(message).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

fn nothing(_: &Client, _: &mut Reader<'_>) -> Result<(), DecodeError> {
    Ok(())
}

fn data(_: &Client, r: &mut Reader<'_>) -> Result<Data, DecodeError> {
    Ok((r.buffer()?.map(<[u8]>::to_vec), Stat::decode(r)?))
}

fn strings(r: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    Ok(r.vector(|r| Ok(r.required_string()?.into_owned()))?.unwrap_or_default())
}

/// The first result of a multi that says why it failed. Results before it say 0, those behind it
/// RuntimeInconsistency.
fn first_failure(r: &mut Reader<'_>) -> Result<Option<(usize, i32)>, DecodeError> {
    const ERROR: i32 = -1;
    for at in 0.. {
        let header = MultiHeader::decode(r)?;
        if header.done {
            break;
        }
        match OpCode::from_wire(header.op) {
            Some(OpCode::Create) => drop(r.required_string()?),
            Some(OpCode::Delete) => {}
            None if header.op == ERROR => {
                let code = r.int()?;
                if code != 0 {
                    return Ok(Some((at, code)));
                }
            }
            _ => {
                return Err(DecodeError {
                    position: r.position(),
                    expected: "the result of a create or a delete",
                    got: header.op.into(),
                });
            }
        }
    }
    Ok(None)
}
