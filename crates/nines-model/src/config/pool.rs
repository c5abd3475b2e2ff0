//! `source-pool`: what servers behind full NAT see in place of the VIP.

use std::{net::IpAddr, ops::Range};

use super::reader::{Reader, Table};
use crate::{listen::Listen, spec::Spec};

/// Sources of a service at most: places that the kernel's entry of a service has.
const POOL_MAX: usize = 8;

/// The sources, and where they stand.
pub fn pool(
    r: &mut Reader,
    table: &Table<'_>,
    listen: Listen,
) -> Option<(Vec<IpAddr>, Range<usize>)> {
    let value = table.get("source-pool")?;
    let mut pool = Vec::new();
    for (text, span) in r.strings(&value) {
        let Ok(addr) = text.parse::<IpAddr>() else {
            let help = Some("write \"10.0.1.200\"".into());
            r.error(span, format!("\"{text}\" is not a valid address"), help);
            continue;
        };
        if addr.is_ipv4() != listen.addr.is_ipv4() {
            r.error(span, format!("{addr} is not of {}'s family", listen.addr.ip()), None);
        } else if pool.contains(&addr) {
            r.error(span, format!("{addr} is there twice"), None);
        } else {
            pool.push(addr);
        }
    }
    pool.sort();
    if pool.len() > POOL_MAX {
        let why = format!("{} sources; a service has {POOL_MAX} at most", pool.len());
        r.error(value.span.clone(), why, Some("each has 64,512 ports for each server".into()));
    }
    if listen.vips().nth(1).is_some() && !pool.is_empty() {
        let help = Some("without a pool servers see the VIP that the client asked for".into());
        r.error(value.span.clone(), "a pool goes with one VIP, not with a network", help);
    }
    Some((pool, value.span))
}

/// Sources go where their VIP goes: each has one.
pub fn lead(r: &mut Reader, spec: &mut Spec, name: &str, span: &Range<usize>) {
    let Some(service) = spec.services.get(name) else { return };
    let (leader, pool) = (service.listen.addr.ip(), service.pool.clone());
    for source in pool {
        if let Some((other, _)) = spec.services_on(source).next() {
            let why = format!("{source} is the VIP of service {other}");
            r.error(span.clone(), why, Some("choose an address that no service has".into()));
            continue;
        }
        let has = |s: &crate::ServiceSpec| s.servers.values().any(|s| s.addr.ip() == source);
        if let Some((other, _)) = spec.services.iter().find(|(_, s)| has(s)) {
            let why = format!("{source} is a server of service {other}");
            r.error(span.clone(), why, Some("choose an address that no machine has".into()));
            continue;
        }
        let Some(vip) = spec.vips.get_mut(&source) else { continue };
        match vip.with.replace(leader) {
            Some(other) if other != leader => {
                let why = format!("{source} goes with {other} already, by another service's pool");
                r.error(span.clone(), why, Some("services on one VIP may share sources".into()));
            }
            _ if !vip.prefer.is_empty() => {
                let why = format!("{source} goes with {leader}, it prefers nothing by itself");
                r.error(span.clone(), why, Some("remove its prefer".into()));
            }
            _ => {}
        }
    }
}
