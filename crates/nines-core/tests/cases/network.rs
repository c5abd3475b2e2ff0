//! A world without chance around a few nodes. Everything takes a millisecond: a message, a write,
//! an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_core::{
    Action, Config, DiskFault, Event, Node,
    action::Operation,
    snapshot,
    state::State,
    wire::{Frame, HardState, Member, Persist, Persisted, Snapshot, frame},
};
use nines_model::{Codes as _, Incarnation, NodeId, Role, ServerRef, Time, config};
use prost::Message as _;

/// A millisecond, in ns.
pub const MS: u64 = 1_000_000;
/// The clocks of all machines when a case begins: they have run for a while.
const BEGIN: u64 = 10_000 * MS;

/// A machine and the node on it.
#[derive(Default)]
pub struct Machine {
    node: Option<Node>,
    disk: Persisted,
    /// Runs of the process.
    starts: u64,
    /// VIPs on its interfaces.
    addresses: BTreeSet<IpAddr>,
    /// Until when its kernel answers for a VIP.
    guards: BTreeMap<IpAddr, Time>,
    /// VIPs whose deadlines are renewed together.
    follow: BTreeSet<IpAddr>,
    /// VIPs that it answers for, as last told.
    answers: BTreeSet<IpAddr>,
    /// Every action is told.
    pub verbose: bool,
    /// Why addresses cannot be put on.
    pub refuses: BTreeMap<IpAddr, String>,
    /// Why its disk takes no write.
    pub disk_fails: Option<String>,
}

enum Happening {
    Wake,
    Look,
    Deliver(Event),
    Written(u64, Box<Persist>),
    Performed(u64, IpAddr, bool),
}

/// The world.
pub struct Network {
    now: Time,
    text: String,
    names: Vec<String>,
    machines: BTreeMap<u64, Machine>,
    /// By time and order: number of the machine, run of its process.
    queue: BTreeMap<(Time, u64), (u64, u64, Happening)>,
    sequence: u64,
    /// Sender and receiver between whom nothing passes.
    cut: BTreeSet<(u64, u64)>,
    /// The transcript.
    pub told: Vec<String>,
}

impl Network {
    /// All nodes of a config, members already; none runs.
    pub fn new(text: &str) -> Self {
        let spec = config::parse(text).expect("the lines above the first case are a config");
        let names: Vec<String> = spec.nodes.keys().map(ToString::to_string).collect();
        let member = |(id, name): (u64, &String)| {
            let witness = spec.nodes[name.as_str()].role == Role::Witness;
            Member { id, name: name.clone(), witness, ..Member::default() }
        };
        let members: Vec<Member> = (1..).zip(&names).map(member).collect();
        let state = State::founded(text.into(), spec.into(), members);
        let data = snapshot::encode(&state);
        let voters: Vec<u64> = (1..=names.len() as u64).collect();
        let disk = Persisted {
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: Snapshot {
                index: 1,
                term: 1,
                voters: voters.clone(),
                learners: Vec::new(),
                data,
            },
            ..Persisted::default()
        };
        let machine = |id| (id, Machine { disk: disk.clone(), ..Machine::default() });
        Self {
            now: Time(BEGIN),
            text: text.to_owned(),
            names,
            machines: voters.into_iter().map(machine).collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            told: Vec::new(),
        }
    }

    /// The config when the case begins.
    pub fn config(&self) -> &str {
        &self.text
    }

    /// The number of a node.
    pub fn id(&self, name: &str) -> u64 {
        let at = self.names.iter().position(|n| n == name);
        1 + at.unwrap_or_else(|| panic!("the config has no node {name}")) as u64
    }

    /// A machine.
    pub fn machine(&mut self, name: &str) -> &mut Machine {
        let id = self.id(name);
        self.machines.get_mut(&id).expect("each node has one")
    }

    fn tell(&mut self, id: u64, what: &str) {
        let ms = (self.now.0 - BEGIN) / MS;
        self.told.push(format!("{ms:>6} ms {}: {what}", self.names[id as usize - 1]));
    }

