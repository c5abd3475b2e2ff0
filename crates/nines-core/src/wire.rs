//! What nodes say to each other and what the log holds, as Protocol Buffers by derive: fields that
//! an older node does not know are skipped, so nodes are upgraded one by one.
//!
//! Decides: shapes on the wire and on disk, nothing else. Addresses are 16 bytes (IPv4 mapped).

use std::net::{IpAddr, Ipv6Addr};

mod api_token;
mod batch;
mod facts;
mod fence;
mod heartbeat;
mod id;
mod incarnation;
mod relay;
mod spec;
mod votes;

pub use api_token::{ApiToken, TokenChange};
pub use batch::Batch;
pub use facts::{Facts, FeatureLevel, Unfit};
pub use fence::{
    Fence, FenceAnswer, FenceCounts, FenceOff, FenceOrder, FenceStep, FenceWish, Power,
};
pub use heartbeat::{Ack, Awaits, Heartbeat, LinkEcho, Probe, SetPart, WatchdogState};
pub(crate) use id::{named, numbers};
pub use incarnation::{KeptIncarnation, LongPromise, NodeIncarnation};
pub use relay::Relay;
pub use spec::{
    AccessEntry, CheckEntry, FenceEntry, FenceLevel, FenceOption, FencingEntry, ForwardEntry,
    General, NodeEntry, OutletEntry, RateEntry, ServerEntry, ServiceEntry, Socket, SourceEntry,
    SpecEdit, VipEntry,
};
pub use votes::{Anew, AnewOrder, Begun, VoteChange};

/// One datagram, or one frame of a TLS stream, after decryption.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// One of these.
    #[prost(oneof = "frame::Kind", tags = "1, 2, 3, 50, 60, 61")]
    pub kind: Option<frame::Kind>,
    /// What could wait for a heartbeat and travels with it; these carry none themselves.
    #[prost(message, repeated, tag = "4")]
    pub rest: Vec<Frame>,
    /// Number of the sender's incarnation; what travels with another frame has that one's.
    #[prost(uint64, tag = "40")]
    pub incarnation: u64,
    /// The sender started from a state directory that was copied or moved, and is not confirmed.
    #[prost(bool, tag = "41")]
    pub moved: bool,
    /// How often agents have started from the sender's state directory.
    #[prost(uint64, tag = "44")]
    pub starts: u64,
}

/// Kinds of [`Frame`].
pub mod frame {
    /// One of these.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// The sender is alive and asks for its lease.
        #[prost(message, tag = "1")]
        Heartbeat(super::Heartbeat),
        /// I heard your heartbeat.
        #[prost(message, tag = "2")]
        Ack(super::Ack),
        /// A message of the consensus (Raft).
        #[prost(message, tag = "3")]
        Raft(super::RaftMessage),
        /// What a set of VIPs contains.
        #[prost(message, tag = "50")]
        Part(super::SetPart),
        /// A frame of another node, to be passed on or passed on already.
        #[prost(message, tag = "60")]
        Relay(super::Relay),
        /// Of full size, to see whether such datagrams pass. Builds that do not know it drop it.
        #[prost(message, tag = "61")]
        Probe(super::Probe),
    }
}

/// A VIP and the log index of the entry that gave it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Token {
    /// VIP, 16 bytes as [`pack`] makes them.
    #[prost(bytes = "vec", tag = "1")]
    pub vip: Vec<u8>,
    /// Log index of the entry that gave the VIP.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// In a release: the incarnation of the holder that let go; 0: not said.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
}

/// The consensus library's message, field by field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftMessage {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) log_term: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) index: u64,
    #[prost(message, repeated, tag = "7")]
    /// Entries that the message brings.
    pub entries: Vec<LogEntry>,
    #[prost(uint64, tag = "8")]
    pub(crate) commit: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) commit_term: u64,
    #[prost(message, optional, tag = "10")]
    /// State that the message brings.
    pub snapshot: Option<Snapshot>,
    #[prost(uint64, tag = "11")]
    pub(crate) request_snapshot: u64,
    #[prost(bool, tag = "12")]
    pub(crate) reject: bool,
    #[prost(uint64, tag = "13")]
    pub(crate) reject_hint: u64,
    #[prost(bytes = "vec", tag = "14")]
    pub(crate) context: Vec<u8>,
    #[prost(int64, tag = "15")]
    pub(crate) priority: i64,
}

/// One entry of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEntry {
    /// 0: a command; 1: a change of membership.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Raft term of the leader that added the entry.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Index of the entry in the log.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// [`Command`], or the library's conf change as [`ConfChange`].
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    /// [`Command`] of a membership change.
    #[prost(bytes = "vec", tag = "5")]
    pub context: Vec<u8>,
}

impl LogEntry {
    /// The encoded [`Command`]; empty: the entry has none.
    pub fn command(&self) -> &[u8] {
        if self.kind == 0 { &self.data } else { &self.context }
    }
}

