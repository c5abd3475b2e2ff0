//! The queue of the thread that runs the node, and the handles to it.
//!
//! Decides: what waits while the queue is full, and what is dropped then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use mio::{Poll, Token, Waker};
use nines_core::{Event, Node, action::Refusal, wire::Command};
use nines_model::{LogIndex, NodeId, Time};

use super::Input;
use crate::{threads, transport::source_gate::Dropped};

/// How long a task waits before it looks for room in a full queue again.
pub(super) const FULL: Duration = Duration::from_millis(5);

const WAKE: Token = Token(usize::MAX);

/// A handle for everybody else.
#[derive(Clone)]
pub struct CoreHandle {
    inputs: SyncSender<Input>,
    waker: Arc<Waker>,
    /// Inputs that a full queue has cost since the last line about it.
    dropped: Arc<AtomicU64>,
    /// Datagrams that were dropped since the start.
    pub datagrams: Arc<Dropped>,
}

impl CoreHandle {
    /// Hands something in, and waits while the queue is full; the thread itself must not call this.
    /// A thread that has ended takes nothing, silently: the process ends too.
    pub fn put(&self, input: Input) {
        if self.inputs.send(input).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// Hands something in. A task waits while the queue is full, and others run meanwhile.
    pub async fn deliver(&self, mut input: Input) {
        while let Err(TrySendError::Full(back)) = self.inputs.try_send(input) {
            input = back;
            tokio::time::sleep(FULL).await;
        }
        let _ = self.waker.wake();
    }

    /// A frame that came over TLS. Its line is not read on while the queue is full: the sender sees
    /// that it stands still.
    pub async fn frame(&self, from: NodeId, bytes: Vec<u8>) {
        self.deliver(Input::Event(Event::Frame { from, link: 0, bytes })).await;
    }

    /// An event that may be lost: the same comes again. It is dropped, and counted, if the queue is
    /// full.
    pub fn offer(&self, event: Event) {
        match self.inputs.try_send(Input::Event(event)) {
            Ok(()) => drop(self.waker.wake()),
            Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// An event.
    pub fn event(&self, event: Event) {
        self.put(Input::Event(event));
    }

    /// What `look` sees of the node.
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Node, Time) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let look = move |node: &Node, now| {
            let _ = answer.send(look(node, now));
        };
        self.deliver(Input::Inspect(Box::new(look))).await;
        answered.await.ok()
    }

    /// Proposes and waits for the outcome.
    pub async fn propose(&self, command: Command) -> Result<(LogIndex, String), Refusal> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.deliver(Input::Propose(Box::new(command), answer)).await;
        answered.await.unwrap_or_else(|_| Err(Refusal::NoQuorum("the agent is stopping".into())))
    }
}

/// The thread's end of the handles.
pub struct Inbox {
    pub(super) inputs: Receiver<Input>,
    pub(super) dropped: Arc<AtomicU64>,
    pub(super) datagrams: Arc<Dropped>,
}

#[cfg(test)]
impl Inbox {
    /// The next event that comes within so long.
    pub(crate) fn event(&self, patience: Duration) -> Option<Event> {
        match self.inputs.recv_timeout(patience) {
            Ok(Input::Event(event)) => Some(event),
            _ => None,
        }
    }
}

/// Makes the channel and the poll that the thread sleeps in.
pub fn channel() -> std::io::Result<(Poll, CoreHandle, Inbox)> {
    of_length(threads::CORE)
}

pub(super) fn of_length(length: usize) -> std::io::Result<(Poll, CoreHandle, Inbox)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let (inputs, received) = sync_channel(length);
    let dropped = Arc::new(AtomicU64::new(0));
    let datagrams = Arc::default();
    let handle = CoreHandle { inputs, waker, dropped, datagrams };
    let (dropped, datagrams) = (Arc::clone(&handle.dropped), Arc::clone(&handle.datagrams));
    Ok((poll, handle, Inbox { inputs: received, dropped, datagrams }))
}
