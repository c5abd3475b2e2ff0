//! `nines doctor`: proves from this director that real servers answer for the VIPs, and nobody else.
//!
//! Decides: what answers and silences mean, and the lines that mend it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nines_dataplane::{
    address::{self, Interface},
    probe::{self, Answer, Hindrance, Question},
    sysctl,
};
use nines_model::{Forward, Spec, config::parse};
use serde::Serialize;

use super::Context;
use crate::{
    api::types::ConfigText,
    failure::{Failure, Kind, Outcome},
};

/// How long answers may take.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// The same of ARP, for each VIP.
const ARP_PATIENCE: Duration = Duration::from_millis(400);

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    /// "ok", "BAD" or "note" (cannot be proved from here).
    verdict: &'static str,
    subject: String,
    text: String,
    /// What to do, on which machine.
    next: Vec<String>,
}

impl Finding {
    fn ok(subject: String, text: impl Into<String>) -> Self {
        Self { verdict: "ok", subject, text: text.into(), next: Vec::new() }
    }

    fn note(subject: String, text: impl Into<String>) -> Self {
        Self { verdict: "note", subject, text: text.into(), next: Vec::new() }
    }

    fn bad(subject: String, text: impl Into<String>, next: Vec<String>) -> Self {
        Self { verdict: "BAD", subject, text: text.into(), next }
    }
}

/// What a machine without nines is given by hand.
fn by_hand(vip: IpAddr, tunnel: bool) -> Vec<String> {
    let host = if vip.is_ipv4() { 32 } else { 128 };
    let flag = if tunnel { " --tunnel" } else { "" };
    let mut lines = vec![format!("nines server prepare {vip}{flag}")];
    let add = format!("ip addr add {vip}/{host} dev lo");
    if !tunnel {
        lines.push(format!("or by hand: {add}"));
    } else if vip.is_ipv4() {
        lines.push("or by hand (ipip): modprobe ipip; ip link set tunl0 up".into());
        lines.push(add);
    } else {
        lines.push("or by hand (ipip): modprobe ip6_tunnel; ip link set ip6tnl0 up".into());
        lines.push(add);
    }
    if vip.is_ipv4() {
        let quiet = "net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
        lines.push(format!("sysctl -w {quiet} net.ipv4.conf.all.rp_filter=2"));
    }
    lines
}

/// Who answers ARP for each VIP that real servers have, too.
fn arp(spec: &Spec, interfaces: &[Interface]) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    let mut machines: BTreeMap<[u8; 6], String> = BTreeMap::new();
    for (name, node) in &spec.nodes {
        for addr in &node.addresses {
            if let Some(mac) = mac_of(*addr)? {
                machines.insert(mac, format!("node {name}"));
            }
        }
    }
    // Directors whose addresses are on another link.
    for mac in nines_dataplane::ebpf::director_macs().unwrap_or_default() {
        machines.entry(mac).or_insert_with(|| "node".into());
    }
    let own: Vec<[u8; 6]> = interfaces.iter().map(|i| i.mac).collect();
    for vip in spec.vips.keys() {
        let IpAddr::V4(v4) = vip else { continue };
        let direct: Vec<(String, IpAddr)> = spec
            .services
            .values()
            .filter(|service| service.listen.has(*vip))
            .flat_map(|service| &service.servers)
            .map(|(name, server)| (name.clone(), server.addr.ip()))
            .collect();
        for (name, addr) in &direct {
            if let Some(mac) = mac_of(*addr)? {
                machines.entry(mac).or_insert_with(|| format!("server {name} ({addr})"));
            }
        }
        let place = address::place(*vip, spec.vips[vip].interface.as_deref()).ok();
        let ways = direct.iter().filter_map(|(_, addr)| address::route(*addr));
        let links: BTreeSet<u32> =
            ways.map(|way| way.ifindex).chain(place.map(|place| place.index)).collect();
        for interface in interfaces.iter().filter(|i| i.ethernet && links.contains(&i.index)) {
            let subject = format!("VIP {vip} on {}", interface.name);
            let answers = probe::who_answers(*v4, interface, ARP_PATIENCE)?;
            let strangers: Vec<&[u8; 6]> = answers
                .iter()
                .filter(|mac| !own.contains(mac))
                .filter(|mac| !machines.get(*mac).is_some_and(|m| m.starts_with("node")))
                .collect();
            if strangers.is_empty() {
                found.push(Finding::ok(subject.clone(), "nobody but directors answers ARP for it"));
            }
            for mac in strangers {
                let hex: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                let who = machines.get(mac).map_or("a machine nines knows not", String::as_str);
                let hex = hex.join(":");
                let text =
                    format!("{who}, MAC {hex}, answers ARP for it: clients go past the director");
                found.push(Finding::bad(subject.clone(), text, by_hand(*vip, false)));
            }
        }
    }
    Ok(found)
}

/// The MAC address of a machine on a link of this one.
fn mac_of(addr: IpAddr) -> Outcome<Option<[u8; 6]>> {
    let Some(way) = address::route(addr).filter(|way| way.nexthop == addr) else { return Ok(None) };
    Ok(probe::neighbour(addr, way.ifindex)?)
}

