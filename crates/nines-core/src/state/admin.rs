//! What operators want of servers, nodes and VIPs.
//!
//! Decides: that a command with several subjects takes effect for all of them or for none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{AdminCommand, Codes as _, NodeId, NodeName, Role, ServerRef, Spec};

use super::{Entry, Holding, State, Vips, events::Event};
use crate::{
    action::Refusal,
    event_log::EventKind,
    wire::{self, Act, Command, FenceWish, Give},
};

/// The event of a command that has taken effect, and what it says of its subjects.
fn event_of(admin: AdminCommand) -> (EventKind, &'static str) {
    match admin {
        AdminCommand::Drain => (EventKind::Drain, "set to drain"),
        AdminCommand::Undrain => (EventKind::Undrain, "takes new connections again"),
        AdminCommand::Standby => (EventKind::Standby, "set to standby"),
        AdminCommand::Ready => (EventKind::Ready, "ready for work again"),
        AdminCommand::Remove => (EventKind::Remove, "is to leave the cluster"),
        AdminCommand::Keep => (EventKind::Keep, "stays in the cluster"),
        AdminCommand::PowerOff => (EventKind::Fence, "is to be switched off"),
        AdminCommand::PowerOn => (EventKind::Fence, "is to be switched on"),
        AdminCommand::TestFence => (EventKind::Fence, "has its fence devices tried"),
        AdminCommand::ConfirmOff => (EventKind::Fence, "is off, as a person has seen"),
    }
}

/// The same of several subjects.
fn of_several(says: &str) -> String {
    let verbs = [("takes ", "take "), ("stays ", "stay "), ("is ", "are ")];
    let one = verbs.iter().find_map(|(one, several)| Some((says.strip_prefix(one)?, several)));
    one.map_or_else(|| says.to_owned(), |(rest, several)| format!("{several}{rest}"))
}

/// What an operator set, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Operator, "alice@lb1".
    pub actor: String,
    /// Reason in the operator's words; empty: none given.
    pub reason: String,
    /// When, ms since 1970.
    pub at_ms: u64,
    /// Until, ms since 1970; 0: until undone.
    pub until_ms: u64,
}

/// What operators have set and asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    drains: BTreeMap<ServerRef, Set>,
    standbys: BTreeMap<NodeName, Set>,
    move_requests: BTreeMap<IpAddr, NodeName>,
    removals: BTreeMap<NodeId, Set>,
}

/// A valid command of an operator.
pub(super) struct Change {
    what: What,
    /// One for each subject.
    events: Vec<Event>,
    /// Answer to the operator.
    answer: String,
}

enum What {
    /// These servers get no new connections.
    Drain(BTreeSet<ServerRef>, Set),
    Undrain(BTreeSet<ServerRef>),
    /// These nodes hold no VIP.
    Standby(Vec<NodeName>, Set),
    Ready(Vec<NodeName>),
    /// These members leave when nothing is lost by it.
    Remove(Vec<NodeId>, Set),
    Keep(Vec<NodeId>),
    /// The fence devices of these nodes are to do something.
    Power(Vec<NodeId>, FenceWish),
    /// These VIPs should move to the node; the others are there and stay.
    Move {
        to: NodeName,
        moves: Vec<IpAddr>,
        stays: Vec<IpAddr>,
    },
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(why.into()))
}

impl Admin {
    /// As a snapshot has it.
    pub(crate) fn restored(
        drains: BTreeMap<ServerRef, Set>,
        standbys: BTreeMap<NodeName, Set>,
        move_requests: BTreeMap<IpAddr, NodeName>,
        removals: BTreeMap<NodeId, Set>,
    ) -> Self {
        Self { drains, standbys, move_requests, removals }
    }

    /// Drained servers, and who set each.
    pub fn drains(&self) -> &BTreeMap<ServerRef, Set> {
        &self.drains
    }

    /// Nodes on standby, by name.
    pub fn standbys(&self) -> &BTreeMap<NodeName, Set> {
        &self.standbys
    }

    /// Moves asked for: VIP and name of the next holder.
    pub fn move_requests(&self) -> &BTreeMap<IpAddr, NodeName> {
        &self.move_requests
    }

    /// Members that are to leave the cluster.
    pub fn removals(&self) -> &BTreeMap<NodeId, Set> {
        &self.removals
    }

