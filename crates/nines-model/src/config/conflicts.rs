//! What one part of the file makes impossible for another.
//!
//! Decides: which services do not go together with what directors are besides. Each part for itself
//! was read before.

use std::{collections::BTreeSet, net::IpAddr};

use super::reader::{Reader, Table};
use crate::{
    forward::Forward,
    id::NodeName,
    real_server::RealServerRole,
    spec::{Backend, ServiceSpec, Spec},
};

/// Looks at the whole.
pub fn conflicts(r: &mut Reader, root: &Table<'_>, spec: &Spec) {
    let Some(section) = r.table(root, "service") else { return };
    let duties = duties(spec);
    for (name, service) in &spec.services {
        let at = |key| {
            let table = section.get(name.as_str()).and_then(|v| v.as_table());
            table.and_then(|t| t.get(key)).map_or(0..0, |v| v.span)
        };
        if let Some((why, help)) = unseen_mark(spec, service) {
            r.error(at("mark"), why, Some(help));
        }
        if let Some((why, help)) = director_as_its_own_client(&duties, service) {
            r.error(at("servers"), why, Some(help));
        }
    }
    let chosen_twice = duties.iter().find(|(_, _, duty)| *duty != RealServerRole::default());
    if let (Backend::Ipvs, Some((director, _, _))) = (spec.backend, chosen_twice) {
        let span = r.table(root, "forwarding").and_then(|t| t.get("dataplane")).map(|v| v.span);
        let why = format!(
            "director {director} is a real server of the others: IPVS would choose again there"
        );
        let help = "remove dataplane, or use nat, full-nat, or servers that are not directors";
        r.error(span.unwrap_or(0..0), why, Some(help.into()));
    }
}

/// What each director must have as a real server of the others; none where it is alone.
fn duties(spec: &Spec) -> Vec<(&NodeName, BTreeSet<IpAddr>, RealServerRole)> {
    if spec.directors().nth(1).is_none() {
        return Vec::new();
    }
    let one = |name| {
        let here: BTreeSet<IpAddr> = spec.nodes[name].addresses.iter().copied().collect();
        let duty = RealServerRole::of(spec, &here);
        (name, here, duty)
    };
    spec.directors().map(one).collect()
}

/// nftables sets marks after nines has looked whose a packet is.
fn unseen_mark(spec: &Spec, service: &ServiceSpec) -> Option<(String, String)> {
    service.mark?;
    let takes_all = |s: &ServiceSpec| s.mark.is_none() && s.listen.is_every_port();
    let mut all = spec.services.iter().filter(|(_, s)| takes_all(s));
    let (other, vip) = all.find_map(|(name, all)| {
        Some((name, service.listen.vips().find(|vip| all.listen.has(*vip))?))
    })?;
    let why = format!("service {other} takes every packet to {vip} before it has a mark");
    Some((why, "use one of the two, or another VIP".into()))
}

/// A director takes what comes from an address that it has itself, on lo, for a forgery.
fn director_as_its_own_client(
    duties: &[(&NodeName, BTreeSet<IpAddr>, RealServerRole)],
    service: &ServiceSpec,
) -> Option<(String, String)> {
    let sees_vip = |ip: &IpAddr| {
        let full = |s: &&crate::ServerSpec| service.forward_of(s) == Forward::FullNat;
        service.pool.is_empty() && service.servers.values().filter(full).any(|s| s.addr.ip() == *ip)
    };
    let has = |duty: &RealServerRole| service.listen.vips().find(|vip| duty.vips.contains(vip));
    let (director, vip) = duties.iter().find_map(|(name, here, duty)| {
        Some((name, has(duty).filter(|_| here.iter().any(sees_vip))?))
    })?;
    let why = format!(
        "director {director} has {vip} on lo for another service: packets from there would be its own"
    );
    Some((why, "add source-pool, or let both services forward alike".into()))
}
