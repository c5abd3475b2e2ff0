//! Fencing: which nodes are to be switched off, which are off, and what their devices say.
//!
//! Decides: what follows from what. An order is about one incarnation of its node, counts in the
//! term of the leader that gave it, and is answered once; an incarnation that is off is not
//! switched off again (S17); "off" is written only as the answer to an order, or as the word of a
//! person, and is void when that incarnation is heard afterwards (S20, S21).

use std::{collections::BTreeMap, ops::Deref};

use nines_model::{AdminCommand, Codes as _, Incarnation, LogIndex, NodeId, Spec, Switch};

use super::{Entry, Members, State, events::Event};
use crate::{
    action::Refusal,
    event_log::EventKind,
    feature_level::SELF_FENCING,
    wire::{
        Act, Fence, FenceAnswer, FenceOff, FenceOrder, FenceStep, FenceWish, Power, command::Kind,
    },
};

/// Orders to switch a node off that are remembered: as many as may be given in an hour.
pub const ATTEMPTS: usize = 3;

/// Power of the members, by number; read like a map, changed by commands only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fencing(BTreeMap<NodeId, Power>);

/// A valid change.
pub(super) struct Change {
    target: NodeId,
    what: What,
    event: Option<Event>,
}

enum What {
    Ordered(Fence),
    Answered(Fence, FenceStep, Switch),
    Heard {
        lied: bool,
    },
    Off(Fence),
    Rests,
    /// What an operator wants.
    GivenUp,
}

impl Deref for Fencing {
    type Target = BTreeMap<NodeId, Power>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn changed<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Changed(why.into()))
}

impl Fencing {
    /// As a snapshot has it.
    pub(crate) fn restored(by_id: BTreeMap<NodeId, Power>) -> Self {
        Self(by_id)
    }

    /// What is known of a node's power; of most nodes nothing.
    pub fn of(&self, id: NodeId) -> Power {
        self.0.get(&id).cloned().unwrap_or_default()
    }

    /// What a command would change; an error: it is not true any more, or never was.
    pub(super) fn validate(
        &self,
        (spec, members): (&Spec, &Members),
        fence: &Fence,
    ) -> Result<Change, Refusal> {
        let target = fence.target();
        let Some(member) = members.get(&target) else {
            return changed(format!("node {target} is no member"));
        };
        let Some(step) = FenceStep::from_code(&fence.step) else {
            return Err(Refusal::Invalid(format!("unknown step {}", fence.step)));
        };
        let (name, power) = (&member.name, self.of(target));
        let event = |kind, text: String| Some(Event { kind, subject: name.clone(), text });
        let (what, event) = match step {
            FenceStep::Order => {
                let switch = Self::validate_order(spec, members, &power, fence)?;
                let by = members.get(&NodeId(fence.by)).map_or("nobody", |m| &m.name);
                let text = match switch {
                    Switch::Off => format!("{by} has {name} switched off: {}", fence.text),
                    Switch::On => format!("{by} has {name} switched on: {}", fence.text),
                    Switch::Test => format!("{by} tries the fence devices of {name}"),
                };
                let kind = if switch == Switch::Test { EventKind::Note } else { EventKind::Fence };
                (What::Ordered(fence.clone()), event(kind, text))
            }
            FenceStep::Void if fence.order == 0 && power.wish.is_some() => {
                (What::GivenUp, event(EventKind::FenceFailed, fence.text.clone()))
            }
            FenceStep::Done | FenceStep::Failed | FenceStep::Void => {
                let order = power.order.as_ref().filter(|order| order.index == fence.order);
                let Some(order) = order else { return changed("that order is over") };
                let kind = match (step, order.switch()) {
                    (FenceStep::Failed, _) => EventKind::FenceFailed,
                    (FenceStep::Void, _) | (_, Switch::Test) => EventKind::Note,
                    _ => EventKind::Fenced,
                };
                let of = Fence { incarnation: order.incarnation().number(), ..fence.clone() };
                (What::Answered(of, step, order.switch()), event(kind, fence.text.clone()))
            }
            FenceStep::Heard => {
                let off = power.off.as_ref();
                let lied = off.is_some_and(|off| off.incarnation == fence.incarnation);
                if off.is_none() && power.taken == 0 && !power.is_to_be_off() {
                    return changed("nothing was held against it");
                }
                let text = format!(
                    "{name} was said to be off, and goes on: nothing that rests on it counts; \
                     look at its fence devices"
                );
                (What::Heard { lied }, event(EventKind::FenceFailed, text).filter(|_| lied))
            }
            FenceStep::Rests => (What::Rests, event(EventKind::Note, fence.text.clone())),
            FenceStep::Confirmed | FenceStep::Alone => {
                if power.off.as_ref().is_some_and(|off| off.incarnation == fence.incarnation) {
                    return changed(format!("{name} is off already"));
                }
                (What::Off(fence.clone()), event(EventKind::Fenced, fence.text.clone()))
            }
        };
        Ok(Change { target, what, event })
    }

    fn validate_order(
        spec: &Spec,
        members: &Members,
        power: &Power,
        fence: &Fence,
    ) -> Result<Switch, Refusal> {
        let name = members.get(&fence.target()).map_or("", |m| m.name.as_str());
        let Some(switch) = Switch::from_code(&fence.switch) else {
            return Err(Refusal::Invalid(format!("unknown switch {}", fence.switch)));
        };
        if power.order.is_some() {
            return changed(format!("another order about {name} is under way"));
        }
        if !spec.can_fence(name) {
            return changed(format!("no fence device switches {name}"));
        }
        if fence.by == fence.target && switch != Switch::Test {
            return Err(Refusal::Unsafe(format!("{name} does not switch itself")));
        }
        let off = power.off.as_ref().is_some_and(|off| off.incarnation == fence.incarnation);
        if switch == Switch::Off && off {
            return changed(format!("{name} is off already"));
        }
        Ok(switch)
    }