    /// What a command about servers or nodes would change; an error: it names none, one that the
    /// config does not have, or one that is no member where it is about members.
    pub(super) fn validate(state: &State, command: &Command, act: &Act) -> Result<Change, Refusal> {
        let members = &state.members;
        let Some(admin) = AdminCommand::from_code(&act.verb) else {
            return invalid(format!("unknown act {}", act.verb));
        };
        let (kind, says) = event_of(admin);
        let of_servers = admin.is_of_servers();
        if act.subjects.is_empty() {
            let of = if of_servers { "server" } else { "node" };
            return invalid(format!("{admin} needs the name of a {of}"));
        }
        // Named twice is named once.
        let mut subjects: Vec<String> = Vec::new();
        let mut servers = BTreeSet::new();
        for subject in &act.subjects {
            if subjects.contains(subject) {
                continue;
            }
            servers.extend(state.named_by(admin, subject)?);
            subjects.push(subject.clone());
        }
        let reason =
            if act.reason.is_empty() { String::new() } else { format!(": {}", act.reason) };
        let event = |subject: &String| {
            let text = format!("{subject} {says}{reason}");
            Event { kind, subject: subject.clone(), text }
        };
        let events = subjects.iter().map(event).collect();
        let says = if subjects.len() == 1 { says.to_owned() } else { of_several(says) };
        let answer = format!("{} {says}", subjects.join(", "));
        let set = Set {
            actor: command.actor.clone(),
            reason: act.reason.clone(),
            at_ms: command.at_ms,
            until_ms: act.until_ms,
        };
        let nodes = || subjects.iter().map(|name| name.as_str().into()).collect();
        let ids = || subjects.iter().filter_map(|name| Some(members.named(name)?.id())).collect();
        let what = match admin {
            AdminCommand::Drain => What::Drain(servers, set),
            AdminCommand::Undrain => What::Undrain(servers),
            AdminCommand::Standby => What::Standby(nodes(), set),
            AdminCommand::Ready => What::Ready(nodes()),
            AdminCommand::Remove => {
                let leave: Vec<NodeId> = ids();
                let leaves = |id| leave.contains(id) || state.admin.removals.contains_key(id);
                if members.keys().all(leaves) {
                    return Err(Refusal::Unsafe("no member would be left".into()));
                }
                What::Remove(leave, set)
            }
            AdminCommand::Keep => What::Keep(ids()),
            AdminCommand::PowerOff | AdminCommand::PowerOn | AdminCommand::TestFence => {
                let (ids, switch) = state.validate_wishes(admin, &subjects)?;
                let (actor, reason) = (set.actor, set.reason);
                let switch = switch.code().to_owned();
                What::Power(ids, FenceWish { switch, actor, reason, index: 0 })
            }
            AdminCommand::ConfirmOff => return invalid("no node says which incarnation is meant"),
        };
        Ok(Change { what, events, answer })
    }

    /// What a move request would change. It moves its VIP and all of `more`, or none. A VIP that
    /// goes with another of them goes there without a move request of its own.
    pub(super) fn validate_move(
        spec: &Spec,
        held: &Vips,
        actor: &str,
        request: &Give,
    ) -> Result<Change, Refusal> {
        let mut vips: BTreeMap<IpAddr, String> = BTreeMap::new();
        for packed in std::iter::once(&request.vip).chain(&request.more) {
            let vip = wire::unpack(packed).ok_or(Refusal::Invalid("no address".into()))?;
            if !spec.vips.contains_key(&vip) {
                return Err(Refusal::NotFound(format!("unknown VIP {vip}")));
            }
            vips.insert(vip, spec.vip_name(vip));
        }
        let leader = |vip: &IpAddr| spec.vips[vip].with;
        for vip in vips.keys() {
            if let Some(with) = leader(vip).filter(|with| !vips.contains_key(with)) {
                return invalid(format!("{vip} follows {with}: move that VIP"));
            }
        }
        vips.retain(|vip, _| leader(vip).is_none());
        let to = &request.to;
        match spec.nodes.get(to.as_str()) {
            Some(node) if node.role == Role::Director => {}
            Some(_) => return invalid(format!("{to} is a witness")),
            None => return Err(Refusal::NotFound(format!("unknown node {to}"))),
        }
        let names = |of: &BTreeMap<IpAddr, String>| {
            let mut names: Vec<&str> = of.values().map(String::as_str).collect();
            names.dedup();
            names.join(", ")
        };
        // Those that are there stay there, whatever was wished before.
        let holds = |held: &Holding| matches!(held, Holding::Held { node, .. } if node == to);
        let is_there = |vip: &IpAddr| held.get(vip).is_some_and(holds);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            vips.into_iter().partition(|(vip, _)| is_there(vip));
        let answer = if go.is_empty() {
            format!("{} is on {to} already", names(&stay))
        } else {
            format!("{} should move to {to}", names(&go))
        };
        let event = |name: &String| {
            let text = format!("{actor} asked to move {name} to {to}");
            Event { kind: EventKind::MoveRequest, subject: name.clone(), text }
        };
        let events = go.values().map(event).collect();
        let (moves, stays) = (go.into_keys().collect(), stay.into_keys().collect());
        let what = What::Move { to: to.as_str().into(), moves, stays };
        Ok(Change { what, events, answer })
    }

