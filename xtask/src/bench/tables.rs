//! How long large tables take: `cargo xtask bench tables`. 10,000 services of 10 servers into the
//! kernel, then one server's weight among them. Needs root.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use nines_dataplane::{
    DataPlane as _,
    ebpf::{self, Hooks, Sizes},
};
use nines_lab::Wire;
use nines_model::{
    Forward, ForwardingTable, Listen, Proto, Scheduler, TableServer, TableService, Traffic,
};

use super::{Bench, median};

const SERVICES: u32 = 10_000;
const SERVERS: u32 = 10;
const CHANGES: u32 = 21;

fn table(scheduler: Scheduler) -> ForwardingTable {
    let mut table = ForwardingTable::default();
    for n in 0..SERVICES {
        let vip = IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + n));
        let listen = Listen::new(SocketAddr::new(vip, 80), Proto::Tcp);
        let mut service = TableService::new(Traffic::To(listen), scheduler);
        for s in 0..SERVERS {
            // A thousand machines, each in a hundred services.
            let ip = IpAddr::V4(Ipv4Addr::from(0x0a00_0100 + (n * SERVERS + s) % 1_000));
            let server = TableServer::new(SocketAddr::new(ip, 80), Forward::Dr);
            service.servers.insert(format!("r{s}").into(), server);
        }
        table.services.insert(format!("s{n:05}").into(), service);
    }
    table
}

/// Runs `cargo xtask bench tables`. Fails if a part of it does.
pub fn tables(json: bool) -> Result<(), String> {
    let wires = vec![Wire::new("br0", "10.0.0.2/8")];
    let b = Bench::build(BTreeMap::from([("lb1".to_owned(), wires)]))?;
    for scheduler in [Scheduler::Maglev, Scheduler::Rr, Scheduler::Wlc, Scheduler::Mh] {
        let measure = || -> Result<(f64, f64), String> {
            let failed =
                |e: nines_dataplane::Error| format!("{e} {}", e.next.clone().unwrap_or_default());
            let mut table = table(scheduler);
            let sizes = Sizes::holding(&table, 0);
            let (mut plane, _guard) =
                ebpf::open(ebpf::object::BYTES, Hooks::Tc, sizes).map_err(failed)?;
            let began = Instant::now();
            plane.apply(&table).map_err(failed)?;
            let all = began.elapsed().as_secs_f64() * 1_000.0;
            let mut ones = Vec::new();
            for n in 0..CHANGES {
                let name = format!("s{:05}", n * 400 + 7);
                let service = table.services.get_mut(name.as_str()).ok_or("no such service")?;
                service.servers.get_mut("r3").ok_or("no such server")?.weight = n + 2;
                let began = Instant::now();
                plane.apply(&table).map_err(failed)?;
                ones.push(began.elapsed().as_secs_f64() * 1_000.0);
            }
            plane.remove().map_err(failed)?;
            Ok((all, median(ones)))
        };
        let (all, one) = b.lab.within("lb1", measure).map_err(|e| e.to_string())??;
        if json {
            println!(
                "{{\"scheduler\":\"{scheduler}\",\"services\":{SERVICES},\"servers\":{SERVERS},\
                 \"all_ms\":{all:.1},\"one_ms\":{one:.2}}}"
            );
        } else {
            println!(
                "{scheduler:<7} {SERVICES} services of {SERVERS}: {all:.0} ms; one weight: {one:.2} ms"
            );
        }
    }
    Ok(())
}
