//! Numbers that stand for things, each of a type of its own.
//!
//! Decides: that the number of a node cannot stand where another number is meant. Wire, disk and
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
}

impl NodeId {
    /// The number after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
