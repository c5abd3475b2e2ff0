//! `[service.NAME]`: what listens where, on which servers, checked how.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use super::{
    checks::check,
    clients, keys,
    listen::{Taken, listen},
    pool,
    reader::{Reader, Table, Value},
};
use crate::{
    clients::QuicId,
    forward::{Forward, Tunnel, TunnelChecksum, TunnelKind},
    id::ServerName,
    listen::{Listen, Proto},
    spec::{
        Check, CheckKind, Limit, Scheduler, SchedulerFlags, ServerSpec, ServiceSpec, Spec, Vip,
    },
};

/// What a node guards at most.
const VIPS_MAX: usize = 1_024;

/// The key of the forwarding method, and what it names.
const FORWARD: (&str, &str) = ("forward", "forwarding method");
/// The key of the scheduler, and what it names.
const SCHEDULER: (&str, &str) = ("scheduler", "scheduler");

/// What LVS's tools and other balancers call ways to a server.
const FORWARD_ELSEWHERE: &[(&str, &str)] = &[
    ("masq", "nat"),
    ("masquerade", "nat"),
    ("route", "dr"),
    ("gate", "dr"),
    ("direct", "dr"),
    ("dsr", "dr"),
    ("tun", "ipip"),
    ("tunnel", "ipip"),
    ("fullnat", "full-nat"),
    ("snat", "full-nat"),
];
/// What other balancers call schedulers.
const SCHEDULER_ELSEWHERE: &[(&str, &str)] = &[
    ("roundrobin", "rr"),
    ("round-robin", "rr"),
    ("leastconn", "lc"),
    ("least_conn", "lc"),
    ("source", "sh"),
    ("random", "twos"),
];

pub fn services(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
    let Some(section) = r.table(root, "service") else {
        return;
    };
    let (mut taken, mut pools) = (Taken::default(), Vec::new());
    let mut marks = BTreeMap::new();
    for (name, value) in section.entries() {
        r.check_name(&name);
        let Some(table) = r.as_table(&value) else { continue };
        let Some((service, at)) = service(r, &table) else { continue };
        let by_mark = service.mark.map(|mark| (mark, service.listen.addr.is_ipv6()));
        if let Some(by_mark) = by_mark {
            let other = marks.entry(by_mark).or_insert_with(|| name.text.clone());
            if *other != name.text {
                let span = table.get("mark").map_or(0..0, |v| v.span);
                let why = format!("service {other} has mark {} already", by_mark.0);
                r.error(span, why, Some("give one of the two another mark".into()));
            }
        } else if let Err((other, theirs)) = taken.take(service.listen, &name.text) {
            r.error(
                at,
                format!("service {other} listens on {theirs} already"),
                Some("give one of the two another port, address or protocol".into()),
            );
        }
        for vip in service.listen.vips() {
            add_vip(r, spec, vip, &value);
        }
        for source in &service.pool {
            add_vip(r, spec, *source, &value);
        }
        if let Some(value) = table.get("source-pool") {
            pools.push((name.text.clone(), value.span));
        }
        spec.services.insert(name.text.as_str().into(), Arc::new(service));
    }
    for (name, span) in pools {
        pool::lead(r, spec, &name, &span);
    }
    if spec.vips.len() > VIPS_MAX {
        let why = format!("{} VIPs; a cluster has {VIPS_MAX} at most", spec.vips.len());
        r.error(section.span.clone(), why, Some("use fewer or narrower networks".into()));
    }
}

fn add_vip(r: &mut Reader, spec: &mut Spec, vip: IpAddr, value: &Value<'_>) {
    spec.vips.entry(vip).or_insert_with(|| Vip {
        name: None,
        prefix: if vip.is_ipv4() { 32 } else { 128 },
        interface: None,
        prefer: Vec::new(),
        with: None,
    });
    let node = spec.nodes.iter().find(|(_, n)| n.addresses.contains(&vip));
    if let Some(node) = node.map(|(name, _)| name.clone()) {
        r.error(
            value.span.clone(),
            format!("{vip} is the fixed address of node {node}; a VIP moves between nodes"),
            Some("choose an address that no machine has".into()),
        );
    }
}

