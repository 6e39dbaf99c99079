//! The driver of a client shard: sockets to [`Cnxns`] and back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use glommio::nop::NopSubmitter;
use glommio::task::JoinHandle;

use super::clock::Clock;
use super::listener;
use super::mesh::{Notify, Queue};
use crate::cnxn::{Asked, CloseReason, Cnxns, OUTPUT_PAUSE_BYTES, Progress};
use crate::request::pipeline::{Answer, Ask, CommitBatch};
use crate::server::admin::Admin;
use crate::server::limits::ACCEPT_PAUSE;
use crate::tree::Tree;
use crate::types::CnxnId;
use crate::zab::effect::Mode;

/// How often [`Cnxns::tick`] runs; touches of sessions are this old at most when they are handed on.
pub const TICK_MS: u64 = 100;
/// Most bytes that one read takes in.
const READ_BYTES_MAX: usize = 256 << 10;
/// A connection gives way to others after it has read and written this often in a row.
const TURNS_MAX: usize = 4;

/// What the ordering shard tells a client shard.
pub enum ToClients {
    /// Writes have become visible.
    Committed(Arc<CommitBatch>),
    /// See [`Answer`].
    Answer(Answer),
    /// The server serves in this role from here on, or not at all.
    Serving(Option<(Mode, Tree)>),
    /// Clients connect here from now on, or nowhere. Whoever accepts takes the socket.
    Listen(Arc<Mutex<Option<OwnedFd>>>),
}

/// One client shard.
pub struct ClientShard {
    cnxns: RefCell<Cnxns>,
    /// By slot: the task that serves it.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// To the ordering shard.
    asks: Rc<Queue<Ask>>,
    clock: Clock,
    admin: Rc<Admin>,
    slow_words: Queue<Asked>,
    /// What was read last, by whichever connection: [`READ_BYTES_MAX`] of memory that stays in the cache.
    inbox: RefCell<Vec<u8>>,
    /// Told when there is something to be done by and by.
    more: Notify,
    nop: NopSubmitter,
    entrance: RefCell<Option<Entrance>>,
}

/// What the shard has that accepts connections.
struct Entrance {
    /// The ways to the shards but this.
    others: Vec<Rc<Queue<AcceptedTcpStream>>>,
    /// The task that accepts, while there is a port.
    accepting: Option<JoinHandle<()>>,
}

impl ClientShard {
    /// A shard without connections. `asks` leads to the ordering shard.
    pub fn new(cnxns: Cnxns, asks: Rc<Queue<Ask>>, clock: Clock, admin: Rc<Admin>) -> ClientShard {
        ClientShard {
            cnxns: RefCell::new(cnxns),
            wakers: RefCell::default(),
            asks,
            clock,
            admin,
            slow_words: Queue::default(),
            inbox: RefCell::new(vec![0; READ_BYTES_MAX]),
            more: Notify::default(),
            nop: NopSubmitter::new(),
            entrance: RefCell::default(),
        }
    }

    /// The connections.
    pub fn cnxns(&self) -> &RefCell<Cnxns> {
        &self.cnxns
    }

    /// Takes in what the ordering shard says.
    pub fn take(self: &Rc<Self>, message: &ToClients) {
        let now = self.clock.now();
        if let ToClients::Listen(socket) = message {
            return self.listen(socket);
        }
        {
            let mut cnxns = self.cnxns.borrow_mut();
            match message {
                ToClients::Committed(batch) => cnxns.committed(now, batch),
                ToClients::Answer(answer) => cnxns.answer(now, answer),
                ToClients::Serving(Some((Mode::ReadOnly, tree))) => {
                    cnxns.serve_read_only(Mode::ReadOnly.name(), tree.clone());
                }
                ToClients::Serving(Some((mode, tree))) => cnxns.serve(mode.name(), tree.clone()),
                ToClients::Serving(None) => cnxns.unserve(),
                ToClients::Listen(_) => unreachable!("taken above"),
            }
        }
        self.hand_on(None);
    }

    /// Accepts connections for all shards from now on: every one in turn gets one. `others` lead to the shards but this.
    /// Without a socket there is no client port until [`ToClients::Listen`] brings one.
    pub fn open_entrance(self: &Rc<Self>, socket: Option<OwnedFd>, others: Vec<Rc<Queue<AcceptedTcpStream>>>) {
        *self.entrance.borrow_mut() = Some(Entrance { others, accepting: None });
        self.listen(&Mutex::new(socket));
    }

