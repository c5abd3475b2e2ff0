//! LVS's tools on nines: `ipvsadm` byte for byte as the real one answered, real connections through
//! what it sets up, and Debian's own ldirectord on top of it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    BINARY, Net, can_run,
    packets::{get, routed},
    text,
};

/// The table of the golden outputs (their SETUP.md).
const SETUP: &str = "\
-A -t 192.0.2.1:80 -s wlc -p 600 -M 255.255.255.0
-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3 -x 100 -y 50
-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m
-a -t 192.0.2.1:80 -r 10.0.0.3 -i -w 0
-a -t 192.0.2.1:80 -r 10.0.0.4 -i --tun-type gue --tun-port 6080 --tun-csum
-a -t 192.0.2.1:80 -r 10.0.0.5 -i --tun-type gre --tun-csum
-A -u 192.0.2.1:53 -s rr -o
-a -u 192.0.2.1:53 -r 10.0.0.1:53 -m
-A --sctp-service 192.0.2.1:36412 -s sh -b sh-fallback,sh-port
-a --sctp-service 192.0.2.1:36412 -r 10.0.0.1 -m
-A -f 7 -s mh -b mh-fallback,mh-port
-a -f 7 -r 10.0.0.1:0 -g
-A -t [2001:db8::1]:443 -s sed -p 300 -M 64
-a -t [2001:db8::1]:443 -r [2001:db8::a]:443 -m -w 5
-a -t [2001:db8::1]:443 -r 10.0.0.9:443 -i
-A -f 8 -6 -s ovf
-a -f 8 -6 -r [2001:db8::b]:0 -g -w 10
-A -t 192.0.2.2:0 -s nq -p 120
-a -t 192.0.2.2:0 -r 10.0.0.1:0 -g
-A -u 192.0.2.3:5060 -s rr -p 60 --pe sip -o";

/// Outputs that depend on what passed, or are the real tool's own text.
const NOT_COMPARED: [&str; 3] = ["00-empty", "00-help", "11-daemon1"];

/// What a call says on both streams, and its exit code.
fn call(net: &Net, host: &str, line: &str) -> (String, Option<i32>) {
    call_for(net, host, "", line)
}

/// The same with a wish whose tables it be on.
fn call_for(net: &Net, host: &str, wish: &str, line: &str) -> (String, Option<i32>) {
    let mut command = Command::new(BINARY);
    command.env("NINES_DATAPLANE", wish).arg("ipvsadm").args(line.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = net.lab.spawn(host, command).unwrap().wait_with_output().unwrap();
    (format!("{}{}", text(&out.stdout), text(&out.stderr)), out.status.code())
}

pub fn ipvsadm(net: &Net, host: &str, line: &str) -> String {
    let (said, code) = call(net, host, line);
    assert_eq!(code, Some(0), "ipvsadm {line}\n{said}");
    said
}

fn golden() -> Option<PathBuf> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/ipvsadm-golden");
    if !at.exists() {
        eprintln!("SKIPPED: what the real ipvsadm printed is not here ({})", at.display());
    }
    at.exists().then_some(at)
}

