use std::{os::unix::fs::OpenOptionsExt as _, sync::Arc};

use super::*;
use crate::{
    fake::{Fake, Script, fence_device::METADATA},
    fence_agent::{DeviceConfig, Metadata},
    run::Output,
};

const TIME: Millis = Millis(10_000);

fn config() -> DeviceConfig {
    DeviceConfig {
        name: "pdu".into(),
        agent: "fence_fake".into(),
        parameters: [("ip".to_owned(), "10.0.0.9".to_owned())].into(),
        outlets: [("a".to_owned(), Outlet::Named("4".into()))].into(),
        ..DeviceConfig::default()
    }
}

fn checked(config: DeviceConfig) -> Device {
    config.check(Arc::new(Metadata::parse(METADATA.as_bytes()).unwrap())).unwrap()
}

fn outcome(exit: Exit, stdout: &[u8], stderr: &[u8]) -> Outcome {
    let output = |bytes: &[u8]| Output { bytes: bytes.to_vec(), is_cut: false };
    Outcome { stdout: output(stdout), stderr: output(stderr), ..Outcome::new(exit, Millis(7)) }
}

/// What comes of a call that ends like this.
fn answer(action: Action<'_>, outcome: Outcome) -> Answer {
    let fake = Fake::default();
    fake.script("/usr/sbin/fence_fake", Script::Ends(outcome));
    checked(config()).call(action, TIME).unwrap().carry_out(&fake)
}

