//! What changes from one [`Spec`] to another, in words people check before they apply it.

use std::sync::Arc;

use self::text::{node_text, server_text, service_text, vip_text};
use crate::{
    Codes as _,
    access::{Access, AccessRole},
    fence::{FenceDevice, Fencing},
    id::{DeviceName, NodeName, ServerName, ServiceName},
    sanity::unserved,
    spec::{ServerSpec, ServiceSpec, Spec},
};

mod text;

/// One difference between two configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changes, as "service web" or "server web/r2".
    pub subject: String,
    /// `+` added, `-` removed, `~` changed.
    pub sign: char,
    /// Before and after, or what is added or removed.
    pub text: String,
    /// What clients notice, in words; empty when nothing.
    pub felt: String,
}

/// All differences, in a stable order.
pub fn diff(old: &Spec, new: &Spec) -> Vec<Change> {
    let mut out = Vec::new();
    if old.name != new.name {
        out.push(change("cluster", '~', format!("name {} -> {}", old.name, new.name), ""));
    }
    keyed(&mut out, "node", &old.nodes, &new.nodes, node_text, |_, sign| match sign {
        '-' => "its VIPs move first",
        _ => "",
    });
    for (addr, vip) in &old.vips {
        if !new.vips.contains_key(addr) {
            let subject = format!("vip {addr}");
            out.push(change(subject, '-', vip_text(vip), "no machine answers for the address"));
        }
    }
    for (addr, vip) in &new.vips {
        match old.vips.get(addr) {
            None => out.push(change(format!("vip {addr}"), '+', vip_text(vip), "")),
            Some(before) if before != vip => {
                let text = format!("{} -> {}", vip_text(before), vip_text(vip));
                out.push(change(format!("vip {addr}"), '~', text, ""));
            }
            Some(_) => {}
        }
    }
    services(&mut out, old, new);
    fencing(&mut out, old, new);
    if old.access != new.access {
        let [before, after] = [old, new].map(|spec| access_text(spec.access.as_ref()));
        let text = format!("{before} -> {after}");
        out.push(change("access", '~', text, ""));
    }
    if old.backend != new.backend {
        let felt = "established connections end";
        out.push(change("dataplane", '~', format!("{} -> {}", old.backend, new.backend), felt));
    }
    if old.flows != new.flows {
        let text =
            format!("room for {} -> {} flows, from each agent's next start", room(old), room(new));
        out.push(change("forwarding", '~', text, ""));
    }
    if old.idle != new.idle {
        let text = format!("silent connections end after {} -> {}", old.idle, new.idle);
        out.push(change("forwarding", '~', text, ""));
    }
    if old.timing != new.timing {
        let text = format!("{:?} -> {:?}", old.timing, new.timing);
        out.push(change("timing", '~', text, ""));
    }
    out
}

fn services(out: &mut Vec<Change>, old: &Spec, new: &Spec) {
    for (name, before) in &old.services {
        if !new.services.contains_key(name) {
            let felt = "its clients get no answer";
            out.push(change(format!("service {name}"), '-', service_text(before), felt));
        }
    }
    for (name, after) in &new.services {
        let subject = format!("service {name}");
        let Some(before) = old.services.get(name) else {
            let text = format!("{}, {}", service_text(after), servers_text(after));
            out.push(change(subject, '+', text, ""));
            continue;
        };
        // What was not read again is the same (`config::parse_after`).
        if Arc::ptr_eq(before, after) {
            continue;
        }
        if service_text(before) != service_text(after) {
            let text = format!("{} -> {}", service_text(before), service_text(after));
            out.push(change(subject.clone(), '~', text, ""));
        }
        servers(out, name, before, after);
        if let (None, Some(why)) = (unserved(before), unserved(after)) {
            let text = format!("serves no client any more: {why}");
            out.push(change(subject, '~', text, "its clients get no answer"));
        }
    }
}

