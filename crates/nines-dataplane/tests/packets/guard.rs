//! Addresses are silent past their deadline, by the kernel alone.

use std::net::IpAddr;

use nines_dataplane::{
    DataPlane as _, Guard as _,
    ebpf::{self, Hooks, Sizes},
    pins,
    process::boot_time,
};
use nines_model::{
    Forward, ForwardingTable, Millis, Proto, Scheduler, TableService, Time, Traffic,
};

use super::{Bench, NEXT, REDIRECT, SHOT, bench, both_hooks, build::*, service, table, web};

#[test]
fn past_its_deadline_an_address_is_silent() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let vips: Vec<IpAddr> =
        ["10.0.0.100", "10.0.0.101", "2001:db8::100"].map(|a| a.parse().unwrap()).to_vec();
    b.guard.cover(&vips.iter().map(|v| (*v, false)).collect::<Vec<_>>()).unwrap();
    let balanced = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).bytes();
    let local = tcp("10.0.0.1:4000", "10.0.0.101:5432", SYN).bytes();
    let asks = [arp([10, 0, 0, 1], [10, 0, 0, 100]), arp([10, 0, 0, 1], [10, 0, 0, 101])];
    let solicits = neighbour(135, "2001:db8::1", "2001:db8::100");
    let speaks = [
        arp([10, 0, 0, 100], [10, 0, 0, 100]),
        neighbour(136, "2001:db8::2", "2001:db8::100"),
        tcp("10.0.0.101:5432", "10.0.0.1:4000", ACK).bytes(),
    ];
    let expect = |b: &Bench, silent: bool| {
        let through = |verdict: i32| if silent { SHOT } else { verdict };
        assert_eq!(b.tc(&balanced).0, through(REDIRECT));
        assert_eq!(b.tc(&local).0, through(NEXT));
        for ask in &asks {
            assert_eq!(b.tc(ask).0, through(NEXT));
        }
        assert_eq!(b.tc(&solicits).0, through(NEXT));
        for said in &speaks {
            assert_eq!(b.egress(said), through(NEXT));
        }
        // Others' traffic never notices.
        assert_eq!(b.tc(&arp([10, 0, 0, 1], [10, 0, 0, 2])).0, NEXT);
        assert_eq!(b.egress(&tcp("10.0.0.2:22", "10.0.0.1:4000", ACK).bytes()), NEXT);
    };
    expect(&b, true);
    let until = |b: &mut Bench, t: Time| {
        for vip in &vips {
            b.guard.set(*vip, t).unwrap();
        }
    };
    until(&mut b, boot_time().plus(Millis(60_000)));
    expect(&b, false);
    // No process does anything now: the kernel's own clock ends it.
    let soon = boot_time().plus(Millis(30));
    until(&mut b, soon);
    while boot_time() < soon {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    expect(&b, true);
    assert!(b.plane.counters().unwrap().drops["guard"] > 0);
}

/// Packets in a row share a reading of the clock; never across a deadline.
#[test]
fn the_first_packet_past_the_deadline_is_dropped() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let vip: IpAddr = "10.0.0.100".parse().unwrap();
    b.guard.cover(&[(vip, false)]).unwrap();
    let frame = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).bytes();
    for round in 0..20 {
        let deadline = boot_time().plus(Millis(100));
        b.guard.set(vip, deadline).unwrap();
        let (mut through, mut dropped) = (0, 0);
        while dropped < 5 {
            let begun = boot_time();
            match b.tc(&frame).0 {
                REDIRECT => {
                    assert!(begun < deadline, "round {round}: {} after it", begun.0 - deadline.0);
                    through += 1;
                }
                verdict => {
                    assert_eq!(verdict, SHOT);
                    assert!(boot_time() >= deadline, "round {round}: too early");
                    dropped += 1;
                }
            }
        }
        assert!(through > 16, "round {round}: {through}");
    }
}