    /// Connections that were accepted before stay.
    fn listen(self: &Rc<Self>, socket: &Mutex<Option<OwnedFd>>) {
        let mut entrance = self.entrance.borrow_mut();
        let Some(Entrance { others, accepting }) = &mut *entrance else { return };
        if let Some(before) = accepting.take() {
            before.cancel();
        }
        if let Some(socket) = socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let accept = Rc::clone(self).accept(listener::adopt(socket), others.clone());
            *accepting = Some(glommio::spawn_local(accept).detach());
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, others: Vec<Rc<Queue<AcceptedTcpStream>>>) {
        let mut turn = 0;
        loop {
            match listener.shared_accept().await {
                Ok(stream) => {
                    match others.get(turn) {
                        Some(other) => other.push(stream),
                        None => self.admit(stream),
                    }
                    turn = (turn + 1) % (others.len() + 1);
                }
                Err(error) => {
                    tracing::warn!("Error accepting new connection: {error}");
                    glommio::timer::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Does what time brings, for ever.
    pub async fn tick(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(Duration::from_millis(TICK_MS)).await;
            self.cnxns.borrow_mut().tick(self.clock.now());
            self.admin.tick(&mut self.cnxns.borrow_mut());
            self.hand_on(None);
        }
    }

    /// Answers the words that look at files or need other shards, one after the other, for ever.
    pub async fn answer_slow_words(self: Rc<Self>) {
        loop {
            let asked = self.slow_words.next().await;
            self.admin.tick(&mut self.cnxns.borrow_mut());
            let work = self.admin.work_out(asked.word, self.clock.now(), self.clock.wall());
            let text = super::blocking(work).await;
            self.cnxns.borrow_mut().answer_text(asked.cnxn, &text);
            self.hand_on(None);
        }
    }

    /// Does by and by what would hold up others if it were done at once, for ever: a step, then a round through the ring,
    /// so that flushes and sockets get their turn.
    pub async fn do_by_and_by(self: Rc<Self>) {
        loop {
            self.more.notified().await;
            while self.has_more() {
                self.cnxns.borrow_mut().do_some();
                self.admin.do_some(&self.cnxns.borrow());
                self.hand_on(None);
                drop(self.nop.run_nop().await);
            }
        }
    }

    fn has_more(&self) -> bool {
        self.cnxns.borrow().has_more() || self.admin.has_more()
    }

    /// Serves a connection that was accepted, if the limits allow one more.
    pub fn admit(self: &Rc<Self>, stream: AcceptedTcpStream) {
        let stream = stream.bind_to_executor();
        // A peer that has gone already needs no further word.
        let Ok(peer) = stream.peer_addr() else { return };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let ticket = match self.admin.limits().admit(peer.ip()) {
            Ok(ticket) => ticket,
            Err(refusal) => {
                tracing::warn!("Error accepting new connection: {refusal}");
                return;
            }
        };
        drop(stream.set_nodelay(true));
        let id = self.cnxns.borrow_mut().accept(self.clock.now(), peer);
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let why = shard.serve(stream, id).await;
            shard.cnxns.borrow_mut().disconnected(id);
            drop(ticket);
            match why {
                Ok(CloseReason::FourLetter | CloseReason::SessionClosed) => {}
                Ok(reason) => tracing::info!("Closed the connection of {peer}: {reason}"),
                Err(error) => {
                    shard.cnxns.borrow_mut().lost();
                    tracing::debug!("Lost the connection of {peer}: {error}");
                }
            }
        })
        .detach();
    }

    /// Serves one connection to its end. Errors when the client or the network ends it.
    async fn serve(&self, mut stream: TcpStream, id: CnxnId) -> io::Result<CloseReason> {
        let mut conversation = Conversation::default();
        let why = poll_fn(|cx| {
            self.set_waker(id, cx.waker());
            conversation.turn(self, &mut stream, id, cx)
        })
        .await;
        self.wakers.borrow_mut()[id.slot as usize] = None;
        if why.is_ok() {
            drop(stream.shutdown(std::net::Shutdown::Both).await);
        }
        why
    }

    fn set_waker(&self, id: CnxnId, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        let slot = id.slot as usize;
        if wakers.len() <= slot {
            wakers.resize(slot + 1, None);
        }
        match &mut wakers[slot] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Moves on what the connections have produced: requests to the ordering shard, wake-ups to those with output,
    /// four-letter words to whoever answers them. `me` is being served and needs no wake-up.
    fn hand_on(&self, me: Option<CnxnId>) {
        let texts = self.cnxns.borrow_mut().take_texts();
        for asked in texts {
            if asked.word.is_quick() {
                let text = self.admin.answer(&asked, &self.cnxns.borrow());
                self.cnxns.borrow_mut().answer_text(asked.cnxn, &text);
            } else {
                self.slow_words.push(asked);
            }
        }
        if self.has_more() {
            self.more.notify();
        }
        let mut cnxns = self.cnxns.borrow_mut();
        if cnxns.has_asks() {
            self.asks.extend(cnxns.take_asks());
        }
        let wakers = self.wakers.borrow();
        for slot in cnxns.take_ready() {
            if me.is_none_or(|me| me.slot != slot)
                && let Some(Some(waker)) = wakers.get(slot as usize)
            {
                waker.wake_by_ref();
            }
        }
    }
}

/// What is in the air between a socket and its connection.
#[derive(Default)]
struct Conversation {
    input: BytesMut,
    output: Vec<u8>,
    sent: usize,
}

impl Conversation {
    /// Reads, works off and writes until the socket has no more to give or to take.
    fn turn(
        &mut self,
        shard: &ClientShard,
        stream: &mut TcpStream,
        id: CnxnId,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<CloseReason>> {
        for _ in 0..TURNS_MAX {
            if let Some(reason) = shard.cnxns.borrow().aborted(id) {
                return Poll::Ready(Ok(reason));
            }
            // Replies first, so that a connection that may not read on before they are sent does not wait for itself.
            let blocked = match self.write(shard, stream, id, cx)? {
                Written::Closed(reason) => return Poll::Ready(Ok(reason)),
                Written::All => false,
                Written::Blocked => true,
            };
            let progress = shard.cnxns.borrow_mut().received(shard.clock.now(), id, &mut self.input);
            shard.hand_on(Some(id));
            match progress {
                Progress::Closing | Progress::Paused | Progress::Full if blocked => return Poll::Pending,
                // What was just worked off has left output that is to be sent before all else.
                Progress::Closing | Progress::Full => continue,
                Progress::Again => continue,
                Progress::Paused => {
                    // What was just worked off may have left output; what is awaited wakes this task.
                    if let Written::Closed(reason) = self.write(shard, stream, id, cx)? {
                        return Poll::Ready(Ok(reason));
                    }
                    return Poll::Pending;
                }
                Progress::Need(_) => {
                    if !blocked && let Written::Closed(reason) = self.write(shard, stream, id, cx)? {
                        return Poll::Ready(Ok(reason));
                    }
                    if self.read(shard, stream, cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends output until there is none or the socket takes no more.
    fn write(
        &mut self,
        shard: &ClientShard,
        stream: &mut TcpStream,
        id: CnxnId,
        cx: &mut Context<'_>,
    ) -> io::Result<Written> {
        loop {
            if self.sent == self.output.len() {
                self.output.clear();
                if self.output.capacity() > OUTPUT_PAUSE_BYTES {
                    // A large reply's memory is not kept for the life of the connection.
                    self.output = Vec::new();
                }
                self.sent = 0;
                let close = shard.cnxns.borrow_mut().take_output(id, &mut self.output);
                if self.output.is_empty() {
                    return Ok(close.map_or(Written::All, Written::Closed));
                }
            }
            match Pin::new(&mut *stream).poll_write(cx, &self.output[self.sent..])? {
                Poll::Ready(written) => {
                    self.sent += written;
                    if self.sent < self.output.len() {
                        shard.cnxns.borrow_mut().progressed(id);
                    }
                }
                Poll::Pending => return Ok(Written::Blocked),
            }
        }
    }

    /// Reads once, as much as the socket has. An error is also the end of the stream.
    ///
    /// The bytes go through the shard's inbox, so that a connection takes memory for what has come and not for what
    /// might, and none while it is idle.
    fn read(&mut self, shard: &ClientShard, stream: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut inbox = shard.inbox.borrow_mut();
        match Pin::new(&mut *stream).poll_read(cx, &mut inbox) {
            Poll::Pending => {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                Ok(Poll::Pending)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed it")),
            Poll::Ready(Ok(got)) => {
                if self.input.is_empty() {
                    self.input = BytesMut::from(&inbox[..got]);
                } else {
                    self.input.extend_from_slice(&inbox[..got]);
                }
                Ok(Poll::Ready(()))
            }
        }
    }
}

/// How far a connection's output got.
enum Written {
    All,
    Blocked,
    /// All, and nothing is to follow.
    Closed(CloseReason),
}
