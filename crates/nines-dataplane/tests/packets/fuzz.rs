//! Packets that lie: cut off, stretched, with bits turned, pieces of one in another. Whatever
//! comes, a packet is left as it is, dropped, or goes to a server of its service as a director may
//! change it.
//!
//! `NINES_FUZZ=packets[,seed]` tries more than the few thousand that every test run does.

use std::net::IpAddr;

use nines_model::{
    ClientRate, Forward, Proto, QuicId, Rate, Scheduler, Tunnel, TunnelChecksum, TunnelKind,
};

use nines_dataplane::DataPlane as _;

use super::{Bench, NEXT, REDIRECT, SHOT, both_hooks, build::*, service, table};

const PACKETS: u64 = 6_000;
/// Of XDP: drop, pass, sent by the same device, sent by another.
const XDP: [i32; 4] = [1, 2, 3, 4];

/// Here a client begins so many and shows a cookie, and datagrams may be QUIC's.
const ASKS: &str = "10.0.0.105";
const ASKS_V6: &str = "[2001:db8::105]";

/// Here servers are told who their client is: one packet carries a header in place of its data.
const TOLD: [&str; 2] = ["10.0.0.106", "[2001:db8::106]"];

fn servers() -> Vec<(&'static str, &'static str, Forward)> {
    let tunnel =
        |kind| Forward::Tunnel(Tunnel { checksum: TunnelChecksum::Full, ..Tunnel::new(kind) });
    vec![
        ("10.0.0.100", "10.0.0.11", Forward::Dr),
        ("10.0.0.101", "10.0.0.12", Forward::Nat),
        ("10.0.0.104", "10.0.0.15", Forward::FullNat),
        ("[2001:db8::104]", "[2001:db8::15]", Forward::FullNat),
        (TOLD[0], "10.0.0.17", Forward::FullNat),
        (TOLD[1], "[2001:db8::17]", Forward::FullNat),
        ("10.0.0.102", "10.0.0.13", tunnel(TunnelKind::Ipip)),
        ("10.0.0.103", "[2001:db8::14]", tunnel(TunnelKind::Gue)),
        (ASKS, "10.0.0.16", Forward::Dr),
        (ASKS_V6, "[2001:db8::16]", Forward::Dr),
        ("[2001:db8::100]", "[2001:db8::11]", Forward::Dr),
        ("[2001:db8::101]", "[2001:db8::12]", Forward::Nat),
        ("[2001:db8::102]", "10.0.0.13", tunnel(TunnelKind::Gre)),
    ]
}

/// Whole packets to begin with: to each service by each protocol, answers, errors.
fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (vip, server, forward) in servers() {
        let to = format!("{vip}:80");
        let six = vip.starts_with('[');
        let client = if six { "[2001:db8::1]:4000" } else { "10.0.0.1:4000" };
        for flags in [SYN, ACK, FIN, RST] {
            all.push(tcp(client, &to, flags).bytes());
        }
        all.push(Frame { options: 1, ..tcp(client, &to, SYN) }.bytes());
        all.push(udp(client, &to).bytes());
        all.push(sctp(client, &to, 1).bytes());
        if TOLD.contains(&vip) {
            // The byte behind the SYN's, with its sum.
            for flags in [ACK, FIN] {
                let mut first = tcp(client, &to, flags).bytes();
                let l4 = if six { 54 } else { 34 };
                first[l4 + 7] += 1;
                let sum = u16::from_be_bytes([first[l4 + 16], first[l4 + 17]]);
                first[l4 + 16..l4 + 18].copy_from_slice(&(sum - 1).to_be_bytes());
                all.push(first);
            }
        }
        if [ASKS, ASKS_V6].contains(&vip) {
            for first in [0x40, 0xe0] {
                let payload = vec![first, 0x2a, 0x0a, 1, 0, 9, 0x2a, 0x0a, 1, 9, 9, 9, 9, 9, 9];
                all.push(Frame { payload, ..udp(client, &to) }.bytes());
            }
        }
        let about = tcp(&to, client, ACK).bytes();
        let router = if six { "2001:db8::7" } else { "10.0.0.7" };
        let (kind, code) = if six { (2, 0) } else { (3, 4) };
        all.push(error(router, kind, code, &about));
        if forward == Forward::Nat {
            let from = format!("{server}:8080");
            all.push(tcp(&from, client, SYN | ACK).bytes());
            all.push(udp(&from, client).bytes());
        }
    }
    all.push(arp([10, 0, 0, 1], [10, 0, 0, 100]));
    all.push(neighbour(135, "2001:db8::1", "2001:db8::100"));
    all
}

