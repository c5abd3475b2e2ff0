//! Configs as read from their texts, each once.
//!
//! Decides: which texts have been read. Ten thousand services take a tenth of a second to read:
//! too long for the thread that keeps leases. It leaves a text to another thread
//! ([`crate::Action::Read`]) and goes on when it was read ([`crate::Event::Read`]). What a text
//! says depends on nothing else, so it makes no difference which thread read it, or when.

use std::{collections::VecDeque, sync::Arc};

use nines_model::{Spec, config};

use crate::health::{self, CheckTask};

/// A text and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The text of the file, as written.
    pub text: Arc<str>,
    /// As read; or what is wrong with it first.
    pub spec: Result<Arc<Spec>, String>,
    /// The checks that go with it.
    pub checks: Arc<Vec<CheckTask>>,
}

/// A text that is to be read, and the last good config: mostly only a few services differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    text: Arc<str>,
    before: Option<Arc<Config>>,
}

impl Unread {
    /// Reads the text; of a text that differs little from the config before, only the difference.
    pub fn read(self) -> Config {
        let before = self.before.as_ref().and_then(|b| Some((&b.text, b.spec.as_ref().ok()?)));
        let after = before.and_then(|(text, spec)| config::parse_after(text, spec, &self.text));
        match after {
            Some(spec) => Config::new(self.text, Ok(Arc::new(spec))),
            None => Config::read(self.text),
        }
    }
}

impl Config {
    /// Reads a text.
    pub fn read(text: Arc<str>) -> Self {
        let spec = match &*text {
            // A cluster without a config yet.
            "" => Ok(Arc::default()),
            some => config::parse(some).map(Arc::new).map_err(|found| found[0].message.clone()),
        };
        Self::new(text, spec)
    }

    fn new(text: Arc<str>, spec: Result<Arc<Spec>, String>) -> Self {
        let checks = spec.as_ref().map_or_else(|_| Vec::new(), |spec| health::checks(spec));
        Self { text, spec, checks: Arc::new(checks) }
    }
}

/// Texts that were read: the one in force and those that may follow it.
#[derive(Clone, Debug, Default)]
pub struct Configs {
    read: VecDeque<Arc<Config>>,
}

/// One in force, one that follows it, one that was refused meanwhile.
const KEPT: usize = 3;

impl Configs {
    /// Remembers a config that was read, in place of the oldest one.
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

    /// What this text says, or what it takes to read it.
    pub fn find(&self, text: &Arc<str>) -> Result<Arc<Config>, Unread> {
        self.known(text).ok_or_else(|| self.unread(Arc::clone(text)))
    }

    /// A text that nobody has read, beside the last good config.
    fn unread(&self, text: Arc<str>) -> Unread {
        let right = |config: &&Arc<Config>| config.spec.is_ok();
        Unread { text, before: self.read.iter().rev().find(right).cloned() }
    }

    /// What this text says. Reads it here and now if nobody has.
    pub fn get(&mut self, text: &str) -> Arc<Config> {
        self.known(text).unwrap_or_else(|| {
            let config = Arc::new(self.unread(text.into()).read());
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

    #[test]
    fn a_text_after_another_says_what_it_says_by_itself() {
        let text = |weight: u8| -> Arc<str> {
            let head = "[cluster]\nname = \"c\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
            let service = "[service.s]\nlisten = \"10.0.0.100:80/tcp\"\n";
            let servers = format!("r = {{ address = \"10.0.0.11\", weight = {weight} }}");
            format!("{head}{service}servers = {{ {servers} }}\n").into()
        };
        let mut configs = Configs::default();
        configs.get(&text(1));
        configs.get("x");
        let unread = configs.find(&text(2)).unwrap_err();
        assert_eq!(unread.before.as_ref().map(|b| Arc::clone(&b.text)), Some(text(1)));
        assert_eq!(unread.read(), Config::read(text(2)));
        assert!(configs.find(&text(1)).is_ok());
    }
}
