//! How a device becomes a quorum disk.
//!
//! Decides: which devices are refused. What is on a device is lost for ever, so one that is not
//! empty needs `--force`, and one that is in use is refused even then.

use std::{net::IpAddr, path::Path, time::Duration};

use nines_api::failure::{Failure, Kind, Outcome};

use super::{
    device::{Device, Use},
    layout::{self, HOSTS_MAX, Header, area, least},
    random,
};
use crate::identity::Admission;

/// Between two looks a host that uses the disk has written its block.
const LOOK_AGAIN: Duration = Duration::from_millis(1_300);
/// File systems and tables show within so many bytes.
const SIGNATURES_IN: usize = 128 << 10;

/// A device that may be formatted.
pub struct Formattable {
    device: Device,
    area: u64,
    hosts: Vec<IpAddr>,
}

/// Looks at a device that is to be formatted for these hosts. It is not changed.
pub fn check(path: &Path, hosts: &[IpAddr], force: bool) -> Outcome<Formattable> {
    let mut sorted = hosts.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != hosts.len() || !(2..=HOSTS_MAX).contains(&hosts.len()) {
        let what = format!("a quorum disk has 2 to {HOSTS_MAX} hosts, each with its own address");
        return Err(Failure::new(Kind::Usage, what, format!("{} were given", sorted.len()))
            .next("--at ADDRESS   once for each host"));
    }
    let device = Device::open(path, Use::Format)?;
    let size = device.size().map_err(|e| layout::failed(&device, "read", e))?;
    let Some(area) = area(size, hosts.len()) else {
        let what = format!("{} is too small", path.display());
        let why = format!(
            "it has {} MB, and {} hosts need {} MB",
            size >> 20,
            hosts.len(),
            least(hosts.len()) >> 20
        );
        return Err(Failure::new(Kind::Usage, what, why).next("choose a larger device"));
    };
    match layout::header(&device) {
        Ok(header) => may_replace(&device, &header, force)?,
        Err(why) if why.kind != Kind::NotFound => {
            if !force {
                return Err(why);
            }
        }
        Err(_) if force => {}
        Err(_) => is_empty(&device)?,
    }
    Ok(Formattable { device, area, hosts: hosts.to_vec() })
}

/// A quorum disk that no host uses.
fn may_replace(device: &Device, header: &Header, force: bool) -> Outcome<()> {
    let path = device.path().display();
    if !force {
        let what = format!("{path} is the quorum disk of cluster {}", header.cluster);
        return Err(Failure::new(Kind::Unsafe, what, "its voter would be lost")
            .next("see who uses it: nines quorum-disk show DEVICE; --force formats it anew"));
    }
    let before = layout::blocks(device, header)?;
    std::thread::sleep(LOOK_AGAIN);
    let after = layout::blocks(device, header)?;
    match header.hosts.iter().zip(before.iter().zip(&after)).find(|(_, (b, a))| b != a) {
        None => Ok(()),
        Some((host, _)) => {
            let what = format!("{path} is in use");
            let why = format!("host {host} runs the voter of cluster {}", header.cluster);
            Err(Failure::new(Kind::Unsafe, what, why)
                .next("on each host: systemctl stop nines-quorum-disk"))
        }
    }
}

/// A device with nothing on it.
fn is_empty(device: &Device) -> Outcome<()> {
    let mut bytes = vec![0; SIGNATURES_IN];
    device.read(0, &mut bytes).map_err(|e| layout::failed(device, "read", e))?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let what = format!("{} is not empty", device.path().display());
    let why = match signature(&bytes) {
        Some(found) => format!("it has {found}, which would be lost"),
        None => "it has data at its start, which would be lost".to_owned(),
    };
    Err(Failure::new(Kind::Unsafe, what, why)
        .next("see what it is: blkid -p DEVICE; if nobody needs that any more: --force"))
}

