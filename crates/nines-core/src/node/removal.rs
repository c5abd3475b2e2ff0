//! Members that leave for good.
//!
//! What an operator wants is in the log (`state/admin.rs`); until it is done the member is treated
//! as on standby. The leader carries it out: one member after the other, and never itself, because
//! a cluster of two would be left without a majority if the last message got lost. It hands the
//! lead over first.
//!
//! Decides: when a member is removed, and how one that was removed gets to know it.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use nines_model::{AdminCommand, Codes as _, Millis, NodeId, Time};

use super::{Node, failover::LEAD_AGAIN};
use crate::{
    event_log::EventKind,
    feature_level::REMOVALS,
    state::Holding,
    wire::{Ack, Act, Token, command::Kind, frame, pack},
};

/// A node that was removed, and goes on as if it were a member, is told so that often.
const TOLD_EVERY: Millis = Millis(200);

/// Nodes that were removed, and when each was last told.
#[derive(Default)]
pub(super) struct Farewells(BTreeMap<NodeId, Time>);

/// What a removal waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It lives, and holds this VIP of the config, by name, or is to get it; another director takes
    /// it first, if one can.
    Holds(String),
    /// Too few of the other voters are heard: they could decide nothing without it.
    Majority {
        /// Voters besides it that are heard.
        heard: usize,
        /// Voters besides it.
        of: usize,
    },
    /// It leads, and hands the lead over.
    Leads,
    /// Nobody leads.
    NoLeader,
    /// The change of members before it, or nothing but the moment.
    Turn,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(vip) => write!(f, "it holds {vip}, and no other director has taken that"),
            Self::Majority { of: 0, .. } => f.write_str("no other node has a vote"),
            Self::Majority { heard, of } => {
                write!(f, "only {heard} of the {of} other votes are heard")
            }
            Self::Leads => f.write_str("it leads, and no other node has taken the lead"),
            Self::NoLeader => f.write_str("no node leads"),
            Self::Turn => f.write_str("the change of members before it comes first"),
        }
    }
}

impl Node {
    /// Whether this was a member once, and is none any more. No number is given twice.
    pub fn has_left(&self, id: NodeId) -> bool {
        let members = &self.state.members;
        !members.is_empty() && id <= members.highest() && !members.contains_key(&id)
    }

    /// Whether this node was removed from the cluster, by its own log or by what others say.
    pub fn is_removed(&self) -> bool {
        let told = self.voter.is_told_to_have_left();
        self.voter.is_removed() || told || self.has_left(self.config.id)
    }

    /// What a person can do with the machine of a member that was removed.
    pub fn join_again(name: &str) -> String {
        format!(
            "on {name}: systemctl disable --now nines; or to use it again, move its state \
             directory away and join it (nines code, on a member, prints how)"
        )
    }

    /// Whether an operator wants this member to leave.
    pub(super) fn is_to_leave(&self, id: NodeId) -> bool {
        self.state.admin.removals().contains_key(&id)
    }

    /// What the removal of a member waits for, as far as this node knows. `None`: no operator wants
    /// it.
    pub fn removal_waits(&self, now: Time, id: NodeId) -> Option<Waits> {
        self.is_to_leave(id).then(|| self.waits_of(now, id))
    }

    /// What the removal of this member would wait for.
    fn waits_of(&self, now: Time, id: NodeId) -> Waits {
        let name = self.name_of(id);
        let spec = &self.state.spec;
        // What the config does not name any more comes up nowhere; and what a dead node held goes
        // to another as soon as one can take it, by the same rules as before.
        let lives = id == self.config.id
            || self.membership.speaks(now, id, self.lease())
            || self.is_heard_elsewhere(now, id);
        let held = self.state.vips.iter().filter(|_| lives).find(|(vip, holding)| {
            let next = matches!(holding, Holding::Releasing { to: Some(to), .. } if *to == name);
            (*holding.node() == name || next) && spec.vips.contains_key(vip)
        });
        if let Some((vip, _)) = held {
            return Waits::Holds(spec.vip_name(*vip));
        }
        let voters = self.voter.consensus().voters();
        if voters.contains(&id) {
            let rest: Vec<NodeId> = voters.into_iter().filter(|voter| *voter != id).collect();
            let heard = rest.iter().filter(|voter| self.counts(now, **voter)).count();
            if heard * 2 <= rest.len() {
                return Waits::Majority { heard, of: rest.len() };
            }
        }
        match self.voter.consensus().leader() {
            None => Waits::NoLeader,
            Some(leader) if leader == id => Waits::Leads,
            Some(_) => Waits::Turn,
        }
    }

