//! A connection that does not wait, for what is not the main loop: whole frames in, bytes out.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

/// The longest frame that is taken.
const FRAME_BYTES_MAX: usize = 2 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// Its two directions.
pub struct Pipe {
    /// The socket, to be polled.
    pub stream: TcpStream,
    /// The beginning of a frame.
    inbox: Vec<u8>,
    /// What the socket has not taken yet: to be filled and then flushed.
    pub unsent: Vec<u8>,
}

impl Pipe {
    /// Of a connection on which nothing is under way.
    pub fn new(stream: TcpStream) -> Pipe {
        Pipe { stream, inbox: Vec::new(), unsent: Vec::new() }
    }

    /// Writes as much as the socket takes, and says how much.
    pub fn flush(&mut self) -> io::Result<u64> {
        let mut written = 0;
        while written < self.unsent.len() {
            match self.stream.write(&self.unsent[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..written);
        Ok(written as u64)
    }

    /// Reads what has been received, and puts the whole frames into `frames`; how many bytes that were, and whether it
    /// is the end.
    pub fn receive(&mut self, frames: &mut Vec<Vec<u8>>) -> io::Result<(u64, bool)> {
        let mut received = 0;
        let is_end = loop {
            let at = self.inbox.len();
            self.inbox.resize(at + READ_BYTES, 0);
            let result = self.stream.read(&mut self.inbox[at..]);
            self.inbox.truncate(at + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => break true,
                Ok(n) => received += n as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let mut bytes = &self.inbox[..];
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*head) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
            }
            let Some((frame, next)) = rest.split_at_checked(len) else { break };
            frames.push(frame.to_vec());
            bytes = next;
        }
        let used = self.inbox.len() - bytes.len();
        self.inbox.drain(..used);
        Ok((received, is_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_however_they_come() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        near.set_nonblocking(true).expect("a socket");
        let (mut far, _) = listener.accept().expect("a connection");
        let mut pipe = Pipe::new(TcpStream::from_std(near));
        let mut frames = Vec::new();
        let mut until = |pipe: &mut Pipe, enough: &dyn Fn(&[Vec<u8>], bool) -> bool| loop {
            let (_, is_end) = pipe.receive(&mut frames).expect("they are frames");
            if enough(&frames, is_end) {
                return frames.clone();
            }
        };
        far.write_all(b"\0\0\0\x02ab\0\0\0\x01").expect("it is read");
        assert_eq!(until(&mut pipe, &|frames, _| !frames.is_empty()), [b"ab"]);
        far.write_all(b"c\0\0\0\0\0\0").expect("it is read");
        drop(far);
        assert_eq!(until(&mut pipe, &|_, is_end| is_end), [&b"ab"[..], b"c", b""]);

        let near = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut far, _) = listener.accept().expect("a connection");
        let mut pipe = Pipe::new(TcpStream::from_std(near));
        far.write_all(&[0xff; 8]).expect("it is read");
        drop(far);
        assert_eq!(pipe.receive(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
