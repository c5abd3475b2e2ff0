//! Reasons: why a node cannot take a VIP, and why a VIP moves or stays without a holder.
//!
//! Decides: the words for people (`Display`) and the stable code of each reason. Programs compare
//! the enums; nothing compares the words.

use std::{fmt, net::IpAddr};

use crate::NodeName;

/// Why a node cannot take a VIP. The words follow the node's name: "lb1 is silent".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The config does not name it.
    NotInConfig,
    /// It votes and carries nothing.
    Witness,
    /// No log names it yet.
    NotJoined,
    /// It votes no more.
    NoVote,
    /// Two agents run under its identity.
    RunsTwice,
    /// Its state directory was copied or moved, and the other nodes have not confirmed it.
    Unconfirmed,
    /// It has no vote yet.
    Joining,
    /// Not heard from within its lease.
    Silent,
    /// It hears too few others to renew what it holds.
    Deaf,
    /// Its clock runs at another rate than those of most.
    Clock,
    /// An operator set it aside.
    Standby,
    /// An operator wants it to leave the cluster.
    Removal,
    /// It is stopping.
    Leaving,
    /// It tried to take this VIP, and failed.
    Failed,
    /// It cannot serve this VIP, and says why itself: "eth1 has no carrier".
    CannotServe(String),
    /// Not heard just now, and not silent for long enough to be held dead.
    Unheard,
    /// Its data plane does not hold the current table.
    NotReady,
    /// It was silent again and again: others go before it until it has been heard for a while.
    Quarantined,
    /// Its log lags too far behind.
    OldLog,
    /// It has not got all connections of this node.
    Behind(NodeName),
}

impl Unfit {
    /// Stable code of the reason.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotInConfig => "not-in-config",
            Self::Witness => "witness",
            Self::NotJoined => "not-joined",
            Self::NoVote => "no-vote",
            Self::RunsTwice => "runs-twice",
            Self::Unconfirmed => "unconfirmed",
            Self::Joining => "joining",
            Self::Silent => "silent",
            Self::Deaf => "deaf",
            Self::Clock => "clock",
            Self::Standby => "standby",
            Self::Removal => "removal",
            Self::Leaving => "leaving",
            Self::Failed => "failed",
            Self::CannotServe(_) => "cannot-serve",
            Self::Unheard => "unheard",
            Self::NotReady => "not-ready",
            Self::Quarantined => "quarantined",
            Self::OldLog => "old-log",
            Self::Behind(_) => "behind",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInConfig => f.write_str("is not in the cluster's file"),
            Self::Witness => f.write_str("is a witness"),
            Self::NotJoined => f.write_str("has not joined"),
            Self::NoVote => f.write_str("votes no more"),
            Self::RunsTwice => f.write_str("is running twice"),
            Self::Unconfirmed => f.write_str("is waiting for confirmation"),
            Self::Joining => f.write_str("is joining, it has no vote yet"),
            Self::Silent => f.write_str("is silent"),
            Self::Deaf => f.write_str("hears too few of the others"),
            Self::Clock => f.write_str("has a clock that runs at another rate than most"),
            Self::Standby => f.write_str("is on standby"),
            Self::Removal => f.write_str("is to leave the cluster"),
            Self::Leaving => f.write_str("is stopping"),
            Self::Failed => f.write_str("could not take it"),
            Self::CannotServe(why) => write!(f, "cannot serve it: {why}"),
            Self::Unheard => f.write_str("is not heard at the moment"),
            Self::NotReady => f.write_str("is not ready"),
            Self::Quarantined => f.write_str("is quarantined: it was silent again and again"),
            Self::OldLog => f.write_str("has not got the newest log entries"),
            Self::Behind(node) => write!(f, "has not got all connections of {node} yet"),
        }
    }
}

/// Why none of the directors that were asked takes a VIP; by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(pub Vec<(NodeName, Unfit)>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there is no other director");
        }
        for (i, (node, why)) in self.0.iter().enumerate() {
            write!(f, "{}{node} {why}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Why a VIP is given to a node, moves, or has to stay where it is or without a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No director held it.
    Unheld,
    /// Its holder is silent.
    HolderSilent(NodeName),
    /// Its holder cannot keep it.
    HolderUnfit(NodeName, Unfit),
    /// An operator asked for the move.
    Asked,
    /// It goes where this VIP is: on this node.
    Follows(IpAddr, NodeName),
    /// It should go where this VIP is, and that node cannot take it.
    CannotFollow(IpAddr, NodeName, Unfit),
    /// No director holds the VIP that it goes with.
    NothingToFollow(IpAddr),
    /// An operator's move waits: the first node has not got the connections of the second one.
    Waits(NodeName, NodeName),
    /// It should be elsewhere, or somewhere, and no director can take it.
    NoTaker(Box<Why>, Refusals),
}

impl Why {
    /// Stable code of the reason.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unheld => "unheld",
            Self::HolderSilent(_) => "holder-silent",
            Self::HolderUnfit(..) => "holder-unfit",
            Self::Asked => "asked",
            Self::Follows(..) => "follows",
            Self::CannotFollow(..) => "cannot-follow",
            Self::NothingToFollow(_) => "nothing-to-follow",
            Self::Waits(..) => "waits",
            Self::NoTaker(..) => "no-taker",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheld => f.write_str("no director held it"),
            Self::HolderSilent(node) => write!(f, "{node} is silent"),
            Self::HolderUnfit(node, why) => write!(f, "{node} {why}"),
            Self::Asked => f.write_str("an operator asked for it"),
            Self::Follows(vip, node) => write!(f, "{vip} is on {node}"),
            Self::CannotFollow(vip, node, why) => write!(f, "{vip} is on {node}, which {why}"),
            Self::NothingToFollow(vip) => write!(f, "no director holds {vip}"),
            Self::Waits(to, from) => write!(f, "{to} {}", Unfit::Behind(from.clone())),
            Self::NoTaker(why, others) => {
                let but = if let Self::HolderUnfit(..) = **why { "but" } else { "and" };
                write!(f, "{why}, {but} {others}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_aloud() {
        let lb = |n: u8| NodeName::from(format!("lb{n}"));
        let vip = IpAddr::from([10, 0, 0, 9]);
        let others = || Refusals(vec![(lb(2), Unfit::NotReady), (lb(3), Unfit::Silent)]);
        let read = |why: Why| format!("{}: {why}", why.code());
        for (why, text) in [
            (Why::HolderSilent(lb(1)), "holder-silent: lb1 is silent"),
            (Why::Follows(vip, lb(1)), "follows: 10.0.0.9 is on lb1"),
            (Why::Waits(lb(2), lb(1)), "waits: lb2 has not got all connections of lb1 yet"),
            (
                Why::CannotFollow(vip, lb(1), Unfit::Failed),
                "cannot-follow: 10.0.0.9 is on lb1, which could not take it",
            ),
            (
                Why::NoTaker(Box::new(Why::Unheld), others()),
                "no-taker: no director held it, and lb2 is not ready, lb3 is silent",
            ),
            (
                Why::NoTaker(
                    Box::new(Why::HolderUnfit(lb(1), Unfit::CannotServe("eth1 is down".into()))),
                    Refusals::default(),
                ),
                "no-taker: lb1 cannot serve it: eth1 is down, but there is no other director",
            ),
        ] {
            assert_eq!(read(why), text);
        }
    }
}
