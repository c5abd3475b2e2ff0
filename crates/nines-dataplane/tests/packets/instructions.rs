//! Instructions a packet costs, as a gate: in a VM that counts them (`xtask/vm/packets.sh` with
//! `NINES_VM_COUNT=1`) its clock shows instructions, the same to a tenth of a percent whatever else
//! the machine does. Kernel IPVS and plain forwarding stand beside, in the same run.
//!
//! Each row: frames made on the far side of a veth pair, what is measured, a sink. What comes from
//! XDP ends on the far side again, what comes from tc or the stack behind the last program.

use std::collections::BTreeMap;

use nines_dataplane::{
    DataPlane as _, Guard as _,
    ebpf::{Hooks, Sizes},
    ipvs::IpvsPlane,
    process,
};
use nines_model::{
    Forward, ForwardingTable, Millis, Proto, Scheduler, TableService, Tunnel, TunnelKind,
};

use super::{
    Bench, bench_with,
    build::*,
    live::{Generator, Says, Sink},
    service, table,
};

const FLOWS: u16 = 10_000;
/// All flows of all ways are 120,000 entries. In the usual table (229,376 places, two buckets for
/// each) some 70 of them find both of their buckets full, which of them depends on its random key,
/// and a half-open flow that gave way comes back in the middle; in this one none.
const BUCKETS: u32 = 2 * nines_abi::BUCKETS;
const FRAMES: u32 = 40_000;
/// How often a busy machine may lose frames outside our programs: the wire holds 256, and whoever
/// empties it may have to wait. In a VM of its own none may be lost.
const WIRE: u32 = 3;

fn pool(port: u16, proto: Proto, forward: Forward) -> TableService {
    let servers = (11..15).map(|n| (format!("10.0.0.{n}:{port}"), forward)).collect::<Vec<_>>();
    let servers: Vec<(&str, Forward)> = servers.iter().map(|(a, f)| (a.as_str(), *f)).collect();
    service(&format!("10.0.0.100:{port}"), proto, Scheduler::Wrr, &servers)
}

type Mode = (&'static str, u16, Forward);

/// What IPVS has too, and what it has not.
fn modes() -> ([Mode; 3], Mode) {
    let ipip = Forward::Tunnel(Tunnel::new(TunnelKind::Ipip));
    let both = [("dr", 80, Forward::Dr), ("ipip", 81, ipip), ("nat", 82, Forward::Nat)];
    (both, ("full", 83, Forward::FullNat))
}

fn tables(modes: impl IntoIterator<Item = Mode>) -> ForwardingTable {
    let both =
        |(_, port, forward)| [pool(port, Proto::Tcp, forward), pool(port, Proto::Udp, forward)];
    table(modes.into_iter().flat_map(both).collect())
}

/// Neighbours that answer nobody, and no way back for what the stack would like to say.
pub fn surroundings() {
    for host in [1, 11, 12, 13, 14] {
        let lladdr = format!("02:00:00:00:00:{host:02}");
        super::ip(&format!("neigh add 10.0.0.{host} lladdr {lladdr} dev v0 nud permanent"));
    }
    super::ip("addr add 10.0.0.100/32 dev v0");
    for (path, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/v0/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/v0/send_redirects", "0"),
        ("ipv4/conf/v0/forwarding", "1"),
        ("ipv4/ip_forward", "1"),
    ] {
        std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
    }
    // Behind a generator that never sleeps, what an interrupt left over would wait.
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let pid = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        if let (true, Some(pid)) = (name.starts_with("ksoftirqd"), pid) {
            let first = libc::sched_param { sched_priority: 1 };
            // SAFETY: a live parameter.
            let rc = unsafe { libc::sched_setscheduler(pid, libc::SCHED_FIFO, &raw const first) };
            assert_eq!(rc, 0);
        }
    }
}

/// A frame to the VIP as the client sends it.
fn frame(proto: &str, port: u16, flags: u8) -> Vec<u8> {
    let to = format!("10.0.0.100:{port}");
    let from = "10.0.0.1:1024";
    let mut frame = match proto {
        "udp" => udp(from, &to),
        _ => tcp(from, &to, flags),
    };
    frame.payload.clear();
    frame.bytes()
}

fn is_counting() -> bool {
    std::env::var_os("NINES_INSTRUCTIONS").is_some()
}

/// Packets that our programs counted so far.
pub fn counted(bench: &mut Bench) -> u64 {
    bench.plane.counters().unwrap().services.values().map(|s| s.packets_in).sum()
}

/// Packets that our programs dropped so far, by why; a flow that gives way to another is none.
pub fn dropped(bench: &mut Bench) -> BTreeMap<String, u64> {
    let mut drops = bench.plane.counters().unwrap().drops;
    drops.retain(|why, count| *count > 0 && why != "evicted" && why != "unplaced");
    drops
}

/// Sends what has to be known before, then measures.
fn cost(port: u16, kind: &str, flows: u16) -> f64 {
    if kind == "tcp" {
        Generator::new("v1", &frame(kind, port, SYN), FLOWS).send(u32::from(FLOWS));
    }
    let flags = if kind == "syn" { SYN } else { ACK };
    let generator = Generator::new("v1", &frame(kind, port, flags), flows);
    if kind == "syn" {
        return generator.send(u32::from(FLOWS));
    }
    generator.send(u32::from(FLOWS));
    generator.send(FRAMES)
}

