//! A cluster formed by hand: init, join, apply, and the daily acts; and what goes wrong on the way.

use super::{Net, can_run, text};

const CONFIG: &str = "[cluster]\nname = \"shop\"\n[nodes]\nlb1 = \"10.97.0.2\"\nlb2 = \"10.97.0.3\"\n\
    wit1 = { addresses = \"10.97.0.4\", role = \"witness\" }\n[service.web]\n\
    listen = \"10.97.0.100:80/tcp\"\nservers = { r1 = \"10.97.0.11\", r2 = \"10.97.0.12\" }\n\
    check = { http = \"/\", every = \"100ms\", timeout = \"100ms\" }\n";

fn hosts() -> Net {
    Net::new(&[
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("lb2", &[("br0", "10.97.0.3/24")]),
        ("wit1", &[("br0", "10.97.0.4/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
        ("r2", &[("br0", "10.97.0.12/24")]),
    ])
}

fn join_words(said: &str) -> Vec<String> {
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    line.split_whitespace().skip(2).map(str::to_owned).collect()
}

#[test]
fn three_commands_make_a_cluster_that_tells_why() {
    if !can_run() {
        return;
    }
    let mut net = hosts();
    let said = net.ok("lb1", &["init", "shop", "--node", "lb1"]);
    let words = join_words(&said);
    let (addr, code) = (words[0].as_str(), words[1].as_str());
    net.fails("lb1", &["init", "again", "--node", "lb1"], 4);
    net.fails("lb2", &["join", addr, code, "--node", "lb2"], 3);
    assert!(!net.home.join("lb2/identity.json").exists(), "an unreachable peer leaves nothing");
    net.start("lb1");
    let other_code = format!("{}{}", if code.starts_with('a') { "b" } else { "a" }, &code[1..]);
    let told = net.fails("lb2", &["join", addr, &other_code, "--node", "lb2"], 8);
    assert!(told.contains("the join code is wrong, or another member made it"), "{told}");
    let stranger =
        format!("{}{}", &code[..code.len() - 2], if code.ends_with("aa") { "ba" } else { "aa" });
    net.fails("lb2", &["join", addr, &stranger, "--node", "lb2"], 8);
    net.fails("lb2", &["join", addr, code, "--node", "lb2", "--address", "10.97.0.77"], 2);
    assert!(!net.home.join("lb2/identity.json").exists(), "a refused join leaves nothing");
    let told = net.fails("lb2", &["join", addr, code, "--node", "LB1"], 8);
    assert!(told.contains("certificates cannot tell LB1 from the member lb1"), "{told}");
    net.ok("lb2", &["join", addr, code, "--node", "lb2"]);
    net.start("lb2");
    let told = net.fails("wit1", &["join", addr, code, "--node", "wit1"], 8);
    assert!(told.contains("the join code was used by lb2"), "{told}");
    net.join("wit1", "lb1", &["--witness"]);
    net.start("wit1");
    codes_are_listed_and_read_from_elsewhere(&net, addr);
    net.until("three voters", |n| {
        n.status("wit1")["voters"] == 3 && n.status("wit1")["votes"] == 3
    });
    second_agents_are_refused(&net);
    daily_acts(&mut net);
    the_story_survives_its_teller(&mut net);
}

/// What a command says that joins: its code.
fn code_of(said: &str) -> String {
    join_words(said)[1].clone()
}

fn codes_are_listed_and_read_from_elsewhere(net: &Net, addr: &str) {
    let first = code_of(&net.ok("lb1", &["code", "--node", "r1", "--for", "2h"]));
    let second = code_of(&net.ok("lb1", &["code", "--server"]));
    let listed: serde_json::Value =
        serde_json::from_str(&net.ok("lb1", &["code", "list", "-o", "json"])).unwrap();
    let of = |field: &str| -> Vec<String> {
        let codes = listed["codes"].as_array().unwrap();
        codes.iter().map(|code| code[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("used_by"), ["lb2", "wit1", "", ""]);
    assert_eq!(of("admits"), ["director", "witness", "director", "server"]);
    let told = net.ok("lb1", &["code", "list"]);
    assert!(told.contains("used by wit1") && !told.contains(&first), "{told}");
    let file = net.write("code", &format!("{first}\n"));
    let told = net.fails("r1", &["join", addr, "--code-file", &file, "--node", "r2"], 8);
    assert!(told.contains("admits a machine named r1 only"), "{told}");
    let told = net.fails("r1", &["join", addr, "--code-file", &file, "--server"], 8);
    assert!(told.contains("admits a director, not a real server"), "{told}");
    net.ok("lb1", &["code", "revoke", &of("id")[2]]);
    let told = net.fails("r1", &["join", addr, "--code-file", &file, "--node", "r1"], 8);
    assert!(told.contains("the join code was revoked"), "{told}");
    net.fails("lb1", &["code", "revoke", &of("id")[2]], 5);
    net.fails("r1", &["join", addr, "--code-file", "/no/such/file"], 5);
    // From stdin, where no list of processes shows it.
    let mut command = net.command("r2", &["join", addr, "-", "--server", "--node", "r2"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = net.lab.spawn("r2", command).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, second.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    // What joined has made its own key, and only directors have that of the authority.
    let kept = |host: &str, file: &str| {
        std::fs::read_to_string(net.home.join(host).join(file)).unwrap_or_default()
    };
    for (host, has_ca_key) in [("lb1", true), ("lb2", true), ("wit1", false), ("r2", false)] {
        assert!(kept(host, "node.key").contains("PRIVATE KEY"), "{host}");
        assert_eq!(kept(host, "ca.key").contains("PRIVATE KEY"), has_ca_key, "{host}");
        assert!(!net.home.join(host).join("joining.key").exists(), "{host}");
    }
    std::fs::remove_dir_all(net.home.join("r2")).unwrap();
}

fn second_agents_are_refused(net: &Net) {
    let told = net.fails("lb1", &["agent"], 4);
    assert!(told.contains("already listens"), "{told}");
    let socket = net.home.join("second.sock");
    let mut command = std::process::Command::new(super::BINARY);
    command.arg("--socket").arg(&socket).arg("--state").arg(net.home.join("lb1")).arg("agent");
    command.stderr(std::process::Stdio::piped());
    let out = net.lab.spawn("lb1", command).unwrap().wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(4));
    assert!(text(&out.stderr).contains("in use"));
    assert!(!socket.exists());
}

fn daily_acts(net: &mut Net) {
    net.web("r1", "0.0.0.0:80");
    net.web("r2", "0.0.0.0:80");
    let file = net.write("cluster.toml", CONFIG);
    assert!(net.ok("lb2", &["plan", &file]).contains("+ service web"));
    let lost = net.write("lost.toml", &CONFIG.replace("10.97.0.100", "10.96.0.100"));
    let told = net.fails("lb2", &["apply", &lost], 2);
    assert!(told.contains("in no subnet of lb1"), "{told}");
    if !nines_dataplane::ipvs::can_be() {
        let other =
            net.write("ipvs.toml", &format!("{CONFIG}[forwarding]\ndataplane = \"ipvs\"\n"));
        net.until("the agents have told what their kernels have", |n| {
            n.status("lb1")["nodes"].as_array().unwrap().iter().all(|n| n["version"] != "")
        });
        let told = net.fails("lb2", &["apply", &other], 2);
        assert!(told.contains("lb1 cannot forward by IPVS") && told.contains("modprobe"), "{told}");
    }
    let full = CONFIG.replace("check = {", "forward = \"full-nat\"\ncheck = {");
    let full = net.write("full.toml", &format!("{full}[forwarding]\ndataplane = \"ipvs\"\n"));
    let told = net.fails("lb2", &["apply", &full], 2);
    assert!(told.contains("cannot be reached by full-nat"), "{told}");
    assert_eq!(net.status("lb1")["revision"], 1, "nothing was applied");
    net.ok("lb2", &["apply", &file]);
    assert!(net.ok("wit1", &["plan", &file]).contains("Nothing changes"));
    // Checks succeed, and no client would get an answer: not healthy.
    net.until("what real servers lack is told", |n| {
        let told = n.ok("wit1", &["status"]);
        told.contains("DOWN") && told.contains("nines server prepare 10.97.0.100")
    });
    net.ok("r1", &["server", "prepare", "10.97.0.100"]);
    net.ok("r2", &["server", "prepare", "10.97.0.100"]);
    net.until("a holder, two servers up, all ready", |n| {
        let s = n.status("wit1");
        s["verdict"] == "HEALTHY" && s["services"][0]["up"] == 2
    });
    let told = net.fails("lb1", &["drain", "r9"], 5);
    assert!(told.contains("unknown server r9"), "{told}");
    net.ok("lb1", &["drain", "r2", "--reason", "kernel", "--until", "1h"]);
    net.fails("lb1", &["drain", "r1"], 4);
    let why = net.ok("lb2", &["why", "r2"]);
    assert!(why.contains("drains by") && why.contains("kernel"), "{why}");
    net.ok("lb2", &["undrain", "r2"]);
    net.ok("lb1", &["drain", "r1", "--until", "300ms"]);
    net.until("a drain ends by itself", |n| n.status("lb1")["services"][0]["up"] == 2);
    net.fails("lb1", &["move", "web", "--to", "wit1"], 2);
    net.fails("lb1", &["move", "web", "--to", "lb3"], 5);
    net.fails("lb1", &["why", "wbe"], 5);
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    a_plan_says_where_vips_would_go(net, &holder, other);
    net.ok("wit1", &["standby", &holder, "--wait"]);
    assert_eq!(net.holder("wit1"), other);
    net.fails("wit1", &["move", "web", "--to", &holder], 4);
    net.fails("wit1", &["standby", other], 4);
    net.ok("wit1", &["ready", &holder]);
    net.ok("wit1", &["move", "web", "--to", &holder]);
    assert_eq!(net.holder("lb1"), holder);
}

/// The cluster's own planner says it, and nothing where they stay.
fn a_plan_says_where_vips_would_go(net: &Net, holder: &str, other: &str) {
    let address = if holder == "lb1" { "10.97.0.2" } else { "10.97.0.3" };
    let witness = format!("{holder} = {{ addresses = \"{address}\", role = \"witness\" }}");
    let config = CONFIG.replace(&format!("{holder} = \"{address}\""), &witness);
    let told = net.ok("wit1", &["plan", &net.write("witness.toml", &config)]);
    let line = format!("> VIP web moves from {holder} to {other}: {holder} is a witness");
    assert!(told.contains(&line), "{told}");
    let slower =
        net.write("slower.toml", &CONFIG.replace("every = \"100ms\"", "every = \"200ms\""));
    let told = net.ok("wit1", &["plan", &slower]);
    assert!(told.contains("service web") && !told.contains("> VIP"), "{told}");
}

fn the_story_survives_its_teller(net: &mut Net) {
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    // A frozen peer: status still answers, and says so.
    nines_lab::freeze(&net.agents[&holder]).unwrap();
    net.until("the other takes over", |n| n.holder(other) == other);
    assert_eq!(net.status(other)["verdict"], "DEGRADED");
    let mut dead = net.agents.remove(&holder).unwrap();
    nines_lab::kill(&mut dead);
    let why = net.ok("wit1", &["why", "web"]);
    assert!(why.contains(&format!("moves {holder} -> {other}: {holder} is silent")), "{why}");
    net.until("and what came of it", |n| {
        n.ok("wit1", &["why", "web"]).contains(&format!("added on {other}"))
    });
    let events = net.ok("wit1", &["events", "--last-failover", "-o", "json"]);
    let events: Vec<serde_json::Value> = serde_json::from_str(&events).unwrap();
    let ids: Vec<&str> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
    for event in &events[1..] {
        assert!(ids.contains(&event["cause"].as_str().unwrap()), "every effect has its cause");
    }
    net.start(&holder);
    net.until("it comes back as spare", |n| {
        n.status(other)["verdict"] == "HEALTHY" && n.holder(other) == other
    });
}

/// On a full disk a node votes no more, says so, and promises nothing; with room it goes on.
// scenario 37
#[test]
fn a_full_disk_under_the_log_is_told_and_loses_nothing() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[("lb1", &[("br0", "10.97.1.2/24")])]);
    net.ok("lb1", &["init", "full", "--node", "lb1"]);
    let (state, socket) = (net.home.join("lb1"), net.home.join("lb1.sock"));
    // The small disk is the agent's alone and goes with it.
    let script = format!(
        "cp -a {0} {0}.kept && mount -t tmpfs -o size=2560k none {0} && cp -a {0}.kept/. {0} && \
         cat /dev/zero > {0}/filler; exec {1} --state {0} --socket {2} agent",
        state.display(),
        super::BINARY,
        socket.display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command.stderr(std::fs::File::create(net.home.join("lb1.log")).unwrap());
    let agent = net.lab.spawn("lb1", command).unwrap();
    net.agents.insert("lb1".into(), agent);
    net.until("status says that the disk is full", |n| {
        let said = text(&n.nines("lb1", &["status"]).stdout);
        said.contains("votes no more") && said.contains("make room on the disk of lb1")
    });
    let file = net.write("full.toml", "[cluster]\nname = \"full\"\n[nodes]\nlb1 = \"10.97.1.2\"\n");
    net.fails("lb1", &["apply", &file], 3);
    nines_lab::kill(&mut net.agents.remove("lb1").unwrap());
    net.start("lb1");
    assert_eq!(net.status("lb1")["votes"], 1);
}

/// Whoever leads when a node first starts: also a node that joined after it.
#[test]
fn a_node_that_starts_late_gets_the_log_from_who_joined_later() {
    if !can_run() {
        return;
    }
    let mut net = hosts();
    let said = net.ok("lb1", &["init", "shop", "--node", "lb1"]);
    net.start("lb1");
    assert!(said.contains("nines code --witness"), "{said}");
    net.join("lb2", "lb1", &[]);
    net.join("wit1", "lb1", &["--witness"]);
    net.start("wit1");
    let file = net.write("cluster.toml", &CONFIG.replace("every = \"100ms\"", "every = \"1s\""));
    net.ok("lb1", &["apply", &file]);
    net.until("the witness leads, for lb1 holds the VIP", |n| n.status("lb1")["leader"] == "wit1");
    net.start("lb2");
    net.until("it gets the log, and a vote", |n| n.status("wit1")["voters"] == 3);
    net.until("it has all of it", |n| n.status("lb2")["revision"] == n.status("wit1")["revision"]);
}

/// Whatever ended the agent: when it starts it makes the room that the config asks for.
#[test]
fn a_start_makes_the_room_that_the_newest_config_asks_for() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[("lb1", &[("br0", "10.97.3.2/24")])]);
    net.ok("lb1", &["init", "room", "--node", "lb1"]);
    net.start("lb1");
    // The flow table is the map whose values are buckets, 512 bytes.
    let room = |n: &Net| {
        let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", n.agents["lb1"].id())).unwrap();
        let read = |e: std::fs::DirEntry| std::fs::read_to_string(e.path()).unwrap_or_default();
        let info = infos.flatten().map(read).find(|info| info.contains("value_size:\t512\n"));
        let line =
            info.unwrap().lines().find(|l| l.starts_with("max_entries:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(room(&net), 32_768);
    let config = "[cluster]\nname = \"room\"\n[nodes]\nlb1 = \"10.97.3.2\"\n\
                  [forwarding]\nflows = 400000\n";
    let file = net.write("room.toml", config);
    net.ok("lb1", &["apply", &file]);
    nines_lab::kill(&mut net.agents.remove("lb1").unwrap());
    net.start("lb1");
    assert_eq!(room(&net), 65_536);
}

/// A kernel, or a container, that lets nobody load BPF: said in one line, and nothing is left.
#[test]
fn without_bpf_the_agent_says_what_is_needed() {
    if !can_run() {
        return;
    }
    let net = Net::new(&[("lb1", &[("br0", "10.97.2.2/24")])]);
    net.ok("lb1", &["init", "nobpf", "--node", "lb1"]);
    let mut command = std::process::Command::new("setpriv");
    command.arg("--bounding-set=-bpf,-sys_admin,-perfmon").arg(super::BINARY);
    command.arg("--socket").arg(net.home.join("lb1.sock"));
    command.arg("--state").arg(net.home.join("lb1")).arg("agent");
    command.stderr(std::process::Stdio::piped());
    let out = net.lab.spawn("lb1", command).unwrap().wait_with_output().unwrap();
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(8), "{told}");
    assert!(told.contains("the kernel refused") && told.contains("Linux 6.1"), "{told}");
    assert!(!net.home.join("lb1.sock").exists(), "no socket is left");
}
