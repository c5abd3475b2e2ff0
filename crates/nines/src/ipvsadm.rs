//! `nines ipvsadm`, also when called as `ipvsadm`: LVS's tool on nines' tables. It needs no daemon: it
//! works on the pinned tables of the network namespace it is called in, or on the kernel's IPVS there.
//!
//! Decides: which of the two; what a line does to nines' tables, in IPVS's order of servers (the newest
//! first). `ipvs.rs` has what it does to IPVS, `grammar.rs` its grammar, `listing.rs` its output.

use std::{
    collections::BTreeMap,
    io::BufRead as _,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use nines_dataplane::{
    address, detour, director,
    ebpf::{self, EbpfPlane, Hooks, Sizes, Tables, reading},
    sysctl,
};
use nines_model::{Forward, ForwardingTable, ServerState, TableServer, TableService, Traffic};

use self::{
    grammar::{Ask, Refused},
    listing::Form,
    words::Command,
};

mod grammar;
mod ipvs;
mod listing;
mod names;
mod words;

const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)";
/// Another ipvsadm is done by then.
const PATIENCE: Duration = Duration::from_secs(10);

const AGENT_KEEPS: &str = "the nines agent of this machine keeps these tables\n  \
    next: change cluster.toml and `nines apply` it; listings are free";

/// For `main`.
pub fn main(words: &[String]) -> ExitCode {
    ExitCode::from(run(words))
}

/// Runs one line, or with `-R` those of the standard input; gives the exit code.
pub fn run(words: &[String]) -> u8 {
    let done = grammar::read(words).and_then(|ask| match ask.command {
        Command::Restore => restore(),
        Command::Help => Ok(HELP.to_owned()),
        Command::Version => Ok(format!("{VERSION}\n")),
        _ => Target::choose()?.run(&ask),
    });
    match done {
        Ok(out) => {
            out!("{out}");
            0
        }
        Err((why, code)) => {
            errln!("{why}");
            code
        }
    }
}

fn restore() -> Result<String, Refused> {
    let mut target = Target::choose()?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| (e.to_string(), 255))?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let ask = grammar::read(&words)?;
        target.run(&ask)?;
    }
    Ok(String::new())
}

fn kernel_says<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err((text.into(), 255))
}

fn failed(e: nines_dataplane::Error) -> Refused {
    let next = e.next.as_ref().map_or_else(String::new, |next| format!("\n  next: {next}"));
    (format!("{e}{next}"), 255)
}

/// Whose tables a line is about.
enum Target {
    Own(Kernel),
    Ipvs(ipvs::Ipvs),
}

impl Target {
    /// By wish, else by what carries services in this network namespace.
    fn choose() -> Result<Self, Refused> {
        const WISH: &str = "NINES_DATAPLANE";
        let wish = std::env::var(WISH).unwrap_or_default();
        let by_ipvs = match wish.as_str() {
            "" => director::ipvs_carries(),
            "ipvs" => true,
            "ebpf" => false,
            _ => {
                let why = format!("{WISH}={wish}: there is no such data plane");
                return Err((format!("{why}\n  next: {WISH}=ipvs or {WISH}=ebpf"), 2));
            }
        };
        Ok(if by_ipvs { Self::Ipvs(ipvs::Ipvs::open()?) } else { Self::Own(Kernel::new()) })
    }

    fn run(&mut self, ask: &Ask) -> Result<String, Refused> {
        match self {
            Self::Own(kernel) => kernel.run(ask),
            Self::Ipvs(ipvs) => ipvs.run(ask),
        }
    }
}

/// The tables of this namespace, opened when they are needed.
struct Kernel {
    /// Nobody else changes them.
    claim: Option<reading::Claim>,
    tables: Option<Tables>,
    plane: Option<EbpfPlane>,
}

impl Kernel {
    fn new() -> Self {
        Self { claim: None, tables: None, plane: None }
    }

    /// To be read; `None`: there are none.
    fn tables(&mut self) -> Result<Option<&mut Tables>, Refused> {
        if let Some(plane) = &mut self.plane {
            return Ok(Some(plane.tables()));
        }
        if self.tables.is_none() {
            self.tables = Tables::pinned().map_err(failed)?;
        }
        Ok(self.tables.as_mut())
    }

