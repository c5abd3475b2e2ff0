//! Fencing: when the leader has a node switched off, and what this node's devices are asked.
//!
//! ```text
//! leader                                     the node that the order names
//!   what lb1 held was given to others
//!   without its word, and it is silent
//!     order {lb1, its incarnation, term} ---> the devices of the first level, all at once: off?
//!                                             one of them cannot: those of the next level
//!   off <----------------------------- done {order}, or failed {order}
//! ```
//!
//! Decides: who is switched off, by whom, how often, and when that is over. What may follow from
//! what is in `state/fencing.rs`. Each order is an entry of the log, so none is given without a
//! majority (S8, S17). Two voters alone are a case of their own: `alone.rs`.

use std::collections::{BTreeMap, BTreeSet};

use nines_model::{Codes as _, Incarnation, Millis, NodeId, Switch, Time};

use super::Node;
use crate::{
    action::Operation,
    feature_level::FENCING,
    lease::promise_ns,
    node::fence_run::{Run, plural},
    state::fencing::ATTEMPTS,
    wire::{Fence, FenceOrder, FenceStep, FenceWish, Power, command::Kind},
};

/// The leader looks so often.
const LOOK: Millis = Millis(40);
/// And again after it has written something.
const AGAIN: Millis = Millis(200);
/// A device that has failed is asked again after so long.
pub(super) const RETRY: Millis = Millis(15_000);
/// In so long a node is switched off at most [`ATTEMPTS`] times (S18).
pub(super) const HOUR: Millis = Millis(3_600_000);
/// Heartbeats that were on their way when the power went arrive within this.
const ON_THEIR_WAY: Millis = Millis(3_000);
/// A node that was switched off is off for so long before it is switched on again.
const OFF_FOR: Millis = Millis(5_000);
/// After a failure the devices of a node are tried again.
const TEST_AGAIN: Millis = Millis(3_600_000);
/// What an operator wants is tried for so long.
const WISH: Millis = Millis(60_000);
/// Beyond the devices' own time an order is waited for so long.
const SPARE: Millis = Millis(10_000);

/// What a node remembers of fencing.
#[derive(Default)]
pub(super) struct Fences {
    /// When this node got to know each order, and each node that is off: node and log index.
    seen: BTreeMap<(NodeId, u64), Time>,
    /// Entries about VIPs and nodes that were applied when that was last looked at.
    noted: Option<u64>,
    /// Orders that this node carries out.
    pub(super) runs: Vec<Run>,
    /// The leader does not look before.
    after: Time,
}

/// Why a node that should be off is not being switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceBlock {
    /// It has been tried too often.
    TriedTooOften,
    /// This leader has never heard it, so an order could hit another boot of it.
    NeverHeard,
    /// Nobody besides it can be asked.
    NobodyToAsk,
}

impl Node {
    /// What is known of a node's power.
    pub(super) fn power(&self, id: NodeId) -> Power {
        self.state.fencing.of(id)
    }

    fn fences_nodes(&self) -> bool {
        self.state.members.feature_level() >= FENCING
    }

    fn incarnation_of(&self, id: NodeId) -> Incarnation {
        let own = id == self.config.id;
        if own { self.config.boot } else { self.incarnation.current(id) }
    }

    /// Notes when orders were first known here: the hour and every patience count from then.
    fn note_orders(&mut self, now: Time) {
        if self.fences.noted == Some(self.changes.decided) {
            return;
        }
        self.fences.noted = Some(self.changes.decided);
        let mut known = BTreeSet::new();
        for (id, power) in self.state.fencing.iter() {
            known.extend(power.attempts.iter().map(|index| (*id, *index)));
            known.extend(power.order.iter().map(|order| (*id, order.index)));
            known.extend(power.off.iter().map(|off| (*id, off.index)));
            known.insert((*id, power.taken));
            known.extend(power.wish.iter().map(|wish| (*id, wish.index)));
        }
        self.fences.seen.retain(|key, _| known.contains(key));
        for key in known {
            self.fences.seen.entry(key).or_insert(now);
        }
    }

