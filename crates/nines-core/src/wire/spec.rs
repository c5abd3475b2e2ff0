//! A config as the log and a snapshot hold it: what its proposer read, field by field, so that no
//! other node has to read the text.
//!
//! Decides: shapes only. Words are the names that the config uses for them, addresses are 4 or 16
//! bytes, times are ms.

/// How a config differs from the one before it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpecEdit {
    /// Nothing of the config before stays: this is all of the new one.
    #[prost(bool, tag = "1")]
    pub whole: bool,
    /// Set if any of it differs.
    #[prost(message, optional, tag = "2")]
    pub general: Option<General>,
    /// Nodes that are new or differ.
    #[prost(message, repeated, tag = "3")]
    pub nodes: Vec<NodeEntry>,
    /// Names of nodes that are gone.
    #[prost(string, repeated, tag = "4")]
    pub nodes_gone: Vec<String>,
    /// VIPs that are new or differ.
    #[prost(message, repeated, tag = "5")]
    pub vips: Vec<VipEntry>,
    /// VIPs that are gone.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub vips_gone: Vec<Vec<u8>>,
    /// Virtual services that are new or differ.
    #[prost(message, repeated, tag = "7")]
    pub services: Vec<ServiceEntry>,
    /// Names of virtual services that are gone.
    #[prost(string, repeated, tag = "8")]
    pub services_gone: Vec<String>,
}

/// What a cluster has once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct General {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Interval of heartbeats.
    #[prost(uint64, tag = "2")]
    pub beat: u64,
    /// Length of a lease.
    #[prost(uint64, tag = "3")]
    pub lease: u64,
    /// Least election timeout.
    #[prost(uint64, tag = "4")]
    pub election: u64,
    /// Longest promise for a restart.
    #[prost(uint64, tag = "5")]
    pub restart: u64,
    /// Room in the flow table.
    #[prost(uint32, tag = "6")]
    pub flows: u32,
    /// Name of the data plane.
    #[prost(string, tag = "7")]
    pub backend: String,
    /// Idle TCP connections are forgotten after so many seconds.
    #[prost(uint32, tag = "8")]
    pub idle_tcp: u32,
    /// The same after a FIN.
    #[prost(uint32, tag = "9")]
    pub idle_fin: u32,
    /// The same for UDP.
    #[prost(uint32, tag = "10")]
    pub idle_udp: u32,
    /// Fence devices.
    #[prost(message, repeated, tag = "11")]
    pub fence: Vec<FenceEntry>,
    /// When and how nodes are fenced; not written while it is what every cluster begins with.
    #[prost(message, optional, tag = "12")]
    pub fencing: Option<FencingEntry>,
    /// Path of the watchdog of nodes that name none themselves; empty: they have none.
    #[prost(string, tag = "15")]
    pub watchdog: String,
    /// Roles of users; not written where the config has none.
    #[prost(message, optional, tag = "13")]
    pub access: Option<AccessEntry>,
}

/// Groups of users by their roles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccessEntry {
    /// Names of the groups of viewers.
    #[prost(string, repeated, tag = "1")]
    pub viewer: Vec<String>,
    /// Names of the groups of operators.
    #[prost(string, repeated, tag = "2")]
    pub operator: Vec<String>,
    /// Names of the groups of admins.
    #[prost(string, repeated, tag = "3")]
    pub admin: Vec<String>,
}

/// A fence device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Name of its agent.
    #[prost(string, tag = "2")]
    pub agent: String,
    /// What the agent is told.
    #[prost(message, repeated, tag = "3")]
    pub options: Vec<FenceOption>,
    /// Options whose values are in files: the path of each.
    #[prost(message, repeated, tag = "4")]
    pub secrets: Vec<FenceOption>,
    /// The nodes that it switches.
    #[prost(message, repeated, tag = "5")]
    pub outlets: Vec<OutletEntry>,
    /// Its word that a machine is off is believed.
    #[prost(bool, tag = "6")]
    pub trust_off: bool,
    /// Time for one switching.
    #[prost(uint64, tag = "7")]
    pub timeout: u64,
    /// Path of the program of the operator that speaks to it, in place of an agent.
    #[prost(string, tag = "8")]
    pub command: String,
}

