//! Where the state directory is: a number of this machine and of the file that holds the log.
//!
//! Decides: what tells a copy from the original. A file that was copied or restored has another
//! inode or another time of birth, and a cloned machine has another hardware number. Nothing here
//! changes when the machine boots or the agent is upgraded.

use std::os::unix::fs::MetadataExt as _;

use crate::identity::StateDir;

/// The number; never 0. Things that cannot be read count as empty.
pub fn of(home: &StateDir, log: &str) -> u64 {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut parts = text("/etc/machine-id") + &text("/sys/class/dmi/id/product_uuid");
    if let Ok(meta) = std::fs::metadata(home.file(log)) {
        let born = meta.created().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        parts += &format!("{} {}", meta.ino(), born.map_or(0, |born| born.as_nanos()));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, parts.as_bytes());
    u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes")).max(1)
}

/// A number of this boot of the machine.
pub fn machine_boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_another_place_and_a_write_changes_nothing() {
        let folder = std::env::temp_dir().join(format!("nines-place-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let home = StateDir(folder.clone());
        std::fs::write(home.file("log"), "a").unwrap();
        let before = of(&home, "log");
        std::fs::write(home.file("log"), "more").unwrap();
        assert_eq!(of(&home, "log"), before);
        std::fs::copy(home.file("log"), home.file("copy")).unwrap();
        assert_ne!(of(&home, "copy"), before);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
