//! What `nines ipvsadm` shows and orders on kernel IPVS: one change at a time, listings, counts,
//! times.

use std::time::Duration;

use nines_dataplane::{
    DataPlane as _,
    ipvs::{self, Change, Counts, IpvsPlane, Kernel, Tables as _},
    listing::{Connection, Shown},
};
use nines_model::{
    Forward, ForwardingTable, IdleLimits, Limit, Millis, Persist, Proto, Scheduler, TableServer,
    TableService, Traffic, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{
    build::*,
    ipvs::{Wire, kernel, run, to_w0},
    leave, service,
};

/// IPVS in a namespace of its own, whose VIP is 10.0.0.100, and a wire that leads to it.
pub fn host() -> Option<(Kernel, Wire)> {
    leave()?;
    let kernel = kernel()?;
    run("ip link set lo up");
    run("ip addr add 10.0.0.100/32 dev lo");
    run("ip link add w0 address 02:00:00:00:00:99 type veth peer name w1");
    run("ip link set w0 up");
    run("ip link set w1 up");
    run("ip addr add 10.0.0.2/24 dev w0");
    for path in ["all/rp_filter", "w0/rp_filter"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{path}"), "0").unwrap();
    }
    Some((kernel, Wire::open()))
}

/// A client's connection, far enough to be established and told to others.
pub fn connect(wire: &Wire, client: &str, to: &str) {
    let syn = tcp(client, to, SYN);
    wire.put(&to_w0(&syn));
    for _ in 0..5 {
        wire.put(&to_w0(&Frame { flags: ACK, ..syn.clone() }));
    }
}

/// What is there once this holds, or after a while.
pub fn until<T>(mut look: impl FnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    let mut found = look();
    for _ in 0..200 {
        if holds(&found) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        found = look();
    }
    found
}

pub fn has(all: &[Connection], client: &str) -> bool {
    let client = client.parse().unwrap();
    all.iter().any(|c| c.client == client && c.state == "ESTABLISHED")
}

/// As `ipvsadm -A` and `-a` would, the last server first.
fn add(kernel: &Kernel, service: &TableService) {
    let held = ipvs::held(service).unwrap();
    kernel.tell(&Change::Add(service.traffic, held.service)).unwrap();
    for dest in held.dests {
        kernel.tell(&Change::AddDest(service.traffic, dest)).unwrap();
    }
}

fn shown(kernel: &mut Kernel, counts: Counts) -> Vec<Shown> {
    ipvs::shown(&kernel.list().unwrap(), counts)
}

fn pools() -> Vec<TableService> {
    let tunnel = |kind, port, checksum| Forward::Tunnel(Tunnel { kind, port, checksum });
    let four = [
        ("10.0.0.11:80", Forward::Dr),
        ("10.0.0.12:8080", Forward::Nat),
        ("10.0.0.13:80", tunnel(TunnelKind::Ipip, 0, TunnelChecksum::None)),
        ("10.0.0.14:80", tunnel(TunnelKind::Gue, 6080, TunnelChecksum::Full)),
        ("[2001:db8::15]:80", tunnel(TunnelKind::Gre, 0, TunnelChecksum::Full)),
    ];
    let mut web = service("10.0.0.100:80", Proto::Tcp, Scheduler::Wlc, &four);
    web.persist = Some(Persist { time: Millis(600_000), prefix: 24 });
    web.servers.get_mut("r1").unwrap().limit = Limit { upper: 100, lower: 50 };
    web.servers.get_mut("r2").unwrap().weight = 3;
    web.servers.get_mut("r3").unwrap().weight = 0;
    let one = [("10.0.0.11:53", Forward::Nat)];
    let mut dns = service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &one);
    dns.one_packet = true;
    let mut hashed = service("10.0.0.100:99", Proto::Sctp, Scheduler::Sh, &[]);
    (hashed.flags.port, hashed.flags.fallback) = (true, true);
    let own = service("10.0.0.1:1", Proto::Tcp, Scheduler::Mh, &[("127.0.0.1:0", Forward::Dr)]);
    let marked = TableService { traffic: Traffic::Marked { mark: 7, v6: false }, ..own };
    let mut six = TableService::new(Traffic::Marked { mark: 8, v6: true }, Scheduler::Ovf);
    six.persist = Some(Persist { time: Millis(60_000), prefix: 64 });
    vec![web, dns, hashed, marked, six]
}

