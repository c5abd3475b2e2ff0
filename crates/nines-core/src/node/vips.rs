//! The VIPs of this node follow the log: each machine is moved on when something it depends on
//! changed, so that a node at rest does the same work for one VIP and for a thousand.
//!
//! Decides: which VIPs are looked at when, which go by the common deadline, and the order of
//! effects: what leaves the common deadline has left it before that is renewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::Time;

use super::Node;
use crate::{
    action::Action,
    batch,
    lease::Renewals,
    state::Holding,
    vip::{Do, Phase, Vip, Want},
    vip_set::{Name, VipSet},
    wire::{Token, command::Kind, pack},
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
    /// Address changes under way.
    actions: BTreeMap<u64, IpAddr>,
    /// What the log wants this node to hold: what its heartbeats name.
    pub(super) held: VipSet,
    /// Those that no heartbeat has named yet.
    pub(super) unnamed: Vec<IpAddr>,
    /// Held, and not by the common deadline.
    apart: BTreeSet<IpAddr>,
    /// Could not be started a moment ago.
    pub(super) unable: BTreeSet<IpAddr>,
    /// On this node, but not in the config.
    pub(super) foreign: BTreeSet<IpAddr>,
    /// The renewals of all that go together.
    joint: Renewals,
    /// Acks of heartbeats sent before this may be about fewer VIPs.
    since: Time,
    /// The common deadline as the kernel has it, and the longest of any VIP that goes by it.
    guard: Time,
    longest: Time,
    lapsed: bool,
    voters: Vec<u64>,
    /// Another incarnation of this node runs; this one takes no part yet; it votes no more.
    incarnation: (bool, bool, bool),
    /// What each peer knows of this node's VIPs, by number of the peer.
    pub(super) told: BTreeMap<u64, PeerKnowledge>,
    /// When the last heartbeat was sent. No two have the same time, by which acks name them.
    pub(super) sent: Time,
}

impl OwnVips {
    /// When a VIP is to be looked at next.
    pub(super) fn next(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
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
            _ if self.broken.is_some() || self.is_double(now, self.config.id) => Want::Nothing,
            _ if self.incarnation.moved => Want::Wait,
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
        self.duty.changed.insert(vip);
    }

    /// Something happened that every VIP depends on.
    pub(super) fn all_vips_changed(&mut self) {
        let (state, duty) = (&self.state, &mut self.duty);
        let all = self.vips.keys().chain(state.spec.vips.keys()).chain(state.vips.keys());
        duty.changed.extend(all);
    }

    pub(super) fn run_vips(&mut self, now: Time) {
        let double = self.is_double(now, self.config.id);
        let incarnation = (double, self.incarnation.moved, self.broken.is_some());
        if incarnation != self.duty.incarnation {
            self.duty.incarnation = incarnation;
            self.all_vips_changed();
        }
        let voters = self.consensus.voters();
        if voters != self.duty.voters {
            self.duty.voters.clone_from(&voters);
            self.duty.changed.extend(self.duty.held.iter().map(|(vip, _)| vip));
        }
        let joint = self.duty.joint.deadline(&voters);
        if (now >= joint) != self.duty.lapsed {
            self.duty.lapsed = now >= joint;
            self.duty.changed.extend(self.duty.held.iter().map(|(vip, _)| vip));
        }
        self.duty.due(now);
        let mut released = Vec::new();
        for addr in std::mem::take(&mut self.duty.changed) {
            self.run_vip(now, addr, joint, &mut released);
        }
        if !released.is_empty() {
            self.tell_released(now, released);
        }
        // Only now: every VIP that no heartbeat names any more, or that a voter refused, has left.
        if joint > self.duty.guard && joint > now && self.duty.held.len() > self.duty.apart.len() {
            (self.duty.guard, self.duty.longest) = (joint, joint);
            self.actions.push(Action::Renew(joint));
        }
        if !self.duty.unnamed.is_empty() && self.broken.is_none() {
            // A new lease: ask for it at once.
            self.beat(now);
            self.next_beat = now.plus(self.state.spec.timing.beat);
            if !self.duty.changed.is_empty() {
                self.run_vips(now);
            }
        }
    }

    /// Whether clients that come are forwarded, and the guard is on every card. Where the address
    /// is on without that, this machine itself answers clients, and refuses them. One that an
    /// earlier process left on stays on meanwhile, under the guard and the tables of that process.
    fn may_come_up(&self, vip: IpAddr) -> bool {
        self.forwards.as_ref().is_some_and(|spec| spec.vips.contains_key(&vip))
    }

