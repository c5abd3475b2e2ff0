//! VIPs stay where this agent put them, and it knows which of them it could not serve.
//!
//! Other programs take addresses off interfaces (`ip addr flush`, a network manager that reloads),
//! and the kernel takes them when an interface goes. Decides: when a VIP is put back and how often
//! at most, and for which VIPs this machine is unfit because the card is down, without carrier or
//! gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nines_core::Event;
use nines_dataplane::{
    Addresses, Announcer,
    address::{self, Interface},
};

use crate::{core_thread::CoreHandle, logger::Logger, own_status::Unfit};

/// `ip addr flush` goes on until it finds nothing: what is put back meanwhile it takes again.
const PAUSE: Duration = Duration::from_millis(100);
/// In this time,
const RECENT: Duration = Duration::from_secs(10);
/// so many put back one after the other are a fight,
const FIGHT: usize = 3;
/// in which each waits so long.
const TRUCE: Duration = Duration::from_millis(500);

/// A list of all interfaces serves so long.
const LISTED: Duration = Duration::from_millis(20);

/// A card is lost when it has been down so long; a bond that changes to its other card is not.
const LOST: Duration = Duration::from_millis(200);
/// It is good again after so long,
const GOOD: Duration = Duration::from_secs(1);
/// or so long, if it was lost before within a minute: a VIP is not to follow a loose cable.
const GOOD_AGAIN: Duration = Duration::from_secs(10);

/// Where VIPs belong: prefix length and interface from the spec.
pub type Places = Arc<Mutex<BTreeMap<IpAddr, (u8, Option<String>)>>>;

/// A VIP on an interface.
struct Placed {
    index: u32,
    name: String,
    prefix: u8,
    mac: [u8; 6],
    link: Option<Arc<dyn Announcer>>,
}

/// One packet socket for each interface, however many VIPs are on it.
#[derive(Default)]
struct Links {
    by_index: BTreeMap<u32, Arc<dyn Announcer>>,
}

impl Links {
    fn on(
        &mut self,
        interface: &Interface,
        machine: &mut dyn Addresses,
    ) -> Option<Arc<dyn Announcer>> {
        if !interface.ethernet {
            return None;
        }
        if let Some(link) = self.by_index.get(&interface.index) {
            return Some(Arc::clone(link));
        }
        let link = machine.announcer(interface.index).ok()?;
        self.by_index.insert(interface.index, Arc::clone(&link));
        Some(link)
    }
}

impl Placed {
    fn on(
        interface: &Interface,
        prefix: u8,
        links: &mut Links,
        machine: &mut dyn Addresses,
    ) -> Self {
        Self {
            index: interface.index,
            name: interface.name.clone(),
            prefix,
            mac: interface.mac,
            link: links.on(interface, machine),
        }
    }
}

/// What has become of a VIP that was put on.
#[derive(Default)]
struct Taken {
    /// Since when it is not there.
    missing: Option<Instant>,
    /// When it was put back.
    back: Vec<Instant>,
    /// Its absence has been told.
    told: bool,
}

impl Taken {
    /// Whether it may be put back now; else when. `now` is not before any other `now`.
    fn may(&mut self, now: Instant) -> Result<(), Instant> {
        let missing = *self.missing.get_or_insert(now);
        self.back.retain(|at| now.duration_since(*at) < RECENT);
        let truce = self.back.last().filter(|_| self.is_fight()).map(|at| *at + TRUCE);
        let at = (missing + PAUSE).max(truce.unwrap_or(missing));
        if at <= now { Ok(()) } else { Err(at) }
    }

    fn is_fight(&self) -> bool {
        self.back.len() >= FIGHT
    }
}

/// Whether a VIP's card is good, without every flicker.
#[derive(Default)]
struct Fitness {
    /// What was last seen: why not, if not.
    seen: Option<String>,
    since: Option<Instant>,
    /// What the core was told last: why not, if not.
    told: Option<String>,
    lost: Option<Instant>,
}

