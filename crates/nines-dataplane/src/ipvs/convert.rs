//! A forwarding table in IPVS's words.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use nines_model::{
    Forward, ForwardingTable, Proto, Scheduler, ServerState, TableServer, TableService, Tally,
    Traffic, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{Change, Uncompared, refused};
use crate::Result;

/// IP_VS_SVC_F_PERSISTENT, and so on (include/uapi/linux/ip_vs.h).
pub(super) const PERSISTENT: u32 = 1;
/// Set by the kernel.
pub(super) const HASHED: u32 = 2;
pub(super) const ONE_PACKET: u32 = 4;
/// First flag of a scheduler: sh and mh fall back.
pub(super) const SCHED_1: u32 = 8;
/// Second: they hash the port.
pub(super) const SCHED_2: u32 = 16;

/// Ways to a server: IP_VS_CONN_F_*.
pub const MASQUERADE: u32 = 0;
/// This very machine; the kernel finds out by itself and is never told.
pub const LOCAL: u32 = 1;
/// Tunnel: the packet travels inside another one.
pub const TUNNEL: u32 = 2;
/// Direct routing: only Ethernet addresses change.
pub const DIRECT: u32 = 3;

/// A service without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// "rr", "wlc", ...
    pub scheduler: String,
    /// IP_VS_SVC_F_*, without the kernel's own.
    pub flags: u32,
    /// Of persistence, seconds.
    pub timeout: u32,
    /// Leading bits of a client's address.
    pub prefix: u32,
    /// Name of the persistence engine, "sip" for example; empty: none.
    pub engine: String,
    /// Connections, packets and bytes of the service, counted by IPVS.
    pub tally: Uncompared<Tally>,
    /// The same a second, as IPVS estimates it.
    pub rate: Uncompared<Tally>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dest {
    /// Address and port of the server, which are its name in IPVS.
    pub at: SocketAddr,
    /// [`MASQUERADE`], [`TUNNEL`] or [`DIRECT`].
    pub method: u32,
    /// Share; 0: no new connections.
    pub weight: u32,
    /// No new connection at so many connections or more; 0: no limit.
    pub upper: u32,
    /// New connections again below so many connections.
    pub lower: u32,
    /// Tunnel: 0 IP in IP, 1 GUE, 2 GRE; port; flags (1: checksum, 2: remote checksum).
    pub tunnel: (u8, u16, u16),
    /// Connections, packets and bytes of the server, counted by IPVS.
    pub tally: Uncompared<Tally>,
    /// The same a second, as IPVS estimates it.
    pub rate: Uncompared<Tally>,
    /// Clients that are remembered to be its.
    pub clients: Uncompared<u64>,
}

/// One service with its servers, in the order in which the kernel is told of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The service itself.
    pub service: Service,
    /// Real servers of the service.
    pub dests: Vec<Dest>,
}

/// All of IPVS's tables.
pub type State = BTreeMap<Traffic, Held>;

/// IPVS's scheduler and flags. Maglev of addresses and ports is nearest to mh with the port.
fn scheduler(service: &TableService) -> (String, u32) {
    if service.scheduler == Scheduler::Maglev {
        return ("mh".into(), SCHED_1 | SCHED_2);
    }
    let mut flags = 0;
    if matches!(service.scheduler, Scheduler::Sh | Scheduler::Mh) {
        // A server that takes nothing keeps its places there: others take what would go to it.
        let absent = service.servers.values().any(|s| s.state != ServerState::Up);
        flags |= if service.flags.fallback || absent { SCHED_1 } else { 0 };
        flags |= if service.flags.port { SCHED_2 } else { 0 };
    }
    (service.scheduler.to_string(), flags)
}

/// The name that IPVS has for a server: with a tunnel or direct routing the port is the service's.
pub(super) fn at(service: &TableService, server: &TableServer) -> SocketAddr {
    let port = match service.traffic {
        Traffic::To(listen) if server.addr.port() == 0 => listen.addr.port(),
        _ => server.addr.port(),
    };
    SocketAddr::new(server.addr.ip(), port)
}