    /// Whether a voter is heard, votes, and is one agent only.
    pub(super) fn counts(&self, now: Time, id: NodeId) -> bool {
        let me = id == self.config.id;
        let alive = if me { self.broken().is_none() } else { self.alive(now, id) };
        alive && self.doubt(now, id).is_none()
    }

    fn alive(&self, now: Time, id: NodeId) -> bool {
        self.membership.alive(now, id, self.lease())
    }

    /// An operator's command in the form that builds below [`REMOVALS`] read: the removal itself,
    /// by the leader, of one dead member, if it waits for nothing. `None`: it is another one, or
    /// has none.
    pub(super) fn removal_at_once(&self, now: Time, level: u32, kind: &Kind) -> Option<Kind> {
        let Kind::Act(Act { verb, subjects, .. }) = kind else { return None };
        let remove = AdminCommand::from_code(verb) == Some(AdminCommand::Remove);
        let [name] = subjects.as_slice() else { return None };
        let id = self.id_of(name).filter(|id| !self.alive(now, *id))?;
        let may = self.voter.consensus().leads() && self.voter.may_change_voters(now);
        let ready = may && self.waits_of(now, id) == Waits::Turn;
        (remove && ready && level < REMOVALS).then(|| Kind::Remove(name.clone()))
    }

    /// The leader's part: removes the first member whose removal waits for nothing but this.
    pub(super) fn remove_members(&mut self, now: Time) {
        if !self.voter.may_change_voters(now) {
            return;
        }
        let wanted: Vec<NodeId> = self.state.admin.removals().keys().copied().collect();
        for id in wanted {
            match self.removal_waits(now, id) {
                Some(Waits::Leads) => {
                    if let Some(to) = self.next_leader(now, |_| true) {
                        self.hand_over(now, to);
                        return;
                    }
                }
                Some(Waits::Turn) => {
                    let cause = self.cause_of_removal(id);
                    self.propose_own(now, Kind::Remove(self.name_of(id)), cause);
                    self.leading.wait(now.plus(LEAD_AGAIN));
                    return;
                }
                _ => {}
            }
        }
    }

    /// The leader's part: what a member held that has left, and no config names, is forgotten.
    pub(super) fn forget_left_holdings(&mut self, now: Time) {
        let state = &self.state;
        let left = |(vip, holding): (&IpAddr, &Holding)| {
            let Holding::Releasing { node, token, to: None } = holding else { return None };
            let gone = state.member(node.as_str()).is_none() && !state.spec.vips.contains_key(vip);
            let free = || self.voter.forbids_release(now, *vip, *token).is_none();
            (gone && free()).then(|| Token {
                vip: pack(*vip),
                index: token.number(),
                incarnation: 0,
            })
        };
        if let Some(token) = state.vips.iter().find_map(left) {
            self.propose_own(now, Kind::Released(token), String::new());
            self.leading.wait(now.plus(LEAD_AGAIN));
        }
    }

    fn cause_of_removal(&self, id: NodeId) -> String {
        let story = &self.state.story;
        let asked = story.newest(&[EventKind::Remove], &self.name_of(id));
        asked.map_or_else(String::new, |event| event.id.clone())
    }

    /// A node that has left sent something: it gets no more than the news that it has.
    pub(super) fn tell_left(&mut self, now: Time, from: NodeId, kind: &frame::Kind) {
        let frame::Kind::Heartbeat(beat) = kind else { return };
        let told = self.farewells.0.get(&from).is_some_and(|at| now.since(*at) < TOLD_EVERY.ns());
        // What only the memory knows may be lost, and then that vote may be needed once more.
        let newest = self.state.members.newest_change();
        if told || beat.retired || !self.voter.takes_part() || !self.voter.has_kept(newest) {
            return;
        }
        self.farewells.0.insert(from, now);
        let ack = Ack {
            sent_ns: beat.sent_ns,
            incarnation: beat.incarnation,
            membership: newest.number(),
            voters: self.voter.all_voters(),
            left: true,
            ..Ack::default()
        };
        self.send(from, frame::Kind::Ack(ack));
    }

    /// What a peer says of the voters since this node's log ends, and of this node itself. Until a
    /// majority of them has said that it has left, it votes as before: by what they have on their
    /// disks they may need it. It holds nothing by then.
    pub(super) fn told_of_members(&mut self, now: Time, from: NodeId, ack: &Ack) {
        if self.is_double(now, self.config.id) {
            return;
        }
        let (voter, mut cx) = self.voter(now);
        if voter.told_of_voters(&cx, from, ack) {
            voter.removed(&mut cx);
            self.all_vips_changed();
        }
    }

    /// A member has left: nothing that it said counts any more.
    pub(super) fn forget_member(&mut self, id: NodeId) {
        self.membership.forget(id);
        self.own_vips.told.remove(&id);
        self.states_sent.forget(id);
        self.probes.forget(id);
    }
}
