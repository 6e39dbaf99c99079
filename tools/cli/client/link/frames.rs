//! The frames of a connection: requests go out, and what comes in finds who waits for it.

use std::io::{self, Read, Write as _};
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use ringkeeper::jute::{DecodeError, Reader, Write};
use ringkeeper::proto::client::{ReplyHeader, XID_NOTIFICATION, XID_PING};
use ringkeeper::proto::frame;
use ringkeeper::proto::op::OpCode;
use ringkeeper::types::Zxid;

use super::{Link, Lost, Pending, Phase, Reply, Request, XID_AUTH};
use crate::client::error::code;
use crate::client::event::{EventKind, KeeperState, State, WatchedEvent};
use crate::client::path;
use crate::client::watches::Change;

/// Bytes that one read asks for.
const READ_BYTES: usize = 64 * 1024;

impl Link {
    pub(super) fn put_frame(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = frame::begin(&mut self.unsent);
        fill(&mut self.unsent);
        frame::end(&mut self.unsent, start);
        self.last_sent = Instant::now();
    }

    pub(super) fn put_request(&mut self, xid: i32, op: OpCode, body: &[u8]) {
        self.put_frame(|out| {
            out.put_int(xid);
            out.put_int(op as i32);
            out.put_raw(body);
        });
    }

    pub(super) fn put_auth(&mut self, scheme: &str, data: Option<&[u8]>) {
        let mut body = Vec::new();
        body.put_int(0);
        body.put_string(scheme);
        body.put_buffer(data);
        self.put_request(XID_AUTH, OpCode::Auth, &body);
    }

    pub(super) fn send(&mut self, request: Request) {
        let xid = self.next_xid;
        self.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        self.put_request(xid, request.op, &request.body);
        self.pending.push_back(Pending { xid, change: request.change, reply: Some(request.reply) });
    }

    /// Writes and reads as much as the socket takes and has.
    pub(super) fn transfer(&mut self) -> Result<(), Lost> {
        self.write()?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            match stream.read(&mut buffer) {
                Ok(0) => return Err(Lost::Connection("the server has closed the connection".to_owned())),
                Ok(len) => {
                    self.received.extend_from_slice(&buffer[..len]);
                    self.last_heard = Instant::now();
                    self.take_frames()?;
                    if matches!(self.phase, Phase::Over) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        // What was read may have been answered.
        self.write()
    }

    pub(super) fn write(&mut self) -> Result<(), Lost> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match stream.write(&self.unsent[sent..]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), Lost> {
        loop {
            match frame::next(&mut self.received, self.options.frame_bytes_max) {
                frame::Next::Need(_) => return Ok(()),
                frame::Next::BadLength(len) => {
                    return Err(Lost::Connection(format!("Packet len {len} is out of range!")));
                }
                frame::Next::Frame(payload) if matches!(self.phase, Phase::Opening { .. }) => {
                    self.on_connected(&payload)?;
                }
                frame::Next::Frame(payload) => self.on_frame(payload)?,
            }
            if matches!(self.phase, Phase::Over) {
                return Ok(());
            }
        }
    }

    fn on_frame(&mut self, payload: Bytes) -> Result<(), Lost> {
        let mut r = Reader::new(&payload);
        let header = ReplyHeader::decode(&mut r).map_err(|error| Lost::Connection(error.to_string()))?;
        match header.xid {
            XID_PING => Ok(()),
            XID_AUTH if header.err == code::AUTH_FAILED => {
                self.shared.set_state(State::AuthFailed);
                self.tell(KeeperState::AuthFailed);
                self.phase = Phase::Over;
                Ok(())
            }
            XID_AUTH => Ok(()),
            XID_NOTIFICATION => self.on_notification(header.zxid, r),
            _ => {
                let body = payload.slice(r.position()..);
                self.on_reply(header, body)
            }
        }
    }

    fn on_notification(&mut self, zxid: Zxid, mut r: Reader<'_>) -> Result<(), Lost> {
        let bad = |error: DecodeError| Lost::Connection(error.to_string());
        let kind = r.int().map_err(bad)?;
        let _state = r.int().map_err(bad)?;
        let path = r.required_string().map_err(bad)?;
        let kind =
            EventKind::from_wire(kind).ok_or_else(|| Lost::Connection(format!("an event of unknown kind {kind}")))?;
        let path = path::to_client(self.chroot.as_deref(), &path);
        self.shared.last_zxid.fetch_max(zxid.0, Ordering::AcqRel);
        if self.watches.fire(kind, &path) {
            let state = KeeperState::SyncConnected;
            self.sink.event(&WatchedEvent { state, kind, path: Some(path), zxid: zxid.0 });
        }
        Ok(())
    }

    fn on_reply(&mut self, header: ReplyHeader, body: Bytes) -> Result<(), Lost> {
        let Some(pending) = self.pending.pop_front() else {
            return Err(Lost::Connection(format!("Nothing in the queue, but got {}", header.xid)));
        };
        if pending.xid != header.xid {
            let why = format!("Xid out of order. Got Xid {} expected Xid {}", header.xid, pending.xid);
            answer(pending, Err(code::CONNECTION_LOSS));
            return Err(Lost::Connection(why));
        }
        if header.zxid.0 > 0 {
            self.last_zxid = header.zxid;
            self.shared.last_zxid.fetch_max(header.zxid.0, Ordering::AcqRel);
        }
        self.finish(pending, if header.err == 0 { Ok(body) } else { Err(header.err) });
        if self.is_closing && self.pending.is_empty() {
            self.phase = Phase::Over;
        }
        Ok(())
    }

    /// Hands a result over, after the watches are up to date.
    pub(super) fn finish(&mut self, pending: Pending, reply: Reply) {
        let err = reply.as_ref().err().copied().unwrap_or(0);
        let reply = match &pending.change {
            Some(Change::Removed { path, which, local }) => {
                if !self.watches.contains(path, *which) {
                    Err(code::NO_WATCHER)
                } else if err != 0 && !local {
                    reply
                } else {
                    let is_lost = matches!(err, code::CONNECTION_LOSS | code::SESSION_EXPIRED);
                    let state = if is_lost { KeeperState::Disconnected } else { KeeperState::SyncConnected };
                    for kind in self.watches.remove(path, *which) {
                        self.sink.event(&WatchedEvent { state, kind, path: Some(path.clone()), zxid: -1 });
                    }
                    Ok(Bytes::new())
                }
            }
            Some(change) => {
                self.watches.note(change, err);
                reply
            }
            None => reply,
        };
        answer(pending, reply);
    }
}

fn answer(pending: Pending, reply: Reply) {
    if let Some(sender) = pending.reply {
        // Who gave up waiting wants no reply.
        let _ = sender.send(reply);
    }
}
