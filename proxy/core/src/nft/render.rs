// SPDX-License-Identifier: Apache-2.0
//! nft text, in the spelling of nft 1.0.6 (the oldest supported): for people, `berth plan` and tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_model::IpFamily;
use ipnet::IpNet;

use super::layout::Layout;
use super::objects::{
    Action, BINDING_KEY, BINDINGS_SIZE, BaseChain, Chain, Element, Field, Hook, Key, Match, Rule,
};
use super::plan::Change;
use super::slots::LADDER;
use crate::names::{BINDINGS, ChainName, MapName, NumberMap, SetName, UNREMEMBERED, UNTRANSLATED};
use crate::{AffinityNumber, Frontend};

/// `ip` or `ip6`: the family's name, in tables as in rules.
pub fn family_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

/// The name a set or map has in the kernel.
pub fn set_of(element: &Element) -> String {
    match element {
        Element::Member(set, _) => set.to_string(),
        Element::Slot(entry, ..) => MapName::of(entry).to_string(),
        Element::Numbered(entry, _) => NumberMap(entry.group()).to_string(),
    }
}

/// The whole table as a block: structure, networks and the given elements, which must all be of its family.
pub fn table_text(layout: &Layout, elements: &[Element]) -> String {
    let family = layout.family();
    let mut by_set: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let of_set = |(set, nets): (SetName, &[IpNet])| -> Vec<Element> {
        let member = |net: &IpNet| Element::Member(set, Key::Net(*net));
        nets.iter().map(member).collect()
    };
    let nets: Vec<Element> = layout.networks().into_iter().flat_map(of_set).collect();
    for element in nets.iter().chain(elements) {
        by_set
            .entry(set_of(element))
            .or_default()
            .push(element_text(element));
    }
    let mut text = format!("table {} {} {{\n", family_word(family), layout.table());
    for counter in layout.counters() {
        let _ = writeln!(text, "\tcounter {counter} {{\n\t}}");
    }
    let mut block = |name: String, header: String| {
        text.push_str(&header);
        if let Some(elements) = by_set.get(&name) {
            let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
        }
        text.push_str("\t}\n");
    };
    for set in layout.sets() {
        block(set.to_string(), set_header(family, set));
    }
    for map in MapName::all() {
        block(map.to_string(), map_header(family, map));
    }
    for map in layout.number_maps() {
        block(map.to_string(), number_map_header(family, map));
    }
    if layout.number_maps().next().is_some() {
        block(BINDINGS.to_owned(), bindings_header(family));
    }
    for chain in layout.chains() {
        text.push_str(&chain_text(family, &chain));
    }
    let _ = write!(text, "\tchain {} {{\n\t}}\n}}\n", layout.marker());
    text
}

/// A script for `nft -f` that replaces the family's table by this one in one transaction.
pub fn script(layout: &Layout, elements: &[Element]) -> String {
    let (family, table) = (family_word(layout.family()), layout.table());
    format!(
        "add table {family} {table}\ndelete table {family} {table}\n{}",
        table_text(layout, elements)
    )
}

/// The command for one change to a table, with its line end.
pub fn change_text(table: &str, family: IpFamily, change: &Change) -> String {
    let command = |verb: &str, element: &Element| {
        let shown = if verb == "add" {
            element_text(element)
        } else {
            element_key(element)
        };
        let (family, set) = (family_word(family), set_of(element));
        format!("{verb} element {family} {table} {set} {{ {shown} }}\n")
    };
    match change {
        Change::Add(element) => command("add", element),
        Change::Remove(element) => command("delete", element),
        Change::Replace {
            entry,
            slot,
            old,
            new,
        } => {
            let (old, new) = (
                Element::Slot(*entry, *slot, *old),
                Element::Slot(*entry, *slot, *new),
            );
            command("delete", &old) + &command("add", &new)
        }
    }
}

fn element_text(element: &Element) -> String {
    match element {
        Element::Member(..) => element_key(element),
        Element::Slot(_, _, target) => {
            format!("{} : {} . {}", element_key(element), target.ip, target.port)
        }
        Element::Numbered(_, number) => format!("{} : {number}", element_key(element)),
    }
}

fn element_key(element: &Element) -> String {
    match element {
        Element::Member(set, Key::Address(ip)) if *set == SetName::Hairpin => format!("{ip} . {ip}"),
        Element::Member(_, Key::Address(ip)) => ip.to_string(),
        Element::Member(_, Key::Net(net)) => net.to_string(),
        Element::Member(_, Key::Frontend(frontend)) => frontend_key(frontend),
        Element::Member(_, Key::Source(frontend, net)) => format!("{} . {net}", frontend_key(frontend)),
        Element::Member(_, Key::Number(number)) => number.to_string(),
        Element::Slot(entry, slot, _) => format!("{} . {slot}", frontend_key(&entry.frontend)),
        Element::Numbered(entry, _) => frontend_key(&entry.frontend),
    }
}

fn frontend_key(frontend: &Frontend) -> String {
    let protocol = frontend.protocol().as_str().to_ascii_lowercase();
    match frontend {
        Frontend::Vip { ip, port, .. } => format!("{ip} . {protocol} . {port}"),
        Frontend::NodePort { port, .. } => format!("{protocol} . {port}"),
    }
}

fn type_names(family: IpFamily, fields: &[Field]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| type_name(family, *field)).collect();
    names.join(" . ")
}

fn number_map_header(family: IpFamily, map: NumberMap) -> String {
    let (key, number) = (
        type_names(family, map.0.kind.fields()),
        type_names(family, &[Field::Number]),
    );
    format!("\tmap {map} {{\n\t\ttype {key} : {number}\n")
}

