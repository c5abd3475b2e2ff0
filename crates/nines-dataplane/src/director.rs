//! A director's data plane: nines' own programs, or IPVS with the programs as guard only.
//!
//! Decides: who forwards, by the table; the other one is emptied after. The programs stay on the
//! interfaces in any case: an address is silent past its deadline whoever forwards.

use nines_model::{Backend, Counters, Forward, ForwardingTable};

use crate::{
    DataPlane, Result,
    ebpf::{self, EbpfPlane},
    ipvs::{IpvsPlane, Kernel},
};

/// Both back ends; IPVS is opened when a table asks for it.
pub struct Director {
    ebpf: EbpfPlane,
    ipvs: Option<IpvsPlane<Kernel>>,
    /// Where IPVS tells other directors of its connections.
    interface: Option<String>,
    /// Why it does not.
    tells_nobody: Option<String>,
}

impl Director {
    /// Over nines' programs. IPVS would tell other directors of connections on this interface.
    pub fn new(ebpf: EbpfPlane, interface: Option<String>) -> Self {
        Self { ebpf, ipvs: None, interface, tells_nobody: None }
    }

    /// nines' own programs.
    pub fn ebpf(&mut self) -> &mut EbpfPlane {
        &mut self.ebpf
    }
}

/// The same without services: the guard and the other directors.
fn guard_only(table: &ForwardingTable) -> ForwardingTable {
    ForwardingTable {
        served_here: table.served_here.clone(),
        director_macs: table.director_macs.clone(),
        backend: table.backend,
        ..ForwardingTable::default()
    }
}

/// Whether servers are of another family than their service: IPVS then tells no other director of
/// connections.
fn mixes(table: &ForwardingTable) -> bool {
    table.services.values().any(|service| {
        let v6 = service.traffic.is_ipv6();
        service.servers.values().any(|server| server.addr.is_ipv6() != v6)
    })
}

fn translates(table: &ForwardingTable) -> bool {
    let mut servers = table.services.values().flat_map(|service| service.servers.values());
    servers.any(|server| server.forward == Forward::Nat)
}

impl DataPlane for Director {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        match table.backend {
            Backend::Ebpf => {
                self.ebpf.everywhere(false)?;
                self.ebpf.apply(table)?;
                // Kept until it is empty, so that the next try goes on.
                if let Some(unused) = &mut self.ipvs {
                    unused.synchronise(None)?;
                    unused.remove()?;
                }
                self.ipvs = None;
            }
            Backend::Ipvs => {
                let mut ipvs = match self.ipvs.take() {
                    Some(ipvs) => ipvs,
                    None => IpvsPlane::open()?,
                };
                let tells = self.interface.as_deref().filter(|_| !mixes(table));
                if tells.is_none() {
                    ipvs.synchronise(None)?;
                }
                // IPVS first: packets go by one table or the other, never by none. It takes them
                // wherever they come in: there the guard must be before.
                self.ebpf.everywhere(true)?;
                let applied = ipvs.apply(table);
                self.ipvs = Some(ipvs);
                applied?;
                self.ebpf.apply(&guard_only(table))?;
                if translates(table) {
                    ebpf::answers_pass()?;
                }
                // Who cannot tell others serves all the same.
                let told = self.ipvs.as_ref().map_or(Ok(()), |ipvs| match tells {
                    Some(_) => ipvs.synchronise(tells),
                    None => Ok(()),
                });
                self.tells_nobody = told.err().map(|why| why.to_string());
            }
        }
        Ok(())
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        let mut differences = self.ebpf.observe()?;
        if let Some(ipvs) = &mut self.ipvs {
            differences.extend(ipvs.observe()?);
        }
        Ok(differences)
    }

    fn counters(&mut self) -> Result<Counters> {
        let mut counters = self.ebpf.counters()?;
        if let Some(ipvs) = &mut self.ipvs {
            let own = ipvs.counters()?;
            (counters.services, counters.servers) = (own.services, own.servers);
        }
        Ok(counters)
    }

    fn describe(&self) -> String {
        match &self.ipvs {
            Some(ipvs) => {
                let (own, guard) = (ipvs.describe(), self.ebpf.describe());
                let alone = self.tells_nobody.as_ref();
                let alone = alone.map_or(String::new(), |why| format!(" ({why})"));
                format!("{own}{alone}, guarded by {guard}")
            }
            None => self.ebpf.describe(),
        }
    }

    fn remove(&mut self) -> Result<()> {
        if let Some(ipvs) = &mut self.ipvs {
            ipvs.synchronise(None)?;
            ipvs.remove()?;
        }
        self.ebpf.remove()
    }
}
