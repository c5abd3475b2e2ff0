//! `nines doctor`: proves from this director that real servers answer for the VIPs, and that no
//! other machine does.
//!
//! Decides: what answers and silences mean, and the lines that fix it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use nines_agent::{
    kernel_failure,
    proof::{self, Meaning, by_hand},
};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    text::mac_text,
    types::{ConfigText, Status},
};
use nines_dataplane::{
    address::{self, Interface},
    probe, sysctl,
};
use nines_model::{Forward, ServerName, Spec, config::parse};
use serde::Serialize;

use crate::{context::Context, output::print_json};

/// How long answers to ARP and neighbour solicitations may take, for each VIP.
const ARP_PATIENCE: Duration = Duration::from_millis(400);

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    /// "ok", "BAD" or "note" (cannot be proved from here, or need not be wrong).
    verdict: &'static str,
    subject: String,
    text: String,
    /// What to do, on which machine.
    next: Vec<String>,
}

impl Finding {
    fn ok(subject: String, text: impl Into<String>) -> Self {
        Self { verdict: "ok", subject, text: text.into(), next: Vec::new() }
    }

    fn note(subject: String, text: impl Into<String>) -> Self {
        Self { verdict: "note", subject, text: text.into(), next: Vec::new() }
    }

    fn bad(subject: String, text: impl Into<String>, next: Vec<String>) -> Self {
        Self { verdict: "BAD", subject, text: text.into(), next }
    }
}

/// Machines by MAC address, as far as nines knows them.
type Machines = BTreeMap<[u8; 6], String>;

/// MAC addresses of nodes: what they told, and what the link says.
fn nodes(spec: &Spec, status: &Status) -> Outcome<Machines> {
    let mut machines = Machines::new();
    for node in &status.nodes {
        for mac in node.macs.iter().filter_map(|text| mac_from(text)) {
            machines.insert(mac, format!("node {}", node.name));
        }
    }
    for (name, node) in &spec.nodes {
        for addr in &node.addresses {
            if let Some(mac) = mac_of(*addr)? {
                machines.insert(mac, format!("node {name}"));
            }
        }
    }
    Ok(machines)
}

fn mac_from(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok()
}

/// Real servers that packets for a VIP go to, by name.
fn servers_of(spec: &Spec, vip: IpAddr) -> impl Iterator<Item = (&ServerName, IpAddr)> {
    let services = spec.services.values().filter(move |service| service.listen.has(vip));
    services.flat_map(|s| &s.servers).map(|(name, server)| (name, server.addr.ip()))
}

/// Machines that answer ARP or neighbour solicitations for each VIP: only its holder may.
fn answers(spec: &Spec, status: &Status, interfaces: &[Interface]) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    let mut machines = nodes(spec, status)?;
    for vip in spec.vips.keys() {
        for (name, addr) in servers_of(spec, *vip) {
            if let Some(mac) = mac_of(addr)? {
                machines.entry(mac).or_insert_with(|| format!("server {name} ({addr})"));
            }
        }
        let place = address::place(*vip, spec.vips[vip].interface.as_deref()).ok();
        let ways = servers_of(spec, *vip).filter_map(|(_, addr)| address::route(addr));
        let links: BTreeSet<u32> =
            ways.map(|way| way.ifindex).chain(place.map(|place| place.index)).collect();
        let address = vip.to_string();
        let holder = status.vips.iter().find(|v| v.address == address).map_or("", |v| &v.node);
        for interface in interfaces.iter().filter(|i| i.ethernet && links.contains(&i.index)) {
            let answers =
                probe::who_answers(*vip, interface, ARP_PATIENCE).map_err(kernel_failure)?;
            let subject = format!("VIP {vip} on {}", interface.name);
            let own = if holder == status.node { interfaces } else { &[] };
            let own: Vec<[u8; 6]> = own.iter().map(|i| i.mac).collect();
            found.extend(judged(*vip, &subject, holder, &answers, &own, &machines));
        }
    }
    Ok(found)
}