/// One of them, and where its `listen` stands.
pub(super) fn service(r: &mut Reader, table: &Table<'_>) -> Option<(ServiceSpec, Range<usize>)> {
    r.known(table, keys::SERVICE);
    let listen_value = r.required(table, "listen");
    let listen = listen_value.as_ref().and_then(|v| listen(r, v));
    let forward = match table.get("forward") {
        None => Some(Forward::Dr),
        Some(v) => r.choice_of(&v, FORWARD, &Forward::ALL, FORWARD_ELSEWHERE),
    };
    let tunnel = tunnel(r, table);
    let scheduler = match table.get("scheduler") {
        None => Some(Scheduler::Maglev),
        Some(v) => r.choice_of(&v, SCHEDULER, &Scheduler::ALL, SCHEDULER_ELSEWHERE),
    };
    let persist = listen.and_then(|l| clients::persist(r, table, l));
    let rate = listen.and_then(|l| clients::rate(r, table, l));
    let cookies = listen.and_then(|l| clients::cookies(r, table, l));
    let mark = listen.and_then(|l| mark(r, table, l));
    let sources = listen.map(|l| clients::sources(r, table, l)).unwrap_or_default();
    let check = check(r, table, listen.map_or(Proto::Tcp, |l| l.proto));
    let servers_value = r.required(table, "servers");
    let (listen, forward, scheduler) = (listen?, tunnel.of(forward?), scheduler?);
    let at = listen_value.map_or(0..0, |v| v.span);
    if listen.is_every_port() && persist.is_none() && mark.is_none() {
        let help = "add persist = \"300s\": a client's connections to all ports go to one server";
        r.error(at.clone(), "a service on every port needs persistence", Some(help.into()));
    }
    refuse_check(r, table, listen, &check, &at);
    let proxy = proxy(r, table, listen);
    let pool = pool::pool(r, table, listen);
    let flags = flags(r, table, scheduler);
    // A mark takes UDP as well.
    let asked = Listen { proto: if mark.is_some() { Proto::Udp } else { listen.proto }, ..listen };
    let one_packet = one_packet(r, table, asked);
    let by_call = clients::by_call(r, table, asked);
    let servers =
        servers_value.map(|v| servers(r, &v, asked, mark, forward, &tunnel)).unwrap_or_default();
    let service = ServiceSpec {
        listen,
        mark,
        forward,
        scheduler,
        flags,
        one_packet,
        persist,
        by_call,
        sources,
        rate,
        cookies,
        proxy: proxy.is_some(),
        pool: pool.as_ref().map_or_else(Vec::new, |(pool, _)| pool.clone()),
        servers,
        check,
    };
    let tells = service.servers.values().any(|s| service.tells(s));
    let full_nat = service.servers.values().any(|s| service.forward_of(s) == Forward::FullNat);
    let proxy = proxy.filter(|_| !tells).map(|span| ("proxy-protocol", span));
    let pool = pool.filter(|_| !full_nat).map(|(_, span)| ("source-pool", span));
    for (key, span) in proxy.into_iter().chain(pool) {
        let why = format!("{key} needs full NAT: otherwise servers see the client's own address");
        r.error(span, why, Some("remove it, or set forward = \"full-nat\"".into()));
    }
    Some((service, at))
}

/// Says what the check of a service cannot do where the service listens. `at`: where that is
/// written.
fn refuse_check(
    r: &mut Reader,
    table: &Table<'_>,
    listen: Listen,
    check: &Check,
    at: &Range<usize>,
) {
    let span = table.get("check").map(|v| v.span);
    if check.forwarded && listen.proto != Proto::Tcp {
        let why = format!("way = \"forwarded\" asks over TCP; this service is {}", listen.proto);
        let help = Some("remove way = \"forwarded\"".into());
        r.error(span.clone().unwrap_or(0..0), why, help);
    }
    if listen.one_port().is_none() && check.port.is_none() && check.kind != CheckKind::None {
        let help = Some("add check = { port = 80 }, or check = \"none\"".into());
        let why = "a service on many ports does not say which one is checked";
        r.error(span.unwrap_or_else(|| at.clone()), why, help);
    }
}

/// What a service says of its tunnels.
struct TunnelKeys {
    port: Option<u16>,
    checksum: Option<TunnelChecksum>,
}

impl TunnelKeys {
    fn of(&self, forward: Forward) -> Forward {
        let Forward::Tunnel(mut tunnel) = forward else { return forward };
        if tunnel.kind == TunnelKind::Gue {
            tunnel.port = self.port.unwrap_or(Tunnel::GUE_PORT);
        }
        if tunnel.kind != TunnelKind::Ipip {
            tunnel.checksum = self.checksum.unwrap_or(TunnelChecksum::None);
        }
        Forward::Tunnel(tunnel)
    }
}

fn tunnel(r: &mut Reader, table: &Table<'_>) -> TunnelKeys {
    let words = [("none", TunnelChecksum::None), ("full", TunnelChecksum::Full)];
    TunnelKeys {
        port: r.number(table, "tunnel-port", 1..=65_535).map(|p| p as u16),
        checksum: table.get("tunnel-checksum").and_then(|v| r.choice(&v, &words)),
    }
}

