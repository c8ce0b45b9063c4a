// SPDX-License-Identifier: Apache-2.0
//! How much there is.

use super::Wanted;
use crate::iptables::names::Table;

impl Wanted {
    /// Chains of Service ports, and rules in shared chains.
    pub fn len(&self) -> usize {
        self.ports
            .values()
            .map(|port| port.chains.len() + port.lines.len())
            .sum()
    }

    /// How many rules of ours a table has, the jumps in everybody's chains left out.
    pub fn rules(&self, table: Table) -> usize {
        let fixed = self.skeleton.chains.iter().filter(|((of, _), _)| *of == table);
        let of_ports = self.ports.values().flat_map(|port| &port.lines);
        let lines = of_ports.chain(&self.health).chain(&self.left_out.lines);
        let own = self.ports.values().map(|port| port.rules);
        let own: usize = own.filter(|_| table == Table::Nat).sum();
        fixed.map(|(_, rules)| rules.len()).sum::<usize>()
            + lines.filter(|line| line.table == table).count()
            + own
    }

    /// Whether the rules are short, as in a large cluster.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Whether there is no Service.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}
