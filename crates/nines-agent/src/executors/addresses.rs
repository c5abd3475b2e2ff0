//! The thread that puts VIPs on interfaces, takes them off and announces them, in order.
//!
//! Decides: what waits for it. The core asks for one change of a VIP at a time and waits for its
//! end, so at most one change and one announcement of each VIP wait.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use nines_core::Event;

use super::vip_addresses::{Places, VipAddresses};
use crate::{
    core_thread::CoreHandle,
    logger::Logger,
    own_status::OwnStatus,
    queue::{Bell, Offer, Refused},
    threads,
};

/// What the address thread is asked.
pub enum AddressWork {
    /// On or off.
    Change(u64, IpAddr, bool),
    /// Tell the neighbours; the number is the operation's.
    Announce(u64, IpAddr),
    /// The bell has rung: interfaces or addresses changed, or the config.
    Wake,
}

/// Asks the thread to look at all interfaces; it never waits.
#[derive(Clone)]
pub struct AddressHandle {
    work: SyncSender<AddressWork>,
    look: Bell,
}

/// The receiving end of [`AddressHandle`].
pub struct AddressInbox {
    work: Receiver<AddressWork>,
    look: Bell,
}

/// Makes a handle and the thread's end of it.
pub fn channel() -> (AddressHandle, AddressInbox) {
    of_length(threads::ADDRESSES)
}

fn of_length(length: usize) -> (AddressHandle, AddressInbox) {
    let (work, received) = sync_channel(length);
    let look = Bell::default();
    (AddressHandle { work, look: look.clone() }, AddressInbox { work: received, look })
}

impl AddressHandle {
    /// Interfaces or addresses changed, or the config. False: the thread has ended.
    pub fn look(&self) -> bool {
        self.look.ring();
        !matches!(self.work.offer(AddressWork::Wake), Err(Refused::Ended))
    }

    /// The core's side.
    pub fn changes(&self) -> AddressChanges {
        AddressChanges { work: self.work.clone(), waiting: BTreeMap::new() }
    }
}

/// What waits for room in the queue, of one VIP.
#[derive(Default)]
struct Waiting {
    /// Id, and whether on or off.
    change: Option<(u64, bool)>,
    /// Id of an announcement that waits.
    announce: Option<u64>,
}

/// Changes and announcements that the core asks for. What does not fit into the queue waits here.
pub struct AddressChanges {
    work: SyncSender<AddressWork>,
    waiting: BTreeMap<IpAddr, Waiting>,
}

impl AddressChanges {
    /// Address on or off. An announcement that waits was of the time before, and is void: it has
    /// ended.
    pub fn change(&mut self, id: u64, vip: IpAddr, up: bool) -> Option<Event> {
        let before = self.waiting.insert(vip, Waiting { change: Some((id, up)), announce: None });
        self.retry();
        before.and_then(|waiting| ended(waiting.announce?))
    }

    /// Tell the neighbours, after the change that waits. One for all that wait: those before it
    /// have ended.
    pub fn announce(&mut self, id: u64, vip: IpAddr) -> Option<Event> {
        let before = self.waiting.entry(vip).or_default().announce.replace(id);
        self.retry();
        ended(before?)
    }

    /// Sends what waits, as far as there is room.
    pub fn retry(&mut self) {
        while let Some(mut first) = self.waiting.first_entry() {
            let vip = *first.key();
            let next = match *first.get() {
                Waiting { change: Some((id, up)), .. } => AddressWork::Change(id, vip, up),
                Waiting { announce: Some(id), .. } => AddressWork::Announce(id, vip),
                Waiting { change: None, announce: None } => {
                    first.remove();
                    continue;
                }
            };
            match self.work.offer(next) {
                Ok(()) | Err(Refused::Ended) => match first.get_mut() {
                    waiting @ Waiting { change: Some(_), .. } => waiting.change = None,
                    waiting => waiting.announce = None,
                },
                Err(Refused::Full(_)) => return,
            }
        }
    }
}

fn ended(id: u64) -> Option<Event> {
    Some(Event::Done { id, result: Ok(()) })
}

/// Adds, removes and announces addresses in order; puts back what other programs take away.
pub fn run(
    mut kept: VipAddresses,
    inbox: &AddressInbox,
    places: &Places,
    shown: &Mutex<OwnStatus>,
    facts: &tokio::sync::Notify,
    core: &CoreHandle,
    log: &Logger,
) {
    let mut again = Some(Instant::now());
    loop {
        let until = again.map_or(RARELY, |at| at.saturating_duration_since(Instant::now()));
        let woken = inbox.work.recv_timeout(until.min(RARELY));
        let mut look = inbox.look.rung();
        match woken {
            Ok(AddressWork::Change(id, vip, true)) => {
                core.event(Event::Done { id, result: kept.up(vip, places) });
            }
            Ok(AddressWork::Change(id, vip, false)) => {
                core.event(Event::Done { id, result: kept.down(vip) });
            }
            Ok(AddressWork::Announce(id, vip)) => {
                core.event(Event::Done { id, result: kept.announce(vip) });
            }
            Ok(AddressWork::Wake) => {}
            Err(RecvTimeoutError::Timeout) => look = true,
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if look {
            let found = kept.look(places, core, log);
            again = found.again;
            let mut shown = shown.lock().expect("nobody panics with it");
            if !found.fight.is_empty() && shown.fight.is_empty() {
                log.line(&found.fight);
            }
            shown.fight = found.fight;
            if shown.unfit != found.unfit {
                shown.unfit = found.unfit;
                facts.notify_one();
            }
        }
    }
}

/// How often addresses are looked at when the kernel tells of no change.
const RARELY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(inbox: &AddressInbox) -> Option<String> {
        Some(match inbox.work.try_recv().ok()? {
            AddressWork::Change(id, vip, up) => format!("{id} {vip} {up}"),
            AddressWork::Announce(_, vip) => format!("announce {vip}"),
            AddressWork::Wake => "wake".into(),
        })
    }

    #[test]
    fn changes_wait_for_room_and_a_void_announcement_does_not_follow_them() {
        let (handle, inbox) = of_length(1);
        let mut changes = handle.changes();
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|vip| vip.parse().unwrap());
        let void = |ended: Option<Event>| match ended {
            Some(Event::Done { id, result: Ok(()) }) => Some(id),
            _ => None,
        };
        assert_eq!(void(changes.change(1, a, true)), None);
        assert_eq!(void(changes.announce(4, a)), None);
        assert_eq!(void(changes.change(2, b, true)), None);
        assert_eq!(void(changes.announce(5, b)), None);
        // One for all that wait, and each comes back.
        assert_eq!(void(changes.announce(6, b)), Some(5));
        // It loses the VIP before its neighbours were told.
        assert_eq!(void(changes.change(3, b, false)), Some(6));
        let mut all = Vec::new();
        while let Some(one) = taken(&inbox) {
            all.push(one);
            changes.retry();
        }
        assert_eq!(all, ["1 10.0.0.1 true", "announce 10.0.0.1", "3 10.0.0.2 false"]);
        assert!(changes.waiting.is_empty());
    }

    #[test]
    fn a_look_is_not_lost_in_a_full_queue() {
        let (handle, inbox) = of_length(1);
        (0..3).for_each(|_| assert!(handle.look()));
        assert_eq!(taken(&inbox).as_deref(), Some("wake"));
        assert!(taken(&inbox).is_none() && inbox.look.rung());
        drop(inbox);
        assert!(!handle.look(), "the thread has ended");
    }
}