fn lies(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let any = |dice: &mut Dice| seeds[dice.roll(seeds.len() as u64) as usize].clone();
    let mut packet = any(dice);
    for _ in 0..dice.roll(4) {
        let at = dice.roll(packet.len() as u64) as usize;
        match dice.roll(8) {
            0 => packet.truncate(at.max(14)),
            1 => packet.extend((0..dice.roll(60)).map(|n| n as u8)),
            2 => packet[at] = dice.roll(256) as u8,
            3 => packet[at] = [0, 255, 1, 0x45, 0x60][dice.roll(5) as usize],
            // The fields that say how long things are, and what they are.
            4 => {
                let field = [14, 16, 17, 18, 19, 20, 21, 22, 23, 46, 47][dice.roll(11) as usize];
                if field < packet.len() {
                    packet[field] = dice.roll(256) as u8;
                }
            }
            5 => {
                let other = any(dice);
                let from = at.min(other.len());
                packet.truncate(from);
                packet.extend(&other[from..]);
            }
            _ => packet[at] ^= 1 << dice.roll(8),
        }
        if packet.len() < 15 {
            return packet;
        }
    }
    packet
}

/// Sum of 16-bit words, folded: what a header's checksum makes 0xffff.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|p| u32::from_be_bytes([0, 0, p[0], *p.get(1).unwrap_or(&0)]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum % 0xffff
}

fn ttl_at(packet: &[u8]) -> usize {
    if packet[12] == 8 { 22 } else { 21 }
}

/// An IP packet without Ethernet addresses and without its header's checksum, `hops` on.
fn after(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut after = packet.to_vec();
    after[ttl_at(packet)] -= hops;
    if packet[12] == 8 {
        after[24..26].fill(0);
    }
    after.split_off(12)
}

