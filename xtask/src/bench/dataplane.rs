//! What a packet costs in the kernel program: `cargo xtask bench dataplane`.
//!
//! BPF_PROG_TEST_RUN with packets of our own. "warm": one flow, 200 runs a call (the TTL falls with
//! each, so no more). "cold": every run another flow, one run a call, less what a packet that is
//! nobody's costs when measured the same way: the clock around a single run weighs as much as the
//! program. Needs root.

use std::{collections::BTreeMap, net::SocketAddr};

use nines_dataplane::{
    DataPlane as _,
    ebpf::{self, EbpfPlane, Hooks},
    sysctl,
};
use nines_lab::Wire;
use nines_model::{
    Forward, ForwardingTable, Listen, Proto, Scheduler, TableServer, TableService, Traffic, Tunnel,
    TunnelKind,
};

use super::{Bench, median};

const ROUNDS: usize = 7;
/// The flow table has room for so many at least.
const FLOWS: u32 = 1_000_000;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A TCP or UDP frame to port 80 of the VIP (or of `dst`), from the client's n-th flow.
fn frame(v6: bool, proto: u8, flags: u8, n: u32, dst: u8) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    let l4 = if proto == 6 { 20u16 } else { 8 };
    let port = (1_024 + n % 60_000) as u16;
    let client = (n / 60_000 + 1) as u8;
    if v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend(l4.to_be_bytes());
        f.extend([proto, 255]);
        for last in [client, dst] {
            f.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    } else {
        f.extend([8, 0, 0x45, 0]);
        f.extend((20 + l4).to_be_bytes());
        f.extend([0, 0, 0x40, 0, 255, proto, 0, 0, 10, 0, 0, client, 10, 0, 0, dst]);
    }
    f.extend(port.to_be_bytes());
    f.extend([0, 80]);
    if proto == 6 {
        f.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        f.extend([0, 8, 0, 0]);
    }
    f
}

fn table() -> ForwardingTable {
    let mut services = BTreeMap::new();
    let tunnel = |kind| Forward::Tunnel(Tunnel::new(kind));
    for (name, vip, proto, forward) in [
        ("tcp4", "10.0.0.100:80", Proto::Tcp, Forward::Dr),
        ("udp4", "10.0.0.100:80", Proto::Udp, Forward::Dr),
        ("tcp6", "[2001:db8::64]:80", Proto::Tcp, Forward::Dr),
        ("ipip4", "10.0.0.101:80", Proto::Tcp, tunnel(TunnelKind::Ipip)),
        ("gue4", "10.0.0.102:80", Proto::Tcp, tunnel(TunnelKind::Gue)),
        ("nat4", "10.0.0.103:80", Proto::Tcp, Forward::Nat),
    ] {
        let server = |n: u8| {
            let addr = if vip.starts_with('[') {
                format!("[2001:db8::a{n}]:80")
            } else {
                format!("10.0.0.1{n}:80")
            };
            let addr: SocketAddr = addr.parse().expect("an address");
            (format!("r{n}"), TableServer::new(addr, forward))
        };
        let listen = Listen { addr: vip.parse().expect("an address"), proto };
        let mut service = TableService::new(Traffic::To(listen), Scheduler::Maglev);
        service.servers = (1..=9).map(server).collect();
        services.insert(name.to_owned(), service);
    }
    ForwardingTable { services, ..ForwardingTable::default() }
}

fn run(plane: &EbpfPlane, program: &str, frame: &[u8], repeat: u32) -> Result<f64, String> {
    let out = plane.test_run(program, frame, repeat).map_err(|e| e.to_string())?;
    Ok(f64::from(out.nanoseconds))
}

/// Mean over single runs of `n` flows, in an order that no cache line likes.
fn cold(
    plane: &EbpfPlane,
    program: &str,
    n: u32,
    of: &dyn Fn(u32) -> Vec<u8>,
) -> Result<f64, String> {
    let runs = 20_000u32;
    let mut sum = 0.0;
    for i in 0..runs {
        let flow = (u64::from(i) * 2_654_435_761 % u64::from(n)) as u32;
        sum += run(plane, program, &of(flow), 1)?;
    }
    Ok(sum / f64::from(runs))
}

struct Row {
    program: &'static str,
    packet: String,
    ns: Vec<f64>,
}

