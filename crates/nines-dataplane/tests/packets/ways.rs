//! Ways to real servers: tunnels of every kind and family, ICMP errors along each way, SCTP,
//! services by mark or on every port, single datagrams.

use std::collections::BTreeSet;

use nines_dataplane::{DataPlane as _, Guard as _};
use nines_model::{
    Forward, ForwardingTable, Limit, Millis, Persist, Proto, Scheduler, ServerRef, TableService,
    Traffic, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{Bench, NEXT, REDIRECT, SHOT, bench, both_hooks, build::*, service, table, web};

pub const KINDS: [TunnelKind; 3] = [TunnelKind::Ipip, TunnelKind::Gue, TunnelKind::Gre];

pub fn tunnel(kind: TunnelKind, checksum: TunnelChecksum) -> Forward {
    Forward::Tunnel(Tunnel { checksum, ..Tunnel::new(kind) })
}

/// Service and server of each family, and a client of the service.
pub const FAMILIES: [(&str, &str, &str); 4] = [
    ("10.0.0.100", "10.0.0.11", "10.0.0.1"),
    ("10.0.0.100", "[2001:db8::11]", "10.0.0.1"),
    ("[2001:db8::100]", "10.0.0.11", "[2001:db8::1]"),
    ("[2001:db8::100]", "[2001:db8::11]", "[2001:db8::1]"),
];

/// XDP_TX and XDP_REDIRECT.
pub const XDP_SENT: [i32; 2] = [3, 4];

/// Lets XDP find the way: forwarding on, neighbours known.
pub fn neighbours() {
    for line in [
        "neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
        "neigh replace 2001:db8::1 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
        "neigh replace 10.0.0.11 lladdr 02:00:00:00:00:0b dev v0 nud permanent",
        "neigh replace 2001:db8::11 lladdr 02:00:00:00:00:0b dev v0 nud permanent",
    ] {
        let done = std::process::Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(done.success(), "ip {line}");
    }
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/lo/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
    }
}

impl Bench {
    pub fn xdp(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        let out = self.plane.test_run("nines_xdp", frame, 1).unwrap();
        (out.verdict, out.packet)
    }
}

#[test]
fn tunnels_of_every_kind_and_family_at_both_hooks() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    for kind in KINDS {
        for checksum in [TunnelChecksum::None, TunnelChecksum::Full] {
            for (vip, server, client) in FAMILIES {
                let server = format!("{server}:80");
                let forward = tunnel(kind, checksum);
                let to = |proto| {
                    service(&format!("{vip}:80"), proto, Scheduler::Rr, &[(&server, forward)])
                };
                b.plane.apply(&table(vec![to(Proto::Tcp), to(Proto::Udp)])).unwrap();
                let from = format!("{client}:4000");
                let to = format!("{vip}:80");
                let no_sum = Frame { udp_checksum: false, ..udp(&from, &to) };
                let options = Frame { options: 1, ..tcp(&from, &to, SYN) };
                let mut frames = vec![tcp(&from, &to, SYN), udp(&from, &to), options];
                if at(&to).0.is_ipv4() {
                    frames.push(no_sum);
                }
                for frame in frames {
                    let what =
                        format!("{kind:?} {checksum:?} {from} {to} {server} {}", frame.proto);
                    let (verdict, at_tc) = b.tc(&frame.bytes());
                    assert_eq!(verdict, REDIRECT, "{what}");
                    let (outer, inner) = unwrap(&at_tc);
                    assert_eq!(outer.dst, at(&server).0, "{what}");
                    assert!(["10.0.0.2", "2001:db8::2"].contains(&outer.src.to_string().as_str()));
                    let known = frame.udp_checksum && (frame.options == 0 || frame.src.0.is_ipv4());
                    let summed = checksum == TunnelChecksum::Full && kind != TunnelKind::Ipip;
                    assert_eq!(outer.summed, summed && known, "{what}");
                    if kind == TunnelKind::Gue {
                        assert_eq!(outer.dport, 6_080);
                    }
                    if frame.options == 0 {
                        assert_eq!(read(&inner), (frame.src, frame.dst, 63), "{what}");
                    }
                    let (verdict, at_xdp) = b.xdp(&frame.bytes());
                    assert!(XDP_SENT.contains(&verdict), "{what}: XDP said {verdict}");
                    assert_eq!(at_xdp[12..], at_tc[12..], "{what}: the same bytes at both hooks");
                }
            }
        }
    }
}

