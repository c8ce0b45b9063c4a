// SPDX-License-Identifier: Apache-2.0
//! One namespace of the three, and what a Service there looks like with its values as symbols.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use berth_e2e::controlplane::ControlPlaneError;
use serde_json::Value;

use super::step::{NAME, Step};
use crate::cluster::Cluster;

pub(crate) const BARE: &str = "bare";
pub(crate) const POOLED: &str = "team-a";
const BESIDE: &str = "team-b";
/// What is asked for by number lies in the API server's static band, from which it gives last.
pub(crate) const POOL_ADDRESSES: [&str; 4] = [
    "10.96.0.200-10.96.0.250",
    "10.96.1.0-10.96.1.255",
    "fd00:10:96::80-fd00:10:96::ff",
    "fd00:10:96::1000-fd00:10:96::10ff",
];
pub(crate) const POOL_PORTS: [&str; 1] = ["30057-30299"];

/// Whether an address is of the pool.
pub(crate) fn is_of_pool(address: &str) -> bool {
    let ranges = POOL_ADDRESSES
        .iter()
        .filter_map(|text| text.parse::<berth_model::IpRange>().ok());
    let address = address.parse();
    address.is_ok_and(|address| ranges.into_iter().any(|range| range.contains(address)))
}

/// What came of a step: what kubectl says where it fails, and the Service as it is stored then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// What went wrong.
    pub(crate) error: Option<String>,
    /// `spec`, nothing where there is no Service.
    pub(crate) spec: Option<Value>,
}

pub(crate) struct Lane {
    pub(crate) namespace: &'static str,
    /// What stands for the tokens of a case.
    tokens: BTreeMap<&'static str, String>,
    /// The symbol of each value seen.
    symbols: BTreeMap<String, String>,
    /// The tokens that were asked for.
    asked: BTreeSet<&'static str>,
    given: usize,
}

/// A value was given that the case is yet to ask for: chance, and nobody is to blame. The case is taken again.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a value was given that is asked for later")]
pub(crate) struct Disturbed;

