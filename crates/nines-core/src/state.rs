//! The replicated state: what the log says, applied in order, the same on every node.
//!
//! Decides: which subject a command belongs to, and in which order its parts take effect. A
//! subject first says what a command would change (`validate`, which changes nothing) and then
//! changes it (`commit`, which cannot fail): a command that is refused changes nothing. Uses
//! nothing but the commands, so equal logs give equal states (S2).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use nines_model::{LogIndex, NodeId, ServerRef, Spec};
use prost::Message as _;

use crate::{
    action::Refusal,
    batch,
    edit::Following,
    event_log::{EventKind, EventLog},
    feature_level, spec_edit,
    voter::consensus::Change,
    wire::{self, Command, Give, Member, Move, command::Kind},
};

pub use self::{
    admin::{Admin, Set},
    api_tokens::ApiTokens,
    fencing::Fencing,
    members::Members,
    vips::{Failover, Holding, Vips},
};

mod admin;
mod api_tokens;
mod config;
mod events;
pub mod fencing;
mod generation;
mod members;
#[cfg(test)]
mod tests;
mod vips;
mod votes;

/// Everything the log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Config as written.
    pub text: Arc<str>,
    /// And as read.
    pub spec: Arc<Spec>,
    /// The digest of its parts ([`crate::spec_edit::parts_digest`]).
    pub parts: u64,
    /// And that of the whole ([`crate::spec_edit::digest`]); 0: no config was ever in force.
    pub digest: u64,
    /// Revision: the number of configs that were applied.
    pub revision: u64,
    /// Members by number, and what each said about itself.
    pub members: Members,
    /// VIPs that somebody holds, and the last change of holder of each.
    pub vips: Vips,
    /// What operators have set and asked for.
    pub admin: Admin,
    /// The power of nodes, and their fence devices.
    pub fencing: Fencing,
    /// Tokens of the API.
    pub tokens: ApiTokens,
    /// What happened.
    pub story: EventLog,
    /// Index applied.
    pub applied: LogIndex,
}

/// What a command came to.
pub type Outcome = Result<String, Refusal>;

/// A command that is carried out: where in the log it stands, and who wants it.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Index in the log.
    index: LogIndex,
    /// Place in a batch; 0: it is alone.
    place: usize,
    /// Proposer, time, actor and cause; what it does was taken out.
    command: &'a Command,
}

impl State {
    /// The state of a cluster that begins with this config and these members, at this build's own
    /// feature level.
    pub fn founded(
        text: Arc<str>,
        spec: Arc<Spec>,
        members: impl IntoIterator<Item = Member>,
    ) -> Self {
        let (members, parts) = (Members::founded(members), spec_edit::parts_digest(&spec));
        let (applied, digest) = (LogIndex(1), spec_edit::digest_of(parts, &spec));
        Self { text, spec, parts, digest, revision: 1, members, applied, ..Self::default() }
    }

