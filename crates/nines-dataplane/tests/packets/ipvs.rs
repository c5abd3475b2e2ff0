//! Kernel IPVS: our back end for it, and both of them side by side. Only where the kernel has it
//! (Debian 12's own does, in the VM); elsewhere these tests say so.

use std::{collections::BTreeMap, process::Command, time::Duration};

use nines_dataplane::{
    DataPlane, Guard as _,
    director::{Director, ipvs_carries},
    ebpf::{self, EbpfGuard, Hooks, Sizes},
    ipvs::{IpvsPlane, Kernel},
    process::boot_time,
};
use nines_model::{
    Backend, Forward, ForwardingTable, Limit, Millis, Persist, Proto, Scheduler, ServerState,
    TableServer, TableService, Time, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{Bench, NEXT, REDIRECT, bench, build::*, service, table, web};

/// Frames put on the far end of a veth pair of their own: no program is on it.
pub struct Wire(i32);

impl Wire {
    pub fn open() -> Self {
        // SAFETY: plain arguments; the name is NUL-terminated.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            let mut at: libc::sockaddr_ll = std::mem::zeroed();
            at.sll_family = libc::AF_PACKET as u16;
            at.sll_ifindex = libc::if_nametoindex(c"w1".as_ptr()) as i32;
            let size = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd, (&raw const at).cast(), size), 0);
            Self(fd)
        }
    }

    pub fn put(&self, frame: &[u8]) {
        // SAFETY: a live buffer.
        let sent = unsafe { libc::send(self.0, frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // SAFETY: ours, and not used again.
        unsafe { libc::close(self.0) };
    }
}

/// For the near end of the wire.
pub fn to_w0(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    bytes
}

/// The kernel's IPVS, or a word about why not.
pub fn kernel() -> Option<Kernel> {
    match Kernel::open() {
        Ok(kernel) => Some(kernel),
        Err(why) => {
            assert!(std::env::var_os("NINES_IPVS").is_none(), "{why}");
            assert!(why.next.as_deref().is_some_and(|n| n.contains("modprobe ip_vs")));
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

pub fn run(words: &str) {
    let all: Vec<&str> = words.split(' ').collect();
    assert!(Command::new(all[0]).args(&all[1..]).status().unwrap().success(), "{words}");
}

/// Both back ends in one namespace: packets for the programs go through BPF_PROG_TEST_RUN, those
/// for IPVS over the wire.
struct Both {
    ours: Bench,
    ipvs: IpvsPlane<Kernel>,
    wire: Wire,
}

fn both() -> Option<Both> {
    let mut ours = bench()?;
    let ipvs = IpvsPlane::over(kernel()?);
    // Programs are put on now: later interfaces are IPVS's alone until somebody looks again.
    let server = [("10.0.0.11:9", Forward::Dr)];
    let other = service("10.0.0.77:9", Proto::Udp, Scheduler::Maglev, &server);
    ours.plane.apply(&table(vec![other])).unwrap();
    run("ip link add w0 address 02:00:00:00:00:99 type veth peer name w1");
    run("ip link set w0 up");
    run("ip link set w1 up");
    run("ip addr add 10.0.0.100/32 dev v0");
    for host in 11..19 {
        let lladdr = format!("02:00:00:00:00:{host}");
        run(&format!("ip neigh add 10.0.0.{host} lladdr {lladdr} dev v0 nud permanent"));
    }
    for path in ["all/rp_filter", "w0/rp_filter"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{path}"), "0").unwrap();
    }
    Some(Both { ours, ipvs, wire: Wire::open() })
}

/// Connections by server, ended ones included (none is idle too long here). IPVS sums up those made
/// every two seconds only.
fn made(plane: &mut dyn DataPlane) -> BTreeMap<String, u64> {
    let servers = plane.counters().unwrap().servers;
    servers
        .into_iter()
        .map(|(server, tally)| (server.to_string(), tally.active + tally.inactive))
        .collect()
}

fn who(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Option<String> {
    after.iter().find(|(name, n)| before.get(*name) != Some(n)).map(|(name, _)| name.clone())
}

impl Both {
    fn apply(&mut self, table: &ForwardingTable) {
        self.ours.plane.apply(table).unwrap();
        self.ipvs.apply(table).unwrap();
        assert_eq!(self.ipvs.observe().unwrap(), Vec::<String>::new());
    }

    fn put(&self, frame: &Frame) {
        self.wire.put(&to_w0(frame));
    }

    /// Who gets a packet that may begin a connection, here and there.
    fn picks(&mut self, frame: &Frame) -> (String, String) {
        let nobody = || "nobody".to_owned();
        let before = made(&mut self.ours.plane);
        self.ours.tc(&frame.bytes());
        let here = who(&before, &made(&mut self.ours.plane)).unwrap_or_else(nobody);
        let before = made(&mut self.ipvs);
        self.put(frame);
        let mut there = None;
        // The stack takes the packet at once, or a moment later on another processor.
        for _ in 0..if here == "nobody" { 3 } else { 200 } {
            there = who(&before, &made(&mut self.ipvs));
            if there.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (here, there.unwrap_or_else(nobody))
    }

    fn both_take(&self, frame: &Frame) {
        self.ours.tc(&frame.bytes());
        self.put(frame);
    }
}

fn pool(port: u16, scheduler: Scheduler, dice: &mut Dice) -> TableService {
    let servers: Vec<(String, Forward)> =
        (0..2 + dice.roll(4)).map(|i| (format!("10.0.0.{}:{port}", 11 + i), Forward::Dr)).collect();
    let named: Vec<(&str, Forward)> = servers.iter().map(|(s, f)| (s.as_str(), *f)).collect();
    let mut pool = service(&format!("10.0.0.100:{port}"), Proto::Tcp, scheduler, &named);
    for server in pool.servers.values_mut() {
        server.weight = 1 + dice.roll(5) as u32;
    }
    pool
}

/// New connections, ends of old ones, weights that change, in the same order on both.
fn same_picks(both: &mut Both, port: u16, scheduler: Scheduler, dice: &mut Dice) {
    let mut pool = pool(port, scheduler, dice);
    if matches!(scheduler, Scheduler::Sh | Scheduler::Mh) {
        pool.flags.port = dice.roll(2) == 1;
        pool.flags.fallback = dice.roll(2) == 1;
    }
    both.apply(&table(vec![pool.clone()]));
    let mut open: Vec<Frame> = Vec::new();
    let mut story = format!("{scheduler} {:?}\n", pool.flags);
    for step in 0..60u16 {
        match dice.roll(10) {
            0..7 => {
                let client = format!("10.0.0.{}:{}", 30 + dice.roll(40), 1_000 + step);
                let syn = tcp(&client, &format!("10.0.0.100:{port}"), SYN);
                let (here, there) = both.picks(&syn);
                story += &format!("{client} -> {here}, {there}\n");
                assert_eq!(here, there, "\n{story}");
                // What nobody took may be taken up in its middle by us, never by IPVS.
                if here != "nobody" {
                    let ack = Frame { flags: ACK, ..syn };
                    both.both_take(&ack);
                    open.push(ack);
                }
            }
            7..9 if !open.is_empty() => {
                let at = dice.roll(open.len() as u64) as usize;
                let fin = Frame { flags: FIN | ACK, ..open.swap_remove(at) };
                both.both_take(&fin);
                story += "one ends\n";
            }
            _ => {
                let at = dice.roll(pool.servers.len() as u64) as usize;
                let server = pool.servers.values_mut().nth(at).unwrap();
                server.weight = dice.roll(5) as u32;
                story += &format!("weight {at} = {}\n", server.weight);
                both.apply(&table(vec![pool.clone()]));
            }
        }
    }
}

macro_rules! side_by_side {
    ($($name:ident: $scheduler:expr;)*) => {$(
        #[test]
        fn $name() {
            let Some(mut both) = both() else { return };
            for seed in 0..4 {
                same_picks(&mut both, 80 + seed as u16, $scheduler, &mut Dice(seed));
            }
            both.ipvs.remove().unwrap();
        }
    )*};
}

side_by_side! {
    ipvs_and_we_pick_the_same_by_rr: Scheduler::Rr;
    ipvs_and_we_pick_the_same_by_wrr: Scheduler::Wrr;
    ipvs_and_we_pick_the_same_by_lc: Scheduler::Lc;
    ipvs_and_we_pick_the_same_by_wlc: Scheduler::Wlc;
    ipvs_and_we_pick_the_same_by_sed: Scheduler::Sed;
    ipvs_and_we_pick_the_same_by_nq: Scheduler::Nq;
    ipvs_and_we_pick_the_same_by_fo: Scheduler::Fo;
    ipvs_and_we_pick_the_same_by_ovf: Scheduler::Ovf;
    ipvs_and_we_pick_the_same_by_sh: Scheduler::Sh;
    ipvs_and_we_pick_the_same_by_dh: Scheduler::Dh;
    ipvs_and_we_pick_the_same_by_mh: Scheduler::Mh;
    ipvs_and_we_pick_the_same_by_lblc: Scheduler::Lblc;
    ipvs_and_we_pick_the_same_by_lblcr: Scheduler::Lblcr;
}

#[test]
fn ipvs_and_we_keep_clients_and_thresholds_alike() {
    let Some(mut both) = both() else { return };
    let mut dice = Dice(7);
    let mut pool = pool(90, Scheduler::Wlc, &mut dice);
    pool.persist = Some(Persist { time: Millis(300_000), prefix: 28 });
    let mut limited = super::ipvs::pool(91, Scheduler::Wrr, &mut dice);
    for server in limited.servers.values_mut() {
        server.limit = Limit { upper: 4, lower: 0 };
    }
    both.apply(&table(vec![pool, limited]));
    for port in [90, 91] {
        for n in 0..40u16 {
            let client = format!("10.0.0.{}:{}", 30 + dice.roll(60), 2_000 + n);
            let (here, there) = both.picks(&tcp(&client, &format!("10.0.0.100:{port}"), SYN));
            assert_eq!(here, there, "{client} to {port}, {n}");
        }
    }
    both.ipvs.remove().unwrap();
}

#[test]
fn ipvs_holds_every_kind_of_table_and_nothing_after() {
    let Some(mut both) = both() else { return };
    let tunnel =
        |kind, port| Forward::Tunnel(Tunnel { kind, port, checksum: TunnelChecksum::None });
    let four = [
        ("10.0.0.11:80", Forward::Dr),
        ("10.0.0.12:8080", Forward::Nat),
        ("10.0.0.13:80", tunnel(TunnelKind::Ipip, 0)),
        ("[2001:db8::14]:80", tunnel(TunnelKind::Gue, 6080)),
        ("10.0.0.15:80", tunnel(TunnelKind::Gre, 0)),
    ];
    let mut web = service("10.0.0.100:80", Proto::Tcp, Scheduler::Maglev, &four);
    web.servers.get_mut("r1").unwrap().limit = Limit { upper: 9, lower: 3 };
    let mut dns =
        service("10.0.0.100:53", Proto::Udp, Scheduler::Rr, &[("10.0.0.11:53", Forward::Dr)]);
    dns.one_packet = true;
    let mut six = service(
        "[2001:db8::100]:80",
        Proto::Tcp,
        Scheduler::Wlc,
        &[("[2001:db8::11]:80", Forward::Nat)],
    );
    six.persist = Some(Persist { time: Millis(60_000), prefix: 64 });
    let sctp =
        service("10.0.0.100:80", Proto::Sctp, Scheduler::Sh, &[("10.0.0.11:80", Forward::Dr)]);
    let mut all = table(vec![web, dns, six, sctp]);
    both.ipvs.apply(&all).unwrap();
    assert_eq!(both.ipvs.observe().unwrap(), Vec::<String>::new());

    // Somebody else's hand is seen, and taken back.
    let mut other = IpvsPlane::open().unwrap();
    other.apply(&table(vec![all.services["s1"].clone()])).unwrap();
    let told = both.ipvs.observe().unwrap();
    assert!(told.iter().any(|t| t.contains("[2001:db8::100]:80/tcp was gone")), "{told:?}");
    both.ipvs.apply(&all).unwrap();
    assert_eq!(both.ipvs.observe().unwrap(), Vec::<String>::new());

    // A server that changes its way keeps its place; one that fails takes no new connection.
    let servers = &mut all.services.get_mut("s0").unwrap().servers;
    servers.get_mut("r1").unwrap().forward = Forward::Nat;
    servers.get_mut("r2").unwrap().state = ServerState::Down;
    servers.remove("r5");
    let added = "10.0.0.16:80".parse().unwrap();
    servers.insert("r6".into(), TableServer::new(added, Forward::Dr));
    both.ipvs.apply(&all).unwrap();
    assert_eq!(both.ipvs.observe().unwrap(), Vec::<String>::new());

    // It tells others of connections, but not with a server of another family.
    assert!(both.ipvs.synchronise(Some("v0")).is_err());
    all.services.get_mut("s0").unwrap().servers.remove("r4");
    both.ipvs.apply(&all).unwrap();
    both.ipvs.synchronise(Some("v0")).unwrap();
    both.ipvs.synchronise(Some("v0")).unwrap();
    both.ipvs.synchronise(None).unwrap();
    both.ipvs.remove().unwrap();
    assert!(!ipvs_lists().contains("TCP"), "{}", ipvs_lists());
}

fn ipvs_lists() -> String {
    std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap()
}

/// A director over the tables of this namespace, as each incarnation of an agent opens them.
fn director() -> (Director, EbpfGuard) {
    let (plane, guard) = ebpf::open(ebpf::object::BYTES, Hooks::Tc, Sizes::default()).unwrap();
    let mut director = Director::new(plane);
    director.ebpf().on(["w0".to_owned()]);
    (director, guard)
}

fn verdict(director: &mut Director, frame: &Frame) -> i32 {
    director.ebpf().test_run("nines_tc_ingress", &frame.bytes(), 1).unwrap().verdict
}

#[test]
fn a_director_switches_to_ipvs_under_its_guard_and_back() {
    let Some(both) = both() else { return };
    let (mut one, mut guard) = director();
    let vip = "10.0.0.100".parse().unwrap();
    guard.cover(&[(vip, false)]).unwrap();
    guard.set(vip, boot_time().plus(Millis(60_000))).unwrap();
    let ours = web(Scheduler::Rr);
    let theirs = ForwardingTable { backend: Backend::Ipvs, ..ours.clone() };
    let syn = |port: u16| tcp(&format!("10.0.0.30:{port}"), "10.0.0.100:80", SYN);
    one.apply(&ours).unwrap();
    assert_eq!(verdict(&mut one, &syn(1)), REDIRECT);
    assert!(!ipvs_lists().contains("TCP"));
    assert!(!ipvs_carries());

    one.apply(&theirs).unwrap();
    assert!(ipvs_carries());
    assert_eq!(one.observe().unwrap(), Vec::<String>::new());
    assert_eq!(verdict(&mut one, &syn(2)), NEXT, "to the stack, where IPVS is");
    let taken = |director: &mut Director| made(director).values().sum::<u64>();
    let arrives = |director: &mut Director, port| {
        let before = taken(director);
        both.put(&syn(port));
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            taken(director) > before
        })
    };
    assert!(arrives(&mut one, 3));
    guard.set(vip, Time(7)).unwrap();
    assert!(!arrives(&mut one, 4), "past its deadline the guard drops it before IPVS");
    guard.set(vip, boot_time().plus(Millis(60_000))).unwrap();
    assert!(arrives(&mut one, 5));

    // The process dies; the config says something else when the next one starts.
    drop(one);
    assert!(ipvs_lists().contains("TCP"), "the kernel goes on without it");
    assert!(ipvs_carries());
    let (mut next, _guard) = director();
    next.apply(&ours).unwrap();
    assert_eq!(verdict(&mut next, &syn(6)), REDIRECT);
    assert!(!ipvs_carries());
    assert!(!ipvs_lists().contains("TCP"), "{}", ipvs_lists());
    next.apply(&theirs).unwrap();
    next.remove().unwrap();
    assert!(!ipvs_lists().contains("TCP"), "{}", ipvs_lists());
}

/// Everywhere: this kernel need not have IPVS.
#[test]
fn without_ipvs_the_programs_forward_and_say_so() {
    let Some(_bench) = bench() else { return };
    if IpvsPlane::open().is_ok() {
        return;
    }
    let (plane, _guard) = ebpf::open(ebpf::object::BYTES, Hooks::Tc, Sizes::default()).unwrap();
    let mut director = Director::new(plane);
    let mut table = ForwardingTable { backend: Backend::Ipvs, ..web(Scheduler::Rr) };
    director.apply(&table).unwrap();
    let why = director.trouble().unwrap();
    assert!(why.to_string().contains("this kernel has no IPVS"), "{why}");
    assert_eq!(director.observe().unwrap(), Vec::<String>::new(), "nothing to try again");
    let syn = tcp("10.0.0.30:1", "10.0.0.100:80", SYN);
    assert_eq!(verdict(&mut director, &syn), REDIRECT);
    for server in table.services.get_mut("s0").unwrap().servers.values_mut() {
        server.state = ServerState::Down;
    }
    director.apply(&table).unwrap();
    verdict(&mut director, &tcp("10.0.0.30:2", "10.0.0.100:80", SYN));
    assert_eq!(director.counters().unwrap().drops["no-server"], 1);
    table.backend = Backend::Ebpf;
    director.apply(&table).unwrap();
    assert!(director.trouble().is_none());
}
