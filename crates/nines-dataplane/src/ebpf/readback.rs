//! What the kernel holds, in the words of the tables it was made from: for whoever has no other
//! memory of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use nines_abi::{
    self as abi, Bucket, KEY_MARK_V4, KEY_MARK_V6, Server, Service, Template, TemplateKey,
    WORD_LIVE, WORD_REPLY, seen_of, state_of,
};
use nines_model::{
    Forward, ForwardingTable, Limit, Listen, Millis, Persist, Proto, SchedulerFlags, ServerName,
    ServerState, TableServer, TableService, Tally, Traffic, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{
    Raw, attach,
    installed::is_free,
    map_error,
    reconcile::{self, Installed},
    shared::View,
    tables::{Tables, pinned, shared},
};
use crate::{Result, address, listing::Connection, pins, process::boot_time};

/// Idle limits where nobody set others, seconds: established TCP, TCP after a FIN, UDP.
pub const TIMEOUTS: [u32; 3] = [
    abi::IDLE_SECONDS[abi::STATE_ESTABLISHED as usize],
    abi::IDLE_SECONDS[abi::STATE_FIN_WAIT as usize],
    abi::IDLE_SECONDS[abi::STATE_UDP as usize],
];

/// Keeps others from changing the tables of this namespace while it lives.
#[derive(Debug)]
pub struct Claim {
    _directory: File,
}

/// Claims the tables; waits for another claim to end, but not longer than this. `None`: it did not.
pub fn claim(patience: Duration) -> Result<Option<Claim>> {
    pins::ensure()?;
    // Of the namespace, whatever layout: another binary's agent keeps its own.
    let pins = pins::own_directory()?;
    let failed =
        |e: std::io::Error| crate::privileged(format!("cannot claim {}", pins.display()), &e);
    pins::make(&pins).map_err(failed)?;
    let directory = File::open(&pins).map_err(failed)?;
    let until = Instant::now() + patience;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(Claim { _directory: directory })),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// Whether the programs are on every Ethernet interface of this namespace, but for interfaces that
/// are part of another.
pub fn is_everywhere() -> Result<bool> {
    let pins = pins::pin_directory()?;
    let all = address::interfaces()?;
    Ok(all.iter().filter(|i| i.ethernet && !i.is_part).all(|i| attach::is_on(&pins, i)))
}

/// Which packets are a service's.
pub(super) fn traffic(service: &Service) -> Traffic {
    let key = &service.key;
    if key.kind == KEY_MARK_V4 || key.kind == KEY_MARK_V6 {
        let [.., a, b, c, d] = key.addr;
        return Traffic::Marked {
            mark: u32::from_be_bytes([a, b, c, d]),
            v6: key.kind == KEY_MARK_V6,
        };
    }
    let proto = match key.proto {
        17 => Proto::Udp,
        132 => Proto::Sctp,
        _ => Proto::Tcp,
    };
    let addr = SocketAddr::new(address::unmapped(key.addr), u16::from_be(key.port));
    let prefix = service.prefix - if addr.is_ipv4() { 96 } else { 0 };
    Traffic::To(Listen { addr, last: u16::from_be(service.last), prefix, proto })
}

fn forward(server: &Server) -> Forward {
    let kind = match server.forward {
        abi::FORWARD_NAT => return Forward::Nat,
        abi::FORWARD_FULL_NAT => return Forward::FullNat,
        abi::FORWARD_LOCAL => return Forward::Local,
        abi::FORWARD_IPIP => TunnelKind::Ipip,
        abi::FORWARD_GUE => TunnelKind::Gue,
        abi::FORWARD_GRE => TunnelKind::Gre,
        _ => return Forward::Dr,
    };
    let checksum = match server.checksum {
        abi::CHECKSUM_FULL => TunnelChecksum::Full,
        abi::CHECKSUM_REMOTE => TunnelChecksum::Remote,
        _ => TunnelChecksum::None,
    };
    Forward::Tunnel(Tunnel { kind, port: u16::from_be(server.tunnel_port), checksum })
}

/// What servers behind full NAT may see in place of the VIP, with what flows call it.
pub(super) fn pool(service: &Service) -> impl Iterator<Item = (u16, IpAddr)> {
    let there = (0..).zip(service.pool).filter(|(_, addr)| *addr != [0; 16]);
    there.map(|(place, addr)| {
        let addr = address::unmapped(addr);
        (abi::source_at(place, address::words(addr)), addr)
    })
}

fn service(service: &Service) -> TableService {
    let traffic = traffic(service);
    let ones: u32 = service.mask.iter().map(|word| word.count_ones()).sum();
    let prefix = if traffic.is_ipv6() { ones } else { ones.saturating_sub(96) };
    TableService {
        flags: SchedulerFlags {
            fallback: service.flags & abi::SERVICE_FALLBACK != 0,
            port: service.flags & abi::SERVICE_PORT != 0,
        },
        one_packet: service.flags & abi::SERVICE_ONE_PACKET != 0,
        sip: service.flags & abi::SERVICE_SIP != 0,
        persist: (service.persist != 0).then(|| Persist {
            time: Millis(u64::from(service.persist_seconds) * 1_000),
            prefix: prefix as u8,
        }),
        pool: pool(service).map(|(_, addr)| addr).collect(),
        ..TableService::new(traffic, reconcile::scheduler_of(service.scheduler))
    }
}

fn server(server: &Server) -> TableServer {
    let state = match server.state {
        abi::SERVER_DOWN => ServerState::Down,
        abi::SERVER_DRAIN if server.weight > 0 => ServerState::Draining,
        _ => ServerState::Up,
    };
    TableServer {
        weight: server.weight,
        state,
        limit: Limit { upper: server.upper, lower: server.lower },
        proxy: server.proxy != 0,
        ..TableServer::new(reconcile::identity(server), forward(server))
    }
}

/// The table; servers are called by their place in it.
pub fn table(installed: &Installed) -> ForwardingTable {
    let mut table = ForwardingTable::default();
    for (key, (id, found)) in &installed.services {
        let mut service = service(found);
        for (_, in_kernel) in installed.servers_of(*id) {
            service.servers.insert(place_name(in_kernel.order), server(in_kernel));
        }
        table.services.insert(format!("{key:?}").into(), service);
    }
    table
}

/// The name of the server at a place; in order of places.
pub fn place_name(place: u32) -> ServerName {
    format!("{place:010}").into()
}

const STATE_NAMES: [&str; abi::STATES] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "UDP",
    "SYNACK",
    "LISTEN",
];

