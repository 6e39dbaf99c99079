//! Replies to writes.
//!
//! Source: `FinalRequestProcessor.processRequest`, `MultiResponse.java`.

use crate::jute::Write;
use crate::proto::client::ReplyHeader;
use crate::proto::frame;
use crate::proto::op::{MultiHeader, OpCode};
use crate::tree::Outcome;
use crate::types::Zxid;

/// Appends the whole reply to `out`, framed. `zxid` is the write's own.
pub fn encode(out: &mut Vec<u8>, xid: i32, zxid: Zxid, outcome: &Outcome) {
    let start = frame::begin(out);
    let err = if let Outcome::Failed(err) = outcome { *err } else { 0 };
    ReplyHeader { xid, zxid, err }.encode(out);
    match outcome {
        Outcome::Multi(parts) => {
            for part in parts {
                encode_part(out, part);
            }
            MultiHeader::END.encode(out);
        }
        single => encode_body(out, single),
    }
    frame::end(out, start);
}

/// Appends a header alone: an error, or the answer to a ping or an auth packet.
pub fn encode_header(out: &mut Vec<u8>, xid: i32, zxid: Zxid, err: i32) {
    let start = frame::begin(out);
    ReplyHeader { xid, zxid, err }.encode(out);
    frame::end(out, start);
}

fn encode_body(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Created { path, stat, with_stat } => {
            out.put_string(path);
            if *with_stat {
                stat.encode(out);
            }
        }
        Outcome::Stat(stat) => stat.encode(out),
        Outcome::Reconfigured { data, stat } => {
            out.put_buffer(data.as_deref());
            stat.encode(out);
        }
        Outcome::Paths(paths) => out.put_vector(paths, |out, path| out.put_string(path)),
        Outcome::Done | Outcome::Deleted | Outcome::Checked | Outcome::Failed(_) | Outcome::Multi(_) => {}
    }
}

/// A part of a multi: its kind, then its body. In a failed multi every part is an error, 0 among them.
fn encode_part(out: &mut Vec<u8>, part: &Outcome) {
    let (op, err) = match part {
        Outcome::Created { with_stat: false, .. } => (OpCode::Create as i32, 0),
        Outcome::Created { with_stat: true, .. } => (OpCode::Create2 as i32, 0),
        Outcome::Deleted => (OpCode::Delete as i32, 0),
        Outcome::Stat(_) => (OpCode::SetData as i32, 0),
        Outcome::Checked => (OpCode::Check as i32, 0),
        Outcome::Failed(err) => (-1, *err),
        Outcome::Done | Outcome::Paths(_) | Outcome::Multi(_) | Outcome::Reconfigured { .. } => {
            unreachable!("no part of a multi")
        }
    };
    MultiHeader { op, done: false, err }.encode(out);
    match part {
        Outcome::Failed(err) => out.put_int(*err),
        part => encode_body(out, part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_1_and_2_a_failed_multi_as_recorded() {
        let outcome = Outcome::Multi(vec![Outcome::Failed(0), Outcome::Failed(-110), Outcome::Failed(-2)]);
        let mut out = Vec::new();
        encode(&mut out, 5, Zxid(9), &outcome);
        let header = [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0];
        assert_eq!(out[4..20], header, "the header says 0 although the multi failed");
        let body: String = out[20..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            body,
            "ffffffff000000000000000000ffffffff00ffffff92ffffff92ffffffff00fffffffefffffffeffffffff01ffffffff"
        );
    }

    #[test]
    fn point_14_errors_carry_no_body() {
        let mut out = Vec::new();
        encode(&mut out, 1, Zxid(2), &Outcome::Failed(-101));
        assert_eq!(out.len(), 4 + 16);
    }
}
