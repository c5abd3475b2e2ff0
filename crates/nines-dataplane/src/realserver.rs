//! Makes this machine a real server for direct routing or tunnels, keeps it one, and undoes it.
//!
//! The VIP goes on `lo`; ARP neither answers for it nor announces it (arp_ignore 1, arp_announce 2:
//! Documentation/networking/ip-sysctl.rst); rp_filter 0 or 2 admits packets whose way back differs.
//! What was there before is kept in a file, so that undo restores it exactly.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nines_model::Duty;

use crate::{
    Error, Result,
    address::{self, Interface},
    ebpf::unwrap,
    sysctl,
};

const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/all/rp_filter", "0"),
];

/// What was there before, and what was put there since; a line each in a file.
#[derive(Clone, Default, PartialEq, Eq)]
struct Memory {
    /// Settings as they were.
    settings: Vec<(String, String)>,
    put: Duty,
}

impl Memory {
    fn read(file: &Path) -> Result<Self> {
        let mut memory = Self::default();
        let text = fs::read_to_string(file).unwrap_or_default();
        for line in text.lines() {
            let wrong = || Error::new("cannot read what was kept", format!("\"{line}\""));
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["sysctl", name, value] => memory.settings.push((name.into(), value.into())),
                ["tunnel", port] => {
                    memory.put.tunnels.insert(port.parse().map_err(|_| wrong())?);
                }
                ["vip", vip] => {
                    memory.put.vips.insert(vip.parse().map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(memory)
    }

    fn write(&self, file: &Path) -> Result<()> {
        let settings = self.settings.iter().map(|(name, value)| format!("sysctl {name} {value}\n"));
        let tunnels = self.put.tunnels.iter().map(|port| format!("tunnel {port}\n"));
        let vips = self.put.vips.iter().map(|vip| format!("vip {vip}\n"));
        let text: String = settings.chain(tunnels).chain(vips).collect();
        let failed = |e| Error::new("cannot keep what was there", e);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let next = file.with_extension("new");
        fs::write(&next, text).and_then(|()| fs::rename(&next, file)).map_err(failed)
    }
}

/// Keeps this machine a real server.
pub struct Keeper {
    file: PathBuf,
    /// For whom packets were last taken out of tunnels, and on which interfaces.
    unwrapped: Option<(Duty, Vec<u32>)>,
}

impl Keeper {
    /// `file` is what [`undo`] needs.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), unwrapped: None }
    }

    /// Puts there what `duty` asks for and is missing, takes the VIPs `gone` away, and leaves alone
    /// what was put there before; says what it had to do. Cheap where nothing is to be done.
    pub fn keep(&mut self, duty: &Duty, gone: &BTreeSet<IpAddr>) -> Result<Vec<String>> {
        let mut done = Vec::new();
        let before = Memory::read(&self.file)?;
        let mut memory = before.clone();
        for (name, _) in SETTINGS {
            if memory.settings.iter().all(|(known, _)| known != name) {
                memory.settings.push((name.into(), sysctl::read(name)?));
            }
        }
        memory.put.vips.extend(&duty.vips);
        memory.put.tunnels.extend(&duty.tunnels);
        // Remember first: a crash in between then undoes too much rather than too little.
        if memory != before {
            memory.write(&self.file)?;
        }
        for (name, value) in SETTINGS {
            // 2 (loose) admits asymmetric ways as well as 0; leave it.
            if name.ends_with("rp_filter") && sysctl::read(name)? == "2" {
                continue;
            }
            let old = sysctl::write(name, value)?;
            if old != value {
                done.push(format!("{} is {value}, was {old}", name.replace('/', ".")));
            }
        }
        let interfaces = address::interfaces()?;
        let lo = lo(&interfaces)?;
        for vip in memory.put.vips.iter().filter(|vip| !gone.contains(*vip)) {
            if lo.addresses.iter().all(|(there, _)| there != vip) {
                address::add(lo.index, *vip, whole(*vip))?;
                done.push(format!("{vip} is on lo"));
            }
        }
        for vip in memory.put.vips.intersection(gone) {
            address::remove(lo.index, *vip, whole(*vip))?;
            done.push(format!("{vip} is no longer on lo"));
        }
        let vips = memory.put.vips.len();
        memory.put.vips.retain(|vip| !gone.contains(vip));
        if memory.put.vips.len() != vips {
            memory.write(&self.file)?;
        }
        self.unwrap(memory.put, &interfaces)?;
        Ok(done)
    }

    fn unwrap(&mut self, put: Duty, interfaces: &[Interface]) -> Result<()> {
        if put.tunnels.is_empty() {
            return Ok(());
        }
        let on = interfaces.iter().filter(|i| i.ethernet).map(|i| i.index).collect();
        let wanted = (put, on);
        if self.unwrapped.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let vips: Vec<IpAddr> = wanted.0.vips.iter().copied().collect();
        let ports: Vec<u16> = wanted.0.tunnels.iter().copied().filter(|port| *port != 0).collect();
        unwrap::serve(&vips, &ports)?;
        self.unwrapped = Some(wanted);
        Ok(())
    }
}

/// Puts everything back and forgets it. Nothing remembered is success.
pub fn undo(file: &Path) -> Result<Vec<IpAddr>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let memory = Memory::read(file)?;
    for (name, value) in &memory.settings {
        sysctl::write(name, value)?;
    }
    if !memory.put.tunnels.is_empty() {
        unwrap::stop()?;
    }
    let interfaces = address::interfaces()?;
    let lo = lo(&interfaces)?;
    for vip in &memory.put.vips {
        address::remove(lo.index, *vip, whole(*vip))?;
    }
    fs::remove_file(file).map_err(|e| Error::new("cannot forget what was kept", e))?;
    Ok(memory.put.vips.into_iter().collect())
}

fn whole(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

fn lo(interfaces: &[Interface]) -> Result<&Interface> {
    let lo = interfaces.iter().find(|i| i.name == "lo");
    lo.ok_or_else(|| Error::new("cannot prepare", "there is no interface lo"))
}
