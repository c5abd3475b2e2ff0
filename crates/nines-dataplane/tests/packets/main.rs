//! Packet tests: the committed kernel object (or `NINES_BPF_OBJECT`), one packet at a time, through
//! BPF_PROG_TEST_RUN in a network namespace of the test's own. Needs root and says so without.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Command,
};

use aya::maps::{Map, MapData};
use nines_dataplane::{
    DataPlane as _, Guard as _,
    ebpf::{self, EbpfGuard, EbpfPlane, Hooks, Sizes},
    pins,
    process::boot_time,
};
use nines_model::{
    Forward, ForwardingTable, Listen, Millis, Proto, Scheduler, ServerState, TableServer,
    TableService, Traffic,
};

use self::build::*;

mod build;
mod clients;
mod devices;
mod far;
mod flow_sync;
mod flows;
mod fragments;
mod full_nat;
mod fuzz;
mod guard;
mod hooks;
mod hostile;
mod instructions;
mod ipvs;
mod ipvs_shown;
mod ipvs_sync;
mod leaving;
mod live;
mod others;
mod pool;
mod proxy;
mod refuse;
mod reload;
mod server;
mod sip;
mod verify;
mod ways;

const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// TC_ACT_UNSPEC as BPF_PROG_TEST_RUN gives it.
const NEXT: i32 = -1;

/// A redirect back to the client, which hears that nobody serves; and whether nobody does.
const REFUSED: i32 = 107;
fn is_unserved(verdict: i32) -> bool {
    [SHOT, REFUSED].contains(&verdict)
}

struct Bench {
    plane: EbpfPlane,
    guard: EbpfGuard,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.plane.remove();
    }
}

fn ip(words: &str) {
    let ok = Command::new("ip").args(words.split(' ')).status().unwrap().success();
    assert!(ok, "ip {words}");
}

/// A namespace with one interface on 10.0.0.0/24 and 2001:db8::/64, and the tables in it. Without
/// XDP's programs: the kernel walks all it loads, which is most of a test's time.
fn bench() -> Option<Bench> {
    bench_on(Hooks::Tc)
}

/// The same with XDP's programs.
fn both_hooks() -> Option<Bench> {
    let mut bench = bench()?;
    bench.plane.load_xdp().unwrap();
    Some(bench)
}

/// Takes the thread into a network namespace of its own.
fn leave() -> Option<()> {
    // SAFETY: geteuid has no preconditions; unshare changes this thread only.
    let (root, entered) = unsafe { (libc::geteuid() == 0, libc::unshare(libc::CLONE_NEWNET)) };
    if !root || entered != 0 {
        assert!(std::env::var_os("CI").is_none(), "packet tests need root, and CI has it");
        eprintln!("SKIPPED: packet tests need root");
        return None;
    }
    Some(())
}

fn bench_on(hooks: Hooks) -> Option<Bench> {
    bench_with(hooks, Sizes::default())
}

fn bench_with(hooks: Hooks, sizes: Sizes) -> Option<Bench> {
    leave()?;
    for words in [
        "link set lo up",
        "link add v0 address 02:00:00:00:00:09 type veth peer name v1",
        "addr add 10.0.0.2/24 dev v0",
        "addr add 2001:db8::2/64 dev v0 nodad",
        "link set v0 up",
        "link set v1 up",
    ] {
        ip(words);
    }
    far::outside(&["v1"]);
    let fresh = std::env::var_os("NINES_BPF_OBJECT").map(|p| std::fs::read(p).unwrap());
    let object = fresh.as_deref().unwrap_or(ebpf::object::BYTES);
    let (mut plane, guard) = ebpf::open(object, hooks, sizes).unwrap();
    if hooks == Hooks::Xdp {
        plane.load_xdp().unwrap();
    }
    Some(Bench { plane, guard })
}