/// An option of a fence agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceOption {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value, or where that is.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A node that a fence device switches.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutletEntry {
    /// Name of the node.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Its outlet; none: the device has this machine only.
    #[prost(string, optional, tag = "2")]
    pub outlet: Option<String>,
}

/// When and how nodes are fenced.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FencingEntry {
    /// Silence after which a node is fenced.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// By how much the one of two nodes that holds less waits longer.
    #[prost(uint64, tag = "2")]
    pub delay: u64,
    /// A fenced node is switched on again.
    #[prost(bool, tag = "3")]
    pub on_again: bool,
    /// Time between two tests of a device; 0: no tests.
    #[prost(uint64, tag = "4")]
    pub test: u64,
}

/// Fence devices that switch a node off together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceLevel {
    /// Their names.
    #[prost(string, repeated, tag = "1")]
    pub devices: Vec<String>,
}

/// A node that the config names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Code of its role.
    #[prost(string, tag = "2")]
    pub role: String,
    /// One a link.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
    /// Its fence devices, in the order in which they are tried, if the config gives one.
    #[prost(message, repeated, tag = "4")]
    pub fence: Vec<FenceLevel>,
    /// Path of its own watchdog; empty: it has none, whatever others have.
    #[prost(string, optional, tag = "5")]
    pub watchdog: Option<String>,
}

/// A VIP that the config names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VipEntry {
    /// The address.
    #[prost(bytes = "vec", tag = "1")]
    pub addr: Vec<u8>,
    /// Its own name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Length of the prefix.
    #[prost(uint32, tag = "3")]
    pub prefix: u32,
    /// Interface that gets it.
    #[prost(string, optional, tag = "4")]
    pub interface: Option<String>,
    /// Names of preferred directors.
    #[prost(string, repeated, tag = "5")]
    pub prefer: Vec<String>,
    /// The VIP that it goes with.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub with: Option<Vec<u8>>,
}

/// An address and a port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Socket {
    /// The address.
    #[prost(bytes = "vec", tag = "1")]
    pub addr: Vec<u8>,
    /// The port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// A virtual service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// First address and first port.
    #[prost(message, optional, tag = "2")]
    pub listen: Option<Socket>,
    /// Last port.
    #[prost(uint32, tag = "3")]
    pub last: u32,
    /// Length of the prefix of its addresses.
    #[prost(uint32, tag = "4")]
    pub prefix: u32,
    /// Number of the protocol in the IP header.
    #[prost(uint32, tag = "5")]
    pub proto: u32,
    /// Firewall mark of its packets.
    #[prost(uint32, optional, tag = "6")]
    pub mark: Option<u32>,
    /// How packets go to its servers.
    #[prost(message, optional, tag = "7")]
    pub forward: Option<ForwardEntry>,
    /// Name of the scheduler.
    #[prost(string, tag = "8")]
    pub scheduler: String,
    /// Flag of the scheduler: another server if the hashed one is out.
    #[prost(bool, tag = "9")]
    pub fallback: bool,
    /// Flag of the scheduler: the client's port counts.
    #[prost(bool, tag = "10")]
    pub by_port: bool,
    /// Every UDP packet is scheduled by itself.
    #[prost(bool, tag = "11")]
    pub one_packet: bool,
    /// Persistence: how long a client stays with its server.
    #[prost(uint64, optional, tag = "12")]
    pub persist_time: Option<u64>,
    /// Persistence: length of the prefix by which clients are one.
    #[prost(uint32, tag = "13")]
    pub persist_prefix: u32,
    /// Persistence by the Call-ID of SIP.
    #[prost(bool, tag = "14")]
    pub by_call: bool,
    /// Clients that may or may not connect.
    #[prost(message, repeated, tag = "15")]
    pub sources: Vec<SourceEntry>,
    /// Limit of new connections of a client.
    #[prost(message, optional, tag = "16")]
    pub rate: Option<RateEntry>,
    /// Rate of SYNs from which on they are answered with cookies.
    #[prost(message, optional, tag = "17")]
    pub cookies: Option<RateEntry>,
    /// Sources of full NAT.
    #[prost(bytes = "vec", repeated, tag = "18")]
    pub pool: Vec<Vec<u8>>,
    /// Servers are told who asks.
    #[prost(bool, tag = "19")]
    pub proxy: bool,
    /// Its real servers.
    #[prost(message, repeated, tag = "20")]
    pub servers: Vec<ServerEntry>,
    /// Their health check.
    #[prost(message, optional, tag = "21")]
    pub check: Option<CheckEntry>,
}