impl Lane {
    /// The three lanes of a case: no two of them ask for the same value, nor two cases that follow each other.
    pub(crate) fn all(case: usize) -> [Self; 3] {
        [
            (BARE, 20, 30_000, 0x10),
            (POOLED, 200, 30_057, 0x80),
            (BESIDE, 110, 30_029, 0x48),
        ]
        .map(|(namespace, address, port, v6)| {
            let offset = (case % 9) * 3;
            let tokens: BTreeMap<&'static str, String> = [
                ("$ip1", format!("10.96.0.{}", address + offset)),
                ("$ip2", format!("10.96.0.{}", address + offset + 1)),
                ("$six1", format!("fd00:10:96::{:x}", v6 + offset)),
                ("$six2", format!("fd00:10:96::{:x}", v6 + offset + 1)),
                ("$port1", format!("{}", port + offset)),
                ("$port2", format!("{}", port + offset + 1)),
                ("$port3", format!("{}", port + offset + 2)),
            ]
            .into();
            let symbols = tokens
                .iter()
                .map(|(token, value)| (value.clone(), (*token).to_owned()));
            Self {
                namespace,
                symbols: symbols.collect(),
                tokens,
                asked: BTreeSet::new(),
                given: 0,
            }
        })
    }

    /// Does a step and looks at what came of it.
    pub(crate) async fn take(&mut self, cluster: &Cluster, step: &Step) -> Result<Seen> {
        let text = format!("{:?}", step.command());
        let asked = self.tokens.keys().copied().filter(|token| text.contains(token));
        self.asked.extend(asked);
        let done = self.kubectl(cluster, step).await;
        let error = match done {
            Ok(()) => None,
            Err(ControlPlaneError::Kubectl { why, .. }) => Some(why),
            Err(error) => return Err(error.into()),
        };
        let spec = self.spec(cluster).await?;
        let spec = spec.map(|spec| self.symbolic(spec)).transpose()?;
        let error = error.map(|error| self.said(error));
        Ok(Seen { error, spec })
    }

    async fn kubectl(&self, cluster: &Cluster, step: &Step) -> Result<(), ControlPlaneError> {
        let namespace = format!("--namespace={}", self.namespace);
        let (arguments, input) = step.command();
        let mut arguments: Vec<String> = arguments.into_iter().map(|text| self.filled(&text)).collect();
        arguments.insert(0, namespace);
        let input = input
            .map(|input| self.filled_in(input).to_string())
            .unwrap_or_default();
        let mut kubectl = cluster.kubectl_runner().clone();
        if let Some(script) = step.editor() {
            kubectl = kubectl.with_variable("KUBE_EDITOR", format!("sed -i -e '{}'", self.filled(script)));
        }
        kubectl.run_with_input(arguments, &input).await.map(drop)
    }

    async fn spec(&self, cluster: &Cluster) -> Result<Option<Value>> {
        let selector = format!("--selector=case={NAME}");
        let listed = cluster
            .kubectl(&["-n", self.namespace, "get", "services", &selector, "-o", "json"])
            .await?;
        let listed: Value = serde_json::from_str(&listed)?;
        let items = listed["items"].as_array().context("no list")?;
        ensure!(items.len() <= 1, "{} Services", items.len());
        Ok(items.first().map(|item| item["spec"].clone()))
    }

    /// A text with the tokens filled in.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (token, value) in &self.tokens {
            text = text.replace(token, value);
        }
        text
    }

    fn filled_in(&self, value: Value) -> Value {
        match value {
            Value::String(text) if text.starts_with("$port") => {
                let filled = self.filled(&text);
                filled.parse::<u16>().map_or(Value::String(filled), Value::from)
            }
            Value::String(text) => Value::String(self.filled(&text)),
            Value::Array(values) => values.into_iter().map(|value| self.filled_in(value)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, self.filled_in(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    fn symbolic(&mut self, mut spec: Value) -> Result<Value> {
        let addresses = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
        let symbols: Vec<Value> = addresses
            .iter()
            .filter_map(Value::as_str)
            .map(|address| self.address(address).map(Value::from))
            .collect::<Result<_>>()?;
        if let Some(first) = symbols.first() {
            spec["clusterIP"] = first.clone();
            spec["clusterIPs"] = Value::Array(symbols);
        }
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            if let Some(number) = port["nodePort"].as_i64() {
                port["nodePort"] = self.port(number)?.into();
            }
        }
        if let Some(number) = spec["healthCheckNodePort"].as_i64() {
            spec["healthCheckNodePort"] = self.port(number)?.into();
        }
        Ok(spec)
    }

    fn address(&mut self, address: &str) -> Result<String> {
        if address == "None" || address.is_empty() {
            return Ok(address.to_owned());
        }
        let is_right = self.namespace == BARE || is_of_pool(address) == (self.namespace == POOLED);
        ensure!(is_right, "{address} in {}", self.namespace);
        self.symbol(address)
    }

    fn port(&mut self, port: i64) -> Result<String> {
        let is_of_pool = (30_057..=30_299).contains(&port);
        let is_right = self.namespace == BARE || is_of_pool == (self.namespace == POOLED);
        ensure!(is_right, "{port} in {}", self.namespace);
        self.symbol(&port.to_string())
    }

    fn symbol(&mut self, value: &str) -> Result<String> {
        if let Some(known) = self.symbols.get(value) {
            let early = known.starts_with('$') && !self.asked.contains(known.as_str());
            ensure!(!early, Disturbed);
            return Ok(known.clone());
        }
        self.given += 1;
        let symbol = format!("given-{}", self.given);
        self.symbols.insert(value.to_owned(), symbol.clone());
        Ok(symbol)
    }

    /// What kubectl says, with symbols for values and without what differs from run to run.
    fn said(&self, text: String) -> String {
        let mut values: Vec<(&String, &String)> = self.symbols.iter().collect();
        values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        let mut text = text.replace(self.namespace, "NAMESPACE");
        for (value, symbol) in values {
            text = text.replace(value.as_str(), symbol);
        }
        text
    }
}