/// A map of this namespace's tables, for whoever changes it by hand.
fn map(name: &str) -> Map {
    let pin = pins::pin_directory().unwrap().join(name);
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

/// Linux 6.6 and newer.
fn has_tcx() -> bool {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = kernel.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (6, 6)
}

fn service(
    listen: &str,
    proto: Proto,
    scheduler: Scheduler,
    servers: &[(&str, Forward)],
) -> TableService {
    let one = |(i, (addr, forward)): (usize, &(&str, Forward))| {
        let addr: SocketAddr = addr.parse().unwrap();
        let server = TableServer::new(addr, *forward);
        (format!("r{}", i + 1).into(), server)
    };
    let listen = Listen::new(listen.parse().unwrap(), proto);
    let mut service = TableService::new(Traffic::To(listen), scheduler);
    service.servers = servers.iter().enumerate().map(one).collect();
    service
}

fn table(services: Vec<TableService>) -> ForwardingTable {
    let services =
        services.into_iter().enumerate().map(|(i, s)| (format!("s{i}").into(), s)).collect();
    ForwardingTable { services, ..ForwardingTable::default() }
}

fn web(scheduler: Scheduler) -> ForwardingTable {
    let dr = Forward::Dr;
    let servers = [("10.0.0.11:80", dr), ("10.0.0.12:80", dr), ("10.0.0.13:80", dr)];
    table(vec![service("10.0.0.100:80", Proto::Tcp, scheduler, &servers)])
}

impl Bench {
    fn tc(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        let out = self.plane.test_run("nines_tc_ingress", frame, 1).unwrap();
        let v4 = out.packet[12] == 8;
        let (proto, icmp, says) = if v4 { (23, 34, [3, 3]) } else { (20, 54, [1, 4]) };
        let answers = out.packet.len() > 56
            && out.packet != frame
            && [1, 58].contains(&out.packet[proto])
            && out.packet[icmp..icmp + 2] == says
            && out.packet[..6] == frame[6..12];
        let refused = out.verdict == REDIRECT && answers;
        (if refused { REFUSED } else { out.verdict }, out.packet)
    }

    fn egress(&self, frame: &[u8]) -> i32 {
        self.plane.test_run("nines_tc_egress", frame, 1).unwrap().verdict
    }

    /// Which server has counted one more packet since the last call.
    fn hit(&mut self, frame: &Frame) -> String {
        let count = |bench: &mut Self| -> BTreeMap<String, u64> {
            let servers = bench.plane.counters().unwrap().servers;
            let one = |(server, tally): (nines_model::ServerRef, nines_model::Tally)| {
                (server.to_string(), tally.packets_in)
            };
            servers.into_iter().map(one).collect()
        };
        let before = count(self);
        let (verdict, _) = self.tc(&frame.bytes());
        let after = count(self);
        let hit: Vec<&String> =
            after.iter().filter(|(name, n)| before[*name] != **n).map(|(name, _)| name).collect();
        match hit[..] {
            [] => format!("none, verdict {verdict}"),
            [one] => one.split('/').nth(1).unwrap().to_owned(),
            _ => panic!("one packet counted twice: {hit:?}"),
        }
    }
}

#[test]
fn direct_routing_keeps_addresses_and_lowers_ttl() {
    let Some(mut b) = bench() else { return };
    let v6 = [("[2001:db8::11]:80", Forward::Dr)];
    let mut all = web(Scheduler::Rr);
    all.services
        .insert("six".into(), service("[2001:db8::100]:80", Proto::Tcp, Scheduler::Rr, &v6));
    all.services.insert(
        "udp".into(),
        service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &[("10.0.0.11:53", Forward::Dr)]),
    );
    b.plane.apply(&all).unwrap();
    for frame in [
        tcp("10.0.0.1:4000", "10.0.0.100:80", SYN),
        tcp("[2001:db8::1]:4000", "[2001:db8::100]:80", SYN),
        udp("10.0.0.1:4000", "10.0.0.100:53"),
        Frame { options: 2, ..tcp("10.0.0.1:4001", "10.0.0.100:80", SYN) },
        Frame { udp_checksum: false, ..udp("10.0.0.1:4002", "10.0.0.100:53") },
    ] {
        let sent = frame.bytes();
        let (verdict, packet) = b.tc(&sent);
        assert_eq!(verdict, REDIRECT);
        let (src, dst, ttl) = read(&packet);
        assert_eq!((src, dst, ttl), (frame.src, frame.dst, 63));
    }
    let options = Frame { options: 2, ..tcp("[2001:db8::1]:4002", "[2001:db8::100]:80", SYN) };
    assert_eq!(b.tc(&options.bytes()).0, REDIRECT, "behind IPv6 options");
    let dying = Frame { ttl: 1, ..tcp("10.0.0.1:4003", "10.0.0.100:80", SYN) };
    assert_eq!(b.tc(&dying.bytes()).0, SHOT);
    for other in [
        tcp("10.0.0.1:4000", "10.0.0.100:81", SYN).bytes(),
        udp("10.0.0.1:4000", "10.0.0.100:80").bytes(),
        tcp("10.0.0.1:4000", "10.0.0.2:80", SYN).bytes(),
    ] {
        let (verdict, packet) = b.tc(&other);
        assert_eq!((verdict, packet), (NEXT, other), "not ours: untouched");
    }
}

