//! Health checks: what is known of each server, and what of that enters the forwarding table.
//!
//! Decides: when results change the table. First results come in hundreds, and a table for each
//! would cost more than all. Rise and fall are in `health.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use nines_model::{Millis, ServerRef, Time, Traffic};

use super::{Node, results};
use crate::{
    action::Action,
    event_log::EventKind,
    forwarding,
    health::{CheckTasks, Health},
    vip::Want,
};

/// The first table waits so long for the first results of checks.
const FIRST_TABLE: Millis = Millis(400);
/// Later ones wait so long for more first results, and a millisecond more for this many checks: the
/// more checks there are, the longer a table takes.
const MORE_RESULTS: Millis = Millis(20);
const CHECKS_PER_MS: u64 = 20;

/// What this node's checks have found.
#[derive(Default)]
pub(super) struct Checks {
    /// The checks that the agent makes.
    tasks: CheckTasks,
    known: forwarding::Known,
    results: results::Results,
    /// Raised when a server's state by its checks changes.
    changes: u64,
    first: FirstResults,
}

impl Checks {
    /// Health of each server.
    pub(super) fn known(&self) -> &forwarding::Known {
        &self.known
    }

    /// Results of checks of each server.
    pub(super) fn results(&self) -> &results::Results {
        &self.results
    }

    /// Raised when a server's state by its checks changes.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether the agent makes other checks than these.
    pub(super) fn differ(&self, tasks: &CheckTasks) -> bool {
        !self.tasks.are_same(tasks)
    }

    /// Whether the first table need not wait for more results.
    pub(super) fn suffice(&self, now: Time) -> bool {
        self.waited(now) || self.first.missing == 0
    }

    /// The first table waits no longer for first results.
    fn waited(&self, now: Time) -> bool {
        self.first.checks_since.is_none_or(|since| now.since(since) > FIRST_TABLE.ns())
    }

    /// First results enter the table when the last one is there, or some after a moment. `first`:
    /// no table was made yet.
    pub(super) fn take_first_results(&mut self, now: Time, first: bool) {
        let patience = Millis(MORE_RESULTS.0 + self.tasks.count() as u64 / CHECKS_PER_MS).ns();
        let at_once = self.first.missing == 0 || (first && self.waited(now));
        let over = |since: Time| at_once || now.since(since) >= patience;
        if self.first.since.is_some_and(over) {
            self.first.since = None;
            self.changes += 1;
        }
    }
}

/// First results of checks.
#[derive(Default)]
struct FirstResults {
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
        self.checks.first.inherited = serving;
    }

    /// Other checks are to be made: what is known of servers that stay is kept.
    pub(super) fn checks_changed(&mut self, now: Time) {
        let before: BTreeMap<_, _> =
            self.checks.tasks.iter().map(|c| (c.subject(), c.addr)).collect();
        self.checks.tasks = self.desired_state.checks().clone();
        let present: BTreeMap<_, _> =
            self.checks.tasks.iter().map(|c| (c.subject(), c.addr)).collect();
        let count = self.checks.known.len();
        // At another address it is another server.
        self.checks.known.retain(|subject, _| {
            let addr = present.get(subject);
            addr.is_some() && before.get(subject).is_none_or(|old| Some(old) == addr)
        });
        let known = &self.checks.known;
        self.checks.results.retain(|subject, _| known.contains_key(subject));
        let mut changed = self.checks.known.len() != count;
        if self.requested.is_first() && !self.checks.first.inherited.is_empty() {
            let unknown =
                present.keys().filter(|subject| !self.checks.known.contains_key(*subject));
            for subject in unknown.cloned().collect::<Vec<_>>() {
                let service = &self.state.spec.services[&subject.service];
                let server = (service.traffic(), service.servers[&subject.server].addr);
                if self.checks.first.inherited.contains(&server) {
                    self.checks.known.insert(subject, Health::Inherited);
                    changed = true;
                }
            }
        }
        let unchecked = |subject: &&ServerRef| {
            self.checks.known.get(*subject).is_none_or(|health| health.is_unchecked())
        };
        self.checks.first.missing = present.keys().filter(unchecked).count();
        if changed {
            // What is no longer checked is no longer down: the table says otherwise.
            self.checks.changes += 1;
            self.results_changed();
        }
        self.checks.first.checks_since = Some(now);
        self.actions.push(Action::Check(self.checks.tasks.clone()));
    }

    /// A health check has ended.
    pub(super) fn checked(
        &mut self,
        now: Time,
        subject: ServerRef,
        outcome: Result<String, String>,
    ) {
        let Some(spec) = self.state.spec.services.get(&subject.service) else { return };
        if !spec.servers.contains_key(&subject.server) {
            return;
        }
        let (rise, fall, vip) = (spec.check.rise, spec.check.fall, spec.listen.addr.ip());
        let before = self.checks.known.get(&subject).copied().unwrap_or(Health::Unknown);
        let after = before.next(outcome.is_ok(), rise, fall);
        let wall_ms = self.wall_ms(now);
        results::note(&mut self.checks.results, &subject, &outcome, wall_ms);
        self.checks.known.insert(subject.clone(), after);
        let changes = before.state() != after.state();
        let first = before.is_unchecked();
        if first {
            self.checks.first.missing = self.checks.first.missing.saturating_sub(1);
        }
        if first && changes {
            self.checks.first.since.get_or_insert(now);
        } else {
            self.checks.changes += u64::from(changes);
        }
        // That a server is up from the first is no news.
        if if first { outcome.is_ok() } else { !changes } {
            return;
        }
        let ServerRef { service, server } = &subject;
        let (kind, text) = match &outcome {
            Ok(said) => (EventKind::CheckUp, format!("{server} is up for {service}: {said}")),
            Err(why) => (EventKind::CheckDown, format!("{server} failed {service}: {why}")),
        };
        // Each director checks; the one that serves (of many VIPs the first) tells.
        if matches!(self.want(now, vip), Want::Hold(_)) {
            self.record_event(now, kind, subject.to_string(), text, "check", String::new());
        } else {
            self.log(text);
        }
    }
}
