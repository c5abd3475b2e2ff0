//! What the kernel's tables hold, and one update of them with its inverse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use nines_abi::{
    self as abi, Addr, KEY_ADDRESS, KEY_MARK_V4, KEY_MARK_V6, KEY_NETWORK, KEY_RANGE, NO_SERVICE,
    QuicKey, SERVER_DOWN, SERVICE_LIVE, SPREAD_BITS, Server, Service, ServiceKey, ServiceRangeKey,
    Settings,
};
use nines_model::{Scheduler, Traffic};

use crate::address;

/// What the kernel's maps hold, as read or as last written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Services and their ids.
    pub services: BTreeMap<ServiceKey, (u32, Service)>,
    /// Array SERVERS, every slot ever used; a free one keeps what was there, see [`is_free`].
    pub servers: BTreeMap<u32, Server>,
    /// Slots by service, and interfaces that lead to servers: kept beside `servers` by
    /// [`Installed::place`]; an interface stays until everything is read again.
    pub slots: BTreeMap<u32, BTreeSet<u32>>,
    /// Numbers of the interfaces that lead to servers, kept as `slots` are.
    pub interfaces: BTreeSet<u32>,
    /// Pick tables in use, by their beginning.
    pub picks: BTreeMap<u32, Vec<u32>>,
    /// Addresses that matter.
    pub places: BTreeMap<Addr, u32>,
    /// Which clients may begin flows, by id of the service, address and prefix length.
    pub sources: BTreeMap<(u32, Addr, u8), u32>,
    /// Services of many addresses or ports: their ids by key and length of its prefix.
    pub spread: BTreeMap<(ServiceRangeKey, u8), u32>,
    /// Slots by what QUIC connection ids hold.
    pub quic: BTreeMap<QuicKey, u32>,
    /// The entry of map SETTINGS.
    pub settings: Settings,
    /// End of the pick table written last.
    pub cursor: u32,
}

/// One map update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Slot of SERVERS.
    Server(u32, Server),
    /// Picks from here on.
    Picks(u32, Vec<u32>),
    /// A service with its id; `None` takes it away.
    Service(ServiceKey, Option<(u32, Service)>),
    /// Flags of an address; 0 takes it away.
    Place(Addr, u32),
    /// Whether clients of a prefix (bits of the 128 of an address) may begin flows of the service
    /// with this id; 0 takes it away.
    Source(u32, Addr, u8, u32),
    /// The service with this id has these addresses and ports; `None`: nobody has.
    Spread(ServiceRangeKey, u8, Option<u32>),
    /// The server in this slot has this id; `None`: nobody has.
    Quic(QuicKey, Option<u32>),
    /// The only entry of map SETTINGS.
    Settings(Settings),
}

/// Key of a service in the kernel.
pub fn key(traffic: Traffic) -> ServiceKey {
    match traffic {
        Traffic::To(listen) => {
            let kind = match listen.addr.port() {
                _ if listen.is_one() => KEY_ADDRESS,
                first if first == listen.last => KEY_NETWORK,
                _ => KEY_RANGE,
            };
            let (addr, port) = (address::mapped(listen.addr.ip()), listen.addr.port().to_be());
            ServiceKey { addr, port, proto: listen.proto.number(), kind }
        }
        Traffic::Marked { mark, v6 } => {
            let mut addr = [0; 16];
            addr[12..].copy_from_slice(&mark.to_be_bytes());
            let kind = if v6 { KEY_MARK_V6 } else { KEY_MARK_V4 };
            ServiceKey { addr, port: 0, proto: 0, kind }
        }
    }
}

/// Where map SERVICE_RANGES names a service: keys and lengths of their prefixes; nowhere if it goes
/// by one address and port, or by a mark.
pub fn spread(traffic: Traffic) -> Vec<(ServiceRangeKey, u8)> {
    let Traffic::To(listen) = traffic else { return Vec::new() };
    if listen.is_one() {
        return Vec::new();
    }
    let ports = match listen.addr.port() {
        0 => vec![(0, 0)],
        // Longer than what ends a range: one port goes before it.
        first if first == listen.last => vec![(first, 32)],
        first => port_prefixes(first, listen.last),
    };
    let mut all = Vec::new();
    for vip in listen.vips() {
        all.extend(ports.iter().map(|(port, bits)| {
            let proto = listen.proto.number().into();
            let key =
                ServiceRangeKey { proto, addr: address::mapped(vip), port: port.to_be(), pad: 0 };
            (key, SPREAD_BITS as u8 + bits)
        }));
    }
    all
}

