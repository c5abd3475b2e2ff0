//! A fence device without a machine behind it: its agent answers as told, also with lies.
//!
//! Decides: what an agent of the distribution would say for each behaviour. An outlet is on until
//! it is switched off.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nines_model::Millis;

use crate::run::{Exit, Outcome, Output, Run};

/// How long an agent takes to answer, in milliseconds; as a real one started by python.
const ANSWER: Millis = Millis(100);

/// What the device does when it is told to switch an outlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOff {
    /// It switches and says so.
    #[default]
    Obeys,
    /// It says that it cannot, and does nothing.
    Refuses,
    /// It says nothing until its deadline, and does nothing.
    Hangs,
    /// It switches and says nothing until its deadline.
    ActsAndHangs,
    /// It says that it has switched, and has not.
    Lies,
    /// It says so at once, and has when it was asked for its status so many times.
    Slow(u32),
}

/// What the device does when it is asked whether an outlet is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStatus {
    /// It tells the truth.
    #[default]
    Tells,
    /// It says that it cannot.
    Fails,
    /// It says nothing until its deadline.
    Hangs,
    /// It says that it is off, whatever it is.
    LiesOff,
    /// It ends with the code of "off" and says nothing, as a shell does that cannot read a script.
    EndsWithTwo,
    /// It says something that is no text.
    Babbles,
}

/// A fence device that is told how to behave. Clones are the same device.
#[derive(Clone, Debug, Default)]
pub struct FenceDevice {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    on_off: OnOff,
    on_status: OnStatus,
    /// By outlet; one that is not here is on. The device's only machine is "".
    off: BTreeMap<String, bool>,
    /// Outlets that are about to be switched, whether off, and after how many questions.
    pending: BTreeMap<String, (bool, u32)>,
    actions: Vec<String>,
}

impl FenceDevice {
    /// From now on it behaves like this.
    pub fn behave(&self, on_off: OnOff, on_status: OnStatus) {
        let mut state = self.state();
        (state.on_off, state.on_status) = (on_off, on_status);
    }

    /// Switches an outlet, whatever its agent would do.
    pub fn set(&self, outlet: &str, on: bool) {
        self.state().off.insert(outlet.to_owned(), !on);
    }

    /// Whether an outlet is on in truth; "" is the only machine of a device without outlets.
    pub fn is_on(&self, outlet: &str) -> bool {
        !self.state().off.get(outlet).copied().unwrap_or(false)
    }

    /// Its actions so far, with the outlet if there was one: "off 4".
    pub fn actions(&self) -> Vec<String> {
        self.state().actions.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its agent answers to a run. Like a real one it reboots if it is not told what to do.
    pub fn answer(&self, run: &Run) -> Outcome {
        let text = String::from_utf8_lossy(&run.stdin);
        let value = |key: &str| {
            let of = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
            text.lines().find_map(of)
        };
        let outlet = value("plug").or_else(|| value("port")).unwrap_or_default();
        let action = value("action").unwrap_or_else(|| "reboot".into());
        if run.args == ["-o", "metadata"] {
            return says(0, METADATA);
        }
        let mut state = self.state();
        state.actions.push(format!("{action} {outlet}").trim_end().to_owned());
        match action.as_str() {
            "off" | "on" => state.switch(outlet, action == "off", run.deadline),
            "reboot" => {
                state.pending.remove(&outlet);
                state.off.insert(outlet, false);
                says(0, "Success: Powered ON\n")
            }
            "status" => state.status(&outlet, run.deadline),
            "monitor" => says(0, ""),
            "list" => says(0, "1,node-a\n2,\n"),
            _ => fails("Failed: Unrecognised action"),
        }
    }
}

impl State {
    fn switch(&mut self, outlet: String, off: bool, deadline: Millis) -> Outcome {
        match self.on_off {
            OnOff::Refuses => return fails("Failed: Unable to connect/login to fencing device"),
            OnOff::Hangs => return hangs(deadline),
            OnOff::Lies => {}
            OnOff::Slow(questions) => drop(self.pending.insert(outlet, (off, questions))),
            OnOff::Obeys => {
                self.pending.remove(&outlet);
                self.off.insert(outlet, off);
            }
            OnOff::ActsAndHangs => {
                self.off.insert(outlet, off);
                return hangs(deadline);
            }
        }
        says(0, if off { "Success: Powered OFF\n" } else { "Success: Powered ON\n" })
    }

    fn status(&mut self, outlet: &str, deadline: Millis) -> Outcome {
        if let Some((off, left)) = self.pending.get_mut(outlet) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.off.insert(outlet.to_owned(), *off);
                self.pending.remove(outlet);
            }
        }
        let is_off = self.off.get(outlet).copied().unwrap_or(false);
        match self.on_status {
            OnStatus::Tells if !is_off => says(0, "Status: ON\n"),
            OnStatus::Tells | OnStatus::LiesOff => says(2, "Status: OFF\n"),
            OnStatus::Fails => fails("Failed: Unable to connect/login to fencing device"),
            OnStatus::Hangs => hangs(deadline),
            OnStatus::EndsWithTwo => says(2, ""),
            OnStatus::Babbles => {
                let bytes = b"\xff\xfe\x00Status".to_vec();
                let stdout = Output { bytes, is_cut: false };
                Outcome { stdout, ..Outcome::new(Exit::Code(2), ANSWER) }
            }
        }
    }
}

fn says(code: i32, text: &str) -> Outcome {
    let stdout = Output { bytes: text.into(), is_cut: false };
    Outcome { stdout, ..Outcome::new(Exit::Code(code), ANSWER) }
}

fn fails(why: &str) -> Outcome {
    let bytes = format!("2026-01-01 00:00:00,000 ERROR: {why}\n\n").into();
    let stderr = Output { bytes, is_cut: false };
    Outcome { stderr, ..Outcome::new(Exit::Code(1), ANSWER) }
}

fn hangs(deadline: Millis) -> Outcome {
    Outcome::new(Exit::DeadlineKilled, deadline)
}

/// What its agent says of itself.
pub const METADATA: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_fake" shortdesc="A device for tests">
<parameters>
  <parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
  <parameter name="ip" required="1" obsoletes="ipaddr"><content type="string"/></parameter>
  <parameter name="ipaddr" required="1" deprecated="1"><content type="string"/></parameter>
  <parameter name="ipport"><content type="integer" default="23"/></parameter>
  <parameter name="password" obsoletes="passwd"><content type="string"/></parameter>
  <parameter name="passwd" deprecated="1"><content type="string"/></parameter>
  <parameter name="plug" obsoletes="port"><content type="string"/></parameter>
  <parameter name="port" deprecated="1"><content type="string"/></parameter>
  <parameter name="method"><content type="select" default="onoff">
    <option value="onoff"/><option value="cycle"/></content></parameter>
  <parameter name="ssl"><content type="boolean"/></parameter>
  <parameter name="power_timeout"><content type="second" default="20"/></parameter>
  <parameter name="separator"><content type="string" default=","/></parameter>
</parameters>
<actions>
  <action name="on" automatic="0"/><action name="off"/><action name="reboot"/>
  <action name="status"/><action name="monitor"/><action name="list"/><action name="metadata"/>
</actions>
</resource-agent>
"#;
