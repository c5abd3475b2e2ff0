//! What servers carry: states of flows, and the schedulers that weigh them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nines_dataplane::{
    DataPlane as _,
    ebpf::{Hooks, Sizes},
};
use nines_model::{
    Forward, ForwardingTable, IdleLimits, Millis, Persist, Proto, Scheduler, ServerRef,
    ServerState, TableServer, Tally,
};

use super::{Bench, bench, bench_with, both_hooks, build::*, service, table, web};

/// Active and inactive flows by server.
fn loads(b: &mut Bench) -> BTreeMap<String, (u64, u64)> {
    let servers = b.plane.counters().unwrap().servers;
    let one =
        |(at, tally): (ServerRef, Tally)| (at.server.to_string(), (tally.active, tally.inactive));
    servers.into_iter().map(one).collect()
}

/// Who gets each of so many new connections that stay, on a service of this port.
fn picked(b: &mut Bench, port: u16, scheduler: Scheduler, weights: [u32; 3], n: u16) -> String {
    let vip = format!("10.0.0.100:{port}");
    let servers = ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"].map(|s| (s, Forward::Dr));
    let mut all = table(vec![service(&vip, Proto::Tcp, scheduler, &servers)]);
    let servers = all.services.get_mut("s0").unwrap().servers.values_mut();
    servers.zip(weights).for_each(|(server, weight)| server.weight = weight);
    b.plane.apply(&all).unwrap();
    let open = |n: u16| {
        let syn = tcp(&format!("10.0.0.1:{n}"), &vip, SYN);
        let who = b.hit(&syn);
        assert_eq!(b.hit(&Frame { flags: ACK, ..syn }), who);
        who.trim_start_matches('r').to_owned()
    };
    (1..=n).map(open).collect()
}

#[test]
fn schedulers_weigh_flows_as_ipvs_does() {
    let Some(mut b) = bench() else { return };
    // By hand from the definitions: the first of equals in list order, active counts 257.
    for (port, scheduler, weights, expected) in [
        (81, Scheduler::Lc, [1, 5, 1], "123123"),
        (82, Scheduler::Wlc, [1, 2, 1], "12321232"),
        (83, Scheduler::Sed, [1, 2, 4], "3233123"),
        (84, Scheduler::Nq, [1, 2, 4], "123332"),
        (85, Scheduler::Fo, [1, 5, 2], "2222"),
        (86, Scheduler::Ovf, [1, 2, 4], "3333322211"),
    ] {
        let n = expected.len() as u16;
        assert_eq!(picked(&mut b, port, scheduler, weights, n), expected, "{scheduler}");
    }
    for (port, scheduler) in [(87, Scheduler::Sh), (88, Scheduler::Dh)] {
        let all = picked(&mut b, port, scheduler, [9, 1, 1], 4);
        assert_eq!(
            all.chars().collect::<BTreeSet<_>>().len(),
            1,
            "{scheduler}: one client, one VIP"
        );
    }
}

