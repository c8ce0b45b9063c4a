// SPDX-License-Identifier: Apache-2.0
//! The API server's own counters: requests that change something, bytes of lists and watches.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Client;

/// Verbs of `apiserver_request_total` that write.
const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// What changes by itself (leases), and what this benchmark writes (Pods; tokens, which are a service account's).
const NOT_THE_CONTROLLERS: [&str; 3] = ["leases", "pods", "serviceaccounts"];

/// One reading of `/metrics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    writes: BTreeMap<String, f64>,
    watched: BTreeMap<String, f64>,
    listed: BTreeMap<String, f64>,
}

impl Counters {
    /// Reads the API server's counters. The page is large: take CPU figures before the first and after the last.
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        Ok(Self::parse(
            &client
                .request_text(request)
                .await
                .context("API server's /metrics")?,
        ))
    }

    fn parse(page: &str) -> Self {
        let mut counters = Self::default();
        for sample in page.lines().filter_map(Sample::parse) {
            match sample.name {
                "apiserver_request_total" => counters.request(&sample),
                "apiserver_watch_events_sizes_sum" => {
                    let what = sample.label("resource").or_else(|| sample.label("kind"));
                    add(&mut counters.watched, what.unwrap_or_default(), sample.value);
                }
                "apiserver_response_sizes_sum" if sample.label("verb") == Some("LIST") => {
                    let what = sample.label("resource").unwrap_or_default();
                    add(&mut counters.listed, what, sample.value);
                }
                _ => {}
            }
        }
        counters
    }

    fn request(&mut self, sample: &Sample<'_>) {
        let (Some(verb), Some(resource)) = (sample.label("verb"), sample.label("resource")) else {
            return;
        };
        if WRITES.contains(&verb) && !NOT_THE_CONTROLLERS.contains(&resource) {
            let code = sample.label("code").unwrap_or_default();
            add(
                &mut self.writes,
                &format!("{verb} {resource} {code}"),
                sample.value,
            );
        }
    }

    /// What was counted since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            writes: difference(&self.writes, &earlier.writes),
            watched: difference(&self.watched, &earlier.watched),
            listed: difference(&self.listed, &earlier.listed),
        }
    }

    /// Write requests, whatever their answer, except of leases and Pods.
    pub(crate) fn writes(&self) -> f64 {
        // The sum of nothing is -0.
        self.writes.values().sum::<f64>().abs()
    }

    /// Everything, for the log of a run.
    pub(crate) fn in_words(&self) -> String {
        let of = |what: &str, counts: &BTreeMap<String, f64>| {
            let counts: Vec<String> = counts
                .iter()
                .map(|(key, count)| format!("{key}: {count}"))
                .collect();
            format!("{what} [{}]", counts.join(", "))
        };
        [
            of("writes", &self.writes),
            of("watched bytes", &self.watched),
            of("listed bytes", &self.listed),
        ]
        .join(" ")
    }
}

fn add(counts: &mut BTreeMap<String, f64>, key: &str, value: f64) {
    *counts.entry(key.to_owned()).or_default() += value;
}

fn difference(now: &BTreeMap<String, f64>, earlier: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    now.iter()
        .map(|(key, value)| (key.clone(), value - earlier.get(key).copied().unwrap_or(0.0)))
        .filter(|(_, grown)| *grown > 0.0)
        .collect()
}

/// One line of the text format.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    /// `None` for comments and what is no number.
    fn parse(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let value = value.parse().ok()?;
        (!name.starts_with('#')).then_some(Self {
            name,
            labels: labels.trim_end_matches('}'),
            value,
        })
    }

    /// No label that is read here has a value with a quote in it.
    fn label(&self, key: &str) -> Option<&'a str> {
        let mut pairs = self.labels.split("\",");
        pairs.find_map(|pair| {
            let (name, value) = pair.split_once("=\"")?;
            (name == key).then(|| value.trim_end_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP apiserver_request_total x
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="endpoints",scope="resource",subresource="",verb="POST",version="v1"} 20
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="endpoints",scope="resource",subresource="",verb="PUT",version="v1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="endpoints",scope="cluster",subresource="",verb="LIST",version="v1"} 9
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 7
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 7
apiserver_watch_events_sizes_sum{group="",resource="pods",version="v1"} 1.5e+06
apiserver_watch_events_sizes_count{group="",resource="pods",version="v1"} 3
apiserver_response_sizes_sum{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 300
apiserver_response_sizes_sum{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="GET",version="v1"} 11
"#;

    #[test]
    fn writes_of_the_controllers_are_counted_refused_ones_too() {
        let counters = Counters::parse(PAGE);
        assert!((counters.writes() - 22.0).abs() < f64::EPSILON);
        assert_eq!(counters.watched, BTreeMap::from([("pods".to_owned(), 1.5e6)]));
        assert_eq!(counters.listed, BTreeMap::from([("pods".to_owned(), 300.0)]));
    }

    #[test]
    fn what_did_not_grow_is_not_in_the_difference() {
        let earlier = Counters::parse(PAGE);
        let later = Counters::parse(&PAGE.replace("} 20", "} 25"));
        let grown = later.since(&earlier);
        assert_eq!(
            grown.writes,
            BTreeMap::from([("POST endpoints 201".to_owned(), 5.0)])
        );
        assert!(grown.watched.is_empty());
        assert!(grown.in_words().contains("POST endpoints 201: 5"));
    }
}
