//! `nines fence list`, `history`, `test`, `off`, `on`, `confirm`

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::FenceState,
    text::ago,
    types::{ActRequest, Done, Event, FenceResult, FenceStatus, SCHEMA, Status},
};
use nines_model::{AdminCommand, Codes as _, Millis};

use super::act::{now_ms, show, some_time};
use crate::{
    context::Context,
    output::{columns, print_json},
};

/// Fence devices: what can switch a machine off that does not answer.
#[derive(Args)]
pub struct FenceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the nodes with their fence devices and what the last test came to.
    List,
    /// List what fence devices were asked for, why, and what came of it; the newest 20.
    History,
    /// Ask fence devices whether they answer; nothing is switched.
    Test(TestArgs),
    /// Switch a node's machine off at once, and read back that it is.
    Off(SwitchArgs),
    /// Switch a node's machine on, and read back that it is.
    On(SwitchArgs),
    /// Say that you have seen that a node's machine is off, where no fence device can tell.
    Confirm(ConfirmArgs),
}

#[derive(Args)]
struct TestArgs {
    /// Names of nodes; without any, all that have fence devices.
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct SwitchArgs {
    /// Name of the node.
    name: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct ConfirmArgs {
    /// Name of the node.
    name: String,
    /// Do not ask: you have seen it.
    #[arg(short, long)]
    yes: bool,
    /// How you have seen it, in your words; every node shows it.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args)]
struct How {
    /// Reason in your words; every node shows it.
    #[arg(long, default_value = "")]
    reason: String,
    /// How long to wait for the answer of the devices; it goes on after that.
    #[arg(long, value_name = "TIME", default_value = "120s")]
    wait: String,
}

/// Runs it.
pub fn run(context: &Context, args: &FenceArgs) -> Outcome<u8> {
    match &args.what {
        What::List => list(context),
        What::History => history(context),
        What::Test(args) => test(context, args),
        What::Off(args) => {
            let name = &args.name;
            let question = off_question(&status(context)?, name);
            agreed(args.yes, &question, &format!("{name} was not switched off"))?;
            switched(context, AdminCommand::PowerOff, args)
        }
        What::On(args) => switched(context, AdminCommand::PowerOn, args),
        What::Confirm(args) => confirm(context, args),
    }
}

fn status(context: &Context) -> Outcome<Status> {
    context.client().get("/v1/status?servers=false")
}

fn list(context: &Context) -> Outcome<u8> {
    let fencing = status(context)?.fencing;
    if context.json() {
        print_lines(&fencing.iter().collect::<Vec<_>>());
    } else {
        out!("{}", table(&fencing, now_ms()));
    }
    Ok(0)
}

/// Events that fencing writes.
const KINDS: [&str; 3] = ["fence", "fenced", "fence-failed"];
/// Acts that are listed.
const HISTORY_MAX: usize = 20;

fn history(context: &Context) -> Outcome<u8> {
    let all: Vec<Event> = context.client().get("/v1/events?limit=10000")?;
    let acts = of_fencing(all);
    if context.json() {
        print_json(&acts);
    } else if acts.is_empty() {
        outln!("No fence device was asked to switch anything.");
    } else {
        let row = |e: &Event| vec![e.at.clone(), e.kind.clone(), e.subject.clone(), e.text.clone()];
        let head = ["TIME", "WHAT", "NODE", "WHY, OR WHAT THE DEVICES SAID"].map(str::to_owned);
        let rows: Vec<_> = [head.to_vec()].into_iter().chain(acts.iter().map(row)).collect();
        out!("{}", columns(&rows));
    }
    Ok(0)
}

/// The newest events of fencing, the oldest first.
fn of_fencing(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| KINDS.contains(&event.kind.as_str()));
    events.drain(..events.len().saturating_sub(HISTORY_MAX));
    events
}

fn print_lines(lines: &[&FenceStatus]) {
    print_json(&serde_json::json!({ "schema": SCHEMA, "fencing": lines }));
}

fn table(fencing: &[FenceStatus], now_ms: u64) -> String {
    let mut rows = vec![["NODE", "DEVICES", "STATE", "LAST TEST"].map(str::to_owned).to_vec()];
    rows.extend(fencing.iter().map(|line| {
        vec![
            line.node.clone(),
            levels(&line.levels),
            line.state.to_string(),
            line.last_test.as_ref().map_or_else(|| "-".into(), |test| when(test, now_ms)),
        ]
    }));
    let mut out = columns(&rows);
    let mut remark = |node: &str, text: &str| out.push_str(&format!("\n{node}: {text}\n"));
    for line in fencing {
        if !line.text.is_empty() {
            remark(&line.node, &line.text);
        }
        if let Some(test) = line.last_test.as_ref().filter(|test| !test.ok) {
            remark(&line.node, &test.text);
        }
    }
    if fencing.iter().all(|line| line.is(FenceState::None)) {
        out.push_str("\nNo node has a fence device: nines help keys   describes [fence.NAME]\n");
    }
    out
}

/// "bmc, then pdu-a and pdu-b"
fn levels(levels: &[Vec<String>]) -> String {
    let all: Vec<String> = levels.iter().map(|level| level.join(" and ")).collect();
    if all.is_empty() { "-".into() } else { all.join(", then ") }
}

fn when(test: &FenceResult, now_ms: u64) -> String {
    let word = if test.ok { "ok" } else { "FAILED" };
    format!("{word}, {} ago", ago(now_ms.saturating_sub(test.at_ms) / 1_000))
}

/// What `off` does, as a question.
fn off_question(status: &Status, name: &str) -> String {
    let holds = status.nodes.iter().find(|n| n.name == *name).map(|n| n.holds.join(", "));
    let vips = match holds.filter(|holds| !holds.is_empty()) {
        None => "It holds no VIP.".to_owned(),
        Some(holds) => format!(
            "It holds {holds}: clients are not served until another director has taken over; \
             nines standby {name}   moves them first."
        ),
    };
    format!(
        "off cuts the power of {name}: what runs there ends at once, and nothing is written to its \
         disks any more. {vips}\nSwitch {name} off?"
    )
}

/// Goes on only with a yes. Where nobody can be asked, `--yes` must have said it.
fn agreed(yes: bool, question: &str, not_done: &str) -> Outcome<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let why = question.rsplit_once('\n').map_or(question, |(what, _)| what);
        return Err(Failure::new(Kind::Unsafe, not_done, why.replace('\n', " "))
            .next("add --yes if that is what you want"));
    }
    crate::output::remark(format_args!("{question} [y/N] "));
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if answer.trim().eq_ignore_ascii_case("y") {
        Ok(())
    } else {
        Err(Failure::new(Kind::No, not_done, "you said no"))
    }
}

