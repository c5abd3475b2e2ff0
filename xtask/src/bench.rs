//! Benchmarks anyone can run: ratios against peers in one run on one machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nines_lab::{Lab, Wire};

pub mod dataplane;
pub mod http;
pub mod nodes;
pub mod tables;

/// Hosts in namespaces, a place for files, and processes that end with it.
struct Bench {
    lab: Lab,
    home: PathBuf,
    children: Vec<Child>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(nines_lab::kill);
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Bench {
    fn build(hosts: BTreeMap<String, Vec<Wire>>) -> Result<Self, String> {
        let cleanup = "rm -rf /sys/fs/bpf/nines/$inode; rmdir /sys/fs/bpf/nines 2>/dev/null";
        let lab = Lab::build(hosts, cleanup).map_err(|e| e.to_string())?;
        let home = PathBuf::from("/tmp").join(lab.namespace("bench"));
        fs::create_dir_all(&home).map_err(|e| e.to_string())?;
        Ok(Self { lab, home, children: Vec::new() })
    }

    fn spawn(&mut self, host: &str, program: &Path, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.lab.spawn(host, command).map_err(|e| e.to_string())?;
        self.children.push(child);
        Ok(())
    }

    /// What the program printed, once it ended well.
    fn done(&self, host: &str, program: &Path, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.lab.spawn(host, command).map_err(|e| e.to_string())?;
        let out = child.wait_with_output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            return Err(format!("{args:?}: {said}{}", String::from_utf8_lossy(&out.stderr)));
        }
        Ok(said)
    }

    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.home.join(name);
        fs::write(&path, text).map_err(|e| e.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn ip(&self, host: &str, words: &str) -> Result<(), String> {
        self.lab.ip(host, words).map_err(|e| format!("ip {words}: {e}"))
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn installed(programs: &[&str], packages: &str) -> Result<(), String> {
    for program in programs {
        let quiet =
            Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if quiet.is_err() {
            return Err(format!("{program} is not installed: apt-get install {packages}"));
        }
    }
    Ok(())
}
