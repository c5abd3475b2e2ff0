//! Who may begin flows, how many, and by what a packet finds its service and server, at both hooks.

use nines_dataplane::DataPlane as _;
use nines_model::{
    ClientRate, Forward, ForwardingTable, Listen, Proto, QuicId, Rate, Scheduler, ServerRef,
    ServerState, Traffic,
};

use super::{Bench, NEXT, REDIRECT, SHOT, bench, both_hooks, build::*, service, table, ways::*};

const DR: Forward = Forward::Dr;

/// The table with its only service changed.
fn changed(
    mut table: ForwardingTable,
    how: impl FnOnce(&mut nines_model::TableService),
) -> ForwardingTable {
    how(table.services.get_mut("s0").unwrap());
    table
}

fn at_hook(b: &Bench, xdp: bool, frame: &Frame) -> (i32, Vec<u8>) {
    if xdp { b.xdp(&frame.bytes()) } else { b.tc(&frame.bytes()) }
}

fn is_sent(verdict: i32, xdp: bool) -> bool {
    if xdp { XDP_SENT.contains(&verdict) } else { verdict == REDIRECT }
}

fn spread(addr: &str, last: u16, prefix: u8) -> Traffic {
    let one = Listen::new(addr.parse().unwrap(), Proto::Tcp);
    Traffic::To(Listen { last, prefix, ..one })
}

#[test]
fn ranges_of_ports_and_networks_of_vips() {
    let Some(mut b) = bench() else { return };
    neighbours();
    let to = |server: &str| {
        service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &[(&format!("{server}:0"), DR)])
    };
    let mut all = table([11, 12, 13, 14, 15].map(|n| to(&format!("10.0.0.{n}"))).to_vec());
    let traffics = [
        spread("10.0.0.100:8000", 8_999, 32),
        spread("10.0.0.100:8080", 8_080, 32),
        spread("10.0.0.96:443", 444, 30),
        spread("10.0.0.100:0", 0, 32),
        // Within the second half of the first one's last prefix.
        spread("10.0.0.100:8999", 8_999, 31),
    ];
    for (service, traffic) in all.services.values_mut().zip(traffics) {
        service.traffic = traffic;
    }
    b.plane.apply(&all).unwrap();
    let mut client = 4_000;
    let mut goes = |b: &mut Bench, to: &str| {
        client += 1;
        b.hit(&tcp(&format!("10.0.0.1:{client}"), to, SYN))
    };

    for (to, service) in [
        ("10.0.0.100:8000", "s0"),
        ("10.0.0.100:8500", "s0"),
        ("10.0.0.100:8998", "s0"),
        ("10.0.0.100:8999", "s4"),
        ("10.0.0.101:8999", "s4"),
        ("10.0.0.100:8080", "s1"),
        ("10.0.0.96:443", "s2"),
        ("10.0.0.99:444", "s2"),
        ("10.0.0.100:7999", "s3"),
        ("10.0.0.100:9000", "s3"),
    ] {
        let count = |b: &mut Bench| b.plane.counters().unwrap().services[service].connections;
        let had = count(&mut b);
        assert_eq!(goes(&mut b, to), "r1", "{to}");
        assert_eq!(count(&mut b), had + 1, "{to} belongs to {service}");
    }

    for to in ["10.0.0.96:445", "10.0.0.96:442", "10.0.0.95:443"] {
        assert_eq!(goes(&mut b, to), format!("none, verdict {NEXT}"), "{to}");
    }
    // As it is read back it is as it was written, and a range that moves takes what it has with it.
    assert!(b.plane.observe().unwrap().is_empty());
    all.services.get_mut("s0").unwrap().traffic = spread("10.0.0.100:8500", 9_500, 32);
    b.plane.apply(&all).unwrap();
    assert!(b.plane.observe().unwrap().is_empty());
    for (to, service) in [("10.0.0.100:8000", "s3"), ("10.0.0.100:9500", "s0")] {
        let had = b.plane.counters().unwrap().services[service].connections;
        goes(&mut b, to);
        assert_eq!(b.plane.counters().unwrap().services[service].connections, had + 1, "{to}");
    }
}

#[test]
fn nat_of_a_range_keeps_the_port_and_the_way_back() {
    let Some(mut b) = bench() else { return };
    for forward in [Forward::Nat, Forward::FullNat] {
        let mut all = table(vec![service(
            "10.0.0.96:8000",
            Proto::Tcp,
            Scheduler::Rr,
            &[("10.0.0.11:0", forward)],
        )]);
        all.services.get_mut("s0").unwrap().traffic = spread("10.0.0.96:8000", 8_099, 30);
        b.plane.apply(&all).unwrap();
        let asked = tcp("10.0.0.1:4000", "10.0.0.98:8042", SYN);
        let (src, dst, _) = read(&b.tc(&asked.bytes()).1);
        assert_eq!(dst, at("10.0.0.11:8042"), "{forward}");
        let answer = Frame { src: dst, dst: src, flags: SYN | ACK, ..asked.clone() };
        assert_eq!(read(&b.tc(&answer.bytes()).1), (asked.dst, asked.src, 63), "{forward}");
    }
}

