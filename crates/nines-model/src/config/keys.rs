//! Every key of `cluster.toml`, once: the reader refuses others, the schema and the manual list
//! these.

use crate::{Backend, Forward, Scheduler, SchedulerFlags};

/// One key.
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What a value looks like.
    pub shape: Shape,
    /// Must it be there?
    pub required: bool,
    /// One line for people; ends with the default.
    pub doc: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Any string.
    Text,
    /// A string such as "250ms".
    Duration,
    /// A whole number.
    Number(u32, u32),
    /// A list of strings.
    Texts,
    /// A string, or a list of strings.
    TextOrTexts,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A list of these strings.
    Choices(&'static [&'static str]),
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table whose keys are names and whose values have this shape.
    Named(&'static Shape),
    /// A string, a list of strings, or a table with these keys.
    TextsOrTable(&'static [Key]),
    /// A string, or a table with these keys.
    TextOrTable(&'static [Key]),
    /// One of these strings, or a table with these keys.
    ChoiceOrTable(&'static [&'static str], &'static [Key]),
}

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: false, doc }
}

const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: true, doc }
}

/// The whole file.
pub const ROOT: &[Key] = &[
    must("cluster", Shape::Table(CLUSTER), "The cluster itself."),
    key("nodes", Shape::Named(&Shape::TextsOrTable(NODE)), "Machines by name."),
    key("service", Shape::Named(&Shape::Table(SERVICE)), "Virtual services by name."),
    key(
        "vip",
        Shape::Named(&Shape::Table(VIP)),
        "Guarded addresses that need more than a service.",
    ),
    key("timing", Shape::Table(TIMING), "Beats and leases."),
    key("forwarding", Shape::Table(FORWARDING), "Room of the forwarding tables."),
];

/// `[forwarding]`
pub const FORWARDING: &[Key] = &[
    key(
        "dataplane",
        Shape::Choice(&Backend::NAMES),
        "Who forwards: nines' own programs, or the kernel's IPVS. Default \"ebpf\".",
    ),
    key(
        "flows",
        Shape::Number(1, 64_000_000),
        "Flows that a director holds, 73 bytes each; from its next start. Default 229376.",
    ),
    key(
        "tcp-timeout",
        Shape::Text,
        "A TCP or SCTP connection that is silent for so long is forgotten. Default 900s.",
    ),
    key("fin-timeout", Shape::Text, "The same of TCP after a FIN. Default 120s."),
    key("udp-timeout", Shape::Text, "The same of UDP. Default 300s."),
];

/// `[cluster]`
pub const CLUSTER: &[Key] = &[must("name", Shape::Text, "Name of the cluster.")];

/// One of `[nodes]`
pub const NODE: &[Key] = &[
    must("addresses", Shape::TextOrTexts, "Own addresses, one a link; beats use all of them."),
    key(
        "role",
        Shape::Choice(&["director", "witness"]),
        "A witness votes and carries nothing. Default \"director\".",
    ),
];

/// `[service.NAME]`
pub const SERVICE: &[Key] = &[
    must(
        "listen",
        Shape::Text,
        "VIP, port and protocol: \"10.0.0.100:80/tcp\"; ports may be a range (\"8000-8999\"), or * for \
         every port without a service; VIPs a network (\"10.0.0.96/28:80\").",
    ),
    key(
        "mark",
        Shape::Number(1, u32::MAX),
        "Packets to which nftables or iptables gives this mark, whatever port and protocol they are \
         for; listen then says *. Default: those to the VIP.",
    ),
    must("servers", Shape::Named(&Shape::TextOrTable(SERVER)), "Real servers by name."),
    key(
        "forward",
        Shape::Choice(&Forward::NAMES),
        "Direct routing, NAT, full NAT, the director itself, or a tunnel. Default \"dr\".",
    ),
    key("tunnel-port", Shape::Number(1, 65_535), "UDP port of gue. Default 6080."),
    key(
        "tunnel-checksum",
        Shape::Choice(&["none", "full"]),
        "Of the outer header of gue and gre. Default \"none\".",
    ),
    key("scheduler", Shape::Choice(&Scheduler::NAMES), "Who gets a new flow. Default \"maglev\"."),
    key(
        "scheduler-flags",
        Shape::Choices(&SchedulerFlags::NAMES),
        "sh and mh: take another server where theirs takes none; hash the client's port too.",
    ),
    key(
        "datagrams",
        Shape::Choice(&["flows", "single"]),
        "UDP: whether each datagram is scheduled by itself. Default \"flows\".",
    ),
    key(
        "persist",
        Shape::Duration,
        "New flows of a client go where its last one went, for so long after it. Default: not.",
    ),
    key(
        "persist-prefix",
        Shape::Number(1, 128),
        "Clients whose addresses share so many leading bits are one. Default: single addresses.",
    ),
    key(
        "persist-by",
        Shape::Choice(&["client", "sip-call"]),
        "What persist goes by: the client, or (UDP) the client and the Call-ID of SIP. Default \"client\".",
    ),
    key("allow", Shape::Texts, "Networks whose clients may connect; others then may not."),
    key("deny", Shape::Texts, "Networks whose clients may not; the longest prefix decides."),
    key(
        "rate",
        Shape::Text,
        "New connections that a client may make: \"20/s\" or \"300/m\". Default: any number.",
    ),
    key(
        "rate-burst",
        Shape::Number(1, 1_000_000),
        "So many of them at once. Default: what rate says, 20 of \"20/s\".",
    ),
    key(
        "rate-prefix",
        Shape::Number(1, 128),
        "Clients whose addresses share so many leading bits are one. Default: single addresses.",
    ),
    key(
        "syn-cookies",
        Shape::Text,
        "TCP: beyond so many new connections (\"1000/s\") clients must show that they get what is \
         sent to them. Default: never.",
    ),
    key(
        "source-pool",
        Shape::Texts,
        "full-nat: addresses that servers see in place of the VIP, 8 at most; they go where it goes. \
         Default: the VIP.",
    ),
    key(
        "proxy-protocol",
        Shape::Choice(&["v2"]),
        "TCP by full-nat: servers are told who their client is, in front of its first byte. \
         Default: not.",
    ),
    key(
        "check",
        Shape::ChoiceOrTable(&["tcp", "udp", "none"], CHECK),
        "How servers prove that they live. Default: \"tcp\"; of a UDP service \"udp\", of an SCTP \
         service \"none\".",
    ),
];

