//! Links between machines: what is cut, lost, late or sent twice.

use nines_core::Event;

use super::{Happening, Sabotage, World};

/// Slowest message that is not lost.
pub const DELAY_MAX_NS: u64 = 30_000_000;

impl World {
    /// Nothing passes from one to the other; `both`: nor back.
    pub fn cut(&mut self, from: u64, to: u64, both: bool) {
        self.cut.insert((from, to));
        if both {
            self.cut.insert((to, from));
        }
    }

    /// All links work again.
    pub fn mend_all_links(&mut self) {
        self.cut.clear();
    }

    pub(super) fn send(&mut self, from: u64, to: u64, mut bytes: Vec<u8>) {
        if self.sabotage == Sabotage::SetsMisread {
            self.misread(&mut bytes);
        }
        self.as_sent(from, &mut bytes);
        let there = self.machines.iter().filter(|(_, m)| m.identity == to);
        let there = there.map(|(machine, _)| *machine);
        let there: Vec<u64> = there.filter(|m| !self.cut.contains(&(from, *m))).collect();
        for machine in there {
            self.send_to(from, machine, &bytes);
        }
    }

    fn send_to(&mut self, from: u64, to: u64, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.as_received(to, &mut bytes);
        let identity = self.machines[&from].identity;
        let copies = 1 + u64::from(self.random.chance(10));
        for _ in 0..copies {
            if self.random.chance(self.loss_permille) {
                continue;
            }
            // Mostly under a millisecond, sometimes late enough to be overtaken.
            let late = if self.random.chance(20) { DELAY_MAX_NS } else { 1_000_000 };
            let delay = 50_000 + self.random.below(late - 50_000);
            let event = Event::Frame { from: identity, link: 0, bytes: bytes.clone() };
            self.schedule(delay, to, Happening::Deliver(event));
        }
    }
}
