//! Interfaces, addresses and routes of this machine, by rtnetlink; nothing is forked.
//!
//! Decides: which interface an address belongs on when the config does not say.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
    },
    link::{InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
};

use crate::{Addresses, Announcer, Error, Result, gratuitous_arp::Link, netlink::request};

/// Name of the device into which marked packets are routed (`detour.rs`).
pub const DETOUR_OUTER: &str = "nines-mark";
/// Name of the device by which they come in again. No address is answered for on either.
pub const DETOUR_INNER: &str = "nines-mark-in";

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Number that the kernel gives to the interface.
    pub index: u32,
    /// Name of the interface, such as "eth0".
    pub name: String,
    /// MAC address; zero where there is none.
    pub mac: [u8; 6],
    /// Ethernet framing: programs can be attached and addresses announced.
    pub ethernet: bool,
    /// Kind of a virtual interface ("veth", "bridge", "vlan"); empty for a real card.
    pub kind: String,
    /// Number of the device that a VLAN is on (of a veth: its peer); 0: none.
    pub below: u32,
    /// Whether the interface is set up (IFF_UP).
    pub up: bool,
    /// It has a carrier, and so has what it rests on.
    pub carrier: bool,
    /// Part of a bridge, a bond or a team: what comes in by it comes in by that one, too.
    pub is_part: bool,
    /// Largest IP packet.
    pub mtu: u32,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// What keeps it from carrying packets: "eth1 is down".
    pub fn fault(&self) -> Option<String> {
        match (self.up, self.carrier) {
            (false, _) => Some(format!("{} is down", self.name)),
            (_, false) => Some(format!("{} has no carrier", self.name)),
            _ => None,
        }
    }

    /// Whether this machine may answer for an address there.
    pub fn may_answer(&self) -> bool {
        self.ethernet
            && !self.is_part
            && ![DETOUR_INNER, DETOUR_OUTER].contains(&self.name.as_str())
    }
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Addresses for Kernel {
    fn interfaces(&mut self) -> Result<Vec<Interface>> {
        interfaces()
    }

    fn add(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
        add(index, addr, prefix)
    }

    fn remove(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
        remove(index, addr, prefix)
    }

    fn announcer(&mut self, index: u32) -> Result<Arc<dyn Announcer>> {
        Ok(Arc::new(Link::open(index, false)?))
    }
}

/// Addresses on `lo`, whichever program put them there.
pub fn on_lo() -> Result<BTreeSet<IpAddr>> {
    let lo = interfaces()?.into_iter().filter(|i| i.name == "lo");
    Ok(lo.flat_map(|lo| lo.addresses).map(|(addr, _)| addr).collect())
}

/// All interfaces with their addresses.
pub fn interfaces() -> Result<Vec<Interface>> {
    let failed = |e| Error::new("cannot list interfaces", e);
    let links = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
        .map_err(failed)?;
    let mut found: Vec<Interface> = links.into_iter().filter_map(interface).collect();
    let addresses = request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
        .map_err(failed)?;
    for message in addresses {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some(addr) = local_address(&message) else { continue };
        if let Some(interface) = found.iter_mut().find(|i| i.index == message.header.index) {
            interface.addresses.push((addr, message.header.prefix_len));
        }
    }
    Ok(found)
}

fn interface(message: RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        kind: String::new(),
        below: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        is_part: false,
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Link(index) => found.below = index,
            LinkAttribute::Mtu(mtu) => found.mtu = mtu,
            LinkAttribute::Address(mac) => {
                found.mac = mac.try_into().unwrap_or_default();
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => found.kind = kind.to_string(),
                        // A VRF's interfaces keep their addresses.
                        LinkInfo::PortKind(kind) => found.is_part = kind != InfoPortKind::Vrf,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(found)
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut addr = None;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point IPv4 link Address is the peer, Local is ours.
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(a) => addr = Some(*a),
            _ => {}
        }
    }
    addr
}

/// The Ethernet interface that should carry `vip`: the named one, else the one with its subnet.
pub fn place(vip: IpAddr, named: Option<&str>) -> Result<Interface> {
    place_in(&interfaces()?, vip, named).cloned()
}

