//! What a config says that is well formed and still cannot be meant.
//!
//! Decides: which of that is refused and which is only warned about, from the config alone. What
//! the machines know about themselves (interfaces, subnets) is asked by the API.

use crate::{ServiceSpec, Spec};

/// One thing that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What makes no sense, in a sentence.
    pub what: String,
    /// What to write instead.
    pub next: String,
}

impl Finding {
    fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

/// What cannot work on any machines: refused.
pub fn refused(spec: &Spec) -> Vec<Finding> {
    let mut found = Vec::new();
    if spec.nodes.is_empty() {
        let what = "the file names no nodes: no director is left to carry VIPs";
        found.push(Finding::new(
            what,
            "add a section [nodes]; nines config show   prints the one in force",
        ));
    } else if spec.directors().next().is_none() {
        let what = "all nodes are witnesses: no director is left to carry VIPs";
        found.push(Finding::new(what, "remove role = \"witness\" from at least one node"));
    }
    for (name, service) in &spec.services {
        let own = |(_, server): &(&crate::ServerName, &crate::ServerSpec)| {
            spec.vips.contains_key(&server.addr.ip())
        };
        if let Some((server, wanted)) = service.servers.iter().find(own) {
            let what = format!("the address of server {name}/{server}, {}, is a VIP", wanted.addr);
            found.push(Finding::new(what, "write the server's own address"));
        }
    }
    found
}

/// What works and is seldom meant: warned about.
pub fn odd(spec: &Spec) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, service) in &spec.services {
        if let Some(why) = unserved(service) {
            found.push(Finding::new(format!("service {name} serves no client: {why}"), ""));
        }
    }
    found
}

/// Why no client of the service can be served, whatever the checks say; `None`: one could.
pub fn unserved(service: &ServiceSpec) -> Option<&'static str> {
    let nobody = service.sources.iter().any(|((_, prefix), may)| *prefix == 0 && !*may);
    if nobody && service.sources.values().all(|may| !may) {
        return Some("its lists shut every client out");
    }
    if service.servers.is_empty() {
        return Some("it has no servers");
    }
    let weightless = service.servers.values().all(|server| server.weight == 0);
    weightless.then_some("no server takes new connections, all weights are 0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn spec(nodes: &str, rest: &str) -> Spec {
        config::parse(&format!("[cluster]\nname = \"w\"\n[nodes]\n{nodes}\n{rest}")).unwrap()
    }

    fn told(found: Vec<Finding>) -> String {
        found.into_iter().map(|f| f.what).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_cluster_without_directors_is_refused() {
        let none = config::parse("[cluster]\nname = \"w\"\n").unwrap();
        assert!(told(refused(&none)).contains("names no nodes"));
        let witness = spec("w1 = { addresses = \"10.0.0.4\", role = \"witness\" }", "");
        assert!(told(refused(&witness)).contains("all nodes are witnesses"));
        assert!(refused(&spec("lb1 = \"10.0.0.2\"", "")).is_empty());
    }

    /// A service's own VIP is refused with its place when the file is read.
    #[test]
    fn a_servers_address_is_no_vip_of_another_service() {
        for (other, vip, server) in
            [("10.0.0.101", "10.0.0.100", "10.0.0.11"), ("fd00::101", "fd00::100", "fd00::11")]
        {
            let with = |server: &str| {
                let at =
                    |a: &str| if a.contains(':') { format!("[{a}]:80") } else { format!("{a}:80") };
                let service = |name: &str, listen: &str, server: &str| {
                    format!(
                        "[service.{name}]\nlisten = \"{}\"\nforward = \"full-nat\"\n\
                         servers = {{ r1 = \"{server}\" }}\n",
                        at(listen)
                    )
                };
                let far = if vip.contains(':') { "fd00::12" } else { "10.0.0.12" };
                let text = service("web", vip, server) + &service("api", other, far);
                told(refused(&spec("lb1 = \"10.0.0.2\"", &text)))
            };
            assert_eq!(with(server), "");
            assert!(with(other).contains("server web/r1"), "{}", with(other));
        }
    }

    #[test]
    fn services_that_serve_nobody_are_told() {
        let with = |more: &str, servers: &str| {
            let text = format!(
                "[service.web]\nlisten = \"10.0.0.100:80\"\n{more}\nservers = {{ {servers} }}\n"
            );
            told(odd(&spec("lb1 = \"10.0.0.2\"", &text)))
        };
        let one = "r1 = \"10.0.0.11\"";
        assert_eq!(with("", one), "");
        let zero = "r1 = { address = \"10.0.0.11\", weight = 0 }";
        assert!(with("", zero).contains("all weights are 0"));
        assert_eq!(with("", &format!("{zero}, r2 = \"10.0.0.12\"")), "");
        assert!(with("deny = [\"0.0.0.0/0\"]", one).contains("shut every client out"));
        assert_eq!(with("deny = [\"10.0.0.0/8\"]", one), "");
        assert_eq!(with("allow = [\"10.0.0.0/8\"]", one), "");
    }
}
