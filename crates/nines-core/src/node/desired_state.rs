//! The world outside follows the state: guard, checks, forwarding table.
//!
//! Decides: when they are made anew. A cluster may have ten thousand services, and hundreds of
//! heartbeats come in a second, so nothing here is computed unless something it depends on changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use nines_model::{Millis, RealServerRole, Time, Traffic};

use super::Node;
use crate::{
    action::{Action, CheckTask},
    event_log::EventKind,
    forwarding::{self, Wanted},
    health::Health,
    vip::Want,
};

/// Everything that the wanted world is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Causes {
    outside: u64,
    known_changes: u64,
    /// VIPs on this node that are not in the config.
    up: BTreeSet<IpAddr>,
}

/// What the state wants, and whether all of it has been asked for.
#[derive(Default)]
pub(super) struct DesiredState {
    causes: Option<Causes>,
    cover: Vec<(IpAddr, bool)>,
    checks: Arc<Vec<CheckTask>>,
    wanted: Wanted,
    duty: RealServerRole,
    settled: bool,
}

/// First results of checks: they come in hundreds, and a table for each would cost more than all.
#[derive(Default)]
pub(super) struct FirstResults {
    /// Servers to which the process before this one sent clients.
    inherited: BTreeSet<(Traffic, SocketAddr)>,
    /// Since when the present checks are made.
    checks_since: Option<Time>,
    /// Since when some are in no table yet.
    since: Option<Time>,
    /// How many checks of the present ones have never ended.
    missing: usize,
}

impl Node {
    /// Servers that get clients by the table that an earlier process left in the kernel: they keep
    /// them until a check of this process says otherwise.
    pub fn inherit(&mut self, serving: BTreeSet<(Traffic, SocketAddr)>) {
        self.first_results.inherited = serving;
    }

    /// Other checks are to be made: what is known of servers that stay is kept.
    fn checks_changed(&mut self, now: Time) {
        let key = |c: &CheckTask| (c.service.clone(), c.server.clone());
        let before: BTreeMap<_, _> = self.checked.iter().map(|c| (key(c), c.addr)).collect();
        self.checked = Arc::clone(&self.desired_state.checks);
        let present: BTreeMap<_, _> = self.checked.iter().map(|c| (key(c), c.addr)).collect();
        let count = self.known.len();
        // At another address it is another server.
        self.known.retain(|subject, _| {
            let addr = present.get(subject);
            addr.is_some() && before.get(subject).is_none_or(|old| Some(old) == addr)
        });
        let known = &self.known;
        self.results.retain(|subject, _| known.contains_key(subject));
        let mut changed = self.known.len() != count;
        if self.table.is_none() && !self.first_results.inherited.is_empty() {
            let unknown = present.keys().filter(|subject| !self.known.contains_key(*subject));
            for subject in unknown.cloned().collect::<Vec<_>>() {
                let service = &self.state.spec.services[&subject.0];
                let server = (service.traffic(), service.servers[&subject.1].addr);
                if self.first_results.inherited.contains(&server) {
                    self.known.insert(subject, Health::Inherited);
                    changed = true;
                }
            }
        }
        let unchecked = |subject: &&(String, String)| {
            self.known.get(*subject).is_none_or(|health| health.is_unchecked())
        };
        self.first_results.missing = present.keys().filter(unchecked).count();
        if changed {
            // What is no longer checked is no longer down: the table says otherwise.
            self.known_changes += 1;
            self.desired_state = self.compute_desired_state(Causes {
                known_changes: self.known_changes,
                ..self.desired_state.causes.clone().unwrap_or_default()
            });
        }
        self.first_results.checks_since = Some(now);
        self.actions.push(Action::Check(Arc::clone(&self.checked)));
    }

    /// The first table waits no longer for first results.
    fn waited(&self, now: Time) -> bool {
        self.first_results.checks_since.is_none_or(|since| now.since(since) > Millis(400).ns())
    }

    /// First results enter the table when the last one is there, or some after a moment: the more
    /// checks there are, the longer a table takes.
    fn take_first_results(&mut self, now: Time) {
        let patience = Millis(20 + self.checked.len() as u64 / 20).ns();
        let at_once = self.first_results.missing == 0 || (self.table.is_none() && self.waited(now));
        let over = |since: Time| at_once || now.since(since) >= patience;
        if self.first_results.since.is_some_and(over) {
            self.first_results.since = None;
            self.known_changes += 1;
        }
    }

    pub(super) fn forwarded(&mut self, now: Time, result: Result<(), String>) {
        self.table_asked = false;
        match result {
            Ok(()) => {
                self.ready = true;
                let spec = self.table.as_ref().map(|wanted| &wanted.spec);
                let same = |old: &Arc<_>| spec.is_some_and(|new| Arc::ptr_eq(old, new));
                if !self.forwards.as_ref().is_some_and(same) {
                    self.forwards = spec.cloned();
                    self.all_vips_changed();
                }
            }
            Err(why) => {
                self.ready = false;
                self.table = None;
                self.desired_state.settled = false;
                self.table_retry = now.plus(Millis(1_000));
                self.log(format!("the forwarding table could not be applied: {why}"));
            }
        }
    }

