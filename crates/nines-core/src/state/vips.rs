//! Who holds which VIP.
//!
//! Decides: whether a VIP may be given, asked for or released now, by who holds it.
//!
//! ```text
//!              Give                      Move
//!   (nobody) --------> Held {node, token} --------> Releasing {node, token, to}
//!      ^                ^    |   ^                    |         |
//!      |                +----+   +--------------------+         |
//!      |             Give (holder silent)   Released, or Give   |
//!      +--------------------------------------------------------+
//!         Released, after a config that names the VIP no more
//! ```

use std::{collections::BTreeMap, net::IpAddr, ops::Deref};

use nines_model::{LogIndex, NodeName, Spec};

use super::{Entry, State, events::Event};
use crate::{
    action::Refusal,
    event_log::EventKind,
    feature_level,
    wire::{self, Give, Member, Move, Token, command::Kind},
};

/// Who holds a VIP. `token` is the index of the entry that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// This node.
    Held {
        /// Node's name.
        node: NodeName,
        /// Log index.
        token: LogIndex,
    },
    /// This node was asked to release it.
    Releasing {
        /// Node's name.
        node: NodeName,
        /// Its token.
        token: LogIndex,
        /// Next holder; `None`: nobody, the VIP is to be forgotten.
        to: Option<NodeName>,
    },
}

impl Holding {
    /// The node that holds or still holds it.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Held { node, .. } | Self::Releasing { node, .. } => node,
        }
    }

    /// Index of the entry that gave it.
    pub fn token(&self) -> LogIndex {
        match self {
            Self::Held { token, .. } | Self::Releasing { token, .. } => *token,
        }
    }
}

/// The last change of holder of a VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// Name of the holder before; `None`: nobody held it.
    pub from: Option<NodeName>,
    /// Name of the node that got the VIP.
    pub to: NodeName,
    /// Ms since 1970.
    pub at_ms: u64,
    /// "auto" or an operator.
    pub actor: String,
    /// How long the old holder was silent when it was decided, ms; 0 for a planned move.
    pub silent_ms: u64,
    /// Event id.
    pub event: String,
}

/// VIPs that somebody holds; read like a map, changed by commands only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vips {
    holdings: BTreeMap<IpAddr, Holding>,
    failovers: BTreeMap<IpAddr, Failover>,
}

/// A valid change of who holds a VIP.
pub(super) struct Change {
    vip: IpAddr,
    /// Name of the VIP in the config.
    name: String,
    what: What,
}

enum What {
    /// The node `to` holds it from now on.
    Given(Give),
    /// Its holder, which has this token, is asked to release it.
    Asked(Move, LogIndex),
    /// `from` has released it, and `to` holds it from now on.
    HandedOver { from: NodeName, to: NodeName },
    /// Its holder has released it, and nobody holds it any more.
    Forgotten,
}

impl Deref for Vips {
    type Target = BTreeMap<IpAddr, Holding>;

    fn deref(&self) -> &Self::Target {
        &self.holdings
    }
}

impl Vips {
    /// As a snapshot has them.
    pub(crate) fn restored(
        holdings: BTreeMap<IpAddr, Holding>,
        failovers: BTreeMap<IpAddr, Failover>,
    ) -> Self {
        Self { holdings, failovers }
    }

    /// The last change of holder of each VIP.
    pub fn failovers(&self) -> &BTreeMap<IpAddr, Failover> {
        &self.failovers
    }

    /// What a command about one VIP would change; an error: another node holds it, or the holder's
    /// token is another.
    pub(super) fn validate(&self, spec: &Spec, kind: &Kind) -> Result<Change, Refusal> {
        let (Kind::Give(Give { vip, .. })
        | Kind::Move(Move { vip, .. })
        | Kind::Released(Token { vip, .. })) = kind
        else {
            return Err(Refusal::Invalid("it is not about a VIP".into()));
        };
        let vip = wire::unpack(vip).ok_or(Refusal::Invalid("no address".into()))?;
        let what = match kind {
            Kind::Give(give) => self.validate_give(spec, vip, give)?,
            Kind::Move(moved) => self.validate_move(vip, moved)?,
            Kind::Released(token) => self.validate_release(vip, token)?,
            _ => unreachable!("the three kinds above have an address"),
        };
        Ok(Change { vip, name: spec.vip_name(vip), what })
    }

    fn validate_give(&self, spec: &Spec, vip: IpAddr, give: &Give) -> Result<What, Refusal> {
        let holder = self.holdings.get(&vip).map_or("", |h| h.node().as_str());
        if holder != give.from || !spec.vips.contains_key(&vip) {
            return Err(Refusal::Changed(format!("{vip} is held by \"{holder}\"")));
        }
        Ok(What::Given(give.clone()))
    }

