//! The director's programs, and when each is loaded.
//!
//! Decides: which programs a table needs. The kernel walks every way through a program before it
//! takes it, which is most of an agent's start: what no service asks for waits until one does. One
//! that an earlier process put to work is replaced at once, so that all are of one object.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{Program, ProgramFd},
};
use nines_abi::{
    PROGRAM_ADMIT, PROGRAM_COOKIE, PROGRAM_DELIVER, PROGRAM_ERROR, PROGRAM_FRAGMENT,
    PROGRAM_FULL_NAT, PROGRAM_INSERT, PROGRAM_INSERT_FULL_NAT, PROGRAM_INSERT_NAT,
    PROGRAM_INSERT_REPLY, PROGRAM_NEW, PROGRAM_PROXY, PROGRAM_QUIC, PROGRAM_REFUSE, PROGRAM_REPLY,
    PROGRAM_SCHEDULE_FALLBACK, PROGRAM_SCHEDULE_LOAD, PROGRAM_SCHEDULE_LOCALITY,
    PROGRAM_SCHEDULE_RANDOM, PROGRAM_SIP, PROGRAM_SOURCE_ADDRESS, PROGRAM_SOURCE_PORT,
    PROGRAM_UPDATE_FULL_NAT, PROGRAM_UPDATE_NAT,
};
use nines_model::{Backend, Forward, ForwardingTable, Scheduler, TableServer, TableService};

use super::{INSTALL, NEEDS, tables::pinned};
use crate::{Error, Result, pins::pin_directory};

/// The program that puts other directors' flows into the table.
pub(super) const FLOW_IMPORT: &str = "nines_flow_import";

/// What a table has that a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Always,
    /// Real servers that are reached by NAT.
    Nat,
    /// Full NAT, also of flows that began when their server was still told who its client is.
    Full,
    /// Full NAT with a pool of sources.
    Pool,
    /// Services that look at a client before it begins a flow.
    Asks,
    Cookies,
    Quic,
    /// Calls of SIP.
    Calls,
    /// Schedulers by hash that look for another server.
    Fallback,
    /// The scheduler that draws lots.
    Chance,
    /// Schedulers that remember destinations.
    Destinations,
    /// Schedulers that weigh what servers carry.
    Loads,
}

/// A program that goes on where another ends.
struct Part {
    /// Behind the hook's prefix.
    name: &'static str,
    /// Where the others find it.
    at: u32,
    need: Need,
    /// It is at XDP, too.
    xdp: bool,
}

const fn part(name: &'static str, at: u32, need: Need) -> Part {
    Part { name, at, need, xdp: true }
}

const fn at_tc(name: &'static str, at: u32, need: Need) -> Part {
    Part { name, at, need, xdp: false }
}

/// Those first that take the kernel longest: several are loaded at a time.
const PARTS: [Part; 24] = [
    at_tc("insert_nat", PROGRAM_INSERT_NAT, Need::Nat),
    part("update_nat", PROGRAM_UPDATE_NAT, Need::Nat),
    at_tc("sip", PROGRAM_SIP, Need::Calls),
    part("new", PROGRAM_NEW, Need::Always),
    part("insert", PROGRAM_INSERT, Need::Always),
    at_tc("fragment", PROGRAM_FRAGMENT, Need::Always),
    part("deliver", PROGRAM_DELIVER, Need::Always),
    part("schedule_locality", PROGRAM_SCHEDULE_LOCALITY, Need::Destinations),
    part("insert_full_nat", PROGRAM_INSERT_FULL_NAT, Need::Full),
    part("insert_reply", PROGRAM_INSERT_REPLY, Need::Full),
    part("proxy", PROGRAM_PROXY, Need::Full),
    part("schedule_fallback", PROGRAM_SCHEDULE_FALLBACK, Need::Fallback),
    part("schedule_random", PROGRAM_SCHEDULE_RANDOM, Need::Chance),
    part("schedule_load", PROGRAM_SCHEDULE_LOAD, Need::Loads),
    part("update_full_nat", PROGRAM_UPDATE_FULL_NAT, Need::Full),
    part("source_address", PROGRAM_SOURCE_ADDRESS, Need::Pool),
    part("full_nat", PROGRAM_FULL_NAT, Need::Full),
    at_tc("error", PROGRAM_ERROR, Need::Always),
    part("reply", PROGRAM_REPLY, Need::Nat),
    part("source_port", PROGRAM_SOURCE_PORT, Need::Full),
    at_tc("refuse", PROGRAM_REFUSE, Need::Always),
    part("cookie", PROGRAM_COOKIE, Need::Cookies),
    part("admit", PROGRAM_ADMIT, Need::Asks),
    part("quic", PROGRAM_QUIC, Need::Quic),
];