#[test]
fn flows_are_active_from_syn_to_fin() {
    let Some(mut b) = bench() else { return };
    let mut all = web(Scheduler::Rr);
    all.services.get_mut("s0").unwrap().servers.retain(|name, _| name == "r1");
    let nat = [("10.0.0.12:8080", Forward::Nat)];
    all.services.insert("n".into(), service("10.0.0.100:81", Proto::Tcp, Scheduler::Rr, &nat));
    all.services.get_mut("n").unwrap().servers =
        BTreeMap::from([("r2".into(), all.services["n"].servers["r1"].clone())]);
    b.plane.apply(&all).unwrap();
    let client = |n: u16, flags: u8| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", flags);
    let step = |b: &mut Bench, frame: Frame, of: &str| {
        b.tc(&frame.bytes());
        loads(b)[of]
    };
    // Only the client's side is seen.
    assert_eq!(step(&mut b, client(1, SYN), "r1"), (1, 0));
    assert_eq!(step(&mut b, client(1, ACK), "r1"), (1, 0));
    assert_eq!(step(&mut b, client(2, SYN), "r1"), (2, 0));
    assert_eq!(step(&mut b, client(1, FIN), "r1"), (1, 1));
    assert_eq!(step(&mut b, client(1, ACK), "r1"), (1, 1));
    // A stranger's RST before the handshake ended changes nothing; later it ends the flow.
    assert_eq!(step(&mut b, client(2, RST), "r1"), (1, 1));
    assert_eq!(step(&mut b, client(2, ACK), "r1"), (1, 1));
    assert_eq!(step(&mut b, client(2, RST), "r1"), (0, 2));
    // The same port again: the old flow gives way to the new one.
    assert_eq!(step(&mut b, client(1, SYN), "r1"), (1, 1));
    // Both sides are seen: the server's FIN counts as much as the client's.
    let there = |flags: u8| tcp("10.0.0.1:9", "10.0.0.100:81", flags);
    let back = |flags: u8| tcp("10.0.0.12:8080", "10.0.0.1:9", flags);
    assert_eq!(step(&mut b, there(SYN), "r2"), (1, 0));
    assert_eq!(step(&mut b, back(SYN | ACK), "r2"), (1, 0));
    assert_eq!(step(&mut b, there(ACK), "r2"), (1, 0));
    assert_eq!(step(&mut b, back(FIN), "r2"), (0, 1));
    // The port again, at another server: what the first one says late is not about this flow.
    let two = &mut all.services.get_mut("n").unwrap().servers;
    let other = TableServer { addr: "10.0.0.13:8080".parse().unwrap(), ..two["r2"].clone() };
    two.insert("r3".into(), other);
    two.get_mut("r2").unwrap().weight = 0;
    b.plane.apply(&all).unwrap();
    assert_eq!(step(&mut b, there(SYN), "r3"), (1, 0));
    assert_eq!(step(&mut b, back(RST), "r3"), (1, 0));
    assert_eq!(step(&mut b, there(ACK), "r3"), (1, 0));
    // A server that leaves takes its flows along.
    all.services.get_mut("n").unwrap().servers.clear();
    b.plane.apply(&all).unwrap();
    assert_eq!(loads(&mut b), BTreeMap::from([("r1".into(), (1, 1))]));
}

#[test]
fn a_port_used_again_is_one_flow_whoever_lay_beside_it() {
    let Some(mut b) = bench() else { return };
    let servers = [("10.0.0.11:80", Forward::Dr), ("10.0.0.12:80", Forward::Dr)];
    let all = |neighbours: &[(&str, Forward)]| {
        table(vec![
            service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers),
            service("10.0.0.100:81", Proto::Tcp, Scheduler::Rr, neighbours),
        ])
    };
    b.plane.apply(&all(&servers)).unwrap();
    let ours = |n: u32, flags: u8| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", flags);
    let theirs = |n: u32, flags: u8| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:81", flags).bytes();
    let (neighbours, flows) = (1_024..21_024, 1_024..1_124);
    neighbours.clone().for_each(|n| assert_eq!(b.tc(&theirs(n, SYN)).0, super::REDIRECT));
    flows.clone().for_each(|n| assert_eq!(b.tc(&ours(n, SYN).bytes()).0, super::REDIRECT));
    // The neighbours leave: places beside ours are free.
    b.plane.apply(&all(&[])).unwrap();
    neighbours.for_each(|n| assert!(super::is_unserved(b.tc(&theirs(n, ACK)).0)));
    for n in flows {
        b.tc(&ours(n, FIN).bytes());
        let server = b.hit(&ours(n, SYN));
        assert_eq!(
            [ACK, ACK].map(|flags| b.hit(&ours(n, flags))),
            [(); 2].map(|()| server.clone())
        );
    }
    let counted: u64 = loads(&mut b).values().map(|(active, inactive)| active + inactive).sum();
    assert_eq!(counted, 100, "each flow is counted once");
}

