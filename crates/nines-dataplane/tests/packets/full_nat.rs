//! Full NAT: the server sees the VIP, answers come back by themselves, at both hooks.

use std::{collections::BTreeMap, net::IpAddr};

use nines_dataplane::DataPlane as _;
use nines_model::{Forward, ForwardingTable, Proto, Scheduler, TableService, Traffic};

use super::{Bench, NEXT, REDIRECT, bench, both_hooks, build::*, service, table, ways::*};

const FULL: Forward = Forward::FullNat;

fn one(proto: Proto, vip: &str, server: &str) -> ForwardingTable {
    table(vec![service(&format!("{vip}:80"), proto, Scheduler::Rr, &[(server, FULL)])])
}

/// Opens a flow and gives the packet as the server sees it.
fn opened(b: &Bench, frame: &Frame, at_xdp: bool) -> Frame {
    let (verdict, packet) = if at_xdp { b.xdp(&frame.bytes()) } else { b.tc(&frame.bytes()) };
    assert!(verdict == REDIRECT || XDP_SENT.contains(&verdict), "verdict {verdict}");
    let (src, dst, ttl) = read(&packet);
    assert_eq!(ttl, 63);
    Frame { src, dst, ..frame.clone() }
}

fn answer_to(seen: &Frame, flags: u8) -> Frame {
    Frame { src: seen.dst, dst: seen.src, flags, ..seen.clone() }
}

#[test]
fn the_server_sees_the_vip_and_the_client_too() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let mut client = 4_000;
    for (vip, server, from) in [FAMILIES[0], FAMILIES[3]] {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            let server = format!("{server}:8080");
            b.plane.apply(&one(proto, vip, &server)).unwrap();
            for at_xdp in [false, true] {
                client += 1;
                let (from, to) = (format!("{from}:{client}"), format!("{vip}:80"));
                let (begin, more) = match proto {
                    Proto::Tcp => (tcp(&from, &to, SYN), tcp(&from, &to, ACK)),
                    Proto::Sctp => (sctp(&from, &to, 1), sctp(&from, &to, 0)),
                    _ => (udp(&from, &to), udp(&from, &to)),
                };
                let what = format!("{proto} {vip} xdp {at_xdp}");
                let seen = opened(&b, &begin, at_xdp);
                assert_eq!((seen.src.0, seen.dst), (at(&to).0, at(&server)), "{what}");
                assert!(seen.src.1 >= 1_024, "{what}: port {}", seen.src.1);
                // Both entries learn of it at tc, then XDP goes on by itself.
                let answer = answer_to(&seen, SYN | ACK);
                assert_eq!(read(&b.tc(&answer.bytes()).1), (begin.dst, begin.src, 63), "{what}");
                b.tc(&more.bytes());
                let answer = answer_to(&seen, ACK);
                for (frame, src, dst) in
                    [(&more, seen.src, seen.dst), (&answer, begin.dst, begin.src)]
                {
                    let (at_tc, xdp) = (b.tc(&frame.bytes()), b.xdp(&frame.bytes()));
                    assert_eq!((at_tc.0, read(&at_tc.1)), (REDIRECT, (src, dst, 63)), "{what}");
                    assert!(XDP_SENT.contains(&xdp.0), "{what}: XDP said {}", xdp.0);
                    assert_eq!(xdp.1[12..], at_tc.1[12..], "{what}: the same bytes");
                }
            }
        }
    }
}

#[test]
fn its_flows_are_counted_and_end_as_others() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&one(Proto::Tcp, "10.0.0.100", "10.0.0.11:80")).unwrap();
    let frame = |flags| tcp("10.0.0.1:4000", "10.0.0.100:80", flags);
    let load = |b: &mut Bench| {
        let tally = b.plane.counters().unwrap().services["s0"];
        (tally.connections, tally.active, tally.inactive)
    };
    let seen = opened(&b, &frame(SYN), false);
    b.tc(&answer_to(&seen, SYN | ACK).bytes());
    b.tc(&frame(ACK).bytes());
    assert_eq!(load(&mut b), (1, 1, 0));
    b.tc(&answer_to(&seen, FIN).bytes());
    b.tc(&frame(FIN).bytes());
    assert_eq!(load(&mut b), (1, 0, 1), "what the server says counts");
    let tally = b.plane.counters().unwrap().services["s0"];
    assert_eq!((tally.packets_in, tally.packets_out), (3, 2));
    // A port used again is another flow, with another port beside the VIP.
    let again = opened(&b, &frame(SYN), false);
    assert_ne!(again.src, seen.src);
    assert_eq!(b.tc(&answer_to(&seen, ACK).bytes()).0, NEXT, "a late answer is nobody's");
    assert_eq!(b.tc(&answer_to(&again, SYN | ACK).bytes()).0, REDIRECT);
    // Who has ended every entry's server has ended its flows.
    b.plane.apply(&table(vec![])).unwrap();
    assert_eq!(b.tc(&answer_to(&again, ACK).bytes()).0, NEXT);
}

