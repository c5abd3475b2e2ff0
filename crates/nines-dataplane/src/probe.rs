//! Questions that real servers answer as they would a client: a SYN the way the director sends it.
//!
//! Decides: the bytes of the question, and what counts as an answer. What the answers mean is the
//! caller's. Nothing is opened here: an answer meets no socket, and who accepted is told to forget.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
};
use nines_model::{Forward, Tunnel, TunnelChecksum, TunnelKind};

use crate::{
    Result, address,
    gratuitous_arp::{self, Link},
    netlink::request,
};

const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Ports that questions come from: below those the kernel gives out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Lets TCP to those ports through, over IPv4 without options and IPv6 (Documentation/networking/
/// filter.rst; offsets count from the Ethernet header).
fn to_us() -> [libc::sock_filter; 16] {
    const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        op(HALF, 0, 0, 12),
        op(EQUAL, 0, 6, 0x0800),
        op(BYTE, 0, 0, 23),
        op(EQUAL, 0, 11, 6),
        op(BYTE, 0, 0, 14),
        op(EQUAL, 0, 9, 0x45),
        op(HALF, 0, 0, 36),
        op(ALWAYS, 0, 0, 4),
        op(EQUAL, 0, 6, 0x86dd),
        op(BYTE, 0, 0, 20),
        op(EQUAL, 0, 4, 6),
        op(HALF, 0, 0, 56),
        op(LEAST, 0, 2, u32::from(PORTS.start)),
        op(LEAST, 1, 0, u32::from(PORTS.end)),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ]
}

/// What came back from the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server accepts connections to the VIP.
    Accepts,
    /// The VIP is there, and nobody listens on the port.
    Refuses,
}

/// What a probe of one server is to find out.
#[derive(Clone, Debug)]
pub struct Question {
    /// The virtual service.
    pub vip: SocketAddr,
    /// The real server.
    pub server: IpAddr,
    /// Direct routing or a tunnel.
    pub forward: Forward,
}

/// Why a question could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// This machine has no route there.
    NoRoute,
    /// Nobody answers for this address on the interface.
    NoNeighbour(IpAddr, String),
    /// This machine has no address of the VIP's family.
    NoAddress,
}

impl std::fmt::Display for Hindrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRoute => f.write_str("this machine has no route there"),
            Self::NoNeighbour(addr, interface) => {
                write!(f, "no machine answers for {addr} on {interface}")
            }
            Self::NoAddress => f.write_str("this machine has no address of the VIP's family"),
        }
    }
}

/// The answers to all questions, in their order; `Ok(None)`: none came within `patience`.
pub fn ask(
    questions: &[Question],
    patience: Duration,
) -> Result<Vec<std::result::Result<Option<Answer>, Hindrance>>> {
    let interfaces = address::interfaces()?;
    // Answers come by whatever interface the server's way back has.
    let ears = Link::open(0, true)?;
    ears.filter(&to_us())?;
    let mut asked = Vec::new();
    for question in questions {
        asked.push(put(question, (SYN, 1), next_port(), &interfaces)?);
    }
    let mut answers: Vec<Option<Answer>> = vec![None; questions.len()];
    let end = Instant::now() + patience;
    let mut buffer = [0u8; 2_048];
    while Instant::now() < end {
        let waits = |(asked, answer): (&std::result::Result<SocketAddr, Hindrance>, &Option<_>)| {
            asked.is_ok() && answer.is_none()
        };
        if !asked.iter().zip(&answers).any(waits) {
            break;
        }
        let Some((len, outgoing)) = ears.receive(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        if outgoing {
            continue;
        }
        for ((question, from), answer) in questions.iter().zip(&asked).zip(&mut answers) {
            let Ok(from) = from else { continue };
            *answer = answer.or_else(|| answer_in(&buffer[..len], question.vip, *from));
        }
    }
    for ((question, from), answer) in questions.iter().zip(&asked).zip(&answers) {
        // The kernel's own reset may go elsewhere: to who holds the VIP. The server forgets.
        if let (Ok(from), Some(Answer::Accepts)) = (from, answer) {
            put(question, (RST, 2), from.port(), &interfaces)?.ok();
        }
    }
    Ok(asked.into_iter().zip(answers).map(|(asked, answer)| asked.map(|_| answer)).collect())
}

/// Ports in turn, so that questions asked at once are told apart.
fn next_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() * 31);
    PORTS.start + (turn % u32::from(PORTS.end - PORTS.start)) as u16
}

