//! ipvsadm's commands and options, and which goes with which.

use nines_dataplane::ipvs::Role;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Edit,
    Delete,
    Flush,
    AddServer,
    EditServer,
    DeleteServer,
    List,
    Set([u32; 3]),
    StartDaemon(Role),
    StopDaemon(Role),
    Restore,
    Save,
    Zero,
    Help,
    Version,
}

impl Command {
    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add-service",
            Self::Edit => "edit-service",
            Self::Delete => "delete-service",
            Self::Flush => "flush",
            Self::AddServer => "add-server",
            Self::EditServer => "edit-server",
            Self::DeleteServer => "delete-server",
            Self::List => "list",
            Self::Set(_) => "set",
            Self::StartDaemon(_) => "start-daemon",
            Self::StopDaemon(_) => "stop-daemon",
            Self::Restore => "restore",
            Self::Save => "save",
            Self::Zero => "zero",
            Self::Help => "help",
            Self::Version => "version",
        }
    }

    /// Options it must have, and those it may.
    pub fn options(self) -> (&'static [&'static str], &'static [&'static str]) {
        const SERVICE: &[&str] =
            &["scheduler", "persistent", "netmask", "ops", "pe", "sched-flags"];
        const SERVER: &[&str] = &[
            "forwarding-method",
            "weight",
            "u-threshold",
            "l-threshold",
            "tun-type",
            "tun-port",
            "tun-nocsum",
            "tun-csum",
            "tun-remcsum",
        ];
        const LIST: &[&str] = &[
            "numeric",
            "connection",
            "service-address",
            "timeout",
            "daemon",
            "stats",
            "rate",
            "thresholds",
            "persistent-conn",
            "tun-info",
            "nosort",
            "exact",
        ];
        const DAEMON: &[&str] =
            &["syncid", "mcast-interface", "mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen"];
        match self {
            Self::Add | Self::Edit => (&["service-address"], SERVICE),
            Self::Delete => (&["service-address"], &[]),
            Self::AddServer | Self::EditServer => (&["service-address", "real-server"], SERVER),
            Self::DeleteServer => (&["service-address", "real-server"], &[]),
            Self::List => (&[], LIST),
            Self::StartDaemon(_) => (&["mcast-interface"], DAEMON),
            Self::StopDaemon(_) => (&[], &["syncid"]),
            Self::Save => (&[], &["numeric"]),
            Self::Zero => (&[], &["service-address"]),
            _ => (&[], &[]),
        }
    }
}

/// Options of one letter, by their long names.
pub const SHORT: &[(char, &str)] = &[
    ('A', "add-service"),
    ('E', "edit-service"),
    ('D', "delete-service"),
    ('C', "clear"),
    ('a', "add-server"),
    ('e', "edit-server"),
    ('d', "delete-server"),
    ('L', "list"),
    ('l', "list"),
    ('Z', "zero"),
    ('R', "restore"),
    ('S', "save"),
    ('h', "help"),
    ('v', "version"),
    ('t', "tcp-service"),
    ('u', "udp-service"),
    ('f', "fwmark-service"),
    ('M', "netmask"),
    ('r', "real-server"),
    ('g', "gatewaying"),
    ('i', "ipip"),
    ('m', "masquerading"),
    ('w', "weight"),
    ('x', "u-threshold"),
    ('y', "l-threshold"),
    ('p', "persistent"),
    ('s', "scheduler"),
    ('n', "numeric"),
    ('c', "connection"),
    ('o', "ops"),
    ('6', "ipv6"),
    ('b', "sched-flags"),
];

/// Options with a value.
pub const VALUED: &[&str] = &[
    "tcp-service",
    "udp-service",
    "sctp-service",
    "fwmark-service",
    "netmask",
    "real-server",
    "weight",
    "u-threshold",
    "l-threshold",
    "scheduler",
    "sched-flags",
    "pe",
    "set",
    "start-daemon",
    "stop-daemon",
    "mcast-interface",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
    "syncid",
    "sync-maxlen",
    "tun-type",
    "tun-port",
];

/// Options of listings that only set themselves.
pub const PLAIN: &[&str] = &[
    "numeric",
    "connection",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "tun-info",
    "nosort",
    "exact",
    "ops",
];
