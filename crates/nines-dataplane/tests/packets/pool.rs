//! Full NAT from a pool of sources.

use std::{collections::BTreeMap, net::IpAddr};

use nines_dataplane::{DataPlane as _, Guard as _, flow_sync::Batch, process::boot_time};
use nines_model::{Forward, ForwardingTable, Millis, Proto, Scheduler};

use super::{Bench, NEXT, REDIRECT, SHOT, bench, both_hooks, build::*, service, table, ways::*};

const V4: [&str; 3] = ["10.0.0.151", "10.0.0.152", "10.0.0.153"];
const V6: [&str; 3] = ["2001:db8::151", "2001:db8::152", "2001:db8::153"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn by(pool: &[&str], proto: Proto, vip: &str, server: &str) -> ForwardingTable {
    let servers = [(server, Forward::FullNat)];
    let mut all = table(vec![service(&format!("{vip}:80"), proto, Scheduler::Rr, &servers)]);
    all.services.get_mut("s0").unwrap().pool = pool.iter().map(|a| ip(a)).collect();
    all
}

fn simple(pool: &[&str]) -> ForwardingTable {
    by(pool, Proto::Tcp, "10.0.0.100", "10.0.0.11:8080")
}

fn frame(client: u16, flags: u8) -> Frame {
    tcp(&format!("10.0.0.1:{client}"), "10.0.0.100:80", flags)
}

/// What the server sees of a packet.
fn seen(b: &Bench, frame: &Frame, xdp: bool) -> Frame {
    let (verdict, packet) = if xdp { b.xdp(&frame.bytes()) } else { b.tc(&frame.bytes()) };
    assert!(verdict == REDIRECT || XDP_SENT.contains(&verdict), "verdict {verdict}");
    let (src, dst, _) = read(&packet);
    Frame { src, dst, ..frame.clone() }
}

fn answer(seen: &Frame, flags: u8) -> Frame {
    Frame { src: seen.dst, dst: seen.src, flags, ..seen.clone() }
}

#[test]
fn servers_see_the_sources_and_clients_the_vip() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    for (pool, (vip, server, from)) in [(V4, FAMILIES[0]), (V6, FAMILIES[3])] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let server = format!("{server}:8080");
            b.plane.apply(&by(&pool, proto, vip, &server)).unwrap();
            let mut used: BTreeMap<IpAddr, usize> = BTreeMap::new();
            for client in 4_000..4_060 {
                let xdp = client % 2 == 0;
                let (from, to) = (format!("{from}:{client}"), format!("{vip}:80"));
                let begin = match proto {
                    Proto::Tcp => tcp(&from, &to, SYN),
                    _ => udp(&from, &to),
                };
                let what = format!("{proto} {vip} xdp {xdp}");
                let there = seen(&b, &begin, xdp);
                assert_eq!(there.dst, at(&server), "{what}");
                *used.entry(there.src.0).or_default() += 1;
                let back = answer(&there, SYN | ACK);
                assert_eq!(read(&b.tc(&back.bytes()).1), (begin.dst, begin.src, 63), "{what}");
                let more = Frame { flags: ACK, ..begin.clone() };
                b.tc(&more.bytes());
                assert_eq!(seen(&b, &more, false).src, there.src, "{what}");
                let by_xdp = b.xdp(&more.bytes());
                assert!(XDP_SENT.contains(&by_xdp.0), "{what}: XDP said {}", by_xdp.0);
                assert_eq!(by_xdp.1[12..], b.tc(&more.bytes()).1[12..], "{what}: the same bytes");
                let back = answer(&there, ACK);
                let by_xdp = b.xdp(&back.bytes());
                assert!(XDP_SENT.contains(&by_xdp.0), "{what}: XDP said {}", by_xdp.0);
                assert_eq!(read(&by_xdp.1), (begin.dst, begin.src, 63), "{what}");
            }
            let pool = pool.map(ip);
            assert!(used.keys().all(|a| pool.contains(a)), "never the VIP: {used:?}");
            assert!(used.len() == 3 && used.values().all(|n| *n > 5), "{used:?}");
            // What is no answer goes to the host's own stack.
            let stray = answer(&Frame { src: (pool[0], 999), ..frame(1, ACK) }, ACK);
            assert_eq!(b.tc(&stray.bytes()).0, NEXT);
            b.plane.apply(&ForwardingTable::default()).unwrap();
        }
    }
}

