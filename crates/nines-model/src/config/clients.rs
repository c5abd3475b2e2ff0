//! What a service says of its clients: who may connect, how often, and who stays where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::{Reader, Table};
use crate::{
    clients::{ClientRate, Rate, Sources},
    listen::{Listen, Proto, network},
    spec::Persist,
};

/// Bits of an address of the service's family.
fn whole(listen: Listen) -> u8 {
    if listen.addr.is_ipv4() { 32 } else { 128 }
}

pub fn persist(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<Persist> {
    let prefix = r.number(table, "persist-prefix", 1..=whole(listen).into());
    let Some(value) = table.get("persist") else {
        if let Some(value) = table.get("persist-prefix") {
            let help = Some("add persist = \"300s\"".into());
            r.error(value.span, "persist-prefix without persist means nothing", help);
        }
        return None;
    };
    let time = r.millis(table, "persist")?;
    if !(1_000..=30 * 86_400_000).contains(&time.0) {
        r.error(value.span, "persist must be 1s to 30 days", None);
        return None;
    }
    Some(Persist { time, prefix: prefix.map_or(whole(listen), |p| p as u8) })
}

/// `persist-by`: whether call by call.
pub fn by_call(r: &mut Reader, table: &Table<'_>, listen: Listen) -> bool {
    let Some(value) = table.get("persist-by") else { return false };
    let by_call = r.choice(&value, &[("client", false), ("sip-call", true)]).unwrap_or(false);
    if table.get("persist").is_none() {
        let help = Some("add persist = \"300s\"".into());
        r.error(value.span, "persist-by without persist means nothing", help);
    } else if by_call && listen.proto != Proto::Udp {
        let why = format!("calls are told apart in UDP only, not in {}", listen.proto);
        r.error(value.span, why, Some("remove persist-by".into()));
    }
    by_call
}

/// `allow` and `deny`: who is in no list may come, unless there is a list of those who may.
pub fn sources(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Sources {
    let mut sources = Sources::new();
    for (key, may) in [("allow", true), ("deny", false)] {
        let Some(value) = table.get(key) else { continue };
        for (text, span) in r.strings(&value) {
            let whole = whole(listen);
            let (addr, prefix) = text.split_once('/').unwrap_or((&text, ""));
            let prefix = if prefix.is_empty() { Ok(whole) } else { prefix.parse::<u8>() };
            let addr = addr.parse::<IpAddr>();
            let longest = addr.as_ref().map_or(0, |a| if a.is_ipv4() { 32 } else { 128 });
            let (Ok(addr), Some(prefix)) = (addr, prefix.ok().filter(|p| *p <= longest)) else {
                let help = "write \"192.0.2.0/24\", or one address";
                r.error(span, format!("\"{text}\" is not a valid network"), Some(help.into()));
                continue;
            };
            if addr.is_ipv4() != listen.addr.is_ipv4() {
                let why =
                    format!("\"{text}\" is not of the same address family as {}", listen.addr.ip());
                r.error(span, why, None);
                continue;
            }
            if sources.insert((network(addr, prefix), prefix), may) == Some(!may) {
                r.error(span, format!("{text} is in allow and in deny"), None);
            }
        }
    }
    if table.get("allow").is_some() {
        let any = if listen.addr.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        sources.entry((any, 0)).or_insert(false);
    }
    sources
}

/// `rate` and what goes with it.
pub fn rate(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<ClientRate> {
    let prefix = r.number(table, "rate-prefix", 1..=whole(listen).into());
    let burst = r.number(table, "rate-burst", 1..=1_000_000);
    let Some(rate) = pace(r, table, "rate") else {
        for key in ["rate-prefix", "rate-burst"] {
            if let Some(value) = table.get(key).filter(|_| table.get("rate").is_none()) {
                let help = Some("add rate = \"20/s\"".into());
                r.error(value.span, format!("{key} without rate means nothing"), help);
            }
        }
        return None;
    };
    Some(ClientRate {
        rate,
        burst: burst.unwrap_or(rate.count),
        prefix: prefix.map_or(whole(listen), |p| p as u8),
    })
}

/// Reads `syn-cookies`: the rate of new connections above which clients need a cookie.
pub fn cookies(r: &mut Reader, table: &Table<'_>, listen: Listen) -> Option<Rate> {
    let rate = pace(r, table, "syn-cookies")?;
    if listen.proto != Proto::Tcp {
        let span = table.get("syn-cookies").map_or(0..0, |v| v.span);
        r.error(span, format!("syn-cookies needs TCP, not {}", listen.proto), None);
    }
    Some(rate)
}

fn pace(r: &mut Reader, table: &Table<'_>, key: &str) -> Option<Rate> {
    let value = table.get(key)?;
    let text = r.string(&value)?;
    let rate = Rate::parse(&text);
    if rate.is_none() {
        let help = "write \"20/s\" or \"300/m\", of 1 to 1000000";
        r.error(value.span, format!("\"{text}\" is not a valid rate"), Some(help.into()));
    }
    rate
}
