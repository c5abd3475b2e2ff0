//! What the API says, version 1. Fields are only ever added.

use nines_model::{Coded, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::states::{NodeState, ServerState, Subject, code};

pub use super::placement::Placement;
pub use fence::{FenceCounts, FenceResult, FenceStatus};
pub use links::LinkStatus;
pub use quorumd::{Quorumd, QuorumdCluster};
pub use requests::{ActRequest, Done, MoveRequest};
pub use secret::{MemberKeys, RotateRequest, SecretStatus};
pub use tokens::{TokenMade, TokenName, TokenRequest, TokenStatus};
pub use verdict::Verdict;

mod fence;
mod links;
mod quorumd;
mod requests;
mod secret;
mod tokens;
mod verdict;

/// Schema of [`Status`].
pub const SCHEMA: u32 = 1;

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of this JSON form, now 1.
    pub schema: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Its generation: 1, and one more each time that it was formed anew from a backup.
    #[serde(default)]
    pub generation: u64,
    /// As bad as the worst service.
    pub verdict: Verdict,
    /// A sentence or two: which director serves what, and which could take over.
    pub summary: String,
    /// Node that answered.
    pub node: String,
    /// Leader of the consensus; empty: none known.
    pub leader: String,
    /// Voters heard, this node included.
    pub votes: usize,
    /// Voters in the cluster, heard or not.
    pub voters: usize,
    /// Whether a majority is heard.
    pub quorate: bool,
    /// Revision of the config in force.
    pub revision: u64,
    /// Feature level in force: what the nodes may write into the log.
    #[serde(default)]
    pub feature_level: u32,
    /// Nodes that keep it below what the build of the answering node can do, or that cannot read
    /// it, and what to do; empty: none.
    #[serde(default)]
    pub feature_level_held_back: String,
    /// Nodes of the cluster: directors and witnesses.
    pub nodes: Vec<NodeStatus>,
    /// VIPs of the cluster, those of services included.
    pub vips: Vec<VipStatus>,
    /// Virtual services of the cluster.
    pub services: Vec<ServiceStatus>,
    /// Packets that the directors which answered dropped, by reason, and flows that a full table
    /// gave up ("evicted") or never held ("unplaced"), since their tables were made; without zeros.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// What is wrong now, each with the next command.
    pub problems: Vec<ProblemLine>,
    /// What people have set and not undone (drains, standbys), each with the command that ends it.
    #[serde(default)]
    pub notices: Vec<ProblemLine>,
    /// How each node can be switched off, and what its devices said.
    #[serde(default)]
    pub fencing: Vec<FenceStatus>,
    /// Last change of holder, newest of all VIPs.
    pub last_failover: Option<Failover>,
    /// When this was looked at, RFC 3339.
    pub at: String,
}

/// One node of the cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Number in the consensus; 0: it has not joined.
    #[serde(default)]
    pub id: u64,
    /// Name of the node.
    pub name: String,
    /// "director" or "witness".
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub role: Coded<Role>,
    /// "active", "ready" (could take over now), "idle" (without the holder there would be no
    /// majority), "catching up", "ok", "standby", "leaving" (`removal` says why it is still
    /// there), "stopping", "silent", "not ready", "no answer", "removed", "not joined", "running
    /// twice", "waiting for confirmation" (its state directory was copied or moved), "joining" (it
    /// waits for the log or for its vote), "no vote" (its log is older than what it acknowledged,
    /// or gone, or cannot be written): `trouble` says what it waits for, or why.
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub state: Coded<NodeState>,
    /// VIPs it holds, by the log.
    pub holds: Vec<String>,
    /// Version of its binary.
    pub version: String,
    /// Packet path, with hooks, and why it has no XDP: "ebpf, tcx on eth0 (no XDP: a bond device)".
    pub path: String,
    /// What keeps it from forwarding as the config asks; empty: nothing.
    #[serde(default)]
    pub trouble: String,
    /// What a person can do about that.
    #[serde(default)]
    pub next: String,
    /// Round trip of a heartbeat, microseconds; 0: unknown.
    pub rtt_us: u64,
    /// Links to it: heard now, of those ever heard.
    pub links_up: usize,
    /// Links ever heard.
    pub links: usize,
    /// Heard only through other nodes, which pass on what it sends.
    #[serde(default)]
    pub through_others: bool,
    /// Loss and round trip of each of them.
    #[serde(default)]
    pub link_details: Vec<LinkStatus>,
    /// Leads the consensus.
    pub leads: bool,
    /// Since when it is on standby and why; empty: it is not.
    pub standby: String,
    /// Who wants it to leave the cluster, and what that waits for; empty: nobody.
    #[serde(default)]
    pub removal: String,
    /// Has a vote.
    #[serde(default)]
    pub votes: bool,
    /// Why it has none though it takes part; empty: it has one, or takes no part.
    #[serde(default)]
    pub no_vote: String,
    /// Addresses for heartbeats, one for each link.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Directors whose connections it has not got yet.
    #[serde(default)]
    pub behind: Vec<String>,
    /// MAC addresses of its Ethernet interfaces, "02:00:00:00:00:07".
    #[serde(default)]
    pub macs: Vec<String>,
    /// Its watchdog: "armed 2s", or why it is not; empty: it has none.
    #[serde(default)]
    pub watchdog: String,
    /// Timeout of its watchdog while that is fed, ms; 0: it is not.
    #[serde(default)]
    pub watchdog_ms: u64,
}