/// Hundreds of thousands of packets are too many for a processor that is emulated; what they try
/// is no kernel's.
fn is_emulated() -> bool {
    let emulated = std::env::var_os("NINES_IPVS").is_some();
    if emulated {
        eprintln!("SKIPPED: too many packets for the VM");
    }
    emulated
}

/// More flows than ports: those worth least give way, and no port is ever two flows'.
#[test]
fn each_flow_has_a_port_of_its_own() {
    if is_emulated() {
        return;
    }
    let Some(mut b) = bench() else { return };
    b.plane.apply(&one(Proto::Udp, "10.0.0.100", "10.0.0.11:80")).unwrap();
    let mut owners: BTreeMap<(IpAddr, u16), Frame> = BTreeMap::new();
    let mut given_again = 0;
    for n in 0..80_000u32 {
        let client = format!("10.0.0.{}:{}", 20 + n / 60_000, 1_024 + n % 60_000);
        let asked = udp(&client, "10.0.0.100:80");
        let (verdict, packet) = b.tc(&asked.bytes());
        assert_eq!(verdict, REDIRECT, "there is a port for {client}");
        let port = read(&packet).0;
        // Who had the port has it no longer: he gets another one when he speaks.
        if let Some(before) = owners.insert(port, asked) {
            given_again += 1;
            let now = read(&b.tc(&before.bytes()).1).0;
            assert_ne!(now, port, "{port:?} is two flows'");
            owners.insert(now, before);
        }
    }
    assert!(given_again > 80_000 - 64_512, "{given_again}");
    assert!(b.plane.counters().unwrap().drops["evicted"] > 0);
    let mut alive = 0;
    for (port, asked) in owners {
        let seen = Frame { src: port, dst: at("10.0.0.11:80"), ..asked.clone() };
        let (verdict, packet) = b.tc(&answer_to(&seen, 0).bytes());
        if verdict == REDIRECT {
            assert_eq!(read(&packet).1, asked.src, "answers go to whom they are for");
            alive += 1;
        }
    }
    assert!((55_000..=64_512).contains(&alive), "of 64,512: {alive}");
}

/// A flood of SYNs takes its own ports; who is established keeps his.
#[test]
fn a_flood_takes_no_port_of_an_established_flow() {
    if is_emulated() {
        return;
    }
    let Some(mut b) = bench() else { return };
    b.plane.apply(&one(Proto::Tcp, "10.0.0.100", "10.0.0.11:80")).unwrap();
    let real: Vec<(Frame, Frame)> = (0..500u32)
        .map(|n| {
            let begin = tcp(&format!("10.0.0.1:{}", 2_000 + n), "10.0.0.100:80", SYN);
            let seen = opened(&b, &begin, false);
            b.tc(&answer_to(&seen, SYN | ACK).bytes());
            let more = Frame { flags: ACK, ..begin };
            b.tc(&more.bytes());
            (more, seen)
        })
        .collect();
    for n in 0..100_000u32 {
        let client = format!("10.0.{}.77:{}", 1 + n / 60_000, 1_024 + n % 60_000);
        assert_eq!(b.tc(&tcp(&client, "10.0.0.100:80", SYN).bytes()).0, REDIRECT, "{n}");
    }
    for (more, seen) in real {
        assert_eq!(read(&b.tc(&more.bytes()).1).0, seen.src);
        let (verdict, packet) = b.tc(&answer_to(&seen, ACK).bytes());
        assert_eq!((verdict, read(&packet).1), (REDIRECT, more.src));
    }
}

/// A flow loses its port with the entry of its answers: it begins anew, never as if it
/// were another flow.
#[test]
fn a_flow_whose_port_went_to_another_begins_anew() {
    if is_emulated() {
        return;
    }
    let Some(mut b) = bench() else { return };
    let mut both = one(Proto::Udp, "10.0.0.100", "10.0.0.11:80");
    let others = [("10.0.0.12:81", Forward::Dr)];
    let others = service("10.0.0.100:81", Proto::Udp, Scheduler::Maglev, &others);
    both.services.insert("others".into(), others);
    b.plane.apply(&both).unwrap();
    let first = udp("10.0.0.1:4000", "10.0.0.100:80");
    let before = opened(&b, &first, false);
    // So many that all places of the table were somebody else's meanwhile.
    for n in 0..400_000u32 {
        let client = format!("10.{}.{}.1:{}", 1 + n / 60_000, n % 7, 1_024 + n % 60_000);
        b.tc(&udp(&client, "10.0.0.100:81").bytes());
    }
    assert!(b.plane.counters().unwrap().drops["evicted"] > 0);
    let late = b.tc(&answer_to(&before, 0).bytes());
    assert!(late.0 == NEXT || read(&late.1).1 != first.src, "its port is nobody's, or another's");
    let after = opened(&b, &first, false);
    let (verdict, packet) = b.tc(&answer_to(&after, 0).bytes());
    assert_eq!((verdict, read(&packet).1), (REDIRECT, first.src));
}

