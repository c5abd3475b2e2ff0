//! Connection sync: directors send each other their flows, so that the next holder of a VIP
//! continues its connections.
//!
//! ```text
//! kernel -> thread "flows-out" -> a stream a director -> TLS -> thread "flows-in" -> kernel
//! ```
//! Decides: what is sent when. Each director asks each other one (mutual TLS, the peer port:
//! `flow_stream.rs`). The answer begins with all flows, piece by piece. Beside them go the changes
//! from then on, and every 30 s all flows that are alive. The receiver acknowledges each message
//! once it is in the table. A stream that cannot keep up is closed; its receiver asks for
//! everything again. A director that has not received everything yet says so in its heartbeats.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use nines_api::failure::{Failure, Kind, Outcome};
use nines_dataplane::{
    Result,
    ebpf::{EbpfPlane, FlowExport, FlowImport},
    flow_sync::Batch,
};
use tokio::sync::{mpsc as line, oneshot, watch};

use crate::{
    logger::Logger,
    queue::{Bell, Offer as _},
    threads,
};

pub use codec::{decode, encode};

mod codec;

/// Messages that wait for a subscriber; one more cuts its line.
const LINE: usize = 256;
/// Buckets of the flow table in one piece of everything.
const PIECE: u32 = 4_096;
/// Pieces are made while so many messages fit into the line.
const ROOM: usize = 64;
/// Changes are gathered for so long.
const GATHER: Duration = Duration::from_millis(5);
/// How often flows that live are told again; the shortest limit that matters is 60 s.
const AGAIN: Duration = Duration::from_secs(30);
/// When learning is tried again at the earliest.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How often clients are told whom no flow names.
const CLIENTS: Duration = Duration::from_secs(5);

/// A message as it waits for a subscriber.
type Bytes = Arc<Vec<u8>>;

/// What the thread that learns is given.
enum Taken {
    /// What another director told, and where goes how many of it are of servers that are not here.
    Batch(Batch, oneshot::Sender<u32>),
    /// Other tables wait for it.
    Wake,
}

/// The kernel tables that are learned into.
enum Tables {
    /// These, or these in the place of those before.
    These(Box<FlowImport>),
    /// Nothing can be learned now.
    Failed,
}

/// The newest of something, until it is taken.
type Slot<T> = Arc<Mutex<Option<T>>>;

fn put<T>(slot: &Mutex<Option<T>>, item: T) {
    *slot.lock().expect("nobody panics with it") = Some(item);
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().expect("nobody panics with it").take()
}

/// Everything from now on, into this line; also what needs no telling, if the other's hashes may
/// be others.
type Subscription = (line::Sender<Bytes>, bool);

/// What the thread that tells is asked.
struct Asked {
    subscriptions: mpsc::Receiver<Subscription>,
    /// The table changed: flows that needed no telling may need it now.
    table: Bell,
    /// Kernel tables that have taken the place of those before.
    tables: Slot<FlowExport>,
}

/// Handle of both threads.
pub struct Flows {
    subscriptions: mpsc::SyncSender<Subscription>,
    changed: Bell,
    tables_out: Slot<FlowExport>,
    waker: Arc<Waker>,
    taken: mpsc::SyncSender<Taken>,
    tables_in: Slot<Tables>,
    table: watch::Sender<u64>,
    lag: Mutex<BTreeMap<u64, Duration>>,
}

/// Token of the bell; the waker has the other.
const BELL: Token = Token(0);

