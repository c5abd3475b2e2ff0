//! The config in force.
//!
//! Decides: which config may follow the one in force (by [`crate::edit`]), and what an applied
//! config means for VIPs, drains, standbys and move requests that it no longer names.

use super::{Entry, State, events::Event};
use crate::{action::Refusal, edit::Following, event_log::EventKind, wire::command::Kind};

impl State {
    /// The config that a command puts in force. An error: it was made from another revision, its
    /// text is wrong, it is for another cluster, or this node would read it otherwise.
    pub(super) fn validate_config(&self, kind: &Kind) -> Result<Following, Refusal> {
        let none = || Err(Refusal::Invalid("no config".into()));
        self.following().after(kind).unwrap_or_else(none)
    }

    /// Puts it in force.
    pub(super) fn commit_config(&mut self, entry: Entry<'_>, next: Following) -> String {
        self.digest = next.digest();
        let Following { revision, text, spec, parts } = next;
        self.vips.release_unnamed(&spec);
        self.admin.forget_unnamed(&spec);
        (self.spec, self.text, self.parts, self.revision) = (spec, text, parts, revision);
        let text = format!("config {} applied", self.revision);
        let subject = "config".to_owned();
        self.commit_event(entry, Event { kind: EventKind::Config, subject, text: text.clone() });
        text
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nines_model::{LogIndex, ServerRef};

    use super::*;
    use crate::{
        state::{
            Holding,
            tests::{CONFIG, act, command, state, tried, vip},
        },
        wire::{self, Apply, ApplySpec},
    };

    fn apply(text: &str, expected: u64) -> Kind {
        Kind::Apply(Apply::whole(text.to_owned(), expected))
    }

    #[test]
    fn a_config_follows_its_revision_its_cluster_and_the_rules_of_its_text() {
        let (good, other) = (CONFIG.replace("r2", "r5"), CONFIG.replace("\"t\"", "\"u\""));
        let piece =
            |expected, head, tail| Kind::Apply(Apply { text: String::new(), expected, head, tail });
        let read = |text: &str| nines_model::config::parse(text).unwrap();
        let spec = ApplySpec::in_place_of((CONFIG, &read(CONFIG)), (&good, &read(&good)), 1);
        let whole = ApplySpec::whole(good.clone(), &read(&good), 0);
        let elsewhere = ApplySpec::whole(other.clone(), &read(&other), 0);
        let table: [(Kind, Result<(), fn(&Refusal) -> bool>); 11] = [
            (Kind::ApplySpec(spec.unwrap()), Ok(())),
            (Kind::ApplySpec(whole.unwrap()), Ok(())),
            (Kind::ApplySpec(elsewhere.unwrap()), Err(|why| matches!(why, Refusal::Unsafe(_)))),
            (apply(&good, 0), Ok(())),
            (apply(&good, 1), Ok(())),
            (Kind::Apply(Apply::in_place_of(CONFIG, &good, 1)), Ok(())),
            (apply(&good, 2), Err(|why| matches!(why, Refusal::Changed(_)))),
            (apply("x", 0), Err(|why| matches!(why, Refusal::Invalid(_)))),
            (apply(&other, 0), Err(|why| matches!(why, Refusal::Unsafe(_)))),
            (piece(1, 1 << 40, 1), Err(|why| matches!(why, Refusal::Invalid(_)))),
            (piece(0, 1, 1), Err(|why| matches!(why, Refusal::Invalid(_)))),
        ];
        for (kind, wanted) in table {
            let mut state = state();
            let outcome = tried(&mut state, 20, None, kind.clone());
            match wanted {
                Ok(()) => {
                    assert_eq!(outcome, Ok("config 2 applied".into()), "{kind:?}");
                    assert_eq!((&*state.text, state.revision), (good.as_str(), 2));
                    assert_eq!(state.parts, crate::spec_edit::parts_digest(&state.spec));
                    assert_eq!(state.digest, crate::spec_edit::digest(&state.spec));
                }
                Err(fits) => assert!(fits(&outcome.clone().unwrap_err()), "{kind:?}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_a_config_no_longer_names_is_released_and_forgotten() {
        let mut state = state();
        for kind in [act("drain", &["web6/r3", "web/r1"]), act("standby", &["w", "lb2"])] {
            assert!(tried(&mut state, 20, None, kind).is_ok());
        }
        let request =
            wire::Give { vip: wire::pack(vip(0)), to: "lb2".into(), ..Default::default() };
        assert!(tried(&mut state, 21, None, Kind::MoveRequest(request)).is_ok());
        let without = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n\
            [service.web]\nlisten = \"10.0.0.200:80\"\ncheck = \"none\"\nforward = \"full-nat\"\n\
            servers = { r1 = \"10.0.0.11\" }\n";
        assert!(tried(&mut state, 22, None, apply(without, 0)).is_ok());
        let nobody = |token| {
            let token = LogIndex(token);
            Holding::Releasing { node: "lb1".into(), token, to: None }
        };
        let all: Vec<(IpAddr, Holding)> =
            state.vips.iter().map(|(vip, holding)| (*vip, holding.clone())).collect();
        assert_eq!(all, [(vip(0), nobody(5)), (vip(1), nobody(6))]);
        assert_eq!(state.drained(), [ServerRef::new("web", "r1")].into());
        assert_eq!(state.admin.standbys().keys().collect::<Vec<_>>(), ["lb2"]);
        assert!(state.admin.move_requests().is_empty());
        let told = state.story.iter().next_back().unwrap();
        assert_eq!((told.id.as_str(), told.text.as_str()), ("22.0", "config 2 applied"));
        // `command` is what a proposer writes: the same bytes give the same state.
        let mut again = state.clone();
        let bytes = command(apply(without, 0));
        for state in [&mut state, &mut again] {
            state.apply(LogIndex(23), None, &bytes);
        }
        assert!(state == again && state.revision == 3);
    }
}