/// One of `servers`
pub const SERVER: &[Key] = &[
    must(
        "address",
        Shape::Text,
        "Address; with NAT also address:port. A loopback address is each director itself.",
    ),
    key("weight", Shape::Number(0, 65_535), "Share of new flows; 0 takes none. Default 1."),
    key("forward", Shape::Choice(&Forward::NAMES), "If not as the service says."),
    key("upper", Shape::Number(1, 4_000_000_000), "No new flow at so many. Default: no limit."),
    key(
        "lower",
        Shape::Number(1, 4_000_000_000),
        "And again below so many. Default: 3/4 of upper.",
    ),
    key(
        "quic-id",
        Shape::Text,
        "UDP: packets whose QUIC connection id holds this id (hexadecimal) are its. Default: none.",
    ),
    key(
        "role",
        Shape::Choice(&["real", "sorry"]),
        "A sorry server takes new flows only while no other server does. Default \"real\".",
    ),
];

/// `check`
pub const CHECK: &[Key] = &[
    key("http", Shape::Text, "GET this path over HTTP."),
    key("https", Shape::Text, "GET this path over TLS (certificate not verified)."),
    key("host", Shape::Text, "Host header. Default: the VIP."),
    key("status", Shape::Number(200, 599), "Wanted status. Default 200."),
    key("contains", Shape::Text, "Text the body must contain."),
    key("port", Shape::Number(1, 65_535), "Port asked. Default: the server's."),
    key(
        "proto",
        Shape::Choice(&["tcp", "udp"]),
        "tcp: a connection must open. udp: no \"port unreachable\" comes back for an empty \
         datagram. Default: the service's own.",
    ),
    key("every", Shape::Duration, "Pause between tries. Default \"2s\"."),
    key("timeout", Shape::Duration, "A slower try has failed. Default \"1s\", at most every."),
    key(
        "way",
        Shape::Choice(&["direct", "forwarded"]),
        "forwarded: beside that the server must answer as the VIP to what comes the way of clients' \
         packets (direct routing, tunnels; TCP). Default \"direct\".",
    ),
    key("rise", Shape::Number(1, 100), "Good tries in a row that bring a server up. Default 2."),
    key("fall", Shape::Number(1, 100), "Bad tries in a row that take it down. Default 2."),
];

/// `[vip.NAME]`
pub const VIP: &[Key] = &[
    must("address", Shape::Text, "Address, with prefix length if not a host route."),
    key("interface", Shape::Text, "Interface. Default: the one whose subnet holds the address."),
    key("prefer", Shape::Texts, "Directors in order of preference."),
];

/// `[timing]`
pub const TIMING: &[Key] = &[
    key("beat", Shape::Duration, "From one beat to the next on each link. Default \"20ms\"."),
    key(
        "lease",
        Shape::Duration,
        "How long a director may answer after its last renewal. Default \"140ms\".",
    ),
    key(
        "election",
        Shape::Duration,
        "Silence of the leader before an election. Default \"250ms\".",
    ),
    key(
        "restart",
        Shape::Duration,
        "How long an agent's planned restart may take. Default \"5s\".",
    ),
];
