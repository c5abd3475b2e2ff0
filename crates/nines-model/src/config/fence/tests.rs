use crate::{FenceDevice, FenceProgram, Fencing, Millis, Spec, config::parse};

/// A file with three nodes, whose keys `fence` are these.
fn file(lb1: &str, lb2: &str, rest: &str) -> String {
    format!(
        "[cluster]\nname = \"t\"\n[nodes]\n\
         lb1 = {{ addresses = \"10.0.0.2\"{lb1} }}\n\
         lb2 = {{ addresses = \"10.0.0.3\"{lb2} }}\n\
         wit = {{ addresses = \"10.0.0.4\", role = \"witness\" }}\n{rest}\n"
    )
}

const DEVICES: &str = "\
[fence.bmc-lb1]
agent   = \"fence_ipmilan\"
node    = \"lb1\"
options = { ip = \"10.0.9.1\", username = \"admin\", cipher = 3, lanplus = true, ssl = false }
secrets = { password = \"/etc/nines/bmc-lb1.password\" }

[fence.pdu-a]
agent   = \"fence_apc_snmp\"
outlets = { lb1 = \"3\", lb2 = \"4,5\" }
options = { ip = \"10.0.9.9\" }
trust-off = true
timeout = \"90s\"

[fence.pdu-b]
agent   = \"fence_apc_snmp\"
outlets = { lb1 = \"3\", lb2 = \"4\" }
options = { ip = \"10.0.9.10\" }
";

fn read(text: &str) -> Spec {
    parse(text).unwrap_or_else(|why| panic!("{why:?}\n{text}"))
}

/// What is wrong, each with the text at its place.
fn told(text: &str) -> Vec<String> {
    let found = parse(text).err().unwrap_or_default();
    let one = |d: &crate::config::Diagnostic| format!("{} {}", &text[d.span.clone()], d.message);
    found.iter().map(one).collect()
}

#[test]
fn every_key_of_a_device_is_read() {
    let spec = read(&file(
        ", fence = [\"bmc-lb1\", [\"pdu-a\", \"pdu-b\"]]",
        "",
        &format!(
            "{DEVICES}[fencing]\nafter = \"500ms\"\ndelay = \"0s\"\non-again = true\ntest = \"0s\""
        ),
    ));
    let texts = |all: &[(&str, &str)]| {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let bmc = FenceDevice {
        program: FenceProgram::Agent("fence_ipmilan".into()),
        options: texts(&[
            ("cipher", "3"),
            ("ip", "10.0.9.1"),
            ("lanplus", "1"),
            ("ssl", "0"),
            ("username", "admin"),
        ]),
        secrets: texts(&[("password", "/etc/nines/bmc-lb1.password")]),
        outlets: [("lb1".into(), None)].into(),
        trust_off: false,
        timeout: Millis(60_000),
    };
    let pdu = FenceDevice {
        program: FenceProgram::Agent("fence_apc_snmp".into()),
        options: texts(&[("ip", "10.0.9.9")]),
        secrets: texts(&[]),
        outlets: [("lb1".into(), Some("3".into())), ("lb2".into(), Some("4,5".into()))].into(),
        trust_off: true,
        timeout: Millis(90_000),
    };
    assert_eq!((&spec.fence["bmc-lb1"], &spec.fence["pdu-a"]), (&bmc, &pdu));
    assert_eq!(spec.fence.len(), 3);
    let fencing = Fencing { after: Millis(500), delay: Millis(0), on_again: true, test: Millis(0) };
    assert_eq!(spec.fencing, fencing);
    let levels: Vec<Vec<&str>> =
        spec.nodes["lb1"].fence.iter().map(|l| l.iter().map(|d| d.as_str()).collect()).collect();
    assert_eq!(levels, [vec!["bmc-lb1"], vec!["pdu-a", "pdu-b"]]);
    assert!(spec.nodes["lb2"].fence.is_empty() && spec.fence_levels("lb2").len() == 2);
    assert!(!spec.can_fence("wit"), "a node without a device is no error");
}

#[test]
fn fencing_alone_says_nothing_wrong() {
    let plain = read(&file("", "", ""));
    assert!(!plain.has_fencing());
    assert_eq!(read(&file("", "", "[fencing]\nafter = \"2s\"")), plain);
    for (lb1, rest) in
        [("", "[fencing]\nafter = \"3s\""), ("", DEVICES), (", fence = [\"pdu-a\"]", DEVICES)]
    {
        assert!(read(&file(lb1, "", rest)).has_fencing(), "{lb1} {rest}");
    }
}

/// A device with this in place of a line of its own.
fn device(lines: &str) -> String {
    let has = |key: &str| lines.lines().any(|line| line.starts_with(key));
    let agent = if has("agent") || has("command") { "" } else { "agent = \"fence_apc\"\n" };
    let node = if has("node") || has("outlets") { "" } else { "node = \"lb1\"\n" };
    file("", "", &format!("[fence.x]\n{agent}{node}{lines}"))
}

#[test]
fn what_is_wrong_with_a_device_is_told_where_it_stands() {
    for (lines, message) in [
        ("agent = \"ipmilan\"", "\"ipmilan\" \"ipmilan\" is not the name of a fence agent"),
        (
            "agent = \"/sbin/fence_x\"",
            "\"/sbin/fence_x\" \"/sbin/fence_x\" is not the name of a \
            fence agent",
        ),
        ("agent = \"fence_\"", "\"fence_\" \"fence_\" is not the name of a fence agent"),
        ("command = \"power\"", "\"power\" \"power\" is not the absolute path of a program"),
        (
            "command = \"/opt/power/\"",
            "\"/opt/power/\" \"/opt/power/\" is not the absolute path of a program",
        ),
        ("agent = \"fence_x\"\ncommand = \"/x\"", "\"/x\" a device has either agent or command"),
        ("comand = \"/x\"\nnode = \"lb1\"\ncommand = \"/x\"", "comand unknown key \"comand\""),
        ("command = \"/x\"\noptions = { ip = \"a\" }", "{ ip = \"a\" } a command takes no options"),
        (
            "command = \"/x\"\nsecrets = { token = \"/y\" }",
            "{ token = \"/y\" } a command takes no secrets",
        ),
        ("agnet = \"fence_x\"\nagent = \"fence_x\"", "agnet unknown key \"agnet\""),
        ("node = \"lb3\"", "\"lb3\" unknown node \"lb3\""),
        ("outlets = { lb9 = \"3\" }", "lb9 unknown node \"lb9\""),
        (
            "node = \"lb1\"\noutlets = { lb2 = \"1\" }",
            "{ lb2 = \"1\" } a device has either node or outlets",
        ),
        ("outlets = {}", "{} this device switches no node"),
        ("outlets = { lb1 = 3 }", "3 this is a number; wanted a string in quotes"),
        ("outlets = { lb1 = \"\" }", "\"\" this cannot be an outlet: it is empty"),
        (
            "outlets = { lb1 = \"1,2\", lb2 = \"2\" }",
            "\"2\" outlet 2 is lb1's: to fence lb2 would switch lb1, too",
        ),
        (
            "options = { action = \"off\" }",
            "action action is not an option here: nines tells the agent what to do",
        ),
        (
            "options = { Option = \"off\" }",
            "Option Option is not an option here: nines tells the agent what to do",
        ),
        (
            "options = { plug = \"3\" }",
            "plug plug is not an option here: each node has another one",
        ),
        (
            "secrets = { port = \"/a\" }",
            "port port is not an option here: each node has another one",
        ),
        (
            "options = { \"ip\\naction\" = \"off\" }",
            "\"ip\\naction\" \"ip\\naction\" is not the name of an option",
        ),
        (
            "options = { passwd = \"x\" }",
            "passwd passwd is a secret: every member keeps and shows the config",
        ),
        ("options = { ip = 1.5 }", "1.5 this is a fraction; wanted a string in quotes"),
        (
            "options = { ip = \"a\\naction=on\" }",
            "\"a\\naction=on\" the agent cannot be told this \
            ip: it has a line end, or another character that is not for a line",
        ),
        (
            "options = { key = \"a\" }\nsecrets = { key = \"/a\" }",
            "key key is given twice: in options and here",
        ),
        ("secrets = { password = \"secret\" }", "\"secret\" \"secret\" is not an absolute path"),
        ("timeout = \"4999ms\"", "\"4999ms\" timeout must be 5s to 10m"),
        ("timeout = \"11m\"", "\"11m\" timeout must be 5s to 10m"),
        ("trust-off = \"true\"", "\"true\" this is a string; wanted true or false, without quotes"),
        (
            "agent = \"fence_x\"\nnode = \"lb1\"\n[fence.\"a b\"]\nagent = \"fence_x\"\nnode = \"lb2\"",
            "\"a b\" \"a b\" is not a valid \
            name",
        ),
        ("[fencing]\nafter = \"499ms\"", "\"499ms\" after must be 500ms to 1h"),
        ("[fencing]\ndelay = \"601s\"", "\"601s\" delay must be 0s to 10m"),
        ("[fencing]\ntest = \"59m\"", "\"59m\" test must be 1h to 365d"),
        ("[fencing]\ntest = \"99999999d\"", "\"99999999d\" test must be 1h to 365d"),
        ("[fencing]\nafer = \"3s\"", "afer unknown key \"afer\""),
    ] {
        assert_eq!(told(&device(lines)), [message], "{lines}");
    }
    let missing = |lines: &str| {
        let text = file("", "", &format!("[fence.x]\n{lines}"));
        parse(&text).unwrap_err().into_iter().map(|d| d.message).collect::<Vec<_>>()
    };
    assert_eq!(missing("node = \"lb1\""), ["\"agent\" is missing here"]);
    assert_eq!(missing("agent = \"fence_x\""), ["this device switches no node"]);
    // What is misspelt is not missing, too.
    assert_eq!(
        missing("agent = \"fence_x\"\noutlet = { lb1 = \"1\" }"),
        ["unknown key \"outlet\""]
    );
}

#[test]
fn a_device_may_be_a_program_of_the_operator() {
    let spec = read(&device("command = \"/usr/local/sbin/power\"\ntrust-off = true"));
    let program = FenceProgram::Command("/usr/local/sbin/power".into());
    assert!(spec.fence["x"].program == program && spec.fence["x"].trust_off);
    assert!(spec.has_self_fencing() && !read(&file("", "", DEVICES)).has_self_fencing());
    let misspelt = told(&file("", "", "[fence.x]\ncomand = \"/x\"\nnode = \"lb1\""));
    assert_eq!(misspelt, ["comand unknown key \"comand\""]);
    let help = parse(&device("agent = \"/usr/local/sbin/power\"")).unwrap_err()[0].help.clone();
    let meant = "a program of your own is a command: command = \"/usr/local/sbin/power\"";
    assert_eq!(help.as_deref(), Some(meant));
}

#[test]
fn a_node_has_the_watchdog_of_all_unless_it_names_another_or_none() {
    let nodes = (", watchdog = \"/dev/watchdog1\"", ", watchdog = \"none\"");
    let spec = read(&file(nodes.0, nodes.1, "[fencing]\nwatchdog = \"/dev/watchdog\""));
    let of = |node: &str| spec.watchdog_of(node).map(str::to_owned);
    assert_eq!(of("lb1").as_deref(), Some("/dev/watchdog1"));
    assert_eq!((of("lb2"), of("wit").as_deref()), (None, Some("/dev/watchdog")));
    assert!(spec.has_self_fencing() && !spec.has_fencing());
    let none = read(&file("", "", "[fencing]\nwatchdog = \"none\""));
    assert!(none.watchdog_of("lb1").is_none() && !none.has_self_fencing());
    for path in ["watchdog", "/dev/", "/etc/passwd", "/dev/../etc/passwd", "/dev/a b", ""] {
        let text = file("", "", &format!("[fencing]\nwatchdog = \"{path}\""));
        assert_eq!(told(&text), [format!("\"{path}\" \"{path}\" is not a watchdog")]);
    }
}

#[test]
fn a_copied_device_that_switches_the_wrong_machine_is_refused() {
    let copied = DEVICES.split("\n\n").next().unwrap().replace("lb1", "lb2");
    let of = |copied: &str| told(&file("", "", &format!("{DEVICES}\n{copied}")));
    let found = of(&copied);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].ends_with("} these are the options of bmc-lb1, which switches lb1"),
        "{found:?}"
    );
    assert_eq!(of(&copied.replace("10.0.9.1", "10.0.9.2")), [""; 0]);
    // Two ways to the same machine are no mistake.
    assert_eq!(of(&copied.replace("\"lb2\"", "\"lb1\"")), [""; 0]);
}

#[test]
fn what_is_wrong_with_the_levels_of_a_node_is_told_where_it_stands() {
    for (lb2, message) in [
        (
            "\"pdu-a\"",
            "\"pdu-a\" this is a string; wanted a list of fence devices, such as \
            [\"bmc-lb1\", [\"pdu-a\", \"pdu-b\"]]",
        ),
        ("[]", "[] this list names no fence device"),
        ("[\"pdu-a\", []]", "[] this level names no fence device"),
        ("[\"pdu-a\", 7]", "7 this is a number; wanted a string in quotes"),
        ("[[\"pdu-a\", [\"pdu-b\"]]]", "[\"pdu-b\"] this is a list; wanted a string in quotes"),
        ("[\"pud-a\"]", "\"pud-a\" unknown fence device \"pud-a\""),
        ("[\"bmc-lb1\"]", "\"bmc-lb1\" fence device bmc-lb1 does not switch lb2"),
        ("[\"pdu-b\", [\"pdu-a\", \"pdu-b\"]]", "\"pdu-b\" pdu-b is here twice"),
    ] {
        let text = file("", &format!(", fence = {lb2}"), DEVICES);
        assert_eq!(told(&text), [message], "{lb2}");
    }
    // One mistake of a device is told once.
    let text = file(", fence = [\"x\"]", "", "[fence.x]\nagent = \"apc\"\nnode = \"lb1\"");
    assert_eq!(told(&text), ["\"apc\" \"apc\" is not the name of a fence agent"]);
    let text = file(", fence = [\"x\"]", "", "");
    assert_eq!(told(&text), ["\"x\" unknown fence device \"x\""]);
    let help = parse(&text).unwrap_err()[0].help.clone();
    assert_eq!(help.as_deref(), Some("describe the device in a section [fence.NAME]"));
}
