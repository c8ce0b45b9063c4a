// SPDX-License-Identifier: Apache-2.0
//! Which node answers for an address, and for how long nobody does when that node goes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::lan::Node;
use berth_testkit::netns::Netns;
use berth_testkit::stream::{Rate, Report, Stream};
use berth_testkit::wait::eventually;

use crate::cluster::{Cluster, PATIENCE};

/// How long one question for a neighbour is given: the kernel asks three times, a second apart.
const ANSWER: Duration = Duration::from_secs(3);

/// The link-layer address that a host of the LAN has learned for an address, if any.
///
/// # Errors
/// `ip` does not run.
pub fn neighbour(host: &Netns, address: IpAddr) -> Result<Option<String>> {
    let listed = host.output("ip", &["neigh", "show", "to", &address.to_string()])?;
    let mut words = listed
        .split_whitespace()
        .skip_while(|word| *word != "lladdr")
        .skip(1);
    Ok(words.next().map(str::to_owned))
}

/// The node whose announcer answers for an address, as the outside client sees it after asking anew.
///
/// # Errors
/// Nobody answers, or something that is no node.
pub async fn owner(cluster: &Cluster, address: IpAddr) -> Result<Node> {
    let client = cluster.lan.client();
    let found = eventually(
        format!("somebody who answers for {address}"),
        PATIENCE,
        || async {
            client.output("ip", &["neigh", "flush", "to", &address.to_string()])?;
            // Whether the ping itself is answered does not matter: asking for the neighbour does.
            client.run(|| ask_for_neighbour(address))??;
            let mac = eventually("a neighbour entry", ANSWER, || async {
                neighbour(client, address)?.context("nobody has answered yet")
            })
            .await?;
            let node = cluster.lan.nodes().iter().find(|node| node.mac() == mac);
            node.cloned().with_context(|| format!("{mac} is no node's"))
        },
    )
    .await?;
    Ok(found)
}

/// One datagram to the discard port: makes the kernel resolve the neighbour.
fn ask_for_neighbour(address: IpAddr) -> Result<()> {
    let any: SocketAddr = if address.is_ipv4() {
        "0.0.0.0:0".parse()?
    } else {
        "[::]:0".parse()?
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.send_to(b"?", SocketAddr::new(address, 9))?;
    Ok(())
}

/// What a fault did to a stream of datagrams from the outside client.
#[derive(Clone, Debug)]
pub struct Failover {
    /// Who answered for the address before.
    pub from: String,
    /// Who does now.
    pub to: String,
    /// The stream.
    pub report: Report,
}

/// Cuts the node that answers for an address off the LAN while the outside client sends datagrams to
/// `address`, waits until somebody else answers, and mends the cable.
///
/// # Errors
/// Nobody takes over.
pub async fn cut_the_owner(cluster: &Cluster, address: SocketAddr) -> Result<Failover> {
    let before = owner(cluster, address.ip()).await?;
    let stream = Stream::start(cluster.lan.client(), address, Rate::default())?;
    let answers = async |beyond: usize| {
        eventually(format!("more than {beyond} answers"), PATIENCE, || async {
            let seen = stream.answers();
            ensure!(seen > beyond, "{seen} answers");
            anyhow::Ok(seen)
        })
        .await
    };
    let steady = answers(100).await?;
    cluster.lan.cut(&before)?;
    // Answers already under way may still come in: go on only once another node has been learned.
    let after = eventually("another node's link-layer address", PATIENCE, || async {
        let mac = neighbour(cluster.lan.client(), address.ip())?.context("no neighbour entry")?;
        let node = cluster
            .lan
            .nodes()
            .iter()
            .find(|node| node.mac() == mac)
            .context("no node's")?;
        ensure!(node.name() != before.name(), "still {}", before.name());
        anyhow::Ok(node.clone())
    })
    .await?;
    answers(steady + 200).await?;
    let report = stream.stop();
    cluster.lan.mend(&before)?;
    Ok(Failover {
        from: before.name().to_owned(),
        to: after.name().to_owned(),
        report,
    })
}