#[test]
fn nat_rewrites_there_and_back_with_right_checksums() {
    let Some(mut b) = bench() else { return };
    let nat = Forward::Nat;
    b.plane
        .apply(&table(vec![
            service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &[("10.0.0.11:8080", nat)]),
            service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &[("10.0.0.11:5353", nat)]),
            service(
                "[2001:db8::100]:80",
                Proto::Tcp,
                Scheduler::Rr,
                &[("[2001:db8::11]:8080", nat)],
            ),
            service("[2001:db8::100]:53", Proto::Udp, Scheduler::Rr, &[("[2001:db8::11]:53", nat)]),
        ]))
        .unwrap();
    for (there, server, back) in [
        (tcp("10.0.0.1:4000", "10.0.0.100:80", SYN), "10.0.0.11:8080", 6),
        (udp("10.0.0.1:4000", "10.0.0.100:53"), "10.0.0.11:5353", 17),
        (
            Frame { udp_checksum: false, ..udp("10.0.0.1:41", "10.0.0.100:53") },
            "10.0.0.11:5353",
            17,
        ),
        (tcp("[2001:db8::1]:4000", "[2001:db8::100]:80", SYN), "[2001:db8::11]:8080", 6),
        (udp("[2001:db8::1]:4000", "[2001:db8::100]:53"), "[2001:db8::11]:53", 17),
        (Frame { options: 1, ..tcp("10.0.0.1:42", "10.0.0.100:80", SYN) }, "10.0.0.11:8080", 6),
    ] {
        let (verdict, packet) = b.tc(&there.bytes());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(read(&packet), (there.src, at(server), 63), "to the server");
        let answer = Frame {
            src: at(server),
            dst: there.src,
            proto: back,
            flags: SYN | ACK,
            options: 0,
            ..there.clone()
        };
        let (verdict, packet) = b.tc(&answer.bytes());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(read(&packet), (there.dst, there.src, 63), "back from the VIP");
    }
    let tally = b.plane.counters().unwrap().services["s0"];
    assert_eq!((tally.connections, tally.packets_in, tally.packets_out), (2, 2, 2));
    let stranger = tcp("10.0.0.11:8080", "10.0.0.1:9", ACK).bytes();
    assert_eq!(b.tc(&stranger), (NEXT, stranger.clone()), "an answer nobody asked for");
}

#[test]
fn schedulers_and_the_flow_table() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let client = |n: u16| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN);
    let picked: Vec<String> = (1..=6).map(|n| b.hit(&client(n))).collect();
    assert_eq!(picked[..3].iter().collect::<BTreeSet<_>>().len(), 3, "each in turn");
    assert_eq!(picked[..3], picked[3..], "and round again");
    // An established flow stays while the pool changes around it.
    let mut pool = web(Scheduler::Rr);
    let servers = &mut pool.services.get_mut("s0").unwrap().servers;
    let first = picked[0].clone();
    let others = servers.keys().filter(|n| **n != first).map(ToString::to_string);
    let others: Vec<String> = others.collect();
    servers.remove(others[0].as_str());
    servers.get_mut(first.as_str()).unwrap().weight = 0;
    b.plane.apply(&pool).unwrap();
    let more = Frame { flags: ACK, ..client(1) };
    assert_eq!(b.hit(&more), first, "weight 0: the old flow lives on");
    for n in 100..120 {
        assert_eq!(b.hit(&client(n)), others[1], "weight 0: no new flow");
    }
    // After FIN the same port is a new flow.
    assert_eq!(b.hit(&Frame { flags: FIN, ..client(1) }), first);
    assert_eq!(b.hit(&client(1)), others[1]);
    // Nobody takes new flows: dropped and counted.
    for server in pool.services.get_mut("s0").unwrap().servers.values_mut() {
        server.state = ServerState::Down;
    }
    b.plane.apply(&pool).unwrap();
    assert_eq!(b.tc(&client(200).bytes()).0, REFUSED);
    assert!(b.plane.counters().unwrap().drops["no-server"] > 0);
}

#[test]
fn a_dead_server_keeps_established_tcp_and_nothing_else() {
    let Some(mut b) = bench() else { return };
    let both = [("10.0.0.11:53", Forward::Dr), ("10.0.0.12:53", Forward::Dr)];
    let pool = |down: Option<&str>| {
        let mut t = table(vec![
            service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &both),
            service("10.0.0.100:53", Proto::Tcp, Scheduler::Rr, &both),
        ]);
        for s in t.services.values_mut() {
            if let Some(server) = down.and_then(|name| s.servers.get_mut(name)) {
                server.state = ServerState::Down;
            }
        }
        t
    };
    b.plane.apply(&pool(None)).unwrap();
    let question = udp("10.0.0.1:7", "10.0.0.100:53");
    let dead = b.hit(&question);
    let stream = (1..9).map(|n| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:53", SYN));
    let stream = stream.into_iter().find(|s| b.hit(s) == dead).unwrap();
    b.plane.apply(&pool(Some(&dead))).unwrap();
    assert_ne!(b.hit(&question), dead, "UDP goes elsewhere at once");
    assert_eq!(b.hit(&Frame { flags: ACK, ..stream.clone() }), dead, "established TCP stays");
    assert_ne!(b.hit(&stream), dead, "a SYN does not");
}

