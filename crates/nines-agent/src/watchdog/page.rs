//! What the agent and the guard process tell each other: files of one page, in memory
//! (`/run`), written and read in one call.
//!
//! ```text
//! core    -> guard   0: magic, until, ends, 0, check
//! teller  -> guard   0: magic, number of the orders, 0, 0, check   64: the orders
//! guard   -> teller  0: magic, at, timeout, 0, check               64: why it feeds nothing
//! ```
//! Decides: the form. Each side keeps what it last read when a record does not fit its check or is
//! from another boot of the machine: times count from the boot. No call takes memory but those that
//! say so, and none waits for the other side.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use nines_core::watchdog::MachineLease;
use nines_model::Time;

/// Bytes of the short record: five numbers.
const RECORD: usize = 40;
/// Where the long part begins.
const LONG_AT: u64 = 64;
/// Bytes that the long part may have.
const LONG_MAX: usize = 4_096 - LONG_AT as usize;
/// A number of this form; another form gets another one.
const MAGIC: u64 = 0x6e69_6e65_7357_0001;

/// One side's file.
#[derive(Debug)]
struct Page {
    file: File,
    magic: u64,
}

/// The numbers of a short record.
type Record = [u64; 3];

fn mix(words: &[u64]) -> u64 {
    let one =
        |hash: u64, word: &u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    words.iter().fold(0x51_7c_c1_b7_27_22_0a_95, one)
}

/// A number of this boot of the machine.
fn boot_number() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let words: Vec<u64> = id.iter().map(|byte| u64::from(*byte)).collect();
    mix(&words)
}

impl Page {
    fn open(path: &Path) -> io::Result<Self> {
        let mut how = OpenOptions::new();
        let file =
            how.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, magic: MAGIC ^ boot_number() })
    }

    fn put(&self, record: Record) -> io::Result<()> {
        let words = [self.magic, record[0], record[1], record[2]];
        let mut bytes = [0; RECORD];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words.iter().chain([&mix(&words)])) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.file.write_all_at(&bytes, 0)
    }

    fn get(&self) -> Option<Record> {
        let mut bytes = [0; RECORD];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let mut words = [0; 5];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(place.try_into().ok()?);
        }
        let [magic, one, two, three, check] = words;
        (magic == self.magic && check == mix(&words[..4])).then_some([one, two, three])
    }

    /// Puts lines into the long part.
    fn put_long(&self, lines: &[String]) -> io::Result<()> {
        let mut bytes = vec![0; LONG_MAX];
        let text = lines.join("\n");
        let fits = text.len().min(LONG_MAX);
        bytes[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.file.write_all_at(&bytes, LONG_AT)
    }

    /// Its lines; takes memory.
    fn get_long(&self) -> Vec<String> {
        let mut bytes = vec![0; LONG_MAX];
        if self.file.read_exact_at(&mut bytes, LONG_AT).is_err() {
            return Vec::new();
        }
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).lines().map(str::to_owned).collect()
    }
}

/// How the lease of this machine is: written by the core's thread, read by the guard process.
#[derive(Debug)]
pub struct LeasePage {
    page: Page,
    told: MachineLease,
}

impl LeasePage {
    /// Opens the page, or makes it. What an earlier agent has written stays, so that it counts
    /// until this one knows more; but not that it has ended.
    pub fn open(path: &Path) -> io::Result<Self> {
        let page = Page::open(path)?;
        let told = page.get().map(read).filter(|lease| lease.ends.is_none());
        let mut opened = Self { page, told: told.unwrap_or_default() };
        opened.write()?;
        Ok(opened)
    }

    /// As the guard process sees it: it writes nothing.
    pub fn watch(path: &Path) -> io::Result<Self> {
        Ok(Self { page: Page::open(path)?, told: MachineLease::default() })
    }

    fn write(&mut self) -> io::Result<()> {
        let [until, ends] = [self.told.until, self.told.ends].map(|at| at.map_or(0, |Time(at)| at));
        self.page.put([until, ends, 0])
    }

    /// Says how the lease is: 40 bytes to memory, and only if they differ.
    pub fn put(&mut self, lease: MachineLease) -> io::Result<()> {
        if self.told == lease {
            return Ok(());
        }
        self.told = lease;
        self.write()
    }

    /// How it is; `None`: nobody has written it whole in this boot.
    pub fn get(&self) -> Option<MachineLease> {
        self.page.get().map(read)
    }
}

fn read([until, ends, _]: Record) -> MachineLease {
    let time = |at: u64| (at != 0).then_some(Time(at));
    MachineLease { until: time(until), ends: time(ends) }
}

