//! What a simulated world is made of, as data: machines, cards, disks, config, operators, faults.
//!
//! Decides: the scenario of a seed that names none, and ready-made other ones. A scenario holds no
//! random number; together with a seed it decides everything that happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use nines_core::wire::command;
use nines_model::{Codes as _, Millis, Role, Spec, codes, config};

/// What a simulated world is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Names of the first members; the number of a node is its place here, from 1. Their roles are
    /// those of the config.
    pub nodes: Vec<String>,
    /// Cards of each machine. Card 0 of all machines is on one network, card 1 on another, ...
    pub cards: usize,
    /// How slow the disks of some nodes are, by name; others are as the default.
    pub disks: BTreeMap<String, Disk>,
    /// The config when the world begins.
    pub text: String,
    /// Parts of the config that operators take out and put back.
    pub removable: Vec<String>,
    /// What operators ask for, and when: time since the safety phase began, number of the node that
    /// is asked, command. Sorted by time.
    pub commands: Vec<(Millis, u64, command::Kind)>,
    /// Length of the safety phase, in which faults happen.
    pub length: Millis,
    /// What goes wrong: each entry is as likely as any other.
    pub faults: Vec<Fault>,
    /// Whether operators change the config; it is then applied whole before the world must heal.
    pub changes_config: bool,
    /// Sections with other times than those of the config, one of which operators put in force.
    pub timings: Vec<String>,
    /// For how long everything must stay as it is in the end.
    pub calm: Millis,
    /// Whether most machines fail for good after that, and the others have to say so.
    pub ends_stuck: bool,
    /// Whether machines are copied.
    pub copies_machines: bool,
    /// The only machine that faults happen to; `None`: they happen to all.
    pub victim: Option<u64>,
}

/// How long a disk takes for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Shortest time of a write, in ns.
    pub write_ns_min: u64,
    /// Random time of a write beyond that, below this many ns.
    pub write_ns_spread: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self { write_ns_min: 200_000, write_ns_spread: 2_000_000 }
    }
}

codes! {
    /// One kind of fault, or the end of some.
    pub enum Fault {
        /// The process of a node is killed.
        Kill = "kill",
        /// A machine loses its power.
        PowerOff = "power-off",
        /// A process stands still for up to 3 s.
        Pause = "pause",
        /// Two machines hear each other no more.
        CutBoth = "cut-both",
        /// One machine does not hear another.
        CutOne = "cut-one",
        /// A machine hears nobody and is heard by nobody.
        Isolate = "isolate",
        /// One card of a machine fails.
        CardFails = "card-fails",
        /// The switch between all cards of one network fails.
        NetworkFails = "network-fails",
        /// Up to 30 % of all messages are lost.
        Loss = "loss",
        /// Disks take up to 200 ms more for a write.
        SlowDisks = "slow-disks",
        /// Somebody wants a VIP elsewhere.
        MoveRequest = "move-request",
        /// A process asks for a long lease and is replaced.
        PlannedRestart = "planned-restart",
        /// Somebody takes a part out of the config.
        TakeOut = "take-out",
        /// Somebody puts the whole config back.
        PutBack = "put-back",
        /// A machine is copied, and the copy runs besides for some seconds.
        Copy = "copy",
        /// The copy is stopped, and the original starts again.
        EndCopy = "end-copy",
        /// A fence device does not do what it is asked.
        DeviceFails = "device-fails",
        /// A disk has no room left.
        FullDisk = "full-disk",
        /// Every write of a disk fails.
        DiskFails = "disk-fails",
        /// The disk of one machine takes up to 400 ms more for a write.
        SlowDisk = "slow-disk",
        /// Up to 90 % of the messages from one machine to another are lost, on one card.
        LinkLoss = "link-loss",
        /// A link is away and back, again and again.
        Flap = "flap",
        /// The boot clock of a machine has another rate, within what leases allow.
        ClockRate = "clock-rate",
        /// The wall clock of a machine is set to another time, years away.
        WallClock = "wall-clock",
        /// Operators change beat, lease and election timeout.
        OtherTiming = "other-timing",
        /// A machine joins the cluster.
        Join = "join",
        /// A machine that has joined is removed.
        Remove = "remove",
        /// Somebody who is no member sends something.
        Stranger = "stranger",
        /// All links, cards, disks and devices work again, and up to two nodes start. Ends come as
        /// often as faults, so that the cluster also works in between.
        End = "end",
    }
}

