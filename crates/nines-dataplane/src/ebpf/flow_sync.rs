//! Connection sync between the kernel's flow table and the agent, in both directions.
//!
//! Decides: which flows other directors need. They need none that every director sends to the same
//! server by hash alone: direct routing or a tunnel with scheduler maglev, while the servers stay
//! the same.
//!
//! The kernel program marks the bucket of a changed flow and wakes the agent once
//! ([`nines_abi::SYNC_EVENTS_BYTES`]). Marks cannot overflow, and many changes of one flow are sent
//! as one. A kernel program also stores the flows that arrive, one run for each flow, so that the
//! rules of the table are in one place.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{HashMap, Map, MapData, RingBuf};
use nines_abi::{
    self as abi, Bucket, Entry, FORWARD_FULL_NAT, FORWARD_NAT, Flow, Guard, IDLE_SHIFT,
    SCHED_MAGLEV, STATE_NONE, Server, Service, Template, TemplateKey, WORD_DATA, WORD_EARNED,
    WORD_FULL, WORD_LIVE, WORD_MIDDLE, WORD_PROXY, WORD_REPLY, WORD_SENT, WORD_SHOWN, seen_of,
    state_of,
};
use nines_model::{Time, Traffic};

pub use self::import::FlowImport;
use super::{
    EbpfPlane, Raw, addresses, installed, map_error,
    programs::{FLOW_IMPORT, load_alone},
    readback,
    shared::{Shared, View},
    tables::{pinned, shared},
};
use crate::{
    Error, Result, address,
    flow_sync::{Batch, SharedFlow, Told},
    pins::pin_directory,
    process::boot_time,
};

mod import;

/// Flows of one [`Batch`] at most.
const BATCH: usize = 512;

fn ms_of_units(units: u32) -> u32 {
    u32::try_from((u64::from(units) << IDLE_SHIFT) / 1_000_000).unwrap_or(u32::MAX)
}

/// Where this director's tables are, opened once.
struct Pinned {
    flows: Shared<Bucket>,
    servers: Shared<Server>,
    services: Shared<Service>,
    picks: Shared<u64>,
    guard: Shared<Guard>,
    /// Whether flows that every director finds by itself are sent, too: [`FlowExport::tell_all`].
    all: bool,
}

impl Pinned {
    fn open() -> Result<Self> {
        let pins = pin_directory()?;
        Ok(Self {
            flows: shared(pinned(&pins, "FLOWS")?)?,
            servers: shared(pinned(&pins, "SERVERS")?)?,
            services: shared(pinned(&pins, "SERVICES")?)?,
            picks: shared(pinned(&pins, "LOOKUP")?)?,
            guard: shared(pinned(&pins, super::guard::TABLE)?)?,
            all: false,
        })
    }

    fn look(&self) -> Result<Look> {
        Ok(Look {
            servers: self.servers.view()?,
            services: self.services.view()?,
            picks: self.picks.view()?,
            guard: self.guard.view()?,
            clock: abi::clock_of(boot_time().0),
            now: boot_time(),
            all: self.all,
        })
    }
}

/// The tables as one look sees them.
struct Look {
    servers: View<Server>,
    services: View<Service>,
    picks: View<u64>,
    guard: View<Guard>,
    clock: u32,
    now: Time,
    all: bool,
}

impl Look {
    /// The server in a slot and its service, if a flow made under this generation is theirs.
    fn server(&self, slot: u32, generation: u32) -> Option<(Server, Service)> {
        let server = (slot < self.servers.len()).then(|| self.servers.get(slot))?;
        let known = server.generation == generation && !installed::is_free(&server);
        let service = (known && server.service < self.services.len())
            .then(|| self.services.get(server.service))?;
        (service.flags & abi::SERVICE_LIVE != 0).then_some((server, service))
    }

    /// What flows call an address of the pool of this server's service; `None`: it is not in it.
    fn source(&self, slot: u32, addr: Option<IpAddr>) -> Option<u16> {
        let Some(addr) = addr else { return Some(0) };
        let (_, service) = self.server(slot, self.servers.get(slot).generation)?;
        readback::pool(&service).find(|(_, a)| *a == addr).map(|(source, _)| source)
    }

    /// Every director would send it there without being told.
    fn is_plain(&self, key: &Flow, slot: u32, server: &Server, service: &Service) -> bool {
        let (base, len) = (service.table_base(), service.table_len());
        // Who is on no list any more would have to begin anew elsewhere, and be counted again;
        // there all clients at once would be too many strangers.
        let asks = abi::SERVICE_SOURCES | abi::SERVICE_RATE | abi::SERVICE_COOKIES;
        if self.all
            || service.flags & asks != 0
            || service.scheduler != SCHED_MAGLEV
            || server.forward == FORWARD_NAT
            || server.forward == FORWARD_FULL_NAT
            || service.persist != 0
            || len == 0
        {
            return false;
        }
        let index = base + abi::hash_of(key) as u32 % len;
        let pair = (index >> 1 < self.picks.len()).then(|| self.picks.get(index >> 1));
        pair.is_some_and(|pair| (pair >> ((index & 1) * 32)) as u32 == slot)
    }

