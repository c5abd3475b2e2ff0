//! The replicated state as bytes, and back. Equal states give equal bytes (S2).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nines_model::{LogIndex, NodeId, NodeName, ServerRef, Spec};
use prost::Message;

use crate::{
    edit::Following,
    event_log::{EventLog, LoggedEvent},
    peek, spec_edit,
    state::{Admin, ApiTokens, Failover, Fencing, Holding, Members, Set, State, Vips},
    wire::{AnewOrder, ApiToken, Facts, LogEvent, Member, Power, SpecEdit, named, pack, unpack},
};

/// Field of [`Kept`] with what the text says.
const SPEC: u64 = 32;

#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    members: Vec<Member>,
    #[prost(message, repeated, tag = "4")]
    facts: Vec<Facts>,
    #[prost(message, repeated, tag = "5")]
    vips: Vec<KeptVip>,
    #[prost(message, repeated, tag = "6")]
    sets: Vec<KeptSet>,
    #[prost(message, repeated, tag = "7")]
    story: Vec<KeptEvent>,
    #[prost(uint64, tag = "8")]
    membership: u64,
    #[prost(uint64, tag = "9")]
    applied: u64,
    #[prost(uint64, tag = "30")]
    highest: u64,
    #[prost(uint32, tag = "31")]
    feature_level: u32,
    /// What the text says; none in states of builds below feature level 2.
    #[prost(message, optional, tag = "32")]
    spec: Option<SpecEdit>,
    /// Members that are to leave; none below feature level 3.
    #[prost(message, repeated, tag = "33")]
    removals: Vec<KeptRemoval>,
    /// Power of nodes; none below feature level 4.
    #[prost(message, repeated, tag = "34")]
    powers: Vec<KeptPower>,
    /// Tokens of the API; none below feature level 5.
    #[prost(message, repeated, tag = "43")]
    tokens: Vec<KeptToken>,
    /// Members that begin anew; none below feature level 5.
    #[prost(message, repeated, tag = "39")]
    anew: Vec<AnewOrder>,
}

#[derive(Clone, PartialEq, Message)]
struct KeptVip {
    #[prost(bytes = "vec", tag = "1")]
    vip: Vec<u8>,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(uint64, tag = "3")]
    token: u64,
    #[prost(string, tag = "4")]
    releasing_to: String,
    #[prost(string, tag = "5")]
    move_request: String,
    #[prost(message, optional, tag = "6")]
    failover: Option<KeptFailover>,
    #[prost(bool, tag = "7")]
    releasing: bool,
}

#[derive(Clone, PartialEq, Message)]
struct KeptFailover {
    #[prost(string, tag = "1")]
    from: String,
    #[prost(string, tag = "2")]
    to: String,
    #[prost(uint64, tag = "3")]
    at_ms: u64,
    #[prost(string, tag = "4")]
    actor: String,
    #[prost(uint64, tag = "5")]
    silent_ms: u64,
    #[prost(string, tag = "6")]
    event: String,
}

/// A drain (`service` and `subject`) or a standby (`subject` only).
#[derive(Clone, PartialEq, Message)]
struct KeptSet {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    subject: String,
    #[prost(string, tag = "3")]
    actor: String,
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(uint64, tag = "5")]
    at_ms: u64,
    #[prost(uint64, tag = "6")]
    until_ms: u64,
}

/// A member that is to leave.
#[derive(Clone, PartialEq, Message)]
struct KeptRemoval {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, required, tag = "2")]
    wanted: KeptSet,
}

/// The power of a member.
#[derive(Clone, PartialEq, Message)]
struct KeptPower {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, required, tag = "2")]
    power: Power,
}

/// A token of the API.
#[derive(Clone, PartialEq, Message)]
struct KeptToken {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, required, tag = "2")]
    token: ApiToken,
}

#[derive(Clone, PartialEq, Message)]
struct KeptEvent {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    told: Option<LogEvent>,
}

fn set(service: &str, subject: &str, set: &Set) -> KeptSet {
    KeptSet {
        service: service.into(),
        subject: subject.into(),
        actor: set.actor.clone(),
        reason: set.reason.clone(),
        at_ms: set.at_ms,
        until_ms: set.until_ms,
    }
}

/// A name as the snapshot has it: empty for nobody.
fn text(name: Option<&NodeName>) -> String {
    name.map_or_else(String::new, NodeName::to_string)
}