    fn schedule(&mut self, at: Time, id: u64, what: Happening) {
        self.sequence += 1;
        let run = self.machines[&id].starts;
        self.queue.insert((at, self.sequence), (id, run, what));
    }

    /// Nothing passes from one node to another, or it does again.
    pub fn cut(&mut self, from: &str, to: &str, cut: bool) {
        let link = (self.id(from), self.id(to));
        if cut {
            self.cut.insert(link);
        } else {
            self.cut.remove(&link);
        }
    }

    /// The process of a node starts.
    pub fn start(&mut self, name: &str) {
        let (id, now) = (self.id(name), self.now);
        let machine = self.machine(name);
        machine.starts += 1;
        let boot = machine.starts << 32;
        let (name, seeds) = (name.into(), Vec::new());
        let (boot, place) = (Incarnation(boot + id), id);
        let config = Config { id: NodeId(id), name, boot, machine_boot: 1, place, seeds };
        machine.node = Some(Node::new(config, now, &machine.disk));
        machine.follow.clear();
        self.happen(id, Event::WallClock(1_700_000_000_000 * MS));
    }

    /// The process of a node is killed; addresses and guards stay.
    pub fn kill(&mut self, name: &str) {
        let machine = self.machine(name);
        machine.node = None;
        machine.starts += 1;
    }

    /// Something happens to a node now.
    pub fn event(&mut self, name: &str, event: Event) {
        let id = self.id(name);
        assert!(self.machines[&id].node.is_some(), "{name} does not run");
        self.happen(id, event);
    }

