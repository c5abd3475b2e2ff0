//! The threads that may block: the disk, addresses, forwarding.
//!
//! Decides: order. Each kind of work has its own thread and keeps its order; a slow table or a
//! slow disk delays neither a takeover nor a heartbeat.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use nines_core::{
    Event,
    configs::Unread,
    forwarding::{Following, Wanted},
    wire::Persist,
};
use nines_dataplane::{DataPlane, process};
use nines_model::{Counters, ForwardingTable};

use super::{
    Shown,
    core_thread::{Handle, Work},
    logger::Logger,
    store::Store,
    vip_addresses::VipAddresses,
};
use crate::failure::Outcome;

/// All of them, by what they are asked.
pub struct Workers {
    /// Writes the log.
    pub disk: mpsc::Sender<(u64, Box<Persist>)>,
    /// Adds and removes addresses.
    pub addresses: mpsc::Sender<AddressWork>,
    /// Reads the texts of configs.
    pub configs: mpsc::Sender<Unread>,
    /// Keeps the kernel's tables; a witness has none.
    pub forwarding: Option<mpsc::Sender<ForwardWork>>,
    /// What the main task does.
    pub elsewhere: tokio::sync::mpsc::UnboundedSender<Work>,
    /// The first packet after a takeover is told.
    pub watched: bool,
}

impl Workers {
    /// Hands work to the thread that does it.
    pub fn take(&self, work: Work) {
        // A worker that has ended ends the process; what it is sent then no longer matters.
        match work {
            Work::Persist(number, persist) => drop(self.disk.send((number, persist))),
            Work::Address(id, vip, up) => {
                if let Some(forwarding) = self.forwarding.as_ref().filter(|_| up && self.watched) {
                    let _ = forwarding.send(ForwardWork::Watch(vip));
                }
                drop(self.addresses.send(AddressWork::Change(id, vip, up)));
            }
            Work::Announce(vip) => drop(self.addresses.send(AddressWork::Announce(vip))),
            Work::Read(unread) => drop(self.configs.send(unread)),
            Work::Forward(wanted) => {
                if let Some(forwarding) = &self.forwarding {
                    let _ = forwarding.send(ForwardWork::Wanted(wanted));
                } else {
                    let _ = self.elsewhere.send(Work::Forward(wanted));
                }
            }
            other => drop(self.elsewhere.send(other)),
        }
    }
}

/// Writes the log in order; `first` is told of the first state that came.
pub fn disk(
    store: Store,
    work: Receiver<(u64, Box<Persist>)>,
    first: impl Fn() -> Outcome<()>,
    core: &Handle,
) {
    let mut told = false;
    for (number, persist) in work {
        let mut done = store.write(&persist);
        if persist.snapshot.is_some() && !told {
            // Before anybody counts on it.
            done = done.and_then(|()| first());
            told = done.is_ok();
        }
        match done {
            Ok(()) if number > 0 => core.event(Event::Persisted(number)),
            Ok(()) => {}
            Err(why) => {
                core.event(Event::PersistFailed(why.to_string()));
                return;
            }
        }
    }
}

/// Bytes of a config that takes much memory to be read.
const LARGE: usize = 1 << 20;

/// Reads configs, so that the core thread need not.
pub fn configs(work: Receiver<Unread>, core: &Handle) {
    for unread in work {
        let config = Arc::new(unread.read());
        let large = config.text.len() > LARGE;
        core.event(Event::Read(config));
        if large {
            process::give_memory_back();
        }
    }
}

/// What the address thread is asked.
pub enum AddressWork {
    /// On or off.
    Change(u64, IpAddr, bool),
    /// Tell the neighbours.
    Announce(IpAddr),
    /// Interfaces or addresses changed, or the config.
    Look,
}

/// Where VIPs belong: prefix length and interface from the spec.
pub type Places = Arc<Mutex<BTreeMap<IpAddr, (u8, Option<String>)>>>;

