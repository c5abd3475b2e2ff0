//! The thread that runs the node: sockets in, actions out. It writes the guard's deadlines itself.
//!
//! Decides: nothing; it moves bytes. It runs in real time, never blocks on a disk, a lock or a
//! log: what may block (disk, netlink, checks) is other threads' work, reached by channels.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, net::UdpSocket};
use nines_core::{
    Action, Event, Node,
    action::Operation,
    forwarding::Wanted,
    health::CheckTasks,
    wire::{Begun, Persist},
};
use nines_dataplane::{Guard, process::boot_time};
use nines_model::{LogIndex, NodeId, Time};

use self::addresses::PeerAddresses;
pub use self::{
    call::FenceCall,
    inbox::{CoreHandle, Inbox, channel},
};
use crate::{
    datagram_budget::Guest,
    identity::Peer,
    logger::Logger,
    threads,
    transport::{datagram::DatagramCipher, kernel_filter::KernelFilter, source_gate::SourceGate},
    watchdog::Lessor,
};

mod addresses;
mod call;
mod inbox;
mod receive;

/// What comes into the thread besides datagrams.
pub enum Input {
    /// Something happened to the node.
    Event(Event),
    /// Look at the node and answer over a channel of your own.
    Inspect(Box<dyn FnOnce(&Node, Time) + Send>),
    /// Ask for something in the log; the answer goes there.
    Propose(Box<nines_core::wire::Command>, ProposalReply),
    /// Believe heartbeats by these cluster keys, and send with the first.
    Keys(Vec<Vec<u8>>),
    /// End the thread.
    End,
}

/// Where the answer to a proposal goes.
pub type ProposalReply =
    tokio::sync::oneshot::Sender<Result<(LogIndex, String), nines_core::action::Refusal>>;

/// Work that the core hands to another thread.
pub enum Work {
    /// Write and sync, then say [`Event::Persisted`].
    Persist(u64, Box<Persist>),
    /// Address on or off.
    Address(u64, IpAddr, bool),
    /// Tell the neighbours.
    Announce(u64, IpAddr),
    /// Watch for the first packet of a VIP.
    Watch(IpAddr),
    /// Put the table into the kernel.
    Forward(u64, Box<Wanted>),
    /// Have a fence device switch a machine.
    Fence(u64, Box<FenceCall>),
    /// Check these.
    Check(CheckTasks),
    /// Send over TLS.
    Bulk(NodeId, Vec<u8>),
    /// Replace the process.
    Restart,
    /// Stop the agent: this node holds no VIP any more.
    Stop,
    /// Replace the process, and put the log aside before it starts.
    BeginAnew(Begun),
}

/// Takes the work that the core asks for. It never waits.
pub trait Executors: Send {
    /// Hands work to the thread that does it; an event if its outcome is known at once.
    fn take(&mut self, work: Work) -> Option<Event>;
    /// Sends what found no room before.
    fn retry(&mut self);
}

/// Everything the thread owns.
pub struct CoreThread {
    poll: Poll,
    inbox: Inbox,
    node: Node,
    sockets: Vec<UdpSocket>,
    seals: DatagramCipher,
    peers: BTreeMap<u64, PeerAddresses>,
    sources: SourceGate,
    filter: KernelFilter,
    membership: LogIndex,
    guard: Option<Box<dyn Guard>>,
    /// Told of each renewal, for the watchdog.
    lessor: Lessor,
    executors: Box<dyn Executors>,
    /// Told of each new config before any work that follows from it.
    configured: Box<dyn Fn(&Node) + Send>,
    revision: u64,
    waiting: BTreeMap<u64, ProposalReply>,
    next_request: u64,
    guest: Option<Guest>,
    log: Logger,
}

/// So many dropped datagrams in ten seconds are worth a line.
const FLOOD: u64 = 1_000;

/// What became of the inputs that waited.
enum Taken {
    /// None is left.
    All,
    /// Some may be left.
    Some,
    /// The thread is to end.
    End,
}

