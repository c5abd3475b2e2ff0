//! The world: an event queue, nodes with clocks, disks and kernels, and directed links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nines_core::{
    Action, Config, Event, Node,
    node::rebuild::VOTERS_MAX,
    snapshot,
    state::State,
    vip_set::Name,
    wire::{HardState, Member, Persist, Persisted, Snapshot},
};
use nines_model::{Incarnation, Millis, NodeId, Role, Spec, Time};

use self::{
    checksum::Trace,
    machine::{Kernel, Machine},
};
use crate::{
    invariants::{self, Invariant},
    random::Random,
    scenario::{Drawn, Scenario},
    story::Story,
};

mod checksum;
mod copies;
mod disk;
mod failures;
mod feature_level;
mod health;
mod joining;
mod judge;
mod kernel;
mod links;
mod machine;
mod misread;
mod operators;
mod power;
mod seen;

pub use power::Device;

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
    /// Builds from before feature levels say that they read the newest one.
    LevelOverstated,
}

#[derive(Clone, Debug)]
enum Happening {
    Wake,
    Deliver(Event),
    Written(u64, Box<Persist>),
    Done(u64, IpAddr, bool),
    Switched(power::Switched),
}

/// Nodes, disks, networks and clocks of one simulated cluster.
pub struct World {
    now: u64,
    /// Random numbers of this seed.
    pub random: Random,
    machines: BTreeMap<u64, Machine>,
    queue: BTreeMap<(u64, u64), (u64, u64, Happening)>,
    sequence: u64,
    /// What does not pass: receiver, sender, card.
    cut: BTreeSet<(u64, u64, usize)>,
    /// What it is made of.
    pub scenario: Scenario,
    /// Directors of the config at the beginning, its VIPs, and those that operators may move: a
    /// source of full NAT goes with its VIP.
    directors: Vec<String>,
    /// Numbers of the first members that are witnesses.
    witnesses: BTreeSet<u64>,
    vips: Vec<IpAddr>,
    movable: Vec<IpAddr>,
    /// Commands of the scenario that operators have given.
    commands_given: usize,
    /// What misread sets are called, and what they were called by who sent them.
    misread: BTreeMap<Name, Name>,
    /// Machines with a build from before feature levels.
    older: feature_level::OlderBuilds,
    /// Longest lease and election timeout of any config.
    lease: Millis,
    election: Millis,
    /// Messages lost of a thousand.
    pub loss_permille: u64,
    /// Extra time of each disk write at most.
    pub slow_disk_ns: u64,
    /// The same of single machines.
    slow_disks: BTreeMap<u64, u64>,
    bad_links: links::BadLinks,
    invariants: Vec<Box<dyn Invariant>>,
    goals: health::Goals,
    /// When the invariants were last asked, and whether something has changed since.
    judged: u64,
    /// When a kernel falls silent next, by what it had then.
    falls_silent: u64,
    changed: bool,
    sabotage: Sabotage,
    seed: u64,
    trace: Trace,
    moves: u64,
    answering: BTreeMap<IpAddr, u64>,
    /// Voters by the log index of the change that made them so.
    voters: Arc<BTreeMap<u64, BTreeSet<u64>>>,
    /// Since when each machine can hear another one, by receiver and sender, true time.
    hears_since: BTreeMap<(u64, u64), u64>,
    /// How often links were cut or mended.
    links_changed: u64,
    /// How many others each machine hears, and from what that was worked out.
    hearing: ((u64, u128), BTreeMap<u64, BTreeSet<u64>>),
    /// Until when a machine heard another one that it does not hear now.
    heard_until: BTreeMap<(u64, u64), u64>,
    /// Why the state of a node has followed a frame of a stranger, if one has.
    forged: Option<String>,
    /// Members that were asked when somebody joined.
    seeds: Vec<u64>,
    failures: failures::Failures,
    power: power::Power,
    /// What happens, where somebody wants to be told.
    pub story: Option<Story>,
    /// Large frames lost of a thousand; their senders are told.
    pub bulk_loss_permille: u64,
    /// Cards on which no large datagram passes.
    pub small_only: BTreeSet<usize>,
    /// What went wrong so far.
    pub drawn: Drawn,
    /// Print what nodes log.
    pub verbose: bool,
}

