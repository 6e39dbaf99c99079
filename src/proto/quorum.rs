//! The learner port: what a leader and its learners say to each other.
//!
//! Every message is one packet; none has an outer length, so the parser finds the end of a packet from the lengths of
//! its three variable parts. Packets are encoded where they are made, so that one buffer can go to many learners.
//! Source: `QuorumPacket`, `LearnerInfo` (zookeeper.jute), `Leader.java`, `Learner.java`.

use std::collections::BTreeSet;

use bytes::{Buf as _, Bytes, BytesMut};

use super::client::Id;
use crate::jute::{DecodeError, Reader, Write};
use crate::types::{ServerId, SessionId, Zxid};

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum PacketKind {
    /// Learner: a client's request, for the leader to order.
    Request = 1,
    /// Leader: a transaction to be logged and acknowledged.
    Proposal = 2,
    /// Learner: the transaction is durable here; or, with counter 0, the history is.
    Ack = 3,
    /// Leader: the oldest pending proposal is committed.
    Commit = 4,
    /// Both: a sign of life. The learner's carries the sessions it heard of.
    Ping = 5,
    /// Learner: does this session live? Leader: yes or no.
    Revalidate = 6,
    /// Leader: everything that was committed when the sync came has been sent.
    Sync = 7,
    /// Leader: a committed transaction, for observers.
    Inform = 8,
    /// Leader: the oldest pending proposal is a reconfiguration and is committed.
    CommitAndActivate = 9,
    /// Leader: end of the history; acknowledge it when it is durable.
    NewLeader = 10,
    /// Follower: its first word.
    FollowerInfo = 11,
    /// Leader: serve clients.
    UpToDate = 12,
    /// Leader: what you lack follows.
    Diff = 13,
    /// Leader: cut your log after this transaction; what you lack follows.
    Trunc = 14,
    /// Leader: a whole snapshot follows, as raw bytes, then what it lacks.
    Snap = 15,
    /// Observer: its first word.
    ObserverInfo = 16,
    /// Leader: the new epoch.
    LeaderInfo = 17,
    /// Learner: it follows the new epoch, and how far its history goes.
    AckEpoch = 18,
    /// Leader: a committed reconfiguration, for observers.
    InformAndActivate = 19,
    /// Leader: it stops, everything is committed, and this server is to lead next. ringkeeper's own, and sent to those
    /// alone that said in their first word that they know it. The number is "ring".
    HandOver = 0x7269_6e67,
}

impl PacketKind {
    /// The kind with that number.
    pub fn from_wire(code: i32) -> Option<PacketKind> {
        use PacketKind::*;
        if code == HandOver as i32 {
            return Some(HandOver);
        }
        const ALL: [PacketKind; 19] = [
            Request,
            Proposal,
            Ack,
            Commit,
            Ping,
            Revalidate,
            Sync,
            Inform,
            CommitAndActivate,
            NewLeader,
            FollowerInfo,
            UpToDate,
            Diff,
            Trunc,
            Snap,
            ObserverInfo,
            LeaderInfo,
            AckEpoch,
            InformAndActivate,
        ];
        usize::try_from(code).ok().and_then(|code| ALL.get(code.checked_sub(1)?)).copied()
    }
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What.
    pub kind: PacketKind,
    /// Means something else in each kind.
    pub zxid: Zxid,
    /// Null and empty are different.
    pub data: Option<Bytes>,
    /// The client's identities on a request; else none.
    pub auth: Vec<Id>,
}

/// The most identities of one client that a packet may carry.
const AUTH_MAX: usize = 1024;
const KINDS: &str = "a packet's kind, 1 to 19 or 0x72696e67";
/// Kind, zxid and the length of the data.
const HEAD_BYTES: usize = 4 + 8 + 4;
/// A packet without data, and without identities.
pub const PACKET_BYTES_MIN: usize = HEAD_BYTES + 4;

