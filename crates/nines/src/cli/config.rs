//! `nines plan`, `nines apply`, `nines config`

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use clap::{Args, Subcommand};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    text::count,
    types::{Applied, Checked, ConfigText, Done, FileError, Placement, Plan, SCHEMA},
};
use nines_model::{
    Spec,
    config::{Diagnostic, parse, schema},
    printable::clean_lines,
    sanity,
};

use crate::{context::Context, local, output::print_json};

/// Show what a config would change.
#[derive(Args)]
pub struct PlanArgs {
    /// The file, or - for standard input.
    file: PathBuf,
    /// Exit with 1 if the config would change something, and with 0 if not.
    #[arg(long)]
    exit_code: bool,
}

/// Make the cluster follow a config.
#[derive(Args)]
pub struct ApplyArgs {
    /// The file, or - for standard input.
    file: PathBuf,
    /// Apply without asking.
    #[arg(short, long)]
    yes: bool,
    /// Apply only if this revision is in force.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
}

/// Show or check configs; print their schema.
#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the config in force.
    Show,
    /// Check a file; this needs no agent.
    Check {
        /// The file, or - for standard input.
        file: PathBuf,
    },
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

fn read(file: &Path) -> Outcome<String> {
    let name = file.display();
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|all| bytes = all)
    };
    read.map_err(|e| {
        let failed = |kind| Failure::new(kind, format!("cannot read {name}"), &e);
        match e.kind() {
            std::io::ErrorKind::NotFound => failed(Kind::NotFound)
                .next("name a file that exists; nines config show   prints the config in force"),
            _ => failed(Kind::Io).next(format!("see that it is a file and yours: ls -l {name}")),
        }
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let lines: Vec<&[u8]> = good.split(|byte| *byte == b'\n').collect();
        let byte = lines.last().map_or(0, |line| line.len()) + 1;
        let at = format!("{name}, line {}, byte {byte}: not UTF-8", lines.len());
        Failure::new(Kind::Usage, at, "config files must be UTF-8")
            .next(format!("iconv -f latin1 -t utf8 {name} >new.toml   (if it is Latin-1)"))
    })
}

/// Reads and checks a file. Tells all its errors: as text with place and line, as JSON in the
/// [`Failure`].
pub fn checked(context: &Context, file: &Path) -> Outcome<(String, Spec)> {
    let text = read(file)?;
    let spec = understood(context, file, &text)?;
    Ok((text, spec))
}

/// What a text says. What is wrong with it is told as [`checked`] does.
fn understood(context: &Context, file: &Path, text: &str) -> Outcome<Spec> {
    let found = match parse(text) {
        Ok(spec) => {
            return match local::senseless(&spec) {
                Some(failure) => Err(failure),
                None => Ok(spec),
            };
        }
        Err(found) => found,
    };
    let name = file.display().to_string();
    if !context.json() {
        for diagnostic in &found {
            errln!("{}", render(&name, text, diagnostic));
        }
    }
    let count = count(found.len() as u64, "error");
    let errors = found.iter().map(|one| FileError::new(text, one)).collect();
    let failure = Failure::new(Kind::Usage, format!("{count} in {name}"), "nothing was applied")
        .next(format!("fix the file, then: nines config check {name}"));
    Err(Failure { errors, ..failure })
}

fn render(file: &str, text: &str, diagnostic: &Diagnostic) -> String {
    let start = diagnostic.span.start.min(text.len());
    let end = diagnostic.span.end.clamp(start, text.len());
    // A whole section is shown by its first line.
    let end = text[start..end].find('\n').map_or(end, |n| start + n);
    let snippet =
        Snippet::source(text).path(file).annotation(AnnotationKind::Primary.span(start..end));
    let title = Level::ERROR.primary_title(diagnostic.message.as_str()).element(snippet);
    let groups: Vec<Group<'_>> = match &diagnostic.help {
        Some(help) => vec![title.element(Level::HELP.message(help.as_str()))],
        None => vec![title],
    };
    Renderer::plain().render(&groups)
}

/// VIPs that are named in a line; of more the number is told.
const VIPS_NAMED: usize = 5;

