//! A power switch for the hosts of a lab: a fence agent, `fence_lab`, in a directory of its own.
//!
//! Decides: what is behind each outlet, and how the device behaves. The agent
//! (`power/fence_lab.sh`) has the interface of the distribution's: to switch a host off is to kill
//! the processes that were named for it, and to cut its links. It needs the option `plug`, the name
//! of the host; `ip` tells several devices apart.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{LabError, Result};

/// Name of the agent.
pub const AGENT: &str = "fence_lab";

/// How the device behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does as it is told.
    #[default]
    Obeys,
    /// It lets nobody log in.
    Refuses,
    /// It answers nothing.
    Hangs,
    /// It says that it has switched, and has not.
    Lies,
    /// It takes two seconds to switch.
    Slow,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Obeys => "obeys",
            Self::Refuses => "refuses",
            Self::Hangs => "hangs",
            Self::Lies => "lies",
            Self::Slow => "slow",
        }
    }
}

/// A power switch with an outlet for each host.
#[derive(Debug)]
pub struct PowerSwitch {
    room: PathBuf,
}

/// When a process began, by its 22nd field in `/proc/PID/stat`.
fn since(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> LabError {
    move |why| LabError(format!("{}: {why}", path.display()))
}

impl PowerSwitch {
    /// Makes one whose agent and state are in this directory, which goes with the lab.
    pub fn new(room: impl Into<PathBuf>) -> Result<Self> {
        let room = room.into();
        for part in ["agents", "hosts", "off"] {
            let part = room.join(part);
            fs::create_dir_all(&part).map_err(failed(&part))?;
        }
        let agent = room.join("agents").join(AGENT);
        fs::write(&agent, include_str!("power/fence_lab.sh")).map_err(failed(&agent))?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&agent, executable).map_err(failed(&agent))?;
        Ok(Self { room })
    }

    /// Directory of the agent.
    pub fn agents(&self) -> PathBuf {
        self.room.join("agents")
    }

    /// Connects a host: these processes are killed when it is switched off, and the links of this
    /// namespace are cut. Connects it anew when its programs were started again.
    pub fn connect(&self, host: &str, namespace: Option<&str>, processes: &[u32]) -> Result<()> {
        // With its beginning: its number may soon be another's.
        let line = |pid: &u32| Some(format!("process {pid} {}\n", since(*pid)?));
        let mut text: String = processes.iter().filter_map(line).collect();
        text.extend(namespace.map(|name| format!("namespace {name}\n")));
        self.write(&format!("hosts/{host}"), &text)
    }

    /// From now on the device behaves like this; `ip` is its option of that name, "" without one.
    pub fn behave(&self, ip: &str, mode: Mode) -> Result<()> {
        self.write(&format!("mode.{ip}"), mode.word())
    }

    /// Whether a host was switched off, and not on again.
    pub fn is_off(&self, host: &str) -> bool {
        self.room.join("off").join(host).exists()
    }

    /// What its agent was called for, in order: "off lb1", with `ip` behind it if there was one.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.room.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The process of the agent that is called now, as far as it is known; `ip` as above.
    pub fn caller(&self, ip: &str) -> Option<u32> {
        let pid = fs::read_to_string(self.room.join(format!("busy.{ip}/pid"))).ok()?;
        pid.trim().parse().ok()
    }

    /// Never half a file: an agent may read it now.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, new) = (self.room.join(name), self.room.join("new"));
        fs::write(&new, text).map_err(failed(&new))?;
        fs::rename(&new, &path).map_err(failed(&path))
    }
}
