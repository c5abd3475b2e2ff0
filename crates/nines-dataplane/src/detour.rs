//! The way of packets that netfilter marks.
//!
//! nines' hook comes before netfilter's, so the first packet of a flow is not marked yet when it
//! comes in. It goes up the stack, and a rule of policy routing leads what has a service's mark
//! into one end of a pair of devices; at the other end it comes in again, with its mark. Packets of
//! known flows need no mark and take the short way; those of this host itself, as a real server,
//! are put into the second end, for the rule would lead them away from their sockets.
//!
//! Decides: these rules, which go before the one for local addresses (a VIP may be one): that one
//! is moved from preference 0 to 2 meanwhile. Everything bears routing protocol 109 and is taken
//! away with the last service by mark.

use std::{collections::BTreeSet, net::Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use nines_abi::DETOUR_MAC;
use nines_model::{ForwardingTable, Traffic};

use crate::{
    Error, Result,
    address::{self, DETOUR_INNER, DETOUR_OUTER},
    netlink::request,
    sysctl,
};

/// Of [`DETOUR_INNER`]; this host has all of 127/8 anyway.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 109);
/// No packet is too big for it.
const MTU: u32 = 65_535;

/// The routing table with the one route.
const TABLE: u32 = 9_909;
/// Protocol number that marks rules and route as ours.
const OURS: RouteProtocol = RouteProtocol::Other(109);
/// Preference of rules by mark,
const MARKED: u32 = 1;
/// and of the one for local addresses while there are any.
const LOCAL: u32 = 2;
/// Number of the table of local routes, RT_TABLE_LOCAL of linux/rtnetlink.h.
const TABLE_LOCAL: u8 = 255;

/// What has a service; the rest of what is marked goes its own way.
const PROTOCOLS: [IpProtocol; 3] = [IpProtocol::Tcp, IpProtocol::Udp, IpProtocol::Sctp];

/// Marks of services, and whether of IPv6 packets.
pub type Marks = BTreeSet<(u32, bool)>;

/// The marks that a table's services go by.
pub fn marks_of(table: &ForwardingTable) -> Marks {
    let mark = |traffic: &Traffic| match *traffic {
        Traffic::Marked { mark, v6 } => Some((mark, v6)),
        Traffic::To(_) => None,
    };
    table.services.values().filter_map(|service| mark(&service.traffic)).collect()
}

fn failed(what: &str, e: &std::io::Error) -> Error {
    crate::privileged(format!("cannot {what} for services by mark"), e)
}

/// Makes the devices, or what of them is missing; whether they were not there.
pub fn build() -> Result<bool> {
    let new = !exists()?;
    if new {
        make()?;
    }
    // What is for this host after all comes from clients, who are not behind this device: loose,
    // which is also more than strict everywhere, but wants any address there
    // (net/ipv4/fib_frontend.c).
    sysctl::write(&format!("net/ipv4/conf/{DETOUR_INNER}/rp_filter"), "2")?;
    let all = address::interfaces()?;
    if let Some(inner) = all.iter().find(|i| i.name == DETOUR_INNER) {
        address::add(inner.index, ADDRESS.into(), 32)?;
    }
    for name in [DETOUR_OUTER, DETOUR_INNER] {
        // No IPv6 address of its own, so it never speaks. Where there is no IPv6 there is no
        // setting.
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1");
        let mut up = LinkMessage::default();
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        up.attributes = vec![LinkAttribute::IfName(name.into())];
        request(RouteNetlinkMessage::SetLink(up), 0).map_err(|e| failed("start a device", &e))?;
    }
    Ok(new)
}

fn make() -> Result<()> {
    let end = |name: &str| {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Noarp;
        link.header.change_mask = LinkFlags::Noarp;
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(MTU),
            // The same at both ends: what comes in is for this host.
            LinkAttribute::Address(DETOUR_MAC.to_vec()),
        ];
        link
    };
    let mut pair = end(DETOUR_OUTER);
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(DETOUR_INNER)))),
    ]));
    request(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL)
        .map(drop)
        .map_err(|e| failed("make a pair of devices", &e))
}

fn exists() -> Result<bool> {
    Ok(address::interfaces()?.iter().any(|i| i.name == DETOUR_OUTER))
}

/// Leads packets with exactly these marks through the devices; without any, takes all away.
/// [`build`] was called before, and the programs are on [`DETOUR_INNER`].
pub fn lead(marks: &Marks) -> Result<()> {
    for v6 in [false, true] {
        let of: BTreeSet<u32> =
            marks.iter().filter(|(_, six)| *six == v6).map(|(mark, _)| *mark).collect();
        if v6 && of.is_empty() && !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            continue;
        }
        lead_family(v6, &of).map_err(|e| {
            failed("set the rules", &e).next("ip rule; the kernel needs CONFIG_IP_MULTIPLE_TABLES")
        })?;
    }
    if marks.is_empty() && exists()? {
        let mut gone = LinkMessage::default();
        gone.attributes = vec![LinkAttribute::IfName(DETOUR_OUTER.into())];
        request(RouteNetlinkMessage::DelLink(gone), 0)
            .map_err(|e| failed("take away the devices", &e))?;
    }
    Ok(())
}

