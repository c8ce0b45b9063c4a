// SPDX-License-Identifier: Apache-2.0
//! Random writes, among them such as users send by mistake.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::admitted::Write;
use super::twin::Twin;

const PORTS: [(&str, i32, &str); 6] = [
    ("dns", 53, "UDP"),
    ("dns-tcp", 53, "TCP"),
    ("http", 80, "TCP"),
    ("quic", 443, "UDP"),
    ("https", 443, "TCP"),
    ("sctp", 53, "SCTP"),
];

/// The next write to a Service, or its creation.
pub(crate) fn write(dice: &mut Rng, twin: &Twin) -> Write {
    let Some(stored) = &twin.stored else {
        return Write::Whole(object(twin, dice.u8(..) < 30, spec(dice, twin)));
    };
    match dice.u8(0..10) {
        0 | 1 => Write::Whole(twin.manifest.clone().map_or_else(
            || named(stored, spec(dice, twin)),
            |manifest| named(stored, manifest["spec"].clone()),
        )),
        2 => Write::Whole(named(stored, spec(dice, twin))),
        3..=5 => Write::Whole(named(stored, edited(dice, twin, &stored["spec"]))),
        _ => Write::Merge(json!({"spec": changes(dice, twin, &stored["spec"])})),
    }
}

fn object(twin: &Twin, generated: bool, spec: Value) -> Value {
    let metadata = if generated {
        json!({"generateName": format!("{}-", twin.name)})
    } else {
        json!({"name": twin.name})
    };
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn named(stored: &Value, spec: Value) -> Value {
    let name = &stored["metadata"]["name"];
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// True so many times out of a hundred.
fn chance(dice: &mut Rng, percent: u8) -> bool {
    dice.u8(0..100) < percent
}

fn one(dice: &mut Rng, of: &[Value]) -> Value {
    dice.choice(of).cloned().unwrap_or_default()
}

/// A whole spec.
fn spec(dice: &mut Rng, twin: &Twin) -> Value {
    let kind = match dice.u8(0..100) {
        0..=27 => "ClusterIP",
        28..=55 => "NodePort",
        56..=88 => "LoadBalancer",
        89..=98 => "ExternalName",
        _ => "Strange",
    };
    let mut spec = Map::new();
    spec.insert("type".to_owned(), json!(kind));
    spec.insert("ports".to_owned(), ports(dice, twin, kind));
    if chance(dice, 70) {
        spec.insert("selector".to_owned(), json!({"app": "a"}));
    }
    let external_name = kind == "ExternalName";
    if external_name {
        spec.insert("externalName".to_owned(), json!("a.example"));
    }
    let names = [
        "clusterIP",
        "ipFamilies",
        "ipFamilyPolicy",
        "externalTrafficPolicy",
    ];
    let names = names
        .iter()
        .chain(&["allocateLoadBalancerNodePorts", "healthCheckNodePort"]);
    for name in names {
        let fits = match *name {
            "clusterIP" | "ipFamilies" | "ipFamilyPolicy" => !external_name,
            "externalTrafficPolicy" => kind == "NodePort" || kind == "LoadBalancer",
            _ => kind == "LoadBalancer",
        };
        // Headless Services have no node ports, and an address asked for need not fit the families.
        let often = if *name == "clusterIP" && kind != "ClusterIP" {
            12
        } else {
            38
        };
        if chance(dice, if fits { often } else { 2 }) {
            let fields = field(dice, twin, name, &Value::Null).into_iter();
            spec.extend(fields.filter(|(_, value)| !value.is_null()));
        }
    }
    if chance(dice, 2) {
        spec.insert("sessionAffinity".to_owned(), json!("Strange"));
    }
    Value::Object(spec)
}

fn ports(dice: &mut Rng, twin: &Twin, kind: &str) -> Value {
    let mut menu = PORTS.to_vec();
    dice.shuffle(&mut menu);
    let count = match dice.u8(0..100) {
        0..=4 => 0,
        5..=39 => 1,
        40..=69 => 2,
        _ => 3,
    };
    let unnamed = count == 1 && chance(dice, 50);
    let fits = kind == "NodePort" || kind == "LoadBalancer";
    let ports = menu.into_iter().take(count).map(|(name, number, protocol)| {
        let mut port = json!({"port": number, "protocol": protocol});
        if !unnamed {
            port["name"] = json!(name);
        }
        if chance(dice, if fits { 25 } else { 4 }) {
            port["nodePort"] = node_port(dice, twin);
        }
        port
    });
    ports.collect()
}

fn node_port(dice: &mut Rng, twin: &Twin) -> Value {
    match dice.u8(0..100) {
        0..=92 => json!(twin.asked.ports[dice.usize(..twin.asked.ports.len())]),
        93..=95 => json!(0),
        96..=97 => json!(70_000),
        _ => json!(1024),
    }
}

/// A value for a field, and for those that go with it.
fn field(dice: &mut Rng, twin: &Twin, name: &str, stored: &Value) -> Vec<(String, Value)> {
    let (v4, v6) = (&twin.asked.v4, &twin.asked.v6);
    let sound = chance(dice, 94);
    let value = match name {
        "type" => one(
            dice,
            &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].map(Value::from),
        ),
        "clusterIP" => return cluster_ips(dice, twin, stored),
        "ipFamilies" => one(
            dice,
            &[
                json!(["IPv4"]),
                json!(["IPv6"]),
                json!(["IPv4", "IPv6"]),
                json!(["IPv6", "IPv4"]),
                json!(["IPv4", "IPv4"]),
                json!(["IPv5"]),
                json!([]),
            ][..if sound { 4 } else { 7 }],
        ),
        "ipFamilyPolicy" => one(
            dice,
            &["SingleStack", "PreferDualStack", "RequireDualStack", "Strange"].map(Value::from)
                [..if sound { 3 } else { 4 }],
        ),
        "externalTrafficPolicy" => one(dice, &[json!("Local"), json!("Local"), json!("Cluster")]),
        "allocateLoadBalancerNodePorts" => one(dice, &[json!(false), json!(false), json!(true)]),
        "healthCheckNodePort" => node_port(dice, twin),
        "secondary" => {
            let first = stored["clusterIP"].as_str().unwrap_or_default();
            let of_other_family = first.contains(':') != chance(dice, 10);
            json!([first, if of_other_family { &v4[0] } else { &v6[0] }])
        }
        _ => Value::Null,
    };
    if name == "secondary" {
        return two(dice, value);
    }
    vec![(name.to_owned(), value)]
}

/// `clusterIP` and `clusterIPs`, which should fit.
fn cluster_ips(dice: &mut Rng, twin: &Twin, stored: &Value) -> Vec<(String, Value)> {
    let (v4, v6) = (
        json!(twin.asked.v4[dice.usize(..2)]),
        json!(twin.asked.v6[dice.usize(..2)]),
    );
    let kept = json!(stored["clusterIP"].as_str().unwrap_or_default());
    // The second half are mistakes, most of them.
    let case = if chance(dice, 80) {
        dice.u8(0..9)
    } else {
        dice.u8(9..16)
    };
    let (singular, plural) = match case {
        0..=2 => (json!("None"), Value::Null),
        3 => (json!("None"), json!(["None"])),
        4 => (v4, Value::Null),
        5 => (v6, Value::Null),
        6 => (v4.clone(), json!([v4])),
        7 => (v4.clone(), json!([v4, v6])),
        8 => (v6.clone(), json!([v6, v4])),
        9 => (Value::Null, json!([v4])),
        10 => (v4.clone(), json!([v4, v4])),
        11 => (v4, json!([v6])),
        12 => (json!("010.96.0.200"), Value::Null),
        13 => (json!(twin.asked.v6[2].to_string().to_uppercase()), Value::Null),
        14 => (json!("None"), json!(["None", v4])),
        _ => (kept.clone(), json!([kept, v6])),
    };
    let mut fields = two(dice, plural);
    fields.push(("clusterIP".to_owned(), singular));
    fields
}

/// `clusterIPs`, and where it has two, most often the policy that it takes.
fn two(dice: &mut Rng, plural: Value) -> Vec<(String, Value)> {
    let is_two = plural.as_array().is_some_and(|list| list.len() == 2);
    let mut fields = vec![("clusterIPs".to_owned(), plural)];
    if is_two && chance(dice, 75) {
        let policy = one(dice, &["PreferDualStack", "RequireDualStack"].map(Value::from));
        fields.push(("ipFamilyPolicy".to_owned(), policy));
    }
    fields
}

const EDITED: [&str; 7] = [
    "type",
    "clusterIP",
    "ipFamilies",
    "ipFamilyPolicy",
    "externalTrafficPolicy",
    "allocateLoadBalancerNodePorts",
    "secondary",
];

/// A merge patch of the spec: a few fields, some of them to nothing.
fn changes(dice: &mut Rng, twin: &Twin, stored: &Value) -> Value {
    let mut patch = Map::new();
    for _ in 0..=dice.usize(..3) {
        let name = EDITED[dice.usize(..EDITED.len())];
        if name != "secondary" && chance(dice, 15) {
            patch.insert(name.to_owned(), Value::Null);
        } else if name == "clusterIP" && chance(dice, 85) {
            // Rarely to another value: it can't be changed.
            let gone = one(dice, &[json!("clusterIP"), json!("clusterIPs")]);
            patch.insert(gone.as_str().unwrap_or_default().to_owned(), Value::Null);
        } else {
            patch.extend(field(dice, twin, name, stored));
        }
    }
    if patch.get("type").is_some_and(|kind| kind == "ExternalName") {
        patch.insert("externalName".to_owned(), json!("a.example"));
    }
    if chance(dice, 35) {
        patch.insert("ports".to_owned(), changed_ports(dice, twin, stored));
    }
    if chance(dice, 8) {
        let selector = if chance(dice, 50) {
            Value::Null
        } else {
            json!({"app": "b"})
        };
        patch.insert("selector".to_owned(), selector);
    }
    if chance(dice, 6) {
        patch.extend(field(dice, twin, "healthCheckNodePort", stored));
    }
    downgraded(dice, stored, &mut patch);
    let leaves_load_balancer = patch.get("type").is_some_and(|kind| kind != "LoadBalancer");
    if leaves_load_balancer && chance(dice, 80) {
        patch.remove("allocateLoadBalancerNodePorts");
    }
    Value::Object(patch)
}

/// Now and then a downgrade that says all that it should.
fn downgraded(dice: &mut Rng, stored: &Value, patch: &mut Map<String, Value>) {
    let two = stored["clusterIPs"]
        .as_array()
        .is_some_and(|list| list.len() == 2);
    if two && chance(dice, 30) {
        patch.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
        if chance(dice, 50) {
            patch.insert("clusterIPs".to_owned(), json!([stored["clusterIPs"][0]]));
        }
        if chance(dice, 50) {
            patch.insert("ipFamilies".to_owned(), json!([stored["ipFamilies"][0]]));
        }
    }
}

/// The stored ports, some of them without node port, renamed, moved or gone, or others.
fn changed_ports(dice: &mut Rng, twin: &Twin, stored: &Value) -> Value {
    let kind = stored["type"].as_str().unwrap_or_default();
    let mut changed: Vec<Value> = stored["ports"].as_array().cloned().unwrap_or_default();
    let before: Vec<Value> = changed.iter().map(|port| port["nodePort"].clone()).collect();
    for port in &mut changed {
        match dice.u8(0..10) {
            0..=3 => port["nodePort"] = Value::Null,
            4 => port["name"] = json!("other"),
            5 => port["port"] = json!(8080),
            6 if !before.is_empty() => port["nodePort"] = before[dice.usize(..before.len())].clone(),
            7 => port["nodePort"] = node_port(dice, twin),
            _ => {}
        }
    }
    if chance(dice, 30) {
        changed.truncate(1);
    }
    if chance(dice, 30) {
        let others = ports(dice, twin, kind);
        let has = |changed: &[Value], name: &Value| changed.iter().any(|port| port["name"] == *name);
        for port in others.as_array().into_iter().flatten() {
            if !port["name"].is_null() && !has(&changed, &port["name"]) {
                changed.push(port.clone());
            }
        }
    }
    json!(changed)
}

/// The stored spec, edited and with fields left out.
fn edited(dice: &mut Rng, twin: &Twin, stored: &Value) -> Value {
    let mut spec = stored.clone();
    let patch = changes(dice, twin, stored);
    if let (Some(spec), Some(patch)) = (spec.as_object_mut(), patch.as_object()) {
        for (name, value) in patch {
            if value.is_null() {
                spec.remove(name);
            } else {
                spec.insert(name.clone(), value.clone());
            }
        }
        for name in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "healthCheckNodePort",
        ] {
            if chance(dice, 20) {
                spec.remove(name);
            }
        }
    }
    if chance(dice, 30) {
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    spec
}
