//! What a name given to a command is, where it is not what the command takes.
//!
//! Decides: words only; a name that fits is nobody's business here.

use nines_api::failure::{Failure, Kind};
use nines_core::state::State;
use nines_model::{AdminCommand, NodeName, ServerName, ServiceName, Spec, suggest};

/// What a name in the config names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Node,
    Service,
    Vip,
    Server,
    Nothing,
}

fn named(spec: &Spec, name: &str) -> Named {
    if spec.nodes.contains_key(name) {
        Named::Node
    } else if spec.services.contains_key(name) {
        Named::Service
    } else if !spec.find_servers(name).is_empty() {
        Named::Server
    } else if !spec.find_vips(name).is_empty() {
        Named::Vip
    } else {
        Named::Nothing
    }
}

/// The failure of `nines drain NAME` and its kind, if the name is none that the command takes.
/// The first such name of several is told.
pub fn misnamed(spec: &Spec, admin: AdminCommand, subjects: &[String]) -> Option<Failure> {
    let of_servers = admin.is_of_servers();
    let no = |name: &String| {
        if of_servers { no_server(spec, admin, name) } else { no_node(spec, admin, name) }
    };
    subjects.iter().find_map(no)
}

/// The failure of `nines node remove NAME` and the like, if a name is none of a member.
pub fn no_member(state: &State, admin: AdminCommand, subjects: &[String]) -> Option<Failure> {
    let unknown = |name: &&String| state.member(name.as_str()).is_none();
    let name = subjects.iter().find(unknown)?;
    if state.spec.nodes.contains_key(name.as_str()) {
        let why = "the config names it, and it has not joined";
        return Some(
            Failure::new(Kind::NotFound, format!("{name} is no member"), why)
                .next("nines node list   shows the members"),
        );
    }
    no_node(&state.spec, admin, name)
}

/// The failure of `nines move NAME`, if the name is no service and no VIP.
pub fn not_movable(spec: &Spec, name: &str) -> Option<Failure> {
    let failure = |what: String| Failure::new(Kind::NotFound, what, "only VIPs move");
    match named(spec, name) {
        _ if !spec.find_vips(name).is_empty() => None,
        Named::Node => Some(
            failure(format!("{name} is a node"))
                .next(format!("nines standby {name}   moves all its VIPs to other directors")),
        ),
        Named::Server => Some(
            failure(format!("{name} is a real server"))
                .next(format!("nines drain {name}   keeps new connections away from it")),
        ),
        _ => {
            let known = spec.services.keys().map(ServiceName::as_str);
            Some(unknown(&format!("service or VIP {name}"), name, known))
        }
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let next = suggest::closest(name, known)
        .map_or("nines status --wide   lists them".to_owned(), |m| format!("did you mean {m}?"));
    Failure::new(Kind::NotFound, format!("unknown {what}"), "").next(next)
}

fn no_server(spec: &Spec, admin: AdminCommand, name: &str) -> Option<Failure> {
    if !spec.find_servers(name).is_empty() {
        return None;
    }
    let failure =
        |what: String| Failure::new(Kind::NotFound, what, format!("nines {admin} takes servers"));
    Some(match named(spec, name) {
        Named::Node => {
            let does = match admin {
                AdminCommand::Drain => "moves its VIPs away",
                _ => "gives it VIPs again",
            };
            let failure = failure(format!("{name} is a node, not a real server"));
            match admin.counterpart() {
                Some(other) => failure.next(format!("nines {other} {name}   {does}")),
                None => failure,
            }
        }
        Named::Service => {
            let servers = spec.services[name].servers.keys().take(3);
            let servers: Vec<String> = servers.map(|s| format!("{name}/{s}")).collect();
            failure(format!("{name} is a service, not a real server"))
                .next(format!("nines {admin} {}   (its servers)", servers.join(" ")))
        }
        Named::Vip => failure(format!("{name} is a VIP, not a real server"))
            .next("nines status --wide   lists the servers"),
        Named::Server | Named::Nothing => {
            let found = at_address(spec, name);
            if let Some(server) = found.first() {
                return Some(
                    failure(format!("{name} is server {server}"))
                        .next(format!("nines {admin} {}", found.join(" "))),
                );
            }
            let known =
                spec.services.values().flat_map(|s| s.servers.keys().map(ServerName::as_str));
            unknown(&format!("server {name}"), name, known)
        }
    })
}

/// Servers, as "web/r1", that have this address.
fn at_address(spec: &Spec, address: &str) -> Vec<String> {
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return Vec::new() };
    let all =
        spec.services.iter().flat_map(|(service, s)| s.servers.iter().map(move |s| (service, s)));
    all.filter(|(_, (_, server))| server.addr.ip() == address)
        .map(|(service, (name, _))| format!("{service}/{name}"))
        .collect()
}