/// A way to a real server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForwardEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub way: String,
    /// Port of a tunnel over UDP.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Checksum of a tunnel: 0 none, 1 full, 2 remote.
    #[prost(uint32, tag = "3")]
    pub checksum: u32,
}

/// A network of clients.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceEntry {
    /// Its address.
    #[prost(bytes = "vec", tag = "1")]
    pub addr: Vec<u8>,
    /// Length of its prefix.
    #[prost(uint32, tag = "2")]
    pub prefix: u32,
    /// It may connect.
    #[prost(bool, tag = "3")]
    pub allow: bool,
}

/// A rate of connections.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateEntry {
    /// So many.
    #[prost(uint32, tag = "1")]
    pub count: u32,
    /// In so many seconds.
    #[prost(uint32, tag = "2")]
    pub seconds: u32,
    /// Of a client: so many at once.
    #[prost(uint32, tag = "3")]
    pub burst: u32,
    /// Of a client: length of the prefix by which clients are one.
    #[prost(uint32, tag = "4")]
    pub prefix: u32,
}

/// A real server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerEntry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it listens.
    #[prost(message, optional, tag = "2")]
    pub addr: Option<Socket>,
    /// Its own way, if not the service's.
    #[prost(message, optional, tag = "3")]
    pub forward: Option<ForwardEntry>,
    /// Its weight.
    #[prost(uint32, tag = "4")]
    pub weight: u32,
    /// Connections from which on it gets no more; 0: no limit.
    #[prost(uint32, tag = "5")]
    pub upper: u32,
    /// Connections below which it gets some again.
    #[prost(uint32, tag = "6")]
    pub lower: u32,
    /// Length of the id by which QUIC packets name it; 0: none.
    #[prost(uint32, tag = "7")]
    pub quic_bytes: u32,
    /// That id.
    #[prost(uint64, tag = "8")]
    pub quic_id: u64,
    /// Serves while no other does.
    #[prost(bool, tag = "9")]
    pub sorry: bool,
}

/// A health check.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckEntry {
    /// "none", "tcp", "udp", "http" or "https".
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Its own port, if not the server's.
    #[prost(uint32, optional, tag = "2")]
    pub port: Option<u32>,
    /// Time from one check to the next.
    #[prost(uint64, tag = "3")]
    pub every: u64,
    /// Deadline of one check.
    #[prost(uint64, tag = "4")]
    pub timeout: u64,
    /// Good results that bring a server back.
    #[prost(uint32, tag = "5")]
    pub rise: u32,
    /// Bad results that take it out.
    #[prost(uint32, tag = "6")]
    pub fall: u32,
    /// It goes the way of clients' packets.
    #[prost(bool, tag = "7")]
    pub forwarded: bool,
    /// HTTP: path that is asked for.
    #[prost(string, tag = "8")]
    pub path: String,
    /// HTTP: name of the host that is asked for.
    #[prost(string, optional, tag = "9")]
    pub host: Option<String>,
    /// HTTP: wanted status.
    #[prost(uint32, tag = "10")]
    pub status: u32,
    /// HTTP: what the body must contain.
    #[prost(string, optional, tag = "11")]
    pub contains: Option<String>,
}
