//! The blocks of the manual and of the README: commands run on a cluster of the lab, configs are
//! read and planned, and a block that is not run says why, in the line above it.
//!
//! Commands run as the pages write them: in a mount namespace where the state directory, the
//! socket and PATH are the host's own, with a stand-in for systemd.

use std::{
    cell::RefCell,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use self::blocks::{Block, NOT_RUN, blocks, pages, root};
use super::{BINARY, Net, PATIENCE, can_run, text};

mod blocks;

#[test]
fn every_block_of_the_manual_has_a_kind_and_is_run_or_says_why_not() {
    let mut not_run = Vec::new();
    let version = text(&Command::new(BINARY).arg("version").output().unwrap().stdout);
    for page in pages() {
        let blocks = blocks(&page);
        for block in &blocks {
            let place = format!("{page}:{}", block.line);
            match block.language.as_str() {
                "sh" | "console" => {
                    let prompts = commands(block).iter().all(|(host, _)| host.is_some());
                    assert_eq!(prompts, block.language == "console", "{place}: prompts");
                }
                "json" => drop(serde_json::from_str::<serde_json::Value>(&block.text).unwrap()),
                "ini" => assert!(
                    block.text.lines().all(|l| l.starts_with('[') || l.contains('=')),
                    "{place}"
                ),
                "toml" => {}
                "text" => {
                    let command = block.text.lines().find(|line| line.starts_with("nines "));
                    let told = command.is_none_or(|line| version.lines().any(|l| l == line));
                    assert!(told, "{place}: {command:?} is a command, or another version");
                }
                other => panic!("{place}: \"{other}\" is not a kind of block"),
            }
        }
        let marked = blocks.iter().filter(|block| block.not_run).count();
        if marked > 0 {
            not_run.push((page, marked));
        }
    }
    let expected: Vec<_> = NOT_RUN.iter().map(|(page, n)| ((*page).to_owned(), *n)).collect();
    assert_eq!(not_run, expected, "blocks that are not run");
}

/// Commands of a block, each with the host of its prompt; comments are for readers.
fn commands(block: &Block) -> Vec<(Option<String>, String)> {
    let one = |line: &str| {
        let prompt = line.split_once("# ").filter(|(host, _)| {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric())
        });
        let (host, rest) = match prompt {
            Some((host, rest)) => (Some(host.to_owned()), rest),
            None => (None, line),
        };
        let command = rest.split(" # ").next().unwrap().trim();
        (host, command.to_owned())
    };
    block.text.lines().map(one).filter(|(_, command)| !command.is_empty()).collect()
}

/// A block's config as a whole file: what the page says elsewhere is added.
fn whole_config(block: &Block, first: &Block) -> String {
    let mut text = block.text.clone();
    if !text.contains("\n[") && !text.starts_with('[') {
        // Keys without a section go on in the section of the page's first block.
        text = format!("{}{text}", first.text);
    }
    let mut out = String::new();
    if !text.contains("[nodes]") {
        out.push_str(
            "[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n\
             wit1 = { addresses = \"10.0.0.4\", role = \"witness\" }\n",
        );
    }
    if !text.contains("[cluster]") {
        out.push_str("[cluster]\nname = \"shop\"\n");
    }
    let has_after = |i: usize, key: &str| {
        let lines = text.lines().skip(i + 1).take_while(|line| !line.starts_with('['));
        lines.into_iter().any(|line| line.split([' ', '=']).next() == Some(key))
    };
    for (i, line) in text.lines().enumerate() {
        out.push_str(line);
        out.push('\n');
        let name = line.strip_prefix("[service.").and_then(|rest| rest.strip_suffix(']'));
        let Some(name) = name.filter(|name| !name.contains('.')) else { continue };
        if !has_after(i, "listen") {
            out.push_str("listen = \"10.0.0.100:80/tcp\"\n");
        }
        if !has_after(i, "servers") && !text.contains(&format!("[service.{name}.servers]")) {
            out.push_str("servers = { r1 = \"10.0.0.11\", r2 = \"10.0.0.12\" }\n");
        }
    }
    out
}

/// Every config of the pages with its place. A test of the table of keys reads those of keys.md.
fn configs() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in pages().iter().filter(|page| !page.ends_with("/keys.md")) {
        let blocks = blocks(page);
        let all: Vec<&Block> = blocks.iter().filter(|block| block.language == "toml").collect();
        for block in &all {
            found.push((format!("{page}:{}", block.line), whole_config(block, all[0])));
        }
    }
    assert!(found.len() > 15, "{} configs", found.len());
    found
}

