//! What servers say to each other on the election port.
//!
//! Whoever connects says at once who it is, in a [`Hello`]. From then on both sides send frames (see
//! [`super::frame`]) of at most [`FRAME_BYTES_MAX`], each a [`Notification`]. There are no answers and no keep-alives.
//!
//! ```text
//! hello         long version (-65536 or -65535)  long sid  int n  n bytes: host:port, or host:port|host:port…
//! notification  int state  long leader  long zxid  long round  long peerEpoch  int version (2)
//!               int n  n bytes: the sender's configuration
//! ```
//!
//! Source: `QuorumCnxManager.InitialMessage`, `FastLeaderElection.buildMsg` and `Messenger`; bytes from captures.

use crate::jute::{DecodeError, Reader, Write};
use crate::types::{Epoch, ServerId, Zxid};

/// Longest frame; an empty one is not allowed either.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Longest list of addresses in a hello.
pub const HELLO_ADDRESS_BYTES_MAX: usize = 2048;

/// What the first long of a hello says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloVersion {
    /// Nothing but an id, as servers before 3.5 say it.
    BareId,
    /// One address: what every server says unless `multiAddress.enabled` is set.
    V1,
    /// A list of addresses.
    V2,
}

const V1: i64 = -65536;
const V2: i64 = -65535;

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The form.
    pub version: HelloVersion,
    /// The server that connects. Ancient observers all have [`Hello::ANONYMOUS_OBSERVER`].
    pub sid: ServerId,
    /// Where its election port is: `host:port`, with `|` between several. Not yet looked into; malformed UTF-8 is
    /// replaced.
    pub addresses: String,
}

impl Hello {
    /// The id of observers that have none of their own.
    pub const ANONYMOUS_OBSERVER: ServerId = ServerId(i64::MAX);

    /// Appends the bytes, which must leave in one write: Apache reads the addresses with a single `read`.
    ///
    /// Panics at more than [`HELLO_ADDRESS_BYTES_MAX`] of addresses, or none.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let version = match self.version {
            HelloVersion::BareId => return out.put_long(self.sid.0),
            HelloVersion::V1 => V1,
            HelloVersion::V2 => V2,
        };
        assert!((1..=HELLO_ADDRESS_BYTES_MAX).contains(&self.addresses.len()), "{:?}", self.addresses);
        out.put_long(version);
        out.put_long(self.sid.0);
        out.put_string(&self.addresses);
    }

    /// Reads a hello from the head of what was received, and says how long it is; `None` if more must come.
    ///
    /// Errors: an unknown version, addresses that are longer than [`HELLO_ADDRESS_BYTES_MAX`] or missing.
    pub fn decode(received: &[u8]) -> Result<Option<(Hello, usize)>, DecodeError> {
        let mut reader = Reader::new(received);
        let Ok(first) = reader.long() else { return Ok(None) };
        let version = match first {
            0.. => {
                let hello = Hello { version: HelloVersion::BareId, sid: ServerId(first), addresses: String::new() };
                return Ok(Some((hello, reader.position())));
            }
            V1 => HelloVersion::V1,
            V2 => HelloVersion::V2,
            _ => return Err(DecodeError { position: 0, expected: "protocol version -65536 or -65535", got: first }),
        };
        let Ok(sid) = reader.long() else { return Ok(None) };
        let position = reader.position();
        let Ok(len) = reader.clone().int() else { return Ok(None) };
        if !usize::try_from(len).is_ok_and(|len| (1..=HELLO_ADDRESS_BYTES_MAX).contains(&len)) {
            return Err(DecodeError { position, expected: "1 to 2048 bytes of addresses", got: len.into() });
        }
        let Ok(Some(addresses)) = reader.string() else { return Ok(None) };
        let hello = Hello { version, sid: ServerId(sid), addresses: addresses.into_owned() };
        Ok(Some((hello, reader.position())))
    }
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ServerState {
    /// It looks for a leader.
    Looking = 0,
    /// It follows one, with a vote.
    Following = 1,
    /// It leads.
    Leading = 2,
    /// It follows without a vote.
    Observing = 3,
}

