//! Prometheus' text of what one node knows (exposition format 0.0.4).
//!
//! Decides: names. Base units, counters end in `_total`; counts of traffic are this node's own, so
//! a sum over nodes is the cluster's.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use nines_api::{
    states::{NodeState, ServerState},
    types::{LinkStatus, NodeStatus, ServerStatus, ServiceStatus, Status, Traffic, Verdict},
};
use nines_model::printable::clean;

/// Content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Default)]
struct Page {
    text: String,
}

/// `{a="b",c="d"}`; nothing without labels.
fn labels(of: &[(&str, &str)]) -> String {
    let escaped = |v: &str| clean(v).replace('\\', "\\\\").replace('"', "\\\"");
    let one = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
    let all: Vec<String> = of.iter().map(one).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, of: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{} {value}", labels(of));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

/// A count of a service or server: its name behind the prefix, help, and where it is.
type Count = (&'static str, &'static str, fn(&Traffic) -> u64);

const COUNTS: [Count; 5] = [
    ("connections_total", "Connections made.", |t| t.connections),
    ("receive_packets_total", "Packets from clients.", |t| t.packets_in),
    ("receive_bytes_total", "Bytes from clients, from the IP header on.", |t| t.bytes_in),
    (
        "transmit_packets_total",
        "Packets to clients (NAT only: other replies do not pass the director).",
        |t| t.packets_out,
    ),
    ("transmit_bytes_total", "Bytes to clients (NAT only).", |t| t.bytes_out),
];

fn per_service(page: &mut Page, services: &[ServiceStatus]) {
    page.family("nines_service_servers_up", "gauge", "Servers that take new connections.");
    for s in services {
        page.sample("nines_service_servers_up", &[("service", &s.name)], s.up);
    }
    page.family("nines_service_up", "gauge", "0: its clients get no answer (DOWN).");
    for s in services {
        let up = u8::from(s.verdict != Verdict::Down);
        page.sample("nines_service_up", &[("service", &s.name)], up);
    }
    page.family("nines_service_spares", "gauge", "Directors that could take it over now.");
    for s in services {
        page.sample("nines_service_spares", &[("service", &s.name)], s.spare.len());
    }
    page.family("nines_service_active", "gauge", "1 where the node serves the service.");
    for s in services {
        // One sample for each, where VIPs of one service are on several.
        for node in s.node.split(", ").filter(|node| !node.is_empty()) {
            let of = [("service", s.name.as_str()), ("node", node)];
            page.sample("nines_service_active", &of, 1);
        }
    }
    for (name, help, count) in COUNTS {
        let name = format!("nines_service_{name}");
        page.family(&name, "counter", help);
        for s in services {
            page.sample(&name, &[("service", &s.name)], count(&s.traffic));
        }
    }
}

fn per_server(page: &mut Page, services: &[ServiceStatus]) {
    let all: Vec<(&str, &ServerStatus)> =
        services.iter().flat_map(|s| s.servers.iter().map(|r| (s.name.as_str(), r))).collect();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&ServerStatus) -> u64| {
        page.family(name, "gauge", help);
        for (service, server) in &all {
            let of = [("service", *service), ("server", &server.name)];
            page.sample(name, &of, value(server));
        }
    };
    gauge("nines_server_up", "1 unless its check failed.", &|s| {
        u64::from(!s.is(ServerState::Down))
    });
    gauge("nines_server_weight", "Share of new connections.", &|s| s.weight.into());
    gauge("nines_server_draining", "1 while it takes no new connections by wish.", &|s| {
        u64::from(s.is(ServerState::Draining))
    });
    page.family("nines_server_connections", "gauge", "Connections now, as schedulers weigh them.");
    for (service, server) in &all {
        let traffic = &server.traffic;
        for (state, n) in [("active", traffic.active), ("inactive", traffic.inactive)] {
            let of = [("service", *service), ("server", &server.name), ("state", state)];
            page.sample("nines_server_connections", &of, n);
        }
    }
    for (name, help, count) in COUNTS {
        let name = format!("nines_server_{name}");
        page.family(&name, "counter", help);
        for (service, server) in &all {
            let of = [("service", *service), ("server", &server.name)];
            page.sample(&name, &of, count(&server.traffic));
        }
    }
}

fn per_node(page: &mut Page, status: &Status) {
    page.family("nines_node_up", "gauge", "1 while the node is heard.");
    for n in &status.nodes {
        page.sample("nines_node_up", &[("node", &n.name)], u8::from(!n.is(NodeState::Silent)));
    }
    page.family("nines_node_state", "gauge", "1 with the word that nines status has for a node.");
    for n in &status.nodes {
        let of = [("node", n.name.as_str()), ("role", n.role.code()), ("state", n.state.code())];
        page.sample("nines_node_state", &of, 1);
    }
    // A node is not its own peer.
    let peers = || status.nodes.iter().filter(|n| n.name != status.node);
    page.family("nines_beat_rtt_seconds", "gauge", "Round trip of a beat.");
    for n in peers().filter(|n| n.rtt_us > 0) {
        page.sample("nines_beat_rtt_seconds", &[("peer", &n.name)], n.rtt_us as f64 / 1e6);
    }
    page.family("nines_links_up", "gauge", "Links on which the node is heard.");
    for n in peers() {
        page.sample("nines_links_up", &[("peer", &n.name)], n.links_up);
    }
    per_link(page, peers().cloned());
}