impl Fitness {
    /// Takes in what is seen now; when to look again, if that may change what counts.
    fn see(&mut self, now: Instant, seen: Option<String>) -> Option<Instant> {
        let first = self.since.is_none();
        if first || self.seen != seen {
            // One fault after another is one time without a good card.
            if first || self.seen.is_none() != seen.is_none() {
                self.since = Some(now);
            }
            self.seen = seen;
        }
        if self.told == self.seen {
            return None;
        }
        let patience = match (&self.seen, self.lost) {
            _ if first => Duration::ZERO,
            (Some(_), _) => LOST,
            (None, Some(lost)) if self.since.is_some_and(|s| lost + 6 * RECENT > s) => GOOD_AGAIN,
            (None, _) => GOOD,
        };
        let at = self.since.unwrap_or(now) + patience;
        if now < at {
            return Some(at);
        }
        if self.told.is_some() && self.seen.is_none() {
            self.lost = Some(now);
        }
        self.told.clone_from(&self.seen);
        None
    }
}

/// What a look found.
#[derive(Default)]
pub struct Found {
    /// VIPs for which this machine is unfit.
    pub unfit: Unfit,
    /// A program that takes VIPs away as often as they are put back; empty: none.
    pub fight: String,
    /// When to look again.
    pub again: Option<Instant>,
}

impl Found {
    /// Look again then, or sooner.
    fn look_at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

/// Everything put on by this process.
pub struct VipAddresses {
    /// The machine whose interfaces and addresses these are.
    machine: Box<dyn Addresses>,
    /// A witness has no VIPs to be fit for.
    witness: bool,
    here: BTreeMap<IpAddr, Placed>,
    taken: BTreeMap<IpAddr, Taken>,
    fitness: BTreeMap<IpAddr, Fitness>,
    /// Where VIPs were last found to belong.
    cards: BTreeMap<IpAddr, String>,
    links: Links,
    /// All interfaces, and when they were listed: a thousand VIPs that come at once look once.
    listed: Option<(Instant, Vec<Interface>)>,
}

impl VipAddresses {
    /// No VIP yet; a witness never has one.
    pub fn new(witness: bool) -> Self {
        Self::on(Box::new(address::Kernel), witness)
    }

    /// The same on another machine than this one.
    pub fn on(machine: Box<dyn Addresses>, witness: bool) -> Self {
        Self {
            machine,
            witness,
            here: BTreeMap::new(),
            taken: BTreeMap::new(),
            fitness: BTreeMap::new(),
            cards: BTreeMap::new(),
            links: Links::default(),
            listed: None,
        }
    }

    /// Puts it on.
    pub fn up(&mut self, vip: IpAddr, places: &Places) -> Result<(), String> {
        let place = places.lock().expect("nobody panics with it").get(&vip).cloned();
        let (prefix, interface) = place.unwrap_or((if vip.is_ipv4() { 32 } else { 128 }, None));
        let named = interface.as_deref();
        let mut placed = self.put_on(vip, prefix, named);
        if placed.is_err() && self.listed.take().is_some() {
            // What was listed a moment ago may have changed since.
            placed = self.put_on(vip, prefix, named);
        }
        self.here.insert(vip, placed?);
        self.taken.remove(&vip);
        Ok(())
    }

    fn put_on(&mut self, vip: IpAddr, prefix: u8, named: Option<&str>) -> Result<Placed, String> {
        let machine = self.machine.as_mut();
        let all = listed(&mut self.listed, machine)?;
        let interface = address::place_in(all, vip, named).map_err(|e| e.to_string())?;
        machine.add(interface.index, vip, prefix).map_err(|e| e.to_string())?;
        Ok(Placed::on(interface, prefix, &mut self.links, machine))
    }

