//! The VIPs of this node follow the log: each machine is moved on when something it depends on
//! changed, so that a node at rest does the same work for one VIP and for a thousand.
//!
//! Decides: which VIPs are looked at when, which go by the common deadline, and the order of
//! effects: what leaves the common deadline has left it before that is renewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{Incarnation, NodeId, Time};

use super::Node;
use crate::{
    action::Operation,
    batch,
    event_log::EventKind,
    lease::Renewals,
    state::Holding,
    vip::{Do, Phase, Vip, Want},
    vip_set::{Name, VipSet},
    wire::{Token, command::Kind},
};

/// What a peer was told of this node's set.
#[derive(Default)]
pub(super) struct PeerKnowledge {
    /// It has said that it knows the set of this name.
    pub(super) known: Option<Name>,
    /// The parts of a set that takes several datagrams are not sent again before.
    pub(super) again: Time,
}

/// What this node has to do for its VIPs.
#[derive(Default)]
pub(super) struct OwnVips {
    /// To be looked at now.
    changed: BTreeSet<IpAddr>,
    /// To be looked at then.
    timers: BTreeSet<(Time, IpAddr)>,
    timer_of: BTreeMap<IpAddr, Time>,
    vips: BTreeMap<IpAddr, Vip>,
    /// What the log wants this node to hold: what its heartbeats name.
    pub(super) held: VipSet,
    /// Those that no heartbeat has named yet.
    unnamed: Vec<IpAddr>,
    /// Held, and not by the common deadline.
    apart: BTreeSet<IpAddr>,
    /// Could not be started a moment ago.
    pub(super) unable: BTreeSet<IpAddr>,
    /// On this node, but not in the config.
    pub(super) foreign: BTreeSet<IpAddr>,
    /// The renewals of all that go together.
    joint: Renewals,
    /// When heartbeats were sent that voters have answered since.
    answered: Renewals,
    /// Acks of heartbeats sent before this may be about fewer VIPs.
    since: Time,
    /// The common deadline as the kernel has it, and the longest of any VIP that goes by it.
    guard: Time,
    longest: Time,
    /// The newest common deadline could not be written: the kernel has an older one.
    not_renewed: bool,
    lapsed: bool,
    voters: Vec<NodeId>,
    /// Who leads, and in which term, as far as this node knows.
    leader: Option<(NodeId, u64)>,
    /// Another incarnation of this node runs; this one takes no part yet; it votes no more.
    incarnation: (bool, bool, bool),
    /// What each peer knows of this node's VIPs, by number of the peer.
    pub(super) told: BTreeMap<NodeId, PeerKnowledge>,
    /// When the last heartbeat was sent. No two have the same time, by which acks name them.
    pub(super) sent: Time,
}

