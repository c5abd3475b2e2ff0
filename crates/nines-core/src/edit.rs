//! A config's text as the piece by which it differs from the one in force.
//!
//! Decides: which config may follow the one in force. One weight among a hundred thousand servers
//! is some sixty bytes of six megabytes of text: only those go to the disks and to the other nodes.

use std::{borrow::Cow, sync::Arc};

use nines_model::{Spec, config};
use prost::Message as _;

use crate::{
    action::Refusal,
    peek, spec_edit,
    wire::{Apply, ApplySpec, Command, command::Kind},
};

impl Apply {
    /// The command that puts `text` in force in place of `before`, the config in force at this
    /// `revision`.
    pub fn in_place_of(before: &str, text: &str, revision: u64) -> Self {
        let same = |pair: &(u8, u8)| pair.0 == pair.1;
        let mut head = before.bytes().zip(text.bytes()).take_while(same).count();
        while !text.is_char_boundary(head) || !before.is_char_boundary(head) {
            head -= 1;
        }
        let (old, new) = (&before[head..], &text[head..]);
        let mut tail = old.bytes().rev().zip(new.bytes().rev()).take_while(same).count();
        while !old.is_char_boundary(old.len() - tail) || !new.is_char_boundary(new.len() - tail) {
            tail -= 1;
        }
        let text = new[..new.len() - tail].to_owned();
        Self { text, expected: revision, head: head as u64, tail: tail as u64 }
    }

    /// The whole new text, by the one in force; `None`: the piece does not fit into that one.
    pub fn text_after(&self, revision: u64, before: &str) -> Option<Cow<'_, str>> {
        if self.is_whole() {
            return Some(Cow::Borrowed(&self.text));
        }
        if self.expected != revision {
            return None;
        }
        let (head, tail) = (usize::try_from(self.head).ok()?, usize::try_from(self.tail).ok()?);
        let end = before.len().checked_sub(tail).filter(|end| head <= *end)?;
        let (head, tail) = (before.get(..head)?, before.get(end..)?);
        Some(Cow::Owned([head, &self.text, tail].concat()))
    }

    /// Bytes of the config that it puts in force.
    pub fn size(&self) -> u64 {
        (self.text.len() as u64).saturating_add(self.head).saturating_add(self.tail)
    }

    /// Whether it has the whole text, not a piece of it.
    pub fn is_whole(&self) -> bool {
        self.head == 0 && self.tail == 0
    }

    /// The command that puts `text` in force, whatever is; `expected` as in [`Apply`].
    pub fn whole(text: String, expected: u64) -> Self {
        Self { text, expected, ..Self::default() }
    }
}

/// A config in force, and those that may follow it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Following {
    /// How many were applied.
    pub revision: u64,
    /// The newest one's text.
    pub text: Arc<str>,
    /// And what it says.
    pub spec: Arc<Spec>,
    /// The digest of its parts ([`spec_edit::parts_digest`]).
    pub parts: u64,
}

impl Following {
    /// The config that this command puts in force; `None`: it puts none.
    pub fn after(&self, kind: &Kind) -> Option<Result<Self, Refusal>> {
        match kind {
            Kind::Apply(text) => Some(self.accepts(text, |text| self.read(text))),
            Kind::ApplySpec(apply) => Some(self.after_spec(apply)),
            _ => None,
        }
    }

    fn after_spec(&self, ApplySpec { text, edit, digest }: &ApplySpec) -> Result<Self, Refusal> {
        if text.expected == 0 && !edit.whole {
            let why = "a change of no certain revision".to_owned();
            return Err(Refusal::Invalid(why));
        }
        let values = |_: &str| {
            edit.applied_to(&self.spec).ok_or_else(|| self.differs("cannot be made from it"))
        };
        // A proposer knows no revision that its log does not have.
        if text.expected > self.revision && !edit.whole {
            return Err(self.differs("is of a revision that this node never had"));
        }
        let next = self.accepts(text, values)?;
        if next.digest() != *digest {
            return Err(self.differs("is another one here than on the node that proposed it"));
        }
        Ok(next)
    }

