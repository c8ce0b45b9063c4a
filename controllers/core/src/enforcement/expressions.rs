// SPDX-License-Identifier: Apache-2.0
//! What the policies compute, in CEL.
//!
//! ```text
//!   chosen: what the write brings anew
//!   selecting: the pools that select the Service
//!   encroaching: of chosen, what is in a pool that does not give it to the Service
//!   straying: of chosen, what no pool gives to the Service, where a pool that has the like selects it
//! ```

use super::Subject;
use super::tables::{Tables, literal};

/// A name and an expression.
pub(super) type Variable = (&'static str, String);

const LABELS: &str = "has(object.metadata.labels) ? object.metadata.labels : {}";
const NAMESPACE_LABELS: &str = "has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {}";
/// As the table of reservations names Services.
const SERVICE: &str = "request.namespace + '/' + object.metadata.name";
/// A Service without an address has `None` there, and one of type ExternalName nothing.
const CHOSEN_ADDRESSES: &str = "has(object.spec.clusterIPs) ? object.spec.clusterIPs.filter(x, isIP(x) && \
    !(oldObject != null && has(oldObject.spec.clusterIPs) && x in oldObject.spec.clusterIPs)).map(x, string(ip(x))) : []";
const NEW_PORTS: &str = "(has(object.spec.ports) ? object.spec.ports.filter(p, has(p.nodePort) && p.nodePort > 0)\
    .map(p, p.nodePort) : []) + (has(object.spec.healthCheckNodePort) && object.spec.healthCheckNodePort > 0 ? \
    [object.spec.healthCheckNodePort] : [])";
const OLD_PORTS: &str = "(oldObject != null && has(oldObject.spec.ports) ? oldObject.spec.ports.filter(p, \
    has(p.nodePort)).map(p, p.nodePort) : []) + (oldObject != null && has(oldObject.spec.healthCheckNodePort) ? \
    [oldObject.spec.healthCheckNodePort] : [])";
const CHOSEN_PORTS: &str = "variables.newPorts.filter(x, !(x in variables.oldPorts))";

/// What has to hold for a policy to apply: nobody but the API server itself decides about its own Service, a dry run
/// shows values that nobody gets, and a Service that is being deleted is left alone.
pub(super) const CONDITIONS: [(&str, &str); 3] = [
    (
        "not-the-api-servers-own",
        "!(request.namespace == 'default' && object.metadata.name == 'kubernetes')",
    ),
    ("no-dry-run", "!(has(request.dryRun) && request.dryRun)"),
    ("not-being-deleted", "!has(object.metadata.deletionTimestamp)"),
];

/// All variables, each after those that it uses.
pub(super) fn variables(subject: Subject, tables: &Tables) -> Vec<Variable> {
    let mut variables = vec![
        ("enforced", literal(&tables.enforced)),
        ("blocks", literal(&tables.blocks)),
        ("sizes", literal(&tables.sizes)),
        ("names", literal(&tables.names)),
    ];
    if subject == Subject::ClusterIps {
        variables.push(("ipv6Blocks", literal(&tables.ipv6_blocks)));
        variables.push(("ipv6Sizes", literal(&tables.ipv6_sizes)));
        variables.push(("ipv6Names", literal(&tables.ipv6_names)));
    }
    variables.extend([
        ("byNamespace", literal(&tables.by_namespace)),
        ("broad", literal(&tables.broad)),
        ("namespaceSelectors", literal(&tables.namespace_labels)),
        ("serviceSelectors", literal(&tables.service_labels)),
        ("reserved", literal(&tables.reserved)),
        ("claims", literal(&tables.claims)),
        ("labels", LABELS.to_owned()),
        ("namespaceLabels", NAMESPACE_LABELS.to_owned()),
        ("service", SERVICE.to_owned()),
    ]);
    match subject {
        Subject::ClusterIps => variables.push(("chosen", CHOSEN_ADDRESSES.to_owned())),
        Subject::NodePorts => variables.extend([
            ("newPorts", NEW_PORTS.to_owned()),
            ("oldPorts", OLD_PORTS.to_owned()),
            ("chosen", CHOSEN_PORTS.to_owned()),
        ]),
    }
    variables.push(("selecting", selecting()));
    variables.push(("encroaching", encroaching(subject)));
    if tables.too_large.is_empty() {
        variables.push(("straying", straying(subject)));
    }
    variables
}

/// Expressions that have to be true, with the message where they are not.
pub(super) fn validations(subject: Subject, tables: &Tables) -> Vec<(String, String)> {
    let kind = subject.pool_kind();
    let what = match subject {
        Subject::ClusterIps => "cluster IP",
        Subject::NodePorts => "node port",
    };
    let way_out = "ask for another, or, where none was asked for, try again";
    let none_of = |list: &str| format!("size(variables.{list}) == 0");
    let encroached = encroached(subject, "variables.encroaching[0]");
    let encroaching = format!(
        "'{what} ' + string(variables.encroaching[0]) + ' is of {kind} ' + {encroached} + \
         ', which does not give it to Service ' + variables.service + ': {way_out}'"
    );
    let straying = format!(
        "'{what} ' + string(variables.straying[0]) + ' is not in {kind} ' + variables.selecting.join(' or ') + \
         ', which is for Service ' + variables.service + ': {way_out}'"
    );
    let mut validations = vec![(none_of("encroaching"), encroaching)];
    if tables.too_large.is_empty() {
        validations.push((none_of("straying"), straying));
    }
    validations
}

fn encroaching(subject: Subject) -> String {
    let encroaches = some_pool(subject, "x", &does_not_give("q", "x"));
    format!("variables.chosen.filter(x, {encroaches})")
}

/// The first pool that a value encroaches on.
fn encroached(subject: Subject, value: &str) -> String {
    let (sizes, blocks, block) = (
        sizes(subject, value),
        blocks(subject, value),
        block(subject, value),
    );
    let refuses = does_not_give("q", value);
    format!(
        "{sizes}.filter(n, {block} in {blocks} && {blocks}[{block}].exists(q, {refuses})).map(n, \
         {blocks}[{block}].filter(q, {refuses})[0])[0]"
    )
}

fn straying(subject: Subject) -> String {
    let names = match subject {
        Subject::ClusterIps => by_family("x", "names", "ipv6Names"),
        Subject::NodePorts => "variables.names".to_owned(),
    };
    let could = format!("variables.selecting.exists(q, q in variables.enforced && q in {names})");
    let given = some_pool(subject, "x", &gives("q", "x"));
    format!("variables.chosen.filter(x, {could} && !{given})")
}

/// A pool that is wrong refuses nothing.
fn does_not_give(pool: &str, value: &str) -> String {
    format!("{pool} in variables.enforced && !({})", gives(pool, value))
}

/// Whether a pool gives a value of its own to the Service.
fn gives(pool: &str, value: &str) -> String {
    let kept = format!("{pool} in variables.reserved && string({value}) in variables.reserved[{pool}]");
    format!(
        "{kept} ? variables.reserved[{pool}][string({value})] == variables.service : ({pool} in variables.selecting || \
         ({pool} in variables.claims && request.namespace in variables.claims[{pool}]))"
    )
}

/// Whether one of the pools that have a value is such.
fn some_pool(subject: Subject, value: &str, such: &str) -> String {
    let (sizes, blocks, block) = (
        sizes(subject, value),
        blocks(subject, value),
        block(subject, value),
    );
    format!("{sizes}.exists(n, {block} in {blocks} && {blocks}[{block}].exists(q, {such}))")
}

/// The block of size `n` around a value.
fn block(subject: Subject, value: &str) -> String {
    match subject {
        Subject::ClusterIps => format!("string(cidr({value} + '/' + string(n)).masked())"),
        Subject::NodePorts => format!("(string({value} - {value} % n) + '/' + string(n))"),
    }
}

fn blocks(subject: Subject, value: &str) -> String {
    match subject {
        Subject::ClusterIps => by_family(value, "blocks", "ipv6Blocks"),
        Subject::NodePorts => "variables.blocks".to_owned(),
    }
}

fn sizes(subject: Subject, value: &str) -> String {
    match subject {
        Subject::ClusterIps => by_family(value, "sizes", "ipv6Sizes"),
        Subject::NodePorts => "variables.sizes".to_owned(),
    }
}

fn by_family(value: &str, ipv4: &str, ipv6: &str) -> String {
    format!("(ip({value}).family() == 4 ? variables.{ipv4} : variables.{ipv6})")
}

/// By name of the namespace, or by its labels, and by the Service's own.
fn selecting() -> String {
    let holds = |table: &str, labels: &str| {
        let requirement = requirement("r", &format!("variables.{labels}"));
        format!("!(q in variables.{table}) || variables.{table}[q].all(r, {requirement})")
    };
    format!(
        "((request.namespace in variables.byNamespace ? variables.byNamespace[request.namespace] : []) + \
         variables.broad.filter(q, {})).filter(q, {})",
        holds("namespaceSelectors", "namespaceLabels"),
        holds("serviceSelectors", "labels"),
    )
}

/// As pools have it: an operator that is none holds for nothing.
fn requirement(r: &str, labels: &str) -> String {
    let there = format!("{r}.key[0] in {labels}");
    let listed = format!("({there} && {labels}[{r}.key[0]] in {r}.values)");
    let is = |operator: &str| format!("{r}.operator[0] == '{operator}'");
    format!(
        "{} ? {listed} : {} ? !{listed} : {} ? {there} : ({} && !({there}))",
        is("In"),
        is("NotIn"),
        is("Exists"),
        is("DoesNotExist")
    )
}