fn fencing(out: &mut Vec<Change>, old: &Spec, new: &Spec) {
    let subject = |name: &DeviceName| format!("fence device {name}");
    for (name, before) in &old.fence {
        if !new.fence.contains_key(name) {
            out.push(change(subject(name), '-', device_text(before), ""));
        }
    }
    for (name, after) in &new.fence {
        match old.fence.get(name) {
            None => out.push(change(subject(name), '+', device_text(after), "")),
            Some(before) if before != after => {
                let text = format!("{} -> {}", device_text(before), device_text(after));
                out.push(change(subject(name), '~', text, ""));
            }
            Some(_) => {}
        }
    }
    for node in new.nodes.keys() {
        let text = match (old.can_fence(node.as_str()), new.can_fence(node.as_str())) {
            (true, false) => "no fence device can switch it off any more",
            (false, true) => "fence devices can switch it off from now on",
            _ => continue,
        };
        out.push(change(format!("node {node}"), '~', text.into(), ""));
    }
    if (old.fencing, &old.watchdog) != (new.fencing, &new.watchdog) {
        out.push(change("fencing", '~', fencing_text(old, new), ""));
    }
}

/// Which groups may do what.
fn access_text(access: Option<&Access>) -> String {
    let Some(access) = access else { return "whom the socket lets in is admin".into() };
    let of = |role: &AccessRole| {
        let groups = access.groups(*role);
        (!groups.is_empty()).then(|| format!("{role} {}", groups.join(" ")))
    };
    let roles: Vec<String> = ["root is admin".to_owned()]
        .into_iter()
        .chain(AccessRole::ALL.iter().filter_map(of))
        .collect();
    roles.join(", ")
}

/// Secrets are paths here, and may be shown.
fn device_text(device: &FenceDevice) -> String {
    let FenceDevice { program, options, secrets, outlets, trust_off, timeout } = device;
    let machine = |(node, outlet): (&NodeName, &Option<String>)| match outlet {
        Some(outlet) => format!("{node} by outlet {outlet}"),
        None => node.to_string(),
    };
    let machines: Vec<String> = outlets.iter().map(machine).collect();
    let options = options.iter().map(|(key, value)| format!(" {key}={value}"));
    let secrets = secrets.iter().map(|(key, path)| format!(" {key} from {path}"));
    let told: String = options.chain(secrets).collect();
    let trust = if *trust_off { ", its word is believed" } else { "" };
    format!("{program}{told} switches {} within {timeout}{trust}", machines.join(", "))
}

/// What differs.
fn fencing_text(before: &Spec, after: &Spec) -> String {
    let (old, new) = (&before.fencing, &after.fencing);
    let watchdog = |spec: &Spec| spec.watchdog.clone().unwrap_or_else(|| "none".into());
    let tested = |fencing: &Fencing| match fencing.test.0 {
        0 => "never".to_owned(),
        _ => format!("every {}", fencing.test),
    };
    let again = |fencing: &Fencing| if fencing.on_again { "switched on" } else { "left off" };
    let all = [
        ("a silent node is fenced after", old.after.to_string(), new.after.to_string()),
        ("the node that holds less waits", old.delay.to_string(), new.delay.to_string()),
        ("a fenced node is", again(old).into(), again(new).into()),
        ("devices are tested", tested(old), tested(new)),
        ("the watchdog of nodes is", watchdog(before), watchdog(after)),
    ];
    let differ = all.iter().filter(|(_, old, new)| old != new);
    let texts: Vec<String> =
        differ.map(|(what, old, new)| format!("{what} {old} -> {new}")).collect();
    texts.join("; ")
}

/// Servers of a service, at most eight by name.
fn servers_text(service: &ServiceSpec) -> String {
    let one = |(name, server): (&ServerName, &ServerSpec)| {
        format!("{name} {} {}", server.addr, server_text(server))
    };
    let some: Vec<String> = service.servers.iter().take(8).map(one).collect();
    match service.servers.len() {
        0 => "no servers".into(),
        n @ 1..=8 if n == some.len() => format!("servers: {}", some.join(", ")),
        n => format!("servers: {} and {} more", some.join(", "), n - some.len()),
    }
}

/// Of flows, in words.
fn room(spec: &Spec) -> String {
    if spec.flows == 0 { "the usual number of".into() } else { spec.flows.to_string() }
}

fn change(subject: impl Into<String>, sign: char, text: String, felt: &str) -> Change {
    Change { subject: subject.into(), sign, text, felt: felt.to_owned() }
}

