//! Datagrams on their way to the node.
//!
//! Decides: in which order sockets are read, and when reading stops: a flood at one socket keeps
//! neither the others waiting nor the node from its deadlines.

use nines_core::Event;
use nines_dataplane::process::boot_time;
use nines_model::NodeId;
use socket2::SockRef;

use super::{CoreThread, addresses::PeerAddresses};
use crate::transport::{
    datagram::Opened,
    kernel_filter::{self, Change},
    source_gate::Reason,
};

/// Datagrams that are read from one socket before the next one has its turn.
const TURN: usize = 32;
/// Turns of all sockets before inputs and deadlines have theirs.
const TURNS: usize = 8;

impl CoreThread {
    /// Reads what came over all links, one turn after the other; whether something may be left.
    pub(super) fn receive(&mut self) -> bool {
        self.filter();
        let mut unread: Vec<usize> = (0..self.sockets.len()).collect();
        for _ in 0..TURNS {
            unread.retain(|link| self.receive_turn(*link));
            if unread.is_empty() {
                return false;
            }
            if self.is_due() {
                break;
            }
        }
        true
    }

    /// Lets the kernel drop most of a flood, as long as there is one.
    fn filter(&mut self) {
        let (dropped, seals) = (self.sources.dropped(), &self.seals);
        let was_on = self.filter.is_on();
        let Some(change) = self.filter.look(boot_time(), dropped, || seals.known_salts()) else {
            return;
        };
        let program = match change {
            Change::Attach(salts) => Some(kernel_filter::program(&salts)),
            Change::Detach => None,
        };
        for socket in &self.sockets {
            let socket = SockRef::from(socket);
            let done = match &program {
                Some(program) => socket.attach_filter(program),
                None => socket.detach_filter(),
            };
            if let Err(why) = done {
                self.log.line(&format!("the kernel does not filter heartbeats: {why}"));
            }
        }
        let is_on = self.filter.is_on();
        self.sources.set_sample(if is_on { kernel_filter::SAMPLE } else { 1 });
        if was_on != is_on {
            self.log.line(if is_on {
                "a flood of datagrams at the port between nodes: the kernel drops most of them"
            } else {
                "the flood of datagrams is over"
            });
        }
    }

    /// Reads one turn's datagrams of a link; whether there may be more.
    fn receive_turn(&mut self, link: usize) -> bool {
        let mut buffer = [0; 2_048];
        for _ in 0..TURN {
            let Ok((length, sender)) = self.sockets[link].recv_from(&mut buffer) else {
                return false;
            };
            let now = boot_time();
            if !self.sources.admits(now, sender) {
                continue;
            }
            if self.guest.as_mut().is_some_and(|guest| !guest.may_open(now)) {
                self.sources.drop(Reason::OverBudget, true);
                continue;
            }
            let sources = &mut self.sources;
            match self.seals.open(now, &buffer[..length], || sources.may_derive(now, sender)) {
                Opened::Frame(from, bytes) => {
                    self.sources.proved(sender);
                    if !bytes.is_empty() {
                        self.node.handle(now, Event::Frame { from: NodeId(from), link, bytes });
                        self.carry_out();
                    }
                }
                Opened::Greeting(from) => {
                    if self.is_unknown(NodeId(from)) {
                        // It joined after what this node has of the log: perhaps it is the leader,
                        // from whom the rest comes.
                        self.peers.insert(from, PeerAddresses::one(sender));
                        self.send(NodeId(from), &[]);
                    }
                }
                Opened::NotTried => self.sources.drop(Reason::NewKeys, false),
                Opened::Nothing => {
                    let known = self.seals.knows(&buffer[..length]);
                    self.sources.drop(Reason::NotAuthentic, known);
                }
            }
        }
        true
    }

    /// Whether this node's log does not say who this is, and its credentials do not either. One
    /// that has left gets to know that it has.
    fn is_unknown(&self, id: NodeId) -> bool {
        let seed = self.node.state().members.is_empty() && self.node.config().seeds.contains(&id);
        (self.node.may_be_newer(id) || self.node.has_left(id)) && !seed
    }
}
