//! Members of the cluster, and what each said about itself.
//!
//! Decides: which change of membership is valid, and when the feature level may rise. A number is
//! given once; a name belongs to one member at a time; nobody begins with a vote; nobody joins
//! whose build cannot read the level in force.

use std::{collections::BTreeMap, ops::Deref};

use nines_model::{LogIndex, NodeId, NodeName, names};

use super::{Entry, State, events::Event, votes};
use crate::{
    action::Refusal,
    event_log::EventKind,
    feature_level,
    voter::consensus,
    wire::{Facts, FeatureLevel, Member, command::Kind},
};

/// Members by number; read like a map, changed by commands only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    by_id: BTreeMap<NodeId, Member>,
    /// By node name.
    facts: BTreeMap<NodeName, Facts>,
    highest: NodeId,
    newest_change: LogIndex,
    feature_level: u32,
    /// Members that have lost their logs and begin anew, by the index of the entry that took the
    /// vote of each.
    pub(super) anew: BTreeMap<NodeId, LogIndex>,
}

/// A valid change of the members or of what is known about one.
pub(super) enum Change {
    /// Becomes a member, or gets other credentials.
    Joins(Member),
    /// This member, by number and name, leaves for good.
    Leaves(NodeId, NodeName),
    /// A node's facts.
    Facts(Facts),
    /// The feature level that is in force from now on.
    Level(u32),
    /// This member, by number and name, loses its vote, and begins anew or not, for this reason.
    LosesVote(NodeId, NodeName, bool, String),
    /// This member, by number and name, began anew and gets the log.
    LearnsAgain(NodeId, NodeName),
}

impl Deref for Members {
    type Target = BTreeMap<NodeId, Member>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = (&'a NodeId, &'a Member);
    type IntoIter = std::collections::btree_map::Iter<'a, NodeId, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_id.iter()
    }
}

impl Members {
    /// The members that a cluster begins with.
    pub(super) fn founded(members: impl IntoIterator<Item = Member>) -> Self {
        let by_id = members.into_iter().map(|member| (member.id(), member)).collect();
        Self { by_id, feature_level: feature_level::BUILD, ..Self::default() }
    }

    /// As a snapshot has them. One from before `highest` was kept has 0 there.
    pub(crate) fn restored(
        members: Vec<Member>,
        facts: Vec<Facts>,
        (highest, newest_change): (NodeId, LogIndex),
        feature_level: u32,
    ) -> Self {
        let Self { by_id, .. } = Self::founded(members);
        let highest = highest.max(by_id.keys().max().copied().unwrap_or_default());
        let facts = facts.into_iter().map(|facts| (facts.node.as_str().into(), facts)).collect();
        let anew = BTreeMap::new();
        Self { by_id, facts, highest, newest_change, feature_level, anew }
    }

