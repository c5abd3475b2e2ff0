//! Who calls the API: what the kernel says of the process at the other end of the unix socket.
//!
//! Decides: the name that a command has in the history. What a client says of itself never counts:
//! the user is the socket's peer (`SO_PEERCRED`). If somebody logged in as another user and became
//! this one (sudo, su), the kernel's login uid tells, and both are named: `root@lb1 (login alice)`.

use std::fs;

use nines_model::printable::clean;
use tokio::net::UnixStream;

/// The user database of this machine; users from elsewhere (LDAP) are known by number.
const USERS: &str = "/etc/passwd";
/// A process of which nobody logged in.
const NOBODY: u32 = u32::MAX;

/// The process at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    uid: Option<u32>,
    login: Option<u32>,
}

impl Caller {
    /// This process itself.
    fn own() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let uid = fs::metadata("/proc/self").ok().map(|own| own.uid());
        Self { uid, login: login_of("self") }
    }

    /// Of a connection.
    pub fn of(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self { uid: None, login: None } };
        let login = peer.pid().and_then(|pid| login_of(&pid.to_string()));
        Self { uid: Some(peer.uid()), login }
    }

    /// Whose connection it is.
    pub fn uid(self) -> u32 {
        self.uid.unwrap_or(NOBODY)
    }

    /// "alice@lb1", as events name it.
    pub fn actor(self, node: &str) -> String {
        let users = fs::read_to_string(USERS).unwrap_or_default();
        self.named(node, &users)
    }

    fn named(self, node: &str, users: &str) -> String {
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
    Caller::own().actor(node)
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
        let named = |uid, login| Caller { uid, login }.named("lb1", users);
        assert_eq!(named(Some(0), None), "root@lb1");
        assert_eq!(named(Some(1000), Some(1000)), "alice@lb1");
        assert_eq!(named(Some(0), Some(1000)), "root@lb1 (login alice)");
        assert_eq!(named(Some(77), None), "uid 77@lb1");
        assert_eq!(named(None, None), "unknown@lb1");
    }

    #[test]
    fn a_connection_tells_its_user() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(async {
            let (one, _other) = UnixStream::pair().unwrap();
            let own = fs::metadata("/proc/self").unwrap();
            assert_eq!(Caller::of(&one).uid(), std::os::unix::fs::MetadataExt::uid(&own));
        });
    }
}
