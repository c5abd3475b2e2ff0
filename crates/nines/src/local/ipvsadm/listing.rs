//! ipvsadm's listings, byte for byte.

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use nines_dataplane::{
    ebpf::{Tables, readback},
    ipvs::SyncDaemon,
    listing::Connection,
};
use nines_model::{
    Forward, Proto, Scheduler, TableServer, TableService, Tally, Traffic, TunnelChecksum,
    TunnelKind,
};

use super::{
    grammar::{Ask, Refused},
    kernel_says, names,
};

pub use nines_dataplane::listing::Shown;

/// The version that ipvsadm and kernel state: it tells scripts what they may use.
const BANNER: &str = "IP Virtual Server version 1.2.1 (size=4096)\n";

/// How a listing looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    Stats,
    Rate,
    Thresholds,
    Persistent,
    Tunnel,
}

impl Form {
    /// Which one is asked for.
    pub fn of(ask: &Ask) -> Self {
        [
            ("stats", Self::Stats),
            ("rate", Self::Rate),
            ("thresholds", Self::Thresholds),
            ("persistent-conn", Self::Persistent),
            ("tun-info", Self::Tunnel),
        ]
        .into_iter()
        .find(|(option, _)| ask.has(option))
        .map_or(Self::Plain, |(_, form)| form)
    }
}

/// Everything in nines' tables, in the order of listings.
pub fn collect(tables: &Tables, sorted: bool) -> nines_dataplane::Result<Vec<Shown>> {
    let installed = tables.installed();
    let remembered = tables.remembered_by_slot()?;
    let mut all = Vec::new();
    let table = readback::table(installed);
    // ipvsadm has no words for ranges and networks.
    let one = |s: &TableService| !matches!(s.traffic, Traffic::To(l) if !l.is_one());
    for service in table.services.into_values().filter(one) {
        let key = nines_dataplane::ebpf::reconcile::key(service.traffic);
        let Some((id, _)) = installed.services.get(&key) else { continue };
        let slots: BTreeMap<u32, u32> =
            installed.servers_of(*id).map(|(slot, s)| (s.order, slot)).collect();
        let mut servers = Vec::new();
        for (server, slot) in service.servers.values().zip(slots.values()) {
            let tally = tables.tally(*id, Some(*slot))?;
            let clients = remembered.get(slot).copied().unwrap_or(0);
            servers.push((server.clone(), tally, clients));
        }
        let (tally, scheduler) = (tables.tally(*id, None)?, service.scheduler.to_string());
        all.push(Shown { service, scheduler, tally, servers });
    }
    if sorted {
        sort(&mut all);
    }
    Ok(all)
}

/// In the order of listings.
pub fn sort(all: &mut [Shown]) {
    all.sort_by(|a, b| by_traffic(a.service.traffic, b.service.traffic));
    for shown in all {
        shown.servers.sort_by(|a, b| by_address(a.0.addr, b.0.addr));
    }
}

/// The one that is asked for, if one is.
pub fn only(mut all: Vec<Shown>, asked: Option<Traffic>) -> Result<Vec<Shown>, Refused> {
    let Some(traffic) = asked else { return Ok(all) };
    all.retain(|shown| shown.service.traffic == traffic);
    if all.is_empty() { kernel_says("No such service") } else { Ok(all) }
}

fn by_address(a: SocketAddr, b: SocketAddr) -> Ordering {
    (a.is_ipv6(), a.ip(), a.port()).cmp(&(b.is_ipv6(), b.ip(), b.port()))
}

fn by_traffic(a: Traffic, b: Traffic) -> Ordering {
    let rank = |t: Traffic| match t {
        Traffic::To(l) => (0, l.addr.is_ipv6(), l.proto.number(), Some(l.addr)),
        Traffic::Marked { mark, v6 } => (mark, v6, 0, None),
    };
    let ((ma, fa, pa, aa), (mb, fb, pb, ab)) = (rank(a), rank(b));
    (ma, fa, pa).cmp(&(mb, fb, pb)).then_with(|| match (aa, ab) {
        (Some(a), Some(b)) => by_address(a, b),
        _ => Ordering::Equal,
    })
}

