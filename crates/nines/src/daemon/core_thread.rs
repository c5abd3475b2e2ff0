//! The thread that runs the node: sockets in, actions out, guard deadlines by itself.
//!
//! Decides: nothing; it moves bytes. It runs in real time, never blocks on a disk, a lock or a
//! log: what may block (disk, netlink, checks) is other threads' work, reached by channels.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, net::UdpSocket};
use nines_core::{
    Action, Event, Node, action::CheckTask, configs::Unread, forwarding::Wanted, wire::Persist,
};
use nines_dataplane::{Guard, process::boot_time};
use nines_model::Time;

use super::{
    datagram::{DatagramCipher, Opened},
    logger::Logger,
};
use crate::identity::Peer;

/// What comes into the thread besides datagrams.
pub enum Input {
    /// Something happened to the node.
    Event(Event),
    /// Look at the node and answer over a channel of your own.
    Inspect(Box<dyn FnOnce(&Node, Time) + Send>),
    /// Ask for something in the log; the answer goes there.
    Propose(Box<nines_core::wire::Command>, ProposalReply),
    /// VIPs that this machine has on `lo`, as a real server of other directors.
    Serving(BTreeSet<IpAddr>),
    /// End the thread.
    End,
}

/// Where the answer to a proposal goes.
pub type ProposalReply =
    tokio::sync::oneshot::Sender<Result<(u64, String), nines_core::action::Refusal>>;

/// What other threads do.
pub enum Work {
    /// Write and sync, then say [`Event::Persisted`].
    Persist(u64, Box<Persist>),
    /// Address on or off.
    Address(u64, IpAddr, bool),
    /// Tell the neighbours.
    Announce(IpAddr),
    /// Put the table into the kernel.
    Forward(Box<Wanted>),
    /// Make these health checks from now on, and no others.
    Check(Arc<Vec<CheckTask>>),
    /// Read this config, then say [`Event::Read`].
    Read(Unread),
    /// Send over TLS.
    Bulk(u64, Vec<u8>),
    /// Replace the process.
    Restart,
    /// Stop the agent: this node holds no VIP any more.
    Stop,
}

/// A handle for everybody else.
#[derive(Clone)]
pub struct Handle {
    inputs: Sender<Input>,
    waker: std::sync::Arc<Waker>,
}

impl Handle {
    /// Hands something in. A thread that has ended takes nothing, silently: the process ends too.
    pub fn put(&self, input: Input) {
        if self.inputs.send(input).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// Hands an event to the node.
    pub fn event(&self, event: Event) {
        self.put(Input::Event(event));
    }

    /// What `look` sees of the node.
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Node, Time) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.put(Input::Inspect(Box::new(move |node, now| {
            let _ = answer.send(look(node, now));
        })));
        answered.await.ok()
    }

    /// Proposes and waits for the outcome.
    pub async fn propose(
        &self,
        command: nines_core::wire::Command,
    ) -> Result<(u64, String), nines_core::action::Refusal> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.put(Input::Propose(Box::new(command), answer));
        answered.await.unwrap_or_else(|_| {
            Err(nines_core::action::Refusal::NoQuorum("the agent is stopping".into()))
        })
    }
}

/// Everything the thread owns.
pub struct CoreThread {
    poll: Poll,
    inputs: Receiver<Input>,
    node: Node,
    sockets: Vec<UdpSocket>,
    seals: DatagramCipher,
    peers: BTreeMap<u64, Vec<SocketAddr>>,
    membership: u64,
    guard: Option<Box<dyn Guard>>,
    work: Box<dyn Fn(Work) + Send>,
    /// Told of each new config before any work that follows from it.
    configured: Box<dyn Fn(&Node) + Send>,
    revision: u64,
    waiting: BTreeMap<u64, ProposalReply>,
    next_request: u64,
    log: Logger,
}

const WAKE: Token = Token(usize::MAX);

/// Makes the channel and the poll that the thread sleeps in.
pub fn channel() -> std::io::Result<(Poll, Handle, Receiver<Input>)> {
    let poll = Poll::new()?;
    let waker = std::sync::Arc::new(Waker::new(poll.registry(), WAKE)?);
    let (inputs, received) = std::sync::mpsc::channel();
    Ok((poll, Handle { inputs, waker }, received))
}

fn socket_addresses(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|a| SocketAddr::new(*a, port)).collect()
}