impl OwnVips {
    /// When a VIP is to be looked at next.
    pub(super) fn next(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Every VIP on this node.
    pub(super) fn all(&self) -> &BTreeMap<IpAddr, Vip> {
        &self.vips
    }

    /// Whether this node renews what is held here, if anything is.
    pub(super) fn is_renewed_by(&self, now: Time, id: NodeId) -> bool {
        self.held.iter().next().is_none() || self.joint.until(id) > now
    }

    /// When the newest heartbeat was sent that a majority has answered; 0: none.
    pub(super) fn asked(&self) -> Time {
        self.answered.deadline(&self.voters)
    }

    /// Until when the kernel may answer for any VIP.
    pub(super) fn longest_guard(&self) -> Time {
        let each = self.vips.values().map(|vip| vip.guard).max().unwrap_or_default();
        each.max(self.guard).max(self.longest)
    }

    /// Whether no address is on, nor about to be.
    pub(super) fn all_off(&self) -> bool {
        self.vips.values().all(|vip| vip.phase == Phase::Off)
    }

    /// Whether no address is on that this process does not know of.
    pub(super) fn all_known(&self) -> bool {
        self.vips.values().all(|vip| vip.known)
    }

    /// The neighbours are told of this VIP again.
    pub(super) fn announce(&mut self, now: Time, vip: IpAddr) {
        if let Some(vip) = self.vips.get_mut(&vip) {
            vip.announce_from(now);
        }
    }

    /// The write of a VIP's deadline ended well; true if something waits for that.
    pub(super) fn guarded(&mut self, vip: IpAddr, id: u64) -> bool {
        let Some(own) = self.vips.get_mut(&vip) else { return false };
        let failed = own.guard_trouble();
        // It may come up now, or be told to have stopped.
        let awaited = own.guard == Time(0) || own.phase == Phase::Off;
        let over = own.guard_done(id, None) && (failed || awaited);
        if over {
            self.changed.insert(vip);
        }
        over
    }

    /// The write of a VIP's deadline failed, and is tried again then; true if that is news.
    pub(super) fn not_guarded(&mut self, again: Time, vip: IpAddr, id: u64) -> bool {
        let Some(own) = self.vips.get_mut(&vip) else { return false };
        let failed = own.guard_trouble();
        let newest = own.guard_done(id, Some(again));
        if newest && own.phase == Phase::Off && own.guard != Time(0) {
            own.cannot_start(again);
        }
        self.changed.insert(vip);
        newest && !failed
    }

    fn is_guarded(&self, vip: IpAddr) -> bool {
        self.vips.get(&vip).is_some_and(Vip::is_guarded)
    }

    fn with(&mut self, vip: IpAddr, change: impl FnOnce(&mut Vip)) {
        change(self.vips.entry(vip).or_default());
    }

    /// The write of the common deadline ended.
    pub(super) fn renew_done(&mut self) {
        self.not_renewed = false;
    }

    /// It failed; true if that is news. The next heartbeat asks for a later one.
    pub(super) fn not_renewed(&mut self) -> bool {
        !std::mem::replace(&mut self.not_renewed, true)
    }

    /// The neighbours were told, or could not be; true if that they could not is news.
    pub(super) fn announced(&mut self, now: Time, vip: IpAddr, ok: bool) -> bool {
        let Some(own) = self.vips.get_mut(&vip) else { return false };
        if !ok {
            self.changed.insert(vip);
        }
        own.announced(now, ok)
    }

    /// The heartbeat sent at `sent` is the first that names these.
    pub(super) fn named(&mut self, sent: Time) {
        self.sent = sent;
        for addr in std::mem::take(&mut self.unnamed) {
            if let Some(vip) = self.vips.get_mut(&addr).filter(|_| self.held.contains(addr)) {
                vip.named = sent;
            }
        }
    }

    fn timer(&mut self, vip: IpAddr, at: Option<Time>) {
        let before = match at {
            Some(at) => self.timer_of.insert(vip, at),
            None => self.timer_of.remove(&vip),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, vip));
        }
        if let Some(at) = at {
            self.timers.insert((at, vip));
        }
    }

    fn due(&mut self, now: Time) {
        while let Some((at, vip)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, vip));
            self.timer_of.remove(&vip);
            self.changed.insert(vip);
        }
    }
}

impl Node {
    /// What the log wants of this node for a VIP.
    pub(super) fn want(&self, now: Time, vip: IpAddr) -> Want {
        match self.state.vips.get(&vip) {
            _ if self.broken().is_some() || self.clock_is_off() => Want::Nothing,
            _ if self.is_double(now, self.config.id) => Want::Nothing,
            _ if self.voter.is_moved() => Want::Wait,
            Some(Holding::Held { node, token }) if *node == self.config.name => Want::Hold(*token),
            _ if !self.caught_up => Want::Wait,
            Some(Holding::Releasing { node, token, .. }) if *node == self.config.name => {
                Want::Release(*token)
            }
            _ => Want::Nothing,
        }
    }

    /// Something happened that one VIP depends on.
    pub(super) fn vip_changed(&mut self, vip: IpAddr) {
        self.own_vips.changed.insert(vip);
    }

    /// Something happened that every VIP depends on.
    pub(super) fn all_vips_changed(&mut self) {
        let (state, own) = (&self.state, &mut self.own_vips);
        let all = own.vips.keys().chain(state.spec.vips.keys()).chain(state.vips.keys());
        own.changed.extend(all);
    }

    /// What stopped here is told to every new leader at once: what the one before was told may be
    /// lost, and until it is in the log no other node starts the VIP.
    fn note_leader(&mut self) {
        let consensus = self.voter.consensus();
        let leader = consensus.leader().map(|id| (id, consensus.term()));
        let own = &mut self.own_vips;
        if leader == std::mem::replace(&mut own.leader, leader) || leader.is_none() {
            return;
        }
        for (addr, vip) in &mut own.vips {
            if vip.tells_again() {
                own.changed.insert(*addr);
            }
        }
    }

