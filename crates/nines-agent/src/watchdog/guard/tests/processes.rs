//! The guard as a process beside an agent, both stopped and killed in every way, with a device that
//! this test itself is: it hears each feeding, and fires when none has come for its timeout.

use std::{
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    process::{Child, Command},
    time::{Duration, Instant},
};

use super::*;

/// Timeout of the device.
const TIMEOUT: Millis = Millis(1_500);
/// Length of the lease that the agent renews.
const LEASE: Millis = Millis(3_000);
/// Says to this program that it is to be one of the processes; and where its pages are.
const ROLE: &str = "NINES_TEST_WATCHDOG_ROLE";
const ROOM: &str = "NINES_TEST_WATCHDOG_ROOM";
/// Bound for hangs only.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine whose device is the test.
struct Told(UnixDatagram);

impl Told {
    fn say(&self, what: &str) {
        let line = format!("{} {what}", boot_time().0);
        self.0.send(line.as_bytes()).unwrap();
    }
}

impl Machine for Told {
    type Device = ();

    fn now(&self) -> Time {
        boot_time()
    }

    fn start(&mut self, _path: &str, _wanted: Millis) -> Result<((), Millis), String> {
        self.say("start");
        Ok(((), TIMEOUT))
    }

    fn feed(&mut self, (): &mut ()) -> io::Result<()> {
        self.say("feed");
        Ok(())
    }

    fn close(&mut self, (): ()) {
        self.say("close");
    }

    fn kill(&mut self, cgroup: &str) {
        self.say(&format!("kill {cgroup}"));
    }

    fn reset(&mut self) {
        self.say("reset");
    }
}

/// Is one of the processes when this program was started as one; otherwise nothing is tested here.
#[test]
fn as_a_process() {
    let (Ok(role), Ok(room)) = (std::env::var(ROLE), std::env::var(ROOM)) else { return };
    let socket = PathBuf::from(room).join("nines.sock");
    let pages = Pages::beside(&socket);
    if role == "guard" {
        let to = UnixDatagram::unbound().unwrap();
        to.connect(socket.with_file_name("device")).unwrap();
        let mut guard = Guard::new(Told(to), &pages).unwrap();
        let ticks = Ticks::new(IDLE).unwrap();
        look_until_the_end(&mut guard, ticks, drop).unwrap();
        std::process::exit(0);
    }
    let mut lease = LeasePage::open(&pages.lease).unwrap();
    loop {
        let until = Some(boot_time().plus(LEASE));
        lease.put(MachineLease { until, ends: None }).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn process(role: &str, room: &Room) -> Child {
    // The signal is to be told, and not to end the threads of a test program.
    Command::new("env")
        .arg("--block-signal=TERM")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "watchdog::guard::tests::processes::as_a_process", "--test-threads=1"])
        .env(ROLE, role)
        .env(ROOM, room.pages.lease.parent().unwrap())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// The two processes, and the device.
struct Scene {
    room: Room,
    agent: Child,
    guard: Child,
    device: UnixDatagram,
    /// When it was fed last, by the guard's word.
    fed: Time,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.guard] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Scene {
    /// With an agent that holds something, and a guard that feeds.
    fn new(name: &str) -> Self {
        let room = Room::new(name);
        let device = UnixDatagram::bind(room.pages.lease.with_file_name("device")).unwrap();
        device.set_read_timeout(Some(Duration::from_millis(TIMEOUT.0))).unwrap();
        room.wants(DEVICE, &["/services"]);
        let agent = process("agent", &room);
        let until = Instant::now() + PATIENCE;
        while room.lease.get().is_none_or(|lease| lease.until.is_none()) {
            assert!(Instant::now() < until, "the agent has not begun");
            std::thread::sleep(Duration::from_millis(5));
        }
        let guard = process("guard", &room);
        let mut scene = Self { room, agent, guard, device, fed: Time(0) };
        scene.hears("start");
        (0..5).for_each(|_| scene.hears("feed"));
        scene
    }

    /// The next thing that the guard says; `None`: nothing within the timeout of the device, which
    /// fires.
    fn next(&mut self) -> Option<String> {
        let mut bytes = [0; 128];
        let length = self.device.recv(&mut bytes).ok()?;
        let line = std::str::from_utf8(&bytes[..length]).unwrap();
        let (at, what) = line.split_once(' ').unwrap();
        if what == "feed" {
            self.fed = Time(at.parse().unwrap());
        }
        Some(what.to_owned())
    }

    fn hears(&mut self, what: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "the guard has not said {what}");
            if self.next().as_deref() == Some(what) {
                return;
            }
        }
    }

    /// What the guard says besides feeding until the device fires.
    fn until_it_fires(&mut self) -> Vec<String> {
        let (mut said, until) = (Vec::new(), Instant::now() + PATIENCE);
        while let Some(what) = self.next() {
            assert!(Instant::now() < until, "it is fed for ever");
            if what != "feed" {
                said.push(what);
            }
        }
        said
    }

    /// The device was fed for the last time when more than its timeout was left of the lease.
    fn fired_within_the_lease(&self) {
        let until = self.room.lease.get().unwrap().until.unwrap();
        assert!(until.since(self.fed) > TIMEOUT.ns(), "{until:?} {:?}", self.fed);
    }
}

#[test]
fn a_stopped_agent_is_killed_and_the_watchdog_fires_within_its_lease() {
    let mut scene = Scene::new("agent-stops");
    signal(&scene.agent, "STOP");
    let said = scene.until_it_fires();
    scene.fired_within_the_lease();
    if !said.is_empty() {
        assert_eq!(said, ["kill /services"]);
    }
    // Where the device has fired before that: this one resets nothing, so the guard goes on.
    if said.is_empty() {
        scene.hears("kill /services");
    }
    assert!(scene.guard.try_wait().unwrap().is_none(), "it goes on to the end");
}

#[test]
fn both_stopped_the_watchdog_fires() {
    let mut scene = Scene::new("both-stop");
    signal(&scene.guard, "STOP");
    signal(&scene.agent, "STOP");
    assert!(scene.until_it_fires().is_empty());
    scene.fired_within_the_lease();
}

#[test]
fn a_killed_agent_or_guard_leaves_a_watchdog_that_fires() {
    let mut scene = Scene::new("guard-dies");
    scene.guard.kill().unwrap();
    assert!(scene.until_it_fires().is_empty(), "nobody has closed it");
    let mut scene = Scene::new("agent-dies");
    scene.agent.kill().unwrap();
    let said = scene.until_it_fires();
    scene.fired_within_the_lease();
    assert!(!said.contains(&"close".to_owned()), "{said:?}");
}

#[test]
fn a_guard_that_is_told_to_end_goes_on_while_something_is_held() {
    let mut scene = Scene::new("term");
    signal(&scene.guard, "TERM");
    (0..20).for_each(|_| scene.hears("feed"));
    assert!(scene.guard.try_wait().unwrap().is_none());
    scene.agent.kill().unwrap();
    scene.agent.wait().unwrap();
    scene.room.lease.put(MachineLease { until: None, ends: Some(boot_time()) }).unwrap();
    scene.hears("close");
    let ended = scene.guard.wait().unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(0), None));
    assert_eq!(scene.until_it_fires(), [""; 0], "and nothing more");
}
