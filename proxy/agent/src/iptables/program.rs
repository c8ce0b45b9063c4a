// SPDX-License-Identifier: Apache-2.0
//! The programs of iptables, which are the only interface that both of its variants have.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use berth_model::IpFamily;
use berth_proxy_core::iptables::Plan;
use berth_proxy_core::iptables::names::{Fixed, Table};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

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
    list: PathBuf,
    save: PathBuf,
    restore: PathBuf,
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
        let program = |end: &str| {
            let name = format!("{stem}{}{end}", variant.suffix());
            let found = std::env::split_paths(path).map(|folder| folder.join(&name));
            let mut found = found.filter(|program| program.is_file());
            found.next().ok_or(Error::NoProgram { name })
        };
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
        let output = run(&self.save, &[], "").await?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(refused(&self.save, &output, ""))
        }
    }

    /// Carries out a plan; an empty one is none. Each of its blocks takes effect wholly or not at all.
    ///
    /// # Errors
    /// The program refused. Blocks before the one that it refused hold.
    pub async fn restore(&self, plan: &Plan) -> Result<(), Error> {
        if plan.is_empty() {
            return Ok(());
        }
        let text = plan.to_string();
        let output = run(&self.restore, &["--noflush", "--counters", WAIT], &text).await?;
        if output.status.success() {
            Ok(())
        } else {
            Err(refused(&self.restore, &output, &text))
        }
    }

    /// Whether a chain is there. It is for telling that something is wrong: any failure to find it is a no.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn has_chain(&self, table: Table, chain: Fixed) -> Result<bool, Error> {
        let arguments = [WAIT, "-t", table.as_str(), "-S", chain.as_str()];
        let output = run(&self.list, &arguments, "").await?;
        Ok(output.status.success())
    }
}

async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Output, Error> {
    let cannot = |source| Error::Program {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that stops reading says why itself.
            if let Err(error) = stdin.write_all(input.as_bytes()).await {
                tracing::debug!(program = %program.display(), %error, "input not read to its end");
            }
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    output.map_err(cannot)
}

/// What the program said, and the line that it named, if it named one.
fn refused(program: &Path, output: &Output, input: &str) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<&str> = said.take(4).collect();
    let said = said.join("; ");
    let named = said.split("line ").nth(1).and_then(|rest| {
        let digits = rest.split(|symbol: char| !symbol.is_ascii_digit()).next()?;
        let number: usize = digits.parse().ok()?;
        input.lines().nth(number.checked_sub(1)?)
    });
    Error::Refused {
        program: program.to_owned(),
        status: output.status.to_string(),
        said,
        line: named.map(str::to_owned),
    }
}
