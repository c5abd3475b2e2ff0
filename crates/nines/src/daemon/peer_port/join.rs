//! Machines that ask to be let in.
//!
//! Decides: which name and number a newcomer gets, and what is tried again. Members are let in by
//! any member, two at once too: the log says which came first.

use std::{collections::BTreeMap, net::IpAddr};

use nines_core::{
    action::Refusal,
    wire::{Command, Member, command},
};
use nines_model::names;
use tokio::time::Instant;

use super::{JoinRequest, strangers::Guesses};
use crate::{
    api,
    daemon::Agent,
    failure::{Failure, Kind, Outcome},
    identity::{self, Credentials, Peer},
};

pub(super) async fn admit(
    agent: &Agent,
    credentials: &Credentials,
    bytes: &[u8],
    server: bool,
    (origin, guesses): (IpAddr, &Guesses),
) -> Outcome<Credentials> {
    let refuse = |why: &str| Failure::new(Kind::Denied, "refused", why);
    let request: JoinRequest =
        serde_json::from_slice(bytes).map_err(|_| refuse("the request cannot be read"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    if !guesses.may(origin, Instant::now()) {
        return Err(refuse("too many wrong join codes came from there; wait a minute"));
    }
    if !agent.home.code_is(&request.secret, now.map_or(0, |d| d.as_secs()), server) {
        guesses.wrong(origin, Instant::now());
        agent.log.line(&format!("a wrong join code came from {origin}"));
        return Err(refuse("the join code is wrong or too old"));
    }
    if !names::is_name(&request.name) {
        let why = "a name has 1 to 63 letters, digits, dots, dashes and _; a letter or digit first";
        return Err(refuse(why));
    }
    let level = agent.core.inspect(|node, _| node.state().members.feature_level()).await;
    if let Some(why) = outdated(&request, level.unwrap_or_default()).filter(|_| !server) {
        return Err(refuse(&why));
    }
    let mut tries = 4;
    loop {
        tries -= 1;
        match admit_once(agent, credentials, &request, server).await {
            // Another machine was let in at the same time, by another member perhaps.
            Err(Refused::Changed(_)) if tries > 0 => {}
            Err(Refused::Changed(why) | Refused::Final(why)) => return Err(refuse(&why)),
            Ok(made) => return Ok(made),
        }
    }
}

/// Why the build of a machine is too old for the cluster; `None`: it is not.
fn outdated(request: &JoinRequest, level: u32) -> Option<String> {
    let JoinRequest { name, version, feature_level: reads, .. } = request;
    let version = if version.is_empty() { "an older nines" } else { &format!("nines {version}") };
    (*reads < level).then(|| {
        format!(
            "{name} has {version}, which reads feature level {reads}, and the cluster is at level \
             {level}; install nines {} on {name}",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// Why a machine was not let in.
enum Refused {
    /// The members changed meanwhile: it can be tried again.
    Changed(String),
    Final(String),
}

impl From<Failure> for Refused {
    fn from(why: Failure) -> Self {
        Self::Final(why.to_string())
    }
}

async fn admit_once(
    agent: &Agent,
    credentials: &Credentials,
    request: &JoinRequest,
    server: bool,
) -> Result<Credentials, Refused> {
    let refused = |why: &str| Refused::Final(why.to_owned());
    let asked = request.name.clone();
    let look = move |node: &nines_core::Node, _| {
        let state = node.state();
        let lost = state.member(&asked).map(|m| m.id).filter(|id| node.is_retired_of(*id));
        let holds = state.vips.values().any(|h| h.node() == asked);
        let voters = node.consensus().voters();
        let lost = lost.is_some_and(|id| voters.contains(&id));
        ((*state.members).clone(), state.members.highest(), state.spec.clone(), voters, lost, holds)
    };
    let Some((members, highest, spec, voters, lost, holds)) = agent.core.inspect(look).await else {
        return Err(refused("this agent is stopping"));
    };
    let (name, peers) = (&request.name, peers(&members));
    let (addresses, port) = (request.addresses.clone(), request.port);
    let newcomer = |id| Peer { id, name: name.clone(), addresses, port };
    if server {
        let made = identity::admit_server(credentials, peers, newcomer(0))?;
        agent.log.line(&format!("{name} joined as real server"));
        return Ok(made);
    }
    if members.is_empty() {
        return Err(refused("this node waits for the log itself; join by another member"));
    }
    let folded = names::in_certificate(name);
    let same = |name: &&String| names::in_certificate(name) == folded;
    let known = members.values().find(|m| same(&&m.name));
    if let Some(other) = known.filter(|m| m.name != *name) {
        let other = &other.name;
        return Err(refused(&format!(
            "certificates cannot tell {name} from the member {other}; choose another --node"
        )));
    }
    // It has lost its log, and has said so: it begins anew, under another number.
    if lost && holds {
        return Err(refused(&format!("{name} still holds a VIP by the log; wait a moment")));
    }
    if lost {
        let kind = Some(command::Kind::Remove(name.clone()));
        let command = Command { actor: format!("join@{name}"), kind, ..Command::default() };
        return Err(match agent.core.propose(command).await {
            Ok(_) | Err(Refusal::Changed(_)) => Refused::Changed("the members changed".into()),
            Err(why) => refused(&api::refusal_text(&why)),
        });
    }
    // One that never had the log lost its credentials on the way: it gets others.
    if known.is_some_and(|m| voters.contains(&m.id) || m.witness != request.witness) {
        return Err(refused(&format!("there is a member {name} already; choose another --node")));
    }
    if let Some(other) = spec.nodes.keys().find(|other| *other != name && same(other)) {
        return Err(refused(&format!("cluster.toml calls this node {other}: add --node {other}")));
    }
    if let Some(spec) = spec.nodes.get(name)
        && (spec.role == nines_model::Role::Witness) != request.witness
    {
        return Err(refused(&format!("cluster.toml says that {name} is a {}", spec.role)));
    }
    let newcomer = newcomer(known.map_or(highest + 1, |m| m.id));
    let kind = Some(joins(&newcomer, request));
    let command = Command { actor: format!("join@{name}"), kind, ..Command::default() };
    let made = identity::admit(credentials, peers, newcomer, request.witness)?;
    match agent.core.propose(command).await {
        Ok(_) => Ok(made),
        Err(why @ Refusal::Changed(_)) => Err(Refused::Changed(api::refusal_text(&why))),
        Err(why) => Err(refused(&api::refusal_text(&why))),
    }
}

fn joins(newcomer: &Peer, request: &JoinRequest) -> command::Kind {
    let member = identity::member(newcomer, request.witness);
    command::Kind::Join(Member { feature_level: request.feature_level, ..member })
}

/// Members as others know them before they have the log.
pub(super) fn peers(members: &BTreeMap<u64, Member>) -> Vec<Peer> {
    let one = |m: &Member| Peer {
        id: m.id,
        name: m.name.clone(),
        addresses: m.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
        port: m.port as u16,
    };
    members.values().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_an_older_build_is_refused_by_name_and_version() {
        let request = |feature_level, version: &str| JoinRequest {
            secret: String::new(),
            name: "lb3".into(),
            addresses: Vec::new(),
            port: 9119,
            witness: false,
            version: version.into(),
            feature_level,
            server: false,
        };
        assert_eq!(outdated(&request(0, ""), 0), None);
        assert_eq!(outdated(&request(2, "0.2.0"), 1), None);
        let why = outdated(&request(1, "0.2.0"), 2).unwrap();
        assert!(why.starts_with("lb3 has nines 0.2.0, which reads feature level 1"), "{why}");
        let why = outdated(&request(0, ""), 1).unwrap();
        assert!(why.contains("lb3 has an older nines") && why.contains("at level 1"), "{why}");
    }
}