    fn commit(&mut self, what: What) {
        match what {
            What::Drain(servers, set) => {
                self.drains.extend(servers.into_iter().map(|server| (server, set.clone())));
            }
            What::Undrain(servers) => self.drains.retain(|server, _| !servers.contains(server)),
            What::Standby(nodes, set) => {
                self.standbys.extend(nodes.into_iter().map(|node| (node, set.clone())));
            }
            What::Ready(nodes) => self.standbys.retain(|node, _| !nodes.contains(node)),
            What::Remove(ids, set) => {
                self.removals.extend(ids.into_iter().map(|id| (id, set.clone())));
            }
            What::Keep(ids) => self.removals.retain(|id, _| !ids.contains(id)),
            // Not its own.
            What::Power(..) => {}
            What::Move { to, moves, stays } => {
                self.move_requests.retain(|vip, _| !stays.contains(vip));
                self.move_requests.extend(moves.into_iter().map(|vip| (vip, to.clone())));
            }
        }
    }

    /// A VIP has another holder: what was asked of it is done, or overtaken.
    pub(super) fn moved(&mut self, vip: IpAddr) {
        self.move_requests.remove(&vip);
    }

    /// A member has left: what was wanted of it is done. Another one of its name is another member.
    pub(super) fn left(&mut self, id: NodeId, name: &NodeName) {
        self.removals.remove(&id);
        self.standbys.remove(name);
    }

    /// Forgets what a new config does not name. A VIP that goes with another has no move requests
    /// of its own.
    pub(super) fn forget_unnamed(&mut self, spec: &Spec) {
        self.move_requests.retain(|vip, _| spec.vips.get(vip).is_some_and(|v| v.with.is_none()));
        self.drains.retain(|ServerRef { service, server }, _| {
            spec.services.get(service).is_some_and(|s| s.servers.contains_key(server))
        });
        self.standbys.retain(|node, _| spec.nodes.contains_key(node));
    }
}

impl State {
    /// The servers that a command names, where it is about servers; an error: there is no such
    /// thing.
    fn named_by(&self, admin: AdminCommand, subject: &str) -> Result<BTreeSet<ServerRef>, Refusal> {
        let missing = if admin.is_of_servers() {
            let found = self.spec.find_servers(subject);
            if !found.is_empty() {
                return Ok(found);
            }
            format!("unknown server {subject}")
        } else if admin.is_of_members() || admin.is_of_power() {
            if self.members.named(subject).is_some() {
                return Ok(BTreeSet::new());
            }
            format!("{subject} is no member")
        } else if self.spec.nodes.contains_key(subject) {
            return Ok(BTreeSet::new());
        } else {
            format!("unknown node {subject}")
        };
        Err(Refusal::NotFound(missing))
    }

