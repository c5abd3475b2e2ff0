//! Devices on devices: VLANs, bonds, bridges. Frames on a wire go in tagged as a switch sends them,
//! and what leaves is read at the far end: how many, with which tag, to whom.

use nines_dataplane::{DataPlane as _, Guard as _, ebpf::Hooks, process::boot_time};
use nines_model::{Forward, ForwardingTable, Millis, Proto, Scheduler, TunnelChecksum, TunnelKind};

use super::{
    Bench, bench_on,
    build::*,
    far::{Came, Far, outside, received, tagged},
    service, table,
    ways::tunnel,
};

const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FRAMES: usize = 40;

/// Where clients and servers are, as the director sees them and as the wire does.
struct Wire {
    clients: &'static str,
    servers: &'static str,
    /// Of what clients send and get, and servers.
    tags: [Option<u16>; 2],
    ends: Vec<Far>,
}

/// A namespace with these devices; `None`: this kernel has no such.
fn wired(devices: &[&str]) -> Option<Bench> {
    let b = bench_on(Hooks::Auto)?;
    super::ip("addr flush dev v0");
    for words in devices {
        let made = std::process::Command::new("ip").args(words.split(' ')).status().unwrap();
        if !made.success() {
            let vm = std::env::var_os("NINES_IPVS").is_some();
            assert!(!vm, "the VM's kernel has all devices: ip {words}");
            eprintln!("SKIPPED: this kernel does not know: ip {words}");
            return None;
        }
    }
    for name in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
    }
    outside(&["w1"]);
    Some(b)
}

fn ways() -> ForwardingTable {
    let ipip = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    let to = |vip: &str, server: &str, forward| {
        service(vip, Proto::Tcp, Scheduler::Rr, &[(server, forward)])
    };
    table(vec![
        to("10.1.0.100:80", "10.2.0.11:80", Forward::Dr),
        to("10.1.0.100:81", "10.2.0.11:8081", Forward::Nat),
        to("10.1.0.100:82", "10.2.0.11:82", ipip),
        to("[2001:db8:1::100]:80", "[2001:db8:2::11]:80", Forward::Dr),
    ])
}

/// Addresses, neighbours, programs, tables, a VIP that may be answered for.
fn serves(b: &mut Bench, wire: &Wire, programs: &[&str]) {
    for (device, net, host, mac) in [(wire.clients, 1, "1", "01"), (wire.servers, 2, "11", "0b")] {
        super::ip(&format!("addr add 10.{net}.0.2/24 dev {device}"));
        super::ip(&format!("addr add 2001:db8:{net}::2/64 dev {device} nodad"));
        for host in [format!("10.{net}.0.{host}"), format!("2001:db8:{net}::{host}")] {
            let mac = format!("02:00:00:00:00:{mac}");
            super::ip(&format!("neigh replace {host} lladdr {mac} dev {device} nud permanent"));
        }
    }
    b.plane.on(programs.iter().map(|p| (*p).to_owned()));
    b.plane.apply(&ways()).unwrap();
    let vips = ["10.1.0.100", "2001:db8:1::100"].map(|vip| vip.parse().unwrap());
    b.guard.cover(&vips.map(|vip| (vip, false))).unwrap();
    for vip in vips {
        b.guard.set(vip, boot_time().plus(Millis(3_600_000))).unwrap();
    }
}

/// Asks the director, behind all that was sent.
fn ask(wire: &Wire) {
    wire.ends[0].send(&tagged(wire.tags[0], &arp([10, 1, 0, 1], [10, 1, 0, 2])));
}

/// Sends frames like this one from as many ports; gives the frames that came of it, which should be
/// `enough`.
fn send(
    wire: &Wire,
    tag: Option<u16>,
    frame: &Frame,
    port: impl Fn(&mut Frame, u16),
    enough: usize,
) -> Vec<Came> {
    for n in 0..FRAMES {
        let mut one = frame.clone();
        port(&mut one, 1_024 + n as u16);
        wire.ends[n % wire.ends.len()].send(&tagged(tag, &one.bytes()));
    }
    ask(wire);
    received(&wire.ends, &[CLIENT_MAC, SERVER_MAC], enough)
}

/// All came, each to this neighbour with this tag.
fn all_came(what: &str, came: &[Came], tag: Option<u16>, mac: [u8; 6]) {
    assert_eq!(came.len(), FRAMES, "{what}: as many as were sent");
    for (seen, frame) in came {
        assert_eq!((*seen, &frame[..6]), (tag, &mac[..]), "{what}: tag and receiver");
        assert_eq!(frame[6..12], OWN_MAC, "{what}: sender");
    }
}

