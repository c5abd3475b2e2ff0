//! Everything a node can ask of the world. Closed. Order is part of the contract: actions are
//! carried out in the order given; what waits for the disk is given only after
//! [`crate::Event::Persisted`].

use std::{collections::BTreeSet, net::IpAddr};

use nines_model::{DeviceName, FenceDevice, LogIndex, NodeId, NodeName, Switch, Time};

use crate::{
    forwarding::Wanted,
    health::CheckTasks,
    wire::{Begun, Persist},
};

/// What is asked.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write and sync, then say [`crate::Event::Persisted`] with the id. Never reordered.
    Persist(u64, Box<Persist>),
    /// Send to a node over every link; `bulk` frames are too large for a datagram.
    Send {
        /// Number of the receiving node in the consensus.
        to: NodeId,
        /// The frame, a `wire::Frame` as protobuf.
        bytes: Vec<u8>,
        /// Over TLS instead.
        bulk: bool,
    },
    /// Carry this out, then say [`crate::Event::Done`] with the id, also if it failed.
    Perform {
        /// Id of the answer; no two operations of a node have the same.
        id: u64,
        /// What to do.
        operation: Operation,
    },
    /// Check exactly these servers from now on.
    Check(CheckTasks),
    /// The answer to [`crate::Event::Propose`].
    Reply {
        /// The caller's number.
        request: u64,
        /// Log index, and what was done; or why not.
        result: Result<(LogIndex, String), Refusal>,
    },
    /// Leases last long enough: replace the process now.
    RestartReady,
    /// Nothing is held any more: stop now.
    StopReady,
    /// This node has lost its log, and the others count on nothing in it: put it aside, and start
    /// anew without one. The new log keeps by which entry, and up to which term it may have voted.
    BeginAnew(Begun),
    /// A line for the log of this machine.
    Log(String),
}

/// What a node asks of its kernel. Each may fail, and comes back.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Let the kernel answer for the VIP until then, and not longer, whatever becomes of others.
    Guard(IpAddr, Time),
    /// Let it answer until then; from now on it goes by the common deadline, which
    /// [`Operation::Renew`] moves.
    Follow(IpAddr, Time),
    /// Let the kernel answer until then for every VIP that follows.
    Renew(Time),
    /// Guard exactly these; `true`: a real server on this node serves it too.
    Cover(Vec<(IpAddr, bool)>),
    /// These VIPs are on the loopback interface: as a real server, this machine takes packets of
    /// other directors for them.
    Serve(BTreeSet<IpAddr>),
    /// Put the address on, or take it off.
    Address {
        /// VIP to put on its interface or to take off.
        vip: IpAddr,
        /// On or off.
        up: bool,
    },
    /// Tell the neighbours, once.
    Announce(IpAddr),
    /// Say [`crate::Event::FirstPacket`] when the data plane forwards the next packet for the VIP.
    Watch(IpAddr),
    /// Forward as this wants from now on.
    Forward(Box<Wanted>),
    /// Have a fence device switch a machine. It is done when the device itself says that the
    /// machine is as it should be.
    Fence {
        /// Name of the device.
        device: DeviceName,
        /// How it is spoken to.
        config: Box<FenceDevice>,
        /// The machine.
        node: NodeName,
        /// What to do with it.
        switch: Switch,
        /// By the boot clock: what has not begun by then does not begin any more.
        until: Time,
    },
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No leader, or no answer in time: maybe done later, ask again.
    NoQuorum(String),
    /// Another command changed it first.
    Changed(String),
    /// There is no such thing.
    NotFound(String),
    /// It would harm.
    Unsafe(String),
    /// It makes no sense.
    Invalid(String),
    /// This node would come to another config than the node that proposed it.
    Differs(String),
}
