//! Every key of `cluster.toml`, once: the reader refuses all others, and the JSON Schema, the
//! manual's page of keys and `nines help keys` are made from this table.
//!
//! Decides: names, texts, what a value may be. How a value is read is in the readers beside this
//! file; a test writes every example, default and wrong value of the table to a file and reads it.

mod access;
mod fence;
mod listing;
mod service;

pub use self::{
    access::ACCESS,
    fence::{FENCE, FENCING},
    listing::page,
    service::{CHECK, SERVER, SERVICE},
};
use crate::Backend;

/// One key of a section.
#[derive(Clone, Copy)]
pub struct Key {
    /// The word before the equals sign.
    pub name: &'static str,
    /// What the value may be.
    pub shape: Shape,
    /// Whether the section is refused without this key.
    pub required: bool,
    /// What the value means, with its unit, in sentences for the manual.
    pub doc: &'static str,
    /// What applies without the key; nothing is said of required keys and of sections.
    pub absent: Absent,
    /// Lines of the section that show the key, valid as they stand.
    pub example: &'static str,
}

/// What applies where a key is not written.
#[derive(Clone, Copy)]
pub enum Absent {
    /// Nothing that the manual could name.
    Unsaid,
    /// The same as with this value, in TOML.
    Is(&'static str),
    /// What these words say.
    Means(&'static str),
}

/// What a value may be.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A string that holds what these words say.
    Text(&'static str),
    /// A string such as "250ms".
    Duration,
    /// A whole number between these two, both included.
    Number(u32, u32),
    /// `true` or `false`.
    Flag,
    /// A string that holds what these words say; or a whole number, `true` (1) or `false` (0).
    Scalar(&'static str),
    /// A list; each item is a string that holds what these words say, or a list of such strings.
    Levels(&'static str),
    /// A list of strings, each of which holds one of what these words say.
    Texts(&'static str),
    /// A string, or a list of strings, with what these words say.
    TextOrTexts(&'static str),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A list of these strings.
    Choices(&'static [&'static str]),
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table whose keys are names and whose values have this shape.
    Named(&'static Shape),
    /// A string, a list of strings, or a table with these keys.
    TextsOrTable(&'static str, &'static [Key]),
    /// A string, or a table with these keys.
    TextOrTable(&'static str, &'static [Key]),
    /// One of these strings, or a table with these keys.
    ChoiceOrTable(&'static [&'static str], &'static [Key]),
}

/// A key that may be left out.
const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: false, doc, absent: Absent::Unsaid, example: "" }
}

/// A key that its section must have.
const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { required: true, ..key(name, shape, doc) }
}

impl Key {
    /// Sets a default that could be written as a value.
    const fn is(self, value: &'static str) -> Self {
        Self { absent: Absent::Is(value), ..self }
    }

    /// Says in words what applies without the key.
    const fn means(self, words: &'static str) -> Self {
        Self { absent: Absent::Means(words), ..self }
    }

    /// Sets the example.
    const fn like(self, example: &'static str) -> Self {
        Self { example, ..self }
    }
}

/// The sections of the file.
pub const ROOT: &[Key] = &[
    must("cluster", Shape::Table(CLUSTER), "The cluster as a whole.")
        .like("[cluster]\nname = \"shop\""),
    key(
        "nodes",
        Shape::Named(&Shape::TextsOrTable(
            "its address, or a list of its addresses, one of each link",
            NODE,
        )),
        "The nodes of the cluster by name: directors and witnesses.",
    )
    .like(
        "[nodes]\nlb1  = \"10.0.0.2\"\nlb2  = [\"10.0.0.3\", \"10.1.0.3\"]\n\
         wit1 = { addresses = \"10.0.0.4\", role = \"witness\" }",
    ),
    key("service", Shape::Named(&Shape::Table(SERVICE)), "The virtual services by name.").like(
        "[service.web]\nlisten  = \"10.0.0.100:80/tcp\"\n\
         servers = { r1 = \"10.0.0.11\", r2 = \"10.0.0.12\" }",
    ),
    key(
        "vip",
        Shape::Named(&Shape::Table(VIP)),
        "VIPs by name: addresses that belong to no service, or options of a service's address.",
    )
    .like("[vip.inner]\naddress = \"10.0.0.1/24\"\nprefer  = [\"lb1\", \"lb2\"]"),
    key(
        "fence",
        Shape::Named(&Shape::Table(FENCE)),
        "Fence devices by name: what switches a machine off that does not answer any more, through \
         a fence agent of the distribution.",
    )
    .like(
        "[fence.bmc-lb1]\nagent   = \"fence_ipmilan\"\nnode    = \"lb1\"\n\
         options = { ip = \"10.0.9.1\", username = \"admin\", cipher = 3, lanplus = true }\n\
         secrets = { password = \"/etc/nines/bmc-lb1.password\" }",
    ),
    key(
        "fencing",
        Shape::Table(FENCING),
        "When nodes are fenced, and how often the fence devices are tested.",
    )
    .like("[fencing]\nafter    = \"5s\"\non-again = true"),
    key(
        "access",
        Shape::Table(ACCESS),
        "Roles of the users of each node, by their groups. root is admin, and a user without a \
         role may do nothing. Without this section, everybody in the group of the agent's socket \
         may do everything.",
    )
    .like("[access]\nviewer   = [\"staff\"]\noperator = [\"nines\"]"),
    key(
        "timing",
        Shape::ChoiceOrTable(&["fast"], TIMING),
        "Intervals of heartbeats, leases and elections. `timing = \"fast\"`, above all sections, \
         stands for a `beat` of 5 ms, a `lease` of 20 ms and an `election` of 100 ms: for nodes at \
         one switch that hear each other within 5 ms.",
    )
    .like("[timing]\nbeat  = \"50ms\"\nlease = \"350ms\""),
    key("forwarding", Shape::Table(FORWARDING), "The data plane and the flow table.")
        .like("[forwarding]\nflows = 1000000"),
];

/// Keys of the section `[cluster]`.
pub const CLUSTER: &[Key] = &[must(
    "name",
    Shape::Text("a name"),
    "Name of the cluster. `nines init` sets it for the life of the cluster: a file with another \
     name is refused.",
)
.like("name = \"shop\"")];

/// One of `[nodes]`
pub const NODE: &[Key] = &[
    must(
        "addresses",
        Shape::TextOrTexts("an address"),
        "Addresses of the node itself, one of each link. Nodes send heartbeats over all of them.",
    )
    .like("lb2 = { addresses = [\"10.0.0.3\", \"10.1.0.3\"] }"),
    key(
        "role",
        Shape::Choice(&["director", "witness"]),
        "A director may hold VIPs and forwards packets. A witness only votes.",
    )
    .is("\"director\"")
    .like("wit1 = { addresses = \"10.0.0.4\", role = \"witness\" }"),
    key(
        "fence",
        Shape::Levels("the name of a fence device"),
        "Fence devices of the node, in the order in which they are tried. Devices in a list of \
         their own have to switch the node off together, as with two power supplies. Each has to \
         switch the node by its own section `[fence.NAME]`. Devices that are not in the list are \
         not used for the node.",
    )
    .means("every device that switches the node, one after the other, by name")
    .like("lb2 = { addresses = \"10.0.0.3\", fence = [\"bmc-lb2\", [\"pdu-a\", \"pdu-b\"]] }"),
    key(
        "watchdog",
        Shape::Text("the path of a watchdog device below /dev, or \"none\""),
        "Watchdog of this node, in place of the one that `[fencing]` names for all.",
    )
    .means("the watchdog that `[fencing]` names")
    .like("lb2 = { addresses = \"10.0.0.3\", watchdog = \"/dev/watchdog1\" }"),
];

/// Keys of a section `[vip.NAME]`.
pub const VIP: &[Key] = &[
    must(
        "address",
        Shape::Text("an address, with or without `/` and a prefix length"),
        "The virtual address. Without a prefix length it is a host route (/32, or /128 for IPv6).",
    )
    .like("address = \"10.0.0.100/24\""),
    key(
        "interface",
        Shape::Text("the name of an interface"),
        "Interface of the directors that gets the VIP.",
    )
    .means("the interface whose subnet contains the address")
    .like("interface = \"eth0\""),
    key(
        "prefer",
        Shape::Texts("names of directors"),
        "Directors in order of preference: where the VIP starts, and which director takes it over.",
    )
    .means("no preference")
    .like("prefer = [\"lb1\", \"lb2\"]"),
];

/// Keys of the section `[timing]`.
pub const TIMING: &[Key] = &[
    key(
        "beat",
        Shape::Duration,
        "Time between two heartbeats on each link, at least 5 ms. A lease and an election must be \
         several times as long.",
    )
    .is("\"20ms\"")
    .like("beat = \"10ms\""),
    key(
        "lease",
        Shape::Duration,
        "Time for which a director may answer for its VIPs after the last renewal, at least four \
         times `beat`.",
    )
    .is("\"140ms\"")
    .like("lease = \"200ms\""),
    key(
        "election",
        Shape::Duration,
        "Silence of the leader after which the other nodes elect a new one, at least 100 ms and \
         five times `beat`.",
    )
    .is("\"250ms\"")
    .like("election = \"500ms\""),
    key(
        "restart",
        Shape::Duration,
        "Length of the lease that an agent requests before it replaces itself (`systemctl reload \
         nines`): the time that it has for that.",
    )
    .is("\"5s\"")
    .like("restart = \"10s\""),
];

/// Keys of the section `[forwarding]`.
pub const FORWARDING: &[Key] = &[
    key(
        "dataplane",
        Shape::Choice(&Backend::NAMES),
        "What forwards packets: the programs of nines (`ebpf`), or the kernel's IPVS (`ipvs`).",
    )
    .is("\"ebpf\"")
    .like("dataplane = \"ipvs\""),
    key(
        "flows",
        Shape::Number(1, 64_000_000),
        "Maximum number of flows in a director's flow table. A flow takes 73 bytes. A change takes \
         effect at the agent's next start.",
    )
    .means("229376")
    .like("flows = 1000000"),
    key(
        "tcp-timeout",
        Shape::Duration,
        "Idle time after which an established TCP connection or SCTP association is removed from \
         the flow table. 9 s to 31 days, in whole seconds, like the next two.",
    )
    .is("\"900s\"")
    .like("tcp-timeout = \"2h\""),
    key(
        "fin-timeout",
        Shape::Duration,
        "Idle time after which a TCP connection is removed that has had a FIN.",
    )
    .is("\"120s\"")
    .like("fin-timeout = \"30s\""),
    key("udp-timeout", Shape::Duration, "Idle time after which a UDP flow is removed.")
        .is("\"300s\"")
        .like("udp-timeout = \"60s\""),
];

#[cfg(test)]
mod tests;