    fn run_vip(&mut self, now: Time, addr: IpAddr, joint: Time, released: &mut Vec<Kind>) {
        let want = self.want(now, addr);
        let may = self.may_come_up(addr);
        let duty = &mut self.duty;
        let vip = self.vips.entry(addr).or_default();
        if want == Want::Hold(vip.token)
            && !(vip.joint || vip.refused)
            && vip.renewals.may_go_by(&duty.joint, &duty.voters)
        {
            vip.joint = true;
            duty.since = duty.since.max(vip.named);
        }
        let deadline = if vip.joint { joint } else { vip.renewals.deadline(&duty.voters) };
        for todo in vip.step(now, want, deadline) {
            match todo {
                Do::Guard(until) => self.actions.push(Action::Guard(addr, until)),
                Do::Follow(until) => {
                    duty.longest = duty.longest.max(until);
                    self.actions.push(Action::Follow(addr, until));
                }
                Do::Announce => self.actions.push(Action::Announce(addr)),
                Do::Up if !may => {}
                Do::Up | Do::Down => {
                    let (id, up) = (self.next_action, todo == Do::Up);
                    self.next_action += 1;
                    vip.began(up, id);
                    duty.actions.insert(id, addr);
                    self.actions.push(Action::Address { id, vip: addr, up });
                }
                Do::Released(index) => {
                    let incarnation = self.config.boot;
                    released.push(Kind::Released(Token { vip: pack(addr), index, incarnation }));
                }
            }
        }
        match want {
            Want::Hold(token) if duty.held.insert(addr, token) => duty.unnamed.push(addr),
            Want::Hold(_) => {}
            _ => drop(duty.held.remove(addr)),
        }
        let keep = |set: &mut BTreeSet<IpAddr>, is: bool| {
            let _ = if is { set.insert(addr) } else { set.remove(&addr) };
        };
        let in_config = self.state.spec.vips.contains_key(&addr);
        keep(&mut duty.apart, matches!(want, Want::Hold(_)) && !vip.follows);
        keep(&mut duty.unable, vip.unable_until != Time(0));
        keep(&mut duty.foreign, vip.phase != Phase::Off && !in_config);
        let over = want == Want::Nothing && vip.known && vip.phase == Phase::Off && !in_config;
        duty.timer(addr, if over { None } else { vip.next(want, deadline) });
        if over {
            self.vips.remove(&addr);
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
        (voter, incarnation): (u64, u64),
        sent: Time,
        until: Time,
        refused: &[IpAddr],
    ) -> bool {
        let duty = &mut self.duty;
        for addr in refused {
            if let Some(vip) = self.vips.get_mut(addr) {
                vip.refuse(&duty.joint);
                duty.changed.insert(*addr);
            }
        }
        let before = duty.joint.deadline(&duty.voters);
        if sent >= duty.since {
            duty.joint.acked(voter, incarnation, until);
        }
        let mut news = !refused.is_empty() || duty.joint.deadline(&duty.voters) != before;
        for addr in &duty.apart {
            let Some(vip) = self.vips.get_mut(addr).filter(|vip| !vip.joint) else { continue };
            if vip.named <= sent && !refused.contains(addr) {
                vip.renewals.acked(voter, incarnation, until);
                duty.changed.insert(*addr);
                news = true;
            }
        }
        // Those just refused are among `apart` only after their next step.
        news
    }

    /// Whether no VIP held here has a longer deadline in the kernel than until then.
    pub(super) fn guards_end_by(&self, until: Time) -> bool {
        let duty = &self.duty;
        let together = duty.held.len() > duty.apart.len();
        let guard = |addr| self.vips.get(addr).map_or(Time(0), |vip: &Vip| vip.guard);
        // Only what this process has set since it started is known.
        (!together || duty.longest <= until)
            && duty.apart.iter().map(guard).all(|guard| guard != Time(0) && guard <= until)
    }

    /// Until when every VIP held here is renewed.
    pub(super) fn renewed_until(&self) -> Time {
        let duty = &self.duty;
        let alone = |vip: &Vip| {
            let renewals = if vip.joint { &duty.joint } else { &vip.renewals };
            renewals.deadline(&duty.voters)
        };
        let held = duty.held.iter().filter_map(|(addr, _)| self.vips.get(&addr));
        held.map(alone).min().unwrap_or(Time(u64::MAX))
    }

    /// Whether a VIP answers here now, as far as this node knows.
    pub fn answers(&self, vip: IpAddr, now: Time) -> bool {
        let guard = |v: &Vip| if v.follows { self.duty.guard.max(v.guard) } else { v.guard };
        self.vips.get(&vip).is_some_and(|v| v.phase == Phase::On && now < guard(v))
    }

    /// A peer may have missed our announcements; after a cut its whole side has.
    pub(super) fn announce_all(&mut self, now: Time) {
        let on: Vec<IpAddr> = self.vips.keys().copied().filter(|v| self.answers(*v, now)).collect();
        for addr in on {
            self.vips.get_mut(&addr).expect("listed a moment ago").announce_from(now);
            self.duty.changed.insert(addr);
        }
    }

    pub(super) fn performed(&mut self, now: Time, id: u64, result: &Result<(), String>) {
        let Some(addr) = self.duty.actions.remove(&id) else { return };
        self.duty.changed.insert(addr);
        let Some(vip) = self.vips.get_mut(&addr) else { return };
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
            (true, Ok(())) => ("address-added", format!("{addr} added on {me} and announced")),
            (true, Err(why)) => ("address-failed", format!("{me} could not add {addr}: {why}")),
            (false, Ok(())) => ("address-removed", format!("{addr} removed from {me}")),
            (false, Err(why)) => ("address-failed", format!("{me} could not remove {addr}: {why}")),
        };
        self.record_vip_event(now, addr, kind, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event,
        node::Config,
        snapshot,
        state::State,
        wire::{HardState, Member, Persisted, Snapshot},
    };

    const TEXT: &str = "[cluster]\nname = \"x\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
        wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n\
        [vip.a]\naddress = \"10.0.0.100\"\n[vip.b]\naddress = \"10.0.0.101\"\n";

    /// lb1, which the log has given both VIPs.
    fn holder(now: Time) -> Node {
        let spec = nines_model::config::parse(TEXT).expect("it is right").into();
        let mut state =
            State { text: TEXT.into(), spec, revision: 1, applied: 5, ..State::default() };
        for (id, name) in (1..).zip(["lb1", "lb2", "wit"]) {
            let member = Member { id, name: name.into(), ..Member::default() };
            state.members.insert(id, member);
        }
        for (vip, token) in [(vip(100), 4), (vip(101), 5)] {
            state.vips.insert(vip, Holding::Held { node: "lb1".into(), token });
        }
        let data = snapshot::encode(&state);
        let kept = Persisted {
            hard_state: HardState { term: 1, vote: 0, commit: 5 },
            snapshot: Snapshot { index: 5, term: 1, voters: vec![1, 2, 3], learners: vec![], data },
            ..Persisted::default()
        };
        let (id, name) = (1, "lb1".to_owned());
        let config = Config { id, name, boot: 7, machine_boot: 1, place: 1, seeds: vec![] };
        Node::new(config, now, &kept)
    }

    fn vip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn acks_of_beats_before_a_vip_was_named_renew_nothing() {
        let now = Time(1_000_000_000);
        let mut node = holder(now);
        node.handle(now, Event::Tick);
        let named = node.vips[&vip(100)].named;
        assert_eq!((node.duty.held.len(), named), (2, node.duty.sent));
        let until = Time(named.0 + 100_000_000);
        let deadline = |node: &Node| node.vips[&vip(100)].renewals.deadline(&[1, 2, 3]);
        // Its own vote does not count before others have answered it.
        for voter in [2, 3] {
            node.renewed((voter, 1), Time(named.0 - 1), until, &[]);
        }
        assert_eq!(deadline(&node), Time(0), "the voter knew of another set");
        for voter in [2, 3] {
            node.renewed((voter, 1), named, until, &[vip(101)]);
        }
        assert_eq!(deadline(&node), until);
        assert_eq!(node.vips[&vip(101)].renewals.deadline(&[1, 2, 3]), Time(0), "refused");
    }

    /// A machine that has the address and no table answers clients itself, and refuses them.
    #[test]
    fn a_vip_comes_up_once_its_packets_are_forwarded() {
        let now = Time(1_000_000_000);
        let mut node = holder(now);
        let forwards = |text: &str| Some(nines_model::config::parse(text).unwrap().into());
        assert!(!node.may_come_up(vip(100)), "there is no table yet");
        node.forwards = forwards(&TEXT.replace("[vip.b]\naddress = \"10.0.0.101\"\n", ""));
        node.handle(now, Event::Tick);
        let until = Time(now.0 + 100_000_000);
        for voter in [2, 3] {
            node.renewed((voter, 1), node.duty.sent, until, &[]);
        }
        let ups = |node: &mut Node| -> Vec<IpAddr> {
            node.run_vips(now.plus(nines_model::Millis(1)));
            let up = |action| match action {
                Action::Address { vip, up: true, .. } => Some(vip),
                _ => None,
            };
            node.take_actions().into_iter().filter_map(up).collect()
        };
        node.all_vips_changed();
        assert_eq!(ups(&mut node), [vip(100)]);
        node.forwards = forwards(TEXT);
        node.all_vips_changed();
        assert_eq!(ups(&mut node), [vip(101)]);
    }
}
