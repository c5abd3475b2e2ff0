//! What a packet costs in the XDP program: `cargo xtask bench dataplane`.
//!
//! BPF_PROG_TEST_RUN, hundreds of thousands of runs a sample, behind a wrapper that puts the packet
//! back ([`wrap`]); all rows in turn, round after round, so that noise hits all alike. The empty
//! program shows what the wrapper costs. `--beside NAME=/sys/fs/bpf/PIN` measures any pinned XDP
//! program in the same run: it must serve 10.9.0.100 and fd09::100, port 80, TCP and UDP.
//! `--only WORD`: rows with this word. Needs root.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use nines_dataplane::{
    DataPlane as _,
    ebpf::{
        self, EbpfPlane, Hooks,
        wrap::{self, Wrapper},
    },
    sysctl,
};
use nines_lab::Wire;
use nines_model::{
    Forward, ForwardingTable, Listen, Proto, Scheduler, TableServer, TableService, Traffic, Tunnel,
    TunnelKind,
};

use super::{Bench, median};

const ROUNDS: usize = 7;
const REPEAT: u32 = 300_000;
/// The flow table has room for so many at least.
const FLOWS: u32 = 1_000_000;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Of addresses of services: the last byte of 10.9.0.x and fd09::x.
const DR: u8 = 100;
const IPIP: u8 = 101;
const NAT: u8 = 102;
const FULL: u8 = 103;
const GUE: u8 = 104;
const NOBODY: u8 = 50;

/// What is sent.
#[derive(Clone, Copy)]
struct Kind {
    v6: bool,
    proto: u8,
    flags: u8,
    to: u8,
}

const fn tcp(to: u8) -> Kind {
    Kind { v6: false, proto: 6, flags: ACK, to }
}

impl Kind {
    /// A frame from the first client to port 80, as short as frames are, or a little more.
    fn frame(self) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
        let payload = 24u16;
        let l4 = payload + if self.proto == 6 { 20 } else { 8 };
        if self.v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(l4.to_be_bytes());
            f.extend([self.proto, 64]);
            for last in [[1, 1], [0, self.to]] {
                f.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                f.extend(last);
            }
        } else {
            f.extend([8, 0, 0x45, 0]);
            f.extend((20 + l4).to_be_bytes());
            f.extend([0, 0, 0x40, 0, 64, self.proto, 0, 0, 10, 9, 1, 1, 10, 9, 0, self.to]);
        }
        f.extend([0x10, 0, 0, 80]);
        if self.proto == 6 {
            f.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            f.extend((8 + payload).to_be_bytes());
            f.extend([0, 0]);
        }
        f.extend(std::iter::repeat_n(0, usize::from(payload)));
        f
    }
}

fn table() -> ForwardingTable {
    let mut services = BTreeMap::new();
    let tunnel = |kind| Forward::Tunnel(Tunnel::new(kind));
    for (to, forward) in [
        (DR, Forward::Dr),
        (IPIP, tunnel(TunnelKind::Ipip)),
        (NAT, Forward::Nat),
        (FULL, Forward::FullNat),
        (GUE, tunnel(TunnelKind::Gue)),
    ] {
        for (net, vip) in [("10.9.0.", to.to_string()), ("fd09::", format!("{to:x}"))] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let at = |host: &str| -> SocketAddr {
                    let addr = format!("{net}{host}").parse().expect("an address");
                    SocketAddr::new(addr, 80)
                };
                let listen = Listen::new(at(&vip), proto);
                let mut service = TableService::new(Traffic::To(listen), Scheduler::Maglev);
                let server =
                    |n: u8| (format!("r{n}").into(), TableServer::new(at(&n.to_string()), forward));
                service.servers = (21..25).map(server).collect();
                services.insert(format!("{net}{to} {proto}").into(), service);
            }
        }
    }
    ForwardingTable { services, ..ForwardingTable::default() }
}

