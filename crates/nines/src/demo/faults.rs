//! Faults, and what clients felt.
//!
//! Decides: how each fault is made, for how long, and what is written about it.

use std::time::{Duration, Instant};

use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    types::NodeStatus,
};
use nines_model::{Codes as _, codes};
use serde::Serialize;

use super::{
    SCRIPTS,
    probe::{HELD, Seen},
    stage::{DIRECTORS, NODES, SERVERS, Stage, lab_failure},
};
codes! {
    /// What goes wrong in the demo.
    pub enum Fault {
        /// The director that holds the VIP loses its power.
        KillActive = "kill-active",
        /// Its agent is frozen; its kernel goes on.
        FreezeActive = "freeze-active",
        /// Its cable is pulled.
        CutActive = "cut-active",
        /// An operator moves the VIP.
        PlannedMove = "planned-move",
        /// A real server loses its power.
        KillServer = "kill-server",
        /// A real server answers 500.
        BrokenServer = "broken-server",
        /// An operator drains a real server.
        DrainServer = "drain-server",
        /// The active director and the other nodes no longer hear each other.
        Split = "split",
        /// What the active director sends reaches no other node; clients and servers hear it.
        MuteActive = "mute-active",
        /// What the other nodes send does not reach the active director.
        DeafActive = "deaf-active",
        /// The agent of the witness ends.
        KillWitness = "kill-witness",
        /// The agent of the active director is replaced in place.
        RestartAgent = "restart-agent",
        /// No fault: shows what goes wrong by itself. With `--busy 4 --repeat 120` a soak.
        Nothing = "nothing",
    }
}

impl Fault {
    /// Whether it stays until it is mended.
    pub const fn lasts(self) -> bool {
        !matches!(self, Self::PlannedMove | Self::RestartAgent | Self::Nothing)
    }
}

/// One fault's story, as JSON prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the script.
    pub fault: String,
    /// Longest time without a good fresh answer, ms.
    pub outage_ms: f64,
    /// Longest single request that succeeded, ms.
    pub longest_wait_ms: f64,
    /// Good fresh requests.
    pub requests_ok: usize,
    /// Failed fresh requests.
    pub requests_failed: usize,
    /// Long-lived connections before the fault.
    pub established: usize,
    /// And after it.
    pub established_survived: usize,
    /// Both directors answered for the VIP, ms.
    pub dual_master_ms: u64,
    /// Director that held the VIP before the fault.
    pub active_before: String,
    /// Director that held the VIP after the fault.
    pub active_after: String,
    /// Votes during the fault, "2/3".
    pub quorum: String,
    /// Longest time without a good fresh answer while the fault was mended, ms.
    pub heal_outage_ms: f64,
}

/// How long a fault stays before it is mended.
const HOLD: Duration = Duration::from_millis(2_500);
/// How long is watched after it was mended.
const AFTER: Duration = Duration::from_millis(2_500);