#[test]
fn maglev_agrees_between_directors_and_in_mid_flow() {
    let pick = || {
        let mut b = bench()?;
        b.plane.apply(&web(Scheduler::Maglev)).unwrap();
        Some(
            (1..60)
                .map(|n| b.hit(&tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", SYN)))
                .collect::<Vec<_>>(),
        )
    };
    let Some(one) = pick() else { return };
    let other = std::thread::spawn(move || {
        let mut b = bench().unwrap();
        b.plane.apply(&web(Scheduler::Maglev)).unwrap();
        // The other director has never seen these flows: they arrive in the middle.
        (1..60)
            .map(|n| b.hit(&tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", ACK)))
            .collect::<Vec<_>>()
    });
    assert_eq!(one, other.join().unwrap());
    assert_eq!(one.iter().collect::<BTreeSet<_>>().len(), 3, "all servers get some");
}

#[test]
fn xdp_decides_as_tc_does() {
    let Some(mut b) = both_hooks() else { return };
    b.plane.apply(&web(Scheduler::Maglev)).unwrap();
    b.guard.cover(&[("10.0.0.100".parse().unwrap(), false)]).unwrap();
    let frame = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).bytes();
    let xdp = |b: &Bench| b.plane.test_run("nines_xdp", &frame, 1).unwrap();
    const DROP: i32 = 1;
    const PASS: i32 = 2;
    assert_eq!(xdp(&b).verdict, DROP, "guard");
    b.guard.set("10.0.0.100".parse().unwrap(), boot_time().plus(Millis(60_000))).unwrap();
    let out = xdp(&b);
    // The neighbour is unknown here: handed to tc, untouched and uncounted.
    assert_eq!((out.verdict, &out.packet), (PASS, &frame));
    let tally = b.plane.counters().unwrap().services["s0"];
    assert_eq!((tally.connections, tally.packets_in), (1, 0));
    assert_eq!(b.tc(&frame).0, REDIRECT);
    let tally = b.plane.counters().unwrap().services["s0"];
    assert_eq!((tally.connections, tally.packets_in), (1, 1), "one flow, counted once");
}

#[test]
fn tables_outlive_the_process_and_hand_changes_are_put_back() {
    let Some(mut b) = bench() else { return };
    b.plane.on(["v0".to_owned()]);
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let hook = if has_tcx() { "tcx" } else { "clsact" };
    let told = format!("ebpf, {hook} on outside, v0");
    assert_eq!(b.plane.describe(), told, "told to use tc: nothing to explain");
    let frame = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN);
    let first = b.hit(&frame);
    // Another process opens the same tables: nothing to write, flows known.
    let (mut next, _guard) = ebpf::open(ebpf::object::BYTES, Hooks::Tc, Sizes::default()).unwrap();
    next.on(["v0".to_owned()]);
    next.apply(&web(Scheduler::Rr)).unwrap();
    assert!(next.observe().unwrap().is_empty());
    assert_eq!(b.hit(&Frame { flags: ACK, ..frame }), first);
    // Someone empties the tables by hand.
    let mut vandal = b;
    vandal.plane.apply(&ForwardingTable::default()).unwrap();
    assert!(!next.observe().unwrap().is_empty());
    next.apply(&web(Scheduler::Rr)).unwrap();
    assert!(next.observe().unwrap().is_empty());
    assert_eq!(next.counters().unwrap().services.len(), 1);
}

#[test]
fn forged_and_cut_off_frames_do_no_harm() {
    let Some(mut b) = both_hooks() else { return };
    b.plane.apply(&web(Scheduler::Maglev)).unwrap();
    let whole = tcp("10.0.0.1:4000", "10.0.0.100:80", RST).bytes();
    for length in 14..whole.len() {
        // The kernel itself refuses to make an skb of the shortest.
        let _ = b.plane.test_run("nines_tc_ingress", &whole[..length], 1);
        b.plane.test_run("nines_xdp", &whole[..length], 1).unwrap();
    }
    for at in 12..34 {
        let mut forged = whole.clone();
        forged[at] ^= 0xff;
        let _ = b.plane.test_run("nines_tc_ingress", &forged, 1);
    }
    assert_eq!(b.tc(&whole).0, REDIRECT, "and it still works");
    let mut fragment = tcp("10.0.0.1:4000", "10.0.0.100:80", SYN).bytes();
    fragment[21] = 9;
    assert_eq!(b.tc(&fragment).0, NEXT, "a fragment without its first goes to the stack");
}
