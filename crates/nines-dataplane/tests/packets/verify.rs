//! What the kernel walks when the programs are loaded: most of an agent's start.

use nines_dataplane::{
    DataPlane as _,
    ebpf::{self, EbpfPlane, Hooks, Sizes},
};
use nines_model::{Forward, Proto, Scheduler};

use super::{bench, both_hooks, service, table, web};

/// Instructions of what a director with one service of this kind loads at tc, a little above the
/// larger count of Linux 6.1 and 6.18: the test finds a change that makes directors start later.
const STARTS: [(Forward, u64); 3] =
    [(Forward::Dr, 360_000), (Forward::Nat, 545_000), (Forward::FullNat, 430_000)];
/// Of one program: the slowest one is what the start waits for when others are loaded beside it.
const ONE: u64 = 250_000;
/// Of all programs at both hooks, which no director has all of.
const ALL: u64 = 1_750_000;

#[test]
fn the_kernel_walks_no_more_than_promised() {
    for (forward, most) in STARTS {
        let Some(mut b) = bench() else { return };
        let servers = [("10.0.0.11:80", forward)];
        let web = service("10.0.0.100:80", Proto::Tcp, Scheduler::Maglev, &servers);
        b.plane.apply(&table(vec![web])).unwrap();
        let all = b.plane.verified();
        let sum: u64 = all.iter().map(|(_, count)| count).sum();
        assert!((1..=most).contains(&sum), "{forward}: {sum} instructions: {all:#?}");
    }
    let Some(mut b) = both_hooks() else { return };
    b.plane.load_everything().unwrap();
    let mut all = b.plane.verified();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let sum: u64 = all.iter().map(|(_, count)| count).sum();
    assert!(sum <= ALL && all[0].1 <= ONE, "{sum} instructions: {all:#?}");
}

fn loaded(plane: &EbpfPlane) -> Vec<String> {
    plane.verified().into_iter().map(|(name, _)| name).collect()
}

/// What no service asks for is not loaded, at either hook, and comes with the first that does.
#[test]
fn a_program_waits_for_a_service_that_needs_it() {
    let Some(mut b) = both_hooks() else { return };
    let of_full_nat =
        ["nines_tc_full_nat", "nines_xdp_full_nat", "nines_tc_insert_reply"].map(String::from);
    let has = |plane: &EbpfPlane| of_full_nat.iter().filter(|n| loaded(plane).contains(n)).count();
    b.plane.apply(&web(Scheduler::Maglev)).unwrap();
    let few = loaded(&b.plane);
    assert_eq!(has(&b.plane), 0, "{few:?}");
    let full =
        service("10.0.0.100:80", Proto::Tcp, Scheduler::Lc, &[("10.0.0.11:80", Forward::FullNat)]);
    assert!(!ebpf::suffice(&table(vec![full.clone()])).unwrap());
    b.plane.apply(&table(vec![full.clone()])).unwrap();
    assert_eq!(has(&b.plane), of_full_nat.len());
    assert!(ebpf::suffice(&table(vec![full])).unwrap());
    b.plane.load_everything().unwrap();
    assert!(loaded(&b.plane).len() > few.len() + 20);

    // The next process replaces what is at work, and no more, before it has a table.
    let open = || {
        let (mut plane, _) = ebpf::open(ebpf::object::BYTES, Hooks::Tc, Sizes::default()).unwrap();
        assert_eq!(loaded(&plane).len(), 0, "nobody waits for programs to open the tables");
        plane.provide(&table(Vec::new())).unwrap();
        plane
    };
    let all = loaded(&b.plane).iter().filter(|name| name.starts_with("nines_tc_")).count();
    assert_eq!(loaded(&open()).len(), all);
    b.plane.remove().unwrap();
    assert!(loaded(&open()).len() < few.len());
}
