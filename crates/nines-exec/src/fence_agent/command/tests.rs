use std::sync::Arc;

use super::*;
use crate::{
    Runner,
    fake::{Fake, Script},
    fence_agent::{Outlet, PowerOff, Tested},
    run::{Exit, Outcome, Output},
};

const PROGRAM: &str = "/opt/power";

fn device(outlet: Outlet, trusts_off: bool) -> Arc<Device> {
    let config = DeviceConfig {
        name: "own".into(),
        outlets: [("lb1".to_owned(), outlet)].into(),
        trusts_off,
        ..DeviceConfig::default()
    };
    Arc::new(config.check_command(PROGRAM).unwrap())
}

fn says(code: i32, text: &str) -> Script {
    let stdout = Output { bytes: text.into(), is_cut: false };
    Script::Ends(Outcome { stdout, ..Outcome::new(Exit::Code(code), Millis(7)) })
}

/// What comes of `off` when the program ends like this each time.
fn off(script: fn() -> Script, trusts_off: bool) -> PowerOff {
    let fake = Fake::default();
    (0..20).for_each(|_| fake.script(PROGRAM, script()));
    let device = device(Outlet::Only, trusts_off);
    device.power_off_and_wait(Arc::new(fake), "lb1", Millis(900))
}

#[test]
fn the_action_and_the_node_are_arguments_and_the_rest_is_in_the_environment() {
    let device = device(Outlet::Named("7".into()), false);
    let call = device.call(crate::fence_agent::Action::Off("lb1"), Millis(4_000)).unwrap();
    let run = call.prepare().unwrap().run.clone();
    assert_eq!((run.program, run.args), (PROGRAM.into(), vec!["off".to_owned(), "lb1".into()]));
    assert!(run.stdin.is_empty());
    let told: Vec<(&str, &str)> = run
        .env
        .iter()
        .filter(|(key, _)| key.starts_with("NINES_"))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("NINES_ACTION", "off"),
        ("NINES_DEADLINE_MS", "4000"),
        ("NINES_NODE", "lb1"),
        ("NINES_OUTLET", "7"),
    ];
    assert_eq!(told, expected);
    assert!(device.call(crate::fence_agent::Action::Off("lb2"), Millis(1)).is_err());
}

#[test]
fn a_program_that_says_done_and_not_off_proves_nothing() {
    assert_eq!(off(|| says(0, ""), false), PowerOff::NotOff, "its status says that it is on");
    // A shell that cannot read its script ends with the code of off.
    let broken = off(|| says(2, ""), false);
    assert!(matches!(broken, PowerOff::Failed { .. }), "{broken:?}");
    let word = off(|| says(0, ""), true);
    assert!(matches!(word, PowerOff::Confirmed(_)), "its word is believed: {word:?}");
    let failed = off(|| says(1, "no such outlet"), true);
    assert!(failed.to_string().ends_with("exit code 1: no such outlet"), "{failed}");
}

#[test]
fn a_test_asks_for_the_status_or_where_that_is_not_asked_for_whether_it_answers() {
    for (trusts_off, code, text, works) in [
        (false, 0, "", true),
        (false, 2, "Status: OFF", true),
        (false, 2, "", false),
        (true, 0, "", true),
        (true, 1, "", false),
    ] {
        let fake = Fake::default();
        fake.script(PROGRAM, says(code, text));
        let runner: Arc<dyn Runner> = Arc::new(fake);
        let tested = device(Outlet::Only, trusts_off).test_and_wait(runner, "lb1", Millis(900));
        assert_eq!(matches!(tested, Tested::Works(_)), works, "{trusts_off} {code}: {tested}");
    }
}

#[test]
fn two_machines_need_outlets_here_too() {
    let outlets = ["lb1", "lb2"].map(|node| (node.to_owned(), Outlet::Only)).into();
    let config = DeviceConfig { name: "own".into(), outlets, ..DeviceConfig::default() };
    let problems = config.check_command(PROGRAM).unwrap_err();
    assert_eq!(problems, [Problem::SharedOnly("lb1".into())]);
}