    /// Says whether two nodes have the same config ([`spec_edit::digest`]).
    pub fn digest(&self) -> u64 {
        spec_edit::digest_of(self.parts, &self.spec)
    }

    /// The command that puts another config in force in its place. An error: the log has no form
    /// for it, or no room.
    pub fn change_to(&self, text: &str, spec: &Spec) -> Result<ApplySpec, String> {
        ApplySpec::in_place_of((&self.text, &self.spec), (text, spec), self.revision)
    }

    fn differs(&self, how: &str) -> Refusal {
        let revision = self.revision;
        Refusal::Differs(format!("the config that follows revision {revision} {how}"))
    }

    /// What a text says; of one that differs little from the text in force, only the difference is
    /// read.
    pub fn read(&self, text: &str) -> Result<Spec, Refusal> {
        // A cluster without a config yet.
        if text.is_empty() {
            return Ok(Spec::default());
        }
        if let Some(spec) = config::parse_after(&self.text, &self.spec, text) {
            return Ok(spec);
        }
        config::parse(text).map_err(|found| Refusal::Invalid(found[0].message.clone()))
    }

    fn accepts(
        &self,
        apply: &Apply,
        read: impl FnOnce(&str) -> Result<Spec, Refusal>,
    ) -> Result<Self, Refusal> {
        let (revision, expected) = (self.revision, apply.expected);
        if expected != 0 && expected != revision {
            let why = format!("revision {revision} is in force, not {expected}");
            return Err(Refusal::Changed(why));
        }
        let text = apply.text_after(revision, &self.text).ok_or_else(|| {
            Refusal::Invalid(format!("the change does not fit the text of revision {revision}"))
        })?;
        let spec = read(&text)?;
        let (here, named) = (&self.spec.name, &spec.name);
        if !here.is_empty() && here != named {
            let why = format!("this is the cluster {here}, the file is for {named}");
            return Err(Refusal::Unsafe(why));
        }
        let parts = spec_edit::parts_digest_after(&self.spec, self.parts, &spec);
        Ok(Self { revision: revision + 1, text: text.into(), spec: Arc::new(spec), parts })
    }

