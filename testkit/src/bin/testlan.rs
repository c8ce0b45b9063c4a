// SPDX-License-Identifier: Apache-2.0
//! Brings up a LAN with a Pod on each node, says how to look around in it, and stays until Ctrl-C.

use std::path::Path;
use std::process::ExitCode;

use berth_testkit::lan::Lan;
use berth_testkit::pods::{Pod, Serve};
use berth_testkit::sandbox::{self, Side};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    if let Side::Finished(code) = sandbox::enter()? {
        return Ok(code);
    }
    let lan = Lan::builder().nodes(3).build()?;
    let serve = Serve {
        tcp: vec![8080],
        udp: vec![5353],
        linger: None,
    };
    let mut pods = Vec::new();
    for node in lan.nodes() {
        let pod = Pod::create(node, &format!("pod-{}", node.number()), None)?;
        let process = pod.serve(&serve, &Path::new(sandbox::SCRATCH).join(pod.name()))?;
        let [ipv4, ipv6] = pod.addresses().both();
        println!(
            "{} on {}: {ipv4} {ipv6}, namespace {}",
            pod.name(),
            node.name(),
            pod.netns().name()
        );
        pods.push((pod, process));
    }
    if let Some(enter) = sandbox::enter_command() {
        println!("look around: {enter} ip netns exec client ping -c 1 10.77.0.11");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupts = signal(SignalKind::interrupt())?;
        println!("up");
        interrupts.recv().await;
        anyhow::Ok(())
    })?;
    println!("down");
    Ok(ExitCode::from(7))
}
