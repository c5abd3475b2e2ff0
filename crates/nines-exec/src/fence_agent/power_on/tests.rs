use super::*;
use crate::{
    fake::{Fake, FenceDevice, OnOff, OnStatus, fence_device::METADATA},
    fence_agent::{DeviceConfig, Metadata, Outlet},
};

const PROGRAM: &str = "/usr/sbin/fence_fake";

fn device(metadata: &str, trusts_off: bool) -> Arc<Device> {
    let config = DeviceConfig {
        name: "pdu".into(),
        agent: "fence_fake".into(),
        parameters: [("ip".to_owned(), "10.0.0.9".to_owned())].into(),
        outlets: [("a".to_owned(), Outlet::Named("1".to_owned()))].into(),
        trusts_off,
        ..DeviceConfig::default()
    };
    Arc::new(config.check(Arc::new(Metadata::parse(metadata.as_bytes()).unwrap())).unwrap())
}

/// Switches node "a", which is off, on at a device that behaves like this, within `ms`.
fn behaving(on_off: OnOff, on_status: OnStatus, ms: u64) -> (PowerOn, FenceDevice) {
    let (fake, fenced) = (Fake::default(), FenceDevice::default());
    fake.device(PROGRAM, &fenced);
    fenced.set("1", false);
    fenced.behave(on_off, on_status);
    let outcome = device(METADATA, false).power_on_and_wait(Arc::new(fake), "a", Millis(ms));
    (outcome, fenced)
}

#[test]
fn on_is_told_when_it_was_read_back() {
    let (outcome, fenced) = behaving(OnOff::Obeys, OnStatus::Tells, 5_000);
    assert_eq!(outcome, PowerOn::Confirmed(Evidence::ReadBack));
    assert!(fenced.is_on("1"));
    assert_eq!(fenced.actions(), ["on 1", "status 1"], "and never reboot");
    let (outcome, fenced) = behaving(OnOff::Slow(2), OnStatus::Tells, 10_000);
    assert_eq!(outcome, PowerOn::Confirmed(Evidence::ReadBack));
    assert_eq!(fenced.actions(), ["on 1", "status 1", "status 1"]);
}

#[test]
fn what_did_not_come_on_is_told_with_the_reason() {
    let (outcome, fenced) = behaving(OnOff::Lies, OnStatus::Tells, 1_300);
    assert_eq!(outcome, PowerOn::NotOn);
    assert!(!fenced.is_on("1"));
    let (outcome, _) = behaving(OnOff::Obeys, OnStatus::Fails, 700);
    assert!(matches!(outcome, PowerOn::Unconfirmed(_)), "{outcome:?}");
    let (outcome, fenced) = behaving(OnOff::Refuses, OnStatus::Tells, 1_500);
    assert_eq!(fenced.actions()[..2], ["on 1", "on 1"], "it is repeated");
    let text = outcome.to_string();
    assert!(text.starts_with("\"on\" failed, and it is still off: exit code 1: "), "{text}");
    let (outcome, _) = behaving(OnOff::Hangs, OnStatus::Tells, 700);
    let why = Failure::Deadline { has_begun: true, lingers: false };
    assert_eq!(outcome, PowerOn::Failed { why, then: Some(Power::Off) });
}

#[test]
fn an_agent_that_cannot_switch_on_says_so_and_one_without_a_status_is_believed() {
    let without = |action: &str| METADATA.replace(action, "");
    let fake = Fake::default();
    let off_only = device(&without("<action name=\"on\" automatic=\"0\"/>"), false);
    let outcome = off_only.power_on_and_wait(Arc::new(fake.clone()), "a", Millis(1_000));
    assert_eq!(outcome, PowerOn::NoCall(NoCall::NoAction("on")));
    let outcome = device(METADATA, false).power_on_and_wait(Arc::new(fake.clone()), "b", Millis(9));
    assert_eq!(outcome, PowerOn::NoCall(NoCall::NotItsNode("b".into())));
    assert_eq!(fake.calls(), []);
    let (fake, fenced) = (Fake::default(), FenceDevice::default());
    fake.device(PROGRAM, &fenced);
    let blind = device(&without("<action name=\"status\"/>"), true);
    let outcome = blind.power_on_and_wait(Arc::new(fake), "a", Millis(2_000));
    assert_eq!(outcome, PowerOn::Confirmed(Evidence::Word));
}
