//! What IPVS holds, in the words of nines' tables: for listings.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nines_model::{
    Forward, Limit, Millis, Persist, Scheduler, SchedulerFlags, TableServer, TableService, Traffic,
    Tunnel, TunnelChecksum, TunnelKind,
};

use super::{
    Dest, Service, State,
    convert::{LOCAL, MASQUERADE, ONE_PACKET, PERSISTENT, SCHED_1, SCHED_2, TUNNEL},
};
use crate::{
    Error, Result,
    listing::{Connection, Shown},
};

/// Which numbers a listing has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Since the tables were made.
    Sums,
    /// A second, as IPVS estimates it.
    Rates,
}

/// Where nines has no such scheduler, the default stands for it.
fn service(traffic: Traffic, held: &Service) -> TableService {
    let known = Scheduler::ALL.into_iter().find(|(name, _)| *name == held.scheduler);
    let scheduler = known.map_or(Scheduler::Wlc, |(_, scheduler)| scheduler);
    let persist = (held.flags & PERSISTENT != 0).then(|| Persist {
        time: Millis(u64::from(held.timeout) * 1_000),
        prefix: held.prefix as u8,
    });
    TableService {
        flags: SchedulerFlags {
            fallback: held.flags & SCHED_1 != 0,
            port: held.flags & SCHED_2 != 0,
        },
        one_packet: held.flags & ONE_PACKET != 0,
        sip: held.engine == "sip",
        persist,
        ..TableService::new(traffic, scheduler)
    }
}

fn forward(dest: &Dest) -> Forward {
    match dest.method {
        MASQUERADE => Forward::Nat,
        LOCAL => Forward::Local,
        TUNNEL => {
            let (kind, port, flags) = dest.tunnel;
            let kind = match kind {
                1 => TunnelKind::Gue,
                2 => TunnelKind::Gre,
                _ => TunnelKind::Ipip,
            };
            let checksum = match flags {
                1 => TunnelChecksum::Full,
                2 => TunnelChecksum::Remote,
                _ => TunnelChecksum::None,
            };
            Forward::Tunnel(Tunnel { kind, port, checksum })
        }
        _ => Forward::Dr,
    }
}

/// A state as listings show it; servers in the kernel's order, the newest first.
pub fn shown(state: &State, counts: Counts) -> Vec<Shown> {
    let mut all = Vec::new();
    for (traffic, held) in state {
        let servers = held.dests.iter().map(|dest| {
            let server = TableServer {
                weight: dest.weight,
                limit: Limit { upper: dest.upper, lower: dest.lower },
                ..TableServer::new(dest.at, forward(dest))
            };
            let tally = if counts == Counts::Sums { dest.tally.0 } else { dest.rate.0 };
            (server, tally, dest.clients.0)
        });
        let of = &held.service;
        all.push(Shown {
            service: service(*traffic, of),
            scheduler: of.scheduler.clone(),
            tally: if counts == Counts::Sums { of.tally.0 } else { of.rate.0 },
            servers: servers.collect(),
        });
    }
    all
}

/// The kernel's list of connections, remembered clients among them.
pub fn connections() -> Result<Vec<Connection>> {
    const LIST: &str = "/proc/thread-self/net/ip_vs_conn";
    match fs::read_to_string(LIST) {
        // The first line says what is where.
        Ok(text) => Ok(text.lines().skip(1).filter_map(connection).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::new(format!("cannot read {LIST}"), e)),
    }
}

/// `TCP 0A00001E 03E8 0A000064 0050 0A00000B 0050 ESTABLISHED     890`: hexadecimal but for the
/// time; IPv6 as eight groups.
fn connection(line: &str) -> Option<Connection> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[proto, client, cport, vip, vport, server, port, state, left, ..] = &words[..] else {
        return None;
    };
    let addr = |text: &str| match u32::from_str_radix(text, 16) {
        Ok(number) => Some(IpAddr::V4(Ipv4Addr::from(number))),
        Err(_) => text.parse::<IpAddr>().ok(),
    };
    let at = |text: &str, port: &str| {
        Some(SocketAddr::new(addr(text)?, u16::from_str_radix(port, 16).ok()?))
    };
    Some(Connection {
        proto: match proto {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => 0,
        },
        state: state.to_owned().into(),
        left: Duration::from_secs(left.parse().ok()?),
        client: at(client, cport)?,
        virtual_service: at(vip, vport)?,
        server: at(server, port)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernels_list_are_read() {
        let told = |line: &str| {
            let c = connection(line).unwrap();
            let left = c.left.as_secs();
            format!(
                "{} {} {} {} {} {left}",
                c.proto, c.client, c.virtual_service, c.server, c.state
            )
        };
        assert_eq!(
            told("TCP 0A00001E 03E8 0A000064 0050 0A00000B 1F90 ESTABLISHED     890"),
            "6 10.0.0.30:1000 10.0.0.100:80 10.0.0.11:8080 ESTABLISHED 890"
        );
        assert_eq!(
            told(
                "UDP 2001:0db8:0000:0000:0000:0000:0000:0030 03E8 \
                 2001:0db8:0000:0000:0000:0000:0000:0100 0035 0A00000B 0035 UDP             299"
            ),
            "17 [2001:db8::30]:1000 [2001:db8::100]:53 10.0.0.11:53 UDP 299"
        );
        assert_eq!(
            told("IP  0A00001E 0000 00000007 0000 0A00000B 0000 NONE              9 sip call-1"),
            "0 10.0.0.30:0 0.0.0.7:0 10.0.0.11:0 NONE 9"
        );
        assert_eq!(connection("TCP 0A00001E"), None);
    }
}