fn ours(hooks: Hooks, rows: &mut BTreeMap<String, f64>) {
    let sizes = Sizes { buckets: BUCKETS, ..Sizes::default() };
    let Some(mut b) = bench_with(hooks, sizes) else { return };
    surroundings();
    let vip = "10.0.0.100".parse().unwrap();
    b.plane.on(["v0".to_owned()]);
    let (both, own) = modes();
    let all = both.into_iter().chain([own]);
    b.plane.apply(&tables(all.clone())).unwrap();
    b.guard.cover(&[(vip, false)]).unwrap();
    b.guard.set(vip, process::boot_time().plus(Millis(3_600_000))).unwrap();
    let (name, sink, _pass, end) = match hooks {
        Hooks::Xdp => ("xdp", None, None, Some(Says::on("v1", Says::DROP))),
        _ => {
            let pass = Says::on("v0", Says::PASS);
            ("tc", Some(Sink::behind("v0")), Some(pass), None)
        }
    };
    let through = || end.as_ref().map_or(0, Says::seen) + sink.as_ref().map_or(0, Sink::seen);
    for (mode, port, _) in all {
        for kind in ["syn", "tcp", "udp"] {
            let sent = match kind {
                "syn" => u64::from(FLOWS),
                "tcp" => 2 * u64::from(FLOWS) + u64::from(FRAMES),
                _ => u64::from(FLOWS) + u64::from(FRAMES),
            };
            let mut again = if is_counting() { 0 } else { WIRE };
            let cost = loop {
                let (before, ended, drops) = (counted(&mut b), through(), dropped(&mut b));
                let cost = cost(port, kind, FLOWS);
                let (came, went) = (counted(&mut b) - before, through() - ended);
                assert_eq!(dropped(&mut b), drops, "{name} {mode} {kind}: we drop none");
                // The host says a word of its own now and then (IPv6).
                let all = came == sent && (sent..sent + 20).contains(&went);
                if all {
                    break cost;
                }
                assert!(again > 0, "{name} {mode} {kind}: {came} came, {went} went, of {sent}");
                again -= 1;
            };
            rows.insert(format!("{name} {mode} {kind}"), cost);
        }
    }
}

fn kernels(rows: &mut BTreeMap<String, f64>) {
    let Some(_b) = bench_with(Hooks::Tc, Sizes::default()) else { return };
    surroundings();
    let pass = Says::on("v0", Says::PASS);
    let _sink = Sink::behind("v0");
    let mut ipvs = IpvsPlane::open().unwrap();
    let (both, _) = modes();
    ipvs.apply(&tables(both)).unwrap();
    for (mode, port, _) in both {
        for kind in ["syn", "tcp", "udp"] {
            rows.insert(format!("ipvs {mode} {kind}"), cost(port, kind, FLOWS));
        }
    }
    ipvs.remove().unwrap();
    super::ip("addr del 10.0.0.100/32 dev v0");
    super::ip("neigh add 10.0.0.100 lladdr 02:00:00:00:01:00 dev v0 nud permanent");
    for kind in ["tcp", "udp"] {
        rows.insert(format!("forward - {kind}"), cost(80, kind, FLOWS));
    }
    drop(pass);
    let _drop = Says::on("v0", Says::DROP);
    rows.insert("nothing - udp".into(), cost(80, "udp", FLOWS));
}

/// Frames on a wire, not packets handed to a program: none is lost at either hook.
#[test]
fn live_frames_take_every_way_at_both_hooks() {
    for hooks in [Hooks::Xdp, Hooks::Tc] {
        ours(hooks, &mut BTreeMap::new());
    }
}

#[test]
fn a_packet_costs_no_more_instructions_than_promised() {
    if !is_counting() {
        eprintln!("SKIPPED: instructions are counted in a VM that counts them");
        return;
    }
    let mut rows = BTreeMap::new();
    for hooks in [Hooks::Xdp, Hooks::Tc] {
        ours(hooks, &mut rows);
    }
    kernels(&mut rows);
    println!("\ninstructions a packet, {FLOWS} flows");
    for (name, cost) in &rows {
        println!("{name:<16} {cost:>7.0}");
    }
    let mut worse = Vec::new();
    let mut at_most = |row: String, limit: f64| {
        if rows[&row] > limit {
            worse.push(format!("{row}: {:.0}, at most {limit:.0}", rows[&row]));
        }
    };
    // A little above what is, so that a change that costs is seen.
    for (mode, known, new) in
        [("dr", 1_680.0, 2_770.0), ("ipip", 1_830.0, 2_950.0), ("nat", 1_800.0, 3_320.0)]
    {
        at_most(format!("xdp {mode} tcp"), known);
        at_most(format!("xdp {mode} udp"), known);
        at_most(format!("xdp {mode} tcp"), rows[&format!("ipvs {mode} tcp")] * 0.34);
        at_most(format!("xdp {mode} syn"), new);
        at_most(format!("xdp {mode} syn"), rows[&format!("ipvs {mode} syn")] * 0.5);
        for kind in ["tcp", "udp", "syn"] {
            // New flows of IPVS vary by a percent from run to run.
            let noise = if kind == "syn" { 1.02 } else { 1.0 };
            at_most(format!("tc {mode} {kind}"), rows[&format!("ipvs {mode} {kind}")] * noise);
        }
    }
    // IPVS has no full NAT; nines' is cheaper than its NAT.
    for (row, limit) in
        [("xdp full tcp", 2_050.0), ("xdp full udp", 2_050.0), ("xdp full syn", 4_480.0)]
    {
        at_most(row.to_owned(), limit);
    }
    for kind in ["tcp", "udp"] {
        at_most(format!("tc full {kind}"), rows[&format!("ipvs nat {kind}")]);
    }
    assert!(worse.is_empty(), "{worse:#?}");
}