    /// A member by name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.by_id.values().find(|member| member.name == name)
    }

    /// What nodes said about themselves, by name.
    pub fn facts(&self) -> &BTreeMap<NodeName, Facts> {
        &self.facts
    }

    /// Highest number that a member ever had: none is given twice.
    pub fn highest(&self) -> NodeId {
        self.highest
    }

    /// Log index of the newest membership change.
    pub fn newest_change(&self) -> LogIndex {
        self.newest_change
    }

    /// Feature level in force ([`crate::feature_level`]).
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Whether a newcomer, or a member that gets other credentials, can read the level in force.
    fn reads(&self, member: &Member) -> bool {
        member.feature_level >= self.feature_level
    }

    /// Whether a newcomer may not have this name: a member has it, or, from [`feature_level::KEYS`]
    /// on, one that certificates cannot tell from it.
    fn is_taken(&self, name: &str) -> bool {
        if self.feature_level < feature_level::KEYS {
            return self.named(name).is_some();
        }
        let folded = names::in_certificate(name);
        self.by_id.values().any(|member| names::in_certificate(&member.name) == folded)
    }

    /// Whether the command of an entry fits the membership change that the entry makes.
    pub(super) fn may_change(
        &self,
        (id, change): (NodeId, consensus::Change),
        kind: Option<&Kind>,
    ) -> bool {
        match kind {
            Some(Kind::Join(member)) => {
                change == consensus::Change::Learns
                    && member.id() == id
                    && id > self.highest
                    && !self.is_taken(&member.name)
                    && self.reads(member)
            }
            Some(Kind::Remove(name)) => {
                change == consensus::Change::Leaves
                    && self.by_id.get(&id).is_some_and(|m| m.name == *name)
            }
            // A voter that is off, of two.
            Some(Kind::Fence(fence)) => {
                change == consensus::Change::Learns
                    && fence.is_about_votes()
                    && fence.target() == id
                    && self.by_id.contains_key(&id)
            }
            Some(Kind::TakeVote(taken)) => self.may_take_vote((id, change), taken),
            Some(Kind::LearnAgain(again)) => self.may_learn_again((id, change), again),
            // A promotion from learner to voter carries no command.
            _ => change == consensus::Change::Votes && self.by_id.contains_key(&id),
        }
    }

    /// A valid membership change stands at this index.
    pub(super) fn changed(&mut self, index: LogIndex) {
        self.newest_change = index;
    }

    /// What a command would change; an error: it does not fit the membership change of its entry.
    pub(super) fn validate(
        &self,
        entry: Option<(NodeId, consensus::Change)>,
        kind: &Kind,
    ) -> Result<Change, Refusal> {
        let valid = match (entry, kind) {
            (Some(change), kind) => self.may_change(change, Some(kind)),
            // One that lost its credentials on the way gets others, perhaps for another address.
            (None, Kind::Join(m)) => {
                self.by_id.get(&m.id()).is_some_and(|old| old.name == m.name) && self.reads(m)
            }
            (None, _) => false,
        };
        let removals = self.feature_level >= feature_level::REMOVALS;
        match kind {
            Kind::Facts(facts) if removals && self.named(&facts.node).is_none() => {
                Err(Refusal::Changed(format!("{} is no member", facts.node)))
            }
            Kind::Facts(facts) => Ok(Change::Facts(facts.clone())),
            Kind::FeatureLevel(raise) => self.validate_level(raise),
            Kind::Join(member) if !self.reads(member) => Err(Refusal::Unsafe(format!(
                "the build of {} reads feature level {}, and the cluster is at {}",
                member.name, member.feature_level, self.feature_level
            ))),
            Kind::Join(member) if valid => Ok(Change::Joins(member.clone())),
            Kind::Remove(name) if valid => match self.named(name) {
                Some(member) => Ok(Change::Leaves(member.id(), name.as_str().into())),
                None => Err(Refusal::NotFound(format!("unknown member {name}"))),
            },
            Kind::TakeVote(taken) if valid => {
                let (id, why) = (taken.member(), taken.why.clone());
                Ok(Change::LosesVote(id, self.name(id), taken.anew, why))
            }
            Kind::LearnAgain(again) if valid => {
                Ok(Change::LearnsAgain(again.member(), self.name(again.member())))
            }
            _ => {
                let why = "the name or number of this member is taken, or it is no member";
                Err(Refusal::Changed(why.into()))
            }
        }
    }

    fn validate_level(&self, raise: &FeatureLevel) -> Result<Change, Refusal> {
        let level = raise.level;
        if level <= self.feature_level {
            let why = format!("feature level {} is in force", self.feature_level);
            return Err(Refusal::Changed(why));
        }
        if raise.membership() != self.newest_change {
            return Err(Refusal::Changed("the members have changed since".into()));
        }
        Ok(Change::Level(level))
    }

    fn commit(&mut self, index: LogIndex, change: Change) {
        match change {
            Change::Joins(member) => {
                self.highest = self.highest.max(member.id());
                self.newest_change = index;
                // Older builds keep no level of a member: all have the same state.
                self.by_id.insert(member.id(), Member { feature_level: 0, ..member });
            }
            Change::Leaves(id, name) => {
                self.by_id.remove(&id);
                self.facts.remove(&name);
                self.anew.remove(&id);
            }
            Change::LosesVote(id, _, anew, _) => {
                if anew {
                    self.anew.insert(id, index);
                }
            }
            Change::LearnsAgain(id, _) => drop(self.anew.remove(&id)),
            Change::Facts(facts) => {
                self.facts.insert(facts.node.as_str().into(), facts);
            }
            Change::Level(level) => {
                self.feature_level = level;
                // An older build that made a snapshot has dropped what some nodes said of theirs.
                // Now all of them read this one; whose build reads more says so again.
                self.facts.values_mut().for_each(|facts| facts.feature_level = level);
            }
        }
    }
}

