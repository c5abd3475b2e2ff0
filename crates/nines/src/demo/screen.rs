//! The demo's screen: the picture, the curves, the keys.
//!
//! Decides: what a person sees and which key does what. Faults are made by `faults`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use nines_api::{
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    types::Status,
};
use nines_model::Coded;
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Sparkline},
};

use super::{
    faults::{self, Fault},
    stage::{DIRECTORS, NODES, SERVERS, Stage},
};

/// One bar of the curves.
const BAR: Duration = Duration::from_millis(250);

/// A fault that lasts until `r` ends it.
struct Broken {
    fault: Fault,
    node: String,
}

struct View {
    status: Option<Status>,
    requests: VecDeque<u64>,
    latency: VecDeque<u64>,
    ok: usize,
    failed: usize,
    p50: f64,
    p99: f64,
    rates: Vec<u64>,
    story: Vec<String>,
    broken: Vec<Broken>,
    began: Instant,
    fault_at: Option<(Instant, bool)>,
    seen_events: Vec<String>,
    shell: bool,
    picture: Picture,
}

/// What the picture shows of the stage, as it was when last looked at.
#[derive(Default)]
struct Picture {
    built_ms: f64,
    cold_start_ms: f64,
    /// Directors that answer for the VIP.
    answers: Vec<bool>,
    /// Nodes and real servers without a running process.
    dead: Vec<&'static str>,
    /// Since the newest fault, ms.
    two_masters_ms: u64,
    /// Longest time without an answer since the newest fault, ms.
    longest_wait_ms: f64,
}

/// Puts the terminal back; also when a signal ends the process.
pub fn restore() {
    ratatui::restore();
}

/// Runs until `q`.
pub fn run(mut stage: Stage) -> Outcome<u8> {
    let mut terminal = ratatui::init();
    let mut view = View::new();
    let done = show(&mut terminal, &mut stage, &mut view);
    ratatui::restore();
    done.map_err(|e| Failure::new(Kind::Io, "the terminal cannot be used", e))?;
    outln!("Everything is gone again. The same config:  nines demo --export cluster.toml");
    Ok(0)
}

impl View {
    fn new() -> Self {
        Self {
            status: None,
            requests: VecDeque::new(),
            latency: VecDeque::new(),
            ok: 0,
            failed: 0,
            p50: 0.0,
            p99: 0.0,
            rates: vec![0; SERVERS.len()],
            story: Vec::new(),
            broken: Vec::new(),
            began: Instant::now(),
            fault_at: None,
            seen_events: Vec::new(),
            shell: false,
            picture: Picture::default(),
        }
    }
}

fn show(terminal: &mut DefaultTerminal, stage: &mut Stage, view: &mut View) -> std::io::Result<()> {
    let mut bar_at = Instant::now();
    loop {
        if bar_at.elapsed() >= BAR {
            bar_at = Instant::now();
            look(stage, view);
        }
        terminal.draw(|frame| draw(frame, view))?;
        if !event::poll(Duration::from_millis(50))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(event::KeyModifiers::CONTROL) => {
                return Ok(());
            }
            KeyCode::Char(c) => press(stage, view, c),
            _ => {}
        }
        if std::mem::take(&mut view.shell) {
            ratatui::restore();
            shell(stage);
            *terminal = ratatui::init();
        }
    }
}

fn shell(stage: &Stage) {
    outln!("A shell in lb1; `exit` comes back. Try: nines status, ip addr, bpftool net");
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &stage.lab.namespace("lb1"), "sh"]);
    command.env("NINES_SOCKET", stage.socket("lb1"));
    command.env("NINES_STATE", stage.state("lb1"));
    match stage.programs() {
        Ok(path) => drop(command.env("PATH", path)),
        Err(why) => errln!("this shell does not find nines: {why}"),
    }
    let _ = command.status();
}