impl NodeStatus {
    /// Whether it is in this state.
    pub fn is(&self, state: NodeState) -> bool {
        self.state.is(state)
    }

    /// Whether it waits for the log, or votes no more: what it knows of the others is old.
    pub fn takes_no_part(&self) -> bool {
        self.state.known().is_some_and(NodeState::takes_no_part)
    }
}

/// One guarded address.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VipStatus {
    /// The VIP, "10.0.0.100".
    pub address: String,
    /// The VIP's own name, else the name of a service on it, else the address.
    pub name: String,
    /// Holder by the log; empty: nobody.
    pub node: String,
    /// Log index of the entry that gave it.
    pub token: u64,
    /// This node answers for it now.
    pub answers_here: bool,
    /// On the holder: ms until its guard deadline.
    pub lease_left_ms: u64,
    /// Why no director can take it; empty: a director holds it or will.
    pub blocked: String,
    /// Directors that could take it over now, if its holder died.
    #[serde(default)]
    pub spare: Vec<String>,
    /// Why there is none; empty: there is one.
    #[serde(default)]
    pub no_spare: String,
}

/// One virtual service.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Name of the virtual service in the config.
    pub name: String,
    /// Address, ports and protocol of the service, such as "10.0.0.100:80/tcp".
    pub listen: String,
    /// The addresses of that.
    #[serde(default)]
    pub vips: Vec<String>,
    /// "dr", "nat", "local".
    pub forward: String,
    /// As in the config: "maglev", "wlc", ...
    pub scheduler: String,
    /// How well its clients are served.
    #[serde(default)]
    pub verdict: Verdict,
    /// Why it is not healthy; empty: it is.
    #[serde(default)]
    pub why: String,
    /// Node that holds its VIPs; empty: nobody.
    pub node: String,
    /// Directors that could take all its VIPs over now.
    #[serde(default)]
    pub spare: Vec<String>,
    /// Servers that take new flows,
    pub up: usize,
    /// of so many; sorry servers are not among them.
    #[serde(default)]
    pub of: usize,
    /// Real servers, where they were asked for.
    pub servers: Vec<ServerStatus>,
    /// Flows, packets and bytes of the service.
    pub traffic: Traffic,
    /// How servers are checked.
    pub check: String,
}

/// One real server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// Name of the real server in the config.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// "up", "spare" (a sorry server that nobody needs), "draining", "DOWN", "unknown", "unusable"
    /// (its check succeeds, and it does not serve the VIP).
    #[serde(with = "code")]
    #[schema(value_type = String)]
    pub state: Coded<ServerState>,
    /// Takes new flows only while no other server of the service does.
    #[serde(default)]
    pub sorry: bool,
    /// Share of new flows; 0: no new flow.
    pub weight: u32,
    /// Operator, reason and end of its drain; empty: it is not drained.
    pub drain: String,
    /// Flows, packets and bytes of the server.
    pub traffic: Traffic,
}

impl ServerStatus {
    /// Whether it is in this state.
    pub fn is(&self, state: ServerState) -> bool {
        self.state.is(state)
    }
}

/// Counts since the tables were made, on the node that serves.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Number of flows that began.
    pub connections: u64,
    /// Flows now between their first SYN and their first FIN or RST.
    pub active: u64,
    /// All other flows that are not idle too long.
    pub inactive: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients; NAT only: with direct routing replies bypass the director.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProblemLine {
    /// What the line is about, such as "node lb1".
    #[schema(value_type = String)]
    pub subject: Subject,
    /// What is wrong with it or was set on it, in a sentence.
    pub text: String,
    /// The next command.
    pub next: String,
}