impl State {
    /// Carries a valid change out; gives the answer to its proposer.
    pub(super) fn commit_member(&mut self, entry: Entry<'_>, change: Change) -> String {
        let (event, answer) = match &change {
            Change::Joins(Member { name, witness, .. }) => {
                let part = if *witness { "witness" } else { "director" };
                let text = format!("{name} joined as {part}");
                let event = Event { kind: EventKind::Join, subject: name.clone(), text };
                (Some(event), format!("{name} joined"))
            }
            Change::Leaves(_, name) => {
                let text = format!("{name} left for good");
                let event = Event { kind: EventKind::Leave, subject: name.to_string(), text };
                (Some(event), format!("{name} left"))
            }
            Change::Facts(_) => (None, String::new()),
            Change::LosesVote(_, name, anew, why) => votes::lost(name, *anew, why),
            Change::LearnsAgain(_, name) => votes::learns(name),
            Change::Level(level) => {
                let text = format!("the cluster is at feature level {level} from now on");
                let subject = "cluster".to_owned();
                (Some(Event { kind: EventKind::FeatureLevel, subject, text: text.clone() }), text)
            }
        };
        if let Change::Leaves(id, name) = &change
            && self.members.feature_level() >= feature_level::REMOVALS
        {
            // Builds below that level keep what belongs to the name.
            self.admin.left(*id, name);
            self.vips.left(name);
            self.fencing.left(*id);
        }
        self.members.commit(entry.index, change);
        if let Some(event) = event {
            self.commit_event(entry, event);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use consensus::Change::{Learns, Leaves, Votes};

    use super::*;
    use crate::{
        state::{
            Holding,
            tests::{act, member, state, tried, vip},
        },
        wire::{Move, pack},
    };

    fn join(id: u64, name: &str) -> Kind {
        Kind::Join(member(id, name))
    }

    fn remove(name: &str) -> Kind {
        Kind::Remove(name.into())
    }

    /// Every membership change with every command, of a cluster of lb1, lb2 and w (1, 2, 3).
    #[test]
    fn a_membership_command_takes_effect_with_its_change_or_not_at_all() {
        let good = [
            (Some((NodeId(4), Learns)), join(4, "lb4")),
            (None, join(2, "lb2")),
            (Some((NodeId(2), Leaves)), remove("lb2")),
        ];
        let mut all = Vec::new();
        let changes = [Learns, Votes, Leaves];
        let entries = [2, 4, 5].into_iter().flat_map(|id| changes.map(|c| Some((NodeId(id), c))));
        for entry in entries.chain([None]) {
            for name in ["lb2", "lb4"] {
                all.extend([2, 4].map(|id| (entry, join(id, name))));
                all.push((entry, remove(name)));
            }
        }
        assert_eq!(all.len(), 60);
        for (entry, kind) in all {
            let mut state = state();
            let ok = tried(&mut state, 20, entry, kind.clone()).is_ok();
            assert_eq!(ok, good.contains(&(entry, kind.clone())), "{entry:?} {kind:?}");
        }
    }

    /// Two members let LB2 and lb2 in at once: the log takes one of them.
    #[test]
    fn names_that_certificates_confuse_are_one_from_the_level_of_keys_on() {
        for (level, both) in [(feature_level::KEYS - 1, true), (feature_level::KEYS, false)] {
            for name in ["LB2", "lb2."] {
                let mut state = state();
                state.members.feature_level = level;
                let newcomer = Member { feature_level: level, ..member(4, name) };
                let join = Kind::Join(newcomer);
                let joined = tried(&mut state, 21, Some((NodeId(4), Learns)), join);
                assert_eq!(joined.is_ok(), both, "{name} at level {level}");
            }
        }
    }

    #[test]
    fn a_number_is_given_once_and_a_promotion_needs_a_member() {
        let mut state = state();
        assert!(tried(&mut state, 21, Some((NodeId(4), Learns)), join(4, "lb4")).is_ok());
        assert!(tried(&mut state, 22, None, join(4, "lb4")).is_ok(), "other credentials");
        assert!(tried(&mut state, 23, Some((NodeId(2), Leaves)), remove("lb2")).is_ok());
        assert!(tried(&mut state, 24, Some((NodeId(2), Learns)), join(2, "lb2")).is_err());
        assert!(
            tried(&mut state, 25, Some((NodeId(5), Learns)), join(5, "lb2")).is_ok(),
            "a name may"
        );
        assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5].map(NodeId));
        assert_eq!(
            (state.members.highest(), state.members.newest_change()),
            (NodeId(5), LogIndex(25))
        );
        let promoted = |state: &mut State, index, id| {
            let (index, change) = (LogIndex(index), Some((NodeId(id), Votes)));
            state.apply(index, change, &[]);
            state.members.newest_change().number()
        };
        assert_eq!(promoted(&mut state, 26, 5), 26);
        assert_eq!(promoted(&mut state, 27, 2), 26, "it has left");
    }

