//! Nodes, VIPs and services of a config in the form that the log holds, and back.
//!
//! Decides: the names of words in the log. What has no name here, or a name that this build does
//! not know, is an error and never a guess (S27).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use nines_model::{
    Backend, Check, CheckKind, ClientRate, Codes as _, Forward, IdleLimits, Limit, Listen, Millis,
    NodeName, NodeSpec, Persist, Proto, QuicId, Rate, Role, Scheduler, SchedulerFlags, ServerName,
    ServerSpec, ServiceSpec, Spec, Timing, Tunnel, TunnelChecksum, Vip,
};

use crate::wire::{
    CheckEntry, ForwardEntry, General, NodeEntry, RateEntry, ServerEntry, ServiceEntry, Socket,
    SourceEntry, VipEntry,
};

mod access;
mod fence;

/// Protocols, by their number in the IP header.
const PROTOCOLS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];
/// Checksums of tunnels, by their number in the log.
const CHECKSUMS: [TunnelChecksum; 3] =
    [TunnelChecksum::None, TunnelChecksum::Full, TunnelChecksum::Remote];

/// Kinds of health checks, by their name in the log.
const CHECKS: [(&str, CheckName); 5] = [
    ("none", CheckName::None),
    ("tcp", CheckName::Tcp),
    ("udp", CheckName::Udp),
    ("http", CheckName::Http { tls: false }),
    ("https", CheckName::Http { tls: true }),
];

/// A kind of health check, without what it asks for.
#[derive(Clone, Copy, PartialEq)]
enum CheckName {
    None,
    Tcp,
    Udp,
    Http { tls: bool },
}

/// The word of this name.
fn word<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, word)| *word)
}

