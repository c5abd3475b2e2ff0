//! The threads that may block: the disk, addresses, forwarding, fence devices.
//!
//! Decides: order. Each kind of work has its own thread and keeps its order; a slow table or a
//! slow disk delays neither a takeover nor a heartbeat.

use std::sync::mpsc::{Receiver, SyncSender};

use nines_api::failure::Outcome;
use nines_core::{DiskFault, Event, health::CheckTasks, wire::Persist};
use nines_model::NodeId;
use tokio::sync::mpsc;

use self::{
    addresses::AddressChanges,
    fence::FenceHandle,
    forwarding::{DataplaneHandle, Numbered},
};
use crate::{
    core_thread::{CoreHandle, Executors, Work},
    queue::{Newest, Offer, Refused},
    stop::End,
    storage::{floor::Floor, store::Store},
    threads,
};

pub mod addresses;
pub mod devices;
pub mod fence;
pub mod forwarding;
pub mod local_server;
pub mod vip_addresses;

/// A write with its number.
pub type DiskWork = (u64, Box<Persist>);

/// The queue of the disk. A write that does not fit ends all writing, for the log must have no gap.
pub struct DiskQueue {
    to: SyncSender<DiskWork>,
    refused: bool,
}

impl DiskQueue {
    /// The end that sends into this queue.
    pub fn new(to: SyncSender<DiskWork>) -> Self {
        Self { to, refused: false }
    }

    /// Hands the write over; an event if the disk counts as failed from now on.
    pub fn put(&mut self, work: DiskWork) -> Option<Event> {
        if self.refused {
            return None;
        }
        let Err(Refused::Full(_)) = self.to.offer(work) else { return None };
        self.refused = true;
        let most = threads::DISK;
        let why = format!("the disk is too slow: {most} writes wait for it");
        Some(Event::PersistFailed(DiskFault::Failed, why))
    }
}

/// What the main task receives from the core.
pub struct Orders {
    /// Checks to run from now on.
    pub checks: mpsc::Receiver<CheckTasks>,
    /// Large frames, each with the node that it is for.
    pub bulk: mpsc::Receiver<(NodeId, Vec<u8>)>,
    /// How the agent is to end.
    pub ends: mpsc::Receiver<End>,
}

/// The queues of all worker threads, by what they are asked.
pub struct Workers {
    disk: DiskQueue,
    addresses: AddressChanges,
    fences: FenceHandle,
    /// A witness has none.
    dataplane: Option<(DataplaneHandle, Newest<Numbered, DataplaneHandle>)>,
    checks: Newest<CheckTasks, mpsc::Sender<CheckTasks>>,
    bulk: mpsc::Sender<(NodeId, Vec<u8>)>,
    ends: mpsc::Sender<End>,
}

impl Workers {
    /// The queues given, and those of the main task.
    pub fn new(
        disk: SyncSender<DiskWork>,
        addresses: AddressChanges,
        fences: FenceHandle,
        dataplane: Option<&DataplaneHandle>,
    ) -> (Self, Orders) {
        let (checks, checks_asked) = mpsc::channel(1);
        let (bulk, bulk_asked) = mpsc::channel(threads::BULK);
        let (ends, ends_asked) = mpsc::channel(1);
        let workers = Self {
            disk: DiskQueue::new(disk),
            addresses,
            fences,
            dataplane: dataplane.map(|handle| (handle.clone(), Newest::new(handle.clone()))),
            checks: Newest::new(checks),
            bulk,
            ends,
        };
        (workers, Orders { checks: checks_asked, bulk: bulk_asked, ends: ends_asked })
    }
}

impl Executors for Workers {
    fn take(&mut self, work: Work) -> Option<Event> {
        // A worker that has ended ends the process; what it is sent then no longer matters.
        match work {
            Work::Persist(number, persist) => return self.disk.put((number, persist)),
            Work::Watch(vip) => {
                if let Some((dataplane, _)) = &self.dataplane {
                    dataplane.watch(vip);
                }
            }
            Work::Address(id, vip, up) => return self.addresses.change(id, vip, up),
            Work::Announce(id, vip) => return self.addresses.announce(id, vip),
            // The core asks for one at a time.
            Work::Forward(id, wanted) => match &mut self.dataplane {
                Some((_, newest)) => newest.put((id, wanted)),
                None => return Some(Event::Done { id, result: Ok(()) }),
            },
            Work::Fence(id, call) => return self.fences.ask(id, call),
            Work::Check(tasks) => self.checks.put(tasks),
            Work::Bulk(to, bytes) => {
                let full = matches!(self.bulk.offer((to, bytes)), Err(Refused::Full(_)));
                return full.then_some(Event::Undelivered(to));
            }
            // The first end is the end.
            Work::Restart => drop(self.ends.offer(End::Replace)),
            Work::Stop => drop(self.ends.offer(End::Stopped)),
            Work::BeginAnew(begun) => drop(self.ends.offer(End::BeginAnew(begun))),
        }
        None
    }

    fn retry(&mut self) {
        self.addresses.retry();
        self.checks.retry();
        if let Some((_, newest)) = &mut self.dataplane {
            newest.retry();
        }
    }
}