/// Where programs are put to work.
struct Hook {
    prefix: &'static str,
    /// Where each part is found by the others.
    array: &'static str,
    /// Those that packets meet first.
    entries: &'static [&'static str],
}

const TC: Hook = Hook {
    prefix: "nines_tc_",
    array: "PROGRAMS",
    entries: &["nines_tc_ingress", "nines_tc_egress"],
};
const XDP: Hook = Hook { prefix: "nines_xdp_", array: "XDP_PROGRAMS", entries: &["nines_xdp"] };

impl Hook {
    fn name(&self, part: &Part) -> String {
        format!("{}{}", self.prefix, part.name)
    }

    fn has(&self, part: &Part) -> bool {
        part.xdp || self.array == TC.array
    }
}

fn needs(table: &ForwardingTable) -> BTreeSet<Need> {
    if table.backend != Backend::Ebpf {
        return [Need::Always].into();
    }
    table.services.values().flat_map(of_service).chain([Need::Always]).collect()
}

fn of_service(service: &TableService) -> impl Iterator<Item = Need> {
    let any = |which: fn(&TableServer) -> bool| service.servers.values().any(which);
    let quic = any(|s| s.quic_id.is_some());
    let asks = service.rate.is_some() || service.cookies.is_some() || quic || service.sip;
    let scheduler = match service.scheduler {
        Scheduler::Twos => Some(Need::Chance),
        Scheduler::Lblc | Scheduler::Lblcr => Some(Need::Destinations),
        Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Fo
        | Scheduler::Ovf => Some(Need::Loads),
        Scheduler::Maglev
        | Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Sh
        | Scheduler::Dh
        | Scheduler::Mh => None,
    };
    let all = [
        (any(|s| s.forward == Forward::Nat), Need::Nat),
        (any(|s| s.forward == Forward::FullNat), Need::Full),
        (!service.pool.is_empty(), Need::Pool),
        (asks, Need::Asks),
        (service.cookies.is_some(), Need::Cookies),
        (quic, Need::Quic),
        (service.sip, Need::Calls),
        (service.flags.fallback, Need::Fallback),
    ];
    all.into_iter().filter_map(|(is, need)| is.then_some(need)).chain(scheduler)
}

/// Loads what this table needs, and what is at work already: what a table once needed is loaded at
/// every start until the machine boots. `before`: what must be done before the first of them is put
/// to work.
pub fn load(
    ebpf: &mut Ebpf,
    table: &ForwardingTable,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let needs = needs(table);
    load_some(ebpf, &TC, |part| needs.contains(&part.need), before)
}

/// Loads the XDP programs, which not every node needs: those that tc has, too.
pub fn load_xdp(ebpf: &mut Ebpf) -> Result<()> {
    let at_tc = |part: &Part| is_loaded(ebpf, &TC.name(part));
    let wanted: BTreeSet<u32> = PARTS.iter().filter(|p| at_tc(p)).map(|p| p.at).collect();
    load_some(ebpf, &XDP, |part| wanted.contains(&part.at), || Ok(()))
}

/// Loads what this table needs and is not loaded yet, at tc.
pub fn provide(ebpf: &mut Ebpf, table: &ForwardingTable) -> Result<()> {
    load(ebpf, table, || Ok(()))
}

