//! A config as the piece by which it differs from the one in force.
//!
//! Decides: what an `Apply` command says. One weight among a hundred thousand servers is some sixty
//! bytes of six megabytes: only those go to the disks and to the other nodes.

use std::{borrow::Cow, sync::Arc};

use nines_model::Spec;

use crate::{action::Refusal, configs::Config, peek, wire::Apply};

/// A piece of text in place of another one. It borrows from the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'a> {
    /// The new piece.
    piece: &'a str,
    /// Revision of the config that it changes; 0: any, and the piece is the whole text.
    expected: u64,
    /// Bytes of the text in force before the piece.
    head: u64,
    /// Bytes of it after the piece.
    tail: u64,
}

impl<'a> Edit<'a> {
    /// The edit in an encoded [`crate::wire::Command`], if that applies a config.
    pub fn of_command(bytes: &'a [u8]) -> Option<Self> {
        let apply = peek::field(bytes, 10)?;
        let piece = std::str::from_utf8(peek::field(apply, 1).unwrap_or_default()).ok()?;
        let [expected, head, tail] = [2, 3, 4].map(|n| peek::number(apply, n).unwrap_or_default());
        Some(Self { piece, expected, head, tail })
    }

    /// The edit in a decoded command.
    pub fn of(apply: &'a Apply) -> Self {
        let Apply { text, expected, head, tail } = apply;
        Self { piece: text, expected: *expected, head: *head, tail: *tail }
    }

    /// The whole new text, by the one in force; `None`: the piece does not fit into that one.
    pub fn whole(&self, revision: u64, text: &str) -> Option<Cow<'a, str>> {
        if self.head == 0 && self.tail == 0 {
            return Some(Cow::Borrowed(self.piece));
        }
        if self.expected != revision {
            return None;
        }
        let (head, tail) = (usize::try_from(self.head).ok()?, usize::try_from(self.tail).ok()?);
        let end = text.len().checked_sub(tail).filter(|end| head <= *end)?;
        let (head, tail) = (text.get(..head)?, text.get(end..)?);
        Some(Cow::Owned([head, self.piece, tail].concat()))
    }
}

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

/// The config in force after each `Apply` command of a log, as far as one is accepted.
pub struct Following {
    /// How many were applied.
    pub revision: u64,
    /// The newest one's text.
    pub text: Arc<str>,
    /// And what it says.
    pub spec: Arc<Spec>,
}

impl Following {
    /// The config that this command puts in force, or why it is refused. `read` reads a text.
    pub fn accepts(
        &self,
        edit: &Edit<'_>,
        read: impl FnOnce(&str) -> Arc<Config>,
    ) -> Result<(Arc<Config>, Arc<Spec>), Refusal> {
        let revision = self.revision;
        if edit.expected != 0 && edit.expected != revision {
            let expected = edit.expected;
            let why = format!("revision {revision} is in force, not {expected}");
            return Err(Refusal::Changed(why));
        }
        let text = edit.whole(revision, &self.text).ok_or_else(|| {
            Refusal::Invalid(format!("the change does not fit the text of revision {revision}"))
        })?;
        let config = read(&text);
        let spec = Arc::clone(config.spec.as_ref().map_err(|why| Refusal::Invalid(why.clone()))?);
        let (here, named) = (&self.spec.name, &spec.name);
        if !here.is_empty() && here != named {
            let why = format!("this is the cluster {here}, the file is for {named}");
            return Err(Refusal::Unsafe(why));
        }
        Ok((config, spec))
    }

    /// Goes on to the config that this encoded command puts in force, if it does.
    pub fn follow(&mut self, command: &[u8], read: impl FnOnce(&str) -> Arc<Config>) -> bool {
        let Some(edit) = Edit::of_command(command) else { return false };
        let Ok((config, spec)) = self.accepts(&edit, read) else { return false };
        (self.revision, self.text, self.spec) = (self.revision + 1, Arc::clone(&config.text), spec);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::wire::{Command, command::Kind};

    fn encoded(apply: Apply) -> Vec<u8> {
        Command { number: 7, kind: Some(Kind::Apply(apply)), ..Command::default() }.encode_to_vec()
    }

    #[test]
    fn one_weight_is_a_few_bytes_and_fits_no_other_text() {
        let before = "x\n".repeat(50_000) + "weight = 1" + &"\ny".repeat(50_000);
        let after = before.replace("= 1", "= 25");
        let apply = Apply::in_place_of(&before, &after, 4);
        assert_eq!((apply.text.as_str(), apply.expected), ("25", 4));
        let edit = Edit::of(&apply);
        assert_eq!(edit.whole(4, &before).as_deref(), Some(after.as_str()));
        assert_eq!(edit.whole(5, &before), None, "of another revision");
        assert_eq!(edit.whole(4, &before[..before.len() / 2]), None, "too short");
        let bytes = encoded(apply.clone());
        assert!(bytes.len() < 30, "{}", bytes.len());
        assert_eq!(Edit::of_command(&bytes), Some(edit));
        let beyond = [(u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)];
        for (head, tail) in beyond {
            assert_eq!(Edit::of(&Apply { head, tail, ..apply.clone() }).whole(4, &before), None);
        }
        // The middle of a character is no place.
        let cut = Apply { head: 1, expected: 4, ..Apply::default() };
        assert_eq!(Edit::of(&cut).whole(4, "ß"), None);
    }

    #[test]
    fn a_log_is_followed_through_what_is_refused() {
        let text = |name: &str, weight: u8| {
            format!("[cluster]\nname = \"{name}\"\n# {weight}\n").as_str().into()
        };
        let (one, two): (Arc<str>, Arc<str>) = (text("c", 1), text("c", 2));
        let read = |text: &str| Arc::new(Config::read(text.into()));
        let mut at = Following { revision: 0, text: "".into(), spec: Arc::default() };
        assert!(at.follow(&encoded(Apply::whole(one.to_string(), 0)), read));
        let change = encoded(Apply::in_place_of(&one, &two, 1));
        assert!(!at.follow(&encoded(Apply::in_place_of(&one, &text("d", 1), 1)), read), "another");
        assert!(!at.follow(&encoded(Apply::in_place_of(&one, "nonsense", 1)), read));
        assert!(at.follow(&change, read));
        assert!(!at.follow(&change, read), "a second time");
        assert_eq!((at.revision, &at.text), (2, &two));
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
            let bytes = encoded(apply.clone());
            let edit = Edit::of_command(&bytes).unwrap();
            prop_assert_eq!(edit, Edit::of(&apply));
            prop_assert_eq!(edit.whole(revision, &before).unwrap(), after);
        }
    }
}
