//! Prometheus' text of what one node knows (exposition format 0.0.4).
//!
//! Decides: names, and when a node counts as ready. Base units, counters end in `_total`; counts of
//! traffic are this node's own, so a sum over nodes is the cluster's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, Instant},
};

use axum::{
    extract::State as Shared,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use nines_api::{
    states::{FenceState, NodeState, ServerState},
    types::{
        FenceCounts, FenceStatus, LinkStatus, NodeStatus, ServerStatus, ServiceStatus, Status,
        Traffic, Verdict,
    },
};
use nines_model::printable::clean;

use super::{Sight, one_line, seen};
use crate::convert::Answer;

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

/// Fence devices, by the node that they switch; nodes without one have no samples.
fn per_fence(page: &mut Page, status: &Status) {
    let with_devices = || status.fencing.iter().filter(|line| !line.levels.is_empty());
    let devices: BTreeSet<&String> =
        with_devices().flat_map(|f| f.levels.iter().flatten()).collect();
    page.gauge("nines_fence_devices", "Fence devices of the config.", devices.len());
    page.family("nines_fence_actions_total", "counter", "Answers of a node's fence devices.");
    for line in with_devices() {
        let FenceCounts { off_done, off_failed, on_done, on_failed, .. } = line.counts;
        let FenceCounts { tests_done, tests_failed, .. } = line.counts;
        let all = [
            ("off", "done", off_done),
            ("off", "failed", off_failed),
            ("on", "done", on_done),
            ("on", "failed", on_failed),
            ("test", "done", tests_done),
            ("test", "failed", tests_failed),
        ];
        for (action, result, n) in all {
            let of = [("target", line.node.as_str()), ("action", action), ("result", result)];
            page.sample("nines_fence_actions_total", &of, n);
        }
    }
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&FenceStatus) -> f64| {
        page.family(name, "gauge", help);
        for line in with_devices() {
            page.sample(name, &[("target", &line.node)], value(line));
        }
    };
    let last_success = "nines_fence_last_test_success_timestamp_seconds";
    gauge(last_success, "When the last test of the devices succeeded; 0: none has.", &|line| {
        let last = line.last_test.as_ref().filter(|test| test.ok).map_or(0, |test| test.at_ms);
        line.counts.test_ok_ms.max(last) as f64 / 1e3
    });
    gauge("nines_fence_ready", "1 if the last test of the devices succeeded.", &|line| {
        f64::from(u8::from(line.last_test.as_ref().is_some_and(|test| test.ok)))
    });
    gauge("nines_fence_off", "1 while the node counts as switched off.", &|line| {
        f64::from(u8::from(line.is(FenceState::Off)))
    });
    gauge("nines_fence_blocked", "1 while a node that should be off cannot be.", &|line| {
        f64::from(u8::from(line.is(FenceState::Blocked)))
    });
    let name = "nines_watchdog_timeout_seconds";
    page.family(name, "gauge", "Timeout of the node's watchdog while it is fed; 0: it is not.");
    for n in &status.nodes {
        page.sample(name, &[("node", &n.name)], n.watchdog_ms as f64 / 1e3);
    }
}

/// All of it: `status` with this node's own counts; `lag`: how long other directors took for the
/// last flows they were told, by name; `datagrams`: those that were dropped, by reason.
pub fn text(
    status: &Status,
    lag: &BTreeMap<String, Duration>,
    datagrams: impl Iterator<Item = (&'static str, u64)>,
) -> String {
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
    per_fence(&mut page, status);
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
    let help = "Datagrams at the port between nodes that were dropped, by reason.";
    page.family("nines_dropped_datagrams_total", "counter", help);
    for (reason, n) in datagrams {
        page.sample("nines_dropped_datagrams_total", &[("reason", reason)], n);
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

/// `GET /readyz`: 200 with the verdict while clients are served, 503 with it while they are not.
pub async fn get_readyz(Shared(sight): Shared<Sight>) -> Answer<Response> {
    // Everybody may ask: one looks, and those who come within a second take that answer.
    let mut last = sight.ready.lock().await;
    if last.as_ref().is_none_or(|(at, ..)| at.elapsed() > READY) {
        let status = seen(&sight).await?.0.status;
        let code = match status.verdict {
            Verdict::Down => StatusCode::SERVICE_UNAVAILABLE,
            Verdict::Healthy | Verdict::Degraded => StatusCode::OK,
        };
        *last = Some((Instant::now(), code, format!("{}\n", one_line(&status))));
    }
    let (_, code, line) = last.clone().expect("it was just put");
    Ok((code, line).into_response())
}

/// An answer of `/readyz` is given for so long.
const READY: Duration = Duration::from_secs(1);

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
        let node = |name: &str| NodeStatus {
            name: name.into(),
            rtt_us: 9,
            watchdog_ms: 2_000,
            ..NodeStatus::default()
        };
        let status = Status {
            node: "lb1".into(),
            nodes: vec![node("lb1"), node("lb2\u{1b}[2J\n")],
            services: vec![service],
            fencing: vec![fenced()],
            ..Status::default()
        };
        let lag = BTreeMap::from([("lb2".to_owned(), Duration::from_millis(40))]);
        let text = text(&status, &lag, [("unknown-source", 7)].into_iter());
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
        assert!(text.contains("datagrams_total{reason=\"unknown-source\"} 7"), "{text}");
        assert!(text.contains("nines_flow_sync_lag_seconds{peer=\"lb2\"} 0.04"));
        for line in [
            "nines_fence_devices 2",
            "nines_fence_actions_total{target=\"lb2\",action=\"off\",result=\"done\"} 2",
            "nines_fence_actions_total{target=\"lb2\",action=\"on\",result=\"failed\"} 0",
            "nines_fence_last_test_success_timestamp_seconds{target=\"lb2\"} 7.5",
            "nines_fence_ready{target=\"lb2\"} 0",
            "nines_fence_blocked{target=\"lb2\"} 1",
            "nines_watchdog_timeout_seconds{node=\"lb1\"} 2",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }

    fn fenced() -> FenceStatus {
        FenceStatus {
            node: "lb2".into(),
            levels: vec![vec!["pdu-a".into(), "pdu-b".into()], vec!["pdu-a".into()]],
            state: FenceState::Blocked.into(),
            counts: FenceCounts { off_done: 2, test_ok_ms: 7_500, ..FenceCounts::default() },
            ..FenceStatus::default()
        }
    }

    #[test]
    fn without_fence_devices_there_are_none_and_no_sample_of_a_node() {
        let line = FenceStatus { node: "lb1".into(), ..FenceStatus::default() };
        let status = Status { fencing: vec![line], ..Status::default() };
        let text = text(&status, &BTreeMap::new(), std::iter::empty());
        assert!(text.contains("nines_fence_devices 0\n") && !text.contains("target="), "{text}");
    }
}
