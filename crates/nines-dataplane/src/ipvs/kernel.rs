//! IPVS's generic netlink: commands and attributes as include/uapi/linux/ip_vs.h numbers them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use nines_model::{IdleLimits, Listen, Proto, Tally, Traffic};

use super::{
    Change, Tables, Uncompared,
    convert::{Dest, HASHED, Held, Service, State, inet},
    refused,
};
use crate::{Result, netlink, privileged};

mod daemon;
mod requests;

pub use daemon::{Role, SyncDaemon};

/// A generic netlink message: family, command, version, attributes.
#[derive(Clone, Debug)]
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
    /// The message after its header, as received.
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(&[self.command, 1, 0, 0]);
        self.attributes.as_slice().emit(&mut buffer[4..]);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let bytes = payload.get(4..).unwrap_or_default().to_vec();
        Ok(Self { family: header.message_type, command: 0, attributes: Vec::new(), bytes })
    }
}

impl From<Generic> for NetlinkPayload<Generic> {
    fn from(message: Generic) -> Self {
        Self::InnerMessage(message)
    }
}

/// Attributes by number, of one level.
struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let each = |nla: NlaBuffer<&'a [u8]>| {
            let (kind, length) = (nla.kind(), nla.value_length());
            let all = nla.into_inner();
            (kind, all.get(4..4 + length).unwrap_or_default())
        };
        Self(NlasIterator::new(bytes).map_while(|nla| nla.ok().map(each)).collect())
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
    }

    fn u64(&self, kind: u16) -> u64 {
        self.get(kind).and_then(|v| v.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    fn u32(&self, kind: u16) -> u32 {
        self.get(kind).and_then(|v| v.get(..4)?.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    fn u16(&self, kind: u16) -> u16 {
        self.get(kind).and_then(|v| v.try_into().ok()).map_or(0, u16::from_ne_bytes)
    }

    fn be16(&self, kind: u16) -> u16 {
        u16::from_be(self.u16(kind))
    }

    fn u8(&self, kind: u16) -> u8 {
        self.get(kind).and_then(|v| v.first().copied()).unwrap_or(0)
    }

    fn text(&self, kind: u16) -> String {
        let bytes = self.get(kind).unwrap_or_default();
        String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
    }

    fn addr(&self, kind: u16, family: u16) -> Option<IpAddr> {
        let bytes = self.get(kind)?;
        if family == AF_INET6 {
            let all: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            return Some(IpAddr::V6(Ipv6Addr::from(all)));
        }
        let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(four)))
    }
}

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;

/// Commands of IPVS's netlink family: IPVS_CMD_* of linux/ip_vs.h.
mod command {
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DEL_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DEST: u8 = 5;
    pub const SET_DEST: u8 = 6;
    pub const DEL_DEST: u8 = 7;
    pub const GET_DEST: u8 = 8;
    pub const NEW_DAEMON: u8 = 9;
    pub const DEL_DAEMON: u8 = 10;
    pub const GET_DAEMON: u8 = 11;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
    pub const ZERO: u8 = 16;
    pub const FLUSH: u8 = 17;
}

/// Attributes of a command: IPVS_CMD_ATTR_* of linux/ip_vs.h.
const SERVICE: u16 = 1;
const DEST: u16 = 2;
const DAEMON: u16 = 3;
/// Of TCP; after a FIN and of UDP are the next two.
const TIMEOUTS: u16 = 4;

/// Attributes of a service: IPVS_SVC_ATTR_* of linux/ip_vs.h.
mod svc {
    pub const AF: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const ADDR: u16 = 3;
    pub const PORT: u16 = 4;
    pub const FWMARK: u16 = 5;
    pub const SCHED_NAME: u16 = 6;
    pub const FLAGS: u16 = 7;
    pub const TIMEOUT: u16 = 8;
    pub const NETMASK: u16 = 9;
    pub const PE_NAME: u16 = 11;
    pub const STATS64: u16 = 12;
}

/// Attributes of a server: IPVS_DEST_ATTR_* of linux/ip_vs.h.
mod dst {
    pub const ADDR: u16 = 1;
    pub const PORT: u16 = 2;
    pub const METHOD: u16 = 3;
    pub const WEIGHT: u16 = 4;
    pub const UPPER: u16 = 5;
    pub const LOWER: u16 = 6;
    pub const ACTIVE: u16 = 7;
    pub const INACTIVE: u16 = 8;
    pub const CLIENTS: u16 = 9;
    pub const FAMILY: u16 = 11;
    pub const STATS64: u16 = 12;
    pub const TUN_TYPE: u16 = 13;
    pub const TUN_PORT: u16 = 14;
    pub const TUN_FLAGS: u16 = 15;
}

fn nla(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    const NLA_F_NESTED: u16 = 1 << 15;
    let mut bytes = vec![0; inside.buffer_len()];
    inside.emit(&mut bytes);
    nla(kind | NLA_F_NESTED, bytes)
}

fn family(v6: bool) -> u16 {
    if v6 { AF_INET6 } else { AF_INET }
}

/// Attributes that name a service.
fn name(traffic: Traffic) -> Vec<DefaultNla> {
    let af = nla(svc::AF, family(traffic.is_ipv6()).to_ne_bytes());
    match traffic {
        Traffic::To(listen) => vec![
            af,
            nla(svc::PROTOCOL, u16::from(listen.proto.number()).to_ne_bytes()),
            nla(svc::ADDR, inet(listen.addr.ip())),
            nla(svc::PORT, listen.addr.port().to_be_bytes()),
        ],
        Traffic::Marked { mark, .. } => vec![af, nla(svc::FWMARK, mark.to_ne_bytes())],
    }
}

fn service(traffic: Traffic, service: &Service) -> DefaultNla {
    let mut flags = service.flags.to_ne_bytes().to_vec();
    flags.extend(u32::MAX.to_ne_bytes());
    let netmask = if traffic.is_ipv6() {
        service.prefix
    } else {
        u32::MAX.checked_shl(32 - service.prefix.min(32)).unwrap_or(0).to_be()
    };
    let mut all = name(traffic);
    all.extend([
        nla(svc::SCHED_NAME, format!("{}\0", service.scheduler).into_bytes()),
        nla(svc::FLAGS, flags),
        nla(svc::TIMEOUT, service.timeout.to_ne_bytes()),
        nla(svc::NETMASK, netmask.to_ne_bytes()),
    ]);
    if !service.engine.is_empty() {
        all.push(nla(svc::PE_NAME, format!("{}\0", service.engine).into_bytes()));
    }
    nested(SERVICE, &all)
}

fn dest(dest: &Dest) -> DefaultNla {
    let (kind, port, flags) = dest.tunnel;
    nested(
        DEST,
        &[
            nla(dst::ADDR, inet(dest.at.ip())),
            nla(dst::FAMILY, family(dest.at.is_ipv6()).to_ne_bytes()),
            nla(dst::PORT, dest.at.port().to_be_bytes()),
            nla(dst::METHOD, dest.method.to_ne_bytes()),
            nla(dst::WEIGHT, dest.weight.to_ne_bytes()),
            nla(dst::UPPER, dest.upper.to_ne_bytes()),
            nla(dst::LOWER, dest.lower.to_ne_bytes()),
            nla(dst::TUN_TYPE, [kind]),
            nla(dst::TUN_PORT, port.to_be_bytes()),
            nla(dst::TUN_FLAGS, flags.to_ne_bytes()),
        ],
    )
}

/// IPVS_STATS_ATTR_CONNS and IPVS_STATS_ATTR_CPS, each with the four behind it: counts, and the
/// same a second.
fn tallies(stats: Option<&[u8]>) -> (Tally, Tally) {
    let stats = Attributes::of(stats.unwrap_or_default());
    let from = |first| Tally {
        connections: stats.u64(first),
        packets_in: stats.u64(first + 1),
        packets_out: stats.u64(first + 2),
        bytes_in: stats.u64(first + 3),
        bytes_out: stats.u64(first + 4),
        ..Tally::default()
    };
    (from(1), from(6))
}

fn read_service(bytes: &[u8]) -> Option<(Traffic, Service)> {
    let a = Attributes::of(bytes);
    let (af, mark) = (a.u16(svc::AF), a.u32(svc::FWMARK));
    let v6 = af == AF_INET6;
    let traffic = if mark != 0 {
        Traffic::Marked { mark, v6 }
    } else {
        let number = a.u16(svc::PROTOCOL);
        let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp];
        let proto = proto.into_iter().find(|p| u16::from(p.number()) == number)?;
        let addr = SocketAddr::new(a.addr(svc::ADDR, af)?, a.be16(svc::PORT));
        Traffic::To(Listen::new(addr, proto))
    };
    let mask = a.u32(svc::NETMASK);
    let (tally, rate) = tallies(a.get(svc::STATS64));
    let service = Service {
        scheduler: a.text(svc::SCHED_NAME),
        flags: a.u32(svc::FLAGS) & !HASHED,
        timeout: a.u32(svc::TIMEOUT),
        prefix: if v6 { mask } else { u32::from_be(mask).leading_ones() },
        engine: a.text(svc::PE_NAME),
        tally: Uncompared(tally),
        rate: Uncompared(rate),
    };
    Some((traffic, service))
}