/// State at an index, in place of the entries up to it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// Log index of the last entry that the state includes.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Raft term of that entry.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Numbers of the nodes that vote.
    #[prost(uint64, repeated, tag = "3")]
    pub voters: Vec<u64>,
    /// Numbers of the nodes that get the log and have no vote yet.
    #[prost(uint64, repeated, tag = "4")]
    pub learners: Vec<u64>,
    /// The state as `snapshot::encode` makes it.
    #[prost(bytes = "vec", tag = "5")]
    pub data: Vec<u8>,
}

/// What the disk is asked to keep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Persist {
    /// Term, vote, commit.
    pub hard_state: Option<HardState>,
    /// Entries; everything from the first one's index on is replaced.
    pub entries: Vec<LogEntry>,
    /// Replaces everything up to its index.
    pub snapshot: Option<Snapshot>,
    /// The snapshot is another node's: it replaces everything after its index, too.
    pub received: bool,
    /// Replaces the one before.
    pub long_promise: Option<LongPromise>,
    /// The newest incarnation that took part; replaces the one before.
    pub incarnation: Option<KeptIncarnation>,
    /// Why this node votes no more; a restart does not fix it.
    pub retired: Option<String>,
    /// The reason is that it was removed from the cluster.
    pub removed: bool,
}

impl Persist {
    /// Of the entries that were on disk before: those of these indexes stay. The memory of a node
    /// and its disk go by this alone; a disk that kept more would vote with a log that nobody has.
    pub fn keeps(&self) -> std::ops::Range<u64> {
        let from = self.snapshot.as_ref().map_or(0, |s| s.index + 1);
        let until = if self.received { from } else { u64::MAX };
        from..self.entries.first().map_or(until, |e| until.min(e.index))
    }
}

/// What the disk gives back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Persisted {
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// The newest snapshot on disk.
    pub snapshot: Snapshot,
    /// Entries after it, without a gap.
    pub entries: Vec<LogEntry>,
    /// Longest promise ever given for a restart; zero: none.
    pub long_promise: LongPromise,
    /// The newest incarnation that took part; zero: none.
    pub incarnation: KeptIncarnation,
    /// Why this node votes no more; empty: it does.
    pub retired: String,
    /// It was removed from the cluster.
    pub removed: bool,
    /// The disk is full, so nothing could be read: that ends when it has room.
    pub full: bool,
    /// By what this node began anew, if it did.
    pub begun: Begun,
}

/// What a vote rests on (S3).
#[derive(Clone, PartialEq, prost::Message)]
pub struct HardState {
    /// Raft term that the node is in.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Vote in it.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// Index of the newest entry that the node knows to be committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// One entry's meaning.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// Who proposed it, and its number there: how the proposer knows its own.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Number, unique per node and incarnation.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// Wall clock of the proposer, ms since 1970.
    #[prost(uint64, tag = "3")]
    pub at_ms: u64,
    /// Origin of the command: "alice@lb1", "auto", "check".
    #[prost(string, tag = "4")]
    pub actor: String,
    /// Id of the event that led to it.
    #[prost(string, tag = "5")]
    pub cause: String,
    /// What the command does.
    #[prost(
        oneof = "command::Kind",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 50, 51, 61, 62, 63"
    )]
    pub kind: Option<command::Kind>,
}

/// Kinds of [`Command`].
pub mod command {
    /// One of these.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// A new config as text, which each node reads: for builds below feature level 2.
        #[prost(message, tag = "10")]
        Apply(super::Apply),
        /// A VIP to a node; nobody alive holds it.
        #[prost(message, tag = "11")]
        Give(super::Give),
        /// The holder is asked to release a VIP to another.
        #[prost(message, tag = "12")]
        Move(super::Move),
        /// The holder has stopped.
        #[prost(message, tag = "13")]
        Released(super::Token),
        /// What an operator wants of a server or node.
        #[prost(message, tag = "14")]
        Act(super::Act),
        /// What happened, for people.
        #[prost(message, tag = "15")]
        LogEvents(super::LogEvents),
        /// A node joins.
        #[prost(message, tag = "16")]
        Join(super::Member),
        /// What a node knows about itself.
        #[prost(message, tag = "17")]
        Facts(super::Facts),
        /// An operator wants a VIP on a node.
        #[prost(message, tag = "18")]
        MoveRequest(super::Give),
        /// A node leaves for good.
        #[prost(string, tag = "19")]
        Remove(String),
        /// The cluster's feature level rises.
        #[prost(message, tag = "20")]
        FeatureLevel(super::FeatureLevel),
        /// A new config, as its proposer read it.
        #[prost(message, tag = "21")]
        ApplySpec(super::ApplySpec),
        /// The same for many VIPs.
        #[prost(message, tag = "50")]
        Batch(super::Batch),
        /// Something about the power of a node.
        #[prost(message, tag = "51")]
        Fence(super::Fence),
        /// A token of the API is made or revoked.
        #[prost(message, tag = "62")]
        Token(super::TokenChange),
        /// A member loses its vote.
        #[prost(message, tag = "61")]
        TakeVote(super::VoteChange),
        /// A member that began anew gets the log.
        #[prost(message, tag = "63")]
        LearnAgain(super::VoteChange),
    }
}

