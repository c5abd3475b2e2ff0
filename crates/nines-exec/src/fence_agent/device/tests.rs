use super::*;
use crate::fake::fence_device::METADATA;

fn metadata() -> Arc<Metadata> {
    Arc::new(Metadata::parse(METADATA.as_bytes()).unwrap())
}

fn config(parameters: &[(&str, &str)]) -> DeviceConfig {
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    DeviceConfig {
        name: "bmc-a".into(),
        agent: "fence_fake".into(),
        parameters: parameters.iter().map(text).collect(),
        outlets: [("a".to_owned(), Outlet::Only)].into(),
        ..DeviceConfig::default()
    }
}

/// What is wrong, as people read it.
fn problems(config: DeviceConfig, metadata: Arc<Metadata>) -> Vec<String> {
    let problems = config.check(metadata).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

fn of(parameters: &[(&str, &str)]) -> Vec<String> {
    problems(config(parameters), metadata())
}

#[test]
fn a_good_config_has_no_problem() {
    let all = [
        ("ip", "10.0.0.9"),
        ("ipport", "-1"),
        ("method", "ONOFF"),
        ("ssl", "Yes"),
        ("power_timeout", "30"),
    ];
    assert_eq!(of(&all), [""; 0]);
    assert_eq!(of(&[("ipaddr", "10.0.0.9")]), [""; 0], "the older name will do");
}

#[test]
fn a_key_that_the_agent_would_pass_over_is_an_error() {
    let one = |key: &str| of(&[("ip", "x"), (key, "1")]);
    let wrong = "\"ipprot\" is not a key of the agent; did you mean \"ipport\"?";
    assert_eq!(one("ipprot"), [wrong]);
    assert_eq!(one("colour"), ["\"colour\" is not a key of the agent"]);
    assert_eq!(one("action"), ["\"action\" is decided by the cluster: take it out"]);
    assert_eq!(one("option"), ["\"option\" is decided by the cluster: take it out"]);
    let outlet = "\"port\" differs from node to node: give it as the outlet of a node";
    assert_eq!(one("port"), [outlet]);
    // Not the key that its caller decides.
    assert_eq!(one("actoin"), ["\"actoin\" is not a key of the agent"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let wrong =
        of(&[("ipport", "23b"), ("method", "hard"), ("ssl", "maybe"), ("power_timeout", "2s")]);
    assert_eq!(
        wrong,
        [
            "the value of \"ipport\": it must be a whole number",
            "the value of \"method\": it must be one of cycle, onoff",
            "the value of \"power_timeout\": it must be a number of seconds, without a unit",
            "the value of \"ssl\": it must be \"1\" or \"0\"",
            "\"ip\" is missing",
        ]
    );
    assert_eq!(of(&[("ip", "x"), ("ipaddr", "y")]), ["\"ip\" and \"ipaddr\" are the same key"]);
}

#[test]
fn a_value_that_is_more_than_a_line_is_refused() {
    let one = |value: &str| of(&[("ip", value)]);
    let line =
        "the value of \"ip\": it has a line end, or another character that is not for a line";
    // The agent would take the second line for the action.
    assert_eq!(one("10.0.0.9\naction=on"), [line]);
    assert_eq!(one("10.0.0.9\r"), [line]);
    assert_eq!(one("a\0b"), [line]);
    let cut = "the value of \"ip\": it ends in a space, which the agent would cut off";
    assert_eq!(one("10.0.0.9 "), [cut]);
    let quotes = "the value of \"ip\": it stands in quotes, which the agent would take away";
    assert_eq!(one("\"10.0.0.9\""), [quotes]);
    assert_eq!(one("\" =#"), [""; 0], "those are none");
}

#[test]
fn secrets_come_from_files() {
    let open = "\"password\" is a secret: give a file that has it";
    assert_eq!(of(&[("ip", "x"), ("password", "fence12")]), [open]);
    let with = |secrets: &[(&str, &str)]| {
        let path = |(key, path): &(&str, &str)| ((*key).to_owned(), PathBuf::from(path));
        let secrets = secrets.iter().map(path).collect();
        problems(DeviceConfig { secrets, ..config(&[("ip", "x")]) }, metadata())
    };
    assert_eq!(with(&[("password", "/etc/nines/pdu")]), [""; 0]);
    assert_eq!(with(&[("password", "pdu")]), ["the file of \"password\" needs an absolute path"]);
    assert_eq!(with(&[("ip", "/x")]), ["\"ip\" is given twice"; 2]);
    let same = with(&[("passwd", "/x"), ("password", "/x")]);
    assert_eq!(same, ["\"passwd\" and \"password\" are the same key"]);
    let unknown = "\"pasword\" is not a key of the agent; did you mean \"password\"?";
    assert_eq!(with(&[("pasword", "/x")]), [unknown]);
}

#[test]
fn outlets_are_those_that_the_agent_knows() {
    let of = |agent: &str, outlets: &[(&str, Outlet)]| {
        let outlets = outlets.iter().map(|(node, outlet)| ((*node).to_owned(), outlet.clone()));
        let config = DeviceConfig { outlets: outlets.collect(), ..config(&[("ip", "x")]) };
        problems(config, Arc::new(Metadata::parse(agent.as_bytes()).unwrap()))
    };
    let named = |name: &str| Outlet::Named(name.to_owned());
    assert_eq!(of(METADATA, &[("a", named("1")), ("b", named("2,3"))]), [""; 0]);
    let shared = "a has no outlet of its own, and other nodes are there";
    assert_eq!(of(METADATA, &[("a", Outlet::Only), ("b", named("2"))]), [shared]);
    assert_eq!(of(METADATA, &[("a", named(""))]), ["the outlet of a: it is empty"]);
    assert!(of(METADATA, &[("a", named("1\naction=on"))])[0].contains("a line end"));
    let needs = METADATA.replace("\"plug\"", "\"plug\" required=\"1\"");
    assert_eq!(of(&needs, &[("a", Outlet::Only)]), ["a: the agent needs its outlet"]);
    assert_eq!(of(&needs, &[("a", named("1"))]), [""; 0], "and is not missed as a key");
    let none = METADATA.replace("\"plug\"", "\"x\"").replace("\"port\"", "\"y\"");
    assert_eq!(of(&none, &[("a", named("1"))]), ["a: the agent knows no outlets"]);
    assert_eq!(of(&none, &[("a", Outlet::Only)]), [""; 0]);
}

#[test]
fn a_device_must_be_able_to_prove_that_a_machine_is_off() {
    let without = |action: &str| {
        Arc::new(
            Metadata::parse(
                METADATA.replace(&format!("<action name=\"{action}\"/>"), "").as_bytes(),
            )
            .unwrap(),
        )
    };
    let good = config(&[("ip", "x")]);
    let no_off = "the agent cannot switch a machine off";
    assert_eq!(problems(good.clone(), without("off")), [no_off]);
    let no_status = "the agent cannot say whether a machine is on: its word alone must be trusted";
    assert_eq!(problems(good.clone(), without("status")), [no_status]);
    let trusted = DeviceConfig { trusts_off: true, ..good.clone() };
    assert_eq!(problems(trusted, without("status")), [""; 0]);
    let path = DeviceConfig { agent: "fence_x/../../bin/sh".into(), ..good };
    assert_eq!(
        problems(path, metadata()),
        ["\"fence_x/../../bin/sh\" is not a fence agent's name"]
    );
}