impl Packet {
    /// A packet without data.
    pub fn bare(kind: PacketKind, zxid: Zxid) -> Packet {
        Packet { kind, zxid, data: None, auth: Vec::new() }
    }

    /// A packet with data.
    pub fn with(kind: PacketKind, zxid: Zxid, data: impl Into<Bytes>) -> Packet {
        Packet { kind, zxid, data: Some(data.into()), auth: Vec::new() }
    }

    /// Appends the packet's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.kind, self.zxid, self.data.as_deref(), &self.auth);
    }

    /// Splits the first whole packet off; `None` while it is not whole. `data_bytes_max` bounds its data, and each of its
    /// strings. Fails at what can become no packet, as soon as that is seen.
    pub fn parse(bytes: &mut BytesMut, data_bytes_max: usize) -> Result<Option<Packet>, DecodeError> {
        let Some(len) = whole_len(bytes, data_bytes_max)? else { return Ok(None) };
        let packet = bytes.split_to(len).freeze();
        let mut r = Reader::new(&packet);
        let code = r.int()?;
        let kind = PacketKind::from_wire(code).ok_or(DecodeError { position: 0, expected: KINDS, got: code.into() })?;
        let zxid = Zxid(r.long()?);
        let data = r.buffer()?.map(|data| packet.slice_ref(data));
        let auth = r.vector(|r| {
            let (scheme, id) = (r.string()?, r.string()?);
            Ok(Id::new(scheme.unwrap_or_default(), id.unwrap_or_default()))
        })?;
        Ok(Some(Packet { kind, zxid, data, auth: auth.unwrap_or_default() }))
    }
}

/// Appends a transaction that is committed, as a learner gets it that lacks it: PROPOSAL and COMMIT.
pub fn put_committed(out: &mut Vec<u8>, zxid: Zxid, payload: &[u8]) {
    put(out, PacketKind::Proposal, zxid, Some(payload), &[]);
    put(out, PacketKind::Commit, zxid, None, &[]);
}

/// Appends one packet.
pub fn put(out: &mut Vec<u8>, kind: PacketKind, zxid: Zxid, data: Option<&[u8]>, auth: &[Id]) {
    out.put_int(kind as i32);
    out.put_long(zxid.0);
    out.put_buffer(data);
    if auth.is_empty() {
        out.put_int(-1);
    } else {
        out.put_vector(auth, |out, id| {
            out.put_string(&id.scheme);
            out.put_string(&id.id);
        });
    }
}

/// The length of the packet at the head of `bytes`, if all of it is there.
fn whole_len(bytes: &[u8], data_bytes_max: usize) -> Result<Option<usize>, DecodeError> {
    let int_at = |at: usize| bytes.get(at..at + 4).map(|b| i32::from_be_bytes(b.try_into().expect("4 bytes")));
    let bounded = |at: usize, len: i32, max: usize| {
        let fits = len >= -1 && len.max(0) as usize <= max;
        let error = DecodeError { position: at, expected: "a length from -1 to the limit", got: len.into() };
        fits.then(|| len.max(0) as usize).ok_or(error)
    };
    if let Some(code) = int_at(0)
        && PacketKind::from_wire(code).is_none()
    {
        return Err(DecodeError { position: 0, expected: KINDS, got: code.into() });
    }
    let Some(data_len) = int_at(HEAD_BYTES - 4) else { return Ok(None) };
    let mut at = HEAD_BYTES + bounded(HEAD_BYTES - 4, data_len, data_bytes_max)?;
    let Some(ids) = int_at(at) else { return Ok(None) };
    let ids = bounded(at, ids, AUTH_MAX)?;
    at += 4;
    for _ in 0..2 * ids {
        let Some(len) = int_at(at) else { return Ok(None) };
        at += 4 + bounded(at, len, data_bytes_max)?;
    }
    Ok((at <= bytes.len()).then_some(at))
}

/// The version of the protocol that leader and learner announce.
pub const PROTOCOL_VERSION: i32 = 0x10000;

