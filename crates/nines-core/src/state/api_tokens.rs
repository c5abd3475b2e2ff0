//! Tokens of the API: by their digests, the same on every node.
//!
//! Decides: what a token may be called, how many there are, and that no name or digest is used
//! twice. Whether a token is valid now is for whoever is shown it: the state has no clock.

use std::{collections::BTreeMap, ops::Deref};

use nines_model::{AccessRole, Codes as _, names::is_name};

use super::{Entry, State, events::Event};
use crate::{
    action::Refusal,
    event_log::EventKind,
    wire::{ApiToken, Command, TokenChange},
};

/// Tokens at most, expired ones included.
pub const TOKENS_MAX: usize = 256;

/// Tokens by name; read like a map, changed by commands only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiTokens(BTreeMap<String, ApiToken>);

/// A valid change.
pub(super) struct Change {
    name: String,
    token: Option<ApiToken>,
    says: String,
}

impl Deref for ApiTokens {
    type Target = BTreeMap<String, ApiToken>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl ApiTokens {
    /// As a snapshot has it.
    pub(crate) fn restored(tokens: BTreeMap<String, ApiToken>) -> Self {
        Self(tokens)
    }

    /// The token with this digest, and its name.
    pub fn find(&self, digest: &[u8]) -> Option<(&str, &ApiToken)> {
        let found = self.0.iter().find(|(_, token)| token.digest.as_slice() == digest);
        found.map(|(name, token)| (name.as_str(), token))
    }

    /// What a command would change; an error: the name is taken or not there, the digest is none,
    /// the role is unknown, or there are too many.
    pub(super) fn validate(
        &self,
        command: &Command,
        change: &TokenChange,
    ) -> Result<Change, Refusal> {
        let TokenChange { name, token } = change;
        let Some(token) = token else {
            if !self.contains_key(name) {
                return Err(Refusal::NotFound(format!("there is no token {name}")));
            }
            let says = format!("token {name} revoked");
            return Ok(Change { name: name.clone(), token: None, says });
        };
        if !is_name(name) {
            return Err(Refusal::Invalid(format!("\"{name}\" is not a valid name of a token")));
        }
        if self.contains_key(name) {
            return Err(Refusal::Changed(format!("there is a token {name} already")));
        }
        if self.len() >= TOKENS_MAX {
            return Err(Refusal::Invalid(format!("there are {TOKENS_MAX} tokens already")));
        }
        let Some(role) = AccessRole::from_code(&token.role) else {
            return Err(Refusal::Invalid(format!("unknown role {}", token.role)));
        };
        if token.digest.len() != 32 || self.find(&token.digest).is_some() {
            return Err(Refusal::Invalid("this is no digest of a new token".into()));
        }
        let (actor, at_ms) = (command.actor.clone(), command.at_ms);
        let token = Some(ApiToken { actor, at_ms, ..token.clone() });
        let says = format!("token {name} made, {role}");
        Ok(Change { name: name.clone(), token, says })
    }
}

impl State {
    /// Carries a valid change out; gives the answer to the operator.
    pub(super) fn commit_token(&mut self, entry: Entry<'_>, change: Change) -> String {
        let Change { name, token, says } = change;
        match token {
            Some(token) => drop(self.tokens.0.insert(name.clone(), token)),
            None => drop(self.tokens.0.remove(&name)),
        }
        let (kind, text) = (EventKind::Token, says.clone());
        self.commit_event(entry, Event { kind, subject: name, text });
        says
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state::tests::{state, tried},
        wire::command::Kind,
    };

    fn made(name: &str, digest: u8, role: &str) -> Kind {
        let (digest, role) = (vec![digest; 32], role.to_owned());
        let token = Some(ApiToken { digest, role, until_ms: 9, ..ApiToken::default() });
        Kind::Token(TokenChange { name: name.into(), token })
    }

    fn revoked(name: &str) -> Kind {
        Kind::Token(TokenChange { name: name.into(), token: None })
    }

    #[test]
    fn a_token_is_made_once_and_gone_when_it_is_revoked() {
        let mut state = state();
        let done = tried(&mut state, 20, None, made("ci", 7, "operator"));
        assert_eq!(done.as_deref(), Ok("token ci made, operator"));
        let (name, token) = state.tokens.find(&[7; 32]).unwrap();
        assert_eq!((name, token.role.as_str(), token.until_ms), ("ci", "operator", 9));
        assert!(state.tokens.find(&[8; 32]).is_none());
        for (refused, why) in [
            (made("ci", 8, "viewer"), "a name that is taken"),
            (made("cd", 7, "viewer"), "a digest that is taken"),
            (made("cd", 8, "root"), "no role"),
            (made("a b", 8, "viewer"), "no name"),
            (revoked("cd"), "no such token"),
        ] {
            assert!(tried(&mut state, 21, None, refused).is_err(), "{why}");
        }
        let short = ApiToken { digest: vec![1; 31], role: "viewer".into(), ..ApiToken::default() };
        let short = Kind::Token(TokenChange { name: "cd".into(), token: Some(short) });
        assert!(tried(&mut state, 22, None, short).is_err());
        assert_eq!(tried(&mut state, 23, None, revoked("ci")).as_deref(), Ok("token ci revoked"));
        assert!(state.tokens.is_empty());
        let last = state.story.iter().next_back().unwrap();
        assert!(last.kind.is(EventKind::Token) && last.subject == "ci");
    }

    #[test]
    fn tokens_have_a_bound() {
        let mut state = state();
        for n in 0..=TOKENS_MAX {
            let mut digest = vec![0; 32];
            digest[..2].copy_from_slice(&(n as u16).to_be_bytes());
            let token = Some(ApiToken { digest, role: "viewer".into(), ..ApiToken::default() });
            let change = Kind::Token(TokenChange { name: format!("t{n}"), token });
            let done = state.apply(
                nines_model::LogIndex(20 + n as u64),
                None,
                &prost::Message::encode_to_vec(&Command {
                    kind: Some(change),
                    ..Command::default()
                }),
            );
            assert_eq!(done.unwrap().1.is_ok(), n < TOKENS_MAX, "{n}");
        }
    }
}