    fn since(&self, now: Time, id: NodeId, index: u64) -> u64 {
        self.fences.seen.get(&(id, index)).map_or(0, |at| now.since(*at))
    }

    /// The leader's part: one step at a time.
    pub(super) fn fence_nodes(&mut self, now: Time) {
        if !self.fences_nodes() || now < self.fences.after {
            return;
        }
        self.fences.after = now.plus(LOOK);
        self.note_orders(now);
        let ids: Vec<NodeId> = self.state.members.keys().copied().collect();
        let step = ids.into_iter().find_map(|id| self.fence_step(now, id));
        if let Some(fence) = step {
            if fence.is_lie(&self.power(fence.target())) {
                let name = self.name_of(fence.target());
                self.log(format!("{name} was said to be off, and goes on"));
            }
            self.propose_own(now, Kind::Fence(fence), String::new());
            self.fences.after = now.plus(AGAIN);
        }
    }

    /// What the leader writes about a node now, if anything.
    fn fence_step(&self, now: Time, id: NodeId) -> Option<Fence> {
        let power = self.power(id);
        let current = self.incarnation_of(id);
        let speaks = id == self.config.id || self.membership.speaks(now, id, self.lease());
        if speaks && self.may_ask(now, id) && self.is_news(now, id, &power, current) {
            return Some(Fence::about(FenceStep::Heard, id, current, String::new()));
        }
        if let Some(order) = &power.order {
            return self.give_up(now, id, order);
        }
        let name = self.name_of(id);
        if let Some(wish) = &power.wish {
            return self.fulfil(now, id, wish);
        }
        if !self.state.spec.can_fence(&name) {
            return None;
        }
        if self.is_to_fence(now, id, &power) && self.fence_block(now, id).is_none() {
            let why = "it is silent, and what it held was given to others without its word";
            return self.order(now, id, Switch::Off, why.into());
        }
        let on_again = self.state.spec.fencing.on_again;
        let off = power.off.as_ref().filter(|off| on_again && !off.on_tried && !off.by_person);
        if off.is_some_and(|off| self.since(now, id, off.index) >= OFF_FOR.ns()) {
            return self.order(now, id, Switch::On, "it was off for long enough".into());
        }
        self.is_test_due(now, &power).then(|| self.order(now, id, Switch::Test, String::new()))?
    }

    /// The order that an operator wants; or that it is given up, because it cannot be given.
    fn fulfil(&self, now: Time, id: NodeId, wish: &FenceWish) -> Option<Fence> {
        let reason = match wish.reason.as_str() {
            "" => format!("{} wants it", wish.actor),
            reason => format!("{} wants it: {reason}", wish.actor),
        };
        let can = self.state.spec.can_fence(&self.name_of(id));
        let switch = Switch::from_code(&wish.switch).filter(|_| can);
        if let Some(order) = switch.and_then(|switch| self.order(now, id, switch, reason)) {
            return Some(Fence { by_person: true, ..order });
        }
        let late = self.since(now, id, wish.index) >= WISH.ns();
        (late || !can).then(|| {
            let name = self.name_of(id);
            let text = format!(
                "{name} is not switched {}, as {} wanted: nobody can ask its fence devices",
                wish.switch, wish.actor
            );
            Fence::about(FenceStep::Void, id, Incarnation::NONE, text)
        })
    }

    /// Whether that a node is heard changes what is known of its power.
    fn is_news(&self, now: Time, id: NodeId, power: &Power, current: Incarnation) -> bool {
        let order = power.order.as_ref().filter(|order| order.switch() == Switch::Off);
        let booted = |incarnation| incarnation != current;
        if let Some(off) = &power.off {
            // It cannot be heard any more, unless what was said of it is not true.
            let late = self.since(now, id, off.index) < ON_THEIR_WAY.ns();
            return booted(off.incarnation()) || !late;
        }
        if order.is_some_and(|order| booted(order.incarnation())) {
            return true;
        }
        // One that votes no more has let go of everything.
        let lets_go = self
            .membership
            .peer(id)
            .is_none_or(|p| p.beat.applied().0 >= power.taken || !p.beat.broken.is_empty());
        let held_against = power.taken != 0 || !power.attempts.is_empty();
        held_against && lets_go && order.is_none()
    }