/// One line of the table: a program, a packet, how many flows in turn; `begins`: each is new.
struct Row<'a> {
    program: &'a OwnedFd,
    name: String,
    kind: Kind,
    flows: u64,
    begins: bool,
    ns: Vec<f64>,
    verdict: i32,
}

/// The rows that every balancer has.
fn common<'a>(name: &str, program: &'a OwnedFd, to: u8, more: &[u64]) -> Vec<Row<'a>> {
    let row = |packet: &str, kind: Kind, flows: u64, begins: bool| Row {
        program,
        name: format!("{name:<12} {packet}"),
        kind,
        flows,
        begins,
        ns: Vec::new(),
        verdict: 0,
    };
    let (four, six) = (tcp(to), Kind { v6: true, ..tcp(to) });
    let mut rows = vec![row("TCP4", four, 1, false)];
    for flows in more {
        rows.push(row(&format!("TCP4, {flows} flows"), four, *flows, false));
    }
    rows.push(row("TCP4, new flow each", Kind { flags: SYN, ..four }, 1 << 31, true));
    rows.push(row("UDP4", Kind { proto: 17, ..four }, 1, false));
    rows.push(row("TCP6", six, 1, false));
    rows.push(row("TCP6, 100000 flows", six, 100_000, false));
    rows
}

fn rows<'a>(
    ours: &'a OwnedFd,
    empty: &'a OwnedFd,
    beside: &'a [(String, OwnedFd)],
) -> Vec<Row<'a>> {
    let simple = |name: &str, program: &'a OwnedFd, kind: Kind| Row {
        program,
        name: name.to_owned(),
        kind,
        flows: 1,
        begins: false,
        ns: Vec::new(),
        verdict: 0,
    };
    const MANY: [u64; 4] = [1_000, 100_000, 500_000, FLOWS as u64];
    let mut rows = vec![simple("the wrapper and an empty program", empty, tcp(DR))];
    let strangers = |name: &str, program: &'a OwnedFd| {
        [("not a VIP, v4", false), ("not a VIP, v6", true)].map(|(packet, v6)| {
            simple(&format!("{name:<12} {packet}"), program, Kind { v6, ..tcp(NOBODY) })
        })
    };
    rows.extend(strangers("nines", ours));
    rows.extend(common("nines dr", ours, DR, &MANY));
    rows.extend(common("nines ipip", ours, IPIP, &MANY));
    for (name, to) in [("nines nat", NAT), ("nines full", FULL), ("nines gue", GUE)] {
        let kind = Kind { proto: 17, ..tcp(to) };
        rows.push(simple(&format!("{name:<12} UDP4"), ours, kind));
    }
    for (name, program) in beside {
        rows.extend(strangers(name, program));
        rows.extend(common(name, program, DR, &MANY[..3]));
    }
    rows
}

/// Name, samples and verdict of each row.
type Measured = Vec<(String, Vec<f64>, i32)>;

fn measure(
    plane: &EbpfPlane,
    beside: &[(String, OwnedFd)],
    only: &str,
) -> nines_dataplane::Result<Measured> {
    let ours = plane.program("nines_xdp")?;
    let (wrapper, empty) = (Wrapper::new()?, wrap::empty(3)?);
    let mut rows = rows(&ours, &empty, beside);
    rows.retain(|row| row.name.contains(only));
    let mut fresh = u64::from(FLOWS);
    // New flows last: they fill the table, and a full one is another matter.
    let turns = [false, true].map(|begins| (0..=ROUNDS).map(move |round| (begins, round)));
    for (begins, round) in turns.into_iter().flatten() {
        for row in rows.iter_mut().filter(|row| row.begins == begins) {
            let (frame, target) = (row.kind.frame(), row.program.as_fd());
            if !row.begins {
                // Every flow is known, and the caches are as they will be.
                let begin = Kind { flags: SYN, ..row.kind }.frame();
                let flows = row.flows as u32;
                if round == 0 && row.kind.proto == 6 {
                    wrapper.run(target, &begin, (0, row.flows), flows)?;
                }
                wrapper.run(target, &frame, (0, row.flows), flows.max(10_000))?;
            }
            let first = if row.begins { fresh } else { 0 };
            let (ns, verdict) = wrapper.run(target, &frame, (first, row.flows), REPEAT)?;
            fresh += u64::from(if row.begins { REPEAT } else { 0 });
            row.verdict = verdict;
            // The first round warms everything.
            if round > 0 {
                row.ns.push(ns);
            }
        }
    }
    Ok(rows.into_iter().map(|row| (row.name, row.ns, row.verdict)).collect())
}

