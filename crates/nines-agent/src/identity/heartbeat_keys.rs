//! Keys of heartbeats: which one this node sends with, and which it believes.
//!
//! Decides: which keys follow which. A rotation takes three steps, each a state with a higher
//! version: all members believe the new key, too; all send with it; nobody believes the old one. So
//! heartbeats are heard throughout. A state is never printed: it consists of secrets.

use std::{fs, sync::PoisonError};

use nines_api::failure::{Failure, Kind, Outcome};
use serde::{Deserialize, Serialize};

use super::{Credentials, Identity, StateDir, random};

/// File of the keys, once they were rotated.
const FILE: &str = "heartbeat-keys";
/// Keys that are believed besides the one that is sent with.
const ALSO_MAX: usize = 4;

/// The keys at one moment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatKeys {
    /// Of two states the one with the higher version counts; 0: no rotation yet.
    pub version: u64,
    /// Number of the rotation that made it.
    pub rotation: u64,
    /// Key that is sent with, hex.
    pub sending: String,
    /// Other keys that are believed, hex.
    pub also: Vec<String>,
}

impl HeartbeatKeys {
    /// Those of a cluster that has rotated none.
    pub(super) fn first(identity: &Identity) -> Self {
        Self { version: 0, rotation: 0, sending: identity.beat_key.clone(), also: Vec::new() }
    }

    /// First step: all believe a new key, too. `others`: keys that other members send with.
    pub fn offered(&self, others: impl IntoIterator<Item = String>) -> (Self, String) {
        let new = data_encoding::HEXLOWER.encode(&random::<32>());
        let mut also = vec![new.clone()];
        for key in others {
            if key != self.sending && !also.contains(&key) && also.len() < ALSO_MAX {
                also.push(key);
            }
        }
        let rotation = u64::from_be_bytes(random::<8>());
        let sending = self.sending.clone();
        (Self { version: self.version + 1, rotation, sending, also }, new)
    }

    /// Second step: all send with one that all believe.
    pub fn used(&self, key: &str) -> Self {
        let mut also: Vec<String> = self.also.iter().filter(|old| *old != key).cloned().collect();
        also.push(self.sending.clone());
        Self { version: self.version + 1, sending: key.to_owned(), also, ..*self }
    }

    /// Third step: nobody believes any other.
    pub fn alone(&self) -> Self {
        let sending = self.sending.clone();
        Self { version: self.version + 1, sending, also: Vec::new(), ..*self }
    }

    /// Whether a rotation has begun and not ended.
    pub fn is_rotating(&self) -> bool {
        !self.also.is_empty()
    }

    /// The keys themselves, the one that is sent with first; an error: one is none.
    pub fn bytes(&self) -> Outcome<Vec<Vec<u8>>> {
        let all = std::iter::once(&self.sending).chain(&self.also);
        let decoded = all.map(|key| data_encoding::HEXLOWER.decode(key.as_bytes()));
        decoded.collect::<Result<_, _>>().map_err(|_| {
            Failure::new(Kind::Io, "the heartbeat keys are damaged", "a key is not in hex")
        })
    }

    /// What a member may be told of it: names the key that is sent with, and says nothing about it.
    pub fn name(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.sending.as_bytes());
        data_encoding::HEXLOWER.encode(&digest.as_ref()[..4])
    }

    /// Whether these can be keys at all.
    fn sound(&self) -> bool {
        let long = |key: &String| key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit());
        self.also.len() <= ALSO_MAX + 1 && long(&self.sending) && self.also.iter().all(long)
    }
}

impl StateDir {
    pub(super) fn heartbeat_keys(&self, identity: &Identity) -> Outcome<HeartbeatKeys> {
        if !self.file(FILE).exists() {
            return Ok(HeartbeatKeys::first(identity));
        }
        serde_json::from_str(&self.read(FILE)?).map_err(|e| {
            // The reason may not name what is in the file.
            let why = format!("line {}, column {}", e.line(), e.column());
            Failure::new(Kind::Io, format!("{FILE} is damaged"), why)
                .next(format!("remove {}; other members give the keys", self.file(FILE).display()))
        })
    }

    /// Keys of another membership mean nothing.
    pub(super) fn forget_heartbeat_keys(&self) {
        let _ = fs::remove_file(self.file(FILE));
    }
}

impl Credentials {
    /// The keys now.
    pub fn heartbeat_keys(&self) -> HeartbeatKeys {
        self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these count, also after a restart. An error: this node has other ones of the
    /// same version, or newer ones.
    pub fn put_heartbeat_keys(&self, home: &StateDir, keys: &HeartbeatKeys) -> Outcome<()> {
        let refuse = |why: &str| Failure::new(Kind::Changed, "the keys were not taken", why);
        if !keys.sound() {
            return Err(refuse("they are no keys"));
        }
        let mut now = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == *keys {
            return Ok(());
        }
        if keys.version <= now.version {
            return Err(refuse("this node has others of that version, or newer ones"));
        }
        home.write(FILE, &serde_json::to_string(keys).expect("plain data"))?;
        if now.sending != keys.sending {
            // An older build would begin with it. The old one is nowhere then.
            home.change_identity(|identity| identity.beat_key.clone_from(&keys.sending))?;
        }
        *now = keys.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> HeartbeatKeys {
        HeartbeatKeys { version: 0, rotation: 0, sending: "ab".repeat(32), also: Vec::new() }
    }

    #[test]
    fn in_each_step_all_believe_what_others_may_send_with() {
        let old = keys();
        let (offered, new) = old.offered([]);
        let (used, alone) = (offered.used(&new), offered.used(&new).alone());
        let believes = |by: &HeartbeatKeys, of: &HeartbeatKeys| {
            by.sending == of.sending || by.also.contains(&of.sending)
        };
        // A step begins when all have made the one before.
        let steps = [&old, &offered, &used, &alone];
        for pair in steps.windows(2) {
            assert!(believes(pair[0], pair[1]) && believes(pair[1], pair[0]));
            assert!(pair[0].version < pair[1].version);
        }
        assert!(!believes(&alone, &old), "the old key is worth nothing at last");
        assert!(old.name() != alone.name() && !alone.is_rotating() && used.is_rotating());
        // One that begins while another has not ended leaves no key out.
        let (again, newer) = used.offered([old.sending.clone()]);
        assert!(believes(&again, &used) && believes(&again, &old) && again.also.contains(&newer));
        assert!(steps.iter().all(|step| step.sound()) && again.sound());
    }
}
