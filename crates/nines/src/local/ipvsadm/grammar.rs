//! ipvsadm's command line, options in any order: what is asked, or what is wrong with it in
//! ipvsadm's words.
//!
//! Decides: grammar and the checks that need no table. Defaults are ipvsadm's.

use std::{
    collections::BTreeSet,
    iter::Peekable,
    net::{IpAddr, SocketAddr},
};

use nines_dataplane::ipvs::{Role, SyncDaemon};
use nines_model::{
    Forward, Limit, Listen, Persist, Proto, Scheduler, SchedulerFlags, Traffic, Tunnel,
    TunnelChecksum, TunnelKind,
};

use super::{
    commands::{Command, PLAIN, SHORT, VALUED},
    names,
};

mod checks;

/// Why a line is refused: text and exit code.
pub type Refused = (String, u8);

fn usage<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err((text.into(), 2))
}

/// A line, read.
#[derive(Clone, Debug)]
pub struct Ask {
    pub command: Command,
    /// Names of the options that were there.
    pub options: BTreeSet<&'static str>,
    pub traffic: Option<Traffic>,
    pub scheduler: Scheduler,
    /// There is no scheduler, or no persistence engine, of the name that was written.
    pub unknown_name: bool,
    pub flags: SchedulerFlags,
    pub persist: Option<Persist>,
    pub one_packet: bool,
    pub sip: bool,
    pub server: Option<SocketAddr>,
    pub forward: Forward,
    pub weight: u32,
    pub limit: Limit,
    /// All but its role, which is the command's.
    pub daemon: SyncDaemon,
}

impl Ask {
    /// Whether an option was there.
    pub fn has(&self, option: &str) -> bool {
        self.options.contains(option)
    }
}

const TRY_HELP: &str = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.";

/// Longest time of persistence and of idle limits, seconds.
const TIMEOUT_MAX: u32 = 86_400 * 31;

struct Reader {
    command: Option<Command>,
    options: BTreeSet<&'static str>,
    proto_addr: Option<(Proto, String)>,
    mark: Option<u32>,
    v6: bool,
    scheduler: Option<String>,
    sched_flags: Option<String>,
    persist: Option<u32>,
    netmask: Option<String>,
    engine: Option<String>,
    server: Option<String>,
    forward: Option<Forward>,
    tunnel: Tunnel,
    weight: u32,
    limit: Limit,
    daemon: SyncDaemon,
}

/// Reads the words after the program's name; none of them means the list.
pub fn read(words: &[String]) -> Result<Ask, Refused> {
    let mut reader = Reader {
        command: words.is_empty().then_some(Command::List),
        options: BTreeSet::new(),
        proto_addr: None,
        mark: None,
        v6: false,
        scheduler: None,
        sched_flags: None,
        persist: None,
        netmask: None,
        engine: None,
        server: None,
        forward: None,
        tunnel: Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None },
        weight: 1,
        limit: Limit::default(),
        daemon: SyncDaemon::new(Role::Master, ""),
    };
    let mut rest = words.iter().map(String::as_str).peekable();
    // Words that belong to no option are looked at last.
    let mut stray = None;
    while let Some(word) = rest.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            reader.long(word, name, value, &mut rest)?;
        } else if let Some(letters) = word.strip_prefix('-').filter(|l| !l.is_empty()) {
            reader.letters(word, letters, &mut rest)?;
        } else {
            stray.get_or_insert(word);
        }
    }
    match stray {
        Some(word) if reader.command.is_some() => usage(format!("unexpected argument {word}")),
        _ => reader.finish(),
    }
}

impl Reader {
    fn letters<'a>(
        &mut self,
        word: &str,
        letters: &'a str,
        rest: &mut Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<(), Refused> {
        for (i, letter) in letters.char_indices() {
            let Some((_, name)) = SHORT.iter().find(|(l, _)| *l == letter) else {
                return self.unknown(word);
            };
            let behind = &letters[i + letter.len_utf8()..];
            if VALUED.contains(name) && !behind.is_empty() {
                let value = behind.strip_prefix('=').unwrap_or(behind);
                return self.long(word, name, Some(value), rest);
            }
            self.long(word, name, None, rest)?;
        }
        Ok(())
    }

    fn long<'a>(
        &mut self,
        word: &str,
        name: &str,
        value: Option<&'a str>,
        rest: &mut Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<(), Refused> {
        let value = match value {
            Some(value) => value,
            None if VALUED.contains(&name) => match rest.next() {
                Some(value) => value,
                None => return Err((format!("{word}: missing argument"), 255)),
            },
            None => "",
        };
        let command = match name {
            "add-service" => Command::Add,
            "edit-service" => Command::Edit,
            "delete-service" => Command::Delete,
            "clear" => Command::Flush,
            "add-server" => Command::AddServer,
            "edit-server" => Command::EditServer,
            "delete-server" => Command::DeleteServer,
            "list" => Command::List,
            "zero" => Command::Zero,
            "restore" => Command::Restore,
            "save" => Command::Save,
            "help" => Command::Help,
            "version" => Command::Version,
            "set" => {
                let mut three = [timeout(value, 0)?, 0, 0];
                for slot in &mut three[1..] {
                    match rest.next() {
                        Some(value) => *slot = timeout(value, 0)?,
                        None => return usage("--set option requires 3 timeout values"),
                    }
                }
                Command::Set(three)
            }
            "start-daemon" => match role(value) {
                Some(role) => Command::StartDaemon(role),
                None => return usage("illegal start-daemon parameter specified"),
            },
            "stop-daemon" => match role(value) {
                Some(role) => Command::StopDaemon(role),
                None => return usage("illegal start_daemon specified"),
            },
            _ => return self.option(word, name, value, rest),
        };
        if self.command.is_some() {
            return usage(format!("invalid option `{word}'"));
        }
        self.command = Some(command);
        Ok(())
    }

