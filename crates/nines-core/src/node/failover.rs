//! Failover, and the other work of the leader: it plans, gives VIPs to nodes, promotes learners,
//! ends drains whose time is over, and steps aside for a node that holds no VIP.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{AdminCommand, Codes as _, Millis, NodeId, NodeName, Time, Unfit, Why};
use nines_planner::{Held, NodeView, Observed, Step, plan, unfit};

use super::Node;
use crate::{
    batch,
    event_log::{EventKind, LoggedEvent},
    feature_level::FENCING,
    state::Holding,
    vip_set,
    wire::{Act, Give, Move, command::Kind, pack},
};

/// When a command that had no effect is written again.
const PROPOSED_AGAIN: Millis = Millis(300);
/// Time for a command of the leader's own to be committed and applied: it would be written twice if
/// the leader looked again at once.
pub(super) const LEAD_AGAIN: Millis = Millis(100);
/// Time for a transfer of leadership. The leader does nothing else meanwhile, and tries again if it
/// still leads then.
const TRANSFER: Millis = Millis(500);
/// Entries that a node's log may lag behind the leader's when it gets a vote or the lead: as many
/// as are under way in a cluster at work. A node further behind would hold up every decision.
pub(super) const NEAR_LAG_MAX: u64 = 8;

/// The last plan, and what it was made from: until that changes it needs no other.
#[derive(Default)]
struct Planned {
    decided: Option<u64>,
    nodes: BTreeMap<NodeName, NodeView>,
    /// Something of it is to be tried then.
    again: Time,
    /// Nodes that hold a VIP.
    holders: BTreeSet<NodeName>,
}

/// What only a leader remembers.
#[derive(Default)]
pub(super) struct Leading {
    planned: Planned,
    /// When a command about each VIP was last written.
    proposed: BTreeMap<IpAddr, Time>,
    /// Nodes that speak and hear no majority, each since when.
    pub(super) deaf: BTreeMap<NodeId, Time>,
    /// VIPs that nobody can take, and why.
    blocked: BTreeMap<IpAddr, Why>,
    /// The leader's work waits until then for what it has begun.
    after: Time,
}

impl Leading {
    /// The leader does nothing until then.
    pub(super) fn wait(&mut self, until: Time) {
        self.after = until;
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        now >= self.after
    }

    /// The state has followed a command about this VIP: the next one need not wait.
    pub(super) fn followed(&mut self, vip: IpAddr) {
        self.proposed.remove(&vip);
    }
}

impl Node {
    /// VIPs that nobody can take, and why; filled on the leader.
    pub fn blocked(&self) -> &BTreeMap<IpAddr, Why> {
        &self.leading.blocked
    }

    /// Whether no other director could take VIPs over now: nobody is there to wait for.
    pub(super) fn nobody_can_take_over(&self, now: Time) -> bool {
        let observed = self.observed(now);
        let mut others = self.state.spec.directors().filter(|name| **name != self.config.name);
        // One whose table is not in place now may have it in a moment.
        others.all(|name| {
            let why = unfit(&self.state.spec, &observed, None, name.as_str());
            why.is_some_and(|why| !matches!(why, Unfit::NotReady | Unfit::Quarantined))
        })
    }

    pub(super) fn lead(&mut self, now: Time) {
        if !self.hears_majority(now) {
            return;
        }
        self.note_deaf(now);
        let nodes = self.node_views(now);
        let planned = &self.leading.planned;
        if planned.decided != Some(self.changes.decided)
            || planned.nodes != nodes
            || now >= planned.again
        {
            self.plan(now, nodes);
        }
        self.end_what_is_over(now);
        self.send_states_again(now);
        self.forget_left_holdings(now);
        self.remove_members(now);
        self.fence_nodes(now);
        self.let_other_rest(now);
        self.rebuild_members(now);
        self.promote_learners(now);
        self.raise_feature_level(now);
        self.step_aside(now);
    }

    fn plan(&mut self, now: Time, nodes: BTreeMap<NodeName, NodeView>) {
        let observed = self.observed_with(nodes);
        self.leading.planned = Planned {
            decided: Some(self.changes.decided),
            again: Time(u64::MAX),
            holders: self.state.vips.values().map(|h| h.node().clone()).collect(),
            ..Planned::default()
        };
        self.leading.blocked.clear();
        let mut kinds = BTreeMap::new();
        for (step, why) in plan(&self.state.spec, &observed).steps {
            if let Some((kind, cause)) = self.carry_out(now, step, why) {
                let same: &mut Vec<Kind> = kinds.entry(cause).or_default();
                same.push(kind);
            }
        }
        for (cause, kinds) in kinds {
            for kind in batch::together(kinds) {
                self.propose_own(now, kind, cause.clone());
            }
        }
        self.leading.planned.nodes = observed.nodes;
    }