fn dest(service: &TableService, server: &TableServer) -> Result<Dest> {
    let (method, tunnel) = match server.forward {
        Forward::Nat => (MASQUERADE, (0, 0, 0)),
        Forward::FullNat => {
            let what = format!("{} cannot be reached by full-nat", server.addr);
            return Err(refused(what, "IPVS has only NAT")
                .next("forward = \"nat\" for that server, or dataplane = \"ebpf\""));
        }
        Forward::Dr | Forward::Local => (DIRECT, (0, 0, 0)),
        Forward::Tunnel(Tunnel { kind, port, checksum }) => {
            let kind = match kind {
                TunnelKind::Ipip => 0,
                TunnelKind::Gue => 1,
                TunnelKind::Gre => 2,
            };
            let flags = match checksum {
                TunnelChecksum::None => 0,
                TunnelChecksum::Full => 1,
                TunnelChecksum::Remote => 2,
            };
            (TUNNEL, (kind, if kind == 1 { port } else { 0 }, flags))
        }
    };
    let at = at(service, server);
    if at.is_ipv6() != service.traffic.is_ipv6() && method != TUNNEL {
        let why = "IPVS mixes IPv4 and IPv6 in tunnels only";
        return Err(refused(format!("{at} cannot serve it"), why)
            .next("forward = \"ipip\" for that server, or dataplane = \"ebpf\""));
    }
    let weight = if server.takes_new() { server.weight } else { 0 };
    let (upper, lower) = (server.limit.upper, server.limit.lower);
    let (tally, rate, clients) = Default::default();
    Ok(Dest { at, method, weight, upper, lower, tunnel, tally, rate, clients })
}

/// What IPVS has no words for.
fn lacks(service: &TableService) -> Result<()> {
    let spread = matches!(service.traffic, Traffic::To(listen) if !listen.is_one());
    for (what, asked) in [
        ("ranges of ports and networks of VIPs", spread),
        ("rate", service.rate.is_some()),
        ("syn-cookies", service.cookies.is_some()),
        ("proxy-protocol", service.servers.values().any(|s| s.proxy)),
        ("quic-id", service.servers.values().any(|s| s.quic_id.is_some())),
    ] {
        if asked {
            let why = "IPVS has nothing of the kind";
            return Err(refused(format!("{what} cannot be kept"), why)
                .next("remove it, or dataplane = \"ebpf\""));
        }
    }
    Ok(())
}

/// A service with its servers as IPVS should hold it.
pub fn held(service: &TableService) -> Result<Held> {
    let (scheduler, mut flags) = scheduler(service);
    if service.one_packet {
        flags |= ONE_PACKET;
    }
    if !service.sources.is_empty() {
        let why = "IPVS has no lists of clients";
        return Err(refused("allow and deny cannot be kept", why)
            .next("nftables' input chain can, or dataplane = \"ebpf\""));
    }
    lacks(service)?;
    let whole = if service.traffic.is_ipv6() { 128 } else { 32 };
    let (timeout, prefix) = match service.persist {
        Some(persist) => {
            flags |= PERSISTENT;
            ((persist.time.0 / 1_000).max(1) as u32, u32::from(persist.prefix))
        }
        None => (0, whole),
    };
    let engine = if service.sip { "sip".into() } else { String::new() };
    let (tally, rate) = Default::default();
    // A server that is added comes before the others in the kernel's list.
    // dh knows no other server for a place: one that is down leaves its list.
    let gone =
        |s: &&TableServer| service.scheduler == Scheduler::Dh && s.state == ServerState::Down;
    let servers = service.servers.values().rev().filter(|s| !gone(s));
    let dests: Result<Vec<Dest>> = servers.map(|s| dest(service, s)).collect();
    let service = Service { scheduler, flags, timeout, prefix, engine, tally, rate };
    Ok(Held { service, dests: dests? })
}

/// What IPVS should hold.
pub fn state(table: &ForwardingTable) -> Result<State> {
    table.services.values().map(|service| Ok((service.traffic, held(service)?))).collect()
}

fn name(traffic: &Traffic) -> String {
    match traffic {
        Traffic::To(listen) => {
            let proto = match listen.proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
                Proto::Sctp => "sctp",
            };
            format!("{}/{proto}", listen.addr)
        }
        Traffic::Marked { mark, v6 } => format!("mark {mark}{}", if *v6 { " (IPv6)" } else { "" }),
    }
}

impl fmt::Display for Change {
    /// For people: what was lacking, or too much, in the kernel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(traffic, _) => write!(f, "service {} was gone", name(traffic)),
            Self::Set(traffic, _) => write!(f, "service {} was another", name(traffic)),
            Self::Remove(traffic) => write!(f, "service {} was not ours", name(traffic)),
            Self::AddDest(traffic, dest) => {
                write!(f, "server {} of {} was gone", dest.at, name(traffic))
            }
            Self::SetDest(traffic, dest) => {
                write!(f, "server {} of {} was another", dest.at, name(traffic))
            }
            Self::RemoveDest(traffic, dest) => {
                write!(f, "server {} of {} was not ours", dest.at, name(traffic))
            }
        }
    }
}

/// An address in 16 bytes, IPv4 in the first four, as `union nf_inet_addr` has it.
pub(super) fn inet(addr: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    match addr {
        IpAddr::V4(a) => bytes[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes.copy_from_slice(&a.octets()),
    }
    bytes
}
