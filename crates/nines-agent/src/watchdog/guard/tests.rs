use std::path::PathBuf;

use super::*;

mod processes;

const W: Millis = Millis(2_000);
const DEVICE: &str = "/dev/watchdog";

/// A machine whose clock stands still until a test moves it.
struct Fake {
    now: Time,
    did: Vec<String>,
    device: Result<Millis, String>,
    /// The process stands still for so long while it feeds.
    stands_still: Millis,
}

impl Machine for Fake {
    type Device = ();

    fn now(&self) -> Time {
        self.now
    }

    fn start(&mut self, path: &str, wanted: Millis) -> Result<((), Millis), String> {
        assert_eq!(wanted, W);
        self.did.push(format!("start {path}"));
        self.device.clone().map(|timeout| ((), timeout))
    }

    fn feed(&mut self, (): &mut ()) -> io::Result<()> {
        self.did.push("feed".into());
        self.now = self.now.plus(self.stands_still);
        Ok(())
    }

    fn close(&mut self, (): ()) {
        self.did.push("close".into());
    }

    fn kill(&mut self, cgroup: &str) {
        self.did.push(format!("kill {cgroup}"));
    }

    fn reset(&mut self) {
        self.did.push("reset".into());
    }
}

/// Pages of a test, and the agent's ends of them.
struct Room {
    pages: Pages,
    lease: LeasePage,
    orders: OrdersPage,
}

impl Drop for Room {
    fn drop(&mut self) {
        let room = self.pages.lease.parent().map(PathBuf::from).unwrap_or_default();
        let _ = std::fs::remove_dir_all(room);
    }
}