#[test]
fn a_director_that_is_a_real_server_takes_packets_from_directors_only() {
    let Some(mut b) = bench() else { return };
    let vip: IpAddr = "10.0.0.100".parse().unwrap();
    let peer = [2, 0, 0, 0, 0, 42];
    let mut t = table(vec![service(
        "10.0.0.100:80",
        Proto::Tcp,
        Scheduler::Maglev,
        &[("10.0.0.2:80", Forward::Local)],
    )]);
    t.director_macs = vec![peer];
    b.plane.apply(&t).unwrap();
    b.guard.cover(&[(vip, true)]).unwrap();
    b.guard.serve(&[vip].into()).unwrap();
    let from_client = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN);
    let from_peer = Frame { mac: peer, ..from_client.clone() };
    assert_eq!(b.tc(&from_client.bytes()).0, SHOT);
    assert_eq!(b.tc(&from_peer.bytes()).0, NEXT, "up our own stack");
    let answer = tcp("10.0.0.100:80", "10.0.0.1:4000", ACK).bytes();
    assert_eq!(b.egress(&answer), NEXT, "its answers go straight to the client");
    assert_eq!(b.egress(&arp([10, 0, 0, 100], [10, 0, 0, 1])), SHOT, "but it claims nothing");
    b.guard.set(vip, boot_time().plus(Millis(60_000))).unwrap();
    assert_eq!(b.tc(&from_client.bytes()).0, NEXT, "the holder serves itself");
}

/// Two directors that are each other's real servers: who has the VIP chooses, by whatever
/// scheduler. Choosing again would send packets to and fro until they die.
#[test]
fn what_another_director_chose_is_not_chosen_again() {
    let Some(mut b) = both_hooks() else { return };
    let vip: IpAddr = "10.0.0.100".parse().unwrap();
    let peer = [2, 0, 0, 0, 0, 42];
    let servers = [("10.0.0.2:80", Forward::Local), ("10.0.0.11:80", Forward::Dr)];
    let mut t = table(vec![service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers)]);
    let mut marked = TableService::new(Traffic::Marked { mark: 7, v6: false }, Scheduler::Rr);
    marked.servers = t.services["s0"].servers.clone();
    t.services.insert("marked".into(), marked);
    t.director_macs = vec![peer];
    b.plane.apply(&t).unwrap();
    b.guard.cover(&[(vip, true)]).unwrap();
    b.guard.serve(&[vip].into()).unwrap();
    for client in 4_000..4_004 {
        let frame = tcp(&format!("10.0.0.1:{client}"), "10.0.0.100:80", SYN);
        let sent = Frame { mac: peer, ..frame.clone() }.bytes();
        assert_eq!(b.tc(&sent), (NEXT, sent.clone()), "up our own stack");
        assert_eq!(b.xdp(&sent), (2, sent), "from XDP too");
        // There netfilter marks it, and it comes in again.
        let again = Frame { mac: nines_abi::DETOUR_MAC, ..frame }.bytes();
        let out = b.plane.test_run_marked("nines_tc_ingress", &again, 7).unwrap();
        assert_eq!((out.verdict, out.packet), (NEXT, again));
    }
    assert_eq!(b.plane.counters().unwrap().services["s0"].connections, 0);
    b.guard.set(vip, boot_time().plus(Millis(60_000))).unwrap();
    let own: Vec<i32> = (5_000..5_004)
        .map(|n| b.tc(&tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN).bytes()).0)
        .collect();
    assert_eq!(own.iter().filter(|v| **v == NEXT).count(), 2, "the holder chooses: {own:?}");
}

/// A binary with another layout finds what was promised: nothing answers meanwhile.
#[test]
fn another_layout_inherits_the_guard() {
    let Some(mut b) = bench() else { return };
    let vip: IpAddr = "10.0.0.101".parse().unwrap();
    b.guard.cover(&[(vip, false)]).unwrap();
    b.guard.set(vip, Time(7)).unwrap();
    let pins = pins::pin_directory().unwrap();
    std::fs::rename(&pins, pins.with_file_name("v0")).unwrap();
    let (mut next, guard) = ebpf::open(ebpf::object::BYTES, Hooks::Tc, Sizes::default()).unwrap();
    assert_eq!(guard.deadline(vip), Some(Time(7)), "before anybody covers it again");
    next.apply(&ForwardingTable::default()).unwrap();
    assert!(!pins.with_file_name("v0").exists(), "the old tables go when the new are at work");
    assert_eq!(guard.deadline(vip), Some(Time(7)));
}
