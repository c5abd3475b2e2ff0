//! What a cluster is meant to be, as data.
//!
//! Decides: shapes and defaults. How a file becomes a [`Spec`] is in [`crate::config`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    Access, ClientRate, DeviceName, FenceDevice, Fencing, Forward, Listen, NodeName, QuicId, Rate,
    ServerName, ServerRef, ServiceName, Sources, Traffic, Watchdog, codes, time::Millis,
};

/// A whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Spec {
    /// Name of the cluster, shown everywhere.
    pub name: String,
    /// Machines by name.
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    /// Guarded addresses; each service's address is one.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// Virtual services by name. Most stay the same from config to config.
    pub services: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    /// Intervals of heartbeats, leases, elections and restarts.
    pub timing: Timing,
    /// Flows that a director holds at least; 0: as many as it does by itself.
    pub flows: u32,
    /// Data plane that forwards packets on directors.
    pub backend: Backend,
    /// How long silent connections are known.
    pub idle: IdleLimits,
    /// Fence devices by name.
    pub fence: BTreeMap<DeviceName, FenceDevice>,
    /// When and how nodes are fenced.
    pub fencing: Fencing,
    /// Path of the watchdog of every node that names none itself.
    pub watchdog: Option<String>,
    /// Roles of users; `None`: whom the API's socket lets in may do everything.
    pub access: Option<Access>,
}

/// Seconds after which a silent connection is forgotten; those that LVS's `--set` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// TCP, established; SCTP too.
    pub tcp: u32,
    /// TCP after a FIN.
    pub fin: u32,
    /// UDP, since the last packet.
    pub udp: u32,
}

impl Default for IdleLimits {
    /// IPVS's (net/netfilter/ipvs/ip_vs_proto_tcp.c, ip_vs_proto_udp.c).
    fn default() -> Self {
        Self { tcp: 900, fin: 120, udp: 300 }
    }
}

impl fmt::Display for IdleLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s, after FIN {}s, UDP {}s", self.tcp, self.fin, self.udp)
    }
}

/// The data planes that can forward packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// nines' own programs.
    #[default]
    Ebpf,
    /// The kernel's IPVS; nines' programs keep the VIP guard only.
    Ipvs,
}

impl Backend {
    /// All, by the name that configs use.
    pub const ALL: [(&'static str, Self); 2] = [("ebpf", Self::Ebpf), ("ipvs", Self::Ipvs)];
    /// Names of the data planes, as the config writes them.
    pub const NAMES: [&'static str; 2] = ["ebpf", "ipvs"];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ebpf { "ebpf" } else { "ipvs" })
    }
}

impl Spec {
    /// Names of all nodes that may hold a VIP.
    pub fn directors(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, n)| n.role == Role::Director).map(|(name, _)| name)
    }

    /// The name people know a VIP by: its own, else that of the first service on it and on no
    /// other, else the address.
    pub fn vip_name(&self, vip: IpAddr) -> String {
        if let Some(name) = self.vips.get(&vip).and_then(|v| v.name.clone()) {
            return name;
        }
        let mut on = self.services_on(vip).filter(|(_, s)| s.listen.vips().nth(1).is_none());
        on.next().map_or_else(|| vip.to_string(), |(name, _)| name.to_string())
    }

    /// Services that listen on a VIP.
    pub fn services_on(&self, vip: IpAddr) -> impl Iterator<Item = (&ServiceName, &ServiceSpec)> {
        self.services.iter().filter(move |(_, s)| s.listen.has(vip)).map(|(name, s)| (name, &**s))
    }

    /// VIPs by name or address of one, or by name of a service: all of its.
    pub fn find_vips(&self, word: &str) -> Vec<IpAddr> {
        if let Ok(addr) = word.parse::<IpAddr>() {
            return self.vips.contains_key(&addr).then_some(addr).into_iter().collect();
        }
        if let Some(service) = self.services.get(word) {
            return service.listen.vips().collect();
        }
        let named = self.vips.iter().find(|(_, v)| v.name.as_deref() == Some(word));
        named.map(|(addr, _)| *addr).into_iter().collect()
    }

    /// Real servers called `word`: "r2" in every service, or "web/r2" in one.
    pub fn find_servers(&self, word: &str) -> BTreeSet<ServerRef> {
        let (service, server) = match word.split_once('/') {
            Some((service, server)) => (Some(service), server),
            None => (None, word),
        };
        self.services
            .iter()
            .filter(|(name, _)| service.is_none_or(|s| s == name.as_str()))
            .filter_map(|(name, s)| Some((name, s.servers.get_key_value(server)?.0)))
            .map(|(name, server)| ServerRef::new(name.clone(), server.clone()))
            .collect()
    }
}