/// More flows than the table holds: the oldest give way, new ones are served and stay.
#[test]
fn a_full_table_serves_new_flows_and_says_so() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let flow = |n: u32, flags: u8| {
        let client = format!("10.{}.0.1:{}", n / 60_000 + 1, 1_024 + n % 60_000);
        tcp(&client, "10.0.0.100:80", flags)
    };
    let more = nines_abi::BUCKETS * nines_abi::WAYS as u32 + 30_000;
    let began = Instant::now();
    for n in 0..more {
        assert_eq!(b.tc(&flow(n, SYN).bytes()).0, super::REDIRECT, "flow {n}");
    }
    let counters = b.plane.counters().unwrap();
    let live: u64 = counters.servers.values().map(|t| t.active + t.inactive).sum();
    let (evicted, unplaced) = (counters.drops["evicted"], counters.drops["unplaced"]);
    assert_eq!(unplaced, 0);
    assert_eq!(counters.taken, live);
    let full = live * 100 / counters.places;
    assert!(full >= 95 || began.elapsed() > Duration::from_secs(50), "{live}: {full} %");
    // A slow machine sees flows that only began end by themselves.
    let all = live + evicted == u64::from(more) || began.elapsed() > Duration::from_secs(50);
    assert!(evicted > 0 && all, "{live} live, {evicted} evicted");
    for n in more - 50..more {
        let server = b.hit(&flow(n, ACK));
        assert_eq!(b.hit(&flow(n, ACK)), server, "the newest have their place");
    }
}

/// A translated flow has two places. One that had to give way is there again as soon as the other
/// shows that the flow lives.
#[test]
fn a_half_that_gave_way_comes_back() {
    let sizes = Sizes { buckets: 1_024, ..Sizes::default() };
    let Some(mut b) = bench_with(Hooks::Tc, sizes) else { return };
    let nat = [("10.0.0.11:8080", Forward::Nat)];
    let other = [("10.0.0.12:80", Forward::Dr)];
    let mut all = table(vec![
        service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &nat),
        service("10.0.0.100:81", Proto::Tcp, Scheduler::Rr, &other),
    ]);
    b.plane.apply(&all).unwrap();
    let there = |n: u16, flags| tcp(&format!("10.0.0.1:{n}"), "10.0.0.100:80", flags).bytes();
    let back = |n: u16, flags| tcp("10.0.0.11:8080", &format!("10.0.0.1:{n}"), flags).bytes();
    let mut next = 0x0b00_0000u32;
    let mut strangers = |b: &Bench, count: u32| {
        for _ in 0..count {
            let mut stranger = tcp("0.0.0.0:1", "10.0.0.100:81", SYN).bytes();
            stranger[26..30].copy_from_slice(&next.to_be_bytes());
            next += 1;
            for flags in [SYN, ACK] {
                stranger[47] = flags;
                b.tc(&stranger);
            }
        }
        // By the table's clock what comes now is younger.
        std::thread::sleep(std::time::Duration::from_millis(60));
    };
    // Every place is taken; what is opened then and has shown nothing yet gives way to more: some
    // halves go, not their others.
    strangers(&b, sizes.buckets * nines_abi::WAYS as u32 * 2);
    let ports = 2_000..2_200;
    for n in ports.clone() {
        b.tc(&there(n, SYN));
        b.tc(&back(n, SYN | ACK));
        b.tc(&there(n, ACK));
    }
    strangers(&b, sizes.buckets / 2);
    let lives = |b: &Bench, packet: &[u8]| b.tc(packet).0 == super::REDIRECT;
    // A server that is down keeps what it has and takes up nothing: what lives had a half.
    let server = all.services.get_mut("s0").unwrap().servers.get_mut("r1").unwrap();
    server.state = ServerState::Down;
    b.plane.apply(&all).unwrap();
    // Half a second later each half may refresh the other.
    std::thread::sleep(std::time::Duration::from_millis(600));
    let mut mended = 0;
    for n in ports {
        let lost = !lives(&b, &back(n, ACK));
        if lost && lives(&b, &there(n, ACK)) && lives(&b, &back(n, ACK)) {
            mended += 1;
        }
    }
    assert!(mended > 0, "none was half gone: {:?}", b.plane.counters().unwrap().drops);
}