/// What the bytes at the start of a device say it is.
fn signature(bytes: &[u8]) -> Option<&'static str> {
    const ALL: &[(usize, &[u8], &str)] = &[
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (0, b"XFSB", "an XFS file system"),
        (512, b"LABELONE", "a physical volume of LVM"),
        (512, b"EFI PART", "a partition table (GPT)"),
        (4_096, b"EFI PART", "a partition table (GPT)"),
        (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
        (4_086, b"SWAPSPACE2", "swap space"),
        (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
        (4_096, b"\xfc\x4e\x2b\xa9", "a member of a RAID array (md)"),
        (0, b"\xfc\x4e\x2b\xa9", "a member of a RAID array (md)"),
        (32_769, b"CD001", "an ISO 9660 file system"),
        (510, b"\x55\xaa", "a partition table (MBR) or a FAT or NTFS file system"),
    ];
    let is_there = |at: usize, magic: &[u8]| bytes.get(at..at + magic.len()) == Some(magic);
    ALL.iter().find(|(at, magic, _)| is_there(*at, magic)).map(|(_, _, what)| *what)
}

impl Formattable {
    /// Makes it the quorum disk of the voter that these credentials are for.
    pub fn format(self, credentials: &Admission) -> Outcome<()> {
        let me = &credentials.identity.me;
        let header = Header {
            disk: random(),
            cluster: credentials.identity.cluster.clone(),
            authority: Header::authority_of(&credentials.ca_pem),
            node: me.name.clone(),
            hosts: self.hosts,
            port: me.port,
            area: self.area,
        };
        layout::format(&self.device, &header, credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum_disk::layout::{
        tests::{formatted, some_credentials},
        write_block,
    };
    use nines_core::quorum_disk::{Ballot, Block, HostNumber};

    fn hosts() -> Vec<IpAddr> {
        vec!["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()]
    }

    fn file(test: &str, size: u64) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("nines-init-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    #[test]
    fn an_empty_device_of_enough_size_is_formatted() {
        let path = file("empty", least(2));
        check(&path, &hosts(), false).unwrap().format(&some_credentials().given()).unwrap();
        let header = layout::header(&Device::open(&path, Use::Read).unwrap()).unwrap();
        assert_eq!((header.cluster.as_str(), header.hosts), ("t", hosts()));
        std::fs::remove_file(&path).unwrap();
        let path = file("small", least(2) - 1);
        let why = check(&path, &hosts(), true).err().unwrap();
        assert!(why.why.contains("need 33 MB") && why.kind == Kind::Usage, "{why}");
        let one = check(&path, &hosts()[..1], false).err().unwrap();
        assert!(one.what.contains("2 to 8 hosts"), "{one}");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_on_a_device_is_named_and_stays_without_force() {
        for (at, magic, what) in [
            (0x438, &b"\x53\xef"[..], "ext4"),
            (0, b"XFSB", "XFS"),
            (512, b"EFI PART", "GPT"),
            (510, b"\x55\xaa", "MBR"),
            (77, b"x", "data at its start"),
        ] {
            let path = file("full", least(2));
            Device::open(&path, Use::Format).unwrap().write(at, magic).unwrap();
            let why = check(&path, &hosts(), false).err().unwrap();
            assert!(why.why.contains(what) && why.kind == Kind::Unsafe, "{why}");
            assert!(check(&path, &hosts(), true).is_ok());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_quorum_disk_is_formatted_anew_by_force_and_only_while_nobody_uses_it() {
        let (path, header) = formatted("again");
        let why = check(&path, &hosts(), false).err().unwrap();
        assert!(why.what.contains("is the quorum disk of cluster t"), "{why}");
        assert!(check(&path, &hosts(), true).is_ok());
        let (of, disk) = (path.clone(), header.disk);
        let owner = std::thread::spawn(move || {
            let device = Device::open(&of, Use::Blocks).unwrap();
            for sequence in 1..40 {
                let claim = Ballot { epoch: 1, host: HostNumber(1) };
                let block = Block { run: 3, sequence, claim, owned: claim };
                write_block(&device, disk, HostNumber(1), &block).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let why = check(&path, &hosts(), true).err().unwrap();
        assert!(why.why.contains("host 10.0.0.3 runs"), "{why}");
        owner.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
