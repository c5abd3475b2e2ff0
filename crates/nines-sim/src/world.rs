//! The world: an event queue, three nodes with clocks, disks and kernels, and directed links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_core::{
    Action, Config, Event, Node, snapshot,
    state::State,
    vip_set::Name,
    wire::{HardState, Member, Persist, Persisted, Snapshot},
};
use nines_model::{Millis, Time};

use crate::{
    invariants::{self, Invariant},
    random::Random,
};

mod copies;
mod disk;
mod joining;
mod judge;
mod kernel;
mod links;
mod misread;
mod operators;

pub use links::DELAY_MAX_NS;

/// How the world lies, to show that an invariant notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// It does not.
    None,
    /// Kernels answer for an address as long as it is there, whatever the guard says.
    GuardIgnored,
    /// Disks acknowledge, and forget everything at a crash.
    DiskForgets,
    /// The rate of node 1's clock is 0.7: far outside what the lease rule allows.
    ClockTooSlow,
    /// Disks forget how long a promise may last.
    PromisesForgotten,
    /// A copy of a state directory looks like the original.
    CopiesUnknown,
    /// Other nodes promise one VIP less than a heartbeat names, and say that they promised
    /// all of them.
    SetsMisread,
}

const SPEC: &str = "[cluster]\nname = \"sim\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
    wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n\
    [vip.a]\naddress = \"10.0.0.100\"\n[vip.b]\naddress = \"10.0.0.101\"\n";
/// In some seeds a third address, which goes where the first one goes.
const SOURCES: &str = "[service.web]\nlisten = \"10.0.0.100:80\"\nforward = \"full-nat\"\n\
    check = \"none\"\nservers = { r1 = \"10.0.0.11\" }\nsource-pool = [\"10.0.0.102\"]\n";
/// Founders, and those that may join later: the fourth machine is for copies.
const NAMES: [&str; 6] = ["lb1", "lb2", "wit", "", "lb5", "lb6"];
const FOUNDERS: u64 = 3;

/// What the simulated kernel holds; it outlives the process, not the power.
#[derive(Clone, Debug, Default)]
struct Kernel {
    addresses: BTreeSet<IpAddr>,
    guards: BTreeMap<IpAddr, Time>,
    /// Whose deadlines are renewed together.
    follow: BTreeSet<IpAddr>,
    tokens: BTreeMap<IpAddr, u64>,
}

struct Machine {
    /// The node that runs here; a copy of a machine has the id of the original.
    identity: u64,
    /// Which disk it is.
    place: u64,
    node: Option<Node>,
    kernel: Kernel,
    disk: Persisted,
    incarnation: u64,
    /// Counts boots of the machine.
    power: u64,
    paused_until: u64,
    /// When the machine booted.
    booted: u64,
    /// Clock: local = offset + (true - booted) * rate / 1e6.
    offset: u64,
    rate_ppm: u64,
    backlog: Vec<Event>,
    alone_since: Option<u64>,
    wake: u64,
    state_seen: (u64, u64),
    replaced_in_place: bool,
}

impl Machine {
    fn new(random: &mut Random, id: u64, disk: Persisted) -> Self {
        Self {
            identity: id,
            place: id,
            node: None,
            kernel: Kernel::default(),
            disk,
            incarnation: 0,
            power: 1,
            paused_until: 0,
            booted: 0,
            offset: 1_000_000_000 + random.below(1 << 40),
            rate_ppm: 998_000 + random.below(4_001),
            backlog: Vec::new(),
            alone_since: None,
            wake: u64::MAX,
            state_seen: (0, 0),
            replaced_in_place: false,
        }
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Wake,
    Deliver(Event),
    Written(u64, Box<Persist>),
    Done(u64, IpAddr, bool),
}

/// Nodes, disks, networks and clocks of one simulated cluster.
pub struct World {
    now: u64,
    /// Random numbers of this seed.
    pub random: Random,
    machines: BTreeMap<u64, Machine>,
    queue: BTreeMap<(u64, u64), (u64, u64, Happening)>,
    sequence: u64,
    cut: BTreeSet<(u64, u64)>,
    /// The config, whole, and its VIPs.
    text: String,
    vips: Vec<IpAddr>,
    /// What operators take out of the config, and put back.
    pub removable: Vec<String>,
    /// What misread sets are called, and what they were called by who sent them.
    misread: BTreeMap<Name, Name>,
    /// Whether operators change it.
    pub changes_config: bool,
    /// Whether machines are copied.
    pub copies_machines: bool,
    /// Longest lease of any config.
    lease: Millis,
    /// Messages lost of a thousand.
    pub loss_permille: u64,
    /// Extra time of each disk write at most.
    pub slow_disk_ns: u64,
    invariants: Vec<Box<dyn Invariant>>,
    sabotage: Sabotage,
    trace: u64,
    moves: u64,
    answering: BTreeMap<IpAddr, u64>,
    /// Members that were asked when somebody joined.
    seeds: Vec<u64>,
    /// Large frames lost of a thousand; their senders are told.
    pub bulk_loss_permille: u64,
    /// Print what nodes log.
    pub verbose: bool,
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn founding(text: &str) -> Persisted {
    let mut state = State {
        text: text.into(),
        spec: nines_model::config::parse(text).expect("the spec above is right").into(),
        revision: 1,
        ..State::default()
    };
    for (id, name) in (1..=FOUNDERS).zip(NAMES) {
        let member = Member { id, name: name.into(), witness: name == "wit", ..Member::default() };
        state.members.insert(id, member);
    }
    state.applied = 1;
    let data = snapshot::encode(&state);
    Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Snapshot { index: 1, term: 1, voters: vec![1, 2, 3], learners: Vec::new(), data },
        ..Persisted::default()
    }
}

impl World {
    /// A world in which nothing runs yet.
    pub fn new(seed: u64, sabotage: Sabotage) -> Self {
        Self::with_config(seed, sabotage, "")
    }