    /// What an operator wants of a node's devices.
    pub(super) fn wish(&mut self, id: NodeId, wish: FenceWish) {
        self.0.entry(id).or_default().wish = Some(wish);
    }

    /// What it held was given to another without its word.
    pub(super) fn taken(&mut self, id: NodeId, index: LogIndex) {
        self.0.entry(id).or_default().taken = index.number();
    }

    /// A member has left: nobody of its number comes back.
    pub(super) fn left(&mut self, id: NodeId) {
        self.0.remove(&id);
    }

    /// `counts`: every member counts answers; builds that do not would come to another state.
    fn commit(&mut self, index: LogIndex, at_ms: u64, counts: bool, change: Change) {
        let power = self.0.entry(change.target).or_default();
        match change.what {
            What::Ordered(fence) => {
                let order = FenceOrder::of(index, at_ms, &fence);
                match order.switch() {
                    Switch::Off => {
                        power.attempts.push(index.number());
                        let more = power.attempts.len().saturating_sub(ATTEMPTS);
                        power.attempts.drain(..more);
                    }
                    Switch::On => power.off.iter_mut().for_each(|off| off.on_tried = true),
                    Switch::Test => {}
                }
                power.wish = None;
                power.order = Some(order);
            }
            What::Answered(fence, step, switch) => {
                let wanted = power.order.take().is_some_and(|order| order.by_person);
                let ok = step == FenceStep::Done;
                if counts && step != FenceStep::Void {
                    power.counts.get_or_insert_default().count(switch, ok, at_ms);
                }
                let answer = FenceAnswer { ok, at_ms, text: fence.text.clone() };
                match switch {
                    Switch::Test if step == FenceStep::Void => {}
                    Switch::Test => {
                        power.lied &= !ok;
                        power.tested = Some(answer);
                    }
                    Switch::Off if ok => {
                        power.switched = Some(answer);
                        power.off_by(index, at_ms, &fence);
                        // What a person switches off stays off.
                        power.off.iter_mut().for_each(|off| off.on_tried |= wanted);
                    }
                    Switch::Off | Switch::On => power.switched = Some(answer),
                }
            }
            What::Heard { lied } => {
                power.off = None;
                power.taken = 0;
                power.lied |= lied;
                if !lied {
                    power.attempts.clear();
                    power.order.take_if(|order| order.switch() == Switch::Off);
                }
            }
            What::Rests => {}
            What::GivenUp => power.wish = None,
            What::Off(fence) => power.off_by(index, at_ms, &fence),
        }
        if *power == Power::default() {
            self.0.remove(&change.target);
        }
    }
}

impl Power {
    /// Whether it was or is to be switched off, since it was last heard.
    pub fn is_to_be_off(&self) -> bool {
        let order = self.order.as_ref().map(FenceOrder::switch);
        order == Some(Switch::Off) || !self.attempts.is_empty()
    }

    fn off_by(&mut self, index: LogIndex, at_ms: u64, fence: &Fence) {
        let Fence { incarnation, text, level, by_person, .. } = fence.clone();
        let index = index.number();
        let on_tried = false;
        self.off = Some(FenceOff { incarnation, at_ms, text, level, by_person, index, on_tried });
        self.taken = 0;
        let off = Switch::Off.code();
        self.wish.take_if(|wish| wish.switch == off);
    }
}

impl State {
    /// Carries a valid change out.
    pub(super) fn commit_fencing(&mut self, entry: Entry<'_>, mut change: Change) -> String {
        let event = change.event.take();
        let said = event.as_ref().map_or_else(String::new, |event| event.text.clone());
        let counts = self.members.feature_level() >= SELF_FENCING;
        self.fencing.commit(entry.index, entry.command.at_ms, counts, change);
        if let Some(event) = event {
            self.commit_event(entry, event);
        }
        said
    }

    /// What an operator's command about the power of nodes would wish; an error: it makes no
    /// sense. The leader carries wishes out.
    pub(super) fn validate_wishes(
        &self,
        admin: AdminCommand,
        subjects: &[String],
    ) -> Result<(Vec<NodeId>, Switch), Refusal> {
        let switch = match admin {
            AdminCommand::PowerOff => Switch::Off,
            AdminCommand::PowerOn => Switch::On,
            AdminCommand::TestFence => Switch::Test,
            _ => return Err(Refusal::Invalid(format!("{} is no wish", admin.code()))),
        };
        let mut ids = Vec::new();
        for name in subjects {
            let Some(member) = self.member(name) else {
                return Err(Refusal::NotFound(format!("{name} is no member")));
            };
            if !self.spec.can_fence(name) {
                let why = format!(
                    "no fence device switches {name}; name one in the config: \
                     [fence.NAME] node = \"{name}\""
                );
                return Err(Refusal::Invalid(why));
            }
            let power = self.fencing.of(member.id());
            if switch == Switch::Off && power.off.is_some() {
                return Err(Refusal::Changed(format!("{name} is off already")));
            }
            ids.push(member.id());
        }
        Ok((ids, switch))
    }
}

/// The command that an operator's word about a node that is off comes to.
pub fn confirmed(act: &Act, target: NodeId, incarnation: u64, actor: &str) -> Kind {
    let name = act.subjects.first().map_or("", String::as_str);
    let reason = if act.reason.is_empty() { String::new() } else { format!(": {}", act.reason) };
    let text = format!("{actor} has seen that {name} is off{reason}");
    let said = Fence::about(FenceStep::Confirmed, target, Incarnation(incarnation), text);
    Kind::Fence(Fence { by_person: true, ..said })
}

#[cfg(test)]
mod tests;