/// Asserts that what was sent is what a director may make of what came.
fn check(came: &[u8], sent: &[u8]) {
    let ip = |text: &str| -> IpAddr { text.trim_matches(['[', ']']).parse().unwrap() };
    let (src, dst) = addresses(came);
    // The director itself is the end of these.
    let asks = [ip(ASKS), ip(ASKS_V6)].contains(&dst);
    if asks && src != dst && addresses(sent) == (dst, src) {
        assert!(came[12] == 0x86 || came[23] == 6, "a TCP packet");
        assert_eq!(sent.len(), came.len(), "as long as the SYN");
        assert_eq!(transport_is_right(sent), transport_is_right(came), "as right as it came");
        return;
    }
    let ttl = came[ttl_at(came)];
    assert!(ttl > 1, "a packet at its end goes nowhere");
    let version = if came[12] == 8 { 4 } else { 6 };
    assert_eq!(came[14] >> 4, version, "not of the version that Ethernet says");
    // An answer of a server behind NAT: from its VIP, to where it went before.
    let answers = servers().into_iter().find(|(_, s, f)| *f == Forward::Nat && ip(s) == src);
    let answers = answers.map(|(vip, ..)| (ip(vip), dst));
    if answers == Some(addresses(sent)) {
        let error = came[if came[12] == 8 { 23 } else { 20 }];
        if error != 1 && error != 58 {
            assert_eq!(transport_is_right(sent), transport_is_right(came), "as right as it came");
        }
        return;
    }
    let of = servers().into_iter().find(|(vip, ..)| ip(vip) == dst);
    let (_, server, forward) = of.expect("to a VIP, or an answer");
    let error = came[if version == 4 { 23 } else { 20 }] == if version == 4 { 1 } else { 58 };
    assert!(error || src != dst, "nobody is his own client");
    match forward {
        Forward::Dr => assert_eq!(after(sent, 0), after(came, 1), "only one hop older"),
        Forward::FullNat => {
            // Only who tells of an error keeps his address. An answer goes to any of the clients.
            let (from, to) = addresses(sent);
            let answers = src == ip(server) || error && from == dst;
            assert!(from == dst || error && from == src);
            assert!(to == ip(server) || answers);
            let told = TOLD.iter().any(|vip| ip(vip) == dst);
            assert!(sent.len() == came.len() || told && !error);
            if sent.len() != came.len() {
                // A SYN alone, or the header and who asks whom.
                let l4 = if version == 4 { 14 + usize::from(sent[14] & 15) * 4 } else { 54 };
                let ends = if version == 4 { &came[26..34] } else { &came[22..54] };
                let bare = version == 6 || sent[l4 + 13] & SYN != 0;
                let names = sent.ends_with(&[ends, &came[l4..l4 + 4]].concat());
                assert!(bare || names, "no header");
            }
            if sent.len() == came.len() || transport_is_right(came) == Some(true) {
                let right = transport_is_right(came);
                assert_eq!(transport_is_right(sent), right, "as right as it came");
            }
        }
        Forward::Nat => {
            // An error about an answer is told in the server's words; its own addresses as others.
            assert_eq!(addresses(sent), (src, ip(server)));
            assert_eq!(sent.len(), came.len());
            assert_eq!(transport_is_right(sent), transport_is_right(came), "as right as it came");
        }
        _ => {
            let outer = addresses(sent);
            if outer.0 == dst {
                // "Too big", in the name of the VIP, or where the packet lay in an error.
                return;
            }
            assert_eq!(outer.1, ip(server));
            let more = sent.len() - came.len();
            let inner = [&came[..12], &came[12..14], &sent[14 + more..]].concat();
            assert_eq!(after(&inner, 0), after(came, 1), "inside, only one hop older");
        }
    }
    if came[12] == 8 && sent[12] == 8 && sent.len() == came.len() {
        let header = usize::from(came[14] & 15) * 4;
        let whole = |p: &[u8]| sum(&p[14..(14 + header).min(p.len())]);
        assert_eq!(whole(sent), whole(came), "a right checksum stays right, a wrong one wrong");
    }
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let four = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[i..i + 4]).unwrap());
    let six = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[i..i + 16]).unwrap());
    if packet[12] == 8 { (four(26), four(30)) } else { (six(22), six(38)) }
}

/// Whether the transport checksum of a whole packet with plain headers is right.
fn transport_is_right(packet: &[u8]) -> Option<bool> {
    let v4 = packet[12] == 8;
    let (proto, l4, len) = if v4 {
        if packet[14] != 0x45 || u16::from_be_bytes([packet[20], packet[21]]) & 0x3fff != 0 {
            return None;
        }
        (packet[23], 34, usize::from(u16::from_be_bytes([packet[16], packet[17]])).checked_sub(20)?)
    } else {
        (packet[20], 54, usize::from(u16::from_be_bytes([packet[18], packet[19]])))
    };
    let body = packet.get(l4..l4 + len)?;
    let least = match proto {
        6 => 20,
        17 => 8,
        132 => 12,
        _ => return None,
    };
    if body.len() < least || (proto == 17 && body[6..8] == [0, 0]) {
        return None;
    }
    if proto == 132 {
        let (is, right) = (&body[8..12], crc32c(body));
        return (*is != [0; 4]).then_some(*is == right);
    }
    let addresses = if v4 { &packet[26..34] } else { &packet[22..54] };
    let pseudo = [addresses, &[0, proto], &(len as u16).to_be_bytes()[..], body].concat();
    Some(sum(&pseudo) == 0)
}

/// What servers answer by full NAT, to flows that this opens.
fn answers_of_full_nat(b: &Bench) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (vip, server, _) in servers().into_iter().filter(|(.., f)| *f == Forward::FullNat) {
        let client = if vip.starts_with('[') { "[2001:db8::1]:4001" } else { "10.0.0.1:4001" };
        let to = format!("{vip}:80");
        for asked in [tcp(client, &to, SYN), udp(client, &to)] {
            let (src, dst, _) = read(&b.tc(&asked.bytes()).1);
            assert_eq!(dst, at(&format!("{server}:8080")));
            all.push(Frame { src: dst, dst: src, flags: SYN | ACK, ..asked.clone() }.bytes());
            let router = if src.0.is_ipv4() { "10.0.0.7" } else { "2001:db8::7" };
            let (kind, code) = if src.0.is_ipv4() { (3, 4) } else { (2, 0) };
            all.push(error(router, kind, code, &Frame { src, dst, ..asked }.bytes()));
        }
    }
    all
}

