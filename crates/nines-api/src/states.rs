//! The words of the API for the states of nodes and servers, and for what a problem is about.
//!
//! Decides: how each word is written in JSON. A word of a newer version is kept as it came.

use std::{convert::Infallible, fmt, str::FromStr};

use nines_model::codes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

codes! {
    /// How a node is.
    pub enum NodeState {
        /// It holds a VIP.
        Active = "active",
        /// It holds no VIP, and could take one over now.
        Ready = "ready",
        /// It could take a VIP over, but without the holder there would be no majority.
        Idle = "idle",
        /// It has not got all connections of another director yet.
        CatchingUp = "catching up",
        /// A witness that is heard.
        Ok = "ok",
        /// An operator set it aside.
        Standby = "standby",
        /// An operator wants it to leave the cluster.
        Leaving = "leaving",
        /// Its agent is stopping.
        Stopping = "stopping",
        /// It is not heard.
        Silent = "silent",
        /// It was silent again and again: it gets no VIP that another director can take.
        Quarantined = "quarantined",
        /// It cannot take a VIP.
        NotReady = "not ready",
        /// It holds a VIP, and gives no answer over TCP.
        NoAnswer = "no answer",
        /// The config names it, and it has not joined.
        NotJoined = "not joined",
        /// Two agents run under its identity.
        RunningTwice = "running twice",
        /// Its state directory was copied or moved, and the other nodes have not confirmed it.
        Unconfirmed = "waiting for confirmation",
        /// It waits for the log, or for its vote.
        Joining = "joining",
        /// It has less on disk than others count on, or cannot write.
        NoVote = "no vote",
        /// It was removed from the cluster; only the node itself says so.
        Removed = "removed",
    }
}

impl NodeState {
    /// Whether such a node knows of the others only what is old.
    pub const fn takes_no_part(self) -> bool {
        matches!(self, Self::Joining | Self::NoVote | Self::Removed)
    }
}

codes! {
    /// How the fence devices of a node are, and whether it is off.
    pub enum FenceState {
        /// No device switches it.
        None = "none",
        /// Its devices were never tried.
        Untested = "untested",
        /// Its devices answered when they were last tried.
        Ready = "ready",
        /// One of them did not.
        Failing = "failing",
        /// They are asked to switch it.
        Switching = "switching",
        /// It is off.
        Off = "off",
        /// It should be off, and is not being switched off.
        Blocked = "blocked",
    }
}

codes! {
    /// How a real server is, for one service.
    pub enum ServerState {
        /// It takes new connections.
        Up = "up",
        /// A sorry server that nobody needs.
        Spare = "spare",
        /// An operator keeps new connections away from it.
        Draining = "draining",
        /// Its check fails.
        Down = "DOWN",
        /// It is not known what its check says.
        Unknown = "unknown",
        /// Its check succeeds, and it does not serve the VIP.
        Unusable = "unusable",
    }
}

/// Writes and reads a word as its code: `#[serde(with = "code")]`.
pub mod code {
    use nines_model::{Coded, Codes};

    use super::{Deserialize, Deserializer, Serializer};

    /// Writes the code.
    pub fn serialize<T: Codes, S: Serializer>(word: &Coded<T>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(word.code())
    }

    /// Reads a code, known or not.
    pub fn deserialize<'a, T: Codes, D: Deserializer<'a>>(from: D) -> Result<Coded<T>, D::Error> {
        String::deserialize(from).map(Coded::read)
    }
}

/// What a problem or a notice is about. In JSON: "node lb1", "quorum".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The node of this name.
    Node(String),
    /// The VIP of this name.
    Vip(String),
    /// The virtual service of this name.
    Service(String),
    /// A real server, "web/r2".
    Server(String),
    /// The majority of votes.
    Quorum,
    /// Directors that could take over.
    Spare,
    /// The flow table of a director.
    FlowTable,
    /// What a newer version names.
    Other(String),
}

impl Default for Subject {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Vip(name) => write!(f, "vip {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Server(name) => write!(f, "server {name}"),
            Self::Quorum => f.write_str("quorum"),
            Self::Spare => f.write_str("spare"),
            Self::FlowTable => f.write_str("flow table"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl FromStr for Subject {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let named = text.split_once(' ').map(|(kind, name)| (kind, name.to_owned()));
        Ok(match (text, named) {
            ("quorum", _) => Self::Quorum,
            ("spare", _) => Self::Spare,
            ("flow table", _) => Self::FlowTable,
            (_, Some(("node", name))) => Self::Node(name),
            (_, Some(("vip", name))) => Self::Vip(name),
            (_, Some(("service", name))) => Self::Service(name),
            (_, Some(("server", name))) => Self::Server(name),
            _ => Self::Other(text.to_owned()),
        })
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'a> Deserialize<'a> for Subject {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let Ok(subject) = String::deserialize(from)?.parse();
        Ok(subject)
    }
}

#[cfg(test)]
mod tests {
    use nines_model::{Codes, Role};
    use serde_json::json;

    use super::{
        super::types::{NodeStatus, ProblemLine, ServerStatus},
        *,
    };

    fn codes<T: Codes>() -> Vec<&'static str> {
        T::ALL.iter().map(|word| word.code()).collect()
    }

    #[test]
    fn words_in_json_stay_as_programs_know_them() {
        let node = [
            "active",
            "ready",
            "idle",
            "catching up",
            "ok",
            "standby",
            "leaving",
            "stopping",
            "silent",
            "quarantined",
            "not ready",
            "no answer",
            "not joined",
            "running twice",
            "waiting for confirmation",
            "joining",
            "no vote",
            "removed",
        ];
        assert_eq!(codes::<NodeState>(), node);
        let server = ["up", "spare", "draining", "DOWN", "unknown", "unusable"];
        assert_eq!(codes::<ServerState>(), server);
        assert_eq!(codes::<Role>(), ["director", "witness"]);
        let fence = ["none", "untested", "ready", "failing", "switching", "off", "blocked"];
        assert_eq!(codes::<FenceState>(), fence);
        let server = ServerStatus { state: ServerState::Down.into(), ..ServerStatus::default() };
        assert_eq!(serde_json::to_value(server).unwrap()["state"], "DOWN");
        let line = ProblemLine { subject: Subject::Node("lb1".into()), ..ProblemLine::default() };
        assert_eq!(
            serde_json::to_value(line).unwrap(),
            json!({ "subject": "node lb1", "text": "", "next": "" })
        );
    }

    #[test]
    fn words_of_a_newer_version_are_shown_as_they_came() {
        let node = NodeStatus { role: Role::Witness.into(), ..NodeStatus::default() };
        let mut value = serde_json::to_value(node).unwrap();
        assert_eq!((&value["role"], &value["state"]), (&json!("witness"), &json!("")));
        value["state"] = json!("asleep");
        let read: NodeStatus = serde_json::from_value(value).unwrap();
        assert_eq!((read.state.code(), read.state.known()), ("asleep", None));
        assert!(read.role.is(Role::Witness));
    }

    #[test]
    fn subjects_read_back() {
        let name = || "web/r2".to_owned();
        for subject in [
            Subject::Node(name()),
            Subject::Vip(name()),
            Subject::Service(name()),
            Subject::Server(name()),
            Subject::Quorum,
            Subject::Spare,
            Subject::FlowTable,
            Subject::Other("disk of lb1".into()),
        ] {
            assert_eq!(subject.to_string().parse(), Ok(subject));
        }
    }
}
