//! Who calls the API: what the kernel says of the process at the other end of the unix socket, or
//! which token a request over TCP has shown.
//!
//! Decides: the name that a command has in the history, and the groups of a user. What a client
//! says of itself never counts: the user is the socket's peer (`SO_PEERCRED`). If somebody logged
//! in as another user and became this one (sudo, su), the kernel's login uid tells, and both are
//! named: `root@lb1 (login alice)`.

use std::{fs, os::fd::AsFd as _, sync::Arc};

use nines_dataplane::listen;
use nines_model::{AccessRole, printable::clean};
use tokio::net::UnixStream;

/// The user database of this machine; users from elsewhere (LDAP) are known by number.
const USERS: &str = "/etc/passwd";
/// Its groups; those from elsewhere are known by number.
const GROUPS: &str = "/etc/group";
/// A process of which nobody logged in.
const NOBODY: u32 = u32::MAX;

/// The process at the other end of the unix socket.
#[derive(Clone, Debug, Default)]
pub struct User {
    uid: Option<u32>,
    login: Option<u32>,
    groups: Arc<[u32]>,
}

impl User {
    /// Of this process itself.
    fn own() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let uid = fs::metadata("/proc/self").ok().map(|own| own.uid());
        Self { uid, login: login_of("self"), ..Self::default() }
    }

    /// Of a connection.
    pub fn of(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self::default() };
        let login = peer.pid().and_then(|pid| login_of(&pid.to_string()));
        let mut groups = listen::groups_of_peer(stream.as_fd()).unwrap_or_default();
        groups.push(peer.gid());
        Self { uid: Some(peer.uid()), login, groups: groups.into() }
    }

    /// Whose connection it is.
    pub fn uid(&self) -> u32 {
        self.uid.unwrap_or(NOBODY)
    }

    /// Whether it is root, or the user that runs this agent.
    pub fn is_owner(&self, own: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own)
    }

    /// Whether it is in the group with this number.
    pub fn has_group(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }

    /// Says of a group, by name or number, whether the user is in it.
    pub fn groups(&self) -> impl Fn(&str) -> bool {
        self.groups_by(fs::read_to_string(GROUPS).unwrap_or_default())
    }

    fn groups_by(&self, known: String) -> impl Fn(&str) -> bool {
        let own = Arc::clone(&self.groups);
        move |group| {
            let of = |line: &str| {
                let mut parts = line.split(':');
                (parts.next() == Some(group)).then(|| parts.nth(1)?.parse().ok()).flatten()
            };
            let number = group.parse().ok().or_else(|| known.lines().find_map(of));
            number.is_some_and(|number: u32| own.contains(&number))
        }
    }

    fn named(&self, node: &str, users: &str) -> String {
        let Some(uid) = self.uid else { return format!("unknown@{node}") };
        let who = format!("{}@{node}", user(uid, users));
        match self.login.filter(|login| *login != uid) {
            Some(login) => format!("{who} (login {})", user(login, users)),
            None => who,
        }
    }
}

/// Who logged in and started a process, as the kernel knows.
fn login_of(process: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|login| *login != NOBODY)
}

/// Who runs this process, as events name it: for commands that work without an agent.
pub fn this_user(node: &str) -> String {
    Who::User(User::own()).actor(node)
}

/// Who a request is from.
#[derive(Clone, Debug)]
pub enum Who {
    /// A user of this machine.
    User(User),
    /// Whoever has the token of this name.
    Token(String),
}

/// Who a request is from, and what the caller may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The kernel's word, or that of a token.
    pub who: Who,
    /// The role; a caller without one gets no further.
    pub role: AccessRole,
}

impl Who {
    /// "alice@lb1" or "token ci@lb1", as events name it.
    pub fn actor(&self, node: &str) -> String {
        match self {
            Self::User(user) => {
                let users = fs::read_to_string(USERS).unwrap_or_default();
                user.named(node, &users)
            }
            Self::Token(name) => format!("token {name}@{node}"),
        }
    }
}

fn user(uid: u32, users: &str) -> String {
    let of = |line: &&str| line.split(':').nth(2).and_then(|n| n.parse().ok()) == Some(uid);
    let name = users.lines().find(of).and_then(|line| line.split(':').next());
    name.filter(|name| !name.is_empty())
        .map_or_else(|| format!("uid {uid}"), |name| clean(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_the_actor() {
        let users = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        let named = |uid, login| User { uid, login, ..User::default() }.named("lb1", users);
        assert_eq!(named(Some(0), None), "root@lb1");
        assert_eq!(named(Some(1000), Some(1000)), "alice@lb1");
        assert_eq!(named(Some(0), Some(1000)), "root@lb1 (login alice)");
        assert_eq!(named(Some(77), None), "uid 77@lb1");
        assert_eq!(named(None, None), "unknown@lb1");
        assert_eq!(Who::Token("ci".into()).actor("lb1"), "token ci@lb1");
    }

    #[test]
    fn groups_are_known_by_name_and_by_number() {
        let known = "root:x:0:\nops:x:1005:alice\nnine:x:9:\nbroken\nempty:x::\n";
        let user = User { groups: [1005, 77].into(), ..User::default() };
        let is_in = user.groups_by(known.into());
        assert!(is_in("ops") && is_in("1005") && is_in("77"));
        assert!(!["root", "nine", "9", "broken", "empty", "other", ""].iter().any(|g| is_in(g)));
    }

    #[test]
    fn a_connection_tells_its_user() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(async {
            let (one, _other) = UnixStream::pair().unwrap();
            let own = fs::metadata("/proc/self").unwrap();
            let user = User::of(&one);
            assert_eq!(user.uid(), std::os::unix::fs::MetadataExt::uid(&own));
            assert!(user.has_group(std::os::unix::fs::MetadataExt::gid(&own)));
        });
    }
}
