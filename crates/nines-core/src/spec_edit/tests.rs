use nines_model::config;
use proptest::prelude::*;

use super::*;
use crate::wire::{Command, command::Kind};

/// A config with every kind of thing that the log has a form for.
const ALL: &str = r#"
[cluster]
name = "t"
[timing]
beat = "10ms"
lease = "80ms"
[forwarding]
flows = 131072
tcp-timeout = "600s"
[nodes]
lb1 = "10.0.0.2"
lb2 = ["10.0.0.3", "10.1.0.3"]
wit = { addresses = "10.0.0.4", role = "witness" }
[vip.front]
address = "10.0.0.99/24"
interface = "eth0"
prefer = ["lb2", "lb1"]
[service.web]
listen = "10.0.0.100:80"
forward = "full-nat"
source-pool = ["10.0.0.50", "10.0.0.51"]
proxy-protocol = "v2"
scheduler = "wlc"
persist = "300s"
check = { http = "/health?a=1", host = "a.example", status = 204, contains = "ok", port = 8080 }
servers = { r1 = { address = "10.0.0.11:8080", weight = 25, upper = 100 }, r2 = "10.0.0.12:8080" }
[service.dns]
listen = "10.0.0.100:53/udp"
datagrams = "single"
servers = { r1 = "10.0.0.11", s = { address = "10.0.0.13", role = "sorry" } }
[service.six]
listen = "[fd00::100]:443"
scheduler = "sh"
allow = ["fd00::/64"]
rate = "10/s"
servers = { r1 = "fd00::11" }
"#;

fn all() -> Spec {
    read(ALL)
}

fn read(text: &str) -> Spec {
    config::parse(text).unwrap_or_else(|why| panic!("{text}: {why:?}"))
}

/// The same with all of fencing.
fn fenced_text() -> String {
    let line = "lb2 = [\"10.0.0.3\", \"10.1.0.3\"]";
    assert!(ALL.contains(line));
    let levels = "fence = [\"bmc\", [\"pdu-a\", \"pdu-b\"]]";
    let line_with_levels =
        format!("lb2 = {{ addresses = [\"10.0.0.3\", \"10.1.0.3\"], {levels} }}");
    ALL.replace(line, &line_with_levels)
        + r#"
[fence.bmc]
agent = "fence_ipmilan"
node = "lb2"
options = { ip = "10.0.9.2", lanplus = true }
secrets = { password = "/etc/nines/bmc" }
[fence.pdu-a]
agent = "fence_apc"
outlets = { lb1 = "1", lb2 = "2" }
trust-off = true
timeout = "90s"
[fence.pdu-b]
agent = "fence_apc"
outlets = { lb1 = "1", lb2 = "2" }
[fencing]
after = "3s"
delay = "0s"
on-again = true
test = "1d"
"#
}

fn service(listen: &str, rest: &str) -> Spec {
    let head = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
    let text = format!("{head}[service.s]\nlisten = \"{listen}\"\n{rest}\n");
    config::parse(&text).unwrap_or_else(|why| panic!("{text}: {why:?}"))
}

fn encoded(apply: ApplySpec) -> Vec<u8> {
    Command { number: 7, kind: Some(Kind::ApplySpec(apply)), ..Command::default() }.encode_to_vec()
}

#[test]
fn every_part_of_a_config_comes_back_as_it_was() {
    let servers = "servers = { r = \"10.0.0.11\" }";
    let specs = [
        Spec::default(),
        all(),
        read(&fenced_text()),
        service("10.0.0.100:80", &format!("check = \"none\"\n{servers}")),
        service("10.0.0.100:8000-8010", &format!("check = \"none\"\n{servers}")),
        service("10.0.0.100:80", &format!("forward = \"gue\"\n{servers}")),
        service("10.0.0.100:80", &format!("syn-cookies = \"100/s\"\n{servers}")),
        service("10.0.0.100:80/sctp", &format!("check = \"none\"\n{servers}")),
    ];
    for spec in &specs {
        let edit = SpecEdit::whole(spec);
        let bytes = edit.encode_to_vec();
        let read = SpecEdit::decode(&bytes[..]).unwrap();
        assert_eq!(read.applied_to(&all()).as_ref(), Some(spec), "whatever was before");
    }
    for before in &specs {
        for after in &specs {
            let edit = SpecEdit::between(before, after);
            assert_eq!(edit.applied_to(before).as_ref(), Some(after));
            let by_steps = parts_digest_after(before, parts_digest(before), after);
            assert_eq!(digest_of(by_steps, after), digest(after));
            assert_eq!(digest(before) == digest(after), before == after);
        }
    }
    assert_eq!(parts_digest(&Spec::default()), 0);
}

