//! Kernel settings under /proc/sys of the thread's own network namespace.

use std::path::PathBuf;

use crate::{Error, Result};

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Value of a kernel setting named as "net/ipv4/ip_forward", without the newline.
pub fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(path(name))
        .map(|text| text.trim().to_owned())
        .map_err(|e| Error::new(format!("cannot read {name}"), e))
}

/// Writes it, if it is not so already; gives the old value.
pub fn write(name: &str, value: &str) -> Result<String> {
    let old = read(name)?;
    if old != value {
        std::fs::write(path(name), value).map_err(|e| {
            Error::new(format!("cannot set {name} to {value}"), e).next("run as root")
        })?;
    }
    Ok(old)
}
