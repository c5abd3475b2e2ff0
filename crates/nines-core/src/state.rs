//! The replicated state: what the log says, applied in order, the same on every node.
//!
//! Decides: which command is valid in which state. Uses nothing but the commands, so equal logs
//! give equal states (S2).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_model::Spec;
use prost::Message as _;

use crate::{
    action::Refusal,
    batch,
    configs::Configs,
    consensus::Change,
    edit::{Edit, Following},
    event_log::EventLog,
    wire::{self, Command, Facts, LogEvent, Member, Move, command::Kind},
};

/// The holder of a VIP. `token` is the index of the entry that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// The node holds the VIP.
    Held {
        /// Name of the node that holds the VIP.
        node: String,
        /// Log index of the entry that gave the VIP to the node.
        token: u64,
    },
    /// This node was asked to release it.
    Releasing {
        /// Name of the node that still holds the VIP.
        node: String,
        /// Log index of the entry that gave the VIP to the node.
        token: u64,
        /// Next holder; empty: nobody, the VIP is to be forgotten.
        to: String,
    },
}

impl Holding {
    /// The node that holds or still holds it.
    pub fn node(&self) -> &str {
        match self {
            Self::Held { node, .. } | Self::Releasing { node, .. } => node,
        }
    }

    /// Index of the entry that gave it.
    pub fn token(&self) -> u64 {
        match self {
            Self::Held { token, .. } | Self::Releasing { token, .. } => *token,
        }
    }
}

/// What an operator set, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Operator and node that received the command, such as "alice@lb1".
    pub actor: String,
    /// Reason in the operator's words; empty: none given.
    pub reason: String,
    /// When, ms since 1970.
    pub at_ms: u64,
    /// Until, ms since 1970; 0: until undone.
    pub until_ms: u64,
}

/// The last change of holder of a VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// From; empty: nobody.
    pub from: String,
    /// Name of the node that got the VIP.
    pub to: String,
    /// Ms since 1970.
    pub at_ms: u64,
    /// "auto" or an operator.
    pub actor: String,
    /// How long the old holder was silent when it was decided, ms; 0 for a planned move.
    pub silent_ms: u64,
    /// Id of the event that tells of the change.
    pub event: String,
}

/// Everything the log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Config as written.
    pub text: Arc<str>,
    /// And as read.
    pub spec: Arc<Spec>,
    /// Revision: the number of configs that were applied.
    pub revision: u64,
    /// Members of the cluster by their numbers.
    pub members: BTreeMap<u64, Member>,
    /// By node name.
    pub facts: BTreeMap<String, Facts>,
    /// VIPs that a node holds.
    pub vips: BTreeMap<IpAddr, Holding>,
    /// Drained servers, by (service, server).
    pub drains: BTreeMap<(String, String), Set>,
    /// Nodes on standby.
    pub standbys: BTreeMap<String, Set>,
    /// Moves asked for.
    pub move_requests: BTreeMap<IpAddr, String>,
    /// Last change of holder.
    pub failovers: BTreeMap<IpAddr, Failover>,
    /// The event log.
    pub story: EventLog,
    /// Highest number that a member ever had: none is given twice.
    pub highest: u64,
    /// Index of the newest membership change.
    pub membership: u64,
    /// Index of the newest log entry that was applied.
    pub applied: u64,
}

/// What a command came to.
pub type Outcome = Result<String, Refusal>;

mod admin;
#[cfg(test)]
mod tests;