fn press(stage: &mut Stage, view: &mut View, key: char) {
    let active = view
        .status
        .as_ref()
        .and_then(|s| s.vips.first())
        .map_or_else(|| "lb1".to_owned(), |v| v.node.clone());
    let fault = match key {
        '1' => Fault::KillActive,
        '2' => Fault::CutActive,
        '3' => Fault::FreezeActive,
        '4' => Fault::KillServer,
        '6' => Fault::Split,
        '7' => Fault::DrainServer,
        '8' => Fault::PlannedMove,
        '9' => Fault::RestartAgent,
        '5' => Fault::BrokenServer,
        'x' => {
            view.shell = true;
            return;
        }
        'r' => return mend(stage, view),
        _ => return,
    };
    // A server may be broken beside another fault.
    let waits = fault.lasts() && fault != Fault::BrokenServer;
    if waits && !view.broken.is_empty() {
        view.story.push("  something is broken already: press r to fix it first".into());
        return;
    }
    let told = match fault {
        Fault::KillActive => format!("you killed {active}"),
        Fault::CutActive => format!("you pulled {active}'s cable"),
        Fault::FreezeActive => format!("you froze {active}'s agent; its kernel goes on"),
        Fault::KillServer => "you killed r2".into(),
        Fault::Split => {
            format!("{active} and the others no longer hear each other; clients reach both")
        }
        Fault::MuteActive => format!("what {active} sends reaches no other node"),
        Fault::DeafActive => format!("{active} hears no other node"),
        Fault::DrainServer => "nines drain r2".into(),
        Fault::PlannedMove => "nines move web".into(),
        Fault::BrokenServer => "r2 answers 500 from now on".into(),
        Fault::KillWitness => "you killed the witness's agent".into(),
        Fault::RestartAgent => format!("{active}'s agent is replaced in place"),
        Fault::Nothing => "nothing".into(),
    };
    begin(view, &told);
    match faults::inject(stage, fault, &active) {
        Ok(()) if fault.lasts() => view.broken.push(Broken { fault, node: active }),
        Ok(()) => {}
        Err(why) => view.story.push(format!("  {why}")),
    }
}

fn begin(view: &mut View, told: &str) {
    view.story = vec![format!("+ 0.000 s  {told}")];
    view.began = Instant::now();
    view.fault_at = Some((view.began, false));
}

fn mend(stage: &mut Stage, view: &mut View) {
    for broken in std::mem::take(&mut view.broken) {
        if let Err(why) = faults::mend(stage, broken.fault, &broken.node) {
            view.story.push(format!("  {why}"));
        }
    }
    begin(view, "fixed; nodes that were away come back as spares");
    stage.probe.fill();
}

/// Takes the state of things in.
fn look(stage: &mut Stage, view: &mut View) {
    let now = Instant::now();
    let recent = stage.probe.since(now.checked_sub(BAR * 2).unwrap_or(now));
    let done = |s: &&super::probe::Sample| now.duration_since(s.ended) < BAR;
    let good: Vec<_> = recent.iter().filter(|s| s.server.is_some()).filter(done).collect();
    push(&mut view.requests, good.len() as u64 * 4);
    let slowest = good.iter().map(|s| s.ended.duration_since(s.began).as_micros() as u64).max();
    push(&mut view.latency, slowest.unwrap_or(1_000_000) / 100);
    let rate =
        |name: &&str| good.iter().filter(|s| s.server.as_deref() == Some(*name)).count() as u64 * 4;
    view.rates = SERVERS.iter().map(rate).collect();
    let ten = now.checked_sub(Duration::from_secs(10)).unwrap_or(now);
    let seen = stage.probe.seen(ten, now);
    (view.p50, view.p99) = (seen.p50_ms, seen.p99_ms);
    view.ok += good.len();
    view.failed += recent.iter().filter(|s| s.server.is_none()).filter(done).count();
    view.status = stage.active().map(|(_, s)| s).or_else(|| view.status.take());
    view.picture = picture(stage, view.began);
    tell(stage, view);
}

fn picture(stage: &Stage, began: Instant) -> Picture {
    let nodes = NODES.into_iter().filter(|n| stage.agents.get(*n).is_none_or(Option::is_none));
    let servers = SERVERS.into_iter().filter(|n| stage.servers.get(*n).is_none_or(Option::is_none));
    Picture {
        built_ms: stage.built.as_secs_f64() * 1e3,
        cold_start_ms: stage.cold_start.as_secs_f64() * 1e3,
        answers: stage.heard.now(),
        dead: nodes.chain(servers).collect(),
        two_masters_ms: stage.heard.two_at_once_ms(began),
        longest_wait_ms: stage.probe.seen(began, Instant::now()).outage_ms,
    }
}