#[test]
fn a_client_begins_so_many_and_no_more() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let rate = Rate { count: 1, seconds: 60 };
    for (n, xdp) in [false, true].into_iter().enumerate() {
        let servers = [("10.0.0.11:80", DR)];
        let web = table(vec![service("10.0.0.100:80", Proto::Tcp, Scheduler::Maglev, &servers)]);
        let web = changed(web, |s| s.rate = Some(ClientRate { rate, burst: 3, prefix: 30 }));
        b.plane.apply(&web).unwrap();
        // Each hook has clients of its own.
        let host = |i: usize| format!("10.0.0.{}", 16 + 8 * n + i);
        let syn = |i: usize, port: u16| tcp(&format!("{}:{port}", host(i)), "10.0.0.100:80", SYN);
        for (i, port) in [(0, 1), (3, 2), (1, 3)] {
            assert!(is_sent(at_hook(&b, xdp, &syn(i, port)).0, xdp), "one of the first three");
        }
        let refused = if xdp { 1 } else { SHOT };
        assert_eq!(at_hook(&b, xdp, &syn(2, 4)).0, refused, "the fourth of this network");
        let known = Frame { flags: ACK, ..syn(0, 1) };
        assert!(is_sent(at_hook(&b, xdp, &known).0, xdp), "connections that are there go on");
        assert!(is_sent(at_hook(&b, xdp, &syn(4, 1)).0, xdp), "another network begins");
        let often = Rate { count: 10, seconds: 1 };
        let web = changed(web, |s| s.rate = Some(ClientRate { rate: often, burst: 1, prefix: 30 }));
        b.plane.apply(&web).unwrap();
        assert!(
            is_sent(at_hook(&b, xdp, &syn(2, 4)).0, xdp),
            "what the old rate kept is forgotten"
        );
    }
    assert_eq!(b.plane.counters().unwrap().drops["rate"], 2);
}

/// Acknowledgement number and flags of a TCP frame.
fn words(frame: &[u8]) -> (u32, u8) {
    let l4 = if frame[12] == 8 { 14 + usize::from(frame[14] & 15) * 4 } else { 54 };
    let ack = u32::from_be_bytes(frame[l4 + 8..l4 + 12].try_into().unwrap());
    (ack, frame[l4 + 13])
}

/// The frame with this sequence number, its checksum right.
fn with_sequence(frame: &Frame, number: u32) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let l4 = if bytes[12] == 8 { 14 + 20 + 4 * frame.options } else { 54 };
    let sum = u16::from_be_bytes([bytes[l4 + 16], bytes[l4 + 17]]);
    let mut all = (!sum).to_be_bytes().to_vec();
    for (new, old) in number.to_be_bytes().chunks(2).zip(bytes[l4 + 4..l4 + 8].chunks(2)) {
        all.extend(new);
        all.extend(old.iter().map(|byte| !byte));
    }
    bytes[l4 + 4..l4 + 8].copy_from_slice(&number.to_be_bytes());
    bytes[l4 + 16..l4 + 18].copy_from_slice(&(!fold(&all)).to_be_bytes());
    bytes
}

#[test]
fn strangers_show_a_cookie_where_too_many_come() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    for (n, (vip, server, from)) in [FAMILIES[0], FAMILIES[3]].into_iter().enumerate() {
        for xdp in [false, true] {
            let servers = format!("{server}:80");
            let web = table(vec![service(
                &format!("{vip}:80"),
                Proto::Tcp,
                Scheduler::Maglev,
                &[(&servers, DR)],
            )]);
            // A table of its own for each: what was saved up is anew.
            b.plane.apply(&ForwardingTable::default()).unwrap();
            let rate = Rate { count: 1, seconds: 60 };
            b.plane.apply(&changed(web, |s| s.cookies = Some(rate))).unwrap();
            let what = format!("{vip} xdp {xdp}");
            let vip = format!("{vip}:80");
            let host = |last: usize| {
                let host = from.trim_start_matches('[').trim_end_matches(']');
                let at = host.rfind(['.', ':']).unwrap() + 1;
                let host = format!("{}{}", &host[..at], last + 4 * n + 2 * usize::from(xdp));
                if host.contains(':') { format!("[{host}]") } else { host }
            };
            let syn = |last: usize, port: u16| tcp(&format!("{}:{port}", host(last)), &vip, SYN);
            let send = |bytes: &[u8]| if xdp { b.xdp(bytes) } else { b.tc(bytes) };
            // Whatever was used up before: from the second one on strangers are asked.
            send(&syn(40, 9).bytes());
            let frame = Frame { options: usize::from(n == 0), ..syn(50, 4_000) };
            let (verdict, answer) = send(&frame.bytes());
            assert!(is_sent(verdict, xdp), "{what}: {verdict}");
            assert_eq!(read(&answer), (frame.dst, frame.src, 64), "{what}: turned round");
            let (cookie, flags) = words(&answer);
            assert_eq!(flags, ACK, "{what}");
            assert_eq!(answer[..6], frame.mac, "{what}: to where it came from");
            assert_eq!(answer.len(), frame.bytes().len(), "{what}: no larger than the question");
            let again = send(&frame.bytes());
            assert_eq!(words(&again.1), (cookie, ACK), "{what}: nothing is kept");
            let other = send(&syn(50, 4_001).bytes());
            assert_ne!(words(&other.1).0, cookie, "{what}: each flow has its own");
            // Not the right number, and not the right client.
            let reset = Frame { flags: RST, ..frame.clone() };
            let guess = send(&with_sequence(&reset, cookie.wrapping_add(1)));
            assert!(is_sent(guess.0, xdp), "{what}: a reset like any other");
            let thief = Frame { src: syn(51, 4_000).src, ..reset.clone() };
            send(&with_sequence(&thief, cookie));
            assert_eq!(words(&send(&frame.bytes()).1).0, cookie, "{what}: nothing was shown yet");
            let shown = send(&with_sequence(&reset, cookie));
            assert_eq!(shown.0, if xdp { 1 } else { SHOT }, "{what}: it has done its duty");
            for port in [4_000, 4_002] {
                let (verdict, packet) = send(&syn(50, port).bytes());
                assert!(is_sent(verdict, xdp), "{what}");
                let (src, dst, _) = read(&packet);
                assert_eq!((src.1, dst), (port, frame.dst), "{what}: on to the server");
            }
            let (_, still) = send(&syn(52, 1).bytes());
            assert_eq!(words(&still).1, ACK, "{what}: others are asked as before");
        }
    }
    let drops = b.plane.counters().unwrap().drops;
    assert_eq!(drops["proven"], 4);
    assert!(drops["challenged"] >= 16);
}