    /// What the planner sees.
    pub fn observed(&self, now: Time) -> Observed {
        self.observed_with(self.node_views(now))
    }

    fn observed_with(&self, nodes: BTreeMap<NodeName, NodeView>) -> Observed {
        let held = |holding: &Holding| match holding {
            Holding::Held { node, .. } => Held::By(node.clone()),
            Holding::Releasing { node, to, .. } => Held::Releasing(node.clone(), to.clone()),
        };
        let vips = self.state.vips.iter().map(|(vip, holding)| (*vip, held(holding))).collect();
        Observed { nodes, vips, move_requests: self.state.admin.move_requests().clone() }
    }

    /// The nodes as the planner sees them. A node in limbo, neither heard lately nor silent for
    /// long enough, is alive and not ready: nothing is taken from it and nothing given.
    fn node_views(&self, now: Time) -> BTreeMap<NodeName, NodeView> {
        let lease = self.lease();
        let mut views = BTreeMap::new();
        let names = |ids: &mut dyn Iterator<Item = NodeId>| {
            ids.filter_map(|id| self.state.members.get(&id))
                .map(|m| m.name.as_str().into())
                .collect()
        };
        let voters = self.voter.consensus().voters();
        for (id, member) in &self.state.members {
            let mut view = NodeView {
                joining: !voters.contains(id) && !self.carries_without_vote(*id),
                no_vote: self.broken_of(*id).is_some(),
                doubt: self.doubt(now, *id),
                standby: self.state.admin.standbys().contains_key(member.name.as_str()),
                removal: self.is_to_leave(*id),
                quarantined: self.quarantine(now, *id).is_some(),
                ..NodeView::default()
            };
            if *id == self.config.id {
                (view.alive, view.heard) = (true, true);
                view.ready = self.is_ready() && !self.voter.disk_lags(now);
                view.behind = names(&mut self.behind().iter().copied());
                view.leaving = self.leaving.stops();
                let unable = self.own_vips.unable.iter();
                view.unable = unable.map(|addr| (*addr, Unfit::Failed)).collect();
            } else if let Some(peer) = self.membership.peer(*id) {
                view.alive =
                    !self.membership.silent(now, *id, lease) || self.is_heard_elsewhere(now, *id);
                let heard = self.membership.alive(now, *id, lease);
                view.heard = self.membership.speaks(now, *id, lease);
                // A table is applied before a VIP is taken: a node that is behind is not ready.
                view.ready = heard && peer.beat.ready;
                view.leaving = peer.beat.leaving;
                view.behind = names(&mut peer.beat.behind());
                if !peer.beat.unable.is_empty() {
                    let all = self.state.spec.vips.keys().copied();
                    let unable = vip_set::marked(all, &peer.beat.unable).into_iter();
                    view.unable = unable.map(|addr| (addr, Unfit::Failed)).collect();
                    if peer.beat.revision != self.state.revision {
                        // It counts in another config: nothing is given to it and nothing taken.
                        (view.ready, view.unable) = (false, BTreeMap::new());
                    }
                }
            } else {
                view.alive =
                    !self.membership.silent(now, *id, lease) || self.is_heard_elsewhere(now, *id);
            }
            view.deaf = self.is_deaf(now, *id);
            view.clock_off = match self.membership.peer(*id) {
                _ if *id == self.config.id => self.clock_is_off(),
                peer => peer.is_some_and(|peer| peer.beat.clock_ppm != 0),
            };
            if view.no_vote || view.doubt.is_some() || view.deaf || view.clock_off {
                // Promises to it run out, and another node takes over.
                (view.alive, view.ready) = (false, false);
            }
            view.unable.extend(self.unfit_by_its_cards(&member.name));
            views.insert(member.name.as_str().into(), view);
        }
        views
    }

