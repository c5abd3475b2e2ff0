//! Whether a disk that was full has room again.
//!
//! Decides: how much room is enough to go on, and how often that is looked at. It is tried by
//! writing: what a file system calls free is not what every user gets.

use std::{fs::File, io::Write as _, os::unix::fs::OpenOptionsExt as _, time::Duration};

use crate::identity::StateDir;

/// It is looked at so often.
const EVERY: Duration = Duration::from_secs(2);
/// Room that is wanted at least, bytes: the log would be full again in a moment with less.
const LEAST: u64 = 2 << 20;
/// Name of the file that is written to try it.
const FILE: &str = "room.try";

/// Waits until the log can grow again, by a quarter of what it has: a snapshot is written beside
/// the one before.
pub fn wait(home: &StateDir) {
    while !has_room(home) {
        std::thread::sleep(EVERY);
    }
}

fn has_room(home: &StateDir) -> bool {
    let log = std::fs::metadata(home.log()).map_or(0, |meta| meta.len());
    let tried = write(home, LEAST.max(log / 4));
    let _ = std::fs::remove_file(home.file(FILE));
    tried.is_ok()
}

fn write(home: &StateDir, bytes: u64) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(home.file(FILE))?;
    // Not zeros: some file systems keep none.
    let piece = vec![0xa5; 64 << 10];
    for _ in 0..bytes.div_ceil(piece.len() as u64) {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_tried_and_nothing_of_that_stays() {
        let folder = std::env::temp_dir().join(format!("nines-room-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let home = StateDir(folder.clone());
        assert!(has_room(&home));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!has_room(&home), "it cannot be written");
    }
}
