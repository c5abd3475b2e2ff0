use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command},
    time::Instant,
};

use nines_lab::power::{AGENT, Mode, PowerSwitch};
use nines_model::{FenceProgram, Switch, Time};

use super::*;
use crate::core_thread::{self, Inbox};

/// Bound for hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// The threads, a power switch of the lab, and the end where the core would be.
struct Harness {
    handle: FenceHandle,
    inbox: Inbox,
    power: PowerSwitch,
    room: PathBuf,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.handle.end();
        let _ = std::fs::remove_dir_all(&self.room);
    }
}

impl Harness {
    fn new(name: &str) -> Self {
        let room = std::env::temp_dir().join(format!("nines-fence-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&room);
        let power = PowerSwitch::new(&room).unwrap();
        let (handle, inbox) = Self::threads(power.agents());
        Self { handle, inbox, power, room }
    }

    fn threads(agents: PathBuf) -> (FenceHandle, Inbox) {
        let (_poll, core, inbox) = core_thread::channel().unwrap();
        let (handle, asked) = channel(agents);
        threads::spawn("fence", move || run(&asked, &core, &Logger::stderr())).unwrap();
        (handle, inbox)
    }

    /// Asks for something, and does not wait.
    fn ask(&self, id: u64, (device, config): (&str, &FenceDevice), node: &str, switch: Switch) {
        let (device, config) = (device.into(), config.clone());
        let call = FenceCall { device, config, node: node.into(), switch, until: Time(u64::MAX) };
        assert!(self.handle.ask(id, Box::new(call)).is_none());
    }

    /// The next answer.
    fn answer(&self) -> (u64, Result<(), String>) {
        match self.inbox.event(PATIENCE) {
            Some(Event::Done { id, result }) => (id, result),
            _ => panic!("no answer"),
        }
    }

    /// The answer to one call.
    fn told(&self, device: (&str, &FenceDevice), node: &str, switch: Switch) -> Result<(), String> {
        self.ask(7, device, node, switch);
        let (id, result) = self.answer();
        assert_eq!(id, 7);
        result
    }

    /// A device of node lb1, whose option "ip" is its name.
    fn device(name: &str, ms: u64) -> FenceDevice {
        FenceDevice {
            program: FenceProgram::Agent(AGENT.into()),
            options: [("ip".to_owned(), name.to_owned())].into(),
            secrets: BTreeMap::new(),
            outlets: [("lb1".into(), Some("lb1".to_owned()))].into(),
            trust_off: false,
            timeout: Millis(ms),
        }
    }

    /// A process that the outlet of lb1 kills, and which does not hear any signal but that.
    fn machine(&self) -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        nines_lab::freeze(&child).unwrap();
        self.power.connect("lb1", None, &[child.id()]).unwrap();
        child
    }

    fn eventually(what: &str, is: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_machine_is_switched_off_and_on_and_each_call_is_answered_once() {
    let harness = Harness::new("off");
    let mut machine = harness.machine();
    let pdu = Harness::device("pdu", 20_000);
    let told = |switch| harness.told(("pdu", &pdu), "lb1", switch);
    assert_eq!(told(Switch::Test), Ok(()));
    assert!(machine.try_wait().unwrap().is_none() && !harness.power.is_off("lb1"));
    assert_eq!(told(Switch::Off), Ok(()));
    assert!(!machine.wait().unwrap().success(), "the machine itself");
    assert!(harness.power.is_off("lb1"));
    assert_eq!(told(Switch::Test), Ok(()), "it works, and says that the machine is off");
    assert_eq!(told(Switch::On), Ok(()));
    assert!(!harness.power.is_off("lb1"));
    let calls = [
        ("monitor pdu", "status lb1 pdu"),
        ("off lb1 pdu", "status lb1 pdu"),
        ("monitor pdu", "status lb1 pdu"),
        ("on lb1 pdu", "status lb1 pdu"),
    ];
    let calls: Vec<&str> = calls.iter().flat_map(|(one, other)| [*one, *other]).collect();
    assert_eq!(harness.power.calls(), calls);
    assert!(harness.inbox.event(Duration::from_millis(100)).is_none());
}

#[test]
fn what_went_wrong_is_a_sentence_with_the_device_and_its_outlet() {
    let harness = Harness::new("wrong");
    let mut machine = harness.machine();
    let pdu = Harness::device("pdu", 1_500);
    let why = |config: &FenceDevice, node: &str, switch| {
        harness.told(("pdu", config), node, switch).unwrap_err()
    };
    harness.power.behave("pdu", Mode::Refuses).unwrap();
    let refused = "exit code 1: ERROR: Failed: Unable to connect/login to fencing device";
    let off = why(&pdu, "lb1", Switch::Off);
    assert_eq!(off, format!("pdu, outlet lb1: \"off\" failed: {refused}"));
    let test = why(&pdu, "lb1", Switch::Test);
    assert_eq!(test, format!("pdu, outlet lb1: \"monitor\" failed: {refused}"));
    harness.power.behave("pdu", Mode::Lies).unwrap();
    let lie = why(&pdu, "lb1", Switch::Off);
    assert_eq!(lie, "pdu, outlet lb1: the agent says that \"off\" worked, and it is still on");
    harness.power.behave("pdu", Mode::Hangs).unwrap();
    let hangs = why(&pdu, "lb1", Switch::Off);
    assert_eq!(hangs, "pdu, outlet lb1: \"off\" failed: no answer before the deadline");
    assert!(machine.try_wait().unwrap().is_none(), "it runs through all of this");
    harness.power.behave("pdu", Mode::Obeys).unwrap();
    assert_eq!(why(&pdu, "lb2", Switch::Off), "pdu: it does not switch lb2");
    let ipmi = FenceDevice { program: FenceProgram::Agent("fence_ipmilan".into()), ..pdu.clone() };
    let missing = why(&ipmi, "lb1", Switch::Off);
    assert_eq!(missing, "pdu: fence_ipmilan is not installed: apt install fence-agents");
    let misspelt = FenceDevice {
        options: [("passwrd", "x"), ("plug", "7")].map(|(k, v)| (k.into(), v.into())).into(),
        ..pdu.clone()
    };
    assert_eq!(
        why(&misspelt, "lb1", Switch::Off),
        "pdu: fence_lab does not take its options: \"passwrd\" is not a key of the agent; did you \
         mean \"password\"?; \"plug\" differs from node to node: give it as the outlet of a node"
    );
    let secrets = [("password".to_owned(), "/nonexistent/secret".to_owned())].into();
    let secret = why(&FenceDevice { secrets, ..pdu }, "lb1", Switch::Off);
    assert!(secret.starts_with("pdu, outlet lb1: \"off\" failed: the file of \"password\", /none"));
    assert!(secret.ends_with("/secret: No such file or directory (os error 2)"), "{secret}");
    assert!(machine.try_wait().unwrap().is_none());
    nines_lab::kill(&mut machine);
}

#[test]
fn a_device_has_one_call_at_a_time_and_waits_for_no_other_device() {
    let harness = Harness::new("queues");
    let mut machine = harness.machine();
    let [slow, hangs] = ["slow", "hangs"].map(|name| Harness::device(name, 60_000));
    harness.power.behave("slow", Mode::Slow).unwrap();
    harness.power.behave("hangs", Mode::Hangs).unwrap();
    harness.ask(1, ("hangs", &hangs), "lb1", Switch::Off);
    harness.ask(2, ("hangs", &hangs), "lb1", Switch::Off);
    harness.ask(3, ("slow", &slow), "lb1", Switch::Off);
    harness.ask(4, ("slow", &slow), "lb1", Switch::On);
    harness.ask(5, ("slow", &slow), "lb1", Switch::Test);
    for id in [3, 4, 5] {
        assert_eq!(harness.answer(), (id, Ok(())), "in their order");
    }
    assert!(!harness.power.is_off("lb1"), "on came after off");
    let calls = harness.power.calls();
    let of = |device: &str| calls.iter().filter(|call| call.ends_with(device)).count();
    assert_eq!((of(" slow"), of(" hangs")), (6, 1), "{calls:?}");
    assert!(!calls.iter().any(|call| call.contains("two callers")), "{calls:?}");
    nines_lab::kill(&mut machine);
}

#[test]
fn a_test_gives_way_to_what_switches() {
    let harness = Harness::new("way");
    let mut machine = harness.machine();
    let pdu = Harness::device("pdu", 60_000);
    harness.power.behave("pdu", Mode::Hangs).unwrap();
    harness.ask(1, ("pdu", &pdu), "lb1", Switch::Test);
    harness.ask(2, ("pdu", &pdu), "lb1", Switch::Test);
    Harness::eventually("the test hangs", || harness.power.calls().len() == 1);
    harness.power.behave("pdu", Mode::Obeys).unwrap();
    harness.ask(3, ("pdu", &pdu), "lb1", Switch::Off);
    harness.ask(4, ("pdu", &pdu), "lb1", Switch::On);
    let why = "pdu, outlet lb1: the test gave way to another call".to_owned();
    assert_eq!(harness.answer(), (1, Err(why)));
    for id in [3, 4, 2] {
        assert_eq!(harness.answer(), (id, Ok(())));
    }
    let calls = harness.power.calls();
    assert_eq!(calls[..2], ["monitor pdu", "off lb1 pdu"], "{calls:?}");
    assert!(!calls.iter().any(|call| call.contains("two callers")), "{calls:?}");
    assert!(!machine.wait().unwrap().success());
}

#[test]
fn the_end_of_the_agent_waits_for_no_device_and_leaves_no_fence_agent() {
    let harness = Harness::new("end");
    let mut machine = harness.machine();
    let pdu = Harness::device("pdu", 60_000);
    harness.power.behave("pdu", Mode::Hangs).unwrap();
    harness.ask(1, ("pdu", &pdu), "lb1", Switch::Off);
    harness.ask(2, ("pdu", &pdu), "lb1", Switch::Off);
    Harness::eventually("the agent was called", || harness.power.calls().len() == 1);
    let pid = harness.power.caller("pdu").unwrap();
    let begun = Instant::now();
    harness.handle.end();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it has ended, and was reaped");
    let cancelled = "pdu, outlet lb1: cancelled; whether it is on is unknown";
    assert_eq!(harness.answer(), (1, Err(cancelled.to_owned())));
    let (id, refused) = harness.answer();
    assert!(id == 2 && refused.unwrap_err().contains("no program is started any more"));
    assert_eq!(harness.power.calls(), ["off lb1 pdu"], "nothing was begun after that");
    assert!(machine.try_wait().unwrap().is_none());
    nines_lab::kill(&mut machine);
}

#[test]
fn a_call_without_room_fails_at_once_and_none_is_lost() {
    let call = |device: String| {
        let (device, config) = (device.as_str().into(), Harness::device("pdu", 1_000));
        Box::new(FenceCall {
            device,
            config,
            node: "lb1".into(),
            switch: Switch::Off,
            until: Time(u64::MAX),
        })
    };
    // Nobody takes anything out of this queue.
    let (handle, _inbox) = channel("/nowhere".into());
    for id in 0..threads::FENCE as u64 {
        assert!(handle.ask(id, call("pdu".into())).is_none());
    }
    let Some(Event::Done { id: 99, result: Err(why) }) = handle.ask(99, call("pdu".into())) else {
        panic!("it is told");
    };
    assert_eq!(why, "pdu: too many calls wait for it");
    let (mut queues, pdu) = (Queues::default(), DeviceName::from("pdu"));
    assert!(queues.put((0, call("pdu".into()))).unwrap().is_some(), "begun");
    for id in 1..=threads::FENCE as u64 {
        assert!(queues.put((id, call("pdu".into()))).unwrap().is_none(), "waits");
    }
    assert!(queues.put((98, call("pdu".into()))).is_err());
    assert!(queues.put((97, call("other".into()))).unwrap().is_some(), "another one");
    for id in 1..=threads::FENCE as u64 {
        assert_eq!(queues.over(&pdu).map(|((id, _), _)| id), Some(id));
    }
    assert!(queues.over(&pdu).is_none());
    assert!(queues.put((96, call("pdu".into()))).unwrap().is_some(), "nobody has it any more");
    let others = (0..DEVICES_MAX).map(|n| queues.put((1, call(format!("d{n}")))));
    assert_eq!(others.filter(Result::is_err).count(), 2, "as many as there may be at a time");
}

#[test]
fn an_agent_of_the_distribution_is_told_what_the_config_says() {
    if !Path::new(DIRECTORY).join("fence_dummy").exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: fence_dummy is not installed");
        return;
    }
    let mut harness = Harness::new("dummy");
    (harness.handle, harness.inbox) = Harness::threads(DIRECTORY.into());
    let state = harness.room.join("state").to_str().unwrap().to_owned();
    let dummy = FenceDevice {
        program: FenceProgram::Agent("fence_dummy".into()),
        options: [("status_file".to_owned(), state.clone())].into(),
        outlets: [("lb1".into(), None)].into(),
        ..Harness::device("dummy", 60_000)
    };
    for (switch, holds) in [(Switch::On, "on"), (Switch::Test, "on"), (Switch::Off, "off")] {
        assert_eq!(harness.told(("dummy", &dummy), "lb1", switch), Ok(()));
        assert_eq!(std::fs::read_to_string(&state).unwrap().trim(), holds);
    }
}

/// The program is a real one, with a machine that it ends, and a file for what it was told.
#[test]
fn a_program_of_the_operator_switches_machines_too() {
    use std::os::unix::fs::PermissionsExt as _;
    let harness = Harness::new("own");
    let mut machine = Command::new("sleep").arg("600").spawn().unwrap();
    let (program, told) = (harness.room.join("power"), harness.room.join("told"));
    let script = format!(
        "#!/bin/sh\necho \"$@ $NINES_ACTION $NINES_NODE $NINES_OUTLET\" >> {told}\n\
         case $1 in\n off) kill -9 {pid};;\n\
         status) [ -d /proc/{pid} ] && [ \"$(cut -d' ' -f3 /proc/{pid}/stat)\" != Z ] \
         && exit 0\n echo 'Status: OFF'; exit 2;;\n\
         on) echo no hand to push the button >&2; exit 1;;\nesac\n",
        told = told.display(),
        pid = machine.id(),
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = FenceDevice {
        program: FenceProgram::Command(program.to_str().unwrap().to_owned()),
        options: BTreeMap::new(),
        outlets: [("lb1".into(), Some("7".to_owned()))].into(),
        ..Harness::device("own", 20_000)
    };
    let told_of = |switch| harness.told(("own", &own), "lb1", switch);
    assert_eq!(told_of(Switch::Test), Ok(()));
    assert!(machine.try_wait().unwrap().is_none(), "a test switches nothing");
    assert_eq!(told_of(Switch::Off), Ok(()));
    assert!(!machine.wait().unwrap().success(), "the machine itself");
    let short = FenceDevice { timeout: Millis(1_500), ..own.clone() };
    let on = harness.told(("own", &short), "lb1", Switch::On).unwrap_err();
    assert!(on.contains("outlet 7: \"on\" failed, and it is still off"), "{on}");
    assert!(on.ends_with("exit code 1: no hand to push the button"), "{on}");
    let calls = std::fs::read_to_string(&told).unwrap();
    let lines: Vec<&str> = calls.lines().take(3).collect();
    let line = |action: &str| format!("{action} lb1 {action} lb1 7");
    assert_eq!(lines, [line("status"), line("off"), line("status")]);
    let gone = FenceProgram::Command("/nonexistent/power".into());
    let gone = FenceDevice { program: gone, ..own };
    let why = harness.told(("own", &gone), "lb1", Switch::Off).unwrap_err();
    assert!(why.ends_with("not started: there is no such program, or its interpreter is missing"));
}