/// Whether each real server answers for its VIP, asked as the director's packets go.
fn servers(spec: &Spec, interfaces: &[Interface]) -> Outcome<Vec<Finding>> {
    let here =
        |addr: &IpAddr| interfaces.iter().any(|i| i.addresses.iter().any(|(a, _)| a == addr));
    let (mut found, mut asked, mut subjects) = (Vec::new(), Vec::new(), Vec::new());
    for (name, service) in &spec.services {
        for (server, wanted) in &service.servers {
            let forward = match wanted.forward.unwrap_or(service.forward) {
                Forward::Local => Forward::Dr,
                forward => forward,
            };
            let subject = format!("server {name}/{server} {} {forward}", wanted.addr.ip());
            if here(&wanted.addr.ip()) {
                found.push(Finding::note(subject, "this machine itself"));
            } else if forward == Forward::FullNat {
                let text = "full NAT: its checks say whether it lives; it needs nothing else";
                found.push(Finding::note(subject, text));
            } else if forward == Forward::Nat {
                let text = "NAT: its checks say whether it lives; its way back must lead here";
                found.push(Finding::note(subject, text));
            } else {
                let listen = service.listen;
                let port = listen.one_port().or(service.check.port).unwrap_or(listen.last);
                for vip in listen.vips() {
                    let vip = SocketAddr::new(vip, port);
                    asked.push(Question { vip, server: wanted.addr.ip(), forward });
                    subjects.push((subject.clone(), listen.proto));
                }
            }
        }
    }
    let answers = probe::ask(&asked, PATIENCE)?;
    for ((question, (subject, proto)), answer) in asked.iter().zip(subjects).zip(answers) {
        let Question { vip, server, forward } = question;
        let tunnel = matches!(forward, Forward::Tunnel(_));
        let tcp = proto == nines_model::Proto::Tcp;
        found.push(match answer {
            Ok(Some(Answer::Accepts)) => Finding::ok(subject, format!("answers as {vip}")),
            Ok(Some(Answer::Refuses)) if tcp && vip.port() != 0 => {
                let text = format!("has {}, but nobody listens on {vip}", vip.ip());
                Finding::bad(subject, text, vec![format!("ss -tln sport = :{}", vip.port())])
            }
            Ok(Some(Answer::Refuses)) => Finding::ok(subject, format!("has {}", vip.ip())),
            Ok(None) if !tcp => {
                let text =
                    format!("no answer from {vip} to a question over TCP: a filter may say so");
                Finding::note(subject, text)
            }
            Ok(None) => {
                let text = format!("no answer from {vip} to what the director would send");
                Finding::bad(subject, text, by_hand(vip.ip(), tunnel))
            }
            Err(Hindrance::NoRoute) => {
                let text = "this machine has no route to it";
                Finding::bad(subject, text, vec![format!("ip route get {server}")])
            }
            Err(Hindrance::NoNeighbour(addr, interface)) => {
                let text = format!("nobody answers for {addr} on {interface}");
                Finding::bad(subject, text, vec![format!("ping {addr}")])
            }
            Err(Hindrance::NoAddress) => {
                let text =
                    format!("this machine has no address of {}'s family to ask from", vip.ip());
                Finding::note(subject, text)
            }
        });
    }
    Ok(found)
}

/// What this director itself needs.
fn director(spec: &Spec) -> Vec<Finding> {
    let all = || {
        spec.services
            .values()
            .flat_map(|s| s.servers.values().map(|r| r.forward.unwrap_or(s.forward)))
    };
    let mut found = Vec::new();
    if all().any(Forward::translates) {
        let on = sysctl::read("net/ipv4/ip_forward").is_ok_and(|value| value == "1");
        found.push(if on {
            Finding::ok("ip_forward".into(), "on, as NAT needs")
        } else {
            let next = vec!["sysctl -w net.ipv4.ip_forward=1".to_owned()];
            Finding::bad("ip_forward".into(), "off: answers of servers behind NAT go nowhere", next)
        });
    }
    found
}

/// Runs it: 0 if nothing is wrong, 1 otherwise.
pub fn run(context: &Context) -> Outcome<u8> {
    let text = context.client().get::<ConfigText>("/v1/config")?.text;
    let spec = parse(&text).map_err(|_| {
        Failure::new(Kind::Io, "cannot read the config in force", "this nines is older than it")
    })?;
    let interfaces = address::interfaces()?;
    let mut found = director(&spec);
    found.extend(arp(&spec, &interfaces)?);
    found.extend(servers(&spec, &interfaces)?);
    let bad = found.iter().filter(|f| f.verdict == "BAD").count();
    if context.json() {
        super::print_json(&found);
        return Ok(u8::from(bad > 0));
    }
    for Finding { verdict, subject, text, next } in &found {
        outln!("{verdict:<5} {subject}: {text}");
        for line in next {
            outln!("        {line}");
        }
    }
    match bad {
        0 => outln!("Nothing is wrong as seen from here."),
        1 => outln!("1 thing is wrong; the lines under it mend it on the machine named."),
        n => outln!("{n} things are wrong; the lines under each mend it on the machine named."),
    }
    Ok(u8::from(bad > 0))
}
