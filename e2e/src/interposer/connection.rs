// SPDX-License-Identifier: Apache-2.0
//! One connection of a client, and the one to the API server that it is passed on by.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Error;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Shared;
use super::faults::{Fault, answer};
use super::request::{Call, Verb};
use super::valve::{Cut, Valve, passable, refused};

type Outgoing = UnsyncBoxBody<Bytes, Error>;
type Answer = Response<Outgoing>;

/// After a failed accept: the machine is out of file descriptors for a moment.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The way to the API server.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) tls: TlsConnector,
}

impl Upstream {
    async fn connect(&self) -> Result<SendRequest<Incoming>, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the API server");
            }
        });
        Ok(sender)
    }
}

/// Takes connections until dropped.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    upstream: Upstream,
    shared: Arc<Shared>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let (acceptor, upstream, shared) = (acceptor.clone(), upstream.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut valve = shared.valve.subscribe();
            tokio::select! {
                () = refused(&mut valve) => {}
                outcome = serve(stream, acceptor, upstream, shared) => if let Err(error) = outcome {
                    tracing::debug!(%error, "connection of a client");
                },
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    upstream: Upstream,
    shared: Arc<Shared>,
) -> Result<(), Error> {
    passable(&mut shared.valve.subscribe()).await?;
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let passage = Arc::new(Passage {
        upstream,
        sender: Mutex::default(),
        shared,
    });
    let service = service_fn(move |request| {
        let passage = Arc::clone(&passage);
        async move { passage.handle(request).await }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// A client's connection on its way to the API server.
struct Passage {
    upstream: Upstream,
    sender: Mutex<Option<SendRequest<Incoming>>>,
    shared: Arc<Shared>,
}

impl Passage {
    /// An error closes the client's connection without an answer.
    async fn handle(&self, request: Request<Incoming>) -> Result<Answer, Error> {
        let mut valve = self.shared.valve.subscribe();
        passable(&mut valve).await?;
        let call = Call::of(request.method(), request.uri());
        let fault = self.shared.dice().as_mut().and_then(|dice| dice.throw(&call));
        if let Some(fault) = fault {
            return self.fail(call, request, fault).await;
        }
        let answer = self.pass_on(request).await;
        let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        let lost = passable(&mut valve).await;
        let told = code.filter(|_| lost.is_ok());
        self.shared.enter(call.clone(), code, told, false);
        lost?;
        let answer = answer?;
        Ok(if call.verb == Verb::Watch && answer.status().is_success() {
            answer.map(|body| watched(body, valve, call.resource))
        } else {
            answer.map(|body| body.map_err(Error::from).boxed_unsync())
        })
    }

    async fn fail(&self, call: Call, request: Request<Incoming>, fault: Fault) -> Result<Answer, Error> {
        let code = if fault.carried_out {
            let answer = self.pass_on(request).await?;
            let code = answer.status().as_u16();
            // Read to its end: the connection is used again.
            answer.into_body().collect().await?;
            Some(code)
        } else {
            request.into_body().collect().await?;
            None
        };
        let made_up = answer(fault.told, call.verb);
        let told = made_up.as_ref().map(|answer| answer.status().as_u16());
        self.shared.enter(call, code, told, true);
        let answer = made_up.ok_or(Cut)?;
        Ok(answer.map(|text| Full::new(Bytes::from(text)).map_err(never).boxed_unsync()))
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Incoming>, Error> {
        let mut sender = self.sender.lock().await;
        let ready = match sender.as_mut() {
            Some(open) => open.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            *sender = Some(self.upstream.connect().await?);
        }
        let open = sender.as_mut().ok_or(Cut)?;
        Ok(open.send_request(request).await?)
    }
}

fn never(error: Infallible) -> Error {
    match error {}
}

/// The stream of a watch: read as it comes, so that the API server sees a quick reader; handed on as told.
fn watched(body: Incoming, valve: watch::Receiver<Valve>, resource: String) -> Outgoing {
    let (sender, frames) = mpsc::unbounded_channel();
    tokio::spawn(pump(body, sender));
    let since = valve.borrow().cut;
    let watched = Watched {
        frames,
        valve,
        resource,
        since,
    };
    let stream = futures::stream::unfold(Some(watched), |watched| async {
        let mut watched = watched?;
        match watched.next().await.transpose()? {
            Ok(frame) => Some((Ok(frame), Some(watched))),
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

type Read = Result<Frame<Bytes>, Error>;

async fn pump(mut body: Incoming, frames: mpsc::UnboundedSender<Read>) {
    loop {
        tokio::select! {
            () = frames.closed() => return,
            frame = body.frame() => match frame {
                // A failed send is seen as closed above.
                Some(frame) => drop(frames.send(frame.map_err(Error::from))),
                None => return,
            },
        }
    }
}

struct Watched {
    frames: mpsc::UnboundedReceiver<Read>,
    valve: watch::Receiver<Valve>,
    resource: String,
    /// Cuts before this watch began are not its own.
    since: u64,
}

impl Watched {
    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, Error> {
        loop {
            passable(&mut self.valve).await?;
            let (cut, held) = {
                let now = self.valve.borrow_and_update();
                (now.cut != self.since, now.held.contains(&self.resource))
            };
            if cut {
                return Err(Cut.into());
            }
            tokio::select! {
                // An order counts for all that arrives after it was given.
                biased;
                changed = self.valve.changed() => changed?,
                frame = self.frames.recv(), if !held => return frame.transpose(),
            }
        }
    }
}
