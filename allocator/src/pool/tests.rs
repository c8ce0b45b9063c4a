// SPDX-License-Identifier: Apache-2.0
//! A pool's edges by name, and random histories against a naive model.

use berth_model::{IpFamily, IpRange, Port, PortRange};

use super::*;
use crate::{Counts, State, StaticBand, VoidReservation, network_and_broadcast};

mod giving;
mod history;
mod holds;
mod limits;
mod naive;

/// How long a released item rests here.
const REST: Duration = Duration::from_secs(60);

type AddressDefinition = PoolDefinition<IpAddr, ServiceKey>;
type PortDefinition = PoolDefinition<Port, ServiceKey>;

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn owner(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn definition(ranges: &[&str]) -> AddressDefinition {
    let ranges = ranges.iter().map(|text| text.parse::<IpRange>().unwrap());
    PoolDefinition::of(PoolName::new("p"), ranges.collect())
}

fn ports(ranges: &[&str]) -> PortDefinition {
    let ranges = ranges.iter().map(|text| text.parse::<PortRange>().unwrap());
    PoolDefinition::of(PoolName::new("p"), ranges.collect())
}

fn pool(ranges: &[&str]) -> Pool {
    Pool::new(&definition(ranges), REST)
}

/// Allocates any item of a family for good.
fn any<I: Item>(
    pool: &mut Pool<I, ServiceKey>,
    family: I::Family,
    name: &str,
    now: Duration,
) -> Result<I, Refusal<I, ServiceKey>> {
    pool.allocate_any(family, &Request::for_good(&owner(name), now))
}

/// Allocates a certain item for good.
fn this<I: Item>(
    pool: &mut Pool<I, ServiceKey>,
    item: I,
    name: &str,
    now: Duration,
) -> Result<Granted, Refusal<I, ServiceKey>> {
    pool.allocate_this(item, &Request::for_good(&owner(name), now))
}
