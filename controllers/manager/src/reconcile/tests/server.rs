// SPDX-License-Identifier: Apache-2.0
//! A stand-in for the API server: lists the Services it is told to.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Stored {
    services: Vec<Service>,
}

/// Ends with the test's runtime.
pub(super) struct Server {
    port: u16,
    stored: Arc<Mutex<Stored>>,
}

impl Server {
    pub(super) async fn start(services: Vec<Service>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stored = Arc::new(Mutex::new(Stored { services }));
        let shared = Arc::clone(&stored);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, stored }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn set_services(&self, services: Vec<Service>) {
        self.stored.lock().unwrap().services = services;
    }
}

/// One request a connection.
async fn serve(mut stream: TcpStream, stored: Arc<Mutex<Stored>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let answer = answer(method, target, &mut stored.lock().unwrap()).to_string();
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(response.as_bytes()).await.unwrap();
}

fn answer(method: &str, target: &str, stored: &mut Stored) -> Value {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (method, path.rsplit('/').next().unwrap()) {
        ("GET", "services") => {
            let name = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
            let items: Vec<&Service> = stored
                .services
                .iter()
                .filter(|service| name.is_none_or(|name| service.metadata.name.as_deref() == Some(name)))
                .collect();
            json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": items})
        }
        (method, _) => panic!("{method} {target} is none of this stand-in's business"),
    }
}
