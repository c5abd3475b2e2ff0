//! What others see of a node: nothing here changes it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Config, Node};
use crate::{
    consensus::Consensus, forwarding, membership::Membership, state::State, vip::Vip, wire::Facts,
};

impl Node {
    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Consensus, for views.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Peers, for views.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// VIPs on this node, for views.
    pub fn vips(&self) -> &BTreeMap<IpAddr, Vip> {
        &self.vips
    }

    /// Health by (service, server), for views.
    pub fn health(&self) -> &forwarding::Known {
        &self.known
    }

    /// VIPs that nobody can take, and why; filled on the leader.
    pub fn blocked(&self) -> &BTreeMap<IpAddr, String> {
        &self.blocked
    }

    /// Log messages that wait for a promise to end, for people who debug.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Name and numbers of this node.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the data plane holds the current table.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// What this node knows about its machine, in the log or not yet.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Why this node votes no more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}