#[test]
fn who_may_begin_flows_lists_say() {
    let Some(mut b) = both_hooks() else { return };
    let network = |text: &str| {
        let (addr, prefix) = text.split_once('/').unwrap();
        (addr.parse().unwrap(), prefix.parse().unwrap())
    };
    let six = [("[2001:db8::11]:80", Forward::Dr)];
    let pool = |lists: &[(&str, bool)]| {
        let mut all = web(Scheduler::Maglev);
        let v6 = service("[2001:db8::100]:80", Proto::Tcp, Scheduler::Wlc, &six);
        all.services.insert("six".into(), v6);
        for (text, may) in lists {
            let of = if text.contains(':') { "six" } else { "s0" };
            let sources = &mut all.services.get_mut(of).unwrap().sources;
            sources.insert(network(text), *may);
        }
        all
    };
    let (near, far) = ("10.0.0.1:4000", "192.0.2.1:4000");
    let (near6, far6) = ("[2001:db8::1]:4000", "[2001:db8:9::1]:4000");
    let passes = |b: &Bench, from: &str, flags| {
        let to = if from.starts_with('[') { "[2001:db8::100]:80" } else { "10.0.0.100:80" };
        let frame = tcp(from, to, flags).bytes();
        let at_xdp = b.plane.test_run("nines_xdp", &frame, 1).unwrap().verdict;
        let at_tc = b.tc(&frame).0 == super::REDIRECT;
        // XDP drops what tc drops; what it cannot send it hands up.
        assert_eq!(at_xdp != 1, at_tc, "{from}");
        at_tc
    };
    let all = |b: &Bench, flags| [near, far, near6, far6].map(|from| passes(b, from, flags));
    b.plane.apply(&pool(&[])).unwrap();
    assert_eq!(all(&b, SYN), [true; 4], "nobody is listed");
    let lists = [("192.0.2.0/24", false), ("2001:db8:9::/48", false)];
    b.plane.apply(&pool(&lists)).unwrap();
    assert_eq!(all(&b, ACK), [true; 4], "flows that are there go on");
    assert_eq!(all(&b, SYN), [true; 4], "a SYN again, too");
    let others = |b: &Bench, from: &str| passes(b, &from.replace("4000", "5000"), SYN);
    assert!(others(&b, near) && others(&b, near6));
    assert!(!others(&b, far) && !others(&b, far6));
    assert_eq!(b.plane.counters().unwrap().drops["denied"], 4, "at both hooks");
    // The longest prefix decides, and a service has lists of its own.
    let lists = [("0.0.0.0/0", false), ("192.0.2.0/24", true), ("192.0.2.9/32", false)];
    b.plane.apply(&pool(&lists)).unwrap();
    assert!(passes(&b, "192.0.2.8:1", SYN) && !passes(&b, "192.0.2.9:1", SYN));
    assert!(!passes(&b, "10.0.0.1:6000", SYN) && passes(&b, "[2001:db8:9::1]:6000", SYN));
    assert!(b.plane.observe().unwrap().is_empty());
    b.plane.apply(&pool(&[])).unwrap();
    assert!(passes(&b, "192.0.2.9:1", SYN));
}

/// Connections that begin by the hundred thousand and never go on replace only each other.
#[test]
fn a_flood_of_syns_leaves_established_flows_alone() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    let ours: Vec<Frame> = (0..200)
        .map(|n| tcp(&format!("198.51.100.1:{}", 2_000 + n), "10.0.0.100:80", SYN))
        .collect();
    let ack = |frame: &Frame| Frame { flags: ACK, ..frame.clone() };
    let servers: Vec<String> = ours
        .iter()
        .map(|syn| {
            let server = b.hit(syn);
            b.tc(&ack(syn).bytes());
            server
        })
        .collect();
    let mut flood = tcp("0.0.0.0:1", "10.0.0.100:80", SYN).bytes();
    for n in 0..2 * nines_abi::BUCKETS * nines_abi::WAYS as u32 {
        flood[26..30].copy_from_slice(&(0x0b00_0000 + n).to_be_bytes());
        b.tc(&flood);
    }
    assert!(b.plane.counters().unwrap().drops["evicted"] > 100_000, "the table was full");
    for (syn, server) in ours.iter().zip(&servers) {
        assert_eq!(b.hit(&ack(syn)), *server, "{:?}", syn.src);
    }
}

