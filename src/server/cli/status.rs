//! `status`: ask the server on the configured port for its mode.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Console, EXIT_FAILURE, EXIT_OK};
use crate::server::config::Outline;
use crate::server::config::outline::ClientPort;

/// How long a server may take to accept and to answer; a server that loads its database answers late.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Longest answer that is read; `srvr` has a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Prints the port it found, and the mode of the server that answers there.
///
/// Source: the verb `status` of zkServer.sh.
pub(super) fn status(outline: &Outline, console: &mut Console<'_>) -> io::Result<u8> {
    let search = outline.client_port();
    for note in &search.notes {
        writeln!(console.out, "{note}")?;
    }
    let Some(port) = search.found else {
        return Ok(EXIT_FAILURE);
    };
    writeln!(
        console.out,
        "Client port found: {}. Client address: {}. Client SSL: {}.",
        port.port, port.host, port.tls
    )?;
    let answer = ask(&port, "srvr").unwrap_or_default();
    match answer.lines().find(|line| line.contains("Mode")) {
        Some(mode) => {
            writeln!(console.out, "{mode}")?;
            Ok(EXIT_OK)
        }
        None => {
            writeln!(console.out, "Error contacting service. It is probably not running.")?;
            Ok(EXIT_FAILURE)
        }
    }
}

/// The answer to a four-letter word, from the first of the host's addresses that accepts.
pub(super) fn ask(port: &ClientPort, word: &str) -> io::Result<String> {
    let mut failure = io::ErrorKind::NotFound.into();
    for address in (port.host.as_str(), port.port).to_socket_addrs()? {
        match ask_address(&address, word) {
            Ok(answer) => return Ok(answer),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

fn ask_address(address: &SocketAddr, word: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(address, ANSWER_WAIT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
