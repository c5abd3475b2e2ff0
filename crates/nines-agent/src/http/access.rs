//! What a caller of the API may do.
//!
//! Decides: the role of a user by the config's `[access]`, that of a token by the replicated state,
//! and which role each request needs. A request that is refused changes nothing: the answer names
//! the role it needs, and the agent's log has a line. Wrong tokens from one address are counted.

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Request, State as Shared},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{Node, wire::ApiToken};
use nines_model::{AccessRole, Codes as _, Time};
use tokio::time::Instant;

use super::{
    caller::{Caller, User, Who},
    stopping,
};
use crate::{
    convert::HttpFailure, core_thread::CoreHandle, logger::Logger, transport::peer_port::Guesses,
};

/// What a token begins with, so that people and scanners of secrets know it.
pub const PREFIX: &str = "nines_";
/// Lines about refusals in one minute.
const LINES: u32 = 60;

/// Where a request comes from.
#[derive(Clone)]
pub enum Origin {
    /// The unix socket: this user.
    Socket(User),
    /// A port: this address, with or without a token.
    Network(IpAddr),
}

/// What is asked before each request.
pub struct Access {
    core: CoreHandle,
    /// Name of this node: users are its users.
    node: String,
    /// The user that runs this agent.
    own: u32,
    /// Group of the socket: whose members may do everything where the config has no roles.
    group: Option<u32>,
    guesses: Guesses,
    log: Logger,
    /// Lines in the minute that began then.
    lines: Mutex<(Option<Instant>, u32)>,
}

/// What everybody may ask.
const OPEN: [&str; 2] = ["/livez", "/readyz"];
/// What the method does not tell. Which verb an act has decides further.
const BY_PATH: [(&str, AccessRole); 5] = [
    ("/v1/plan", AccessRole::Viewer),
    ("/v1/act", AccessRole::Operator),
    ("/v1/move", AccessRole::Operator),
    ("/v1/tokens", AccessRole::Admin),
    ("/v1/backup", AccessRole::Admin),
];

/// What a request needs; `None`: everybody may.
fn needed(method: &Method, path: &str) -> Option<AccessRole> {
    if OPEN.contains(&path) {
        return None;
    }
    let known = BY_PATH.iter().find(|(known, _)| *known == path);
    let reads = method == Method::GET || method == Method::HEAD;
    let by_method = if reads { AccessRole::Viewer } else { AccessRole::Admin };
    Some(known.map_or(by_method, |(_, role)| *role))
}

/// The digest by which a token is known.
pub fn digest(token: &str) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

/// The wall clock, ms since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Whether a token is over.
pub fn is_over(token: &ApiToken, now_ms: u64) -> bool {
    token.until_ms != 0 && token.until_ms <= now_ms
}

/// A request without a token that counts: which status, and why.
struct NotProven(StatusCode, Failure);

impl NotProven {
    fn new(status: StatusCode, why: impl std::fmt::Display) -> Self {
        let next = "nines token create NAME --role viewer   makes one, on a node";
        Self(status, Failure::new(Kind::Denied, "not allowed", why).next(next))
    }