    pub(super) fn first_packet(&mut self, now: Time, vip: IpAddr) {
        let name = self.state.spec.vip_name(vip);
        let text = format!("first client packet for {name} forwarded by {}", self.config.name);
        self.record_vip_event(now, vip, EventKind::FirstPacket, text);
    }

    pub(super) fn checked(
        &mut self,
        now: Time,
        service: String,
        server: String,
        outcome: Result<String, String>,
    ) {
        let Some(spec) = self.state.spec.services.get(&service) else { return };
        if !spec.servers.contains_key(&server) {
            return;
        }
        let (rise, fall, vip) = (spec.check.rise, spec.check.fall, spec.listen.addr.ip());
        let subject = (service.clone(), server.clone());
        let before = self.known.get(&subject).copied().unwrap_or(Health::Unknown);
        let after = before.next(outcome.is_ok(), rise, fall);
        let wall_ms = self.wall_ms(now);
        super::results::note(&mut self.results, &subject, &outcome, wall_ms);
        self.known.insert(subject, after);
        let changes = before.state() != after.state();
        let first = before.is_unchecked();
        if first {
            self.first_results.missing = self.first_results.missing.saturating_sub(1);
        }
        if first && changes {
            self.first_results.since.get_or_insert(now);
        } else {
            self.known_changes += u64::from(changes);
        }
        // That a server is up from the first is no news.
        if if first { outcome.is_ok() } else { !changes } {
            return;
        }
        let (kind, text) = match &outcome {
            Ok(said) => (EventKind::CheckUp, format!("{server} is up for {service}: {said}")),
            Err(why) => (EventKind::CheckDown, format!("{server} failed {service}: {why}")),
        };
        // Each director checks; the one that serves (of many VIPs the first) tells.
        if matches!(self.want(now, vip), Want::Hold(_)) {
            self.record_event(
                now,
                kind,
                format!("{service}/{server}"),
                text,
                "check",
                String::new(),
            );
        } else {
            self.log(text);
        }
    }

    fn compute_desired_state(&self, causes: Causes) -> DesiredState {
        if !self.is_director() {
            return DesiredState { causes: Some(causes), ..DesiredState::default() };
        }
        let spec = Arc::clone(&self.state.spec);
        let own = spec.nodes.get(&self.config.name).map_or_else(Vec::new, |n| n.addresses.clone());
        let others = self.state.facts.iter().filter(|(name, _)| **name != self.config.name);
        let macs = others.flat_map(|(_, f)| f.macs.iter());
        let macs = macs.filter_map(|m| m.as_slice().try_into().ok()).collect();
        let checks = self.read_ahead.configs.known(&self.state.text).map(|c| Arc::clone(&c.checks));
        let checks = checks.unwrap_or_else(|| Arc::new(forwarding::checks(&spec)));
        let down = forwarding::down(&self.known, &checks);
        let wanted = Wanted { spec, drained: self.state.drained(), down, own, macs };
        let before = &self.desired_state;
        // Looks at each server there is.
        let same =
            Arc::ptr_eq(&before.wanted.spec, &wanted.spec) && before.wanted.own == wanted.own;
        let duty = if same { before.duty.clone() } else { wanted.duty() };
        let all: BTreeSet<&IpAddr> = wanted.spec.vips.keys().chain(&causes.up).collect();
        let cover = all.into_iter().map(|v| (*v, duty.vips.contains(v))).collect();
        DesiredState { causes: Some(causes), cover, checks, wanted, duty, settled: false }
    }

    /// Asks for what the state wants and has not been asked for.
    pub(super) fn refresh_desired_state(&mut self, now: Time) {
        self.take_first_results(now);
        let causes = Causes {
            outside: self.outside,
            known_changes: self.known_changes,
            up: self.duty.foreign.clone(),
        };
        if self.desired_state.causes.as_ref() != Some(&causes) {
            self.desired_state = self.compute_desired_state(causes);
        }
        if self.desired_state.settled {
            return;
        }
        // Before that, entries of an earlier incarnation stay: an address must not lose its guard.
        if self.desired_state.cover != self.covered && self.caught_up {
            self.covered.clone_from(&self.desired_state.cover);
            self.actions.push(Action::Cover(self.covered.clone()));
        }
        if self.desired_state.checks != self.checked {
            self.checks_changed(now);
        }
        let may = self.table.is_some() || self.waited(now) || self.first_results.missing == 0;
        let asked = self.table.as_ref() == Some(&self.desired_state.wanted);
        if !self.table_asked && may && now >= self.table_retry && !asked {
            self.table = Some(self.desired_state.wanted.clone());
            self.table_asked = true;
            self.actions.push(Action::Forward(Box::new(self.desired_state.wanted.clone())));
        }
        self.desired_state.settled = self.desired_state.cover == self.covered
            && self.table.as_ref() == Some(&self.desired_state.wanted);
    }
}
