//! The name of a table, and texts as the kernel has them.

use std::fmt;

use crate::family::Family;

/// A table by family and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: String,
}

impl fmt::Display for Table {
    /// As `nft` names it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        write!(formatter, "{family} {}", self.name)
    }
}

/// A text with the zero byte that the kernel wants behind it.
pub(super) fn c_string(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// A text of the kernel's.
pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned()
}
