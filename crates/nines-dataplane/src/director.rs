//! A director's data plane: nines' own programs, or IPVS with the programs as guard only.
//!
//! Decides: who forwards, by the table; the other one is emptied after. The programs stay on the
//! interfaces in any case: an address is silent past its deadline whoever forwards.

use std::{collections::BTreeSet, fs, io::ErrorKind, net::SocketAddr, path::PathBuf};

use nines_model::{Backend, Counters, ForwardingTable, ServerState, Traffic};

use crate::{
    DataPlane, Error, Result,
    ebpf::{self, EbpfPlane},
    ipvs::{self, IpvsPlane, Kernel},
    pins,
};

/// Both back ends; IPVS is opened when a table asks for it.
pub struct Director {
    ebpf: EbpfPlane,
    ipvs: Option<IpvsPlane<Kernel>>,
    /// Where IPVS tells other directors of its connections.
    interface: Option<String>,
    /// It forwards; else it may be open, and empty.
    by_ipvs: bool,
    /// It is wanted, could hold the table, and does not: to be tried again.
    missing: bool,
    /// Why IPVS does not forward, or does not tell others, though the table asks for it.
    trouble: Option<Error>,
}

impl Director {
    /// Over nines' programs. What an earlier process left in IPVS is taken over: the next table
    /// changes or empties it.
    pub fn new(ebpf: EbpfPlane) -> Self {
        let ipvs = if ipvs_carries() { IpvsPlane::open().ok() } else { None };
        Self { ebpf, by_ipvs: ipvs.is_some(), ipvs, interface: None, missing: false, trouble: None }
    }

    /// IPVS tells other directors of connections on this interface from the next table on.
    pub fn tell_on(&mut self, interface: &str) {
        self.interface = Some(interface.to_owned());
    }

    /// nines' own programs.
    pub fn ebpf(&mut self) -> &mut EbpfPlane {
        &mut self.ebpf
    }
}

/// Servers that get new clients by what an earlier process left in the kernel.
pub fn serving(ebpf: &mut EbpfPlane) -> BTreeSet<(Traffic, SocketAddr)> {
    let mut serving = BTreeSet::new();
    for service in ebpf::readback::table(ebpf.tables().installed()).services.into_values() {
        let servers = service.servers.into_values();
        let up = servers.filter(|s| s.state == ServerState::Up && s.weight > 0);
        serving.extend(up.map(|server| (service.traffic, server.addr)));
    }
    if ipvs_carries()
        && let Ok(held) = IpvsPlane::open().and_then(|mut plane| plane.serving())
    {
        serving.extend(held);
    }
    serving
}

/// A directory that is there while IPVS may hold a table of ours in this namespace. It goes where
/// that table goes, with the machine's start, and stays when the process dies.
fn in_use() -> Result<PathBuf> {
    Ok(pins::pin_directory()?.with_file_name("ipvs"))
}

/// Whether IPVS may hold a table of ours in this namespace, whether or not an agent runs.
pub fn ipvs_carries() -> bool {
    in_use().is_ok_and(|mark| mark.exists())
}

fn remember() -> Result<()> {
    let mark = in_use()?;
    match fs::create_dir(&mark) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            Err(Error::new(format!("cannot make {}", mark.display()), e))
        }
        _ => Ok(()),
    }
}

fn forget() -> Result<()> {
    let mark = in_use()?;
    match fs::remove_dir(&mark) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::new(format!("cannot remove {}", mark.display()), e))
        }
        _ => Ok(()),
    }
}

/// The same without services: the guard and the other directors.
fn guard_only(table: &ForwardingTable) -> ForwardingTable {
    ForwardingTable {
        duty: table.duty.clone(),
        director_macs: table.director_macs.clone(),
        backend: table.backend,
        ..ForwardingTable::default()
    }
}

/// Whether servers are of another family than their service: IPVS then has no
/// connection sync.
fn mixes(table: &ForwardingTable) -> bool {
    table.services.values().any(|service| {
        let v6 = service.traffic.is_ipv6();
        service.servers.values().any(|server| server.addr.is_ipv6() != v6)
    })
}