fn ask(context: &Context, admin: AdminCommand, names: &[String], reason: &str) -> Outcome<Done> {
    let (verb, subjects) = (admin.code().into(), names.to_vec());
    let request = ActRequest { verb, subjects, reason: reason.to_owned(), ..ActRequest::default() };
    context.client().post("/v1/act", &request)
}

fn confirm(context: &Context, args: &ConfirmArgs) -> Outcome<u8> {
    let name = &args.name;
    let question = format!(
        "confirm says: you have SEEN that {name} is off, or that its power is cut. nines believes \
         it and starts elsewhere what {name} held.\nIf {name} still runs, both answer clients and \
         write to shared disks.\nIs {name} off?"
    );
    agreed(args.yes, &question, &format!("{name} does not count as off"))?;
    let names = std::slice::from_ref(name);
    show(context, &ask(context, AdminCommand::ConfirmOff, names, &args.reason)?);
    Ok(0)
}

/// What devices of a node said last when they were asked for this, and when it ended.
fn answer(admin: AdminCommand, line: &FenceStatus) -> Option<&FenceResult> {
    match admin {
        AdminCommand::TestFence => line.last_test.as_ref(),
        _ => line.last_switch.as_ref(),
    }
}

fn test(context: &Context, args: &TestArgs) -> Outcome<u8> {
    let mut names = args.names.clone();
    if names.is_empty() {
        let lines = status(context)?.fencing.into_iter();
        names.extend(lines.filter(|line| !line.levels.is_empty()).map(|line| line.node));
    }
    if names.is_empty() {
        return Err(Failure::new(Kind::NotFound, "nothing to test", "no node has a fence device")
            .next("nines help keys   describes [fence.NAME]"));
    }
    carried_out(context, AdminCommand::TestFence, &names, &args.how)
}

fn switched(context: &Context, admin: AdminCommand, args: &SwitchArgs) -> Outcome<u8> {
    carried_out(context, admin, std::slice::from_ref(&args.name), &args.how)
}

/// Asks for it, waits for what devices say, and tells that. 1: they could not.
fn carried_out(context: &Context, admin: AdminCommand, names: &[String], how: &How) -> Outcome<u8> {
    let limit = some_time("--wait", &how.wait)?;
    let before = status(context)?.fencing;
    let done = ask(context, admin, names, &how.reason)?;
    if !context.json() {
        errln!("{}", done.text);
    }
    let after = ended(context, admin, (names, &before), limit)?;
    let lines: Vec<&FenceStatus> = names.iter().filter_map(|name| of(&after, name)).collect();
    if context.json() {
        print_lines(&lines);
    } else {
        let told = |line: &&FenceStatus| match answer(admin, line) {
            Some(answer) if !line.is(FenceState::Off) => answer.text.clone(),
            _ => line.text.clone(),
        };
        lines.iter().for_each(|line| outln!("{}", told(line)));
    }
    let well = |line: &&FenceStatus| match admin {
        AdminCommand::PowerOff => line.is(FenceState::Off),
        admin => answer(admin, line).is_some_and(|answer| answer.ok),
    };
    Ok(if lines.iter().all(well) { 0 } else { Kind::No.code() })
}

