// SPDX-License-Identifier: Apache-2.0
//! Demand, relays and steering together: what a turn of the user-space backend goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::IpFamily;

use super::{Demand, Listening, Relay, RelayChange, RelayIntent, RelayPlan, Socket, Steering};
use crate::nft::Installed;
use crate::{Intent, Touched};

/// A turn: [`Switchboard::plan`], carry its changes out and say so, [`Switchboard::steer`], carry out what
/// [`nft::diff`](crate::nft::diff) makes of the steering, and [`Switchboard::closable`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switchboard {
    demand: Demand,
    listening: Listening,
    steering: Steering,
    addresses: BTreeMap<IpFamily, IpAddr>,
    /// Relays to look at besides those that the intent touches: they could not be opened.
    lacking: BTreeSet<Relay>,
    /// Whether all relays are to be looked at.
    readdressed: bool,
}

impl Switchboard {
    /// On which address relays of each family listen. A family without one has no new relays.
    pub fn set_addresses(&mut self, addresses: BTreeMap<IpFamily, IpAddr>) {
        if addresses != self.addresses {
            self.addresses = addresses;
            self.readdressed = true;
        }
    }

    /// On which address relays of each family listen.
    pub fn addresses(&self) -> &BTreeMap<IpFamily, IpAddr> {
        &self.addresses
    }

    /// What has to change of the relays after an update of the intent. What is not carried out is planned again if it
    /// is named by [`Switchboard::failed`].
    pub fn plan(&mut self, intent: &Intent, touched: &Touched) -> RelayPlan {
        let mut relays = self.demand.update(intent, &touched.frontends);
        relays.extend(std::mem::take(&mut self.lacking));
        let scope = (!std::mem::take(&mut self.readdressed)).then_some(&relays);
        self.listening.plan(&self.demand, scope, &self.addresses)
    }

    /// Notes that a relay listens there now, and does that.
    pub fn opened(&mut self, relay: Relay, socket: Socket, wish: RelayIntent, now: Duration) {
        self.listening.opened(relay, socket, wish, now);
    }

    /// Notes that a relay could not be opened.
    pub fn failed(&mut self, relay: Relay) {
        self.lacking.insert(relay);
    }

    /// Notes that a change was carried out; for [`RelayChange::Open`] that is [`Switchboard::opened`].
    pub fn apply(&mut self, change: &RelayChange, now: Duration) {
        self.listening.apply(change, now);
    }

    /// Leads packets to the relays as they are now. Returns all of the steering that may differ from before.
    pub fn steer(&mut self, intent: &Intent, touched: &Touched) -> Touched {
        let moved = self.listening.take_moved();
        self.steering
            .update(intent, &self.demand, &self.listening, touched, &moved)
    }

    /// The sockets that may be closed: left for at least `delay`, and not led to by what the kernel holds.
    pub fn closable<'a>(
        &self,
        installed: impl IntoIterator<Item = &'a Installed>,
        now: Duration,
        delay: Duration,
    ) -> RelayPlan {
        if self.listening.next_close(delay).is_none_or(|due| due > now) {
            return RelayPlan::default();
        }
        let targets = installed.into_iter().flat_map(Installed::targets);
        let sockets = targets.map(|(frontend, at)| Socket {
            protocol: frontend.protocol(),
            at,
        });
        self.listening.closable(&sockets.collect(), now, delay)
    }

    /// When a socket may be closed next, if one is left.
    pub fn next_close(&self, delay: Duration) -> Option<Duration> {
        self.listening.next_close(delay)
    }

    /// The relays that are asked for.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The relays that listen.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Where packets are steered.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Whether some relay could not be opened.
    pub fn lacks(&self) -> bool {
        !self.lacking.is_empty()
    }
}
