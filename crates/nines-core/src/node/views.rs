//! Accessors: what other crates read of a node. Nothing here changes it.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Millis, NodeId, Role, Time};

use super::{Config, Node};
use crate::{
    forwarding, membership::Membership, state::State, vip::Vip, voter::consensus::Consensus,
    wire::Member,
};

impl Node {
    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Consensus, for views.
    pub fn consensus(&self) -> &Consensus {
        self.voter.consensus()
    }

    /// Peers, for views.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// VIPs on this node, for views.
    pub fn vips(&self) -> &BTreeMap<IpAddr, Vip> {
        self.own_vips.all()
    }

    /// Health of each server, for views.
    pub fn health(&self) -> &forwarding::Known {
        self.checks.known()
    }

    /// Log messages that wait for a promise to end, for people who debug.
    pub fn waiting(&self) -> usize {
        self.voter.waiting()
    }

    /// Name and numbers of this node.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the data plane holds the current table.
    pub fn is_ready(&self) -> bool {
        self.requested.is_ready()
    }

    /// Why this node votes no more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.voter.broken()
    }

    pub(super) fn lease(&self) -> Millis {
        self.state.spec.timing.lease
    }

    pub(super) fn id_of(&self, name: &str) -> Option<NodeId> {
        self.state.member(name).map(Member::id)
    }

    pub(super) fn name_of(&self, id: NodeId) -> String {
        self.state.members.get(&id).map_or_else(|| format!("node {id}"), |m| m.name.clone())
    }

    pub(super) fn is_director(&self) -> bool {
        self.state.spec.nodes.get(&self.config.name).is_some_and(|n| n.role == Role::Director)
    }

    /// Ms since 1970, for people.
    pub fn wall_ms(&self, now: Time) -> u64 {
        ((i128::from(now.0) + self.wall_offset) / 1_000_000).max(0) as u64
    }
}
