// SPDX-License-Identifier: Apache-2.0
//! A counter that is shown under exactly the name it was registered by.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A counter whose name gets no `_total`: some of Kubernetes' own have none, and dashboards name them.
///
/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub struct ExactCounter(Arc<AtomicU64>);

impl ExactCounter {
    /// Counts one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TypedMetric for ExactCounter {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for ExactCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        // A gauge is encoded without a suffix; the type is told apart from the sample.
        encoder.encode_gauge(&self.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