fn keyed<T: PartialEq>(
    out: &mut Vec<Change>,
    kind: &str,
    old: &std::collections::BTreeMap<NodeName, T>,
    new: &std::collections::BTreeMap<NodeName, T>,
    text: fn(&T) -> String,
    felt: fn(&str, char) -> &'static str,
) {
    for (name, before) in old {
        if !new.contains_key(name) {
            out.push(change(format!("{kind} {name}"), '-', text(before), felt(name.as_str(), '-')));
        }
    }
    for (name, after) in new {
        match old.get(name) {
            None => out.push(change(
                format!("{kind} {name}"),
                '+',
                text(after),
                felt(name.as_str(), '+'),
            )),
            Some(before) if before != after && text(before) != text(after) => {
                let text = format!("{} -> {}", text(before), text(after));
                out.push(change(format!("{kind} {name}"), '~', text, felt(name.as_str(), '~')));
            }
            Some(_) => {}
        }
    }
}

fn servers(out: &mut Vec<Change>, service: &ServiceName, old: &ServiceSpec, new: &ServiceSpec) {
    for (name, before) in &old.servers {
        if !new.servers.contains_key(name) {
            let subject = format!("server {service}/{name}");
            out.push(change(subject, '-', before.addr.to_string(), "its connections end"));
        }
    }
    for (name, after) in &new.servers {
        let subject = format!("server {service}/{name}");
        match old.servers.get(name) {
            None => out.push(change(subject, '+', after.addr.to_string(), "")),
            Some(before) if before.addr != after.addr => {
                let text = format!("{} -> {}", before.addr, after.addr);
                out.push(change(subject, '~', text, "connections to the old address end"));
            }
            Some(before) if before != after => {
                let text = format!("{} -> {}", server_text(before), server_text(after));
                out.push(change(subject, '~', text, ""));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn spec(servers: &str, more: &str) -> Spec {
        config::parse(&format!(
            "[cluster]\nname = \"w\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\n{more}\nservers = {{ {servers} }}\n"
        ))
        .unwrap()
    }

    fn felt(old: &Spec, new: &Spec) -> Vec<String> {
        diff(old, new).into_iter().filter(|c| !c.felt.is_empty()).map(|c| c.text).collect()
    }

    #[test]
    fn a_new_service_lists_its_servers_and_how_they_are_checked() {
        let servers: Vec<String> = (1..=10).map(|i| format!("r{i} = \"10.0.1.{i}\"")).collect();
        let new = spec(&servers.join(", "), "");
        let old = Spec { services: std::collections::BTreeMap::default(), ..new.clone() };
        let text = diff(&old, &new).pop().unwrap().text;
        assert!(text.contains("servers: r1 10.0.1.1:80 weight 1, r10 10.0.1.10:80"), "{text}");
        assert!(text.contains("and 2 more") && text.contains("TCP check"), "{text}");
    }

    fn fenced(bmc: &str, nodes: &str, more: &str) -> Spec {
        config::parse(&format!(
            "[cluster]\nname = \"w\"\n[nodes]\nlb2 = \"10.0.0.3\"\n{nodes}\n{more}\n\
             [fence.pdu]\nagent = \"fence_apc\"\noutlets = {{ lb2 = \"4\" }}\n{bmc}"
        ))
        .unwrap()
    }

    const LB1: &str = "lb1 = \"10.0.0.2\"";
    const BMC: &str = "[fence.bmc]\nagent = \"fence_ipmilan\"\nnode = \"lb1\"\n\
        options = { ip = \"10.0.9.1\" }\nsecrets = { password = \"/etc/nines/bmc\" }\n";

    fn told(old: &Spec, new: &Spec) -> Vec<String> {
        let line = |c: Change| format!("{} {}: {}{}", c.sign, c.subject, c.text, c.felt);
        diff(old, new).into_iter().map(line).collect()
    }

    #[test]
    fn a_node_that_loses_its_last_fence_device_is_named() {
        let (with, without) = (fenced(BMC, LB1, ""), fenced("", LB1, ""));
        let device =
            "fence_ipmilan ip=10.0.9.1 password from /etc/nines/bmc switches lb1 within 1m";
        assert_eq!(
            told(&with, &without),
            [
                format!("- fence device bmc: {device}"),
                "~ node lb1: no fence device can switch it off any more".into()
            ]
        );
        assert_eq!(
            told(&without, &with),
            [
                format!("+ fence device bmc: {device}"),
                "~ node lb1: fence devices can switch it off from now on".into()
            ]
        );
        // A node that is gone, too, loses nothing.
        let lines = told(&with, &fenced("", "", ""));
        assert!(lines.len() == 2 && lines[0].starts_with("- node lb1"), "{lines:?}");
    }

    #[test]
    fn each_part_of_fencing_that_changes_is_told() {
        let before = fenced(BMC, LB1, "");
        for (bmc, nodes, more, line) in [
            (
                BMC.replace("node = \"lb1\"", "outlets = { lb1 = \"3\", lb2 = \"5\" }"),
                LB1,
                "",
                "~ fence device bmc: fence_ipmilan ip=10.0.9.1 password from /etc/nines/bmc \
                 switches lb1 within 1m -> fence_ipmilan ip=10.0.9.1 password from \
                 /etc/nines/bmc switches lb1 by outlet 3, lb2 by outlet 5 within 1m",
            ),
            (
                BMC.replace("[fence.bmc]\n", "[fence.bmc]\ntrust-off = true\ntimeout = \"9s\"\n"),
                LB1,
                "",
                "~ fence device bmc: fence_ipmilan ip=10.0.9.1 password from /etc/nines/bmc \
                 switches lb1 within 1m -> fence_ipmilan ip=10.0.9.1 password from \
                 /etc/nines/bmc switches lb1 within 9s, its word is believed",
            ),
            (
                BMC.into(),
                "lb1 = { addresses = \"10.0.0.2\", fence = [\"bmc\"] }",
                "",
                "~ node lb1: director 10.0.0.2 -> director 10.0.0.2, fenced by bmc",
            ),
            (
                BMC.into(),
                LB1,
                "[fencing]\nafter = \"5s\"\ntest = \"0s\"",
                "~ fencing: a silent node is fenced after 2s -> 5s; devices are tested every 7d \
                 -> never",
            ),
            (
                BMC.into(),
                LB1,
                "[fencing]\ndelay = \"30s\"\non-again = true",
                "~ fencing: the node that holds less waits 10s -> 30s; a fenced node is left off \
                 -> switched on",
            ),
            (
                BMC.into(),
                LB1,
                "[fencing]\nwatchdog = \"/dev/watchdog\"",
                "~ fencing: the watchdog of nodes is none -> /dev/watchdog",
            ),
            (
                BMC.into(),
                "lb1 = { addresses = \"10.0.0.2\", watchdog = \"/dev/watchdog1\" }",
                "",
                "~ node lb1: director 10.0.0.2 -> director 10.0.0.2, watchdog /dev/watchdog1",
            ),
            (
                BMC.replace("agent = \"fence_ipmilan\"", "command = \"/opt/power\"")
                    .replace("options = { ip = \"10.0.9.1\" }\n", "")
                    .replace("secrets = { password = \"/etc/nines/bmc\" }\n", ""),
                LB1,
                "",
                "~ fence device bmc: fence_ipmilan ip=10.0.9.1 password from /etc/nines/bmc \
                 switches lb1 within 1m -> /opt/power switches lb1 within 1m",
            ),
        ] {
            assert_eq!(told(&before, &fenced(&bmc, nodes, more)), [line]);
        }
    }

    #[test]
    fn a_service_that_serves_nobody_any_more_is_felt() {
        let one = "r1 = { address = \"10.0.0.11\", weight = 1 }";
        let zero = "r1 = { address = \"10.0.0.11\", weight = 0 }";
        let told = felt(&spec(one, ""), &spec(zero, ""));
        assert!(told[0].contains("no server takes new connections"), "{told:?}");
        assert_eq!(felt(&spec(zero, ""), &spec(one, "")), Vec::<String>::new());
        let told = felt(&spec(one, ""), &spec(one, "deny = [\"0.0.0.0/0\"]"));
        assert!(told[0].contains("shut every client out"), "{told:?}");
    }
}
