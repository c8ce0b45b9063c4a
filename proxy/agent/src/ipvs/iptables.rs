// SPDX-License-Identifier: Apache-2.0
//! The static rules, by iptables-save and iptables-restore of the legacy variant: the one that an IPVS kernel without
//! nf_tables has, too. Where only one variant is installed, that one.

use berth_model::IpFamily;
use berth_proxy_core::Settings;
use berth_proxy_core::ipvs::found::{Found, removal_text};
use berth_proxy_core::ipvs::rules::restore_text;

use crate::Error;
use crate::backend::program_path;
use crate::program::Program;

/// How long to wait for whoever else has iptables' lock, in seconds: kube-proxy's time.
const LOCK_WAIT: &str = "5";

async fn run(family: IpFamily, verb: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let stem = match family {
        IpFamily::V4 => "iptables",
        IpFamily::V6 => "ip6tables",
    };
    let path = program_path();
    let found = |name: String| Program::find(&path, &name, "iptables");
    let program = found(format!("{stem}-legacy-{verb}")).or_else(|_| found(format!("{stem}-{verb}")))?;
    program.run(arguments, input).await
}

/// What is there of ours.
///
/// # Errors
/// iptables is missing or failed.
pub(super) async fn observe(family: IpFamily) -> Result<Found, Error> {
    Ok(Found::parse(&run(family, "save", &[], "").await?))
}

/// Makes the rules right; says whether there was anything to do. The sets must be there.
///
/// # Errors
/// iptables is missing, or the kernel lacks what a rule needs.
pub(super) async fn ensure(family: IpFamily, settings: &Settings) -> Result<bool, Error> {
    let found = observe(family).await?;
    if found.is(family, settings) {
        return Ok(false);
    }
    let text = restore_text(family, settings, &found.missing_hooks());
    run(family, "restore", &["--noflush", "-w", LOCK_WAIT], &text).await?;
    Ok(true)
}

/// Removes our chains; says whether there were any.
///
/// # Errors
/// iptables is missing or failed.
pub(super) async fn remove(family: IpFamily) -> Result<bool, Error> {
    let found = observe(family).await?;
    if found.is_empty() {
        return Ok(false);
    }
    run(
        family,
        "restore",
        &["--noflush", "-w", LOCK_WAIT],
        &removal_text(&found),
    )
    .await?;
    Ok(true)
}
