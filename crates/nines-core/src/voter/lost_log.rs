//! What voters remember of each other's logs.
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

use nines_model::{LogIndex, NodeId};

use super::{Context, Voter, consensus};
use crate::{
    action::Action,
    lease::promise_ns,
    wire::{Ack, Begun, Persist, RaftMessage},
};

/// What this node knows of others' logs, and whether others know its own.
#[derive(Debug, Default)]
pub(super) struct LostLog {
    /// The furthest that each node has shown, of the log that it began by the entry of this index;
    /// 0: it never began anew.
    shown: BTreeMap<NodeId, (u64, (u64, LogIndex))>,
    /// Nodes that have answered this incarnation, and remember nothing that is missing here.
    answered: BTreeSet<NodeId>,
    /// A majority has.
    vouched: bool,
    /// A person says so in the place of others, who are off.
    by_person: bool,
    /// This node votes no more, restarted or not.
    retired: bool,
    /// It was removed from the cluster.
    removed: bool,
    /// By what it began anew, if it did.
    begun: Begun,
}

impl LostLog {
    pub(super) fn new(retired: bool, removed: bool, begun: Begun) -> Self {
        Self { retired, removed, begun, ..Self::default() }
    }
}

/// What a person can do about a node that votes no more for good.
pub fn rebuild(name: &str) -> String {
    format!(
        "while the other voters have a majority without {name} it begins anew by itself; else put \
         the newest copy of its state directory back; if there is none: on {name} stop the agent, \
         move the directory away, and join it again as {name} (nines code, on another node)"
    )
}

impl Voter {
    /// A heartbeat shows a position of its sender's log. Of a node that the consensus does not send
    /// to nothing is remembered: it may begin anew, nobody counts on what it has.
    /// `begun`: log index of the entry by which it began anew, if it did: of the log before that
    /// nothing counts.
    pub fn remember(&mut self, from: NodeId, begun: u64, position: (u64, LogIndex)) {
        if self.consensus.is_member(from) {
            let shown = self.memory.shown.entry(from).or_default();
            *shown = (*shown).max((begun, position));
        }
    }

    /// Whether this node is the only voter by its log.
    pub fn is_alone(&self) -> bool {
        self.consensus.voters() == [self.identity.id]
    }

    /// The position that an answer to this node gives back.
    pub fn remembered(&self, id: NodeId) -> (u64, LogIndex) {
        let (_, shown) = self.memory.shown.get(&id).copied().unwrap_or_default();
        let least =
            if self.consensus.is_voter(id) { (1, LogIndex(1)) } else { (0, LogIndex::ZERO) };
        shown.max(least)
    }

    /// Another node gives back the position that this one has shown before.
    pub fn reminded(&mut self, cx: &mut Context<'_>, from: NodeId, ack: &Ack) {
        // It does not know yet that this node began anew, and remembers what counts no more.
        if ack.membership() < self.memory.begun.index() {
            return;
        }
        let (term, _, last) = self.consensus.shown();
        let position = ack.position();
        if position <= (term, last) {
            self.memory.answered.insert(from);
            return;
        }
        let (of, entry) = position;
        let name = cx.name_of(from);
        let why = if last == LogIndex::ZERO {
            format!("its log is gone, and {name} remembers that it had one")
        } else {
            format!(
                "its log is older than what it acknowledged: it ends at entry {last} of term \
                 {term}, and {name} remembers entry {entry} of term {of}"
            )
        };
        self.retire(cx, why);
    }

    /// Votes no more, also after a restart.
    pub fn retire(&mut self, cx: &mut Context<'_>, why: String) {
        if self.broken.is_some() {
            return;
        }
        let next = rebuild(self.identity.name.as_str());
        cx.log(format!("this node votes no more: {why}; {next}"));
        let persist = Persist { retired: Some(why.clone()), ..Persist::default() };
        cx.out.push(Action::Persist(0, Box::new(persist)));
        self.broken = Some(why);
        self.memory.retired = true;
    }

