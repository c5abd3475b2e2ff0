//! Everything that can happen to a node. Closed: a new kind of event is a new variant here.

use std::net::IpAddr;

use nines_model::{NodeId, ServerRef};

use crate::wire::Command;

/// What keeps a disk from taking a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// It has no room left: what was written before is there, and room mends it.
    Full,
    /// Anything else. Nobody knows what of the write is there.
    Failed,
}

/// One thing that happened to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: `next_deadline()` was reached, or nothing else happened for a while.
    Tick,
    /// Wall clock, in ns since 1970, read together with `now`. For people's eyes only: no decision
    /// uses it but the expiry of a drain that a person set.
    WallClock(u64),
    /// An authenticated frame from another node, over this of our links.
    Frame {
        /// Sender, as its key says.
        from: NodeId,
        /// Which of our links.
        link: usize,
        /// The frame, a `wire::Frame` as protobuf.
        bytes: Vec<u8>,
    },
    /// [`crate::Action::Persist`] is on disk.
    Persisted(u64),
    /// [`crate::Action::Persist`] failed: this node acknowledges nothing more in this incarnation
    /// (S26). What mends it, and what the system said.
    PersistFailed(DiskFault, String),
    /// A disk that was full has room again.
    DiskHasRoom,
    /// [`crate::Action::Perform`] was carried out, or not.
    Done {
        /// The action's id.
        id: u64,
        /// What went wrong.
        result: Result<(), String>,
    },
    /// VIPs that this machine has on its loopback interface, as a real server of other directors.
    OnLoopback(std::collections::BTreeSet<IpAddr>),
    /// A health check ended.
    Checked {
        /// Real server that was checked.
        server: ServerRef,
        /// Good: what it said ("200 in 4 ms"). Bad: why ("503, wanted 200").
        outcome: Result<String, String>,
    },
    /// Another program took these VIPs away, or they went with their interface; they are back. How:
    /// "taken off eth0 by another program".
    Restored {
        /// VIPs that were gone and are back.
        vips: Vec<IpAddr>,
        /// What had become of them.
        how: String,
    },
    /// A command to be written in the log; answered by [`crate::Action::Reply`].
    Propose {
        /// The caller's number for it.
        request: u64,
        /// What; id and time are filled in here.
        command: Command,
    },
    /// What this node learned about itself: interfaces, version.
    Facts(crate::wire::Facts),
    /// Other directors whose flows are not all in this node's tables yet: a VIP that they hold does
    /// not come here without need.
    Behind(std::collections::BTreeSet<NodeId>),
    /// A line to this node broke, and a frame for it was lost.
    Undelivered(NodeId),
    /// The agent is about to be replaced in place: ask for leases that last so long, ms. Answered
    /// by [`crate::Action::RestartReady`].
    Restart(u64),
    /// The agent should stop: hand VIPs over first. Answered by [`crate::Action::StopReady`].
    Stop,
    /// The first packet that the data plane forwarded for a VIP after a takeover.
    FirstPacket(IpAddr),
    /// What the watchdog of this machine does now; `None`: the config names none.
    Watchdog(Option<crate::wire::WatchdogState>),
}