#[test]
fn one_weight_costs_its_service_and_nothing_else() {
    let services = |weight: u32| {
        let mut spec = all();
        let web = spec.services["web"].clone();
        for n in 0..1_000 {
            spec.services.insert(format!("s{n}").into(), Arc::clone(&web));
        }
        let mut changed = (*web).clone();
        changed.servers.get_mut("r1").unwrap().weight = weight;
        spec.services.insert("web".into(), Arc::new(changed));
        spec
    };
    let (before, after) = (services(25), services(26));
    let edit = SpecEdit::between(&before, &after);
    assert_eq!((edit.services.len(), edit.general.is_none()), (1, true));
    assert!(edit.encoded_len() < 300, "{}", edit.encoded_len());
    let applied = edit.applied_to(&before).unwrap();
    assert_eq!(applied, after);
    let shared = |name: &str| Arc::ptr_eq(&before.services[name], &applied.services[name]);
    assert!(shared("s7") && !shared("web"));
}

#[test]
fn what_this_build_does_not_know_is_never_skipped() {
    let apply = |edit| ApplySpec { text: Apply::whole("x".into(), 0), edit, digest: 1 };
    let whole = || SpecEdit::whole(&all());
    assert!(is_read_whole(&encoded(apply(whole()))));
    assert!(is_read_whole(&encoded(apply(SpecEdit::between(&all(), &Spec::default())))));
    assert!(is_read_whole(&Command::default().encode_to_vec()), "no config");

    let unknown: [fn(&mut SpecEdit); 7] = [
        |edit| edit.services[0].scheduler = "newest".into(),
        |edit| edit.services[0].check.as_mut().unwrap().kind = "smtp".into(),
        |edit| edit.services[0].forward.as_mut().unwrap().way = "vxlan".into(),
        |edit| edit.services[0].proto = 33,
        |edit| edit.services[0].listen = None,
        |edit| edit.nodes[0].role = "arbiter".into(),
        |edit| edit.vips[0].addr.truncate(3),
    ];
    for change in unknown {
        let mut edit = whole();
        change(&mut edit);
        assert_eq!(edit.applied_to(&Spec::default()), None);
        assert!(!is_read_whole(&encoded(apply(edit))));
    }

    // A field that a newer build has added to a service: number 900, a text.
    let entry = forms::service("web", &all().services["web"]).encode_to_vec();
    let newer = [&entry[..], &[0xa2, 0x38, 2, b'h', b'i']].concat();
    let field = |tag: u8, bytes: &[u8]| {
        let mut out = vec![tag << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        [&out[..], bytes].concat()
    };
    let command = |service: &[u8]| {
        let edit = field(7, service);
        let text = field(1, &Apply::whole("x".into(), 0).encode_to_vec());
        let apply = [text, field(2, &edit)].concat();
        let mut tag = Vec::new();
        prost::encoding::encode_varint(peek::APPLIES_SPEC << 3 | 2, &mut tag);
        prost::encoding::encode_varint(apply.len() as u64, &mut tag);
        [tag, apply].concat()
    };
    assert!(is_read_whole(&command(&entry)));
    assert!(!is_read_whole(&command(&newer)));
    assert!(!is_read_whole(&command(&[0xff])));
}

/// Other bytes for the same config need a feature level of their own (`feature_level::needed`):
/// what is pinned here are the numbers of fields and the names of words, of every part.
#[test]
fn the_form_of_a_config_is_pinned() {
    assert_eq!(format!("{:016x}", digest(&all())), "9471738b2056dec7");
    assert_eq!(format!("{:016x}", digest(&read(&fenced_text()))), "d6ce76bbcf0ea80a");
}

/// Another value of each key of fencing is another config, and comes back as it was.
#[test]
fn every_key_of_fencing_is_in_the_log() {
    let text = fenced_text();
    let before = read(&text);
    for (what, by) in [
        ("agent = \"fence_ipmilan\"", "agent = \"fence_ilo5\""),
        ("node = \"lb2\"", "outlets = { lb2 = \"1\" }"),
        ("node = \"lb2\"", "outlets = { lb2 = \"1\", wit = \"2\" }"),
        ("lanplus = true", "lanplus = false"),
        (", lanplus = true", ""),
        ("\"/etc/nines/bmc\"", "\"/etc/nines/bmc2\""),
        ("secrets = { password", "secrets = { passwd"),
        ("outlets = { lb1 = \"1\", lb2 = \"2\" }\ntrust", "outlets = { lb2 = \"2\" }\ntrust"),
        ("trust-off = true", "trust-off = false"),
        ("timeout = \"90s\"", "timeout = \"91s\""),
        ("[\"bmc\", [\"pdu-a\", \"pdu-b\"]]", "[[\"bmc\", \"pdu-a\", \"pdu-b\"]]"),
        ("[\"bmc\", [\"pdu-a\", \"pdu-b\"]]", "[\"bmc\", [\"pdu-b\", \"pdu-a\"]]"),
        ("[\"bmc\", [\"pdu-a\", \"pdu-b\"]]", "[\"bmc\"]"),
        (", fence = [\"bmc\", [\"pdu-a\", \"pdu-b\"]]", ""),
        ("after = \"3s\"", "after = \"4s\""),
        ("delay = \"0s\"", "delay = \"1s\""),
        ("on-again = true", "on-again = false"),
        ("test = \"1d\"", "test = \"0s\""),
        (
            "agent = \"fence_ipmilan\"\nnode = \"lb2\"\noptions = { ip = \"10.0.9.2\", \
             lanplus = true }\nsecrets = { password = \"/etc/nines/bmc\" }",
            "command = \"/opt/power\"\nnode = \"lb2\"",
        ),
        ("test = \"1d\"", "test = \"1d\"\nwatchdog = \"/dev/watchdog\""),
        (", fence = [\"bmc\"", ", watchdog = \"none\", fence = [\"bmc\""),
        (", fence = [\"bmc\"", ", watchdog = \"/dev/watchdog1\", fence = [\"bmc\""),
    ] {
        assert_eq!(text.matches(what).count(), 1, "{what}");
        let after = read(&text.replace(what, by));
        assert_ne!(digest(&before), digest(&after), "{what} became {by}");
        for (one, other) in [(&before, &after), (&after, &before)] {
            let edit = SpecEdit::between(one, other);
            assert_eq!(edit.applied_to(one).as_ref(), Some(other), "{what} became {by}");
            assert!(SpecEdit::whole(other).has_fencing());
        }
    }
}

/// A build that does not know fencing writes again what it reads of a config, and goes by it only
/// if these are the same bytes.
#[test]
fn a_config_without_fencing_has_the_bytes_that_it_always_had() {
    let spec = all();
    let edit = SpecEdit::whole(&spec);
    let general = edit.general.as_ref().unwrap().encode_to_vec();
    assert!(!peek::has_any(&general, &[11, 12]) && !edit.has_fencing());
    let nodes = edit.nodes.iter().map(Message::encode_to_vec);
    assert_eq!(nodes.filter(|node| peek::has_any(node, &[4])).count(), 0);
    let without = SpecEdit::between(&read(&fenced_text()), &spec);
    assert!(!without.has_fencing() && without.applied_to(&read(&fenced_text())) == Some(spec));
    // What applies where nothing is written is what the config's reader takes, too.
    assert_eq!(SpecEdit::whole(&Spec::default()).applied_to(&all()), Some(Spec::default()));
    let general = SpecEdit::whole(&read(&fenced_text())).general.unwrap().encode_to_vec();
    assert!(peek::has_any(&general, &[11]) && peek::has_any(&general, &[12]));
}

/// Roles of users are in the log; a config without them has the bytes that it always had.
#[test]
fn every_key_of_access_is_in_the_log() {
    let text = |lines: &str| format!("[cluster]\nname = \"c\"\n{lines}");
    let all = [
        "",
        "[access]\n",
        "[access]\nviewer = [\"a\"]\n",
        "[access]\noperator = [\"a\"]\n",
        "[access]\nadmin = [\"a\"]\n",
        "[access]\nadmin = [\"a\", \"b\"]\nviewer = [\"9\"]\n",
    ]
    .map(|lines| read(&text(lines)));
    for one in &all {
        for other in &all {
            let edit = SpecEdit::between(one, other);
            assert_eq!(edit.applied_to(one).as_ref(), Some(other));
            assert_eq!(digest(one) == digest(other), one == other);
            assert_eq!(edit.has_access(), one != other && other.access.is_some());
        }
        let general = SpecEdit::whole(one).general.unwrap().encode_to_vec();
        assert_eq!(peek::has_any(&general, &[13]), one.access.is_some());
    }
}

#[test]
fn a_config_that_no_state_has_room_for_is_refused() {
    let text = "#".repeat(ENCODED_MAX);
    let why = ApplySpec::whole(text, &all(), 0).unwrap_err();
    assert!(why.contains("takes 49 MiB in the log, of at most 48 MiB"), "{why}");
}

#[test]
fn an_edit_of_another_config_does_not_fit() {
    let none = Spec::default();
    for after in [all(), service("10.0.0.100:80", "servers = { r = \"10.0.0.11\" }")] {
        let away = SpecEdit::between(&after, &none);
        assert_eq!(away.applied_to(&none), None, "what is to go is not there");
    }
    // What the text cannot say, as an address of an interface, has no form in the log either.
    let mut odd = all();
    let scoped = std::net::SocketAddrV6::new([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 443, 0, 3);
    let mut six = (*odd.services["six"]).clone();
    six.listen.addr = scoped.into();
    odd.services.insert("six".into(), Arc::new(six));
    assert!(ApplySpec::whole("x".into(), &odd, 0).unwrap_err().contains("no form"));
}

proptest! {
    #[test]
    fn a_damaged_edit_is_refused_or_read_whole(
        at in 0..usize::MAX,
        bit in 0..8_u32,
    ) {
        let mut bytes = encoded(ApplySpec::whole(ALL.into(), &all(), 0).unwrap());
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // Never a panic; and what is taken is what stands there.
        if is_read_whole(&bytes) && let Some(apply) = peek::field(&bytes, peek::APPLIES_SPEC) {
            let read = ApplySpec::decode(apply).unwrap();
            prop_assert_eq!(read.encode_to_vec(), apply);
        }
    }
}
