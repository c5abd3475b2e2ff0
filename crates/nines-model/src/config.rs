//! `cluster.toml` to [`Spec`], with every error at once.
//!
//! Decides: what the file may say. A file with one error gives no Spec at all: nothing is guessed,
//! nothing is half applied. Keys stand in [`keys`], which also makes the JSON Schema ([`schema`]).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    config::reader::{Reader, Table, Value},
    spec::{
        Check, CheckKind, Forward, Limit, Listen, NodeSpec, Persist, Proto, Role, Scheduler,
        SchedulerFlags, ServerSpec, ServiceSpec, Spec, Timing, Tunnel, TunnelChecksum, TunnelKind,
        Vip,
    },
    time::Millis,
};

pub mod keys;
mod reader;
pub mod schema;

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range in the text.
    pub span: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Line and column of its start, both from 1, columns in characters.
    pub fn line_col(&self, text: &str) -> (usize, usize) {
        let before = &text[..self.span.start.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Spec, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    let spec = reader.document(text).map(|root| read(&mut reader, &root));
    let mut found = reader.diagnostics;
    match spec {
        Some(spec) if found.is_empty() => Ok(spec),
        _ => {
            found.sort_by_key(|d| (d.span.start, d.span.end));
            found.dedup();
            Err(found)
        }
    }
}

fn read(r: &mut Reader, root: &Table<'_>) -> Spec {
    r.known(root, keys::ROOT);
    let mut spec = Spec { timing: timing(r, root), ..Spec::default() };
    match r.table(root, "cluster") {
        Some(cluster) => {
            r.known(&cluster, keys::CLUSTER);
            spec.name = r.required(&cluster, "name").and_then(|v| r.name(&v)).unwrap_or_default();
        }
        None if root.get("cluster").is_none() => r.error(
            0..0,
            "the section [cluster] is missing",
            Some("begin with:  [cluster]\n             name = \"web\"".into()),
        ),
        None => {}
    }
    if let Some(nodes) = r.table(root, "nodes") {
        for (name, value) in nodes.entries() {
            r.check_name(&name);
            if let Some(node) = node(r, &value) {
                spec.nodes.insert(name.text.clone(), node);
            }
        }
        unique_node_addresses(r, &spec, &nodes);
    }
    if let Some(forwarding) = r.table(root, "forwarding") {
        r.known(&forwarding, keys::FORWARDING);
        spec.flows = r.number(&forwarding, "flows", 1..=64_000_000).unwrap_or(0);
    }
    vips(r, root, &mut spec);
    services(r, root, &mut spec);
    spec
}

fn timing(r: &mut Reader, root: &Table<'_>) -> Timing {
    let mut timing = Timing::default();
    let Some(table) = r.table(root, "timing") else {
        return timing;
    };
    r.known(&table, keys::TIMING);
    for (key, field) in [
        ("beat", &mut timing.beat),
        ("lease", &mut timing.lease),
        ("election", &mut timing.election),
        ("restart", &mut timing.restart),
    ] {
        if let Some(ms) = r.millis(&table, key) {
            *field = ms;
        }
    }
    let span = table.span.clone();
    if timing.beat.0 < 5 {
        r.error(span.clone(), "beat is under 5ms", Some("use \"20ms\" or more".into()));
    }
    if timing.lease.0 < timing.beat.0 * 4 {
        r.error(
            span.clone(),
            format!("lease {} is shorter than four beats of {}", timing.lease, timing.beat),
            Some("a lease must outlive a few lost beats; the default is seven".into()),
        );
    }
    if timing.election.0 < timing.beat.0 * 5 {
        r.error(
            span,
            format!("election {} is shorter than five beats of {}", timing.election, timing.beat),
            Some("a leader would be replaced for one late packet".into()),
        );
    }
    timing
}

fn node(r: &mut Reader, value: &Value<'_>) -> Option<NodeSpec> {
    if let Some(table) = value.as_table() {
        r.known(&table, keys::NODE);
        let addresses = r.required(&table, "addresses").map(|v| addresses(r, &v))?;
        let role = match table.get("role") {
            None => Role::Director,
            Some(v) => r.choice(&v, &[("director", Role::Director), ("witness", Role::Witness)])?,
        };
        return Some(NodeSpec { role, addresses });
    }
    Some(NodeSpec { role: Role::Director, addresses: addresses(r, value) })
}

fn addresses(r: &mut Reader, value: &Value<'_>) -> Vec<IpAddr> {
    let items = value.as_array().unwrap_or_else(|| vec![value.clone()]);
    if items.is_empty() {
        r.error(value.span.clone(), "a node needs at least one address", None);
    }
    items.iter().filter_map(|item| r.address(item)).collect()
}

fn unique_node_addresses(r: &mut Reader, spec: &Spec, nodes: &Table<'_>) {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, node) in &spec.nodes {
        for addr in &node.addresses {
            if let Some(other) = seen.insert(*addr, name) {
                let span = nodes.get(name).map_or(nodes.span.clone(), |v| v.span.clone());
                r.error(span, format!("{addr} belongs to {other} already"), None);
            }
        }
    }
}

