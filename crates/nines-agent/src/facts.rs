//! What this machine tells the cluster of itself.
//!
//! Decides: which of its troubles people hear of first: what keeps it from forwarding, then what it
//! is short of.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nines_core::{
    Event, feature_level,
    wire::{Facts, Unfit, pack},
};
use nines_dataplane::{
    address::{self, Interface},
    ipvs,
};

use crate::{
    checks::shortage::Shortages, core_thread::CoreHandle, executors::vip_addresses::Places,
    own_status::OwnStatus,
};

/// Interfaces that a VIP could be on. Beyond 64 (a host of containers) none are told: facts are
/// replicated, and what is not told is not judged.
fn names(all: &[Interface]) -> Vec<String> {
    const TOLD_MAX: usize = 64;
    let mut names: Vec<String> = all.iter().map(|i| i.name.clone()).collect();
    names.sort_unstable();
    if names.len() > TOLD_MAX { Vec::new() } else { names }
}

/// How often interfaces are looked at although the kernel told of no change.
const RARELY: Duration = Duration::from_secs(10);

/// What the facts are made from, and where they go.
pub struct Teller {
    /// Hears them.
    pub core: CoreHandle,
    /// Name of this node.
    pub node: String,
    /// How it forwards.
    pub shown: Arc<Mutex<OwnStatus>>,
    /// What it was short of lately.
    pub shortages: Arc<Shortages>,
    /// Where VIPs belong.
    pub places: Places,
    /// Rings when there may be other facts.
    pub news: Arc<tokio::sync::Notify>,
    /// How often the interfaces changed.
    pub changes: Arc<AtomicU64>,
}

/// Tells the core what this machine is, whenever that changes.
pub async fn tell(told_by: Teller) {
    let Teller { core, node, shown, shortages, places, news, changes } = told_by;
    let could_have_ipvs = ipvs::can_be();
    let (mut all, mut seen, mut told) = (Vec::new(), None, None);
    loop {
        let now = changes.load(Ordering::Relaxed);
        if seen.is_none_or(|(at, before)| before != now || Instant::now() > at + RARELY) {
            all = address::interfaces().unwrap_or_default();
            seen = Some((Instant::now(), now));
        }
        let shown = shown.lock().expect("nobody panics with it").clone();
        let own = shortages.shown(Instant::now());
        let (trouble, next) = match own.filter(|_| shown.worst().is_empty()) {
            Some((why, next)) => (why, next.to_owned()),
            None => (shown.worst().to_owned(), shown.worst_next()),
        };
        let mut facts = Facts {
            node: node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            feature_level: feature_level::BUILD,
            trouble,
            path: shown.path,
            next,
            no_ipvs: !could_have_ipvs && !ipvs::is_there(),
            ..Facts::default()
        };
        for (why, vips) in shown.unfit {
            facts.unfit.push(Unfit { why, vips: vips.into_iter().map(pack).collect() });
        }
        let vips = places.lock().expect("nobody panics with it").clone();
        for interface in &all {
            // Nobody else sends from there.
            let inside =
                [address::DETOUR_INNER, address::DETOUR_OUTER].contains(&interface.name.as_str());
            if interface.ethernet && !inside {
                facts.macs.push(interface.mac.to_vec());
                let subnets = interface.addresses.iter().filter(|(a, _)| !vips.contains_key(a));
                facts.subnets.extend(subnets.map(|(a, p)| format!("{a}/{p}")));
            }
        }
        facts.interfaces = names(&all);
        if told.as_ref() != Some(&facts) {
            told = Some(facts.clone());
            core.event(Event::Facts(facts));
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), news.notified()).await;
    }
}
