//! What nodes remember of each other's logs.
//!
//! Decides: whether a node that starts may vote. Each tells with its heartbeats what its log has
//! shown to a leader; the others keep that as long as they run, and give it back with their
//! answers. A node whose disk has less than it once showed, because an older copy was put back or
//! the file is gone, has forgotten what others count on: it votes no more, and says so to
//! everybody. A node that has just started waits for such answers before it votes: with its own
//! word those of a majority.
//!
//! Positions are (term, index): within a term what was acknowledged to its leader never leaves a
//! log, and terms never go back. So less is a loss, and nothing but a loss. Two losses show without
//! anybody's memory: a voter without a log, since it got its vote with the log; and a node that is
//! the only voter by its log, while another speaks that joined later.

use std::collections::{BTreeMap, BTreeSet};

use nines_model::Time;

use super::Node;
use crate::{
    action::Action,
    lease::promise_ns,
    wire::{Ack, Awaits, Heartbeat, Persist},
};

/// What this node knows of others' logs, and whether others know its own.
#[derive(Default)]
pub struct LostLog {
    /// The furthest that each voter has shown.
    shown: BTreeMap<u64, (u64, u64)>,
    /// Who has answered this incarnation, and remembers nothing that is missing here.
    answered: BTreeSet<u64>,
    /// A majority has.
    vouched: bool,
    /// Why this node votes no more, restarted or not.
    pub(super) retired: bool,
    /// Nodes that vote no more, when the leader last told it.
    told: BTreeSet<u64>,
}

impl Node {
    /// What a heartbeat shows of its sender's log.
    pub(super) fn remember(&mut self, now: Time, from: u64, beat: &Heartbeat) {
        let voters = self.consensus.voters();
        // One without a vote may begin anew: nobody counts on what it has.
        // A copy of it may go on with what it never got.
        if voters.contains(&from) && self.may_ask(now, from) {
            let shown = self.lost_log.shown.entry(from).or_default();
            *shown = (*shown).max((beat.term, beat.acked));
        }
        let me = self.config.id;
        // It let every newcomer in itself.
        if voters == [me] && self.may_be_newer(from) && !self.is_double(now, me) {
            self.retire(format!("its log is older than the cluster: node {from} joined after it"));
        }
        let before = self.membership.peer(from).map_or(Awaits::Nothing, |p| p.beat.awaits());
        if ![before, Awaits::Nothing].contains(&beat.awaits()) {
            let line = format!("{} {}", self.name_of(from), beat.awaits().words());
            self.log(line);
        }
    }

    /// Position that an answer to this node gives back.
    pub(super) fn remembered(&self, id: u64) -> (u64, u64) {
        let shown = self.lost_log.shown.get(&id).copied().unwrap_or_default();
        let least = if self.consensus.voters().contains(&id) { (1, 1) } else { (0, 0) };
        shown.max(least)
    }

    /// Somebody says what this node has shown before.
    pub(super) fn reminded(&mut self, now: Time, from: u64, ack: &Ack) {
        if self.is_double(now, self.config.id) {
            return;
        }
        let (term, _, last) = self.consensus.shown();
        if (ack.term, ack.acked) <= (term, last) {
            self.lost_log.answered.insert(from);
            return;
        }
        let name = self.name_of(from);
        self.retire(if last == 0 {
            format!("its log is gone, and {name} remembers that it had one")
        } else {
            format!(
                "its log is older than what it acknowledged: it ends at entry {last} of term \
                 {term}, and {name} remembers entry {} of term {}",
                ack.acked, ack.term
            )
        });
    }

    /// Votes no more, also after a restart.
    fn retire(&mut self, why: String) {
        if self.broken.is_some() {
            return;
        }
        let next = Self::rebuild(&self.config.name);
        self.log(format!("this node votes no more: {why}; {next}"));
        let persist = Persist { retired: Some(why.clone()), ..Persist::default() };
        self.actions.push(Action::Persist(0, Box::new(persist)));
        self.broken = Some(why);
        self.lost_log.retired = true;
    }

