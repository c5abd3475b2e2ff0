//! What the kernel walks when the programs are loaded: most of an agent's start.

use super::both_hooks;

/// Instructions of all programs at both hooks, a little above what is on Linux 6.18: a change that
/// makes directors start later is seen. Linux 6.1 walks fewer.
const ALL: u64 = 1_700_000;
/// Of one program: the slowest one is what the start waits for when others are loaded beside it.
const ONE: u64 = 250_000;

#[test]
fn the_kernel_walks_no_more_than_promised() {
    let Some(b) = both_hooks() else { return };
    let mut all = b.plane.verified();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let sum: u64 = all.iter().map(|(_, count)| count).sum();
    assert!(sum > 0, "the kernel says nothing");
    assert!(sum <= ALL && all[0].1 <= ONE, "{sum} instructions: {all:#?}");
}
