//! Packets that nobody honest sends: from sources that cannot be, by ways their sender prescribes,
//! from the middle of connections that are not, and resets of others' connections.

use std::{thread, time::Duration};

use aya::maps::Array;
use nines_abi::Bucket;
use nines_dataplane::{
    DataPlane as _,
    ebpf::{Hooks, Sizes},
};
use nines_model::{Forward, ForwardingTable, Proto, Scheduler, ServerState};

use super::{Bench, NEXT, REDIRECT, SHOT, bench_with, both_hooks, build::*, map, service, table};

/// XDP's verdicts.
const DROP: i32 = 1;
const PASS: i32 = 2;

fn drops(b: &mut Bench, why: &str) -> u64 {
    b.plane.counters().unwrap().drops[why]
}

fn xdp(b: &Bench, frame: &[u8]) -> i32 {
    b.plane.test_run("nines_xdp", frame, 1).unwrap().verdict
}

/// A service of both families for each way, ports from 80 on.
fn every_way(b: &mut Bench) -> Vec<(String, String, &'static str)> {
    let mut services = Vec::new();
    let mut all = Vec::new();
    for (i, forward) in [Forward::Dr, Forward::Nat, Forward::FullNat].into_iter().enumerate() {
        for (vip, net) in [("10.0.0.100", "10.0.0."), ("[2001:db8::100]", "[2001:db8::")] {
            let port = 80 + i;
            let end = if vip.starts_with('[') { "]" } else { "" };
            let servers = [11, 12].map(|n| format!("{net}{n}{end}:{port}"));
            let servers = [(servers[0].as_str(), forward), (servers[1].as_str(), forward)];
            let to = format!("{vip}:{port}");
            services.push(service(&to, Proto::Tcp, Scheduler::Rr, &servers));
            services.push(service(&to, Proto::Udp, Scheduler::Rr, &servers));
            let good = if end.is_empty() { "10.0.0.1" } else { "[2001:db8::1]" };
            all.push((to, vip.to_owned(), good));
        }
    }
    b.plane.apply(&table(services)).unwrap();
    all
}

#[test]
fn sources_that_cannot_be_begin_nothing() {
    let Some(mut b) = both_hooks() else { return };
    let v4 = ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.5", "240.0.0.1", "255.255.255.255"];
    let v6 = ["[::]", "[::1]", "[ff02::1]", "[::ffff:10.0.0.1]", "[::10.0.0.1]"];
    for (to, vip, good) in every_way(&mut b) {
        let sources: &[&str] = if vip.starts_with('[') { &v6 } else { &v4 };
        for from in sources.iter().copied().chain([vip.as_str()]) {
            for frame in [
                tcp(&format!("{from}:4000"), &to, SYN),
                tcp(&format!("{from}:4000"), &to, ACK),
                udp(&format!("{from}:4000"), &to),
            ] {
                let frame = frame.bytes();
                let before = drops(&mut b, "martian");
                assert_eq!(b.tc(&frame).0, SHOT, "{from} to {to}");
                assert_eq!(drops(&mut b, "martian"), before + 1, "{from} to {to}");
                // Some of IPv6 XDP leaves to tc.
                let verdict = xdp(&b, &frame);
                assert!([DROP, PASS].contains(&verdict), "{from} to {to}: {verdict}");
                assert!(verdict == DROP || vip.starts_with('['), "{from} to {to}");
            }
        }
        let good = tcp(&format!("{good}:4000"), &to, SYN).bytes();
        assert_eq!(b.tc(&good).0, REDIRECT, "{to}");
        let other = tcp(if vip.starts_with('[') { "[::1]:1" } else { "127.0.0.1:1" }, &to, SYN);
        let mut other = other.bytes();
        let last = if vip.starts_with('[') { 53 } else { 33 };
        other[last] = 77;
        assert_eq!(b.tc(&other).0, NEXT, "not ours: the stack's");
    }
}