impl CoreThread {
    /// All parts put together.
    #[expect(clippy::too_many_arguments, reason = "made once, in one place")]
    pub fn new(
        poll: Poll,
        inputs: Receiver<Input>,
        node: Node,
        mut sockets: Vec<UdpSocket>,
        seals: DatagramCipher,
        seed: &[Peer],
        guard: Option<Box<dyn Guard>>,
        work: Box<dyn Fn(Work) + Send>,
        configured: Box<dyn Fn(&Node) + Send>,
        log: Logger,
    ) -> std::io::Result<Self> {
        for (i, socket) in sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(i), Interest::READABLE)?;
        }
        let peers = seed.iter().map(|p| (p.id, socket_addresses(&p.addresses, p.port))).collect();
        Ok(Self {
            poll,
            inputs,
            node,
            sockets,
            seals,
            peers,
            membership: u64::MAX,
            guard,
            work,
            configured,
            revision: u64::MAX,
            waiting: BTreeMap::new(),
            next_request: 1,
            log,
        })
    }

    /// Runs until [`Input::End`].
    pub fn run(mut self) {
        if let Err(why) = nines_dataplane::process::run_in_real_time() {
            self.log.line(&format!("{why}; {}", why.next.as_deref().unwrap_or_default()));
        }
        let mut events = Events::with_capacity(64);
        let mut wall_at = Time(0);
        loop {
            let now = boot_time();
            if now.since(wall_at) > 10_000_000_000 || wall_at == Time(0) {
                wall_at = now;
                let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                self.node.handle(now, Event::WallClock(wall.map_or(0, |w| w.as_nanos() as u64)));
                self.carry_out();
            }
            let wait = self.node.next_deadline().since(boot_time());
            // poll(2) rounds down to ms; the node takes a late tick as well as one in time.
            // Never 0: a node that asked for the past must not take the CPU from everybody else.
            let wait = Duration::from_nanos(wait.clamp(200_000, 1_000_000_000));
            if let Err(e) = self.poll.poll(&mut events, Some(wait)) {
                if e.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                self.log.line(&format!("poll failed: {e}"));
                return;
            }
            for link in 0..self.sockets.len() {
                self.receive(link);
            }
            while let Ok(input) = self.inputs.try_recv() {
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
                    Input::Serving(on_lo) => self.guarded(|g| g.serve(&on_lo)),
                    Input::End => return,
                }
                self.carry_out();
            }
            if self.node.next_deadline() <= boot_time() {
                self.node.handle(boot_time(), Event::Tick);
                self.carry_out();
            }
        }
    }

    fn receive(&mut self, link: usize) {
        let mut buffer = [0; 2_048];
        // Bounded, so that a flood cannot keep the thread from its deadlines.
        for _ in 0..256 {
            let Ok((length, sender)) = self.sockets[link].recv_from(&mut buffer) else { return };
            let now = boot_time();
            match self.seals.open(now, &buffer[..length]) {
                Opened::Frame(from, bytes) if !bytes.is_empty() => {
                    self.node.handle(now, Event::Frame { from, link, bytes });
                    self.carry_out();
                }
                Opened::Greeting(from) if self.is_unknown(from) => {
                    // It joined after what this node has of the log: perhaps it is the leader,
                    // from whom the rest comes.
                    self.peers.insert(from, vec![sender]);
                    self.send(from, &[]);
                }
                _ => {}
            }
        }
    }

    /// Whether this node's log does not say yet who this is, and its credentials do not either.
    fn is_unknown(&self, id: u64) -> bool {
        let seed = self.node.state().members.is_empty() && self.node.config().seeds.contains(&id);
        self.node.may_be_newer(id) && !seed
    }

    fn carry_out(&mut self) {
        let state = self.node.state();
        if state.revision != self.revision {
            self.revision = state.revision;
            self.seals.set_beat(state.spec.timing.beat);
            (self.configured)(&self.node);
        }
        if state.membership != self.membership {
            self.membership = state.membership;
            for member in state.members.values() {
                let addresses: Vec<IpAddr> =
                    member.addresses.iter().filter_map(|a| a.parse().ok()).collect();
                self.peers.insert(member.id, socket_addresses(&addresses, member.port as u16));
            }
        }
        for action in self.node.take_actions() {
            match action {
                Action::Send { to, bytes, bulk: false } => self.send(to, &bytes),
                Action::Send { to, bytes, bulk: true } => (self.work)(Work::Bulk(to, bytes)),
                Action::Guard(vip, deadline) => self.guarded(|g| g.set(vip, deadline)),
                Action::Follow(vip, deadline) => self.guarded(|g| g.follow(vip, deadline)),
                Action::Renew(deadline) => self.guarded(|g| g.renew(deadline)),
                Action::Cover(vips) => self.guarded(|g| g.cover(&vips)),
                Action::Persist(number, persist) => (self.work)(Work::Persist(number, persist)),
                Action::Address { id, vip, up } => (self.work)(Work::Address(id, vip, up)),
                Action::Announce(vip) => (self.work)(Work::Announce(vip)),
                Action::Read(unread) => (self.work)(Work::Read(unread)),
                Action::Forward(wanted) => (self.work)(Work::Forward(wanted)),
                Action::Check(tasks) => (self.work)(Work::Check(tasks)),
                Action::RestartReady => (self.work)(Work::Restart),
                Action::StopReady => (self.work)(Work::Stop),
                Action::Reply { request, result } => {
                    if let Some(answer) = self.waiting.remove(&request) {
                        let _ = answer.send(result);
                    }
                }
                Action::Log(line) => self.log.line(&line),
            }
        }
    }

    fn guarded(&mut self, set: impl FnOnce(&mut dyn Guard) -> nines_dataplane::Result<()>) {
        if let Some(Err(why)) = self.guard.as_mut().map(|guard| set(guard.as_mut())) {
            self.log.line(&why.to_string());
        }
    }

    /// Over every link: a peer hears one of them.
    fn send(&mut self, to: u64, bytes: &[u8]) {
        let Some(addresses) = self.peers.get(&to) else { return };
        let now = boot_time();
        for (link, socket) in self.sockets.iter().enumerate() {
            let Some(address) = addresses.get(link.min(addresses.len().saturating_sub(1))) else {
                continue;
            };
            let sealed = self.seals.seal(now, to, link as u8, bytes);
            // A full buffer or a link that is down is a lost packet.
            let _ = socket.send_to(&sealed, *address);
        }
    }
}