/// Sends a question, or takes it back; gives what it comes from.
fn put(
    question: &Question,
    what: (u8, u32),
    port: u16,
    interfaces: &[address::Interface],
) -> Result<std::result::Result<SocketAddr, Hindrance>> {
    let Some(way) = address::route(question.server) else { return Ok(Err(Hindrance::NoRoute)) };
    let Some(out) = interfaces.iter().find(|i| i.index == way.ifindex) else {
        return Ok(Err(Hindrance::NoRoute));
    };
    let own = |v4: bool| {
        let of = |i: &address::Interface| {
            let fixed = i.addresses.iter().filter(|(_, len)| *len != 32 && *len != 128);
            fixed.map(|(a, _)| *a).find(|a| a.is_ipv4() == v4 && is_global(*a))
        };
        of(out).or_else(|| interfaces.iter().find_map(of))
    };
    let Some(source) = own(question.vip.is_ipv4()) else { return Ok(Err(Hindrance::NoAddress)) };
    let Some(mac) = neighbour(way.nexthop, way.ifindex)? else {
        return Ok(Err(Hindrance::NoNeighbour(way.nexthop, out.name.clone())));
    };
    let from = SocketAddr::new(source, port);
    let mut packet = segment(from, question.vip, what);
    if let Forward::Tunnel(tunnel) = question.forward {
        let Some(outer) = way.source.or_else(|| own(question.server.is_ipv4())) else {
            return Ok(Err(Hindrance::NoAddress));
        };
        packet = wrapped(tunnel, outer, question.server, &packet);
    }
    let mut frame = [mac, out.mac].concat();
    frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(packet);
    Link::open(way.ifindex, false)?.send(&frame)?;
    Ok(Ok(from))
}

fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}