fn lead_family(v6: bool, marks: &BTreeSet<u32>) -> std::io::Result<()> {
    let have = rules(v6)?;
    let ours = |rule: &&RuleMessage| rule.attributes.contains(&RuleAttribute::Protocol(OURS));
    let mut wanted = Vec::new();
    if !marks.is_empty() {
        route(v6)?;
        wanted.push(rule(v6, LOCAL, RuleAction::ToTable, &[RuleAttribute::Table(255)]));
        // What comes in by it goes on; and this host's own packets, some of which have a mark given
        // back to them (CONNMARK), are no client's.
        for skipped in [DETOUR_INNER, "lo"] {
            let skip = [RuleAttribute::Iifname(skipped.into()), RuleAttribute::Goto(LOCAL)];
            wanted.push(rule(v6, MARKED, RuleAction::Goto, &skip));
        }
        for mark in marks {
            for protocol in PROTOCOLS {
                let of = [
                    RuleAttribute::FwMark(*mark),
                    RuleAttribute::IpProtocol(protocol),
                    RuleAttribute::Table(TABLE),
                ];
                wanted.push(rule(v6, MARKED, RuleAction::ToTable, &of));
            }
        }
    }
    // A rule as the kernel tells it has more words than the one that made it.
    let says = |told: &RuleMessage, made: &RuleMessage| {
        told.header.action == made.header.action
            && made.attributes.iter().all(|word| told.attributes.contains(word))
    };
    for missing in wanted.iter().filter(|made| !have.iter().any(|told| says(told, made))) {
        request(RouteNetlinkMessage::NewRule(missing.clone()), NLM_F_CREATE | NLM_F_EXCL)?;
    }
    // Local addresses are never without their rule: the other one is there by now.
    let kernels = have.iter().find(|told| is_local(told) && priority(told) == 0);
    if marks.is_empty() {
        let moved = have.iter().any(|told| is_local(told) && ours(&told));
        if moved && !have.iter().any(|told| is_local(told) && !ours(&told)) {
            let mut local = rule(v6, 0, RuleAction::ToTable, &[RuleAttribute::Table(255)]);
            local.attributes.retain(|word| *word != RuleAttribute::Protocol(OURS));
            local.attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
            request(RouteNetlinkMessage::NewRule(local), NLM_F_CREATE | NLM_F_EXCL)?;
        }
    } else if let Some(kernels) = kernels {
        request(RouteNetlinkMessage::DelRule(kernels.clone()), 0)?;
    }
    for gone in have.iter().filter(ours).filter(|told| !wanted.iter().any(|made| says(told, made)))
    {
        request(RouteNetlinkMessage::DelRule(gone.clone()), 0)?;
    }
    Ok(())
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn rules(v6: bool) -> std::io::Result<Vec<RuleMessage>> {
    let mut ask = RuleMessage::default();
    ask.header.family = family(v6);
    let told = request(RouteNetlinkMessage::GetRule(ask), NLM_F_DUMP)?;
    let rules = told.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRule(rule) => Some(rule),
        _ => None,
    });
    Ok(rules.collect())
}

fn rule(v6: bool, priority: u32, action: RuleAction, words: &[RuleAttribute]) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(v6);
    rule.header.action = action;
    rule.attributes = vec![RuleAttribute::Protocol(OURS), RuleAttribute::Priority(priority)];
    rule.attributes.extend_from_slice(words);
    rule
}

/// The kernel does not name preference 0.
fn priority(rule: &RuleMessage) -> u32 {
    let of = |word: &RuleAttribute| match word {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    };
    rule.attributes.iter().find_map(of).unwrap_or(0)
}

/// Whether a rule sends all packets to the table of local addresses: it has no condition that
/// excludes any packet.
fn is_local(rule: &RuleMessage) -> bool {
    let head = &rule.header;
    let plain = |word: &RuleAttribute| {
        matches!(
            word,
            RuleAttribute::Table(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
        )
    };
    head.table == TABLE_LOCAL
        && head.action == RuleAction::ToTable
        && (head.src_len, head.dst_len, head.tos) == (0, 0, 0)
        && !head.flags.contains(RuleFlags::Invert)
        && rule.attributes.iter().all(plain)
}

/// Everything into the one end.
fn route(v6: bool) -> std::io::Result<()> {
    let missing =
        || std::io::Error::new(std::io::ErrorKind::NotFound, format!("no {DETOUR_OUTER}"));
    let all = address::interfaces().map_err(|e| std::io::Error::other(e.to_string()))?;
    let outer = all.iter().find(|i| i.name == DETOUR_OUTER).ok_or_else(missing)?;
    let mut route = RouteMessage::default();
    route.header.address_family = family(v6);
    route.header.protocol = OURS;
    route.header.scope = if v6 { RouteScope::Universe } else { RouteScope::Link };
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(outer.index)];
    request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
}