/// Every way to a server and back, over this wire.
fn forwards(b: &mut Bench, wire: &Wire) {
    let [outside, inside] = wire.tags;
    let client = |frame: &mut Frame, port| frame.src.1 = port;
    let counted = |b: &mut Bench, name: &str| b.plane.counters().unwrap().services[name].packets_in;
    for (name, from, vip, server) in [
        ("s0", "10.1.0.1:1", "10.1.0.100:80", "10.1.0.100:80"),
        ("s1", "10.1.0.1:1", "10.1.0.100:81", "10.2.0.11:8081"),
        ("s2", "10.1.0.1:1", "10.1.0.100:82", "10.1.0.100:82"),
        ("s3", "[2001:db8:1::1]:1", "[2001:db8:1::100]:80", "[2001:db8:1::100]:80"),
    ] {
        let what = format!("{} to {}, {vip}", wire.clients, wire.servers);
        let before = counted(b, name);
        let came = send(wire, outside, &tcp(from, vip, SYN), client, FRAMES);
        all_came(&what, &came, inside, SERVER_MAC);
        assert_eq!(counted(b, name) - before, FRAMES as u64, "{what}: counted once each");
        for (_, frame) in came {
            let inner = if name == "s2" {
                let (outer, inner) = unwrap(&frame);
                let ends = [outer.src, outer.dst].map(|a| a.to_string());
                assert_eq!(ends, ["10.2.0.2", "10.2.0.11"], "{what}");
                inner
            } else {
                frame
            };
            let (src, dst, ttl) = read(&inner);
            assert_eq!((src.0, dst, ttl), (at(from).0, at(server), 63), "{what}");
        }
    }
    // Answers of the server behind NAT.
    let what = format!("{} to {}, answers", wire.servers, wire.clients);
    let answer = Frame { mac: SERVER_MAC, ..tcp("10.2.0.11:8081", "10.1.0.1:1", SYN | ACK) };
    let came = send(wire, inside, &answer, |frame, port| frame.dst.1 = port, FRAMES);
    all_came(&what, &came, outside, CLIENT_MAC);
    for (_, frame) in came {
        let (src, dst, ttl) = read(&frame);
        assert_eq!((src, dst.0, ttl), (at("10.1.0.100:81"), at("10.1.0.1:1").0, 63), "{what}");
    }
}

const VLANS: [&str; 4] = [
    "link add link v0 name v0.10 type vlan id 10",
    "link add link v0 name v0.20 type vlan id 20",
    "link set v0.10 up",
    "link set v0.20 up",
];

#[test]
fn from_vlan_to_vlan() {
    for programs in [&["v0.10"][..], &["v0", "v0.10"]] {
        let Some(mut b) = wired(&VLANS) else { return };
        let tags = [Some(10), Some(20)];
        let wire = Wire { clients: "v0.10", servers: "v0.20", tags, ends: vec![Far::at("v1")] };
        serves(&mut b, &wire, programs);
        let told = b.plane.describe();
        assert!(told.contains("on v0.10, v0.20 (no XDP: a VLAN device)"), "{told}");
        forwards(&mut b, &wire);
    }
}

/// With programs on the device below, too, where frames pass first.
#[test]
fn from_vlan_to_no_vlan_and_back() {
    let tags = [Some(10), Some(20)];
    for (clients, servers, tags) in
        [("v0.10", "v0", [tags[0], None]), ("v0", "v0.20", [None, tags[1]])]
    {
        let Some(mut b) = wired(&VLANS) else { return };
        let wire = Wire { clients, servers, tags, ends: vec![Far::at("v1")] };
        serves(&mut b, &wire, &[clients]);
        forwards(&mut b, &wire);
    }
}

#[test]
fn a_vlan_that_the_director_is_not_in_stays_outside_and_a_priority_is_no_vlan() {
    let Some(mut b) = wired(&VLANS) else { return };
    let tags = [None, Some(20)];
    let wire = Wire { clients: "v0", servers: "v0.20", tags, ends: vec![Far::at("v1")] };
    serves(&mut b, &wire, &["v0"]);
    let client = |frame: &mut Frame, port| frame.src.1 = port;
    let begins = tcp("10.1.0.1:1", "10.1.0.100:80", SYN);
    let none: Vec<Came> = send(&wire, Some(30), &begins, client, 0);
    assert_eq!(none, [], "VLAN 30 ends on the wire");
    // Priority 5, VLAN 0 (IEEE 802.1Q clause 9.6).
    let came = send(&wire, Some(5 << 13), &begins, client, FRAMES);
    all_came("priority", &came, Some(20), SERVER_MAC);
    let answer = Frame { mac: SERVER_MAC, ..tcp("10.2.0.11:8081", "10.1.0.1:1", SYN | ACK) };
    send(&wire, Some(5 << 13), &tcp("10.1.0.1:1", "10.1.0.100:81", SYN), client, FRAMES);
    let came = send(&wire, Some(20), &answer, |frame, port| frame.dst.1 = port, FRAMES);
    all_came("answers to it", &came, None, CLIENT_MAC);
}