/// What it means that these MAC addresses answer for a VIP.
fn judged(
    vip: IpAddr,
    subject: &str,
    holder: &str,
    answers: &[[u8; 6]],
    own: &[[u8; 6]],
    machines: &Machines,
) -> Vec<Finding> {
    let is_holder = |mac: &&[u8; 6]| {
        own.contains(*mac) || machines.get(*mac).is_some_and(|m| *m == format!("node {holder}"))
    };
    let wrong: Vec<&[u8; 6]> = answers.iter().filter(|mac| !is_holder(mac)).collect();
    if wrong.is_empty() {
        return vec![Finding::ok(subject.into(), "no machine but its holder answers for it")];
    }
    let mine =
        if holder.is_empty() { "no node holds it".into() } else { format!("{holder} holds it") };
    let one = |mac: &[u8; 6]| {
        let machine =
            machines.get(mac).map_or("a machine that nines does not know", String::as_str);
        let text = format!(
            "{machine}, MAC {}, answers for it, and {mine}: clients may go there",
            mac_text(mac)
        );
        let next = match machine.strip_prefix("node ") {
            Some(node) => vec![
                format!(
                    "on {node}: systemctl start nines   (its agent then takes the address away)"
                ),
                format!("or on {node}: ip addr del {vip} from the interface that has it"),
            ],
            None => by_hand(vip, false),
        };
        Finding::bad(subject.into(), text, next)
    };
    wrong.into_iter().map(one).collect()
}

/// The MAC address of a machine on a link of this one.
fn mac_of(addr: IpAddr) -> Outcome<Option<[u8; 6]>> {
    let Some(way) = address::route(addr).filter(|way| way.nexthop == addr) else { return Ok(None) };
    probe::neighbour(addr, way.ifindex).map_err(kernel_failure)
}

/// Whether each real server answers for its VIP, asked as the director's packets go.
fn servers(spec: &Spec, interfaces: &[Interface]) -> Outcome<Vec<Finding>> {
    let here: Vec<IpAddr> =
        interfaces.iter().flat_map(|i| i.addresses.iter().map(|(addr, _)| *addr)).collect();
    let mut found = Vec::new();
    for (name, service) in &spec.services {
        for (server, wanted) in &service.servers {
            let forward = service.forward_of(wanted);
            let subject = format!("server {name}/{server} {} {forward}", wanted.addr.ip());
            let text = match forward {
                _ if here.contains(&wanted.addr.ip()) => "this machine itself",
                Forward::FullNat => {
                    "full NAT: its checks say whether it is up; it needs nothing else"
                }
                Forward::Nat => {
                    "NAT: its checks say whether it is up; its route to clients must lead through this director"
                }
                _ => continue,
            };
            found.push(Finding::note(subject, text));
        }
    }
    let asked = proof::questions(spec, |_| true, &here);
    for (asked, answer) in asked.iter().zip(proof::ask(&asked).map_err(kernel_failure)?) {
        let (server, question) = (&asked.subject, &asked.question);
        let subject = format!("server {server} {} {}", question.server, question.forward);
        found.push(match answer.meaning {
            Meaning::Fine => Finding::ok(subject, answer.text),
            Meaning::Unknown => Finding::note(subject, answer.text),
            Meaning::Unusable => Finding::bad(subject, answer.text, answer.next),
        });
    }
    Ok(found)
}

/// What this director itself needs.
fn director(spec: &Spec) -> Vec<Finding> {
    let all = || {
        spec.services
            .values()
            .flat_map(|s| s.servers.values().map(|r| r.forward.unwrap_or(s.forward)))
    };
    let mut found = Vec::new();
    if all().any(Forward::translates) {
        let on = sysctl::read("net/ipv4/ip_forward").is_ok_and(|value| value == "1");
        found.push(if on {
            Finding::ok("ip_forward".into(), "on, as NAT needs")
        } else {
            let next = vec!["sysctl -w net.ipv4.ip_forward=1".to_owned()];
            Finding::bad(
                "ip_forward".into(),
                "off: the kernel does not forward answers of servers behind NAT",
                next,
            )
        });
    }
    found
}

