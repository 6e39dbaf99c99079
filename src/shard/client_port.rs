//! The client port of a server of an ensemble: a reconfiguration may move it.
//!
//! Source: `QuorumPeer.processReconfig`, `NIOServerCnxnFactory.reconfigure`.

use std::cell::Cell;
use std::io;
use std::net::ToSocketAddrs as _;
use std::os::fd::OwnedFd;

use super::broadcast::Broadcast;
use super::listener;
use crate::server::config::{ClientAddr, Config, EnsembleConfig};
use crate::zab::quorum::HostPort;

/// Where clients connect, and whether zoo.cfg says so.
pub struct ClientPort {
    bound: Cell<Option<ClientAddr>>,
    /// It stands in zoo.cfg and not in the server's line: a configuration that names none leaves it.
    is_static: bool,
    backlog: Option<u32>,
}

impl ClientPort {
    /// The port that the server has taken at its start.
    pub fn new(ensemble: &EnsembleConfig, config: &Config) -> ClientPort {
        ClientPort {
            bound: Cell::new(config.client_addr),
            is_static: ensemble.me().client.is_none(),
            backlog: config.client_port_listen_backlog,
        }
    }

    /// Moves to where the configuration in force says. Connections stay. If the new address cannot be had, clients go on
    /// using the old one.
    pub async fn follow(&self, wanted: Option<HostPort>, broadcast: &Broadcast) {
        let Some(wanted) = wanted else {
            if !self.is_static && self.bound.take().is_some() {
                tracing::info!(
                    "The ensemble's configuration names no client port for this server any more: it is closed"
                );
                broadcast.listen_for_clients(None);
            }
            return;
        };
        let before = self.bound.get();
        let found = resolve(wanted.clone()).await;
        let target = found.as_ref().ok().copied();
        if target.is_some() && target == before {
            return;
        }
        // The old socket is in the way of one that differs in the address alone.
        let replaces = before.filter(|before| target.is_some_and(|target| target.port == before.port));
        if replaces.is_some() {
            broadcast.listen_for_clients(None);
        }
        let opened = match found {
            Ok(addr) => self.open(addr).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok((socket, addr)) => {
                tracing::info!("Clients connect to {wanted} from now on");
                self.bound.set(Some(addr));
                broadcast.listen_for_clients(Some(socket));
            }
            Err(error) => {
                tracing::error!("Clients cannot connect to {wanted}, as the ensemble's configuration says: {error}");
                if let Some(before) = replaces
                    && let Ok((socket, _)) = self.open(before).await
                {
                    broadcast.listen_for_clients(Some(socket));
                }
            }
        }
    }

    async fn open(&self, addr: ClientAddr) -> io::Result<(OwnedFd, ClientAddr)> {
        let backlog = self.backlog;
        let open = move || {
            let mut failure = io::Error::new(io::ErrorKind::NotFound, "it has no address");
            for candidate in addr.bind_candidates() {
                match listener::open(candidate, backlog) {
                    Ok(socket) => return Ok((socket, addr)),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        };
        glommio::executor().spawn_blocking(open).await
    }
}

/// Looks the host up, off this shard.
async fn resolve(address: HostPort) -> io::Result<ClientAddr> {
    if address.host.is_wildcard() {
        return Ok(ClientAddr { ip: None, port: address.port });
    }
    let look_up = move || {
        let found = (address.host.as_str(), address.port).to_socket_addrs()?.next();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    };
    let found = glommio::executor().spawn_blocking(look_up).await?;
    Ok(ClientAddr { ip: Some(found.ip()), port: found.port() })
}