codes! {
    /// What a machine does in the cluster.
    pub enum Role {
        /// May hold VIPs and forward.
        Director = "director",
        /// Votes, carries nothing.
        Witness = "witness",
    }
}

/// One node of the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Director or witness.
    pub role: Role,
    /// One address a link; beats go over all of them.
    pub addresses: Vec<IpAddr>,
    /// Its fence devices by levels, if the config gives an order.
    pub fence: Vec<Vec<DeviceName>>,
    /// Its own watchdog, if the config names one, or says that it has none.
    pub watchdog: Option<Watchdog>,
}

/// A guarded address: at most one node answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Name from `[vip.NAME]`; `None` when a service brought it.
    pub name: Option<String>,
    /// Prefix length it is added with.
    pub prefix: u8,
    /// Interface; `None`: the one whose subnet holds the address.
    pub interface: Option<String>,
    /// Directors in order of preference; the others follow by name.
    pub prefer: Vec<NodeName>,
    /// The VIP that it goes with: it is a source of its service's pool. That one goes with none.
    pub with: Option<IpAddr>,
}

/// How a server is chosen for a new flow. Except Maglev these are IPVS's, with its definitions
/// (net/netfilter/ipvs/ip_vs_*.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin: the servers in turn.
    Rr,
    /// In turn, as often as its weight.
    Wrr,
    /// By consistent hash, the same on every director.
    Maglev,
    /// Fewest flows; an active one counts as 257 inactive ones.
    Lc,
    /// Fewest flows by weight.
    Wlc,
    /// Shortest expected delay: active flows and this one, by weight.
    Sed,
    /// An idle server if there is one, else as `Sed`.
    Nq,
    /// The highest weight takes all while it is up.
    Fo,
    /// The highest weight that carries no more active flows than its weight.
    Ovf,
    /// By hash of the VIP, regardless of weights.
    Dh,
    /// By hash of the client's address.
    Sh,
    /// By hash of the client's address, in IPVS's Maglev table.
    Mh,
    /// A destination's flows go to one server while it is not overloaded.
    Lblc,
    /// The same with a set of servers for each destination.
    Lblcr,
    /// The less loaded of two taken at random.
    Twos,
}

impl Scheduler {
    /// All, by the name that configs use.
    pub const ALL: [(&'static str, Self); 15] = [
        ("rr", Self::Rr),
        ("wrr", Self::Wrr),
        ("maglev", Self::Maglev),
        ("lc", Self::Lc),
        ("wlc", Self::Wlc),
        ("sed", Self::Sed),
        ("nq", Self::Nq),
        ("fo", Self::Fo),
        ("ovf", Self::Ovf),
        ("dh", Self::Dh),
        ("sh", Self::Sh),
        ("mh", Self::Mh),
        ("lblc", Self::Lblc),
        ("lblcr", Self::Lblcr),
        ("twos", Self::Twos),
    ];
}

impl Scheduler {
    /// Their names, in the order of [`Scheduler::ALL`].
    pub const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = Self::ALL[i].0;
            i += 1;
        }
        names
    };
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, s)| s == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// One virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// VIP, port, protocol.
    pub listen: Listen,
    /// Packets of that VIP's family that carry this mark, instead of those to it. Not 0.
    pub mark: Option<u32>,
    /// Forwarding method of the servers that have none of their own.
    pub forward: Forward,
    /// Choice of server.
    pub scheduler: Scheduler,
    /// What sh and mh do differently.
    pub flags: SchedulerFlags,
    /// Every datagram is scheduled by itself (UDP).
    pub one_packet: bool,
    /// Whether a client stays with its server.
    pub persist: Option<Persist>,
    /// And that call by call, by the Call-ID of SIP (UDP).
    pub by_call: bool,
    /// Which clients may begin flows.
    pub sources: Sources,
    /// New flows that each client may begin; `None`: no limit.
    pub rate: Option<ClientRate>,
    /// Beyond so many of all clients they are asked for a cookie (TCP).
    pub cookies: Option<Rate>,
    /// What servers behind full NAT see in place of the VIP; empty: the VIP.
    pub pool: Vec<IpAddr>,
    /// Servers behind full NAT are told who their client is (PROXY protocol, version 2).
    pub proxy: bool,
    /// Real servers by name.
    pub servers: BTreeMap<ServerName, ServerSpec>,
    /// How servers are checked.
    pub check: Check,
}