/// Where VIPs would go, and why, in a line.
fn placement_line(placement: &Placement) -> String {
    let Placement { vips, from, to, why } = placement;
    let named = vips.iter().take(VIPS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match vips.len().saturating_sub(VIPS_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let one = vips.len() == 1;
    let subject = format!("{} {named}{more}", if one { "VIP" } else { "VIPs" });
    let verb = |one_vip: &'static str, many: &'static str| if one { one_vip } else { many };
    match (from.as_str(), to.as_str()) {
        ("", "") => format!("> {subject}: no node could take {}: {why}", verb("it", "them")),
        (from, "") => {
            format!("> {subject}: no node could take {} from {from}: {why}", verb("it", "them"))
        }
        ("", to) => format!("> {subject} {} to {to}: {why}", verb("goes", "go")),
        (from, to) => format!("> {subject} {} from {from} to {to}: {why}", verb("moves", "move")),
    }
}

fn show(plan: &Plan) {
    for change in &plan.changes {
        let felt =
            if change.felt.is_empty() { String::new() } else { format!("   ({})", change.felt) };
        outln!("{} {}: {}{felt}", change.sign, change.subject, change.text);
    }
    for placement in &plan.placements {
        outln!("{}", placement_line(placement));
    }
    for warning in &plan.warnings {
        errln!("note: {warning}");
    }
    if plan.changes.is_empty() {
        outln!("Nothing changes (revision {}).", plan.revision);
    }
}

/// The text of a file and its plan. The agent has read most of a large file before and need only
/// look at what is new; the file's own errors are told here, even without an agent.
fn planned(context: &Context, file: &Path) -> Outcome<(String, Plan)> {
    let request = ConfigText { text: read(file)?, ..ConfigText::default() };
    match context.client().post("/v1/plan", &request) {
        Ok(plan) => Ok((request.text, plan)),
        Err(why) => understood(context, file, &request.text).and(Err(why)),
    }
}

/// Runs `nines plan`.
pub fn plan(context: &Context, args: &PlanArgs) -> Outcome<u8> {
    let (_, plan) = planned(context, &args.file)?;
    if context.json() {
        print_json(&plan);
    } else {
        show(&plan);
    }
    Ok(u8::from(args.exit_code && !plan.changes.is_empty()))
}

/// Runs `nines apply`.
pub fn apply(context: &Context, args: &ApplyArgs) -> Outcome<u8> {
    use std::io::IsTerminal as _;
    let (text, plan) = planned(context, &args.file)?;
    if !context.json() {
        show(&plan);
    }
    if plan.changes.is_empty() && text == context.client().get::<ConfigText>("/v1/config")?.text {
        return Ok(applied(context, plan, None));
    }
    let hurts = plan.changes.iter().any(|c| !c.felt.is_empty());
    if hurts && !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(Kind::Unsafe, "not applied", "clients would notice it")
                .next("add --yes if that is what you want"));
        }
        crate::output::remark(format_args!("Clients would notice this. Apply? [y/N] "));
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Err(Failure::new(Kind::No, "not applied", "you said no"));
        }
    }
    let revision = args.revision.unwrap_or(plan.revision);
    let request = ConfigText { text, revision };
    let done: Done = context.client().post("/v1/apply", &request)?;
    if !context.json() {
        outln!("{}", done.text);
    }
    Ok(applied(context, plan, Some(done)))
}

/// The result for programs: the same fields, whether or not anything changed.
fn applied(context: &Context, plan: Plan, done: Option<Done>) -> u8 {
    if context.json() {
        let nothing = || format!("nothing changes (revision {})", plan.revision);
        print_json(&Applied {
            schema: SCHEMA,
            changed: done.is_some(),
            index: done.as_ref().map_or(0, |done| done.index),
            text: done.map_or_else(nothing, |done| done.text),
            changes: plan.changes,
            placements: plan.placements,
            warnings: plan.warnings,
        });
    }
    0
}

/// Runs `nines config`.
pub fn run(context: &Context, args: &ConfigArgs) -> Outcome<u8> {
    match &args.what {
        What::Show => {
            let config: ConfigText = context.client().get("/v1/config")?;
            if context.json() {
                print_json(&config);
            } else {
                let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
                let text = if terminal { clean_lines(&config.text) } else { config.text };
                out!("{text}");
            }
        }
        What::Check { file } => {
            let (_, spec) = checked(context, file)?;
            // A member knows its cluster without an agent.
            local::refused_here(&context.state, &spec)?;
            check(context, file, &spec);
        }
        What::Schema => out!("{}", schema::json()),
    }
    Ok(0)
}

fn check(context: &Context, file: &Path, spec: &Spec) {
    let result = Checked {
        schema: SCHEMA,
        file: file.display().to_string(),
        nodes: spec.nodes.len(),
        services: spec.services.len(),
        vips: spec.vips.len(),
        errors: Vec::new(),
        warnings: sanity::odd(spec).into_iter().map(|finding| finding.what).collect(),
    };
    if context.json() {
        print_json(&result);
        return;
    }
    let Checked { file, nodes, services, vips, warnings, .. } = result;
    warnings.iter().for_each(|warning| errln!("note: {warning}"));
    let [nodes, services, vips] = [(nodes, "node"), (services, "service"), (vips, "VIP")]
        .map(|(n, what)| count(n as u64, what));
    outln!("{file}: {nodes}, {services}, {vips}; no errors");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_vips_go_and_why() {
        let line = |vips: usize, from: &str, to: &str| {
            let vips = (1..=vips).map(|n| format!("v{n}")).collect();
            let (from, to, why) = (from.to_owned(), to.to_owned(), "because".to_owned());
            placement_line(&Placement { vips, from, to, why })
        };
        assert_eq!(line(1, "lb1", "lb2"), "> VIP v1 moves from lb1 to lb2: because");
        assert_eq!(line(2, "", "lb2"), "> VIPs v1, v2 go to lb2: because");
        assert_eq!(line(1, "", ""), "> VIP v1: no node could take it: because");
        assert_eq!(line(1, "lb1", ""), "> VIP v1: no node could take it from lb1: because");
        let many = line(8, "lb1", "lb2");
        assert_eq!(many, "> VIPs v1, v2, v3, v4, v5 and 3 more move from lb1 to lb2: because");
    }
}
