// SPDX-License-Identifier: Apache-2.0
//! What the policies compute, in CEL.
//!
//! API servers evaluate it once for each pool, which is `params`. Variables are computed when they are first asked for, so
//! that a pool that neither has the value nor selects the Service costs two look-ups.
//!
//! ```text
//!   pool: params, if it is still as it was when this was written      chosen: what the write brings anew
//!   encroaching: of chosen, what is in pool and pool does not serve
//!   selecting: all pools that select the Service
//!   straying: of chosen, what no pool serves; said by the first of selecting only
//! ```

use super::Subject;
use super::tables::{Tables, literal};

/// A name and an expression.
pub(super) type Variable = (&'static str, String);

const LABELS: &str = "has(object.metadata.labels) ? object.metadata.labels : {}";
const NAMESPACE_LABELS: &str = "has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {}";
/// As the table of reservations names Services.
const SERVICE: &str = "request.namespace + '/' + object.metadata.name";
/// Empty for a pool that no rule is made of, or that was edited since.
const POOL: &str = "params.metadata.name in variables.generations && \
    params.metadata.generation == variables.generations[params.metadata.name] ? params.metadata.name : ''";

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
        ("names", literal(&tables.names)),
        ("generations", literal(&tables.generations)),
    ];
    match subject {
        Subject::ClusterIps => {
            variables.push(("ipv4", literal(&tables.ipv4)));
            variables.push(("ipv6", literal(&tables.ipv6)));
        }
        Subject::NodePorts => variables.push(("ports", literal(&tables.ports))),
    }
    variables.extend([
        ("namespaces", literal(&tables.namespaces)),
        ("namespaceSelectors", literal(&tables.namespace_labels)),
        ("serviceSelectors", literal(&tables.service_labels)),
        ("reserved", literal(&tables.reserved)),
        ("claims", literal(&tables.claims)),
        ("labels", LABELS.to_owned()),
        ("namespaceLabels", NAMESPACE_LABELS.to_owned()),
        ("service", SERVICE.to_owned()),
        ("pool", POOL.to_owned()),
    ]);
    match subject {
        Subject::ClusterIps => variables.push(("chosen", CHOSEN_ADDRESSES.to_owned())),
        Subject::NodePorts => variables.extend([
            ("newPorts", NEW_PORTS.to_owned()),
            ("oldPorts", OLD_PORTS.to_owned()),
            ("chosen", CHOSEN_PORTS.to_owned()),
        ]),
    }
    let (encroaching, straying) = (encroaching(subject), straying(subject));
    variables.push(("selects", selects("variables.pool")));
    variables.push(("encroaching", encroaching));
    if tables.too_large.is_empty() {
        variables.push((
            "selecting",
            format!("variables.names.filter(q, {})", selects("q")),
        ));
        variables.push(("straying", straying));
    }
    variables
}

/// Expressions that have to be true, with the message where they are not.
pub(super) fn validations(subject: Subject, tables: &Tables) -> Vec<(String, String)> {
    let (kind, what) = match subject {
        Subject::ClusterIps => ("AddressPool", "cluster IP"),
        Subject::NodePorts => ("NodePortPool", "node port"),
    };
    let way_out = "ask for another, or, where none was asked for, try again";
    let none_of = |list: &str| format!("size(variables.{list}) == 0");
    let encroaching = format!(
        "'{what} ' + string(variables.encroaching[0]) + ' is of {kind} ' + variables.pool + \
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
    let (has, serves) = (
        has(subject, "variables.pool", "x"),
        serves("variables.pool", "x", "variables.selects"),
    );
    format!("variables.pool == '' ? [] : variables.chosen.filter(x, {has} && !({serves}))")
}

fn straying(subject: Subject) -> String {
    let is_first = format!(
        "{} && variables.selecting.filter(q, q in variables.generations && {})[0] == variables.pool",
        has_family(subject, "variables.pool", "x"),
        has_family(subject, "q", "x"),
    );
    let served = format!(
        "variables.names.exists(q, {} && ({}))",
        has(subject, "q", "x"),
        serves("q", "x", "q in variables.selecting")
    );
    format!(
        "variables.pool == '' || !variables.selects ? [] : variables.chosen.filter(x, {is_first} && !{served})"
    )
}

/// Whether a pool gives a value of its own to the Service: `selected` says whether it selects it.
fn serves(pool: &str, value: &str, selected: &str) -> String {
    let kept = format!("{pool} in variables.reserved && string({value}) in variables.reserved[{pool}]");
    format!(
        "{kept} ? variables.reserved[{pool}][string({value})] == variables.service : ({selected} || \
         ({pool} in variables.claims && request.namespace in variables.claims[{pool}]))"
    )
}

/// Whether a pool has anything that could take the value's place.
fn has_family(subject: Subject, pool: &str, value: &str) -> String {
    format!("{pool} in {}", ranges(subject, value))
}

/// Whether a value is one of a pool's.
fn has(subject: Subject, pool: &str, value: &str) -> String {
    let within = match subject {
        Subject::ClusterIps => format!("cidr(range).containsIP({value})"),
        Subject::NodePorts => format!("range[0] <= {value} && {value} <= range[1]"),
    };
    let ranges = ranges(subject, value);
    format!("{pool} in {ranges} && {ranges}[{pool}].exists(range, {within})")
}

fn ranges(subject: Subject, value: &str) -> String {
    match subject {
        Subject::ClusterIps => format!("(ip({value}).family() == 4 ? variables.ipv4 : variables.ipv6)"),
        Subject::NodePorts => "variables.ports".to_owned(),
    }
}

/// Whether a pool selects the Service: by name or labels of the namespace, and by its own labels.
fn selects(pool: &str) -> String {
    let holds = |table: &str, labels: &str| {
        format!(
            "variables.{table}[{pool}].all(r, {})",
            requirement("r", &format!("variables.{labels}"))
        )
    };
    let of_namespaces = holds("namespaceSelectors", "namespaceLabels");
    let of_services = holds("serviceSelectors", "labels");
    format!(
        "(!({pool} in variables.namespaces) && !({pool} in variables.namespaceSelectors) || {pool} in variables.namespaces \
         && request.namespace in variables.namespaces[{pool}] || {pool} in variables.namespaceSelectors && {of_namespaces}) \
         && (!({pool} in variables.serviceSelectors) || {of_services})"
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