    fn set(&mut self, option: &'static str) -> Result<(), Refused> {
        if !self.options.insert(option) {
            return usage(format!("multiple '{option}' options specified"));
        }
        Ok(())
    }

    fn option<'a>(
        &mut self,
        word: &str,
        name: &str,
        value: &'a str,
        rest: &mut Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<(), Refused> {
        match name {
            "tcp-service" | "udp-service" | "sctp-service" | "fwmark-service" => {
                self.set("service-address")?;
                self.service_address(name, value)
            }
            "ipv6" => {
                self.v6 = true;
                Ok(())
            }
            "persistent" => {
                self.set("persistent")?;
                let given = rest.next_if(|next| !next.starts_with('-'));
                self.persist = Some(given.map_or(Ok(300), |value| timeout(value, 1))?);
                Ok(())
            }
            "scheduler" | "netmask" | "real-server" | "sched-flags" | "pe" => {
                self.text(name, value)
            }
            "gatewaying" | "ipip" | "masquerading" | "fullnat" => {
                self.set("forwarding-method")?;
                self.forward = Some(match name {
                    "gatewaying" => Forward::Dr,
                    "masquerading" => Forward::Nat,
                    "fullnat" => Forward::FullNat,
                    _ => Forward::Tunnel(self.tunnel),
                });
                Ok(())
            }
            "weight" | "u-threshold" | "l-threshold" => self.server_number(name, value),
            "sort" => Ok(()),
            "tun-type" | "tun-port" | "tun-nocsum" | "tun-csum" | "tun-remcsum" => {
                self.tunnel(name, value)
            }
            "syncid" | "mcast-interface" | "mcast-group" | "mcast-port" | "mcast-ttl"
            | "sync-maxlen" => self.daemon(name, value),
            _ => match PLAIN.iter().find(|plain| **plain == name) {
                Some(plain) => self.set(plain),
                None => self.unknown(word),
            },
        }
    }

    fn service_address(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        let proto = match name {
            "tcp-service" => Proto::Tcp,
            "udp-service" => Proto::Udp,
            "sctp-service" => Proto::Sctp,
            _ => {
                let mark = value.parse::<u32>().ok();
                self.mark = mark.filter(|m| *m > 0 && i32::try_from(*m).is_ok());
                return match self.mark {
                    Some(_) => Ok(()),
                    None => usage(format!("invalid fwmark value `{value}' specified")),
                };
            }
        };
        if names::address(value, proto).is_none() {
            return usage("illegal virtual server address[:port] specified");
        }
        self.proto_addr = Some((proto, value.to_owned()));
        Ok(())
    }

    /// Options whose value is looked at when all of them are known.
    fn text(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        let (option, place) = match name {
            "scheduler" => ("scheduler", &mut self.scheduler),
            "netmask" => ("netmask", &mut self.netmask),
            "real-server" => ("real-server", &mut self.server),
            "sched-flags" => ("sched-flags", &mut self.sched_flags),
            _ => ("pe", &mut self.engine),
        };
        *place = Some(value.to_owned());
        self.set(option)
    }

    fn server_number(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        let most = i32::MAX as u32;
        match name {
            "weight" => {
                self.set("weight")?;
                self.weight = number(value, most, "illegal weight specified")?;
            }
            "u-threshold" => {
                self.set("u-threshold")?;
                self.limit.upper = number(value, most, "illegal u_threshold specified")?;
            }
            _ => {
                self.set("l-threshold")?;
                self.limit.lower = number(value, most, "illegal l_threshold specified")?;
            }
        }
        Ok(())
    }

    /// The first option must be a command; what is no option at all is none.
    fn unknown(&self, word: &str) -> Result<(), Refused> {
        let unknown = (format!("{word}: unknown option"), 255);
        Err(if self.command.is_some() { unknown } else { (TRY_HELP.into(), 255) })
    }

