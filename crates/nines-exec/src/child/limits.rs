//! How many runs there may be at a time, and the end of all of them.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::run::NotStarted;

/// The runs under way.
#[derive(Debug)]
pub struct Places {
    taken: Mutex<Taken>,
    freed: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Taken {
    /// What cancels each, by its number.
    cancels: BTreeMap<u64, Arc<OwnedFd>>,
    next: u64,
    /// Nothing is to be started any more.
    is_closed: bool,
}

impl Places {
    /// At most so many at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), freed: Condvar::new(), most })
    }

    /// A place for a run that `cancel` cancels; it is free again when it is dropped.
    pub fn take(self: &Arc<Self>, cancel: &Arc<OwnedFd>) -> Result<Place, NotStarted> {
        let mut taken = self.taken();
        if taken.is_closed {
            return Err(NotStarted::Ended);
        }
        if taken.cancels.len() >= self.most {
            return Err(NotStarted::TooMany(self.most));
        }
        let number = taken.next;
        taken.next += 1;
        taken.cancels.insert(number, Arc::clone(cancel));
        Ok(Place { of: Arc::clone(self), number })
    }

    /// Cancels all runs, and refuses later ones. `true`: none is left within `patience`.
    pub fn end_all(&self, patience: Duration) -> bool {
        let mut taken = self.taken();
        taken.is_closed = true;
        taken.cancels.values().for_each(|one| cancel(one));
        let is_left = |taken: &mut Taken| !taken.cancels.is_empty();
        let waited = self.freed.wait_timeout_while(taken, patience, is_left);
        waited.unwrap_or_else(PoisonError::into_inner).0.cancels.is_empty()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes who watches a run, with the news that nobody wants it any more.
pub fn cancel(run: &OwnedFd) {
    // It cannot be full: each is written a few times at most.
    let _ = rustix::io::write(run, &1u64.to_ne_bytes());
}

/// One of the children that may run at a time.
pub struct Place {
    of: Arc<Places>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.taken().cancels.remove(&self.number);
        self.of.freed.notify_all();
    }
}