#[test]
fn every_config_of_the_manual_is_valid() {
    let path = std::env::temp_dir().join(format!("nines-manual-{}.toml", std::process::id()));
    for (place, config) in configs() {
        std::fs::write(&path, &config).unwrap();
        let out = Command::new(BINARY).args(["config", "check"]).arg(&path).output().unwrap();
        assert!(out.status.success(), "{place}\n{config}\n{}", text(&out.stderr));
    }
    std::fs::remove_file(path).unwrap();
}

/// What stands in for systemd: it starts and stops this host's agent, and has no other unit.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=; now=
for word; do
  case $word in --now) now=1 ;; --*|nines) ;; nines-*) exit 0 ;; *) verb=$word ;; esac
done
pid=/run/nines.pid
start() {
  [ -e /var/lib/nines/identity.json ] || { echo "the unit's condition is not met" >&2; exit 1; }
  mkdir -p /run/nines
  setsid nines agent </dev/null >>"$LAB_LOG" 2>&1 &
  echo $! >$pid
  for i in $(seq 100); do
    [ -S /run/nines/nines.sock ] && ss -Hltn 'sport = :9119' | grep -q . && return
    grep -q '"server": *true' /var/lib/nines/identity.json && return
    sleep 0.1
  done
  echo "the agent did not start" >&2; exit 1
}
stop() {
  [ -e $pid ] || return 0
  kill "$(cat $pid)"
  for i in $(seq 100); do kill -0 "$(cat $pid)" 2>/dev/null || break; sleep 0.1; done
  rm $pid
}
case $verb in
  daemon-reload) ;;
  start) start ;;
  enable) [ -z "$now" ] || start ;;
  stop) stop ;;
  disable) [ -z "$now" ] || stop ;;
  restart) stop; start ;;
  *) echo "systemctl $verb is not for the lab" >&2; exit 1 ;;
esac
"#;

/// Hosts on which commands run as the pages write them.
pub(super) struct Shop {
    pub(super) net: Net,
    /// The newest join code.
    code: RefCell<String>,
}

