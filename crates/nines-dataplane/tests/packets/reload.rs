//! Updates under traffic: no packet is lost for one, and no flow moved.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nines_dataplane::{DataPlane as _, Guard as _, ebpf, ebpf::Hooks, process};
use nines_model::{Forward, ForwardingTable, Millis, Proto, Scheduler, ServerState, TableServer};

use super::{
    Bench, bench_on,
    build::*,
    instructions::{counted, dropped, surroundings},
    live::{Generator, Says, Sink},
    service, table,
};

const FLOWS: u16 = 1_000;
const PIECE: u16 = 100;
/// Table changes while packets flow, each another one.
const CHANGES: u32 = 40;
/// At this one the agent's process is another.
const RESTART: u32 = 20;
/// At this one more services come than the kernel tables have room for.
const GROWTH: u32 = 30;
/// So many.
const MANY: u16 = 1_500;
const VIP: &str = "10.0.0.100:80";

/// The same service, always with the four servers that have the flows; everything else changes.
fn variant(n: u32, forward: Forward) -> ForwardingTable {
    let at = |n: u32| format!("10.0.0.{n}:80");
    let servers: Vec<(String, Forward)> = (11..15).map(|n| (at(n), forward)).collect();
    let servers: Vec<(&str, Forward)> = servers.iter().map(|(a, f)| (a.as_str(), *f)).collect();
    let schedulers = [Scheduler::Rr, Scheduler::Wlc, Scheduler::Maglev, Scheduler::Wrr];
    let mut web = service(VIP, Proto::Tcp, schedulers[n as usize % 4], &servers);
    web.servers.get_mut("r1").unwrap().weight = n % 3;
    if n % 5 == 1 {
        web.servers.get_mut("r2").unwrap().state = ServerState::Draining;
    }
    if n % 4 == 2 {
        // Established TCP stays with a server whose check fails.
        web.servers.get_mut("r3").unwrap().state = ServerState::Down;
    }
    if n % 2 == 1 {
        web.servers.insert("a0".into(), TableServer::new(at(30).parse().unwrap(), forward));
    }
    let more = (0..n % 7).map(|i| {
        let listen = format!("10.0.0.100:{}", 1_000 + i);
        service(&listen, Proto::Udp, Scheduler::Rr, &[("10.0.0.12:9", Forward::Dr)])
    });
    table([web].into_iter().chain(more).collect())
}

/// The same, with many more services.
fn many(n: u32, forward: Forward) -> ForwardingTable {
    let mut table = variant(n, forward);
    for port in 2_000..2_000 + MANY {
        let listen = format!("10.0.0.100:{port}");
        let one = service(&listen, Proto::Udp, Scheduler::Rr, &[("10.0.0.12:9", Forward::Dr)]);
        table.services.insert(format!("m{port}").into(), one);
    }
    table
}

/// Packets of each server so far.
fn by_server(b: &mut Bench) -> BTreeMap<String, u64> {
    let servers = b.plane.counters().unwrap().servers.into_iter();
    let ours = servers.filter(|(server, _)| server.service == "s0");
    ours.map(|(server, tally)| (server.server.to_string(), tally.packets_in)).collect()
}

