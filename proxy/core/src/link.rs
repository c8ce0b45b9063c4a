// SPDX-License-Identifier: Apache-2.0
//! Network interfaces by name: which of them Pods' packets come in by.

use std::fmt;

/// Bytes of an interface's name without the closing zero (`IFNAMSIZ` in Linux's uapi/linux/if.h).
const LONGEST: usize = 15;
/// Of a prefix one byte less: iptables writes `+` behind it, and takes no more in all (`xtables_parse_interface`).
const LONGEST_PREFIX: usize = LONGEST - 1;

/// The name of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName {
    bytes: [u8; LONGEST],
    length: u8,
}

/// What cannot be the name of an interface, or the beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing.
    #[error(
        "it is empty; write a name as `ip link` shows it, for example cni0, or the beginning of names, for example veth"
    )]
    Empty,
    /// More than the kernel, or iptables, takes.
    #[error("it has {length} bytes, and at most {most} fit; see `ip link` for the names there are")]
    TooLong {
        /// So many.
        length: usize,
        /// So many fit.
        most: usize,
    },
    /// A symbol that no name can have, or that means something else in a rule.
    #[error(
        "{0:?} cannot be part of it; write letters, digits, '-', '_', '.' or '@', with no * or + at the end"
    )]
    Symbol(char),
}

impl LinkName {
    /// The name.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, LinkError> {
        Self::within(text, LONGEST)
    }

    fn within(text: &str, most: usize) -> Result<Self, LinkError> {
        let fits = |symbol: &char| symbol.is_ascii_alphanumeric() || matches!(symbol, '-' | '_' | '.' | '@');
        if let Some(symbol) = text.chars().find(|symbol| !fits(symbol)) {
            return Err(LinkError::Symbol(symbol));
        }
        let too_long = LinkError::TooLong {
            length: text.len(),
            most,
        };
        let length = u8::try_from(text.len()).map_err(|_| too_long)?;
        if length == 0 {
            return Err(LinkError::Empty);
        }
        if text.len() > most {
            return Err(too_long);
        }
        let mut bytes = [0; LONGEST];
        for (byte, given) in bytes.iter_mut().zip(text.bytes()) {
            *byte = given;
        }
        Ok(Self { bytes, length })
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Which interfaces are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Links {
    /// The one of this name.
    Named(LinkName),
    /// All whose names begin so.
    Beginning(LinkName),
}

impl Links {
    /// The interface of this name.
    ///
    /// # Errors
    /// It is no name.
    pub fn named(text: &str) -> Result<Self, LinkError> {
        LinkName::new(text).map(Self::Named)
    }

    /// The interfaces whose names begin so.
    ///
    /// # Errors
    /// No name can begin so, or every name does.
    pub fn beginning(text: &str) -> Result<Self, LinkError> {
        LinkName::within(text, LONGEST_PREFIX).map(Self::Beginning)
    }

    /// Whether an interface of this name is meant.
    pub fn has(&self, link: &LinkName) -> bool {
        match self {
            Self::Named(name) => link == name,
            Self::Beginning(prefix) => link.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// For people: as nft writes it.
impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Beginning(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes_mean_what_they_say() {
        let link = |text| LinkName::new(text).unwrap();
        for (links, text, meant) in [
            (Links::named("cni0"), "cni0", true),
            (Links::named("cni0"), "cni01", false),
            (Links::named("cni01"), "cni0", false),
            (Links::beginning("veth"), "veth", true),
            (Links::beginning("veth"), "veth1a2b", true),
            (Links::beginning("veth"), "vet", false),
            (Links::beginning("veth"), "eth0", false),
        ] {
            assert_eq!(links.unwrap().has(&link(text)), meant, "{links:?} {text}");
        }
    }

    #[test]
    fn what_the_kernel_or_a_rule_would_misread_is_refused() {
        let longest = "a".repeat(15);
        assert!(Links::named(&longest).is_ok() && Links::beginning(&longest[1..]).is_ok());
        let (length, most) = (15, 14);
        assert_eq!(
            Links::beginning(&longest),
            Err(LinkError::TooLong { length, most })
        );
        assert!(matches!(
            Links::named(&"a".repeat(300)),
            Err(LinkError::TooLong {
                length: 300,
                most: 15
            })
        ));
        assert_eq!(Links::named(""), Err(LinkError::Empty));
        assert_eq!(Links::beginning(""), Err(LinkError::Empty));
        for text in ["veth+", "veth*", "!veth", "a b", "a/b", "a:b", "a\"b", "é"] {
            assert!(
                matches!(Links::beginning(text), Err(LinkError::Symbol(_))),
                "{text}"
            );
        }
    }
}