    /// This node was removed from the cluster: it takes no part for good.
    pub fn removed(&mut self, cx: &mut Context<'_>) {
        if self.memory.removed {
            return;
        }
        let why = "it was removed from the cluster".to_owned();
        cx.log(format!("this node takes no part any more: {why}"));
        let persist = Persist { retired: Some(why.clone()), removed: true, ..Persist::default() };
        cx.out.push(Action::Persist(0, Box::new(persist)));
        self.broken = Some(why);
        (self.memory.retired, self.memory.removed) = (true, true);
    }

    /// Whether it was removed from the cluster.
    pub fn is_removed(&self) -> bool {
        self.memory.removed
    }

    /// By what this node began anew, if it did.
    pub fn begun(&self) -> Begun {
        self.memory.begun
    }

    /// Whether this node has lost its log, so that it may begin anew.
    pub fn is_lost(&self) -> bool {
        self.memory.retired && !self.memory.removed
    }

    /// What nodes have shown that the consensus sends nothing to is remembered no more: one that
    /// comes back begins anew.
    pub(super) fn forget_those_outside(&mut self) {
        let consensus = &self.consensus;
        self.memory.shown.retain(|id, _| consensus.is_member(*id));
    }

    /// Whether this asks for a vote that a node which began anew must not give: it may have voted
    /// in that term before, and has forgotten; or its log does not reach the entry yet that took
    /// its vote. From there on a candidate needs that entry to get a vote, and so everything that
    /// this node had acknowledged before.
    pub(super) fn has_forgotten_vote(&self, message: &RaftMessage) -> bool {
        let Begun { index, term } = self.memory.begun;
        let ends_before = self.consensus.last().0 < self.memory.begun.index();
        index != 0 && consensus::asks_for_vote(message) && (ends_before || message.term <= term)
    }

    /// Whether a restart cannot mend what keeps this node from voting.
    pub fn is_retired(&self) -> bool {
        self.memory.retired
    }

    /// Whether this node may vote and renew leases: a majority has answered since it started, and
    /// nobody remembers more of its log than it has.
    pub fn may_vote(&mut self, cx: &Context<'_>) -> bool {
        // The members are those at the end of what is known to be committed.
        let read = self.consensus.applied_index() >= self.consensus.committed();
        if !self.memory.vouched && read {
            let (voters, me) = (self.newest_voters(cx.state), self.identity.id);
            let answered = |id: &&NodeId| **id == me || self.memory.answered.contains(id);
            let majority = voters.iter().filter(answered).count() * 2 > voters.len();
            // One that needs no answer listens first: another may have joined after its log ended.
            let listened = cx.now.since(self.started) >= promise_ns(cx.lease());
            // Others may not know yet that one which began anew has no vote.
            let own = self.memory.begun.index == 0 || self.consensus.is_voter(me);
            self.memory.vouched =
                own && voters.contains(&me) && majority && (voters.len() > 1 || listened);
        }
        self.memory.vouched || self.memory.by_person
    }

    /// Whether this node has answered since the start of this incarnation, and remembers nothing of
    /// this log that is missing.
    pub(super) fn has_answered(&self, from: NodeId) -> bool {
        self.memory.answered.contains(&from)
    }

    /// A person says that nobody is left who could remember more of this log than it has, or that
    /// does not count any more.
    pub fn vouch(&mut self, says: bool) {
        self.memory.by_person = says;
    }

    /// Whether messages of another node may change this node's log: not before others have said
    /// what it must have. One without a vote, also by what it was told of later changes, asks the
    /// sender alone.
    pub(super) fn may_learn(&mut self, cx: &Context<'_>, from: NodeId) -> bool {
        let me = self.identity.id;
        if self.consensus.is_voter(me) && self.newest_voters(cx.state).contains(&me) {
            self.may_vote(cx)
        } else {
            self.memory.answered.contains(&from)
        }
    }
}