/// The MAC address of a neighbour: the kernel finds it, for something that is sent there.
pub fn neighbour(addr: IpAddr, ifindex: u32) -> Result<Option<[u8; 6]>> {
    let known = || -> Result<Option<[u8; 6]>> {
        let failed = |e| crate::Error::new("cannot list neighbours", e);
        let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        for answer in request(ask, NLM_F_DUMP).map_err(failed)? {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
            let (mut at, mut mac) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                        at = Some(IpAddr::V4(a));
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                        at = Some(IpAddr::V6(a));
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                    _ => {}
                }
            }
            if at == Some(addr) && message.header.ifindex == ifindex && mac.is_some() {
                return Ok(mac);
            }
        }
        Ok(None)
    };
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    for _ in 0..10 {
        if let Some(mac) = known()? {
            return Ok(Some(mac));
        }
        // Port 9 discards (RFC 863).
        let _ = UdpSocket::bind(any).and_then(|s| s.send_to(&[], (addr, 9)));
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

/// MAC addresses that answer ARP (IPv4) or a neighbour solicitation (IPv6) for an address on an
/// interface. Nothing answers over IPv6 where this machine has no IPv6 address to ask from.
pub fn who_answers(
    addr: IpAddr,
    out: &address::Interface,
    patience: Duration,
) -> Result<Vec<[u8; 6]>> {
    let question = match addr {
        IpAddr::V4(addr) => gratuitous_arp::who_has(addr, out.mac),
        IpAddr::V6(addr) => {
            let own = out.addresses.iter().find_map(|(own, _)| match own {
                IpAddr::V6(own) if *own != addr => Some(*own),
                _ => None,
            });
            let Some(own) = own else { return Ok(Vec::new()) };
            gratuitous_arp::solicitation(addr, own, out.mac)
        }
    };
    let link = Link::open(out.index, true)?;
    let mut found = Vec::new();
    let mut buffer = [0u8; 2_048];
    let begin = Instant::now();
    let mut asked = 0;
    while begin.elapsed() < patience {
        // One question may be lost.
        if begin.elapsed() >= patience / 2 * asked && asked < 2 {
            link.send(&question)?;
            asked += 1;
        }
        match link.receive(&mut buffer) {
            Some((_, true)) => {}
            Some((len, false)) => {
                let mac = gratuitous_arp::answers_for(&buffer[..len], addr);
                found.extend(mac.filter(|mac| !found.contains(mac)));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    Ok(found)
}

/// Sum of 16-bit words (RFC 1071), not complemented.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IP packet.
fn ip(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let len = payload.len() as u16;
    if src.is_ipv4() {
        packet.extend([0x45, 0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, proto, 0, 0]);
        packet.extend(octets(src));
        packet.extend(octets(dst));
        let check = !sum(&[&packet]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([proto, 64]);
        packet.extend(octets(src));
        packet.extend(octets(dst));
    }
    packet.extend(payload);
    packet
}

/// A packet of a connection without more than this flag and sequence number (RFC 9293).
fn segment(from: SocketAddr, to: SocketAddr, (flag, sequence): (u8, u32)) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, flag, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [octets(from.ip()), octets(to.ip()), vec![0, TCP, 0, tcp.len() as u8]].concat();
    let check = !sum(&[&pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    ip(from.ip(), to.ip(), TCP, &tcp)
}

/// The packet in a tunnel's header, with a checksum if the tunnel has one.
fn wrapped(tunnel: Tunnel, src: IpAddr, dst: IpAddr, inner: &[u8]) -> Vec<u8> {
    let v4 = inner[0] >> 4 == 4;
    let proto = if v4 { 4 } else { 41 };
    let full = tunnel.checksum == TunnelChecksum::Full;
    match tunnel.kind {
        TunnelKind::Ipip => ip(src, dst, proto, inner),
        TunnelKind::Gue => {
            let mut udp = Vec::new();
            udp.extend(0xc000u16.to_be_bytes());
            udp.extend(tunnel.port.to_be_bytes());
            udp.extend((inner.len() as u16 + 12).to_be_bytes());
            udp.extend([0, 0, 0, proto, 0, 0]);
            udp.extend(inner);
            if full {
                let pseudo = [octets(src), octets(dst)].concat();
                let len = (udp.len() as u16).to_be_bytes();
                let check = !sum(&[&pseudo, &[0, 17], &len, &udp]);
                let check = if check == 0 { 0xffff } else { check };
                udp[6..8].copy_from_slice(&check.to_be_bytes());
            }
            ip(src, dst, 17, &udp)
        }
        TunnelKind::Gre => {
            let mut gre = vec![0, 0];
            gre.extend(if v4 { [8, 0] } else { [0x86, 0xdd] });
            if full {
                gre[0] = 0x80;
                gre.extend([0; 4]);
            }
            gre.extend(inner);
            if full {
                let check = !sum(&[&gre]);
                gre[4..6].copy_from_slice(&check.to_be_bytes());
            }
            ip(src, dst, 47, &gre)
        }
    }
}

/// Whether a frame is the answer of the VIP to a question from `to`.
fn answer_in(frame: &[u8], vip: SocketAddr, to: SocketAddr) -> Option<Answer> {
    let v4 = match frame.get(12..14)? {
        [8, 0] => true,
        [0x86, 0xdd] => false,
        _ => return None,
    };
    let (src, dst, l4) = if v4 { (26..30, 30..34, 34) } else { (22..38, 38..54, 54) };
    let proto = *frame.get(if v4 { 23 } else { 20 })?;
    let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let same = vip.is_ipv4() == v4
        && proto == TCP
        && *frame.get(14)? & 15 == if v4 { 5 } else { 0 }
        && frame.get(src)? == octets(vip.ip())
        && frame.get(dst)? == octets(to.ip())
        && (port(l4)?, port(l4 + 2)?) == (vip.port(), to.port());
    let flags = *frame.get(l4 + 13)?;
    match flags & (SYN | ACK | RST) {
        _ if !same => None,
        flags if flags & RST != 0 => Some(Answer::Refuses),
        flags if flags == SYN | ACK => Some(Answer::Accepts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(from: &str, to: &str, flags: u8) -> Vec<u8> {
        let mut packet = segment(from.parse().unwrap(), to.parse().unwrap(), (SYN, 1));
        let at = if packet[0] >> 4 == 4 { 33 } else { 53 };
        packet[at] = flags;
        let ether = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        [&[0u8; 12][..], &ether, &packet].concat()
    }

    #[test]
    fn only_the_vips_answer_to_us_counts() {
        for (vip, us, other) in [
            ("10.0.0.100:80", "10.0.0.2:20001", "10.0.0.2:20002"),
            ("[2001:db8::100]:80", "[2001:db8::2]:20001", "[2001:db8::3]:20001"),
        ] {
            let (v, u) = (vip.parse().unwrap(), us.parse().unwrap());
            let of = |from: &str, to: &str, flags| answer_in(&answer(from, to, flags), v, u);
            assert_eq!(of(vip, us, SYN | ACK), Some(Answer::Accepts));
            assert_eq!(of(vip, us, RST | ACK), Some(Answer::Refuses));
            assert_eq!(of(vip, us, SYN), None);
            assert_eq!(of(vip, other, SYN | ACK), None);
            assert_eq!(of(us, vip, SYN | ACK), None);
            let whole = answer(vip, us, SYN | ACK);
            for len in 0..whole.len() {
                let _ = answer_in(&whole[..len], v, u);
            }
        }
    }

    #[test]
    fn checksums_are_right_and_tunnels_hold_the_whole() {
        let (from, to) = ("10.0.0.2:20001".parse().unwrap(), "10.0.0.100:80".parse().unwrap());
        let packet = segment(from, to, (SYN, 1));
        assert_eq!(sum(&[&packet[..20]]), 0xffff);
        let pseudo = [&packet[12..20], &[0, 6, 0, 20]].concat();
        assert_eq!(sum(&[&pseudo, &packet[20..]]), 0xffff);
        for (kind, more) in [(TunnelKind::Ipip, 20), (TunnelKind::Gue, 32), (TunnelKind::Gre, 24)] {
            let (a, b) = ("10.0.0.2".parse().unwrap(), "10.0.0.11".parse().unwrap());
            let outer = wrapped(Tunnel::new(kind), a, b, &packet);
            assert_eq!(outer.len(), packet.len() + more);
            assert_eq!(outer[more..], packet);
            assert_eq!(usize::from(u16::from_be_bytes([outer[2], outer[3]])), outer.len());
            let full = Tunnel { checksum: TunnelChecksum::Full, ..Tunnel::new(kind) };
            let outer = wrapped(full, a, b, &packet);
            let pseudo = [&outer[12..20], &[0, 17], &(outer.len() as u16 - 20).to_be_bytes()];
            match kind {
                TunnelKind::Ipip => {}
                TunnelKind::Gue => {
                    assert_eq!(sum(&[&pseudo.concat(), &outer[20..]]), 0xffff);
                }
                TunnelKind::Gre => assert_eq!(sum(&[&outer[20..]]), 0xffff),
            }
        }
    }
}