impl CoreThread {
    /// All parts put together.
    #[expect(clippy::too_many_arguments, reason = "made once, in one place")]
    pub fn new(
        poll: Poll,
        inbox: Inbox,
        node: Node,
        mut sockets: Vec<UdpSocket>,
        seals: DatagramCipher,
        seed: &[Peer],
        (guard, lessor): (Option<Box<dyn Guard>>, Lessor),
        executors: Box<dyn Executors>,
        configured: Box<dyn Fn(&Node) + Send>,
        log: Logger,
    ) -> std::io::Result<Self> {
        for (i, socket) in sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(i), Interest::READABLE)?;
        }
        let one = |p: &Peer| (p.id, PeerAddresses::new(&p.addresses, p.port, p.floats));
        let peers: BTreeMap<u64, PeerAddresses> = seed.iter().map(one).collect();
        let mut sources = SourceGate::new(Arc::clone(&inbox.datagrams));
        sources.set_named(peers.values().flat_map(PeerAddresses::all));
        Ok(Self {
            poll,
            inbox,
            node,
            sockets,
            seals,
            peers,
            sources,
            filter: KernelFilter::default(),
            membership: LogIndex::MAX,
            guard,
            lessor,
            executors,
            configured,
            revision: u64::MAX,
            waiting: BTreeMap::new(),
            next_request: 1,
            guest: None,
            log,
        })
    }

    /// Runs as one of many.
    pub fn among_many(self, guest: Guest) -> Self {
        Self { guest: Some(guest), ..self }
    }

    /// Runs until [`Input::End`].
    pub fn run(mut self) {
        if self.guest.is_none()
            && let Err(why) = nines_dataplane::process::run_in_real_time()
        {
            self.log.line(&format!("{why}; {}", why.next.as_deref().unwrap_or_default()));
        }
        let mut events = Events::with_capacity(64);
        let mut wall_at = Time(0);
        let mut more = false;
        loop {
            let now = boot_time();
            if now.since(wall_at) > 10_000_000_000 || wall_at == Time(0) {
                wall_at = now;
                self.tell_dropped();
                let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                self.node.handle(now, Event::WallClock(wall.map_or(0, |w| w.as_nanos() as u64)));
                self.carry_out();
            }
            let wait = self.node.next_deadline().since(boot_time());
            // poll(2) rounds down to ms; the node takes a late tick as well as one in time.
            // Never 0: a node that asked for the past must not take the CPU from everybody else.
            let wait = Duration::from_nanos(wait.clamp(200_000, 1_000_000_000));
            let wait = if more { Duration::ZERO } else { wait };
            if let Err(e) = self.poll.poll(&mut events, Some(wait)) {
                if e.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                self.log.line(&format!("poll failed: {e}"));
                return;
            }
            more = self.receive();
            match self.take_inputs() {
                Taken::All => {}
                Taken::Some => more = true,
                Taken::End => {
                    self.lessor.ends(&self.node);
                    return;
                }
            }
            self.executors.retry();
            if self.is_due() {
                self.node.handle(boot_time(), Event::Tick);
                self.carry_out();
            }
            self.lessor.tell(&self.node);
        }
    }

    /// Takes what waits, a queue's length at most and none when a deadline is due, so that nobody
    /// keeps the thread from its deadlines.
    fn take_inputs(&mut self) -> Taken {
        for _ in 0..threads::CORE {
            let Ok(input) = self.inbox.inputs.try_recv() else { return Taken::All };
            match input {
                Input::Event(event) => self.node.handle(boot_time(), event),
                Input::Inspect(look) => look(&self.node, boot_time()),
                Input::Propose(command, answer) => {
                    let request = self.next_request;
                    self.next_request += 1;
                    self.waiting.insert(request, answer);
                    let event = Event::Propose { request, command: *command };
                    self.node.handle(boot_time(), event);
                }
                Input::Keys(keys) => self.seals.set_keys(&keys),
                Input::End => return Taken::End,
            }
            self.carry_out();
            if self.is_due() {
                return Taken::Some;
            }
        }
        Taken::Some
    }

    /// Whether the node waits for a tick.
    fn is_due(&self) -> bool {
        self.node.next_deadline() <= boot_time()
    }

    fn tell_dropped(&mut self) {
        let datagrams = self.sources.untold();
        if datagrams >= FLOOD {
            self.log.line(&format!(
                "{datagrams} datagrams that are no member's were dropped within 10 s"
            ));
        }
        let dropped = self.inbox.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.log.line(&format!(
                "{dropped} results of checks were dropped: this node cannot keep up"
            ));
        }
    }

    fn carry_out(&mut self) {
        let state = self.node.state();
        if state.revision != self.revision {
            self.revision = state.revision;
            self.seals.set_beat(state.spec.timing.beat);
            if let Some(guest) = &mut self.guest {
                guest.serve(&state.spec, state.members.len());
            }
            (self.configured)(&self.node);
        }
        if state.members.newest_change() != self.membership {
            self.membership = state.members.newest_change();
            for member in state.members.values() {
                let addresses: Vec<IpAddr> =
                    member.addresses.iter().filter_map(|a| a.parse().ok()).collect();
                let to = PeerAddresses::new(&addresses, member.port as u16, member.floats);
                self.peers.insert(member.id, to);
            }
            // One that has left is still told so, and is nobody here.
            let members = self.peers.iter().filter(|(id, _)| !self.node.has_left(NodeId(**id)));
            self.sources.set_named(members.flat_map(|(_, peer)| peer.all()));
        }
        // What is left after four rounds is done with the next event: no loop without end.
        for _ in 0..4 {
            let known = self.act();
            if known.is_empty() {
                return;
            }
            for event in known {
                self.node.handle(boot_time(), event);
            }
        }
    }

    /// Carries out what the node asks for; events whose outcome is known at once.
    fn act(&mut self) -> Vec<Event> {
        let mut known = Vec::new();
        for action in self.node.take_actions() {
            let work = match action {
                Action::Send { to, bytes, bulk: false } => {
                    self.send(to, &bytes);
                    continue;
                }
                Action::Perform { id, operation } => {
                    known.extend(self.perform(id, operation));
                    continue;
                }
                Action::Reply { request, result } => {
                    if let Some(answer) = self.waiting.remove(&request) {
                        let _ = answer.send(result);
                    }
                    continue;
                }
                Action::Log(line) => {
                    self.log.line(&line);
                    continue;
                }
                Action::Send { bulk: true, .. } if !self.may_speak() => continue,
                Action::Send { to, bytes, bulk: true } => Work::Bulk(to, bytes),
                Action::Persist(number, persist) => Work::Persist(number, persist),
                Action::Check(tasks) => Work::Check(tasks),
                Action::RestartReady => Work::Restart,
                Action::StopReady => Work::Stop,
                Action::BeginAnew(begun) => Work::BeginAnew(begun),
            };
            known.extend(self.executors.take(work));
        }
        known
    }

    /// Carries an operation out, or has another thread do it; an event if its outcome is known at
    /// once.
    fn perform(&mut self, id: u64, operation: Operation) -> Option<Event> {
        let result = match operation {
            Operation::Guard(vip, deadline) => self.guarded(|g| g.set(vip, deadline)),
            Operation::Follow(vip, deadline) => self.guarded(|g| g.follow(vip, deadline)),
            Operation::Renew(deadline) => self.guarded(|g| g.renew(deadline)),
            Operation::Cover(vips) => self.guarded(|g| g.cover(&vips)),
            Operation::Serve(vips) => self.guarded(|g| g.serve(&vips)),
            Operation::Watch(vip) => {
                self.executors.take(Work::Watch(vip));
                Ok(())
            }
            Operation::Address { vip, up } => {
                return self.executors.take(Work::Address(id, vip, up));
            }
            Operation::Announce(vip) => return self.executors.take(Work::Announce(id, vip)),
            Operation::Forward(wanted) => return self.executors.take(Work::Forward(id, wanted)),
            Operation::Fence { device, config, node, switch, until } => {
                let call = FenceCall { device, config: *config, node, switch, until };
                return self.executors.take(Work::Fence(id, Box::new(call)));
            }
        };
        Some(Event::Done { id, result })
    }

    /// A witness has no guard, and nothing to guard.
    fn guarded(
        &mut self,
        set: impl FnOnce(&mut dyn Guard) -> nines_dataplane::Result<()>,
    ) -> Result<(), String> {
        let guard = self.guard.as_mut();
        guard.map_or(Ok(()), |guard| set(guard.as_mut()).map_err(|why| why.to_string()))
    }

    /// Whether anything may leave this node now. Everything that it says is on the disk already.
    fn may_speak(&self) -> bool {
        self.guest.as_ref().is_none_or(|guest| guest.may_speak(boot_time()))
    }

    /// Over every link: a peer hears one of them.
    fn send(&mut self, to: NodeId, bytes: &[u8]) {
        let to = to.number();
        let Some(addresses) = self.peers.get(&to) else { return };
        let now = boot_time();
        if !self.may_speak() {
            return;
        }
        for (link, socket) in self.sockets.iter().enumerate() {
            let addresses = addresses.of(link);
            if addresses.is_empty() {
                continue;
            }
            let sealed = self.seals.seal(now, to, link as u8, bytes);
            for address in addresses {
                // A full buffer or a link that is down is a lost packet.
                let _ = socket.send_to(&sealed, *address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