#[test]
fn ways_that_a_sender_prescribes_lead_nowhere() {
    let Some(mut b) = both_hooks() else { return };
    every_way(&mut b);
    let plain = Frame { options: 10, ..tcp("10.0.0.1:4000", "10.0.0.100:80", SYN) }.bytes();
    assert_eq!(b.tc(&plain).0, REDIRECT, "options that do nothing");
    let mut count = 0;
    for at in [34, 35, 40, 71] {
        for kind in [131, 137] {
            let mut frame = plain.clone();
            frame[at..at + 3].copy_from_slice(&[kind, 3, 4]);
            assert_eq!(b.tc(&frame).0, SHOT, "{kind} at {at}");
            count += 1;
            assert_eq!(drops(&mut b, "source-route"), count);
            // A record of the way before it.
            if at == 71 {
                frame[34..37].copy_from_slice(&[7, 37, 4]);
                assert_eq!(b.tc(&frame).0, SHOT, "{kind} behind another option");
                count += 1;
            }
        }
    }
    let mut ended = plain.clone();
    ended[40..44].copy_from_slice(&[0, 131, 3, 4]);
    assert_eq!(b.tc(&ended).0, REDIRECT, "behind the end of the options it is none");
    let mut inside = plain;
    inside[34..39].copy_from_slice(&[7, 5, 4, 131, 137]);
    assert_eq!(b.tc(&inside).0, REDIRECT, "in another option it is none");
    let six = Frame { options: 1, ..tcp("[2001:db8::1]:4000", "[2001:db8::100]:80", SYN) }.bytes();
    for (kind, left, verdict) in
        [(0, 1, SHOT), (0, 0, SHOT), (2, 1, SHOT), (4, 2, SHOT), (4, 0, REDIRECT), (3, 1, SHOT)]
    {
        let mut frame = six.clone();
        (frame[20], frame[56], frame[57]) = (43, kind, left);
        assert_eq!(b.tc(&frame).0, verdict, "type {kind}, {left} left");
    }
    assert_eq!(drops(&mut b, "source-route"), count + 5);
}

/// The same segment with another sequence number.
fn numbered(frame: &Frame, number: u32) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let at = if frame.src.0.is_ipv4() { 38 } else { 58 };
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Flows of a service now: active, inactive.
fn flows(b: &mut Bench, name: &str) -> (u64, u64) {
    let tally = b.plane.counters().unwrap().services[name];
    (tally.active, tally.inactive)
}

#[test]
fn a_reset_that_is_not_plausible_ends_nothing() {
    let Some(mut b) = both_hooks() else { return };
    for (i, (to, _, good)) in every_way(&mut b).into_iter().enumerate() {
        let name = format!("s{}", 2 * i);
        let syn = tcp(&format!("{good}:4000"), &to, SYN);
        let ack = Frame { flags: ACK, ..syn.clone() };
        for frame in [numbered(&syn, 5_000_000), numbered(&ack, 5_000_001)] {
            assert_eq!(b.tc(&frame).0, REDIRECT, "{to}");
        }
        assert_eq!(flows(&mut b, &name), (1, 0), "{to}");
        for flags in [RST, RST | ACK, FIN] {
            for number in [7, 4_000_000, 5_000_001 + (1 << 21), 5_000_001u32.wrapping_sub(1 << 31)]
            {
                let end = numbered(&Frame { flags, ..syn.clone() }, number);
                assert_eq!(b.tc(&end).0, REDIRECT, "its receiver judges it: {to}");
                assert_eq!(flows(&mut b, &name), (1, 0), "{flags} at {number}: {to}");
            }
        }
        // Forged data in front of it moves nothing either.
        assert_eq!(b.tc(&numbered(&ack, 3_000_000_000)).0, REDIRECT);
        assert_eq!(
            b.tc(&numbered(&Frame { flags: RST, ..syn.clone() }, 3_000_000_000)).0,
            REDIRECT
        );
        assert_eq!(flows(&mut b, &name), (1, 0), "{to}");
        // Its own data does, far.
        for step in 0..40u32 {
            b.tc(&numbered(&ack, 5_000_001 + step * 100_000));
        }
        assert_eq!(b.tc(&numbered(&Frame { flags: RST, ..syn }, 9_000_000)).0, REDIRECT);
        assert_eq!(flows(&mut b, &name), (0, 1), "a true one: {to}");
    }
}

/// Flows that a small table is flooded around.
const IDLE: u16 = 20;

struct Idle {
    client: Frame,
    there: Frame,
}

/// Connections that are open and silent.
fn idle(b: &Bench, good: &str, to: &str, answers: bool) -> Vec<Idle> {
    let open = |n: u16| {
        let syn = tcp(&format!("{good}:{}", 2_000 + n), to, SYN);
        let (verdict, there) = b.tc(&syn.bytes());
        assert_eq!(verdict, REDIRECT);
        let ack = Frame { flags: ACK, ..syn };
        if !answers {
            assert_eq!(b.tc(&ack.bytes()).0, REDIRECT);
            return Idle { there: ack.clone(), client: ack };
        }
        let (src, dst, _) = read(&there);
        let answer = Frame { src: dst, dst: src, flags: SYN | ACK, ..ack.clone() };
        let more = Frame { flags: ACK, ..answer.clone() };
        for frame in [&answer, &ack, &more] {
            assert_eq!(b.tc(&frame.bytes()).0, REDIRECT);
        }
        Idle { client: ack, there: more }
    };
    let all = (0..IDLE).map(open).collect();
    // Older than what comes now, by the table's clock.
    thread::sleep(Duration::from_millis(60));
    all
}

