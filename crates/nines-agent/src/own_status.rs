//! What an agent says of its own node: how it forwards, and what is wrong.
//!
//! Decides: what people hear of first when several things are wrong, and what they can do about it.

use std::net::IpAddr;

/// VIPs that this machine cannot serve, by reason.
pub type Unfit = Vec<(String, Vec<IpAddr>)>;

/// How this node forwards, for people.
#[derive(Clone, Debug, Default)]
pub struct OwnStatus {
    /// The packet path.
    pub path: String,
    /// What keeps it from forwarding as the config asks; empty: nothing.
    pub trouble: String,
    /// What a person can do about that.
    pub next: String,
    /// What keeps it from being a real server of the other directors; empty: nothing.
    pub serving: String,
    /// Which of its own addresses it waits for; empty: none.
    pub absent: String,
    /// A program that takes VIPs away again and again; empty: none.
    pub fight: String,
    /// What is wrong with its certificate; empty: nothing.
    pub certificate: String,
    /// VIPs that it could not serve now, by reason.
    pub unfit: Unfit,
    /// It is a witness.
    pub witness: bool,
    /// The cluster it is a member of, also before it has the log.
    pub cluster: String,
    /// Generation of that cluster.
    pub generation: u64,
}

impl OwnStatus {
    /// What people hear first of what is wrong.
    pub fn worst(&self) -> &str {
        let all = [&self.absent, &self.trouble, &self.fight, &self.serving, &self.certificate];
        all.into_iter().find(|one| !one.is_empty()).map_or("", String::as_str)
    }

    /// What a person can do about that.
    pub fn worst_next(&self) -> String {
        let worst = self.worst();
        if worst.is_empty() || worst == self.trouble || worst == self.serving {
            self.next.clone()
        } else if worst == self.absent {
            "ip -brief address; the agent goes on by itself when the address is there".into()
        } else if worst == self.certificate {
            "see why it is not renewed: journalctl -u nines; TCP must reach a director".into()
        } else {
            "see what changes it: ip monitor address; a network manager keeps what its own \
             configuration names"
                .into()
        }
    }
}