/// The same at XDP, if that is in use. What is not there XDP leaves to tc.
pub fn provide_xdp(ebpf: &mut Ebpf) -> Result<()> {
    if is_loaded(ebpf, XDP.entries[0]) { load_xdp(ebpf) } else { Ok(()) }
}

/// Loads all there are, for tests and for measuring.
pub fn load_everything(ebpf: &mut Ebpf) -> Result<()> {
    load_some(ebpf, &TC, |_| true, || Ok(()))?;
    load_xdp(ebpf)
}

/// Whether the programs at work in this network namespace are all that this table needs.
pub fn suffice(table: &ForwardingTable) -> Result<bool> {
    let (pins, needs) = (pin_directory()?, needs(table));
    let has_all = |hook: &Hook| -> Result<bool> {
        let Map::ProgramArray(data) = pinned(&pins, hook.array)? else { return Ok(false) };
        let there = at_work(data)?;
        let mut needed = PARTS.iter().filter(|p| hook.has(p) && needs.contains(&p.need));
        // XDP's may be at work nowhere.
        let unused = hook.array == XDP.array && there.is_empty();
        Ok(unused || needed.all(|part| there.contains_key(&part.at)))
    };
    Ok(has_all(&TC)? && has_all(&XDP)?)
}

/// The places of an array of programs that are taken, and the kernel's numbers of what is there.
fn at_work(data: MapData) -> Result<BTreeMap<u32, u32>> {
    let failed = |e| Error::new("cannot read which programs are at work", e);
    let numbers: Array<_, u32> = Array::try_from(Map::Array(data)).map_err(failed)?;
    Ok((0..numbers.len()).filter_map(|at| Some((at, numbers.get(&at, 0).ok()?))).collect())
}

fn is_loaded(ebpf: &Ebpf, name: &str) -> bool {
    ebpf.program(name).is_some_and(|program| program.fd().is_ok())
}

/// Loads what is wanted or at work already, unless it is loaded, on all processors. Then the
/// programs get to know those that go on for them.
fn load_some(
    ebpf: &mut Ebpf,
    hook: &Hook,
    wanted: impl Fn(&Part) -> bool,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let there = at_work(handle(ebpf, hook.array)?)?;
    let wanted = |part: &&Part| wanted(part) || there.contains_key(&part.at);
    let parts = PARTS.iter().filter(|part| hook.has(part)).filter(wanted);
    let parts = parts.map(|part| (hook.name(part), Some(part.at)));
    let entries = hook.entries.iter().map(|name| ((*name).to_owned(), None));
    let mut missing: Vec<(String, Option<u32>)> = Vec::new();
    for (name, at) in entries.chain(parts) {
        let program = ebpf.program(&name).ok_or_else(|| damaged(&name))?;
        let own = program.info().ok().map(|info| info.id());
        // Loaded is not enough: a try that failed halfway may not have come to tell the others.
        if own.is_none() || at.is_some_and(|at| there.get(&at).copied() != own) {
            missing.push((name, at));
        }
    }
    if missing.is_empty() {
        return before();
    }
    let mut array = ProgramArray::try_from(Map::ProgramArray(handle(ebpf, hook.array)?))
        .map_err(|e| Error::new("the kernel object is damaged", e))?;
    let order = |name: &str| missing.iter().position(|(n, _)| n == name);
    let all = ebpf.programs_mut().filter_map(|(name, one)| Some((order(name)?, (name, one))));
    let loaded = load_each(all.collect())?;
    before()?;
    for (order, fd) in loaded {
        let (name, at) = &missing[order];
        if let Some(at) = at {
            array.set(*at, &fd, 0).map_err(|e| refused(name, &e))?;
        }
    }
    Ok(())
}

