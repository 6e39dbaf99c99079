//! Ports that speak HTTP: the AdminServer's and Prometheus'. They have a thread of their own, so that nothing that is asked
//! there holds up a shard; what must wait for shards or look at files is worked out on at most `ANSWERS_AT_ONCE` further
//! ones.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::limits::ACCEPT_PAUSE;
use super::prometheus;

/// Connections to one port; further ones wait in the queue of the kernel.
const CONNECTIONS_MAX: usize = 64;
/// Answers that are worked out at a time; further ones wait.
const ANSWERS_AT_ONCE: usize = 2;
/// Bytes of a request's head. A longer one is refused with 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The name of the threads here.
pub const THREAD: &str = "http";

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `/commands/stat`.
    pub path: String,
    /// What stands behind the `?`, decoded, in order.
    pub query: Vec<(String, String)>,
    /// Whether it is a POST.
    pub post: bool,
    /// Whether there is an `Authorization`.
    pub authorized: bool,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Left out if empty.
    pub content_type: &'static str,
    /// The rest.
    pub body: String,
}

impl Answer {
    /// To a scraper: only `/metrics` is there.
    pub fn metrics(asked: &Asked, tell: impl Fn(Vec<String>) -> String) -> Answer {
        if asked.path != "/metrics" {
            return Answer { status: 404, content_type: "", body: String::new() };
        }
        let wanted = asked.query.iter().filter(|(key, _)| key == "name[]").map(|(_, name)| name.clone()).collect();
        Answer { status: 200, content_type: prometheus::CONTENT_TYPE, body: tell(wanted) }
    }
}

/// Works out an answer; may block.
pub type Handler = Arc<dyn Fn(Asked) -> Answer + Send + Sync>;

/// A port that is bound and the answers that it gives.
pub struct Port {
    listener: TcpListener,
    handler: Handler,
    idle: Duration,
}

impl Port {
    /// Binds the first of these addresses that can be had. A connection that asks nothing for as long as `idle` is closed.
    pub fn bind(addresses: &[SocketAddr], idle: Duration, handler: Handler) -> io::Result<Port> {
        let listener = TcpListener::bind(addresses)?;
        listener.set_nonblocking(true)?;
        Ok(Port { listener, handler, idle })
    }

    /// The port that it has, which the system may have chosen.
    pub fn number(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }
}

/// Serves the ports for as long as the process lives.
pub fn serve(ports: Vec<Port>) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(ANSWERS_AT_ONCE)
        .thread_name(THREAD)
        .build()?;
    let work = move || {
        runtime.block_on(async {
            let mut tasks = Vec::new();
            for port in ports {
                tasks.push(tokio::spawn(accept(port)));
            }
            for task in tasks {
                // One ends with an error only if its socket cannot be used at all.
                if let Ok(Err(error)) = task.await {
                    tracing::error!("A port for HTTP is lost: {error}");
                }
            }
        });
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(work).map(drop)
}

async fn accept(port: Port) -> io::Result<()> {
    let Port { listener, handler, idle } = port;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("Error accepting new connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        let service = service_fn(move |request| answer(Arc::clone(&handler), request));
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A client that breaks off is no news.
            drop(serving.await);
            drop(place);
        });
    }
}

async fn answer(handler: Handler, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let post = match *request.method() {
        Method::GET | Method::HEAD => false,
        Method::POST => true,
        Method::OPTIONS => {
            let mut response = Response::new(Full::default());
            let allowed = HeaderValue::from_static("GET, HEAD, POST, TRACE, OPTIONS");
            response.headers_mut().insert(header::ALLOW, allowed);
            return Ok(response);
        }
        Method::TRACE => return Ok(status(StatusCode::FORBIDDEN)),
        _ => return Ok(status(StatusCode::METHOD_NOT_ALLOWED)),
    };
    let asked = Asked {
        path: request.uri().path().to_owned(),
        query: form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect(),
        post,
        authorized: request.headers().contains_key(header::AUTHORIZATION),
    };
    let Ok(Answer { status: code, content_type, body }) = tokio::task::spawn_blocking(move || handler(asked)).await
    else {
        return Ok(status(StatusCode::INTERNAL_SERVER_ERROR));
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    if !content_type.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Ok(response)
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
