//! Shapes of heartbeats and their answers.
//!
//! Decides: shapes on the wire, nothing else.

use nines_model::{Incarnation, LogIndex, NodeId};

use super::{Anew, NodeIncarnation};

/// "I live, I hold these, renew them."
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    /// Sender's CLOCK_BOOTTIME when it was sent, ns: the lease counts from here.
    #[prost(uint64, tag = "1")]
    pub sent_ns: u64,
    /// Length asked for, ms.
    #[prost(uint64, tag = "2")]
    pub lease_ms: u64,
    /// The data plane holds the current table.
    #[prost(bool, tag = "4")]
    pub ready: bool,
    /// The sender is stopping: it gets no VIP any more.
    #[prost(bool, tag = "5")]
    pub leaving: bool,
    /// The sender's kernel answers for no VIP of its set longer than this renewal asks: a longer
    /// promise given before (for a restart) may be forgotten.
    #[prost(bool, tag = "7")]
    pub shortened: bool,
    /// Log index applied.
    #[prost(uint64, tag = "8")]
    pub applied: u64,
    /// Number of the sender's incarnation.
    #[prost(uint64, tag = "9")]
    pub incarnation: u64,
    /// Nodes whose flows the sender does not have yet.
    #[prost(uint64, repeated, tag = "10")]
    pub behind: Vec<u64>,
    /// The incarnation before the sender's, if it ran on this machine since it booted: it has
    /// ended, and the sender's kernel holds whatever it answered for.
    #[prost(uint64, tag = "40")]
    pub heir_of: u64,
    /// Nodes of which the sender hears two incarnations at once.
    #[prost(uint64, repeated, tag = "41")]
    pub double: Vec<u64>,
    /// Lives from moved state directories that the sender would let count.
    #[prost(message, repeated, tag = "42")]
    pub confirmed: Vec<NodeIncarnation>,
    /// Nodes that the sender has heard lately.
    #[prost(uint64, repeated, tag = "43")]
    pub hears: Vec<u64>,
    /// Number of the heartbeat in the sender's incarnation: 1, 2, ...; 0: by an older build.
    #[prost(uint64, tag = "44")]
    pub number: u64,
    /// Which of the receiver's heartbeats came last to the sender, by link; now and then.
    #[prost(message, repeated, tag = "45")]
    pub echoes: Vec<LinkEcho>,
    /// What the sender says of members that have lost their logs, itself included.
    #[prost(message, optional, tag = "60")]
    pub anew: Option<Anew>,
    /// Nodes that the sender has heard lately, and only through others.
    #[prost(uint64, repeated, tag = "61")]
    pub through: Vec<u64>,
    /// By how many parts in a million the sender's clock runs faster than those of most, if that is
    /// more than leases allow; it holds and renews nothing then. 0: it is not.
    #[prost(sint64, tag = "62")]
    pub clock_ppm: i64,
    /// Probes that the sender has sent the receiver.
    #[prost(uint64, tag = "63")]
    pub probes: u64,
    /// What the sender waits for before it takes part.
    #[prost(enumeration = "Awaits", tag = "30")]
    pub awaits: i32,
    /// Term on the sender's disk.
    #[prost(uint64, tag = "31")]
    pub term: u64,
    /// Last entry that the leader of that term was told to be on the sender's disk.
    #[prost(uint64, tag = "32")]
    pub acked: u64,
    /// Why the sender votes no more; empty: it does.
    #[prost(string, tag = "33")]
    pub broken: String,
    /// And a restart does not mend that.
    #[prost(bool, tag = "34")]
    pub retired: bool,
    /// Highest feature level that the sender's build reads.
    #[prost(uint32, tag = "35")]
    pub feature_level: u32,
    /// The sender votes no more because its build does not read what the log says.
    #[prost(bool, tag = "36")]
    pub outdated: bool,
    /// The sender votes no more because its config is another one than that of the others.
    #[prost(bool, tag = "37")]
    pub differs: bool,
    /// The sender's disk takes long for what it writes: it should not lead.
    #[prost(bool, tag = "38")]
    pub lags: bool,
    /// The sender is the only voter.
    #[prost(bool, tag = "39")]
    pub alone: bool,
    /// The sender votes no more because its disk is full: it goes on by itself.
    #[prost(bool, tag = "48")]
    pub disk_full: bool,
    /// Name of the set of VIPs held, in two halves.
    #[prost(fixed64, tag = "50")]
    pub set_a: u64,
    /// The other half.
    #[prost(fixed64, tag = "51")]
    pub set_b: u64,
    /// How many VIPs are in it; 0: none, and nothing is to be renewed.
    #[prost(uint32, tag = "52")]
    pub set_size: u32,
    /// What the set contains, where that is new and little.
    #[prost(message, optional, tag = "53")]
    pub part: Option<SetPart>,
    /// VIPs it could not start: one bit for each VIP of the config, by address.
    #[prost(bytes = "vec", tag = "54")]
    pub unable: Vec<u8>,
    /// The config that `unable` counts in.
    #[prost(uint64, tag = "55")]
    pub revision: u64,
    /// The digest of that config; 0: not said.
    #[prost(fixed64, tag = "56")]
    pub config: u64,
    /// The watchdog of the sender's machine, if the config names one.
    #[prost(message, optional, tag = "58")]
    pub watchdog: Option<WatchdogState>,
}