    /// The command that a step needs now, and the event that led to it; what has to wait is looked
    /// at again then.
    fn carry_out(&mut self, now: Time, step: Step, why: Why) -> Option<(Kind, String)> {
        let (Step::Give(vip, _) | Step::Move(vip, ..) | Step::Blocked(vip)) = &step;
        let vip = *vip;
        let proposed = self.leading.proposed.get(&vip).map(|at| at.plus(PROPOSED_AGAIN));
        if let Some(again) = proposed.filter(|again| now < *again) {
            self.leading.planned.again = self.leading.planned.again.min(again);
            return None;
        }
        let kind = match step {
            Step::Blocked(_) => {
                self.leading.blocked.insert(vip, why);
                return None;
            }
            Step::Give(_, to) => {
                // This node is a voter, too: its own promise binds it as the others' bind them.
                let from =
                    self.state.vips.get(&vip).map_or_else(String::new, |h| h.node().to_string());
                let own = self.voter.forbids(now, vip, self.id_of(to.as_str()));
                if let Some(until) = own.filter(|_| !from.is_empty()) {
                    self.leading.planned.again = self.leading.planned.again.min(until);
                    return None;
                }
                let why = why.to_string();
                let last = self.id_of(&from).and_then(|id| self.membership.peer(id)).map(|p| p.at);
                let silent_ms = last.map_or(0, |at| now.since(at) / 1_000_000);
                let (vip, to) = (pack(vip), to.to_string());
                Kind::Give(Give { vip, to, from, why, silent_ms, ..Give::default() })
            }
            Step::Move(_, from, to) => {
                let (vip, from, to) = (pack(vip), from.to_string(), to.to_string());
                Kind::Move(Move { vip, from, to, why: why.to_string() })
            }
        };
        self.leading.proposed.insert(vip, now);
        self.leading.planned.again = self.leading.planned.again.min(now.plus(PROPOSED_AGAIN));
        let cause = self.cause_of_step(vip, &kind);
        Some((kind, cause))
    }

    /// Event that led to what happens to the VIP here: the request to hand it over while this node
    /// does, else the change that made its present holder.
    pub(super) fn cause_of(&self, vip: IpAddr) -> String {
        match self.state.vips.get(&vip) {
            Some(Holding::Releasing { node, .. }) if *node != self.config.name => {
                self.state.vips.failovers().get(&vip).map_or_else(String::new, |f| f.event.clone())
            }
            _ => self.state.cause_of(vip),
        }
    }

    /// The event that led to a step: a command of a person, or the silence of the holder. Without
    /// one the step's own reason is all there is.
    fn cause_of_step(&self, vip: IpAddr, kind: &Kind) -> String {
        let story = &self.state.story;
        let id = |event: Option<&LoggedEvent>| event.map_or_else(String::new, |e| e.id.clone());
        let (from, to) = match kind {
            Kind::Move(Move { from, to, .. }) => (from, to),
            Kind::Give(Give { from, .. }) if from.is_empty() => return String::new(),
            Kind::Give(Give { from, .. }) => {
                let of = [EventKind::HeartbeatLost, EventKind::HeartbeatBack, EventKind::Returned];
                let seen = story.newest(&of, from);
                return id(seen.filter(|event| event.kind.is(EventKind::HeartbeatLost)));
            }
            _ => return String::new(),
        };
        let spec = &self.state.spec;
        if let Some(with) = spec.vips.get(&vip).and_then(|wanted| wanted.with) {
            let failover = self.state.vips.failovers().get(&with);
            return failover.map_or_else(String::new, |f| f.event.clone());
        }
        if self.state.admin.move_requests().get(&vip).is_some_and(|asked| asked == to) {
            id(story.newest(&[EventKind::MoveRequest], &spec.vip_name(vip)))
        } else if self.state.admin.standbys().contains_key(from.as_str()) {
            id(story.newest(&[EventKind::Standby], from))
        } else if spec.directors().all(|director| director != from) {
            id(story.newest(&[EventKind::Config], "config"))
        } else {
            String::new()
        }
    }

    fn end_what_is_over(&mut self, now: Time) {
        let wall = self.wall_ms(now);
        let over = |until: u64| until != 0 && until <= wall;
        let drains = self.state.admin.drains().iter().filter(|(_, s)| over(s.until_ms));
        let drains: Vec<String> = drains.map(|(server, _)| server.to_string()).collect();
        let standbys = self.state.admin.standbys().iter().filter(|(_, s)| over(s.until_ms));
        let standbys: Vec<String> = standbys.map(|(node, _)| node.to_string()).collect();
        for (admin, subjects) in [(AdminCommand::Undrain, drains), (AdminCommand::Ready, standbys)]
        {
            if !subjects.is_empty() {
                let reason = "its time is over".to_owned();
                let act = Act { verb: admin.code().into(), subjects, reason, until_ms: 0 };
                self.propose_own(now, Kind::Act(act), String::new());
                self.leading.after = now.plus(LEAD_AGAIN);
            }
        }
    }

