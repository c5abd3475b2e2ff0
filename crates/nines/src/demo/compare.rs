//! The same faults on a real keepalived, side by side, in one run.
//!
//! Decides: keepalived gets the same hosts, the same client and the same questions on the wire. It
//! runs with adverts of 0.1 s (VRRPv3), its fastest usual setting, and with its default of 1 s.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_lab::Lab;
use nines_model::Codes as _;

use super::{
    faults::{self, Fault},
    probe::Probe,
    sampler::Heard,
    stage::{self, CLEANUP, DIRECTORS, Stage, VIP, lab_failure},
};
use crate::context::Context;

const FAULTS: [Fault; 3] = [Fault::KillActive, Fault::CutActive, Fault::PlannedMove];

/// Median outage and heal, worst outage, two masters, ms.
type Row = (f64, f64, f64, u64);

/// Runs `nines demo --compare`.
pub fn run(context: &Context, repeat: u32) -> Outcome<u8> {
    if Command::new("keepalived").arg("-v").output().is_err() {
        return Err(Failure::new(Kind::NotFound, "keepalived is not installed", "")
            .next("apt-get install keepalived"));
    }
    let mut rows: BTreeMap<(usize, &str), Row> = BTreeMap::new();
    let mut stage = Stage::build("auto", None, 0)?;
    for (i, fault) in FAULTS.iter().enumerate() {
        let mut seen = Vec::new();
        for _ in 0..repeat {
            let r = faults::measure(&mut stage, *fault)?;
            seen.push((r.outage_ms, r.heal_outage_ms, r.dual_master_ms));
        }
        rows.insert((i, "nines"), summary(&seen));
    }
    drop(stage);
    for (name, advert) in [("keepalived 0.1 s", "0.1"), ("keepalived 1 s", "1")] {
        for (i, fault) in FAULTS.iter().enumerate() {
            let mut seen = Vec::new();
            for _ in 0..repeat {
                let mut pair = Pair::build(advert)?;
                seen.push(pair.measure(*fault)?);
            }
            rows.insert((i, name), summary(&seen));
        }
    }
    if !context.json() {
        outln!("fault          program            outage median / worst   at heal    two masters");
    }
    for ((i, who), (median, worst, heal, two)) in rows {
        if context.json() {
            outln!(
                "{}",
                serde_json::json!({"fault": FAULTS[i].code(), "who": who, "outage_ms_median": median,
                    "outage_ms_worst": worst, "heal_outage_ms_median": heal, "dual_master_ms_worst": two})
            );
        } else {
            outln!(
                "{:<14} {who:<18} {median:>6.0} / {worst:<6.0} ms      {heal:>6.0} ms   {two:>6} ms",
                FAULTS[i]
            );
        }
    }
    Ok(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn summary(seen: &[(f64, f64, u64)]) -> Row {
    let outages: Vec<f64> = seen.iter().map(|s| s.0).collect();
    let worst = outages.iter().copied().fold(0.0, f64::max);
    let heal = median(seen.iter().map(|s| s.1).collect());
    (median(outages), worst, heal, seen.iter().map(|s| s.2).max().unwrap_or(0))
}

/// Two keepalived, the first of them master; the client asks a web server on either.
struct Pair {
    lab: Lab,
    children: BTreeMap<String, Vec<Child>>,
    probe: Probe,
    heard: Heard,
    home: PathBuf,
    advert: Duration,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.probe.end();
        for child in self.children.values_mut().flatten() {
            nines_lab::kill(child);
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Pair {
    fn build(advert: &str) -> Outcome<Self> {
        let lab = Lab::build(stage::hosts(), CLEANUP).map_err(lab_failure)?;
        let home = PathBuf::from("/tmp").join(lab.namespace("state"));
        fs::create_dir_all(&home).map_err(|e| Failure::new(Kind::Io, "cannot begin", e))?;
        let heard = Heard::start(&lab, &DIRECTORS, VIP).map_err(lab_failure)?;
        let probe = Probe::default();
        let advert_length = Duration::from_secs_f64(advert.parse().unwrap_or(1.0));
        let mut pair =
            Self { lab, children: BTreeMap::new(), probe, heard, home, advert: advert_length };
        // The first becomes master before the second is there.
        for (node, priority, patience) in [("lb1", 150, 4_500), ("lb2", 100, 500)] {
            let config = format!(
                "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance web {{\n state BACKUP\n \
                 interface eth0\n virtual_router_id 51\n priority {priority}\n advert_int {advert}\n \
                 nopreempt\n virtual_ipaddress {{\n  {VIP}/32 dev eth0\n }}\n}}\n"
            );
            fs::write(pair.home.join(node), config)
                .map_err(|e| Failure::new(Kind::Io, "cannot write a config", e))?;
            let mut web = Command::new(
                std::env::current_exe().map_err(|e| Failure::new(Kind::Io, "cannot begin", e))?,
            );
            web.args(["demo-part", "web", "0.0.0.0:80", node, "/nonexistent"]);
            let web = pair.lab.spawn(node, web).map_err(lab_failure)?;
            pair.children.insert(node.into(), vec![web]);
            pair.start(node)?;
            std::thread::sleep(Duration::from_millis(patience));
        }
        let probing = pair.probe.clone();
        let to = std::net::SocketAddr::new(VIP.into(), 80);
        pair.lab.thread("client", move || probing.run(to)).map_err(lab_failure)?;
        let until = Instant::now() + Duration::from_secs(15);
        while pair
            .probe
            .since(Instant::now() - Duration::from_secs(1))
            .iter()
            .all(|s| s.server.is_none())
        {
            if Instant::now() > until {
                return Err(Failure::new(
                    Kind::TimedOut,
                    "keepalived did not serve within 15 s",
                    "",
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(pair)
    }

    fn start(&mut self, node: &str) -> Outcome<()> {
        let mut command = Command::new("keepalived");
        let file = |suffix: &str| self.home.join(format!("{node}{suffix}"));
        command.args(["--dont-fork", "--no-syslog", "--vrrp", "--use-file"]).arg(file(""));
        command.arg("--pid").arg(file(".pid")).arg("--vrrp_pid").arg(file(".vrrp"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.lab.spawn(node, command).map_err(lab_failure)?;
        self.children.entry(node.into()).or_default().push(child);
        Ok(())
    }

    fn measure(&mut self, fault: Fault) -> Outcome<(f64, f64, u64)> {
        let lab = |r: nines_lab::Result<()>| r.map_err(lab_failure);
        let hold = Duration::from_secs(4).max(self.advert * 6);
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        match fault {
            Fault::KillActive => {
                lab(self.lab.links("lb1", false))?;
                for child in self.children.get_mut("lb1").into_iter().flatten().skip(1) {
                    nines_lab::kill(child);
                }
            }
            Fault::CutActive => lab(self.lab.cut("lb1"))?,
            _ => {
                // keepalived has no move: its master is asked to stop.
                for child in self.children.get_mut("lb1").into_iter().flatten().skip(1) {
                    let _ = nines_lab::terminate(child);
                }
            }
        }
        std::thread::sleep(hold);
        let mended = Instant::now();
        let outage = self.probe.seen(began, mended).outage_ms;
        match fault {
            Fault::KillActive => {
                let _ = self.lab.ip("lb1", "addr del 10.99.0.100/32 dev eth0");
                lab(self.lab.links("lb1", true))?;
                self.start("lb1")?;
            }
            Fault::CutActive => lab(self.lab.mend("lb1"))?,
            _ => self.start("lb1")?,
        }
        std::thread::sleep(hold);
        let heal = self.probe.seen(mended, Instant::now() - Duration::from_millis(50)).outage_ms;
        Ok((outage, heal, self.heard.two_at_once_ms(began)))
    }
}