    /// Takes it off.
    pub fn down(&mut self, vip: IpAddr) -> Result<(), String> {
        let machine = self.machine.as_mut();
        match self.here.get(&vip) {
            Some(p) => machine.remove(p.index, vip, p.prefix).map_err(|e| e.to_string())?,
            None => {
                let all = listed(&mut self.listed, machine)?;
                left_behind(vip, all, machine)?;
            }
        }
        self.here.remove(&vip);
        self.taken.remove(&vip);
        Ok(())
    }

    /// Tells the neighbours, once.
    pub fn announce(&self, vip: IpAddr) -> Result<(), String> {
        let Some(Placed { link: Some(link), mac, .. }) = self.here.get(&vip) else { return Ok(()) };
        link.announce(vip, *mac).map_err(|why| why.to_string())
    }

    /// Looks at all interfaces; puts back what is missing.
    pub fn look(&mut self, places: &Places, core: &CoreHandle, log: &Logger) -> Found {
        let now = Instant::now();
        let all = match self.machine.interfaces() {
            Ok(all) => all,
            Err(why) => {
                log.line(&why.to_string());
                return Found { again: Some(now + GOOD), ..Found::default() };
            }
        };
        let places = places.lock().expect("nobody panics with it").clone();
        let mut found = Found::default();
        self.put_back(now, &all, &places, &mut found, core, log);
        if !self.witness {
            self.judge(now, &all, &places, &mut found);
        }
        found
    }

    fn put_back(
        &mut self,
        now: Instant,
        all: &[Interface],
        places: &BTreeMap<IpAddr, (u8, Option<String>)>,
        found: &mut Found,
        core: &CoreHandle,
        log: &Logger,
    ) {
        // A thousand VIPs are on one card.
        let there: BTreeSet<(u32, IpAddr)> =
            all.iter().flat_map(|i| i.addresses.iter().map(|(a, _)| (i.index, *a))).collect();
        let mut missing = Vec::new();
        for (vip, placed) in &self.here {
            if !there.contains(&(placed.index, *vip)) {
                missing.push(*vip);
            } else if let Some(taken) = self.taken.get_mut(vip) {
                (taken.missing, taken.told) = (None, false);
            }
        }
        let mut back: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for vip in missing {
            let named = places.get(&vip).and_then(|(_, interface)| interface.as_deref());
            let Some(how) = self.restore(now, all, vip, named, found, log) else { continue };
            // In a fight the first ones tell it all.
            if self.taken.get(&vip).is_none_or(|taken| taken.back.len() <= FIGHT) {
                back.entry(how).or_default().push(vip);
            } else {
                log.line(&format!("{vip} was {how} again; put back"));
            }
        }
        self.note_fights(now, found);
        for (how, vips) in back {
            for vip in &vips {
                if let Err(why) = self.announce(*vip) {
                    log.line(&format!("{vip} could not be announced: {why}"));
                }
            }
            core.event(Event::Restored { vips, how });
        }
    }

    /// Puts back one VIP that is missing, on the interface that it was on or the one `named`; how
    /// it was lost. `None`: not yet.
    fn restore(
        &mut self,
        now: Instant,
        all: &[Interface],
        vip: IpAddr,
        named: Option<&str>,
        found: &mut Found,
        log: &Logger,
    ) -> Option<String> {
        let placed = self.here.get_mut(&vip)?;
        let same = all.iter().find(|i| i.index == placed.index);
        let named = named.unwrap_or(&placed.name);
        let by_name = all.iter().find(|i| i.name == named);
        let Some(interface) = same.or(by_name) else {
            let taken = self.taken.entry(vip).or_default();
            taken.missing.get_or_insert(now);
            if !std::mem::replace(&mut taken.told, true) {
                log.line(&format!("{} has gone, and {vip} with it", placed.name));
            }
            return None;
        };
        // The kernel takes IPv6 addresses off an interface that is set down.
        if vip.is_ipv6() && !interface.up {
            return None;
        }
        let taken = self.taken.entry(vip).or_default();
        if let Err(at) = taken.may(now) {
            found.look_at(at);
            return None;
        }
        if let Err(why) = self.machine.add(interface.index, vip, placed.prefix) {
            if !std::mem::replace(&mut taken.told, true) {
                log.line(&format!("{vip} could not be put back: {why}"));
            }
            found.look_at(now + TRUCE);
            return None;
        }
        let how = if same.is_none() {
            format!("lost with {}, which was made again", placed.name)
        } else {
            format!("taken off {} by another program", interface.name)
        };
        if same.is_none() {
            self.links.by_index.remove(&interface.index);
            *placed = Placed::on(interface, placed.prefix, &mut self.links, &mut *self.machine);
        }
        (taken.missing, taken.told) = (None, false);
        taken.back.push(now);
        Some(how)
    }

