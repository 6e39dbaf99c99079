//! A peer that the test plays itself, byte by byte.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use ringkeeper::proto::election::{Hello, HelloVersion, Notification, ServerState, Vote};
use ringkeeper::types::{ServerId, Zxid};

use super::member::{PATIENCE, wait_for};

/// A connection to an election port.
pub struct RawPeer {
    pub stream: TcpStream,
}

impl RawPeer {
    /// Connects, once the port is listened on.
    #[track_caller]
    pub fn connect(port: u16) -> RawPeer {
        let stream = wait_for("the election port", || TcpStream::connect(("127.0.0.1", port)).ok());
        RawPeer::over(stream)
    }

    pub fn over(stream: TcpStream) -> RawPeer {
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a duration");
        RawPeer { stream }
    }

    /// Connects and says who it is. A server keeps the connection if this id is larger than its own.
    #[track_caller]
    pub fn greet(port: u16, sid: i64) -> RawPeer {
        let mut peer = RawPeer::connect(port);
        let hello = Hello { version: HelloVersion::V1, sid: ServerId(sid), addresses: "0.0.0.0:1".to_owned() };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        peer.write(&bytes);
        peer
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // Who is refused may find the other end closed; what matters is what the server does.
        let _ = self.stream.write_all(bytes);
    }

    pub fn say(&mut self, state: ServerState, vote: Vote) {
        let mut payload = Vec::new();
        Notification::new(state, vote, "version=0".to_owned()).encode(&mut payload);
        let length = (payload.len() as u32).to_be_bytes();
        self.write(&[length.as_slice(), &payload].concat());
    }

    /// The next message.
    pub fn hear(&mut self) -> io::Result<Notification> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(Notification::decode(&payload).expect("servers say what can be read"))
    }

    /// Whether the server closes the connection, rather than wait or say something.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(got) => got == 0,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                true
            }
        }
    }
}

/// The vote of a server that has none.
pub fn nobody() -> Vote {
    Vote { leader: ServerId::NOBODY, zxid: Zxid(i64::MIN), round: 1, peer_epoch: i64::MIN }
}
