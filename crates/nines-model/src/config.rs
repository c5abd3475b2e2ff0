//! `cluster.toml` to [`Spec`], with every error at once.
//!
//! Decides: what the file may say. A file with one error gives no Spec at all: nothing is guessed,
//! nothing is half applied. Keys stand in [`keys`], which also makes the JSON Schema ([`schema`]).

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use crate::{
    config::reader::{Reader, Table, Value},
    id::NodeName,
    names,
    spec::{Backend, IdleLimits, NodeSpec, Role, Spec, Vip},
    time::Millis,
};

mod access;
mod broken;
mod checks;
mod clients;
mod conflicts;
mod fence;
mod incremental;
pub mod keys;
mod listen;
mod pool;
mod reader;
pub mod schema;
mod services;
mod timing;

pub use self::incremental::parse_after;

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range in the text.
    pub span: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Line and column of its start, both from 1, columns in characters.
    pub fn line_col(&self, text: &str) -> (usize, usize) {
        let before = &text[..self.span.start.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Bytes of a file that are read at most; ten thousand services of ten servers have some 5 MB.
pub const TEXT_MAX: usize = 32 << 20;

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Spec, Vec<Diagnostic>> {
    if text.len() > TEXT_MAX {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let message =
            format!("the file has {} MiB; at most {} are read", mib(text.len()), TEXT_MAX >> 20);
        let help = Some("move some of the services to a cluster of their own".into());
        return Err(vec![Diagnostic { span: 0..0, message, help }]);
    }
    let mut reader = Reader::default();
    let spec = reader.document(text).map(|document| read(&mut reader, &document.root()));
    let mut found = reader.diagnostics;
    match spec {
        Some(spec) if found.is_empty() => Ok(spec),
        _ => {
            found.sort_by_key(|d| (d.span.start, d.span.end));
            found.dedup();
            Err(found)
        }
    }
}

fn read(r: &mut Reader, root: &Table<'_>) -> Spec {
    r.known(root, keys::ROOT);
    let mut spec = Spec { timing: timing::read(r, root), ..Spec::default() };
    match r.table(root, "cluster") {
        Some(cluster) => {
            r.known(&cluster, keys::CLUSTER);
            spec.name = r.required(&cluster, "name").and_then(|v| r.name(&v)).unwrap_or_default();
        }
        None if root.get("cluster").is_none() => r.error(
            0..0,
            "the section [cluster] is missing",
            Some("begin with:  [cluster]\n             name = \"web\"".into()),
        ),
        None => {}
    }
    if let Some(nodes) = r.table(root, "nodes") {
        for (name, value) in nodes.entries() {
            r.check_name(&name);
            let folded = names::in_certificate(&name.text);
            if let Some(other) =
                spec.nodes.keys().find(|n| names::in_certificate(n.as_str()) == folded)
            {
                let why = format!("certificates cannot tell node {} from {other}", name.text);
                let help = "use names that differ by more than case, dots at the end and _ for -";
                r.error(name.span.clone(), why, Some(help.into()));
            }
            if let Some(node) = node(r, &value) {
                spec.nodes.insert(name.text.as_str().into(), node);
            }
        }
        unique_node_addresses(r, &spec, &nodes);
    }
    fence::read(r, root, &mut spec);
    if let Some(forwarding) = r.table(root, "forwarding") {
        r.known(&forwarding, keys::FORWARDING);
        let backend = forwarding.get("dataplane").and_then(|v| r.choice(&v, &Backend::ALL));
        spec.backend = backend.unwrap_or_default();
        spec.flows = r.number(&forwarding, "flows", 1..=64_000_000).unwrap_or(0);
        spec.idle = idle(r, &forwarding);
    }
    spec.access = access::read(r, root);
    vips(r, root, &mut spec);
    services::services(r, root, &mut spec);
    conflicts::conflicts(r, root, &spec);
    spec
}

fn idle(r: &mut Reader, table: &Table<'_>) -> IdleLimits {
    // The packet path takes whoever was heard of a moment ago (8.4 s) for alive.
    const MIN_MS: u64 = 9_000;
    const MAX_MS: u64 = 31 * 86_400_000;
    let mut limits = IdleLimits::default();
    for (key, limit) in [
        ("tcp-timeout", &mut limits.tcp),
        ("fin-timeout", &mut limits.fin),
        ("udp-timeout", &mut limits.udp),
    ] {
        let Some(time) = r.millis(table, key) else { continue };
        if (MIN_MS..=MAX_MS).contains(&time.0) && time.0 % 1_000 == 0 {
            *limit = (time.0 / 1_000) as u32;
        } else {
            let span = table.get(key).map_or(0..0, |v| v.span);
            let help = "write whole seconds: \"900s\"";
            r.error(span, format!("{key} must be 9s to 31 days"), Some(help.into()));
        }
    }
    limits
}

fn node(r: &mut Reader, value: &Value<'_>) -> Option<NodeSpec> {
    if let Some(table) = value.as_table() {
        r.known(&table, keys::NODE);
        let addresses = r.required(&table, "addresses").map(|v| addresses(r, &v))?;
        let role = match table.get("role") {
            None => Role::Director,
            Some(v) => r.choice(&v, &[("director", Role::Director), ("witness", Role::Witness)])?,
        };
        return Some(NodeSpec { role, addresses, fence: Vec::new(), watchdog: None });
    }
    let addresses = addresses(r, value);
    Some(NodeSpec { role: Role::Director, addresses, fence: Vec::new(), watchdog: None })
}

fn addresses(r: &mut Reader, value: &Value<'_>) -> Vec<IpAddr> {
    let items = value.as_array().unwrap_or_else(|| vec![value.clone()]);
    if items.is_empty() {
        r.error(value.span.clone(), "a node needs at least one address", None);
    }
    items.iter().filter_map(|item| r.address(item)).collect()
}

fn unique_node_addresses(r: &mut Reader, spec: &Spec, nodes: &Table<'_>) {
    let mut seen: BTreeMap<IpAddr, &NodeName> = BTreeMap::new();
    for (name, node) in &spec.nodes {
        for addr in &node.addresses {
            if let Some(other) = seen.insert(*addr, name) {
                let span = nodes.get(name.as_str()).map_or(nodes.span.clone(), |v| v.span.clone());
                r.error(span, format!("{addr} belongs to {other} already"), None);
            }
        }
    }
}

fn vips(r: &mut Reader, root: &Table<'_>, spec: &mut Spec) {
    let Some(section) = r.table(root, "vip") else {
        return;
    };
    for (name, value) in section.entries() {
        r.check_name(&name);
        let Some(table) = r.as_table(&value) else { continue };
        r.known(&table, keys::VIP);
        let Some(address) = r.required(&table, "address") else { continue };
        let Some((addr, prefix)) = prefixed(r, &address) else { continue };
        let interface = table.get("interface").and_then(|v| r.string(&v));
        if interface.as_deref() == Some("lo") {
            let span = table.get("interface").map_or(0..0, |v| v.span);
            let help = "remove interface: the VIP goes to the interface of its subnet";
            r.error(
                span,
                "a VIP cannot be on lo: other machines ask for it on the network",
                Some(help.into()),
            );
        }
        let prefer = table.get("prefer").map_or_else(Vec::new, |v| directors(r, &v, spec));
        let vip = Vip { name: Some(name.text.clone()), prefix, interface, prefer, with: None };
        if let Some(other) = spec.vips.insert(addr, vip) {
            let other = other.name.unwrap_or_default();
            r.error(address.span, format!("{addr} is the address of vip {other} already"), None);
        }
    }
}

fn directors(r: &mut Reader, value: &Value<'_>, spec: &Spec) -> Vec<NodeName> {
    let items = r.strings(value);
    items
        .into_iter()
        .filter_map(|(name, span)| match spec.nodes.get_key_value(name.as_str()) {
            Some((name, node)) if node.role == Role::Director => Some(name.clone()),
            Some(_) => {
                r.error(span, format!("{name} is a witness: it carries no VIP"), None);
                None
            }
            None => {
                r.unknown_word(span, "node", &name, spec.nodes.keys().map(NodeName::as_str));
                None
            }
        })
        .collect()
}

fn prefixed(r: &mut Reader, value: &Value<'_>) -> Option<(IpAddr, u8)> {
    let text = r.string(value)?;
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text.as_str(), None),
    };
    let Ok(addr) = addr.parse::<IpAddr>() else {
        r.error(
            value.span.clone(),
            format!("\"{text}\" is not a valid address"),
            Some("write \"10.0.0.100\" or \"10.0.0.100/24\"".into()),
        );
        return None;
    };
    let full = if addr.is_ipv4() { 32 } else { 128 };
    match prefix.map(str::parse::<u8>) {
        None => Some((addr, full)),
        Some(Ok(prefix)) if prefix > 0 && prefix <= full => Some((addr, prefix)),
        Some(_) => {
            r.error(
                value.span.clone(),
                format!("the prefix length of {addr} must be 1 to {full}"),
                None,
            );
            None
        }
    }
}