    /// To be changed; the programs are at work on every interface.
    fn writable(&mut self) -> Result<&mut Tables, Refused> {
        if self.claim.is_none() {
            let claim = ebpf::claim(PATIENCE).map_err(failed)?;
            if claim.is_none() {
                return kernel_says(AGENT_KEEPS);
            }
            self.claim = claim;
            self.tables = None;
        }
        let ready = self.plane.is_some() || reading::is_everywhere().map_err(failed)?;
        if !ready || self.tables()?.is_none() {
            let (object, sizes) = (ebpf::object::BYTES, Sizes::default());
            let (mut plane, _guard) = ebpf::open(object, Hooks::Auto, sizes).map_err(failed)?;
            plane.on_all().map_err(failed)?;
            self.plane = Some(plane);
            // Answers of servers find their way by the routing tables.
            sysctl::write("net/ipv4/ip_forward", "1").map_err(failed)?;
            let _ = sysctl::write("net/ipv6/conf/all/forwarding", "1");
        }
        match self.tables()? {
            Some(tables) => Ok(tables),
            None => kernel_says("the kernel tables went away"),
        }
    }

    fn run(&mut self, ask: &Ask) -> Result<String, Refused> {
        match ask.command {
            Command::List => self.list(ask),
            Command::Save => {
                let all = match self.tables()? {
                    Some(tables) => listing::collect(tables, true).map_err(failed)?,
                    None => Vec::new(),
                };
                Ok(listing::save(&all, ask.has("numeric")))
            }
            Command::StartDaemon(_) | Command::StopDaemon(_) => kernel_says(
                "these are nines' own tables: its directors tell each other of flows by themselves, \
                 and IPVS's daemons only of IPVS's connections\n  \
                 next: NINES_DATAPLANE=ipvs before the command is the kernel's own IPVS; \
                 dataplane = \"ipvs\" in cluster.toml starts both daemons",
            ),
            Command::Set(seconds) => {
                self.writable()?.set_timeouts(seconds).map_err(failed)?;
                Ok(String::new())
            }
            Command::Zero => {
                if let Some(traffic) = ask.traffic {
                    let known = self.table()?.services.values().any(|s| s.traffic == traffic);
                    if !known {
                        return kernel_says("Service not defined");
                    }
                }
                self.writable()?.zero(ask.traffic).map_err(failed)?;
                Ok(String::new())
            }
            _ => {
                let mut table = self.table()?;
                change(&mut table, ask)?;
                let marks = detour::marks_of(&table);
                if !marks.is_empty() && detour::build().map_err(failed)? {
                    // The programs are not on these devices yet.
                    (self.plane, self.tables) = (None, None);
                }
                self.writable()?.apply(&table).map_err(failed)?;
                let may_differ = matches!(ask.traffic, None | Some(Traffic::Marked { .. }));
                if may_differ {
                    detour::lead(&marks).map_err(failed)?;
                }
                Ok(String::new())
            }
        }
    }

    /// As it is, read while nobody else changes it.
    fn table(&mut self) -> Result<ForwardingTable, Refused> {
        let tables = self.writable()?;
        Ok(reading::table(tables.installed()))
    }

    fn list(&mut self, ask: &Ask) -> Result<String, Refused> {
        let numeric = ask.has("numeric");
        let Some(tables) = self.tables()? else {
            return Ok(if ask.has("timeout") {
                timeouts(nines_dataplane::ebpf::reading::TIMEOUTS)
            } else if ask.has("daemon") {
                String::new()
            } else if ask.has("connection") {
                listing::connections(&[], numeric)
            } else {
                listing::list(&[], Form::of(ask), numeric, ask.has("exact"))
            });
        };
        if ask.has("timeout") {
            return Ok(timeouts(tables.timeouts()));
        }
        if ask.has("daemon") {
            return Ok(String::new());
        }
        if ask.has("connection") {
            let all = tables.connections().map_err(failed)?;
            return Ok(listing::connections(&all, numeric));
        }
        let form = Form::of(ask);
        let mut all = listing::collect(tables, !ask.has("nosort")).map_err(failed)?;
        if form == Form::Rate {
            // Nobody counts while nobody looks: two looks, a second apart.
            let began = std::time::Instant::now();
            std::thread::sleep(Duration::from_secs(1));
            let after = listing::collect(tables, !ask.has("nosort")).map_err(failed)?;
            all = listing::rates(&all, after, began.elapsed().as_secs_f64());
        }
        let all = listing::only(all, ask.traffic)?;
        Ok(listing::list(&all, form, numeric, ask.has("exact")))
    }
}

