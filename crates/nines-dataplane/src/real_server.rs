//! Makes this machine a real server for direct routing or tunnels, keeps it one, and undoes it.
//!
//! The VIP goes on `lo`; ARP neither answers for it nor announces it (arp_ignore 1, arp_announce 2:
//! Documentation/networking/ip-sysctl.rst); rp_filter 2 (loose; the greater of all's and the
//! interface's holds) admits packets whose way back differs.
//! What was there before is kept in a file, so that undo restores it exactly.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nines_model::RealServerRole;

use crate::{
    Error, Result,
    address::{self, Interface},
    ebpf::decap,
    sysctl,
};

const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/all/rp_filter", "2"),
];

/// What was there before, and what was put there since; a line each in a file.
#[derive(Clone, Default, PartialEq, Eq)]
struct Memory {
    /// Settings as they were.
    settings: Vec<(String, String)>,
    put: RealServerRole,
}

impl Memory {
    fn read(file: &Path) -> Result<Self> {
        let mut memory = Self::default();
        let text = match fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|e| Error::new("cannot read what was kept", e))?,
        };
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
    unwrapped: Option<(RealServerRole, Vec<u32>)>,
}

/// What [`Keeper::keep`] did, and what it could not do.
#[derive(Default)]
pub struct Done {
    /// What was done, a sentence each.
    pub done: Vec<String>,
    /// One thing that fails keeps no other from being done.
    pub trouble: Vec<Error>,
}

impl Done {
    fn note(&mut self, result: Result<()>, done: impl FnOnce() -> String) {
        match result {
            Ok(()) => self.done.push(done()),
            Err(why) => self.trouble.push(why),
        }
    }
}

impl Keeper {
    /// `file` is what [`undo`] needs.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), unwrapped: None }
    }

    /// What was put there and not taken away again, by whomever.
    pub fn held(&self) -> Result<RealServerRole> {
        Ok(Memory::read(&self.file)?.put)
    }

    /// Puts there what `duty` asks for and is missing, takes away what is `gone`, and leaves alone
    /// what else was put there before. Cheap where nothing is to be done.
    pub fn keep(&mut self, duty: &RealServerRole, gone: &RealServerRole) -> Result<Done> {
        let mut all = Done::default();
        let before = Memory::read(&self.file)?;
        let nothing = RealServerRole::default();
        if (&before.put, duty) == (&nothing, &nothing) {
            return Ok(all);
        }
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
            match sysctl::write(name, value) {
                Ok(old) if old != value => {
                    all.done.push(format!("{} is {value}, was {old}", name.replace('/', ".")));
                }
                Ok(_) => {}
                Err(why) => all.trouble.push(why),
            }
        }
        let interfaces = address::interfaces()?;
        let lo = lo(&interfaces)?;
        let there = |vip: &IpAddr| lo.addresses.iter().any(|(addr, _)| addr == vip);
        for vip in memory.put.vips.difference(&gone.vips).filter(|vip| !there(vip)) {
            all.note(address::add(lo.index, *vip, whole(*vip)), || format!("{vip} is on lo"));
        }
        let put = memory.put.clone();
        for vip in put.vips.intersection(&gone.vips) {
            let removed = address::remove(lo.index, *vip, whole(*vip));
            if removed.is_ok() {
                memory.put.vips.remove(vip);
            }
            all.note(removed, || format!("{vip} is no longer on lo"));
        }
        memory.put.tunnels.retain(|port| !gone.tunnels.contains(port));
        if let Err(why) = self.unwrap(&memory.put, &put, &interfaces) {
            memory.put.tunnels = put.tunnels.clone();
            all.trouble.push(why);
        }
        if memory.put != put {
            memory.write(&self.file)?;
        }
        Ok(all)
    }

    fn unwrap(
        &mut self,
        wanted: &RealServerRole,
        before: &RealServerRole,
        interfaces: &[Interface],
    ) -> Result<()> {
        if wanted.tunnels.is_empty() {
            self.unwrapped = None;
            return if before.tunnels.is_empty() { Ok(()) } else { decap::stop() };
        }
        let on = interfaces.iter().filter(|i| i.ethernet).map(|i| i.index).collect();
        let wanted = (wanted.clone(), on);
        if self.unwrapped.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let vips: Vec<IpAddr> = wanted.0.vips.iter().copied().collect();
        let ports: Vec<u16> = wanted.0.tunnels.iter().copied().filter(|port| *port != 0).collect();
        decap::serve(&vips, &ports)?;
        self.unwrapped = Some(wanted);
        Ok(())
    }
}

/// Puts everything back and forgets it. Nothing remembered is success.
pub fn undo(file: &Path) -> Result<Vec<IpAddr>> {
    let memory = Memory::read(file)?;
    if memory == Memory::default() {
        return Ok(Vec::new());
    }
    if !memory.put.tunnels.is_empty() {
        decap::stop()?;
    }
    let interfaces = address::interfaces()?;
    let lo = lo(&interfaces)?;
    for vip in &memory.put.vips {
        address::remove(lo.index, *vip, whole(*vip))?;
    }
    // Only now: before, ARP would answer for them.
    for (name, value) in &memory.settings {
        sysctl::write(name, value)?;
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
