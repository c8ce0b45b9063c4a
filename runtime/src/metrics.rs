// SPDX-License-Identifier: Apache-2.0
//! The registry that every part's metrics are built from. There is no global one.

mod exact;
pub(crate) mod text;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use exact::ExactCounter;

/// A registry that the parts register into at start and the admin port reads.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// A registry with the build's identity in it.
    pub fn new(component: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        registry.register(
            "berth_build",
            "Which component of which version this is",
            Info::new(vec![("component", component), ("version", version)]),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Runs `f` on the registry, to register metrics.
    pub fn register<T>(&self, f: impl FnOnce(&mut Registry) -> T) -> T {
        f(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The metrics in the Prometheus text format, as Kubernetes' own components show theirs.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
            tracing::error!("metrics cannot be encoded");
        }
        text::prometheus(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_named() {
        let text = Metrics::new("proxy", "0.1.0").render();
        assert!(
            text.contains(r#"berth_build_info{component="proxy",version="0.1.0"} 1"#),
            "{text}"
        );
    }
}
