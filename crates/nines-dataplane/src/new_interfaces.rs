//! Interfaces that appear while no agent looks: frozen, dead, or not started yet.
//!
//! The guard is on every interface there is, and an agent that runs puts it on each new one. One
//! that appears while the agent is frozen has no guard, and the kernel answers ARP for any address
//! of the machine on any interface (`arp_ignore` 0). So while an agent keeps VIPs, what the kernel
//! gives to new interfaces is 1 (answer for the interface's own addresses only), and `arp_announce`
//! 2 (ask with these only); once the guard is on such an interface it gets the value that was the
//! default before. For IPv6 the kernel answers for an interface's own addresses only, always.
//!
//! Decides: these two defaults, and that interfaces which were there before keep their values. What
//! the defaults were is remembered beside the tables, as names of directories, so it ends with the
//! boot.

use std::{fs, io, path::PathBuf};

use crate::{Error, Result, address, pins, sysctl};

/// Settings, and their values for an interface without the guard.
const GUARDED: [(&str, u32); 2] = [("arp_ignore", 1), ("arp_announce", 2)];

fn memory() -> Result<PathBuf> {
    Ok(pins::pin_directory()?.with_file_name("newcomers"))
}

fn setting(of: &str, name: &str) -> String {
    format!("net/ipv4/conf/{of}/{name}")
}

/// Writes also what is there already: from then on the interface has a value of its own, and
/// changes of the default pass it by (`devinet_copy_dflt_conf` in net/ipv4/devinet.c).
fn pin_value(interface: &str, name: &str) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys").join(setting(interface, name));
    let value = fs::read_to_string(&path)?;
    fs::write(&path, value.trim())
}

fn make(directory: PathBuf) -> Result<()> {
    match fs::create_dir(&directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::new(format!("cannot make {}", directory.display()), e))
        }
        _ => Ok(()),
    }
}

/// The default before, as remembered.
fn before(name: &str) -> Option<String> {
    let entries = fs::read_dir(memory().ok()?).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().find_map(|n| n.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

/// From now on interfaces that appear are silent for addresses of others.
pub fn silence() -> Result<()> {
    let memory = memory()?;
    make(memory.clone())?;
    for (name, wanted) in GUARDED {
        let now = sysctl::read(&setting("default", name))?;
        // A person may have set more than is needed here.
        if now.parse::<u32>().is_ok_and(|now| now >= wanted) {
            continue;
        }
        for interface in address::interfaces()? {
            // One that has just gone needs none.
            let _ = pin_value(&interface.name, name);
            make(memory.join(interface.index.to_string()))?;
        }
        make(memory.join(format!("{name}={now}")))?;
        sysctl::write(&setting("default", name), &wanted.to_string())?;
    }
    Ok(())
}

/// The guard is on these interfaces: a new one among them gets what it would have had without us.
pub fn guarded<'a>(interfaces: impl Iterator<Item = &'a address::Interface>) {
    let Ok(memory) = memory() else { return };
    if !memory.exists() {
        return;
    }
    for interface in interfaces {
        let known = memory.join(interface.index.to_string());
        if known.exists() || make(known).is_err() {
            continue;
        }
        for (name, wanted) in GUARDED {
            let Some(before) = before(name) else { continue };
            let path = setting(&interface.name, name);
            // Another value is somebody's wish.
            if sysctl::read(&path).is_ok_and(|now| now == wanted.to_string()) {
                let _ = sysctl::write(&path, &before);
            }
        }
    }
}

/// The defaults are as they were before.
pub fn restore() -> Result<()> {
    let memory = memory()?;
    for (name, wanted) in GUARDED {
        let path = setting("default", name);
        if let Some(before) = before(name)
            && sysctl::read(&path)? == wanted.to_string()
        {
            sysctl::write(&path, &before)?;
        }
    }
    match fs::remove_dir_all(&memory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::new(format!("cannot remove {}", memory.display()), e))
        }
        _ => Ok(()),
    }
}