    fn validate_move(&self, vip: IpAddr, moved: &Move) -> Result<What, Refusal> {
        match self.holdings.get(&vip) {
            Some(Holding::Held { node, token }) if *node == moved.from => {
                Ok(What::Asked(moved.clone(), *token))
            }
            _ => Err(Refusal::Changed(format!("{} does not hold {vip}", moved.from))),
        }
    }

    fn validate_release(&self, vip: IpAddr, token: &Token) -> Result<What, Refusal> {
        let Some(Holding::Releasing { node, token: held, to }) = self.holdings.get(&vip) else {
            return Err(Refusal::Changed("nothing to release".into()));
        };
        if *held != token.index() {
            return Err(Refusal::Changed("an older token".into()));
        }
        let Some(to) = to else { return Ok(What::Forgotten) };
        Ok(What::HandedOver { from: node.clone(), to: to.clone() })
    }

    /// `actor`: who wanted it.
    fn commit(&mut self, entry: Entry<'_>, change: Change, actor: String) {
        let Entry { index, place, command } = entry;
        let (at_ms, event) = (command.at_ms, format!("{index}.{place}"));
        let failover = match change.what {
            What::Asked(Move { from, to, .. }, token) => {
                let (node, to) = (from.into(), wire::named(to));
                self.holdings.insert(change.vip, Holding::Releasing { node, token, to });
                return;
            }
            What::Forgotten => {
                self.holdings.remove(&change.vip);
                return;
            }
            What::Given(Give { from, to, silent_ms, .. }) => {
                let (from, to) = (wire::named(from), to.into());
                Failover { from, to, at_ms, actor, silent_ms, event }
            }
            What::HandedOver { from, to } => {
                Failover { from: Some(from), to, at_ms, actor, silent_ms: 0, event }
            }
        };
        let node = failover.to.clone();
        self.holdings.insert(change.vip, Holding::Held { node, token: index });
        self.failovers.insert(change.vip, failover);
    }

    /// A member has left for good: what it held is nobody's as soon as its promises have ended, and
    /// nothing is on its way to it. Another member of its name does not hold it.
    pub(super) fn left(&mut self, name: &NodeName) {
        for holding in self.holdings.values_mut() {
            let (node, token) = (holding.node().clone(), holding.token());
            let next = matches!(holding, Holding::Releasing { to: Some(to), .. } if to == name);
            if node == *name || next {
                *holding = Holding::Releasing { node, token, to: None };
            }
        }
    }

    /// The holders of VIPs that a new config does not name must say that they have stopped before
    /// these are forgotten: added again later, a VIP would else be given away while the old lease
    /// still runs.
    pub(super) fn release_unnamed(&mut self, spec: &Spec) {
        for (vip, holding) in &mut self.holdings {
            if !spec.vips.contains_key(vip) {
                let (node, token) = (holding.node().clone(), holding.token());
                *holding = Holding::Releasing { node, token, to: None };
            }
        }
    }
}

impl Change {
    fn event(&self) -> Option<Event> {
        let Self { vip, name, what } = self;
        let (kind, text) = match what {
            What::Given(Give { from, to, why, .. }) if from.is_empty() => {
                (EventKind::Failover, format!("{name}: {vip} given to {to}: {why}"))
            }
            What::Given(Give { from, to, why, .. }) => {
                (EventKind::Failover, format!("{name}: {vip} moves {from} -> {to}: {why}"))
            }
            What::Asked(Move { from, to, why, .. }, _) => {
                (EventKind::Move, format!("{name}: {from} is asked to hand {vip} to {to}: {why}"))
            }
            What::HandedOver { from, to } => {
                (EventKind::Moved, format!("{name}: {from} has stopped; {vip} goes to {to}"))
            }
            What::Forgotten => return None,
        };
        Some(Event { kind, subject: name.clone(), text })
    }
}

