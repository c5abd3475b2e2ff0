//! Rise and fall of one checked server.
//!
//! ```text
//! unknown --first good--> up     up   --`fall` bad in a row--> down
//! unknown --first bad --> down   down --`rise` good in a row--> up
//! ```
//! The first result decides alone: a director that starts must not send clients to a server that
//! is dead, nor wait before it uses one that lives.

use nines_model::ServerState;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Never checked.
    Unknown,
    /// Takes flows; so many bad results in a row.
    Up(u32),
    /// Takes none; so many good results in a row.
    Down(u32),
}

impl Health {
    /// After one more result.
    pub fn next(self, good: bool, rise: u32, fall: u32) -> Self {
        match (self, good) {
            (Self::Unknown, true) => Self::Up(0),
            (Self::Unknown, false) => Self::Down(0),
            (Self::Up(_), true) => Self::Up(0),
            (Self::Up(bad), false) if bad + 1 >= fall => Self::Down(0),
            (Self::Up(bad), false) => Self::Up(bad + 1),
            (Self::Down(_), false) => Self::Down(0),
            (Self::Down(good), true) if good + 1 >= rise => Self::Up(0),
            (Self::Down(good), true) => Self::Down(good + 1),
        }
    }

    /// What it means for forwarding: until the first result a server is tried.
    pub fn state(self) -> ServerState {
        match self {
            Self::Unknown | Self::Up(_) => ServerState::Up,
            Self::Down(_) => ServerState::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Health::{self, Down, Unknown, Up};

    #[test]
    fn every_transition() {
        let table = [
            (Unknown, true, Up(0)),
            (Unknown, false, Down(0)),
            (Up(0), true, Up(0)),
            (Up(1), true, Up(0)),
            (Up(0), false, Up(1)),
            (Up(1), false, Down(0)),
            (Down(0), false, Down(0)),
            (Down(1), false, Down(0)),
            (Down(0), true, Down(1)),
            (Down(1), true, Up(0)),
        ];
        for (from, good, to) in table {
            assert_eq!(from.next(good, 2, 2), to, "{from:?} {good}");
        }
        assert_eq!(Up(0).next(false, 1, 1), Down(0));
        assert_eq!(Down(0).next(true, 1, 1), Up(0));
        assert_eq!(Health::Unknown.state(), nines_model::ServerState::Up);
    }
}