    /// An order that nobody will answer.
    fn give_up(&self, now: Time, id: NodeId, order: &FenceOrder) -> Option<Fence> {
        let (by, lease) = (self.name_of(order.by()), self.lease());
        let name = self.name_of(id);
        let same = self.incarnation_of(order.by()) == order.by_incarnation();
        let lives = order.by() == self.config.id || self.membership.alive(now, order.by(), lease);
        // What is under way when the lead changes is still told; nothing more is begun.
        let text = if !(same && lives) {
            format!("{name}: {by} was asked, and what came of it is not known")
        } else if self.since(now, id, order.index) > self.patience(&name).ns() {
            format!("{name}: {by} has not said what its fence devices did")
        } else {
            return None;
        };
        let step = if order.switch() == Switch::Test { FenceStep::Void } else { FenceStep::Failed };
        let order = order.index;
        Some(Fence { order, ..Fence::about(step, id, Incarnation::NONE, text) })
    }

    /// The longest time that all levels of a node's devices may take.
    fn patience(&self, name: &str) -> Millis {
        let spec = &self.state.spec;
        let of_level = |level: &Vec<_>| {
            let each = level.iter().filter_map(|name| spec.fence.get(name)).map(|d| d.timeout.0);
            each.max().unwrap_or(0)
        };
        Millis(spec.fence_levels(name).iter().map(of_level).sum::<u64>() + SPARE.0)
    }

    /// Whether a node should be off and is not, as far as this leader knows.
    fn is_to_fence(&self, now: Time, id: NodeId, power: &Power) -> bool {
        let after = self.state.spec.fencing.after;
        // One that was stopping, or votes no more, holds nothing.
        let silent = self.membership.peer(id).is_none_or(|p| {
            now.since(p.at) >= after.ns() && !p.beat.leaving && p.beat.broken.is_empty()
        });
        id != self.config.id
            && power.taken != 0
            && power.off.is_none()
            && silent
            && self.membership.listening(now) >= after.ns()
            && !self.is_heard_elsewhere(now, id)
            && power.attempts.last().is_none_or(|last| self.since(now, id, *last) >= RETRY.ns())
    }

    /// Why a node that should be off is not being switched off by this leader; `None`: it is, or
    /// it should not be.
    pub fn fence_block(&self, now: Time, id: NodeId) -> Option<FenceBlock> {
        let power = self.power(id);
        let name = self.name_of(id);
        if power.taken == 0 || power.off.is_some() || !self.state.spec.can_fence(&name) {
            return None;
        }
        let in_hour = |index: &&u64| self.since(now, id, **index) < HOUR.ns();
        if power.attempts.iter().filter(in_hour).count() >= ATTEMPTS {
            return Some(FenceBlock::TriedTooOften);
        }
        if self.incarnation.current(id) == Incarnation::NONE {
            return Some(FenceBlock::NeverHeard);
        }
        self.whom_to_ask(now, id, 0).is_none().then_some(FenceBlock::NobodyToAsk)
    }

    fn is_test_due(&self, now: Time, power: &Power) -> bool {
        let test = self.state.spec.fencing.test;
        if test == Millis(0) || power.taken != 0 || power.off.is_some() {
            return false;
        }
        let Some(tested) = &power.tested else { return true };
        let every = if tested.ok { test } else { test.min(TEST_AGAIN) };
        self.wall_ms(now) >= tested.at_ms.saturating_add(every.0)
    }

