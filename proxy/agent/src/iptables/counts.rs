// SPDX-License-Identifier: Apache-2.0
//! What kube-proxy counts in this mode, too.

use std::collections::BTreeMap;

use berth_proxy_core::iptables::Plan;
use berth_proxy_core::iptables::names::Table;

/// The tables in which we have rules: mangle has empty chains only.
pub(super) const COUNTED: [Table; 2] = [Table::Filter, Table::Nat];

/// One family's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rules of ours, by table.
    pub rules: BTreeMap<Table, usize>,
    /// Those that were written last.
    pub last: BTreeMap<Table, usize>,
    /// How often iptables-restore refused anything.
    pub refused: u64,
    /// How often that was a change only, after which everything was read and compared.
    pub refused_changes: u64,
}

impl Counts {
    /// Notes what was written.
    pub(super) fn wrote(&mut self, plan: &Plan) {
        if !plan.is_empty() {
            self.last = COUNTED.map(|table| (table, plan.rules(table))).into();
        }
    }
}