fn read_dest(bytes: &[u8], v6: bool) -> Option<Dest> {
    const METHODS: u32 = 7;
    let a = Attributes::of(bytes);
    let af = a.get(dst::FAMILY).map_or(family(v6), |_| a.u16(dst::FAMILY));
    let (mut tally, rate) = tallies(a.get(dst::STATS64));
    (tally.active, tally.inactive) =
        (u64::from(a.u32(dst::ACTIVE)), u64::from(a.u32(dst::INACTIVE)));
    Some(Dest {
        at: SocketAddr::new(a.addr(dst::ADDR, af)?, a.be16(dst::PORT)),
        method: a.u32(dst::METHOD) & METHODS,
        weight: a.u32(dst::WEIGHT),
        upper: a.u32(dst::UPPER),
        lower: a.u32(dst::LOWER),
        tunnel: (a.u8(dst::TUN_TYPE), a.be16(dst::TUN_PORT), a.u16(dst::TUN_FLAGS)),
        tally: Uncompared(tally),
        rate: Uncompared(rate),
        clients: Uncompared(u64::from(a.u32(dst::CLIENTS))),
    })
}

/// The kernel's tables of the network namespace that the calling thread is in.
pub struct Ipvs {
    family: u16,
}

impl Ipvs {
    /// Finds IPVS; the kernel loads its module if there is one.
    pub fn open() -> Result<Self> {
        const GENL_ID_CTRL: u16 = 16;
        const CTRL_CMD_GETFAMILY: u8 = 3;
        const CTRL_ATTR_FAMILY_ID: u16 = 1;
        const CTRL_ATTR_FAMILY_NAME: u16 = 2;
        let asked = Generic {
            family: GENL_ID_CTRL,
            command: CTRL_CMD_GETFAMILY,
            attributes: vec![nla(CTRL_ATTR_FAMILY_NAME, *b"IPVS\0")],
            bytes: Vec::new(),
        };
        let none = |why: &dyn std::fmt::Display| {
            refused("this kernel has no IPVS", why)
                .next("modprobe ip_vs, or in [forwarding]: dataplane = \"ebpf\"")
        };
        let answers = netlink::exchange(NETLINK_GENERIC, asked, 0).map_err(|e| none(&e))?;
        let id = answers.iter().map(|a| Attributes::of(&a.bytes).u16(CTRL_ATTR_FAMILY_ID));
        let family = id.max().filter(|id| *id != 0).ok_or_else(|| none(&"it says nothing"))?;
        Ok(Self { family })
    }