    /// The node that speaks to the devices of `target`: the leader first, at each further attempt
    /// another one, for it may reach devices that the leader does not.
    fn whom_to_ask(&self, now: Time, target: NodeId, attempt: usize) -> Option<NodeId> {
        let me = self.config.id;
        let fit = |id: &NodeId| {
            *id != target
                && (*id == me || self.membership.alive(now, *id, self.lease()))
                && self.may_ask(now, *id)
                && !self.is_deaf(now, *id)
                && !self.runs_no_programs(*id)
        };
        let voters = self.voter.consensus().voters();
        let mut fit: Vec<NodeId> = voters.into_iter().filter(fit).collect();
        fit.sort_by_key(|id| (*id != me, *id));
        (!fit.is_empty()).then(|| fit[attempt % fit.len()])
    }

    /// Whether a node can ask no device, as far as it has said.
    fn runs_no_programs(&self, id: NodeId) -> bool {
        let name = self.name_of(id);
        self.state.members.facts().get(name.as_str()).is_some_and(|facts| facts.no_programs)
    }

    fn order(&self, now: Time, id: NodeId, switch: Switch, text: String) -> Option<Fence> {
        let by = self.whom_to_ask(now, id, self.power(id).attempts.len())?;
        let incarnation = self.incarnation_of(id);
        Some(Fence {
            switch: switch.code().into(),
            by: by.number(),
            by_incarnation: self.incarnation_of(by).number(),
            term: self.voter.consensus().term(),
            ..Fence::about(FenceStep::Order, id, incarnation, text)
        })
    }

    /// This node's part: begins the orders that name it, and says what came of them.
    pub(super) fn carry_orders_out(&mut self, now: Time) {
        if self.state.fencing.is_empty() && self.fences.runs.is_empty() {
            return;
        }
        let me = self.config.id;
        let mine = |(id, power): (&NodeId, &Power)| {
            let order = power.order.clone().filter(|order| order.by() == me)?;
            let known = self.fences.runs.iter().any(|run| run.order == order.index);
            (!known).then_some((*id, order))
        };
        let new: Vec<(NodeId, FenceOrder)> = self.state.fencing.iter().filter_map(mine).collect();
        for (id, order) in new {
            let name = self.name_of(id);
            let mut levels = self.state.spec.fence_levels(&name);
            if let (Switch::On, Some(off)) = (order.switch(), &self.power(id).off) {
                // Those that have switched it off.
                levels = levels.into_iter().skip(off.level as usize).take(1).collect();
            }
            let mut run = Run::new(id, &order, levels);
            if order.by_incarnation() != self.config.boot {
                run.is_void(&name, "the agent that was to do it has started anew");
            } else if let Some(why) = self.out_of_date(now, &run) {
                run.is_void(&name, why);
            }
            if order.switch() != Switch::Test {
                let what = order.switch().code();
                self.log(format!("the fence devices of {name} are asked to switch it {what}"));
            }
            self.fences.runs.push(run);
            self.go_on(now, order.index);
        }
        self.tell_answers(now);
    }

