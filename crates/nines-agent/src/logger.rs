//! Lines to stderr (the journal, under systemd) without ever blocking the thread that writes them:
//! a full disk or a stuck reader costs lines, never heartbeats.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use nines_model::printable::clean;

use crate::threads;

/// A cheap handle.
#[derive(Clone)]
pub struct Logger {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
    /// What each line begins with.
    subject: Arc<str>,
}

impl Logger {
    /// Starts the thread that writes to `out`.
    pub fn start(mut out: impl std::io::Write + Send + 'static) -> Self {
        let (lines, received) = sync_channel::<String>(threads::LOG);
        let lost = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&lost);
        let write = move || {
            for line in received {
                let missing = seen.swap(0, Ordering::Relaxed);
                let note =
                    if missing > 0 { format!("({missing} lines lost) ") } else { String::new() };
                // A log that cannot be written is no reason to stop.
                let _ = writeln!(out, "{note}{line}");
                let _ = out.flush();
            }
        };
        // Without the thread lines are lost, and counted.
        let _ = threads::spawn("log", write);
        Self { lines, lost, subject: "".into() }
    }

    /// The same, but each line begins with the name of what it is about.
    pub fn about(&self, subject: &str) -> Self {
        let (lines, lost) = (self.lines.clone(), Arc::clone(&self.lost));
        Self { lines, lost, subject: format!("{subject}: ").into() }
    }

    /// A logger that writes to stderr.
    pub fn stderr() -> Self {
        Self::start(std::io::stderr())
    }

    /// One line, whatever is in it (names, reasons, answers of others). It is lost if a
    /// thousand lines wait already.
    pub fn line(&self, line: &str) {
        let line = format!("{}{}", self.subject, clean(line));
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = std::io::stderr().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says when it got its first line, and then never comes back.
    struct Stuck(SyncSender<()>);

    impl std::io::Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(());
            std::thread::sleep(std::time::Duration::from_secs(3_600));
            Ok(0)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Passes on what it gets, a line at a time.
    struct Told(std::sync::mpsc::Sender<String>);

    impl std::io::Write for Told {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.write_all(bytes)?;
            Ok(bytes.len())
        }
        fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(())
        }
        fn write_fmt(&mut self, line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
            self.write_all(line.to_string().as_bytes())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
    }

    #[test]
    fn neither_a_stuck_reader_nor_a_full_disk_holds_the_writer() {
        let (tell, stands) = sync_channel(1);
        let stuck = Logger::start(Stuck(tell));
        stuck.line("the last one read");
        stands.recv().unwrap();
        (0..5_000).for_each(|_| stuck.line("beat"));
        assert!(stuck.lost.load(Ordering::Relaxed) > 3_000);
        let (tell, told) = std::sync::mpsc::channel();
        Logger::start(Told(tell)).line("reason: \u{1b}[31mred\nforged");
        assert_eq!(told.recv().unwrap(), "reason: \\u{1b}[31mred\\nforged\n");
        let full = Logger::start(Full);
        (0..100).for_each(|_| full.line("beat"));
    }
}
