//! The world outside follows the state: guard, checks, forwarding table.
//!
//! Decides: when they are made anew. A cluster may have ten thousand services, and hundreds of
//! heartbeats come in a second, so nothing here is computed unless something it depends on changed.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use nines_model::{Millis, RealServerRole, Spec, Time};

use super::Node;
use crate::{
    action::Operation,
    event_log::EventKind,
    forwarding::{self, Wanted},
    health::CheckTasks,
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
    checks: CheckTasks,
    wanted: Wanted,
    duty: RealServerRole,
    settled: bool,
}

impl DesiredState {
    /// The checks that go with the config in force.
    pub(super) fn checks(&self) -> &CheckTasks {
        &self.checks
    }
}

/// When a table or a set of guarded VIPs that could not be applied is tried again.
const TABLE_AGAIN: Millis = Millis(1_000);

/// What was asked of the data plane.
#[derive(Default)]
pub(super) struct Requested {
    /// The table it was last asked to hold, and whether its answer is awaited.
    table: Option<Wanted>,
    awaited: bool,
    /// One that could not be applied is not tried again before.
    retry: Time,
    /// The spec of the last table by which it forwards.
    forwards: Option<Arc<Spec>>,
    /// It holds the table.
    ready: bool,
    /// VIPs it guards; `true`: a real server on this node serves it too.
    covered: Vec<(IpAddr, bool)>,
    /// The last set could not be written, and is not tried again before.
    cover_again: Option<Time>,
}

impl Requested {
    /// Whether clients of this VIP are forwarded.
    pub(super) fn forwards(&self, vip: IpAddr) -> bool {
        self.forwards.as_ref().is_some_and(|spec| spec.vips.contains_key(&vip))
    }

    /// Whether no table was asked for yet, or the last one could not be applied.
    pub(super) fn is_first(&self) -> bool {
        self.table.is_none()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    #[cfg(test)]
    pub(super) fn set_forwards(&mut self, spec: Arc<Spec>) {
        self.forwards = Some(spec);
    }
}

impl Node {
    /// Other servers are checked now, so that what is known of servers has changed although no
    /// check has ended: computes the desired state again.
    pub(super) fn results_changed(&mut self) {
        self.desired_state = self.compute_desired_state(Causes {
            known_changes: self.checks.changes(),
            ..self.desired_state.causes.clone().unwrap_or_default()
        });
    }

    pub(super) fn forwarded(&mut self, now: Time, result: Result<(), String>) {
        self.requested.awaited = false;
        match result {
            Ok(()) => {
                self.requested.ready = true;
                let spec = self.requested.table.as_ref().map(|wanted| &wanted.spec);
                let same = |old: &Arc<_>| spec.is_some_and(|new| Arc::ptr_eq(old, new));
                if !self.requested.forwards.as_ref().is_some_and(same) {
                    self.requested.forwards = spec.cloned();
                    self.all_vips_changed();
                }
            }
            Err(why) => {
                self.requested.ready = false;
                self.requested.table = None;
                self.desired_state.settled = false;
                self.requested.retry = now.plus(TABLE_AGAIN);
                self.log(format!("the forwarding table could not be applied: {why}"));
            }
        }
    }

    /// The set of guarded VIPs could not be written.
    pub(super) fn not_covered(&mut self, now: Time) {
        self.requested.cover_again = Some(now.plus(TABLE_AGAIN));
        self.desired_state.settled = false;
    }

    pub(super) fn first_packet(&mut self, now: Time, vip: IpAddr) {
        let name = self.state.spec.vip_name(vip);
        let text = format!("first client packet for {name} forwarded by {}", self.config.name);
        self.record_vip_event(now, vip, EventKind::FirstPacket, text);
    }

    fn compute_desired_state(&self, causes: Causes) -> DesiredState {
        if !self.is_director() {
            return DesiredState { causes: Some(causes), ..DesiredState::default() };
        }
        let spec = Arc::clone(&self.state.spec);
        let own = spec.nodes.get(&self.config.name).map_or_else(Vec::new, |n| n.addresses.clone());
        let others =
            self.state.members.facts().iter().filter(|(name, _)| **name != self.config.name);
        let macs = others.flat_map(|(_, f)| f.macs.iter());
        let macs = macs.filter_map(|m| m.as_slice().try_into().ok()).collect();
        let before = &self.desired_state;
        let checks = if Arc::ptr_eq(&before.wanted.spec, &spec) {
            before.checks.clone()
        } else {
            before.checks.after(&spec)
        };
        let down = forwarding::down(self.checks.known(), &checks);
        let wanted = Wanted { spec, drained: self.state.drained(), down, own, macs };
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
        self.checks.take_first_results(now, self.requested.is_first());
        let causes = Causes {
            outside: self.changes.outside,
            known_changes: self.checks.changes(),
            up: self.own_vips.foreign.clone(),
        };
        if self.desired_state.causes.as_ref() != Some(&causes) {
            self.desired_state = self.compute_desired_state(causes);
        }
        if self.desired_state.settled {
            return;
        }
        // Before that, entries of an earlier incarnation stay: an address must not lose its guard.
        let again = self.requested.cover_again;
        let cover = again.is_some() || self.desired_state.cover != self.requested.covered;
        if cover && self.caught_up && again.is_none_or(|at| now >= at) {
            self.requested.cover_again = None;
            self.requested.covered.clone_from(&self.desired_state.cover);
            self.perform(Operation::Cover(self.requested.covered.clone()));
        }
        if self.checks.differ(&self.desired_state.checks) {
            self.checks_changed(now);
        }
        let may = !self.requested.is_first() || self.checks.suffice(now);
        let asked = self.requested.table.as_ref() == Some(&self.desired_state.wanted);
        if !self.requested.awaited && may && now >= self.requested.retry && !asked {
            self.requested.table = Some(self.desired_state.wanted.clone());
            self.requested.awaited = true;
            self.perform(Operation::Forward(Box::new(self.desired_state.wanted.clone())));
        }
        self.desired_state.settled = self.requested.cover_again.is_none()
            && self.desired_state.cover == self.requested.covered
            && self.requested.table.as_ref() == Some(&self.desired_state.wanted);
    }
}
