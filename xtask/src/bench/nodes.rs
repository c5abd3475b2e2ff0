//! What many nodes cost: `cargo xtask bench nodes [--nodes N]`. N directors (16) with a VIP each
//! form a cluster by joins on this machine; then each agent's memory and CPU time at rest are told.
//! Needs root.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nines_lab::Wire;
use serde_json::{Value, json};

use super::Bench;

/// How long the agents are watched.
const WATCHED: Duration = Duration::from_secs(30);
/// Ticks a second in which the kernel counts CPU time for programs, on every Linux.
const CPU_HZ: f64 = 100.0;
/// A bound for hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// A cluster of many directors.
struct Cluster {
    bench: Bench,
    nines: PathBuf,
    names: Vec<String>,
}

fn address(n: usize) -> String {
    format!("10.95.0.{}", 10 + n)
}

impl Cluster {
    fn words(&self, name: &str, words: &[&str]) -> Vec<String> {
        let place = |end: &str| self.bench.home.join(format!("{name}{end}")).display().to_string();
        let first = ["--socket".to_owned(), place(".sock"), "--state".to_owned(), place("")];
        first.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// What a command of nines on a host says.
    fn nines(&self, name: &str, words: &[&str]) -> Result<String, String> {
        let words = self.words(name, words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.bench.done(name, &self.nines, &words)
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        let words = self.words(name, &["agent"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.bench.spawn(name, &self.nines.clone(), &words)
    }

    /// Waits until what a status says is as wanted.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let status = self.nines(&self.names[0], &["status", "-o", "json"]).unwrap_or_default();
            if serde_json::from_str(&status).is_ok_and(|status: Value| is(&status)) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("not within {} s: {what}\n{status}", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Forms it, one join after the other, and gives each director a VIP.
    fn form(nines: &Path, count: usize) -> Result<Self, String> {
        let names: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
        let wire = |n: usize| vec![Wire::new("br0", &format!("{}/24", address(n)))];
        let hosts = names.iter().enumerate().map(|(n, name)| (name.clone(), wire(n)));
        let bench = Bench::build(hosts.collect::<BTreeMap<_, _>>())?;
        let mut cluster = Self { bench, nines: nines.to_owned(), names: names.clone() };
        let first = names[0].clone();
        cluster.nines(&first, &["init", "many", "--node", &first, "--address", &address(0)])?;
        cluster.start(&first)?;
        cluster.until("the first node leads", |status| status["quorate"] == true)?;
        for (n, name) in names.iter().enumerate().skip(1) {
            let said = cluster.nines(&first, &["code", "--node", name])?;
            let code = said.lines().find(|line| line.contains("nines join"));
            let code =
                code.and_then(|line| line.split_whitespace().nth(3)).ok_or("no join code")?;
            let (to, own) = (address(0), address(n));
            cluster.nines(name, &["join", &to, code, "--node", name, "--address", &own])?;
            cluster.start(name)?;
        }
        let mut config = "[cluster]\nname = \"many\"\n[nodes]\n".to_owned();
        for (n, name) in names.iter().enumerate() {
            let _ = writeln!(config, "{name} = \"{}\"", address(n));
        }
        for (n, name) in names.iter().enumerate() {
            let vip = format!("10.95.0.{}", 100 + n);
            let _ = writeln!(config, "[vip.v{n}]\naddress = \"{vip}/24\"\nprefer = [\"{name}\"]");
        }
        let file = cluster.bench.write("cluster.toml", &config)?;
        let ready = |status: &Value| {
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.len() == count && nodes.iter().all(|node| node["state"] == "ready")
        };
        cluster.until("all nodes are ready", ready)?;
        cluster.nines(&first, &["apply", "--yes", &file])?;
        cluster.until("each VIP has a holder", |status| {
            let vips = status["vips"].as_array().map_or(&[][..], Vec::as_slice);
            vips.len() == count && vips.iter().all(|vip| vip["node"] != "")
        })?;
        Ok(cluster)
    }

    /// CPU time of each agent since its start, s.
    fn cpu_s(&self) -> Result<Vec<f64>, String> {
        let of = |pid: u32| -> Option<f64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            Some((fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?) / CPU_HZ)
        };
        let pids = self.bench.children.iter().map(std::process::Child::id);
        pids.map(|pid| of(pid).ok_or_else(|| format!("agent {pid} is gone"))).collect()
    }

    /// Memory of each agent, MiB: what is in RAM, pages of the program that all share included.
    fn rss_mib(&self) -> Result<Vec<f64>, String> {
        let of = |pid: u32| -> Option<f64> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1_024.0)
        };
        let pids = self.bench.children.iter().map(std::process::Child::id);
        pids.map(|pid| of(pid).ok_or_else(|| format!("agent {pid} is gone"))).collect()
    }
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Runs it with this program.
pub fn nodes(nines: &Path, options: &[&str]) -> Result<(), String> {
    let (mut count, mut as_json) = (16, false);
    for pair in options.chunks(2) {
        match pair {
            ["--nodes", number] => match number.parse() {
                Ok(number @ 1..=32) => count = number,
                _ => return Err(format!("--nodes {number}: 1 to 32 are possible")),
            },
            ["-o", "json"] => as_json = true,
            other => return Err(format!("{other:?} is no option of bench nodes")),
        }
    }
    let began = Instant::now();
    let cluster = Cluster::form(nines, count)?;
    let formed = began.elapsed().as_secs_f64();
    let before = cluster.cpu_s()?;
    std::thread::sleep(WATCHED);
    let share = |(after, before): (f64, &f64)| (after - before) / WATCHED.as_secs_f64() * 100.0;
    let cpu: Vec<f64> = cluster.cpu_s()?.into_iter().zip(&before).map(share).collect();
    let rss = cluster.rss_mib()?;
    let (half_cpu, half_rss) = (super::median(cpu.clone()), super::median(rss.clone()));
    if as_json {
        let line = json!({ "nodes": count, "formed_s": formed,
            "cpu_percent": { "median": half_cpu, "worst": worst(&cpu) },
            "rss_mib": { "median": half_rss, "worst": worst(&rss) } });
        println!("{line}");
    } else {
        println!(
            "{count} directors with a VIP each, formed by joins in {formed:.0} s: \
             CPU {half_cpu:.1} % of a core (worst {:.1}), memory {half_rss:.1} MiB (worst {:.1})",
            worst(&cpu),
            worst(&rss)
        );
    }
    Ok(())
}