    fn into_response(self) -> Response {
        let mut response = HttpFailure::from(self.1).into_response();
        *response.status_mut() = self.0;
        if self.0 == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl Access {
    /// For the agent that listens on this socket.
    pub fn new(core: &CoreHandle, node: &str, socket: &Path, log: &Logger) -> Arc<Self> {
        let own = std::fs::metadata("/proc/self").map_or(0, |of| of.uid());
        Arc::new(Self {
            core: core.clone(),
            node: node.to_owned(),
            own,
            group: std::fs::metadata(socket).ok().map(|of| of.gid()),
            guesses: Guesses::default(),
            log: log.clone(),
            lines: Mutex::default(),
        })
    }

    /// Whether users without a role may connect, too: then the config says who has one.
    pub async fn is_by_config(&self) -> Option<bool> {
        self.core.inspect(|node: &Node, _: Time| node.state().spec.access.is_some()).await
    }

    async fn role_of(&self, user: &User) -> Outcome<Option<AccessRole>> {
        if user.is_owner(self.own) {
            return Ok(Some(AccessRole::Admin));
        }
        let look = |node: &Node, _: Time| node.state().spec.access.clone();
        let access = self.core.inspect(look).await.ok_or_else(stopping)?;
        Ok(match access {
            Some(access) => access.role(user.groups()),
            None => {
                let may = self.group.is_some_and(|group| user.has_group(group));
                may.then_some(AccessRole::Admin)
            }
        })
    }

    async fn by_token(&self, from: IpAddr, shown: Option<&str>) -> Result<Caller, NotProven> {
        let refused = |why: &str| NotProven::new(StatusCode::UNAUTHORIZED, why);
        let Some(shown) = shown else { return Err(refused("this needs a token")) };
        let digest = digest(shown);
        let look = move |node: &Node, _: Time| {
            let found = node.state().tokens.find(&digest);
            found.map(|(name, token)| (name.to_owned(), token.clone()))
        };
        let found = self.core.inspect(look).await;
        let found = found.ok_or_else(|| NotProven(StatusCode::SERVICE_UNAVAILABLE, stopping()))?;
        let Some((name, token)) = found else {
            // Nobody guesses 256 bits: this spares the log, and those with a right one go on.
            let now = Instant::now();
            if !self.guesses.may(from, now) {
                let why = "too many wrong tokens from this address; wait a minute";
                return Err(NotProven::new(StatusCode::TOO_MANY_REQUESTS, why));
            }
            self.guesses.wrong(from, now);
            self.tell(&format!("refused: a wrong token from {from}"));
            return Err(refused("this token is not valid"));
        };
        let role = AccessRole::from_code(&token.role);
        match role.filter(|_| !is_over(&token, now_ms())) {
            Some(role) => Ok(Caller { who: Who::Token(name), role }),
            None => Err(refused(&format!("token {name} has expired"))),
        }
    }

    /// Whether the caller has this role; the answer says what is needed.
    pub fn may(&self, caller: &Caller, needed: AccessRole, what: &str) -> Outcome<()> {
        if caller.role >= needed {
            return Ok(());
        }
        Err(self.refuse(&caller.who, Some(caller.role), needed, what))
    }

    fn refuse(
        &self,
        who: &Who,
        role: Option<AccessRole>,
        needed: AccessRole,
        what: &str,
    ) -> Failure {
        let actor = who.actor(&self.node);
        let is = role.map_or("has no role".to_owned(), |role| format!("is {role}"));
        self.tell(&format!("refused: {actor} {is} and asked for {what}, which needs {needed}"));
        let why = format!("{what} needs the role {needed}, and {actor} {is}");
        Failure::new(Kind::Denied, "not allowed", why)
            .next("ask an admin: [access] in cluster.toml gives roles to groups")
    }

    /// A line in the log, if there were not too many in this minute.
    fn tell(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if lines.0.is_none_or(|since| now.duration_since(since) > Duration::from_secs(60)) {
            *lines = (Some(now), 0);
        }
        lines.1 += 1;
        if lines.1 <= LINES {
            self.log.line(line);
        }
    }

    /// The caller of a request from there, if it may go on; `shown`: a token.
    async fn admitted(
        &self,
        from: Option<Origin>,
        shown: Option<&str>,
        (what, needed): (&str, AccessRole),
    ) -> Result<Caller, Response> {
        let failed = |failure: Failure| HttpFailure::from(failure).into_response();
        let caller = match from.ok_or_else(|| failed(stopping()))? {
            Origin::Socket(user) => {
                let role = self.role_of(&user).await.map_err(failed)?;
                let who = Who::User(user);
                match role {
                    Some(role) => Caller { who, role },
                    None => return Err(failed(self.refuse(&who, None, needed, what))),
                }
            }
            Origin::Network(address) => {
                self.by_token(address, shown).await.map_err(NotProven::into_response)?
            }
        };
        self.may(&caller, needed, what).map_err(failed)?;
        Ok(caller)
    }
}

/// Lets a request through with its [`Caller`], or answers why not.
pub async fn authorize(
    Shared(access): Shared<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(needed) = needed(request.method(), request.uri().path()) {
        let what = request.uri().path().trim_start_matches("/v1/").to_owned();
        let from = request.extensions().get::<Origin>().cloned();
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let shown = shown.map(|token| token.trim().to_owned());
        match access.admitted(from, shown.as_deref(), (&what, needed)).await {
            Ok(caller) => drop(request.extensions_mut().insert(caller)),
            Err(refused) => return refused,
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_be_harmless_is_for_admins() {
        let table = [
            (Method::GET, "/livez", None),
            (Method::GET, "/readyz", None),
            (Method::GET, "/metrics", Some(AccessRole::Viewer)),
            (Method::GET, "/v1/status", Some(AccessRole::Viewer)),
            (Method::HEAD, "/v1/status", Some(AccessRole::Viewer)),
            (Method::POST, "/v1/plan", Some(AccessRole::Viewer)),
            (Method::POST, "/v1/act", Some(AccessRole::Operator)),
            (Method::POST, "/v1/move", Some(AccessRole::Operator)),
            (Method::POST, "/v1/apply", Some(AccessRole::Admin)),
            (Method::GET, "/v1/tokens", Some(AccessRole::Admin)),
            (Method::POST, "/v1/tokens/revoke", Some(AccessRole::Admin)),
            (Method::GET, "/v1/backup", Some(AccessRole::Admin)),
            (Method::GET, "/v1/secret", Some(AccessRole::Viewer)),
            (Method::POST, "/v1/secret/rotate", Some(AccessRole::Admin)),
            (Method::DELETE, "/v1/status", Some(AccessRole::Admin)),
            (Method::POST, "/v1/whatever", Some(AccessRole::Admin)),
        ];
        for (method, path, role) in table {
            assert_eq!(needed(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn a_token_ends_when_it_says() {
        let token = |until_ms| ApiToken { until_ms, ..ApiToken::default() };
        assert!(!is_over(&token(0), 5) && !is_over(&token(6), 5));
        assert!(is_over(&token(5), 5) && is_over(&token(4), 5));
    }
}
