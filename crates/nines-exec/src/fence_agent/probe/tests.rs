use super::*;
use crate::{
    fake::{Fake, FenceDevice, OnOff, OnStatus, Script, fence_device::METADATA},
    fence_agent::{DeviceConfig, Metadata, Outlet},
    run::{Exit, NotStarted, Outcome},
};

const PROGRAM: &str = "/usr/sbin/fence_fake";
const MONITOR: &str = "<action name=\"monitor\"/>";
const STATUS: &str = "<action name=\"status\"/>";

/// A device whose agent does not have these actions.
fn without(actions: &[&str]) -> Arc<Device> {
    let config = DeviceConfig {
        name: "pdu".into(),
        agent: "fence_fake".into(),
        parameters: [("ip".to_owned(), "10.0.0.9".to_owned())].into(),
        outlets: [("a".to_owned(), Outlet::Named("1".to_owned()))].into(),
        trusts_off: true,
        ..DeviceConfig::default()
    };
    let metadata = actions.iter().fold(METADATA.to_owned(), |all, one| all.replace(one, ""));
    Arc::new(config.check(Arc::new(Metadata::parse(metadata.as_bytes()).unwrap())).unwrap())
}

#[test]
fn a_test_asks_for_what_the_agent_has_and_switches_nothing() {
    for (missing, on, told, actions) in [
        (&[][..], true, Tested::Works(Some(Power::On)), &["monitor", "status 1"][..]),
        (&[], false, Tested::Works(Some(Power::Off)), &["monitor", "status 1"]),
        (&[MONITOR], true, Tested::Works(Some(Power::On)), &["status 1"]),
        (&[STATUS], true, Tested::Works(None), &["monitor"]),
        (&[MONITOR, STATUS], true, Tested::Nothing, &[]),
    ] {
        let (fake, fenced) = (Fake::default(), FenceDevice::default());
        fake.device(PROGRAM, &fenced);
        fenced.set("1", on);
        let outcome = without(missing).test_and_wait(Arc::new(fake), "a", Millis(5_000));
        assert_eq!(
            (outcome, fenced.actions()),
            (told, actions.iter().map(|a| (*a).into()).collect())
        );
        assert_eq!(fenced.is_on("1"), on);
    }
}

#[test]
fn what_fails_is_named_and_what_comes_after_it_is_not_asked() {
    let (fake, fenced) = (Fake::default(), FenceDevice::default());
    fake.device(PROGRAM, &fenced);
    fenced.behave(OnOff::Obeys, OnStatus::Fails);
    let outcome = without(&[]).test_and_wait(Arc::new(fake.clone()), "a", Millis(5_000));
    let text = outcome.to_string();
    assert!(text.starts_with("\"status\" failed: exit code 1: "), "{text}");
    fake.script(PROGRAM, Script::Ends(Outcome::new(Exit::Code(1), Millis(5))));
    let outcome = without(&[]).test_and_wait(Arc::new(fake.clone()), "a", Millis(5_000));
    assert_eq!(outcome.to_string(), "\"monitor\" failed: exit code 1");
    assert_eq!(fenced.actions().len(), 2, "no status after that");
    let outcome = without(&[]).test_and_wait(Arc::new(fake.clone()), "b", Millis(5_000));
    assert_eq!(outcome, Tested::NoCall(NoCall::NotItsNode("b".into())));
    let why = Failure::NotStarted(NotStarted::Missing);
    let outcome = without(&[]).test_and_wait(Arc::new(Fake::default()), "a", Millis(5_000));
    assert_eq!(outcome, Tested::Failed { action: "monitor", why });
}

#[test]
fn both_calls_end_before_the_deadline() {
    let fake = Fake::default();
    fake.script(PROGRAM, Script::Waits);
    let (tell, told) = channel();
    let runner: Arc<dyn Runner> = Arc::new(fake.clone());
    let handle = without(&[]).test(runner, "a", Millis(10_000), move |o| tell.send(o).unwrap());
    while fake.calls().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let limit = fake.calls()[0].deadline;
    assert!(limit.0 + grace(limit).0 <= 5_000, "{limit:?}: a half for each");
    drop(handle);
    assert_eq!(told.recv(), Ok(Tested::Cancelled));
}