/// The log as the thread "disk" has it.
pub struct Disk {
    /// Where it is written.
    pub store: Store,
    /// How far it has got.
    pub floor: Floor,
    /// It is no log: the disk was full when it was to be opened.
    pub full: bool,
}

/// Writes the log in order; `first` is told of the first state that came. Once the disk has been
/// full, nothing more is written: this waits for room, and a new process goes on.
pub fn disk(
    disk: Disk,
    work: Receiver<DiskWork>,
    first: impl Fn() -> Outcome<()>,
    wait_for_room: impl FnOnce(),
    core: &CoreHandle,
) {
    let Disk { store, mut floor, full } = disk;
    let failed =
        if full { Some(DiskFault::Full) } else { write(&store, &mut floor, &work, first, core) };
    floor.sync();
    // What is sent from now on goes nowhere, and is refused nowhere.
    drop((store, work));
    if failed == Some(DiskFault::Full) {
        wait_for_room();
        core.event(Event::DiskHasRoom);
    }
}

/// Writes until there is nothing more to write, or until it fails.
fn write(
    store: &Store,
    floor: &mut Floor,
    work: &Receiver<DiskWork>,
    first: impl Fn() -> Outcome<()>,
    core: &CoreHandle,
) -> Option<DiskFault> {
    let mut told = false;
    for (number, persist) in work {
        let mut done = store.write(&persist).map_err(|e| (e.fault, e.why));
        if persist.snapshot.is_some() && !told {
            // Before anybody counts on it.
            let noted = |writes| first().map(|()| writes);
            // It is written where room is tried: once that can be, so can this.
            done = done.and_then(|n| noted(n).map_err(|e| (DiskFault::Full, e.to_string())));
            told = done.is_ok();
        }
        match done {
            Ok(writes) => {
                floor.note(writes);
                if number > 0 {
                    core.event(Event::Persisted(number));
                }
            }
            Err((fault, why)) => {
                core.event(Event::PersistFailed(fault, why));
                return Some(fault);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn write() -> Box<Persist> {
        Box::default()
    }

    #[test]
    fn a_write_that_does_not_fit_is_the_last_one_and_is_told_once() {
        let (to, received) = sync_channel(2);
        let mut disk = DiskQueue::new(to);
        assert!(disk.put((1, write())).is_none() && disk.put((2, write())).is_none());
        assert!(matches!(disk.put((3, write())), Some(Event::PersistFailed(DiskFault::Failed, _))));
        assert!(matches!(received.try_recv(), Ok((1, _))));
        // There is room again, but the third write is missing.
        assert!(disk.put((4, write())).is_none());
        assert!(matches!(received.try_recv(), Ok((2, _))));
        assert!(received.try_recv().is_err(), "no gap in the log");
    }

    /// Workers of a witness whose queues have `room`, and all receiving ends.
    fn workers() -> (Workers, Orders, Receiver<DiskWork>) {
        let (disk, writes) = sync_channel(1);
        let (handle, _) = addresses::channel();
        let fences = fence::channel("/nowhere".into()).0;
        let (workers, orders) = Workers::new(disk, handle.changes(), fences, None);
        (workers, orders, writes)
    }

    #[test]
    fn a_frame_that_does_not_fit_is_reported_as_undelivered() {
        let (mut workers, mut orders, ..) = workers();
        for _ in 0..threads::BULK {
            assert!(workers.take(Work::Bulk(NodeId(2), Vec::new())).is_none());
        }
        assert!(matches!(
            workers.take(Work::Bulk(NodeId(3), Vec::new())),
            Some(Event::Undelivered(NodeId(3)))
        ));
        orders.bulk.try_recv().unwrap();
        assert!(workers.take(Work::Bulk(NodeId(3), Vec::new())).is_none());
    }

    #[test]
    fn the_newest_checks_count_the_first_end_and_a_witness_forwards_at_once() {
        let (mut workers, mut orders, ..) = workers();
        let checks = |servers: &str| {
            let head = "[cluster]\nname = \"c\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
            let service = "[service.web]\nlisten = \"10.0.0.100:80\"\n";
            let text = format!("{head}{service}servers = {{ {servers} }}\n");
            CheckTasks::of(&nines_model::config::parse(&text).unwrap())
        };
        let [r1, r2] = ["r1 = \"10.0.0.11\"", "r2 = \"10.0.0.12\""];
        for tasks in [CheckTasks::default(), checks(r1), checks(&format!("{r1}, {r2}"))] {
            assert!(workers.take(Work::Check(tasks)).is_none());
        }
        assert_eq!(orders.checks.try_recv().unwrap().iter().count(), 0);
        workers.retry();
        assert_eq!(orders.checks.try_recv().unwrap().iter().count(), 2);
        assert!(workers.take(Work::Restart).is_none() && workers.take(Work::Stop).is_none());
        assert!(matches!(orders.ends.try_recv(), Ok(End::Replace)));
        assert!(orders.ends.try_recv().is_err());
        let forwarded = workers.take(Work::Forward(9, Box::default()));
        assert!(matches!(forwarded, Some(Event::Done { id: 9, result: Ok(()) })));
    }
}
