//! Interfaces that appear after the first service: they are served like the others, as by IPVS.
//!
//! nines' programs are on interfaces, and `ipvsadm` has no daemon that could put them on a new one.
//! So the first service starts a process that waits for the kernel's word of new interfaces and
//! does only that. Decides: that there is one for each network namespace, and that it ends by
//! itself when there is no service left, an agent takes the tables over, or nobody else is left in
//! the namespace.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nines_dataplane::{
    Error, Result,
    ebpf::{self, Hooks, Sizes, readback},
    pins,
    watch::Watch,
};

/// The one word that this process is called with.
pub const WORD: &str = "--follow-devices";
/// How often it looks whether it is still needed.
const LOOK: Duration = Duration::from_secs(5);

/// A directory beside the tables; locked while the process runs, removed with the last service.
fn mark() -> Result<PathBuf> {
    Ok(pins::pin_directory()?.with_file_name("later"))
}

/// Sees to it that a process waits for new interfaces, or that none does.
pub fn see_to_it(any_service: bool) -> Result<()> {
    let mark = mark()?;
    let failed = |e: io::Error| {
        Error::new("interfaces that appear later will not be served", e)
            .next("call ipvsadm again after a new interface, or run the agent")
    };
    if !any_service {
        return match fs::remove_dir(&mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        };
    }
    match fs::create_dir(&mark) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // One that runs has it locked.
    if File::open(&mark).map_err(failed)?.try_lock().is_err() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["ipvsadm", WORD]).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(failed)
}

/// What the process does until it is not needed any more.
pub fn follow() -> Result<()> {
    let mark = mark()?;
    let failed = |e| Error::new("cannot follow interfaces", e);
    let directory = File::open(&mark).map_err(failed)?;
    if directory.try_lock().is_err() {
        return Ok(());
    }
    let number = directory.metadata().map_err(failed)?.ino();
    let watch = Watch::open()?;
    // One may have come before this process looked.
    let mut changed = true;
    loop {
        let needed = fs::metadata(&mark).is_ok_and(|m| m.ino() == number) && !is_alone();
        if !needed || (changed && !serve_all()?) {
            return Ok(());
        }
        changed = watch.wait(LOOK);
        if changed {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Puts the programs on interfaces that have none; false: an agent does.
fn serve_all() -> Result<bool> {
    if readback::is_everywhere()? {
        return Ok(true);
    }
    let Some(_claim) = ebpf::claim(super::PATIENCE)? else { return Ok(false) };
    let (mut plane, _guard) = ebpf::open(ebpf::object::BYTES, Hooks::Auto, Sizes::default())?;
    plane.on_all()?;
    Ok(true)
}

/// Whether this process alone keeps its network namespace: no other is in it, and it has no name.
fn is_alone() -> bool {
    let number = |of: &str| fs::metadata(format!("/proc/{of}/ns/net")).map(|m| m.ino());
    let Ok(own) = number("self") else { return false };
    let name = format!(" net:[{own}] ");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let me = std::process::id().to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // A process that may not be looked into may be in it; kernel threads and process 1 are in the
    // first one, where there is always somebody.
    let shares = |pid: &String| *pid != me && number(pid).is_ok_and(|theirs| theirs == own);
    !mounts.contains(&name) && !others.any(|pid| shares(&pid))
}
