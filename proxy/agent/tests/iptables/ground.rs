// SPDX-License-Identifier: Apache-2.0
//! Syncers and programs of either variant.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use berth_model::IpFamily;
use berth_proxy_agent::iptables::{Iptables, Variant};
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::Settings;
use berth_proxy_core::iptables::Installed;

/// By their own names, not by what `iptables` happens to be.
pub(crate) const VARIANTS: [Variant; 2] = [Variant::Nft, Variant::Legacy];

pub(crate) fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

pub(crate) fn mk_syncer(variant: Variant, settings: &Settings) -> anyhow::Result<Syncer<Iptables>> {
    Ok(Syncer::new(Iptables::open(&path(), variant)?, settings.clone()))
}

/// `iptables-nft-save`, for instance.
pub(crate) fn program(variant: Variant, family: IpFamily, end: &str) -> String {
    let name = match family {
        IpFamily::V4 => variant.to_string(),
        IpFamily::V6 => variant.to_string().replace("iptables", "ip6tables"),
    };
    format!("{name}{end}")
}

pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    child.stdin.take().context("input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is there, without what changes by itself.
pub(crate) fn save(variant: Variant, family: IpFamily) -> anyhow::Result<String> {
    let listed = run(&program(variant, family, "-save"), &[], "")?;
    let lines = listed.lines().filter(|line| !line.starts_with('#'));
    // `:CHAIN POLICY [PACKETS:BYTES]`
    let lines = lines.map(|line| match line.strip_prefix(':') {
        Some(_) => line.split(" [").next().unwrap_or(line),
        None => line,
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

pub(crate) fn installed(variant: Variant, family: IpFamily) -> anyhow::Result<Installed> {
    Ok(Installed::read(family, &save(variant, family)?))
}