fn fuzz(b: &Bench, packets: u64, seed: u64) -> [u64; 4] {
    let mut dice = Dice(seed);
    let mut seeds = seeds();
    seeds.extend(answers_of_full_nat(b));
    // Left alone, dropped, sent by tc, sent by XDP.
    let mut count = [0; 4];
    for n in 0..packets {
        let came = lies(&mut dice, &seeds);
        let told = format!("packet {n} of seed {seed}: {came:02x?}");
        let judge = |sent: &[u8]| {
            if std::panic::catch_unwind(|| check(&came, sent)).is_err() {
                panic!("{told}\nsent as {sent:02x?}");
            }
        };
        let tc = || {
            // The kernel itself makes no skb of the shortest.
            let Ok(out) = b.plane.test_run("nines_tc_ingress", &came, 1) else { return [0; 3] };
            let done = match out.verdict {
                NEXT => {
                    assert_eq!(out.packet, came, "{told}: not ours, and changed");
                    [1, 0, 0]
                }
                SHOT => [0, 1, 0],
                REDIRECT => {
                    judge(&out.packet);
                    [0, 0, 1]
                }
                other => panic!("{told}: tc said {other}"),
            };
            let out = b.plane.test_run("nines_tc_egress", &came, 1).unwrap();
            assert!([NEXT, SHOT].contains(&out.verdict) && out.packet == came, "{told}");
            done
        };
        let xdp = || {
            let Ok(out) = b.plane.test_run("nines_xdp", &came, 1) else { return 0 };
            assert!(XDP.contains(&out.verdict), "{told}: XDP said {}", out.verdict);
            match out.verdict {
                1 => 0,
                2 => {
                    assert_eq!(out.packet, came, "{told}: handed up, and changed");
                    0
                }
                _ => {
                    judge(&out.packet);
                    1
                }
            }
        };
        // Flows begin at either hook.
        let (by_tc, by_xdp) = if n % 2 == 0 {
            let by_tc = tc();
            (by_tc, xdp())
        } else {
            let by_xdp = xdp();
            (tc(), by_xdp)
        };
        for (sum, one) in count.iter_mut().zip(by_tc.into_iter().chain([by_xdp])) {
            *sum += one;
        }
    }
    count
}

#[test]
fn packets_that_lie_are_never_forwarded_wrong() {
    let Some(mut b) = both_hooks() else { return };
    super::ways::neighbours();
    let services = servers().into_iter().flat_map(|(vip, server, forward)| {
        [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().map(move |proto| {
            let port = if forward.translates() { 8080 } else { 80 };
            let (to, server) = (format!("{vip}:80"), format!("{server}:{port}"));
            let mut service = service(&to, proto, Scheduler::Maglev, &[(&server, forward)]);
            if TOLD.contains(&vip) && proto == Proto::Tcp {
                service.servers.get_mut("r1").unwrap().proxy = true;
            }
            if [ASKS, ASKS_V6].contains(&vip) {
                let rate = Rate { count: 10_000, seconds: 1 };
                let prefix = if vip == ASKS { 24 } else { 64 };
                service.rate = Some(ClientRate { rate, burst: 10_000, prefix });
                service.cookies = (proto == Proto::Tcp).then_some(Rate { count: 1, seconds: 60 });
                service.servers.get_mut("r1").unwrap().quic_id =
                    QuicId::parse("0a01").filter(|_| proto == Proto::Udp);
            }
            service
        })
    });
    b.plane.apply(&table(services.collect())).unwrap();
    let asked = std::env::var("NINES_FUZZ").unwrap_or_default();
    let mut asked = asked.split(',').map(|word| word.parse::<u64>().ok());
    let packets = asked.next().flatten().unwrap_or(PACKETS);
    let count = fuzz(&b, packets, asked.next().flatten().unwrap_or(9));
    assert!(
        count.iter().all(|n| *n * 500 > packets),
        "left, dropped, sent, sent by XDP: {count:?}"
    );
    let drops = b.plane.counters().unwrap().drops;
    assert!(drops["challenged"] > 10, "{drops:?}");
}
