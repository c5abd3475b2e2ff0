//! The same packets at both hooks: XDP and tc send the same bytes, and XDP knows when to leave it
//! to tc.

use nines_dataplane::{DataPlane as _, ebpf::Hooks};
use nines_model::{Forward, Proto, Scheduler, TunnelChecksum, TunnelKind};

use super::{Bench, NEXT, REDIRECT, bench_on, both_hooks, build::*, service, table, ways::*, web};

/// Every way to a server, of both families, for every protocol, at both hooks: who gets it, what it
/// looks like then, and the same bytes wherever XDP sends it.
#[test]
fn every_way_family_protocol_and_hook() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let none = TunnelChecksum::None;
    let ways = [
        Forward::Dr,
        Forward::Nat,
        Forward::FullNat,
        Forward::Local,
        tunnel(TunnelKind::Ipip, none),
        tunnel(TunnelKind::Gue, none),
        tunnel(TunnelKind::Gre, none),
    ];
    let mut client = 4_000;
    for (forward, proto, (vip, server, from)) in ways.iter().flat_map(|forward| {
        [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().flat_map(move |proto| {
            FAMILIES.into_iter().map(move |family| (*forward, proto, family))
        })
    }) {
        let mixed = vip.starts_with('[') != server.starts_with('[');
        let tunnelled = matches!(forward, Forward::Tunnel(_));
        if mixed && !tunnelled {
            continue;
        }
        let own = if vip.starts_with('[') { "[2001:db8::2]" } else { "10.0.0.2" };
        let mapped = if forward.translates() { 8_080 } else { 80 };
        let server = format!("{}:{mapped}", if forward == Forward::Local { own } else { server });
        let (to, what) = (format!("{vip}:80"), format!("{forward} {proto} {vip} {server}"));
        let pool = service(&to, proto, Scheduler::Rr, &[(&server, forward)]);
        b.plane.apply(&table(vec![pool])).unwrap();
        for first_at_xdp in [false, true] {
            client += 1;
            let from = format!("{from}:{client}");
            let (begin, more) = match proto {
                Proto::Tcp => (tcp(&from, &to, SYN), tcp(&from, &to, ACK)),
                Proto::Udp => (udp(&from, &to), udp(&from, &to)),
                Proto::Sctp => (sctp(&from, &to, 1), sctp(&from, &to, 0)),
            };
            let begun = if first_at_xdp { b.xdp(&begin.bytes()) } else { b.tc(&begin.bytes()) };
            let (at_tc, at_xdp) = (b.tc(&more.bytes()), b.xdp(&more.bytes()));
            if forward == Forward::Local {
                assert_eq!(at_tc, (NEXT, more.bytes()), "{what}: up our own stack");
                assert_eq!(at_xdp, (2, more.bytes()), "{what}: up our own stack");
                assert!([NEXT, 2].contains(&begun.0), "{what}");
                continue;
            }
            assert!(begun.0 == REDIRECT || XDP_SENT.contains(&begun.0), "{what}: {}", begun.0);
            assert_eq!(at_tc.0, REDIRECT, "{what}");
            assert!(XDP_SENT.contains(&at_xdp.0), "{what}: XDP said {}", at_xdp.0);
            assert_eq!(at_xdp.1[12..], at_tc.1[12..], "{what}: the same bytes");
            let inner = if tunnelled {
                let (outer, inner) = unwrap(&at_tc.1);
                assert_eq!(outer.dst, at(&server).0, "{what}");
                inner
            } else {
                at_tc.1
            };
            let dst = if forward.translates() { at(&server) } else { more.dst };
            let seen = read(&inner);
            let own = (more.dst.0, seen.0.1);
            let src = if forward == Forward::FullNat { own } else { more.src };
            assert_eq!(seen, (src, dst, 63), "{what}");
        }
    }
}

#[test]
fn direct_routing_is_the_same_at_both_hooks() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let servers = |addr| [(addr, Forward::Dr)];
    b.plane
        .apply(&table(vec![
            service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers("10.0.0.11:80")),
            service("10.0.0.100:80", Proto::Udp, Scheduler::Rr, &servers("10.0.0.11:80")),
            service("10.0.0.100:80", Proto::Sctp, Scheduler::Rr, &servers("10.0.0.11:80")),
            service("[2001:db8::100]:80", Proto::Tcp, Scheduler::Rr, &servers("[2001:db8::11]:80")),
        ]))
        .unwrap();
    for frame in [
        tcp("10.0.0.1:4000", "10.0.0.100:80", SYN),
        udp("10.0.0.1:4000", "10.0.0.100:80"),
        sctp("10.0.0.1:4000", "10.0.0.100:80", 1),
        tcp("[2001:db8::1]:4000", "[2001:db8::100]:80", SYN),
    ] {
        let (verdict, at_tc) = b.tc(&frame.bytes());
        assert_eq!((verdict, read(&at_tc)), (REDIRECT, (frame.src, frame.dst, 63)));
        let (verdict, at_xdp) = b.xdp(&frame.bytes());
        assert!(XDP_SENT.contains(&verdict), "XDP said {verdict}");
        assert_eq!(at_xdp[12..], at_tc[12..]);
    }
}

/// Packets in and out of all services.
fn totals(b: &mut Bench) -> [u64; 2] {
    let services = b.plane.counters().unwrap().services;
    services.values().fold([0, 0], |[i, o], s| [i + s.packets_in, o + s.packets_out])
}