/// What the guard process is to feed, and to kill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Path of the device; empty: none.
    pub device: String,
    /// Paths of cgroups with what runs under the lease.
    pub cgroups: Vec<String>,
}

/// Where the guard process finds its orders.
#[derive(Debug)]
pub struct OrdersPage(Page);

impl OrdersPage {
    /// Opens it, or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Page::open(path).map(Self)
    }

    /// Gives other orders.
    pub fn put(&self, orders: &Orders) -> io::Result<()> {
        let number = self.number().unwrap_or(0);
        let lines = [&orders.device].into_iter().chain(&orders.cgroups).cloned();
        self.0.put_long(&lines.collect::<Vec<_>>())?;
        self.0.put([number + 1, 0, 0])
    }

    /// Their number, which grows with each change; `None`: there are none in this boot.
    pub fn number(&self) -> Option<u64> {
        self.0.get().map(|[number, ..]| number)
    }

    /// The orders; takes memory.
    pub fn get(&self) -> Orders {
        let mut lines = self.0.get_long().into_iter();
        Orders { device: lines.next().unwrap_or_default(), cgroups: lines.collect() }
    }
}

/// What the guard process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// When it said so, by the boot clock.
    pub at: Time,
    /// Timeout of the device that it feeds, ms; 0: it feeds none.
    pub timeout_ms: u64,
    /// Why not, in words.
    pub trouble: String,
}

/// Where the guard process says how it is.
#[derive(Debug)]
pub struct GuardPage(Page);

impl GuardPage {
    /// Opens it, or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Page::open(path).map(Self)
    }

    /// Says that it is there, and what it feeds.
    pub fn alive(&self, at: Time, timeout_ms: u64) {
        // Nobody is fed by this: who reads nothing says that there is no guard.
        let _ = self.0.put([at.0, timeout_ms, 0]);
    }

    /// Says why it feeds nothing; takes memory.
    pub fn trouble(&self, trouble: &str) {
        let _ = self.0.put_long(&[trouble.to_owned()]);
    }

    /// What was said last; takes memory.
    pub fn state(&self) -> Option<GuardState> {
        let [at, timeout_ms, _] = self.0.get()?;
        let trouble = self.0.get_long().into_iter().next().unwrap_or_default();
        Some(GuardState { at: Time(at), timeout_ms, trouble })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("nines-page-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let path = room("lease");
        let view = LeasePage::watch(&path).unwrap();
        assert_eq!(view.get(), None, "nobody has written yet");
        let mut page = LeasePage::open(&path).unwrap();
        assert_eq!(view.get(), Some(MachineLease::default()));
        let held = MachineLease { until: Some(Time(77)), ends: None };
        page.put(held).unwrap();
        assert_eq!(view.get(), Some(held));
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for at in 0..RECORD as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert_eq!(view.get(), None, "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(view.get(), Some(held));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_agent_that_starts_leaves_a_lease_and_takes_back_an_end() {
        let path = room("again");
        let view = LeasePage::watch(&path).unwrap();
        let held = MachineLease { until: Some(Time(77)), ends: None };
        LeasePage::open(&path).unwrap().put(held).unwrap();
        drop(LeasePage::open(&path).unwrap());
        assert_eq!(view.get(), Some(held));
        let ended = MachineLease { until: Some(Time(77)), ends: Some(Time(80)) };
        LeasePage::open(&path).unwrap().put(ended).unwrap();
        assert_eq!(view.get(), Some(ended));
        drop(LeasePage::open(&path).unwrap());
        assert_eq!(view.get(), Some(MachineLease::default()));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn orders_have_a_number_that_grows_with_each() {
        let path = room("orders");
        let page = OrdersPage::open(&path).unwrap();
        assert_eq!((page.number(), page.get()), (None, Orders::default()));
        let cgroups = vec!["/sys/fs/cgroup/a".to_owned(), "/sys/fs/cgroup/b".into()];
        let orders = Orders { device: "/dev/watchdog1".into(), cgroups };
        page.put(&orders).unwrap();
        let view = OrdersPage::open(&path).unwrap();
        assert_eq!((view.number(), view.get()), (Some(1), orders));
        view.put(&Orders::default()).unwrap();
        assert_eq!((page.number(), page.get()), (Some(2), Orders::default()));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_guard_says_how_it_is() {
        let path = room("guard");
        let guard = GuardPage::open(&path).unwrap();
        assert_eq!(guard.state(), None);
        guard.trouble("no such device");
        guard.alive(Time(7), 0);
        let told = GuardPage::open(&path).unwrap().state();
        let trouble = "no such device".to_owned();
        assert_eq!(told, Some(GuardState { at: Time(7), timeout_ms: 0, trouble }));
        std::fs::remove_file(&path).unwrap();
    }
}