/// Empties the flow table: in one that the last flood filled, a connection that is half open may
/// give way to the next.
fn forget_all(buckets: u32) {
    type Words = [u64; size_of::<Bucket>() / 8];
    let mut flows: Array<_, Words> = Array::try_from(map("FLOWS")).unwrap();
    (0..buckets).for_each(|at| flows.set(at, [0; _], 0).unwrap());
}

/// Forged clients, each sending TCP with these flags one after the other, or a datagram.
fn flood(b: &mut Bench, to: &str, kinds: &[u8]) {
    let v6 = to.starts_with('[');
    for n in 0..2_500u32 {
        let (high, low, port) = (16 + (n >> 16), n & 0xffff, 1_024 + n % 999);
        let from = match v6 {
            true => format!("[2001:db8:{high:x}::{low:x}]:{port}"),
            false => format!("172.{high}.{}.{}:{port}", low >> 8, low & 255),
        };
        if kinds.is_empty() {
            b.tc(&udp(&from, to).bytes());
        }
        for flags in kinds {
            b.tc(&tcp(&from, to, *flags).bytes());
        }
    }
}

#[test]
fn forged_floods_displace_no_connection() {
    let sizes = Sizes { buckets: 256, ..Sizes::default() };
    for i in 0..6 {
        let Some(mut b) = bench_with(Hooks::Tc, sizes) else { return };
        let (to, _, good) = every_way(&mut b).swap_remove(i);
        let (dr, name) = (i < 2, format!("s{}", 2 * i));
        // What the last one leaves is not told from connections that were there before others.
        let kinds: [&[u8]; 7] =
            [&[ACK], &[SYN | ACK], &[FIN], &[RST], &[ACK, ACK, 24], &[], &[SYN, ACK, ACK]];
        for kinds in kinds {
            b.plane.apply(&ForwardingTable::default()).unwrap();
            forget_all(sizes.buckets);
            every_way(&mut b);
            let idle = idle(&b, good, &to, !dr);
            assert_eq!(flows(&mut b, &name), (u64::from(IDLE), 0), "{to}");
            let servers: Vec<String> = idle.iter().map(|idle| b.hit(&idle.client)).collect();
            flood(&mut b, &to, kinds);
            if !kinds.contains(&SYN) {
                let what = "what has shown nothing weighs nothing";
                assert_eq!(flows(&mut b, &name), (u64::from(IDLE), 0), "{to} {kinds:?}: {what}");
            }
            for (idle, server) in idle.iter().zip(servers) {
                assert_eq!(b.hit(&idle.client), server, "{to} {kinds:?}");
                if !dr {
                    let back = b.tc(&idle.there.bytes());
                    assert_eq!(back.0, REDIRECT, "{to} {kinds:?}");
                    assert_eq!(read(&back.1).0, idle.client.dst, "{to} {kinds:?}: back, too");
                }
            }
        }
    }
}

/// Which of many connections are left where there is room for fewer.
fn left() -> Option<Vec<u16>> {
    let mut b = bench_with(Hooks::Tc, Sizes { buckets: 16, ..Sizes::default() })?;
    let servers = [("10.0.0.11:80", Forward::Dr), ("10.0.0.12:80", Forward::Dr)];
    let web = service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers);
    b.plane.apply(&table(vec![web.clone()])).unwrap();
    let syn = |n| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN);
    for n in 1..200 {
        b.tc(&syn(n).bytes());
        b.tc(&Frame { flags: ACK, ..syn(n) }.bytes());
    }
    // Where all servers are down, what has an entry goes on.
    let mut down = web;
    down.servers.values_mut().for_each(|server| server.state = ServerState::Down);
    b.plane.apply(&table(vec![down])).unwrap();
    let lives = |n: &u16| b.tc(&Frame { flags: ACK, ..syn(*n) }.bytes()).0 == REDIRECT;
    Some((1..200).filter(lives).collect())
}

#[test]
fn nobody_knows_which_flows_share_a_bucket() {
    let (Some(one), Some(other)) = (left(), left()) else { return };
    let places = 16 * nines_abi::WAYS;
    assert!(one.len() > places / 2 && one.len() <= places, "{}", one.len());
    assert_ne!(one, other, "on each machine others");
}
