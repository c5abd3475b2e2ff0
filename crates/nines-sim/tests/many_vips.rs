//! Worlds with so many VIPs that the contents of a holder's set take several datagrams.

use std::fmt::Write as _;

use nines_model::Millis;
use nines_sim::{Sabotage, Scenario, World, run_world};

/// Addresses that have nothing in common, so that few of them fill a datagram.
fn vips(count: u64) -> String {
    let mut text = String::new();
    for n in 0..count {
        let word = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let group = |at: u32| word.rotate_left(at * 16) & 0xffff;
        let (a, b, c) = (group(0), group(1), group(2));
        let host = n + 1;
        writeln!(text, "[vip.m{n}]\naddress = \"2001:db8:{a:x}:{b:x}:{c:x}::{host:x}\"")
            .expect("strings take everything");
    }
    text
}

#[test]
fn many_vips_are_safe_and_heal() {
    let mut moves = 0;
    for (seed, count) in (0..12).zip([60, 130].into_iter().cycle()) {
        let more = vips(count);
        let mut scenario = Scenario::of_seed(seed);
        scenario.text.push_str(&more);
        scenario.removable.push(more);
        let world = World::of(scenario, seed, Sabotage::None);
        let outcome = run_world(world, Millis(8_000));
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.healed, "seed {seed} did not heal: {outcome:?}");
        moves += outcome.moves;
    }
    assert!(moves > 600, "hardly any VIP moved: {moves}");
}