    /// The same, with more in the config.
    pub fn with_config(seed: u64, sabotage: Sabotage, more: &str) -> Self {
        let mut random = Random::new(seed);
        // Two of four seeds, for the same reason.
        let text = if seed % 4 < 2 { SPEC.to_owned() } else { format!("{SPEC}{SOURCES}") };
        let text = text + more;
        let spec = nines_model::config::parse(&text).expect("the spec above is right");
        let mut machines = BTreeMap::new();
        for id in 1..=FOUNDERS {
            let mut machine = Machine::new(&mut random, id, founding(&text));
            if sabotage == Sabotage::ClockTooSlow && id == 1 {
                machine.rate_ppm = 700_000;
            }
            machines.insert(id, machine);
        }
        Self {
            now: 0,
            random,
            machines,
            queue: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            text,
            vips: spec.vips.keys().copied().collect(),
            removable: vec![operators::SECOND_VIP.to_owned()],
            misread: BTreeMap::new(),
            // Every other seed: the rest go on as they did before there was this.
            changes_config: seed.is_multiple_of(2),
            copies_machines: seed % 8 == 5 || sabotage == Sabotage::CopiesUnknown,
            lease: spec.timing.lease,
            loss_permille: 0,
            slow_disk_ns: 0,
            invariants: invariants::all(),
            sabotage,
            trace: 0xcbf2_9ce4_8422_2325,
            moves: 0,
            answering: BTreeMap::new(),
            seeds: vec![1],
            bulk_loss_permille: 0,
            verbose: std::env::var_os("NINES_SIM_LOG").is_some(),
        }
    }

    /// True time, ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Hash of everything so far.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Changes of holder so far.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    fn local(&self, id: u64) -> Time {
        let m = &self.machines[&id];
        let since = self.now - m.booted;
        Time(m.offset + (u128::from(since) * u128::from(m.rate_ppm) / 1_000_000) as u64)
    }

    fn schedule(&mut self, after_ns: u64, id: u64, what: Happening) {
        self.sequence += 1;
        let incarnation = self.machines[&id].incarnation;
        self.queue.insert((self.now + after_ns, self.sequence), (id, incarnation, what));
    }

    /// Starts a node if it is down.
    pub fn start(&mut self, id: u64) {
        if self.machines[&id].node.is_some() {
            return;
        }
        let now = self.local(id);
        let machine = self.machines.get_mut(&id).expect("three machines");
        machine.incarnation += 1;
        let identity = machine.identity;
        let name = NAMES[identity as usize - 1].to_owned();
        let machine_boot = machine.power;
        let seeds = if id > FOUNDERS { self.seeds.clone() } else { Vec::new() };
        let place = machine.place;
        let boot = (machine.incarnation << 32) + id;
        let config = Config { id: identity, name, boot, machine_boot, place, seeds };
        machine.node = Some(Node::new(config, now, &machine.disk));
        // Which VIPs follow is known to the process, not to the kernel.
        machine.kernel.follow.clear();
        machine.backlog.clear();
        machine.wake = u64::MAX;
        machine.replaced_in_place = false;
        self.feed(id, Event::WallClock(1_700_000_000_000_000_000 + self.now));
    }