impl Flows {
    /// Starts both threads. They call `wanted` when another director told of flows: the caller then
    /// calls [`Flows::learn`].
    pub fn start(
        out: FlowExport,
        wanted: impl Fn() + Send + 'static,
        log: &Logger,
    ) -> Outcome<Self> {
        let failed = |e: std::io::Error| Failure::new(Kind::Io, "cannot start", e);
        let poll = Poll::new().map_err(failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(1)).map_err(failed)?);
        listen(&poll, &out).map_err(failed)?;
        let (subscriptions, asked) = mpsc::sync_channel(threads::FLOWS_OUT);
        let (changed, tables_out) = (Bell::default(), Slot::default());
        let (taken, told) = mpsc::sync_channel(threads::FLOWS_IN);
        let tables_in = Slot::default();
        let asked =
            Asked { subscriptions: asked, table: changed.clone(), tables: Arc::clone(&tables_out) };
        let notes = log.clone();
        threads::spawn("flows-out", move || {
            let (again, clients) = (Instant::now() + AGAIN, Instant::now());
            let mut teller = Teller { out, lines: Vec::new(), again, clients };
            if let Err(why) = teller.run(poll, &asked) {
                notes.line(&format!("flows are no longer told to other directors: {why}"));
            }
        })?;
        let (tables, notes) = (Arc::clone(&tables_in), log.clone());
        threads::spawn("flows-in", move || learn(&told, &tables, &wanted, &notes))?;
        let (table, lag) = (watch::Sender::new(0), Mutex::default());
        Ok(Self { subscriptions, changed, tables_out, waker, taken, tables_in, table, lag })
    }

    /// A line on which everything comes. `layout`: the other director's kernel tables are of this
    /// one; of another one they may hash otherwise. The line ends at once if too many others were
    /// asked for just now.
    pub fn subscribe(&self, layout: Option<u32>) -> line::Receiver<Bytes> {
        let (send, receive) = line::channel(LINE);
        let other = layout != Some(nines_dataplane::ebpf::ABI_VERSION);
        // A thread that has ended has said why.
        let _ = self.subscriptions.offer((send, other));
        let _ = self.waker.wake();
        receive
    }

    /// The kernel has another table; `larger`: in larger tables, which have taken the place of
    /// those before, also for what is learned if that has begun.
    pub fn table_changed(&self, larger: Option<&mut EbpfPlane>, learns: bool) -> Result<()> {
        let mut followed = Ok(());
        if let Some(plane) = larger {
            followed = plane.flows_out().map(|out| put(&self.tables_out, out));
            if learns {
                followed = followed.and(self.learn(plane));
            }
        }
        self.table.send_modify(|n| *n += 1);
        self.changed.ring();
        let _ = self.waker.wake();
        followed
    }

    /// Learns from now on, into the tables that are there now.
    pub fn learn(&self, plane: &mut EbpfPlane) -> Result<()> {
        let (tables, done) = match plane.flows_in() {
            Ok(into) => (Tables::These(Box::new(into)), Ok(())),
            Err(why) => (Tables::Failed, Err(why)),
        };
        put(&self.tables_in, tables);
        // A full queue wakes the thread anyway.
        let _ = self.taken.offer(Taken::Wake);
        done
    }

    /// Told of each new table.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.table.subscribe()
    }

    /// Takes what another director told into the table; gives how many flows are of servers that
    /// are not in it. `None`: too much waits, and the other director is asked for everything again.
    pub async fn take(&self, batch: Batch) -> Option<u32> {
        let (answer, answered) = oneshot::channel();
        self.taken.offer(Taken::Batch(batch, answer)).ok()?;
        answered.await.ok()
    }

    /// A subscriber answered; after so long.
    pub fn answered(&self, by: u64, lag: Duration) {
        self.lag.lock().expect("nobody panics with it").insert(by, lag);
    }

    /// How long others took for the last message, by member.
    pub fn lag(&self) -> BTreeMap<u64, Duration> {
        self.lag.lock().expect("nobody panics with it").clone()
    }
}

/// Wakes the thread when flows change.
fn listen(poll: &Poll, out: &FlowExport) -> std::io::Result<()> {
    let fd = out.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), BELL, Interest::READABLE)
}

fn learn(
    work: &mpsc::Receiver<Taken>,
    tables: &Mutex<Option<Tables>>,
    wanted: &dyn Fn(),
    log: &Logger,
) {
    // The program that learns is loaded for the first flow; what comes meanwhile waits.
    let mut early = Vec::new();
    let mut into = loop {
        match work.recv() {
            Ok(Taken::Batch(batch, answer)) if batch.flows.is_empty() && early.is_empty() => {
                let _ = answer.send(0);
            }
            Ok(Taken::Batch(batch, answer)) if early.len() < threads::FLOWS_IN => {
                if early.is_empty() {
                    wanted();
                }
                early.push((batch, answer));
            }
            // Without an answer the line ends and asks again.
            Ok(Taken::Batch(..) | Taken::Wake) => {}
            Err(_) => return,
        }
        match take(tables) {
            Some(Tables::These(into)) => break *into,
            // A kernel that refuses the program once may do so for ever, and takes long over it.
            Some(Tables::Failed) => {
                std::thread::sleep(TRY_AGAIN);
                early.clear();
            }
            None => {}
        }
    };
    let later = work.iter().filter_map(|taken| match taken {
        Taken::Batch(batch, answer) => Some((batch, answer)),
        Taken::Wake => None,
    });
    for (batch, answer) in early.into_iter().chain(later) {
        if let Some(Tables::These(other)) = take(tables) {
            into = *other;
        }
        match into.learn(&batch) {
            Ok(unknown) => drop(answer.send(unknown)),
            Err(why) => log.line(&why.to_string()),
        }
    }
}

