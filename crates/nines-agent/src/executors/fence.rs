//! The threads that speak to fence devices.
//!
//! ```text
//! core --call--> fence --the next one of each device--> fence-device --Done--> core
//! ```
//! Decides: that a device has one call at a time (many let one caller log in), and that no device
//! waits for another. Whose turn it is at a device is in `queue.rs`, what a call does in `call.rs`.
//!
//! When the agent stops, or another program takes its place, calls under way are ended with their
//! fence agents (SIGTERM, then SIGKILL; half a second at most), and none is begun. That leaves the
//! power in either state, and nobody was told that a machine is off: the cluster asks again, and
//! `off` does nothing to one that is off. A fence agent that went on alone would be worse: it might
//! switch a machine off long after the cluster had let it come back, and it would be a second
//! caller of its device. What an agent that was killed has left is ended when the next one starts
//! (`nines_exec::Processes::new`), or by systemd.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use nines_core::Event;
use nines_exec::{Processes, fence_agent::Installed};
use nines_model::{DeviceName, FenceDevice, Millis};

use self::queue::{DEVICES_MAX, Numbered, Queues, Stop};
use crate::{
    core_thread::{CoreHandle, FenceCall},
    logger::Logger,
    queue::{Offer, Refused, SlotReceiver},
    threads,
};

mod call;
mod queue;

/// Directory of fence agents, as the distribution has it.
pub const DIRECTORY: &str = "/usr/sbin";
/// How long the end of all calls may take: the half second between SIGTERM and SIGKILL, and some.
const END: Millis = Millis(700);
/// How often the thread for configs looks whether there is one, at least.
const LOOK: Duration = Duration::from_secs(3_600);

/// The fence devices of a config.
pub type Devices = BTreeMap<DeviceName, FenceDevice>;

/// The fence agents of this machine, and who runs them.
struct Agents {
    directory: PathBuf,
    installed: Installed,
    processes: OnceLock<Arc<Processes>>,
}

impl Agents {
    /// Made when it is first asked for, because it may take a second: it ends what an agent before
    /// this one has left.
    fn processes(&self) -> &Arc<Processes> {
        // One for the metadata of each device's agent, one for its call, and those of a config.
        self.processes.get_or_init(|| Arc::new(Processes::new(2 * DEVICES_MAX + 1)))
    }
}

/// What the thread hears of.
enum News {
    Call(u64, Box<FenceCall>),
    /// The call of this device is over.
    Over(DeviceName),
}

/// Asks for calls; it never waits.
#[derive(Clone)]
pub struct FenceHandle {
    news: SyncSender<News>,
    agents: Arc<Agents>,
}

/// The threads' end of a [`FenceHandle`].
pub struct FenceInbox {
    news: Receiver<News>,
    tell: SyncSender<News>,
    agents: Arc<Agents>,
}

/// Makes a handle and the threads' end of it; `directory`: where fence agents are.
pub fn channel(directory: PathBuf) -> (FenceHandle, FenceInbox) {
    let (tell, news) = sync_channel(threads::FENCE);
    let installed = Installed::in_directory(&directory);
    let agents = Arc::new(Agents { directory, installed, processes: OnceLock::new() });
    let handle = FenceHandle { news: tell.clone(), agents: Arc::clone(&agents) };
    (handle, FenceInbox { news, tell, agents })
}

impl FenceHandle {
    /// Hands a call over; its answer, if there is no room for it.
    pub fn ask(&self, id: u64, call: Box<FenceCall>) -> Option<Event> {
        match self.news.offer(News::Call(id, call)) {
            Err(Refused::Full(News::Call(id, call))) => Some(no_room(id, &call)),
            _ => None,
        }
    }

    /// Ends all calls, for an agent that ends; waits for that, within [`END`].
    pub fn end(&self) {
        self.agents.processes().end_all(END);
    }
}

fn no_room(id: u64, call: &FenceCall) -> Event {
    let why = format!("{}: too many calls wait for it", call.device);
    Event::Done { id, result: Err(why) }
}

/// Hands calls to the threads of their devices, until the process ends.
pub fn run(inbox: &FenceInbox, core: &CoreHandle, log: &Logger) {
    for left in inbox.agents.processes().leftovers() {
        log.line(&format!("ended what an earlier agent had left: {left:?}"));
    }
    let mut queues = Queues::default();
    for one in &inbox.news {
        let mut next = match one {
            News::Over(device) => queues.over(&device),
            News::Call(id, call) => match queues.put((id, call)) {
                Ok(next) => next,
                Err((id, call)) => {
                    core.event(no_room(id, &call));
                    None
                }
            },
        };
        while let Some(call) = next {
            next = begin(inbox, call, core, log).and_then(|device| queues.over(&device));
        }
    }
}

/// Has a thread make the call; its device, if there can be no thread and the call has failed.
fn begin(
    inbox: &FenceInbox,
    ((id, call), stop): (Numbered, Stop),
    core: &CoreHandle,
    log: &Logger,
) -> Option<DeviceName> {
    let (agents, tell) = (Arc::clone(&inbox.agents), inbox.tell.clone());
    let (device, answers, log) = (call.device.clone(), core.clone(), log.clone());
    let work = move || {
        answers.event(Event::Done { id, result: call::carry_out(&agents, &call, &stop, &log) });
        let _ = tell.send(News::Over(call.device));
    };
    let why = threads::spawn("fence-device", work).err()?;
    core.event(Event::Done { id, result: Err(format!("{device}: {why}")) });
    Some(device)
}

/// Looks at the devices of each new config: reads what their agents say of themselves, so that no
/// call waits for that, and tells what is wrong before one is needed.
pub fn look_ahead(handle: &FenceHandle, configs: &SlotReceiver<Devices>, log: &Logger) {
    loop {
        match configs.recv_timeout(LOOK) {
            Ok(devices) => {
                let wrong = devices
                    .iter()
                    .filter_map(|(name, config)| call::device(&handle.agents, name, config).err());
                wrong.for_each(|why| log.line(&format!("fence device {why}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests;