    /// A node that joined gets a vote when it has the log.
    fn promote_learners(&mut self, now: Time) {
        if !self.voter.may_change_voters(now) || self.has_enough_voters() {
            return;
        }
        let ready = |id: &NodeId| self.may_vote_next(now, *id) && self.renews_already(now, *id);
        if let Some(id) = self.voter.consensus().learners().into_iter().find(ready) {
            self.voter.promote(id);
            self.leading.after = now.plus(LEAD_AGAIN);
        }
    }

    /// Whether a learner has the log and is there, so that it could vote.
    pub(super) fn may_vote_next(&self, now: Time, id: NodeId) -> bool {
        let near = self.voter.consensus().lag(id).is_some_and(|lag| lag <= NEAR_LAG_MAX);
        // It says itself that it has applied what the log says.
        let newest = self.state.members.newest_change();
        let has_state = self.membership.peer(id).is_some_and(|p| p.beat.applied() >= newest);
        let stops = self.membership.peer(id).is_some_and(|peer| peer.beat.leaving);
        near && has_state && !stops && self.membership.alive(now, id, self.lease())
    }

    /// Whether nothing that this leader holds would have to stop until a new voter has renewed it.
    /// Builds from before fencing promise nothing before they vote.
    fn renews_already(&self, now: Time, id: NodeId) -> bool {
        let promises = self.membership.peer(id).is_some_and(|p| p.beat.feature_level >= FENCING);
        !promises || self.own_vips.is_renewed_by(now, id)
    }

    /// The leader should not hold a VIP: then the death of the holder needs no election.
    fn step_aside(&mut self, now: Time) {
        if self.hand_over_lagging(now) {
            return;
        }
        if let Some(to) = self.hears_more(now) {
            self.hand_over(now, to);
            return;
        }
        let quarantined =
            |name: &str| self.id_of(name).is_some_and(|id| self.quarantine(now, id).is_some());
        let me = self.config.name.as_str();
        if !self.holds(me) && !quarantined(me) {
            return;
        }
        // One that misses a node would hand over again, to one that hears it.
        let best = self.next_leader(now, |name| !self.holds(name) && !quarantined(name));
        if let Some(to) = best.filter(|to| self.hears_as_many(now, *to)) {
            self.hand_over(now, to);
        }
    }

    /// A leader whose disk lags hands over, also before it has applied anything: nothing that it
    /// decides takes effect. Whether its disk lags.
    pub(super) fn hand_over_lagging(&mut self, now: Time) -> bool {
        let lags = self.voter.disk_lags(now);
        if lags && let Some(to) = self.next_leader(now, |_| true) {
            self.hand_over(now, to);
        }
        lags
    }

    fn holds(&self, name: &str) -> bool {
        self.leading.planned.holders.contains(name)
    }

    pub(super) fn hand_over(&mut self, now: Time, to: NodeId) {
        self.voter.transfer(to);
        self.leading.after = now.plus(TRANSFER);
    }

    /// The voter that leads best in place of this node, of those that `may` by their names.
    pub(super) fn next_leader(&self, now: Time, may: impl Fn(&str) -> bool) -> Option<NodeId> {
        let voters = self.voter.consensus().voters();
        let fit = |id: &NodeId| {
            *id != self.config.id
                && !self.is_to_leave(*id)
                && self.may_ask(now, *id)
                && self.membership.alive(now, *id, self.lease())
                && !self.membership.peer(*id).is_some_and(|p| p.beat.lags || p.beat.leaving)
                && self.voter.consensus().lag(*id).is_some_and(|lag| lag <= NEAR_LAG_MAX)
                && may(&self.name_of(*id))
        };
        // One that holds no VIP first. And a director: it takes over without asking anybody.
        let witness = |id: &NodeId| self.state.members.get(id).is_some_and(|m| m.witness);
        let rank = |id: &NodeId| (self.holds(&self.name_of(*id)), witness(id), *id);
        voters.into_iter().filter(fit).min_by_key(rank)
    }
}