/// What a node says of the watchdog of its machine.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchdogState {
    /// Timeout that the device has, ms, while it is fed; 0: it is not.
    #[prost(uint64, tag = "1")]
    pub timeout_ms: u64,
    /// Why it is not fed, in words; empty: it is.
    #[prost(string, tag = "2")]
    pub trouble: String,
    /// What a person can do about that.
    #[prost(string, tag = "3")]
    pub next: String,
    /// The machine is a virtual one: the same hypervisor pauses it and its watchdog.
    #[prost(bool, tag = "4")]
    pub virtual_machine: bool,
}

impl Heartbeat {
    /// The sender's incarnation.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// The incarnation before the sender's, if that has ended on the sender's machine.
    pub(crate) fn heir_of(&self) -> Incarnation {
        Incarnation(self.heir_of)
    }

    /// Without what is of this very datagram: two heartbeats that say the same are equal but for
    /// their times.
    pub(crate) fn bare(&self) -> Self {
        let rest = Self { part: None, echoes: Vec::new(), ..self.clone() };
        Self { number: 0, probes: 0, ..rest }
    }

    /// Log index applied.
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.applied)
    }

    /// Term on the sender's disk, and the last entry that the leader of that term was told of.
    pub(crate) fn position(&self) -> (u64, LogIndex) {
        (self.term, LogIndex(self.acked))
    }

    /// Nodes whose flows the sender does not have yet.
    pub fn behind(&self) -> impl Iterator<Item = NodeId> {
        self.behind.iter().copied().map(NodeId)
    }

    /// Nodes of which the sender hears two incarnations at once.
    pub(crate) fn double(&self) -> impl Iterator<Item = NodeId> {
        self.double.iter().copied().map(NodeId)
    }

    /// Whether the sender has heard this node lately, over a link between the two.
    pub(crate) fn hears(&self, id: NodeId) -> bool {
        self.hears.contains(&id.number())
    }

    /// Whether the sender has heard this node lately, be it through others.
    pub(crate) fn hears_somehow(&self, id: NodeId) -> bool {
        self.hears(id) || self.through.contains(&id.number())
    }
}

/// The newest heartbeat that came over one link, for its round trip.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkEcho {
    /// The link, by its place among the addresses of a node: 0, 1, ...
    #[prost(uint32, tag = "1")]
    pub link: u32,
    /// The heartbeat's `sent_ns`.
    #[prost(uint64, tag = "2")]
    pub sent_ns: u64,
    /// How long ago it came, ns.
    #[prost(uint64, tag = "3")]
    pub held_ns: u64,
    /// The receiver's probes do not come over this link.
    #[prost(bool, tag = "4")]
    pub large_lost: bool,
}

