//! A director's data plane: nines' own programs, or IPVS with the programs as guard only.
//!
//! Decides: who forwards, by the table; the other one is emptied after. The programs stay on the
//! interfaces in any case: an address is silent past its deadline whoever forwards.

use nines_model::{Backend, Counters, ForwardingTable};

use crate::{
    DataPlane, Result,
    ebpf::EbpfPlane,
    ipvs::{IpvsPlane, Kernel},
};

/// Both back ends; IPVS is opened when a table asks for it.
pub struct Director {
    ebpf: EbpfPlane,
    ipvs: Option<IpvsPlane<Kernel>>,
    /// Where IPVS tells other directors of its connections.
    interface: Option<String>,
}

impl Director {
    /// Over nines' programs. IPVS would tell other directors of connections on this interface.
    pub fn new(ebpf: EbpfPlane, interface: Option<String>) -> Self {
        Self { ebpf, ipvs: None, interface }
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

impl DataPlane for Director {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        match table.backend {
            Backend::Ebpf => {
                self.ebpf.apply(table)?;
                if let Some(mut unused) = self.ipvs.take() {
                    unused.synchronise(None)?;
                    unused.remove()?;
                }
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
                // IPVS first: packets go by one table or the other, never by none.
                let applied = ipvs.apply(table);
                self.ipvs = Some(ipvs);
                applied?;
                if let (Some(ipvs), Some(_)) = (&self.ipvs, tells) {
                    ipvs.synchronise(tells)?;
                }
                self.ebpf.apply(&guard_only(table))?;
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
            Some(ipvs) => format!("{}, guarded by {}", ipvs.describe(), self.ebpf.describe()),
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