/// The fewest prefixes that hold these ports and no others: each as long as it can be.
fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    let mut all = Vec::new();
    while next < end {
        let aligned = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
        let fits = (end - next).ilog2();
        let size = aligned.min(fits);
        all.push((next as u16, (16 - size) as u8));
        next += 1 << size;
    }
    all
}

/// Identity of a server of a service in the kernel.
pub fn identity(server: &Server) -> SocketAddr {
    SocketAddr::new(address::unmapped(server.addr), u16::from_be(server.port))
}

pub(super) fn is_free(server: &Server) -> bool {
    server.addr == [0; 16] || server.service == NO_SERVICE
}

/// A service that has left, for packets that still know its id.
pub(super) fn dead(service: Service) -> Service {
    Service { flags: service.flags & !SERVICE_LIVE, ..service }
}

/// The slot of a server that left, under this generation.
pub(super) fn freed(server: &Server, generation: u32) -> Server {
    Server { generation, state: SERVER_DOWN, service: NO_SERVICE, ..*server }
}

impl Installed {
    /// Applies one update to this picture and gives the update that takes it back; `None` where
    /// nothing needs to be taken back.
    pub fn record(&mut self, write: &Write) -> Option<Write> {
        match write {
            Write::Server(slot, server) => {
                let old = self.place(*slot, *server);
                // Flows made in between end with it; where the update itself ended flows, they stay
                // ended, or their counts would not be right.
                let next = server.generation.wrapping_add(1);
                let before = match old {
                    Some(old) if is_free(&old) => freed(server, next),
                    Some(old) if is_free(server) || old.generation == server.generation => old,
                    Some(old) => Server { generation: next, ..old },
                    None => freed(server, next),
                };
                Some(Write::Server(*slot, before))
            }
            Write::Picks(base, picks) => {
                self.cursor = base + picks.len() as u32;
                self.picks.insert(*base, picks.clone());
                None
            }
            Write::Service(key, service) => {
                let old = match service {
                    Some(service) => self.services.insert(*key, *service),
                    None => self.services.remove(key),
                };
                Some(Write::Service(*key, old))
            }
            Write::Place(addr, flags) => {
                let old = match flags {
                    0 => self.places.remove(addr),
                    flags => self.places.insert(*addr, *flags),
                };
                Some(Write::Place(*addr, old.unwrap_or(0)))
            }
            Write::Source(id, addr, prefix, said) => {
                let key = (*id, *addr, *prefix);
                let old = match said {
                    0 => self.sources.remove(&key),
                    said => self.sources.insert(key, *said),
                };
                Some(Write::Source(*id, *addr, *prefix, old.unwrap_or(0)))
            }
            Write::Spread(key, len, id) => {
                let old = match id {
                    Some(id) => self.spread.insert((*key, *len), *id),
                    None => self.spread.remove(&(*key, *len)),
                };
                Some(Write::Spread(*key, *len, old))
            }
            Write::Quic(key, slot) => {
                let old = match slot {
                    Some(slot) => self.quic.insert(*key, *slot),
                    None => self.quic.remove(key),
                };
                Some(Write::Quic(*key, old))
            }
            Write::Settings(settings) => {
                Some(Write::Settings(std::mem::replace(&mut self.settings, *settings)))
            }
        }
    }

    /// Forgets pick tables that services had before some updates; `inverses` take those back.
    pub fn forget(&mut self, inverses: &[Write]) {
        for inverse in inverses {
            let Write::Service(key, Some((_, old))) = inverse else { continue };
            let kept = self.services.get(key).is_some_and(|(_, now)| now.table == old.table);
            if old.table_len() > 0 && !kept {
                self.picks.remove(&old.table_base());
            }
        }
    }

    /// Forgets pick tables that no service uses.
    pub fn trim(&mut self) {
        let used: BTreeSet<u32> = self
            .services
            .values()
            .filter(|(_, s)| s.table_len() > 0)
            .map(|(_, s)| s.table_base())
            .collect();
        self.picks.retain(|base, _| used.contains(base));
    }