fn bindings_header(family: IpFamily) -> String {
    let target = type_names(family, &[Field::DestinationIp, Field::DestinationPort]);
    let key = type_names(family, &BINDING_KEY);
    format!(
        "\tmap {BINDINGS} {{\n\t\ttype {key} : {target}\n\t\tsize {BINDINGS_SIZE}\n\t\tflags dynamic,timeout\n"
    )
}

fn set_header(family: IpFamily, set: SetName) -> String {
    let fields = type_names(family, set.fields());
    let interval = if set.is_interval() {
        "\t\tflags interval\n"
    } else {
        ""
    };
    format!("\tset {set} {{\n\t\ttype {fields}\n{interval}")
}

fn map_header(family: IpFamily, map: MapName) -> String {
    let [.., modulus] = LADDER;
    let (key, ip) = (key_text(family, map.fields()), family_word(family));
    format!("\tmap {map} {{\n\t\ttypeof {key} . numgen random mod {modulus} : {ip} daddr . th dport\n")
}

fn type_name(family: IpFamily, field: Field) -> &'static str {
    match (field, family) {
        (Field::SourceIp | Field::DestinationIp, IpFamily::V4) => "ipv4_addr",
        (Field::SourceIp | Field::DestinationIp, IpFamily::V6) => "ipv6_addr",
        (Field::Protocol, _) => "inet_proto",
        (Field::DestinationPort, _) => "inet_service",
        (Field::Number, _) => "classid",
    }
}

fn key_text(family: IpFamily, fields: &[Field]) -> String {
    let ip = family_word(family);
    let fields: Vec<String> = fields
        .iter()
        .map(|field| match field {
            Field::SourceIp => format!("{ip} saddr"),
            Field::DestinationIp => format!("{ip} daddr"),
            Field::Protocol => "meta l4proto".to_owned(),
            Field::DestinationPort => "th dport".to_owned(),
            Field::Number => "meta priority".to_owned(),
        })
        .collect();
    fields.join(" . ")
}

fn chain_text(family: IpFamily, chain: &Chain) -> String {
    let mut text = format!("\tchain {} {{\n", chain.name);
    if let Some(BaseChain { nat, hook, priority }) = chain.base {
        let kind = if nat { "nat" } else { "filter" };
        let hook = match hook {
            Hook::Prerouting => "prerouting",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        let _ = writeln!(
            text,
            "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
        );
    }
    for rule in &chain.rules {
        let _ = writeln!(text, "\t\t{}", rule_text(family, rule));
    }
    text.push_str("\t}\n");
    text
}

/// One rule.
pub fn rule_text(family: IpFamily, rule: &Rule) -> String {
    let mut words: Vec<String> = rule
        .matches
        .iter()
        .map(|condition| match_text(family, condition))
        .collect();
    words.push(match rule.action {
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
        Action::Reject => "reject".to_owned(),
        Action::Mark(bit) => format!("meta mark set meta mark | {bit:#010x}"),
        Action::Unmark(bit) => format!("meta mark set meta mark ^ {bit:#010x}"),
        Action::Masquerade => "masquerade fully-random".to_owned(),
        Action::Translate(map, count) => format!(
            "dnat {} to {} . numgen random mod {count} map @{map}",
            family_word(family),
            key_text(family, map.fields())
        ),
        Action::Drop => "drop".to_owned(),
        Action::Accept => "accept".to_owned(),
        Action::CountAndDrop => format!("counter name \"{UNTRANSLATED}\" drop"),
        Action::Recall(map) => format!(
            "meta priority set {} map @{map} jump {}",
            key_text(family, map.0.kind.fields()),
            ChainName::Recall
        ),
        Action::TranslateBound => format!(
            "dnat {} to {} map @{BINDINGS}",
            family_word(family),
            key_text(family, &BINDING_KEY)
        ),
        Action::Remember(seconds) => format!(
            "update @{BINDINGS} {{ {} timeout {} : {} }} meta priority set none accept",
            key_text(family, &BINDING_KEY),
            span(seconds),
            key_text(family, &[Field::DestinationIp, Field::DestinationPort])
        ),
        Action::CountUnremembered => format!("counter name \"{UNREMEMBERED}\""),
    });
    words.join(" ")
}

/// A time span as nft writes it.
fn span(seconds: u32) -> String {
    let parts = [
        (seconds / 86_400, 'd'),
        (seconds / 3600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count}{unit}")).collect()
}

fn match_text(family: IpFamily, condition: &Match) -> String {
    match condition {
        Match::NewConnection => "ct state new".to_owned(),
        Match::Translated => "ct status dnat".to_owned(),
        Match::Untranslated => "ct status ! dnat".to_owned(),
        Match::Unmarked(bit) => format!("meta mark & {bit:#010x} != {bit:#010x}"),
        Match::Marked(bit) => format!("meta mark & {bit:#010x} == {bit:#010x}"),
        Match::LocalDestination => "fib daddr type local".to_owned(),
        Match::ForeignSource => "fib saddr type != local".to_owned(),
        Match::ForeignDestination => "fib daddr type != local".to_owned(),
        Match::NotLoopback => match family {
            IpFamily::V4 => "ip daddr != 127.0.0.0/8".to_owned(),
            IpFamily::V6 => "ip6 daddr != ::1".to_owned(),
        },
        Match::Numbered => {
            let class = |number: u32| format!("{:x}:{:x}", number >> 16, number & 0xffff);
            let (mask, prefix) = (class(AffinityNumber::MASK), class(AffinityNumber::PREFIX));
            format!("meta priority & {mask} == {prefix}")
        }
        Match::NotBy(links) => format!("iifname != \"{links}\""),
        Match::In(set) => format!("{} @{set}", key_text(family, set.fields())),
        Match::NotIn(set) => format!("{} != @{set}", key_text(family, set.fields())),
    }
}
