//! What lies between hosts: connections whose two directions are FIFO, as TCP's are.
//!
//! Bytes that meet a cut wait for its end, as a sender that sends again would have it. A process that ends has its
//! connections ended by the kernel; a host that loses power says nothing, and whoever is connected to it learns of it only
//! when its next bytes meet a host that is up again and knows nothing of the connection, or by a timeout of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringkeeper::types::CnxnId;
use ringkeeper::zab::effect::MasterPort;

/// A connection, never used again for another.
pub type ConnId = u32;

/// A machine: servers first, then one for each client.
pub type Host = usize;

/// The first client's host.
pub const CLIENT_HOSTS: Host = 100;

/// A port of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Client,
    Election,
    Learner(MasterPort),
}

/// Who holds one end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nobody: closed, or its process has ended.
    Gone,
    Client(usize),
    Shard {
        server: usize,
        shard: usize,
        cnxn: CnxnId,
    },
    Learner {
        server: usize,
        link: u32,
    },
    Election {
        server: usize,
        wire: u64,
    },
}

impl End {
    /// Whether it is held by a process of this server.
    pub fn is_of(self, host: usize) -> bool {
        match self {
            End::Shard { server, .. } | End::Learner { server, .. } | End::Election { server, .. } => server == host,
            End::Gone | End::Client(_) => false,
        }
    }
}

pub enum Piece {
    Bytes(Vec<u8>),
    /// The sender has closed the connection, or its kernel has.
    End,
}

/// One direction.
#[derive(Default)]
pub struct Pipe {
    pub queue: VecDeque<(u64, Piece)>,
    /// When the last piece arrives.
    last_us: u64,
    /// A delivery is due.
    pub due: bool,
    /// The sender has closed it.
    closed: bool,
}

pub struct Conn {
    pub hosts: [Host; 2],
    pub ends: [End; 2],
    /// The first leads from the first end to the second.
    pub pipes: [Pipe; 2],
    /// The kernel probes it (`shard/listener.rs`).
    pub probed: bool,
    /// Who asked for it knows that it stands. What is sent to it before that waits in its socket.
    pub answered: bool,
}

/// All connections, and what stands in their way.
#[derive(Default)]
pub struct Network {
    pub conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// From the first host nothing arrives at the second.
    pub cuts: BTreeSet<(Host, Host)>,
    /// Hosts without power.
    pub down: BTreeSet<Host>,
}

impl Network {
    pub fn is_blocked(&self, from: Host, to: Host) -> bool {
        self.cuts.contains(&(from, to)) || self.down.contains(&from) || self.down.contains(&to)
    }

    pub fn open(&mut self, hosts: [Host; 2], ends: [End; 2], probed: bool) -> ConnId {
        let id = self.next;
        self.next += 1;
        self.conns.insert(id, Conn { hosts, ends, pipes: Default::default(), probed, answered: false });
        id
    }

    /// Puts a piece into the pipe that leads away from `side`. Says when a delivery is to be made, if none is due already.
    pub fn send(&mut self, id: ConnId, side: usize, piece: Piece, at_us: u64) -> Option<u64> {
        let pipe = &mut self.conns.get_mut(&id)?.pipes[side];
        if pipe.closed {
            return None;
        }
        pipe.closed = matches!(piece, Piece::End);
        pipe.last_us = pipe.last_us.max(at_us);
        pipe.queue.push_back((pipe.last_us, piece));
        (!std::mem::replace(&mut pipe.due, true)).then_some(pipe.last_us)
    }

    /// Takes what arrives at the other end of `side` now; the second says when the next is due.
    pub fn take(&mut self, id: ConnId, side: usize, now_us: u64) -> (Option<Piece>, Option<u64>) {
        let Some(conn) = self.conns.get(&id) else { return (None, None) };
        let blocked = self.is_blocked(conn.hosts[side], conn.hosts[1 - side]) || side == 1 && !conn.answered;
        let pipe = &mut self.conns.get_mut(&id).expect("looked up just now").pipes[side];
        pipe.due = false;
        if blocked || pipe.queue.front().is_none_or(|(at, _)| *at > now_us) {
            return (None, None);
        }
        let piece = pipe.queue.pop_front().map(|(_, piece)| piece);
        let next = pipe.queue.front().map(|(at, _)| (*at).max(now_us));
        pipe.due = next.is_some();
        (piece, next)
    }

    /// Whoever asked for a connection has it. Says whether something was sent to it already, and is to be delivered.
    pub fn answered(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.answered = true;
        let pipe = &mut conn.pipes[1];
        !pipe.queue.is_empty() && !std::mem::replace(&mut pipe.due, true)
    }

    /// Pipes that hold something and that nobody looks at: what a cut held up.
    pub fn held_up(&mut self) -> Vec<(ConnId, usize)> {
        let mut found = Vec::new();
        for (id, conn) in &mut self.conns {
            for side in 0..2 {
                let pipe = &mut conn.pipes[side];
                if !pipe.queue.is_empty() && !pipe.due {
                    pipe.due = true;
                    found.push((*id, side));
                }
            }
        }
        found
    }

    /// The end that is `of` this connection.
    pub fn side_of(&self, id: ConnId, of: End) -> Option<usize> {
        self.conns.get(&id)?.ends.iter().position(|end| *end == of)
    }

    /// Forgets connections that nobody holds.
    pub fn forget_ended(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(&id)
            && conn.ends == [End::Gone; 2]
            && conn.pipes.iter().all(|pipe| !pipe.due)
        {
            self.conns.remove(&id);
        }
    }
}
