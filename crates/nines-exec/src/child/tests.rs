use std::{fs, io::Read as _, os::unix::net::UnixStream, path::PathBuf, sync::mpsc::channel};

use super::*;

/// A run that leaves a mark where it has run.
fn marking(name: &str) -> (Run, PathBuf) {
    let mark = std::env::temp_dir().join(format!("nines-exec-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&mark);
    let run = Run::new("/bin/sh", Millis(200)).args(["-c", &format!("echo >{}", mark.display())]);
    (run, mark)
}

fn watch(run: Run) -> Watch {
    let cancel = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    Watch { run: Arc::new(run), cancel, started: Instant::now() }
}

/// The child of this run, its number, and the end of a gate in place of its own: what comes through
/// it would let the program run, were it the child's.
fn with_gate(run: &Run) -> (Waiting, u32, UnixStream) {
    let mut child = start::start(run, &no_cgroups()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    child.gate = Some(ours);
    let number = child.pid.as_raw_nonzero().get() as u32;
    (child, number, theirs)
}

/// What has come through a gate, to its end.
fn through(mut gate: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    gate.read_to_end(&mut bytes).unwrap();
    bytes
}

fn no_cgroups() -> cgroup::Parent {
    Err("not here".into())
}

#[test]
fn a_run_that_was_cancelled_before_its_start_never_becomes_the_program() {
    let (run, mark) = marking("cancelled");
    let watch = watch(run);
    rustix::io::write(&watch.cancel, &1u64.to_ne_bytes()).unwrap();
    let (tell, told) = channel();
    let (made, child) = channel();
    let start = move |run: &Run| {
        let (child, number, gate) = with_gate(run);
        made.send((number, gate)).unwrap();
        Ok(child)
    };
    watch.carry_out(start, &Tell::new(Box::new(move |outcome| tell.send(outcome).unwrap())));
    let outcome = told.recv().unwrap();
    assert_eq!((outcome.exit, outcome.has_begun, outcome.lingers), (Exit::Cancelled, false, false));
    let (child, gate) = child.recv().unwrap();
    assert_eq!(through(gate), b"", "it was never opened");
    assert_eq!(process::Stat::of(child), None, "it was made, has ended and was reaped");
    assert!(!mark.exists());
}

#[test]
fn a_start_that_hangs_is_given_up_and_its_child_never_becomes_the_program() {
    let (run, mark) = marking("late");
    let watch = watch(run);
    let (tell, told) = channel();
    let (free, hang) = channel::<()>();
    let (made, child) = channel();
    let start = move |run: &Run| {
        // As in `fork` or in the file system of cgroups.
        hang.recv().unwrap();
        let (child, number, gate) = with_gate(run);
        made.send((number, gate)).unwrap();
        Ok(child)
    };
    let begun = Instant::now();
    let watcher = thread::spawn(move || {
        watch.carry_out(start, &Tell::new(Box::new(move |outcome| tell.send(outcome).unwrap())));
    });
    let outcome = told.recv_timeout(PATIENCE * 3).expect("it is told though the start hangs");
    let took = begun.elapsed();
    assert_eq!(outcome.exit, Exit::DeadlineKilled);
    assert_eq!((outcome.has_begun, outcome.lingers), (false, true));
    assert!(took >= Duration::from_millis(200) + PATIENCE, "{took:?}");
    assert!(took < Duration::from_millis(1_500) + PATIENCE, "{took:?}");
    free.send(()).unwrap();
    watcher.join().unwrap();
    assert!(told.recv().is_err(), "it is told once");
    let (child, gate) = child.recv().unwrap();
    assert_eq!(through(gate), b"", "it was never opened");
    assert_eq!(process::Stat::of(child), None, "it came late, has ended and was reaped");
    assert!(!mark.exists());
}

#[test]
fn the_same_run_leaves_its_mark_when_nobody_stops_it() {
    let (run, mark) = marking("runs");
    let (tell, told) = channel();
    let start = |run: &Run| start::start(run, &no_cgroups());
    watch(run).carry_out(start, &Tell::new(Box::new(move |outcome| tell.send(outcome).unwrap())));
    let outcome = told.recv().unwrap();
    assert_eq!((outcome.exit, outcome.has_begun), (Exit::Code(0), true));
    assert!(mark.exists());
    fs::remove_file(mark).unwrap();
}
