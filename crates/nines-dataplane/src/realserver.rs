//! Makes this machine a real server for direct routing or tunnels, and undoes it.
//!
//! The VIP goes on `lo`; ARP neither answers for it nor announces it (arp_ignore 1, arp_announce 2:
//! Documentation/networking/ip-sysctl.rst); rp_filter 0 or 2 admits packets whose way back differs.
//! What was there before is kept in a file, so that undo restores it exactly.

use std::{fs, net::IpAddr, path::Path};

use crate::{Error, Result, address, ebpf::unwrap, sysctl};

const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/all/rp_filter", "0"),
];

/// Adds the VIPs and sets the kernel up; `memory` is the file that undo needs. Doing it twice, or
/// with more VIPs, is fine: the first values remembered stay.
///
/// `tunnel`: packets come in tunnels, GUE on this UDP port; they are taken out by our own program.
pub fn prepare(vips: &[IpAddr], tunnel: Option<u16>, memory: &Path) -> Result<()> {
    let mut lines = fs::read_to_string(memory).unwrap_or_default();
    let lo = lo()?;
    for (name, _) in SETTINGS {
        if !lines.lines().any(|l| l.starts_with(&format!("sysctl {name} "))) {
            lines.push_str(&format!("sysctl {name} {}\n", sysctl::read(name)?));
        }
    }
    if let Some(port) = tunnel {
        let line = format!("tunnel {port}\n");
        if !lines.contains(&line) {
            lines.push_str(&line);
        }
    }
    for vip in vips {
        let line = format!("vip {vip}\n");
        if !lines.contains(&line) {
            lines.push_str(&line);
        }
    }
    // Remember first: a crash in between then undoes too much rather than too little.
    if let Some(parent) = memory.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::new("cannot keep what was there", e))?;
    }
    fs::write(memory, &lines).map_err(|e| Error::new("cannot keep what was there", e))?;
    for (name, value) in SETTINGS {
        // 2 (loose) admits asymmetric ways as well as 0; leave it.
        if name.ends_with("rp_filter") && sysctl::read(name)? == "2" {
            continue;
        }
        sysctl::write(name, value)?;
    }
    for vip in vips {
        address::add(lo, *vip, if vip.is_ipv4() { 32 } else { 128 })?;
    }
    let values = |word: &str| -> Vec<String> {
        let found = lines.lines().filter_map(|l| l.strip_prefix(word)?.strip_prefix(' '));
        found.map(str::to_owned).collect()
    };
    let ports: Vec<u16> = values("tunnel").iter().filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        let all: Vec<IpAddr> = values("vip").iter().filter_map(|v| v.parse().ok()).collect();
        unwrap::serve(&all, &ports)?;
    }
    Ok(())
}

/// Puts everything back and forgets it. Nothing remembered is success.
pub fn undo(memory: &Path) -> Result<Vec<IpAddr>> {
    let Ok(lines) = fs::read_to_string(memory) else {
        return Ok(Vec::new());
    };
    let lo = lo()?;
    let mut gone = Vec::new();
    for line in lines.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["sysctl", name, value] => drop(sysctl::write(name, value)?),
            ["tunnel", _] => unwrap::stop()?,
            ["vip", vip] => {
                let vip: IpAddr = vip.parse().map_err(|e| Error::new(line, e))?;
                address::remove(lo, vip, if vip.is_ipv4() { 32 } else { 128 })?;
                gone.push(vip);
            }
            _ => return Err(Error::new("cannot read what was kept", format!("\"{line}\""))),
        }
    }
    fs::remove_file(memory).map_err(|e| Error::new("cannot forget what was kept", e))?;
    Ok(gone)
}

fn lo() -> Result<u32> {
    let lo = address::interfaces()?.into_iter().find(|i| i.name == "lo");
    lo.map(|i| i.index).ok_or_else(|| Error::new("cannot prepare", "there is no interface lo"))
}