/// A command as it is typed.
fn words(admin: AdminCommand) -> String {
    match admin {
        AdminCommand::PowerOff => "fence off".into(),
        AdminCommand::PowerOn => "fence on".into(),
        AdminCommand::TestFence => "fence test".into(),
        AdminCommand::ConfirmOff => "fence confirm".into(),
        admin if admin.is_of_members() => format!("node {admin}"),
        admin => admin.to_string(),
    }
}

fn no_node(spec: &Spec, admin: AdminCommand, name: &str) -> Option<Failure> {
    let words = words(admin);
    let failure =
        |what: String| Failure::new(Kind::NotFound, what, format!("nines {words} takes nodes"));
    Some(match named(spec, name) {
        Named::Node => return None,
        Named::Server => {
            let failure = failure(format!("{name} is a real server, not a node"));
            match admin.counterpart() {
                Some(other) => failure.next(format!("nines {other} {name}")),
                None => failure.next("nines node list   shows the members"),
            }
        }
        Named::Service | Named::Vip => {
            let kind = if named(spec, name) == Named::Vip { "VIP" } else { "service" };
            failure(format!("{name} is a {kind}, not a node"))
                .next(format!("nines move {name} --to NODE   moves its VIP"))
        }
        Named::Nothing => {
            unknown(&format!("node {name}"), name, spec.nodes.keys().map(NodeName::as_str))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let text = "[cluster]\nname = \"w\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
                    listen = \"10.0.0.9:80\"\nservers = { r1 = \"10.0.0.1\" }\n";
        nines_model::config::parse(text).unwrap()
    }

    #[test]
    fn a_name_of_another_kind_is_explained() {
        let told = |admin, name: &str| {
            let failure = misnamed(&spec(), admin, &["r1".to_owned(), name.to_owned()]);
            failure.map(|f| format!("{f} | {}", f.next.clone().unwrap_or_default()))
        };
        let node = told(AdminCommand::Drain, "lb1").unwrap();
        assert!(node.contains("lb1 is a node") && node.contains("nines standby lb1"), "{node}");
        let service = told(AdminCommand::Drain, "web").unwrap();
        assert!(service.contains("nines drain web/r1   (its servers)"), "{service}");
        let address = told(AdminCommand::Drain, "10.0.0.1").unwrap();
        assert!(address.starts_with("10.0.0.1 is server web/r1"), "{address}");
        assert!(address.ends_with(" | nines drain web/r1"), "{address}");
        assert!(told(AdminCommand::Drain, "r2").unwrap().contains("did you mean r1?"));
        assert_eq!(told(AdminCommand::Drain, "web/r1"), None);
        let standby = misnamed(&spec(), AdminCommand::Standby, &["r1".into()]).unwrap();
        assert_eq!(standby.next.as_deref(), Some("nines drain r1"));
        assert!(misnamed(&spec(), AdminCommand::Standby, &["lb1".into()]).is_none());
        let off = told(AdminCommand::PowerOff, "web").unwrap();
        assert!(
            off.contains("r1 is a real server") && off.contains("nines fence off takes"),
            "{off}"
        );
        assert!(not_movable(&spec(), "lb1").unwrap().next.unwrap().starts_with("nines standby"));
        assert!(not_movable(&spec(), "web").is_none());
        assert!(not_movable(&spec(), "10.0.0.9").is_none());
    }
}
