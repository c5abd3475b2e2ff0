//! A director that is a real server of the other directors, too.
//!
//! Decides: nothing; the table says which VIPs. They are on `lo` whoever holds them: what the
//! holder sends here must go up this stack, and what the guard lets nobody claim is nobody's but
//! the holder's.

use std::{
    path::Path,
    sync::{Mutex, mpsc::RecvTimeoutError},
    time::Duration,
};

use nines_core::Event;
use nines_dataplane::{
    address,
    real_server::{self, Done, Keeper},
};
use nines_model::RealServerRole;

use crate::{core_thread::CoreHandle, logger::Logger, own_status::OwnStatus, queue::SlotReceiver};

/// File of what this machine was before.
pub const MEMORY: &str = "serves";
/// How often it is seen to that all is there.
const LOOK: Duration = Duration::from_secs(5);

/// Does what it was last told, until nobody is left to tell.
pub fn keep(
    told: &SlotReceiver<RealServerRole>,
    memory: &Path,
    core: &CoreHandle,
    shown: &Mutex<OwnStatus>,
    log: &Logger,
) {
    let (mut keeper, mut duty, mut trouble) = (Keeper::new(memory), None, String::new());
    let mut said = None;
    loop {
        match told.recv_timeout(LOOK) {
            Ok(new) => duty = Some(new),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(duty) = &duty else { continue };
        let all = see_to(&mut keeper, duty, memory)
            .unwrap_or_else(|why| Done { trouble: vec![why], ..Done::default() });
        tell(&all, &mut trouble, log);
        // Without a look at the interfaces nothing is reported: what was there stays.
        if let Ok(there) = address::on_lo()
            && said.as_ref() != Some(&there)
        {
            core.event(Event::OnLoopback(there.clone()));
            said = Some(there);
        }
        shown.lock().expect("nobody panics with it").serving.clone_from(&trouble);
    }
}

fn see_to(
    keeper: &mut Keeper,
    duty: &RealServerRole,
    memory: &Path,
) -> nines_dataplane::Result<Done> {
    let held = keeper.held()?;
    if *duty != RealServerRole::default() {
        return keeper.keep(duty, &held.beyond(duty));
    }
    let gone = real_server::undo(memory)?.into_iter();
    let done = gone.map(|vip| format!("{vip} is no longer on lo")).collect();
    Ok(Done { done, ..Done::default() })
}

/// Logs what was done, and trouble once.
pub fn tell(all: &Done, trouble: &mut String, log: &Logger) {
    all.done.iter().for_each(|line| log.line(line));
    let now: Vec<String> = all.trouble.iter().map(ToString::to_string).collect();
    let now = now.join("; ");
    if now != *trouble && !now.is_empty() {
        log.line(&now);
    }
    *trouble = now;
}