fn of<'a>(fencing: &'a [FenceStatus], name: &str) -> Option<&'a FenceStatus> {
    fencing.iter().find(|line| line.node == *name)
}

/// Waits until the devices of all these nodes have answered.
fn ended(
    context: &Context,
    admin: AdminCommand,
    (names, before): (&[String], &[FenceStatus]),
    limit: Millis,
) -> Outcome<Vec<FenceStatus>> {
    let until = Instant::now() + Duration::from_millis(limit.0);
    loop {
        let now = status(context)?.fencing;
        let is_open = |name: &&String| {
            let line = of(&now, name);
            let is_off = admin == AdminCommand::PowerOff
                && line.is_some_and(|line| line.is(FenceState::Off));
            let last = line.and_then(|line| answer(admin, line));
            !is_off && last == of(before, name).and_then(|line| answer(admin, line))
        };
        let Some(open) = names.iter().find(is_open) else { return Ok(now) };
        if Instant::now() >= until {
            let what = format!("no answer from the fence devices of {open} after {limit}");
            return Err(Failure::new(Kind::TimedOut, what, "")
                .next("it goes on; nines fence list   shows how it ended"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use nines_api::types::NodeStatus;

    use super::*;

    fn line(node: &str, state: FenceState, levels: &[&[&str]]) -> FenceStatus {
        let names = |level: &&[&str]| level.iter().map(|name| (*name).to_owned()).collect();
        FenceStatus {
            node: node.into(),
            state: state.into(),
            levels: levels.iter().map(names).collect(),
            ..FenceStatus::default()
        }
    }

    #[test]
    fn the_list_shows_levels_the_last_test_and_what_is_wrong() {
        let result = |ok, text: &str| Some(FenceResult { at_ms: 1_000, ok, text: text.into() });
        let lb1 = FenceStatus {
            last_test: result(true, "fine"),
            ..line("lb1", FenceState::Ready, &[&["bmc-lb1"], &["pdu-a", "pdu-b"]])
        };
        let lb2 = FenceStatus {
            last_test: result(false, "bmc-lb2: no answer before the deadline"),
            text: "lb1 is having it switched off".into(),
            ..line("lb2", FenceState::Switching, &[&["bmc-lb2"]])
        };
        let text = table(&[lb1, lb2, line("wit1", FenceState::None, &[])], 43_000);
        assert_eq!(
            text,
            "NODE  DEVICES                        STATE      LAST TEST\n\
             lb1   bmc-lb1, then pdu-a and pdu-b  ready      ok, 42 s ago\n\
             lb2   bmc-lb2                        switching  FAILED, 42 s ago\n\
             wit1  -                              none       -\n\
             \nlb2: lb1 is having it switched off\n\
             \nlb2: bmc-lb2: no answer before the deadline\n"
        );
        let none = table(&[line("lb1", FenceState::None, &[])], 0);
        assert!(none.contains("nines help keys"), "{none}");
    }

    #[test]
    fn the_history_has_the_newest_acts_of_fencing_only() {
        let event = |n: usize, kind: &str| Event {
            kind: kind.into(),
            text: format!("{n}"),
            ..Event::default()
        };
        let kinds = ["failover", "fence", "note", "fenced", "fence-failed"];
        let all = (0..100).map(|n| event(n, kinds[n % kinds.len()])).collect();
        let acts = of_fencing(all);
        assert_eq!(
            (acts.len(), acts[19].text.as_str(), acts[0].kind.as_str()),
            (20, "99", "fenced")
        );
        assert!(acts.iter().all(|act| KINDS.contains(&act.kind.as_str())));
        assert!(of_fencing(vec![event(1, "failover")]).is_empty());
    }

    #[test]
    fn the_question_says_what_is_lost() {
        let node = |holds: &[&str]| NodeStatus {
            name: "lb1".into(),
            holds: holds.iter().map(|vip| (*vip).to_owned()).collect(),
            ..NodeStatus::default()
        };
        let asked = |holds: &[&str]| {
            off_question(&Status { nodes: vec![node(holds)], ..Status::default() }, "lb1")
        };
        assert!(asked(&["10.0.0.100"]).contains("It holds 10.0.0.100: clients are not served"));
        assert!(asked(&[]).ends_with("It holds no VIP.\nSwitch lb1 off?"));
    }
}