/// The name of this word.
fn name<T: PartialEq>(all: &[(&'static str, T)], word: &T) -> String {
    all.iter().find(|(_, known)| known == word).map_or("", |(name, _)| name).to_owned()
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

pub(super) fn addr(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

fn addrs(all: &[Vec<u8>]) -> Option<Vec<IpAddr>> {
    all.iter().map(|octets| addr(octets)).collect()
}

fn socket(addr: SocketAddr) -> Option<Socket> {
    Some(Socket { addr: octets(addr.ip()), port: addr.port().into() })
}

fn socket_addr(socket: Option<&Socket>) -> Option<SocketAddr> {
    let Socket { addr: ip, port } = socket?;
    Some(SocketAddr::new(addr(ip)?, port_number(*port)?))
}

fn port_number(port: u32) -> Option<u16> {
    u16::try_from(port).ok()
}

pub(super) fn general(spec: &Spec) -> General {
    let Spec { name, nodes: _, vips: _, services: _, timing, flows, backend, .. } = spec;
    let Spec { idle, fence: devices, fencing: how, watchdog, access, .. } = spec;
    let Timing { beat, lease, election, restart } = timing;
    let IdleLimits { tcp, fin, udp } = idle;
    General {
        name: name.clone(),
        beat: beat.0,
        lease: lease.0,
        election: election.0,
        restart: restart.0,
        flows: *flows,
        backend: backend.to_string(),
        idle_tcp: *tcp,
        idle_fin: *fin,
        idle_udp: *udp,
        fence: devices.iter().map(|(name, one)| fence::device(name.as_str(), one)).collect(),
        fencing: fence::fencing(*how),
        watchdog: watchdog.clone().unwrap_or_default(),
        access: access.as_ref().map(access::access),
    }
}

pub(super) fn read_general(general: &General, spec: &mut Spec) -> Option<()> {
    let General { name, beat, lease, election, restart, flows, backend, .. } = general;
    let General { idle_tcp, idle_fin, idle_udp, fence: devices, fencing: how, access, .. } =
        general;
    let [beat, lease, election, restart] = [*beat, *lease, *election, *restart].map(Millis);
    spec.name.clone_from(name);
    spec.timing = Timing { beat, lease, election, restart };
    spec.flows = *flows;
    spec.backend = word(&Backend::ALL, backend)?;
    spec.idle = IdleLimits { tcp: *idle_tcp, fin: *idle_fin, udp: *idle_udp };
    spec.fence = devices.iter().map(fence::read_device).collect();
    spec.fencing = fence::read_fencing(how.as_ref());
    spec.watchdog = Some(general.watchdog.clone()).filter(|path| !path.is_empty());
    spec.access = access.as_ref().map(access::read_access);
    Some(())
}

pub(super) fn node(name: &str, node: &NodeSpec) -> NodeEntry {
    let NodeSpec { role, addresses, fence: levels, watchdog } = node;
    let addresses = addresses.iter().map(|addr| octets(*addr)).collect();
    let (name, role, fence) = (name.to_owned(), role.code().to_owned(), fence::levels(levels));
    let watchdog = watchdog.as_ref().map(fence::watchdog);
    NodeEntry { name, role, addresses, fence, watchdog }
}

pub(super) fn read_node(node: &NodeEntry) -> Option<NodeSpec> {
    let NodeEntry { name: _, role, addresses, fence: levels, watchdog } = node;
    let (role, fence) = (Role::from_code(role)?, fence::read_levels(levels));
    let watchdog = watchdog.as_ref().map(|path| fence::read_watchdog(path));
    Some(NodeSpec { role, addresses: addrs(addresses)?, fence, watchdog })
}

pub(super) fn vip(addr: IpAddr, vip: &Vip) -> VipEntry {
    let Vip { name, prefix, interface, prefer, with } = vip.clone();
    let (addr, prefix, with) = (octets(addr), prefix.into(), with.map(octets));
    let prefer = prefer.iter().map(ToString::to_string).collect();
    VipEntry { addr, name, prefix, interface, prefer, with }
}

pub(super) fn read_vip(vip: &VipEntry) -> Option<(IpAddr, Vip)> {
    let VipEntry { addr: octets, name, prefix, interface, prefer, with } = vip.clone();
    let with = match with {
        Some(with) => Some(addr(&with)?),
        None => None,
    };
    let prefix = u8::try_from(prefix).ok()?;
    let prefer = prefer.into_iter().map(NodeName::from).collect();
    Some((addr(&octets)?, Vip { name, prefix, interface, prefer, with }))
}

/// The names of ways that need no more than their name; of a tunnel, the one with its defaults.
fn plain(forward: Forward) -> Forward {
    match forward {
        Forward::Tunnel(tunnel) => Forward::Tunnel(Tunnel::new(tunnel.kind)),
        other => other,
    }
}

fn forward(forward: Forward) -> ForwardEntry {
    let way = name(&Forward::ALL, &plain(forward));
    let Forward::Tunnel(Tunnel { kind: _, port, checksum }) = forward else {
        return ForwardEntry { way, port: 0, checksum: 0 };
    };
    let checksum = CHECKSUMS.iter().position(|known| *known == checksum).unwrap_or(CHECKSUMS.len());
    ForwardEntry { way, port: port.into(), checksum: checksum as u32 }
}

fn read_forward(entry: &ForwardEntry) -> Option<Forward> {
    let ForwardEntry { way, port, checksum } = entry;
    let mut forward = word(&Forward::ALL, way)?;
    if let Forward::Tunnel(tunnel) = &mut forward {
        tunnel.port = port_number(*port)?;
        tunnel.checksum = *CHECKSUMS.get(*checksum as usize)?;
    }
    Some(forward)
}

fn server(name: &str, server: &ServerSpec) -> ServerEntry {
    let ServerSpec { addr, forward: own, weight, limit, quic_id, sorry } = server;
    let Limit { upper, lower } = limit;
    let quic = quic_id.unwrap_or(QuicId { bytes: 0, id: 0 });
    ServerEntry {
        name: name.to_owned(),
        addr: socket(*addr),
        forward: own.map(forward),
        weight: *weight,
        upper: *upper,
        lower: *lower,
        quic_bytes: quic.bytes.into(),
        quic_id: quic.id,
        sorry: *sorry,
    }
}

fn read_server(server: &ServerEntry) -> Option<ServerSpec> {
    let ServerEntry { addr, forward, weight, upper, lower, quic_bytes, quic_id, sorry, .. } =
        server;
    let bytes = u8::try_from(*quic_bytes).ok()?;
    Some(ServerSpec {
        addr: socket_addr(addr.as_ref())?,
        forward: match forward {
            Some(forward) => Some(read_forward(forward)?),
            None => None,
        },
        weight: *weight,
        limit: Limit { upper: *upper, lower: *lower },
        quic_id: (bytes > 0).then_some(QuicId { bytes, id: *quic_id }),
        sorry: *sorry,
    })
}

fn check(check: &Check) -> CheckEntry {
    let Check { kind, port, every, timeout, rise, fall, forwarded } = check;
    let mut entry = CheckEntry {
        kind: String::new(),
        port: port.map(u32::from),
        every: every.0,
        timeout: timeout.0,
        rise: *rise,
        fall: *fall,
        forwarded: *forwarded,
        ..CheckEntry::default()
    };
    let kind = match kind {
        CheckKind::None => CheckName::None,
        CheckKind::Tcp => CheckName::Tcp,
        CheckKind::Udp => CheckName::Udp,
        CheckKind::Http { tls, path, host, status, contains } => {
            entry.path.clone_from(path);
            entry.host.clone_from(host);
            entry.status = (*status).into();
            entry.contains.clone_from(contains);
            CheckName::Http { tls: *tls }
        }
    };
    entry.kind = name(&CHECKS, &kind);
    entry
}

fn read_check(entry: &CheckEntry) -> Option<Check> {
    let CheckEntry { kind, port, every, timeout, rise, fall, forwarded, .. } = entry;
    let CheckEntry { path, host, status, contains, .. } = entry;
    let kind = match word(&CHECKS, kind)? {
        CheckName::None => CheckKind::None,
        CheckName::Tcp => CheckKind::Tcp,
        CheckName::Udp => CheckKind::Udp,
        CheckName::Http { tls } => CheckKind::Http {
            tls,
            path: path.clone(),
            host: host.clone(),
            status: u16::try_from(*status).ok()?,
            contains: contains.clone(),
        },
    };
    let port = match port {
        Some(port) => Some(port_number(*port)?),
        None => None,
    };
    let (every, timeout) = (Millis(*every), Millis(*timeout));
    let (rise, fall, forwarded) = (*rise, *fall, *forwarded);
    Some(Check { kind, port, every, timeout, rise, fall, forwarded })
}

fn rate(rate: Rate) -> RateEntry {
    RateEntry { count: rate.count, seconds: rate.seconds, burst: 0, prefix: 0 }
}

fn read_rate(rate: &RateEntry) -> Rate {
    Rate { count: rate.count, seconds: rate.seconds }
}

fn client_rate(of: ClientRate) -> RateEntry {
    RateEntry { burst: of.burst, prefix: of.prefix.into(), ..rate(of.rate) }
}

fn read_client_rate(entry: &RateEntry) -> Option<ClientRate> {
    let prefix = u8::try_from(entry.prefix).ok()?;
    Some(ClientRate { rate: read_rate(entry), burst: entry.burst, prefix })
}

pub(super) fn service(name: &str, service: &ServiceSpec) -> ServiceEntry {
    let ServiceSpec {
        listen,
        mark,
        forward: way,
        scheduler,
        flags: SchedulerFlags { fallback, port: by_port },
        one_packet,
        persist,
        by_call,
        sources,
        rate: of_client,
        cookies,
        pool,
        proxy,
        servers,
        check: checked,
    } = service;
    let Listen { addr, last, prefix, proto } = listen;
    let source = |((addr, prefix), allow): (&(IpAddr, u8), &bool)| SourceEntry {
        addr: octets(*addr),
        prefix: (*prefix).into(),
        allow: *allow,
    };
    ServiceEntry {
        name: name.to_owned(),
        listen: socket(*addr),
        last: (*last).into(),
        prefix: (*prefix).into(),
        proto: proto.number().into(),
        mark: *mark,
        forward: Some(forward(*way)),
        scheduler: scheduler.to_string(),
        fallback: *fallback,
        by_port: *by_port,
        one_packet: *one_packet,
        persist_time: persist.map(|persist| persist.time.0),
        persist_prefix: persist.map_or(0, |persist| persist.prefix.into()),
        by_call: *by_call,
        sources: sources.iter().map(source).collect(),
        rate: of_client.map(client_rate),
        cookies: cookies.map(rate),
        pool: pool.iter().map(|addr| octets(*addr)).collect(),
        proxy: *proxy,
        servers: servers.iter().map(|(name, spec)| server(name.as_str(), spec)).collect(),
        check: Some(check(checked)),
    }
}

fn read_listen(entry: &ServiceEntry) -> Option<Listen> {
    let proto = PROTOCOLS.into_iter().find(|proto| u32::from(proto.number()) == entry.proto)?;
    Some(Listen {
        addr: socket_addr(entry.listen.as_ref())?,
        last: port_number(entry.last)?,
        prefix: u8::try_from(entry.prefix).ok()?,
        proto,
    })
}

pub(super) fn read_service(entry: &ServiceEntry) -> Option<Arc<ServiceSpec>> {
    let mut servers = BTreeMap::new();
    for server in &entry.servers {
        servers.insert(ServerName::from(server.name.as_str()), read_server(server)?);
    }
    let mut sources = BTreeMap::new();
    for SourceEntry { addr: octets, prefix, allow } in &entry.sources {
        sources.insert((addr(octets)?, u8::try_from(*prefix).ok()?), *allow);
    }
    let persist = match entry.persist_time {
        Some(time) => {
            let prefix = u8::try_from(entry.persist_prefix).ok()?;
            Some(Persist { time: Millis(time), prefix })
        }
        None => None,
    };
    Some(Arc::new(ServiceSpec {
        listen: read_listen(entry)?,
        mark: entry.mark,
        forward: read_forward(entry.forward.as_ref()?)?,
        scheduler: word(&Scheduler::ALL, &entry.scheduler)?,
        flags: SchedulerFlags { fallback: entry.fallback, port: entry.by_port },
        one_packet: entry.one_packet,
        persist,
        by_call: entry.by_call,
        sources,
        rate: match &entry.rate {
            Some(rate) => Some(read_client_rate(rate)?),
            None => None,
        },
        cookies: entry.cookies.as_ref().map(read_rate),
        pool: addrs(&entry.pool)?,
        proxy: entry.proxy,
        servers,
        check: read_check(entry.check.as_ref()?)?,
    }))
}