/// Waits until everything works again and clients hold all their connections.
pub fn calm(stage: &mut Stage) -> Outcome<String> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut since = None;
    loop {
        stage.probe.fill();
        let well = stage.active().filter(|(_, s)| {
            let away = |n: &NodeStatus| n.is(NodeState::Silent) || n.is(NodeState::NotReady);
            let nodes = !s.nodes.iter().any(away);
            let servers = s.services.iter().all(|s| s.up == SERVERS.len());
            nodes && servers && stage.probe.open() == HELD
        });
        match (well, since) {
            (Some((active, _)), Some(at)) if Instant::now() > at => return Ok(active),
            (Some(_), None) => since = Some(Instant::now() + Duration::from_millis(600)),
            (Some(_), Some(_)) => {}
            (None, _) => since = None,
        }
        if Instant::now() > until {
            return Err(Failure::new(Kind::TimedOut, "the demo did not calm down within 20 s", "")
                .next(format!("look at {}", stage.log_of("lb1").display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn other(active: &str) -> &'static str {
    let [first, second] = DIRECTORS;
    if active == first { second } else { first }
}

fn ip(node: &str) -> String {
    format!("10.99.0.{}", NODES.iter().position(|n| *n == node).unwrap_or(0) + 2)
}

/// What this node sends reaches no other node.
fn mute(stage: &Stage, active: &str) -> nines_lab::Result<()> {
    let others: Vec<String> = NODES.into_iter().filter(|n| *n != active).map(ip).collect();
    stage.lab.drop_one_way(active, &others)
}

/// What the other nodes send does not reach this one.
fn deafen(stage: &Stage, active: &str) -> nines_lab::Result<()> {
    let mut others = NODES.into_iter().filter(|n| *n != active);
    others.try_for_each(|node| stage.lab.drop_one_way(node, &[ip(active)]))
}

/// Makes a fault.
pub fn inject(stage: &mut Stage, fault: Fault, active: &str) -> Outcome<()> {
    let lab = |r: nines_lab::Result<()>| r.map_err(lab_failure);
    match fault {
        Fault::KillActive => {
            // As a power cut: the links go first, or the kernel of the dead host would go on.
            lab(stage.lab.links(active, false))?;
            stage.kill_agent(active);
        }
        Fault::FreezeActive => {
            if let Some(agent) = stage.agent(active) {
                nines_lab::freeze(agent).map_err(lab_failure)?;
            }
        }
        Fault::CutActive => lab(stage.lab.cut(active))?,
        Fault::PlannedMove => {
            stage.nines("wit1", &["move", "web", "--to", other(active)])?;
        }
        Fault::KillServer => {
            stage.lab.links("r2", false).map_err(lab_failure)?;
            stage.kill_server("r2");
        }
        Fault::DrainServer => {
            stage.nines("wit1", &["drain", "r2", "--reason", "demo"])?;
        }
        // The active director on one side, the other and the witness on the other; clients and
        // servers reach both.
        Fault::Split => {
            lab(mute(stage, active))?;
            lab(deafen(stage, active))?;
        }
        Fault::MuteActive => lab(mute(stage, active))?,
        Fault::DeafActive => lab(deafen(stage, active))?,
        Fault::KillWitness => stage.kill_agent("wit1"),
        Fault::RestartAgent => {
            if let Some(agent) = stage.agent(active) {
                nines_lab::hang_up(agent).map_err(lab_failure)?;
            }
        }
        Fault::BrokenServer => {
            let _ = std::fs::write(stage.broken("r2"), "");
        }
        Fault::Nothing => {}
    }
    Ok(())
}

/// Ends a fault that [`inject`] made.
pub fn mend(stage: &mut Stage, fault: Fault, active: &str) -> Outcome<()> {
    let lab = |r: nines_lab::Result<()>| r.map_err(lab_failure);
    match fault {
        Fault::KillActive => {
            // The address that the dead kernel held went with its power.
            let _ = stage.lab.ip(active, "addr del 10.99.0.100/32 dev eth0");
            lab(stage.lab.links(active, true))?;
            stage.start_agent(active)?;
        }
        Fault::FreezeActive => {
            if let Some(agent) = stage.agent(active) {
                nines_lab::thaw(agent).map_err(lab_failure)?;
            }
        }
        Fault::CutActive => lab(stage.lab.mend(active))?,
        Fault::KillServer => {
            lab(stage.lab.links("r2", true))?;
            stage.start_server("r2")?;
        }
        Fault::DrainServer => {
            stage.nines("wit1", &["undrain", "r2"])?;
        }
        Fault::Split => {
            for node in NODES {
                lab(stage.lab.pass_again(node))?;
            }
        }
        Fault::MuteActive => lab(stage.lab.pass_again(active))?,
        Fault::DeafActive => {
            for node in NODES.into_iter().filter(|n| *n != active) {
                lab(stage.lab.pass_again(node))?;
            }
        }
        Fault::KillWitness => stage.start_agent("wit1")?,
        Fault::BrokenServer => {
            let _ = std::fs::remove_file(stage.broken("r2"));
        }
        Fault::PlannedMove | Fault::RestartAgent | Fault::Nothing => {}
    }
    Ok(())
}

/// Makes one fault, measures, mends it, measures again.
pub fn measure(stage: &mut Stage, fault: Fault) -> Outcome<Report> {
    let active_before = calm(stage)?;
    let established = stage.probe.open();
    let began = Instant::now();
    inject(stage, fault, &active_before)?;
    std::thread::sleep(HOLD.saturating_sub(began.elapsed()));
    let (active_after, status) = stage.active().unwrap_or_default();
    let until = Instant::now();
    let seen = {
        // Requests that wait are given their time before they are judged.
        let mended = Instant::now();
        mend(stage, fault, &active_before)?;
        std::thread::sleep(AFTER);
        let heal = stage.probe.seen(mended, Instant::now() - Duration::from_millis(50));
        (finished(stage, began, until), heal)
    };
    let (fault_seen, heal_seen) = seen;
    Ok(Report {
        fault: fault.code().to_owned(),
        outage_ms: round(fault_seen.outage_ms),
        longest_wait_ms: round(fault_seen.longest_wait_ms),
        requests_ok: fault_seen.ok,
        requests_failed: fault_seen.failed,
        established,
        established_survived: stage.probe.open().min(established),
        dual_master_ms: stage.heard.two_at_once_ms(began),
        active_before,
        active_after,
        quorum: format!("{}/{}", status.votes, status.voters),
        heal_outage_ms: round(heal_seen.outage_ms),
    })
}

/// The window when all its requests have ended.
fn finished(stage: &Stage, began: Instant, until: Instant) -> Seen {
    let patience = Duration::from_millis(3_100);
    std::thread::sleep((until + patience).saturating_duration_since(Instant::now()));
    stage.probe.seen(began, until)
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// Runs faults and prints a line, or a JSON object, for each.
pub fn unattended(mut stage: Stage, faults: &[Fault], repeat: u32, json: bool) -> Outcome<u8> {
    if !json {
        outln!(
            "hosts built in {:.0} ms; agents started to first answer in {:.0} ms",
            stage.built.as_secs_f64() * 1e3,
            stage.cold_start.as_secs_f64() * 1e3
        );
        outln!(
            "fault            outage    longest  ok     failed  held     two masters  active       quorum  heal"
        );
    }
    for fault in faults {
        for _ in 0..repeat {
            let r = measure(&mut stage, *fault)?;
            if json {
                outln!("{}", serde_json::to_string(&r).expect("plain data"));
            } else {
                outln!("{}", line(&r));
            }
        }
    }
    Ok(0)
}

/// A report as a line.
pub fn line(r: &Report) -> String {
    format!(
        "{:<15} {:>6.0} ms {:>6.0} ms  {:<6} {:<6}  {:>2}/{:<2}  {:>8} ms   {} -> {}   {}     {:.0} ms",
        r.fault,
        r.outage_ms,
        r.longest_wait_ms,
        r.requests_ok,
        r.requests_failed,
        r.established_survived,
        r.established,
        r.dual_master_ms,
        r.active_before,
        r.active_after,
        r.quorum,
        r.heal_outage_ms
    )
}

/// Without a terminal: three faults, told in plain lines.
pub fn tour(stage: Stage) -> Outcome<u8> {
    outln!("nines demo: a whole cluster on this machine, in 7 network namespaces.");
    outln!(
        "No terminal here, so it shows three faults by itself; --script all shows {}.",
        SCRIPTS.len()
    );
    let faults = [Fault::KillActive, Fault::Split, Fault::DrainServer];
    unattended(stage, &faults, 1, false)
}
