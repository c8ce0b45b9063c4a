// SPDX-License-Identifier: Apache-2.0
//! The programs of iptables, which are the only interface that both of its variants have.

use std::ffi::OsStr;
use std::fmt;

use berth_model::IpFamily;
use berth_proxy_core::iptables::Plan;

use crate::Error;
use crate::program::Program;

/// How long the programs wait for the lock that they share (/run/xtables.lock; the nft variant has none). kube-proxy's
/// number.
const WAIT: &str = "--wait=5";

/// Which programs are meant: two sets of tables in the kernel, and a name that leads to either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `iptables`, whatever that is on this machine.
    Default,
    /// `iptables-nft`: the tables of nf_tables.
    Nft,
    /// `iptables-legacy`: those of ip_tables.
    Legacy,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 3] = [Self::Default, Self::Nft, Self::Legacy];

    fn suffix(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables{}", self.suffix())
    }
}

/// The programs for one family.
#[derive(Clone, Debug)]
pub struct Programs {
    family: IpFamily,
    list: Program,
    save: Program,
    restore: Program,
}

impl Programs {
    /// Looks for them in the folders of `path`, a value of PATH.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn find(path: &OsStr, variant: Variant, family: IpFamily) -> Result<Self, Error> {
        let stem = match family {
            IpFamily::V4 => "iptables",
            IpFamily::V6 => "ip6tables",
        };
        let program =
            |end: &str| Program::find(path, &format!("{stem}{}{end}", variant.suffix()), "iptables");
        Ok(Self {
            family,
            list: program("")?,
            save: program("-save")?,
            restore: program("-restore")?,
        })
    }

    /// Of which family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// Everything there is, as text.
    ///
    /// # Errors
    /// The program refused.
    pub async fn save(&self) -> Result<String, Error> {
        self.save.run(&[], "").await
    }

    /// Carries out a plan; an empty one is none. Each of its blocks takes effect wholly or not at all.
    ///
    /// # Errors
    /// The program refused. Blocks before the one that it refused hold.
    pub async fn restore(&self, plan: &Plan) -> Result<(), Error> {
        if plan.is_empty() {
            return Ok(());
        }
        let arguments = ["--noflush", "--counters", WAIT];
        self.restore.run(&arguments, &plan.to_string()).await?;
        Ok(())
    }

    /// Whether they write the tables of nf_tables, and not those of ip_tables: since 1.8 they say so themselves.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(super) async fn are_of_nf_tables(&self) -> Result<bool, Error> {
        let said = self.list.run(&["--version"], "").await?;
        Ok(said.contains("nf_tables"))
    }
}