fn proto_of(traffic: Traffic) -> Proto {
    match traffic {
        Traffic::To(listen) => listen.proto,
        Traffic::Marked { .. } => Proto::Tcp,
    }
}

fn name_of(traffic: Traffic, numeric: bool) -> String {
    match traffic {
        Traffic::To(l) => {
            let proto = l.proto.to_string().to_uppercase();
            format!("{proto:<4} {}", names::shown(l.addr, l.proto, numeric))
        }
        Traffic::Marked { mark, v6 } => format!("FWM  {mark}{}", if v6 { " IPv6" } else { "" }),
    }
}

fn flags_of(service: &TableService) -> String {
    let of = match service.scheduler {
        Scheduler::Sh => "sh",
        Scheduler::Mh => "mh",
        _ => "flag",
    };
    let word = |name: &str, number: u32| {
        if of == "flag" { format!("flag-{number}") } else { format!("{of}-{name}") }
    };
    let mut words = Vec::new();
    if service.flags.fallback {
        words.push(word("fallback", 1));
    }
    if service.flags.port {
        words.push(word("port", 2));
    }
    words.join(",")
}

fn mask_of(service: &TableService) -> Option<String> {
    let persist = service.persist?;
    let v6 = service.traffic.is_ipv6();
    if v6 {
        return (persist.prefix != 128).then(|| persist.prefix.to_string());
    }
    let mask = u32::MAX.checked_shl(32 - u32::from(persist.prefix)).unwrap_or(0);
    (persist.prefix != 32).then(|| std::net::Ipv4Addr::from(mask).to_string())
}

fn scheduled(shown: &Shown) -> String {
    let service = &shown.service;
    let mut out = format!(" {}", shown.scheduler);
    let flags = flags_of(service);
    if !flags.is_empty() {
        let _ = write!(out, " ({flags})");
    }
    if let Some(persist) = service.persist {
        let _ = write!(out, " persistent {}", persist.time.0 / 1_000);
        if let Some(mask) = mask_of(service) {
            let _ = write!(out, " mask {mask}");
        }
    }
    if service.sip {
        out += " pe sip";
    }
    if service.one_packet {
        out += " ops";
    }
    out
}

fn method(forward: Forward) -> &'static str {
    match forward {
        Forward::Dr => "Route",
        Forward::Nat => "Masq",
        Forward::FullNat => "FullNat",
        Forward::Local => "Local",
        Forward::Tunnel(_) => "Tunnel",
    }
}

fn tunnel_info(forward: Forward) -> String {
    let Forward::Tunnel(tunnel) = forward else { return "n/a".into() };
    let sum = match tunnel.checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match tunnel.kind {
        TunnelKind::Ipip => "ipip".into(),
        TunnelKind::Gue => format!("gue:{}:{sum}", tunnel.port),
        TunnelKind::Gre => format!("gre:{sum}"),
    }
}