fn translates(table: &ForwardingTable) -> bool {
    let mut servers = table.services.values().flat_map(|service| service.servers.values());
    servers.any(|server| server.forward.translates())
}

impl Director {
    /// Services and servers as IPVS counted them, where it forwards.
    fn or_by_ipvs(&mut self, mut counters: Counters) -> Result<Counters> {
        if let Some(ipvs) = &mut self.ipvs {
            let own = ipvs.counters()?;
            (counters.services, counters.servers) = (own.services, own.servers);
        }
        Ok(counters)
    }

    fn forward_by_programs(&mut self, table: &ForwardingTable) -> Result<()> {
        // A VIP is answered for wherever packets for it come in: there the guard must be before.
        self.ebpf.devices()?;
        self.ebpf.apply(table)?;
        // Kept until it is empty, so that the next try goes on.
        if let Some(unused) = &mut self.ipvs {
            unused.synchronise(None)?;
            unused.remove()?;
            forget()?;
        }
        (self.ipvs, self.by_ipvs) = (None, false);
        Ok(())
    }

    fn forward_by_ipvs(&mut self, table: &ForwardingTable) -> Result<()> {
        let ipvs = match &mut self.ipvs {
            Some(ipvs) => ipvs,
            closed => closed.insert(IpvsPlane::open()?),
        };
        let tells = self.interface.as_deref().filter(|_| !mixes(table));
        if tells.is_none() {
            ipvs.synchronise(None)?;
        }
        // IPVS first: packets go by one table or the other, never by none. It takes them wherever
        // they come in: there the guard must be before.
        self.ebpf.devices()?;
        remember()?;
        ipvs.apply(table)?;
        self.by_ipvs = true;
        self.ebpf.apply(&guard_only(table))?;
        if translates(table) {
            ebpf::answers_pass()?;
        }
        // Who cannot tell others serves all the same.
        let told = if tells.is_some() { ipvs.synchronise(tells) } else { Ok(()) };
        self.trouble = told.err();
        Ok(())
    }
}

impl DataPlane for Director {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        (self.missing, self.trouble) = (false, None);
        if table.backend == Backend::Ebpf {
            return self.forward_by_programs(table);
        }
        match self.forward_by_ipvs(table) {
            // Nothing goes through it yet: the programs forward rather than nobody.
            Err(why) if !self.by_ipvs => {
                self.missing = ipvs::can_hold(table).is_ok();
                self.forward_by_programs(table)?;
                let what = format!("nines' own programs forward, not IPVS: {}", why.what);
                self.trouble = Some(Error { what, ..why });
                Ok(())
            }
            result => result,
        }
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        let mut differences = self.ebpf.observe()?;
        if let Some(ipvs) = &mut self.ipvs {
            differences.extend(ipvs.observe()?);
        } else if self.missing && ipvs::is_there() {
            differences.push("IPVS does not forward yet".into());
        }
        Ok(differences)
    }

    fn grow(&mut self, table: &ForwardingTable) -> Result<bool> {
        if table.backend == Backend::Ebpf { self.ebpf.grow(table) } else { Ok(false) }
    }

    fn devices(&mut self) -> Result<()> {
        self.ebpf.devices()
    }

    fn counters(&mut self) -> Result<Counters> {
        let counters = self.ebpf.counters()?;
        self.or_by_ipvs(counters)
    }

    fn busy(&mut self) -> Result<Counters> {
        let counters = self.ebpf.busy()?;
        self.or_by_ipvs(counters)
    }

    fn describe(&self) -> String {
        match &self.ipvs {
            Some(ipvs) => {
                format!("{}, guarded by {}", ipvs.describe(), self.ebpf.describe())
            }
            None => self.ebpf.describe(),
        }
    }

    fn trouble(&self) -> Option<Error> {
        self.trouble.clone().or_else(|| self.ebpf.trouble())
    }

    fn remove(&mut self) -> Result<()> {
        if let Some(ipvs) = &mut self.ipvs {
            ipvs.synchronise(None)?;
            ipvs.remove()?;
            forget()?;
        }
        self.ebpf.remove()
    }
}
