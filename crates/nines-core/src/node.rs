//! The node: wires the small machines together.
//!
//! Decides: what each event means for which machine, and the order of effects. `node/heartbeat.rs`
//! speaks to peers, `node/log.rs` to the log, `node/vips.rs` to the VIPs, `node/leases.rs` keeps
//! promises, `node/failover.rs` holds what only a leader does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_model::{Millis, Role, Spec, Time};

use crate::{
    action::{Action, Refusal},
    consensus::{Consensus, TICK_MS, disk},
    event::Event,
    forwarding,
    lease::Promises,
    membership::Membership,
    snapshot,
    state::State,
    vip::{Phase, Vip},
    wire::{Command, LogEvent, Persisted, RaftMessage, command::Kind},
};

mod append_gate;
mod bulk;
mod desired_state;
mod failover;
mod fitness;
mod heartbeat;
mod incarnation;
mod joining;
mod leases;
mod log;
mod lost_log;
mod promise_bound;
mod reachability;
mod read_ahead;
pub mod results;
mod views;
mod vips;

/// Disk writes that the consensus does not wait for have numbers from here on.
const LONG_PROMISE: u64 = 1 << 62;

/// Name and numbers of this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of the node in the consensus.
    pub id: u64,
    /// Name of the node.
    pub name: String,
    /// Unlike any number of an earlier incarnation: command numbers start here.
    pub boot: u64,
    /// Which boot of the machine this is: a boot clock means nothing in another.
    pub machine_boot: u64,
    /// Number of the machine and of the file that holds the log: a copy has another; 0: not known.
    pub place: u64,
    /// Members known from joining: spoken to until the log names them.
    pub seeds: Vec<u64>,
}

/// One node of the cluster as a state machine.
pub struct Node {
    config: Config,
    state: State,
    consensus: Consensus,
    read_ahead: read_ahead::ReadAhead,
    under_way: BTreeMap<u64, bulk::UnderWay>,
    membership: Membership,
    incarnation: incarnation::OwnIncarnation,
    promises: Promises,
    promise_bound: promise_bound::PromiseBound,
    vips: BTreeMap<IpAddr, Vip>,
    duty: vips::OwnVips,
    voter: leases::Voter,
    known: forwarding::Known,
    results: results::Results,
    /// Raised when a server's state by its checks changes.
    known_changes: u64,
    first_results: desired_state::FirstResults,
    desired_state: desired_state::DesiredState,
    /// The table the data plane was last asked to hold, and whether its answer is awaited.
    table: Option<forwarding::Wanted>,
    table_asked: bool,
    /// The spec of the last table by which the data plane forwards.
    forwards: Option<Arc<Spec>>,
    table_retry: Time,
    /// The data plane holds the table.
    ready: bool,
    /// What the next heartbeat takes along, by peer.
    with_beat: BTreeMap<u64, Vec<crate::wire::Frame>>,
    /// States on their way to followers.
    sent: joining::Sent,
    append_gate: append_gate::AppendGate,
    lost_log: lost_log::LostLog,
    /// Log messages that wait for a promise to end.
    held: Vec<(Time, RaftMessage)>,
    /// Raised when what waits there changes.
    held_changes: u64,
    planned: failover::Planned,
    /// Raised by each applied entry that decides anything about VIPs and nodes.
    decided: u64,
    /// Raised by each that what is outside depends on: table, checks, guard.
    outside: u64,
    pending: BTreeMap<u64, (u64, Time)>,
    proposed: BTreeMap<IpAddr, Time>,
    blocked: BTreeMap<IpAddr, String>,
    /// Commands that wait for a leader, as long as their proposers wait.
    unwritten: Vec<Command>,
    unrecorded: Vec<LogEvent>,
    unrecorded_after: Time,
    facts: Option<crate::wire::Facts>,
    behind: BTreeSet<u64>,
    facts_after: Time,
    covered: Vec<(IpAddr, bool)>,
    checked: Arc<Vec<crate::action::CheckTask>>,
    next_long: u64,
    next_number: u64,
    next_action: u64,
    next_beat: Time,
    next_tick: Time,
    lead_after: Time,
    wall_offset: i128,
    restart: Option<(Millis, Time)>,
    stopping: bool,
    broken: Option<String>,
    started: Time,
    /// The log of this incarnation has been read as far as a leader knows it.
    caught_up: bool,
    actions: Vec<Action>,
}

/// The consensus of a node that starts.
fn consensus(config: &Config, state: &State, kept: &Persisted) -> Consensus {
    let place = state.members.keys().position(|id| *id == config.id);
    // A node that joins does not know the others yet; ids are given in their order.
    let rank = place.map_or(config.id.saturating_sub(1), |place| place as u64);
    Consensus::new(config.id, rank, state.spec.timing.election.0, kept)
}

