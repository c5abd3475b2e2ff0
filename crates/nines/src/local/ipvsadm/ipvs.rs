//! `nines ipvsadm` on the kernel's own IPVS, by generic netlink.
//!
//! Decides: which change of IPVS a line is, and ipvsadm's words for what the kernel refuses. The
//! kernel finds out what is there and what is not: nothing is looked up before.

use std::io;

use nines_dataplane::{
    Error,
    ebpf::{self, readback::Claim},
    ipvs::{self, Change, Counts, Kernel, SyncDaemon, Tables as _},
};
use nines_model::{
    Forward, TableServer, TableService, Traffic, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{
    AGENT_KEEPS, PATIENCE,
    commands::Command,
    failed,
    grammar::{Ask, Refused},
    kernel_says,
    lines::service,
    listing::{self, Form},
    timeouts,
};

/// IPVS of this namespace.
pub struct Ipvs {
    kernel: Kernel,
    /// No other process of nines changes it.
    claim: Option<Claim>,
}

impl Ipvs {
    pub fn open() -> Result<Self, Refused> {
        let next = "modprobe ip_vs; NINES_DATAPLANE=ebpf is nines' own tables";
        let kernel = Kernel::open().map_err(|e| failed(e.next(next)))?;
        Ok(Self { kernel, claim: None })
    }

    pub fn run(&mut self, ask: &Ask) -> Result<String, Refused> {
        match ask.command {
            Command::List => return self.list(ask),
            Command::Save => {
                let all = self.shown(Counts::Sums, true)?;
                return Ok(listing::save(&all, ask.has("numeric")));
            }
            _ => {}
        }
        if self.claim.is_none() {
            let claim = ebpf::claim(PATIENCE).map_err(failed)?;
            if claim.is_none() {
                return kernel_says(AGENT_KEEPS);
            }
            self.claim = claim;
        }
        self.order(ask)?.map_err(|e| refusal(ask.command, &e))?;
        Ok(String::new())
    }

    /// Outside: what cannot be asked of the kernel; inside: what it said.
    fn order(&self, ask: &Ask) -> Result<io::Result<()>, Refused> {
        Ok(match ask.command {
            Command::Flush => self.kernel.flush(),
            Command::Zero => self.kernel.zero(ask.traffic),
            Command::Set(seconds) => self.kernel.set_timeouts(seconds),
            Command::StartDaemon(role) => {
                self.kernel.start_daemon(&SyncDaemon { role, ..ask.daemon.clone() })
            }
            Command::StopDaemon(role) => self.kernel.stop_daemon(role),
            _ => self.kernel.tell(&change(ask)?),
        })
    }

    fn shown(&mut self, counts: Counts, sorted: bool) -> Result<Vec<listing::Shown>, Refused> {
        let state = self.kernel.list().map_err(failed)?;
        let mut all = ipvs::shown(&state, counts);
        if sorted {
            listing::sort(&mut all);
        }
        Ok(all)
    }

    fn list(&mut self, ask: &Ask) -> Result<String, Refused> {
        let told = |e: io::Error| refusal(Command::List, &e);
        if ask.has("timeout") {
            return Ok(timeouts(self.kernel.timeouts().map_err(told)?));
        }
        if ask.has("daemon") {
            return Ok(listing::daemons(&self.kernel.daemons().map_err(told)?));
        }
        if ask.has("connection") {
            let all = ipvs::connections().map_err(failed)?;
            return Ok(listing::connections(&all, ask));
        }
        let form = Form::of(ask);
        let counts = if form == Form::Rate { Counts::Rates } else { Counts::Sums };
        let all = listing::only(self.shown(counts, !ask.has("nosort"))?, ask.traffic)?;
        Ok(listing::list(&all, ask))
    }
}

/// A line's change of IPVS's tables.
fn change(ask: &Ask) -> Result<Change, Refused> {
    let Some(traffic) = ask.traffic else { return kernel_says("Service not defined") };
    let held = |service: &TableService| ipvs::held(service).map_err(failed);
    match ask.command {
        Command::Add | Command::Edit if ask.unknown_name => {
            kernel_says("Scheduler or persistence engine not found")
        }
        Command::Add => Ok(Change::Add(traffic, held(&service(ask, traffic))?.service)),
        Command::Edit => Ok(Change::Set(traffic, held(&service(ask, traffic))?.service)),
        Command::Delete => Ok(Change::Remove(traffic)),
        command => {
            let mut with_one = TableService::new(traffic, ask.scheduler);
            let Some(server) = server(ask, traffic)? else {
                return kernel_says("No such destination");
            };
            with_one.servers.insert("".into(), server);
            let Some(dest) = held(&with_one)?.dests.pop() else {
                return kernel_says("No such destination");
            };
            Ok(match command {
                Command::AddServer => Change::AddDest(traffic, dest),
                Command::EditServer => Change::SetDest(traffic, dest),
                _ => Change::RemoveDest(traffic, dest),
            })
        }
    }
}

/// The server as asked for: IPVS finds out by itself what is this very machine.
fn server(ask: &Ask, traffic: Traffic) -> Result<Option<TableServer>, Refused> {
    let Some(addr) = ask.server else { return Ok(None) };
    let forward = match ask.forward {
        Forward::FullNat => {
            let why =
                "IPVS has no full NAT\n  next: -m, or NINES_DATAPLANE=ebpf: nines' own tables";
            return kernel_says(why);
        }
        // A name is enough, and it may be of either family.
        _ if ask.command == Command::DeleteServer && addr.is_ipv6() != traffic.is_ipv6() => {
            Forward::Tunnel(Tunnel {
                kind: TunnelKind::Ipip,
                port: 0,
                checksum: TunnelChecksum::None,
            })
        }
        asked => asked,
    };
    let (weight, limit) = (ask.weight, ask.limit);
    Ok(Some(TableServer { weight, limit, ..TableServer::new(addr, forward) }))
}

/// ipvsadm's words for the kernel's numbers.
fn refusal(command: Command, e: &io::Error) -> Refused {
    let number = e.raw_os_error().unwrap_or(0);
    let text = match (command, number) {
        (_, libc::EPERM | libc::EACCES) => "Permission denied (you must be root)",
        (Command::Add, libc::EEXIST) => "Service already exists",
        (Command::Add | Command::Edit, libc::ENOENT) => "Scheduler or persistence engine not found",
        (Command::Edit | Command::Delete, libc::ESRCH) => "No such service",
        (Command::AddServer, libc::EEXIST) => "Destination already exists",
        (Command::EditServer | Command::DeleteServer, libc::ENOENT) => "No such destination",
        (Command::StartDaemon(_), libc::EEXIST) => "Daemon has already run",
        (Command::StopDaemon(_), libc::ESRCH) => "No daemon is running",
        (_, libc::ESRCH) => "Service not defined",
        (Command::StartDaemon(_), libc::EINVAL) => {
            let next = "take out servers of another family than their service: with one of those \
                        IPVS tells nobody (ipvsadm -Ln)";
            return failed(Error::new("IPVS starts no daemon", e).next(next));
        }
        _ => return failed(Error::new("IPVS refuses", e)),
    };
    (text.to_owned(), 255)
}

#[cfg(test)]
mod tests {
    use nines_dataplane::ipvs::Role;

    use super::*;
    use crate::local::ipvsadm::grammar;

    fn ask(line: &str) -> Ask {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        grammar::read(&words).unwrap()
    }

    fn told(line: &str, number: i32) -> String {
        refusal(ask(line).command, &io::Error::from_raw_os_error(number)).0
    }

    #[test]
    fn a_line_is_one_change() {
        let Change::Add(_, service) =
            change(&ask("-A -t 10.0.0.1:80 -s sh -b sh-port -p 60")).unwrap()
        else {
            panic!("not added");
        };
        assert_eq!((service.scheduler.as_str(), service.flags, service.timeout), ("sh", 17, 60));
        let line = "-e -t 10.0.0.1:80 -r 10.0.0.2:8080 -m -w 3 -x 9 -y 4";
        let Change::SetDest(_, dest) = change(&ask(line)).unwrap() else { panic!("not set") };
        assert_eq!(dest.at, "10.0.0.2:8080".parse().unwrap());
        assert_eq!((dest.method, dest.weight, dest.upper, dest.lower), (0, 3, 9, 4));
        let Change::RemoveDest(..) = change(&ask("-d -t 10.0.0.1:80 -r [2001:db8::1]")).unwrap()
        else {
            panic!("not removed");
        };
        let Change::AddDest(_, own) = change(&ask("-a -f 7 -r 127.0.0.1")).unwrap() else {
            panic!("not added");
        };
        assert_eq!((own.at.port(), own.method), (0, 3), "IP_VS_CONN_F_DROUTE");
        for (line, why) in [
            ("-a -t 10.0.0.1:80 -r 10.0.0.2 --fullnat", "IPVS has no full NAT"),
            ("-A -t 10.0.0.1:80 -s none", "Scheduler or persistence engine not found"),
            ("-A -u 10.0.0.1:80 --pe none", "Scheduler or persistence engine not found"),
        ] {
            assert!(change(&ask(line)).unwrap_err().0.starts_with(why), "{line}");
        }
    }

    #[test]
    fn daemons_are_asked_for_and_listed() {
        let line = "--start-daemon backup --mcast-interface d0 --syncid 8 --mcast-group 224.0.1.9 \
                    --mcast-port 9000 --mcast-ttl 3 --sync-maxlen 1400";
        let asked = ask(line);
        let Command::StartDaemon(role) = asked.command else { panic!("not started") };
        let backup = SyncDaemon { role, ..asked.daemon };
        let master = SyncDaemon {
            sync_id: 7,
            len_max: 1472,
            group: Some([224, 0, 0, 81].into()),
            port: 8848,
            ttl: 1,
            ..SyncDaemon::new(Role::Master, "d0")
        };
        assert_eq!(
            listing::daemons(&[master, backup]),
            "master sync daemon (mcast=d0, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, \
             ttl=1)\nbackup sync daemon (mcast=d0, syncid=8, maxlen=1400, group=224.0.1.9, \
             port=9000, ttl=3)\n"
        );
        let wrong = "--start-daemon master --mcast-interface d0 --mcast-group 10.0.0.1";
        let words: Vec<String> = wrong.split_whitespace().map(str::to_owned).collect();
        let told = grammar::read(&words).unwrap_err();
        assert_eq!(told, ("invalid mcast-group value `10.0.0.1' specified".into(), 2));
    }

    #[test]
    fn connections_are_listed_as_those_of_nines() {
        let at = |text: &str| text.parse().unwrap();
        let one = nines_dataplane::listing::Connection {
            proto: 6,
            state: "ESTABLISHED".into(),
            left: std::time::Duration::from_secs(890),
            client: at("10.0.0.30:1000"),
            virtual_service: at("10.0.0.100:80"),
            server: at("10.0.0.11:80"),
        };
        let words: Vec<String> = vec!["-Lnc".into()];
        let numeric = super::super::grammar::read(&words).unwrap();
        assert_eq!(
            listing::connections(&[one], &numeric),
            "IPVS connection entries\n\
             pro expire state       source             virtual            destination\n\
             TCP 14:50  ESTABLISHED 10.0.0.30:1000     10.0.0.100:80      10.0.0.11:80\n"
        );
    }

    #[test]
    fn the_kernels_numbers_have_ipvsadms_words() {
        for (line, number, words) in [
            ("-A -t 10.0.0.1:80", libc::EEXIST, "Service already exists"),
            ("-A -t 10.0.0.1:80", libc::ENOENT, "Scheduler or persistence engine not found"),
            ("-D -t 10.0.0.1:80", libc::ESRCH, "No such service"),
            ("-a -t 10.0.0.1:80 -r 10.0.0.2", libc::ESRCH, "Service not defined"),
            ("-a -t 10.0.0.1:80 -r 10.0.0.2", libc::EEXIST, "Destination already exists"),
            ("-d -t 10.0.0.1:80 -r 10.0.0.2", libc::ENOENT, "No such destination"),
            ("--start-daemon master --mcast-interface d0", libc::EEXIST, "Daemon has already run"),
            ("--stop-daemon backup", libc::ESRCH, "No daemon is running"),
            ("-C", libc::EPERM, "Permission denied (you must be root)"),
        ] {
            assert_eq!(told(line, number), words, "{line}");
        }
        let mixed = told("--start-daemon master --mcast-interface d0", libc::EINVAL);
        assert!(mixed.contains("another family"), "{mixed}");
        let other = told("-C", libc::EINVAL);
        assert!(other.starts_with("IPVS refuses: Invalid argument"), "{other}");
    }
}
