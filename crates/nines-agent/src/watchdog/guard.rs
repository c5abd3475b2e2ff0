//! The guard process, `nines guard`: feeds the watchdog while the lease of this machine lasts.
//!
//! Decides: that nothing but the page says how the lease is, so an agent that hangs, or is gone,
//! renews nothing; what becomes of a device that is not wanted any more; and what is done when it
//! was fed too late. The rule itself is `nines_core::watchdog`'s. It is a process of its own, in a
//! unit of its own, because what it watches must not end it.
//!
//! A look takes no memory and waits for nothing but the device: all of the process is locked in
//! memory, and it runs in real time.

use std::{io, path::Path};

use nines_core::watchdog::{self, MachineLease};
use nines_dataplane::process::{boot_time, run_in_real_time};
use nines_exec::watchdog::{Ticks, Watchdog, Woken, lock_memory};
use nines_model::{Millis, Time};

use super::{
    Pages,
    page::{GuardPage, LeasePage, Orders, OrdersPage},
};
use crate::logger::Logger;

/// Time between two looks while no device is fed.
const IDLE: Millis = Millis(250);
/// A device that could not be used is tried again after so long.
const TRY_AGAIN: Millis = Millis(5_000);

/// What the guard does to its machine. The real one is [`ThisMachine`].
pub trait Machine {
    /// A device that runs.
    type Device;
    /// The boot clock.
    fn now(&self) -> Time;
    /// Starts a watchdog and asks for this timeout; gives the one that it has.
    fn start(&mut self, path: &str, wanted: Millis) -> Result<(Self::Device, Millis), String>;
    /// Feeds it.
    fn feed(&mut self, device: &mut Self::Device) -> io::Result<()>;
    /// Switches it off.
    fn close(&mut self, device: Self::Device);
    /// Kills all that runs in a cgroup.
    fn kill(&mut self, cgroup: &str);
    /// Resets the machine at once.
    fn reset(&mut self);
}

/// This machine.
pub struct ThisMachine;

impl Machine for ThisMachine {
    type Device = Watchdog;

    fn now(&self) -> Time {
        boot_time()
    }

    fn start(&mut self, path: &str, wanted: Millis) -> Result<(Watchdog, Millis), String> {
        let device = Watchdog::start(path, wanted, watchdog::TIMEOUT_MAX)?;
        let timeout = device.timeout();
        Ok((device, timeout))
    }

    fn feed(&mut self, device: &mut Watchdog) -> io::Result<()> {
        device.feed()
    }

    fn close(&mut self, device: Watchdog) {
        device.close();
    }

    fn kill(&mut self, cgroup: &str) {
        // One that is not there has nobody in it.
        let _ = nines_exec::watchdog::kill_cgroup(Path::new(cgroup));
    }

    fn reset(&mut self) {
        // What is not written yet is lost, as with the watchdog, which fires if this does nothing.
        let _ = std::fs::write("/proc/sysrq-trigger", b"b");
    }
}

/// The guard process as a machine that looks at regular times.
pub struct Guard<M: Machine> {
    machine: M,
    lease: LeasePage,
    wanted: OrdersPage,
    says: GuardPage,
    told: MachineLease,
    /// Number of the orders that were read.
    read: Option<u64>,
    orders: Orders,
    fed: Option<Fed<M::Device>>,
    /// What runs under this lease was killed.
    killed: bool,
    /// The device is not tried before.
    again: Time,
}

struct Fed<D> {
    device: D,
    path: String,
    timeout: Millis,
}

impl<M: Machine> Guard<M> {
    /// A guard that hears of the lease by these pages.
    pub fn new(machine: M, pages: &Pages) -> io::Result<Self> {
        Ok(Self {
            machine,
            lease: LeasePage::watch(&pages.lease)?,
            wanted: OrdersPage::open(&pages.orders)?,
            says: GuardPage::open(&pages.guard)?,
            told: MachineLease::default(),
            read: None,
            orders: Orders::default(),
            fed: None,
            killed: false,
            again: Time(0),
        })
    }

    /// Time until the next look.
    pub fn interval(&self) -> Millis {
        self.fed.as_ref().map_or(IDLE, |fed| watchdog::interval(fed.timeout))
    }

