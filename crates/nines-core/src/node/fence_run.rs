//! One order about the power of a node, carried out: its devices level by level.
//!
//! Decides: what the answers of devices come to. A level has done it when all of its devices have:
//! each says so only when it has read the state back, and none of them is switched on in between,
//! so that at that moment all of them are off (S20). Only then the next level is spared.

use std::collections::BTreeMap;

use nines_model::{Codes as _, DeviceName, Incarnation, Millis, NodeId, Switch, Time};

use crate::wire::FenceOrder;

/// An answer that is not in the log yet is written again.
const TELL_AGAIN: Millis = Millis(300);

/// An order that is carried out.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) target: NodeId,
    pub(super) order: u64,
    pub(super) term: u64,
    pub(super) switch: Switch,
    pub(super) incarnation: Incarnation,
    levels: Vec<Vec<DeviceName>>,
    /// The next level.
    next: usize,
    begun: Option<Time>,
    /// Operations under way, with their devices.
    waits: BTreeMap<u64, DeviceName>,
    /// Devices that have done it, of the level under way.
    done: Vec<DeviceName>,
    /// What the others said, of all levels.
    failed: Vec<String>,
    /// Whether something of the level under way failed.
    level_failed: bool,
    answer: Option<(bool, String)>,
    /// The answer says nothing of the devices.
    void: bool,
    told: Option<Time>,
}

/// "1 attempt", "3 attempts".
pub(super) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

impl Run {
    pub(super) fn new(target: NodeId, order: &FenceOrder, levels: Vec<Vec<DeviceName>>) -> Self {
        let of = (order.index, order.term);
        Self::of(target, of, (order.switch(), order.incarnation()), levels)
    }

    /// The same without an entry of the log.
    pub(super) fn of(
        target: NodeId,
        (order, term): (u64, u64),
        (switch, incarnation): (Switch, Incarnation),
        levels: Vec<Vec<DeviceName>>,
    ) -> Self {
        // A test is about all devices.
        let levels = match switch {
            Switch::Test => vec![levels.into_iter().flatten().collect()],
            _ => levels,
        };
        Self {
            target,
            order,
            term,
            switch,
            incarnation,
            levels,
            next: 0,
            begun: None,
            waits: BTreeMap::new(),
            done: Vec::new(),
            failed: Vec::new(),
            level_failed: false,
            answer: None,
            void: false,
            told: None,
        }
    }

    /// Whether it has no answer, and waits for no device.
    pub(super) fn needs_next(&self) -> bool {
        self.answer.is_none() && self.waits.is_empty()
    }

    /// The devices to ask now.
    pub(super) fn next_level(&mut self, now: Time) -> Vec<DeviceName> {
        self.begun.get_or_insert(now);
        (self.done, self.level_failed) = (Vec::new(), false);
        let level = self.levels.get(self.next).cloned().unwrap_or_default();
        self.next += 1;
        level
    }

    /// When its first device was asked.
    pub(super) fn begun(&self, now: Time) -> Time {
        self.begun.unwrap_or(now)
    }

    pub(super) fn asked(&mut self, id: u64, device: DeviceName) {
        self.waits.insert(id, device);
    }

    pub(super) fn refused(&mut self, why: String) {
        self.failed.push(why);
        self.level_failed = true;
    }

    pub(super) fn awaits(&self, id: u64) -> bool {
        self.waits.contains_key(&id)
    }

    pub(super) fn answered(&mut self, id: u64, result: Result<(), String>) {
        let Some(device) = self.waits.remove(&id) else { return };
        match result {
            Ok(()) => self.done.push(device),
            Err(why) => self.refused(why),
        }
    }

    /// Whether the level under way has ended.
    pub(super) fn is_through(&self) -> bool {
        self.waits.is_empty() && self.next > 0 && self.answer.is_none()
    }

    /// A level has ended: what it comes to.
    pub(super) fn sum_up(&mut self, now: Time, node: &str) {
        let took = self.begun.map_or(0, |at| now.since(at)) as f64 / 1e9;
        let took = format!("{took:.1} s");
        if !self.level_failed && !self.done.is_empty() {
            let names: Vec<&str> = self.done.iter().map(DeviceName::as_str).collect();
            let who = names.join(" and ");
            let (say, reach) =
                if names.len() == 1 { ("says", "reaches") } else { ("say", "reach") };
            let text = match self.switch {
                Switch::Off => format!("{who} {say} that {node} is off, after {took}"),
                Switch::On => format!("{who} {say} that {node} is on, after {took}"),
                Switch::Test => format!("{who} {reach} {node}, after {took}"),
            };
            self.ends(true, text);
        } else if self.next >= self.levels.len() {
            let what = match self.switch {
                Switch::Off => "could not be switched off",
                Switch::On => "could not be switched on",
                Switch::Test => "could not be switched off if that were needed",
            };
            let why = match self.failed.join("; ") {
                none if none.is_empty() => "it has no fence device".to_owned(),
                why => why,
            };
            self.ends(false, format!("{node} {what}: {why}"));
        }
    }

    pub(super) fn ends(&mut self, ok: bool, text: String) {
        self.answer.get_or_insert((ok, text));
    }