fn large(number: u64, exact: bool) -> String {
    if exact {
        let digits = number.to_string().len();
        return format!("{number:>width$}", width = if digits <= 8 { 9 } else { digits + 1 });
    }
    match number {
        0..100_000_000 => format!("{number:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", number / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", number / 1_000_000_000),
        _ => format!("{:>8}T", number / 1_000_000_000_000),
    }
}

fn counts(tally: &Tally, exact: bool) -> String {
    [tally.connections, tally.packets_in, tally.packets_out, tally.bytes_in, tally.bytes_out]
        .map(|number| large(number, exact))
        .concat()
}

fn title(form: Form) -> String {
    let five = |words: [&str; 5]| {
        let words: String = words.map(|word| format!(" {word:>8}")).concat();
        format!("{:<33}{words}\n  -> RemoteAddress:Port\n", "Prot LocalAddress:Port")
    };
    match form {
        Form::Stats => five(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Form::Rate => five(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Form::Thresholds => format!(
            "{:<33} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Form::Persistent => format!(
            "{:<33} {:<9} {:<11} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
        Form::Tunnel => {
            "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           \
             Forward TunnelInfo    Weight ActiveConn InActConn\n"
                .into()
        }
        Form::Plain => "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           \
             Forward Weight ActiveConn InActConn\n"
            .into(),
    }
}

/// The table, or one service of it: that goes without the line that names the versions.
pub fn list(all: &[Shown], ask: &Ask) -> String {
    let (form, numeric, exact) = (Form::of(ask), ask.has("numeric"), ask.has("exact"));
    let banner = if ask.traffic.is_some() { "" } else { BANNER };
    let mut out = format!("{banner}{}", title(form));
    for shown in all {
        let name = name_of(shown.service.traffic, numeric);
        match form {
            Form::Stats | Form::Rate => {
                let _ = writeln!(out, "{name:<33}{}", counts(&shown.tally, exact));
            }
            _ => {
                let _ = writeln!(out, "{name}{}", scheduled(shown));
            }
        }
        for (server, tally, clients) in &shown.servers {
            let name = names::shown(server.addr, proto_of(shown.service.traffic), numeric);
            let (active, inactive, weight) = (tally.active, tally.inactive, server.weight);
            let _ = match form {
                Form::Stats | Form::Rate => {
                    writeln!(out, "  -> {name:<28}{}", counts(tally, exact))
                }
                Form::Thresholds => writeln!(
                    out,
                    "  -> {name:<28} {:<10} {:<10} {active:<10} {inactive:<10}",
                    server.limit.upper, server.limit.lower
                ),
                Form::Persistent => writeln!(
                    out,
                    "  -> {name:<28} {weight:<9} {clients:<11} {active:<10} {inactive:<10}"
                ),
                Form::Tunnel => writeln!(
                    out,
                    "  -> {name:<28} {:<7} {:<13} {weight:<6} {active:<10} {inactive:<10}",
                    method(server.forward),
                    tunnel_info(server.forward)
                ),
                Form::Plain => writeln!(
                    out,
                    "  -> {name:<28} {:<7} {weight:<6} {active:<10} {inactive:<10}",
                    method(server.forward)
                ),
            };
        }
    }
    out
}

fn switch(forward: Forward) -> String {
    match forward {
        Forward::Nat => "-m".into(),
        Forward::FullNat => "--fullnat".into(),
        Forward::Tunnel(_) => "-i".into(),
        Forward::Dr | Forward::Local => "-g".into(),
    }
}

fn tunnel_switches(forward: Forward) -> String {
    let Forward::Tunnel(tunnel) = forward else { return String::new() };
    let sum = match tunnel.checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    };
    match tunnel.kind {
        TunnelKind::Ipip => " --tun-type ipip".into(),
        TunnelKind::Gue => format!(" --tun-type gue --tun-port {} {sum}", tunnel.port),
        TunnelKind::Gre => format!(" --tun-type gre {sum}"),
    }
}

fn argument_of(traffic: Traffic, numeric: bool) -> String {
    match traffic {
        Traffic::To(l) => {
            let option = match l.proto {
                Proto::Tcp => "-t",
                Proto::Udp => "-u",
                Proto::Sctp => "--sctp-service",
            };
            format!("{option} {}", names::shown(l.addr, l.proto, numeric))
        }
        Traffic::Marked { mark, v6 } => format!("-f {mark}{}", if v6 { " -6" } else { "" }),
    }
}

/// The lines that make the table again; without thresholds, as ipvsadm's.
pub fn save(all: &[Shown], numeric: bool) -> String {
    let mut out = String::new();
    for shown in all {
        let (service, to) = (&shown.service, argument_of(shown.service.traffic, numeric));
        let _ = write!(out, "-A {to} -s {}", shown.scheduler);
        if let Some(persist) = service.persist {
            let _ = write!(out, " -p {}", persist.time.0 / 1_000);
            if let Some(mask) = mask_of(service) {
                let _ = write!(out, " -M {mask}");
            }
        }
        if service.sip {
            out += " --pe sip";
        }
        if service.one_packet {
            out += " -o";
        }
        let flags = flags_of(service);
        if !flags.is_empty() {
            let _ = write!(out, " -b {flags}");
        }
        out.push('\n');
        for (server, _, _) in &shown.servers {
            let name = names::shown(server.addr, proto_of(service.traffic), numeric);
            let (method, more) = (switch(server.forward), tunnel_switches(server.forward));
            let _ = writeln!(out, "-a {to} -r {name} {method} -w {}{more}", server.weight);
        }
    }
    out
}

/// Flows and remembered clients.
pub fn connections(all: &[Connection], ask: &Ask) -> String {
    let numeric = ask.has("numeric");
    // Of persistence engines there is SIP's only, whose Call-IDs are kept as hashes.
    let last = if ask.has("persistent-conn") {
        format!("{:<18} {:<16} {}", "destination", "pe name", "pe_data")
    } else {
        "destination".to_owned()
    };
    let mut out = format!(
        "IPVS connection entries\npro expire {:<11} {:<18} {:<18} {last}\n",
        "state", "source", "virtual"
    );
    for c in all {
        let proto = match c.proto {
            17 => Proto::Udp,
            132 => Proto::Sctp,
            _ => Proto::Tcp,
        };
        let seconds = c.left.as_secs();
        let _ = writeln!(
            out,
            "{:<3} {:<6} {:<11} {:<18} {:<18} {}",
            if c.proto == 0 { "IP".to_owned() } else { proto.to_string().to_uppercase() },
            format!("{:02}:{:02}", seconds / 60, seconds % 60),
            c.state,
            names::shown(c.client, proto, numeric),
            names::shown(c.virtual_service, proto, numeric),
            names::shown(c.server, proto, numeric)
        );
    }
    out
}

/// IPVS's sync daemons.
pub fn daemons(all: &[SyncDaemon]) -> String {
    let mut out = String::new();
    for d in all {
        let group = d.group.map(|group| format!("group={group}, ")).unwrap_or_default();
        let _ = writeln!(
            out,
            "{} sync daemon (mcast={}, syncid={}, maxlen={}, {group}port={}, ttl={})",
            d.role, d.interface, d.sync_id, d.len_max, d.port, d.ttl
        );
    }
    out
}

/// What changed between two looks, per second.
pub fn rates(before: &[Shown], after: Vec<Shown>, seconds: f64) -> Vec<Shown> {
    let per = |old: u64, new: u64| ((new.saturating_sub(old)) as f64 / seconds).round() as u64;
    let rate = |old: &Tally, new: &Tally| Tally {
        connections: per(old.connections, new.connections),
        packets_in: per(old.packets_in, new.packets_in),
        packets_out: per(old.packets_out, new.packets_out),
        bytes_in: per(old.bytes_in, new.bytes_in),
        bytes_out: per(old.bytes_out, new.bytes_out),
        ..*new
    };
    let known = |traffic: Traffic| before.iter().find(|s| s.service.traffic == traffic);
    after
        .into_iter()
        .map(|mut shown| {
            let Some(old) = known(shown.service.traffic) else { return shown };
            shown.tally = rate(&old.tally, &shown.tally);
            for (server, tally, _) in &mut shown.servers {
                let before: Option<&(TableServer, Tally, u64)> =
                    old.servers.iter().find(|(s, _, _)| s.addr == server.addr);
                if let Some((_, before, _)) = before {
                    *tally = rate(before, tally);
                }
            }
            shown
        })
        .collect()
}
