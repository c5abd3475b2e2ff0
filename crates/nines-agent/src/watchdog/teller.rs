//! The agent's part: which device is to be fed, how long the lease of this machine lasts, and what
//! the guard process says.
//!
//! Decides: when people are told that nobody feeds the watchdog, and what they can do about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use nines_core::{
    Node,
    node::UnderLease,
    watchdog::{self, MachineLease},
    wire::WatchdogState,
};
use nines_dataplane::process::boot_time;
use nines_model::{Millis, Time};

use super::{
    LeasePage, Pages,
    page::{GuardPage, GuardState, Orders, OrdersPage},
    virtual_machine,
};
use crate::{logger::Logger, queue::SlotReceiver};

/// How often the guard process is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A guard process that has said nothing for so long is none, ms.
const SILENT: Millis = Millis(3_000);
/// It may take so long to start.
const STARTS: Duration = Duration::from_secs(3);

/// What the thread of the core and that of the watchdog share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Timeout of the device that is fed, ms; 0: none is.
    timeout_ms: AtomicU64,
    /// The agent stops for good: nothing is left but what the kernel ends by itself.
    stops: AtomicBool,
}

impl Shared {
    /// The agent stops for good, and holds nothing any more.
    pub fn stops(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }
}

/// Says how the lease of this machine is; owned by the core's thread, which it never keeps waiting.
pub struct Lessor {
    pages: Receiver<LeasePage>,
    page: Option<LeasePage>,
    shared: Arc<Shared>,
    told: Option<UnderLease>,
}

impl Lessor {
    /// `pages`: where the page comes from when a config names a watchdog.
    pub fn new(pages: Receiver<LeasePage>, shared: Arc<Shared>) -> Self {
        Self { pages, page: None, shared, told: None }
    }

    /// One that tells nobody: a witness holds nothing.
    pub fn of_witness() -> Self {
        Self::new(sync_channel(1).1, Arc::default())
    }

    /// Says it if it has changed.
    pub fn tell(&mut self, node: &Node) {
        if self.page.is_none() {
            self.page = self.pages.try_recv().ok();
        }
        let Some(page) = &mut self.page else { return };
        let now = node.under_lease();
        if self.told == Some(now) {
            return;
        }
        let timeout = Millis(self.shared.timeout_ms.load(Ordering::Relaxed));
        // A page that cannot be written keeps an older time: the machine is reset, not left alone.
        if let Some(lease) = lease(now, timeout, node.kernel_answers_until()) {
            let _ = page.put(lease);
        }
        self.told = Some(now);
    }

    /// The thread ends, and perhaps with the whole agent.
    pub fn ends(&mut self, node: &Node) {
        let stops = self.shared.stops.load(Ordering::Relaxed);
        if let Some(page) = self.page.as_mut().filter(|_| stops) {
            let ends = Some(node.kernel_answers_until().max(boot_time()));
            let _ = page.put(MachineLease { until: None, ends });
        }
    }
}

/// What the page says; `None`: what it has said.
fn lease(now: UnderLease, timeout: Millis, kernel_until: Time) -> Option<MachineLease> {
    match now {
        UnderLease::Unknown => None,
        UnderLease::Nothing => Some(MachineLease::default()),
        UnderLease::Renewed(sent) => {
            let until = Some(watchdog::lease_until(sent, timeout, kernel_until));
            Some(MachineLease { until, ends: None })
        }
    }
}

/// The path of this node's watchdog, as the newest config has it.
pub type Wanted = Option<String>;

/// What the thread of the watchdog needs.
pub struct Teller {
    /// Where the two processes write to each other.
    pub pages: Pages,
    /// The newest watchdog of the config.
    pub wanted: SlotReceiver<Wanted>,
    /// Where the page of the lease goes.
    pub lessor: SyncSender<LeasePage>,
    /// What the core's thread has to know.
    pub shared: Arc<Shared>,
    /// Hears what the watchdog does, whenever that changes; `None`: the config names none.
    pub tell: Box<dyn Fn(Option<WatchdogState>) + Send>,
    /// Where it says what it cannot do.
    pub log: Logger,
}