#[test]
fn past_its_deadline_an_address_is_silent_in_its_vlan() {
    let mut devices = VLANS.to_vec();
    devices.push("link add link v0 name v0.40 type vlan id 40 reorder_hdr off");
    devices.push("link set v0.40 up");
    let Some(mut b) = wired(&devices) else { return };
    let tags = [Some(10), Some(20)];
    let wire = Wire { clients: "v0.10", servers: "v0.20", tags, ends: vec![Far::at("v1")] };
    serves(&mut b, &wire, &["v0.10", "v0.40"]);
    let (plain, inside) = (Far::at("v0.10"), Far::at("v0.40"));
    let claims = |enough| {
        let claim = arp([10, 1, 0, 100], [10, 1, 0, 100]);
        plain.send(&claim);
        // As a device sends that leaves tags in frames.
        inside.send(&tagged(Some(40), &claim));
        ask(&wire);
        let mut came = received(&wire.ends, &[[0xff; 6]], enough);
        came.retain(|(_, frame)| frame[12..14] == [8, 6] && frame[28..32] == [10, 1, 0, 100]);
        came.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>()
    };
    let begins = |b: &mut Bench, enough| {
        let syn = tcp("10.1.0.1:1", "10.1.0.100:80", SYN);
        let before = b.plane.counters().unwrap().drops["guard"];
        let came = send(&wire, Some(10), &syn, |frame, port| frame.src.1 = port, enough);
        (came.len(), b.plane.counters().unwrap().drops["guard"] - before)
    };
    assert_eq!(claims(2), [Some(10), Some(40)]);
    assert_eq!(begins(&mut b, FRAMES), (FRAMES, 0));
    b.guard.set("10.1.0.100".parse().unwrap(), boot_time()).unwrap();
    assert_eq!(claims(0), []);
    assert_eq!(begins(&mut b, 0), (0, FRAMES as u64));
}

const BOND: [&str; 9] = [
    "link add w0 type veth peer name w1",
    "link set w1 up",
    "link set v0 down",
    "link add bond0 type bond mode balance-rr miimon 100",
    "link set v0 master bond0",
    "link set w0 master bond0",
    "link set bond0 address 02:00:00:00:00:09",
    "link set bond0 up",
    "link set v1 up",
];

#[test]
fn over_a_bond() {
    let Some(mut b) = wired(&BOND) else { return };
    let ends = vec![Far::at("v1"), Far::at("w1")];
    let wire = Wire { clients: "bond0", servers: "bond0", tags: [None, None], ends };
    serves(&mut b, &wire, &["bond0"]);
    let told = b.plane.describe();
    assert!(told.contains("on bond0 (no XDP: a bond device)"), "{told}");
    forwards(&mut b, &wire);
}

#[test]
fn over_vlans_on_a_bond() {
    let vlans = VLANS.map(|words| words.replace("v0", "bond0"));
    let devices: Vec<&str> = BOND.into_iter().chain(vlans.iter().map(String::as_str)).collect();
    let Some(mut b) = wired(&devices) else { return };
    let ends = vec![Far::at("v1"), Far::at("w1")];
    let tags = [Some(10), Some(20)];
    let wire = Wire { clients: "bond0.10", servers: "bond0.20", tags, ends };
    serves(&mut b, &wire, &["bond0", "bond0.10"]);
    forwards(&mut b, &wire);
}

#[test]
fn over_a_bridge() {
    let devices = [
        "link add br0 address 02:00:00:00:00:09 type bridge",
        "link set v0 master br0",
        "link set br0 up",
    ];
    let Some(mut b) = wired(&devices) else { return };
    let wire =
        Wire { clients: "br0", servers: "br0", tags: [None, None], ends: vec![Far::at("v1")] };
    serves(&mut b, &wire, &["br0"]);
    let told = b.plane.describe();
    assert!(told.contains("on br0 (no XDP: a bridge device)"), "{told}");
    forwards(&mut b, &wire);
}