impl ServerState {
    /// The word in Apache's log lines.
    pub fn word(self) -> &'static str {
        match self {
            ServerState::Looking => "LOOKING",
            ServerState::Following => "FOLLOWING",
            ServerState::Leading => "LEADING",
            ServerState::Observing => "OBSERVING",
        }
    }

    fn from_code(code: i32) -> Option<ServerState> {
        let states = [ServerState::Looking, ServerState::Following, ServerState::Leading, ServerState::Observing];
        states.into_iter().find(|state| *state as i32 == code)
    }
}

impl std::fmt::Display for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Whom a server votes for, and in which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The server voted for, or [`ServerId::NOBODY`].
    pub leader: ServerId,
    /// That server's last logged zxid when it voted for itself. -1 from a server that does not trust its empty
    /// database, -2^63 from one without a vote.
    pub zxid: Zxid,
    /// The round, which Apache calls election epoch or logical clock. It starts anew with the process.
    pub round: i64,
    /// The current epoch of the server voted for; -2^63 from one without a vote.
    pub peer_epoch: i64,
}

/// One message: a vote, who casts it being known from the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What the sender is doing.
    pub state: ServerState,
    /// Its vote.
    pub vote: Vote,
    /// The form: 2 since 3.5, 1 in 3.4.6, 0 before and for forms that do not say.
    pub version: i32,
    /// The sender's configuration as text, from version 2 on. Malformed UTF-8 is replaced.
    pub config: Option<String>,
}

/// The version that is sent.
const VERSION: i32 = 2;
/// Lengths by which Apache knows older forms: without epoch and version, and with a version that says nothing.
const BYTES_WITHOUT_EPOCH: usize = 28;
const BYTES_OF_VERSION_1: usize = 40;

impl Notification {
    /// A message as it is sent today.
    pub fn new(state: ServerState, vote: Vote, config: String) -> Notification {
        Notification { state, vote, version: VERSION, config: Some(config) }
    }

