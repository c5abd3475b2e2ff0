//! Time as data: a point on `CLOCK_BOOTTIME` and a length in milliseconds.
//!
//! Decides: units and how lengths read in a config ("250ms", "2s"). Nobody here asks a clock.

use std::fmt;

/// A point on the node's own `CLOCK_BOOTTIME`, in ns. Never compared across nodes, never wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This point and `ms` later.
    pub const fn plus(self, ms: Millis) -> Self {
        Self(self.0 + ms.0 * 1_000_000)
    }

    /// Nanoseconds since `earlier`; 0 when that is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The length in nanoseconds.
    pub const fn ns(self) -> u64 {
        self.0 * 1_000_000
    }

    /// Reads "250ms", "2s", "5m", "2h" or "1d". Bare numbers are refused: a unit that must be
    /// guessed is guessed wrong one day.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let value: u64 = number
            .parse()
            .map_err(|_| format!("\"{text}\" is not a valid time; write \"250ms\" or \"2s\""))?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("\"{text}\" has no unit; write \"{text}s\" or \"{text}ms\"")),
            _ => return Err(format!("\"{unit}\" is not a unit of time; use ms, s, m, h or d")),
        };
        value.checked_mul(factor).map(Self).ok_or_else(|| format!("\"{text}\" is too long"))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 86_400_000 == 0 && ms > 0 => write!(f, "{}d", ms / 86_400_000),
            ms if ms % 3_600_000 == 0 && ms > 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 && ms > 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Millis;

    #[test]
    fn lengths_read_back_as_written() {
        for text in ["250ms", "2s", "5m", "3h", "1d", "0s", "1500ms"] {
            assert_eq!(Millis::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "2", "s", "2 s", "2w", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(Millis::parse(text).is_err(), "{text}");
        }
    }
}
