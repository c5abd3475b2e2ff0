//! Configs as read from their texts, each once.
//!
//! Decides: which texts have been read. Ten thousand services take a tenth of a second to read:
//! too long for the thread that keeps leases. It leaves a text to another thread
//! ([`crate::Action::Read`]) and goes on when it was read ([`crate::Event::Read`]). What a text says
//! depends on nothing else, so it makes no difference which thread read it, or when.

use std::{collections::VecDeque, sync::Arc};

use nines_model::{Spec, config};

use crate::{action::CheckTask, forwarding};

/// A text and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As written.
    pub text: Arc<str>,
    /// As read; or what is wrong with it first.
    pub spec: Result<Arc<Spec>, String>,
    /// The checks that go with it.
    pub checks: Arc<Vec<CheckTask>>,
}

impl Config {
    /// Reads a text.
    pub fn read(text: Arc<str>) -> Self {
        let spec = match &*text {
            // A cluster without a config yet.
            "" => Ok(Arc::default()),
            some => config::parse(some).map(Arc::new).map_err(|found| found[0].message.clone()),
        };
        let checks = spec.as_ref().map_or_else(|_| Vec::new(), |spec| forwarding::checks(spec));
        Self { text, spec, checks: Arc::new(checks) }
    }
}

/// Texts that were read: the one in force and those that may follow it.
#[derive(Debug, Default)]
pub struct Configs {
    read: VecDeque<Arc<Config>>,
}

/// One in force, one that follows it, one that was refused meanwhile.
const KEPT: usize = 3;

impl Configs {
    /// Remembers one.
    pub fn put(&mut self, config: Arc<Config>) {
        if self.known(&config.text).is_none() {
            self.read.push_back(config);
            if self.read.len() > KEPT {
                self.read.pop_front();
            }
        }
    }

    /// What this text says, if it was read.
    pub fn known(&self, text: &str) -> Option<Arc<Config>> {
        // Most ask with the very text that was kept.
        let same = |c: &&Arc<Config>| c.text.as_ptr() == text.as_ptr() || *c.text == *text;
        self.read.iter().rev().find(same).cloned()
    }

    /// What this text says. Reads it here and now if nobody has.
    pub fn get(&mut self, text: &str) -> Arc<Config> {
        self.known(text).unwrap_or_else(|| {
            let config = Arc::new(Config::read(text.into()));
            self.put(Arc::clone(&config));
            config
        })
    }

    /// This one is in force now: those before it are not needed any more.
    pub fn in_force(&mut self, text: &str) {
        if let Some(at) = self.read.iter().rposition(|c| *c.text == *text) {
            self.read.drain(..at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once_and_kept_until_another_is_in_force() {
        let text = |n: u8| format!("[cluster]\nname = \"c{n}\"\n");
        let mut configs = Configs::default();
        let first = configs.get(&text(1));
        assert_eq!(first.spec.as_ref().unwrap().name, "c1");
        assert!(Arc::ptr_eq(&configs.get(&text(1)), &first));
        configs.put(Arc::new(Config::read(text(2).into())));
        configs.in_force(&text(2));
        assert!(configs.known(&text(1)).is_none());
        assert!(configs.known(&text(2)).is_some());
        assert!(configs.get("x").spec.is_err(), "an error is remembered, too");
        (3..9).for_each(|n| drop(configs.get(&text(n))));
        assert_eq!(configs.read.len(), KEPT);
        assert_eq!(configs.get("").spec.as_deref(), Ok(&Spec::default()));
    }
}
