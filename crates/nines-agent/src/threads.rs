//! All threads and long-lived tasks of the agent, in one table.
//!
//! Decides: which of them may block, how long each queue is, and what happens when one is full. A
//! thread or task that is not in the table cannot be started. Tasks of one connection or one check
//! are not here: their number is bounded by the shares of descriptors (`descriptors.rs`).

use std::thread::JoinHandle;

use nines_api::failure::{Failure, Kind, Outcome};

/// Inputs that may wait for the core's thread.
pub const CORE: usize = 4_096;
/// Writes that may wait for the disk. A disk that has done none of so many does not work.
pub const DISK: usize = 1_024;
/// Changes of addresses that may wait in the queue.
pub const ADDRESSES: usize = 256;
/// Questions and tables that may wait for the forwarding thread.
pub const FORWARDING: usize = 64;
/// Subscriptions that may wait for the thread that tells flows.
pub const FLOWS_OUT: usize = 64;
/// Messages of other directors that may wait for the kernel's flow table: each line has one.
pub const FLOWS_IN: usize = 256;
/// Calls that may wait for the thread that hands them to fence devices, and for each device.
pub const FENCE: usize = 32;
/// News that may wait for the thread of a quorum disk's lease.
pub const QUORUM_DISK: usize = 16;
/// Lines that may wait for the journal.
pub const LOG: usize = 1_024;
/// Large frames that may wait for the main task.
pub const BULK: usize = 64;

/// How a row runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// A thread that never waits for a disk, a lock or a worker. It runs in real time.
    RealTime,
    /// A thread that may block.
    Thread,
    /// A task of the one runtime thread: it waits, but never blocks.
    Task,
}

/// A thread or task.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "people read it, and the test that compares ARCHITECTURE.md")
)]
pub struct Row {
    /// Name of the thread, as `ps -L` shows it, or of the task.
    pub name: &'static str,
    /// How it runs.
    pub runs: Runs,
    /// Length of its queue; 0: it has none.
    pub queue: usize,
    /// What happens when the queue is full; empty: it has none.
    pub full: &'static str,
    /// What comes in.
    pub comes_in: &'static str,
    /// What goes out.
    pub goes_out: &'static str,
}

const fn row(
    name: &'static str,
    runs: Runs,
    comes_in: &'static str,
    goes_out: &'static str,
) -> Row {
    Row { name, runs, queue: 0, full: "", comes_in, goes_out }
}

impl Row {
    const fn queue(self, queue: usize, full: &'static str) -> Self {
        Self { queue, full, ..self }
    }
}