/// The state as the bytes of a snapshot.
pub fn encode(state: &State) -> Vec<u8> {
    let vip = |addr: &std::net::IpAddr| {
        let (node, token, releasing_to) = match state.vips.get(addr) {
            Some(Holding::Held { node, token }) => {
                (node.to_string(), token.number(), String::new())
            }
            Some(Holding::Releasing { node, token, to }) => {
                (node.to_string(), token.number(), text(to.as_ref()))
            }
            None => (String::new(), 0, String::new()),
        };
        let releasing = matches!(state.vips.get(addr), Some(Holding::Releasing { .. }));
        let failover = state.vips.failovers().get(addr).map(|f| KeptFailover {
            from: text(f.from.as_ref()),
            to: f.to.to_string(),
            at_ms: f.at_ms,
            actor: f.actor.clone(),
            silent_ms: f.silent_ms,
            event: f.event.clone(),
        });
        let move_request =
            state.admin.move_requests().get(addr).map_or_else(String::new, NodeName::to_string);
        KeptVip { vip: pack(*addr), node, token, releasing_to, move_request, failover, releasing }
    };
    let drains = state
        .admin
        .drains()
        .iter()
        .map(|(server, s)| set(server.service.as_str(), server.server.as_str(), s));
    let standbys = state.admin.standbys().iter().map(|(node, s)| set("", node.as_str(), s));
    let removal =
        |(id, s): (&NodeId, &Set)| KeptRemoval { id: id.number(), wanted: set("", "", s) };
    let removals = state.admin.removals().iter().map(removal);
    let power =
        |(id, power): (&NodeId, &Power)| KeptPower { id: id.number(), power: power.clone() };
    let token = |(name, token): (&String, &ApiToken)| KeptToken {
        name: name.clone(),
        token: token.clone(),
    };
    let anew =
        |(id, index): (&NodeId, &LogIndex)| AnewOrder { node: id.number(), index: index.number() };
    let event = |e: &LoggedEvent| KeptEvent { id: e.id.clone(), told: Some(e.into()) };
    let (moves, failovers) = (state.admin.move_requests(), state.vips.failovers());
    let addresses: BTreeSet<_> =
        state.vips.keys().chain(moves.keys()).chain(failovers.keys()).collect();
    Kept {
        text: state.text.to_string(),
        revision: state.revision,
        members: state.members.values().cloned().collect(),
        facts: state.members.facts().values().cloned().collect(),
        vips: addresses.into_iter().map(vip).collect(),
        sets: drains.chain(standbys).collect(),
        story: state.story.iter().map(event).collect(),
        membership: state.members.newest_change().number(),
        applied: state.applied.number(),
        highest: state.members.highest().number(),
        feature_level: state.members.feature_level(),
        spec: Some(SpecEdit::whole(&state.spec)),
        removals: removals.collect(),
        powers: state.fencing.iter().map(power).collect(),
        tokens: state.tokens.iter().map(token).collect(),
        anew: state.members.anew().iter().map(anew).collect(),
    }
    .encode_to_vec()
}

fn read_set(s: &KeptSet) -> Set {
    let KeptSet { actor, reason, at_ms, until_ms, .. } = s.clone();
    Set { actor, reason, at_ms, until_ms }
}

fn read_tokens(kept: Vec<KeptToken>) -> ApiTokens {
    ApiTokens::restored(kept.into_iter().map(|kept| (kept.name, kept.token)).collect())
}

