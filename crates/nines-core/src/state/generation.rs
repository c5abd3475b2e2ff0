//! A cluster that begins anew with the state of another one.
//!
//! Decides: what of a state outlives the cluster that it was of. The config, its revision, what
//! operators have set, and what happened do. Members, holders of VIPs and everything that is
//! between nodes do not: whoever was one is a stranger to the new generation.

use nines_model::{LogIndex, NodeId};

use super::{Admin, ApiTokens, Fencing, Members, State, Vips};
use crate::{
    feature_level,
    wire::{LogEvent, Member},
};

/// The log of the new generation begins so far behind the state: the entries that its predecessor
/// has written since are between, so that no event has the id of another one.
const LEAP: u64 = 1_000_000;

impl State {
    /// The state with which `me` begins alone. Its number must be above [`Members::highest`].
    pub fn begun_anew(&self, me: Member, told: LogEvent) -> Self {
        let applied = LogIndex(self.applied.number() + LEAP);
        let (drains, standbys) = (self.admin.drains().clone(), self.admin.standbys().clone());
        let mut begun = Self {
            members: Members::restored(
                vec![me],
                Vec::new(),
                (NodeId::default(), LogIndex::ZERO),
                feature_level::BUILD,
            ),
            // Nobody holds anything, and nobody is to leave or to be fenced.
            vips: Vips::restored([].into(), self.vips.failovers().clone()),
            admin: Admin::restored(drains, standbys, [].into(), [].into()),
            fencing: Fencing::default(),
            // Those that were revoked since would be valid again.
            tokens: ApiTokens::default(),
            applied,
            ..self.clone()
        };
        begun.story.push(applied, 0, told);
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot,
        state::{Holding, Set},
        wire::ApiToken,
    };

    #[test]
    fn what_was_set_stays_and_who_was_there_does_not() {
        let member = |id: u64, name: &str| Member { id, name: name.into(), ..Member::default() };
        let set = |why: &str| Set { reason: why.into(), ..Set::default() };
        let vip = std::net::IpAddr::from([10, 0, 0, 100]);
        let held = Holding::Held { node: "lb1".into(), token: LogIndex(7) };
        let token = ApiToken { digest: vec![7; 32], role: "viewer".into(), ..ApiToken::default() };
        let before = State {
            revision: 5,
            digest: crate::spec_edit::digest(&nines_model::Spec::default()),
            applied: LogIndex(40),
            members: Members::restored(
                vec![member(1, "lb1"), member(4, "lb2")],
                Vec::new(),
                (NodeId(6), LogIndex(30)),
                1,
            ),
            vips: Vips::restored([(vip, held)].into(), [].into()),
            admin: Admin::restored(
                [].into(),
                [("lb2".into(), set("memory"))].into(),
                [(vip, "lb2".into())].into(),
                [(NodeId(4), set("sold"))].into(),
            ),
            tokens: ApiTokens::restored([("grafana".into(), token)].into()),
            ..State::default()
        };
        let told = LogEvent { text: "begins".into(), ..LogEvent::default() };
        let after = before.begun_anew(member(7, "lb1"), told);
        assert_eq!(after.members.keys().collect::<Vec<_>>(), [&NodeId(7)]);
        assert_eq!((after.members.highest(), after.revision), (NodeId(7), 5));
        assert!(after.vips.get(&vip).is_none() && after.admin.move_requests().is_empty());
        assert!(after.admin.removals().is_empty() && after.admin.standbys().len() == 1);
        assert!(after.tokens.is_empty(), "whoever has one is not of the new generation");
        assert_eq!(after.applied, LogIndex(1_000_040));
        assert_eq!(after.story.iter().next_back().unwrap().id, "1000040.0");
        let bytes = snapshot::encode(&after);
        assert_eq!(snapshot::decode(&bytes), Some(after));
    }
}