    fn ask(
        &self,
        command: u8,
        attributes: Vec<DefaultNla>,
        flags: u16,
    ) -> std::io::Result<Vec<Generic>> {
        let message = Generic { family: self.family, command, attributes, bytes: Vec::new() };
        netlink::exchange(NETLINK_GENERIC, message, flags)
    }
}

/// So that it does as nines' own programs do (Documentation/networking/ipvs-sysctl.rst): clients
/// leave a server that takes none; connections of one that is gone end; TCP in mid-flow is taken
/// up, for another director had it before.
const SETTINGS: [&str; 3] = ["expire_quiescent_template", "expire_nodest_conn", "sloppy_tcp"];

impl Tables for Ipvs {
    fn prepare(&mut self, idle: Option<IdleLimits>) -> Result<()> {
        for name in SETTINGS {
            crate::sysctl::write(&format!("net/ipv4/vs/{name}"), "1")?;
        }
        let Some(IdleLimits { tcp, fin, udp }) = idle else { return Ok(()) };
        self.set_timeouts([tcp, fin, udp])
            .map_err(|e| privileged("IPVS does not take its times".into(), &e))
    }

    fn list(&mut self) -> Result<State> {
        let failed = |e: std::io::Error| privileged("IPVS cannot be listed".into(), &e);
        let mut state = State::new();
        for found in self.ask(command::GET_SERVICE, Vec::new(), NLM_F_DUMP).map_err(failed)? {
            let all = Attributes::of(&found.bytes);
            // One of a protocol that nines does not have (AH, ESP) is nobody's here.
            let Some((traffic, service)) = all.get(SERVICE).and_then(read_service) else {
                continue;
            };
            let of = vec![nested(SERVICE, &name(traffic))];
            let dests = self.ask(command::GET_DEST, of, NLM_F_DUMP).map_err(failed)?;
            let read =
                |d: &Generic| read_dest(Attributes::of(&d.bytes).get(DEST)?, traffic.is_ipv6());
            state.insert(traffic, Held { service, dests: dests.iter().filter_map(read).collect() });
        }
        Ok(state)
    }

    fn carry_out(&mut self, change: &Change) -> Result<()> {
        self.tell(change).map_err(|e| {
            let told = privileged("IPVS refused a change".into(), &e);
            match (e.raw_os_error(), change) {
                (Some(libc::ENOENT), Change::Add(_, new) | Change::Set(_, new)) => {
                    told.next(format!("modprobe ip_vs_{}", new.scheduler))
                }
                _ => told,
            }
        })
    }
}