/// Sends rounds of all flows while tables change; how many, and how they were shared.
fn reload(hooks: Hooks, forward: Forward) {
    let Some(mut b) = bench_on(hooks) else { return };
    surroundings();
    super::ip("neigh add 10.0.0.30 lladdr 02:00:00:00:00:30 dev v0 nud permanent");
    let vip = "10.0.0.100".parse().unwrap();
    b.plane.on(["v0".to_owned()]);
    b.plane.apply(&variant(0, forward)).unwrap();
    b.guard.cover(&[(vip, false)]).unwrap();
    b.guard.set(vip, process::boot_time().plus(Millis(3_600_000))).unwrap();
    let at_tc = hooks == Hooks::Tc;
    let _far = if at_tc { Says::on("v0", Says::PASS) } else { Says::on("v1", Says::DROP) };
    let sink = at_tc.then(|| Sink::behind("v0"));
    let frame = |flags| {
        let mut frame = tcp("10.0.0.1:1024", VIP, flags);
        frame.payload.clear();
        frame.bytes()
    };
    let all = |generator: &Generator| {
        // In pieces that a wire holds, however busy the machine.
        for _ in 0..FLOWS / PIECE {
            generator.send(u32::from(PIECE));
            thread::sleep(Duration::from_millis(1));
        }
    };
    all(&Generator::new("v1", &frame(SYN), FLOWS));
    let rounds = Generator::new("v1", &frame(ACK), FLOWS);
    all(&rounds);
    let one = by_server(&mut b);
    assert_eq!(one.values().sum::<u64>(), 2 * u64::from(FLOWS), "{one:?}");
    let mut new = tcp("10.0.0.12:1024", VIP, SYN);
    new.payload.clear();
    let news = Generator::new("v1", &new.bytes(), 40_000);
    let (before, went) = (counted(&mut b), sink.as_ref().map_or(0, Sink::seen));
    let done = AtomicBool::new(false);
    let object = std::env::var_os("NINES_BPF_OBJECT").map(|p| std::fs::read(p).unwrap());
    let object = object.as_deref().unwrap_or(ebpf::object::BYTES);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Relaxed) {
                rounds.send(u32::from(FLOWS));
                // Other clients begin, and find somebody.
                news.send(u32::from(PIECE));
                sent += u64::from(FLOWS + PIECE);
            }
            sent
        });
        for n in 1..=CHANGES {
            if n == RESTART {
                let (plane, guard) = ebpf::open(object, hooks, ebpf::Sizes::default()).unwrap();
                (b.plane, b.guard) = (plane, guard);
                b.plane.on(["v0".to_owned()]);
            }
            if n == GROWTH && hooks == Hooks::Xdp {
                let many = many(n, forward);
                assert!(b.plane.apply(&many).is_err(), "there is no room");
                assert!(b.plane.grow(&many).unwrap());
                b.plane.apply(&many).unwrap();
                assert!(!b.plane.grow(&many).unwrap(), "there is room now");
            }
            b.plane.apply(&variant(n, forward)).unwrap();
        }
        done.store(true, Relaxed);
        sender.join().unwrap()
    });
    b.plane.apply(&variant(0, forward)).unwrap();
    let what = format!("{hooks:?} {forward}: {sent} sent");
    let came = counted(&mut b) - before;
    assert!(sent > 0 && came > 0, "{what}");
    assert_eq!(dropped(&mut b), BTreeMap::new(), "{what}: {came} came");
    let begun = b.plane.counters().unwrap().services["s0"].connections;
    assert!(begun > u64::from(FLOWS), "{what}: {begun} began");
    // A wire that a busy machine starves loses some before they come to us; none after.
    assert!(came <= sent, "{what}: {came} came");
    if let Some(sink) = sink {
        assert!(sink.seen() - went >= came, "{what}: {came} came, {} went", sink.seen() - went);
    }
    // Each flow is where it was: one more round is shared as the first one.
    let shares = |b: &mut Bench, before: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        by_server(b).into_iter().map(|(name, n)| (name.clone(), n - before[&name])).collect()
    };
    let before = by_server(&mut b);
    all(&rounds);
    let last = shares(&mut b, &before);
    let first: BTreeMap<String, u64> = one.into_iter().map(|(name, n)| (name, n / 2)).collect();
    assert_eq!(last, first, "{what}");
}

#[test]
fn updates_lose_no_packet_and_move_no_flow() {
    for forward in [Forward::Dr, Forward::Nat, Forward::FullNat] {
        reload(Hooks::Tc, forward);
    }
    reload(Hooks::Xdp, Forward::Nat);
}