fn push(bars: &mut VecDeque<u64>, value: u64) {
    bars.push_back(value);
    if bars.len() > 200 {
        bars.pop_front();
    }
}

/// Adds the cluster's own events, and how long clients waited, to the story.
fn tell(stage: &mut Stage, view: &mut View) {
    let Some((began, told)) = view.fault_at else { return };
    for node in ["wit1", "lb2", "lb1"] {
        if stage.agents.get(node).is_none_or(Option::is_none) {
            continue;
        }
        let socket = stage.socket(node);
        let client = nines_api::client::Client::Socket(&socket);
        let Ok(events) = client.get::<Vec<nines_api::types::Event>>("/v1/events?limit=12") else {
            continue;
        };
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let began_ms =
            wall.map_or(0, |w| w.as_millis() as u64) - began.elapsed().as_millis() as u64;
        for e in events.iter().filter(|e| e.at_ms >= began_ms) {
            if !view.seen_events.contains(&e.id) {
                view.seen_events.push(e.id.clone());
                let after = (e.at_ms - began_ms) as f64 / 1e3;
                view.story.push(format!("+ {after:.3} s  {}", e.text));
            }
        }
        break;
    }
    if !told && began.elapsed() > Duration::from_millis(1_500) {
        view.fault_at = Some((began, true));
        let seen = stage.probe.seen(began, Instant::now());
        view.story.push(format!(
            "  clients: longest gap {:.0} ms, {} failed, two masters {} ms",
            seen.outage_ms,
            seen.failed,
            stage.heard.two_at_once_ms(began)
        ));
    }
    let extra = view.story.len().saturating_sub(9);
    view.story.drain(..extra);
}

fn state_of<'a>(view: &'a View, node: &str) -> Option<&'a Coded<NodeState>> {
    let status = view.status.as_ref();
    status.and_then(|s| s.nodes.iter().find(|n| n.name == node)).map(|n| &n.state)
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    // 80x24 shows all of it; more lines go to the story.
    let [head, picture, curves, story, keys] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(7),
        Constraint::Length(4),
        Constraint::Fill(1),
        Constraint::Length(4),
    ])
    .areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let path = view
        .status
        .as_ref()
        .and_then(|s| s.nodes.iter().find(|n| !n.path.is_empty()))
        .map_or("", |n| n.path.as_str());
    let Picture { built_ms, cold_start_ms, .. } = view.picture;
    let title = "nines demo: a whole cluster on this machine, in 7 network namespaces.";
    frame.render_widget(
        Paragraph::new(vec![
            Line::styled(title, bold),
            Line::raw("Nothing outside them is touched, everything goes when you press q."),
            Line::raw(format!(
                "built in {built_ms:.0} ms, first answer after {cold_start_ms:.0} ms   path: {path}"
            )),
        ]),
        head,
    );
    frame.render_widget(Paragraph::new(drawing(view)), picture);
    curve(frame, curves, view);
    frame.render_widget(
        Paragraph::new(
            "Try:  1 kill the active     4 kill r2            7 drain r2 (no client notices)\n\
             \u{20}     2 pull its cable      5 r2 answers 500     8 planned move\n\
             \u{20}     3 freeze its agent    6 split the cluster  9 replace its agent in place\n\
             \u{20}     r fix it              x shell in lb1       q quit",
        ),
        keys,
    );
    // The newest lines are those that fit.
    let from = view.story.len().saturating_sub(usize::from(story.height));
    let lines: Vec<Line<'_>> = view.story[from..].iter().map(|s| Line::raw(s.as_str())).collect();
    frame.render_widget(Paragraph::new(lines), story);
}