#[test]
fn a_tunnelled_packet_is_counted_once_and_nobodys_address_is_not_guarded() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let ipip = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    let servers = [("10.0.0.11:80", ipip)];
    b.plane
        .apply(&table(vec![service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers)]))
        .unwrap();
    for flags in [SYN, ACK, ACK] {
        b.tc(&tcp("10.0.0.1:4000", "10.0.0.100:80", flags).bytes());
    }
    assert_eq!(b.plane.counters().unwrap().services["s0"].packets_in, 3);
    b.xdp(&tcp("10.0.0.1:4000", "10.0.0.100:80", ACK).bytes());
    assert_eq!(b.plane.counters().unwrap().services["s0"].packets_in, 4);
    // A host that looks whether its address is taken speaks from the address that is none.
    b.guard.cover(&[("2001:db8::100".parse().unwrap(), false)]).unwrap();
    assert_eq!(b.egress(&neighbour(135, "::", "2001:db8::2")), NEXT);
}

#[test]
fn what_does_not_fit_into_a_tunnel_is_answered() {
    let Some(mut b) = bench() else { return };
    for (kind, checksum, room) in [
        (TunnelKind::Ipip, TunnelChecksum::None, [1_480, 1_460]),
        (TunnelKind::Gue, TunnelChecksum::None, [1_468, 1_448]),
        (TunnelKind::Gre, TunnelChecksum::Full, [1_472, 1_452]),
    ] {
        for (vip, server, client) in FAMILIES {
            let server = format!("{server}:80");
            let (to, from) = (format!("{vip}:80"), format!("{client}:4000"));
            let one = [(server.as_str(), tunnel(kind, checksum))];
            b.plane.apply(&table(vec![service(&to, Proto::Udp, Scheduler::Rr, &one)])).unwrap();
            let room: u16 = room[usize::from(at(&server).0.is_ipv6())];
            let header = if at(&to).0.is_ipv6() { 48 } else { 28 };
            let of_size = |bytes: u16| Frame {
                payload: vec![7; usize::from(bytes) - header],
                ..udp(&from, &to)
            };
            assert_eq!(unwrap(&b.tc(&of_size(room).bytes()).1).1.len(), usize::from(room) + 14);
            let (verdict, answer) = b.tc(&of_size(room + 1).bytes());
            assert_eq!(verdict, REDIRECT);
            let (src, dst, kind_code, mtu, about_src, about_dst) = read_error(&answer);
            assert_eq!((src, dst), (at(&to).0, at(&from).0), "in the name of the VIP");
            let expected = if header == 48 { [2, 0] } else { [3, 4] };
            assert_eq!((kind_code, mtu), (expected, room));
            assert_eq!((about_src, about_dst), (at(&from), at(&to)));
            assert_eq!(answer[..6], CLIENT_MAC, "back where it came from");
        }
    }
    assert!(b.plane.counters().unwrap().drops["too-big"] > 0);
}