    /// No device is asked any more.
    pub(super) fn is_void(&mut self, node: &str, why: &str) {
        let what = match self.switch {
            Switch::Test => format!("the fence devices of {node} are not tried"),
            switch => format!("{node} is not switched {}", switch.code()),
        };
        self.void = self.answer.is_none();
        self.ends(false, format!("{what}: {why}"));
    }

    /// Whether the answer says nothing of the devices.
    pub(super) fn was_void(&self) -> bool {
        self.void
    }

    /// The answer, whether or not it was told.
    pub(super) fn answer(&self) -> Option<&(bool, String)> {
        self.answer.as_ref()
    }

    /// Whether no device is being asked.
    pub(super) fn is_idle(&self) -> bool {
        self.waits.is_empty()
    }

    /// The level that ended last, from 0.
    pub(super) fn level(&self) -> u32 {
        self.next.saturating_sub(1) as u32
    }

    /// The answer, if it is to be written now; `true`: for the first time.
    pub(super) fn tells(&mut self, now: Time) -> Option<(bool, (bool, String))> {
        let again = self.told.is_none_or(|told| now.since(told) >= TELL_AGAIN.ns());
        let answer = self.answer.clone().filter(|_| again)?;
        let first = self.told.replace(now).is_none();
        Some((first, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    fn run(switch: Switch, levels: &[&[&str]]) -> Run {
        let names = |level: &&[&str]| level.iter().map(|name| (*name).into()).collect();
        let levels = levels.iter().map(names).collect();
        Run::of(NodeId(2), (7, 3), (switch, Incarnation(5)), levels)
    }

    /// Asks the next level and has its devices answer; gives the answer of the run, if it is there.
    fn answers(run: &mut Run, results: &[Result<(), &str>]) -> Option<(bool, String)> {
        assert!(run.needs_next());
        let level = run.next_level(NOW);
        assert_eq!(level.len(), results.len(), "{level:?}");
        for (id, device) in (0..).zip(level) {
            run.asked(id, device);
        }
        for (id, result) in (0..).zip(results) {
            assert!(run.awaits(id) && !run.is_through());
            run.answered(id, result.map_err(str::to_owned));
        }
        assert!(run.is_through() && run.is_idle());
        run.sum_up(NOW.plus(Millis(1_600)), "lb1");
        run.answer().cloned()
    }

    #[test]
    fn all_devices_of_a_level_have_to_do_it_or_those_of_the_next_one() {
        let mut both = run(Switch::Off, &[&["pdu-a", "pdu-b"], &["bmc"]]);
        let (ok, text) = answers(&mut both, &[Ok(()), Ok(())]).unwrap();
        assert!(ok && both.level() == 0);
        assert_eq!(text, "pdu-a and pdu-b say that lb1 is off, after 1.6 s");

        let mut next = run(Switch::Off, &[&["pdu-a", "pdu-b"], &["bmc"]]);
        assert_eq!(answers(&mut next, &[Ok(()), Err("pdu-b: no answer")]), None);
        let (ok, text) = answers(&mut next, &[Ok(())]).unwrap();
        assert!(ok && next.level() == 1 && text.starts_with("bmc says that lb1 is off"), "{text}");

        let mut none = run(Switch::Off, &[&["pdu-a", "pdu-b"], &["bmc"]]);
        assert_eq!(answers(&mut none, &[Err("pdu-a: refused"), Err("pdu-b: no answer")]), None);
        let (ok, text) = answers(&mut none, &[Err("bmc: wrong password")]).unwrap();
        assert!(!ok);
        let all = "pdu-a: refused; pdu-b: no answer; bmc: wrong password";
        assert_eq!(text, format!("lb1 could not be switched off: {all}"));
    }

    #[test]
    fn a_test_is_about_all_devices_of_all_levels() {
        let mut test = run(Switch::Test, &[&["pdu-a", "pdu-b"], &["bmc"]]);
        let (ok, text) = answers(&mut test, &[Ok(()), Ok(()), Err("bmc: no answer")]).unwrap();
        assert!(!ok && text.ends_with("if that were needed: bmc: no answer"), "{text}");
    }

    #[test]
    fn a_node_without_a_device_is_not_off() {
        for levels in [&[][..], &[&[][..]]] {
            let mut none = run(Switch::Off, levels);
            let (ok, text) = answers(&mut none, &[]).unwrap();
            assert!(!ok && text.ends_with("it has no fence device"), "{text}");
        }
    }

    #[test]
    fn an_answer_is_told_again_until_it_is_written() {
        let mut void = run(Switch::Off, &[&["bmc"]]);
        assert_eq!(void.tells(NOW), None);
        void.is_void("lb1", "it is heard again");
        let text = "lb1 is not switched off: it is heard again".to_owned();
        assert!(void.was_void());
        assert_eq!(void.tells(NOW), Some((true, (false, text.clone()))));
        assert_eq!(void.tells(NOW.plus(Millis(299))), None);
        assert_eq!(void.tells(NOW.plus(Millis(300))), Some((false, (false, text))));
    }
}
