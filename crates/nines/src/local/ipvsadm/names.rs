//! Addresses and ports as people write and read them: numbers, names of hosts, names of services.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::OnceLock,
};

use nines_model::Proto;

const SERVICES: &str = "/etc/services";

/// Port and protocol by name, and the first name of each.
struct Known {
    ports: HashMap<(String, String), u16>,
    names: HashMap<(u16, String), String>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Known { ports: HashMap::new(), names: HashMap::new() };
        for line in std::fs::read_to_string(SERVICES).unwrap_or_default().lines() {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let (Some(name), Some((port, proto))) =
                (words.next(), words.next().and_then(|w| w.split_once('/')))
            else {
                continue;
            };
            let Ok(port) = port.parse::<u16>() else { continue };
            known.names.entry((port, proto.to_owned())).or_insert_with(|| name.to_owned());
            for name in std::iter::once(name).chain(words) {
                known.ports.entry((name.to_owned(), proto.to_owned())).or_insert(port);
            }
        }
        known
    })
}

/// The name of a port, else its number.
pub fn port(port: u16, proto: Proto) -> String {
    let name = known().names.get(&(port, proto.to_string()));
    name.cloned().unwrap_or_else(|| port.to_string())
}

/// `host[:port]`, `[host]:port`; hosts and ports by name, too.
pub fn address(text: &str, proto: Proto) -> Option<(IpAddr, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => None,
        Some(port) => Some(
            port.parse::<u16>()
                .ok()
                .or_else(|| known().ports.get(&(port.to_owned(), proto.to_string())).copied())?,
        ),
    };
    let ip = host.parse::<IpAddr>().ok().or_else(|| {
        let found = (host, 0).to_socket_addrs().ok()?;
        found.map(|a| a.ip()).find(IpAddr::is_ipv4)
    })?;
    Some((ip, port))
}

/// An address and port as listings have it.
pub fn shown(addr: SocketAddr, proto: Proto, numeric: bool) -> String {
    let port = if numeric { addr.port().to_string() } else { port(addr.port(), proto) };
    match addr.ip() {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}