#[test]
fn icmp_errors_go_where_the_flow_goes() {
    let Some(mut b) = bench() else { return };
    for (vip, server, client, router) in [
        ("10.0.0.100", "10.0.0.11", "10.0.0.1", "10.0.0.7"),
        ("[2001:db8::100]", "[2001:db8::11]", "[2001:db8::1]", "2001:db8::7"),
    ] {
        let (to, from) = (format!("{vip}:80"), format!("{client}:4000"));
        let (kind, code) = if at(&to).0.is_ipv4() { (3, 4) } else { (2, 0) };
        // A router towards the client could not carry the server's answer: to the VIP it says so.
        let about = tcp(&to, &from, ACK).bytes();
        let said = error(router, kind, code, &about);
        for forward in [Forward::Dr, Forward::Nat, tunnel(TunnelKind::Ipip, TunnelChecksum::None)] {
            let mapped = if forward == Forward::Nat { 8080 } else { 80 };
            let server = format!("{server}:{mapped}");
            let servers = [(server.as_str(), forward)];
            b.plane.apply(&table(vec![service(&to, Proto::Tcp, Scheduler::Rr, &servers)])).unwrap();
            assert_eq!(b.tc(&tcp(&from, &to, SYN).bytes()).0, REDIRECT);
            let (verdict, out) = b.tc(&said);
            assert_eq!(verdict, REDIRECT, "{forward} {to}");
            let out = if matches!(forward, Forward::Tunnel(_)) { unwrap(&out).1 } else { out };
            let (src, dst, what, mtu, about_src, about_dst) = read_error(&out);
            assert_eq!((src.to_string().as_str(), what, mtu), (router, [kind, code], 1_400));
            let (there, sender) = if forward == Forward::Nat {
                (at(&server).0, at(&server))
            } else {
                (at(&to).0, at(&to))
            };
            assert_eq!((dst, about_src, about_dst), (there, sender, at(&from)), "{forward}");
            if forward != Forward::Nat {
                continue;
            }
            // The server refuses what the client sent: the client hears of the VIP only.
            let refused = tcp(&from, &server, ACK).bytes();
            let (kind, code) = if at(&to).0.is_ipv4() { (3, 3) } else { (1, 4) };
            let server_ip = at(&server).0.to_string();
            let (verdict, out) = b.tc(&error(&server_ip, kind, code, &refused));
            assert_eq!(verdict, REDIRECT);
            let (src, dst, what, _, about_src, about_dst) = read_error(&out);
            assert_eq!((src, dst, what), (at(&to).0, at(&from).0, [kind, code]));
            assert_eq!((about_src, about_dst), (at(&from), at(&to)));
        }
        let stranger = error(router, kind, code, &tcp(&from, &format!("{client}:9"), ACK).bytes());
        assert_eq!(b.tc(&stranger), (NEXT, stranger.clone()), "not about ours: untouched");
    }
}

#[test]
fn sctp_goes_there_and_back() {
    let Some(mut b) = bench() else { return };
    let nat = [("10.0.0.11:80", Forward::Nat)];
    b.plane
        .apply(&table(vec![service("10.0.0.100:80", Proto::Sctp, Scheduler::Rr, &nat)]))
        .unwrap();
    let init = sctp("10.0.0.1:4000", "10.0.0.100:80", 1);
    let (verdict, packet) = b.tc(&init.bytes());
    assert_eq!((verdict, read(&packet)), (REDIRECT, (init.src, at("10.0.0.11:80"), 63)));
    let (verdict, packet) = b.tc(&sctp("10.0.0.11:80", "10.0.0.1:4000", 2).bytes());
    assert_eq!((verdict, read(&packet)), (REDIRECT, (at("10.0.0.100:80"), init.src, 63)));
    let tally = |b: &mut Bench| b.plane.counters().unwrap().servers[&ServerRef::new("s0", "r1")];
    assert_eq!((tally(&mut b).active, tally(&mut b).inactive), (1, 0));
    for chunk in [10, 6] {
        b.tc(&sctp("10.0.0.1:4000", "10.0.0.100:80", chunk).bytes());
    }
    assert_eq!((tally(&mut b).active, tally(&mut b).inactive), (0, 1), "COOKIE ECHO, ABORT");
}

/// Packets of many lengths have a checksum that is right again; one that a device has yet to
/// compute stays as it is.
#[test]
fn the_checksum_of_sctp_follows_its_ports() {
    let Some(mut b) = bench() else { return };
    let nat = [("10.0.0.11:8080", Forward::Nat)];
    let wanted = table(vec![service("10.0.0.100:80", Proto::Sctp, Scheduler::Rr, &nat)]);
    b.plane.apply(&wanted).unwrap();
    b.tc(&sctp("10.0.0.1:4000", "10.0.0.100:80", 1).bytes());
    for (n, length) in (0..40).chain([1_000, 1_460, 3_000]).enumerate() {
        let payload: Vec<u8> = (0..length).map(|i| (i * 7 + n) as u8).collect();
        let there = Frame { payload, ..sctp("10.0.0.1:4000", "10.0.0.100:80", 0) };
        let (verdict, packet) = b.tc(&there.bytes());
        assert_eq!((verdict, read(&packet)), (REDIRECT, (there.src, at("10.0.0.11:8080"), 63)));
        let back = Frame { src: at("10.0.0.11:8080"), dst: there.src, ..there.clone() };
        let (verdict, packet) = b.tc(&back.bytes());
        assert_eq!((verdict, read(&packet)), (REDIRECT, (there.dst, there.src, 63)));
    }
    let mut offloaded = sctp("10.0.0.1:4000", "10.0.0.100:80", 0).bytes();
    offloaded[42..46].fill(0);
    let (verdict, packet) = b.tc(&offloaded);
    assert_eq!((verdict, &packet[36..38]), (REDIRECT, &8_080u16.to_be_bytes()[..]));
    assert_eq!(packet[42..46], [0; 4], "for the device to compute");
    // What its other fragments hold counts too, and nobody has it here.
    let mut first = sctp("10.0.0.1:4000", "10.0.0.100:80", 0).bytes();
    first[20] = 0x20;
    let sum = u16::from_be_bytes([first[24], first[25]]);
    first[24..26].copy_from_slice(&(sum + 0x2000).to_be_bytes());
    assert_eq!(b.tc(&first).0, SHOT);
    assert_eq!(b.plane.counters().unwrap().drops["mangled"], 1);
}