impl Node {
    /// A node that starts from what the disk kept.
    pub fn new(config: Config, now: Time, kept: &Persisted) -> Self {
        let mut read_ahead = read_ahead::ReadAhead::default();
        let decoded = snapshot::decode(&kept.snapshot.data, &mut read_ahead.configs);
        // Never guess: a voter with an empty state would renew anybody's lease (S27).
        let mut broken = match &decoded {
            Some(_) => None,
            None => Some("a snapshot that this version cannot read".to_owned()),
        };
        if !kept.retired.is_empty() {
            broken = Some(kept.retired.clone());
        }
        let empty = Persisted::default();
        let kept = match disk::sound(kept) {
            Ok(()) => kept,
            Err(why) => {
                broken = Some(format!("the log on disk is damaged: {why}"));
                &empty
            }
        };
        let state = decoded.unwrap_or_default();
        let (lease, restart) = read_ahead.longest_timing(&state, kept);
        let consensus = consensus(&config, &state, kept);
        let until = promise_bound::kept_until(&config, now, &kept.long_promise, restart);
        let incarnation = incarnation::OwnIncarnation::new(&config, kept);
        let promises = Promises::after_restart(now, lease, until);
        let mut node = Self {
            next_number: config.boot,
            config,
            state,
            consensus,
            read_ahead,
            under_way: BTreeMap::new(),
            membership: Membership::default(),
            incarnation,
            promises,
            promise_bound: promise_bound::PromiseBound::new(until, lease),
            vips: BTreeMap::new(),
            duty: vips::OwnVips::default(),
            voter: leases::Voter::default(),
            known: BTreeMap::new(),
            results: results::Results::default(),
            with_beat: BTreeMap::new(),
            known_changes: 0,
            first_results: desired_state::FirstResults::default(),
            desired_state: desired_state::DesiredState::default(),
            table: None,
            table_asked: false,
            forwards: None,
            table_retry: Time(0),
            ready: false,
            sent: joining::Sent::default(),
            append_gate: append_gate::AppendGate::default(),
            lost_log: lost_log::LostLog::default(),
            held: Vec::new(),
            held_changes: 0,
            planned: failover::Planned::default(),
            decided: 0,
            outside: 0,
            pending: BTreeMap::new(),
            proposed: BTreeMap::new(),
            blocked: BTreeMap::new(),
            unwritten: Vec::new(),
            unrecorded: Vec::new(),
            unrecorded_after: Time(0),
            facts: None,
            behind: BTreeSet::new(),
            facts_after: Time(0),
            covered: Vec::new(),
            checked: Arc::default(),
            next_long: LONG_PROMISE,
            next_action: 1,
            next_beat: now,
            next_tick: now,
            lead_after: Time(0),
            wall_offset: 0,
            restart: None,
            stopping: false,
            broken,
            started: now,
            caught_up: false,
            actions: Vec::new(),
        };
        node.lost_log.retired = node.broken.is_some();
        if !node.incarnation.moved {
            node.keep_life();
        }
        node.all_vips_changed();
        node
    }

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
            Event::Persisted(number) if number >= LONG_PROMISE => self.kept(number),
            Event::Persisted(number) => {
                self.state_kept(number);
                let messages = self.consensus.persisted(number);
                self.send_raft(now, messages);
            }
            Event::PersistFailed(why) => {
                self.log(format!("the log cannot be written: {why}; this node votes no more"));
                self.broken = Some(why);
                self.all_vips_changed();
            }
            Event::Performed { id, result } => self.performed(now, id, &result),
            Event::Read(config) => self.was_read(now, config),
            Event::Forwarded(result) => self.forwarded(now, result),
            Event::Checked { service, server, outcome } => {
                self.checked(now, service, server, outcome);
            }
            Event::Propose { request, command } => self.propose(now, request, command),
            Event::Facts(facts) => self.facts_changed(now, facts),
            Event::Restored { vips, how } => self.restored(now, &vips, &how),
            Event::Behind(nodes) => self.behind = nodes,
            Event::Undelivered(id) => self.undelivered(id),
            Event::Restart(ms) => {
                self.restart = Some((Millis(ms), now));
                self.next_beat = now;
            }
            Event::Stop => {
                self.stopping = true;
                self.next_beat = now;
            }
            Event::FirstPacket(vip) => self.first_packet(now, vip),
        }
        self.advance(now);
    }

    /// When to call `handle(_, Event::Tick)` at the latest.
    pub fn next_deadline(&self) -> Time {
        let mut next = self.next_tick.min(self.next_beat);
        for (until, _) in &self.held {
            next = next.min(*until);
        }
        self.duty.next().map_or(next, |at| next.min(at))
    }

    /// What to do, in this order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Lets every machine move on as far as it can.
    fn advance(&mut self, now: Time) {
        // The tick that comes next shares the heartbeat's wake-up; the clock of ticks goes on as it
        // was.
        let early = if now >= self.next_beat { Millis(TICK_MS).ns() - 1 } else { 0 };
        self.ticks(Time(now.0 + early));
        self.release_held(now);
        self.pump(now);
        // Half a second with a leader: its heartbeats have told what is committed.
        let told = self.consensus.leader() != 0 && now.since(self.started) > Millis(500).ns();
        let read = told && self.read_ahead.entries.is_empty();
        if !self.caught_up && (self.consensus.leads() || read) {
            self.caught_up = true;
            self.all_vips_changed();
        }
        self.run_vips(now);
        if now >= self.next_beat {
            self.beat(now);
            // On schedule, so that heartbeats and ticks share their wake-ups; after a pause from
            // now.
            let beat = self.state.spec.timing.beat;
            let next = self.next_beat.plus(beat);
            self.next_beat = if next > now { next } else { now.plus(beat) };
        }
        self.watch_peers(now);
        self.tell_double(now);
        self.confirm(now);
        if self.consensus.leads() && now >= self.lead_after {
            self.lead(now);
        }
        self.run_vips(now);
        self.refresh_desired_state(now);
        self.flush_proposals(now);
        self.pump(now);
        self.run_vips(now);
        self.finish_restart_or_stop(now);
        self.expire_pending(now);
    }

    fn ticks(&mut self, now: Time) {
        // After a pause a few ticks are made up for, not hours of them.
        let mut made_up = 0;
        while now >= self.next_tick {
            self.next_tick = self.next_tick.plus(Millis(TICK_MS));
            let votes = self.broken.is_none() && !self.incarnation.moved && self.may_vote(now);
            if votes && made_up < 3 {
                self.consensus.tick();
            }
            made_up += 1;
            if made_up > 100 {
                self.next_tick = now.plus(Millis(TICK_MS));
            }
        }
    }

    fn lease(&self) -> Millis {
        self.state.spec.timing.lease
    }

    fn id_of(&self, name: &str) -> u64 {
        self.state.member(name).map_or(0, |m| m.id)
    }

    fn name_of(&self, id: u64) -> String {
        self.state.members.get(&id).map_or_else(|| format!("node {id}"), |m| m.name.clone())
    }

    fn is_director(&self) -> bool {
        self.state.spec.nodes.get(&self.config.name).is_some_and(|n| n.role == Role::Director)
    }

    fn log(&mut self, line: String) {
        self.actions.push(Action::Log(line));
    }

    /// Ms since 1970, for people.
    pub fn wall_ms(&self, now: Time) -> u64 {
        ((i128::from(now.0) + self.wall_offset) / 1_000_000).max(0) as u64
    }

    fn record_vip_event(&mut self, now: Time, vip: IpAddr, kind: &str, text: String) {
        let subject = self.state.spec.vip_name(vip);
        let cause = self.cause_of(vip);
        self.record_event(now, kind, subject, text, "auto", cause);
    }

    fn record_event(
        &mut self,
        now: Time,
        kind: &str,
        subject: String,
        text: String,
        actor: &str,
        cause: String,
    ) {
        self.log(text.clone());
        if self.unrecorded.len() < 200 {
            self.unrecorded.push(LogEvent {
                at_ms: self.wall_ms(now),
                node: self.config.name.clone(),
                kind: kind.into(),
                subject,
                text,
                actor: actor.into(),
                cause,
            });
        }
    }

    fn finish_restart_or_stop(&mut self, now: Time) {
        if let Some((length, asked)) = self.restart {
            let enough = now.0 + length.ns() / 5 * 4;
            if self.renewed_until().0 >= enough || now.since(asked) > 1_000_000_000 {
                self.restart = None;
                self.actions.push(Action::RestartReady);
            }
        }
        let idle = || self.vips.values().all(|v| v.phase == Phase::Off);
        let owes = || self.state.vips.values().any(|h| h.node() == self.config.name);
        if self.stopping && ((idle() && !owes()) || self.nobody_can_take_over(now)) {
            self.stopping = false;
            self.actions.push(Action::StopReady);
        }
    }

    fn expire_pending(&mut self, now: Time) {
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, (_, at))| *at <= now).map(|(n, _)| *n).collect();
        for number in late {
            let (request, _) = self.pending.remove(&number).expect("listed a moment ago");
            let unwritten = self.unwritten.iter().position(|c| c.number == number);
            let why = if let Some(at) = unwritten {
                self.unwritten.remove(at);
                "no leader: fewer than a majority of nodes can be reached".to_owned()
            } else {
                "no majority answered in time; it may still be done later".to_owned()
            };
            self.actions.push(Action::Reply { request, result: Err(Refusal::NoQuorum(why)) });
        }
    }

    fn propose(&mut self, now: Time, request: u64, mut command: Command) {
        command.node = self.config.id;
        command.number = self.next_number;
        command.at_ms = self.wall_ms(now);
        self.next_number += 1;
        let limit = read_ahead::allowance(&command);
        self.pending.insert(command.number, (request, now.plus(limit)));
        if !self.write(&command) {
            // An election takes a moment; it is written when somebody leads.
            self.unwritten.push(command);
        }
    }

    fn propose_own(&mut self, now: Time, kind: Kind, cause: String) -> bool {
        let command = Command {
            node: self.config.id,
            number: self.next_number,
            at_ms: self.wall_ms(now),
            actor: "auto".into(),
            cause,
            kind: Some(kind),
        };
        self.next_number += 1;
        self.write(&command)
    }
}
