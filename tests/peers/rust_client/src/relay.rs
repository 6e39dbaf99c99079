//! Passes connections on to a server, until it is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Relay {
    address: SocketAddr,
    /// True while connections are refused; connections that are open end when it becomes true.
    is_cut: Arc<watch::Sender<bool>>,
}

impl Relay {
    pub async fn start(server: &str) -> io::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let relay = Relay { address: listener.local_addr()?, is_cut: Arc::new(watch::Sender::new(false)) };
        let server = server.to_owned();
        let is_cut = Arc::downgrade(&relay.is_cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(is_cut) = is_cut.upgrade() else { return };
                // A connection that comes while it is cut is dropped here.
                if !*is_cut.borrow() {
                    tokio::spawn(pass(client, server.clone(), is_cut.subscribe()));
                }
            }
        });
        Ok(relay)
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn heal(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn pass(mut client: TcpStream, server: String, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    // What either side may meet at the end of a connection is no matter here.
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