#[test]
fn a_service_on_every_port_keeps_a_client_on_one_server() {
    let Some(mut b) = bench() else { return };
    let nat = Forward::Nat;
    let mut every = service(
        "10.0.0.100:0",
        Proto::Tcp,
        Scheduler::Rr,
        &[("10.0.0.11:0", nat), ("10.0.0.12:0", nat)],
    );
    every.persist = Some(Persist { time: Millis(60_000), prefix: 32 });
    let one =
        service("10.0.0.100:443", Proto::Tcp, Scheduler::Rr, &[("10.0.0.13:443", Forward::Dr)]);
    b.plane.apply(&table(vec![every, one])).unwrap();
    let mut servers = BTreeSet::new();
    for port in [21, 80, 8_080] {
        let frame = tcp("10.0.0.1:4000", &format!("10.0.0.100:{port}"), SYN);
        let (verdict, packet) = b.tc(&frame.bytes());
        let (src, dst, _) = read(&packet);
        assert_eq!((verdict, src, dst.1), (REDIRECT, frame.src, port), "the port stays");
        let back = tcp(&format!("{}:{port}", dst.0), "10.0.0.1:4000", SYN | ACK);
        assert_eq!(read(&b.tc(&back.bytes()).1).0, frame.dst, "from the VIP, by its port");
        servers.insert(dst.0);
    }
    assert_eq!(servers.len(), 1, "all ports of a client: {servers:?}");
    let own = tcp("10.0.0.1:4000", "10.0.0.100:443", SYN);
    assert_eq!(read(&b.tc(&own.bytes()).1).1, own.dst, "a port with a service of its own");
}

#[test]
fn marked_packets_have_their_service_whatever_their_address() {
    let Some(mut b) = bench() else { return };
    let mut marked = TableService::new(Traffic::Marked { mark: 7, v6: false }, Scheduler::Rr);
    marked.servers = service(
        "10.0.0.100:0",
        Proto::Tcp,
        Scheduler::Rr,
        &[("10.0.0.11:0", Forward::Nat), ("10.0.0.12:0", Forward::Nat)],
    )
    .servers;
    b.plane.apply(&table(vec![marked])).unwrap();
    for (n, to) in [(1, "192.0.2.1:80"), (2, "198.51.100.9:443")] {
        let frame = tcp(&format!("10.0.0.1:{n}"), to, SYN);
        let unmarked = b.tc(&frame.bytes());
        assert_eq!(unmarked, (NEXT, frame.bytes()));
        let out = b.plane.test_run_marked("nines_tc_ingress", &frame.bytes(), 7).unwrap();
        assert_eq!(out.verdict, REDIRECT);
        let (src, dst, _) = read(&out.packet);
        assert_eq!((src, dst.1), (frame.src, frame.dst.1));
        let back = Frame { src: dst, dst: src, flags: SYN | ACK, ..frame.clone() };
        assert_eq!(read(&b.tc(&back.bytes()).1), (frame.dst, frame.src, 63));
    }
}