    /// A member by name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.named(name)
    }

    /// Drained servers.
    pub fn drained(&self) -> BTreeSet<ServerRef> {
        self.admin.drains().keys().cloned().collect()
    }

    /// The config in force, for whoever looks at what may follow it.
    pub fn following(&self) -> Following {
        let (text, spec) = (Arc::clone(&self.text), Arc::clone(&self.spec));
        Following { revision: self.revision, text, spec, parts: self.parts }
    }

    /// Event that led to what happens to the VIP where it is: the request to hand it over while its
    /// holder does, else the change that made its present holder.
    pub fn cause_of(&self, vip: IpAddr) -> String {
        if let Some(Holding::Releasing { .. }) = self.vips.get(&vip)
            && let Some(asked) = self.story.newest(&[EventKind::Move], &self.spec.vip_name(vip))
        {
            return asked.id.clone();
        }
        self.vips.failovers().get(&vip).map_or_else(String::new, |f| f.event.clone())
    }

    /// Whether a membership change may take effect. Asked before [`State::apply`].
    pub fn may_join(&self, change: (NodeId, Change), bytes: &[u8]) -> bool {
        let kind = Command::decode(bytes).ok().and_then(|command| command.kind);
        self.may_change(change, kind.as_ref())
    }

    /// Whether the command of an entry fits the membership change that the entry makes, and an
    /// operator still wants it.
    fn may_change(&self, (id, change): (NodeId, Change), kind: Option<&Kind>) -> bool {
        let wanted = || {
            self.members.feature_level() < feature_level::REMOVALS
                || self.admin.removals().contains_key(&id)
        };
        let removal = matches!(kind, Some(Kind::Remove(_)));
        self.members.may_change((id, change), kind) && (!removal || wanted())
    }

    /// Applies the entry at `index`; `member`: the node whose membership the entry changes. The
    /// proposer gets the outcome. A command that is refused changes nothing but `applied`.
    pub fn apply(
        &mut self,
        index: LogIndex,
        member: Option<(NodeId, Change)>,
        bytes: &[u8],
    ) -> Option<(Command, Outcome)> {
        self.applied = index;
        let mut command = Command::decode(bytes).unwrap_or_default();
        let kind = command.kind.take();
        if member.is_some_and(|change| self.may_change(change, kind.as_ref())) {
            self.members.changed(index);
        }
        let kind = kind?;
        let entry = Entry { index, place: 0, command: &command };
        let outcome = self.carry_out(entry, member, &kind);
        command.kind = Some(kind);
        Some((command, outcome))
    }

    fn carry_out(
        &mut self,
        entry: Entry<'_>,
        member: Option<(NodeId, Change)>,
        kind: &Kind,
    ) -> Outcome {
        match kind {
            Kind::Apply(_) | Kind::ApplySpec(_) => {
                let next = self.validate_config(kind)?;
                Ok(self.commit_config(entry, next))
            }
            Kind::Give(_) | Kind::Move(_) | Kind::Released(_) => self.one_vip(entry, kind),
            Kind::Batch(_) => self.many_vips(entry, kind.clone()),
            Kind::Act(act) => {
                let change = Admin::validate(self, entry.command, act)?;
                Ok(self.commit_admin(entry, change))
            }
            Kind::MoveRequest(request) => {
                let actor = &entry.command.actor;
                let change = Admin::validate_move(&self.spec, &self.vips, actor, request)?;
                Ok(self.commit_admin(entry, change))
            }
            Kind::Remove(name) if member.is_none_or(|c| !self.may_change(c, Some(kind))) => {
                Err(Refusal::Changed(format!("{name} stays, or has left")))
            }
            Kind::Join(_)
            | Kind::Remove(_)
            | Kind::Facts(_)
            | Kind::FeatureLevel(_)
            | Kind::TakeVote(_)
            | Kind::LearnAgain(_) => {
                let change = self.members.validate(member, kind)?;
                Ok(self.commit_member(entry, change))
            }
            Kind::Fence(fence)
                if member.map_or(fence.is_about_votes(), |c| !self.may_change(c, Some(kind))) =>
            {
                Err(Refusal::Changed("the voters are others by now".into()))
            }
            Kind::Fence(fence) => {
                let change = self.fencing.validate((&self.spec, &self.members), fence)?;
                Ok(self.commit_fencing(entry, change))
            }
            Kind::Token(change) => {
                let change = self.tokens.validate(entry.command, change)?;
                Ok(self.commit_token(entry, change))
            }
            Kind::LogEvents(events) => {
                self.commit_events(entry, events);
                Ok(String::new())
            }
        }
    }

    /// A command about one VIP.
    fn one_vip(&mut self, entry: Entry<'_>, kind: &Kind) -> Outcome {
        if let Kind::Give(Give { to, .. }) | Kind::Move(Move { to, .. }) = kind
            && self.members.feature_level() >= feature_level::REMOVALS
            && self.member(to).is_none()
        {
            return Err(Refusal::Changed(format!("{to} is no member")));
        }
        let change = self.vips.validate(&self.spec, kind)?;
        self.commit_vip(entry, change);
        Ok(String::new())
    }

    /// A batch is several commands, one after the other: each by itself is refused or done. It is
    /// refused as a whole only where nothing of it is done.
    fn many_vips(&mut self, entry: Entry<'_>, batch: Kind) -> Outcome {
        let (mut done, mut refused) = (false, Ok(String::new()));
        for (place, kind) in batch::singly(batch).into_iter().enumerate() {
            let outcome = match &kind {
                Kind::Released(token) => {
                    // Each has a cause of its own.
                    let vip = wire::unpack(&token.vip);
                    let cause = vip.map_or_else(String::new, |vip| self.cause_of(vip));
                    let command = Command { cause, ..entry.command.clone() };
                    self.one_vip(Entry { place, command: &command, ..entry }, &kind)
                }
                _ => self.one_vip(Entry { place, ..entry }, &kind),
            };
            match outcome {
                Ok(_) => done = true,
                Err(why) => refused = Err(why),
            }
        }
        if done { Ok(String::new()) } else { refused }
    }
}
