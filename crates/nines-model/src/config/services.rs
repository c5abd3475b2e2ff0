//! `[service.NAME]`: what listens where, on which servers, checked how.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    keys,
    reader::{Reader, Table, Value},
};
use crate::{
    forward::{Forward, Tunnel, TunnelChecksum, TunnelKind},
    spec::{
        Check, CheckKind, Limit, Listen, Persist, Proto, Scheduler, SchedulerFlags, ServerSpec,
        ServiceSpec, Sources, Spec, Vip,
    },
};

pub fn services(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
    let Some(section) = r.table(root, "service") else {
        return;
    };
    let mut taken: BTreeMap<Listen, String> = BTreeMap::new();
    for (name, value) in section.entries() {
        r.check_name(&name);
        let Some(table) = r.as_table(&value) else { continue };
        let Some((service, at)) = service(r, &table) else { continue };
        if let Some(other) = taken.insert(service.listen, name.text.clone()) {
            r.error(
                at,
                format!("service {other} listens on {} already", service.listen),
                Some("give one of the two another port, address or protocol".into()),
            );
        }
        let vip = service.listen.addr.ip();
        spec.vips.entry(vip).or_insert_with(|| Vip {
            name: None,
            prefix: if vip.is_ipv4() { 32 } else { 128 },
            interface: None,
            prefer: Vec::new(),
        });
        if let Some(node) =
            spec.nodes.iter().find(|(_, n)| n.addresses.contains(&vip)).map(|(n, _)| n.clone())
        {
            r.error(
                value.span.clone(),
                format!("{vip} is the fixed address of node {node}; a VIP moves between nodes"),
                Some("choose an address that no machine has".into()),
            );
        }
        spec.services.insert(name.text.clone(), service);
    }
}