/// One fault of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, since the safety phase began.
    pub at: Millis,
    /// What kind.
    pub fault: Fault,
    /// The machine that it happens to.
    pub node: u64,
    /// Another machine, where two are concerned; it may be the same.
    pub other: u64,
    /// How strong it is, and all else that its kind leaves open.
    pub seed: u64,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, fault, node, other, seed } = self;
        let at = at.0 as f64 / 1e3;
        write!(f, "{at:.3} s: {} node {node}, other {other}, seed {seed:016x}", fault.code())
    }
}

/// How often each kind of fault was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn(BTreeMap<Fault, u64>);

impl Default for Drawn {
    fn default() -> Self {
        Self(Fault::ALL.iter().map(|fault| (*fault, 0)).collect())
    }
}

impl Drawn {
    /// Counts another one.
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(fault, count)| *self.0.entry(*fault).or_default() += count);
    }

    /// Each kind, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        self.0.iter().map(|(fault, count)| (*fault, *count))
    }
}

impl Fault {
    /// What happens in every world, and with operators that change the config.
    pub fn mix(changes_config: bool) -> Vec<Self> {
        use Fault::{
            CutBoth, CutOne, End, Isolate, Kill, Loss, MoveRequest, Pause, PlannedRestart,
            PowerOff, PutBack, SlowDisks, TakeOut,
        };
        // The order is part of what a seed means.
        let mut mix = vec![
            Kill,
            PowerOff,
            Pause,
            Pause,
            CutBoth,
            CutOne,
            Isolate,
            Loss,
            SlowDisks,
            MoveRequest,
            PlannedRestart,
            End,
            End,
            End,
        ];
        if changes_config {
            mix.extend([TakeOut, PutBack]);
        }
        mix
    }

    /// What happens besides where disks take no writes.
    pub fn of_disks() -> [Self; 3] {
        [Self::FullDisk, Self::FullDisk, Self::DiskFails]
    }

    /// What happens besides where machines have several cards.
    pub fn of_cards() -> [Self; 4] {
        [Self::CardFails, Self::CardFails, Self::CardFails, Self::NetworkFails]
    }
}

mod swarm;

const THREE: &str = "[cluster]\nname = \"sim\"\n[nodes]\nlb1 = \"10.0.0.1\"\nlb2 = \"10.0.0.2\"\n\
    wit = { addresses = \"10.0.0.3\", role = \"witness\" }\n\
    [vip.a]\naddress = \"10.0.0.100\"\n[vip.b]\naddress = \"10.0.0.101\"\n";
/// In some seeds a third address, which goes where the first one goes.
const SOURCES: &str = "[service.web]\nlisten = \"10.0.0.100:80\"\nforward = \"full-nat\"\n\
    check = \"none\"\nservers = { r1 = \"10.0.0.11\" }\nsource-pool = [\"10.0.0.102\"]\n";
/// The part of both configs that operators take away and put back.
const SECOND_VIP: &str = "[vip.b]\naddress = \"10.0.0.101\"\n";

impl Scenario {
    /// Two directors and a witness, one network. The seed selects what else there is: a third
    /// address in half of the seeds, operators that change the config in every other one, copies
    /// of machines in every eighth, disks that are full or fail in two of sixteen.
    pub fn of_seed(seed: u64) -> Self {
        let changes_config = seed.is_multiple_of(2);
        let mut faults = Fault::mix(changes_config);
        if [9, 14].contains(&(seed % 16)) {
            faults.extend(Fault::of_disks());
        }
        Self {
            nodes: ["lb1", "lb2", "wit"].map(str::to_owned).into(),
            cards: 1,
            disks: BTreeMap::new(),
            text: if seed % 4 < 2 { THREE.to_owned() } else { format!("{THREE}{SOURCES}") },
            removable: vec![SECOND_VIP.to_owned()],
            commands: Vec::new(),
            length: Millis(20_000),
            faults,
            changes_config,
            timings: Vec::new(),
            calm: Millis(3_000),
            ends_stuck: true,
            copies_machines: seed % 8 == 5,
            victim: None,
        }
    }