#[test]
fn a_source_that_lives_elsewhere_is_not_used() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    b.plane.apply(&simple(&V4)).unwrap();
    let all: Vec<(IpAddr, bool)> = V4.map(|a| (ip(a), false)).to_vec();
    b.guard.cover(&all).unwrap();
    let hold = |b: &mut Bench, n: usize, ms: u64| {
        b.guard.set(ip(V4[n]), boot_time().plus(Millis(ms))).unwrap();
    };
    let sources = |b: &Bench, clients: std::ops::Range<u16>| {
        let mut of: Vec<IpAddr> = clients.map(|c| seen(b, &frame(c, SYN), false).src.0).collect();
        of.sort();
        of.dedup();
        of
    };
    assert_eq!(sources(&b, 100..120), [ip("10.0.0.100")], "none is here: the VIP");
    hold(&mut b, 1, 60_000);
    assert_eq!(sources(&b, 200..220), [ip(V4[1])], "the only one that is here");
    hold(&mut b, 2, 60_000);
    assert_eq!(sources(&b, 300..340), [ip(V4[1]), ip(V4[2])]);
    // One that leaves: what has it waits, and nothing speaks for it.
    let kept = (300..340).find(|c| seen(&b, &frame(*c, ACK), false).src.0 == ip(V4[2])).unwrap();
    let port = seen(&b, &frame(kept, ACK), false).src;
    b.guard.set(ip(V4[2]), boot_time()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    for xdp in [false, true] {
        let packet = frame(kept, ACK).bytes();
        let (verdict, _) = if xdp { b.xdp(&packet) } else { b.tc(&packet) };
        assert_eq!(verdict, if xdp { 1 } else { SHOT }, "xdp {xdp}");
    }
    hold(&mut b, 2, 60_000);
    let there = seen(&b, &frame(kept, ACK), false);
    assert_eq!(there.src, port, "it is back, and so is the flow");
    // The VIP leaves, the source is still here: nothing answers in the name of the VIP.
    b.tc(&answer(&there, SYN | ACK).bytes());
    b.tc(&frame(kept, ACK).bytes());
    let vip = ip("10.0.0.100");
    let all: Vec<(IpAddr, bool)> = all.into_iter().chain([(vip, false)]).collect();
    b.guard.cover(&all).unwrap();
    for (deadline, by_tc, by_xdp) in [(60_000, REDIRECT, None), (0, SHOT, Some(1))] {
        b.guard.set(vip, boot_time().plus(Millis(deadline))).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let back = answer(&there, ACK).bytes();
        assert_eq!(b.tc(&back).0, by_tc, "{deadline} ms left");
        let xdp = b.xdp(&back).0;
        assert!(by_xdp.map_or(XDP_SENT.contains(&xdp), |said| said == xdp), "XDP said {xdp}");
    }
}

#[test]
fn a_source_that_is_taken_away_takes_its_flows_only() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&simple(&V4)).unwrap();
    let before: BTreeMap<u16, Frame> =
        (500..560).map(|c| (c, seen(&b, &frame(c, SYN), false))).collect();
    before.values().for_each(|f| drop(b.tc(&answer(f, SYN | ACK).bytes())));
    before.keys().for_each(|c| drop(b.tc(&frame(*c, ACK).bytes())));
    // Another takes its place at once, and one more comes.
    let next = ["10.0.0.151", "10.0.0.153", "10.0.0.154", "10.0.0.155"];
    b.plane.apply(&simple(&next)).unwrap();
    assert!(b.plane.observe().unwrap().is_empty());
    for (client, was) in &before {
        let stays = was.src.0 != ip(V4[1]);
        let back = b.tc(&answer(was, ACK).bytes());
        assert_eq!(back.0 == REDIRECT, stays, "{client} from {}", was.src.0);
        let now = seen(&b, &frame(*client, ACK), false);
        assert_eq!(now.src == was.src, stays, "{client} from {}", was.src.0);
    }
    let mut used: Vec<IpAddr> = (600..660).map(|c| seen(&b, &frame(c, SYN), false).src.0).collect();
    used.sort();
    used.dedup();
    assert_eq!(used, next.map(ip));
    // Too many are refused, and all is as it was.
    let many: Vec<String> = (1..10).map(|n| format!("10.0.0.{}", 160 + n)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let why = b.plane.apply(&simple(&many)).unwrap_err();
    assert!(why.why.contains("9 sources for full NAT; 8 at most"), "{why}");
    assert_eq!(seen(&b, &frame(600, ACK), false).dst, at("10.0.0.11:8080"));
}

#[test]
fn another_director_knows_which_source_a_flow_has() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&simple(&V4)).unwrap();
    let (mut out, _) = b.plane.exchange().unwrap();
    let flows: Vec<(Frame, Frame)> = (700..730)
        .map(|c| {
            let there = seen(&b, &frame(c, SYN), false);
            b.tc(&answer(&there, SYN | ACK).bytes());
            b.tc(&frame(c, ACK).bytes());
            (frame(c, ACK), there)
        })
        .collect();
    let mut told: Vec<Batch> = Vec::new();
    out.changed(&mut |batch| told.push(batch)).unwrap();
    assert!(told.iter().flat_map(|b| &b.flows).all(|f| f.own_addr.is_some()));
    // What has lost its source is told to nobody: another would take it for a flow from the VIP.
    let kept = flows.iter().filter(|(_, there)| there.src.0 == ip(V4[0])).count();
    b.plane.apply(&simple(&V4[..1])).unwrap();
    let mut all: Vec<Batch> = Vec::new();
    let buckets = out.buckets().unwrap();
    out.some(0..buckets, &mut |batch| all.push(batch)).unwrap();
    assert_eq!(all.iter().map(|b| b.flows.len()).sum::<usize>(), kept);
    std::thread::spawn(move || {
        let Some(mut b) = bench() else { return };
        // The same pool in other places, and one that is not there.
        b.plane.apply(&simple(&["10.0.0.199", "10.0.0.153"])).unwrap();
        b.plane.apply(&simple(&["10.0.0.153", "10.0.0.151"])).unwrap();
        let (_, mut learner) = b.plane.exchange().unwrap();
        let unknown: u32 = told.iter().map(|batch| learner.learn(batch).unwrap()).sum();
        let gone = flows.iter().filter(|(_, there)| there.src.0 == ip(V4[1])).count();
        assert_eq!(unknown as usize, gone);
        for (asked, there) in flows.iter().filter(|(_, there)| there.src.0 != ip(V4[1])) {
            let (verdict, back) = b.tc(&answer(there, ACK).bytes());
            assert_eq!((verdict, read(&back)), (REDIRECT, (asked.dst, asked.src, 63)));
            assert_eq!(seen(&b, asked, false).src, there.src);
        }
    })
    .join()
    .unwrap();
}