fn datagram(from: &str, payload: Vec<u8>) -> Frame {
    Frame { payload, ..udp(from, "10.0.0.100:443") }
}

/// A QUIC packet with a short header, or the long one of a handshake or an Initial (type 2, 0).
fn quic(id: &[u8], long: Option<u8>) -> Vec<u8> {
    let cid = [&[0x2a][..], id, &[1, 2, 3, 4, 5]].concat();
    match long {
        None => [&[0x40][..], &cid, &[9; 30]].concat(),
        Some(kind) => {
            let head = [0xc0 | kind << 4, 0, 0, 0, 1, cid.len() as u8];
            [&head[..], &cid, &[9; 30]].concat()
        }
    }
}

#[test]
fn quic_packets_find_the_server_that_they_name() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let servers = [("10.0.0.11:443", DR), ("10.0.0.12:443", DR), ("10.0.0.13:443", DR)];
    let pool = |state: ServerState| {
        let all = table(vec![service("10.0.0.100:443", Proto::Udp, Scheduler::Rr, &servers)]);
        changed(all, |s| {
            for (i, server) in s.servers.values_mut().enumerate() {
                server.quic_id = Some(QuicId { bytes: 2, id: 0x0a01 + i as u64 });
            }
            s.servers.get_mut("r2").unwrap().state = state;
        })
    };
    b.plane.apply(&pool(ServerState::Up)).unwrap();
    let mut port = 1_000;
    let mut from = || {
        port += 1;
        format!("10.0.0.1:{port}")
    };
    for _ in 0..3 {
        for (id, name) in [([0x0a, 1], "r1"), ([0x0a, 2], "r2"), ([0x0a, 3], "r3")] {
            assert_eq!(b.hit(&datagram(&from(), quic(&id, None))), name, "short header");
            assert_eq!(b.hit(&datagram(&from(), quic(&id, Some(2)))), name, "handshake");
        }
    }
    // Chosen by the client, or of nobody: scheduled in turn.
    for payload in [quic(&[0x0a, 2], Some(0)), quic(&[7, 7], None), vec![0x40, 0x2a], vec![]] {
        let of = (0..3).map(|_| b.hit(&datagram(&from(), payload.clone())));
        let mut of: Vec<String> = of.collect();
        of.sort();
        assert_eq!(of, ["r1", "r2", "r3"], "{payload:?}");
    }
    let moved = datagram(&from(), quic(&[0x0a, 1], None));
    assert!(XDP_SENT.contains(&b.xdp(&moved.bytes()).0));
    let tally = b.plane.counters().unwrap().servers[&ServerRef::new("s0", "r1")];
    assert_eq!(b.hit(&moved), "r1", "XDP found it, and tc knows");
    let one_more = b.plane.counters().unwrap().servers[&ServerRef::new("s0", "r1")];
    assert_eq!(tally.connections, one_more.connections, "one flow");
    // Who is drained keeps his connections wherever their clients go; who is down does not.
    b.plane.apply(&pool(ServerState::Draining)).unwrap();
    assert_eq!(b.hit(&datagram(&from(), quic(&[0x0a, 2], None))), "r2");
    b.plane.apply(&pool(ServerState::Down)).unwrap();
    assert_ne!(b.hit(&datagram(&from(), quic(&[0x0a, 2], None))), "r2");
    assert!(b.plane.observe().unwrap().is_empty());
}