    /// Appends the payload of a frame; a message without a configuration in the form of 3.4.6.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.state as i32);
        out.put_long(self.vote.leader.0);
        out.put_long(self.vote.zxid.0);
        out.put_long(self.vote.round);
        out.put_long(self.vote.peer_epoch);
        out.put_int(self.version);
        if let Some(config) = &self.config {
            out.put_string(config);
        }
    }

    /// Reads the payload of a frame. Bytes behind the message are passed over, as Apache does.
    ///
    /// Errors: a frame that is too short for its form (3.4.0 to 3.4.5 sent 36 bytes, which no server since 3.5 takes),
    /// a state that does not exist, a configuration that does not fit.
    pub fn decode(frame: &[u8]) -> Result<Notification, DecodeError> {
        let mut reader = Reader::new(frame);
        let code = reader.int()?;
        let (leader, zxid, round) = (ServerId(reader.long()?), Zxid(reader.long()?), reader.long()?);
        let mut version = 0;
        let peer_epoch = match frame.len() {
            BYTES_WITHOUT_EPOCH => Epoch(zxid.epoch()).0.into(),
            _ => reader.long()?,
        };
        if !matches!(frame.len(), BYTES_WITHOUT_EPOCH | BYTES_OF_VERSION_1) {
            version = reader.int()?;
        }
        let config = match version {
            ..VERSION => None,
            _ => Some(reader.required_string()?.into_owned()),
        };
        let state = ServerState::from_code(code);
        let state = state.ok_or(DecodeError { position: 0, expected: "a state, 0 to 3", got: code.into() })?;
        Ok(Notification { state, vote: Vote { leader, zxid, round, peer_epoch }, version, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Captured on loopback: what 3.8 and 3.9 say, and 3.9 with `multiAddress.enabled`.
    const HELLO_V1: &str = "ffffffffffff0000 0000000000000002 0000000f 3132372e302e302e313a3233313232";
    const HELLO_V2: &str = "ffffffffffff0001 0000000000000001 0000001f 3132372e302e302e313a32333232317c3132372e302e302e32\
        3a3233323231";

    #[test]
    fn hellos_of_real_servers() {
        for (hex, version, sid, addresses) in [
            (HELLO_V1, HelloVersion::V1, 2, "127.0.0.1:23122"),
            (HELLO_V2, HelloVersion::V2, 1, "127.0.0.1:23221|127.0.0.2:23221"),
            ("0000000000000007", HelloVersion::BareId, 7, ""),
        ] {
            let received = bytes(hex);
            let hello = Hello { version, sid: ServerId(sid), addresses: addresses.to_owned() };
            assert_eq!(Hello::decode(&received), Ok(Some((hello.clone(), received.len()))));
            let mut sent = Vec::new();
            hello.encode(&mut sent);
            assert_eq!(sent, received);
            for end in 0..received.len() {
                assert_eq!(Hello::decode(&received[..end]), Ok(None), "{end} bytes are too few");
            }
        }
    }

    #[test]
    fn hellos_that_are_none() {
        let check = |hex: &str, expected: &str| {
            assert_eq!(Hello::decode(&bytes(hex)).unwrap_err().to_string(), expected);
        };
        check("fffffffffffffffe", "at byte 0: expected protocol version -65536 or -65535, got -2");
        check("ffffffffffff0000 0000000000000002 00000000", "at byte 16: expected 1 to 2048 bytes of addresses, got 0");
        check(
            "ffffffffffff0001 0000000000000002 00000801",
            "at byte 16: expected 1 to 2048 bytes of addresses, got 2049",
        );
        check(
            "ffffffffffff0001 0000000000000002 ffffffff",
            "at byte 16: expected 1 to 2048 bytes of addresses, got -1",
        );
    }

    /// The head of the captured vote of a server in its first round; its configuration stood behind.
    const CAPTURED: &str =
        "00000000 0000000000000002 0000000000000000 0000000000000001 0000000000000000 00000002 0000008a";

    #[test]
    fn a_vote_of_a_real_server() {
        let config = "server.1=127.0.0.1:23111:23121:participant\nserver.2=127.0.0.1:23112:23122:participant\n\
            server.3=127.0.0.1:23113:23123:participant\nversion=0";
        let mut frame = bytes(CAPTURED);
        assert_eq!(config.len(), 0x8a);
        frame.extend_from_slice(config.as_bytes());
        let vote = Vote { leader: ServerId(2), zxid: Zxid(0), round: 1, peer_epoch: 0 };
        let notification = Notification::new(ServerState::Looking, vote, config.to_owned());
        assert_eq!(Notification::decode(&frame), Ok(notification.clone()));
        let mut sent = Vec::new();
        notification.encode(&mut sent);
        assert_eq!(sent, frame);
        assert!(
            (0..frame.len())
                .filter(|end| !matches!(end, 28 | 40))
                .all(|end| Notification::decode(&frame[..end]).is_err())
        );
    }

    #[test]
    fn older_forms_are_known_by_their_length() {
        let head = "00000002 0000000000000003 0000000500000007 0000000000000009";
        let vote = |peer_epoch| Vote { leader: ServerId(3), zxid: Zxid(0x5_0000_0007), round: 9, peer_epoch };
        let check = |tail: &str, peer_epoch: i64| {
            let found = Notification::decode(&bytes(&format!("{head}{tail}")));
            let expected =
                Notification { state: ServerState::Leading, vote: vote(peer_epoch), version: 0, config: None };
            assert_eq!(found, Ok(expected));
        };
        check("", 5);
        check("0000000000000006 00000001", 6);
        // The version is not read in this form.
        check("0000000000000006 00000002", 6);
        let found = Notification::decode(&bytes(&format!("{head} 0000000000000006 00000001 ffff")));
        assert_eq!(found.map(|notification| (notification.version, notification.config)), Ok((1, None)));
        let of_34 = Notification::decode(&bytes(&format!("{head} 0000000000000006")));
        assert_eq!(of_34.unwrap_err().to_string(), "at byte 36: expected an int of 4 bytes, got 0");
    }

    #[test]
    fn notifications_that_are_none() {
        let head = "00000000 0000000000000002 0000000000000000 0000000000000001 0000000000000000 00000002";
        let check = |hex: &str, expected: &str| {
            assert_eq!(Notification::decode(&bytes(hex)).unwrap_err().to_string(), expected);
        };
        check(&format!("{head} ffffffff"), "at byte 40: expected a string, not null, got -1");
        check(&format!("{head} fffffffe"), "at byte 40: expected a length of -1 or more, got -2");
        check(&format!("{head} 7fffffff 00"), "at byte 44: expected that many bytes, got 1");
        check(
            &format!("{} 00000000", head.replacen("00000000", "00000004", 1)),
            "at byte 0: expected a state, 0 to 3, got 4",
        );
    }
}