impl Shop {
    pub(super) fn new() -> Self {
        let names = [
            ("lb1", 2),
            ("lb2", 3),
            ("wit1", 4),
            ("r1", 11),
            ("r2", 12),
            ("r3", 13),
            ("alone", 77),
        ];
        let wires: Vec<(&str, String)> =
            names.iter().map(|(name, n)| (*name, format!("10.0.0.{n}/24"))).collect();
        let wires: Vec<(&str, [(&str, &str); 1])> =
            wires.iter().map(|(name, at)| (*name, [("br0", at.as_str())])).collect();
        let hosts: Vec<(&str, &[(&str, &str)])> =
            wires.iter().map(|(name, wire)| (*name, wire.as_slice())).collect();
        let mut net = Net::new(&hosts);
        for (name, _) in names {
            let home = net.home.join("hosts").join(name);
            for folder in
                ["bin", "lib", "run", "cwd/target/release", "usr", "usr-work", "etc", "etc-work"]
            {
                std::fs::create_dir_all(home.join(folder)).unwrap();
            }
            for link in ["bin/nines", "bin/ipvsadm", "cwd/target/release/nines"] {
                std::os::unix::fs::symlink(BINARY, home.join(link)).unwrap();
            }
            std::os::unix::fs::symlink(root().join("packaging"), home.join("cwd/packaging"))
                .unwrap();
            let systemctl = home.join("bin/systemctl");
            std::fs::write(&systemctl, SYSTEMCTL).unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&systemctl, PermissionsExt::from_mode(0o755)).unwrap();
        }
        for server in ["r1", "r2", "r3"] {
            net.web(server, "0.0.0.0:80");
        }
        Self { net, code: RefCell::default() }
    }

    /// Runs a line as root of that host would; whether it succeeded, and all that it said.
    pub(super) fn try_run(&self, host: &str, line: &str) -> (bool, String) {
        let home = self.net.home.join("hosts").join(host);
        let at = home.display();
        let line = line.replace("abcd...", &self.code.borrow());
        // Two mounts of one upper directory exclude each other: only where files are installed.
        let installs = format!(
            "for d in usr etc; do mount -t overlay overlay \
             -o lowerdir=/$d,upperdir={at}/$d,workdir={at}/$d-work /$d; done\n"
        );
        let installs = if host == "alone" { installs.as_str() } else { "" };
        let script = format!(
            "set -e\nmount --bind {at}/lib /var/lib; mount --bind {at}/run /run\n{installs}\
             hostname {host}; cd {at}/cwd; export LAB_LOG={at}/log PATH={at}/bin:$PATH\n{line}\n"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "sh", "-c", &script]);
        command.env_remove("NINES_SOCKET").env_remove("NINES_STATE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let out = self.net.lab.spawn(host, command).unwrap().wait_with_output().unwrap();
        let said = text(&out.stdout);
        let join = said.lines().find_map(|line| line.trim().strip_prefix("nines join "));
        if let Some(code) = join.and_then(|words| words.split_whitespace().nth(1)) {
            code.clone_into(&mut self.code.borrow_mut());
        }
        (out.status.success(), said + &text(&out.stderr))
    }

    /// The same, until it succeeds.
    pub(super) fn run(&self, host: &str, line: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        // What only looks may be tried again: the cluster may still be on its way.
        let looks = ["status", "doctor", "why", "events", "plan", "server show", "move", "standby"];
        let again = looks.iter().any(|verb| line.starts_with(&format!("nines {verb}")));
        loop {
            let (well, said) = self.try_run(host, line);
            if well {
                return said;
            }
            let log = std::fs::read_to_string(self.net.home.join("hosts").join(host).join("log"));
            let log = log.unwrap_or_default();
            assert!(again && Instant::now() < limit, "{host}: {line}\n{said}\n{log}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(super) fn until(&self, what: &str, host: &str, line: &str, wanted: &str) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let (_, said) = self.try_run(host, line);
            if said.contains(wanted) {
                return;
            }
            assert!(Instant::now() < limit, "never: {what}\n{said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn write(&self, name: &str, text: &str) {
        for host in ["lb1", "lb2", "wit1"] {
            let cwd = self.net.home.join("hosts").join(host).join("cwd");
            std::fs::write(cwd.join(name), text).unwrap();
        }
    }

    /// Runs a block; lines without a prompt run on `host`, those of r1 on all servers, if `each`.
    fn block(&self, block: &Block, host: &str, each: bool) {
        assert!(!block.not_run && matches!(block.language.as_str(), "sh" | "console"));
        let all = if block.language == "console" {
            commands(block)
        } else {
            commands(block).into_iter().map(|(_, line)| (Some(host.to_owned()), line)).collect()
        };
        for (host, line) in all {
            let host = host.unwrap();
            eprintln!("{}:{} {host}# {line}", block.page, block.line);
            self.run(&host, &line);
            for host in ["r2", "r3"].into_iter().filter(|_| each && host == "r1") {
                self.run("lb1", "nines code --server");
                self.run(host, &line);
            }
        }
    }

    /// Runs the blocks of a page in order, and writes its configs where the nodes find them.
    pub(super) fn page(&self, page: &str, host: &str, each: bool) {
        for block in blocks(page).iter().filter(|block| !block.not_run) {
            match block.language.as_str() {
                "sh" | "console" => self.block(block, host, each),
                "toml" => self.write("cluster.toml", &block.text),
                _ => {}
            }
        }
    }
}

/// Commands between backquotes in the table below a heading.
fn table(page: &str, heading: &str) -> Vec<String> {
    let whole = std::fs::read_to_string(root().join(page)).unwrap();
    let (_, below) = whole.split_once(&format!("## {heading}\n")).unwrap();
    let rows = below.lines().skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|'));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_pages_on_a_cluster_do_what_they_say() {
    if !can_run() {
        return;
    }
    let shop = Shop::new();
    shop.page("docs/manual/first-cluster.md", "lb1", true);
    shop.until("all is well", "lb1", "nines status", "shop  HEALTHY");
    shop.page("docs/manual/troubleshooting.md", "lb2", false);
    let everyday = table("docs/manual/first-cluster.md", "Everyday commands");
    assert!(everyday.len() > 8, "{everyday:?}");
    for line in everyday {
        let line = line.replace("FILE", "cluster.toml");
        shop.run("lb1", &line);
    }
    shop.page("docs/manual/keys-and-roles.md", "lb1", false);
    // Directors with an address in each subnet that the pages name.
    for (host, n) in [("lb1", 2), ("lb2", 3)] {
        for subnet in ["10.0.1", "192.0.2"] {
            shop.net.lab.ip(host, &format!("addr add {subnet}.{n}/24 dev eth0")).unwrap();
        }
    }
    for (place, config) in configs() {
        shop.write("other.toml", &config);
        // A node tells of a new address within a second or two.
        let end = Instant::now() + PATIENCE;
        loop {
            let (well, said) = shop.try_run("lb2", "nines plan other.toml");
            let no_ipvs = said.contains("cannot forward by IPVS") && config.contains("\"ipvs\"");
            if well || no_ipvs {
                break;
            }
            let told_later = said.contains("is in no subnet of") && Instant::now() < end;
            assert!(told_later, "{place}: {said}\n{config}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // The page's node has lost its log, and begins anew.
    let lose = "systemctl stop nines; rm /var/lib/nines/log.redb; systemctl start nines";
    shop.run("lb2", lose);
    shop.until("lb2 begins anew", "lb1", "nines events", "lb2 began anew");
    shop.until("lb2 votes again", "lb1", "nines status", "quorum 3 of 3");
    // It leaves, the witness is replaced, and lb2 joins again.
    shop.page("docs/manual/members.md", "lb1", false);
    shop.until("lb2 is a member again", "lb1", "nines status", "quorum 2 of 2");
    shop.until("wit1 knows that it left", "wit1", "nines status", "was removed from the cluster");
    shop.page("docs/manual/roles.md", "lb1", false);
    // The last block of the page on installation removes nines.
    let installation = blocks("docs/manual/installation.md");
    let removal = installation.iter().rfind(|block| block.language == "sh").unwrap();
    shop.block(removal, "lb2", false);
    let (_, left) =
        shop.try_run("lb2", "ls /sys/fs/bpf/nines/$(stat -L -c %i /proc/self/ns/net)/v*");
    assert!(left.contains("No such file"), "programs are left: {left}");
}

#[test]
fn the_readme_and_the_page_on_real_servers_do_what_they_say() {
    if !can_run() {
        return;
    }
    let shop = Shop::new();
    let readme = blocks("README.md");
    let config = readme.iter().find(|block| block.language == "toml").unwrap();
    shop.write("cluster.toml", &config.text);
    for block in readme.iter().filter(|b| !b.not_run && b.language == "sh") {
        shop.block(block, "alone", false);
    }
    for block in readme.iter().filter(|b| b.language == "console") {
        shop.block(block, "lb1", false);
    }
    shop.page("docs/manual/real-servers.md", "r1", false);
    shop.until("doctor finds that r1 is ready", "lb1", "nines doctor", "ok    server web/r1");
}

#[test]
fn the_pages_without_a_cluster_do_what_they_say() {
    if !can_run() {
        return;
    }
    let shop = Shop::new();
    shop.page("docs/manual/forwarding/ipvsadm.md", "alone", false);
    assert!(shop.run("alone", "nines ipvsadm -Ln").contains("10.0.0.11"));
    let marks = blocks("docs/manual/forwarding/marks.md");
    shop.block(marks.iter().find(|block| block.language == "sh").unwrap(), "alone", false);
    assert!(shop.run("alone", "nft list ruleset").contains("0x00000007"));
    let installation = blocks("docs/manual/installation.md");
    let copies = installation.iter().find(|b| b.language == "sh" && !b.not_run).unwrap();
    shop.block(copies, "alone", false);
    shop.run("alone", "test -x /usr/bin/nines && grep -q '^nines:' /etc/group");
}

#[test]
fn every_page_with_commands_is_on_the_list() {
    let run = [
        "README.md",
        "docs/manual/backup-and-restore.md",
        "docs/manual/first-cluster.md",
        "docs/manual/forwarding/ipvsadm.md",
        "docs/manual/forwarding/marks.md",
        "docs/manual/installation.md",
        "docs/manual/keys-and-roles.md",
        "docs/manual/members.md",
        "docs/manual/real-servers.md",
        "docs/manual/roles.md",
        "docs/manual/troubleshooting.md",
    ];
    let shell = |b: &Block| !b.not_run && matches!(b.language.as_str(), "sh" | "console");
    let with = pages().into_iter().filter(|page| blocks(page).iter().any(shell));
    assert_eq!(with.collect::<Vec<_>>(), run);
    // Of these two pages, single blocks are run.
    let pages = ["docs/manual/installation.md", "docs/manual/forwarding/marks.md"];
    assert_eq!(pages.map(|page| blocks(page).iter().filter(|b| shell(b)).count()), [2, 1]);
}
