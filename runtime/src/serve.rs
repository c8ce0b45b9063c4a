// SPDX-License-Identifier: Apache-2.0
//! Small HTTP servers: a listener, and one function that answers each request at once.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A client that sends no request for this long is cut off, so that idle connections cannot pile up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps until they are accepted: what `std` and Go ask for or less.
const LISTEN_BACKLOG: i32 = 128;
/// How long to wait when nothing can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// JSON, which browsers are told not to take for anything else.
    pub fn json(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: "application/json",
            headers: vec![("X-Content-Type-Options", "nosniff".to_owned())],
            body,
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Answer> for Response<Full<Bytes>> {
    fn from(answer: Answer) -> Self {
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static(answer.content_type),
        );
        for (name, value) in answer.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Listens on exactly this address: `[::]` is IPv6 only, so that `0.0.0.0` may be another's.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(address, true)
}

/// Listens on this address; an unspecified one, of either family, means every address of both.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn bind_both_families(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match listen(both, false) {
        // A kernel without IPv6.
        Err(error) if address.is_ipv4() && error.kind() != io::ErrorKind::AddrInUse => bind(address),
        outcome => outcome,
    }
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    // A restart must not wait for connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers requests, given by method and path, until `stop` is cancelled; then the port is closed.
/// `what` names the server in logs.
pub async fn serve<F>(listener: TcpListener, what: &'static str, stop: CancellationToken, answer: F)
where
    F: Fn(&str, &str) -> Answer + Clone + Send + Sync + 'static,
{
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close theirs.
                    tracing::warn!(server = what, %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        tokio::spawn(connection(stream, what, stop.clone(), answer.clone()));
    }
}

async fn connection<F>(stream: TcpStream, what: &'static str, stop: CancellationToken, answer: F)
where
    F: Fn(&str, &str) -> Answer,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = Response::from(answer(request.method().as_str(), request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        outcome = served => if let Err(error) = outcome {
            tracing::debug!(server = what, %error, "connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn status_headers_and_body_arrive_and_the_port_closes() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, "test", stop.clone(), |method, path| {
            Answer::json(503, format!("{method} {path}")).with("X-Weight", "3")
        }));
        let answer = get(address, "/any/path?x=1").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        for part in ["application/json", "x-weight: 3", "nosniff", "GET /any/path"] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        stop.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn each_family_has_its_own_port_and_both_can_be_had_at_once() {
        let both = bind_both_families((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = both.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        assert!(bind((Ipv4Addr::UNSPECIFIED, port).into()).is_err());
        drop(both);
        let v6 = bind((Ipv6Addr::UNSPECIFIED, port).into()).unwrap();
        let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
        assert_eq!(v6.local_addr().unwrap().port(), v4.local_addr().unwrap().port());
    }
}