#[test]
fn says_what_the_real_one_says() {
    if !can_run() {
        return;
    }
    let net = Net::new(&[("lb1", &[("br0", "10.0.0.254/24")])]);
    assert!(ipvsadm(&net, "lb1", "-Ln").contains("(size=4096)"), "nothing there: an empty list");
    for line in SETUP.lines() {
        assert_eq!(ipvsadm(&net, "lb1", line), "", "{line}");
    }
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    if let Some(at) = golden() {
        let mut files: Vec<_> =
            std::fs::read_dir(at).unwrap().flatten().map(|e| e.path()).collect();
        files.sort();
        let mut compared = 0;
        for file in files {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            let expected = std::fs::read_to_string(&file).unwrap();
            let Some(line) = expected.strip_prefix("$ ipvsadm ") else { continue };
            // 30 and on belong to another table, with traffic.
            if name.starts_with('3') || NOT_COMPARED.contains(&name.as_str()) {
                continue;
            }
            let line = line.lines().next().unwrap();
            let (said, code) = call(&net, "lb1", line);
            let got = format!("$ ipvsadm {line}\n{said}rc={}\n", code.unwrap());
            if name == "20-nosort" {
                // The kernel's order of services is that of its hash table.
                assert_eq!(sorted(&got), sorted(&expected), "{name}");
            } else {
                assert_eq!(got, expected, "{name}");
            }
            compared += 1;
        }
        assert!(compared > 20, "{compared} golden files");
    }
    // Without them: the words that scripts look for.
    for (line, expected, code) in [
        ("-D -t 192.0.2.99:80", "No such service\n", 255),
        ("-A -t 192.0.2.1:80", "Service already exists\n", 255),
        (
            "-A",
            "You need to supply the 'service-address' option for the 'add-service' command\n",
            2,
        ),
        ("-A -t 192.0.2.9:80 -s none", "Scheduler or persistence engine not found\n", 255),
        ("-A -u 192.0.2.9:5060 --pe none", "Scheduler or persistence engine not found\n", 255),
        ("-A -t 192.0.2.9:80 -A", "invalid option `-A'\n", 2),
        ("--what", "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n", 255),
        ("-Ln -t 192.0.2.99:80", "No such service\n", 255),
        ("-A -t 192.0.2.9:80 --what", "--what: unknown option\n", 255),
        (
            "-a -t 192.0.2.1:80 -r 10.0.0.7 -i --tun-type gue",
            "You need to supply the 'tun-port' option for the 'gue' tunnel type\n",
            2,
        ),
    ] {
        assert_eq!(call(&net, "lb1", line), (expected.to_owned(), Some(code)), "{line}");
    }
    // Whose tables: nines' own have no daemons of IPVS.
    let daemon = "--start-daemon master --mcast-interface br0";
    let mut wishes = vec![("", 255, "nines' own tables"), ("ebpf", 255, "NINES_DATAPLANE=ipvs")];
    wishes.push(("none", 2, "there is no such data plane"));
    if !nines_dataplane::ipvs::can_be() {
        wishes.push(("ipvs", 255, "this kernel has no IPVS"));
    }
    for (wish, expected, words) in wishes {
        let (said, code) = call_for(&net, "lb1", wish, daemon);
        assert!(code == Some(expected) && said.contains(words), "{wish}: {code:?} {said}");
    }
    // Options in any order; saved and restored.
    ipvsadm(&net, "lb1", "-w 7 -r 10.0.0.6:80 -g -t 192.0.2.1:80 -a");
    let saved = ipvsadm(&net, "lb1", "-S -n");
    assert!(saved.contains("-a -t 192.0.2.1:80 -r 10.0.0.6:80 -g -w 7\n"), "{saved}");
    ipvsadm(&net, "lb1", "-C");
    assert_eq!(ipvsadm(&net, "lb1", "-S -n"), "");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("printf '%s' \"$0\" | {BINARY} ipvsadm -R")).arg(&saved);
    assert!(net.lab.spawn("lb1", command).unwrap().wait().unwrap().success());
    assert_eq!(ipvsadm(&net, "lb1", "-S -n"), saved);
    ipvsadm(&net, "lb1", "--set 600 0 30");
    assert_eq!(ipvsadm(&net, "lb1", "-L --timeout"), "Timeout (tcp tcpfin udp): 600 120 30\n");
}

#[test]
fn what_it_sets_up_carries_connections_and_counts_them() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "[::]:8080");
    net.web("r2", "[::]:8080");
    net.lab.ip("lb1", "addr add 10.97.0.100/32 dev eth0").unwrap();
    ipvsadm(&net, "lb1", "-A -t 10.97.0.100:80 -s rr");
    ipvsadm(&net, "lb1", "-a -t 10.97.0.100:80 -r 10.97.1.11:8080 -m");
    ipvsadm(&net, "lb1", "-a -t 10.97.0.100:80 -r 10.97.1.12:8080 -m -w 2");
    net.until("the VIP answers", |n| get(n, "client", "10.97.0.100:80").is_some());
    ipvsadm(&net, "lb1", "-Z");
    let seen: Vec<Option<String>> = (0..4).map(|_| get(&net, "client", "10.97.0.100:80")).collect();
    assert_eq!(seen.iter().flatten().filter(|s| *s == "r1").count(), 2, "{seen:?}");
    let stats = ipvsadm(&net, "lb1", "-Ln --stats");
    let numbers: Vec<Vec<&str>> =
        stats.lines().skip(3).map(|l| l.split_whitespace().skip(2).collect()).collect();
    assert_eq!(numbers.iter().map(|n| n[0]).collect::<Vec<_>>(), ["4", "2", "2"], "{stats}");
    assert!(numbers.iter().all(|n| n[1] != "0" && n[2] != "0"), "both directions: {stats}");
    let listed = ipvsadm(&net, "lb1", "-Lnc");
    assert!(
        listed.lines().skip(2).all(|l| l.starts_with("TCP ") && l.contains(" 10.97.0.100:80 ")),
        "{listed}"
    );
    // Weight 0: new connections go elsewhere.
    ipvsadm(&net, "lb1", "-e -t 10.97.0.100:80 -r 10.97.1.11:8080 -m -w 0");
    for _ in 0..4 {
        assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("r2"));
    }
    ipvsadm(&net, "lb1", "-d -t 10.97.0.100:80 -r 10.97.1.11:8080");
    assert!(!ipvsadm(&net, "lb1", "-Ln").contains("10.97.1.11"));
    // By full NAT the server has its answers for the VIP, and says so to the client.
    ipvsadm(&net, "lb1", "-e -t 10.97.0.100:80 -r 10.97.1.12:8080 --fullnat");
    assert!(ipvsadm(&net, "lb1", "-S -n").contains("-r 10.97.1.12:8080 --fullnat -w 1"));
    assert!(ipvsadm(&net, "lb1", "-Ln").contains("FullNat"));
    assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("r2"));
    ipvsadm(&net, "lb1", "-D -t 10.97.0.100:80");
    // Another service in its place counts from zero.
    ipvsadm(&net, "lb1", "-A -t 10.97.0.101:80");
    ipvsadm(&net, "lb1", "-a -t 10.97.0.101:80 -r 10.97.1.12:8080 -m");
    let fresh = ipvsadm(&net, "lb1", "-Ln --stats");
    let counted = |l: &str| l.split_whitespace().skip(2).any(|word| word != "0");
    assert!(!fresh.lines().skip(3).any(counted), "{fresh}");
    assert_eq!(get(&net, "client", "10.97.0.100:80"), None);
}