/// Nodes that take no part: they look alive from everywhere.
fn outside(status: &Status) -> impl Iterator<Item = Finding> {
    let all = status.nodes.iter().filter(|n| n.takes_no_part());
    all.map(|n| {
        let joining = if n.is(NodeState::Joining) { "joining: it " } else { "" };
        let text = format!("{joining}{}", n.trouble);
        Finding::bad(format!("node {}", n.name), text, vec![n.next.clone()])
    })
}

/// The cluster's feature level, and which nodes hold it back. `None`: this node has no log yet.
fn feature_level(status: &Status) -> Option<Finding> {
    if status.voters == 0 {
        return None;
    }
    let subject = "versions".to_owned();
    Some(match &status.feature_level_held_back {
        held if held.is_empty() => {
            let text = format!("cluster feature level {}, read by all nodes", status.feature_level);
            Finding::ok(subject, text)
        }
        // As in the middle of an upgrade.
        held => Finding::note(subject, held.clone()),
    })
}

/// Runs it: 0 if nothing is wrong, 1 otherwise.
pub fn run(context: &Context) -> Outcome<u8> {
    let text = context.client().get::<ConfigText>("/v1/config")?.text;
    let status: Status = context.client().get("/v1/status")?;
    let mut found: Vec<Finding> = outside(&status).chain(feature_level(&status)).collect();
    // A node that has no log yet has no config.
    let spec = if text.is_empty() { Ok(Spec::default()) } else { parse(&text) };
    let spec = spec.map_err(|_| {
        Failure::new(
            Kind::Io,
            "cannot read the config in force",
            "this binary is older than the agent",
        )
    })?;
    let interfaces = address::interfaces().map_err(kernel_failure)?;
    found.extend(director(&spec));
    found.extend(answers(&spec, &status, &interfaces)?);
    found.extend(servers(&spec, &interfaces)?);
    let bad = found.iter().filter(|f| f.verdict == "BAD").count();
    if context.json() {
        print_json(&found);
        return Ok(u8::from(bad > 0));
    }
    for Finding { verdict, subject, text, next } in &found {
        outln!("{verdict:<5} {subject}: {text}");
        for line in next {
            outln!("        {line}");
        }
    }
    match bad {
        0 => outln!("Nothing is wrong as seen from here."),
        1 => outln!("1 thing is wrong; the lines below it say how to fix it, and where."),
        n => outln!("{n} things are wrong; the lines below each say how to fix it, and where."),
    }
    Ok(u8::from(bad > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_may_answer_for_a_vip() {
        let (one, two, far) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 9]);
        let machines: Machines = [(one, "node lb1".to_owned()), (two, "node lb2".into())].into();
        let told = |vip: &str, answers: &[[u8; 6]], own: &[[u8; 6]]| {
            let vip = vip.parse().unwrap();
            let found = judged(vip, "VIP", "lb1", answers, own, &machines);
            found.iter().map(|f| format!("{} {}", f.verdict, f.text)).collect::<Vec<_>>().join("|")
        };
        for vip in ["10.0.0.100", "fd00::100"] {
            assert!(told(vip, &[one], &[]).starts_with("ok"));
            assert!(told(vip, &[], &[one]).starts_with("ok"));
            let spare = told(vip, &[one, two], &[]);
            assert!(spare.starts_with("BAD node lb2, MAC 02:00:00:00:00:02"), "{spare}");
            assert!(told(vip, &[far], &[]).contains("a machine that nines does not know"));
        }
        assert_eq!(mac_from(&mac_text(&far)), Some(far));
    }

    #[test]
    fn the_feature_level_is_told_with_who_holds_it_back() {
        let told = |voters, held: &str| {
            let status = Status {
                voters,
                feature_level: 1,
                feature_level_held_back: held.into(),
                ..Status::default()
            };
            feature_level(&status).map(|f| format!("{} {}: {}", f.verdict, f.subject, f.text))
        };
        let all = "ok versions: cluster feature level 1, read by all nodes";
        assert_eq!(told(3, "").as_deref(), Some(all));
        let held = "cluster feature level 1, held back by lb2 (0.1.0): install nines there";
        assert_eq!(told(3, held), Some(format!("note versions: {held}")));
        assert_eq!(told(0, ""), None, "a node without the log knows no level");
    }
}