    /// Why no device may be asked any more: the leader that gave the order leads no more, or the
    /// node that it is about is heard, be it that incarnation or a later one (S17).
    fn out_of_date(&self, now: Time, run: &Run) -> Option<&'static str> {
        let consensus = self.voter.consensus();
        let order = self.power(run.target).order.filter(|order| order.index == run.order);
        let Some(order) = order else { return Some("the order is over") };
        if run.term != consensus.term() || consensus.leader().is_none() {
            return Some("another node leads, or none does");
        }
        if !self.listens(now) {
            return Some("this node has stood still");
        }
        let current = self.incarnation.current(run.target);
        if run.switch == Switch::Off && ![run.incarnation, Incarnation::NONE].contains(&current) {
            return Some("it has started again");
        }
        let speaks = self.membership.speaks(now, run.target, self.lease());
        let spares = run.switch == Switch::Off && !order.by_person && speaks;
        spares.then_some("it is heard again")
    }

    /// Whether this node has run for so long that it would have heard whoever speaks.
    pub(super) fn listens(&self, now: Time) -> bool {
        self.membership.listening(now) >= promise_ns(self.lease())
    }

    /// Asks the devices of the next level, if the one before is through without success.
    fn go_on(&mut self, now: Time, order: u64) {
        let Some(at) = self.fences.runs.iter().position(|run| run.order == order) else { return };
        let mut run = self.fences.runs.remove(at);
        while run.needs_next() {
            if let Some(why) = self.out_of_date(now, &run) {
                run.is_void(&self.name_of(run.target), why);
                break;
            }
            self.ask_level(now, &mut run);
        }
        self.fences.runs.push(run);
    }

    /// Asks all devices of the next level at once.
    pub(super) fn ask_level(&mut self, now: Time, run: &mut Run) {
        let node = self.name_of(run.target);
        let level = run.next_level(now);
        let until = run.begun(now).plus(self.patience(&node));
        for device in level {
            match self.state.spec.fence.get(&device) {
                Some(config) => {
                    let operation = Operation::Fence {
                        device: device.clone(),
                        config: Box::new(config.clone()),
                        node: node.as_str().into(),
                        switch: run.switch,
                        until,
                    };
                    let id = self.perform(operation);
                    run.asked(id, device);
                }
                None => run.refused(format!("{device} is not in the config any more")),
            }
        }
        if run.is_through() {
            run.sum_up(now, &node);
        }
    }

    /// A device has answered.
    pub(super) fn fence_done(&mut self, now: Time, id: u64, result: Result<(), String>) {
        let Some(at) = self.fences.runs.iter().position(|run| run.awaits(id)) else {
            self.alone_done(now, id, result);
            return;
        };
        let run = &mut self.fences.runs[at];
        run.answered(id, result);
        if run.is_through() {
            let (order, node) = (run.order, self.name_of(self.fences.runs[at].target));
            self.fences.runs[at].sum_up(now, &node);
            self.go_on(now, order);
        }
        self.tell_answers(now);
    }

    /// Writes what came of orders, again and again until that is in the log.
    fn tell_answers(&mut self, now: Time) {
        let mut say = Vec::new();
        let mut runs = std::mem::take(&mut self.fences.runs);
        runs.retain_mut(|run| {
            let open = self.power(run.target).order.is_some_and(|order| order.index == run.order);
            if open && let Some((first, (ok, text))) = run.tells(now) {
                let step = match ok {
                    true => FenceStep::Done,
                    false if run.was_void() => FenceStep::Void,
                    false => FenceStep::Failed,
                };
                let (order, level) = (run.order, run.level());
                let said = Fence::about(step, run.target, run.incarnation, text);
                say.push((first, Fence { order, level, ..said }));
            }
            open || !run.is_idle()
        });
        self.fences.runs = runs;
        for (first, fence) in say {
            if first {
                self.log(fence.text.clone());
            }
            self.propose_own(now, Kind::Fence(fence), String::new());
        }
    }

    /// What a node's power is, for people; empty: nothing is to be said of it.
    pub fn power_text(&self, now: Time, id: NodeId) -> String {
        let power = self.power(id);
        let name = self.name_of(id);
        if let Some(order) = &power.order {
            let by = self.name_of(order.by());
            return match order.switch() {
                Switch::Off => format!("{by} is having it switched off"),
                Switch::On => format!("{by} is having it switched on"),
                Switch::Test => String::new(),
            };
        }
        if let Some(off) = &power.off {
            return off.text.clone();
        }
        match self.fence_block(now, id) {
            Some(FenceBlock::TriedTooOften) => {
                let last = power.switched.map_or_else(String::new, |s| format!(": {}", s.text));
                format!(
                    "it could not be switched off in {}{last}; when you have seen that it is \
                     off: nines fence confirm {name}",
                    plural(ATTEMPTS, "attempt")
                )
            }
            Some(FenceBlock::NeverHeard) => format!(
                "it is not switched off, because {} has not heard it since it started; when you \
                 have seen that it is off: nines fence confirm {name}",
                self.config.name
            ),
            Some(FenceBlock::NobodyToAsk) => "nobody can ask its fence devices".into(),
            None => String::new(),
        }
    }
}