/// The disk of each of the first members.
fn founding(scenario: &Scenario, spec: Spec) -> Persisted {
    let member = |(id, name): (u64, &String)| {
        let witness = spec.nodes.get(name.as_str()).is_some_and(|n| n.role == Role::Witness);
        Member { id, name: name.clone(), witness, ..Member::default() }
    };
    let members: Vec<Member> = (1..).zip(&scenario.nodes).map(member).collect();
    let state = State::founded(scenario.text.as_str().into(), spec.into(), members);
    let data = snapshot::encode(&state);
    let all = || 1..=scenario.nodes.len() as u64;
    let (voters, learners) = (all().take(VOTERS_MAX).collect(), all().skip(VOTERS_MAX).collect());
    Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Snapshot { index: 1, term: 1, voters, learners, data },
        ..Persisted::default()
    }
}

impl World {
    /// The world of [`Scenario::of_seed`], in which nothing runs yet.
    pub fn new(seed: u64, sabotage: Sabotage) -> Self {
        Self::of(Scenario::of_seed(seed), seed, sabotage)
    }

    /// The world of a scenario, in which nothing runs yet.
    pub fn of(mut scenario: Scenario, seed: u64, sabotage: Sabotage) -> Self {
        let mut random = Random::new(seed);
        let spec = scenario.spec();
        scenario.copies_machines |= sabotage == Sabotage::CopiesUnknown;
        let disk = founding(&scenario, spec.clone());
        let mut machines = BTreeMap::new();
        for id in 1..=scenario.nodes.len() as u64 {
            let mut machine = Machine::new(&mut random, id, disk.clone());
            if sabotage == Sabotage::ClockTooSlow && id == 1 {
                machine.rate_ppm = 700_000;
            }
            machines.insert(id, machine);
        }
        let founders = machines.keys().copied().take(VOTERS_MAX).collect();
        let (lease, election) = scenario.longest_times(&spec);
        let movable = spec.vips.iter().filter(|(_, vip)| vip.with.is_none());
        Self {
            now: 0,
            random,
            machines,
            queue: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            witnesses: scenario.witnesses(&spec),
            directors: scenario.directors(&spec),
            movable: movable.map(|(vip, _)| *vip).collect(),
            scenario,
            vips: spec.vips.keys().copied().collect(),
            commands_given: 0,
            misread: BTreeMap::new(),
            older: feature_level::OlderBuilds::default(),
            lease,
            election,
            loss_permille: 0,
            slow_disk_ns: 0,
            slow_disks: BTreeMap::new(),
            bad_links: links::BadLinks::default(),
            invariants: invariants::all(),
            goals: health::Goals::default(),
            judged: 0,
            falls_silent: 0,
            changed: false,
            sabotage,
            seed,
            trace: Trace::new(),
            moves: 0,
            answering: BTreeMap::new(),
            voters: Arc::new([(0, founders)].into()),
            hears_since: BTreeMap::new(),
            forged: None,
            links_changed: 0,
            hearing: Default::default(),
            heard_until: BTreeMap::new(),
            seeds: vec![1],
            failures: failures::Failures::default(),
            power: power::Power::default(),
            story: None,
            bulk_loss_permille: 0,
            small_only: BTreeSet::new(),
            drawn: Drawn::default(),
            verbose: std::env::var_os("NINES_SIM_LOG").is_some(),
        }
    }

    /// Numbers of the first members.
    pub fn founders(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.scenario.nodes.len() as u64
    }

    /// One of the first members, by chance.
    pub fn draw_founder(&mut self) -> u64 {
        1 + self.random.below(self.scenario.nodes.len() as u64)
    }

    /// The number of the machine that copies run on; machines that join have higher ones.
    fn copy_id(&self) -> u64 {
        self.scenario.nodes.len() as u64 + 1
    }