/// A file with a secret, of this mode.
fn file(name: &str, content: &[u8], mode: u32) -> PathBuf {
    use std::io::Write as _;
    let path = std::env::temp_dir().join(format!("nines-secret-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let mut file = fs::File::options().create_new(true).write(true).mode(mode).open(&path).unwrap();
    file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
    file.write_all(content).unwrap();
    path
}

#[test]
fn an_agent_is_told_its_action_first_and_nothing_on_its_command_line() {
    let path = file("told", b"se cret\n", 0o600);
    let secrets = [("password".to_owned(), path.clone())].into();
    let device = checked(DeviceConfig { secrets, ..config() });
    let told = |action| {
        let fake = Fake::default();
        let _ = device.call(action, TIME).unwrap().carry_out(&fake);
        let run = fake.calls().remove(0);
        assert_eq!((run.program, run.args), ("/usr/sbin/fence_fake".into(), vec![]));
        assert!(run.deadline == TIME && run.grace == Millis(500));
        assert!(run.env.values().all(|value| !value.contains("cret")));
        String::from_utf8(run.stdin).unwrap()
    };
    let rest = "ip=10.0.0.9\npassword=se cret\n";
    assert_eq!(told(Action::Off("a")), format!("action=off\nplug=4\n{rest}"));
    assert_eq!(told(Action::On("a")), format!("action=on\nplug=4\n{rest}"));
    assert_eq!(told(Action::Reboot("a")), format!("action=reboot\nplug=4\n{rest}"));
    assert_eq!(told(Action::Status("a")), format!("action=status\nplug=4\n{rest}"));
    assert_eq!(told(Action::Monitor), format!("action=monitor\n{rest}"));
    assert_eq!(told(Action::List), format!("action=list\n{rest}"));
    fs::remove_file(path).unwrap();
}

#[test]
fn a_device_has_calls_for_its_own_nodes_and_actions_only() {
    let device = checked(config());
    let not_its = NoCall::NotItsNode("b".into());
    assert_eq!(device.call(Action::Off("b"), TIME), Err(not_its));
    let metadata = METADATA.replace("<action name=\"list\"/>", "");
    let device = config().check(Arc::new(Metadata::parse(metadata.as_bytes()).unwrap())).unwrap();
    assert_eq!(device.call(Action::List, TIME), Err(NoCall::NoAction("list")));
}

#[test]
fn a_status_is_what_the_interface_says_and_nothing_else() {
    let status = |code: i32, text: &str| {
        answer(Action::Status("a"), outcome(Exit::Code(code), text.as_bytes(), b""))
    };
    let no_answer = |said: &str| Answer::Failed(Failure::NoAnswer(said.into()));
    assert_eq!(status(0, "Status: ON\n"), Answer::Power(Power::On));
    assert_eq!(status(0, ""), Answer::Power(Power::On), "which proves nothing");
    assert_eq!(status(2, "Status: OFF\n"), Answer::Power(Power::Off));
    assert_eq!(status(2, "warning\nstatus: off"), Answer::Power(Power::Off));
    // The code of "off" is also that of a shell or python that cannot read its script.
    assert_eq!(status(2, ""), no_answer(""));
    assert_eq!(status(2, "Status: ON\n"), no_answer("Status: ON"));
    assert_eq!(status(0, "Status: OFF\n"), no_answer("Status: OFF"));
    assert_eq!(status(2, "Status: UNKNOWN\n"), no_answer("Status: UNKNOWN"));
    let failed = Failure::Code { code: 1, said: "Status: OFF".into() };
    assert_eq!(status(1, "Status: OFF\n"), Answer::Failed(failed));
    for code in [3, 7, 126, 127, 255] {
        let failed = Failure::Code { code, said: String::new() };
        assert_eq!(status(code, ""), Answer::Failed(failed));
    }
    let babble = answer(Action::Status("a"), outcome(Exit::Code(2), b"\xff\x00Off", b""));
    assert!(matches!(babble, Answer::Failed(Failure::NoAnswer(_))), "{babble:?}");
}

#[test]
fn to_have_acted_is_the_exit_code_zero() {
    for action in [Action::On("a"), Action::Off("a"), Action::Reboot("a"), Action::Monitor] {
        assert_eq!(answer(action, outcome(Exit::Code(0), b"", b"")), Answer::Done);
        let off = answer(action, outcome(Exit::Code(2), b"Status: OFF", b""));
        let said = "Status: OFF".into();
        assert_eq!(off, Answer::Failed(Failure::Code { code: 2, said }));
    }
}

#[test]
fn each_other_end_is_a_failure_of_its_own() {
    let of = |exit| match answer(Action::Off("a"), outcome(exit, b"", b"")) {
        Answer::Failed(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(of(Exit::Signal(9)), Failure::Signal(9));
    assert_eq!(of(Exit::Cancelled), Failure::Cancelled);
    let late = Failure::Deadline { has_begun: true, lingers: false };
    assert_eq!(of(Exit::DeadlineKilled), late);
    let missing = NotStarted::Missing;
    assert_eq!(of(Exit::NotStarted(missing.clone())), Failure::NotStarted(missing));
}

#[test]
fn what_an_agent_says_is_kept_on_a_line_and_without_secrets() {
    let path = file("said", b"hunter2\n", 0o600);
    let secrets = [("password".to_owned(), path.clone())].into();
    let call = checked(DeviceConfig { secrets, ..config() }).call(Action::Monitor, TIME).unwrap();
    let prepared = call.prepare().unwrap();
    let said = |stdout: &[u8], stderr: &[u8]| match prepared.answer(&outcome(
        Exit::Code(1),
        stdout,
        stderr,
    )) {
        Answer::Failed(Failure::Code { said, .. }) => said,
        other => panic!("{other:?}"),
    };
    let stderr = b"one\nERROR: login with hunter2 failed\n\nERROR: Please use '-h' for usage\n\n";
    assert_eq!(said(b"out", stderr), "ERROR: login with *** failed");
    assert_eq!(said(b"out\n", b""), "out");
    assert_eq!(said(b"", b"\x1b[31m\xff\n"), "\\u{1b}[31m\u{fffd}");
    assert_eq!(said(b"", &[b'x'; 5_000]).chars().count(), 300);
    fs::remove_file(path).unwrap();
}

#[test]
fn lists_of_outlets() {
    let list = |code, text: &[u8]| answer(Action::List, outcome(Exit::Code(code), text, b""));
    let outlet = |name: &str, alias: &str| ListedOutlet { name: name.into(), alias: alias.into() };
    let two = vec![outlet("1", "node-a"), outlet("vm 2", "")];
    assert_eq!(list(0, b"1,node-a\nvm 2,\n\n"), Answer::Outlets(two));
    let odd = vec![outlet("3", "a\\u{1b}b,c")];
    assert_eq!(list(0, b"3,a\x1bb,c\n"), Answer::Outlets(odd));
    assert_eq!(list(0, b"N/A\n"), Answer::NoList);
    assert_eq!(list(0, b"NOTICE: List option is not working on this device yet\n"), Answer::NoList);
    assert_eq!(list(0, b""), Answer::NoList);
    assert!(matches!(list(0, b"hello\n"), Answer::Failed(Failure::NoAnswer(_))));
    assert!(matches!(list(0, b"1,\xff\n"), Answer::Failed(Failure::NoAnswer(_))));
    assert!(matches!(list(1, b"1,a\n"), Answer::Failed(Failure::Code { code: 1, .. })));
    let many = "1,a\n".repeat(OUTLETS_MAX + 1);
    assert!(matches!(list(0, many.as_bytes()), Answer::Failed(Failure::NoAnswer(_))));
    let mut cut = outcome(Exit::Code(0), b"1,a\n2,", b"");
    cut.stdout.is_cut = true;
    assert_eq!(answer(Action::List, cut), Answer::Failed(Failure::TooLong));
}

#[test]
fn a_file_that_is_no_secret_starts_nothing() {
    let why = |name: &str, content: &[u8], mode: u32| {
        let path = file(name, content, mode);
        let why = secret(&path);
        fs::remove_file(path).unwrap();
        why
    };
    assert_eq!(why("good", b"pass word\r\n", 0o640), Ok("pass word".into()));
    assert_eq!(why("none", b"\n", 0o600), Err("it is empty".into()));
    assert!(why("two", b"a\naction=on\n", 0o600).unwrap_err().contains("line end"));
    assert_eq!(why("bytes", b"\xff", 0o600), Err("it is not UTF-8".into()));
    assert!(why("open", b"a\n", 0o604).unwrap_err().contains("chmod"));
    assert!(why("long", &[b'x'; 5_000], 0o600).unwrap_err().contains("4096"));
    assert_eq!(secret(&std::env::temp_dir()), Err("it is not a file".into()));
    let secrets = [("password".to_owned(), PathBuf::from("/nowhere/secret"))].into();
    let device = checked(DeviceConfig { secrets, ..config() });
    let fake = Fake::default();
    let answer = device.call(Action::Monitor, TIME).unwrap().carry_out(&fake);
    assert!(matches!(answer, Answer::Failed(Failure::Secret { .. })), "{answer:?}");
    assert_eq!(fake.calls(), []);
}
