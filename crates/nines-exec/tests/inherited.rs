//! What a child does not inherit: all that an agent has set for itself. Alone in its file, because
//! it changes its own process.

use std::{fs, sync::mpsc::channel, thread};

use nines_exec::{Exit, Processes, Run, Runner as _};
use nines_model::Millis;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets what a daemon in real time, and an operator's shell, may have set. What this user may not
/// set is said.
fn become_special() -> Vec<&'static str> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    let mut refused = Vec::new();
    // Without CAP_SYS_RESOURCE it may be raised only.
    let rank = ["-500", "300"].iter().find(|r| fs::write("/proc/self/oom_score_adj", r).is_ok());
    assert!(rank.is_some());
    let real_time = libc::sched_param { sched_priority: 1 };
    // SAFETY: numbers, and locals that live through the calls.
    unsafe {
        libc::umask(0o077);
        for ignored in [libc::SIGHUP, libc::SIGTERM, libc::SIGUSR1, libc::SIGRTMIN()] {
            libc::signal(ignored, libc::SIG_IGN);
        }
        // One of those that libc keeps for itself.
        let ignore = [1u64, 0, 0, 0, 0, 0, 0, 0];
        let none = std::ptr::null::<u64>();
        libc::syscall(libc::SYS_rt_sigaction, 33, ignore.as_ptr(), none, 8usize);
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        if libc::setpriority(libc::PRIO_PROCESS, 0, -5) < 0 {
            refused.push("nice");
        }
        // Without the flag that resets it on fork.
        if libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const real_time) < 0 {
            refused.push("real time");
        }
    }
    refused
}

#[test]
fn a_child_has_defaults_whatever_its_agent_has() {
    let refused = become_special();
    if !refused.is_empty() {
        println!("SKIPPED: this user may not set {}", refused.join(", "));
    }
    // A thread inherits them, too.
    let (tell, told) = channel();
    thread::spawn(move || {
        // dash resets nothing of what is asked for here; fields 18, 19 and 41 of stat(5), after
        // the name: priority, nice, policy.
        let script = "umask; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; \
            grep -E 'Sig(Blk|Ign)' /proc/self/status; \
            sed 's/.*) //' /proc/self/stat | cut -d' ' -f17,39; pwd; \
            ps -o sid=,pgid=,pid= -p $$ | tr -s ' ' '\\n' | sort -u | grep -c .";
        let run = Run::new("/bin/sh", Millis(10_000)).args(["-c", script]);
        tell.send(Processes::without_cgroups(1).run(run)).unwrap();
    });
    let outcome = told.recv().unwrap();
    assert_eq!(outcome.exit, Exit::Code(0));
    let hard = getrlimit(Resource::Nofile).maximum.map_or("unlimited".into(), |n| n.to_string());
    let wanted = format!(
        "0022\n1024\n{hard}\n0\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0 0\n/\n1\n"
    );
    assert_eq!(String::from_utf8(outcome.stdout.bytes).unwrap(), wanted);
    // SAFETY: takes a number only.
    assert_eq!(unsafe { libc::umask(0o077) }, 0o077, "ours is as it was");
    assert_ne!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "0\n");
}