impl State {
    /// Carries a valid change out.
    pub(super) fn commit_vip(&mut self, entry: Entry<'_>, change: Change) {
        if let Some(event) = change.event() {
            self.commit_event(entry, event);
        }
        if let What::Given(Give { from, .. }) = &change.what
            && self.members.feature_level() >= feature_level::FENCING
            && let Some(id) = self.member(from).map(Member::id)
        {
            self.fencing.taken(id, entry.index);
        }
        if matches!(change.what, What::Given(_) | What::HandedOver { .. }) {
            self.admin.moved(change.vip);
        }
        let mut actor = entry.command.actor.clone();
        if matches!(change.what, What::HandedOver { .. })
            && let Some(first) = self.story.path(&entry.command.cause).first()
        {
            // The person whose command led to it.
            actor.clone_from(&first.actor);
        }
        self.vips.commit(entry, change, actor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state::tests::{state, tried, vip},
        vip_set,
        wire::{Batch, pack},
    };

    fn give(n: usize, from: &str, to: &str) -> Kind {
        let (from, to) = (from.to_owned(), to.to_owned());
        Kind::Give(Give { vip: pack(vip(n)), from, to, ..Give::default() })
    }

    fn hand_over(n: usize, from: &str, to: &str) -> Kind {
        let (vip, why) = (pack(vip(n)), String::new());
        Kind::Move(Move { vip, from: from.into(), to: to.into(), why })
    }

    fn released(n: usize, index: u64) -> Kind {
        Kind::Released(Token { vip: pack(vip(n)), index, ..Token::default() })
    }

    fn held(node: &str, token: u64) -> Option<Holding> {
        Some(Holding::Held { node: node.into(), token: LogIndex(token) })
    }

    fn releasing(to: &str) -> Option<Holding> {
        let (node, to) = ("lb1".into(), wire::named(to.to_owned()));
        Some(Holding::Releasing { node, token: LogIndex(5), to })
    }

    /// Every state of a VIP with every kind of command by the right and by a wrong holder or token.
    /// VIP 0 is in the config and VIP 2 is not; lb1 holds or held them with token 5.
    #[test]
    fn every_state_of_a_vip_with_every_command() {
        let (none, to_lb2, nobody) = (None, releasing("lb2"), releasing(""));
        let lb1 = held("lb1", 5);
        let commands = |n: usize| {
            [
                give(n, "", "lb2"),
                give(n, "lb1", "lb2"),
                give(n, "lb2", "lb1"),
                hand_over(n, "lb1", "lb2"),
                hand_over(n, "lb2", "lb1"),
                released(n, 5),
                released(n, 4),
            ]
        };
        let given = || Some(held("lb2", 20));
        // What becomes of it by each of these commands; `None`: refused.
        let table = [
            (0, &none, [given(), None, None, None, None, None, None]),
            (0, &lb1, [None, given(), None, Some(to_lb2.clone()), None, None, None]),
            (0, &to_lb2, [None, given(), None, None, None, given(), None]),
            (0, &nobody, [None, given(), None, None, None, Some(None), None]),
            (2, &none, [None, None, None, None, None, None, None]),
            (2, &lb1, [None, None, None, Some(to_lb2.clone()), None, None, None]),
            (2, &to_lb2, [None, None, None, None, None, given(), None]),
            (2, &nobody, [None, None, None, None, None, Some(None), None]),
        ];
        for (n, before, wanted) in table {
            for (kind, wanted) in commands(n).into_iter().zip(wanted) {
                let mut state = state();
                state.vips.holdings.remove(&vip(n));
                state.vips.holdings.extend(before.clone().map(|holding| (vip(n), holding)));
                let outcome = tried(&mut state, 20, None, kind.clone());
                assert_eq!(outcome.is_ok(), wanted.is_some(), "{before:?} {kind:?}");
                let after = wanted.as_ref().unwrap_or(before);
                assert_eq!(state.vips.get(&vip(n)), after.as_ref(), "{before:?} {kind:?}");
            }
        }
    }

    #[test]
    fn a_handover_names_the_person_who_asked_for_it() {
        let mut state = state();
        let moved = state.story.newest(&[EventKind::Move], &state.spec.vip_name(vip(1))).unwrap();
        let command = wire::Command {
            cause: moved.id.clone(),
            actor: "auto".into(),
            kind: Some(released(1, 6)),
            ..Default::default()
        };
        let bytes = prost::Message::encode_to_vec(&command);
        assert!(state.apply(LogIndex(20), None, &bytes).unwrap().1.is_ok());
        let failover = &state.vips.failovers()[&vip(1)];
        assert_eq!((failover.actor.as_str(), failover.event.as_str()), ("a", "20.0"));
    }

    #[test]
    fn a_batch_is_refused_only_if_nothing_of_it_is_done() {
        let batch = |pairs: &[(usize, u64)]| {
            let pairs = pairs.iter().map(|(n, token)| (vip(*n), LogIndex(*token)));
            let vips = vip_set::pack_all(pairs, 900).remove(0);
            Kind::Batch(Batch { what: 2, vips, ..Batch::default() })
        };
        let mut state = state();
        assert!(tried(&mut state, 20, None, batch(&[(0, 5), (1, 5), (2, 5)])).is_err());
        assert!(tried(&mut state, 21, None, batch(&[(0, 5), (1, 6)])).is_ok());
        assert_eq!(state.vips.get(&vip(0)), held("lb1", 5).as_ref());
        assert_eq!(state.vips.get(&vip(1)), held("lb2", 21).as_ref());
        let nothing = Kind::Batch(Batch { what: 9, ..Batch::default() });
        assert_eq!(tried(&mut state, 22, None, nothing), Ok(String::new()));
    }
}
