//! Bounded queues between threads, and what each does when it is full.
//!
//! Decides: that nothing here makes the thread that keeps leases wait. [`Newest`] and [`Bell`] lose
//! nothing that still matters: of what is replaced, only the newest counts. Where a queue may drop
//! something, its sender counts it or tells the other side.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

/// Why an item was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The queue is full.
    Full(T),
    /// Nobody receives any more.
    Ended,
}

/// The sending end of a bounded queue that never waits.
pub trait Offer<T> {
    /// Puts the item into the queue if there is room.
    fn offer(&self, item: T) -> Result<(), Refused<T>>;
}

impl<T> Offer<T> for SyncSender<T> {
    fn offer(&self, item: T) -> Result<(), Refused<T>> {
        self.try_send(item).map_err(|why| match why {
            TrySendError::Full(item) => Refused::Full(item),
            TrySendError::Disconnected(_) => Refused::Ended,
        })
    }
}

impl<T> Offer<T> for tokio::sync::mpsc::Sender<T> {
    fn offer(&self, item: T) -> Result<(), Refused<T>> {
        use tokio::sync::mpsc::error::TrySendError;
        self.try_send(item).map_err(|why| match why {
            TrySendError::Full(item) => Refused::Full(item),
            TrySendError::Closed(_) => Refused::Ended,
        })
    }
}

/// A queue of which only the newest item matters: one that does not fit waits here, and the next
/// one takes its place.
pub struct Newest<T, Q> {
    to: Q,
    waiting: Option<T>,
}

impl<T, Q: Offer<T>> Newest<T, Q> {
    /// The end that sends into this queue.
    pub fn new(to: Q) -> Self {
        Self { to, waiting: None }
    }

    /// Sends the item, or keeps it in place of the one kept.
    pub fn put(&mut self, item: T) {
        self.waiting = Some(item);
        self.retry();
    }

    /// Sends what is kept, if there is room now.
    pub fn retry(&mut self) {
        if let Some(item) = self.waiting.take()
            && let Err(Refused::Full(item)) = self.to.offer(item)
        {
            self.waiting = Some(item);
        }
    }
}

/// Says to a thread that there is something to look at; many rings before it looks are one.
#[derive(Clone, Default)]
pub struct Bell(Arc<AtomicBool>);

impl Bell {
    /// Rings. The caller then wakes the thread by its queue; a queue that is full wakes it anyway.
    pub fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it has rung since the last time.
    pub fn rung(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// The sending end of a slot with one item; a newer one takes its place. For threads that may wait
/// for a lock.
pub struct SlotSender<T> {
    slot: Arc<Mutex<Option<T>>>,
    wake: SyncSender<()>,
}

/// The receiving end of a slot.
pub struct SlotReceiver<T> {
    slot: Arc<Mutex<Option<T>>>,
    wake: Receiver<()>,
}

/// Makes a slot.
pub fn slot<T>() -> (SlotSender<T>, SlotReceiver<T>) {
    let (wake, woken) = sync_channel(1);
    let slot = Arc::new(Mutex::new(None));
    (SlotSender { slot: Arc::clone(&slot), wake }, SlotReceiver { slot, wake: woken })
}

impl<T> SlotSender<T> {
    /// Puts the item there, in place of one that was not taken yet.
    pub fn put(&self, item: T) {
        *self.slot.lock().expect("nobody panics with it") = Some(item);
        // Full: the receiver wakes anyway.
        let _ = self.wake.try_send(());
    }
}

impl<T> SlotReceiver<T> {
    /// The newest item, as soon as there is one.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        self.wake.recv_timeout(limit)?;
        let item = self.slot.lock().expect("nobody panics with it").take();
        item.ok_or(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_item_takes_the_place_of_the_one_that_waits() {
        let (to, received) = sync_channel(1);
        let mut newest = Newest::new(to);
        (1..=5).for_each(|n| newest.put(n));
        assert_eq!(received.try_recv(), Ok(1), "it was in the queue already");
        newest.retry();
        assert_eq!(received.try_recv(), Ok(5), "2, 3 and 4 were replaced");
        newest.retry();
        assert!(received.try_recv().is_err(), "nothing comes twice");
        drop(received);
        newest.put(6);
        assert_eq!(newest.waiting, None, "nobody will take it");
    }

    #[test]
    fn a_slot_has_the_newest_and_ends_with_its_sender() {
        let (send, receive) = slot();
        (1..=3).for_each(|n| send.put(n));
        assert_eq!(receive.recv_timeout(Duration::ZERO), Ok(3));
        assert_eq!(receive.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        drop(send);
        assert_eq!(receive.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn many_rings_are_one() {
        let bell = Bell::default();
        let other = bell.clone();
        (0..3).for_each(|_| other.ring());
        assert!(bell.rung() && !bell.rung());
    }
}