fn per_link(page: &mut Page, peers: impl Iterator<Item = NodeStatus>) {
    let links: Vec<(String, String, LinkStatus)> = peers
        .flat_map(|n| n.link_details.into_iter().map(move |of| (n.name.clone(), of)))
        .map(|(peer, of)| (peer, of.link.to_string(), of))
        .collect();
    page.family("nines_link_loss_ratio", "gauge", "Share of the last 100 beats lost on a link.");
    for (peer, link, of) in &links {
        let labels = [("peer", peer.as_str()), ("link", link)];
        page.sample("nines_link_loss_ratio", &labels, of.loss_percent / 100.0);
    }
    page.family("nines_link_rtt_seconds", "gauge", "Round trip of a beat over a link.");
    for (peer, link, of) in links.iter().filter(|(.., of)| of.rtt_us > 0) {
        let labels = [("peer", peer.as_str()), ("link", link)];
        page.sample("nines_link_rtt_seconds", &labels, of.rtt_us as f64 / 1e6);
    }
}

/// All of it: `status` with this node's own counts; `lag`: how long other directors took for the
/// last flows they were told, by name.
pub fn text(status: &Status, lag: &BTreeMap<String, Duration>) -> String {
    let mut page = Page::default();
    page.family("nines_build_info", "gauge", "1, with the version of the binary.");
    page.sample("nines_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.gauge("nines_cluster_quorate", "1 while a majority is heard.", u8::from(status.quorate));
    page.family("nines_cluster_verdict", "gauge", "1 with the verdict of nines status.");
    for verdict in Verdict::ALL {
        let now = u8::from(verdict == status.verdict);
        page.sample("nines_cluster_verdict", &[("verdict", &verdict.to_string())], now);
    }
    page.gauge("nines_cluster_votes", "Voters heard, this node included.", status.votes);
    page.gauge("nines_cluster_voters", "Voters.", status.voters);
    page.gauge("nines_config_revision", "Revision of the config in force.", status.revision);
    page.gauge("nines_problems", "Lines under WRONG NOW.", status.problems.len());
    per_node(&mut page, status);
    page.family("nines_address_held", "gauge", "1 where the node holds the address, by the log.");
    for vip in status.vips.iter().filter(|v| !v.node.is_empty()) {
        let of = [("address", vip.address.as_str()), ("node", &vip.node)];
        page.sample("nines_address_held", &of, 1);
    }
    per_service(&mut page, &status.services);
    per_server(&mut page, &status.services);
    page.family("nines_dropped_packets_total", "counter", "Packets dropped, by reason.");
    for (reason, n) in &status.drops {
        page.sample("nines_dropped_packets_total", &[("reason", reason)], n);
    }
    page.family(
        "nines_flow_sync_lag_seconds",
        "gauge",
        "How long the director took for the last connections it was told.",
    );
    for (peer, lag) in lag {
        page.sample("nines_flow_sync_lag_seconds", &[("peer", peer)], lag.as_secs_f64());
    }
    page.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_belongs_to_the_family_before_it_and_labels_are_escaped() {
        let service = ServiceStatus {
            name: "we\"b".into(),
            node: "lb1".into(),
            servers: vec![ServerStatus { name: "r\\1".into(), ..ServerStatus::default() }],
            ..ServiceStatus::default()
        };
        let node =
            |name: &str| NodeStatus { name: name.into(), rtt_us: 9, ..NodeStatus::default() };
        let status = Status {
            node: "lb1".into(),
            nodes: vec![node("lb1"), node("lb2\u{1b}[2J\n")],
            services: vec![service],
            ..Status::default()
        };
        let lag = BTreeMap::from([("lb2".to_owned(), Duration::from_millis(40))]);
        let text = text(&status, &lag);
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap().to_owned();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, family, "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(
            text.contains("nines_server_up{service=\"we\\\"b\",server=\"r\\\\1\"} 1"),
            "{text}"
        );
        assert!(!text.contains("{peer=\"lb1\"}"), "a node is not its own peer: {text}");
        assert!(text.contains("nines_links_up{peer=\"lb2\\\\u{1b}[2J\\\\n\"} 0"), "{text}");
        assert!(text.contains("nines_cluster_verdict{verdict=\"HEALTHY\"} 1"), "{text}");
        assert!(text.contains("nines_flow_sync_lag_seconds{peer=\"lb2\"} 0.04"));
    }
}