/// Adds, removes and announces addresses in order; puts back what other programs take away.
pub fn addresses(
    mut kept: VipAddresses,
    work: Receiver<AddressWork>,
    places: &Places,
    shown: &Mutex<Shown>,
    facts: &tokio::sync::Notify,
    core: &Handle,
    log: &Logger,
) {
    let mut again = Some(Instant::now());
    loop {
        let until = again.map_or(RARELY, |at| at.saturating_duration_since(Instant::now()));
        match work.recv_timeout(until.min(RARELY)) {
            Ok(AddressWork::Change(id, vip, true)) => {
                core.event(Event::Performed { id, result: kept.up(vip, places) });
            }
            Ok(AddressWork::Change(id, vip, false)) => {
                core.event(Event::Performed { id, result: kept.down(vip) });
            }
            Ok(AddressWork::Announce(vip)) => kept.announce(vip, log),
            Ok(AddressWork::Look) | Err(RecvTimeoutError::Timeout) => {
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
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// How often addresses are looked at when the kernel tells of no change.
const RARELY: Duration = Duration::from_secs(10);

/// What the forwarding thread is asked.
pub enum ForwardWork {
    /// Forward as this wants from now on.
    Wanted(Box<Wanted>),
    /// Tell the counts.
    Counters(tokio::sync::oneshot::Sender<Counters>),
    /// Watch for the first packet of a VIP's services.
    Watch(IpAddr),
    /// Interfaces came, went or changed.
    Devices,
    /// Another director told of flows: learn from now on.
    Learn,
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

/// Keeps the kernel's tables as they should be. `cover` gives the data plane its interfaces,
/// `tell` is told the news.
pub fn forwarding<D: DataPlane>(
    mut plane: D,
    cover: impl Fn(&mut D) -> Vec<String>,
    mut tell: impl FnMut(&mut D, News<'_>),
    work: Receiver<ForwardWork>,
    shown: &Mutex<Shown>,
    core: &Handle,
    log: &Logger,
) {
    // Until the first one is in, what an earlier process left goes on as it is.
    let mut holds = false;
    let mut following = Following::default();
    let mut watched: BTreeMap<IpAddr, (u64, Instant)> = BTreeMap::new();
    let mut look = WATCH_EACH;
    let (mut looked, mut compare) = (Instant::now(), RECONCILE);
    loop {
        let wait = if watched.is_empty() { RECONCILE } else { look.max(WATCH_EACH) };
        match work.recv_timeout(wait) {
            Ok(ForwardWork::Wanted(wanted)) => {
                for note in cover(&mut plane) {
                    log.line(&note);
                }
                let table = following.follow(*wanted);
                let (result, grown) = apply(&mut plane, table, log);
                holds |= result.is_ok();
                show(&plane, result.as_ref().err().cloned(), shown, log);
                let done = result.is_ok();
                core.event(Event::Forwarded(result.map_err(|e| e.to_string())));
                if done {
                    tell(&mut plane, News::Table { table, larger: grown });
                }
                if grown {
                    process::give_memory_back();
                }
            }
            Ok(ForwardWork::Counters(answer)) => {
                let _ = answer.send(plane.busy().unwrap_or_default());
            }
            // Of a thousand VIPs that come at once a few tell enough.
            Ok(ForwardWork::Watch(_)) if watched.len() >= WATCHED_MAX => {}
            Ok(ForwardWork::Watch(vip)) => {
                let until = Instant::now() + Duration::from_secs(2);
                let table = holds.then_some(following.table());
                let counters = plane.busy().unwrap_or_default();
                if let Some(before) = packets(&counters, table, vip) {
                    watched.insert(vip, (before, until));
                }
            }
            Ok(ForwardWork::Devices) if holds => {
                cover(&mut plane);
                let failed = plane.devices().err();
                show(&plane, failed, shown, log);
            }
            Ok(ForwardWork::Devices) | Err(RecvTimeoutError::Timeout) => {}
            Ok(ForwardWork::Learn) => tell(&mut plane, News::Learn),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let table = holds.then_some(following.table());
        if !watched.is_empty() {
            let began = Instant::now();
            let counters = plane.busy().unwrap_or_default();
            watched.retain(|vip, (before, until)| {
                if packets(&counters, table, *vip).is_some_and(|now| now > *before) {
                    core.event(Event::FirstPacket(*vip));
                    return false;
                }
                Instant::now() < *until
            });
            // Counting thousands of services takes a while: one part in twenty of the time.
            look = began.elapsed() * 20;
        }
        if looked.elapsed() >= compare {
            looked = Instant::now();
            let Some(table) = table else { continue };
            let differences = plane.observe().unwrap_or_default();
            // A large table takes a while: one part in a hundred of the time.
            compare = RECONCILE.max(looked.elapsed() * 100);
            for difference in differences {
                log.line(&format!("{difference}; put back"));
                let failed = plane.apply(table).err();
                show(&plane, failed, shown, log);
            }
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
    shown: &Mutex<Shown>,
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
    *shown = Shown { path: plane.describe(), trouble, next, ..shown.clone() };
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
    use crate::daemon::core_thread::channel;

    #[test]
    fn what_an_earlier_process_left_goes_on_until_the_first_table() {
        let listen = Listen::new("10.0.0.100:80".parse().unwrap(), Proto::Tcp);
        let web = TableService::new(Traffic::To(listen), Scheduler::Rr);
        let services = [("web".to_owned(), web)].into();
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
        let (_poll, core, _inputs) = channel().unwrap();
        let (send, work) = std::sync::mpsc::channel();
        let (shown, log) = (Mutex::default(), Logger::start(std::io::sink()));
        std::thread::scope(|scope| {
            fake.held.lock().unwrap().table = inherited.clone();
            let plane = fake.clone();
            let (shown, core, log) = (&shown, &core, &log);
            scope.spawn(move || {
                forwarding(plane, |_| Vec::new(), |_, _| (), work, shown, core, log);
            });
            std::thread::sleep(RECONCILE * 2);
            assert_eq!(held(), inherited, "nobody has said anything yet");
            let none = Wanted::default().table();
            send.send(ForwardWork::Wanted(Box::default())).unwrap();
            wait(&none);
            // From then on changes of other programs are put back.
            fake.held.lock().unwrap().table = inherited.clone();
            wait(&none);
            drop(send);
        });
    }
}