    pub(super) fn run_vips(&mut self, now: Time) {
        let double = self.is_double(now, self.config.id);
        let incarnation = (double, self.voter.is_moved(), self.broken().is_some());
        if incarnation != self.own_vips.incarnation {
            self.own_vips.incarnation = incarnation;
            self.all_vips_changed();
        }
        let voters = self.voter.consensus().voters();
        if voters != self.own_vips.voters {
            self.own_vips.voters.clone_from(&voters);
            self.own_vips.changed.extend(self.own_vips.held.iter().map(|(vip, _)| vip));
        }
        self.note_leader();
        let joint = self.own_vips.joint.deadline(&voters);
        if (now >= joint) != self.own_vips.lapsed {
            self.own_vips.lapsed = now >= joint;
            self.own_vips.changed.extend(self.own_vips.held.iter().map(|(vip, _)| vip));
        }
        self.own_vips.due(now);
        let mut released = Vec::new();
        for addr in std::mem::take(&mut self.own_vips.changed) {
            self.run_vip(now, addr, joint, &mut released);
        }
        if !released.is_empty() {
            self.tell_released(now, released);
        }
        // Only now: every VIP that no heartbeat names any more, or that a voter refused, has left.
        if joint > self.own_vips.guard
            && joint > now
            && self.own_vips.held.len() > self.own_vips.apart.len()
        {
            (self.own_vips.guard, self.own_vips.longest) = (joint, joint);
            self.perform(Operation::Renew(joint));
        }
        if !self.own_vips.unnamed.is_empty() && self.broken().is_none() {
            // A new lease: ask for it at once.
            self.beat(now);
            self.mail.beat_next(now.plus(self.state.spec.timing.beat));
            if !self.own_vips.changed.is_empty() {
                self.run_vips(now);
            }
        }
    }

    /// Whether clients that come are forwarded, and the guard is on every card. Where the address
    /// is on without that, this machine itself answers clients, and refuses them. One that an
    /// earlier process left on stays on meanwhile, under the guard and the tables of that process.
    fn may_come_up(&self, vip: IpAddr) -> bool {
        self.requested.forwards(vip)
    }

    fn run_vip(&mut self, now: Time, addr: IpAddr, joint: Time, released: &mut Vec<Kind>) {
        let want = self.want(now, addr);
        let may = self.may_come_up(addr);
        let own = &mut self.own_vips;
        let vip = own.vips.entry(addr).or_default();
        if want == Want::Hold(vip.token)
            && !(vip.joint || vip.refused)
            && vip.renewals.may_go_by(&own.joint, &own.voters)
        {
            vip.joint = true;
            own.since = own.since.max(vip.named);
        }
        let deadline = if vip.joint { joint } else { vip.renewals.deadline(&own.voters) };
        let todo = vip.step(now, want, deadline);
        for todo in todo {
            self.carry_out_vip(addr, todo, may, released);
        }
        let own = &mut self.own_vips;
        let vip = own.vips.entry(addr).or_default();
        match want {
            Want::Hold(token) if own.held.insert(addr, token) => own.unnamed.push(addr),
            Want::Hold(_) => {}
            _ => drop(own.held.remove(addr)),
        }
        let keep = |set: &mut BTreeSet<IpAddr>, is: bool| {
            let _ = if is { set.insert(addr) } else { set.remove(&addr) };
        };
        let in_config = self.state.spec.vips.contains_key(&addr);
        keep(&mut own.apart, matches!(want, Want::Hold(_)) && !vip.follows);
        keep(&mut own.unable, vip.unable_until != Time(0));
        keep(&mut own.foreign, vip.phase != Phase::Off && !in_config);
        let over = want == Want::Nothing && vip.known && vip.phase == Phase::Off && !in_config;
        let next = if over { None } else { vip.next(want, deadline) };
        own.timer(addr, next);
        if over {
            own.vips.remove(&addr);
        }
    }

    /// Does one thing for a VIP. It comes up only if it `may`.
    fn carry_out_vip(&mut self, addr: IpAddr, todo: Do, may: bool, released: &mut Vec<Kind>) {
        match todo {
            Do::Guard(until) => {
                let id = self.perform(Operation::Guard(addr, until));
                self.own_vips.with(addr, |vip| vip.guards(id));
            }
            Do::Follow(until) => {
                self.own_vips.longest = self.own_vips.longest.max(until);
                let id = self.perform(Operation::Follow(addr, until));
                self.own_vips.with(addr, |vip| vip.guards(id));
            }
            Do::Announce => drop(self.perform(Operation::Announce(addr))),
            // Never without the guard: the kernel would answer for ever.
            Do::Up if !(may && self.own_vips.is_guarded(addr)) => {}
            Do::Up | Do::Down => {
                let up = todo == Do::Up;
                if up {
                    self.perform(Operation::Watch(addr));
                }
                let id = self.perform(Operation::Address { vip: addr, up });
                self.own_vips.with(addr, |vip| vip.began(up, id));
            }
            Do::Released(index) => {
                released.push(Kind::Released(Token::of(addr, index, self.config.boot)));
            }
        }
    }

    /// Writes that VIPs have stopped here; those with the same cause in one entry.
    fn tell_released(&mut self, now: Time, released: Vec<Kind>) {
        for kind in batch::together(released) {
            let cause = match &kind {
                Kind::Released(token) => crate::wire::unpack(&token.vip).map(|v| self.cause_of(v)),
                // The state knows the cause of each.
                _ => None,
            };
            self.propose_own(now, kind, cause.unwrap_or_default());
        }
    }

