use std::{
    sync::mpsc::TryRecvError,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    fake::{Fake, FenceDevice, OnOff, OnStatus, Script, fence_device::METADATA},
    fence_agent::{DeviceConfig, Metadata, Outlet},
    run::{Exit, NotStarted, Outcome},
};

const PROGRAM: &str = "/usr/sbin/fence_fake";

fn device(metadata: &str, trusts_off: bool) -> Arc<Device> {
    let outlet = |node: &str, outlet: &str| (node.to_owned(), Outlet::Named(outlet.to_owned()));
    let config = DeviceConfig {
        name: "pdu".into(),
        agent: "fence_fake".into(),
        parameters: [("ip".to_owned(), "10.0.0.9".to_owned())].into(),
        outlets: [outlet("a", "1"), outlet("b", "2")].into(),
        trusts_off,
        ..DeviceConfig::default()
    };
    Arc::new(config.check(Arc::new(Metadata::parse(metadata.as_bytes()).unwrap())).unwrap())
}

/// Switches node "a" off at a device that behaves like this, within `ms`.
fn behaving(on_off: OnOff, on_status: OnStatus, ms: u64) -> (PowerOff, FenceDevice, Vec<String>) {
    let (fake, fenced) = (Fake::default(), FenceDevice::default());
    fenced.behave(on_off, on_status);
    fake.device(PROGRAM, &fenced);
    let outcome = device(METADATA, false).power_off_and_wait(Arc::new(fake), "a", Millis(ms));
    let actions = fenced.actions();
    (outcome, fenced, actions)
}

#[test]
fn off_that_is_read_back_is_proof() {
    let (outcome, fenced, actions) = behaving(OnOff::Obeys, OnStatus::Tells, 5_000);
    let PowerOff::Confirmed(off) = outcome else { panic!("{outcome:?}") };
    assert_eq!((off.device(), off.node(), off.evidence()), ("pdu", "a", Evidence::ReadBack));
    assert!(!fenced.is_on("1") && fenced.is_on("2"));
    assert_eq!(actions, ["off 1", "status 1"], "and never reboot");
}

#[test]
fn one_that_is_off_after_some_seconds_is_asked_until_it_is() {
    let (outcome, _, actions) = behaving(OnOff::Slow(3), OnStatus::Tells, 10_000);
    assert!(matches!(outcome, PowerOff::Confirmed(_)), "{outcome:?}");
    assert_eq!(actions, ["off 1", "status 1", "status 1", "status 1"]);
}

#[test]
fn a_liar_is_found_out() {
    let (outcome, fenced, actions) = behaving(OnOff::Lies, OnStatus::Tells, 1_300);
    assert_eq!(outcome, PowerOff::NotOff);
    assert!(fenced.is_on("1"));
    assert!(actions.len() > 2 && actions[1..].iter().all(|action| action == "status 1"));
}

#[test]
fn without_an_answer_there_is_no_proof() {
    for on_status in [OnStatus::Fails, OnStatus::EndsWithTwo, OnStatus::Babbles, OnStatus::Hangs] {
        let (outcome, fenced, _) = behaving(OnOff::Obeys, on_status, 700);
        assert!(matches!(outcome, PowerOff::Unconfirmed(_)), "{on_status:?}: {outcome:?}");
        assert!(!fenced.is_on("1"), "though it is off");
    }
}

#[test]
fn an_off_that_fails_is_repeated_and_its_last_failure_told_with_what_the_device_says() {
    let (outcome, _, actions) = behaving(OnOff::Refuses, OnStatus::Tells, 1_500);
    let PowerOff::Failed { why: Failure::Code { code: 1, said }, then } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(said.contains("Unable to connect"), "{said}");
    assert_eq!(then, Some(Power::On));
    assert_eq!(actions[..2], ["off 1", "off 1"]);
    // It has switched, and the caller learns it, but not as proof: the next `off` will have that.
    let (outcome, _, _) = behaving(OnOff::ActsAndHangs, OnStatus::Tells, 700);
    let why = Failure::Deadline { has_begun: true, lingers: false };
    assert_eq!(outcome, PowerOff::Failed { why, then: Some(Power::Off) });
    let (outcome, _, _) = behaving(OnOff::Hangs, OnStatus::LiesOff, 700);
    assert!(matches!(outcome, PowerOff::Failed { .. }), "only status lies: {outcome:?}");
}

#[test]
fn a_node_of_another_device_is_not_asked_for() {
    let fake = Fake::default();
    let runner: Arc<dyn Runner> = Arc::new(fake.clone());
    let outcome = device(METADATA, false).power_off_and_wait(runner, "c", Millis(1_000));
    assert_eq!(outcome, PowerOff::NoCall(NoCall::NotItsNode("c".into())));
    assert_eq!(fake.calls(), []);
}

#[test]
fn a_missing_agent_is_told_at_once() {
    let begun = Instant::now();
    let runner: Arc<dyn Runner> = Arc::new(Fake::default());
    let outcome = device(METADATA, false).power_off_and_wait(runner, "a", Millis(60_000));
    let why = Failure::NotStarted(NotStarted::Missing);
    assert_eq!(outcome, PowerOff::Failed { why, then: None });
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_word_of_an_agent_counts_only_where_it_has_no_status_and_is_trusted() {
    let without = METADATA.replace("<action name=\"status\"/>", "");
    for (metadata, evidence) in [(without.as_str(), Evidence::Word), (METADATA, Evidence::ReadBack)]
    {
        let (fake, fenced) = (Fake::default(), FenceDevice::default());
        fake.device(PROGRAM, &fenced);
        let device = device(metadata, true);
        let outcome = device.power_off_and_wait(Arc::new(fake), "b", Millis(2_000));
        let PowerOff::Confirmed(off) = outcome else { panic!("{outcome:?}") };
        assert_eq!((off.node(), off.evidence()), ("b", evidence));
    }
}

#[test]
fn a_dropped_handle_ends_the_call_and_is_no_proof() {
    let fake = Fake::default();
    fake.script(PROGRAM, Script::Waits);
    let runner: Arc<dyn Runner> = Arc::new(fake.clone());
    let (tell, told) = channel();
    let handle = device(METADATA, false).power_off(runner, "a", Millis(60_000), move |outcome| {
        tell.send(outcome).unwrap();
    });
    while fake.calls().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(told.try_recv(), Err(TryRecvError::Empty));
    drop(handle);
    assert_eq!(told.recv(), Ok(PowerOff::Cancelled));
    let over = Outcome::new(Exit::Code(0), Millis(1));
    assert_eq!(fake.end(std::path::Path::new(PROGRAM), &over), 0, "its call has ended");
    assert_eq!(fake.calls().len(), 1);
}