fn vips(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
    let Some(section) = r.table(root, "vip") else {
        return;
    };
    for (name, value) in section.entries() {
        r.check_name(&name);
        let Some(table) = r.as_table(&value) else { continue };
        r.known(&table, keys::VIP);
        let Some(address) = r.required(&table, "address") else { continue };
        let Some((addr, prefix)) = prefixed(r, &address) else { continue };
        let interface = table.get("interface").and_then(|v| r.string(&v));
        let prefer = table.get("prefer").map_or_else(Vec::new, |v| directors(r, &v, spec));
        let vip = Vip { name: Some(name.text.clone()), prefix, interface, prefer };
        if let Some(other) = spec.vips.insert(addr, vip) {
            let other = other.name.unwrap_or_default();
            r.error(address.span, format!("{addr} is the address of vip {other} already"), None);
        }
    }
}

fn directors(r: &mut Reader, value: &Value<'_>, spec: &Spec) -> Vec<String> {
    let items = r.strings(value);
    items
        .into_iter()
        .filter_map(|(name, span)| match spec.nodes.get(&name) {
            Some(node) if node.role == Role::Director => Some(name),
            Some(_) => {
                r.error(span, format!("{name} is a witness: it carries no VIP"), None);
                None
            }
            None => {
                r.unknown_word(span, "node", &name, spec.nodes.keys().map(String::as_str));
                None
            }
        })
        .collect()
}

fn prefixed(r: &mut Reader, value: &Value<'_>) -> Option<(IpAddr, u8)> {
    let text = r.string(value)?;
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text.as_str(), None),
    };
    let Ok(addr) = addr.parse::<IpAddr>() else {
        r.error(
            value.span.clone(),
            format!("\"{text}\" is no address"),
            Some("write \"10.0.0.100\" or \"10.0.0.100/24\"".into()),
        );
        return None;
    };
    let full = if addr.is_ipv4() { 32 } else { 128 };
    match prefix.map(str::parse::<u8>) {
        None => Some((addr, full)),
        Some(Ok(prefix)) if prefix > 0 && prefix <= full => Some((addr, prefix)),
        Some(_) => {
            r.error(
                value.span.clone(),
                format!("the prefix length of {addr} must be 1 to {full}"),
                None,
            );
            None
        }
    }
}

fn services(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
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
    let check = check(r, table);
    let servers_value = r.required(table, "servers");
    let (listen, forward, scheduler) = (listen?, tunnel.of(forward?), scheduler?);
    if listen.addr.port() == 0 && persist.is_none() {
        let span = listen_value.as_ref().map_or(0..0, |v| v.span.clone());
        let help = "add persist = \"300s\": a client's connections to all ports go to one server";
        r.error(span, "a service on every port needs persistence", Some(help.into()));
    }
    let flags = flags(r, table, scheduler);
    let one_packet = one_packet(r, table, listen);
    let servers =
        servers_value.map(|v| servers(r, &v, listen, forward, &tunnel)).unwrap_or_default();
    let service =
        ServiceSpec { listen, forward, scheduler, flags, one_packet, persist, servers, check };
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
        let (mut weight, mut own, mut limit) = (1, None, Limit::default());
        let at = match value.as_table() {
            Some(inner) => {
                r.known(&inner, keys::SERVER);
                weight = r.number(&inner, "weight", 0..=65_535).unwrap_or(1);
                own = inner.get("forward").and_then(|v| r.choice(&v, &Forward::ALL));
                limit = self::limit(r, &inner);
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
        servers.insert(name.text.clone(), ServerSpec { addr, forward: own, weight, limit });
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
    if forward != Forward::Nat && mapped {
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

impl Reader {
    fn millis(&mut self, table: &Table<'_>, key: &str) -> Option<Millis> {
        let value = table.get(key)?;
        let text = self.string(&value)?;
        match Millis::parse(&text) {
            Ok(ms) => Some(ms),
            Err(why) => {
                self.error(value.span, why, None);
                None
            }
        }
    }

    fn address(&mut self, value: &Value<'_>) -> Option<IpAddr> {
        let text = self.string(value)?;
        text.parse().map_or_else(
            |_| {
                let help = "names are not looked up: an address cannot change behind your back";
                let message = format!("\"{text}\" is no address");
                self.error(value.span.clone(), message, Some(help.into()));
                None
            },
            Some,
        )
    }
}

#[cfg(test)]
mod tests;
