//! Numbers that stand for things, each of a type of its own.
//!
//! Decides: that a number of one kind cannot stand where another kind is meant. Wire, disk and
//! the consensus library have plain numbers; they get these types where they come in.

use std::fmt;

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