/// Runs `cargo xtask bench dataplane`. Fails if a part of it does.
pub fn dataplane(words: &[&str]) -> Result<(), String> {
    let json = words.contains(&"json");
    let only = words.windows(2).find(|pair| pair[0] == "--only").map_or("", |pair| pair[1]);
    let beside = words.windows(2).filter(|pair| pair[0] == "--beside").map(|pair| {
        let (name, path) = pair[1].split_once('=').ok_or("--beside NAME=/sys/fs/bpf/PIN")?;
        Ok((name.to_owned(), wrap::pinned(path).map_err(|e| e.to_string())?))
    });
    let beside = beside.collect::<Result<Vec<_>, String>>()?;
    let object = std::env::var_os("NINES_BPF_OBJECT").map(std::fs::read).transpose();
    let object = object.map_err(|e| e.to_string())?;
    let wires = vec![Wire::new("br0", "10.9.0.2/16")];
    let b = Bench::build(BTreeMap::from([("lb1".to_owned(), wires)]))?;
    b.ip("lb1", "addr add fd09::2/64 dev eth0 nodad")?;
    // XDP sends only to neighbours it knows.
    for n in 21..25 {
        for addr in [format!("10.9.0.{n}"), format!("fd09::{n}")] {
            let known =
                format!("neigh add {addr} lladdr 02:00:00:00:00:{n} dev eth0 nud permanent");
            b.ip("lb1", &known)?;
        }
    }
    let inside = || -> Result<_, String> {
        let object = object.as_deref().unwrap_or(ebpf::object::BYTES);
        let sizes = ebpf::Sizes::holding(&table(), FLOWS);
        let (mut plane, _guard) =
            ebpf::open(object, Hooks::Tc, sizes).map_err(|e| e.to_string())?;
        // A packet under test comes in by lo.
        for name in
            ["net/ipv4/ip_forward", "net/ipv4/conf/lo/forwarding", "net/ipv6/conf/all/forwarding"]
        {
            sysctl::write(name, "1").map_err(|e| e.to_string())?;
        }
        plane.load_xdp().map_err(|e| e.to_string())?;
        plane.apply(&table()).map_err(|e| e.to_string())?;
        let rows = measure(&plane, &beside, only);
        plane.remove().map_err(|e| e.to_string())?;
        rows.map_err(|e| e.to_string())
    };
    let rows = b.lab.within("lb1", inside).map_err(|e| e.to_string())??;
    for (name, ns, verdict) in rows {
        let least = ns.iter().copied().fold(f64::MAX, f64::min);
        let most = ns.iter().copied().fold(f64::MIN, f64::max);
        let middle = median(ns);
        let verdict = ["aborted", "drop", "pass", "tx", "redirect"][verdict.clamp(0, 4) as usize];
        if json {
            println!(
                "{{\"row\":\"{name}\",\"verdict\":\"{verdict}\",\"min_ns\":{least:.0},\
                 \"median_ns\":{middle:.0},\"max_ns\":{most:.0}}}"
            );
        } else {
            println!("{name:<36} {verdict:<8} {least:>5.0} / {middle:>4.0} / {most:>4.0} ns");
        }
    }
    Ok(())
}