    /// Whether this process may end: no device runs, or nothing is under a lease.
    pub fn may_end(&self) -> bool {
        self.fed.is_none() || self.told.until.is_none()
    }

    /// Looks once. A line of what is new, for people.
    pub fn look(&mut self) -> Option<String> {
        self.told = self.lease.get().unwrap_or(self.told);
        if let Some(number) = self.wanted.number().filter(|number| self.read != Some(*number)) {
            self.read = Some(number);
            self.orders = self.wanted.get();
            self.again = Time(0);
        }
        let line = match &self.fed {
            Some(fed) if fed.path != self.orders.device && self.told.until.is_none() => {
                self.close()
            }
            Some(_) => self.turn(),
            None => self.start(),
        };
        let timeout = self.fed.as_ref().map_or(0, |fed| fed.timeout.0);
        self.says.alive(self.machine.now(), timeout);
        line
    }

    /// Starts the device that is wanted, if there is any.
    fn start(&mut self) -> Option<String> {
        let now = self.machine.now();
        let ended = self.told.ends.is_some();
        if self.orders.device.is_empty() || ended || now < self.again {
            return None;
        }
        let path = self.orders.device.clone();
        match self.machine.start(&path, watchdog::WANTED) {
            Ok((device, timeout)) => {
                self.says.trouble("");
                let line =
                    format!("{path} runs: this machine is reset {timeout} after its last feeding");
                self.fed = Some(Fed { device, path, timeout });
                self.turn().or(Some(line))
            }
            Err(why) => {
                self.again = now.plus(TRY_AGAIN);
                self.says.trouble(&why);
                Some(why)
            }
        }
    }

    /// One turn with the device that runs.
    fn turn(&mut self) -> Option<String> {
        let fed = self.fed.as_mut()?;
        let turn = self.told.turn(self.machine.now(), fed.timeout);
        if turn.closes {
            return self.close();
        }
        let kills = turn.kills && !self.killed;
        self.killed = turn.kills;
        if kills {
            self.orders.cgroups.iter().for_each(|cgroup| self.machine.kill(cgroup));
            return Some("the lease of this machine ends: what runs under it is killed".into());
        }
        if !turn.feeds {
            return None;
        }
        let result = self.machine.feed(&mut fed.device);
        // This process may have stood still between the question and the feeding.
        if self.told.is_fed_too_late(self.machine.now(), fed.timeout) {
            self.machine.reset();
            return Some("fed too late: this machine is reset at once".into());
        }
        result.err().map(|why| format!("{} cannot be fed: {why}", fed.path))
    }

    /// Switches the device off.
    pub fn close(&mut self) -> Option<String> {
        let Fed { device, path, timeout: _ } = self.fed.take()?;
        self.machine.close(device);
        Some(format!("{path} is off"))
    }
}

/// Runs until it is told to end. While something is under a lease it goes on: the machine would be
/// reset without it.
pub fn run(socket: &Path) -> io::Result<()> {
    let mut guard = Guard::new(ThisMachine, &Pages::beside(socket))?;
    // Before there is any other thread, which the signals would end.
    let ticks = Ticks::new(IDLE)?;
    let log = Logger::stderr();
    if let Err(why) = run_in_real_time() {
        log.line(&format!("{why}; {}", why.next.as_deref().unwrap_or_default()));
    }
    if let Err(why) = lock_memory() {
        log.line(&format!("cannot keep this process in memory: {why}"));
    }
    look_until_the_end(&mut guard, ticks, |line| log.line(&line))
}

/// The same with any machine, and a clock made before any thread.
pub fn look_until_the_end<M: Machine>(
    guard: &mut Guard<M>,
    mut ticks: Ticks,
    log: impl Fn(String),
) -> io::Result<()> {
    let (mut interval, mut ends) = (Millis(0), false);
    loop {
        if let Some(line) = guard.look() {
            log(line);
        }
        if ends && guard.may_end() {
            if let Some(line) = guard.close() {
                log(line);
            }
            return Ok(());
        }
        if guard.interval() != interval {
            interval = guard.interval();
            ticks.every(interval)?;
        }
        ends |= ticks.wait()? == Woken::End;
    }
}

#[cfg(test)]
mod tests;