fn timeouts([tcp, fin, udp]: [u32; 3]) -> String {
    format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n")
}

/// A line's change of the table.
fn change(table: &mut ForwardingTable, ask: &Ask) -> Result<(), Refused> {
    if ask.command == Command::Flush {
        table.services.clear();
        return Ok(());
    }
    let Some(traffic) = ask.traffic else { return kernel_says("Service not defined") };
    let name = table.services.iter().find(|(_, s)| s.traffic == traffic).map(|(n, _)| n.clone());
    match ask.command {
        Command::Add if name.is_some() => kernel_says("Service already exists"),
        Command::Add | Command::Edit if ask.unknown_name => {
            kernel_says("Scheduler or persistence engine not found")
        }
        Command::Add => {
            table.services.insert(format!("{traffic:?}"), service(ask, traffic));
            Ok(())
        }
        Command::Edit | Command::Delete if name.is_none() => kernel_says("No such service"),
        Command::Edit => {
            if let Some(old) = name.and_then(|name| table.services.get_mut(&name)) {
                let servers = std::mem::take(&mut old.servers);
                *old = TableService { servers, ..service(ask, traffic) };
            }
            Ok(())
        }
        Command::Delete => {
            table.services.remove(&name.unwrap_or_default());
            Ok(())
        }
        _ => match name.and_then(|name| table.services.get_mut(&name)) {
            Some(service) => change_server(service, ask),
            None => kernel_says("Service not defined"),
        },
    }
}

fn service(ask: &Ask, traffic: Traffic) -> TableService {
    TableService {
        flags: ask.flags,
        one_packet: ask.one_packet,
        sip: ask.sip,
        persist: ask.persist,
        ..TableService::new(traffic, ask.scheduler)
    }
}

fn change_server(service: &mut TableService, ask: &Ask) -> Result<(), Refused> {
    let Some(addr) = ask.server else { return kernel_says("No such destination") };
    let name = service.servers.iter().find(|(_, s)| s.addr == addr).map(|(n, _)| n.clone());
    let server = TableServer {
        weight: ask.weight,
        state: ServerState::Up,
        limit: ask.limit,
        ..TableServer::new(addr, forward(ask.forward, addr, service.traffic))
    };
    match (ask.command, name) {
        (Command::AddServer, Some(_)) => kernel_says("Destination already exists"),
        (Command::AddServer, None) => {
            // The newest goes first.
            let old = std::mem::take(&mut service.servers);
            let all = std::iter::once(server).chain(old.into_values());
            service.servers = (0..).map(reading::place_name).zip(all).collect();
            Ok(())
        }
        (_, None) => kernel_says("No such destination"),
        (Command::EditServer, Some(name)) => {
            // What its tool has no words for stays.
            let old = &service.servers[&name];
            let (proxy, quic_id) = (old.proxy && old.forward == server.forward, old.quic_id);
            service.servers.insert(name, TableServer { proxy, quic_id, ..server });
            Ok(())
        }
        (_, Some(name)) => {
            service.servers.remove(&name);
            let left: BTreeMap<String, TableServer> = (0..)
                .map(reading::place_name)
                .zip(std::mem::take(&mut service.servers).into_values())
                .collect();
            service.servers = left;
            Ok(())
        }
    }
}

/// A server on this very machine is reached by its own stack, whatever was asked (IPVS: Local).
fn forward(asked: Forward, addr: SocketAddr, traffic: Traffic) -> Forward {
    let own = address::interfaces().unwrap_or_default();
    let own = own.iter().flat_map(|i| &i.addresses).any(|(a, _): &(IpAddr, u8)| *a == addr.ip());
    let same_port = match traffic {
        Traffic::To(listen) => listen.addr.port() == addr.port() && listen.is_one(),
        Traffic::Marked { .. } => true,
    };
    if own && same_port { Forward::Local } else { asked }
}

pub const HELP: &str = include_str!("ipvsadm/help.txt");
