//! The feature level: what may be written, when it rises, and when a build is too old.
//!
//! Decides: what each member can read, by its heartbeats while it is heard and else by its last
//! facts. The levels themselves are in `crates/nines-core/src/feature_level.rs`.

use std::collections::BTreeMap;

use nines_model::{NodeId, Time};
use prost::Message as _;

use super::{Node, failover::LEAD_AGAIN};
use crate::{
    action::{Action, Refusal},
    feature_level::{self, BUILD, not_in_force},
    peek,
    voter::consensus,
    wire::{self, Command, FeatureLevel, Persisted, RaftMessage, command::Kind},
};

impl Node {
    /// Highest level that a member can read; `None`: it has never said, so it is 0.
    fn readable_by(&self, now: Time, id: NodeId, name: &str) -> Option<u32> {
        if id == self.config.id {
            return Some(BUILD);
        }
        // Two agents may run as it, of different builds.
        if self.doubt(now, id).is_some() {
            return Some(0);
        }
        let heard = self.membership.peer(id).map(|peer| peer.beat.feature_level);
        let facts = || self.state.members.facts().get(name).map(|facts| facts.feature_level);
        heard.filter(|_| self.membership.alive(now, id, self.lease())).or_else(facts)
    }

    /// The leader raises the level as soon as every member can read the next one: voters, those
    /// without a vote yet, and those that are away.
    pub(super) fn raise_feature_level(&mut self, now: Time) {
        let members = &self.state.members;
        let readable = |(id, member): (&NodeId, &crate::wire::Member)| {
            self.readable_by(now, *id, &member.name).unwrap_or(0)
        };
        let level = members.iter().map(readable).min().unwrap_or(0).min(BUILD);
        if level > members.feature_level() {
            // Whoever joins meanwhile has perhaps an older build: then it is written again.
            let membership = members.newest_change().number();
            let raise = Kind::FeatureLevel(FeatureLevel { level, membership });
            self.propose_own(now, raise, String::new());
            self.leading.wait(now.plus(LEAD_AGAIN));
        }
    }

    /// A proposer's command in a form that every member reads. `None`: there is none, and the
    /// proposer has its answer.
    pub(super) fn in_readable_form(
        &mut self,
        now: Time,
        request: u64,
        mut command: Command,
    ) -> Option<Command> {
        let level = self.state.members.feature_level();
        let following = self.state.following();
        let Some(kind) = command.kind.take() else { return Some(command) };
        let kind = self.removal_at_once(now, level, &kind).unwrap_or(kind);
        let needed = feature_level::needed_to_write(level, &kind, &following);
        let why = match feature_level::form_at(level, kind, &following) {
            Ok(Some(form)) => match self.differs_by(now, &form) {
                // This node is not the one to say what the others must come to.
                Some(why) => Refusal::Differs(why),
                None => return Some(Command { kind: Some(form), ..command }),
            },
            Ok(None) => Refusal::Unsafe(not_in_force(needed, self.level_held_back(now))),
            Err(why) => why,
        };
        self.actions.push(Action::Reply { request, result: Err(why) });
        None
    }

    /// What keeps the cluster from using all that this build can do, or which members the level in
    /// force is beyond: "cluster feature level 0, held back by lb2 (0.1.0)".
    pub fn level_held_back(&self, now: Time) -> Option<String> {
        let members = &self.state.members;
        let level = members.feature_level();
        let mut behind = Vec::new();
        for (id, member) in members {
            let reads = self.readable_by(now, *id, &member.name);
            // One that never started has said nothing, and a new cluster is at its own level.
            let unknown = if level < BUILD { 0 } else { level };
            if reads.unwrap_or(unknown) < level.max(BUILD) {
                let facts = members.facts().get(member.name.as_str());
                let version = facts.map_or("version not known", |facts| facts.version.as_str());
                behind.push(format!("{} ({version})", member.name));
            }
        }
        let next = "install the newest nines there";
        match behind.join(", ") {
            none if none.is_empty() => None,
            names if level < BUILD => {
                Some(format!("cluster feature level {level}, held back by {names}: {next}"))
            }
            names => Some(format!("cluster feature level {level}, not read by {names}: {next}")),
        }
    }

