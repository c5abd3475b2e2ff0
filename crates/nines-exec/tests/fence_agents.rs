//! Real fence agents: those of the distribution where they are installed, a simulated baseboard
//! management controller, and scripts that lie, hang and babble.

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use nines_exec::{
    NotStarted, Processes, Runner,
    fake::fence_device::METADATA,
    fence_agent::{
        Action, Answer, Device, DeviceConfig, Evidence, Failure, Installed, Metadata, NoCall,
        NoMetadata, Outlet, Power, PowerOff, PowerOn, Problem, Tested,
    },
};
use nines_model::Millis;

/// Long enough for any agent on a busy machine.
const LONG: Millis = Millis(60_000);

fn runner() -> Arc<dyn Runner> {
    Arc::new(Processes::new(10))
}

/// A directory of this test's own, which goes with it.
struct Room(PathBuf);

impl Room {
    fn new(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nines-fence-{name}-{}-{number}", std::process::id());
        let room = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&room);
        fs::create_dir_all(&room).unwrap();
        Self(room)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A device of node "a" with this agent and these parameters.
fn config(agent: &str, parameters: &[(&str, &str)]) -> DeviceConfig {
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    DeviceConfig {
        name: "device-a".into(),
        agent: agent.into(),
        parameters: parameters.iter().map(text).collect(),
        outlets: [("a".to_owned(), Outlet::Only)].into(),
        ..DeviceConfig::default()
    }
}

/// A device whose agent is a script, made of what it does for each action.
fn scripted(room: &Room, does: &str) -> Arc<Device> {
    room.file("metadata", METADATA, 0o644);
    let script = format!(
        "#!/bin/sh\nroom={}\n[ \"$1\" = -o ] && exec cat $room/metadata\n\
         while IFS= read -r line; do case $line in action=*) action=${{line#action=}};; esac; \
         echo \"$line\" >>$room/told; done\necho $$ >$room/pid\n{does}\n",
        room.0.display()
    );
    let old = room.path("fence_script");
    let _ = fs::remove_file(old);
    room.file("fence_script", &script, 0o755);
    let metadata = Installed::in_directory(&room.0);
    let metadata = metadata.metadata(&*runner(), "fence_script", LONG).unwrap();
    let device = config("fence_script", &[("ip", "10.0.0.9")]).check(metadata).unwrap();
    Arc::new(device.in_directory(&room.0))
}

fn answer(device: &Device, action: Action<'_>, deadline: u64) -> Answer {
    device.call(action, Millis(deadline)).unwrap().carry_out(&*runner())
}

fn failure(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Whether the process of this number runs. One whose parent has gone may wait for init to reap it.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a program of the distribution is here; a test that needs it says so.
fn has(program: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_there = found.iter().any(|room| Path::new(room).join(program).exists());
    if !is_there {
        println!("SKIPPED: {program} is not installed");
    }
    is_there
}

#[test]
fn every_installed_agent_is_understood() {
    let (installed, runner) = (Installed::default(), runner());
    let names = installed.names();
    if names.is_empty() {
        println!("SKIPPED: no fence agent is installed");
        return;
    }
    let (mut read, begun) = (0, Instant::now());
    for name in &names {
        let metadata = match installed.metadata(&*runner, name, LONG) {
            Ok(metadata) => metadata,
            // It asks a person.
            Err(why) if name == "fence_ack_manual" => {
                assert_eq!(why, NoMetadata::Failed(nines_exec::Exit::Code(1)));
                continue;
            }
            Err(why) => panic!("{name}: {why}"),
        };
        read += 1;
        assert!(metadata.actions.contains_key("metadata"), "{name}");
        assert!(metadata.parameters.values().all(|p| !p.summary.contains('\n')), "{name}");
        configured(name, &metadata);
    }
    let last = names.last().unwrap();
    assert!(installed.metadata(&*runner, last, Millis(0)).is_ok(), "it was kept");
    println!("{read} of {} agents read in {:?}", names.len(), begun.elapsed());
}

/// A config that gives an agent what it misses, and only that, is good.
fn configured(name: &str, metadata: &Arc<Metadata>) {
    let outlet = Outlet::Named("1".into());
    let knows_outlets = ["plug", "port"].iter().any(|key| metadata.parameters.contains_key(*key));
    let outlet = if knows_outlets { outlet } else { Outlet::Only };
    let mut config = DeviceConfig {
        name: name.to_owned(),
        agent: name.to_owned(),
        outlets: [("a".to_owned(), outlet)].into(),
        trusts_off: true,
        ..DeviceConfig::default()
    };
    let problems = config.clone().check(Arc::clone(metadata)).err().unwrap_or_default();
    let secrets = ["apikey", "token"];
    for problem in &problems {
        match problem {
            Problem::Missing(key) if secrets.contains(&key.as_str()) => {
                config.secrets.insert(key.clone(), "/etc/hostname".into());
            }
            Problem::Missing(key) => drop(config.parameters.insert(key.clone(), "x".into())),
            Problem::NoOff => assert_eq!(name, "fence_rcd_serial", "the only one"),
            other => panic!("{name}: {other}"),
        }
    }
    let can_off = metadata.actions.contains_key("off");
    let good = config.clone().check(Arc::clone(metadata));
    assert!(good.is_ok() == can_off, "{name}: {:?}", good.err());
    config.parameters.insert("no_such_key".into(), "1".into());
    let wrong = config.check(Arc::clone(metadata)).unwrap_err();
    assert!(wrong.iter().any(|p| matches!(p, Problem::Unknown { .. })), "{name}: {wrong:?}");
}

fn real(agent: &str, config: DeviceConfig) -> Arc<Device> {
    let metadata = Installed::default().metadata(&*runner(), agent, LONG).unwrap();
    Arc::new(config.check(metadata).unwrap_or_else(|problems| panic!("{problems:?}")))
}

#[test]
fn fence_dummy_is_switched_off_and_on_and_a_failing_one_is_told() {
    if !has("fence_dummy") {
        return;
    }
    let room = Room::new("dummy");
    let state = room.path("state");
    let device = real("fence_dummy", config("fence_dummy", &[("status_file", &state)]));
    let at = |action| answer(&device, action, LONG.0);
    assert_eq!(at(Action::On("a")), Answer::Done);
    assert_eq!(at(Action::Status("a")), Answer::Power(Power::On));
    assert_eq!(at(Action::Monitor), Answer::Done);
    let outcome = device.power_off_and_wait(runner(), "a", LONG);
    assert!(matches!(outcome, PowerOff::Confirmed(_)), "{outcome}");
    let tried = || device.test_and_wait(runner(), "a", LONG);
    assert_eq!(tried(), Tested::Works(Some(Power::Off)));
    let outcome = device.power_on_and_wait(runner(), "a", LONG);
    assert_eq!(outcome, PowerOn::Confirmed(Evidence::ReadBack));
    assert_eq!(tried(), Tested::Works(Some(Power::On)));
    let parameters = [("status_file", &*state), ("type", "fail"), ("power_timeout", "1")];
    let failing = real("fence_dummy", config("fence_dummy", &parameters));
    let outcome = failing.power_off_and_wait(runner(), "a", Millis(8_000));
    let PowerOff::Failed { why: Failure::Code { code: 1, said }, then } = outcome else {
        panic!("{outcome}")
    };
    assert!(said.contains("Timed out waiting to power OFF"), "{said}");
    assert_eq!(then, Some(Power::On));
}

/// A baseboard management controller that `ipmi_sim` plays; the machine behind it is a file.
struct Bmc {
    room: Room,
    port: u16,
    simulator: Child,
}

impl Bmc {
    fn start() -> Self {
        let room = Room::new("bmc");
        // Free a moment ago, and nobody else asks here for one.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let power = room.path("power");
        let chassis = format!(
            "#!/bin/sh\ncase \"$2 $3\" in\n'get power') echo \"power:$(cat {power})\";;\n\
             'set power') echo $4 >{power};;\nesac\n"
        );
        let chassis = room.file("chassis", &chassis, 0o755);
        fs::write(&power, "1\n").unwrap();
        let auths: Vec<String> = ["callback", "user", "operator", "admin"]
            .map(|level| format!("allowed_auths_{level} none md2 md5 straight\n"))
            .into();
        let lan = format!(
            "name \"a\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n\
             {}guid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"{} 0x20\"\n\
             user 1 true \"\" \"test\" user 10 none md2 md5 straight\n\
             user 2 true \"admin\" \"secret\" admin 10 none md2 md5 straight\n",
            auths.concat(),
            chassis.display()
        );
        let lan = room.file("lan.conf", &lan, 0o644);
        let emulated = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\n\
            sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
        let emulated = room.file("node.emu", emulated, 0o644);
        fs::create_dir(room.path("state")).unwrap();
        let mut command = Command::new("ipmi_sim");
        command
            .arg("-n")
            .arg("-c")
            .arg(lan)
            .arg("-f")
            .arg(emulated)
            .arg("-s")
            .arg(room.path("state"));
        let simulator = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { simulator: simulator.spawn().unwrap(), room, port }
    }

    /// Its device, with a password of which the agent is told.
    fn device(&self, password: &str) -> Arc<Device> {
        let port = self.port.to_string();
        let parameters = [
            ("ip", "127.0.0.1"),
            ("ipport", &port),
            ("lanplus", "1"),
            ("cipher", "3"),
            ("username", "admin"),
            ("power_wait", "0"),
        ];
        let file = self.room.file("password", &format!("{password}\n"), 0o600);
        let secrets = BTreeMap::from([("password".to_owned(), file)]);
        let config = config("fence_ipmilan", &parameters);
        real("fence_ipmilan", DeviceConfig { secrets, ..config })
    }

    fn is_on(&self) -> bool {
        fs::read_to_string(self.room.path("power")).unwrap() == "1\n"
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        let _ = self.simulator.kill();
        let _ = self.simulator.wait();
    }
}

#[test]
fn a_machine_behind_a_bmc_is_switched_off_read_back_and_switched_on() {
    if !has("fence_ipmilan") || !has("ipmi_sim") || !has("ipmitool") {
        return;
    }
    let bmc = Bmc::start();
    let device = bmc.device("secret");
    let until = Instant::now() + Duration::from_secs(20);
    while answer(&device, Action::Status("a"), LONG.0) != Answer::Power(Power::On) {
        assert!(Instant::now() < until, "the simulator answers");
    }
    let begun = Instant::now();
    let outcome = device.power_off_and_wait(runner(), "a", LONG);
    println!("off and read back in {:?}", begun.elapsed());
    let PowerOff::Confirmed(off) = outcome else { panic!("{outcome}") };
    assert_eq!((off.device(), off.node()), ("device-a", "a"));
    assert_eq!(off.evidence(), Evidence::ReadBack);
    assert!(!bmc.is_on(), "the machine itself");
    let again = device.power_off_and_wait(runner(), "a", LONG);
    assert!(matches!(again, PowerOff::Confirmed(_)), "off is off: {again}");
    let outcome = device.power_on_and_wait(runner(), "a", LONG);
    assert_eq!(outcome, PowerOn::Confirmed(Evidence::ReadBack));
    assert!(bmc.is_on());
    assert_eq!(device.test_and_wait(runner(), "a", LONG), Tested::Works(Some(Power::On)));
    assert_eq!(device.call(Action::List, LONG), Err(NoCall::NoAction("list")));
    let tried = bmc.device("wrong-password").test_and_wait(runner(), "a", LONG);
    assert!(matches!(tried, Tested::Failed { action: "monitor", .. }), "{tried}");
    let wrong = bmc.device("wrong-password").power_off_and_wait(runner(), "a", Millis(6_000));
    let PowerOff::Failed { why: Failure::Code { code: 1, said }, then: None } = wrong else {
        panic!("{wrong}")
    };
    assert!(!said.contains("wrong-password") && said.contains("Failed"), "{said}");
    assert!(bmc.is_on());
}

#[test]
fn a_bmc_that_does_not_answer_costs_no_more_than_the_deadline() {
    if !has("fence_ipmilan") || !has("ipmi_sim") || !has("ipmitool") {
        return;
    }
    let mut bmc = Bmc::start();
    bmc.simulator.kill().unwrap();
    let device = bmc.device("secret");
    // It takes the packets and says nothing.
    let _silent = UdpSocket::bind(("127.0.0.1", bmc.port)).unwrap();
    let begun = Instant::now();
    let outcome = device.power_off_and_wait(runner(), "a", Millis(4_000));
    let took = begun.elapsed();
    let why = Failure::Deadline { has_begun: true, lingers: false };
    assert_eq!(outcome, PowerOff::Failed { why, then: None });
    assert!((2_500..6_000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn an_agent_that_lies_is_found_out() {
    let room = Room::new("liar");
    let device = scripted(&room, "[ $action = status ] && echo Status: ON; exit 0");
    let outcome = device.power_off_and_wait(runner(), "a", Millis(2_500));
    assert_eq!(outcome, PowerOff::NotOff);
    let told = fs::read_to_string(room.path("told")).unwrap();
    assert!(told.starts_with("action=off\nip=10.0.0.9\naction=status\nip=10.0.0.9\n"), "{told}");
    assert!(!told.contains("reboot"));
}

#[test]
fn a_script_that_cannot_be_read_ends_with_the_code_of_off_and_proves_nothing() {
    let room = Room::new("broken");
    let device = scripted(&room, "[ $action = off ] && exit 0\nif then");
    let outcome = device.power_off_and_wait(runner(), "a", Millis(2_500));
    let PowerOff::Unconfirmed(Failure::NoAnswer(said)) = outcome else { panic!("{outcome}") };
    assert!(said.contains("yntax error"), "{said}");
}

#[test]
fn an_agent_that_hangs_is_ended_with_all_that_it_has_started() {
    let room = Room::new("hang");
    let does = format!("trap '' TERM; sleep 61 & echo $! >{}; wait; wait", room.path("sleeper"));
    let device = scripted(&room, &does);
    let begun = Instant::now();
    let why = failure(answer(&device, Action::Monitor, 600));
    assert_eq!(why, Failure::Deadline { has_begun: true, lingers: false });
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    for name in ["pid", "sleeper"] {
        let pid = fs::read_to_string(room.path(name)).unwrap();
        assert!(!lives(&pid), "{name}");
    }
}

#[test]
fn garbage_floods_and_signals_each_have_an_outcome_of_their_own() {
    let room = Room::new("garbage");
    let of = |does: &str, action| answer(&scripted(&room, does), action, LONG.0);
    let status = Action::Status("a");
    // 10 MB, as much of errors, and the code of "off".
    let flood = "head -c 10000000 /dev/urandom; head -c 10000000 /dev/urandom >&2; exit 2";
    assert!(matches!(failure(of(flood, status)), Failure::NoAnswer(_)));
    let flood = "head -c 10000000 /dev/zero | tr '\\0' 'x'; exit 0";
    assert_eq!(failure(of(flood, Action::List)), Failure::TooLong);
    let latin = "printf 'caf\\351,r\\351frig\\351rateur\\n'; exit 0";
    assert!(matches!(failure(of(latin, Action::List)), Failure::NoAnswer(_)));
    assert!(matches!(failure(of("printf '\\377\\376'; exit 2", status)), Failure::NoAnswer(_)));
    assert_eq!(failure(of("kill -9 $$", status)), Failure::Signal(9));
    assert_eq!(failure(of("kill -15 $$", Action::Off("a"))), Failure::Signal(15));
    let code = Failure::Code { code: 7, said: "no".into() };
    assert_eq!(failure(of("echo no >&2; exit 7", status)), code);
}

#[test]
fn a_program_that_is_not_there_or_cannot_be_executed_says_so() {
    let room = Room::new("missing");
    let device = scripted(&room, "exit 0");
    fs::set_permissions(room.path("fence_script"), fs::Permissions::from_mode(0o644)).unwrap();
    let of = |device: &Arc<Device>| device.power_off_and_wait(runner(), "a", LONG);
    let failed = |why| PowerOff::Failed { why: Failure::NotStarted(why), then: None };
    assert_eq!(of(&device), failed(NotStarted::NotExecutable));
    fs::remove_file(room.path("fence_script")).unwrap();
    assert_eq!(of(&device), failed(NotStarted::Missing));
}

#[test]
fn a_secret_is_in_no_command_line_and_no_environment() {
    let room = Room::new("secret");
    let does = "cat /proc/$$/cmdline /proc/$$/environ >$room/seen; exit 0";
    let device = scripted(&room, does);
    let password = room.file("password", "fence-12\n", 0o600);
    let config = DeviceConfig {
        secrets: [("password".to_owned(), password)].into(),
        ..device.config().clone()
    };
    let device = config.check(Arc::new(device.metadata().clone())).unwrap().in_directory(&room.0);
    assert_eq!(answer(&device, Action::Monitor, LONG.0), Answer::Done);
    let seen = fs::read_to_string(room.path("seen")).unwrap();
    assert!(seen.contains("fence_script") && seen.contains("LC_ALL"), "{seen}");
    assert!(!seen.contains("fence-12"), "{seen}");
    assert!(fs::read_to_string(room.path("told")).unwrap().contains("password=fence-12\n"));
}

#[test]
fn a_cancelled_power_off_ends_its_agent() {
    let room = Room::new("cancel");
    let device = scripted(&room, "sleep 61");
    let (tell, told) = std::sync::mpsc::channel();
    let handle = device.power_off(runner(), "a", LONG, move |outcome| tell.send(outcome).unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while !Path::new(&room.path("pid")).exists() {
        assert!(Instant::now() < until, "it has begun");
        sleep(Duration::from_millis(5));
    }
    handle.cancel();
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(PowerOff::Cancelled));
    let pid = fs::read_to_string(room.path("pid")).unwrap();
    assert!(!lives(&pid));
}
