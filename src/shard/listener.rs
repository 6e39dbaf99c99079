//! The listening socket, made with the options that an operator expects and handed to glommio as it is.
//!
//! glommio's own `bind` sets SO_REUSEPORT, with which a second server on the same port would go unnoticed, and no
//! SO_REUSEADDR, without which a restart fails while old connections linger.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use glommio::net::{TcpListener, TcpStream};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

/// Backlog where the configuration names none; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG_DEFAULT: i32 = 1024;
/// A server that has just ended gives its port back when the kernel has taken its rings apart: wait this long for it.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(50);

/// Silence on a connection between servers after which the kernel probes it, and the time between two probes.
const PROBE_AFTER: Duration = Duration::from_secs(3);
/// Time without an answer after which such a connection ends.
const GONE_AFTER: Duration = Duration::from_secs(9);

/// Binds and listens. Waits a moment for a port that is in use, then errors.
pub fn open(addr: SocketAddr, backlog: Option<u32>) -> io::Result<OwnedFd> {
    let begin = Instant::now();
    loop {
        match try_open(addr, backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

fn try_open(addr: SocketAddr, backlog: Option<u32>) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &addr)?;
    listen(&fd, backlog.map_or(BACKLOG_DEFAULT, |backlog| backlog as i32))?;
    Ok(fd)
}

/// Has the kernel find out that the other end of a connection between servers is gone, host and all: a probe after
/// `PROBE_AFTER` of silence, and an end after `GONE_AFTER` without an answer. Nothing else is sent on an idle one.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the stream, which owns the descriptor, is borrowed for longer than the descriptor is used.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(fd, PROBE_AFTER)?;
    // It also decides after how many probes without an answer a connection ends.
    sockopt::set_tcp_user_timeout(fd, GONE_AFTER.as_millis() as u32)?;
    sockopt::set_tcp_nodelay(fd, true)?;
    Ok(())
}

/// Hands the socket to this executor.
pub fn adopt(fd: OwnedFd) -> TcpListener {
    // SAFETY: the descriptor is open, and `into_raw_fd` gives up its ownership, which the listener takes.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}