    /// Lets time pass.
    pub fn run(&mut self, ns: u64) {
        let until = Time(self.now.0 + ns);
        while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= until) {
            let ((at, _), (id, run, what)) = entry.remove_entry();
            self.now = at;
            let same_run = self.machines[&id].starts == run;
            match what {
                Happening::Look => self.look(id),
                _ if !same_run => {}
                Happening::Wake => self.happen(id, Event::Tick),
                Happening::Deliver(event) => self.happen(id, event),
                Happening::Written(number, persist) => self.written(id, number, *persist),
                Happening::Performed(action, vip, up) => self.performed(id, action, vip, up),
            }
        }
        self.now = until;
    }

    fn happen(&mut self, id: u64, event: Event) {
        let now = self.now;
        let Some(node) = self.machines.get_mut(&id).and_then(|m| m.node.as_mut()) else { return };
        node.handle(now, event);
        let mut actions = node.take_actions();
        while !actions.is_empty() {
            let ended: Vec<u64> =
                actions.into_iter().filter_map(|action| self.carry_out(id, action)).collect();
            let Some(node) = self.machines.get_mut(&id).and_then(|m| m.node.as_mut()) else {
                return;
            };
            for id in ended {
                node.handle(now, Event::Done { id, result: Ok(()) });
            }
            actions = node.take_actions();
        }
        let Some(node) = self.machines.get_mut(&id).and_then(|m| m.node.as_mut()) else { return };
        let next = node.next_deadline().max(now.plus(nines_model::Millis(1)));
        self.look(id);
        let wakes =
            |(to, _, what): &(u64, u64, Happening)| *to == id && matches!(what, Happening::Wake);
        let sooner = self.queue.iter().any(|((at, _), one)| *at <= next && wakes(one));
        if !sooner {
            self.schedule(next, id, Happening::Wake);
        }
    }

    /// Carries an action out; gives the number of an operation that has ended already.
    fn carry_out(&mut self, id: u64, action: Action) -> Option<u64> {
        let soon = Time(self.now.0 + MS);
        self.tell_action(id, &action);
        let machine = self.machines.get_mut(&id).expect("it acts");
        match action {
            Action::Persist(number, persist) => {
                let what = match &machine.disk_fails {
                    None => Happening::Written(number, persist),
                    Some(why) => {
                        Happening::Deliver(Event::PersistFailed(DiskFault::Failed, why.clone()))
                    }
                };
                self.schedule(soon, id, what);
            }
            Action::Send { to, bytes, .. } if !self.cut.contains(&(id, to.number())) => {
                let event = Event::Frame { from: NodeId(id), link: 0, bytes };
                self.schedule(soon, to.number(), Happening::Deliver(event));
            }
            Action::Perform { id: number, operation } => {
                return self.perform(id, number, operation);
            }
            _ => {}
        }
        None
    }

    fn perform(&mut self, id: u64, number: u64, operation: Operation) -> Option<u64> {
        let soon = Time(self.now.0 + MS);
        let machine = self.machines.get_mut(&id).expect("it acts");
        match operation {
            Operation::Guard(vip, until) => {
                machine.guards.insert(vip, until);
                machine.follow.remove(&vip);
            }
            Operation::Follow(vip, until) => {
                machine.guards.insert(vip, until);
                machine.follow.insert(vip);
            }
            Operation::Renew(until) => {
                let all = machine.follow.iter().map(|vip| (*vip, until));
                machine.guards.extend(all);
            }
            Operation::Address { vip, up } => {
                self.schedule(soon, id, Happening::Performed(number, vip, up));
                return None;
            }
            Operation::Forward(_) => {
                let done = Event::Done { id: number, result: Ok(()) };
                self.schedule(soon, id, Happening::Deliver(done));
                return None;
            }
            _ => {}
        }
        Some(number)
    }

    fn written(&mut self, id: u64, number: u64, persist: Persist) {
        let disk = &mut self.machines.get_mut(&id).expect("it wrote").disk;
        let stay = persist.keeps();
        disk.entries.retain(|e| stay.contains(&e.index));
        disk.entries.extend(persist.entries);
        disk.snapshot = persist.snapshot.unwrap_or_else(|| disk.snapshot.clone());
        disk.hard_state = persist.hard_state.unwrap_or_else(|| disk.hard_state.clone());
        disk.long_promise = persist.long_promise.unwrap_or_else(|| disk.long_promise.clone());
        disk.incarnation = persist.incarnation.unwrap_or_else(|| disk.incarnation.clone());
        disk.retired = persist.retired.unwrap_or_else(|| disk.retired.clone());
        self.happen(id, Event::Persisted(number));
    }

    fn performed(&mut self, id: u64, action: u64, vip: IpAddr, up: bool) {
        let machine = self.machines.get_mut(&id).expect("it acted");
        let refused = machine.refuses.get(&vip).filter(|_| up).cloned();
        match (&refused, up) {
            (None, true) => drop(machine.addresses.insert(vip)),
            (None, false) => drop(machine.addresses.remove(&vip)),
            (Some(_), _) => {}
        }
        let result = refused.map_or(Ok(()), Err);
        self.happen(id, Event::Done { id: action, result });
    }

    /// Tells for what the kernel of a machine answers, if that has changed, and looks again at its
    /// next deadline.
    fn look(&mut self, id: u64) {
        let now = self.now;
        let machine = self.machines.get_mut(&id).expect("it is looked at");
        let open = |vip: &&IpAddr| machine.guards.get(vip).is_some_and(|until| now < *until);
        let answers: BTreeSet<IpAddr> = machine.addresses.iter().filter(open).copied().collect();
        let before = std::mem::replace(&mut machine.answers, answers.clone());
        let next = answers.iter().map(|vip| machine.guards[vip]).min();
        if let Some(next) = next {
            // Most looks find that the deadline has moved on.
            let looks = |(to, _, what): &(u64, u64, Happening)| {
                *to == id && matches!(what, Happening::Look)
            };
            if !self.queue.iter().any(|((at, _), one)| *at <= next && looks(one)) {
                self.schedule(next, id, Happening::Look);
            }
        }
        for vip in before.difference(&answers) {
            self.tell(id, &format!("its kernel answers for {vip} no more"));
        }
        for vip in answers.difference(&before) {
            self.tell(id, &format!("its kernel answers for {vip}"));
        }
    }

    fn tell_action(&mut self, id: u64, action: &Action) {
        let verbose = self.machines[&id].verbose;
        let what = match action {
            Action::Log(line) => format!("logs \"{line}\""),
            Action::Perform { operation, .. } => match self.operation(operation, verbose) {
                Some(what) => what,
                None => return,
            },
            Action::Check(tasks) => {
                let name = |task: &nines_core::health::CheckTask| {
                    format!("{}/{}", task.service, task.server)
                };
                let names: Vec<String> = tasks.iter().map(name).collect();
                if names.is_empty() {
                    return;
                }
                format!("checks {}", names.join(", "))
            }
            Action::Reply { result: Ok((index, text)), .. } => {
                format!("replies: entry {index}, {text}")
            }
            Action::Reply { result: Err(why), .. } => format!("refuses: {why:?}"),
            Action::RestartReady => "may be replaced now".into(),
            Action::StopReady => "may stop now".into(),
            Action::BeginAnew(_) => "begins anew".into(),
            _ if !verbose => return,
            Action::Persist(number, persist) => {
                let entries = persist.entries.len();
                format!("write {}: {entries} entries", number & 0xffff)
            }
            Action::Send { to, bytes, bulk } => {
                let kinds = Frame::decode(bytes.as_slice()).map(|f| kinds(&f)).unwrap_or_default();
                let way = if *bulk { " by TCP" } else { "" };
                format!("sends {kinds} to {}{way}", self.names[to.number() as usize - 1])
            }
        };
        self.tell(id, &what);
    }

    fn operation(&self, operation: &Operation, verbose: bool) -> Option<String> {
        let left = |until: &Time| format!("{} ms", until.since(self.now) / MS);
        Some(match operation {
            Operation::Address { vip, up: true } => format!("wants {vip} on its interface"),
            Operation::Address { vip, up: false } => format!("wants {vip} off its interface"),
            Operation::Announce(vip) => format!("announces {vip}"),
            Operation::Forward(wanted) => {
                let servers = wanted.spec.services.iter().flat_map(|(service, spec)| {
                    spec.servers
                        .keys()
                        .map(|server| ServerRef::new(service.clone(), server.clone()))
                });
                let states = servers.map(|server| {
                    let state = match (wanted.down.contains(&server), &wanted.drained) {
                        (true, _) => "down",
                        (_, drained) if drained.contains(&server) => "draining",
                        _ => "up",
                    };
                    format!("{server} {state}")
                });
                let states: Vec<String> = states.collect();
                if states.is_empty() {
                    "forwards to no server".into()
                } else {
                    format!("forwards: {}", states.join(", "))
                }
            }
            Operation::Fence { device, node, switch, .. } => {
                format!("asks {device} to switch {node}: {}", switch.code())
            }
            _ if !verbose => return None,
            Operation::Guard(vip, until) => format!("guards {vip}: open for {}", left(until)),
            Operation::Follow(vip, until) => {
                format!("guards {vip} with the others: open for {}", left(until))
            }
            Operation::Renew(until) => format!("renews all guards for {}", left(until)),
            Operation::Cover(vips) => {
                let vips: Vec<String> = vips.iter().map(|(vip, _)| vip.to_string()).collect();
                format!("covers {}", vips.join(", "))
            }
            Operation::Serve(_) => "serves VIPs on lo".into(),
            Operation::Watch(vip) => format!("watches for the first packet of {vip}"),
        })
    }
}

/// What a frame carries, in words.
fn kinds(frame: &Frame) -> String {
    let mut words = Vec::new();
    for kind in frame.kind.iter().chain(frame.rest.iter().filter_map(|f| f.kind.as_ref())) {
        words.push(match kind {
            frame::Kind::Heartbeat(_) => "a heartbeat",
            frame::Kind::Ack(_) => "an answer",
            frame::Kind::Raft(_) => "a message of the log",
            frame::Kind::Part(_) => "a set of VIPs",
            frame::Kind::Relay(_) => "a frame through another node",
            frame::Kind::Probe(_) => "a probe of full size",
        });
    }
    words.join(" with ")
}