fn drawing<'a>(view: &View) -> Vec<Line<'a>> {
    let total: u64 = view.rates.iter().sum();
    let Picture { answers, dead, two_masters_ms, longest_wait_ms, .. } = &view.picture;
    let node = |i: usize| {
        let name = DIRECTORS[i];
        let dead = dead.contains(&name);
        let here = answers.get(i).copied().unwrap_or(false);
        let (word, colour) = match state_of(view, name).and_then(Coded::known) {
            _ if here => ("ACTIVE", Color::Green),
            _ if dead => ("OFF", Color::Red),
            Some(NodeState::Silent) => ("silent", Color::Red),
            Some(NodeState::Ready) => ("ready", Color::Cyan),
            Some(NodeState::Active) => ("takes over", Color::Yellow),
            _ => ("...", Color::Yellow),
        };
        (format!("{name} {word:<10}"), Style::new().fg(colour).add_modifier(Modifier::BOLD), here)
    };
    let (one, two) = (node(0), node(1));
    let server = |i: usize| {
        let dead = dead.contains(&SERVERS[i]);
        let word = if dead { "DOWN".into() } else { format!("{:>3} /s", view.rates[i]) };
        format!("│ {}  {word:<7} │", SERVERS[i])
    };
    let arrow = |on: bool| if on { "───▶" } else { "    " };
    let quorum = view.status.as_ref().map_or_else(String::new, |s| {
        format!("{}   quorum {} of {}", s.verdict, s.votes, s.voters)
    });
    let witness = state_of(view, NODES[2]).map_or("?", Coded::code);
    vec![
        Line::raw("  ┌───────────┐    10.99.0.100:80    ┌────────────────┐       ┌─────────────┐"),
        Line::from(vec![
            Span::raw(format!("  │  client   │ ───────────────{}  │ ", arrow(one.2))),
            Span::styled(one.0.clone(), one.1),
            Span::raw(format!(" │ {}  {}", arrow(one.2), server(0))),
        ]),
        Line::raw(format!(
            "  │ {total:>5} /s  │                      ├────────────────┤       {}",
            server(1)
        )),
        Line::from(vec![
            Span::raw(format!("  └───────────┘ ───────────────{}  │ ", arrow(two.2))),
            Span::styled(two.0.clone(), two.1),
            Span::raw(format!(" │ {}  {}", arrow(two.2), server(2))),
        ]),
        Line::raw("                                     └────────────────┘       └─────────────┘"),
        Line::raw(format!(
            "     witness wit1 {witness:<8}   {quorum}   two masters {two_masters_ms} ms"
        )),
        Line::raw(format!(
            "  requests ok {}  failed {}   longest wait {}   p50 {:.1} ms  p99 {:.1} ms",
            view.ok,
            view.failed,
            wait(*longest_wait_ms),
            view.p50,
            view.p99,
        )),
    ]
}

/// "0.82 s", "140 ms"
fn wait(ms: f64) -> String {
    if ms >= 1_000.0 { format!("{:.2} s", ms / 1e3) } else { format!("{ms:.0} ms") }
}

fn curve(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let [left, right] =
        Layout::horizontal([Constraint::Length(14), Constraint::Min(20)]).areas(area);
    frame.render_widget(Paragraph::new("  requests/s\n\n  slowest"), left);
    let [up, down] = Layout::vertical([Constraint::Length(2), Constraint::Length(2)]).areas(right);
    let tail = |bars: &VecDeque<u64>, width: u16| -> Vec<u64> {
        bars.iter().skip(bars.len().saturating_sub(width as usize)).copied().collect()
    };
    let requests = tail(&view.requests, up.width);
    frame.render_widget(Sparkline::default().data(&requests).max(240), up);
    let latency = tail(&view.latency, down.width);
    frame.render_widget(Sparkline::default().data(&latency).max(300), down);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn screen(view: &View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let cell = |x, y| buffer[(x, y)].symbol().to_owned();
        (0..24).map(|y| (0..80).map(|x| cell(x, y)).collect()).collect()
    }

    #[test]
    fn a_small_terminal_shows_the_keys_and_the_longest_wait() {
        let mut view = View::new();
        view.ok = 1_234_567;
        view.picture.longest_wait_ms = 1_820.0;
        view.picture.answers = vec![true, false];
        view.story = (0..9).map(|i| format!("line {i}")).collect();
        let screen = screen(&view);
        let has = |text: &str| screen.iter().any(|line| line.contains(text));
        assert!(has("q quit") && has("(no client notices)"), "{screen:#?}");
        assert!(has("longest wait 1.82 s") && has("p99 0.0 ms"), "{screen:#?}");
        assert!(has("line 8") && has("lb1 ACTIVE"), "the newest line of the story: {screen:#?}");
    }
}
