//! Others' programs on our devices, and objects that the kernel refuses: what is at work goes on.

use std::time::{Duration, Instant};

use nines_dataplane::{
    DataPlane as _, Error,
    ebpf::{self, Hooks, Sizes},
};
use nines_model::{Forward, Proto, Scheduler};

use super::{
    Bench, REDIRECT, bench, bench_on,
    build::*,
    far::{Far, received},
    has_tcx,
    live::{Beside, Says},
    service, table,
};

const FRAMES: usize = 20;
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];

/// Frames for the VIP reach its server, all of them, on the wire.
fn forwards(far: &Far) {
    for n in 0..FRAMES {
        far.send(&tcp(&format!("10.0.0.1:{}", 1_024 + n), "10.0.0.100:80", SYN).bytes());
    }
    far.send(&arp([10, 0, 0, 1], [10, 0, 0, 2]));
    let ends = std::slice::from_ref(far);
    assert_eq!(received(ends, &[SERVER_MAC], FRAMES).len(), FRAMES);
}

/// One service over v0, at work; its neighbours are known.
fn at_work(b: &mut Bench) -> Far {
    super::ip("neigh replace 10.0.0.11 lladdr 02:00:00:00:00:0b dev v0 nud permanent");
    b.plane.on(["v0".to_owned()]);
    b.plane.apply(&one()).unwrap();
    Far::at("v1")
}

fn one() -> nines_model::ForwardingTable {
    let server = [("10.0.0.11:80", Forward::Dr)];
    table(vec![service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &server)])
}

/// Names what was tried, why it did not work, and what to do.
fn is_polite(told: &Error, what: &str, why: &str, next: &str) {
    assert!(told.what.contains(what) && told.why.contains(why), "{told}");
    assert!(told.why.lines().count() <= 4, "no more than a person reads: {told}");
    let step = told.next.as_deref().unwrap_or_default();
    assert!(step.contains(next), "next: {step}");
}

#[test]
fn another_xdp_program_stays_and_is_told_of() {
    let Some(mut b) = bench() else { return };
    let other = Says::on("v0", Says::PASS);
    let far = at_work(&mut b);
    forwards(&far);
    let (mut next, _guard) = ebpf::open(ebpf::object::BYTES, Hooks::Xdp, Sizes::default()).unwrap();
    next.on(["v0".to_owned()]);
    let told = next.apply(&one()).unwrap_err();
    is_polite(&told, "nines_xdp to v0", "another program is on it", "ip link show dev v0");
    let before = other.seen();
    forwards(&far);
    assert!(other.seen() >= before + FRAMES as u64, "the other one is where it was");
    // It leaves, and the kernel takes it off a moment later: the same table has room.
    drop(other);
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(why) = next.apply(&one()) {
        assert!(Instant::now() < until, "{why}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(next.describe().contains("xdp+"), "{}", next.describe());
}

/// On veth nobody tries, whoever is there; told to use tc, XDP of a process before goes.
#[test]
fn xdp_goes_when_tc_is_wanted() {
    let Some(mut b) = bench_on(Hooks::Xdp) else { return };
    let _far = at_work(&mut b);
    assert!(b.plane.describe().starts_with("ebpf, xdp+"), "{}", b.plane.describe());
    let (mut next, _guard) =
        ebpf::open(ebpf::object::BYTES, Hooks::Auto, Sizes::default()).unwrap();
    next.on(["v0".to_owned()]);
    next.apply(&one()).unwrap();
    let told = next.describe();
    assert!(told.ends_with("on v0 (no XDP: veth hands over unfinished packets)"), "{told}");
    let _free = Says::on("v0", Says::PASS);
}

#[test]
fn another_tc_program_sees_what_we_pass() {
    let both = [true, false];
    for tcx in both.into_iter().filter(|tcx| !tcx || has_tcx()) {
        let Some(mut b) = bench() else { return };
        let other = Beside::on("v0", tcx);
        let far = at_work(&mut b);
        let before = other.seen();
        forwards(&far);
        let asked = 1;
        assert_eq!(other.seen() - before, asked, "what we take it does not see");
        let before = before + asked;
        for n in 0..FRAMES {
            far.send(&udp(&format!("10.0.0.1:{}", 1_024 + n), "10.0.0.2:9").bytes());
        }
        assert_eq!(other.seen() - before, FRAMES as u64, "what we pass it does");
        b.plane.remove().unwrap();
        far.send(&udp("10.0.0.1:7", "10.0.0.2:9").bytes());
        assert_eq!(other.seen() - before, FRAMES as u64 + 1, "it stays when we go");
    }
}

/// Where symbol `name` lies in an ELF file (64 bits, little-endian).
fn place_of(object: &[u8], name: &str) -> (usize, usize) {
    let number = |at: usize, len: usize| {
        object[at..at + len].iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte))
    };
    // Elf64_Shdr is 64 bytes: type at 4, offset 24, size 32, link 40. Elf64_Sym is 24: name at 0,
    // section 6, value 8, size 16.
    let section = |i: usize| number(0x28, 8) + 64 * i;
    let offset = |i: usize| number(section(i) + 24, 8);
    const SYMBOLS: usize = 2;
    let symbols = (0..number(0x3c, 2)).find(|i| number(section(*i) + 4, 4) == SYMBOLS).unwrap();
    let names = offset(number(section(symbols) + 40, 4));
    let all = offset(symbols)..offset(symbols) + number(section(symbols) + 32, 8);
    let named = |at: &usize| {
        let from = &object[names + number(*at, 4)..];
        from.starts_with(name.as_bytes()) && from[name.len()] == 0
    };
    let symbol = all.step_by(24).find(named).expect("a program of this name");
    (offset(number(symbol + 6, 2)) + number(symbol + 8, 8), number(symbol + 16, 8))
}

#[test]
fn an_object_that_the_kernel_refuses_leaves_the_old_one_at_work() {
    let Some(mut b) = bench() else { return };
    let far = at_work(&mut b);
    forwards(&far);
    let open = |object: &[u8]| {
        let (mut plane, _guard) = ebpf::open(object, Hooks::Tc, Sizes::default())?;
        plane.on(["v0".to_owned()]);
        plane.apply(&one())
    };
    let whole = ebpf::object::BYTES;
    is_polite(&open(&whole[..whole.len() / 2]).unwrap_err(), "nines", "", "nines");
    // One program of many, the last instruction of which is none.
    for program in ["nines_tc_deliver", "nines_tc_new", "nines_tc_ingress"] {
        let mut refused = whole.to_vec();
        let (at, len) = place_of(whole, program);
        refused[at + len - 8] = 0xff;
        is_polite(&open(&refused).unwrap_err(), program, "", "Linux 6.1");
        forwards(&far);
    }
    assert_eq!(b.tc(&tcp("10.0.0.1:9", "10.0.0.100:80", SYN).bytes()).0, REDIRECT);
    open(whole).unwrap();
}
