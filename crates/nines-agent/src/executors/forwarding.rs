//! The thread that keeps the kernel's tables.
//!
//! Decides: when a table is applied, compared with the kernel and put back, and when the first
//! packet of a VIP is told. The newest table replaces one that waits; a question to a thread that
//! has much to do gets no answer.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use nines_core::{
    Event,
    forwarding::{Following, Wanted},
};
use nines_dataplane::{DataPlane, process};
use nines_model::{Counters, ForwardingTable};

use crate::{
    core_thread::CoreHandle,
    logger::Logger,
    own_status::OwnStatus,
    queue::{Bell, Offer, Refused},
    threads,
};

/// What the forwarding thread is asked.
pub enum ForwardWork {
    /// Forward as this wants from now on.
    Wanted(u64, Box<Wanted>),
    /// Tell the counts.
    Counters(tokio::sync::oneshot::Sender<Counters>),
    /// Watch for the first packet of a VIP's services.
    Watch(IpAddr),
    /// A bell has rung.
    Wake,
}

/// A handle of the forwarding thread; it never waits.
#[derive(Clone)]
pub struct DataplaneHandle {
    work: SyncSender<ForwardWork>,
    devices: Bell,
    learn: Bell,
}

/// The receiving end of [`DataplaneHandle`].
pub struct ForwardInbox {
    work: Receiver<ForwardWork>,
    devices: Bell,
    learn: Bell,
}

/// Makes a handle and the thread's end of it.
pub fn channel() -> (DataplaneHandle, ForwardInbox) {
    of_length(threads::FORWARDING)
}

fn of_length(length: usize) -> (DataplaneHandle, ForwardInbox) {
    let (work, received) = sync_channel(length);
    let (devices, learn) = (Bell::default(), Bell::default());
    let handle = DataplaneHandle { work, devices: devices.clone(), learn: learn.clone() };
    (handle, ForwardInbox { work: received, devices, learn })
}

impl DataplaneHandle {
    /// What the data plane counts; nothing if the thread does not answer within half a second.
    pub async fn counters(&self) -> Counters {
        let (answer, answered) = tokio::sync::oneshot::channel();
        if self.work.offer(ForwardWork::Counters(answer)).is_err() {
            return Counters::default();
        }
        let answered = tokio::time::timeout(Duration::from_millis(500), answered).await;
        answered.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Tells of the first packet of a VIP's services, unless the thread has much to do.
    pub fn watch(&self, vip: IpAddr) {
        let _ = self.work.offer(ForwardWork::Watch(vip));
    }

    /// Interfaces came, went or changed. False: the thread has ended.
    pub fn devices_changed(&self) -> bool {
        self.devices.ring();
        self.wake()
    }

    /// Another director told of flows: learn from now on.
    pub fn learn(&self) {
        self.learn.ring();
        self.wake();
    }

    fn wake(&self) -> bool {
        !matches!(self.work.offer(ForwardWork::Wake), Err(Refused::Ended))
    }
}

/// A table, with the number of the operation.
pub type Numbered = (u64, Box<Wanted>);

impl Offer<Numbered> for DataplaneHandle {
    fn offer(&self, (id, wanted): Numbered) -> Result<(), Refused<Numbered>> {
        self.work.offer(ForwardWork::Wanted(id, wanted)).map_err(|why| match why {
            Refused::Full(ForwardWork::Wanted(id, wanted)) => Refused::Full((id, wanted)),
            Refused::Full(_) | Refused::Ended => Refused::Ended,
        })
    }
}

/// What others are told of the data plane.
pub enum News<'a> {
    /// Packets go by this table.
    Table {
        table: &'a ForwardingTable,
        /// It is in larger kernel tables than the one before.
        larger: bool,
    },
    /// Other directors' flows are to be learned.
    Learn,
}

/// How often the kernel is compared with the table at most.
const RECONCILE: Duration = Duration::from_secs(2);
/// VIPs watched for their first packet at a time.
const WATCHED_MAX: usize = 8;
/// How often watched services are counted at most.
const WATCH_EACH: Duration = Duration::from_millis(5);

/// Keeps the kernel's tables as they should be.
pub struct Forwarding<'a, D, C, T> {
    plane: D,
    /// Gives the data plane its interfaces; notes for the log.
    cover: C,
    /// Is told the news.
    tell: T,
    shown: &'a Mutex<OwnStatus>,
    core: &'a CoreHandle,
    log: &'a Logger,
    /// Until the first table is in, what an earlier process left goes on as it is.
    holds: bool,
    following: Following,
    /// By VIP: packets before, and until when it is watched.
    watched: BTreeMap<IpAddr, (u64, Instant)>,
    /// Between two counts of what is watched.
    look: Duration,
    looked: Instant,
    /// Between two comparisons with the kernel.
    compare: Duration,
}