pub(super) fn addr_of(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    address::unmapped(bytes)
}

fn units(units: u32) -> Duration {
    Duration::from_nanos(u64::from(units) << abi::IDLE_SHIFT)
}

impl Tables {
    /// What clients and flows are known now.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let now = abi::clock_of(boot_time().0);
        let installed = self.installed();
        let mut found = self.remembered(now)?;
        let pins = pins::pin_directory()?;
        let flows = shared::<Bucket>(pinned(&pins, "FLOWS")?)?;
        let view: View<Bucket> = flows.view()?;
        for index in 0..view.len() {
            for entry in view.get(index).ways {
                let word = entry.tail.word;
                if word & WORD_LIVE == 0 || word & WORD_REPLY != 0 {
                    continue;
                }
                let Some(server) = installed.servers.get(&entry.tail.server) else { continue };
                let state = usize::from(state_of(word)).min(abi::STATES - 1);
                let idle = now.wrapping_sub(seen_of(word)).min(u32::MAX / 2);
                let limit = installed.settings.idle[state];
                let known = server.generation == entry.tail.generation && !is_free(server);
                if !known || idle > limit {
                    continue;
                }
                let asked = u16::from_be(entry.key.dport);
                let at = reconcile::identity(server);
                let port = if at.port() == 0 { asked } else { at.port() };
                found.push(Connection {
                    proto: entry.key.proto as u8,
                    state: STATE_NAMES[state].into(),
                    left: units(limit - idle),
                    client: SocketAddr::new(addr_of(entry.key.src), u16::from_be(entry.key.sport)),
                    virtual_service: SocketAddr::new(addr_of(entry.key.dst), asked),
                    server: SocketAddr::new(at.ip(), port),
                });
            }
        }
        Ok(found)
    }

    fn templates(&self) -> Result<Vec<(TemplateKey, Template)>> {
        let pins = pins::pin_directory()?;
        let map: HashMap<MapData, Raw<TemplateKey>, Raw<Template>> =
            HashMap::try_from(pinned(&pins, "TEMPLATES")?).map_err(map_error)?;
        Ok(map.iter().flatten().map(|(key, value)| (key.0, value.0)).collect())
    }

    /// Clients that are remembered, by the server's slot.
    pub fn remembered_by_slot(&self) -> Result<BTreeMap<u32, u64>> {
        let mut count = BTreeMap::new();
        for (_, template) in self.templates()? {
            let slot = self.installed().servers.get(&template.server);
            if slot.is_some_and(|s| s.generation == template.generation && !is_free(s)) {
                *count.entry(template.server).or_default() += 1;
            }
        }
        Ok(count)
    }

    fn remembered(&self, now: u32) -> Result<Vec<Connection>> {
        let installed = self.installed();
        let mut found = Vec::new();
        for (key, template) in self.templates()? {
            let service = installed.services.iter().find(|(_, (id, _))| *id == key.service);
            let server = installed.servers.get(&template.server);
            let (Some((wanted, (_, service))), Some(server)) = (service, server) else { continue };
            let idle = now.wrapping_sub(template.seen).min(u32::MAX / 2);
            let known = server.generation == template.generation && !is_free(server);
            if !known || idle > service.persist {
                continue;
            }
            let vip = match traffic(service) {
                Traffic::To(listen) => listen.addr,
                Traffic::Marked { mark, .. } => SocketAddr::new(IpAddr::V4(mark.into()), 0),
            };
            found.push(Connection {
                proto: wanted.proto,
                state: "ASSURED".into(),
                left: units(service.persist - idle),
                client: SocketAddr::new(addr_of(key.client), 0),
                virtual_service: vip,
                server: reconcile::identity(server),
            });
        }
        Ok(found)
    }

    /// Counts of a slot, or with `None` of a service's id.
    pub fn tally(&self, id: u32, slot: Option<u32>) -> Result<Tally> {
        let mut tally = match slot {
            Some(slot) => super::tables::sum(self.server_stats.get(&slot, 0).map_err(map_error)?),
            None => super::tables::sum(self.service_stats.get(&id, 0).map_err(map_error)?),
        };
        if let Some(slot) = slot {
            let load = self.loads.view()?.get(slot);
            (tally.active, tally.inactive) = (load.active, load.inactive);
        }
        Ok(tally)
    }

    /// Starts the counts of a service, or of all, again from zero.
    pub fn zero(&mut self, only: Option<Traffic>) -> Result<()> {
        let only = only.map(reconcile::key);
        let chosen: Vec<u32> = self
            .installed()
            .services
            .iter()
            .filter(|(key, _)| only.is_none_or(|only| only == **key))
            .map(|(_, (id, _))| *id)
            .collect();
        for id in chosen {
            self.service_stats.set(id, super::tables::zeros()?, 0).map_err(map_error)?;
            let slots: Vec<u32> = self.installed().servers_of(id).map(|(slot, _)| slot).collect();
            for slot in slots {
                self.server_stats.set(slot, super::tables::zeros()?, 0).map_err(map_error)?;
            }
        }
        Ok(())
    }

    /// Idle limits in seconds: established TCP, TCP after a FIN, UDP.
    pub fn timeouts(&self) -> [u32; 3] {
        let idle = self.installed().settings.idle;
        if idle == [0; 16] {
            return TIMEOUTS;
        }
        abi::IDLE_SET.map(|state| {
            let units = u64::from(idle[usize::from(state)]);
            let seconds = ((units << abi::IDLE_SHIFT) + 500_000_000) / 1_000_000_000;
            seconds as u32
        })
    }

    /// Sets those that are not 0.
    pub fn set_timeouts(&mut self, seconds: [u32; 3]) -> Result<()> {
        let mut settings = self.installed().settings;
        if settings.idle == [0; 16] {
            for (units, seconds) in settings.idle.iter_mut().zip(abi::IDLE_SECONDS) {
                *units = abi::idle_units(seconds);
            }
        }
        for (state, seconds) in abi::IDLE_SET.into_iter().zip(seconds).filter(|(_, s)| *s != 0) {
            settings.idle[usize::from(state)] = abi::idle_units(seconds);
        }
        self.commit(&[reconcile::Write::Settings(settings)])
    }
}