    /// A voter renewed the VIPs that the heartbeat sent at `sent` named, but for `refused`. True if
    /// this may change a deadline or the state of a VIP.
    pub(super) fn renewed(
        &mut self,
        (voter, incarnation): (NodeId, Incarnation),
        sent: Time,
        until: Time,
        refused: &[IpAddr],
    ) -> bool {
        let own = &mut self.own_vips;
        for addr in refused {
            if let Some(vip) = own.vips.get_mut(addr) {
                vip.refuse(&own.joint);
                own.changed.insert(*addr);
            }
        }
        own.answered.acked(voter, incarnation, sent);
        let before = own.joint.deadline(&own.voters);
        if sent >= own.since {
            own.joint.acked(voter, incarnation, until);
        }
        let mut news = !refused.is_empty() || own.joint.deadline(&own.voters) != before;
        for addr in &own.apart {
            let Some(vip) = own.vips.get_mut(addr).filter(|vip| !vip.joint) else { continue };
            if vip.named <= sent && !refused.contains(addr) {
                vip.renewals.acked(voter, incarnation, until);
                own.changed.insert(*addr);
                news = true;
            }
        }
        // Those just refused are among `apart` only after their next step.
        news
    }

    /// Whether no VIP held here has a longer deadline in the kernel than until then.
    pub(super) fn guards_end_by(&self, until: Time) -> bool {
        let own = &self.own_vips;
        let together = own.held.len() > own.apart.len();
        let guard = |addr| own.vips.get(addr).map_or(Time(0), |vip: &Vip| vip.guard);
        // Only what this process has set since it started is known.
        (!together || own.longest <= until)
            && own.apart.iter().map(guard).all(|guard| guard != Time(0) && guard <= until)
    }

    /// Until when every VIP held here is renewed.
    pub(super) fn renewed_until(&self) -> Time {
        let own = &self.own_vips;
        let alone = |vip: &Vip| {
            let renewals = if vip.joint { &own.joint } else { &vip.renewals };
            renewals.deadline(&own.voters)
        };
        let held = own.held.iter().filter_map(|(addr, _)| own.vips.get(&addr));
        held.map(alone).min().unwrap_or(Time(u64::MAX))
    }

    /// Whether a VIP answers here now, as far as this node knows.
    pub fn answers(&self, vip: IpAddr, now: Time) -> bool {
        let guard = |v: &Vip| if v.follows { self.own_vips.guard.max(v.guard) } else { v.guard };
        let written = |v: &Vip| !(v.guard_trouble() || v.follows && self.own_vips.not_renewed);
        let on = |v: &Vip| v.phase == Phase::On && now < guard(v) && written(v);
        self.own_vips.vips.get(&vip).is_some_and(on)
    }

    /// A peer may have missed our announcements; after a cut its whole side has.
    pub(super) fn announce_all(&mut self, now: Time) {
        let on: Vec<IpAddr> =
            self.own_vips.vips.keys().copied().filter(|v| self.answers(*v, now)).collect();
        for addr in on {
            self.own_vips.vips.get_mut(&addr).expect("listed a moment ago").announce_from(now);
            self.own_vips.changed.insert(addr);
        }
    }

    /// An address was put on or taken off, or not.
    pub(super) fn address_done(
        &mut self,
        now: Time,
        addr: IpAddr,
        id: u64,
        result: &Result<(), String>,
    ) {
        self.own_vips.changed.insert(addr);
        let Some(vip) = self.own_vips.vips.get_mut(&addr) else { return };
        let (was, known) = (vip.phase, vip.known);
        if !vip.performed(now, id, result.is_ok()) {
            return;
        }
        let me = self.config.name.clone();
        let starting = matches!(was, Phase::Starting(_));
        if !starting && !known && result.is_ok() {
            // The look at the start for what an earlier incarnation may have left: no story.
            return;
        }
        let (kind, text) = match (starting, result) {
            (true, Ok(())) => {
                (EventKind::AddressAdded, format!("{addr} added on {me} and announced"))
            }
            (true, Err(why)) => {
                (EventKind::AddressFailed, format!("{me} could not add {addr}: {why}"))
            }
            (false, Ok(())) => (EventKind::AddressRemoved, format!("{addr} removed from {me}")),
            (false, Err(why)) => {
                (EventKind::AddressFailed, format!("{me} could not remove {addr}: {why}"))
            }
        };
        self.record_vip_event(now, addr, kind, text);
    }
}

#[cfg(test)]
mod tests;