    /// Whether packets to this address come here: nobody guards it, or this node holds it.
    fn comes_here(&self, dst: [u32; 4]) -> bool {
        let addr = address::mapped(readback::addr_of(dst));
        addresses::find(&self.guard, addr)
            .is_none_or(|at| Time(self.guard.get(at).deadline_ns) > self.now)
    }

    fn idle_ms(&self, seen: u32) -> u32 {
        let idle = self.clock.wrapping_sub(seen);
        // Another processor's reading of the clock may be a little ahead.
        if idle > u32::MAX / 2 { 0 } else { ms_of_units(idle) }
    }

    fn tell(&self, entry: &Entry, into: &mut Batch) {
        let word = entry.tail.word;
        let middle = word & (WORD_MIDDLE | WORD_EARNED) == WORD_MIDDLE;
        if word & WORD_LIVE == 0 || word & WORD_REPLY != 0 || middle || state_of(word) == STATE_NONE
        {
            return;
        }
        let Some((server, service)) = self.server(entry.tail.server, entry.tail.generation) else {
            return;
        };
        if self.is_plain(&entry.key, entry.tail.server, &server, &service) {
            return;
        }
        let (key, name) = (&entry.key, (readback::traffic(&service), installed::identity(&server)));
        let mut own_addr = None;
        if word & WORD_FULL != 0 && entry.via.source != 0 {
            let mut pool = readback::pool(&service);
            // It ends with its source.
            let Some((_, addr)) = pool.find(|(source, _)| *source == entry.via.source) else {
                return;
            };
            own_addr = Some(addr);
        }
        let server = into.server(name);
        into.flows.push(SharedFlow {
            client: SocketAddr::new(readback::addr_of(key.src), u16::from_be(key.sport)),
            asked: SocketAddr::new(readback::addr_of(key.dst), u16::from_be(key.dport)),
            proto: key.proto as u8,
            state: state_of(word),
            idle_ms: self.idle_ms(seen_of(word)),
            server,
            earned: word & WORD_EARNED != 0,
            own_port: if word & WORD_FULL != 0 { u16::from_be(entry.via.port) } else { 0 },
            own_addr,
            told: (word & WORD_PROXY != 0).then_some(Told {
                first: entry.via.addr,
                sent: word & WORD_SENT != 0,
                data: word & WORD_DATA != 0,
                shown: word & WORD_SHOWN != 0,
            }),
            call: 0,
        });
    }

    /// Without `all`, only what no flow says by itself.
    fn tell_template(&self, key: &TemplateKey, template: &Template, all: bool, into: &mut Batch) {
        let Some((server, service)) = self.server(template.server, template.generation) else {
            return;
        };
        if service.persist == 0 || server.service != key.service {
            return;
        }
        if !all && key.call == 0 && service.flags & abi::SERVICE_ONE_PACKET == 0 {
            return;
        }
        let traffic = readback::traffic(&service);
        let asked = match traffic {
            Traffic::To(listen) => listen.addr,
            Traffic::Marked { v6: false, .. } => SocketAddr::new([0, 0, 0, 0].into(), 0),
            Traffic::Marked { v6: true, .. } => SocketAddr::new([0; 16].into(), 0),
        };
        let server = into.server((traffic, installed::identity(&server)));
        into.flows.push(SharedFlow {
            client: SocketAddr::new(readback::addr_of(key.client), 0),
            asked,
            proto: service.key.proto,
            state: STATE_NONE,
            idle_ms: self.idle_ms(template.seen),
            server,
            earned: false,
            own_port: 0,
            own_addr: None,
            told: None,
            call: key.call,
        });
    }
}

/// This director's flows, for others. Only one of them looks at a time.
pub struct FlowExport {
    tables: Pinned,
    changed: Shared<u64>,
    bell: View<u64>,
    bells: RingBuf<MapData>,
}

impl AsFd for FlowExport {
    /// Readable when flows have changed since the last [`FlowExport::changed`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bells.as_fd()
    }
}

impl FlowExport {
    fn open() -> Result<Self> {
        let pins = pin_directory()?;
        let bells = match pinned(&pins, "SYNC_EVENTS")? {
            map @ Map::RingBuf(_) => RingBuf::try_from(map).map_err(map_error)?,
            _ => return Err(Error::new("a pinned map is not ours", "it is no ring")),
        };
        let bell: Shared<u64> = shared(pinned(&pins, "SYNC_PENDING")?)?;
        let changed = shared(pinned(&pins, "SYNC_CHANGED")?)?;
        Ok(Self { tables: Pinned::open()?, changed, bell: bell.view()?, bells })
    }

    /// Whether flows are told that every director would send to the same server: another version of
    /// nines may hash them otherwise.
    pub fn tell_all(&mut self, all: bool) {
        self.tables.all = all;
    }