    /// A level that is in force, a raise, and the newest membership change that it was made for.
    #[test]
    fn the_level_rises_for_the_members_it_was_made_for_and_never_falls() {
        for level in 0..=2 {
            for raised in 0..=3 {
                for membership in [2, 3, 4] {
                    let mut state = state();
                    state.members.feature_level = level;
                    let facts = |feature_level, node: &str| {
                        Kind::Facts(Facts { node: node.into(), feature_level, ..Facts::default() })
                    };
                    for (index, reads, node) in [(20, 0, "lb1"), (21, 9, "lb2")] {
                        assert!(tried(&mut state, index, None, facts(reads, node)).is_ok());
                    }
                    let raise = Kind::FeatureLevel(FeatureLevel { level: raised, membership });
                    let wanted = raised > level && membership == 3;
                    assert_eq!(tried(&mut state, 22, None, raise).is_ok(), wanted);
                    let after = if wanted { raised } else { level };
                    assert_eq!(state.members.feature_level(), after);
                    let known: Vec<u32> =
                        state.members.facts().values().map(|f| f.feature_level).collect();
                    assert_eq!(known, if wanted { [raised, raised] } else { [0, 9] });
                }
            }
        }
    }

    #[test]
    fn nobody_joins_who_cannot_read_the_level_in_force() {
        let with =
            |id, name, feature_level| Kind::Join(Member { feature_level, ..member(id, name) });
        for level in 0..=2 {
            for reads in 0..=3 {
                for (entry, id, name) in [(Some((NodeId(4), Learns)), 4, "lb4"), (None, 2, "lb2")] {
                    let mut state = state();
                    state.members.feature_level = level;
                    let outcome = tried(&mut state, 20, entry, with(id, name, reads));
                    assert_eq!(outcome.is_ok(), reads >= level, "{level} {reads} {name}");
                    if let Err(why) = outcome {
                        let says = format!(
                            "the build of {name} reads feature level {reads}, and the cluster is \
                             at {level}"
                        );
                        assert_eq!(why, Refusal::Unsafe(says));
                    } else {
                        assert_eq!(
                            state.members[&NodeId(id)].feature_level,
                            0,
                            "as older builds have it"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn facts_replace_those_before_and_leave_with_the_member() {
        let mut state = state();
        let facts = |version: &str| {
            let (node, version) = ("lb2".to_owned(), version.to_owned());
            Kind::Facts(Facts { node, version, ..Facts::default() })
        };
        for version in ["0.1.0", "0.1.1"] {
            assert_eq!(tried(&mut state, 20, None, facts(version)), Ok(String::new()));
            assert_eq!(state.members.facts()["lb2"].version, version);
        }
        assert!(tried(&mut state, 21, Some((NodeId(2), Leaves)), remove("lb2")).is_ok());
        assert!(state.members.facts().is_empty());
    }

    /// From [`feature_level::REMOVALS`] on a member leaves only while that is wanted, and takes
    /// along what was set for it and held by it; before, only its membership ends.
    #[test]
    fn who_leaves_takes_along_what_belongs_to_it_and_leaves_only_if_wanted() {
        for level in [feature_level::REMOVALS - 1, feature_level::REMOVALS] {
            let removes = level >= feature_level::REMOVALS;
            let mut state = state();
            state.members.feature_level = level;
            let (two, one) = (Some((NodeId(2), Leaves)), Some((NodeId(1), Leaves)));
            assert!(tried(&mut state, 20, None, act("standby", &["lb2"])).is_ok());
            assert!(tried(&mut state, 21, None, act("remove", &["lb2"])).is_ok());
            if removes {
                assert!(tried(&mut state, 22, None, act("keep", &["lb2"])).is_ok());
                assert!(tried(&mut state, 23, two, remove("lb2")).is_err(), "it is kept");
                assert!(tried(&mut state, 24, None, act("remove", &["lb1", "lb2"])).is_ok());
            }
            assert!(tried(&mut state, 25, two, remove("lb2")).is_ok());
            assert_eq!(state.members.newest_change(), LogIndex(25));
            assert_eq!(state.admin.standbys().is_empty(), removes);
            // lb1 was to hand it to lb2.
            let nowhere =
                |holding: &Holding| matches!(holding, Holding::Releasing { to: None, .. });
            assert_eq!(nowhere(&state.vips[&vip(1)]), removes);
            assert!(!nowhere(&state.vips[&vip(0)]));
            let (from, to) = ("lb1".to_owned(), "lb2".to_owned());
            let moved = Kind::Move(Move { vip: pack(vip(0)), from, to, ..Move::default() });
            assert_eq!(tried(&mut state.clone(), 26, None, moved).is_err(), removes);
            let facts = Facts { node: "lb2".into(), ..Facts::default() };
            assert_eq!(tried(&mut state, 27, None, Kind::Facts(facts)).is_err(), removes);
            // And the holder.
            assert!(tried(&mut state, 28, one, remove("lb1")).is_ok());
            assert_eq!(nowhere(&state.vips[&vip(0)]), removes);
            assert_eq!(state.vips[&vip(0)].token(), LogIndex(5));
            assert!(!removes || state.admin.removals().is_empty());
        }
    }

    #[test]
    fn somebody_always_stays() {
        let mut state = state();
        let mut wish = |index, names: &[&str]| tried(&mut state, index, None, act("remove", names));
        assert!(wish(20, &["lb1", "lb2", "w"]).is_err());
        let done = wish(21, &["lb1", "lb2"]);
        assert_eq!(done.as_deref(), Ok("lb1, lb2 are to leave the cluster"));
        assert!(wish(22, &["w"]).is_err());
        assert!(wish(23, &["lb9"]).is_err());
        assert!(tried(&mut state, 24, None, act("keep", &["lb1"])).is_ok());
        assert!(tried(&mut state, 25, None, act("remove", &["w"])).is_ok());
    }
}