/// A subscriber's line, and the bucket from which on everything is still to be told.
struct Line {
    to: line::Sender<Bytes>,
    from: Option<u32>,
    /// Its director may hash flows otherwise.
    other: bool,
}

impl Line {
    /// False: it is cut.
    fn put(&self, message: &Bytes) -> bool {
        self.to.try_send(Arc::clone(message)).is_ok()
    }
}

struct Teller {
    out: FlowExport,
    lines: Vec<Line>,
    again: Instant,
    clients: Instant,
}

impl Teller {
    fn run(&mut self, mut poll: Poll, asked: &Asked) -> Result<()> {
        let mut events = Events::with_capacity(4);
        loop {
            let catching_up = self.lines.iter().any(|l| l.from.is_some());
            let wait = match (self.lines.is_empty(), catching_up) {
                // Nobody listens: the kernel has rung once and does not again.
                (true, _) => None,
                (_, true) => Some(GATHER),
                (_, false) => {
                    let next = self.again.min(self.clients);
                    Some(next.saturating_duration_since(Instant::now()))
                }
            };
            if let Err(e) = poll.poll(&mut events, wait)
                && e.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(nines_dataplane::Error::new("cannot wait for flows", e));
            }
            if !self.take(&poll, asked)? {
                return Ok(());
            }
            self.lines.retain(|l| !l.to.is_closed());
            if self.lines.is_empty() {
                continue;
            }
            self.out.tell_all(self.lines.iter().any(|line| line.other));
            if events.iter().any(|e| e.token() == BELL) || catching_up {
                std::thread::sleep(GATHER);
                let lines = &mut self.lines;
                self.out.changed(&mut |batch| tell(lines, &batch))?;
            }
            if self.again <= Instant::now() {
                self.again = Instant::now() + AGAIN;
                let lines = &mut self.lines;
                self.out.alive(AGAIN.as_millis() as u32 + 1_000, &mut |b| tell(lines, &b))?;
            }
            if self.clients <= Instant::now() {
                self.clients = Instant::now() + CLIENTS;
                let (lines, within) = (&mut self.lines, CLIENTS.as_millis() as u32 + 1_000);
                self.out.clients_alone(within, &mut |b| tell(lines, &b))?;
            }
            self.next_piece()?;
        }
    }

    /// Takes what it is asked; false: nobody is left to ask.
    fn take(&mut self, poll: &Poll, asked: &Asked) -> Result<bool> {
        if let Some(out) = take(&asked.tables) {
            let before = self.out.as_fd().as_raw_fd();
            let _ = poll.registry().deregister(&mut SourceFd(&before));
            self.out = out;
            listen(poll, &self.out)
                .map_err(|e| nines_dataplane::Error::new("cannot wait for flows", e))?;
        }
        if asked.table.rung() {
            self.lines.iter_mut().for_each(|line| line.from = Some(0));
        }
        loop {
            match asked.subscriptions.try_recv() {
                Ok((to, other)) => self.lines.push(Line { to, from: Some(0), other }),
                Err(mpsc::TryRecvError::Empty) => return Ok(true),
                Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// For lines that have not got everything yet, the next piece of it.
    fn next_piece(&mut self) -> Result<()> {
        let buckets = self.out.buckets()?;
        for at in (0..self.lines.len()).rev() {
            let one = &mut self.lines[at..=at];
            let Some(from) = one[0].from.filter(|_| one[0].to.capacity() >= ROOM) else { continue };
            let mut whole = true;
            let mut send = |batch: &Batch, last| {
                whole &= one[0].put(&Arc::new(encode(batch, last)));
            };
            if from < buckets {
                self.out.some(from..from + PIECE, &mut |batch| send(&batch, false))?;
            } else {
                self.out.remembered(&mut |batch| send(&batch, false))?;
                send(&Batch::default(), true);
            }
            one[0].from = (from < buckets).then_some(from + PIECE);
            if !whole {
                self.lines.remove(at);
            }
        }
        Ok(())
    }
}

fn tell(lines: &mut Vec<Line>, batch: &Batch) {
    let message = Arc::new(encode(batch, false));
    lines.retain(|line| line.put(&message));
}