#[test]
fn a_client_stays_with_its_server_while_it_is_remembered() {
    let Some(mut b) = bench() else { return };
    let pool = |drained: Option<&str>| {
        let mut all = web(Scheduler::Rr);
        let web = all.services.get_mut("s0").unwrap();
        web.persist = Some(Persist { time: Millis(4_000), prefix: 24 });
        if let Some(server) = drained.and_then(|name| web.servers.get_mut(name)) {
            server.weight = 0;
        }
        all
    };
    b.plane.apply(&pool(None)).unwrap();
    let flow = |client: &str| tcp(client, "10.0.0.100:80", SYN);
    let first = b.hit(&flow("192.0.2.1:4000"));
    for client in ["192.0.2.1:4001", "192.0.2.1:4002", "192.0.2.250:4000"] {
        assert_eq!(b.hit(&flow(client)), first, "{client} is of the same /24");
    }
    let others: BTreeSet<String> =
        (1..=3).map(|n| b.hit(&flow(&format!("192.0.{}.1:4000", n + 2)))).collect();
    assert_eq!(others.len(), 3, "other clients go in turn");
    // A server that takes no new flows lets go.
    b.plane.apply(&pool(Some(&first))).unwrap();
    let second = b.hit(&flow("192.0.2.1:4003"));
    assert_ne!(second, first);
    b.plane.apply(&pool(None)).unwrap();
    assert_eq!(b.hit(&flow("192.0.2.1:4004")), second, "and it stays with the new one");
    // An old flow that goes on at the drained server does not take the client back there.
    b.plane.apply(&pool(Some(&first))).unwrap();
    std::thread::sleep(Duration::from_millis(2_400));
    assert_eq!(b.hit(&Frame { flags: ACK, ..flow("192.0.2.1:4000") }), first);
    b.plane.apply(&pool(None)).unwrap();
    assert_eq!(b.hit(&flow("192.0.2.1:4010")), second);
    // Forgotten after its time; before that any packet of a flow keeps it.
    std::thread::sleep(Duration::from_millis(2_800));
    b.hit(&Frame { flags: ACK, ..flow("192.0.2.1:4004") });
    std::thread::sleep(Duration::from_millis(2_800));
    assert_eq!(b.hit(&flow("192.0.2.1:4005")), second);
    std::thread::sleep(Duration::from_millis(4_800));
    let after: BTreeSet<String> =
        (0..3).map(|n| b.hit(&flow(&format!("192.0.2.1:{}", 5_000 + n)))).collect();
    assert_eq!(after.len(), 1, "remembered anew");
    let next = b.hit(&flow("198.51.100.1:1"));
    assert!(!after.contains(&next), "the turn went on when it was scheduled anew");
}

/// Times are counted from a flow's last packet, without anybody who counts them.
#[test]
fn silent_flows_end_after_their_time() {
    let Some(mut b) = bench() else { return };
    let servers = [("10.0.0.11:53", Forward::Dr), ("10.0.0.12:53", Forward::Dr)];
    let mut all = table(vec![
        service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &servers),
        service("10.0.0.100:53", Proto::Tcp, Scheduler::Rr, &servers),
    ]);
    let limits = |udp| Some(IdleLimits { udp, ..IdleLimits::default() });
    all.idle = limits(9);
    b.plane.apply(&all).unwrap();
    let datagram = udp("10.0.0.1:4000", "10.0.0.100:53");
    let stream = tcp("10.0.0.1:4000", "10.0.0.100:53", SYN);
    let begun = |b: &mut super::Bench| {
        let services = b.plane.counters().unwrap().services;
        [services["s0"].connections, services["s1"].connections]
    };
    let first = b.hit(&datagram);
    b.hit(&stream);
    b.hit(&Frame { flags: ACK, ..stream.clone() });
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(b.hit(&datagram), first, "heard of in time");
    }
    assert_eq!(begun(&mut b), [1, 1]);
    std::thread::sleep(Duration::from_millis(9_300));
    assert_ne!(b.hit(&datagram), first, "in its turn");
    b.hit(&Frame { flags: ACK, ..stream });
    assert_eq!(begun(&mut b), [2, 1], "TCP has more time");
    // A longer time counts for flows that are there; a table without times changes none.
    for idle in [limits(60), None] {
        b.plane.apply(&ForwardingTable { idle, ..all.clone() }).unwrap();
        assert_eq!(b.plane.tables().timeouts(), [900, 120, 60]);
    }
}