impl ServiceSpec {
    /// Which packets are its own.
    pub fn traffic(&self) -> Traffic {
        match self.mark {
            Some(mark) => Traffic::Marked { mark, v6: self.listen.addr.is_ipv6() },
            None => Traffic::To(self.listen),
        }
    }

    /// The same for people.
    pub fn takes(&self) -> String {
        match self.mark {
            Some(mark) => format!("mark {mark}, {}", self.listen.hosts()),
            None => self.listen.to_string(),
        }
    }

    /// Whether this server of it is checked: nobody checks where packets with a mark go on
    /// their own way.
    pub fn is_checked(&self, server: &ServerSpec) -> bool {
        let own_way = self.mark.is_some() && server.addr.ip().is_loopback();
        self.check.kind != CheckKind::None && !own_way
    }

    /// Whether this server of it is told who its clients are.
    pub fn tells(&self, server: &ServerSpec) -> bool {
        self.proxy && !server.addr.ip().is_loopback() && self.forward_of(server) == Forward::FullNat
    }

    /// How packets get to a server of it.
    pub fn forward_of(&self, server: &ServerSpec) -> Forward {
        server.forward.unwrap_or(self.forward)
    }
}

/// Options of schedulers sh and mh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags {
    /// Where the chosen server takes no new flow, another one does.
    pub fallback: bool,
    /// The client's port is hashed too.
    pub port: bool,
}

impl SchedulerFlags {
    /// Names in configs.
    pub const NAMES: [&'static str; 2] = ["fallback", "port"];
}

/// New flows of a client go where its last one went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persist {
    /// For so long after its last flow.
    pub time: Millis,
    /// Clients whose addresses share so many leading bits are one: 32 of IPv4, 128 of IPv6 are
    /// single addresses.
    pub prefix: u8,
}

impl fmt::Display for Persist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "persist {} by /{}", self.time, self.prefix)
    }
}

/// One real server of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Address and port; the port is the service's unless NAT maps it. A loopback address is the
    /// director itself, each.
    pub addr: SocketAddr,
    /// How packets get there, if not as the service says.
    pub forward: Option<Forward>,
    /// Share of new flows; 0: no new flow.
    pub weight: u32,
    /// Limits of what it carries.
    pub limit: Limit,
    /// Packets that hold this are its, wherever they come from.
    pub quic_id: Option<QuicId>,
    /// Takes new flows only while no other server of the service does.
    pub sorry: bool,
}

/// Flows that a server may carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limit {
    /// No new flow at so many or more; 0: no limit.
    pub upper: u32,
    /// New flows again below so many; 0: below three quarters of `upper`.
    pub lower: u32,
}

/// How a server proves that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Port asked; the server's when `None`.
    pub port: Option<u16>,
    /// From the end of one try to the start of the next.
    pub every: Millis,
    /// A try that takes longer has failed.
    pub timeout: Millis,
    /// Good tries in a row that bring a server up.
    pub rise: u32,
    /// Bad tries in a row that take it down.
    pub fall: u32,
    /// Beside that the server must answer as the VIP to what comes the way of clients' packets.
    pub forwarded: bool,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Nothing: always up.
    None,
    /// A TCP connection can be opened.
    Tcp,
    /// No "port unreachable" comes back for a datagram.
    Udp,
    /// GET over HTTP or HTTPS.
    Http {
        /// Over TLS; the certificate is not verified (the server is named by address).
        tls: bool,
        /// Path and query.
        path: String,
        /// Host header; the VIP when `None`.
        host: Option<String>,
        /// Status code that the answer must have.
        status: u16,
        /// Text the body must contain.
        contains: Option<String>,
    },
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            port: None,
            every: Millis(2_000),
            timeout: Millis(1_000),
            rise: 2,
            fall: 2,
            forwarded: false,
        }
    }
}

/// How fast nodes talk and how long a lease lasts. The same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one beat to the next, on each link.
    pub beat: Millis,
    /// How long a node may act on a lease after the renewal was sent.
    pub lease: Millis,
    /// Consensus: a follower that hears no leader for this long asks for votes.
    pub election: Millis,
    /// How long a planned restart of an agent may take before its VIPs move.
    pub restart: Millis,
}

impl Timing {
    /// For nodes that hear each other within a few ms: one switch, cards of their own.
    pub const FAST: Self =
        Self { beat: Millis(5), lease: Millis(20), election: Millis(100), restart: Millis(5_000) };
}

impl Default for Timing {
    fn default() -> Self {
        Self { beat: Millis(20), lease: Millis(140), election: Millis(250), restart: Millis(5_000) }
    }
}