/// A new config ([`crate::edit`]): the text in force with one piece of it replaced.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Apply {
    /// The new piece, as written; if nothing of the text in force stays, the whole file.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Revision it was made from; another one in force refuses it. 0: any, for a whole file only.
    #[prost(uint64, tag = "2")]
    pub expected: u64,
    /// Bytes of the text in force that stay before the piece.
    #[prost(uint64, tag = "3")]
    pub head: u64,
    /// Bytes of the text in force that stay after the piece.
    #[prost(uint64, tag = "4")]
    pub tail: u64,
}

/// A new config ([`crate::spec_edit`]): the text for people, and what it says for nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ApplySpec {
    /// The text, and the revision that all of this was made from.
    #[prost(message, required, tag = "1")]
    pub text: Apply,
    /// What differs from the config in force.
    #[prost(message, required, tag = "2")]
    pub edit: SpecEdit,
    /// Digest of the config that comes into force.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
}

/// A VIP to a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Give {
    /// VIP, 16 bytes as [`pack`] makes them.
    #[prost(bytes = "vec", tag = "1")]
    pub vip: Vec<u8>,
    /// Name of the node that gets the VIP.
    #[prost(string, tag = "2")]
    pub to: String,
    /// Name of the last holder; empty: none. Voters that promised it something make this wait.
    #[prost(string, tag = "3")]
    pub from: String,
    /// Reason for the choice of this node, for the event log.
    #[prost(string, tag = "4")]
    pub why: String,
    /// From the last heartbeat of `from` to this proposal, ms.
    #[prost(uint64, tag = "5")]
    pub silent_ms: u64,
    /// In a move request: further VIPs that the same command moves.
    #[prost(bytes = "vec", repeated, tag = "60")]
    pub more: Vec<Vec<u8>>,
}

/// A VIP from a living holder to another node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Move {
    /// VIP, 16 bytes as [`pack`] makes them.
    #[prost(bytes = "vec", tag = "1")]
    pub vip: Vec<u8>,
    /// Name of the node that holds the VIP.
    #[prost(string, tag = "2")]
    pub from: String,
    /// Name of the node that holds the VIP next.
    #[prost(string, tag = "3")]
    pub to: String,
    /// Reason for the move, for the event log.
    #[prost(string, tag = "4")]
    pub why: String,
}

/// What an operator wants of a server or node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Act {
    /// Code of an [`AdminCommand`](nines_model::AdminCommand).
    #[prost(string, tag = "1")]
    pub verb: String,
    /// "web/r2" or "lb1".
    #[prost(string, repeated, tag = "2")]
    pub subjects: Vec<String>,
    /// Why, in the operator's words.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// Until, ms since 1970; 0: until undone.
    #[prost(uint64, tag = "4")]
    pub until_ms: u64,
}

/// Things that happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEvents {
    /// The events, in their order.
    #[prost(message, repeated, tag = "1")]
    pub told: Vec<LogEvent>,
}

/// One thing that happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEvent {
    /// Wall clock, ms since 1970.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// Node that saw it.
    #[prost(string, tag = "2")]
    pub node: String,
    /// Code of an [`EventKind`](crate::event_log::EventKind).
    #[prost(string, tag = "3")]
    pub kind: String,
    /// What it is about.
    #[prost(string, tag = "4")]
    pub subject: String,
    /// What happened, in a sentence.
    #[prost(string, tag = "5")]
    pub text: String,
    /// "auto", "check", "alice@lb1".
    #[prost(string, tag = "6")]
    pub actor: String,
    /// Id of the event that led to it; empty: none known.
    #[prost(string, tag = "7")]
    pub cause: String,
}

/// A node as the log names it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Member {
    /// Number in the consensus; never used again.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name of the node.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Votes and carries nothing.
    #[prost(bool, tag = "3")]
    pub witness: bool,
    /// One a link.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// Port for heartbeats (UDP) and TLS (TCP).
    #[prost(uint32, tag = "5")]
    pub port: u32,
    /// In a join command: the highest feature level that its build reads.
    #[prost(uint32, tag = "6")]
    pub feature_level: u32,
    /// It runs on one of several hosts, whose addresses these are: the voter of a quorum disk.
    #[prost(bool, tag = "9")]
    pub floats: bool,
}

/// An address as it is on the wire.
pub fn pack(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Back; `None` for anything but 16 bytes.
pub fn unpack(bytes: &[u8]) -> Option<IpAddr> {
    let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}