#[test]
fn leaves_an_agents_tables_alone_but_shows_them() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.ok("lb1", &["init", "lab", "--node", "lb1", "--address", "10.97.0.2"]);
    net.start("lb1");
    let file = net.write(
        "cluster.toml",
        "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\n[service.web]\n\
         listen = \"10.97.0.100:80\"\nforward = \"nat\"\nscheduler = \"wlc\"\ncheck = \"none\"\n\
         servers = { r1 = \"10.97.1.11:8080\" }\n",
    );
    net.ok("lb1", &["apply", &file]);
    let line = "  -> 10.97.1.11:8080              Masq    1      0          0         \n";
    net.until("the table is in place", |n| ipvsadm(n, "lb1", "-Ln").contains(line));
    let (said, code) = call(&net, "lb1", "-C");
    assert!(code == Some(255) && said.contains("the nines agent") && said.contains("next: "));
    assert!(ipvsadm(&net, "lb1", "-Ln").contains(line));
}

/// Debian's ldirectord, unchanged, with nines in the place of ipvsadm.
#[test]
fn ldirectord_runs_on_it() {
    if !can_run() {
        return;
    }
    let Some(program) =
        ["/usr/sbin/ldirectord", "/sbin/ldirectord"].iter().find(|p| Path::new(p).exists())
    else {
        assert!(std::env::var_os("CI").is_none(), "CI installs ldirectord");
        eprintln!("SKIPPED: ldirectord is not installed");
        return;
    };
    let mut net = routed();
    net.web("r1", "[::]:8080");
    net.web("r2", "[::]:8080");
    net.lab.ip("lb1", "addr add 10.97.0.100/32 dev eth0").unwrap();
    let config = net.write(
        "ldirectord.cf",
        "checktimeout=1\ncheckinterval=1\nnegotiatetimeout=1\nautoreload=no\nquiescent=no\nfork=no\n\
         logfile=\"/dev/null\"\n\
         virtual=10.97.0.100:80\n\treal=10.97.1.11:8080 masq\n\treal=10.97.1.12:8080 masq\n\
         \tservice=http\n\trequest=\"/\"\n\tscheduler=rr\n\tprotocol=tcp\n\tchecktype=negotiate\n",
    );
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /usr/sbin/ipvsadm && exec \"$1\" -d \"$2\" start";
    command.args(["-m", "sh", "-c", script, BINARY, program, &config]);
    let log = std::fs::File::create(net.home.join("ldirectord.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let daemon = net.lab.spawn("lb1", command).unwrap();
    net.agents.insert("ldirectord".into(), daemon);
    let both = |n: &Net| {
        let listed = ipvsadm(n, "lb1", "-Ln");
        listed.contains("10.97.1.11:8080") && listed.contains("10.97.1.12:8080")
    };
    net.until("ldirectord brought both servers in", both);
    let seen: Vec<Option<String>> = (0..4).map(|_| get(&net, "client", "10.97.0.100:80")).collect();
    assert_eq!(seen.iter().flatten().filter(|s| *s == "r1").count(), 2, "{seen:?}");
    let web = net.agents.get_mut("r1-web-[::]:8080").unwrap();
    nines_lab::kill(web);
    net.until("ldirectord took the dead one out", |n| {
        !ipvsadm(n, "lb1", "-Ln").contains("10.97.1.11:8080")
    });
    assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("r2"));
    net.web("r1", "[::]:8080");
    net.until("and back in", both);
}