    /// Puts a server into a slot; gives the one before.
    pub fn place(&mut self, slot: u32, server: Server) -> Option<Server> {
        let old = self.servers.insert(slot, server);
        if let Some(old) = old.filter(|old| !is_free(old))
            && let Some(slots) = self.slots.get_mut(&old.service)
        {
            slots.remove(&slot);
        }
        if !is_free(&server) {
            self.slots.entry(server.service).or_default().insert(slot);
            if server.ifindex != 0 {
                self.interfaces.insert(server.ifindex);
            }
        }
        old
    }

    /// What is said of clients of a service.
    pub fn sources_of(&self, id: u32) -> impl Iterator<Item = (Addr, u8, u32)> {
        let all = self.sources.range((id, [0; 16], 0)..=(id, [255; 16], 255));
        all.map(|((_, addr, prefix), said)| (*addr, *prefix, *said))
    }

    /// Servers of a service by what connection ids hold.
    pub fn quic_of(&self, id: u32) -> impl Iterator<Item = (QuicKey, u32)> {
        let all = self.quic.iter().filter(move |(key, _)| key.service == id);
        all.map(|(key, slot)| (*key, *slot))
    }

    /// Ids of servers' services, lists and names that no key names.
    pub fn strays(&self) -> BTreeSet<u32> {
        let named: BTreeSet<u32> = self.services.values().map(|(id, _)| *id).collect();
        let slots = self.slots.iter().filter(|(_, slots)| !slots.is_empty()).map(|(id, _)| *id);
        let sources = self.sources.keys().map(|(id, ..)| *id);
        let quic = self.quic.keys().map(|key| key.service);
        let all = slots.chain(sources).chain(quic).chain(self.spread.values().copied());
        all.filter(|id| !named.contains(id)).collect()
    }

    /// Slots and servers of a service.
    pub fn servers_of(&self, id: u32) -> impl Iterator<Item = (u32, &Server)> {
        let slots = self.slots.get(&id).into_iter().flatten();
        slots.filter_map(|slot| self.servers.get(slot).map(|server| (*slot, server)))
    }
}

const SCHEDULERS: [(Scheduler, u32); 15] = [
    (Scheduler::Rr, abi::SCHED_RR),
    (Scheduler::Wrr, abi::SCHED_WRR),
    (Scheduler::Lc, abi::SCHED_LC),
    (Scheduler::Wlc, abi::SCHED_WLC),
    (Scheduler::Sed, abi::SCHED_SED),
    (Scheduler::Nq, abi::SCHED_NQ),
    (Scheduler::Fo, abi::SCHED_FO),
    (Scheduler::Ovf, abi::SCHED_OVF),
    (Scheduler::Lblc, abi::SCHED_LBLC),
    (Scheduler::Lblcr, abi::SCHED_LBLCR),
    (Scheduler::Twos, abi::SCHED_TWOS),
    (Scheduler::Dh, abi::SCHED_DH),
    (Scheduler::Sh, abi::SCHED_SH),
    (Scheduler::Mh, abi::SCHED_MH),
    (Scheduler::Maglev, abi::SCHED_MAGLEV),
];

/// The kernel's word for a scheduler.
pub(super) fn scheduler_word(scheduler: Scheduler) -> u32 {
    SCHEDULERS.iter().find(|(s, _)| *s == scheduler).map_or(abi::SCHED_MAGLEV, |(_, word)| *word)
}

/// The scheduler of a word in the kernel; Maglev for an unknown word.
pub fn scheduler_of(word: u32) -> Scheduler {
    SCHEDULERS.iter().find(|(_, w)| *w == word).map_or(Scheduler::Maglev, |(s, _)| *s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_hold_a_range_and_nothing_else() {
        for (first, last) in [(80, 80), (8_000, 8_999), (1, 65_535), (5, 6), (60_000, 65_535)] {
            let all = port_prefixes(first, last);
            let has = |port: u16| {
                all.iter()
                    .filter(|(p, len)| {
                        (p ^ port).checked_shr(16 - u32::from(*len)).unwrap_or(0) == 0
                    })
                    .count()
            };
            for port in 0..=u16::MAX {
                assert_eq!(has(port), usize::from((first..=last).contains(&port)), "{port}");
            }
            assert!(all.len() <= 30);
        }
    }
}