/// Gives the guard process its orders, and tells the core what it does, until the process ends.
pub fn run(teller: &Teller) {
    let virtual_machine = virtual_machine::is_one();
    let (mut wanted, mut since, mut told) = (None::<String>, Instant::now(), None);
    let mut page = None;
    loop {
        match teller.wanted.recv_timeout(LOOK) {
            Ok(newest) if newest != wanted => {
                (wanted, since) = (newest, Instant::now());
                page = page.or_else(|| teller.begin(wanted.as_ref()));
                teller.order(wanted.as_deref().unwrap_or_default());
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let state = wanted.as_ref().and_then(|path| {
            let guard = page.as_ref().and_then(GuardPage::state);
            let state = state(path, guard.as_ref(), boot_time());
            let starts = state.timeout_ms == 0 && since.elapsed() < STARTS;
            (!starts).then_some(WatchdogState { virtual_machine, ..state })
        });
        let timeout = state.as_ref().map_or(0, |state| state.timeout_ms);
        teller.shared.timeout_ms.store(timeout, Ordering::Relaxed);
        if told.as_ref() != Some(&state) {
            told = Some(state.clone());
            (teller.tell)(state);
        }
    }
}

impl Teller {
    /// Makes the page of the lease when a config names a watchdog for the first time; gives where
    /// the guard process says how it is.
    fn begin(&self, wanted: Option<&String>) -> Option<GuardPage> {
        wanted?;
        let opened = LeasePage::open(&self.pages.lease)
            .and_then(|lease| Ok((lease, GuardPage::open(&self.pages.guard)?)));
        match opened {
            Ok((lease, guard)) => {
                let _ = self.lessor.try_send(lease);
                Some(guard)
            }
            Err(why) => {
                let at = self.pages.lease.display();
                self.log.line(&format!("{at} cannot be made, so no watchdog is fed: {why}"));
                None
            }
        }
    }

    fn order(&self, device: &str) {
        if device.is_empty() && !self.pages.orders.exists() {
            return;
        }
        let orders = Orders { device: device.to_owned(), cgroups: Vec::new() };
        let ordered = OrdersPage::open(&self.pages.orders).and_then(|page| page.put(&orders));
        if let Err(why) = ordered {
            self.log.line(&format!("{} cannot be written: {why}", self.pages.orders.display()));
        }
    }
}

/// How the watchdog is, by what its guard process has said.
fn state(path: &str, guard: Option<&GuardState>, now: Time) -> WatchdogState {
    let unfed = |trouble: String, next: &str| WatchdogState {
        trouble,
        next: next.to_owned(),
        ..WatchdogState::default()
    };
    match guard.filter(|guard| now.since(guard.at) <= SILENT.ns()) {
        None => {
            unfed(format!("no process feeds its watchdog {path}"), "systemctl start nines-guard")
        }
        Some(guard) if guard.timeout_ms > 0 => {
            WatchdogState { timeout_ms: guard.timeout_ms, ..WatchdogState::default() }
        }
        Some(guard) => {
            let why = match guard.trouble.as_str() {
                "" => format!("{path} is not fed yet"),
                why => why.to_owned(),
            };
            unfed(format!("no watchdog: {why}"), "ls -l /dev/watchdog*")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Millis = Millis(2_000);

    #[test]
    fn the_page_says_what_is_under_a_lease_and_keeps_what_is_not_known() {
        let (sent, kernel) = (Time(7_000_000_000), Time(7_140_000_000));
        let said = |now, kernel| lease(now, W, kernel);
        assert_eq!(said(UnderLease::Unknown, kernel), None);
        assert_eq!(said(UnderLease::Nothing, kernel), Some(MachineLease::default()));
        let until = |at| Some(MachineLease { until: Some(Time(at)), ends: None });
        assert_eq!(said(UnderLease::Renewed(sent), kernel), until(11_000_000_000));
        // A restart.
        let long = Time(12_000_000_000);
        assert_eq!(said(UnderLease::Renewed(sent), long), until(15_520_000_000));
        let slow = lease(UnderLease::Renewed(sent), Millis(10_000), kernel);
        assert_eq!(slow, until(27_000_000_000));
    }

    #[test]
    fn what_is_wrong_with_a_watchdog_is_said_with_the_next_command() {
        let guard = |timeout_ms, trouble: &str| GuardState {
            at: Time(5_000_000_000),
            timeout_ms,
            trouble: trouble.into(),
        };
        let of = |guard: Option<&GuardState>, ms: u64| {
            let state = state("/dev/watchdog", guard, Time(ms * 1_000_000));
            (state.timeout_ms, state.trouble, state.next)
        };
        let armed = (2_000, String::new(), String::new());
        assert_eq!(of(Some(&guard(2_000, "")), 5_000), armed);
        assert_eq!(of(Some(&guard(2_000, "")), 8_000), armed);
        let silent = of(Some(&guard(2_000, "")), 8_001);
        assert_eq!(silent.1, "no process feeds its watchdog /dev/watchdog");
        assert_eq!(silent, of(None, 5_000));
        assert_eq!(silent.2, "systemctl start nines-guard");
        let missing = of(Some(&guard(0, "/dev/watchdog does not exist")), 5_000);
        assert_eq!(missing.1, "no watchdog: /dev/watchdog does not exist");
        assert_eq!(of(Some(&guard(0, "")), 5_000).1, "no watchdog: /dev/watchdog is not fed yet");
    }
}