/// The same among these.
pub fn place_in<'a>(
    all: &'a [Interface],
    vip: IpAddr,
    named: Option<&str>,
) -> Result<&'a Interface> {
    if let Some(name) = named {
        return all.iter().find(|i| i.name == name).ok_or_else(|| {
            Error::new(format!("{vip} cannot be placed"), format!("interface {name} is missing"))
                .next("ip -brief link")
        });
    }
    let found = all
        .iter()
        .filter(|i| i.ethernet)
        .filter_map(|i| {
            let subnets = i.addresses.iter().filter(|(a, _)| *a != vip);
            let best = subnets.filter(|(a, p)| within(vip, *a, *p)).map(|(_, p)| *p).max()?;
            Some((best, i))
        })
        .max_by_key(|(prefix, i)| (*prefix, std::cmp::Reverse(i.index)));
    found.map(|(_, i)| i).ok_or_else(|| {
        Error::new(format!("{vip} cannot be placed"), "it is in no subnet of this machine")
            .next(format!("name its interface: [vip.x] address = \"{vip}\" interface = \"eth0\""))
    })
}

/// Whether `addr` lies in the subnet of `base`/`prefix`; a host route is no subnet.
pub fn within(addr: IpAddr, base: IpAddr, prefix: u8) -> bool {
    match (addr, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) if prefix < 32 => {
            (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if prefix < 128 => {
            (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn message(index: u32, addr: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.header.scope =
        if addr.is_loopback() || prefix == 0 { AddressScope::Host } else { AddressScope::Universe };
    message.attributes.push(AddressAttribute::Local(addr));
    message.attributes.push(AddressAttribute::Address(addr));
    message
}

/// Puts `addr` on the interface; there already is success. Duplicate detection is off for IPv6:
/// who may have the address has been decided, and it must answer now (RFC 4429 does not help).
pub fn add(index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
    let mut message = message(index, addr, prefix);
    if addr.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        // Deprecated from the start: never chosen as source of this machine's own connections. By
        // RFC 6724 rule 8 a /128 would win, and real servers hold the same address.
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_preferred = 0;
        lifetime.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
        .map(drop)
        .map_err(|e| crate::privileged(format!("cannot add {addr} to interface {index}"), &e))
}

/// Takes `addr` off the interface; not there is success.
pub fn remove(index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
    match request(RouteNetlinkMessage::DelAddress(message(index, addr, prefix)), 0) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(e) => {
            Err(crate::privileged(format!("cannot remove {addr} from interface {index}"), &e))
        }
    }
}

/// How packets to an address leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface that the packets leave by.
    pub ifindex: u32,
    /// The neighbour to ask for; the address itself when it is on link.
    pub nexthop: IpAddr,
    /// This machine's address there; `None`: it has none of that family.
    pub source: Option<IpAddr>,
    /// Largest packet, if the route says so; the interface has its own.
    pub mtu: Option<u32>,
}

/// The way to `addr`. `None`: no route, or the address is this machine's own.
pub fn route(addr: IpAddr) -> Option<Way> {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = if addr.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(match addr {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }));
    let answers = request(RouteNetlinkMessage::GetRoute(message), 0).ok()?;
    let found = answers.into_iter().find_map(|a| match a {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    })?;
    if found.header.kind != netlink_packet_route::route::RouteType::Unicast {
        return None;
    }
    let mut way = Way { ifindex: 0, nexthop: addr, source: None, mtu: None };
    let ip = |address: RouteAddress| match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(a)),
        _ => None,
    };
    for attribute in found.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.ifindex = index,
            RouteAttribute::Gateway(a) => way.nexthop = ip(a).unwrap_or(addr),
            RouteAttribute::PrefSource(a) => way.source = ip(a),
            RouteAttribute::Metrics(metrics) => {
                way.mtu = metrics.into_iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (way.ifindex != 0).then_some(way)
}

/// The 16 bytes of `nines_abi::Addr`: IPv4 addresses are mapped into IPv6.
pub fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => nines_abi::mapped(a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}

/// The same as four words on the wire.
pub fn words(addr: IpAddr) -> [u32; 4] {
    let bytes = mapped(addr);
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// Back from `nines_abi::Addr`.
pub fn unmapped(addr: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(addr);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), |v4: Ipv4Addr| IpAddr::V4(v4))
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn subnets() {
        let within = |a: &str, b: &str, p| within(a.parse().unwrap(), b.parse().unwrap(), p);
        assert!(within("10.0.0.100", "10.0.0.2", 24));
        assert!(!within("10.0.1.100", "10.0.0.2", 24));
        assert!(!within("10.0.0.2", "10.0.0.2", 32));
        assert!(within("2001:db8::64", "2001:db8::1", 64));
        assert!(!within("2001:db8:1::64", "2001:db8::1", 64));
        assert!(!within("10.0.0.1", "::ffff:10.0.0.1", 96));
        assert!(within("192.0.2.1", "10.0.0.1", 0));
    }
}
