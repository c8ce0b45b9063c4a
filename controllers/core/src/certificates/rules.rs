// SPDX-License-Identifier: Apache-2.0
//! How long certificates live.

use std::fmt;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long certificates live, and how far replicas may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of an authority. The last third is for its replacement.
    pub authority_life: Duration,
    /// From the writing of a new authority to its first signature: twice what it takes until every replica, and the
    /// webhook's `caBundle`, have it.
    pub publication: Duration,
    /// Of what an authority signs. Replaced after two thirds.
    pub leaf_life: Duration,
    /// How far a clock may be from the true time.
    pub skew: Duration,
}

impl Rules {
    /// What the controllers use: an authority lives a year (as a cluster's own certificates by kubeadm) and is
    /// replaced in its last four months, a leaf lives a week. A day of publication lets a replica, or an API server,
    /// be cut off for half of that.
    pub const DEFAULT: Self = Self {
        authority_life: DAY.saturating_mul(365),
        publication: DAY,
        leaf_life: DAY.saturating_mul(7),
        skew: MINUTE.saturating_mul(5),
    };

    /// How often the Secret has to be read, and what was read has to be published, at the least.
    pub fn longest_lag(&self) -> Duration {
        (self.publication / 2).saturating_sub(self.skew)
    }

    /// When the replacement of an authority begins.
    pub(super) fn renewal_of(&self, not_after: Duration) -> Duration {
        not_after.saturating_sub(self.authority_life / 3)
    }

    /// Whether the times go together.
    ///
    /// # Errors
    /// Which do not.
    pub fn check(&self) -> Result<(), RulesFault> {
        let lag = self.longest_lag();
        let replaced = self.publication + self.leaf_life + self.skew * 4 + lag;
        if self.authority_life / 3 < replaced {
            Err(RulesFault::AuthorityTooShort)
        } else if self.leaf_life / 3 < lag + self.skew * 2 {
            Err(RulesFault::LeafTooShort)
        } else if lag.is_zero() {
            Err(RulesFault::PublicationTooShort)
        } else {
            Ok(())
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which times do not go together. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesFault {
    /// A third of an authority's life is less than its replacement takes.
    AuthorityTooShort,
    /// A third of a leaf's life is less than replicas may lag.
    LeafTooShort,
    /// Clocks may differ by as much as the publication takes.
    PublicationTooShort,
}

impl RulesFault {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityTooShort => "AuthorityTooShort",
            Self::LeafTooShort => "LeafTooShort",
            Self::PublicationTooShort => "PublicationTooShort",
        }
    }
}

impl fmt::Display for RulesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