/// What a learner says of itself in FOLLOWERINFO and OBSERVERINFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnerInfo {
    /// Its server id.
    pub sid: i64,
    /// 0x10000 since 3.4.
    pub protocol_version: i32,
    /// The version of its active configuration.
    pub config_version: i64,
    /// Whether it knows [`PacketKind::HandOver`]: that stands behind Apache's 20 bytes, where Apache does not look.
    pub knows_hand_over: bool,
}

/// Begins what ringkeeper says of itself behind Apache's [`LearnerInfo`]: "ring". A set of [`FEATURE_HAND_OVER`] follows.
const RINGKEEPER: i32 = 0x7269_6e67;
const FEATURE_HAND_OVER: i32 = 1;

impl LearnerInfo {
    /// Apache's 20 bytes, and 8 of ringkeeper's.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(28);
        out.put_long(self.sid);
        out.put_int(self.protocol_version);
        out.put_long(self.config_version);
        if self.knows_hand_over {
            out.put_int(RINGKEEPER);
            out.put_int(FEATURE_HAND_OVER);
        }
        out.into()
    }

    /// Reads what is there: old learners say less.
    pub fn decode(bytes: &[u8]) -> Result<LearnerInfo, DecodeError> {
        let mut r = Reader::new(bytes);
        let sid = r.long()?;
        let protocol_version = if r.rest().len() >= 4 { r.int()? } else { 0 };
        let config_version = if r.rest().len() >= 8 { r.long()? } else { 0 };
        let is_ringkeeper = r.rest().len() >= 8 && r.int()? == RINGKEEPER;
        let knows_hand_over = is_ringkeeper && r.int()? & FEATURE_HAND_OVER != 0;
        Ok(LearnerInfo { sid, protocol_version, config_version, knows_hand_over })
    }
}

/// Who leads next, as the leader that stops says it to its learners.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandOver {
    /// It has everything that was ever proposed.
    pub successor: ServerId,
    /// Participants that are told, the successor among them: a quorum.
    pub supporters: BTreeSet<ServerId>,
}

/// The most participants that a hand-over names.
const SUPPORTERS_MAX: usize = 255;

impl HandOver {
    /// The data of a HANDOVER: the successor, and a vector of the supporters.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(12 + 8 * self.supporters.len());
        out.put_long(self.successor.0);
        out.put_int(self.supporters.len() as i32);
        self.supporters.iter().for_each(|supporter| out.put_long(supporter.0));
        out.into()
    }

    /// Reads the data of a HANDOVER. Errors if it is cut short, or names more than `SUPPORTERS_MAX`.
    pub fn decode(data: &[u8]) -> Result<HandOver, DecodeError> {
        let mut r = Reader::new(data);
        let successor = ServerId(r.long()?);
        let position = r.position();
        let count = r.int()?;
        if !(0..=SUPPORTERS_MAX as i32).contains(&count) {
            return Err(DecodeError { position, expected: "at most 255 supporters", got: count.into() });
        }
        let supporters: Result<_, _> = (0..count).map(|_| r.long().map(ServerId)).collect();
        Ok(HandOver { successor, supporters: supporters? })
    }
}

/// The operation of a REQUEST that opens a session; clients ask for it by shaking hands.
pub const OP_CREATE_SESSION: i32 = -10;

/// A client's request as a learner forwards it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardedRequest {
    /// In whose name.
    pub session: SessionId,
    /// The client's number for it.
    pub cxid: i32,
    /// The operation's code.
    pub op: i32,
    /// As the client sent it, without its header.
    pub body: Bytes,
}

impl ForwardedRequest {
    /// The data of a REQUEST.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.body.len());
        out.put_long(self.session.0);
        out.put_int(self.cxid);
        out.put_int(self.op);
        out.put_raw(&self.body);
        out
    }

    /// Reads the data of a REQUEST.
    pub fn decode(data: &Bytes) -> Result<ForwardedRequest, DecodeError> {
        let mut r = Reader::new(data);
        let (session, cxid, op) = (SessionId(r.long()?), r.int()?, r.int()?);
        Ok(ForwardedRequest { session, cxid, op, body: data.slice(r.position()..) })
    }
}