fn rounds(plane: &EbpfPlane) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    let add = |rows: &mut Vec<Row>, program, packet: &str, ns: f64| match rows
        .iter_mut()
        .find(|r| r.program == program && r.packet == packet)
    {
        Some(row) => row.ns.push(ns),
        None => rows.push(Row { program, packet: packet.to_owned(), ns: vec![ns] }),
    };
    let tcp = |flags: u8| move |n: u32| frame(false, 6, flags, n, 100);
    for n in 0..FLOWS {
        run(plane, "nines_xdp", &tcp(SYN)(n), 1)?;
        run(plane, "nines_xdp", &tcp(ACK)(n), 1)?;
    }
    let mut fresh = FLOWS + 100_000;
    for _ in 0..ROUNDS {
        for program in ["nines_xdp", "nines_tc_ingress"] {
            for (name, f) in [
                ("nobody's, warm", frame(false, 6, ACK, 1, 50)),
                ("TCP4 hit, warm", tcp(ACK)(1)),
                ("UDP4 hit, warm", frame(false, 17, 0, 1, 100)),
                ("TCP6 hit, warm", frame(true, 6, ACK, 1, 100)),
            ] {
                add(&mut rows, program, name, run(plane, program, &f, 200)?);
            }
            let floor = cold(plane, program, 1, &|n| frame(false, 6, ACK, n, 50))?;
            for n in [1, 1_000, 100_000, 500_000, FLOWS] {
                let ns = cold(plane, program, n, &tcp(ACK))? - floor;
                add(&mut rows, program, &format!("TCP4 hit, cold, {n} flows, less nobody's"), ns);
            }
            // One run each: the next one would meet its own outer header.
            for (name, dst) in [("IPIP", 101), ("GUE", 102), ("NAT", 103)] {
                if name == "NAT" && program == "nines_xdp" {
                    continue;
                }
                let to = |n| frame(false, 6, ACK, n, dst);
                run(plane, program, &frame(false, 6, SYN, 0, dst), 1)?;
                let ns = cold(plane, program, 1, &to)? - floor;
                add(&mut rows, program, &format!("TCP4 {name} hit, 1 flow, less nobody's"), ns);
            }
            let mut sum = 0.0;
            for _ in 0..20_000 {
                fresh += 1;
                sum += run(plane, program, &tcp(SYN)(fresh), 1)?;
            }
            let ns = sum / 20_000.0 - floor;
            add(&mut rows, program, "TCP4 SYN, new flow each, less nobody's", ns);
        }
    }
    Ok(rows)
}

/// Runs it.
pub fn dataplane(json: bool) -> Result<(), String> {
    let wires = vec![Wire::new("br0", "10.0.0.2/24")];
    let b = Bench::build(BTreeMap::from([("lb1".to_owned(), wires)]))?;
    b.ip("lb1", "addr add 2001:db8::2/64 dev eth0 nodad")?;
    // XDP sends only to neighbours it knows.
    for n in 1..=9 {
        for addr in [format!("10.0.0.1{n}"), format!("2001:db8::a{n}")] {
            let known =
                format!("neigh add {addr} lladdr 02:00:00:00:00:0{n} dev eth0 nud permanent");
            b.ip("lb1", &known)?;
        }
    }
    let measure = || -> Result<Vec<Row>, String> {
        let (mut plane, _guard) =
            ebpf::open(ebpf::object::BYTES, Hooks::Tc, ebpf::Sizes::holding(&table(), FLOWS))
                .map_err(|e| e.to_string())?;
        // A packet under test comes in by lo.
        for name in
            ["net/ipv4/ip_forward", "net/ipv4/conf/lo/forwarding", "net/ipv6/conf/all/forwarding"]
        {
            sysctl::write(name, "1").map_err(|e| e.to_string())?;
        }
        plane.load_xdp().map_err(|e| e.to_string())?;
        plane.apply(&table()).map_err(|e| e.to_string())?;
        let rows = rounds(&plane);
        plane.remove().map_err(|e| e.to_string())?;
        rows
    };
    let rows = b.lab.within("lb1", measure).map_err(|e| e.to_string())??;
    for row in rows {
        let least = row.ns.iter().copied().fold(f64::MAX, f64::min);
        let most = row.ns.iter().copied().fold(f64::MIN, f64::max);
        let middle = median(row.ns);
        let (program, packet) = (row.program, row.packet);
        if json {
            println!(
                "{{\"program\":\"{program}\",\"packet\":\"{packet}\",\"min_ns\":{least:.0},\
                 \"median_ns\":{middle:.0},\"max_ns\":{most:.0}}}"
            );
        } else {
            println!("{program:<17} {packet:<46} {least:>5.0} / {middle:>4.0} / {most:>4.0} ns");
        }
    }
    Ok(())
}
