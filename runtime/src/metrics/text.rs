// SPDX-License-Identifier: Apache-2.0
//! From OpenMetrics text to the Prometheus text format, version 0.0.4.
//!
//! Kubernetes' own components serve this format only. In it a family has the name of its samples, so
//! that a counter may have any name; OpenMetrics would have every counter end in `_total`.

use std::iter::Peekable;
use std::str::Lines;

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites what `prometheus-client` encodes.
pub(super) fn prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    let mut help: Option<(&str, &str)> = None;
    while let Some(line) = lines.next() {
        let words = |rest: &'static str| line.strip_prefix(rest).and_then(|rest| rest.split_once(' '));
        if let Some(found) = words("# HELP ") {
            help = Some(found);
        } else if let Some((name, kind)) = words("# TYPE ") {
            let sample = sample_name(&mut lines, name);
            family(&mut text, sample, kind, help.take());
        } else if !line.starts_with('#') {
            push_sample(&mut text, line);
        }
    }
    text
}

/// The name that a family's samples have, the parts of a histogram apart.
fn sample_name<'a>(lines: &mut Peekable<Lines<'a>>, name: &'a str) -> &'a str {
    while lines.next_if(|line| line.starts_with("# UNIT ")).is_some() {}
    let Some(line) = lines.peek() else { return name };
    let sample = line.find(['{', ' ']).map_or(*line, |end| &line[..end]);
    match sample.strip_prefix(name) {
        Some("_total" | "_info") => sample,
        Some(_) | None => name,
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: Option<(&str, &str)>) {
    let kind = match kind {
        "info" | "stateset" => "gauge",
        "unknown" => "untyped",
        "gaugehistogram" => "histogram",
        known => known,
    };
    if let Some((_, help)) = help {
        text.push_str(&format!("# HELP {name} {help}\n"));
    }
    text.push_str(&format!("# TYPE {name} {kind}\n"));
}

/// Whole bounds of buckets are written as upstream writes them: `le="2"`.
fn push_sample(text: &mut String, line: &str) {
    match line.split_once("_bucket{le=\"") {
        Some((name, rest)) => {
            let (bound, rest) = rest.split_once('"').unwrap_or((rest, ""));
            let bound = bound.strip_suffix(".0").unwrap_or(bound);
            text.push_str(&format!("{name}_bucket{{le=\"{bound}\"{rest}\n"));
        }
        None => {
            text.push_str(line);
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;
    use crate::metrics::ExactCounter;

    #[test]
    fn every_family_has_the_name_of_its_samples() {
        let mut registry = Registry::default();
        let exact = Family::<Vec<(String, String)>, ExactCounter>::default();
        registry.register("upstream_changes", "Changes", exact.clone());
        let label = vec![("operation".to_owned(), "create".to_owned())];
        exact.get_or_create(&label).inc();
        let ours: Counter = Counter::default();
        registry.register("ours", "Ours", ours.clone());
        ours.inc();
        registry.register("build", "Build", Info::new(vec![("version", "1")]));
        registry.register_with_unit("age", "Age", Unit::Seconds, Gauge::<i64>::default());
        let sizes = Histogram::new([2.0, 4.5]);
        registry.register("sizes", "Sizes", sizes.clone());
        sizes.observe(3.0);
        let mut open = String::new();
        encode(&mut open, &registry).unwrap();
        let expected = "\
# HELP upstream_changes Changes.
# TYPE upstream_changes counter
upstream_changes{operation=\"create\"} 1
# HELP ours_total Ours.
# TYPE ours_total counter
ours_total 1
# HELP build_info Build.
# TYPE build_info gauge
build_info{version=\"1\"} 1
# HELP age_seconds Age.
# TYPE age_seconds gauge
age_seconds 0
# HELP sizes Sizes.
# TYPE sizes histogram
sizes_sum 3.0
sizes_count 1
sizes_bucket{le=\"2\"} 0
sizes_bucket{le=\"4.5\"} 1
sizes_bucket{le=\"+Inf\"} 1
";
        assert_eq!(prometheus(&open), expected);
    }
}