    /// Starts whatever is down.
    pub fn start_all(&mut self) {
        self.machines.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.start(id));
    }

    /// Ends all pauses.
    pub fn resume_all(&mut self) {
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        for id in ids {
            self.machines.get_mut(&id).expect("listed").paused_until = self.now;
            self.schedule(0, id, Happening::Wake);
        }
    }

    /// kill -9: the process is gone, the kernel stays, unsynced writes are lost.
    pub fn kill(&mut self, id: u64) {
        let forgets = self.sabotage == Sabotage::DiskForgets;
        let machine = self.machines.get_mut(&id).expect("three machines");
        machine.node = None;
        machine.incarnation += 1;
        if forgets {
            machine.disk = founding(&self.text);
            // The others would remember: their processes end, too.
            self.forget_others(id);
        }
    }

    /// Power: the kernel is gone too.
    pub fn power_off(&mut self, id: u64) {
        self.kill(id);
        let machine = self.machines.get_mut(&id).expect("three machines");
        machine.kernel = Kernel::default();
        machine.power += 1;
        // The boot clock starts anew.
        machine.booted = self.now;
        machine.offset = machine.power % 7 * 1_000_000_000;
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, id: u64, length: Millis) {
        let until = self.now + length.ns();
        self.machines.get_mut(&id).expect("three machines").paused_until = until;
        self.schedule(length.ns(), id, Happening::Wake);
    }

    /// Runs for so long; an error is a broken invariant.
    pub fn run_for(&mut self, length: Millis) -> Result<(), String> {
        let until = self.now + length.ns();
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), (id, incarnation, what)) = entry.remove_entry();
            self.now = at;
            if self.machines.get(&id).is_none_or(|m| m.incarnation != incarnation) {
                continue;
            }
            self.happen(id, what);
            self.judge()?;
        }
        self.now = until;
        self.judge()
    }

    fn happen(&mut self, id: u64, what: Happening) {
        // Not the names of types and fields: they change without a change of what happens.
        let mut text = format!("{} {id} {what:?}", self.now);
        text.retain(|c| !c.is_ascii_alphabetic() && c != '_');
        self.trace = fnv(self.trace, text.as_bytes());
        match what {
            Happening::Wake => {
                let machine = self.machines.get_mut(&id).expect("three machines");
                if machine.wake <= self.now {
                    machine.wake = u64::MAX;
                }
                self.feed(id, Event::Tick);
            }
            Happening::Deliver(event) => self.feed(id, event),
            Happening::Written(number, persist) => {
                let forgets = self.sabotage == Sabotage::PromisesForgotten;
                disk::keep(
                    &mut self.machines.get_mut(&id).expect("it is up").disk,
                    *persist,
                    forgets,
                );
                self.feed(id, Event::Persisted(number));
            }
            Happening::Done(action, vip, up) => {
                let kernel = &mut self.machines.get_mut(&id).expect("three machines").kernel;
                if up {
                    kernel.addresses.insert(vip);
                } else {
                    kernel.addresses.remove(&vip);
                }
                self.feed(id, Event::Performed { id: action, result: Ok(()) });
            }
        }
    }

    /// Gives an event to a node, or keeps it for one that is paused.
    fn feed(&mut self, id: u64, event: Event) {
        let now = self.local(id);
        let paused = self.machines[&id].paused_until > self.now;
        let machine = self.machines.get_mut(&id).expect("three machines");
        if machine.node.is_none() {
            return;
        }
        if paused {
            // Sockets hold a few hundred datagrams, then drop.
            if machine.backlog.len() < 400 {
                machine.backlog.push(event);
            }
            return;
        }
        let mut events = std::mem::take(&mut machine.backlog);
        events.push(event);
        for event in events {
            let Some(node) = self.machines.get_mut(&id).and_then(|m| m.node.as_mut()) else {
                return;
            };
            node.handle(now, event);
            let actions = node.take_actions();
            self.carry_out(id, actions);
        }
        let Some(node) = self.machines[&id].node.as_ref() else { return };
        let local_wait = node.next_deadline().since(now);
        let rate = self.machines[&id].rate_ppm;
        let wait = (u128::from(local_wait) * 1_000_000 / u128::from(rate)) as u64 + 1_000;
        if self.now + wait < self.machines[&id].wake {
            self.machines.get_mut(&id).expect("three machines").wake = self.now + wait;
            self.schedule(wait, id, Happening::Wake);
        }
    }

    fn carry_out(&mut self, id: u64, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Persist(number, persist) => {
                    let slow = self.random.below(self.slow_disk_ns + 1);
                    let time = 200_000 + self.random.below(2_000_000) + slow;
                    let time = self.after_earlier_writes(id, time);
                    self.schedule(time, id, Happening::Written(number, persist));
                }
                Action::Send { to, bytes, bulk: true } => self.send_bulk(id, to, bytes),
                Action::Send { to, bytes, bulk: false } => self.send(id, to, bytes),
                Action::Guard(vip, deadline) => self.guard(id, vip, deadline, false),
                Action::Follow(vip, deadline) => self.guard(id, vip, deadline, true),
                Action::Renew(deadline) => self.renew_guards(id, deadline),
                Action::Address { id: action, vip, up } => {
                    let time = 100_000 + self.random.below(900_000);
                    self.schedule(time, id, Happening::Done(action, vip, up));
                }
                Action::Forward(_) => {
                    self.schedule(50_000, id, Happening::Deliver(Event::Forwarded(Ok(()))));
                }
                Action::Read(unread) => {
                    let event = Event::Read(std::sync::Arc::new(unread.read()));
                    let time = 100_000 + self.random.below(40_000_000);
                    self.schedule(time, id, Happening::Deliver(event));
                }
                Action::RestartReady => {
                    self.kill(id);
                    let machine = self.machines.get_mut(&id).expect("three machines");
                    machine.replaced_in_place = true;
                    self.start(id);
                    return;
                }
                Action::Cover(_)
                | Action::Announce(_)
                | Action::Check(_)
                | Action::Reply { .. }
                | Action::StopReady => {}
                Action::Log(line) => {
                    if self.verbose {
                        eprintln!("{:>9.3} ms {id}: {line}", self.now as f64 / 1e6);
                    }
                }
            }
        }
    }
}