    /// Carries a valid command out; gives the answer to the operator.
    pub(super) fn commit_admin(&mut self, entry: Entry<'_>, change: Change) -> String {
        let Change { what, events, answer } = change;
        if let What::Power(ids, wish) = &what {
            let wish = FenceWish { index: entry.index.number(), ..wish.clone() };
            ids.iter().for_each(|id| self.fencing.wish(*id, wish.clone()));
        }
        self.admin.commit(what);
        for (place, event) in events.into_iter().enumerate() {
            self.commit_event(Entry { place, ..entry }, event);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state::tests::{act, state, tried, vip},
        wire::{command::Kind, pack},
    };

    #[test]
    fn a_move_request_is_over_once_its_vip_has_another_holder() {
        let mut state = state();
        let (to, from) = ("lb2".to_owned(), "lb1".to_owned());
        let request = Give { vip: pack(vip(0)), to: to.clone(), ..Give::default() };
        assert!(tried(&mut state, 20, None, Kind::MoveRequest(request)).is_ok());
        assert_eq!(state.admin.move_requests().keys().collect::<Vec<_>>(), [&vip(0)]);
        let give = Give { vip: pack(vip(0)), to, from, ..Give::default() };
        assert!(tried(&mut state, 21, None, Kind::Give(give)).is_ok());
        assert!(state.admin.move_requests().is_empty(), "or it would be brought back again");
    }

    #[test]
    fn a_command_of_several_subjects_is_done_whole_or_not_at_all() {
        for (verb, good, bad) in [
            ("drain", vec!["r1", "web/r2"], vec!["r1", "nosuch"]),
            ("drain", vec!["r1", "r1", "web/r1"], vec!["nosuch", "r1"]),
            ("undrain", vec!["web/r2", "r3"], vec!["web/r2", "web6/r2"]),
            ("standby", vec!["lb1", "lb2"], vec!["lb1", "lb3", "lb2"]),
            ("ready", vec!["lb1", "lb1"], vec!["lb1", ""]),
            ("drain", vec!["web6/r3"], vec![]),
            ("standby", vec!["w"], vec![]),
            ("ready", vec!["lb1"], vec!["web"]),
        ] {
            let mut state = state();
            assert!(tried(&mut state, 20, None, act("standby", &["lb1"])).is_ok());
            assert!(tried(&mut state, 21, None, act(verb, &bad)).is_err(), "{verb} {bad:?}");
            assert!(tried(&mut state, 22, None, act(verb, &good)).is_ok(), "{verb} {good:?}");
        }
        let mut state = state();
        assert!(tried(&mut state, 20, None, act("dance", &[])).is_err());
        assert!(tried(&mut state, 21, None, act("dance", &["lb1"])).is_err());
        let done = tried(&mut state, 22, None, act("drain", &["r1", "r1"]));
        assert_eq!(done, Ok("r1 set to drain".into()));
        let all = [("web", "r1"), ("web", "r2"), ("web6", "r1")];
        let all = all.map(|(service, server)| ServerRef::new(service, server));
        assert_eq!(state.drained(), all.into());
    }

    /// Each verb on a subject that is set and on one that is not: the state after it, and what the
    /// operator reads.
    #[test]
    fn each_verb_sets_or_ends_what_it_names() {
        let (r1, r2) = (("web", "r1"), ("web", "r2"));
        let table = [
            ("drain", "web/r1", vec![r1, r2], vec!["w"], "web/r1 set to drain"),
            ("drain", "web/r2", vec![r2], vec!["w"], "web/r2 set to drain"),
            ("undrain", "web/r1", vec![r2], vec!["w"], "web/r1 takes new connections again"),
            ("undrain", "web/r2", vec![], vec!["w"], "web/r2 takes new connections again"),
            ("standby", "lb1", vec![r2], vec!["lb1", "w"], "lb1 set to standby"),
            ("standby", "w", vec![r2], vec!["w"], "w set to standby"),
            ("ready", "lb1", vec![r2], vec!["w"], "lb1 ready for work again"),
            ("ready", "w", vec![r2], vec![], "w ready for work again"),
        ];
        for (verb, subject, drains, standbys, says) in table {
            let mut state = state();
            assert!(tried(&mut state, 20, None, act("standby", &["w"])).is_ok());
            let done = tried(&mut state, 21, None, act(verb, &[subject]));
            assert_eq!(done.as_deref(), Ok(says));
            let drained = state.admin.drains().keys();
            let drained: Vec<_> =
                drained.map(|s| (s.service.as_str(), s.server.as_str())).collect();
            assert_eq!(drained, drains, "{verb} {subject}");
            let on_standby: Vec<_> = state.admin.standbys().keys().map(NodeName::as_str).collect();
            assert_eq!(on_standby, standbys, "{verb} {subject}");
            let event = state.story.iter().next_back().unwrap();
            assert_eq!((event.id.as_str(), event.kind.to_string()), ("21.0", verb.to_owned()));
        }
        let mut state = state();
        let done = tried(&mut state, 20, None, act("undrain", &["web/r2", "r1"]));
        assert_eq!(done.as_deref(), Ok("web/r2, r1 take new connections again"));
    }

    #[test]
    fn a_move_request_moves_all_of_its_vips_or_none() {
        let move_request = |vips: &[usize], to: &str| {
            let packed: Vec<Vec<u8>> = vips.iter().map(|n| pack(vip(*n))).collect();
            let (more, to) = (packed[1..].to_vec(), to.to_owned());
            Kind::MoveRequest(Give { vip: packed[0].clone(), to, more, ..Give::default() })
        };
        let mut state = state();
        assert!(tried(&mut state, 20, None, move_request(&[0, 2], "lb2")).is_err());
        assert!(tried(&mut state, 21, None, move_request(&[2, 0], "lb2")).is_err());
        assert!(tried(&mut state, 22, None, move_request(&[0, 1], "w")).is_err());
        assert!(tried(&mut state, 23, None, move_request(&[0, 1], "lb3")).is_err());
        assert!(state.admin.move_requests().is_empty());
        assert!(tried(&mut state, 24, None, move_request(&[0, 1], "lb2")).is_ok());
        assert_eq!(state.admin.move_requests().len(), 2);
        // The holder is asked to stay: nothing is left of the earlier move request.
        let done = tried(&mut state, 25, None, move_request(&[0], "lb1"));
        assert_eq!(done.as_deref(), Ok("web is on lb1 already"));
        assert_eq!(state.admin.move_requests().keys().copied().collect::<Vec<_>>(), [vip(1)]);
    }
}