    /// Two directors, a witness if wanted, and a fence device for each; the devices fail as well.
    pub fn fenced(witness: bool) -> Self {
        let mut it = Self::sized(2, u8::from(witness), 2, 1);
        for name in &it.nodes {
            let device = format!("[fence.bmc-{name}]\nagent = \"fence_ipmilan\"\n");
            write!(it.text, "{device}node = \"{name}\"\ntimeout = \"5s\"\n")
                .expect("strings take everything");
        }
        it.text.push_str("[fencing]\nafter = \"500ms\"\ndelay = \"3s\"\n");
        it.faults.extend([Fault::DeviceFails, Fault::DeviceFails]);
        it
    }

    /// So many directors and witnesses, with so many VIPs and cards each. Operators change the
    /// config: they take the second VIP out and put it back.
    pub fn sized(directors: u8, witnesses: u8, vips: u8, cards: usize) -> Self {
        let mut text = "[cluster]\nname = \"sim\"\n[nodes]\n".to_owned();
        let mut nodes = Vec::new();
        for n in 1..=directors + witnesses {
            let addresses: Vec<String> =
                (0..cards).map(|card| format!("\"10.{card}.0.{n}\"")).collect();
            let (name, role) = match n.checked_sub(directors + 1) {
                None => (format!("lb{n}"), "director"),
                Some(after) => (format!("wit{}", after + 1), "witness"),
            };
            let addresses = addresses.join(", ");
            writeln!(text, "{name} = {{ addresses = [{addresses}], role = \"{role}\" }}")
                .expect("strings take everything");
            nodes.push(name);
        }
        let vip = |n: u8| format!("[vip.v{n}]\naddress = \"10.0.1.{n}\"\n");
        (1..=vips).for_each(|n| text.push_str(&vip(n)));
        let removable = if vips > 1 { vec![vip(2)] } else { Vec::new() };
        let mut faults = Fault::mix(!removable.is_empty());
        if cards > 1 {
            faults.extend(Fault::of_cards());
        }
        Self {
            nodes,
            cards,
            text,
            changes_config: !removable.is_empty(),
            removable,
            faults,
            copies_machines: false,
            ..Self::of_seed(0)
        }
    }

    /// The config when the world begins.
    pub(crate) fn spec(&self) -> Spec {
        config::parse(&self.text).expect("the config of a scenario is right")
    }

    /// The longest lease and election timeout of this config, and of all that operators may put in
    /// force.
    pub(crate) fn longest_times(&self, spec: &Spec) -> (Millis, Millis) {
        let parse = |timing: &String| config::parse(&format!("{}{timing}", self.text));
        let others = self.timings.iter().map(|timing| parse(timing).expect("it is right").timing);
        let all = others.chain([spec.timing.clone()]);
        all.fold((Millis(0), Millis(0)), |(lease, election), timing| {
            (lease.max(timing.lease), election.max(timing.election))
        })
    }

    /// Names of the first members that are directors by this config.
    pub(crate) fn directors(&self, spec: &Spec) -> Vec<String> {
        let is = |name: &&String| {
            spec.nodes.get(name.as_str()).is_some_and(|n| n.role == Role::Director)
        };
        self.nodes.iter().filter(is).cloned().collect()
    }

    /// Numbers of the first members that are witnesses by this config.
    pub(crate) fn witnesses(&self, spec: &Spec) -> BTreeSet<u64> {
        let is = |name: &str| spec.nodes.get(name).is_some_and(|n| n.role == Role::Witness);
        (1..).zip(&self.nodes).filter(|(_, name)| is(name)).map(|(id, _)| id).collect()
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, name: &str) -> Disk {
        self.disks.get(name).copied().unwrap_or_default()
    }
}
