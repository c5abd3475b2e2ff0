//! The node: routes each event to the subsystem that it concerns, and lets all of them go on.
//!
//! The subsystems are in `node/`, each with its own state. They do their work in this order, after
//! each event ([`Node::advance`]):
//!
//! 1. The clock of the consensus ticks, if heartbeats have told that this node may vote.
//! 2. Messages whose promise has ended enter the consensus (`voter/append_gate.rs`).
//! 3. The log: messages leave, the disk is asked, committed entries are applied (`log.rs`).
//! 4. VIPs follow the state (`vips.rs`); what leaves the common deadline leaves it first.
//! 5. The heartbeat, when it is due (`heartbeat.rs`); it asks for renewals.
//! 6. Peers that are silent, back, run twice or have another config are told of (`heartbeat.rs`,
//!    `incarnation.rs`, `feature_level.rs`).
//! 7. A leader plans (`failover.rs`).
//! 8. Fence devices are asked what the log or a lost majority of two wants (`fencing.rs`,
//!    `alone.rs`), and VIPs again: a heartbeat may have renewed them.
//! 9. Guard, checks and forwarding table follow the state (`desired_state.rs`, `checks.rs`).
//! 10. What waits for the log is written (`proposals.rs`, `event_log.rs`, `fitness.rs`), and 3. and
//!     4. are done again: a node alone commits at once.
//! 11. The end of the process (`leaving.rs`), and proposers that waited too long (`proposals.rs`).

use std::collections::BTreeMap;

use nines_model::{Millis, NodeId, Time};

use crate::{
    action::{Action, Operation},
    event::Event,
    membership::Membership,
    state::State,
    voter::{self, Voter, consensus::TICK_MS},
    wire::WatchdogState,
};

mod alone;
mod bulk;
mod checks;
mod clock;
mod desired_state;
mod disk;
mod event_log;
mod failover;
mod feature_level;
mod fence_run;
mod fencing;
mod fitness;
mod heartbeat;
mod incarnation;
mod joining;
mod leaving;
mod log;
mod lost_log;
mod operations;
mod probe;
mod proposals;
mod quarantine;
mod reachability;
pub mod rebuild;
mod relay;
pub mod removal;
pub mod results;
mod start;
mod views;
mod vips;
mod watchdog;

pub use fencing::FenceBlock;
pub use quarantine::Quarantine;
pub use start::Config;
pub use watchdog::UnderLease;

/// A leader is heard so long before this node believes to know what is committed: its heartbeats
/// have told by then.
const CAUGHT_UP: Millis = Millis(500);

/// One node of the cluster as a state machine.
pub struct Node {
    config: Config,
    state: State,
    changes: log::Changes,
    voter: Voter,
    /// Bytes of commands applied since the log was cut for its size.
    applied_bytes: usize,
    proposals: proposals::Proposals,
    unrecorded: event_log::Unrecorded,
    facts: fitness::OwnFacts,
    membership: Membership,
    incarnation: incarnation::HeardIncarnations,
    mail: heartbeat::Mail,
    relays: relay::Relays,
    probes: probe::Probes,
    under_way: BTreeMap<NodeId, bulk::UnderWay>,
    states_sent: joining::Sent,
    told_broken: lost_log::ToldBroken,
    rebuild: rebuild::Rebuild,
    clock: clock::OwnClock,
    /// Since when this node has heard a majority without a break; `None`: it does not.
    majority_since: Option<Time>,
    farewells: removal::Farewells,
    /// This node votes no more because its disk is full.
    disk_full: bool,
    /// This build does not read what the log says.
    outdated: bool,
    /// This node has come to another config than the others.
    differs: bool,
    operations: operations::Operations,
    own_vips: vips::OwnVips,
    checks: checks::Checks,
    desired_state: desired_state::DesiredState,
    requested: desired_state::Requested,
    leading: failover::Leading,
    fences: fencing::Fences,
    /// What this node says of its watchdog.
    own_watchdog: Option<WatchdogState>,
    alone: alone::Alone,
    leaving: leaving::Leaving,
    /// What must be added to the boot clock to get the wall clock, ns.
    wall_offset: i128,
    started: Time,
    /// The log of this incarnation has been read as far as a leader knows it.
    caught_up: bool,
    actions: Vec<Action>,
}