impl Room {
    fn new(name: &str) -> Self {
        let room = std::env::temp_dir().join(format!("nines-wd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&room).unwrap();
        let pages = Pages::beside(&room.join("nines.sock"));
        let lease = LeasePage::open(&pages.lease).unwrap();
        let orders = OrdersPage::open(&pages.orders).unwrap();
        Self { pages, lease, orders }
    }

    fn guard(&self) -> Guard<Fake> {
        let stands_still = Millis(0);
        let fake = Fake { now: at(0), did: Vec::new(), device: Ok(W), stands_still };
        Guard::new(fake, &self.pages).unwrap()
    }

    fn wants(&self, device: &str, cgroups: &[&str]) {
        let cgroups = cgroups.iter().map(|cgroup| (*cgroup).to_owned()).collect();
        self.orders.put(&Orders { device: device.to_owned(), cgroups }).unwrap();
    }

    fn held_until(&mut self, ms: u64) {
        self.lease.put(MachineLease { until: Some(at(ms)), ends: None }).unwrap();
    }

    fn nothing_is_held(&mut self) {
        self.lease.put(MachineLease::default()).unwrap();
    }
}

fn at(ms: u64) -> Time {
    Time(1_000_000_000 + Millis(ms).ns())
}

/// What the guard does when it looks then.
fn looks(guard: &mut Guard<Fake>, ms: u64) -> String {
    guard.machine.now = at(ms);
    guard.look();
    std::mem::take(&mut guard.machine.did).join(", ")
}

#[test]
fn nothing_runs_until_a_config_names_a_device() {
    let room = Room::new("none");
    let mut guard = room.guard();
    assert_eq!((looks(&mut guard, 0).as_str(), guard.interval()), ("", IDLE));
    room.wants(DEVICE, &[]);
    assert_eq!(looks(&mut guard, 250), "start /dev/watchdog, feed");
    assert_eq!(guard.interval(), Millis(100));
    assert_eq!(looks(&mut guard, 350), "feed");
    let state = GuardPage::open(&room.pages.guard).unwrap().state().unwrap();
    assert_eq!((state.at, state.timeout_ms, state.trouble.as_str()), (at(350), 2_000, ""));
    room.wants("", &[]);
    assert_eq!(looks(&mut guard, 450), "close");
    assert_eq!(looks(&mut guard, 550), "");
}

#[test]
fn an_agent_that_renews_nothing_is_killed_and_its_machine_reset() {
    let mut room = Room::new("hangs");
    room.wants(DEVICE, &["/a", "/b"]);
    let mut guard = room.guard();
    room.held_until(4_000);
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog, feed");
    assert_eq!(looks(&mut guard, 1_900), "feed");
    assert_eq!(looks(&mut guard, 2_000), "", "the watchdog fires at 3,900 now");
    assert_eq!(looks(&mut guard, 3_000), "kill /a, kill /b");
    assert_eq!(looks(&mut guard, 3_100), "", "once");
    assert!(!guard.may_end());
    // It renews after all, before the device has fired.
    room.held_until(7_000);
    assert_eq!(looks(&mut guard, 3_200), "feed");
    assert_eq!(looks(&mut guard, 6_500), "kill /a, kill /b", "another lease");
}

#[test]
fn one_that_is_fed_too_late_is_reset_at_once() {
    let mut room = Room::new("late");
    room.wants(DEVICE, &[]);
    room.held_until(4_000);
    let mut guard = room.guard();
    guard.machine.stands_still = Millis(1_900);
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog, feed", "2,100 ms are left");
    guard.machine.stands_still = Millis(200);
    assert_eq!(looks(&mut guard, 1_900), "feed, reset", "1,900 ms are less than the timeout");
}

#[test]
fn while_something_is_held_the_device_neither_changes_nor_is_it_closed() {
    let mut room = Room::new("held");
    room.wants(DEVICE, &[]);
    room.held_until(4_000);
    let mut guard = room.guard();
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog, feed");
    room.wants("/dev/watchdog1", &[]);
    assert_eq!(looks(&mut guard, 100), "feed");
    room.nothing_is_held();
    assert_eq!(looks(&mut guard, 200), "close");
    assert_eq!(looks(&mut guard, 300), "start /dev/watchdog1, feed");
    assert!(guard.may_end());
}

#[test]
fn an_agent_that_has_ended_is_waited_for_and_then_the_device_is_closed() {
    let mut room = Room::new("ends");
    room.wants(DEVICE, &[]);
    room.held_until(4_000);
    let mut guard = room.guard();
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog, feed");
    let ends = MachineLease { until: None, ends: Some(at(240)) };
    room.lease.put(ends).unwrap();
    assert_eq!(looks(&mut guard, 200), "feed", "the kernel answers until 240");
    assert_eq!(looks(&mut guard, 300), "close");
    assert_eq!(looks(&mut guard, 9_000), "", "and does not start again");
    // The next agent.
    room.lease = LeasePage::open(&room.pages.lease).unwrap();
    assert_eq!(looks(&mut guard, 9_250), "start /dev/watchdog, feed");
}

#[test]
fn a_device_that_cannot_be_used_is_told_and_tried_again() {
    let room = Room::new("missing");
    room.wants(DEVICE, &[]);
    let mut guard = room.guard();
    guard.machine.device = Err("it does not exist".into());
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog");
    assert_eq!(looks(&mut guard, 4_900), "");
    let state = GuardPage::open(&room.pages.guard).unwrap().state().unwrap();
    assert_eq!((state.timeout_ms, state.trouble.as_str()), (0, "it does not exist"));
    guard.machine.device = Ok(W);
    assert_eq!(looks(&mut guard, 5_000), "start /dev/watchdog, feed");
    let state = GuardPage::open(&room.pages.guard).unwrap().state().unwrap();
    assert_eq!((state.timeout_ms, state.trouble.as_str()), (2_000, ""));
}

/// What a torn write, or another boot, has left says nothing: the last lease that was read counts.
#[test]
fn a_page_that_cannot_be_read_renews_nothing() {
    let mut room = Room::new("torn");
    room.wants(DEVICE, &[]);
    room.held_until(4_000);
    let mut guard = room.guard();
    assert_eq!(looks(&mut guard, 0), "start /dev/watchdog, feed");
    std::fs::write(&room.pages.lease, [7; 40]).unwrap();
    assert_eq!(looks(&mut guard, 1_900), "feed");
    assert_eq!(looks(&mut guard, 2_100), "");
    assert!(!guard.may_end());
}
