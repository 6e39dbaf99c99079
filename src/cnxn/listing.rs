//! The reply to a getChildren of a parent with very many children, made by and by: others get their turn in between.
//!
//! It lists one version of the parent, which stays as it is however long that takes. What the connection is sent meanwhile
//! stands behind it, as if it had been made at once; and nothing more of the connection is worked off before it is whole.

use crate::jute::Write;
use crate::proto::client::ReplyHeader;
use crate::proto::frame;
use crate::proto::op::OpCode;
use crate::tree::Znode;
use crate::types::Instant;

/// One reply.
pub(super) struct Listing {
    /// Where it goes in the output of its connection; what stands before may be sent.
    pub(super) at: usize,
    /// What it answers.
    pub(super) op: OpCode,
    /// Its header, for those who count.
    pub(super) header: ReplyHeader,
    /// When that was asked.
    pub(super) since: Instant,
    frame: Vec<u8>,
    /// Where its payload begins.
    start: usize,
    parent: Znode,
    /// Hash of the name to go on with.
    next: Option<u32>,
}

impl Listing {
    /// With no name in it yet.
    pub(super) fn new(at: usize, op: OpCode, header: ReplyHeader, since: Instant, parent: Znode) -> Listing {
        let mut out = Vec::new();
        let start = frame::begin(&mut out);
        header.encode(&mut out);
        out.put_int(parent.child_count() as i32);
        Listing { at, op, header, since, frame: out, start, parent, next: Some(0) }
    }

    /// Adds about `max` names. Whether it is whole now.
    pub(super) fn step(&mut self, max: usize) -> bool {
        let Listing { frame, parent, next, .. } = self;
        if let Some(from) = *next {
            *next = parent.some_children(from, max, |child| frame.put_buffer(Some(child.name())));
        }
        self.next.is_none()
    }

    /// The whole frame.
    pub(super) fn into_frame(mut self) -> Vec<u8> {
        if self.op == OpCode::GetChildren2 {
            self.parent.stat().encode(&mut self.frame);
        }
        frame::end(&mut self.frame, self.start);
        self.frame
    }
}