/// All or none: those at work go on among themselves when the kernel refuses a new one.
fn load_each(all: BTreeMap<usize, (&str, &mut Program)>) -> Result<BTreeMap<usize, ProgramFd>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(all.len());
    let work = Mutex::new(all.into_iter());
    let loader = || {
        let mut loaded = Vec::new();
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((order, (name, program))) = next else { return Ok(loaded) };
            loaded.push((order, load_one(name, program)?));
        }
    };
    let loaded: Vec<Result<Vec<_>>> = thread::scope(|scope| {
        let all: Vec<_> = (0..processors).map(|_| scope.spawn(loader)).collect();
        all.into_iter().map(|one| one.join().expect("a loader does not panic")).collect()
    });
    Ok(loaded.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Loads a program that is needed by itself.
pub fn load_alone(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    match ebpf.program_mut(name) {
        Some(program) => load_one(name, program).map(drop),
        None => Err(damaged(name)),
    }
}

fn load_one(name: &str, program: &mut Program) -> Result<ProgramFd> {
    let loaded = match program {
        Program::SchedClassifier(tc) if tc.fd().is_err() => tc.load(),
        Program::Xdp(xdp) if xdp.fd().is_err() => xdp.load(),
        Program::SchedClassifier(_) | Program::Xdp(_) => Ok(()),
        _ => return Err(damaged(name)),
    };
    loaded.map_err(|e| refused(name, &e))?;
    program.fd().and_then(|fd| fd.try_clone().map_err(Into::into)).map_err(|e| refused(name, &e))
}

fn refused(program: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(format!("the kernel refused program {program}"), why).next(NEEDS)
}

/// The object lacks a program.
pub fn damaged(program: &str) -> Error {
    Error::new("the kernel object is damaged", format!("no program {program}")).next(INSTALL)
}

/// Another handle of a pinned array: programs and array are borrowed from `ebpf` at once.
fn handle(ebpf: &Ebpf, name: &str) -> Result<MapData> {
    let failed = |e: String| Error::new("the kernel object is damaged", e);
    let Some(Map::ProgramArray(data)) = ebpf.map(name) else {
        return Err(failed(format!("no map {name}")));
    };
    let id = data.info().map_err(|e| failed(e.to_string()))?.id();
    MapData::from_id(id).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use nines_abi::{SCHED_LC, SCHED_TWOS};
    use nines_model::{Listen, Proto, Traffic};

    use super::{super::installed::scheduler_word, *};

    fn service(scheduler: Scheduler) -> TableService {
        let listen = Listen::new("10.0.0.100:80".parse().unwrap(), Proto::Tcp);
        TableService::new(Traffic::To(listen), scheduler)
    }

    /// `begin.rs` of the kernel's programs goes on elsewhere for these.
    #[test]
    fn a_scheduler_that_another_program_carries_out_needs_it() {
        for (name, scheduler) in Scheduler::ALL {
            let elsewhere = (SCHED_LC..=SCHED_TWOS).contains(&scheduler_word(scheduler));
            let needs = of_service(&service(scheduler)).count();
            assert_eq!(needs, usize::from(elsewhere), "{name}");
        }
    }

    #[test]
    fn what_no_service_has_needs_no_program() {
        let mut table = ForwardingTable::default();
        assert_eq!(needs(&table), [Need::Always].into());
        let mut web = service(Scheduler::Maglev);
        let at = "10.0.0.11:80".parse().unwrap();
        web.servers.insert("r1".into(), TableServer::new(at, Forward::Dr));
        table.services.insert("web".into(), web.clone());
        assert_eq!(needs(&table), [Need::Always].into());
        web.servers.insert("r2".into(), TableServer::new(at, Forward::Nat));
        web.servers.insert("r3".into(), TableServer::new(at, Forward::FullNat));
        web.sip = true;
        table.services.insert("more".into(), web);
        let expected = [Need::Always, Need::Nat, Need::Full, Need::Asks, Need::Calls];
        assert_eq!(needs(&table), expected.into());
    }

    #[test]
    fn every_place_is_taken_once() {
        let places: BTreeSet<u32> = PARTS.iter().map(|part| part.at).collect();
        assert_eq!(places, (0..PARTS.len() as u32).collect());
    }
}
