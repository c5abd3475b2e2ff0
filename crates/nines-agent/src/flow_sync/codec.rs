//! Flows between directors on the wire, as Protocol Buffers by derive: fields that an older node
//! does not know are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nines_dataplane::flow_sync::{self, Batch, SharedFlow};
use nines_model::{Listen, Proto, Traffic};
use prost::Message as _;

/// One message of connection sync.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, repeated, tag = "1")]
    servers: Vec<Server>,
    #[prost(message, repeated, tag = "2")]
    flows: Vec<Flow>,
    /// The last of everything there was when it was asked for.
    #[prost(bool, tag = "3")]
    whole: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Server {
    /// The service: an address with protocol and port, or a mark.
    #[prost(bytes = "vec", tag = "1")]
    vip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(uint32, tag = "3")]
    proto: u32,
    #[prost(uint32, tag = "4")]
    mark: u32,
    #[prost(bool, tag = "5")]
    mark_v6: bool,
    /// The real server.
    #[prost(bytes = "vec", tag = "6")]
    addr: Vec<u8>,
    #[prost(uint32, tag = "7")]
    own_port: u32,
    /// Of many addresses or ports.
    #[prost(uint32, tag = "8")]
    last: u32,
    #[prost(uint32, tag = "9")]
    prefix: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Flow {
    #[prost(bytes = "vec", tag = "1")]
    client: Vec<u8>,
    #[prost(uint32, tag = "2")]
    client_port: u32,
    #[prost(bytes = "vec", tag = "3")]
    asked: Vec<u8>,
    #[prost(uint32, tag = "4")]
    asked_port: u32,
    #[prost(uint32, tag = "5")]
    proto: u32,
    #[prost(uint32, tag = "6")]
    state: u32,
    #[prost(uint32, tag = "7")]
    idle_ms: u32,
    #[prost(uint32, tag = "8")]
    server: u32,
    /// With full NAT.
    #[prost(uint32, tag = "9")]
    own_port: u32,
    /// Its server is told who the client is.
    #[prost(message, optional, tag = "10")]
    proxy: Option<Proxy>,
    /// In place of the VIP, with full NAT.
    #[prost(bytes = "vec", tag = "12")]
    own_addr: Vec<u8>,
    /// A client is remembered by it.
    #[prost(fixed64, tag = "11")]
    call: u64,
    #[prost(bool, tag = "100")]
    earned: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Proxy {
    #[prost(fixed32, tag = "1")]
    first: u32,
    #[prost(bool, tag = "2")]
    sent: bool,
    #[prost(bool, tag = "3")]
    data: bool,
    #[prost(bool, tag = "4")]
    shown: bool,
}

fn pack(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn unpack(bytes: &[u8], port: u32) -> Option<SocketAddr> {
    let addr = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(addr, u16::try_from(port).ok()?))
}

fn proto(number: u32) -> Option<Proto> {
    [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().find(|p| u32::from(p.number()) == number)
}

impl Server {
    fn of((traffic, addr): &(Traffic, SocketAddr)) -> Self {
        let at = Self { addr: pack(addr.ip()), own_port: addr.port().into(), ..Self::default() };
        match traffic {
            Traffic::To(listen) => Self {
                vip: pack(listen.addr.ip()),
                port: listen.addr.port().into(),
                proto: listen.proto.number().into(),
                last: if listen.is_one() { 0 } else { listen.last.into() },
                prefix: if listen.is_one() { 0 } else { listen.prefix.into() },
                ..at
            },
            Traffic::Marked { mark, v6 } => Self { mark: *mark, mark_v6: *v6, ..at },
        }
    }

    fn name(&self) -> Option<(Traffic, SocketAddr)> {
        let traffic = match self.mark {
            0 => {
                let one = Listen::new(unpack(&self.vip, self.port)?, proto(self.proto)?);
                Traffic::To(match self.prefix {
                    0 => one,
                    prefix => Listen {
                        last: self.last.try_into().ok()?,
                        prefix: u8::try_from(prefix).ok().filter(|len| *len <= one.prefix)?,
                        ..one
                    },
                })
            }
            mark => Traffic::Marked { mark, v6: self.mark_v6 },
        };
        Some((traffic, unpack(&self.addr, self.own_port)?))
    }
}

impl Flow {
    fn of(flow: &SharedFlow) -> Self {
        Self {
            client: pack(flow.client.ip()),
            client_port: flow.client.port().into(),
            asked: pack(flow.asked.ip()),
            asked_port: flow.asked.port().into(),
            proto: flow.proto.into(),
            state: flow.state.into(),
            idle_ms: flow.idle_ms,
            server: flow.server,
            earned: flow.earned,
            own_port: flow.own_port.into(),
            own_addr: flow.own_addr.map_or_else(Vec::new, pack),
            proxy: flow.told.map(|flow_sync::Told { first, sent, data, shown }| Proxy {
                first,
                sent,
                data,
                shown,
            }),
            call: flow.call,
        }
    }

    fn flow(&self) -> Option<SharedFlow> {
        let (client, asked) =
            (unpack(&self.client, self.client_port)?, unpack(&self.asked, self.asked_port)?);
        let state = u8::try_from(self.state).ok().filter(|s| *s < 16)?;
        let own_addr = match self.own_addr[..] {
            [] => None,
            ref addr => Some(unpack(addr, 0)?.ip()),
        };
        (client.is_ipv4() == asked.is_ipv4()).then_some(SharedFlow {
            client,
            asked,
            proto: u8::try_from(self.proto).ok()?,
            state,
            idle_ms: self.idle_ms,
            server: self.server,
            earned: self.earned,
            own_port: u16::try_from(self.own_port).ok()?,
            own_addr,
            told: self.proxy.map(|Proxy { first, sent, data, shown }| flow_sync::Told {
                first,
                sent,
                data,
                shown,
            }),
            call: self.call,
        })
    }
}

/// A batch as the bytes of a message; `whole` marks the last one of an answer with all flows.
pub fn encode(batch: &Batch, whole: bool) -> Vec<u8> {
    let servers = batch.servers.iter().map(Server::of).collect();
    let flows = batch.flows.iter().map(Flow::of).collect();
    Told { servers, flows, whole }.encode_to_vec()
}

/// And back, with whether everything has come; `None`: no message of ours. A flow that means
/// nothing here is left out.
pub fn decode(bytes: &[u8]) -> Option<(Batch, bool)> {
    let message = Told::decode(bytes).ok()?;
    let servers: Option<Vec<_>> = message.servers.iter().map(Server::name).collect();
    let flows = message.flows.iter().filter_map(Flow::flow).collect();
    Some((Batch { servers: servers?, flows }, message.whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traffic() -> impl Strategy<Value = Traffic> {
        let listen =
            (any::<SocketAddr>(), prop::sample::select(vec![Proto::Tcp, Proto::Udp, Proto::Sctp]));
        prop_oneof![
            listen.prop_map(|(addr, proto)| Traffic::To(Listen::new(plain(addr), proto))),
            (any::<SocketAddr>(), any::<u16>(), 1..32u8).prop_map(|(addr, last, prefix)| {
                let one = Listen::new(plain(addr), Proto::Udp);
                Traffic::To(Listen { last, prefix, ..one })
            }),
            (1..u32::MAX, any::<bool>()).prop_map(|(mark, v6)| Traffic::Marked { mark, v6 }),
        ]
    }

    /// Ports, protocol, silence, server.
    type Numbers = (u16, u16, u8, u32, u32);

    /// Without flow label and scope, which no flow has.
    fn plain(addr: SocketAddr) -> SocketAddr {
        SocketAddr::new(addr.ip(), addr.port())
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_comes(
            servers in prop::collection::vec((traffic(), any::<SocketAddr>()), 0..4),
            flows in prop::collection::vec(
                (any::<[u8; 4]>(), any::<Numbers>(), 0u8..16), 0..5),
            whole: bool,
        ) {
            let servers = servers.into_iter().map(|(t, a)| (t, plain(a))).collect();
            let flow = |(ip, numbers, state): ([u8; 4], Numbers, u8)| SharedFlow {
                client: SocketAddr::new(ip.into(), numbers.0),
                asked: SocketAddr::new([10, 0, 0, 1].into(), numbers.1),
                proto: numbers.2,
                state,
                idle_ms: numbers.3,
                server: numbers.4,
                earned: numbers.0 & 1 != 0,
                own_port: numbers.0,
                own_addr: (state % 3 == 0).then(|| ip.into()),
                told: (state % 2 == 0).then_some(flow_sync::Told {
                    first: numbers.3,
                    sent: state % 3 != 0,
                    data: state % 4 == 0,
                    shown: state % 5 == 0,
                }),
                call: if state == 0 { u64::from(numbers.3) << 20 } else { 0 },
            };
            let batch = Batch { servers, flows: flows.into_iter().map(flow).collect() };
            prop_assert_eq!(decode(&encode(&batch, whole)), Some((batch, whole)));
        }

        #[test]
        fn nonsense_is_refused_quietly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
