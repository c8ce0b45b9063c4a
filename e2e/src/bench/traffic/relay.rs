// SPDX-License-Identifier: Apache-2.0
//! A relay as one writes it in an hour: what mode userspace is measured beside.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// `berth-e2e relay`: the peer of a benchmark, which starts it by itself.
#[derive(clap::Args, Clone, Debug)]
pub struct RelayArguments {
    /// Where to listen, and whither connections go; may be given several times
    #[arg(long = "way", value_name = "LISTEN=TO", required = true, value_parser = way)]
    pub ways: Vec<(SocketAddr, SocketAddr)>,
}

fn way(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (listen, to) = text
        .split_once('=')
        .ok_or_else(|| format!("{text}: not ADDRESS:PORT=ADDRESS:PORT"))?;
    let address = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok((address(listen)?, address(to)?))
}

/// Relays until it is killed.
///
/// # Errors
/// A port is taken.
pub(crate) async fn relay(arguments: &RelayArguments) -> Result<()> {
    let serve = arguments.ways.iter().map(|(listen, to)| async move {
        let listener = TcpListener::bind(listen).await;
        accept(listener.with_context(|| listen.to_string())?, *to).await
    });
    futures::future::try_join_all(serve).await?;
    Ok(())
}

async fn accept(listener: TcpListener, to: SocketAddr) -> Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut server = TcpStream::connect(to).await?;
            copy_bidirectional(&mut client, &mut server).await
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_names_both_ends() {
        let (listen, to) = way("127.0.0.1:1=10.0.0.1:2").unwrap();
        assert_eq!((listen.port(), to.port()), (1, 2));
        assert_eq!(way("x").unwrap_err(), "x: not ADDRESS:PORT=ADDRESS:PORT");
        assert!(way("127.0.0.1:1=y").unwrap_err().starts_with("y: "));
    }
}