    /// Whether a node votes no more because its build does not read what the log says.
    pub fn is_outdated(&self, id: NodeId) -> bool {
        let said = self.membership.peer(id).is_some_and(|peer| peer.beat.outdated);
        if id == self.config.id { self.outdated } else { said }
    }

    /// Whether a node votes no more because its config is another one than that of the others.
    pub fn has_other_config(&self, id: NodeId) -> bool {
        let said = self.membership.peer(id).is_some_and(|peer| peer.beat.differs);
        if id == self.config.id { self.differs } else { said }
    }

    /// Whether this node stands before an entry that it must not apply.
    pub(super) fn applies_no_more(&self) -> bool {
        self.outdated || self.differs
    }

    /// Whether this build reads a committed command. If not, this node stops: nothing that follows
    /// may be applied either.
    pub(super) fn reads_on(&mut self, command: &[u8]) -> bool {
        if self.applies_no_more() {
            return false;
        }
        // What a config says was looked at before the entry was acknowledged.
        let why = feature_level::beyond(self.state.members.feature_level())
            .or_else(|| feature_level::unknown(command));
        match why {
            Some(why) => self.stop_as_outdated(why),
            None => return true,
        }
        false
    }

    /// Whether a message brings an entry that this build does not read. It is not acknowledged: a
    /// voter that cannot tell what an entry gives away cannot say that no promise forbids it.
    pub(super) fn brings_unreadable(&mut self, now: Time, message: &RaftMessage) -> bool {
        let entries = message.entries.iter().filter(|_| consensus::brings_entries(message));
        let commands: Vec<&[u8]> = entries.map(wire::LogEntry::command).collect();
        let asks = consensus::asks_to_write(message);
        let mut why = commands.iter().find_map(|command| feature_level::unreadable(command));
        if asks && why.is_none() {
            // A node whose config is another one must not make all others stop.
            let kinds = commands.iter().filter(|command| peek::applies_config(command));
            let mut kinds = kinds.filter_map(|command| Command::decode(*command).ok()?.kind);
            why = kinds.find_map(|kind| self.differs_by(now, &kind));
        }
        let Some(why) = why else { return false };
        if asks {
            let from = self.name_of(message.sender());
            self.log(format!("a command of {from} is not written: {why}"));
        } else {
            self.stop_as_outdated(why);
        }
        true
    }

    /// Why this node should not have others go by what a command makes of its config: it would come
    /// to another config than the node that proposes it, or has another one than a peer.
    fn differs_by(&self, now: Time, kind: &Kind) -> Option<String> {
        let Kind::ApplySpec(_) = kind else { return None };
        match self.state.following().after(kind)? {
            Err(Refusal::Differs(why)) => return Some(why),
            Err(_) => return None,
            Ok(_) => {}
        }
        let (other, _) = self.other_configs(now).into_iter().next()?;
        let (revision, name) = (self.state.revision, self.name_of(other));
        Some(format!("{name} has another config of revision {revision}"))
    }

    /// Members that are heard and have the same revision, but another config. One that votes no
    /// more keeps nobody from anything.
    fn other_configs(&self, now: Time) -> BTreeMap<NodeId, u64> {
        let (revision, mine) = (self.state.revision, self.state.digest);
        let peer = |id: &NodeId| {
            let beat = &self.membership.peer(*id)?.beat;
            let alive = self.membership.alive(now, *id, self.lease());
            // Builds below feature level 2 say nothing.
            let differs = beat.config != 0 && beat.config != mine && beat.revision == revision;
            (alive && differs && beat.broken.is_empty()).then_some((*id, beat.config))
        };
        self.state.members.keys().filter_map(peer).collect()
    }

    /// A node whose config is another one than that of a majority stops: theirs is the cluster's.
    pub(super) fn compare_configs(&mut self, now: Time) {
        let voters = self.voter.consensus().voters();
        let others = self.other_configs(now);
        let most = |config: &u64| {
            let same = |voter: &&NodeId| others.get(*voter) == Some(config);
            voters.iter().filter(same).count() * 2 > voters.len()
        };
        if others.values().any(most) {
            let revision = self.state.revision;
            self.stop_as_different(format!(
                "its config of revision {revision} is another one than that of most nodes"
            ));
        }
    }