#[test]
fn translation_is_the_same_at_both_hooks() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let (four, six) = (["10.0.0.11:8080"], ["[2001:db8::11]:8080"]);
    let to = |vip: &str, proto, [server]: [&str; 1]| {
        service(&format!("{vip}:80"), proto, Scheduler::Rr, &[(server, Forward::Nat)])
    };
    let all = [
        to("10.0.0.100", Proto::Tcp, four),
        to("10.0.0.100", Proto::Udp, four),
        to("10.0.0.100", Proto::Sctp, four),
        to("[2001:db8::100]", Proto::Tcp, six),
        to("[2001:db8::100]", Proto::Udp, six),
    ];
    b.plane.apply(&table(all.to_vec())).unwrap();
    let v4 = |n: u16| (format!("10.0.0.1:{n}"), "10.0.0.100:80", "10.0.0.11:8080");
    let v6 = |n: u16| (format!("[2001:db8::1]:{n}"), "[2001:db8::100]:80", "[2001:db8::11]:8080");
    let first = |frame: Frame| Frame { flags: SYN, ..frame };
    for (n, (client, vip, server), kind) in [
        (1, v4(1), "tcp"),
        (2, v4(2), "udp"),
        (3, v4(3), "udp without checksum"),
        (4, v4(4), "tcp with options"),
        (5, v4(5), "sctp"),
        (6, v6(6), "tcp"),
        (7, v6(7), "udp"),
        (8, v6(8), "tcp with options"),
    ] {
        let frame = |from: &str, to: &str| match kind {
            "tcp" => tcp(from, to, ACK),
            "udp" => udp(from, to),
            "sctp" => sctp(from, to, 0),
            "tcp with options" => Frame { options: 1, ..tcp(from, to, ACK) },
            _ => Frame { udp_checksum: false, ..udp(from, to) },
        };
        let (there, back) = (frame(&client, vip), frame(server, &client));
        let begins = match kind {
            "sctp" => sctp(&client, vip, 1),
            k if k.starts_with("tcp") => first(there.clone()),
            _ => there.clone(),
        };
        // Every other flow begins at XDP.
        let begun = if n % 2 == 0 { b.tc(&begins.bytes()) } else { b.xdp(&begins.bytes()) };
        assert!(begun.0 == REDIRECT || XDP_SENT.contains(&begun.0), "{kind} {n}: {}", begun.0);
        let answer = match kind {
            "sctp" => sctp(server, &client, 2),
            k if k.starts_with("tcp") => Frame { flags: SYN | ACK, ..back.clone() },
            _ => back.clone(),
        };
        b.tc(&answer.bytes());
        b.tc(&there.bytes());
        let counted = totals(&mut b);
        for frame in [&there, &back] {
            let (verdict, at_tc) = b.tc(&frame.bytes());
            assert_eq!(verdict, REDIRECT, "{kind} {n}");
            let (verdict, at_xdp) = b.xdp(&frame.bytes());
            assert!(XDP_SENT.contains(&verdict), "{kind} {n}: XDP said {verdict}");
            assert_eq!(at_xdp[12..], at_tc[12..], "{kind} {n}: the same bytes at both hooks");
            if frame.options == 0 {
                read(&at_xdp);
            }
        }
        assert_eq!(totals(&mut b), [counted[0] + 2, counted[1] + 2]);
        if kind == "tcp" {
            let end = Frame { flags: FIN, ..there };
            let ended = |b: &mut Bench| b.plane.counters().unwrap().services["s0"].inactive;
            let before = ended(&mut b);
            assert!(XDP_SENT.contains(&b.xdp(&end.bytes()).0), "both entries know, without tc");
            assert!(XDP_SENT.contains(&b.xdp(&Frame { flags: FIN, ..back }.bytes()).0));
            assert_eq!(ended(&mut b), before + u64::from(n == 1), "the client's counts");
        }
    }
}

#[test]
fn xdp_hands_up_what_leaves_by_a_device_that_takes_no_frames() {
    let Some(mut b) = bench_on(Hooks::Xdp) else { return };
    neighbours();
    let frame = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).bytes();
    b.plane.apply(&web(Scheduler::Maglev)).unwrap();
    for n in 11..14 {
        let words =
            format!("neigh replace 10.0.0.{n} lladdr 02:00:00:00:00:{n} dev v0 nud permanent");
        super::ip(&words);
    }
    // Programs are on v0: it takes frames.
    let (verdict, _) = b.xdp(&frame);
    assert!(XDP_SENT.contains(&verdict), "XDP said {verdict}");
    super::ip("link add w0 type veth peer name w1");
    super::ip("link set w0 up");
    super::ip("link set w1 up");
    for n in 11..14 {
        super::ip(&format!(
            "neigh replace 10.0.1.{n} lladdr 02:00:00:00:01:{n} dev w0 nud permanent"
        ));
    }
    super::ip("addr add 10.0.1.2/24 dev w0");
    let away = [("10.0.1.11:81", Forward::Dr)];
    let mut all = web(Scheduler::Maglev);
    all.services.insert("away".into(), service("10.0.0.100:81", Proto::Tcp, Scheduler::Rr, &away));
    b.plane.apply(&all).unwrap();
    b.plane.takes_no_frames("w0").unwrap();
    let frame = tcp("10.0.0.1:4000", "10.0.0.100:81", SYN).bytes();
    assert_eq!(b.xdp(&frame), (2, frame.clone()), "handed up as it came");
    assert_eq!(b.tc(&frame).0, REDIRECT);
}
