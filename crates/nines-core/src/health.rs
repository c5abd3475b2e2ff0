//! Health checks: which servers are checked, and the rise and fall of one of them.
//!
//! ```text
//! unknown --first good--> up     up   --`fall` bad in a row--> down
//! unknown --first bad --> down   down --`rise` good in a row--> up
//! ```
//! The first result decides alone: a director that starts must not wait longer than that before it
//! uses a server that lives. Until then a server gets no clients, unless the process before this
//! one sent it some: a restarted agent takes nobody's server away.

use std::net::SocketAddr;

use nines_model::{Check, Forward, ServerName, ServerRef, ServerState, ServiceName, Spec};

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

/// A server to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTask {
    /// Name of the virtual service.
    pub service: ServiceName,
    /// Name of the real server in that service.
    pub server: ServerName,
    /// Address and port to check; the port is the check's own if it has one.
    pub addr: SocketAddr,
    /// What clients ask, for the Host header and what is asked as they do.
    pub listen: SocketAddr,
    /// How clients' packets get there.
    pub forward: Forward,
    /// The server wants to be told who asks (PROXY protocol, version 2).
    pub proxy: bool,
    /// Kind, interval, timeout and thresholds of the check.
    pub check: Check,
}

impl CheckTask {
    /// The server to check.
    pub fn subject(&self) -> ServerRef {
        ServerRef::new(self.service.clone(), self.server.clone())
    }
}

/// The checks that go with a spec.
pub fn checks(spec: &Spec) -> Vec<CheckTask> {
    let mut tasks = Vec::new();
    for (name, service) in &spec.services {
        for (server, wanted) in service.servers.iter().filter(|(_, s)| service.is_checked(s)) {
            let mut addr = wanted.addr;
            if let Some(port) = service.check.port {
                addr.set_port(port);
            }
            let mut listen = service.listen.addr;
            if service.listen.one_port().is_none() {
                listen.set_port(addr.port());
            }
            tasks.push(CheckTask {
                service: name.clone(),
                server: server.clone(),
                addr,
                listen,
                forward: wanted.forward.unwrap_or(service.forward),
                // Another port than the clients' speaks a language of its own.
                proxy: service.tells(wanted) && service.check.port.is_none(),
                check: service.check.clone(),
            });
        }
    }
    tasks
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
