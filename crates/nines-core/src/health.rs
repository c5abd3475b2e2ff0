//! Rise and fall of one checked server.
//!
//! ```text
//! unknown --first good--> up     up   --`fall` bad in a row--> down
//! unknown --first bad --> down   down --`rise` good in a row--> up
//! ```
//! The first result decides alone: a director that starts must not wait longer than that before it
//! uses a server that lives. Until then a server gets no clients, unless the process before this
//! one sent it some: a restarted agent takes nobody's server away.

use nines_model::ServerState;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The server was never checked.
    Unknown,
    /// Not checked by this process; the one before it sent clients there.
    Inherited,
    /// Takes flows; so many bad results in a row.
    Up(u32),
    /// Takes none; so many good results in a row.
    Down(u32),
}

impl Health {
    /// After one more result.
    pub fn next(self, good: bool, rise: u32, fall: u32) -> Self {
        match (self, good) {
            (Self::Unknown | Self::Inherited, true) => Self::Up(0),
            (Self::Unknown | Self::Inherited, false) => Self::Down(0),
            (Self::Up(_), true) => Self::Up(0),
            (Self::Up(bad), false) if bad + 1 >= fall => Self::Down(0),
            (Self::Up(bad), false) => Self::Up(bad + 1),
            (Self::Down(_), false) => Self::Down(0),
            (Self::Down(good), true) if good + 1 >= rise => Self::Up(0),
            (Self::Down(good), true) => Self::Down(good + 1),
        }
    }

    /// What it means for forwarding.
    pub fn state(self) -> ServerState {
        match self {
            Self::Inherited | Self::Up(_) => ServerState::Up,
            Self::Unknown | Self::Down(_) => ServerState::Down,
        }
    }

    /// Whether no check of this process has ended yet.
    pub fn is_unchecked(self) -> bool {
        matches!(self, Self::Unknown | Self::Inherited)
    }
}

#[cfg(test)]
mod tests {
    use super::Health::{self, Down, Inherited, Unknown, Up};

    #[test]
    fn every_transition() {
        let table = [
            (Unknown, true, Up(0)),
            (Unknown, false, Down(0)),
            (Inherited, true, Up(0)),
            (Inherited, false, Down(0)),
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
        assert_eq!(Health::Unknown.state(), nines_model::ServerState::Down);
        assert_eq!(Health::Inherited.state(), nines_model::ServerState::Up);
    }
}