    /// Which VIP another program takes away again and again.
    fn note_fights(&self, now: Instant, found: &mut Found) {
        for (vip, taken) in &self.taken {
            let often = taken.back.iter().filter(|at| now.duration_since(**at) < RECENT).count();
            if often >= FIGHT {
                let name = self.here.get(vip).map_or("its interface", |p| &p.name);
                found.fight = format!(
                    "another program took {vip} off {name} {often} times within {} s",
                    RECENT.as_secs()
                );
                // When it is over that is to be seen.
                found.look_at(now + GOOD);
            }
        }
    }

    /// For which VIPs this machine is unfit.
    fn judge(
        &mut self,
        now: Instant,
        all: &[Interface],
        places: &BTreeMap<IpAddr, (u8, Option<String>)>,
        found: &mut Found,
    ) {
        self.fitness.retain(|vip, _| places.contains_key(vip));
        self.cards.retain(|vip, _| places.contains_key(vip));
        let mut unfit: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for (vip, (_, named)) in places {
            let held = self.here.get(vip).map(|placed| placed.index);
            let carrier = all.iter().find(|i| Some(i.index) == held);
            let placed = || address::place_in(all, *vip, named.as_deref()).ok();
            let seen = match carrier.or_else(placed) {
                Some(interface) => {
                    self.cards.insert(*vip, interface.name.clone());
                    interface.fault()
                }
                None => Some(match named.as_ref().or(self.cards.get(vip)) {
                    Some(name) => match all.iter().find(|i| i.name == *name) {
                        None => format!("interface {name} is missing"),
                        Some(interface) => interface
                            .fault()
                            .unwrap_or_else(|| format!("{name} has no address in its subnet")),
                    },
                    None => "no interface has an address in its subnet".to_owned(),
                }),
            };
            let fitness = self.fitness.entry(*vip).or_default();
            if let Some(at) = fitness.see(now, seen) {
                found.look_at(at);
            }
        }
        for (vip, fitness) in &self.fitness {
            if let Some(why) = &fitness.told {
                unfit.entry(why).or_default().push(*vip);
            }
        }
        found.unfit = unfit.into_iter().map(|(why, vips)| (why.to_owned(), vips)).collect();
    }
}

/// All interfaces, listed again after a moment.
fn listed<'a>(
    kept: &'a mut Option<(Instant, Vec<Interface>)>,
    machine: &mut dyn Addresses,
) -> Result<&'a [Interface], String> {
    if kept.as_ref().is_none_or(|(at, _)| at.elapsed() > LISTED) {
        let all = machine.interfaces().map_err(|e| e.to_string())?;
        *kept = Some((Instant::now(), all));
    }
    Ok(kept.as_ref().map_or(&[][..], |(_, all)| all))
}

/// Takes off an address that an earlier incarnation of this agent left, wherever it is.
fn left_behind(vip: IpAddr, all: &[Interface], machine: &mut dyn Addresses) -> Result<(), String> {
    for interface in all {
        for (_, prefix) in interface.addresses.iter().filter(|(a, _)| *a == vip) {
            if interface.ethernet {
                machine.remove(interface.index, vip, *prefix).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
