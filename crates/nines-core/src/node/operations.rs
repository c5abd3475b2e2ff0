//! What was asked of the world and has not come back yet.
//!
//! Every operation has an id and comes back with it, failure included. What this node believes of
//! its kernel is what came back, not what it asked for.
//!
//! Decides: what a failed operation means. A deadline that could not be written is written again,
//! and the VIP counts as not answering meanwhile; a release waits until the kernel has gone silent.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Millis, Time};

use super::Node;
use crate::{
    action::{Action, Operation},
    event_log::EventKind,
};

/// A deadline that could not be written is written again after so long.
const GUARD_AGAIN: Millis = Millis(20);

/// What was asked, as far as its result concerns somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// The deadline of one VIP.
    Guard(IpAddr),
    /// The deadline of all that go together.
    Renew,
    /// The set of guarded VIPs.
    Cover,
    /// The VIPs that this machine has on its loopback interface.
    Serve,
    Address(IpAddr),
    Announce(IpAddr),
    Watch(IpAddr),
    Forward,
    Fence,
}

/// Operations under way, by id.
#[derive(Default)]
pub(super) struct Operations {
    given: u64,
    begun: BTreeMap<u64, Begun>,
}

impl Node {
    /// Asks for an operation; gives its id.
    pub(super) fn perform(&mut self, operation: Operation) -> u64 {
        let begun = match &operation {
            Operation::Guard(vip, _) | Operation::Follow(vip, _) => Begun::Guard(*vip),
            Operation::Renew(_) => Begun::Renew,
            Operation::Cover(_) => Begun::Cover,
            Operation::Serve(_) => Begun::Serve,
            Operation::Address { vip, .. } => Begun::Address(*vip),
            Operation::Announce(vip) => Begun::Announce(*vip),
            Operation::Watch(vip) => Begun::Watch(*vip),
            Operation::Forward(_) => Begun::Forward,
            Operation::Fence { .. } => Begun::Fence,
        };
        self.operations.given += 1;
        let id = self.operations.given;
        self.operations.begun.insert(id, begun);
        self.actions.push(Action::Perform { id, operation });
        id
    }

    /// Operations that have not come back, for people who debug.
    pub fn under_way(&self) -> usize {
        self.operations.begun.len()
    }

    /// An operation came back; false if nothing follows from that. Most deadlines are written
    /// fifty times a second, and nothing follows from those that were.
    pub(super) fn done(&mut self, now: Time, id: u64, result: Result<(), String>) -> bool {
        let Some(begun) = self.operations.begun.remove(&id) else { return false };
        match (begun, result) {
            (Begun::Address(vip), result) => self.address_done(now, vip, id, &result),
            (Begun::Forward, result) => self.forwarded(now, result),
            (Begun::Guard(vip), Ok(())) => return self.own_vips.guarded(vip, id),
            (Begun::Renew, Ok(())) => {
                self.own_vips.renew_done();
                return false;
            }
            (Begun::Fence, result) => self.fence_done(now, id, result),
            (Begun::Announce(vip), Ok(())) => return self.own_vips.announced(now, vip, true),
            (_, Ok(())) => return false,
            (Begun::Guard(vip), Err(why)) => {
                if self.own_vips.not_guarded(now.plus(GUARD_AGAIN), vip, id) {
                    let name = &self.config.name;
                    let text = format!("{name} could not write the deadline of {vip}: {why}");
                    self.record_vip_event(now, vip, EventKind::GuardFailed, text);
                }
            }
            (Begun::Renew, Err(why)) => {
                if self.own_vips.not_renewed() {
                    let name = self.config.name.to_string();
                    let text = format!("{name} could not renew the deadline of its VIPs: {why}");
                    let kind = EventKind::GuardFailed;
                    self.record_event(now, kind, name, text, "auto", String::new());
                }
            }
            (Begun::Cover, Err(why)) => {
                self.not_covered(now);
                self.log(format!("the set of guarded VIPs could not be written: {why}"));
            }
            (Begun::Serve, Err(why)) => {
                self.log(format!("the VIPs on this real server could not be written: {why}"));
            }
            (Begun::Announce(vip), Err(why)) => {
                if self.own_vips.announced(now, vip, false) {
                    self.log(format!("{vip} could not be announced: {why}"));
                }
            }
            (Begun::Watch(vip), Err(why)) => {
                self.log(format!("the first packet of {vip} is not watched for: {why}"));
                return false;
            }
        }
        true
    }
}
