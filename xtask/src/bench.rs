//! Benchmarks anyone can run: ratios against peers in one run on one machine.
//!
//! `http`: requests a second of keep-alive HTTP (nginx, wrk) through a director by direct routing,
//! beside the same client straight to the server, plain ip_forward through the same namespace, and
//! haproxy in TCP mode. Needs root, nginx, wrk and haproxy.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nines_lab::{Lab, Wire};

/// Rounds; every variant runs once in each.
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;

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
    fn spawn(&mut self, host: &str, program: &Path, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.lab.spawn(host, command).map_err(|e| e.to_string())?;
        self.children.push(child);
        Ok(())
    }

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

    /// Requests a second.
    fn rate(&self, url: &str) -> Result<f64, String> {
        let time = format!("-d{SECONDS}");
        let said = self.done("client", Path::new("wrk"), &["-t2", "-c32", &time, url])?;
        let line = said.lines().find(|l| l.starts_with("Requests/sec:"));
        line.and_then(|l| l.split_whitespace().nth(1))
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| format!("wrk said: {said}"))
    }
}

/// The client and the server each have two wires: one to the director's network, one direct.
fn build() -> Result<Bench, String> {
    let hosts = BTreeMap::from([
        (
            "client".to_owned(),
            vec![Wire::new("br0", "10.96.0.1/24"), Wire::new("br2", "10.96.2.1/24")],
        ),
        (
            "lb1".to_owned(),
            vec![Wire::new("br0", "10.96.0.2/24"), Wire::new("br1", "10.96.1.2/24")],
        ),
        (
            "server".to_owned(),
            vec![Wire::new("br1", "10.96.1.11/24"), Wire::new("br2", "10.96.2.11/24")],
        ),
    ]);
    let cleanup = "rm -rf /sys/fs/bpf/nines/$inode; rmdir /sys/fs/bpf/nines 2>/dev/null";
    let lab = Lab::build(hosts, cleanup).map_err(|e| e.to_string())?;
    let home = PathBuf::from("/tmp").join(lab.namespace("bench"));
    fs::create_dir_all(&home).map_err(|e| e.to_string())?;
    Ok(Bench { lab, home, children: Vec::new() })
}

/// Runs it.
pub fn http(json: bool) -> Result<(), String> {
    for program in ["nginx", "wrk", "haproxy"] {
        if Command::new(program)
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            return Err(format!(
                "{program} is not installed: apt-get install nginx-light wrk haproxy"
            ));
        }
    }
    let nines = crate::root().join("target/release/nines");
    if !nines.exists() {
        return Err("build it first: cargo build --release".into());
    }
    let mut b = build()?;
    // Replies bypass the director, for nines and for plain forwarding alike.
    for (host, words) in [
        ("server", "route add 10.96.0.0/24 via 10.96.2.1"),
        ("client", "route add 10.96.1.0/24 via 10.96.0.2"),
    ] {
        b.lab.ip(host, words).map_err(|e| e.to_string())?;
    }
    let forward = || fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    b.lab.within("lb1", forward).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    servers(&mut b, &nines)?;
    std::thread::sleep(Duration::from_millis(1_500));
    let variants = [
        ("direct", "http://10.96.2.11/"),
        ("ip_forward", "http://10.96.1.11/"),
        ("nines dr", "http://10.96.0.100/"),
        ("haproxy tcp", "http://10.96.0.2:8080/"),
    ];
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (name, url) in variants {
            rates.entry(name).or_default().push(b.rate(url)?);
        }
    }
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let ratio = |a: &str, b: &str| {
        median(rates[a].iter().zip(&rates[b]).map(|(x, y)| x / y).collect::<Vec<f64>>())
    };
    for (name, _) in variants {
        let rate = median(rates[name].clone());
        let (direct, plain, proxy) =
            (ratio(name, "direct"), ratio(name, "ip_forward"), ratio(name, "haproxy tcp"));
        if json {
            println!(
                "{{\"variant\":\"{name}\",\"requests_per_s\":{rate:.0},\"to_direct\":{direct:.3},\
                 \"to_ip_forward\":{plain:.3},\"to_haproxy\":{proxy:.3}}}"
            );
        } else {
            println!(
                "{name:<12} {rate:>8.0} req/s   {direct:.2} of direct   {plain:.2} of ip_forward   \
                 {proxy:.2} of haproxy"
            );
        }
    }
    Ok(())
}

fn servers(b: &mut Bench, nines: &Path) -> Result<(), String> {
    let home = b.home.to_string_lossy().into_owned();
    let nginx = b.write(
        "nginx.conf",
        &format!(
            "worker_processes 1; daemon off; pid {home}/nginx.pid; error_log /dev/null;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; server {{ listen 80; \
             location / {{ return 200 'ok'; }} }} }}\n"
        ),
    )?;
    b.spawn("server", Path::new("nginx"), &["-c", &nginx])?;
    let haproxy = b.write(
        "haproxy.cfg",
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\nfrontend f\n bind :8080\n default_backend s\nbackend s\n \
         server s1 10.96.1.11:80\n",
    )?;
    b.spawn("lb1", Path::new("haproxy"), &["-db", "-f", &haproxy])?;
    let (state, server_state) = (format!("{home}/lb1"), format!("{home}/server"));
    let socket = format!("{home}/lb1.sock");
    b.done("server", nines, &["--state", &server_state, "server", "prepare", "10.96.0.100"])?;
    let common = ["--state", &state, "--socket", &socket];
    let with = |more: &[&'static str]| -> Vec<String> {
        common.iter().map(|s| (*s).to_owned()).chain(more.iter().map(|s| (*s).to_owned())).collect()
    };
    let words = with(&["init", "bench", "--node", "lb1", "--address", "10.96.0.2"]);
    b.done("lb1", nines, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let words = with(&["agent"]);
    b.spawn("lb1", nines, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    std::thread::sleep(Duration::from_millis(800));
    let file = b.write(
        "cluster.toml",
        "[cluster]\nname = \"bench\"\n[nodes]\nlb1 = \"10.96.0.2\"\n[service.web]\n\
         listen = \"10.96.0.100:80/tcp\"\nservers = { s1 = \"10.96.1.11\" }\n",
    )?;
    let mut words = with(&["apply"]);
    words.push(file);
    b.done("lb1", nines, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(())
}
