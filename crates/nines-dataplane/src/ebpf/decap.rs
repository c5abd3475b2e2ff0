//! The programs of a real server behind tunnels: the outer header taken off, segments that fit.
//!
//! Decides: that they are on every Ethernet interface, pinned apart from a director's tables.

use std::{fs, net::IpAddr, path::PathBuf};

use aya::{Ebpf, EbpfLoader, maps::HashMap};
use nines_abi::{Addr, DECAP_ADDRESSES_MAX};

use super::{Raw, attach, map_error, object, wrong};
use crate::{
    Error, Result, address,
    pins::{self, own_directory},
};

/// What the largest of our outer headers takes: IPv6, UDP, GUE.
const HEADERS: u32 = 52;

fn directory() -> Result<PathBuf> {
    Ok(own_directory()?.join("server"))
}

/// Packets to these addresses are taken out of tunnels; GUE comes in on these UDP ports.
pub fn serve(vips: &[IpAddr], ports: &[u16]) -> Result<()> {
    pins::ensure()?;
    let pins = directory()?;
    pins::make(&pins)
        .map_err(|e| crate::privileged(format!("cannot make {}", pins.display()), &e))?;
    own_directory()?;
    let failed = |e: &dyn std::fmt::Display| {
        Error::new("the kernel refused the programs of a real server", e)
            .next("nines needs Linux 6.1 or newer with BPF; or let the kernel's tunl0 unwrap")
    };
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins);
    // A director's tables are in the same object; here they are as small as can be.
    let least = super::Sizes { services: 1, servers: 1, picks: 2, buckets: 1 };
    let others = [
        "TEMPLATES",
        "LOCALITIES",
        "FRAGMENTS",
        "SOURCES",
        "SERVICE_RANGES",
        "RATE_USED",
        "COOKIE_CLIENTS",
        "GUARD_TABLE",
        "PEERS",
    ];
    let others = others.map(|name| (name, 1));
    for (map, entries) in least.of_maps().into_iter().chain(others) {
        loader.map_max_entries(map, entries);
    }
    let mut ebpf = loader.load(object::BYTES).map_err(|e| failed(&e))?;
    put(&mut ebpf, vips, ports)?;
    for interface in address::interfaces()?.iter().filter(|i| i.ethernet) {
        attach::attach_server(&mut ebpf, &pins, &interface.name)?;
    }
    // Only this one is used; the rest would only lie there.
    for entry in fs::read_dir(&pins).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("link-") && name != "DECAP_ADDRESSES" {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Says what is served, to programs of this object.
pub(super) fn put(ebpf: &mut Ebpf, vips: &[IpAddr], ports: &[u16]) -> Result<()> {
    let map = ebpf
        .map_mut("DECAP_ADDRESSES")
        .ok_or_else(|| Error::new("the kernel object is damaged", "no map DECAP_ADDRESSES"))?;
    let mut served: HashMap<_, Raw<Addr>, u32> = HashMap::try_from(map).map_err(wrong)?;
    let mut wanted: Vec<Addr> = vips.iter().map(|vip| address::mapped(*vip)).collect();
    for port in ports {
        let mut key = [0; 16];
        key[12..14].copy_from_slice(&port.to_be_bytes());
        wanted.push(key);
    }
    if wanted.len() > DECAP_ADDRESSES_MAX as usize {
        let why = format!(
            "{} addresses and ports; there is room for {DECAP_ADDRESSES_MAX}",
            wanted.len()
        );
        return Err(Error::new("cannot serve through tunnels", why));
    }
    let have: Vec<Addr> = served.keys().flatten().map(|key| key.0).collect();
    for gone in have.iter().filter(|key| !wanted.contains(key)) {
        served.remove(&Raw(*gone)).map_err(map_error)?;
    }
    for key in wanted {
        served.insert(Raw(key), HEADERS, 0).map_err(map_error)?;
    }
    Ok(())
}

/// Takes everything of [`serve`] away; nothing there is success.
pub fn stop() -> Result<()> {
    let pins = directory()?;
    if !pins.exists() {
        return Ok(());
    }
    for interface in address::interfaces()? {
        attach::detach_server(&pins, &interface.name);
    }
    fs::remove_dir_all(&pins)
        .map_err(|e| Error::new(format!("cannot remove {}", pins.display()), e))
}