    /// What a person can do about a node that votes no more for good.
    pub fn rebuild(name: &str) -> String {
        format!(
            "put the newest copy of the state directory of {name} back; if there is none: on {name} \
             stop the agent, move the directory away, and join it again as {name} (nines code, on \
             another node)"
        )
    }

    /// Whether a restart cannot fix what keeps this node from voting.
    pub fn is_retired(&self) -> bool {
        self.lost_log.retired
    }

    /// Whether this node may vote and renew leases: a majority has answered since it started, and
    /// nobody remembers more of its log than it has.
    pub(super) fn may_vote(&mut self, now: Time) -> bool {
        // The members are those at the end of what is known to be committed.
        let read = self.consensus.applied_index() >= self.consensus.committed();
        if !self.lost_log.vouched && read {
            let (voters, me) = (self.consensus.voters(), self.config.id);
            let answered = |id: &&u64| **id == me || self.lost_log.answered.contains(id);
            let majority = voters.iter().filter(answered).count() * 2 > voters.len();
            // Who needs no answer listens first: somebody may have joined after its log ended.
            let listened = now.since(self.started) >= promise_ns(self.lease());
            self.lost_log.vouched =
                voters.contains(&me) && majority && (voters.len() > 1 || listened);
        }
        self.lost_log.vouched
    }

    /// Whether messages of another node may change this node's log: not before others have said
    /// what it must have. One without a vote asks the sender alone.
    pub(super) fn may_learn(&mut self, now: Time, from: u64) -> bool {
        if self.consensus.voters().contains(&self.config.id) {
            self.may_vote(now)
        } else {
            self.lost_log.answered.contains(&from)
        }
    }

    /// What this node waits for; one that votes no more waits for nothing.
    pub fn awaits(&self, now: Time) -> Awaits {
        if self.broken.is_some() || self.consensus.voters().contains(&self.config.id) {
            return Awaits::Nothing;
        }
        let lease = self.state.spec.timing.lease;
        let mut heard = self.membership.ever_heard();
        match self.state.members.contains_key(&self.config.id) {
            true => Awaits::Vote,
            false if !self.state.members.is_empty() => Awaits::Newest,
            false if heard.any(|id| self.membership.alive(now, id, lease)) => Awaits::Log,
            false => Awaits::Member,
        }
    }

    /// Why a node votes no more, by its own word.
    pub fn broken_of(&self, id: u64) -> Option<&str> {
        if id == self.config.id {
            return self.broken();
        }
        let said = self.membership.peer(id).map(|p| p.beat.broken.as_str());
        said.filter(|why| !why.is_empty())
    }

    /// Whether that is for good.
    pub fn is_retired_of(&self, id: u64) -> bool {
        let said = self.membership.peer(id).is_some_and(|p| p.beat.retired);
        if id == self.config.id { self.is_retired() } else { said }
    }

    /// The leader tells, once, that a node votes no more.
    pub(super) fn tell_broken(&mut self, now: Time) {
        let broken = |id: &u64| self.broken_of(*id).is_some();
        let all: BTreeSet<u64> = self.state.members.keys().copied().filter(broken).collect();
        let new: Vec<u64> = all.difference(&self.lost_log.told).copied().collect();
        if !new.is_empty() && !self.consensus.leads() {
            return;
        }
        self.lost_log.told = all;
        for id in new {
            let name = self.name_of(id);
            // The leader before may have told it.
            let last = self.state.story.newest(&["no-vote", "beat-back", "join"], &name);
            if last.is_some_and(|event| event.told.kind == "no-vote") {
                continue;
            }
            let why = self.broken_of(id).unwrap_or_default();
            let text = format!("{name} votes no more and holds no VIP: {why}");
            self.record_event(now, "no-vote", name, text, "auto", String::new());
        }
    }
}