#[test]
fn single_datagrams_are_scheduled_one_by_one() {
    let Some(mut b) = bench() else { return };
    let servers = [("10.0.0.11:53", Forward::Nat), ("10.0.0.12:53", Forward::Nat)];
    let mut dns = service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &servers);
    dns.one_packet = true;
    b.plane.apply(&table(vec![dns])).unwrap();
    let ask = udp("10.0.0.1:4000", "10.0.0.100:53");
    let seen: Vec<_> = (0..4).map(|_| read(&b.tc(&ask.bytes()).1).1.0.to_string()).collect();
    assert_eq!(seen, ["10.0.0.11", "10.0.0.12", "10.0.0.11", "10.0.0.12"]);
    for server in ["10.0.0.11:53", "10.0.0.12:53"] {
        let answer = udp(server, "10.0.0.1:4000");
        assert_eq!(read(&b.tc(&answer.bytes()).1).0, ask.dst, "answers of both are known");
    }
    let tally = b.plane.counters().unwrap().services["s0"];
    assert_eq!((tally.connections, tally.active + tally.inactive), (4, 0));
}

#[test]
fn two_choices_are_drawn_by_weight() {
    let Some(mut b) = bench() else { return };
    let at = |n: u8| (format!("10.0.0.{n}:53"), Forward::Dr);
    let servers: Vec<(String, Forward)> = (11..14).map(at).collect();
    let servers: Vec<(&str, Forward)> = servers.iter().map(|(a, f)| (a.as_str(), *f)).collect();
    let mut dns = service("10.0.0.100:53", Proto::Udp, Scheduler::Twos, &servers);
    // Nobody carries anything: the first that is drawn takes it.
    dns.one_packet = true;
    for (name, weight) in [("r1", 2), ("r2", 5), ("r3", 11)] {
        dns.servers.get_mut(name).unwrap().weight = weight;
    }
    b.plane.apply(&table(vec![dns])).unwrap();
    let ask = udp("10.0.0.1:4000", "10.0.0.100:53").bytes();
    let all = 3_800;
    for _ in 0..all {
        b.tc(&ask);
    }
    let counters = b.plane.counters().unwrap();
    // Of the sum and one more, which the first server has (IPVS).
    for (name, share) in [("r1", 3.0), ("r2", 5.0), ("r3", 11.0)] {
        let taken = counters.servers[&ServerRef::new("s0", name)].connections as f64;
        let (wanted, part) = (f64::from(all) * share / 19.0, share / 19.0);
        let deviation = (f64::from(all) * part * (1.0 - part)).sqrt();
        assert!((taken - wanted).abs() < 6.0 * deviation, "{name}: {taken}, expected {wanted}");
    }
}

#[test]
fn of_two_choices_the_emptier_takes_the_flow() {
    let Some(mut b) = bench() else { return };
    let mut pool = web(Scheduler::Twos);
    let weigh = |pool: &mut ForwardingTable, weights: [u32; 3]| {
        let servers = &mut pool.services.get_mut("s0").unwrap().servers;
        for (server, weight) in servers.values_mut().zip(weights) {
            server.weight = weight;
        }
    };
    let begin = |b: &Bench, clients: std::ops::Range<u16>| {
        for n in clients {
            b.tc(&tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN).bytes());
        }
    };
    // The last one carries more than the others will.
    weigh(&mut pool, [0, 0, 10]);
    b.plane.apply(&pool).unwrap();
    begin(&b, 1_000..1_400);
    weigh(&mut pool, [10, 10, 10]);
    b.plane.apply(&pool).unwrap();
    begin(&b, 2_000..2_300);
    let mut taken =
        |name: &str| b.plane.counters().unwrap().servers[&ServerRef::new("s0", name)].connections;
    // It takes one only when it is drawn twice: of 300 that is 31, and 97 by one draw.
    let more = taken("r3") - 400;
    assert!((5..64).contains(&more), "{more}");
    assert!(taken("r1").abs_diff(taken("r2")) < 60, "{} and {}", taken("r1"), taken("r2"));
}