impl State {
    /// Id of a member by name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|m| m.name == name)
    }

    /// Drained servers, as (service, server).
    pub fn drained(&self) -> BTreeSet<(String, String)> {
        self.drains.keys().cloned().collect()
    }

    fn record_event(
        &mut self,
        index: u64,
        place: usize,
        command: &Command,
        kind: &str,
        subject: &str,
        text: String,
    ) {
        let node = self.members.get(&command.node).map_or_else(String::new, |m| m.name.clone());
        self.story.push(
            index,
            place,
            LogEvent {
                at_ms: command.at_ms,
                node,
                kind: kind.into(),
                subject: subject.into(),
                text,
                actor: command.actor.clone(),
                cause: command.cause.clone(),
            },
        );
    }

    /// Applies the entry at `index`; `member`: the node whose membership the entry changes. The
    /// proposer gets the outcome. A command that is refused changes nothing but `applied`.
    /// `configs` have been read already.
    pub fn apply(
        &mut self,
        index: u64,
        member: Option<(u64, Change)>,
        bytes: &[u8],
        configs: &mut Configs,
    ) -> Option<(Command, Outcome)> {
        self.applied = index;
        let mut command = Command::decode(bytes).ok()?;
        let kind = command.kind.take()?;
        let changes = matches!(kind, Kind::Join(_) | Kind::Remove(_));
        // One that lost its credentials on the way gets others, perhaps for another address.
        let known = match &kind {
            Kind::Join(m) => self.members.get(&m.id).is_some_and(|known| known.name == m.name),
            _ => false,
        };
        let valid = match member {
            Some(change) => self.may_change(change, Some(&kind)),
            None => known,
        };
        if changes && !valid {
            command.kind = Some(kind);
            let why = "the name or number of this member is taken, or it is no member";
            return Some((command, Err(Refusal::Changed(why.into()))));
        }
        let outcome = match kind.clone() {
            Kind::Apply(apply) => self.config(index, &command, &apply, configs),
            Kind::Give(give) => self.give(index, 0, &command, &give),
            Kind::Move(moved) => self.start_move(index, 0, &command, &moved),
            Kind::Released(token) => self.released(index, 0, &command, &token),
            kind @ Kind::Batch(_) => self.many(index, &command, kind),
            Kind::Act(act) => self.act(index, &command, &act),
            Kind::LogEvents(story) => {
                for (place, told) in story.told.into_iter().enumerate() {
                    self.story.push(index, place, told);
                }
                Ok(String::new())
            }
            Kind::Join(member) => self.join(index, &command, member),
            Kind::Facts(facts) => {
                self.facts.insert(facts.node.clone(), facts);
                Ok(String::new())
            }
            Kind::MoveRequest(move_request) => self.move_request(index, &command, &move_request),
            Kind::Remove(name) => self.remove(index, &command, &name),
        };
        command.kind = Some(kind);
        Some((command, outcome))
    }

    /// The config in force, for whoever looks at what may follow it.
    pub fn following(&self) -> Following {
        let (text, spec) = (Arc::clone(&self.text), Arc::clone(&self.spec));
        Following { revision: self.revision, text, spec }
    }

    fn config(
        &mut self,
        index: u64,
        command: &Command,
        apply: &wire::Apply,
        configs: &mut Configs,
    ) -> Outcome {
        let (config, spec) =
            self.following().accepts(&Edit::of(apply), |text| configs.get(text))?;
        // Its holder must say that it has stopped before the VIP is forgotten: added again later,
        // it would else be given away while the old lease still runs.
        for (vip, holding) in &mut self.vips {
            if !spec.vips.contains_key(vip) {
                let (node, token) = (holding.node().to_owned(), holding.token());
                *holding = Holding::Releasing { node, token, to: String::new() };
            }
        }
        // One that goes with another has no move requests of its own.
        self.move_requests.retain(|vip, _| spec.vips.get(vip).is_some_and(|v| v.with.is_none()));
        self.drains.retain(|(service, server), _| {
            spec.services.get(service).is_some_and(|s| s.servers.contains_key(server))
        });
        self.standbys.retain(|node, _| spec.nodes.contains_key(node));
        self.spec = spec;
        self.text = Arc::clone(&config.text);
        configs.in_force(&self.text);
        self.revision += 1;
        let text = format!("config {} applied", self.revision);
        self.record_event(index, 0, command, "config", "config", text.clone());
        Ok(text)
    }

    fn give(&mut self, index: u64, place: usize, command: &Command, give: &wire::Give) -> Outcome {
        let vip = wire::unpack(&give.vip).ok_or(Refusal::Invalid("no address".into()))?;
        let holder = self.vips.get(&vip).map_or("", |h| h.node());
        if holder != give.from || !self.spec.vips.contains_key(&vip) {
            return Err(Refusal::Changed(format!("{vip} is held by \"{holder}\"")));
        }
        let name = self.spec.vip_name(vip);
        self.vips.insert(vip, Holding::Held { node: give.to.clone(), token: index });
        self.move_requests.remove(&vip);
        let text = if give.from.is_empty() {
            format!("{name}: {vip} given to {}: {}", give.to, give.why)
        } else {
            format!("{name}: {vip} moves {} -> {}: {}", give.from, give.to, give.why)
        };
        self.record_event(index, place, command, "failover", &name, text);
        self.failovers.insert(
            vip,
            Failover {
                from: give.from.clone(),
                to: give.to.clone(),
                at_ms: command.at_ms,
                actor: command.actor.clone(),
                silent_ms: give.silent_ms,
                event: format!("{index}.{place}"),
            },
        );
        Ok(String::new())
    }

    fn start_move(&mut self, index: u64, place: usize, command: &Command, moved: &Move) -> Outcome {
        let vip = wire::unpack(&moved.vip).ok_or(Refusal::Invalid("no address".into()))?;
        match self.vips.get(&vip) {
            Some(Holding::Held { node, token }) if *node == moved.from => {
                let (node, token) = (node.clone(), *token);
                let to = moved.to.clone();
                self.vips.insert(vip, Holding::Releasing { node, token, to });
            }
            _ => return Err(Refusal::Changed(format!("{} does not hold {vip}", moved.from))),
        }
        let name = self.spec.vip_name(vip);
        let text =
            format!("{name}: {} is asked to hand {vip} to {}: {}", moved.from, moved.to, moved.why);
        self.record_event(index, place, command, "move", &name, text);
        Ok(String::new())
    }

    fn released(
        &mut self,
        index: u64,
        place: usize,
        command: &Command,
        token: &wire::Token,
    ) -> Outcome {
        let vip = wire::unpack(&token.vip).ok_or(Refusal::Invalid("no address".into()))?;
        let Some(Holding::Releasing { node, token: held, to }) = self.vips.get(&vip).cloned()
        else {
            return Err(Refusal::Changed("nothing to release".into()));
        };
        if held != token.index {
            return Err(Refusal::Changed("an older token".into()));
        }
        if to.is_empty() {
            self.vips.remove(&vip);
            return Ok(String::new());
        }
        self.vips.insert(vip, Holding::Held { node: to.clone(), token: index });
        self.move_requests.remove(&vip);
        let name = self.spec.vip_name(vip);
        let text = format!("{name}: {node} has stopped; {vip} goes to {to}");
        self.record_event(index, place, command, "moved", &name, text);
        // The person whose command led to it, if one did.
        let first = self.story.path(&command.cause).first().map(|event| event.told.actor.clone());
        self.failovers.insert(
            vip,
            Failover {
                from: node,
                to,
                at_ms: command.at_ms,
                actor: first.unwrap_or_else(|| command.actor.clone()),
                silent_ms: 0,
                event: format!("{index}.{place}"),
            },
        );
        Ok(String::new())
    }

    /// Event that led to what happens to the VIP where it is: the request to hand it over while its
    /// holder does, else the change that made its present holder.
    pub fn cause_of(&self, vip: IpAddr) -> String {
        if let Some(Holding::Releasing { .. }) = self.vips.get(&vip)
            && let Some(asked) = self.story.newest(&["move"], &self.spec.vip_name(vip))
        {
            return asked.id.clone();
        }
        self.failovers.get(&vip).map_or_else(String::new, |f| f.event.clone())
    }

    /// The same for many VIPs, one after the other: each by itself is valid or not.
    fn many(&mut self, index: u64, command: &Command, kind: Kind) -> Outcome {
        let mut refused = Ok(String::new());
        for (place, kind) in batch::singly(kind).into_iter().enumerate() {
            let outcome = match kind {
                Kind::Give(give) => self.give(index, place, command, &give),
                Kind::Move(moved) => self.start_move(index, place, command, &moved),
                Kind::Released(token) => {
                    // Each has a cause of its own.
                    let vip = wire::unpack(&token.vip);
                    let cause = vip.map_or_else(String::new, |vip| self.cause_of(vip));
                    let command = Command { cause, ..command.clone() };
                    self.released(index, place, &command, &token)
                }
                _ => continue,
            };
            if outcome.is_err() {
                refused = outcome;
            }
        }
        refused
    }

    /// Whether a membership change may take effect. Asked before [`State::apply`].
    pub fn may_join(&self, change: (u64, Change), bytes: &[u8]) -> bool {
        self.may_change(change, Command::decode(bytes).ok().and_then(|c| c.kind).as_ref())
    }

    fn may_change(&self, (id, change): (u64, Change), kind: Option<&Kind>) -> bool {
        match kind {
            Some(Kind::Join(member)) => {
                change == Change::Learns
                    && member.id == id
                    && id > self.highest
                    && self.member(&member.name).is_none()
            }
            Some(Kind::Remove(name)) => {
                change == Change::Leaves && self.members.get(&id).is_some_and(|m| m.name == *name)
            }
            // A promotion from learner to voter carries no command.
            _ => change == Change::Votes && self.members.contains_key(&id),
        }
    }

    fn join(&mut self, index: u64, command: &Command, member: Member) -> Outcome {
        let name = member.name.clone();
        let part = if member.witness { "witness" } else { "director" };
        self.highest = self.highest.max(member.id);
        self.membership = index;
        self.members.insert(member.id, member);
        self.record_event(index, 0, command, "join", &name, format!("{name} joined as {part}"));
        Ok(format!("{name} joined"))
    }

    fn remove(&mut self, index: u64, command: &Command, name: &str) -> Outcome {
        let Some(id) = self.member(name).map(|m| m.id) else {
            return Err(Refusal::NotFound(format!("unknown member {name}")));
        };
        self.members.remove(&id);
        self.facts.remove(name);
        self.record_event(index, 0, command, "leave", name, format!("{name} left for good"));
        Ok(format!("{name} left"))
    }
}