/// The data of a learner's PING: sessions heard of since the last one, and their timeouts in ms.
pub fn encode_touches(touched: impl IntoIterator<Item = (SessionId, i32)>) -> Bytes {
    let mut out = Vec::new();
    for (session, timeout_ms) in touched {
        out.put_long(session.0);
        out.put_int(timeout_ms);
    }
    out.into()
}

/// Reads the data of a learner's PING. A last entry that is not whole is left out.
pub fn decode_touches(data: &[u8]) -> Vec<(SessionId, i32)> {
    let whole = |mut entry: &[u8]| (SessionId(entry.get_i64()), entry.get_i32());
    data.chunks_exact(12).map(whole).collect()
}

/// The data of a learner's REVALIDATE.
pub fn encode_revalidate(session: SessionId, timeout_ms: i32) -> Bytes {
    encode_touches([(session, timeout_ms)])
}

/// The data of a leader's answer to REVALIDATE.
pub fn encode_revalidated(session: SessionId, valid: bool) -> Bytes {
    let mut out = Vec::with_capacity(9);
    out.put_long(session.0);
    out.put_bool(valid);
    out.into()
}

/// Reads a leader's answer to REVALIDATE.
pub fn decode_revalidated(data: &[u8]) -> Result<(SessionId, bool), DecodeError> {
    let mut r = Reader::new(data);
    Ok((SessionId(r.long()?), r.bool()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    fn check(packet: &Packet, hex: &str) {
        let golden = unhex(hex);
        let mut out = Vec::new();
        packet.encode(&mut out);
        assert_eq!(out, golden, "{packet:?}");
        for cut in 0..golden.len() {
            let mut bytes = BytesMut::from(&golden[..cut]);
            assert_eq!(Packet::parse(&mut bytes, 1 << 20), Ok(None), "cut at {cut}");
            assert_eq!(bytes.len(), cut, "nothing is taken before it is whole");
        }
        let mut twice = BytesMut::from(&[&golden[..], &golden[..]].concat()[..]);
        assert_eq!(Packet::parse(&mut twice, 1 << 20).unwrap().as_ref(), Some(packet));
        assert_eq!(&twice[..], &golden[..]);
    }

    /// Bytes captured between Apache 3.8 and 3.9 servers.
    #[test]
    fn packets_are_apaches() {
        check(&Packet::bare(PacketKind::UpToDate, Zxid(-1)), "0000000c ffffffffffffffff ffffffff ffffffff");
        let info = LearnerInfo {
            sid: 1,
            protocol_version: PROTOCOL_VERSION,
            config_version: 0x1_0000_0000,
            knows_hand_over: false,
        };
        check(
            &Packet::with(PacketKind::FollowerInfo, Zxid(0x1_0000_0000), info.encode()),
            "0000000b 0000000100000000 00000014 0000000000000001 00010000 0000000100000000 ffffffff",
        );
        check(
            &Packet::with(PacketKind::LeaderInfo, Zxid(0x1_0000_0000), &b"\0\x01\0\0"[..]),
            "00000011 0000000100000000 00000004 00010000 ffffffff",
        );
        check(
            &Packet::with(PacketKind::AckEpoch, Zxid(0x1_0000_000f), &b"\xff\xff\xff\xff"[..]),
            "00000012 000000010000000f 00000004 ffffffff ffffffff",
        );
        check(&Packet::bare(PacketKind::Ack, Zxid(0x1_0000_0000)), "00000003 0000000100000000 ffffffff ffffffff");
        let session = SessionId(0x0100_000c_c649_0000);
        let request = ForwardedRequest { session, cxid: 0, op: -10, body: Bytes::from_static(b"\0\0\x17\x70") };
        check(
            &Packet::with(PacketKind::Request, Zxid(-1), request.encode()),
            "00000001 ffffffffffffffff 00000014 0100000cc6490000 00000000 fffffff6 00001770 ffffffff",
        );
        assert_eq!(ForwardedRequest::decode(&request.encode().into()), Ok(request));
        check(
            &Packet::with(PacketKind::Ping, Zxid(0x1_0000_000c), encode_touches([(session, 6000)])),
            "00000005 000000010000000c 0000000c 0100000cc6490000 00001770 ffffffff",
        );
        assert_eq!(decode_touches(&encode_touches([(session, 6000)])), [(session, 6000)]);
        assert_eq!(decode_revalidated(&encode_revalidated(session, true)), Ok((session, true)));
    }

    #[test]
    fn identities_travel_with_a_request() {
        let auth = vec![Id::new("ip", "127.0.0.1"), Id::new("digest", "a:b")];
        let packet = Packet { auth, ..Packet::with(PacketKind::Request, Zxid(-1), &b"x"[..]) };
        let mut out = Vec::new();
        packet.encode(&mut out);
        for cut in 0..out.len() {
            assert_eq!(Packet::parse(&mut BytesMut::from(&out[..cut]), 100), Ok(None));
        }
        assert_eq!(Packet::parse(&mut BytesMut::from(&out[..]), 100), Ok(Some(packet)));
    }

    #[test]
    fn what_can_be_no_packet_is_refused_before_it_is_whole() {
        for (hex, what) in [
            ("00000014", "an unknown kind"),
            ("00000000", "kind 0"),
            ("00000002 0000000000000001 fffffffe", "a length below -1"),
            ("00000002 0000000000000001 00000065", "data beyond the limit"),
            ("00000001 0000000000000001 ffffffff 00000401", "too many identities"),
            ("00000001 0000000000000001 ffffffff 00000001 00000065", "a string beyond the limit"),
        ] {
            assert!(Packet::parse(&mut BytesMut::from(&unhex(hex)[..]), 100).is_err(), "{what}");
        }
    }

    #[test]
    fn old_learners_say_less_of_themselves() {
        let info = LearnerInfo { sid: 7, protocol_version: PROTOCOL_VERSION, config_version: 3, knows_hand_over: true };
        let whole = info.encode();
        assert_eq!(LearnerInfo::decode(&whole), Ok(info));
        // As Apache's: the rest of the record is the same.
        assert_eq!(LearnerInfo::decode(&whole[..20]), Ok(LearnerInfo { knows_hand_over: false, ..info }));
        assert_eq!(LearnerInfo::decode(&whole[..8]).unwrap().sid, 7);
        assert_eq!(LearnerInfo::decode(&whole[..12]).unwrap().protocol_version, PROTOCOL_VERSION);
        assert_eq!(LearnerInfo::decode(&whole).unwrap().config_version, 3);
        assert!(LearnerInfo::decode(&whole[..7]).is_err());
    }

    #[test]
    fn a_hand_over_names_the_successor_and_its_supporters() {
        let supporters = BTreeSet::from([ServerId(2), ServerId(3)]);
        let hand_over = HandOver { successor: ServerId(3), supporters };
        check(
            &Packet::with(PacketKind::HandOver, Zxid(0x1_0000_000c), hand_over.encode()),
            "72696e67 000000010000000c 0000001c 0000000000000003 00000002 0000000000000002 0000000000000003 ffffffff",
        );
        let data = hand_over.encode();
        assert_eq!(HandOver::decode(&data), Ok(hand_over));
        for cut in 0..data.len() {
            assert!(HandOver::decode(&data[..cut]).is_err(), "cut at {cut}");
        }
        assert!(HandOver::decode(&[&data[..8], &[0, 0, 1, 0], &[0; 2048]].concat()).is_err(), "too many");
    }
}
