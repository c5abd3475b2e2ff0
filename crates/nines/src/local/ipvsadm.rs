//! `nines ipvsadm`, also when called as `ipvsadm`: LVS's tool on nines' tables. It needs no daemon:
//! it works on the pinned tables of the network namespace it is called in, or on the kernel's IPVS
//! there.
//!
//! Decides: which of the two; what a line does to nines' tables, in IPVS's order of servers (the
//! newest first). `ipvs.rs` has what it does to IPVS, `grammar.rs` its grammar, `listing.rs` its
//! output.

use std::{io::BufRead as _, process::ExitCode, time::Duration};

use nines_dataplane::{
    detour, director,
    ebpf::{self, EbpfPlane, Hooks, Sizes, Tables, readback},
    sysctl,
};
use nines_model::ForwardingTable;

use self::{
    commands::Command,
    grammar::{Ask, Refused},
    lines::Lines,
    listing::Form,
};

mod commands;
mod follow_devices;
mod grammar;
mod ipvs;
mod lines;
mod listing;
mod names;

const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)";
/// Another ipvsadm is done by then.
const PATIENCE: Duration = Duration::from_secs(10);

const AGENT_KEEPS: &str = "the nines agent of this machine keeps these tables\n  \
    next: change cluster.toml and `nines apply` it; listings are free";

/// Runs ipvsadm as a program of that name.
pub fn main(words: &[String]) -> ExitCode {
    ExitCode::from(run(words))
}

/// Runs one line, or with `-R` those of the standard input; gives the exit code.
pub fn run(words: &[String]) -> u8 {
    if let [word] = words
        && word == follow_devices::WORD
    {
        return u8::from(follow_devices::follow().is_err());
    }
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

/// Lines before one that is refused stay. Those that only add are one write.
fn restore() -> Result<String, Refused> {
    let mut target = Target::choose()?;
    let mut waiting: Option<Lines> = None;
    let mut done = Ok(());
    for line in std::io::stdin().lock().lines() {
        let words: Vec<String> = match line {
            Ok(line) => line.split_whitespace().map(str::to_owned).collect(),
            Err(why) => {
                done = Err((why.to_string(), 255));
                break;
            }
        };
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        done = grammar::read(&words).and_then(|ask| restore_line(&mut target, &mut waiting, &ask));
        if done.is_err() {
            break;
        }
    }
    if let (Target::Own(kernel), Some(lines)) = (&mut target, &waiting) {
        kernel.write(lines)?;
    }
    done.map(|()| String::new())
}

fn restore_line(
    target: &mut Target,
    waiting: &mut Option<Lines>,
    ask: &Ask,
) -> Result<(), Refused> {
    let kernel = match target {
        Target::Own(kernel) if matches!(ask.command, Command::Add | Command::AddServer) => kernel,
        // What left and comes back begins anew: one after the other.
        Target::Own(kernel) => {
            if let Some(lines) = waiting.take() {
                kernel.write(&lines)?;
            }
            return kernel.run(ask).map(drop);
        }
        Target::Ipvs(ipvs) => return ipvs.run(ask).map(drop),
    };
    let lines = match waiting {
        Some(lines) => lines,
        none => none.insert(Lines::new(kernel.table()?)),
    };
    lines.change(ask)
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
    /// No other process changes them.
    claim: Option<readback::Claim>,
    tables: Option<Tables>,
    plane: Option<EbpfPlane>,
    /// Whether interfaces that appear later were seen to, and for any service.
    followed: Option<bool>,
}

impl Kernel {
    fn new() -> Self {
        Self { claim: None, tables: None, plane: None, followed: None }
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
        let ready = self.plane.is_some() || readback::is_everywhere().map_err(failed)?;
        if !ready || self.tables()?.is_none() {
            self.open(Sizes::default())?;
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
                let mut lines = Lines::new(self.table()?);
                lines.change(ask)?;
                self.write(&lines)?;
                Ok(String::new())
            }
        }
    }

    /// Makes the kernel hold what lines came to.
    fn write(&mut self, lines: &Lines) -> Result<(), Refused> {
        let table = lines.table();
        let marks = detour::marks_of(table);
        if !marks.is_empty() && detour::build().map_err(failed)? {
            // The programs are not on these devices yet.
            (self.plane, self.tables) = (None, None);
        }
        let sizes = self.writable()?.sizes();
        let lacks = self.plane.is_none() && !ebpf::suffice(table).map_err(failed)?;
        if lacks || sizes.lacks_room(table) {
            self.open(Sizes::holding(table, 0))?;
        }
        if let Some(plane) = &mut self.plane {
            plane.provide(table).map_err(failed)?;
        }
        self.writable()?.apply(table).map_err(failed)?;
        let any = !table.services.is_empty();
        if self.followed != Some(any) {
            follow_devices::see_to_it(any).map_err(failed)?;
            self.followed = Some(any);
        }
        if lines.marks {
            detour::lead(&marks).map_err(failed)?;
        }
        Ok(())
    }

    /// Loads the programs, with tables of at least these sizes.
    fn open(&mut self, sizes: Sizes) -> Result<(), Refused> {
        (self.plane, self.tables) = (None, None);
        let object = ebpf::object::BYTES;
        let (mut plane, _guard) = ebpf::open(object, Hooks::Auto, sizes).map_err(failed)?;
        plane.on_all().map_err(failed)?;
        self.plane = Some(plane);
        // Answers of servers find their way by the routing tables.
        sysctl::write("net/ipv4/ip_forward", "1").map_err(failed)?;
        let _ = sysctl::write("net/ipv6/conf/all/forwarding", "1");
        Ok(())
    }

    /// As it is, read while nobody else changes it.
    fn table(&mut self) -> Result<ForwardingTable, Refused> {
        let tables = self.writable()?;
        Ok(readback::table(tables.installed()))
    }

    fn list(&mut self, ask: &Ask) -> Result<String, Refused> {
        let Some(tables) = self.tables()? else {
            return Ok(if ask.has("timeout") {
                timeouts(nines_dataplane::ebpf::readback::TIMEOUTS)
            } else if ask.has("daemon") {
                String::new()
            } else if ask.has("connection") {
                listing::connections(&[], ask)
            } else if ask.traffic.is_some() {
                return kernel_says("No such service");
            } else {
                listing::list(&[], ask)
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
            return Ok(listing::connections(&all, ask));
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
        Ok(listing::list(&all, ask))
    }
}

fn timeouts([tcp, fin, udp]: [u32; 3]) -> String {
    format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n")
}

pub const HELP: &str = include_str!("ipvsadm/help.txt");