#[test]
fn ipvs_is_listed_as_it_was_told() {
    let Some((mut kernel, _wire)) = host() else { return };
    for pool in pools() {
        add(&kernel, &pool);
    }
    let found = shown(&mut kernel, Counts::Sums);
    assert_eq!(found.len(), 5);
    for wanted in pools() {
        let found = found.iter().find(|s| s.service.traffic == wanted.traffic).unwrap();
        let servers: Vec<&TableServer> = found.servers.iter().map(|(server, ..)| server).collect();
        assert_eq!(servers, wanted.servers.values().collect::<Vec<_>>(), "the newest first");
        let bare = TableService { servers: [].into(), ..wanted };
        assert_eq!(found.service, bare);
        assert_eq!(found.scheduler, bare.scheduler.to_string());
    }

    // What it refuses it refuses by number.
    let [web, ..] = &pools()[..] else { unreachable!() };
    let (held, to) = (ipvs::held(web).unwrap(), web.traffic);
    let nowhere = Traffic::Marked { mark: 99, v6: false };
    let dest = || held.dests[0].clone();
    let mut other = dest();
    other.at.set_port(81);
    let none = ipvs::Service { scheduler: "nothing".into(), ..held.service.clone() };
    for (change, number) in [
        (Change::Add(to, held.service.clone()), libc::EEXIST),
        (Change::Add(nowhere, none), libc::ENOENT),
        (Change::Set(nowhere, held.service.clone()), libc::ESRCH),
        (Change::Remove(nowhere), libc::ESRCH),
        (Change::AddDest(nowhere, dest()), libc::ESRCH),
        (Change::AddDest(to, dest()), libc::EEXIST),
        (Change::SetDest(to, other.clone()), libc::ENOENT),
        (Change::RemoveDest(to, other), libc::ENOENT),
    ] {
        let told = kernel.tell(&change).map_err(|e| e.raw_os_error());
        assert_eq!(told, Err(Some(number)), "{change}");
    }
    assert_eq!(kernel.zero(Some(nowhere)).unwrap_err().raw_os_error(), Some(libc::ESRCH));

    // A service may have no scheduler at all; nines has no word for that, and shows it all the
    // same.
    let bare = ipvs::Service { scheduler: "none".into(), ..held.service };
    kernel.tell(&Change::Add(nowhere, bare)).unwrap();
    let found = shown(&mut kernel, Counts::Sums);
    assert!(found.iter().any(|s| s.service.traffic == nowhere && s.scheduler == "none"));

    kernel.set_timeouts([600, 0, 30]).unwrap();
    assert_eq!(kernel.timeouts().unwrap(), [600, 120, 30]);
    kernel.flush().unwrap();
    assert_eq!(shown(&mut kernel, Counts::Sums), []);

    // A table brings its times along.
    let idle = Some(IdleLimits { tcp: 7_200, ..IdleLimits::default() });
    let mut plane = IpvsPlane::over(kernel);
    plane.apply(&ForwardingTable { idle, ..ForwardingTable::default() }).unwrap();
    assert_eq!(ipvs::Kernel::open().unwrap().timeouts().unwrap(), [7_200, 120, 300]);
}

#[test]
fn ipvs_is_listed_with_connections_counts_and_rates() {
    let Some((mut kernel, wire)) = host() else { return };
    let servers = [("10.0.0.11:80", Forward::Dr), ("10.0.0.12:80", Forward::Dr)];
    let mut pool = service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers);
    pool.persist = Some(Persist { time: Millis(600_000), prefix: 32 });
    add(&kernel, &pool);
    let clients: Vec<String> = (30..34).map(|host| format!("10.0.0.{host}:4000")).collect();
    for client in &clients {
        connect(&wire, client, "10.0.0.100:80");
    }
    let there = |all: &Vec<Connection>| clients.iter().all(|client| has(all, client));
    let all = until(|| ipvs::connections().unwrap(), there);
    assert!(there(&all), "{all:?}");
    assert_eq!(all.iter().filter(|c| c.client.port() == 0).count(), 4, "remembered: {all:?}");

    // IPVS sums up every two seconds.
    let counted = |all: &Vec<Shown>| all[0].tally.packets_in == 24;
    let all = until(|| shown(&mut kernel, Counts::Sums), counted);
    assert!(counted(&all), "{all:?}");
    assert_eq!((all[0].tally.connections, all[0].tally.bytes_in > 24 * 40 - 1), (4, true));
    for (_, tally, clients) in &all[0].servers {
        assert_eq!((tally.connections, tally.active, tally.inactive, *clients), (2, 2, 0, 2));
    }
    let moves = |all: &Vec<Shown>| all[0].tally.packets_in > 0;
    let again = tcp(&clients[0], "10.0.0.100:80", ACK);
    let look = || {
        (0..20).for_each(|_| wire.put(&to_w0(&again)));
        shown(&mut kernel, Counts::Rates)
    };
    assert!(moves(&until(look, moves)));
    kernel.zero(Some(pool.traffic)).unwrap();
    assert_eq!(shown(&mut kernel, Counts::Sums)[0].tally.connections, 0);
    kernel.flush().unwrap();
}
