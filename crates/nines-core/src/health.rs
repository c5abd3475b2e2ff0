//! Health checks: which servers are checked, and the rise and fall of one of them.
//!
//! ```text
//! unknown --first good--> up     up   --`fall` bad in a row--> down
//! unknown --first bad --> down   down --`rise` good in a row--> up
//! ```
//! The first result decides alone: a director that starts must not wait longer than that before it
//! uses a server that lives. Until then a server gets no clients, unless the process before this
//! one sent it some: a restarted agent takes nobody's server away.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use nines_model::{
    Check, Forward, ServerName, ServerRef, ServerState, ServiceName, ServiceSpec, Spec,
};

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

/// The checks that go with a config, service by service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTasks(Arc<BTreeMap<ServiceName, OfService>>);

/// What a service says, and the checks that follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfService {
    spec: Arc<ServiceSpec>,
    tasks: Arc<Vec<CheckTask>>,
}

impl CheckTasks {
    /// Of a config.
    pub fn of(spec: &Spec) -> Self {
        Self::default().after(spec)
    }

    /// Of the config that comes next. Services that it shares with the one before are not looked
    /// at.
    #[must_use]
    pub fn after(&self, spec: &Spec) -> Self {
        let of = |(name, spec): (&ServiceName, &Arc<ServiceSpec>)| {
            let old = self.0.get(name);
            if let Some(same) = old.filter(|old| Arc::ptr_eq(&old.spec, spec)) {
                return Some((name.clone(), same.clone()));
            }
            let new = tasks_of(name, spec);
            // Another weight changes no check.
            let tasks = match old.filter(|old| *old.tasks == new) {
                Some(old) => Arc::clone(&old.tasks),
                None => Arc::new(new),
            };
            (!tasks.is_empty()).then(|| (name.clone(), OfService { spec: Arc::clone(spec), tasks }))
        };
        Self(Arc::new(spec.services.iter().filter_map(of).collect()))
    }

    /// In order of services and servers.
    pub fn iter(&self) -> impl Iterator<Item = &CheckTask> {
        self.0.values().flat_map(|of| of.tasks.iter())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(|of| of.tasks.len()).sum()
    }

    /// Whether both ask for the same checks. Of services that share theirs none is looked at.
    pub(crate) fn are_same(&self, other: &Self) -> bool {
        let alike = |(a, b): ((&ServiceName, &OfService), (&ServiceName, &OfService))| {
            a.0 == b.0 && (Arc::ptr_eq(&a.1.tasks, &b.1.tasks) || a.1.tasks == b.1.tasks)
        };
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.len() == other.0.len() && self.0.iter().zip(&*other.0).all(alike))
    }
}

fn tasks_of(name: &ServiceName, service: &ServiceSpec) -> Vec<CheckTask> {
    let mut tasks = Vec::new();
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
            service: name.to_owned(),
            server: server.clone(),
            addr,
            listen,
            forward: wanted.forward.unwrap_or(service.forward),
            // Another port than the clients' speaks a language of its own.
            proxy: service.tells(wanted) && service.check.port.is_none(),
            check: service.check.clone(),
        });
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        CheckTasks,
        Health::{self, Down, Inherited, Unknown, Up},
    };

    #[test]
    fn checks_of_services_that_stay_are_shared() {
        let spec = |weight: u8, port: u16| {
            let head = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
            let web = format!(
                "[service.web]\nlisten = \"10.0.0.100:80\"\nservers = {{ r1 = {{ address = \
                 \"10.0.0.11\", weight = {weight} }}, r2 = \"10.0.0.12\" }}\n"
            );
            let none = "[service.none]\nlisten = \"10.0.0.100:81\"\ncheck = \"none\"\n\
                servers = { r1 = \"10.0.0.11\" }\n";
            let mail = format!(
                "[service.mail]\nlisten = \"10.0.0.100:{port}\"\n\
                 servers = {{ r1 = \"10.0.0.11\" }}\n"
            );
            nines_model::config::parse(&format!("{head}{web}{none}{mail}")).unwrap()
        };
        let before = CheckTasks::of(&spec(1, 25));
        let names = before.iter().map(|task| (task.service.as_str(), task.server.as_str()));
        assert_eq!(names.collect::<Vec<_>>(), [("mail", "r1"), ("web", "r1"), ("web", "r2")]);
        assert_eq!(before.count(), 3);
        let shared = |after: &CheckTasks, name: &str| {
            Arc::ptr_eq(&before.0[name].tasks, &after.0[name].tasks)
        };
        let weight = before.after(&spec(2, 25));
        assert!(weight.are_same(&before) && shared(&weight, "web") && shared(&weight, "mail"));
        let port = before.after(&spec(1, 26));
        assert!(!port.are_same(&before) && shared(&port, "web") && !shared(&port, "mail"));
        assert_eq!(port, CheckTasks::of(&spec(1, 26)));
        assert!(!CheckTasks::default().are_same(&before));
    }

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
