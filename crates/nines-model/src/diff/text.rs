//! Parts of a config in words.

use crate::{
    fence::Watchdog,
    spec::{Check, CheckKind, Limit, NodeSpec, ServerSpec, ServiceSpec, Vip},
};

pub(super) fn node_text(node: &NodeSpec) -> String {
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    let levels: Vec<String> = node
        .fence
        .iter()
        .map(|level| level.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))
        .collect();
    let order = match levels.join(", then ") {
        none if none.is_empty() => String::new(),
        order => format!(", fenced by {order}"),
    };
    let watchdog = match &node.watchdog {
        None => String::new(),
        Some(Watchdog::None) => ", without a watchdog".into(),
        Some(Watchdog::Device(path)) => format!(", watchdog {path}"),
    };
    format!("{} {}{order}{watchdog}", node.role, addresses.join(" "))
}

pub(super) fn vip_text(vip: &Vip) -> String {
    let interface = vip.interface.as_deref().unwrap_or("the interface of its subnet");
    let prefer = match vip.prefer.as_slice() {
        [] => String::new(),
        names => format!(", preferably on {}", names.join(", then ")),
    };
    format!("/{} on {interface}{prefer}", vip.prefix)
}

pub(super) fn server_text(server: &ServerSpec) -> String {
    let forward = server.forward.map_or_else(String::new, |f| format!(" {f}"));
    let limit = match server.limit {
        Limit { upper: 0, .. } => String::new(),
        Limit { upper, lower: 0 } => format!(" at most {upper}"),
        Limit { upper, lower } => format!(" at most {upper}, again below {lower}"),
    };
    let id = server.quic_id.map_or_else(String::new, |id| format!(" QUIC id {id}"));
    let sorry = if server.sorry { " sorry" } else { "" };
    format!("weight {}{forward}{limit}{id}{sorry}", server.weight)
}

pub(super) fn service_text(service: &ServiceSpec) -> String {
    let ServiceSpec {
        forward,
        scheduler,
        flags,
        one_packet,
        persist,
        by_call,
        sources,
        rate,
        cookies,
        proxy,
        pool,
        check,
        ..
    } = service;
    let mut how = String::new();
    for (word, set) in [
        (" fallback", flags.fallback),
        (" port", flags.port),
        (", datagrams single", *one_packet),
        (", PROXY protocol v2", *proxy),
    ] {
        how += if set { word } else { "" };
    }
    let calls = if *by_call { " and SIP call" } else { "" };
    let persist = persist.map_or_else(String::new, |p| format!(", {p}{calls}"));
    let pool: Vec<String> = pool.iter().map(ToString::to_string).collect();
    let pool =
        if pool.is_empty() { String::new() } else { format!(", seen as {}", pool.join(" ")) };
    let rate = rate.map_or_else(String::new, |r| format!(", {r}"));
    let cookies = cookies.map_or_else(String::new, |r| format!(", SYN cookies beyond {r}"));
    let (allowed, denied): (Vec<_>, Vec<_>) = sources.iter().partition(|(_, may)| **may);
    let list = |word: &str, of: Vec<(&(std::net::IpAddr, u8), &bool)>| {
        let text: Vec<String> = of.iter().map(|((a, len), _)| format!("{a}/{len}")).collect();
        if text.is_empty() { String::new() } else { format!(", {word} {}", text.join(" ")) }
    };
    let lists = list("allow", allowed) + &list("deny", denied);
    format!(
        "{} {forward} {scheduler}{how}{pool}{persist}{lists}{rate}{cookies}, {}",
        service.takes(),
        check_text(check)
    )
}

fn check_text(check: &Check) -> String {
    let port = check.port.map_or_else(String::new, |p| format!(" on port {p}"));
    let how = match &check.kind {
        CheckKind::None => return "not checked".into(),
        CheckKind::Tcp => "TCP check".to_owned(),
        CheckKind::Udp => "UDP check (fails on \"port unreachable\")".to_owned(),
        CheckKind::Http { tls, path, host, status, contains } => {
            let scheme = if *tls { "HTTPS" } else { "HTTP" };
            let host = host.as_ref().map_or_else(String::new, |h| format!(" of {h}"));
            let body = contains.as_ref().map_or_else(String::new, |c| format!(" with \"{c}\""));
            format!("{scheme} check {path}{host} wants {status}{body}")
        }
    };
    let Check { every, timeout, rise, fall, .. } = check;
    let way = if check.forwarded { " and as the VIP" } else { "" };
    format!("{how}{port}{way} every {every} within {timeout}, rise {rise}, fall {fall}")
}