    /// A node that starts: what is on its disk may be newer than its build.
    pub(super) fn read_from_disk(&mut self, kept: &Persisted, differs: Option<String>) {
        let mut entries = kept.entries.iter().map(|entry| entry.command());
        let why = feature_level::beyond(self.state.members.feature_level());
        if let Some(why) = why.or_else(|| entries.find_map(feature_level::unreadable)) {
            self.stop_as_outdated(why);
        } else if let Some(why) = differs {
            self.stop_as_different(why);
        }
    }

    /// Votes no more, holds nothing and applies nothing, until another build is started.
    fn stop_as_outdated(&mut self, why: String) {
        self.outdated = true;
        self.stop_voting(why);
    }

    /// The same, until it begins anew: no build mends that.
    pub(super) fn stop_as_different(&mut self, why: String) {
        self.differs = true;
        self.stop_voting(why);
    }

    fn stop_voting(&mut self, why: String) {
        if self.broken().is_some() {
            return;
        }
        self.log(format!("this node votes no more: {why}"));
        self.voter.breaks(why);
        self.all_vips_changed();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nines_model::{Incarnation, LogIndex, Spec};

    use super::*;
    use crate::{
        Event,
        node::Config,
        snapshot,
        state::State,
        wire::{
            Apply, ApplySpec, Facts, Frame, HardState, Heartbeat, LogEntry, Member, Snapshot, frame,
        },
    };

    /// The first of three nodes, whose log ends with these commands, at this level.
    fn node(now: Time, level: u32, commands: &[Vec<u8>]) -> Node {
        let names = ["lb1", "lb2", "wit"];
        let member =
            |(id, name): (u64, &str)| Member { id, name: name.into(), ..Member::default() };
        let members = (1..).zip(names).map(member);
        let facts = |name: &str| {
            let (node, version) = (name.to_owned(), "0.1.0".to_owned());
            Facts { node, version, feature_level: level, ..Facts::default() }
        };
        let mut state = State::founded("".into(), Arc::default(), []);
        state.members = crate::state::Members::restored(
            members.collect(),
            names[1..].iter().map(|name| facts(name)).collect(),
            (NodeId(3), LogIndex(1)),
            level,
        );
        let data = snapshot::encode(&state);
        let entry = |(index, data): (u64, &Vec<u8>)| LogEntry {
            term: 1,
            index,
            data: data.clone(),
            ..LogEntry::default()
        };
        let kept = Persisted {
            hard_state: HardState { term: 1, vote: 0, commit: 1 + commands.len() as u64 },
            snapshot: Snapshot { index: 1, term: 1, voters: vec![1, 2, 3], learners: vec![], data },
            entries: (2..).zip(commands).map(entry).collect(),
            ..Persisted::default()
        };
        let (id, name) = (NodeId(1), "lb1".into());
        let config =
            Config { id, name, boot: Incarnation(7), machine_boot: 1, place: 1, seeds: vec![] };
        Node::new(config, now, &kept)
    }

    fn command(kind: Kind) -> Command {
        Command { kind: Some(kind), ..Command::default() }
    }

    /// A command with field 22, which no build of today writes.
    const UNKNOWN: [u8; 5] = [0x08, 1, 0xb2, 1, 0];

    #[test]
    fn a_node_that_starts_with_what_it_cannot_read_votes_no_more() {
        let now = Time(1_000_000_000);
        let known = command(Kind::Remove("x".into())).encode_to_vec();
        let raise = |level| {
            command(Kind::FeatureLevel(FeatureLevel { level, membership: 1 })).encode_to_vec()
        };
        let table: [(bool, u32, Vec<Vec<u8>>); 5] = [
            (true, BUILD, vec![]),
            (true, 0, vec![known.clone(), vec![], raise(BUILD)]),
            (false, BUILD + 1, vec![]),
            (false, 0, vec![known.clone(), raise(BUILD + 1)]),
            (false, 0, vec![known, UNKNOWN.to_vec()]),
        ];
        for (reads, level, commands) in table {
            let node = node(now, level, &commands);
            assert_eq!(node.broken().is_none(), reads, "{:?}", node.broken());
            assert_eq!(node.is_outdated(NodeId(1)), !reads);
            assert!(!node.is_retired(), "another build mends it");
            assert!(!node.is_mended_by_restart(), "and nothing else does");
        }
    }

    #[test]
    fn an_entry_that_it_cannot_read_is_not_acknowledged() {
        let now = Time(1_000_000_000);
        let append = |kind, data: &[u8]| {
            let entry = LogEntry { term: 1, index: 2, data: data.to_vec(), ..LogEntry::default() };
            RaftMessage { kind, entries: vec![entry], ..RaftMessage::default() }
        };
        let known = command(Kind::Remove("x".into())).encode_to_vec();
        // Kinds of the consensus library: 3 appends, 2 asks the leader to write.
        for (kind, data, unreadable, stops) in [
            (3, &known[..], false, false),
            (2, &known[..], false, false),
            (2, &UNKNOWN[..], true, false),
            (3, &UNKNOWN[..], true, true),
        ] {
            let mut node = node(now, BUILD, &[]);
            assert_eq!(
                node.brings_unreadable(now, &append(kind, data)),
                unreadable,
                "{kind} {data:?}"
            );
            assert_eq!(node.broken().is_some(), stops, "{kind} {data:?}");
        }
    }

    /// What a node proposes, as it stands in the log; or the answer that the proposer gets.
    fn proposed(level: u32, kind: Kind) -> Result<Kind, Refusal> {
        let now = Time(1_000_000_000);
        proposed_by(&mut node(now, level, &[]), now, kind)
    }

    fn proposed_by(node: &mut Node, now: Time, kind: Kind) -> Result<Kind, Refusal> {
        match node.in_readable_form(now, 9, command(kind)) {
            Some(command) => Ok(command.kind.unwrap()),
            None => match node.take_actions().pop() {
                Some(Action::Reply { request: 9, result: Err(why) }) => Err(why),
                other => panic!("{other:?}"),
            },
        }
    }

    /// The command that puts the first config in force, with these lines in it.
    fn first(lines: &str) -> ApplySpec {
        let text = format!("[cluster]\nname = \"c\"\n{lines}");
        let spec = nines_model::config::parse(&text).unwrap();
        ApplySpec::in_place_of(("", &Spec::default()), (&text, &spec), 1).unwrap()
    }

    #[test]
    fn a_config_is_written_as_the_oldest_member_reads_it() {
        let values = first("");
        let piece = values.text.clone();
        // Nothing of an empty text stays: the piece is the whole.
        assert!(piece.is_whole());
        let cut = Kind::Apply(Apply { tail: 1, ..piece.clone() });
        assert_eq!(proposed(BUILD, cut.clone()), Ok(cut.clone()));
        assert!(matches!(proposed(0, cut), Err(Refusal::Changed(_))));
        for level in [0, 1, BUILD] {
            assert_eq!(proposed(level, Kind::Apply(piece.clone())), Ok(Kind::Apply(piece.clone())));
            let written = if level < feature_level::VALUES {
                Kind::Apply(piece.clone())
            } else {
                Kind::ApplySpec(values.clone())
            };
            assert_eq!(proposed(level, Kind::ApplySpec(values.clone())), Ok(written));
        }
    }

    /// Its config would not be the proposer's: it neither writes the command, nor asks for it, nor
    /// goes on after it, and what it stands at replaces no log.
    #[test]
    fn a_node_that_comes_to_another_config_stops_and_stops_no_other() {
        let now = Time(1_000_000_000);
        let mut values = first("");
        values.digest ^= 1;
        let kind = Kind::ApplySpec(values);
        assert!(matches!(proposed(BUILD, kind.clone()), Err(Refusal::Differs(_))));
        let data = command(kind).encode_to_vec();
        let append = |kind| {
            let entry = LogEntry { term: 1, index: 2, data: data.clone(), ..LogEntry::default() };
            RaftMessage { kind, entries: vec![entry], ..RaftMessage::default() }
        };
        // As above: 2 asks the leader to write, 3 appends.
        let mut leader = node(now, BUILD, &[]);
        assert!(leader.brings_unreadable(now, &append(2)) && leader.broken().is_none());
        let mut follower = node(now, BUILD, &[]);
        assert!(
            !follower.brings_unreadable(now, &append(3)),
            "it may stand behind another command"
        );
        let mut follower = node(now, BUILD, std::slice::from_ref(&data));
        follower.handle(now, Event::Tick);
        assert!(follower.broken().unwrap().contains("is another one here"));
        assert!(follower.has_other_config(NodeId(1)) && !follower.is_outdated(NodeId(1)));
        assert_eq!(follower.state.revision, 1);
        assert!(!follower.reads_on(&command(Kind::Remove("x".into())).encode_to_vec()));
    }

    fn hear(node: &mut Node, now: Time, from: u64, beat: Heartbeat) {
        let kind = Some(frame::Kind::Heartbeat(Heartbeat { sent_ns: 1, ..beat }));
        let bytes = Frame { kind, incarnation: 1, ..Frame::default() }.encode_to_vec();
        node.handle(now, Event::Frame { from: NodeId(from), link: 0, bytes });
    }

    /// By heartbeats: a leader with a wrong config would have all others stop.
    #[test]
    fn who_has_another_config_than_a_peer_changes_none_and_stops_before_a_majority() {
        let now = Time(1_000_000_000);
        let values = first("");
        let kind = Kind::ApplySpec(values);
        let mine = node(now, BUILD, &[]).state.following().digest();
        let beat = |revision, config| {
            let feature_level = BUILD;
            Heartbeat { feature_level, revision, config, ..Heartbeat::default() }
        };
        // The same config, one of another revision, a build that says nothing, a node that has
        // stopped for it.
        let stopped = Heartbeat { broken: "it differs".into(), ..beat(1, 7) };
        for harmless in [beat(1, mine), beat(2, 7), beat(1, 0), stopped] {
            let mut node = node(now, BUILD, &[]);
            (2..4).for_each(|id| hear(&mut node, now, id, harmless.clone()));
            assert!(proposed_by(&mut node, now, kind.clone()).is_ok() && node.broken().is_none());
        }
        let mut node = node(now, BUILD, &[]);
        hear(&mut node, now, 2, beat(1, 7));
        let why = proposed_by(&mut node, now, kind.clone()).unwrap_err();
        assert_eq!(why, Refusal::Differs("lb2 has another config of revision 1".into()));
        let data = command(kind).encode_to_vec();
        let entry = LogEntry { term: 1, index: 2, data, ..LogEntry::default() };
        let asks = RaftMessage { kind: 2, entries: vec![entry], ..RaftMessage::default() };
        assert!(node.brings_unreadable(now, &asks) && node.broken().is_none());
        hear(&mut node, now, 3, beat(1, 8));
        assert!(node.broken().is_none(), "three configs: nobody knows which is the cluster's");
        hear(&mut node, now, 3, beat(1, 7));
        assert!(node.broken().unwrap().contains("another one than that of most nodes"));
    }

    #[test]
    fn who_asks_for_more_than_the_level_is_told_who_holds_it_back() {
        let raise = Kind::FeatureLevel(FeatureLevel { level: 1, membership: 1 });
        let fenced = first("[fencing]\nafter = \"3s\"\n");
        for (level, kind, needs) in [
            (0, raise, "this needs feature level 1, which is not in force"),
            (0, Kind::Apply(fenced.text.clone()), "run a build that knows fencing"),
            (3, Kind::ApplySpec(fenced), "run a build that knows fencing"),
        ] {
            let Err(Refusal::Unsafe(why)) = proposed(level, kind) else { panic!("{needs}") };
            let held = format!(
                "{needs}; cluster feature level {level}, held back by lb2 (0.1.0), wit (0.1.0): \
                 install the newest nines there"
            );
            assert!(why.ends_with(&held), "{why}");
        }
    }

    #[test]
    fn a_member_counts_by_its_heartbeats_while_it_is_heard_and_else_by_its_facts() {
        let now = Time(1_000_000_000);
        let held = |level, says: &[(u64, u32)]| {
            let mut node = node(now, level, &[]);
            for &(from, feature_level) in says {
                hear(&mut node, now, from, Heartbeat { feature_level, ..Heartbeat::default() });
            }
            node.level_held_back(now)
        };
        assert_eq!(held(BUILD, &[]), None);
        assert_eq!(held(0, &[(2, BUILD), (3, BUILD)]), None);
        let wit =
            "cluster feature level 0, held back by wit (0.1.0): install the newest nines there";
        assert_eq!(held(0, &[(2, BUILD)]).as_deref(), Some(wit));
        let lb2 = "not read by lb2 (0.1.0): install the newest nines there";
        let lb2 = format!("cluster feature level {BUILD}, {lb2}");
        assert_eq!(held(BUILD, &[(2, 0), (3, BUILD)]), Some(lb2));
    }
}