    /// Goes on to the config that this encoded command puts in force, if it does; `None`: it is
    /// about no config.
    pub fn follow(&mut self, command: &[u8]) -> Option<Result<(), Refusal>> {
        if !peek::applies_config(command) {
            return None;
        }
        let kind = Command::decode(command).ok()?.kind?;
        Some(self.after(&kind)?.map(|next| *self = next))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(kind: Kind) -> Vec<u8> {
        Command { number: 7, kind: Some(kind), ..Command::default() }.encode_to_vec()
    }

    #[test]
    fn one_weight_is_a_few_bytes_and_fits_no_other_text() {
        let before = "x\n".repeat(50_000) + "weight = 1" + &"\ny".repeat(50_000);
        let after = before.replace("= 1", "= 25");
        let apply = Apply::in_place_of(&before, &after, 4);
        assert_eq!((apply.text.as_str(), apply.expected), ("25", 4));
        assert_eq!(apply.text_after(4, &before).as_deref(), Some(after.as_str()));
        assert_eq!(apply.text_after(5, &before), None, "of another revision");
        assert_eq!(apply.text_after(4, &before[..before.len() / 2]), None, "too short");
        assert!(encoded(Kind::Apply(apply.clone())).len() < 30);
        let beyond = [(u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)];
        for (head, tail) in beyond {
            assert_eq!(Apply { head, tail, ..apply.clone() }.text_after(4, &before), None);
        }
        // The middle of a character is no place.
        let cut = Apply { head: 1, expected: 4, ..Apply::default() };
        assert_eq!(cut.text_after(4, "ß"), None);
    }

    fn text(name: &str, comment: u8) -> String {
        format!("[cluster]\nname = \"{name}\"\n# {comment}\n")
    }

    fn goes(at: &mut Following, command: &[u8]) -> bool {
        matches!(at.follow(command), Some(Ok(())))
    }

    #[test]
    fn a_log_is_followed_through_what_is_refused() {
        let (one, two) = (text("c", 1), text("c", 2));
        let mut at = Following::default();
        let spec = |text: &str| config::parse(text).unwrap();
        let apply = |kind| encoded(Kind::Apply(kind));
        assert!(goes(&mut at, &apply(Apply::whole(one.clone(), 0))));
        let change = apply(Apply::in_place_of(&one, &two, 1));
        assert!(!goes(&mut at, &apply(Apply::in_place_of(&one, &text("d", 1), 1))), "another");
        assert!(!goes(&mut at, &apply(Apply::in_place_of(&one, "nonsense", 1))));
        assert!(goes(&mut at, &change));
        assert!(!goes(&mut at, &change), "a second time");
        assert_eq!((at.revision, &*at.text), (2, two.as_str()));

        // The same with what the proposer read, after a text as after a spec.
        let three = text("c", 3) + "[nodes]\nlb1 = \"10.0.0.2\"\n";
        for before in [two.clone(), three.clone()] {
            let after = (three.as_str(), &spec(&three));
            let next = ApplySpec::in_place_of((&before, &spec(&before)), after, at.revision);
            let change = encoded(Kind::ApplySpec(next.unwrap()));
            assert!(goes(&mut at, &change));
            assert!(!goes(&mut at, &change), "a second time");
        }
        assert_eq!((at.revision, &*at.text, &*at.spec), (4, three.as_str(), &spec(&three)));
        assert_eq!(at.digest(), spec_edit::digest(&at.spec));
    }

    #[test]
    fn a_node_that_would_come_to_another_config_says_so() {
        let (one, two) = (text("c", 1), text("c", 2) + "[nodes]\nlb1 = \"10.0.0.2\"\n");
        let spec = |text: &str| config::parse(text).unwrap();
        let mut at = Following::default();
        assert!(goes(&mut at, &encoded(Kind::Apply(Apply::whole(one.clone(), 0)))));
        let good = ApplySpec::in_place_of((&one, &spec(&one)), (&two, &spec(&two)), 1).unwrap();
        let differs = |at: &Following, apply: &ApplySpec| {
            let next = at.after(&Kind::ApplySpec(apply.clone())).unwrap();
            matches!(next, Err(Refusal::Differs(_)))
        };
        assert!(!differs(&at, &good));
        // Its own config is another one, though of the same revision.
        let mut other = (*at.spec).clone();
        other.flows += 1;
        let parts = spec_edit::parts_digest(&other);
        let other = Following { spec: Arc::new(other), parts, ..at.clone() };
        assert!(differs(&other, &good));
        // What is to go is not there.
        let mut gone = good.clone();
        gone.edit.nodes_gone.push("lb9".into());
        assert!(differs(&at, &gone));
        // One that it never had.
        let mut later = good.clone();
        later.text.expected = 2;
        assert!(differs(&at, &later));
        // Refused everywhere, for the same reason: made from an older revision, or from none.
        let newer = Following { revision: 2, ..at.clone() };
        let undated =
            ApplySpec { text: Apply { expected: 0, ..good.text.clone() }, ..good.clone() };
        for (at, stale) in [(&newer, good), (&at, undated)] {
            let next = at.after(&Kind::ApplySpec(stale)).unwrap();
            assert!(matches!(next, Err(Refusal::Invalid(_) | Refusal::Changed(_))), "{next:?}");
        }
    }

    proptest! {
        #[test]
        fn a_change_gives_the_text_it_was_made_for(
            parts in prop::collection::vec("[ab€ß]{0,3}", 4),
            revision in 1..5_u64,
        ) {
            let before = format!("{}{}{}", parts[0], parts[1], parts[2]);
            let after = format!("{}{}{}", parts[0], parts[3], parts[2]);
            let apply = Apply::in_place_of(&before, &after, revision);
            prop_assert_eq!(apply.text_after(revision, &before).unwrap(), after);
        }
    }
}