impl Node {
    /// Takes one event in.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.membership.running(now, self.lease());
        match event {
            Event::Tick => {}
            Event::WallClock(ns) => self.wall_offset = i128::from(ns) - i128::from(now.0),
            Event::Frame { from, link, bytes } => {
                // Most heartbeats say what the last one said.
                if !self.frame(now, from, link, &bytes) && now < self.next_deadline() {
                    return;
                }
            }
            Event::Persisted(number) => {
                let (voter, mut cx) = self.voter(now);
                let spoke = voter.may_speak();
                let messages = voter.persisted(&mut cx, number);
                if !spoke && voter.may_speak() {
                    self.mail.beat_next(now);
                }
                self.send_raft(now, messages);
            }
            Event::PersistFailed(fault, why) => self.disk_failed(now, fault, why),
            Event::DiskHasRoom => self.disk_has_room(),
            Event::Done { id, result } => {
                if !self.done(now, id, result) {
                    return;
                }
            }
            Event::OnLoopback(vips) => drop(self.perform(Operation::Serve(vips))),
            Event::Checked { server, outcome } => self.checked(now, server, outcome),
            Event::Propose { request, command } => self.propose(now, request, command),
            Event::Facts(facts) => self.facts_changed(now, facts),
            Event::Restored { vips, how } => self.restored(now, &vips, &how),
            Event::Behind(nodes) => self.facts.behind_of(nodes),
            Event::Undelivered(id) => self.undelivered(now, id),
            Event::Restart(ms) => {
                self.leaving.restart(now, Millis(ms));
                self.mail.beat_next(now);
            }
            Event::Stop => {
                self.leaving.stop(now);
                self.mail.beat_next(now);
            }
            Event::FirstPacket(vip) => self.first_packet(now, vip),
            Event::Watchdog(state) => self.watchdog_is(now, state),
        }
        self.advance(now);
    }

    /// When to call `handle(_, Event::Tick)` at the latest.
    pub fn next_deadline(&self) -> Time {
        let next = self.voter.next_deadline().min(self.mail.next_beat());
        self.own_vips.next().map_or(next, |at| next.min(at))
    }

    /// What to do, in this order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Lets every subsystem go on as far as it can, in the order of the list above.
    fn advance(&mut self, now: Time) {
        self.tick(now);
        for message in self.voter.due(now) {
            self.log_message(now, message);
        }
        self.pump(now);
        self.catch_up(now);
        self.run_vips(now);
        if now >= self.mail.next_beat() {
            self.beat(now);
            self.mail.beaten(now, self.state.spec.timing.beat);
        }
        self.watch_peers(now);
        self.compare_configs(now);
        self.compare_clocks(now);
        self.tell_double(now);
        self.confirm(now);
        if self.voter.consensus().leads() {
            if self.leading.is_due(now) {
                self.lead(now);
            }
        } else {
            self.leading.deaf.clear();
            if self.voter.consensus().is_leader() && self.leading.is_due(now) {
                self.hand_over_lagging(now);
            }
        }
        self.carry_orders_out(now);
        self.run_alone(now);
        self.run_vips(now);
        self.refresh_desired_state(now);
        if self.voter.consensus().leader().is_some() {
            self.write_waiting();
            self.flush_events(now);
            self.flush_facts(now);
        }
        self.pump(now);
        self.run_vips(now);
        self.finish_restart_or_stop(now);
        self.expire_pending(now);
    }

    fn tick(&mut self, now: Time) {
        // The tick that comes next shares the heartbeat's wake-up; the clock of ticks goes on as it
        // was.
        let early = if now >= self.mail.next_beat() { Millis(TICK_MS).ns() - 1 } else { 0 };
        let (voter, mut cx) = self.voter(now);
        voter.tick(&mut cx, Time(now.0 + early));
    }

    /// Notes when the log of this incarnation has been read as far as a leader knows it.
    fn catch_up(&mut self, now: Time) {
        let consensus = self.voter.consensus();
        let told = consensus.leader().is_some() && now.since(self.started) > CAUGHT_UP.ns();
        let read = told && !self.applies_no_more();
        if !self.caught_up && (consensus.leads() || read) {
            self.caught_up = true;
            self.all_vips_changed();
        }
    }

    /// The voter, and what it goes by.
    fn voter(&mut self, now: Time) -> (&mut Voter, voter::Context<'_>) {
        let (state, out) = (&self.state, &mut self.actions);
        (&mut self.voter, voter::Context { now, state, out })
    }

    fn log(&mut self, line: String) {
        self.actions.push(Action::Log(line));
    }
}
