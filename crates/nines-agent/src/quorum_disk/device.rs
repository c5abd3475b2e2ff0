//! The shared device: reads and writes that come to it, and not to this machine's memory of it.
//!
//! Decides: how it is opened. Where direct I/O is not to be had (a file on tmpfs, for tests) it
//! does without, and says so.

use std::{
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nines_api::failure::{Failure, Kind, Outcome};

/// Reads and writes are of whole blocks, at multiples of this.
pub const BLOCK: u64 = 4_096;

/// An open device.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    /// Reads and writes pass this machine's cache.
    pub direct: bool,
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To look.
    Read,
    /// Each write is durable when it returns.
    Blocks,
    /// Writes are durable after [`Device::sync`].
    Log,
    /// To write all of it anew: nobody else may use it.
    Format,
}

fn refused(path: &Path, e: std::io::Error) -> Failure {
    let what = format!("cannot open {}", path.display());
    match e.kind() {
        std::io::ErrorKind::NotFound => Failure::new(Kind::NotFound, what, "no such device")
            .next("see which there are: lsblk; names in /dev/disk/by-id stay the same"),
        std::io::ErrorKind::PermissionDenied => Failure::new(Kind::Denied, what, e)
            .next("run as root, or as a user of the group that owns the device (disk)"),
        std::io::ErrorKind::ResourceBusy => {
            Failure::new(Kind::Unsafe, what, "something on this machine uses it")
                .next("see what: lsblk; unmount it, or choose another device")
        }
        _ => Failure::new(Kind::Io, what, e).next("see the kernel's messages: dmesg"),
    }
}

impl Device {
    /// Opens a block device, or a file in place of one.
    pub fn open(path: &Path, what_for: Use) -> Outcome<Self> {
        let meta = std::fs::metadata(path).map_err(|e| refused(path, e))?;
        let is_device = meta.file_type().is_block_device();
        if !is_device && !meta.is_file() {
            let what = format!("{} is no block device", path.display());
            return Err(Failure::new(Kind::Usage, what, "")
                .next("see which there are: lsblk; names in /dev/disk/by-id stay the same"));
        }
        let durable = if what_for == Use::Blocks { libc::O_DSYNC } else { 0 };
        // On a block device: nobody else on this machine has mounted it or built on it.
        let alone = if what_for == Use::Format && is_device { libc::O_EXCL } else { 0 };
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(what_for != Use::Read).custom_flags(flags);
            options.open(path)
        };
        let path = path.to_owned();
        match open(libc::O_DIRECT | durable | alone) {
            Ok(file) => Ok(Self { file, path, direct: true }),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
                let file = open(durable | alone).map_err(|e| refused(&path, e))?;
                Ok(Self { file, path, direct: false })
            }
            Err(e) => Err(refused(&path, e)),
        }
    }

    /// Its path, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that it has.
    pub fn size(&self) -> std::io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// Reads from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let (start, length) = around(offset, out.len());
        let mut room = Room::new(length);
        self.file.read_exact_at(room.bytes(), start)?;
        let skip = (offset - start) as usize;
        out.copy_from_slice(&room.bytes()[skip..skip + out.len()]);
        Ok(())
    }

    /// Writes at `offset`. Of a block that is not written whole, the rest stays.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let (start, length) = around(offset, bytes.len());
        let mut room = Room::new(length);
        if length != bytes.len() {
            self.file.read_exact_at(room.bytes(), start)?;
        }
        let skip = (offset - start) as usize;
        room.bytes()[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.file.write_all_at(room.bytes(), start)
    }

    /// Everything that was written is durable.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// The whole blocks around a piece: where they start, and their length.
fn around(offset: u64, length: usize) -> (u64, usize) {
    let start = offset / BLOCK * BLOCK;
    let end = (offset + length as u64).next_multiple_of(BLOCK);
    (start, (end - start) as usize)
}

/// Memory that direct I/O takes: it starts at a multiple of a block.
struct Room {
    all: Vec<u8>,
    start: usize,
    length: usize,
}

impl Room {
    fn new(length: usize) -> Self {
        let all = vec![0; length + BLOCK as usize];
        let start = all.as_ptr().align_offset(BLOCK as usize);
        assert!(start <= BLOCK as usize, "bytes can be aligned");
        Self { all, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.all[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_blocks_are_written_and_read_and_the_rest_stays() {
        let path = std::env::temp_dir().join(format!("nines-device-{}", std::process::id()));
        std::fs::write(&path, vec![1; 5 * BLOCK as usize]).unwrap();
        for what_for in [Use::Log, Use::Blocks, Use::Format] {
            let device = Device::open(&path, what_for).unwrap();
            assert_eq!(device.size().unwrap(), 5 * BLOCK);
            device.write(4_000, &[2; 200]).unwrap();
            device.write(2 * BLOCK, &[3; BLOCK as usize]).unwrap();
            device.sync().unwrap();
            let mut out = [0; 300];
            device.read(3_950, &mut out).unwrap();
            assert_eq!((out[49], out[50], out[249], out[250]), (1, 2, 2, 1));
            device.read(2 * BLOCK - 1, &mut out[..2]).unwrap();
            assert_eq!(&out[..2], [1, 3]);
            assert!(device.read(5 * BLOCK - 1, &mut out[..2]).is_err(), "there is no more");
        }
        let reader = Device::open(&path, Use::Read).unwrap();
        assert!(reader.write(0, &[1]).is_err());
        std::fs::remove_file(&path).unwrap();
        let gone = Device::open(&path, Use::Read).unwrap_err();
        assert_eq!(gone.kind, Kind::NotFound);
        assert_eq!(Device::open(Path::new("/tmp"), Use::Read).unwrap_err().kind, Kind::Usage);
    }
}