/// A datagram of full size.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Probe {
    /// 1, 2, ... for each receiver.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Nothing, as much as fits.
    #[prost(bytes = "vec", tag = "2")]
    pub padding: Vec<u8>,
}

/// What a node waits for before it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Awaits {
    /// It takes part.
    Nothing = 0,
    /// It has the log, and the others let it vote when it has kept up.
    Vote = 1,
    /// The newest entries of the log.
    Newest = 2,
    /// The log; it hears no member, so no datagram reaches it.
    Member = 3,
    /// The log; it hears members, so no connection brings it.
    Log = 4,
}

impl Awaits {
    /// "waits for its vote"
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Vote => "has the log and waits for its vote",
            Self::Newest => "waits for the newest entries of the log",
            Self::Member => "waits for the log: it hears no member (UDP)",
            Self::Log => "waits for the log: it hears members, and the log has not come (TCP)",
        }
    }
}

/// Answer to a [`Heartbeat`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// The heartbeat's `sent_ns`.
    #[prost(uint64, tag = "1")]
    pub sent_ns: u64,
    /// The heartbeat's `lease_ms`.
    #[prost(uint64, tag = "2")]
    pub lease_ms: u64,
    /// Log index of the newest membership change the sender knows.
    #[prost(uint64, tag = "4")]
    pub membership: u64,
    /// The heartbeat's `incarnation`: an answer to an earlier incarnation renews nothing, for the
    /// voter may have forgotten since what it promised then.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// How long the answer waited for a heartbeat to travel with, ns.
    #[prost(uint64, tag = "6")]
    pub waited_ns: u64,
    /// The furthest that the receiver's log has shown itself to be: term.
    #[prost(uint64, tag = "30")]
    pub term: u64,
    /// The furthest that the receiver's log has shown itself to be: index of the entry.
    #[prost(uint64, tag = "31")]
    pub acked: u64,
    /// Name of the heartbeat's set: its VIPs are renewed, but for those refused. Zero: nothing is.
    #[prost(fixed64, tag = "50")]
    pub set_a: u64,
    /// The other half.
    #[prost(fixed64, tag = "51")]
    pub set_b: u64,
    /// VIPs of the set that are not renewed: one bit each, by address.
    #[prost(bytes = "vec", tag = "52")]
    pub refused: Vec<u8>,
    /// The voter does not know what the heartbeat's set contains.
    #[prost(bool, tag = "53")]
    pub unknown: bool,
    /// The receiver is no member any more: it was removed.
    #[prost(bool, tag = "54")]
    pub left: bool,
    /// Nodes that vote since the change that `membership` names, for a receiver that has not got
    /// it.
    #[prost(uint64, repeated, tag = "55")]
    pub voters: Vec<u64>,
}

impl Ack {
    /// The incarnation that sent the heartbeat.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Log index of the newest membership change the sender knows.
    pub(crate) fn membership(&self) -> LogIndex {
        LogIndex(self.membership)
    }

    /// Nodes that vote since that change; none: the receiver knows it.
    pub(crate) fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().copied().map(NodeId)
    }

    /// The furthest that the receiver's log has shown itself to be: term and entry.
    pub(crate) fn position(&self) -> (u64, LogIndex) {
        (self.term, LogIndex(self.acked))
    }
}

/// Some of what a set of VIPs contains.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetPart {
    /// Name of the set.
    #[prost(fixed64, tag = "1")]
    pub name_a: u64,
    /// The other half.
    #[prost(fixed64, tag = "2")]
    pub name_b: u64,
    /// Which part: 0, 1, 2, ...
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// Of how many.
    #[prost(uint32, tag = "4")]
    pub of: u32,
    /// VIPs and tokens, as [`crate::vip_set::pack_all`] packs them.
    #[prost(bytes = "vec", tag = "5")]
    pub contents: Vec<u8>,
}