    /// The seed of its random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// True time, ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Hash of everything so far.
    pub fn trace(&self) -> u64 {
        self.trace.value()
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
        self.is_switched_on(id);
        self.changed = true;
        let now = self.local(id);
        let name = self.name(self.machines[&id].identity).into();
        let seeds = if self.founders().contains(&id) { Vec::new() } else { self.seeds.clone() };
        let seeds = seeds.into_iter().map(NodeId).collect();
        let machine = self.machines.get_mut(&id).expect("a machine");
        machine.incarnation += 1;
        let identity = machine.identity;
        let machine_boot = machine.power;
        let place = machine.place;
        machine.boot = (machine.incarnation << 32) + id;
        let boot = Incarnation(machine.boot);
        let config = Config { id: NodeId(identity), name, boot, machine_boot, place, seeds };
        machine.node = Some(Node::new(config, now, machine.disk.get()));
        // Which VIPs follow is known to the process, not to the kernel.
        machine.kernel.follow.clear();
        machine.backlog.clear();
        machine.wake = u64::MAX;
        machine.replaced_in_place = false;
        machine.state_seen = judge::StateSeen::default();
        machine.sent.starts(self.now);
        self.tell_wall_clock(id);
        if self.older.mixed {
            self.tell_facts(id);
        }
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

    /// Runs for so long; an error is a broken invariant.
    pub fn run_for(&mut self, length: Millis) -> Result<(), String> {
        let until = self.now + length.ns();
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), (id, incarnation, what)) = entry.remove_entry();
            self.now = at;
            if let Happening::Switched(ended) = &what {
                self.switched(ended);
            }
            if self.machines.get(&id).is_none_or(|m| m.incarnation != incarnation) {
                continue;
            }
            self.happen(id, what);
            self.judge_if_due()?;
        }
        self.now = until;
        self.judge()
    }

    fn happen(&mut self, id: u64, what: Happening) {
        self.trace.add(self.now, id, &what);
        match what {
            Happening::Wake => {
                let machine = self.machines.get_mut(&id).expect("a machine");
                if machine.wake <= self.now {
                    machine.wake = u64::MAX;
                }
                self.feed(id, Event::Tick);
            }
            Happening::Deliver(event) => self.feed(id, event),
            Happening::Switched(ended) => self.switch_answered(id, ended),
            Happening::Written(number, persist) => {
                self.changed = true;
                let forgets = self.sabotage == Sabotage::PromisesForgotten;
                let ends = self.ends_of(&persist);
                let machine = self.machines.get_mut(&id).expect("it is up");
                machine.disk.keep(*persist, ends, forgets);
                self.feed(id, Event::Persisted(number));
            }
            Happening::Done(action, vip, up) => {
                self.changed = true;
                let kernel = &mut self.machines.get_mut(&id).expect("a machine").kernel;
                if up {
                    kernel.addresses.insert(vip);
                } else {
                    kernel.addresses.remove(&vip);
                }
                self.feed(id, Event::Done { id: action, result: Ok(()) });
            }
        }
    }

    /// Gives an event to a node, or keeps it for one that is paused.
    fn feed(&mut self, id: u64, event: Event) {
        let now = self.local(id);
        let paused = self.machines[&id].paused_until > self.now;
        let machine = self.machines.get_mut(&id).expect("a machine");
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
            let before = judge::knowledge(node);
            let fails = matches!(event, Event::PersistFailed(..));
            node.handle(now, event);
            self.changed |= judge::knowledge(node) != before;
            if fails {
                self.note_failed_write(id);
            }
            self.carry_all_out(id, now);
        }
        let Some(node) = self.machines[&id].node.as_ref() else { return };
        let local_wait = node.next_deadline().since(now);
        let rate = self.machines[&id].rate_ppm;
        let wait = (u128::from(local_wait) * 1_000_000 / u128::from(rate)) as u64 + 1_000;
        if self.now + wait < self.machines[&id].wake {
            self.machines.get_mut(&id).expect("a machine").wake = self.now + wait;
            self.schedule(wait, id, Happening::Wake);
        }
    }

    /// Carries actions out; gives the operations that have ended already.
    fn carry_out(&mut self, id: u64, actions: Vec<Action>) -> Vec<u64> {
        let mut ended = Vec::new();
        for action in actions {
            match action {
                Action::Perform { id: number, operation } => {
                    ended.extend(self.perform(id, number, operation));
                }
                Action::Persist(number, persist) => self.write(id, number, persist),
                Action::Send { to, bytes, bulk: true } => {
                    self.send_bulk(id, to.number(), bytes);
                }
                Action::Send { to, bytes, bulk: false } => {
                    self.send(id, to.number(), bytes);
                }
                Action::RestartReady => {
                    self.changed = true;
                    self.kill(id);
                    let machine = self.machines.get_mut(&id).expect("a machine");
                    machine.replaced_in_place = true;
                    self.upgrade_is_due(id);
                    self.start(id);
                    return Vec::new();
                }
                Action::StopReady => {
                    self.changed = true;
                    self.kill(id);
                    return Vec::new();
                }
                Action::BeginAnew(begun) => {
                    self.changed = true;
                    self.begin_anew(id, begun);
                    return Vec::new();
                }
                Action::Check(_) | Action::Reply { .. } => {}
                Action::Log(line) => {
                    if self.verbose {
                        eprintln!("{:>9.3} ms {id}: {line}", self.now as f64 / 1e6);
                    }
                    if let Some(story) = &mut self.story {
                        story.says(self.now, id, line);
                    }
                }
            }
        }
        ended
    }
}