/// From bytes; `None`: not ours. Empty bytes are the empty state.
pub fn decode(bytes: &[u8]) -> Option<State> {
    let kept = Kept::decode(bytes).ok()?;
    let spec = match &kept.spec {
        // What was skipped is missing in what is written again: never go by a part of it (S27).
        Some(spec) if peek::field(bytes, SPEC) != Some(&spec.encode_to_vec()) => return None,
        Some(spec) => spec.applied_to(&Spec::default())?,
        None => Following::default().read(&kept.text).ok()?,
    };
    let (mut holdings, mut failovers) = (BTreeMap::new(), BTreeMap::new());
    let (mut drains, mut standbys, mut moves) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for v in kept.vips {
        let vip = unpack(&v.vip)?;
        let (node, token, to) = (v.node, LogIndex(v.token), named(v.releasing_to));
        if let Some(node) = named(node) {
            let holding = if v.releasing {
                Holding::Releasing { node, token, to }
            } else {
                Holding::Held { node, token }
            };
            holdings.insert(vip, holding);
        }
        if let Some(to) = named(v.move_request) {
            moves.insert(vip, to);
        }
        if let Some(f) = v.failover {
            let KeptFailover { from, to, at_ms, actor, silent_ms, event } = f;
            let (from, to) = (named(from), to.into());
            failovers.insert(vip, Failover { from, to, at_ms, actor, silent_ms, event });
        }
    }
    let removals = kept.removals.iter().map(|r| (NodeId(r.id), read_set(&r.wanted))).collect();
    let powers = kept.powers.into_iter().map(|k| (NodeId(k.id), k.power)).collect();
    let tokens = read_tokens(kept.tokens);
    for s in kept.sets {
        let set = read_set(&s);
        if s.service.is_empty() {
            standbys.insert(s.subject.into(), set);
        } else {
            drains.insert(ServerRef::new(s.service, s.subject), set);
        }
    }
    let Kept { revision, members, facts, membership, highest, feature_level, applied, .. } = kept;
    let parts = spec_edit::parts_digest(&spec);
    let mut state = State {
        text: kept.text.into(),
        parts,
        digest: if revision == 0 { 0 } else { spec_edit::digest_of(parts, &spec) },
        spec: Arc::new(spec),
        revision,
        members: Members::restored(
            members,
            facts,
            (NodeId(highest), LogIndex(membership)),
            feature_level,
        )
        .with_anew(&kept.anew),
        vips: Vips::restored(holdings, failovers),
        admin: Admin::restored(drains, standbys, moves, removals),
        fencing: Fencing::restored(powers),
        tokens,
        story: EventLog::default(),
        applied: LogIndex(applied),
    };
    for e in kept.story {
        state.story.restore(LoggedEvent::read(e.id, e.told?));
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_as_it_was() {
        let vip = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
        let node = || NodeName::from("lb1");
        let to = NodeName::from("lb2");
        let holdings = [
            (vip(1), Holding::Held { node: node(), token: LogIndex(7) }),
            (vip(2), Holding::Releasing { node: node(), token: LogIndex(8), to: Some(to.clone()) }),
            (vip(3), Holding::Releasing { node: node(), token: LogIndex(9), to: None }),
        ];
        let failovers = [(vip(5), Failover { to: to.clone(), ..Failover::default() })];
        let drains = [(ServerRef::new("web", "r1"), Set { at_ms: 5, ..Set::default() })];
        let standbys = [(node(), Set { until_ms: 6, ..Set::default() })];
        let member = Member { id: 2, name: to.to_string(), ..Member::default() };
        let facts = Facts { node: to.to_string(), no_ipvs: true, ..Facts::default() };
        let mut state = State {
            revision: 3,
            digest: spec_edit::digest(&Spec::default()),
            applied: LogIndex(9),
            members: Members::restored(vec![member], vec![facts], (NodeId(7), LogIndex(4)), 3)
                .with_anew(&[AnewOrder { node: 2, index: 4 }]),
            vips: Vips::restored(holdings.into(), failovers.into()),
            admin: Admin::restored(
                drains.into(),
                standbys.into(),
                [(vip(4), to)].into(),
                [(NodeId(2), Set { actor: "alice@lb1".into(), ..Set::default() })].into(),
            ),
            tokens: ApiTokens::restored(
                [("ci".into(), ApiToken { digest: vec![7; 32], ..ApiToken::default() })].into(),
            ),
            ..State::default()
        };
        state.story.push(LogIndex(4), 1, LogEvent { text: "x".into(), ..LogEvent::default() });
        state.story.push(LogIndex(4), 2, LogEvent { kind: "wish".into(), ..LogEvent::default() });
        let bytes = encode(&state);
        let back = decode(&bytes).unwrap();
        assert_eq!(back, state);
        assert_eq!(encode(&back), bytes);
        assert!(decode(b"\xff\xff").is_none());
    }

    /// A build that skipped a part of the config would go by another one than the others.
    #[test]
    fn a_state_with_something_unknown_in_its_config_is_not_read() {
        let spec = nines_model::config::parse(
            "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\nservers = { r1 = \"10.0.0.11\" }\n",
        );
        let state = State::founded("text".into(), Arc::new(spec.unwrap()), []);
        let mut kept = Kept::decode(&encode(&state)[..]).unwrap();
        let whole = kept.spec.take().unwrap();
        let service = whole.services[0].encode_to_vec();
        let rest = SpecEdit { services: Vec::new(), ..whole };
        let with = |service: &[u8]| {
            let field = |tag: u32, bytes: &[u8]| {
                let mut out = Vec::new();
                prost::encoding::encode_key(
                    tag,
                    prost::encoding::WireType::LengthDelimited,
                    &mut out,
                );
                prost::encoding::encode_varint(bytes.len() as u64, &mut out);
                [&out[..], bytes].concat()
            };
            let edit = [rest.encode_to_vec(), field(7, service)].concat();
            [kept.encode_to_vec(), field(32, &edit)].concat()
        };
        assert_eq!(decode(&with(&service)).as_ref(), Some(&state));
        // Number 900, a text.
        let newer = [&service[..], &[0xa2, 0x38, 2, b'h', b'i']].concat();
        assert!(decode(&with(&newer)).is_none());
    }
}