/// The table.
pub const TABLE: &[Row] = &[
    row("core", Runs::RealTime, "datagrams, events, questions", "datagrams, guard, work")
        .queue(CORE, "threads and tasks that send wait; results of checks are dropped, counted"),
    row(
        "disk",
        Runs::Thread,
        "writes of the log, in order",
        "Persisted, PersistFailed, DiskHasRoom",
    )
    .queue(DISK, "the disk counts as failed: this write and all later ones are refused"),
    row("addresses", Runs::Thread, "changes of VIPs, announcements", "Done, Restored").queue(
        ADDRESSES,
        "the core keeps one change and one announcement of each VIP; many looks are one",
    ),
    row("forwarding", Runs::Thread, "tables, questions", "Done, FirstPacket, counts").queue(
        FORWARDING,
        "the newest table replaces the one that waits; a question gets no answer",
    ),
    row("devices", Runs::Thread, "netlink's news", "rings for addresses and forwarding"),
    row("serves", Runs::Thread, "the newest role of this machine as real server", "OnLoopback")
        .queue(1, "the newest role replaces the one that waits"),
    row("flows-out", Runs::Thread, "changes of the flow table, subscriptions", "messages").queue(
        FLOWS_OUT,
        "a subscription ends and is asked for again; many changes of the table are one",
    ),
    row("flows-in", Runs::Thread, "messages of other directors", "flows in the kernel's table")
        .queue(FLOWS_IN, "the message's line ends and everything is asked for again"),
    row("witness", Runs::Thread, "the witness of one cluster, in quorumd", "TLS, the end"),
    row("disk-lease", Runs::Thread, "the voter's copy and end, a stop", "blocks of a quorum disk")
        .queue(QUORUM_DISK, "threads that send wait"),
    row("disk-voter", Runs::Thread, "the voter of a quorum disk", "TLS, the end"),
    row("fence", Runs::Thread, "calls of fence devices, their ends", "one call of each device")
        .queue(FENCE, "the call fails, and its answer says so"),
    row("fence-device", Runs::Thread, "one call of a fence device", "Done"),
    row("fence-config", Runs::Thread, "the newest fence devices", "lines of what is wrong")
        .queue(1, "the newest devices replace those that wait"),
    row("watchdog", Runs::Thread, "the newest watchdog, what its process says", "orders, Watchdog")
        .queue(1, "the newest watchdog replaces the one that waits"),
    row("log", Runs::Thread, "lines", "stderr").queue(LOG, "the line is dropped, counted"),
    row("main", Runs::Task, "checks to run, large frames, signals", "Checked, TLS, the end").queue(
        BULK,
        "a frame is reported as undelivered; the newest list of checks replaces the one that waits",
    ),
    row("api", Runs::Task, "connections of the unix socket", "answers"),
    row("api-port", Runs::Task, "connections of the API's port, over TLS", "answers"),
    row("metrics", Runs::Task, "connections of the port for metrics", "answers"),
    row("peer-port", Runs::Task, "connections of nodes and real servers", "frames to the core"),
    row("systemd", Runs::Task, "the verdict", "one line for systemctl status"),
    row("facts", Runs::Task, "what this machine is", "Facts"),
    row("backups", Runs::Task, "the replicated state", "a file a day"),
    row("proof", Runs::Task, "config, VIPs held here", "servers that do not serve the VIP"),
    row("certificate", Runs::Task, "the time, members", "this node's new certificate"),
    row("keys", Runs::Task, "keys of members that are not heard", "this node's heartbeat keys"),
    row("authorities", Runs::Task, "what members have while it is rotated", "the authorities"),
    row("flows-ask", Runs::Task, "members that are directors", "subscriptions to their flows"),
];

fn find(name: &str) -> &'static Row {
    TABLE.iter().find(|row| row.name == name).expect("each thread and task is in the table")
}

/// Starts a thread of the table.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Outcome<JoinHandle<()>> {
    let row = find(name);
    assert!(row.runs != Runs::Task, "{name} is a task");
    std::thread::Builder::new()
        .name(row.name.into())
        .spawn(work)
        .map_err(|e| Failure::new(Kind::Io, "cannot start", e))
}

/// Starts a task of the table.
pub fn task(name: &str, work: impl Future<Output: Send + 'static> + Send + 'static) {
    assert!(find(name).runs == Runs::Task, "{name} is a thread");
    tokio::spawn(work);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_row_has_a_name_of_its_own_and_each_queue_says_what_a_full_one_does() {
        let names: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for row in TABLE {
            assert_eq!(row.queue == 0, row.full.is_empty(), "{}", row.name);
            // Linux shows 15 bytes of a thread's name.
            assert!(row.name.len() <= 15, "{}", row.name);
        }
        let real_time = TABLE.iter().filter(|row| row.runs == Runs::RealTime);
        assert_eq!(real_time.map(|row| row.name).collect::<Vec<_>>(), ["core"]);
    }

    fn as_page() -> String {
        let mut page = String::new();
        for Row { name, runs, queue, full, comes_in, goes_out } in TABLE {
            let runs = match runs {
                Runs::RealTime => "thread in real time, never blocks",
                Runs::Thread => "thread, may block",
                Runs::Task => "task, never blocks",
            };
            let queue = if *queue == 0 { "-".to_owned() } else { queue.to_string() };
            let full = if full.is_empty() { "-" } else { full };
            page.push_str(&format!(
                "| {name} | {runs} | {queue} | {full} | {comes_in} | {goes_out} |\n"
            ));
        }
        page
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(&as_page()), "ARCHITECTURE.md, \"Threads\":\n{}", as_page());
    }

    #[test]
    fn what_is_not_in_the_table_is_not_started() {
        assert!(std::panic::catch_unwind(|| drop(spawn("other", || ()))).is_err());
        assert!(std::panic::catch_unwind(|| drop(spawn("api", || ()))).is_err(), "a task");
        spawn("disk", || ()).unwrap().join().unwrap();
    }
}
