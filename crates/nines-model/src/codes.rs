//! Closed sets of words, and the stable code of each word.
//!
//! Decides: how a word that travels over a border (log, wire, API) is read, and what becomes of a
//! code that this version does not know. Inside the borders only the enums are compared.

use std::fmt;

/// A closed set of words. [`codes!`](crate::codes!) writes the implementations.
pub trait Codes: Copy + PartialEq + 'static {
    /// Every word of the set, in the order of its declaration.
    const ALL: &'static [Self];

    /// Code of the word over every border. A code never changes, and none is used twice.
    fn code(self) -> &'static str;

    /// The word with this code; `None`: this version does not know the code.
    fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|word| word.code() == code)
    }
}

/// A code that came over a border: a word of this version, or a code of a newer one, which is kept
/// and shown as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coded<T> {
    /// This version knows the word.
    Known(T),
    /// The code of a newer version.
    Newer(String),
}

impl<T: Codes> Coded<T> {
    /// Reads a code.
    pub fn read(code: String) -> Self {
        T::from_code(&code).map_or(Self::Newer(code), Self::Known)
    }

    /// The code, as it was read.
    pub fn code(&self) -> &str {
        match self {
            Self::Known(word) => word.code(),
            Self::Newer(code) => code,
        }
    }

    /// The word; `None`: this version does not know the code.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(word) => Some(*word),
            Self::Newer(_) => None,
        }
    }

    /// Whether the word is this one.
    pub fn is(&self, word: T) -> bool {
        matches!(self, Self::Known(known) if *known == word)
    }
}

impl<T: Codes> From<T> for Coded<T> {
    fn from(word: T) -> Self {
        Self::Known(word)
    }
}

/// No code.
impl<T> Default for Coded<T> {
    fn default() -> Self {
        Self::Newer(String::new())
    }
}

impl<T: Codes> fmt::Display for Coded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// Declares a closed set of words with their codes: the enum, [`Codes`] and `Display`, which writes
/// the code.
#[macro_export]
macro_rules! codes {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$word_meta:meta])* $word:ident = $code:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[$word_meta])* $word,)+
        }

        impl $crate::Codes for $name {
            const ALL: &'static [Self] = &[$(Self::$word,)+];

            fn code(self) -> &'static str {
                match self {
                    $(Self::$word => $code,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::Codes::code(*self))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    codes! {
        /// Two words.
        enum Two {
            /// First.
            First = "first",
            /// Second.
            SecondOne = "second-one",
        }
    }

    #[test]
    fn a_code_of_a_newer_version_stays_as_it_came() {
        let known: Coded<Two> = Coded::read("second-one".into());
        assert_eq!(known, Coded::Known(Two::SecondOne));
        assert!(known.is(Two::SecondOne) && !known.is(Two::First));
        let newer: Coded<Two> = Coded::read("third".into());
        assert_eq!(newer, Coded::Newer("third".into()));
        assert_eq!((known.code(), newer.code()), ("second-one", "third"));
        assert_eq!(format!("{:>6}|{newer}", Two::First), " first|third");
        assert!(Two::ALL.iter().all(|word| Two::from_code(word.code()) == Some(*word)));
    }
}