    /// Flows that packets changed since the last look. Until the next one the kernel rings again.
    pub fn changed(&mut self, each: &mut dyn FnMut(Batch)) -> Result<()> {
        while self.bells.next().is_some() {}
        self.bell.swap(0, 0);
        let marks = self.changed.view()?;
        let dirty: Vec<(u32, u64)> = (0..marks.len())
            .filter(|word| marks.get(*word) != 0)
            .map(|word| (word, marks.swap(word, 0)))
            .collect();
        if dirty.is_empty() {
            return Ok(());
        }
        let (look, flows) = (self.tables.look()?, self.tables.flows.view()?);
        let mut batch = Batch::default();
        for (word, mut bits) in dirty {
            while bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                for entry in flows.get(bucket).ways {
                    look.tell(&entry, &mut batch);
                }
                flush(&mut batch, BATCH, each);
            }
        }
        flush(&mut batch, 1, each);
        Ok(())
    }

    /// Buckets of the flow table, which [`FlowExport::some`] walks.
    pub fn buckets(&self) -> Result<u32> {
        Ok(self.tables.flows.view()?.len())
    }

    /// Every flow in these buckets.
    pub fn some(&mut self, buckets: Range<u32>, each: &mut dyn FnMut(Batch)) -> Result<()> {
        self.walk(&self.tables.look()?, buckets, &mut |_| true, each)
    }

    /// Every client that is remembered.
    pub fn remembered(&mut self, each: &mut dyn FnMut(Batch)) -> Result<()> {
        self.clients(u32::MAX, true, each)
    }

    /// Clients heard of within this time.
    fn clients(&self, within_ms: u32, all: bool, each: &mut dyn FnMut(Batch)) -> Result<()> {
        let look = self.tables.look()?;
        let mut batch = Batch::default();
        let templates: HashMap<MapData, Raw<TemplateKey>, Raw<Template>> =
            HashMap::try_from(pinned(&pin_directory()?, "TEMPLATES")?).map_err(map_error)?;
        for (key, template) in templates.iter().flatten() {
            if look.idle_ms(template.0.seen) <= within_ms {
                look.tell_template(&key.0, &template.0, all, &mut batch);
                flush(&mut batch, BATCH, each);
            }
        }
        flush(&mut batch, 1, each);
        Ok(())
    }

    /// Whether there are services that have such: looking for them costs a call each.
    fn has_clients_alone(&self) -> Result<bool> {
        let services = self.tables.services.view()?;
        let of = |service: Service| {
            let single = abi::SERVICE_ONE_PACKET | abi::SERVICE_SIP;
            service.flags & abi::SERVICE_LIVE != 0
                && service.flags & single != 0
                && service.persist != 0
        };
        Ok((0..services.len()).any(|id| of(services.get(id))))
    }

    /// Clients heard of within this time whom no flow names.
    pub fn clients_alone(&mut self, within_ms: u32, each: &mut dyn FnMut(Batch)) -> Result<()> {
        if self.has_clients_alone()? {
            self.clients(within_ms, false, each)?;
        }
        Ok(())
    }

    /// Flows whose packets came here within this time: they live elsewhere only if it is said.
    pub fn alive(&mut self, within_ms: u32, each: &mut dyn FnMut(Batch)) -> Result<()> {
        let look = self.tables.look()?;
        let mut here: BTreeMap<[u32; 4], bool> = BTreeMap::new();
        let mut chosen = |entry: &Entry| {
            look.idle_ms(seen_of(entry.tail.word)) <= within_ms
                && *here.entry(entry.key.dst).or_insert_with(|| look.comes_here(entry.key.dst))
        };
        self.walk(&look, 0..u32::MAX, &mut chosen, each)
    }

    fn walk(
        &self,
        look: &Look,
        buckets: Range<u32>,
        chosen: &mut dyn FnMut(&Entry) -> bool,
        each: &mut dyn FnMut(Batch),
    ) -> Result<()> {
        let flows = self.tables.flows.view()?;
        let mut batch = Batch::default();
        for index in buckets.start..buckets.end.min(flows.len()) {
            for entry in flows.get(index).ways {
                if entry.tail.word & WORD_LIVE != 0 && chosen(&entry) {
                    look.tell(&entry, &mut batch);
                }
            }
            flush(&mut batch, BATCH, each);
        }
        flush(&mut batch, 1, each);
        Ok(())
    }
}

fn flush(batch: &mut Batch, from: usize, each: &mut dyn FnMut(Batch)) {
    if batch.flows.len() >= from {
        each(std::mem::take(batch));
    }
}

impl EbpfPlane {
    /// Both ends of telling flows to other directors.
    pub fn exchange(&mut self) -> Result<(FlowExport, FlowImport)> {
        Ok((self.flows_out()?, self.flows_in()?))
    }

    /// The end that tells.
    pub fn flows_out(&self) -> Result<FlowExport> {
        FlowExport::open()
    }

    /// The end that learns. The first time this loads the largest program of all.
    pub fn flows_in(&mut self) -> Result<FlowImport> {
        load_alone(&mut self.ebpf, FLOW_IMPORT)?;
        FlowImport::open(self.program(FLOW_IMPORT)?)
    }
}