#[test]
fn a_full_server_takes_no_more_until_it_is_emptier() {
    let Some(mut b) = bench() else { return };
    for scheduler in [Scheduler::Rr, Scheduler::Wlc, Scheduler::Twos] {
        let mut pool = web(scheduler);
        let web = pool.services.get_mut("s0").unwrap();
        web.servers.remove("r3");
        web.servers.get_mut("r1").unwrap().limit = Limit { upper: 4, lower: 3 };
        b.plane.apply(&table(vec![])).unwrap();
        b.plane.apply(&pool).unwrap();
        let flow = |n: u16, flags: u8| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", flags);
        let hits: Vec<String> = (1..=40).map(|n| b.hit(&flow(n, SYN))).collect();
        assert_eq!(hits.iter().filter(|h| *h == "r1").count(), 4, "{scheduler}: {hits:?}");
        // A raised limit counts at once, and a lowered one.
        let limit = |upper| {
            let mut pool = pool.clone();
            let web = pool.services.get_mut("s0").unwrap();
            web.servers.get_mut("r1").unwrap().limit = Limit { upper, lower: 0 };
            pool
        };
        b.plane.apply(&limit(6)).unwrap();
        let more: Vec<String> = (41..=80).map(|n| b.hit(&flow(n, SYN))).collect();
        assert_eq!(more.iter().filter(|h| *h == "r1").count(), 2, "{scheduler}: {more:?}");
    }
    // Everybody full: nobody takes it.
    let mut pool = web(Scheduler::Wlc);
    for server in pool.services.get_mut("s0").unwrap().servers.values_mut() {
        server.limit = Limit { upper: 1, lower: 1 };
    }
    b.plane.apply(&table(vec![])).unwrap();
    b.plane.apply(&pool).unwrap();
    let flow = |n: u16| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN).bytes();
    let verdicts: Vec<i32> = (100..104).map(|n| b.tc(&flow(n)).0).collect();
    assert_eq!(verdicts[..3], [REDIRECT; 3]);
    assert!(super::is_unserved(verdicts[3]));
}

#[test]
fn schedulers_by_hash_keep_places_and_fall_back() {
    let Some(mut b) = bench() else { return };
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        let mut pool = web(scheduler);
        b.plane.apply(&table(vec![])).unwrap();
        b.plane.apply(&pool).unwrap();
        let flow = |n: u16| tcp(&format!("10.0.{n}.1:4000"), "10.0.0.100:80", SYN);
        let before: Vec<String> = (1..=60).map(|n| b.hit(&flow(n))).collect();
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{scheduler}");
        let again = |port: u16, n: u16| tcp(&format!("10.0.{n}.1:{port}"), "10.0.0.100:80", SYN);
        let same: Vec<String> = (1..=60).map(|n| b.hit(&again(5_000, n))).collect();
        assert_eq!(same, before, "{scheduler}: the client's port does not matter");
        // Weight 0 leaves the server its places: its clients are turned away (IPVS).
        let web = pool.services.get_mut("s0").unwrap();
        web.servers.get_mut("r1").unwrap().weight = 0;
        b.plane.apply(&pool).unwrap();
        for (n, was) in (1..=60).zip(&before) {
            let now = b.hit(&again(5_001, n));
            assert!(if was == "r1" { now.starts_with("none") } else { now == *was });
        }
        // With fallback others take them, and nobody else moves.
        pool.services.get_mut("s0").unwrap().flags.fallback = true;
        b.plane.apply(&pool).unwrap();
        for (n, was) in (1..=60).zip(&before) {
            let now = b.hit(&again(5_002, n));
            assert!(if was == "r1" { ["r2", "r3"].contains(&now.as_str()) } else { now == *was });
        }
        pool.services.get_mut("s0").unwrap().flags.port = true;
        b.plane.apply(&pool).unwrap();
        let ports: BTreeSet<String> = (1..40).map(|p| b.hit(&again(6_000 + p, 1))).collect();
        assert_eq!(ports.len(), 2, "{scheduler}: by port too");
    }
}

#[test]
fn locality_keeps_a_destination_until_its_server_is_crowded() {
    let Some(mut b) = bench() else { return };
    for scheduler in [Scheduler::Lblc, Scheduler::Lblcr] {
        let mut pool = web(scheduler);
        for server in pool.services.get_mut("s0").unwrap().servers.values_mut() {
            server.weight = 4;
        }
        b.plane.apply(&table(vec![])).unwrap();
        b.plane.apply(&pool).unwrap();
        let open =
            |b: &mut Bench, n: u16| b.hit(&tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN));
        let hits: Vec<String> = (1..=9).map(|n| open(&mut b, n)).collect();
        assert_eq!(hits[..5].iter().collect::<BTreeSet<_>>().len(), 1, "{scheduler}: {hits:?}");
        assert_ne!(hits[5], hits[0], "{scheduler}: five active, weight 4, others idle: {hits:?}");
        let stays = hits[5..9].iter().all(|h| *h == hits[5]);
        assert!(stays, "{scheduler}: the destination went along: {hits:?}");
    }
}
