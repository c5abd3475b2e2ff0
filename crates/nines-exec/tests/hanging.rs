//! A program on a file system that does not answer: the start itself hangs.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::mpsc::channel,
    thread::sleep,
    time::{Duration, Instant},
};

use nines_exec::{Exit, Processes, Run, Runner as _};
use nines_model::Millis;

/// A mounted FUSE file system whose server answers nothing, as a dead NFS server does.
struct Dead {
    directory: PathBuf,
    _server: fs::File,
}

impl Dead {
    /// In a mount namespace of this thread and of those that it starts, so that nothing stays.
    /// `None`, and a line: this user may not mount.
    fn mount(name: &str) -> Option<Self> {
        let skipped = |what: &str| {
            println!("SKIPPED: {what}: {}", std::io::Error::last_os_error());
            None
        };
        let directory = std::env::temp_dir().join(format!("nines-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let Ok(server) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
            return skipped("no /dev/fuse");
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", server.as_raw_fd());
        let mut target = directory.as_os_str().as_bytes().to_vec();
        target.push(0);
        let (null, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: every text ends in a zero byte and lives through its call.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) < 0
                || libc::mount(null, c"/".as_ptr(), null, private, null.cast()) < 0
            {
                return skipped("no mount namespace");
            }
            let target = target.as_ptr().cast();
            let options = options.as_ptr().cast();
            if libc::mount(c"dead".as_ptr(), target, c"fuse".as_ptr(), 0, options) < 0 {
                return skipped("no FUSE");
            }
        }
        Some(Self { directory, _server: server })
    }

    fn program(&self) -> PathBuf {
        self.directory.join("fence_far")
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        let mut target = self.directory.as_os_str().as_bytes().to_vec();
        target.push(0);
        // SAFETY: the text ends in a zero byte and lives through the call.
        unsafe { libc::umount2(target.as_ptr().cast(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.directory);
    }
}

fn children() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if parent.is_some_and(|parent| parent == std::process::id().to_string()) {
            found.push(pid);
        }
    }
    found
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// The files that a process has open, in words.
fn open_files(pid: u32) -> Vec<String> {
    let link = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some(format!("{name} {}", fs::read_link(entry.path()).ok()?.display()))
    };
    let entries = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).unwrap();
    let mut open: Vec<String> = entries.flatten().filter_map(link).collect();
    open.sort();
    open
}

#[test]
fn the_deadline_covers_a_program_whose_file_system_does_not_answer() {
    let Some(dead) = Dead::mount("deadline") else { return };
    for runner in [Processes::new(1), Processes::without_cgroups(1)] {
        let begun = Instant::now();
        let run = Run { grace: Millis(100), ..Run::new(dead.program(), Millis(300)) };
        let outcome = runner.run(run);
        let took = begun.elapsed();
        assert_eq!(outcome.exit, Exit::DeadlineKilled);
        assert_eq!((outcome.has_begun, outcome.lingers), (false, false));
        assert!((300..2_000).contains(&took.as_millis()), "{took:?}");
        assert_eq!(children(), [], "it was reaped");
    }
}

#[test]
fn a_run_is_cancelled_before_its_program_has_begun_and_holds_nothing_of_ours() {
    let Some(dead) = Dead::mount("cancel") else { return };
    let ours = fs::File::open("/etc/passwd").unwrap();
    let (tell, told) = channel();
    let run = Run::new(dead.program(), Millis(60_000));
    let runner = Processes::new(1);
    let handle = runner.start(run, Box::new(move |outcome| tell.send(outcome).unwrap()));
    eventually("it hangs", || children().len() == 1 && open_files(children()[0]).len() == 4);
    sleep(Duration::from_millis(100));
    let open = open_files(children()[0]);
    let is_stream = |n: usize, what: &str| open[n].starts_with(&format!("{n} {what}"));
    assert!(
        is_stream(0, "/dev/null") && is_stream(1, "pipe:") && is_stream(2, "pipe:"),
        "{open:?}"
    );
    assert!(is_stream(3, "socket:") && open.len() == 4, "its gate, and nothing else: {open:?}");
    assert!(told.try_recv().is_err());
    let begun = Instant::now();
    handle.cancel();
    let outcome = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((outcome.exit, outcome.has_begun), (Exit::Cancelled, false));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(children(), []);
    drop(ours);
}
