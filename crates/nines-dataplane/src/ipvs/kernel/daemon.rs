//! IPVS's sync daemons: a master tells of connections by multicast, a backup listens.
//!
//! Decides: that a director of nines runs both, with sync id 0. A backup with id 0 listens to every
//! master; one with another id only to masters with that id.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::NLM_F_DUMP;

use super::{AF_INET, AF_INET6, Attributes, DAEMON, Ipvs, command, nested, nla};
use crate::{Result, privileged};

/// Attributes of a sync daemon: IPVS_DAEMON_ATTR_* of linux/ip_vs.h.
mod of {
    pub const STATE: u16 = 1;
    pub const INTERFACE: u16 = 2;
    pub const SYNC_ID: u16 = 3;
    pub const LEN_MAX: u16 = 4;
    pub const GROUP: u16 = 5;
    pub const GROUP_V6: u16 = 6;
    pub const PORT: u16 = 7;
    pub const TTL: u16 = 8;
}

/// What a daemon does: IP_VS_STATE_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends the connections of this director (IP_VS_STATE_MASTER).
    Master,
    /// Receives the connections of other directors (IP_VS_STATE_BACKUP).
    Backup,
}

impl Role {
    /// In the order in which the kernel lists them.
    pub const ALL: [Self; 2] = [Self::Master, Self::Backup];

    fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

/// A daemon. Numbers that are 0 and a group that is none are for the kernel to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemon {
    /// What it does.
    pub role: Role,
    /// Name of the interface that the messages go through.
    pub interface: String,
    /// Whose connections; 0: anybody's.
    pub sync_id: u32,
    /// Bytes of a message.
    pub len_max: u16,
    /// Multicast group that messages go to; `None`: the kernel's default.
    pub group: Option<IpAddr>,
    /// UDP port that messages go to; 0: the kernel's default.
    pub port: u16,
    /// Routers that may be between.
    pub ttl: u8,
}

impl SyncDaemon {
    /// As IPVS has it where nobody asks for more.
    pub fn new(role: Role, interface: &str) -> Self {
        let (sync_id, len_max, group, port, ttl) = Default::default();
        Self { role, interface: interface.to_owned(), sync_id, len_max, group, port, ttl }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let all = Attributes::of(bytes);
        let state = all.u32(of::STATE);
        let group = all.addr(of::GROUP, AF_INET).or_else(|| all.addr(of::GROUP_V6, AF_INET6));
        Some(Self {
            role: Role::ALL.into_iter().find(|role| role.number() == state)?,
            interface: all.text(of::INTERFACE),
            sync_id: all.u32(of::SYNC_ID),
            len_max: all.u16(of::LEN_MAX),
            group: group.filter(|group| *group != Ipv4Addr::UNSPECIFIED),
            port: all.u16(of::PORT),
            ttl: all.u8(of::TTL),
        })
    }
}

impl Ipvs {
    /// The daemons that run here.
    pub fn daemons(&self) -> io::Result<Vec<SyncDaemon>> {
        let found = self.ask(command::GET_DAEMON, Vec::new(), NLM_F_DUMP)?;
        let one = |a: &super::Generic| SyncDaemon::read(Attributes::of(&a.bytes).get(DAEMON)?);
        Ok(found.iter().filter_map(one).collect())
    }

    /// Starts a sync daemon. Fails if one with this role runs.
    pub fn start_daemon(&self, daemon: &SyncDaemon) -> io::Result<()> {
        let mut all = vec![
            nla(of::STATE, daemon.role.number().to_ne_bytes()),
            nla(of::INTERFACE, format!("{}\0", daemon.interface).into_bytes()),
            nla(of::SYNC_ID, daemon.sync_id.to_ne_bytes()),
        ];
        if daemon.len_max != 0 {
            all.push(nla(of::LEN_MAX, daemon.len_max.to_ne_bytes()));
        }
        match daemon.group {
            Some(IpAddr::V4(group)) => all.push(nla(of::GROUP, group.octets())),
            Some(IpAddr::V6(group)) => all.push(nla(of::GROUP_V6, group.octets())),
            None => {}
        }
        if daemon.port != 0 {
            all.push(nla(of::PORT, daemon.port.to_ne_bytes()));
        }
        if daemon.ttl != 0 {
            all.push(nla(of::TTL, [daemon.ttl]));
        }
        self.ask(command::NEW_DAEMON, vec![nested(DAEMON, &all)], 0).map(drop)
    }

    /// Ends the sync daemon with this role. Fails if none runs.
    pub fn stop_daemon(&self, role: Role) -> io::Result<()> {
        let state = nla(of::STATE, role.number().to_ne_bytes());
        self.ask(command::DEL_DAEMON, vec![nested(DAEMON, &[state])], 0).map(drop)
    }

    /// Tells other directors of connections and listens to theirs, by IPVS's own multicast (sync
    /// id 0: from anybody), on this interface; `None` ends it.
    pub fn synchronise(&self, on: Option<&str>) -> Result<()> {
        for role in Role::ALL {
            let (done, fine) = match on {
                Some(interface) => {
                    (self.start_daemon(&SyncDaemon::new(role, interface)), libc::EEXIST)
                }
                None => (self.stop_daemon(role), libc::ESRCH),
            };
            match done {
                Err(e) if e.raw_os_error() != Some(fine) => {
                    let what = "IPVS does not tell other directors of connections";
                    return Err(privileged(what.into(), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