impl<'a, D: DataPlane, C: Fn(&mut D) -> Vec<String>, T: FnMut(&mut D, News<'_>)>
    Forwarding<'a, D, C, T>
{
    /// Nothing is applied yet.
    pub fn new(
        plane: D,
        cover: C,
        tell: T,
        shown: &'a Mutex<OwnStatus>,
        core: &'a CoreHandle,
        log: &'a Logger,
    ) -> Self {
        Self {
            plane,
            cover,
            tell,
            shown,
            core,
            log,
            holds: false,
            following: Following::default(),
            watched: BTreeMap::new(),
            look: WATCH_EACH,
            looked: Instant::now(),
            compare: RECONCILE,
        }
    }

    /// Runs until nobody has a handle any more.
    pub fn run(mut self, inbox: &ForwardInbox) {
        loop {
            let wait = if self.watched.is_empty() { RECONCILE } else { self.look.max(WATCH_EACH) };
            match inbox.work.recv_timeout(wait) {
                Ok(ForwardWork::Wanted(id, wanted)) => self.follow(id, *wanted),
                Ok(ForwardWork::Counters(answer)) => {
                    let _ = answer.send(self.plane.busy().unwrap_or_default());
                }
                Ok(ForwardWork::Watch(vip)) => self.watch(vip),
                Ok(ForwardWork::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if inbox.devices.rung() && self.holds {
                (self.cover)(&mut self.plane);
                let failed = self.plane.devices().err();
                show(&self.plane, failed, self.shown, self.log);
            }
            if inbox.learn.rung() {
                (self.tell)(&mut self.plane, News::Learn);
            }
            self.count_watched();
            self.put_back();
        }
    }

    fn follow(&mut self, id: u64, wanted: Wanted) {
        for note in (self.cover)(&mut self.plane) {
            self.log.line(&note);
        }
        let table = self.following.follow(wanted);
        let (result, grown) = apply(&mut self.plane, table, self.log);
        self.holds |= result.is_ok();
        show(&self.plane, result.as_ref().err().cloned(), self.shown, self.log);
        let done = result.is_ok();
        self.core.event(Event::Done { id, result: result.map_err(|e| e.to_string()) });
        if done {
            (self.tell)(&mut self.plane, News::Table { table, larger: grown });
        }
        if grown {
            process::give_memory_back();
        }
    }

    fn watch(&mut self, vip: IpAddr) {
        // Of a thousand VIPs that come at once a few tell enough.
        if self.watched.len() >= WATCHED_MAX {
            return;
        }
        let until = Instant::now() + Duration::from_secs(2);
        let table = self.holds.then_some(self.following.table());
        let counters = self.plane.busy().unwrap_or_default();
        if let Some(before) = packets(&counters, table, vip) {
            self.watched.insert(vip, (before, until));
        }
    }

    fn count_watched(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let began = Instant::now();
        let table = self.holds.then_some(self.following.table());
        let counters = self.plane.busy().unwrap_or_default();
        self.watched.retain(|vip, (before, until)| {
            if packets(&counters, table, *vip).is_some_and(|now| now > *before) {
                self.core.event(Event::FirstPacket(*vip));
                return false;
            }
            Instant::now() < *until
        });
        // Counting thousands of services takes a while: one part in twenty of the time.
        self.look = began.elapsed() * 20;
    }

    /// Compares the kernel with the table now and then, and puts back what differs.
    fn put_back(&mut self) {
        if self.looked.elapsed() < self.compare {
            return;
        }
        self.looked = Instant::now();
        if !self.holds {
            return;
        }
        let differences = self.plane.observe().unwrap_or_default();
        // A large table takes a while: one part in a hundred of the time.
        self.compare = RECONCILE.max(self.looked.elapsed() * 100);
        for difference in differences {
            self.log.line(&format!("{difference}; put back"));
            let failed = self.plane.apply(self.following.table()).err();
            show(&self.plane, failed, self.shown, self.log);
        }
    }
}

/// Puts a table into the kernel, after making room there if it does not fit. True: room was made.
fn apply<D: DataPlane>(
    plane: &mut D,
    table: &ForwardingTable,
    log: &Logger,
) -> (nines_dataplane::Result<()>, bool) {
    let Err(why) = plane.apply(table) else { return (Ok(()), false) };
    match plane.grow(table) {
        Ok(true) => {
            log.line(&format!("made larger kernel tables for {} services", table.services.len()));
            (plane.apply(table), true)
        }
        Ok(false) => (Err(why), false),
        Err(why) => (Err(why), false),
    }
}

/// Keeps for people how it forwards; logs what is wrong when that is new.
fn show<D: DataPlane>(
    plane: &D,
    failed: Option<nines_dataplane::Error>,
    shown: &Mutex<OwnStatus>,
    log: &Logger,
) {
    let mut shown = shown.lock().expect("nobody panics with it");
    let (trouble, next) = match failed.or_else(|| plane.trouble()) {
        Some(why) => (why.to_string(), why.next.unwrap_or_default()),
        None => (String::new(), String::new()),
    };
    if !trouble.is_empty() && trouble != shown.trouble {
        log.line(&format!("not forwarding as the config asks: {trouble}"));
        log.line(&format!("  next: {next}"));
    }
    *shown = OwnStatus { path: plane.describe(), trouble, next, ..shown.clone() };
}

/// Packets so far to a VIP; `None`: no service is told by it (by a mark, say).
fn packets(counters: &Counters, table: Option<&ForwardingTable>, vip: IpAddr) -> Option<u64> {
    let on = table?.services.iter().filter(|(_, s)| s.traffic.vip() == Some(vip));
    let mut on = on.peekable();
    on.peek()?;
    Some(on.filter_map(|(name, _)| counters.services.get(name)).map(|t| t.packets_in).sum())
}

#[cfg(test)]
mod tests {
    use nines_dataplane::fake::Fake;
    use nines_model::{Listen, Proto, Scheduler, TableService, Traffic};

    use super::*;
    use crate::core_thread;

    #[test]
    fn what_an_earlier_process_left_goes_on_until_the_first_table() {
        let listen = Listen::new("10.0.0.100:80".parse().unwrap(), Proto::Tcp);
        let web = TableService::new(Traffic::To(listen), Scheduler::Rr);
        let services = [("web".into(), web)].into();
        let inherited = ForwardingTable { services, ..ForwardingTable::default() };
        let fake = Fake::default();
        let held = || fake.held.lock().unwrap().table.clone();
        let wait = |wanted: &ForwardingTable| {
            let until = Instant::now() + Duration::from_secs(60);
            while held() != *wanted {
                assert!(Instant::now() < until, "{:?}", held());
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let (_poll, core, _inputs) = core_thread::channel().unwrap();
        let (handle, inbox) = channel();
        let (shown, log) = (Mutex::default(), Logger::start(std::io::sink()));
        std::thread::scope(|scope| {
            fake.held.lock().unwrap().table = inherited.clone();
            let plane = fake.clone();
            let (shown, core, log) = (&shown, &core, &log);
            scope.spawn(move || {
                Forwarding::new(plane, |_| Vec::new(), |_, _| (), shown, core, log).run(&inbox);
            });
            std::thread::sleep(RECONCILE * 2);
            assert_eq!(held(), inherited, "nobody has said anything yet");
            let none = Wanted::default().table();
            assert!(handle.offer((1, Box::default())).is_ok());
            wait(&none);
            // From then on what somebody changes is put back.
            fake.held.lock().unwrap().table = inherited.clone();
            wait(&none);
            drop(handle);
        });
    }

    #[test]
    fn a_full_queue_makes_nobody_wait_and_loses_no_table_and_no_ring() {
        let (handle, inbox) = of_length(1);
        handle.watch("10.0.0.100".parse().unwrap());
        handle.watch("10.0.0.101".parse().unwrap());
        assert!(matches!(handle.offer((1, Box::default())), Err(Refused::Full(_))));
        // Asked while it is full, the thread gives no counts; nobody waits for half a second.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(handle.counters()), Counters::default());
        assert!(handle.devices_changed(), "it has not ended");
        handle.learn();
        assert!(matches!(inbox.work.try_recv(), Ok(ForwardWork::Watch(_))));
        assert!(inbox.work.try_recv().is_err(), "the second VIP is not watched");
        assert!(inbox.devices.rung() && inbox.learn.rung(), "but the bells are not lost");
        drop(inbox);
        assert!(!handle.devices_changed(), "it has ended");
    }
}
