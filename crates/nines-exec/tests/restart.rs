//! A restart in place: the process becomes another program by `exec`, and keeps its number and its
//! children.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use nines_exec::{Containment, Exit, Leftover, Processes, Run, Runner as _, Survivors};
use nines_model::Millis;

const TEST: &str = "what_a_restart_in_place_has_left_is_told_and_no_name_is_taken";
const STAGE: &str = "NINES_EXEC_STAGE";

/// This test again, in a process that is at this stage.
fn stage(number: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([TEST, "--exact", "--nocapture"]).env(STAGE, number);
    command
}

fn sh(script: &str, survivors: Survivors) -> Run {
    Run { survivors, ..Run::new("/bin/sh", Millis(60_000)).args(["-c", script]) }
}

/// Starts one run of each kind and restarts while both are under way.
fn before(room: &str) {
    let runner = Processes::new(10);
    let script = |name: &str| format!("sleep 61 & echo $$ >{room}/{name}; wait");
    let kill = runner.start(sh(&script("kill"), Survivors::Kill), Box::new(|_| ()));
    let keep = runner.start(sh(&script("keep"), Survivors::Keep), Box::new(|_| ()));
    eventually("both run", || pid(room, "kill").is_some() && pid(room, "keep").is_some());
    std::mem::forget((kill, keep));
    panic!("{}", stage("after").exec());
}

fn after(room: &str) {
    let runner = Processes::new(10);
    // Of this process: other tests leave theirs at the same time.
    let mine = format!("-sh-{}-", std::process::id());
    let is_mine = |left: &&Leftover| left.cgroup.to_string_lossy().contains(&mine);
    let mut left: Vec<_> = runner.leftovers().iter().filter(is_mine).collect();
    left.sort_by_key(|left| left.survivors == Survivors::Keep);
    assert_eq!(left.len(), 2, "{left:?}");
    // The shell and its sleep.
    assert_eq!((left[0].survivors, left[0].processes), (Survivors::Kill, 2));
    assert_eq!((left[1].survivors, left[1].processes), (Survivors::Keep, 2));
    assert!(!left[0].lingers && !left[0].cgroup.exists() && left[1].cgroup.exists(), "{left:?}");
    let (killed, kept) = (pid(room, "kill").unwrap(), pid(room, "keep").unwrap());
    eventually("what was killed is reaped", || state(killed).is_none());
    assert_eq!(state(kept), Some('S'), "the other one goes on");
    // The counter begins again: with the old names these would be taken.
    for survivors in [Survivors::Kill, Survivors::Keep] {
        let outcome = runner.run(sh("exit 3", survivors));
        assert_eq!((outcome.exit, outcome.containment), (Exit::Code(3), Containment::Cgroup));
    }
    assert_eq!(runner.run(sh(&format!("kill {kept}"), Survivors::Kill)).exit, Exit::Code(0));
    eventually("the kept one is reaped when it ends", || state(kept).is_none());
    fs::write(left[1].cgroup.join("cgroup.kill"), "1").unwrap();
    eventually("its cgroup is empty", || fs::remove_dir(&left[1].cgroup).is_ok());
}

fn pid(room: &str, name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("{room}/{name}")).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_restart_in_place_has_left_is_told_and_no_name_is_taken() {
    let room = env::var("NINES_EXEC_ROOM");
    match (env::var(STAGE).as_deref(), room) {
        (Ok("before"), Ok(room)) => return before(&room),
        (Ok("after"), Ok(room)) => return after(&room),
        _ => {}
    }
    if let Containment::ProcessGroup(why) =
        Processes::new(1).run(sh("exit 0", Survivors::Kill)).containment
    {
        println!("SKIPPED: {why}");
        return;
    }
    let room = env::temp_dir().join(format!("nines-exec-restart-{}", std::process::id()));
    fs::create_dir_all(&room).unwrap();
    let told = stage("before").env("NINES_EXEC_ROOM", &room).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{text}\n{}", String::from_utf8_lossy(&told.stderr));
    assert!(text.contains("1 passed"), "{text}");
    fs::remove_dir_all(room).unwrap();
}
