// SPDX-License-Identifier: Apache-2.0
//! Reading `/metrics` pages.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

/// A page in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Page(String);

impl Page {
    /// A page as it was answered.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The sum over all label sets of a metric whose text holds `labels`; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        self.values(name, labels).sum()
    }

    /// As [`Page::sum`], for a metric that has to be there.
    ///
    /// # Errors
    /// No label set of it is.
    pub fn sum_of_known(&self, name: &str, labels: &str) -> Result<f64> {
        ensure!(
            self.values(name, labels).next().is_some(),
            "no {name} with {labels:?} in:\n{}",
            self.0
        );
        Ok(self.sum(name, labels))
    }

    fn values(&self, name: &str, labels: &str) -> impl Iterator<Item = f64> {
        let matching = self.0.lines().filter(move |line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(labels)
        });
        matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The body of one GET of an `http` URL, from the calling thread's namespace.
///
/// # Errors
/// Nobody answers, or not by HTTP.
pub fn http_get(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("http only")?;
    let (host, path) = rest.split_once('/').context("a path")?;
    let mut stream = TcpStream::connect(host).with_context(|| url.to_owned())?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_over_the_label_sets_of_one_metric_that_match() {
        let page =
            Page::new("# HELP a x\na{verb=\"get\"} 2\na{verb=\"put\"} 3\nab 100\na_b{verb=\"get\"} 7\n");
        assert!((page.sum("a", "") - 5.0).abs() < f64::EPSILON);
        assert!((page.sum("a", "verb=\"get\"") - 2.0).abs() < f64::EPSILON);
        assert!(page.sum("c", "").abs() < f64::EPSILON);
        let missing = page.sum_of_known("c", "").unwrap_err().to_string();
        assert!(missing.contains("no c "), "{missing}");
    }
}
