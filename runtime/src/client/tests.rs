// SPDX-License-Identifier: Apache-2.0

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::net::{TcpListener, TcpSocket};

use super::*;

const VERSION: &str = r#"{"major":"1","minor":"37","gitVersion":"v1.37.2","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
const DENIED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"who are you","reason":"Unauthorized","code":401}"#;

/// A stand-in that answers every request alike and counts them; only transport matters here.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(status: u16, body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let service = service_fn(move |_: Request<Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                        *response.status_mut() = status.try_into().unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(serving);
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    fn url(&self) -> Uri {
        format!("http://{}", self.address).parse().unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A port that refuses connections: taken, so that no server of another test gets it, and not listened on.
struct ClosedPort(TcpSocket);

impl ClosedPort {
    fn take() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    fn url(&self) -> Uri {
        format!("http://{}", self.0.local_addr().unwrap())
            .parse()
            .unwrap()
    }
}

async fn connect(servers: Vec<Uri>) -> (Connection, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
         users: [{name: u, user: {token: t}}]\n\
         contexts: [{name: lab, context: {cluster: c, user: u}}]\n",
    )
    .unwrap();
    let args = ApiArgs {
        kubeconfig: Some(file),
        apiserver: servers,
        ..ApiArgs::default()
    };
    (args.connect().await.unwrap(), dir)
}

#[tokio::test]
async fn the_first_working_server_is_kept() {
    let (dead, first, second) = (
        ClosedPort::take(),
        Server::start(200, VERSION).await,
        Server::start(200, VERSION).await,
    );
    let (connection, _dir) = connect(vec![dead.url(), first.url(), second.url()]).await;
    for _ in 0..3 {
        connection.check().await.unwrap();
    }
    assert_eq!((first.requests(), second.requests()), (3, 0));
}

#[tokio::test]
async fn when_the_server_in_use_dies_the_next_one_takes_over() {
    let (first, second) = (
        Server::start(200, VERSION).await,
        Server::start(200, VERSION).await,
    );
    let (connection, _dir) = connect(vec![first.url(), second.url()]).await;
    connection.check().await.unwrap();
    assert_eq!((first.requests(), second.requests()), (1, 0));
    first.stop().await;
    connection.check().await.unwrap();
    connection.check().await.unwrap();
    assert_eq!(second.requests(), 2);
}

#[tokio::test]
async fn an_http_error_is_an_answer_and_no_reason_to_move() {
    let (first, second) = (
        Server::start(401, DENIED).await,
        Server::start(200, VERSION).await,
    );
    let (connection, _dir) = connect(vec![first.url(), second.url()]).await;
    let error = connection.check().await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("who are you"), "{error}");
    assert_eq!(second.requests(), 0);
}

#[tokio::test]
async fn a_write_moves_to_another_server_only_if_it_was_never_sent() {
    let (dead, alive) = (
        ClosedPort::take(),
        Server::start(201, r#"{"metadata":{"name":"web"}}"#).await,
    );
    let (connection, _dir) = connect(vec![dead.url(), alive.url()]).await;
    let api: Api<Service> = Api::namespaced(connection.client(), "shop");
    let made = api
        .create(&kube::api::PostParams::default(), &Service::default())
        .await
        .unwrap();
    assert_eq!(made.metadata.name.as_deref(), Some("web"));
    assert_eq!(alive.requests(), 1);
}

#[tokio::test]
async fn a_config_that_points_nowhere_names_file_context_server_and_cause() {
    let (dead, other) = (ClosedPort::take(), ClosedPort::take());
    let (connection, dir) = connect(vec![dead.url(), other.url()]).await;
    let text = connection.check().await.unwrap_err().to_string();
    for part in [
        server_text(&dead.url()),
        server_text(&other.url()),
        dir.path().join("config").display().to_string(),
        "\"lab\"".to_owned(),
        "nothing listens there".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is missing in: {text}");
    }
}

#[test]
fn a_tls_fault_is_found_under_any_number_of_wrappings_and_put_into_words() {
    use std::io;
    let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
    let text = error::reason(&wrapped);
    assert!(text.contains("certificate-authority-data"), "{text}");
}

#[tokio::test]
async fn contact_gives_up_after_its_patience_and_keeps_the_reason() {
    let closed = ClosedPort::take();
    let (connection, _dir) = connect(vec![closed.url()]).await;
    let stop = CancellationToken::new();
    let error = connection.contact(Some(Duration::ZERO), &stop).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    let code = crate::exit::ExitError::from(error).code();
    assert_eq!(code.number(), 4);
}

#[tokio::test]
async fn contact_waits_for_a_server_that_comes_up_later() {
    let closed = ClosedPort::take();
    let (connection, _dir) = connect(vec![closed.url()]).await;
    let stop = CancellationToken::new();
    let waiting = connection.contact(None, &stop);
    let server = async {
        // The first attempt has met a closed port by the time the first back-off runs.
        tokio::task::yield_now().await;
        let listener = closed.0.listen(1).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(VERSION.as_bytes()))))
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
    };
    tokio::select! {
        outcome = waiting => outcome.unwrap(),
        _ = server => panic!("the server ends only when the client hangs up"),
    }
}

#[tokio::test]
async fn a_missing_kubeconfig_is_named() {
    let args = ApiArgs {
        kubeconfig: Some("/nowhere/config".into()),
        ..ApiArgs::default()
    };
    let text = args.connect().await.unwrap_err().to_string();
    assert!(
        text.contains("/nowhere/config") && text.contains("--kubeconfig"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unknown_context_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: []\n",
    )
    .unwrap();
    let args = ApiArgs {
        kubeconfig: Some(file),
        context: Some("prod".to_owned()),
        ..ApiArgs::default()
    };
    let text = args.connect().await.unwrap_err().to_string();
    assert!(text.contains("prod"), "{text}");
}

#[test]
fn server_addresses_are_read_with_and_without_scheme() {
    for (text, expected) in [
        ("https://10.77.0.1:6443", "https://10.77.0.1:6443/"),
        ("https://10.77.0.1:6443/", "https://10.77.0.1:6443/"),
        ("10.77.0.1:6443", "https://10.77.0.1:6443/"),
        ("https://[fd00:77::1]:6443", "https://[fd00:77::1]:6443/"),
        ("http://localhost:8001", "http://localhost:8001/"),
    ] {
        assert_eq!(parse_server(text).unwrap().to_string(), expected, "{text}");
    }
    for text in ["", "ftp://x", "https://", "https://x:6443/prefix", "https://x y"] {
        let error = parse_server(text).unwrap_err();
        assert!(error.contains("https://HOST:PORT"), "{text}: {error}");
    }
}
