//! A node whose clock runs at another rate than those of most others.
//!
//! Leases rest on clocks that run at nearly the same rate. A node that differs from most by more
//! than the lease rule allows holds no VIP and renews none, until it does no more. Of two nodes
//! nobody knows which one is wrong: both say so.
//!
//! Decides: whether this node's clock is wrong, and what it gives up then.

use nines_model::{Millis, NodeId, Time};

use super::Node;
use crate::{
    event_log::EventKind,
    membership::clock::{Ppm, RATE_MAX, ahead_of_most},
};

/// How often the rates are compared.
const COMPARED_EVERY: Millis = Millis(1_000);

/// What this node knows of its own clock.
#[derive(Default)]
pub(super) struct OwnClock {
    next: Time,
    /// By how much it runs faster than those of most, if that is too much.
    off: Option<Ppm>,
    /// By how much it runs faster than that of the only peer, if that is too much.
    differs: Option<(NodeId, Ppm)>,
}

/// "5.0 % faster", "0.5 % slower".
fn in_words(ppm: Ppm) -> String {
    let than = if ppm > 0 { "faster" } else { "slower" };
    format!("{:.1} % {than}", ppm.abs() as f64 / 10_000.0)
}

impl Node {
    /// Whether the clock of this node runs at another rate than those of most others.
    pub fn clock_is_off(&self) -> bool {
        self.clock.off.is_some()
    }

    /// What is wrong with the clock of a member, in words, as far as it says so.
    pub fn clock_trouble(&self, id: NodeId) -> Option<String> {
        let peer = self.membership.peer(id).map_or(0, |peer| peer.beat.clock_ppm);
        let off = if id == self.config.id { self.clock.off } else { Some(peer) };
        let off = off.filter(|ppm| *ppm != 0);
        let with = self.clock.differs.filter(|(other, _)| *other == id);
        if let Some(ppm) = off {
            let how = in_words(ppm);
            return Some(format!(
                "its clock runs {how} than those of most: it holds no VIP and renews none"
            ));
        }
        with.map(|(_, ppm)| {
            let how = in_words(-ppm);
            format!("its clock runs {how} than this node's: no lease is safe between the two")
        })
    }

    /// What heartbeats say of this node's clock; 0: nothing is wrong.
    pub(super) fn clock_ppm(&self) -> Ppm {
        self.clock.off.unwrap_or(0)
    }

    /// Compares the rates of all clocks.
    pub(super) fn compare_clocks(&mut self, now: Time) {
        if now < self.clock.next {
            return;
        }
        self.clock.next = now.plus(COMPARED_EVERY);
        let members = self.state.members.keys().filter(|id| **id != self.config.id);
        let known = members.filter_map(|id| Some((*id, self.membership.peer(*id)?.clock_ahead()?)));
        let known: Vec<(NodeId, Ppm)> = known.collect();
        let ahead = ahead_of_most(known.iter().map(|(_, ppm)| *ppm));
        let too_much = |ppm: &Ppm| ppm.abs() > RATE_MAX;
        self.clock.differs = match known.as_slice() {
            [(other, ppm)] if ahead.is_none() && too_much(ppm) => Some((*other, *ppm)),
            _ => None,
        };
        let off = ahead.filter(too_much);
        let (was, is) = (self.clock.off.is_some(), off.is_some());
        self.clock.off = off;
        self.voter.may_renew(!is);
        if was == is {
            return;
        }
        self.all_vips_changed();
        self.mail.beat_next(now);
        let me = self.config.name.to_string();
        let text = match off {
            Some(ppm) => format!(
                "the clock of {me} runs {} than those of most: it holds no VIP and renews none",
                in_words(ppm)
            ),
            None => format!("the clock of {me} runs like those of most again"),
        };
        self.record_event(now, EventKind::Note, me, text, "auto", String::new());
    }
}
