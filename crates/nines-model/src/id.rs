//! Numbers and names that stand for things, each of a type of its own.
//!
//! Decides: that a number or a name of one kind cannot stand where another kind is meant. Wire,
//! disk and the consensus library have plain numbers and texts; they get these types where they
//! come in.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Declares a number that stands for a thing.
macro_rules! number {
    ($($(#[$doc:meta])+ $name:ident;)+) => {
        $(
            $(#[$doc])+
            #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub u64);

            impl $name {
                /// The plain number, for wire, disk and people.
                pub const fn number(self) -> u64 {
                    self.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Display::fmt(&self.0, f)
                }
            }

            /// The plain number, too: where it is printed its field says what it is.
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Debug::fmt(&self.0, f)
                }
            }
        )+
    };
}

number! {
    /// Number of a node in the consensus. It is given once, from 1 on, and never used again.
    NodeId;
    /// Number of one run of the agent of a node. No two runs have the same.
    Incarnation;
    /// Place of an entry in the log, from 1 on. The place of the entry that gave a VIP to its
    /// holder is the holder's token.
    LogIndex;
}

impl NodeId {
    /// The number after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Incarnation {
    /// None: it was not said, or none was heard.
    pub const NONE: Self = Self(0);
}

impl LogIndex {
    /// Before the first entry; as a token: none.
    pub const ZERO: Self = Self(0);
    /// After every entry.
    pub const MAX: Self = Self(u64::MAX);

    /// The place that is so many entries earlier.
    pub const fn minus(self, entries: u64) -> Self {
        Self(self.0.saturating_sub(entries))
    }

    /// Entries from `earlier` to here; 0 when that is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Declares the name of a thing.
macro_rules! name {
    ($($(#[$doc:meta])+ $name:ident;)+) => {
        $(
            $(#[$doc])+
            #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(Arc<str>);

            impl $name {
                /// The plain text, for wire, disk and people.
                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl From<&str> for $name {
                fn from(text: &str) -> Self {
                    Self(text.into())
                }
            }

            impl From<String> for $name {
                fn from(text: String) -> Self {
                    Self(text.into())
                }
            }

            /// Maps by name are asked with texts, too.
            impl Borrow<str> for $name {
                fn borrow(&self) -> &str {
                    &self.0
                }
            }

            impl PartialEq<str> for $name {
                fn eq(&self, text: &str) -> bool {
                    *self.0 == *text
                }
            }

            impl PartialEq<&str> for $name {
                fn eq(&self, text: &&str) -> bool {
                    *self.0 == **text
                }
            }

            impl PartialEq<String> for $name {
                fn eq(&self, text: &String) -> bool {
                    *self.0 == **text
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Display::fmt(&self.0, f)
                }
            }

            /// The plain text, in quotes.
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Debug::fmt(&self.0, f)
                }
            }
        )+
    };
}

name! {
    /// Name of a node. When a node has left, another may get its name.
    NodeName;
    /// Name of a virtual service.
    ServiceName;
    /// Name of a fence device.
    DeviceName;
    /// Name of a real server within its service. Two services may each have an `r1`.
    ServerName;
}

/// A real server of a service: "web/r1".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRef {
    /// Name of the virtual service.
    pub service: ServiceName,
    /// Name of the real server in that service.
    pub server: ServerName,
}

impl ServerRef {
    /// The server of that name in the service of that name.
    pub fn new(service: impl Into<ServiceName>, server: impl Into<ServerName>) -> Self {
        Self { service: service.into(), server: server.into() }
    }
}

impl fmt::Display for ServerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.server)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn numbers_and_names_print_as_they_are() {
        let (id, name) = (NodeId(7), ServiceName::from("web"));
        assert_eq!(format!("{id} {id:?} {name} {name:?}"), "7 7 web \"web\"");
        assert_eq!(ServerRef::new("web", "r1").to_string(), "web/r1");
    }

    #[test]
    fn a_map_by_name_is_asked_with_a_text() {
        let map = BTreeMap::from([(ServerName::from("r1"), 1)]);
        assert_eq!((map.get("r1"), map.get("r2")), (Some(&1), None));
    }

    #[test]
    fn servers_are_ordered_by_service_first() {
        let mut all =
            [("web", "r1"), ("dns", "r2"), ("web", "a")].map(|(a, b)| ServerRef::new(a, b));
        all.sort();
        assert_eq!(all.map(|server| server.to_string()), ["dns/r2", "web/a", "web/r1"]);
    }

    #[test]
    fn places_in_the_log_have_ends() {
        assert_eq!(LogIndex(7).since(LogIndex(5)), 2);
        assert_eq!(LogIndex(5).since(LogIndex(7)), 0);
        assert_eq!((LogIndex(5).minus(2), LogIndex(5).minus(9)), (LogIndex(3), LogIndex::ZERO));
        assert_eq!(NodeId(3).next(), NodeId(4));
    }
}