fn flags(r: &mut Reader, table: &Table<'_>, scheduler: Scheduler) -> SchedulerFlags {
    let mut flags = SchedulerFlags::default();
    let Some(value) = table.get("scheduler-flags") else { return flags };
    if !matches!(scheduler, Scheduler::Sh | Scheduler::Mh) {
        let message = format!("scheduler {scheduler} has no flags");
        r.error(value.span.clone(), message, Some("only sh and mh have".into()));
    }
    for (word, span) in r.strings(&value) {
        match word.as_str() {
            "fallback" => flags.fallback = true,
            "port" => flags.port = true,
            _ => r.unknown_word(span, "flag", &word, SchedulerFlags::NAMES.into_iter()),
        }
    }
    flags
}

/// Where `proxy-protocol` stands, if it does.
fn proxy(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<Range<usize>> {
    let value = table.get("proxy-protocol")?;
    r.choice(&value, &[("v2", ())])?;
    if listen.proto != Proto::Tcp {
        r.error(
            value.span.clone(),
            format!("proxy-protocol needs TCP, not {}", listen.proto),
            None,
        );
    }
    Some(value.span)
}

/// `mark`: the rule that sets it says which ports.
fn mark(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<u32> {
    let value = table.get("mark")?;
    let mark = r.number(table, "mark", 1..=u32::MAX)?;
    if !listen.is_every_port() {
        let help = format!(
            "write listen = \"{}\"",
            Listen { last: 0, addr: SocketAddr::new(listen.addr.ip(), 0), ..listen }
        );
        let why = "the rule that sets the mark says which ports it is for";
        r.error(value.span.clone(), why, Some(help));
    }
    if listen.proto != Proto::Tcp {
        let help = format!("write listen = \"{}:*\"", listen.hosts());
        r.error(value.span.clone(), "a service by mark takes every protocol", Some(help));
    }
    if let Some(value) = table.get("syn-cookies") {
        let why = "packets get their mark too late to be asked for a cookie";
        r.error(value.span, why, Some("remove syn-cookies, or use rate".into()));
    }
    if let Some(value) = table.get("proxy-protocol") {
        let why = "a service by mark takes protocols that cannot carry the PROXY header";
        r.error(value.span, why, Some("give TCP's ports a service of their own".into()));
    }
    Some(mark)
}

fn one_packet(r: &mut Reader, table: &Table<'_>, listen: Listen) -> bool {
    let Some(value) = table.get("datagrams") else { return false };
    let single = r.choice(&value, &[("flows", false), ("single", true)]).unwrap_or(false);
    if single && listen.proto != Proto::Udp {
        r.error(value.span, format!("{} has no datagrams", listen.proto), None);
    }
    single
}

fn servers(
    r: &mut Reader,
    value: &Value<'_>,
    listen: Listen,
    mark: Option<u32>,
    service_forward: Forward,
    tunnel: &TunnelKeys,
) -> BTreeMap<ServerName, ServerSpec> {
    let mut servers: BTreeMap<ServerName, ServerSpec> = BTreeMap::new();
    if let Some(first) = value.as_array().and_then(|all| all.first().cloned()) {
        let address = first.as_text().unwrap_or("10.0.0.11");
        let help = format!("write servers = {{ r1 = \"{address}\" }}");
        r.error(value.span.clone(), "every server needs a name", Some(help));
        return servers;
    }
    let Some(table) = r.as_table(value) else {
        return servers;
    };
    if table.entries().is_empty() {
        r.error(value.span.clone(), "a service needs at least one server", None);
    }
    for (name, value) in table.entries() {
        r.check_name(&name);
        let (mut weight, mut own, mut limit, mut sorry) = (1, None, Limit::default(), false);
        let mut quic = None;
        let at = match value.as_table() {
            Some(inner) => {
                r.known(&inner, keys::SERVER);
                weight = r.number(&inner, "weight", 0..=65_535).unwrap_or(1);
                own = inner
                    .get("forward")
                    .and_then(|v| r.choice_of(&v, FORWARD, &Forward::ALL, FORWARD_ELSEWHERE));
                limit = self::limit(r, &inner);
                quic = quic_id(r, &inner, listen, &servers);
                let roles = [("real", false), ("sorry", true)];
                sorry = inner.get("role").and_then(|v| r.choice(&v, &roles)).unwrap_or(false);
                r.required(&inner, "address")
            }
            None => Some(value.clone()),
        };
        let own = own.map(|f| tunnel.of(f));
        let Some(at) = at else { continue };
        let forward = own.unwrap_or(service_forward);
        let Some(addr) = server_addr(r, &at, (listen, mark), forward) else { continue };
        let many = mark.is_some() || listen.prefix < 128;
        if forward == Forward::Nat && addr.is_ipv6() && many && !addr.ip().is_loopback() {
            let why = "NAT of IPv6 needs a service with one address";
            r.error(at.span, why, Some("use full-nat, dr or a tunnel".into()));
            continue;
        }
        if let Some((other, _)) = servers.iter().find(|(_, s)| s.addr == addr) {
            r.error(at.span, format!("{addr} is server {other} already"), None);
            continue;
        }
        let server = ServerSpec { addr, forward: own, weight, limit, quic_id: quic, sorry };
        servers.insert(name.text.into(), server);
    }
    if !servers.is_empty() && servers.values().all(|s| s.sorry) {
        let help = Some("remove role where the service's own servers are".into());
        r.error(value.span.clone(), "every server is a sorry server", help);
    }
    servers
}

/// Ids of one service have one length, and no server another's.
fn quic_id(
    r: &mut Reader,
    server: &Table<'_>,
    listen: Listen,
    others: &BTreeMap<ServerName, ServerSpec>,
) -> Option<QuicId> {
    let value = server.get("quic-id")?;
    let text = r.string(&value)?;
    let Some(id) = QuicId::parse(&text) else {
        let help = "write one to eight bytes in hexadecimal, as \"0a01\"";
        r.error(value.span, format!("\"{text}\" is not a valid server id"), Some(help.into()));
        return None;
    };
    let mut known = others.iter().filter_map(|(name, s)| Some((name, s.quic_id?)));
    let why = match known.find(|(_, other)| other.bytes != id.bytes || *other == id) {
        _ if listen.proto != Proto::Udp => format!("QUIC needs UDP, not {}", listen.proto),
        Some((name, other)) if other == id => format!("{id} is server {name}'s already"),
        Some((name, other)) => format!("{id} is not as long as server {name}'s {other}"),
        None => return Some(id),
    };
    r.error(value.span, why, None);
    None
}

fn limit(r: &mut Reader, server: &Table<'_>) -> Limit {
    let mut number = |key| r.number(server, key, 1..=4_000_000_000).unwrap_or(0);
    let (upper, lower) = (number("upper"), number("lower"));
    if lower != 0 && (upper == 0 || lower > upper) {
        let span = server.get("lower").map_or(server.span.clone(), |v| v.span);
        r.error(span, "lower must be at most upper, and means nothing without it", None);
    }
    Limit { upper, lower }
}

fn server_addr(
    r: &mut Reader,
    value: &Value<'_>,
    (listen, mark): (Listen, Option<u32>),
    forward: Forward,
) -> Option<SocketAddr> {
    let text = r.string(value)?;
    let port = listen.one_port().unwrap_or(0);
    let addr = text
        .parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, port))
        .or_else(|_| text.parse::<SocketAddr>());
    let Ok(addr) = addr else {
        r.error(
            value.span.clone(),
            format!("\"{text}\" is not a valid address"),
            Some("write \"10.0.0.11\", or \"10.0.0.11:8080\" with forward = \"nat\"".into()),
        );
        return None;
    };
    if addr.is_ipv4() != listen.addr.is_ipv4() && !matches!(forward, Forward::Tunnel(_)) {
        r.error(
            value.span.clone(),
            format!("{} and {} are of different families", addr.ip(), listen.addr.ip()),
            Some("only a tunnel leads from one family to the other: forward = \"ipip\"".into()),
        );
        return None;
    }
    if listen.has(addr.ip()) {
        r.error(value.span.clone(), "a server cannot be the VIP itself", None);
        return None;
    }
    let mapped = addr.port() != port;
    if mapped && addr.ip().is_loopback() {
        let why = "packets for the director itself keep their port";
        r.error(value.span.clone(), why, Some("remove the port".into()));
        return None;
    }
    if mapped && port == 0 && mark.is_none() {
        let message = "a service on many ports keeps the client's port";
        r.error(value.span.clone(), message, Some("remove the port".into()));
        return None;
    }
    if !forward.translates() && mapped {
        r.error(
            value.span.clone(),
            format!(
                "only NAT maps ports: with forward = \"{forward}\" the server gets port {port}"
            ),
            Some("remove the port, or set forward = \"nat\"".into()),
        );
        return None;
    }
    Some(addr)
}
