//! Real processes: how they end, what they leave, and that nothing of them stays.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::{Duration, Instant},
};

use nines_exec::{
    Containment, Exit, Handle, NotStarted, Outcome, Processes, Run, Runner as _, Survivors,
};
use nines_model::Millis;

const LONG: Millis = Millis(30_000);

fn sh(script: &str) -> Run {
    Run::new("/bin/sh", LONG).args(["-c", script])
}

fn runner() -> Processes {
    Processes::new(1_000)
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stdout.bytes.clone()).unwrap()
}

/// Starts a run; its outcome comes through the channel.
fn start(runner: &Processes, run: Run) -> (Handle, Receiver<Outcome>) {
    let (tell, told) = channel();
    let handle = runner.start(run, Box::new(move |outcome| drop(tell.send(outcome))));
    (handle, told)
}

/// The state and the parent of a process, by `/proc/PID/stat`; `None`: it is gone.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Children of this process, ended or not, that nobody has reaped.
fn children() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == std::process::id())).collect()
}

/// Waits for what must come; 10 s is long enough for it.
fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn room(name: &str) -> PathBuf {
    let room = std::env::temp_dir().join(format!("nines-exec-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&room);
    fs::create_dir_all(&room).unwrap();
    room
}

/// The number in a file that a child writes.
fn pid_in(path: &Path) -> u32 {
    let read = || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    eventually("a child tells its number", || read().is_some());
    read().unwrap().trim().parse().unwrap()
}

/// Whether cgroups can be written here; a test that needs them says so.
fn has_cgroups() -> bool {
    match runner().run(sh("true")).containment {
        Containment::Cgroup => true,
        Containment::ProcessGroup(why) => {
            println!("SKIPPED: {why}");
            false
        }
    }
}

#[test]
fn an_exit_code_and_a_signal_are_told_apart() {
    let runner = runner();
    assert_eq!(runner.run(sh("exit 0")).exit, Exit::Code(0));
    assert_eq!(runner.run(sh("exit 107")).exit, Exit::Code(107));
    assert_eq!(runner.run(sh("kill -9 $$")).exit, Exit::Signal(9));
    assert_eq!(runner.run(sh("kill -15 $$")).exit, Exit::Signal(15));
}

#[test]
fn what_cannot_be_started_says_why() {
    let (runner, room) = (runner(), room("start"));
    let exit = |path: &Path| runner.run(Run::new(path, LONG)).exit;
    let file = |name: &str, text: &str, mode: u32| {
        let path = room.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    assert_eq!(exit(Path::new("sh")), Exit::NotStarted(NotStarted::Relative));
    assert_eq!(exit(&room.join("nothing")), Exit::NotStarted(NotStarted::Missing));
    let orphan = file("orphan", "#!/nowhere/sh\n", 0o755);
    assert_eq!(exit(&orphan), Exit::NotStarted(NotStarted::Missing));
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    assert_eq!(exit(&plain), Exit::NotStarted(NotStarted::NotExecutable));
    assert_eq!(exit(&room), Exit::NotStarted(NotStarted::NotExecutable));
    assert_eq!(exit(&file("text", "exit 6\n", 0o755)), Exit::Code(6), "a shell reads it");
    assert_eq!(exit(&file("good", "#!/bin/sh\nexit 3\n", 0o755)), Exit::Code(3));
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn input_is_given_and_output_is_taken() {
    let runner = runner();
    let outcome = runner.run(Run { stdin: b"a b\n".into(), ..sh("cat; echo wrong >&2") });
    assert_eq!((text(&outcome).as_str(), outcome.stderr.bytes), ("a b\n", b"wrong\n".into()));
    assert_eq!(text(&runner.run(sh("cat; echo end"))), "end\n", "nothing to read is an end");
    // More than a pipe holds, in both directions at once.
    let much = vec![b'x'; 1 << 20];
    let run = Run { stdin: much.clone(), output_bytes_max: 2 << 20, ..sh("cat") };
    assert_eq!(runner.run(run).stdout.bytes, much);
    // One that does not read what it is given.
    assert_eq!(runner.run(Run { stdin: much, ..sh("exit 4") }).exit, Exit::Code(4));
}

#[test]
fn a_child_has_a_clean_environment_and_nothing_else_of_ours() {
    let runner = runner();
    let mut run = sh("export -p; pwd; ls /proc/self/fd | tr '\\n' ' '");
    run.env.insert("OCF_RESKEY_ip".into(), "10.0.0.100".into());
    // A descriptor that a library has forgotten to close on exec.
    let open = fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let told = text(&runner.run(run));
    assert!(told.contains("OCF_RESKEY_ip='10.0.0.100'"), "{told}");
    assert!(!told.contains("CARGO"), "{told}");
    assert!(told.contains("\n/\n"), "it does not hold a file system: {told}");
    // The listing itself has the fourth one open.
    assert!(told.ends_with("\n0 1 2 3 "), "{told}");
    drop(open);
}

#[test]
fn a_flood_of_output_is_bounded_and_does_not_stop_the_child() {
    let flood = "head -c 100000000 /dev/zero; head -c 3000 /dev/zero >&2; exit 5";
    let outcome = runner().run(Run { output_bytes_max: 1_000, ..sh(flood) });
    assert_eq!(outcome.exit, Exit::Code(5));
    assert_eq!((outcome.stdout.bytes.len(), outcome.stdout.is_cut), (1_000, true));
    assert_eq!((outcome.stderr.bytes.len(), outcome.stderr.is_cut), (1_000, true));
}

#[test]
fn at_its_deadline_a_child_is_asked_to_end_and_may_clean_up() {
    let clean = "trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done";
    let outcome = runner().run(Run { deadline: Millis(300), ..sh(clean) });
    assert_eq!(outcome.exit, Exit::DeadlineKilled);
    assert_eq!(text(&outcome), "cleaned\n");
    assert!((300..1_500).contains(&outcome.duration.0), "{}", outcome.duration);
}

#[test]
fn one_that_ignores_sigterm_is_killed_with_its_children() {
    let room = room("deaf");
    let script = format!("trap '' TERM; sleep 60 & echo $! >{}/pid; wait; wait", room.display());
    let run = Run { deadline: Millis(300), grace: Millis(200), ..sh(&script) };
    for runner in [runner(), Processes::without_cgroups(1)] {
        let outcome = runner.run(run.clone());
        assert_eq!(outcome.exit, Exit::DeadlineKilled);
        assert!((500..3_000).contains(&outcome.duration.0), "{}", outcome.duration);
        let sleeper = pid_in(&room.join("pid"));
        eventually("its child is killed", || !lives(sleeper));
    }
    fs::remove_dir_all(room).unwrap();
}

/// `setsid` in the background of a background: a daemon that has left its process group.
fn daemon(room: &Path, then: &str) -> Run {
    let pid = room.join("pid");
    sh(&format!(
        "setsid sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 60' >/dev/null 2>&1 </dev/null & \
         while ! test -e {0}; do sleep 0.01; done; {then}",
        pid.display()
    ))
}

#[test]
fn a_daemon_that_forked_twice_does_not_escape_a_deadline() {
    if !has_cgroups() {
        return;
    }
    let room = room("daemon");
    let run = Run { deadline: Millis(1_000), ..daemon(&room, "sleep 60") };
    let outcome = runner().run(run);
    assert_eq!((outcome.exit, outcome.containment), (Exit::DeadlineKilled, Containment::Cgroup));
    let daemon = pid_in(&room.join("pid"));
    eventually("the daemon is killed", || !lives(daemon));
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn what_a_program_leaves_is_killed_or_kept_as_its_caller_says() {
    if !has_cgroups() {
        return;
    }
    let (runner, room) = (runner(), room("left"));
    let killed = runner.run(daemon(&room, "exit 0"));
    assert_eq!(killed.exit, Exit::Code(0));
    let first = pid_in(&room.join("pid"));
    eventually("a check leaves nothing", || !lives(first));
    fs::remove_file(room.join("pid")).unwrap();
    let kept = runner.run(Run { survivors: Survivors::Keep, ..daemon(&room, "exit 0") });
    assert_eq!(kept.exit, Exit::Code(0));
    let second = pid_in(&room.join("pid"));
    sleep(Duration::from_millis(100));
    assert!(lives(second), "the server that was started goes on");
    let pid = rustix::process::Pid::from_raw(second as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn what_is_left_behind_is_counted() {
    let left = "sleep 60 & sleep 60 & exit 0";
    for runner in [runner(), Processes::without_cgroups(1)] {
        let outcome = runner.run(sh(left));
        assert_eq!((outcome.exit, outcome.left_behind), (Exit::Code(0), 2));
        assert!(!outcome.lingers, "both were killed");
        assert_eq!(runner.run(sh("sleep 0.01; exit 0")).left_behind, 0);
    }
}

#[test]
fn without_a_cgroup_the_jobs_of_a_shell_are_found_in_its_session() {
    let room = room("jobs");
    // Job control gives each a process group of its own.
    let script = format!("set -m; sleep 60 & echo $! >{}/pid; exit 0", room.display());
    let runner = Processes::without_cgroups(1);
    let outcome = runner.run(sh(&script));
    assert_eq!((outcome.exit, outcome.left_behind, outcome.lingers), (Exit::Code(0), 1, false));
    assert!(!lives(pid_in(&room.join("pid"))), "it was killed before its end was told");
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn a_cgroup_in_the_cgroup_of_a_run_goes_with_it() {
    if !has_cgroups() {
        return;
    }
    let room = room("nested");
    let script = format!(
        "cg=$(sed -n 's/^0:://p' /proc/self/cgroup); \
         mount=$(sed -n 's/.* \\(\\/[^ ]*\\) [^-]*- cgroup2 .*/\\1/p' /proc/self/mountinfo | head -1); \
         mkdir $mount/$cg/own && (sleep 60 & echo $! >$mount/$cg/own/cgroup.procs; \
         echo $! >{}/pid); exit 0",
        room.display()
    );
    let outcome = runner().run(sh(&script));
    let sleeper = pid_in(&room.join("pid"));
    assert_eq!((outcome.exit.clone(), outcome.left_behind), (Exit::Code(0), 1), "{outcome:?}");
    assert!(!lives(sleeper) && !outcome.lingers, "killed, and its cgroup is gone");
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn a_password_that_a_program_reads_is_not_shown() {
    let run = Run { stdin: b"password=fence12".to_vec(), ..sh("cat") };
    let shown = format!("{run:?}");
    assert!(shown.contains("16 bytes") && !shown.contains("fence12"), "{shown}");
    assert!(!shown.contains("49, 50"), "{shown}");
}

#[test]
fn a_kept_process_that_holds_the_output_open_holds_nobody_up() {
    let begun = Instant::now();
    let run = Run { survivors: Survivors::Keep, ..sh("sleep 3 & echo started") };
    let outcome = runner().run(run);
    assert_eq!((outcome.exit.clone(), text(&outcome)), (Exit::Code(0), "started\n".into()));
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
}

#[test]
fn without_cgroups_the_outcome_says_so() {
    let outcome = Processes::without_cgroups(1).run(sh("exit 0"));
    assert_eq!(outcome.containment, Containment::ProcessGroup("cgroups are not wanted".into()));
}

#[test]
fn a_cancelled_run_ends_now() {
    let runner = runner();
    let (handle, told) = start(&runner, sh("sleep 60"));
    eventually("it has begun", || !children().is_empty());
    handle.cancel();
    let outcome = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(outcome.exit, Exit::Cancelled);
    handle.cancel();
    eventually("it is reaped", || children().is_empty());
    assert!(told.recv().is_err(), "it is told once");
}

#[test]
fn a_dropped_handle_leaves_no_child_and_no_zombie() {
    let runner = runner();
    let (handle, told) = start(&runner, sh("sleep 60"));
    eventually("it has begun", || !children().is_empty());
    drop((handle, told));
    eventually("it is stopped and reaped", || children().is_empty());
}

#[test]
fn two_hundred_children_at_once_are_all_told_and_reaped() {
    let (runner, room) = (runner(), room("many"));
    let gate = room.join("gate");
    assert_eq!(runner.run(sh(&format!("mkfifo {}", gate.display()))).exit, Exit::Code(0));
    // Each waits for a line.
    let script = |n: i32| format!("read line <{}; exit {n}", gate.display());
    let all: Vec<_> = (0..200).map(|n| start(&runner, sh(&script(n)))).collect();
    eventually("they run at the same time", || children().len() == 200);
    // A line for each; the last to come finds the pipe still open.
    let mut open = fs::File::options().write(true).open(gate).unwrap();
    open.write_all(&[b'\n'; 200]).unwrap();
    for (n, (_handle, told)) in all.iter().enumerate() {
        let outcome = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(outcome.exit, Exit::Code(n as i32));
    }
    assert_eq!(children(), []);
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn there_is_a_bound_of_children() {
    let runner = Processes::new(2);
    let held: Vec<_> = (0..2).map(|_| start(&runner, sh("sleep 60"))).collect();
    assert_eq!(runner.run(sh("true")).exit, Exit::NotStarted(NotStarted::TooMany(2)));
    drop(held);
    eventually("there is room again", || runner.run(sh("true")).exit == Exit::Code(0));
}

#[test]
fn no_cgroup_stays_behind() {
    if !has_cgroups() {
        return;
    }
    let mine = format!("nines-run-sh-{}-", std::process::id());
    let found = || {
        let mut rooms = vec![PathBuf::from("/sys/fs/cgroup")];
        let mut found = Vec::new();
        while let Some(room) = rooms.pop() {
            for entry in fs::read_dir(room).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&mine) {
                    found.push(entry.path());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    rooms.push(entry.path());
                }
            }
        }
        found
    };
    let runner = runner();
    let (handle, told) = start(&runner, sh("sleep 60"));
    eventually("it has a cgroup of its own", || found().len() == 1);
    handle.cancel();
    told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(found(), [] as [PathBuf; 0]);
}

#[test]
fn the_end_of_all_leaves_nothing_and_nothing_is_started_after_it() {
    for runner in [runner(), Processes::without_cgroups(1_000)] {
        let grace = Millis(100);
        let obeys = Run { grace, ..sh("echo $$; sleep 61") };
        let ignores = Run { grace, ..sh("trap '' TERM; echo $$; sleep 61; sleep 61") };
        let runs = [obeys, ignores].map(|run| start(&runner, run));
        sleep(Duration::from_millis(200));
        assert!(runner.end_all(LONG), "all have ended");
        for (_, told) in &runs {
            let outcome = told.try_recv().expect("its end was told before");
            assert_eq!(outcome.exit, Exit::Cancelled);
            let begun = text(&outcome);
            assert!(begun.is_empty() || !lives(begun.trim().parse().unwrap()), "{begun}");
        }
        let refused = runner.run(sh("exit 0")).exit;
        assert_eq!(refused, Exit::NotStarted(NotStarted::Ended));
        assert!(runner.end_all(Millis(0)));
    }
}
