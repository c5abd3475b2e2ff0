//! Interfaces and addresses in memory: what was put on is what is there, and tests take it away.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{Addresses, Announcer, Error, Result, address::Interface};

/// What a fake machine has; tests look at it and change it behind the product's back.
#[derive(Debug, Default)]
pub struct Machine {
    /// All interfaces, with their addresses.
    pub interfaces: Vec<Interface>,
    /// Addresses that cannot be put on, and why.
    pub refused: BTreeMap<IpAddr, String>,
    /// Addresses that cannot be taken off, and why.
    pub stuck: BTreeMap<IpAddr, String>,
    /// Every announcement: number of the interface, address, its MAC address.
    pub announced: Vec<(u32, IpAddr, [u8; 6])>,
    /// How often all interfaces were listed.
    pub listed: usize,
}

impl Machine {
    /// Adds an Ethernet interface that is up and has a carrier; its MAC address ends in its number.
    pub fn plug(&mut self, index: u32, name: &str, addresses: &[(IpAddr, u8)]) {
        self.interfaces.push(Interface {
            index,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, index as u8],
            ethernet: true,
            kind: String::new(),
            below: 0,
            up: true,
            carrier: true,
            is_part: false,
            mtu: 1_500,
            addresses: addresses.to_vec(),
        });
    }

    /// Another program takes an address off every interface; false: it was on none.
    pub fn take_off(&mut self, addr: IpAddr) -> bool {
        let before = self.addresses().count();
        for interface in &mut self.interfaces {
            interface.addresses.retain(|(a, _)| *a != addr);
        }
        self.addresses().count() < before
    }

    /// Every address: number of its interface, address, prefix length.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpAddr, u8)> {
        let all = self.interfaces.iter();
        all.flat_map(|i| i.addresses.iter().map(|(addr, prefix)| (i.index, *addr, *prefix)))
    }
}

/// The fake; clones share one machine.
#[derive(Clone, Default)]
pub struct FakeAddresses {
    machine: Arc<Mutex<Machine>>,
}

impl FakeAddresses {
    /// The machine.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no panic holds it")
    }
}

impl Addresses for FakeAddresses {
    fn interfaces(&mut self) -> Result<Vec<Interface>> {
        let mut machine = self.machine();
        machine.listed += 1;
        Ok(machine.interfaces.clone())
    }

    fn add(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
        let what = format!("cannot add {addr} to interface {index}");
        let mut machine = self.machine();
        if let Some(why) = machine.refused.get(&addr) {
            return Err(Error::new(what, why));
        }
        let interface = machine.interfaces.iter_mut().find(|i| i.index == index);
        let Some(interface) = interface else { return Err(Error::new(what, "No such device")) };
        // The same address with another prefix length is another address, as in the kernel.
        if !interface.addresses.contains(&(addr, prefix)) {
            interface.addresses.push((addr, prefix));
        }
        Ok(())
    }

    fn remove(&mut self, index: u32, addr: IpAddr, prefix: u8) -> Result<()> {
        let mut machine = self.machine();
        if let Some(why) = machine.stuck.get(&addr) {
            let what = format!("cannot remove {addr} from interface {index}");
            return Err(Error::new(what, why));
        }
        if let Some(interface) = machine.interfaces.iter_mut().find(|i| i.index == index) {
            interface.addresses.retain(|one| *one != (addr, prefix));
        }
        Ok(())
    }

    fn announcer(&mut self, index: u32) -> Result<Arc<dyn Announcer>> {
        if !self.machine().interfaces.iter().any(|i| i.index == index) {
            let what = format!("cannot open a packet socket on interface {index}");
            return Err(Error::new(what, "No such device"));
        }
        Ok(Arc::new(Port { index, machine: Arc::clone(&self.machine) }))
    }
}

/// An open interface of the fake.
struct Port {
    index: u32,
    machine: Arc<Mutex<Machine>>,
}

impl Announcer for Port {
    fn announce(&self, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut machine = self.machine.lock().expect("no panic holds it");
        // A socket stays with the interface on which it was opened.
        if !machine.interfaces.iter().any(|i| i.index == self.index && i.up) {
            return Err(Error::new("cannot send a frame", "Network is down"));
        }
        machine.announced.push((self.index, addr, mac));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_as_a_kernel_does() {
        let vip = "10.0.0.100".parse().unwrap();
        let mut fake = FakeAddresses::default();
        fake.machine().plug(7, "eth0", &[("10.0.0.1".parse().unwrap(), 24)]);
        assert!(fake.add(8, vip, 32).unwrap_err().to_string().contains("No such device"));
        fake.add(7, vip, 32).unwrap();
        fake.add(7, vip, 32).expect("there already is success");
        let there =
            |fake: &FakeAddresses| fake.machine().addresses().filter(|a| a.1 == vip).count();
        assert_eq!(there(&fake), 1);
        let port = fake.announcer(7).unwrap();
        port.announce(vip, [2; 6]).unwrap();
        assert_eq!(fake.machine().announced, [(7, vip, [2; 6])]);
        fake.remove(7, vip, 32).unwrap();
        fake.remove(7, vip, 32).expect("not there is success");
        fake.remove(9, vip, 32).expect("no such interface is success");
        assert_eq!(there(&fake), 0);
        fake.machine().interfaces.clear();
        assert!(port.announce(vip, [2; 6]).is_err() && fake.announcer(7).is_err());
    }
}