fn service(r: &mut Reader, table: &Table<'_>) -> Option<(ServiceSpec, std::ops::Range<usize>)> {
    r.known(table, keys::SERVICE);
    let listen_value = r.required(table, "listen");
    let listen = listen_value.as_ref().and_then(|v| listen(r, v));
    let forward = match table.get("forward") {
        None => Some(Forward::Dr),
        Some(v) => r.choice(&v, &Forward::ALL),
    };
    let tunnel = tunnel(r, table);
    let scheduler = match table.get("scheduler") {
        None => Some(Scheduler::Maglev),
        Some(v) => r.choice(&v, &Scheduler::ALL),
    };
    let persist = listen.and_then(|l| persist(r, table, l));
    let sources = listen.map(|l| sources(r, table, l)).unwrap_or_default();
    let check = check(r, table);
    let servers_value = r.required(table, "servers");
    let (listen, forward, scheduler) = (listen?, tunnel.of(forward?), scheduler?);
    if check.forwarded && listen.proto != Proto::Tcp {
        let span = table.get("check").map_or(0..0, |v| v.span);
        let help = Some("leave way = \"forwarded\" away".into());
        r.error(
            span,
            format!("only TCP answers a question that is not {}'s own", listen.proto),
            help,
        );
    }
    if listen.addr.port() == 0 && persist.is_none() {
        let span = listen_value.as_ref().map_or(0..0, |v| v.span.clone());
        let help = "add persist = \"300s\": a client's connections to all ports go to one server";
        r.error(span, "a service on every port needs persistence", Some(help.into()));
    }
    if listen.addr.port() == 0 && check.port.is_none() && check.kind != CheckKind::None {
        let span = table.get("check").or(listen_value.clone()).map_or(0..0, |v| v.span);
        let help = Some("add check = { port = 80 }, or check = \"none\"".into());
        r.error(span, "a service on every port does not say which one is checked", help);
    }
    let flags = flags(r, table, scheduler);
    let one_packet = one_packet(r, table, listen);
    let servers =
        servers_value.map(|v| servers(r, &v, listen, forward, &tunnel)).unwrap_or_default();
    let service = ServiceSpec {
        listen,
        forward,
        scheduler,
        flags,
        one_packet,
        persist,
        sources,
        servers,
        check,
    };
    Some((service, listen_value.map_or(0..0, |v| v.span)))
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

fn one_packet(r: &mut Reader, table: &Table<'_>, listen: Listen) -> bool {
    let Some(value) = table.get("datagrams") else { return false };
    let single = r.choice(&value, &[("flows", false), ("single", true)]).unwrap_or(false);
    if single && listen.proto != Proto::Udp {
        r.error(value.span, format!("{} has no datagrams", listen.proto), None);
    }
    single
}

fn persist(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<Persist> {
    let whole = if listen.addr.is_ipv4() { 32 } else { 128 };
    let prefix = r.number(table, "persist-prefix", 1..=whole);
    let Some(value) = table.get("persist") else {
        if let Some(value) = table.get("persist-prefix") {
            let help = Some("add persist = \"300s\"".into());
            r.error(value.span, "persist-prefix without persist means nothing", help);
        }
        return None;
    };
    let time = r.millis(table, "persist")?;
    if !(1_000..=30 * 86_400_000).contains(&time.0) {
        r.error(value.span, "persist must be 1s to 30 days", None);
        return None;
    }
    Some(Persist { time, prefix: prefix.unwrap_or(whole) as u8 })
}

/// `allow` and `deny`: who is in no list may come, unless there is a list of those who may.
fn sources(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Sources {
    let mut sources = Sources::new();
    for (key, may) in [("allow", true), ("deny", false)] {
        let Some(value) = table.get(key) else { continue };
        for (text, span) in r.strings(&value) {
            let whole = if listen.addr.is_ipv4() { 32 } else { 128 };
            let (addr, prefix) = text.split_once('/').unwrap_or((&text, ""));
            let prefix = if prefix.is_empty() { Ok(whole) } else { prefix.parse::<u8>() };
            let (Ok(addr), Ok(prefix)) = (addr.parse::<IpAddr>(), prefix) else {
                let help = "write \"192.0.2.0/24\", or one address";
                r.error(span, format!("\"{text}\" is no network"), Some(help.into()));
                continue;
            };
            if addr.is_ipv4() != listen.addr.is_ipv4() || prefix > whole {
                let why = format!("\"{text}\" is no network of {}'s family", listen.addr.ip());
                r.error(span, why, None);
                continue;
            }
            if sources.insert((network(addr, prefix), prefix), may) == Some(!may) {
                r.error(span, format!("{text} is in allow and in deny"), None);
            }
        }
    }
    if table.get("allow").is_some() {
        let any = if listen.addr.is_ipv4() {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        };
        sources.entry((any, 0)).or_insert(false);
    }
    sources
}

/// The address without the bits behind the prefix.
fn network(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

fn listen(r: &mut Reader, value: &Value<'_>) -> Option<Listen> {
    let text = r.string(value)?;
    let (addr, proto) = text.rsplit_once('/').unwrap_or((text.as_str(), "tcp"));
    let proto = match proto {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        "sctp" => Proto::Sctp,
        other => {
            let message =
                format!("\"{other}\" is no protocol nines balances; use tcp, udp or sctp");
            r.error(value.span.clone(), message, None);
            return None;
        }
    };
    let wrong =
        |r: &mut Reader, why: String| {
            r.error(
            value.span.clone(),
            why,
            Some("write address:port/protocol, as \"10.0.0.100:80/tcp\" or \"[2001:db8::1]:53/udp\""
                .into()),
        );
        };
    let every = addr.strip_suffix(":*").map(|host| format!("{host}:0"));
    match every.as_deref().unwrap_or(addr).parse::<SocketAddr>() {
        Ok(addr) if addr.port() == 0 && every.is_none() => {
            wrong(r, "port 0 is no port; every port is *".into());
            None
        }
        Ok(addr) => Some(Listen { addr, proto }),
        Err(_) => {
            wrong(r, format!("\"{text}\" is no address and port"));
            None
        }
    }
}

fn servers(
    r: &mut Reader,
    value: &Value<'_>,
    listen: Listen,
    service_forward: Forward,
    tunnel: &TunnelKeys,
) -> BTreeMap<String, ServerSpec> {
    let mut servers: BTreeMap<String, ServerSpec> = BTreeMap::new();
    let Some(table) = r.as_table(value) else {
        return servers;
    };
    if table.entries().is_empty() {
        r.error(value.span.clone(), "a service needs at least one server", None);
    }
    for (name, value) in table.entries() {
        r.check_name(&name);
        let (mut weight, mut own, mut limit, mut sorry) = (1, None, Limit::default(), false);
        let at = match value.as_table() {
            Some(inner) => {
                r.known(&inner, keys::SERVER);
                weight = r.number(&inner, "weight", 0..=65_535).unwrap_or(1);
                own = inner.get("forward").and_then(|v| r.choice(&v, &Forward::ALL));
                limit = self::limit(r, &inner);
                let roles = [("real", false), ("sorry", true)];
                sorry = inner.get("role").and_then(|v| r.choice(&v, &roles)).unwrap_or(false);
                r.required(&inner, "address")
            }
            None => Some(value.clone()),
        };
        let own = own.map(|f| tunnel.of(f));
        let Some(at) = at else { continue };
        let forward = own.unwrap_or(service_forward);
        let Some(addr) = server_addr(r, &at, listen, forward) else { continue };
        if let Some((other, _)) = servers.iter().find(|(_, s)| s.addr == addr) {
            r.error(at.span, format!("{addr} is server {other} already"), None);
            continue;
        }
        servers.insert(name.text.clone(), ServerSpec { addr, forward: own, weight, limit, sorry });
    }
    if !servers.is_empty() && servers.values().all(|s| s.sorry) {
        let help = Some("leave role away where the service's own servers are".into());
        r.error(value.span.clone(), "every server is a sorry server", help);
    }
    servers
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
    listen: Listen,
    forward: Forward,
) -> Option<SocketAddr> {
    let text = r.string(value)?;
    let port = listen.addr.port();
    let addr = text
        .parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, port))
        .or_else(|_| text.parse::<SocketAddr>());
    let Ok(addr) = addr else {
        r.error(
            value.span.clone(),
            format!("\"{text}\" is no address"),
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
    if addr.ip() == listen.addr.ip() {
        r.error(value.span.clone(), "a server cannot be the VIP itself", None);
        return None;
    }
    let mapped = addr.port() != port;
    if mapped && (listen.proto == Proto::Sctp || port == 0) {
        let why = if port == 0 { "a service on every port" } else { "SCTP" };
        let message = format!("{why} keeps the client's port");
        r.error(value.span.clone(), message, Some("leave the port away".into()));
        return None;
    }
    if forward == Forward::FullNat && listen.proto == Proto::Sctp {
        let help = "use nat, dr or a tunnel";
        r.error(value.span.clone(), "SCTP keeps the client's port: no full-nat", Some(help.into()));
        return None;
    }
    if !forward.translates() && mapped {
        r.error(
            value.span.clone(),
            format!(
                "only NAT maps ports: with forward = \"{forward}\" the server gets port {port}"
            ),
            Some("leave the port away, or set forward = \"nat\"".into()),
        );
        return None;
    }
    Some(addr)
}

fn check(r: &mut Reader, table: &Table<'_>) -> Check {
    let mut check = Check::default();
    let Some(value) = table.get("check") else {
        return check;
    };
    let Some(inner) = value.as_table() else {
        let kinds = [("tcp", CheckKind::Tcp), ("none", CheckKind::None)];
        check.kind = r.choice(&value, &kinds).unwrap_or(CheckKind::Tcp);
        return check;
    };
    r.known(&inner, keys::CHECK);
    check.kind = check_kind(r, &inner);
    check.port = r.number(&inner, "port", 1..=65_535).map(|p| p as u16);
    check.every = r.millis(&inner, "every").unwrap_or(check.every);
    check.timeout = r.millis(&inner, "timeout").unwrap_or(check.timeout.min(check.every));
    let ways = [("direct", false), ("forwarded", true)];
    check.forwarded = inner.get("way").and_then(|v| r.choice(&v, &ways)).unwrap_or(false);
    check.rise = r.number(&inner, "rise", 1..=100).unwrap_or(check.rise);
    check.fall = r.number(&inner, "fall", 1..=100).unwrap_or(check.fall);
    for (name, ms) in [("every", check.every), ("timeout", check.timeout)] {
        if ms.0 < 10 {
            r.error(inner.span.clone(), format!("{name} is under 10ms"), None);
        }
    }
    check
}

fn check_kind(r: &mut Reader, inner: &Table<'_>) -> CheckKind {
    let (http, https) = (inner.get("http"), inner.get("https"));
    if let (Some(_), Some(second)) = (&http, &https) {
        r.error(second.span.clone(), "a check asks http or https, not both", None);
    }
    let tls = http.is_none();
    let Some(path_value) = http.or(https) else {
        for key in ["host", "status", "contains"] {
            if let Some(value) = inner.get(key) {
                let help = "add http = \"/path\"";
                r.error(value.span, format!("{key} needs an HTTP check"), Some(help.into()));
            }
        }
        return CheckKind::Tcp;
    };
    let path = r.string(&path_value).unwrap_or_default();
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        let help = "write \"/healthz\"";
        r.error(path_value.span, "a path begins with / and has no blanks", Some(help.into()));
    }
    CheckKind::Http {
        tls,
        path,
        host: inner.get("host").and_then(|v| r.string(&v)),
        status: r.number(inner, "status", 100..=599).map_or(200, |s| s as u16),
        contains: inner.get("contains").and_then(|v| r.string(&v)),
    }
}