impl Reader {
    pub fn millis(&mut self, table: &Table<'_>, key: &str) -> Option<Millis> {
        let value = table.get(key)?;
        if let Some(number) = value.as_integer() {
            let help = format!("write {key} = \"{number}s\"   (ms, s, m, h or d)");
            self.error(value.span, "a time needs a unit", Some(help));
            return None;
        }
        let text = self.string(&value)?;
        match Millis::parse(&text) {
            Ok(ms) => Some(ms),
            Err(why) => {
                self.error(value.span, why, None);
                None
            }
        }
    }

    /// The same, if it is within these bounds, in ms.
    fn millis_in(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Option<Millis> {
        let time = self.millis(table, key)?;
        if range.contains(&time.0) {
            return Some(time);
        }
        let span = table.get(key).map_or(0..0, |value| value.span);
        let (low, high) = (Millis(*range.start()), Millis(*range.end()));
        self.error(span, format!("{key} must be {low} to {high}"), None);
        None
    }

    fn address(&mut self, value: &Value<'_>) -> Option<IpAddr> {
        let text = self.string(value)?;
        text.parse().map_or_else(
            |_| {
                let help = "names are not looked up: an address cannot change behind your back";
                let message = format!("\"{text}\" is not a valid address");
                self.error(value.span.clone(), message, Some(help.into()));
                None
            },
            Some,
        )
    }
}

#[cfg(test)]
mod tests;
