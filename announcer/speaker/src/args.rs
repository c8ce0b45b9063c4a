// SPDX-License-Identifier: Apache-2.0
//! Flags of `berth announcer`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_announcer_core::link::Selection;
use berth_announcer_core::membership::Timing;
use berth_announcer_core::wire::heartbeat::HeartbeatKey;
use berth_model::NodeName;
use berth_runtime::duration;

use crate::SpeakerError;
use crate::observe::ServiceFilter;

/// Answers ARP and NDP for the LoadBalancer addresses that this node owns
#[derive(clap::Args, Clone, Debug)]
pub struct AnnouncerArgs {
    /// Name of the Node object of this machine. Default: the host name
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Interfaces to announce on; `*` stands for any text. Default: each one that is up, has a carrier and
    /// can broadcast, but none that leads to Pods or virtual machines (veth*, cni*, docker*, cali*, ...)
    #[arg(
        long = "interface",
        env = "BERTH_INTERFACES",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub interfaces: Vec<String>,

    /// spec.loadBalancerClass of the Services whose addresses are announced
    #[arg(long, visible_alias = "class", env = "BERTH_LOAD_BALANCER_CLASS", value_name = "CLASS", default_value = berth_crds::BARE_METAL_CLASS)]
    pub load_balancer_class: String,

    /// Announce the addresses of Services without a class too
    #[arg(long, env = "BERTH_DEFAULT_PROVIDER", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub default_provider: bool,

    /// UDP port on which announcers hear each other; the same on all nodes
    #[arg(long, env = "BERTH_HEARTBEAT_PORT", value_name = "PORT", default_value_t = 7947, value_parser = clap::value_parser!(u16).range(1..))]
    pub heartbeat_port: u16,

    /// Time between two heartbeats; the same on all nodes
    #[arg(long, env = "BERTH_HEARTBEAT_INTERVAL", value_name = "DURATION", default_value = "100ms", value_parser = duration::parse)]
    pub heartbeat_interval: Duration,

    /// Silence after which another announcer is taken for dead and its addresses move; at least three heartbeat intervals
    #[arg(long, env = "BERTH_DEAD_AFTER", value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub dead_after: Duration,

    /// File with a key of at least 16 bytes that all announcers share, to authenticate heartbeats; a newline at
    /// its end does not count. Without it anyone who can reach the heartbeat port can disturb the election
    #[arg(long, env = "BERTH_HEARTBEAT_KEY_FILE", value_name = "FILE")]
    pub heartbeat_key_file: Option<PathBuf>,

    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "BERTH_ADMIN_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:10358"
    )]
    pub admin_address: SocketAddr,
}

impl AnnouncerArgs {
    /// The Node that this process announces for.
    pub(crate) fn node(&self) -> Result<NodeName, SpeakerError> {
        if let Some(name) = self.node_name.as_deref().filter(|name| !name.is_empty()) {
            return Ok(NodeName::new(name));
        }
        let host = nix::unistd::gethostname().map_err(|errno| SpeakerError::HostName(errno.into()))?;
        // Node names are lower case; a kubelet does the same with the host name.
        Ok(NodeName::new(host.to_string_lossy().to_lowercase()))
    }

    pub(crate) fn timing(&self) -> Result<Timing, SpeakerError> {
        let timing = Timing {
            interval: self.heartbeat_interval,
            dead_after: self.dead_after,
        };
        timing.validate().map_err(SpeakerError::Timing)?;
        Ok(timing)
    }

    pub(crate) fn selection(&self) -> Selection {
        Selection(self.interfaces.clone())
    }

    pub(crate) fn services(&self) -> ServiceFilter {
        ServiceFilter {
            class: self.load_balancer_class.clone(),
            unclassed: self.default_provider,
        }
    }

    pub(crate) fn key(&self) -> Result<Option<HeartbeatKey>, SpeakerError> {
        self.heartbeat_key_file.as_deref().map(read_key).transpose()
    }
}

fn read_key(file: &Path) -> Result<HeartbeatKey, SpeakerError> {
    let unreadable = |source| SpeakerError::KeyFile {
        file: file.to_owned(),
        source,
    };
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    HeartbeatKey::new(bytes).map_err(|source| SpeakerError::Key {
        file: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AnnouncerArgs,
    }

    fn parse(line: &[&str]) -> AnnouncerArgs {
        Cli::try_parse_from([&["berth"], line].concat()).unwrap().args
    }

    #[test]
    fn the_defaults_fit_together() {
        let args = parse(&[]);
        assert_eq!(args.timing().unwrap(), Timing::default());
        assert!(args.node().is_ok());
        assert_eq!(args.load_balancer_class, "berth.dev/bare-metal");
        assert!(args.key().unwrap().is_none());
    }

    #[test]
    fn the_class_has_the_controllers_flag_and_a_short_one() {
        for flag in ["--load-balancer-class=example.com/lb", "--class=example.com/lb"] {
            assert_eq!(parse(&[flag]).services().class, "example.com/lb", "{flag}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        let said = |args: AnnouncerArgs| args.timing().unwrap_err().to_string();
        let short = said(parse(&["--dead-after=250ms"]));
        assert!(
            short.contains("--dead-after") && short.contains("250ms"),
            "{short}"
        );
        let file = parse(&["--heartbeat-key-file=/nonexistent/key"])
            .key()
            .unwrap_err()
            .to_string();
        assert!(
            file.contains("--heartbeat-key-file") && file.contains("/nonexistent/key"),
            "{file}"
        );
    }

    #[test]
    fn a_key_file_may_end_with_a_newline_and_must_be_long_enough() {
        let folder = std::env::temp_dir().join(format!("berth-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("key");
        let key = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_key(&file)
        };
        assert!(key("sixteen bytes ok\n").is_ok());
        let said = key("fifteen bytes k\n").unwrap_err().to_string();
        assert!(
            said.contains("15 bytes") && said.contains("at least 16"),
            "{said}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