/// A change of holder.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Failover {
    /// Name of the VIP.
    pub vip: String,
    /// From; empty: nobody.
    pub from: String,
    /// Name of the node that got the VIP.
    pub to: String,
    /// When it happened, RFC 3339.
    pub at: String,
    /// Time since then, in seconds.
    pub ago_s: u64,
    /// "auto" or an operator.
    pub actor: String,
    /// From the last heartbeat of the old holder to the decision, ms; 0: planned.
    pub silent_ms: u64,
    /// Id of the event that tells of it.
    pub event: String,
}

/// One entry of the event log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Id of the event: log index and place in the log entry, such as "57.0".
    pub id: String,
    /// RFC 3339, ms.
    pub at: String,
    /// Ms since 1970.
    pub at_ms: u64,
    /// Node that saw it.
    pub node: String,
    /// "failover", "check-down", "drain", ...
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// What happened, in a sentence.
    pub text: String,
    /// "auto", "check", "alice@lb1".
    pub actor: String,
    /// Event that led to it; empty: none known.
    pub cause: String,
}

/// Answer of `GET /v1/why`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// What was asked.
    pub subject: String,
    /// One sentence: how it is now.
    pub now: String,
    /// From the first cause to the last effect.
    pub chain: Vec<Event>,
    /// Why it is not elsewhere, a sentence a node.
    pub not_elsewhere: Vec<String>,
    /// The next commands.
    pub next: Vec<String>,
}

/// A config, and its revision.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConfigText {
    /// Text of the file, as written.
    pub text: String,
    /// In force, or expected to be in force; 0 in a request: any.
    pub revision: u64,
}

/// `nines apply -o json`: the same fields, whether or not anything changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Version of this JSON form, now 1.
    pub schema: u32,
    /// False: nothing was to change.
    pub changed: bool,
    /// Log index; 0: nothing was written.
    pub index: u64,
    /// What was done.
    pub text: String,
    /// Differences from the config before.
    pub changes: Vec<Change>,
    /// VIPs that the planner puts elsewhere for that, as it looked before the change.
    #[serde(default)]
    pub placements: Vec<Placement>,
    /// What is allowed but odd.
    pub warnings: Vec<String>,
}

/// `nines config check -o json` of a file without errors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Version of this JSON form, now 1.
    pub schema: u32,
    /// Path of the file.
    pub file: String,
    /// Nodes in it.
    pub nodes: usize,
    /// Services in it.
    pub services: usize,
    /// VIPs in it.
    pub vips: usize,
    /// None: a file with errors gives a problem instead.
    pub errors: Vec<FileError>,
    /// What is allowed but odd.
    pub warnings: Vec<String>,
}

/// Answer of `POST /v1/plan`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Revision it was compared with.
    pub revision: u64,
    /// Differences from the config in force.
    pub changes: Vec<Change>,
    /// VIPs that the cluster's planner would then put elsewhere, or could put nowhere.
    #[serde(default)]
    pub placements: Vec<Placement>,
    /// What is allowed but odd.
    pub warnings: Vec<String>,
}

/// One difference between two configs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// "+", "-", "~".
    pub sign: String,
    /// What changes, such as "server web/r2".
    pub subject: String,
    /// Before and after.
    pub text: String,
    /// What clients notice, in words; empty: nothing.
    pub felt: String,
}

impl From<&nines_model::diff::Change> for Change {
    fn from(c: &nines_model::diff::Change) -> Self {
        Self {
            sign: c.sign.to_string(),
            subject: c.subject.clone(),
            text: c.text.clone(),
            felt: c.felt.clone(),
        }
    }
}

/// What went wrong (RFC 9457, `application/problem+json` members).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Kind of the problem as a URN, such as "urn:nines:not-found".
    pub r#type: String,
    /// What failed, in a few words.
    pub title: String,
    /// Why it failed; empty: the title says it.
    pub detail: String,
    /// The next command.
    pub next: Option<String>,
    /// Errors in a file, one each; empty for other failures.
    #[serde(default)]
    pub errors: Vec<FileError>,
}

/// One error in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FileError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do; empty: the message says it.
    #[serde(default)]
    pub help: String,
}

impl FileError {
    /// An error where the file's `text` has it.
    pub fn new(text: &str, found: &nines_model::config::Diagnostic) -> Self {
        let (line, column) = found.line_col(text);
        let help = found.help.clone().unwrap_or_default();
        Self { line, column, message: found.message.clone(), help }
    }
}