#[test]
fn icmp_errors_are_told_in_the_words_of_who_hears_them() {
    let Some(mut b) = bench() else { return };
    for (n, (vip, server, client, router, source)) in [
        ("10.0.0.100", "10.0.0.11", "10.0.0.1", "10.0.0.7", None),
        ("10.0.0.100", "10.0.0.11", "10.0.0.1", "10.0.0.7", Some("10.0.0.151")),
        ("[2001:db8::100]", "[2001:db8::11]", "[2001:db8::1]", "2001:db8::7", None),
        (
            "[2001:db8::100]",
            "[2001:db8::11]",
            "[2001:db8::1]",
            "2001:db8::7",
            Some("2001:db8::151"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (to, from) = (format!("{vip}:80"), format!("{client}:{}", 4_000 + n));
        let server = format!("{server}:8080");
        let mut all = one(Proto::Tcp, vip, &server);
        let pool = source.map(|source| source.parse::<IpAddr>().unwrap());
        all.services.get_mut("s0").unwrap().pool = pool.into_iter().collect();
        b.plane.apply(&all).unwrap();
        let seen = opened(&b, &tcp(&from, &to, SYN), false);
        assert_eq!(seen.src.0, pool.unwrap_or(at(&to).0));
        let (kind, code) = if seen.src.0.is_ipv4() { (3, 4) } else { (2, 0) };
        // A router towards the client cannot carry what the server answered.
        let about = tcp(&to, &from, ACK).bytes();
        let (verdict, out) = b.tc(&error(router, kind, code, &about));
        assert_eq!(verdict, REDIRECT, "{to}");
        let (src, dst, what, mtu, about_src, about_dst) = read_error(&out);
        assert_eq!((src.to_string().as_str(), what, mtu), (router, [kind, code], 1_400));
        assert_eq!((dst, about_src, about_dst), (seen.dst.0, seen.dst, seen.src), "{to}");
        // A router towards the server cannot carry what the client asked.
        let about = Frame { flags: ACK, ..seen.clone() }.bytes();
        let (verdict, out) = b.tc(&error(router, kind, code, &about));
        assert_eq!(verdict, REDIRECT, "{to}");
        let (src, dst, what, mtu, about_src, about_dst) = read_error(&out);
        assert_eq!((src, dst, what, mtu), (at(&to).0, at(&from).0, [kind, code], 1_400));
        assert_eq!((about_src, about_dst), (at(&from), at(&to)), "the client hears of the VIP");
    }
}

#[test]
fn a_server_may_be_its_own_client_and_marks_choose_too() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&one(Proto::Tcp, "10.0.0.100", "10.0.0.11:80")).unwrap();
    let own = tcp("10.0.0.11:5000", "10.0.0.100:80", SYN);
    let seen = opened(&b, &own, false);
    assert_eq!((seen.src.0, seen.dst), (own.dst.0, at("10.0.0.11:80")), "as from another machine");
    let (verdict, packet) = b.tc(&answer_to(&seen, SYN | ACK).bytes());
    assert_eq!((verdict, read(&packet)), (REDIRECT, (own.dst, own.src, 63)));

    let mut marked = TableService::new(Traffic::Marked { mark: 7, v6: false }, Scheduler::Rr);
    marked.servers =
        service("10.0.0.100:0", Proto::Tcp, Scheduler::Rr, &[("10.0.0.11:0", FULL)]).servers;
    b.plane.apply(&table(vec![marked])).unwrap();
    let frame = tcp("10.0.0.1:1", "192.0.2.1:443", SYN);
    let out = b.plane.test_run_marked("nines_tc_ingress", &frame.bytes(), 7).unwrap();
    let (src, dst, _) = read(&out.packet);
    assert_eq!((src.0, dst), (frame.dst.0, at("10.0.0.11:443")), "from what the client asked");
    let back = Frame { src: dst, dst: src, flags: SYN | ACK, ..frame.clone() };
    assert_eq!(read(&b.tc(&back.bytes()).1), (frame.dst, frame.src, 63));
}

#[test]
fn single_datagrams_are_refused() {
    let Some(mut b) = bench() else { return };
    let mut single = one(Proto::Udp, "10.0.0.100", "10.0.0.11:80");
    single.services.get_mut("s0").unwrap().one_packet = true;
    assert!(b.plane.apply(&single).unwrap_err().why.contains("single datagrams"));
}
