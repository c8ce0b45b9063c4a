// SPDX-License-Identifier: Apache-2.0

use std::net::{Ipv4Addr, SocketAddr};

use berth_controllers_core::admission::{ClusterFamilies, Exemptions};
use berth_controllers_core::certificates::Rules;
use berth_model::IpFamily;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::admission::certificates::{Names, replica_name, self_made};
use crate::admission::{AdmissionMetrics, Ask, Choice, Settings, Unavailable, UnavailablePolicy};

/// Answers when it is let.
#[derive(Default)]
struct Slow {
    asked: Notify,
    let_go: Notify,
}

impl Chooser for Slow {
    fn cluster(&self) -> Option<ClusterFamilies> {
        Some(ClusterFamilies {
            primary: IpFamily::V4,
            dual_stack: false,
        })
    }

    async fn choose(&self, _: Ask<'_>) -> Choice {
        self.asked.notify_one();
        self.let_go.notified().await;
        Choice::Unavailable(Unavailable {
            reason: "Slow",
            message: "at last".to_owned(),
        })
    }
}

struct Port {
    address: SocketAddr,
    slow: Arc<Slow>,
    shown: watch::Sender<Option<Arc<Credentials>>>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

fn port() -> Port {
    let listener = berth_runtime::serve::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let slow = Arc::new(Slow::default());
    let settings = Settings {
        exemptions: Exemptions::with([]),
        unavailable: UnavailablePolicy::Admit,
        timeout: Duration::from_secs(30),
    };
    let webhook = Webhook::new(slow.clone(), settings, AdmissionMetrics::default());
    let shown = watch::Sender::new(Some(credentials()));
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, shown.subscribe(), webhook, stop.clone()));
    Port {
        address,
        slow,
        shown,
        stop,
        served,
    }
}

fn credentials() -> Arc<Credentials> {
    Arc::new(self_made(&Names::default(), &Rules::DEFAULT).unwrap())
}

type Stream = TlsStream<TcpStream>;

impl Port {
    /// A connection that is verified by these credentials.
    async fn connect(&self, by: &Credentials) -> std::io::Result<Stream> {
        let stream = TcpStream::connect(self.address).await?;
        let connector = TlsConnector::from(by.replica_client());
        connector.connect(replica_name(), stream).await
    }

    fn shown(&self) -> Arc<Credentials> {
        self.shown.borrow().clone().unwrap()
    }
}

async fn send(stream: &mut Stream, method: &str, path: &str, body: &str) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
}

/// The head of an answer and what came with it.
async fn receive(stream: &mut Stream) -> String {
    let mut buffer = vec![0; 64 * 1024];
    let length = stream.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn review() -> String {
    serde_json::json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "CREATE", "namespace": "team",
            "resource": {"group": "", "version": "v1", "resource": "services"},
            "object": {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
            },
        },
    })
    .to_string()
}

#[tokio::test]
async fn each_path_and_method_has_its_answer_on_one_connection() {
    let port = port();
    let mut stream = port.connect(&port.shown()).await.unwrap();
    for (method, path, body, expected) in [
        ("GET", "/readyz", "", "200"),
        ("POST", "/readyz", "", "405"),
        ("GET", PATH, "", "405"),
        ("POST", "/other", "", "404"),
        ("POST", PATH, "garbage", "400"),
    ] {
        send(&mut stream, method, path, body).await;
        let answer = receive(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{method} {path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read_to_its_end() {
    let port = port();
    let mut stream = port.connect(&port.shown()).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        LONGEST_BODY * 2
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer may come at any time from here on, and the connection be closed under what is still sent.
    let chunk = vec![b' '; 1024 * 1024];
    let mut sent = 0;
    while sent <= LONGEST_BODY && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    let answer = receive(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn an_open_connection_outlives_new_credentials_and_new_ones_are_shown_them() {
    let port = port();
    let before = port.shown();
    let mut early = port.connect(&before).await.unwrap();
    let after = credentials();
    port.shown.send_replace(Some(after.clone()));
    assert!(
        port.connect(&before).await.is_err(),
        "the old ones are still shown"
    );
    port.connect(&after).await.unwrap();
    send(&mut early, "GET", "/readyz", "").await;
    assert!(receive(&mut early).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_under_way_is_answered_when_the_port_closes() {
    let port = port();
    let mut stream = port.connect(&port.shown()).await.unwrap();
    send(&mut stream, "POST", PATH, &review()).await;
    port.slow.asked.notified().await;
    port.stop.cancel();
    // The port is closed at once: nobody is taken any more.
    while TcpStream::connect(port.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    port.slow.let_go.notify_one();
    let answer = receive(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("Slow"),
        "{answer}"
    );
    port.served.await.unwrap();
}

#[tokio::test]
async fn the_patience_of_the_query_is_heeded() {
    let port = port();
    let mut stream = port.connect(&port.shown()).await.unwrap();
    send(
        &mut stream,
        "POST",
        &format!("{PATH}?x=1&timeout=150ms"),
        &review(),
    )
    .await;
    let answer = receive(&mut stream).await;
    assert!(answer.contains("DeadlineExceeded"), "{answer}");
    assert_eq!(timeout_of(Some("timeout=5s")), Some("5s"));
    assert_eq!(timeout_of(Some("a=b")), None);
}

#[tokio::test]
async fn before_there_are_credentials_a_connection_is_closed() {
    let port = port();
    let known = port.shown();
    port.shown.send_replace(None);
    assert!(port.connect(&known).await.is_err());
    port.shown.send_replace(Some(known.clone()));
    port.connect(&known).await.unwrap();
}