    fn tunnel(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        match name {
            "tun-type" => {
                self.set("tun-type")?;
                self.tunnel.kind = match value {
                    "ipip" => TunnelKind::Ipip,
                    "gue" => TunnelKind::Gue,
                    "gre" => TunnelKind::Gre,
                    _ => return usage("illegal tunnel type specified"),
                };
            }
            "tun-port" => {
                self.set("tun-port")?;
                let port = number(value, 65_535, "illegal tunnel port specified")?;
                if port == 0 {
                    return usage("illegal tunnel port specified");
                }
                self.tunnel.port = port as u16;
            }
            "tun-nocsum" => self.set("tun-nocsum")?,
            "tun-csum" => {
                self.set("tun-csum")?;
                self.tunnel.checksum = TunnelChecksum::Full;
            }
            _ => {
                self.set("tun-remcsum")?;
                self.tunnel.checksum = TunnelChecksum::Remote;
            }
        }
        Ok(())
    }

    fn daemon(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        match name {
            "syncid" => {
                self.set("syncid")?;
                self.daemon.sync_id = number(value, 255, "illegal syncid specified")?;
            }
            "mcast-interface" => {
                self.set("mcast-interface")?;
                value.clone_into(&mut self.daemon.interface);
            }
            "mcast-group" => {
                self.set("mcast-group")?;
                let group = value.parse::<IpAddr>().ok().filter(IpAddr::is_multicast);
                if group.is_none() {
                    return usage(format!("invalid mcast-group value `{value}' specified"));
                }
                self.daemon.group = group;
            }
            "mcast-port" => {
                self.set("mcast-port")?;
                let port = number(value, 65_535, "illegal mcast-port specified")?;
                self.daemon.port = port as u16;
            }
            "mcast-ttl" => {
                self.set("mcast-ttl")?;
                self.daemon.ttl = number(value, 255, "illegal mcast-ttl specified")? as u8;
            }
            _ => {
                self.set("sync-maxlen")?;
                let most = number(value, 65_535, "illegal sync-maxlen specified")?;
                self.daemon.len_max = most as u16;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Ask, Refused> {
        let Some(command) = self.command else {
            return Err((TRY_HELP.into(), 255));
        };
        let traffic = self.traffic();
        let name = self.scheduler.as_deref().unwrap_or("wlc");
        let known = Scheduler::ALL.iter().find(|(n, s)| *n == name && *s != Scheduler::Maglev);
        let scheduler = known.map_or(Scheduler::Wlc, |(_, s)| *s);
        let flags = self.flags(scheduler)?;
        let persist = self.persistence(traffic)?;
        if command == Command::List {
            self.check_list()?;
        }
        self.check_options(command)?;
        if matches!(command, Command::Add | Command::Edit) {
            checks::check_service(traffic, persist, self.options.contains("ops"))?;
        }
        let mut server = None;
        let mut forward = self.forward.unwrap_or(Forward::Dr);
        if let (Some(text), Some(traffic)) = (&self.server, traffic) {
            let (proto, port) = match traffic {
                Traffic::To(listen) => (listen.proto, listen.addr.port()),
                Traffic::Marked { .. } => (Proto::Tcp, 0),
            };
            let Some((ip, own)) = names::address(text, proto) else {
                return usage("illegal real server address[:port] specified");
            };
            // Only NAT maps ports; who is taken out is called by the port he is listed with.
            let marked = matches!(traffic, Traffic::Marked { .. });
            let maps = forward.translates() || command == Command::DeleteServer || marked;
            let mapped = if maps { own.unwrap_or(port) } else { port };
            server = Some(SocketAddr::new(ip, mapped));
            forward = self.forwarding(forward)?;
            let tunnel = matches!(forward, Forward::Tunnel(_));
            if ip.is_ipv6() != traffic.is_ipv6() && !tunnel && command != Command::DeleteServer {
                return usage("Different address family is allowed only for tunneling servers");
            }
        }
        Ok(Ask {
            command,
            traffic,
            scheduler,
            unknown_name: known.is_none() || self.engine.as_ref().is_some_and(|e| e != "sip"),
            flags,
            persist,
            one_packet: self.options.contains("ops"),
            sip: self.engine.is_some(),
            server,
            forward,
            weight: self.weight,
            limit: self.limit,
            daemon: self.daemon,
            options: self.options,
        })
    }

    fn traffic(&self) -> Option<Traffic> {
        if let Some(mark) = self.mark {
            return Some(Traffic::Marked { mark, v6: self.v6 });
        }
        let (proto, text) = self.proto_addr.as_ref()?;
        let (ip, port) = names::address(text, *proto)?;
        let addr = SocketAddr::new(ip, port.unwrap_or(0));
        Some(Traffic::To(Listen::new(addr, *proto)))
    }
}

fn role(text: &str) -> Option<Role> {
    match text.chars().next()? {
        'm' => Some(Role::Master),
        'b' => Some(Role::Backup),
        _ => None,
    }
}

fn number(text: &str, most: u32, refused: &str) -> Result<u32, Refused> {
    match text.parse::<u32>() {
        Ok(number) if number <= most => Ok(number),
        _ => usage(refused),
    }
}

fn timeout(text: &str, least: u32) -> Result<u32, Refused> {
    match text.parse::<u32>() {
        Ok(seconds) if (least..=TIMEOUT_MAX).contains(&seconds) => Ok(seconds),
        _ => usage(format!("invalid timeout value `{text}' specified")),
    }
}
