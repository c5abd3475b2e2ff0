//! `nines help`, and the examples that every `--help` ends with.
//!
//! Decides: nothing; texts only. Help works without an agent and without rights.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _, Subcommand};
use nines_api::failure::{EXIT_CODES, Failure, Kind, Outcome};

use super::Cli;
use crate::{context::Context, output::print_json};

/// Print more help.
#[derive(Args)]
pub struct HelpArgs {
    #[command(subcommand)]
    about: Option<About>,
    /// A command: `nines help drain` is `nines drain --help`.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Subcommand)]
enum About {
    /// Print what each exit code means.
    ExitCodes,
    /// Print every key of cluster.toml with its meaning, values, default and an example.
    Keys,
    /// Print a completion script.
    Completions {
        /// Shell that the script is for.
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory.
    Man {
        /// Directory to write to.
        to: PathBuf,
    },
    /// Print the OpenAPI document of the agent's API.
    Api,
}

/// Examples by command, a line each. A test sees that every command has some.
const EXAMPLES: &[(&str, &str)] = &[
    ("status", "nines status\nnines status --wide\nnines status -o json"),
    ("why", "nines why web\nnines why web/r2\nnines why lb1"),
    ("events", "nines events --about web -n 20\nnines events --last-failover"),
    ("metrics", "nines metrics"),
    ("plan", "nines plan cluster.toml\nnines plan --exit-code cluster.toml"),
    ("apply", "nines apply cluster.toml\nnines apply --yes --revision 12 cluster.toml"),
    ("drain", "nines drain r2 --until 2h --reason \"new kernel\" --wait\nnines drain web/r2"),
    ("undrain", "nines undrain r2"),
    ("standby", "nines standby lb1 --reason \"new memory\" --wait"),
    ("ready", "nines ready lb1"),
    ("move", "nines move web --to lb2"),
    ("node", "nines node list\nnines node remove lb2"),
    ("node list", "nines node list\nnines node list -o json"),
    ("node remove", "nines node remove lb2 --reason \"sold\""),
    ("node keep", "nines node keep lb2"),
    ("node replace", "nines node replace lb2 --reason \"new machine\""),
    ("fence", "nines fence list\nnines fence test"),
    ("fence list", "nines fence list\nnines fence list -o json"),
    ("fence history", "nines fence history"),
    ("fence test", "nines fence test\nnines fence test lb1 lb2"),
    ("fence off", "nines fence off lb1 --reason \"hangs\""),
    ("fence on", "nines fence on lb1"),
    ("fence confirm", "nines fence confirm lb1 --reason \"unplugged\""),
    ("token", "nines token create grafana --role viewer --for 90d\nnines token list"),
    ("token create", "nines token create grafana --role viewer --for 90d"),
    ("token list", "nines token list\nnines token list -o json"),
    ("token revoke", "nines token revoke grafana"),
    ("init", "nines init web\nnines init web --node lb1 --address 10.0.0.2"),
    ("code", "nines code --witness --node wit1 --for 2h\nnines code --server"),
    ("code list", "nines code list\nnines code list -o json"),
    ("code revoke", "nines code revoke 3f0c9a\nnines code revoke all"),
    (
        "join",
        "nines join 10.0.0.2 CODE\nnines join 10.0.0.2 CODE --witness\n\
         nines join 10.0.0.2 --code-file /run/code\nnines join 10.0.0.2 - <code",
    ),
    ("secret", "nines secret status\nnines secret rotate --beat"),
    ("secret rotate", "nines secret rotate --beat\nnines secret rotate --ca"),
    ("secret status", "nines secret status\nnines secret status -o json"),
    ("quorumd", "nines quorumd join 10.0.0.2 CODE\nnines quorumd list"),
    ("quorumd run", "nines quorumd run --state /srv/quorumd --socket /run/quorumd.sock"),
    (
        "quorumd join",
        "nines quorumd join 10.0.0.2 CODE --node q1\nnines quorumd join 203.0.113.2 CODE --address \
         198.51.100.7 --listen 10.0.0.9",
    ),
    ("quorumd list", "nines quorumd list\nnines quorumd list -o json"),
    ("quorumd forget", "nines quorumd forget shop"),
    ("quorum-disk", "nines quorum-disk show /dev/disk/by-id/wwn-0x6001405"),
    (
        "quorum-disk init",
        "nines quorum-disk init /dev/disk/by-id/wwn-0x6001405 10.0.0.2 CODE --at 10.0.0.2 --at \
         10.0.0.3",
    ),
    ("quorum-disk run", "nines quorum-disk run /dev/disk/by-id/wwn-0x6001405"),
    (
        "quorum-disk show",
        "nines quorum-disk show /dev/sdb\nnines quorum-disk show /dev/sdb -o json",
    ),
    ("server", "nines server prepare 10.0.0.100"),
    (
        "server prepare",
        "nines server prepare 10.0.0.100\nnines server prepare 2001:db8::100 --tunnel",
    ),
    ("server show", "nines server show"),
    ("server undo", "nines server undo"),
    ("doctor", "nines doctor\nnines doctor -o json"),
    ("backup", "nines backup save shop.backup\nnines backup show shop.backup"),
    ("backup save", "nines backup save shop.backup"),
    (
        "backup show",
        "nines backup show shop.backup\nnines backup show --config shop.backup >cluster.toml",
    ),
    (
        "backup restore",
        "nines backup restore shop.backup --force-new-generation --reason \"all others burnt\"",
    ),
    ("config", "nines config check cluster.toml"),
    ("config show", "nines config show >cluster.toml"),
    ("config check", "nines config check cluster.toml"),
    ("config schema", "nines config schema >nines.schema.json"),
    ("agent", "nines agent --metrics 10.0.0.2:9590 --api 10.0.0.2:9120"),
    ("guard", "nines guard"),
    ("ipvsadm", "nines ipvsadm -Ln"),
    ("demo", "sudo nines demo\nsudo nines demo --script kill-active --repeat 10"),
    ("version", "nines version"),
    ("help", "nines help drain\nnines help exit-codes"),
    ("help exit-codes", "nines help exit-codes"),
    ("help keys", "nines help keys"),
    ("help completions", "nines help completions bash >/etc/bash_completion.d/nines"),
    ("help man", "nines help man /usr/local/share/man/man1"),
    ("help api", "nines help api >openapi.json"),
];

/// The grammar of the command line, with examples.
pub fn grammar() -> Command {
    let with_examples = |command: Command, (path, text): &(&str, &str)| {
        let title = if text.contains('\n') { "Examples:" } else { "Example:" };
        let lines: String = text.lines().map(|line| format!("\n  {line}")).collect();
        let add = |command: Command| command.after_help(format!("{title}{lines}"));
        match path.split_once(' ') {
            None => command.mut_subcommand(path, add),
            Some((outer, inner)) => {
                command.mut_subcommand(outer, |command| command.mut_subcommand(inner, add))
            }
        }
    };
    EXAMPLES.iter().fold(Cli::command(), with_examples)
}

/// Runs `nines help`.
pub fn run(context: &Context, args: HelpArgs) -> Outcome<u8> {
    match args.about {
        None if !args.command.is_empty() => text(context, &of_command(&args.command)?),
        None => text(context, &grammar().render_long_help().to_string()),
        Some(About::ExitCodes) => exit_codes(context),
        Some(About::Keys) => text(context, &nines_model::config::keys::page()),
        Some(About::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut grammar(), "nines", &mut script);
            out!("{}", String::from_utf8_lossy(&script));
        }
        Some(About::Man { to }) => {
            manual(&to).map_err(|e| {
                let what = format!("cannot write manual pages to {}", to.display());
                Failure::new(Kind::Io, what, e).next("name a directory that you may write to")
            })?;
            let said = format!("manual pages are in {}", to.display());
            if context.json() {
                print_json(&serde_json::json!({ "schema": 1, "text": said }));
            }
        }
        Some(About::Api) => outln!("{}", crate::local::openapi()),
    }
    Ok(0)
}

fn text(context: &Context, text: &str) {
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "text": text }));
    } else {
        out!("{text}");
    }
}

fn exit_codes(context: &Context) {
    if context.json() {
        let one =
            |(code, meaning): &(u8, &str)| serde_json::json!({ "code": code, "meaning": meaning });
        print_json(&EXIT_CODES.iter().map(one).collect::<Vec<_>>());
        return;
    }
    for (code, meaning) in EXIT_CODES {
        outln!("{code}  {meaning}");
    }
}

/// The help of the command that these words name.
fn of_command(path: &[String]) -> Outcome<String> {
    if path.first().is_some_and(|word| word == "ipvsadm") {
        return Ok(crate::local::ipvsadm::HELP.to_owned());
    }
    let mut root = grammar();
    root.build();
    let mut command = &mut root;
    for word in path {
        let names: Vec<String> =
            command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        if !names.contains(word) {
            let meant = nines_model::suggest::closest(word, names.iter().map(String::as_str));
            let what = format!("unknown command {}", path.join(" "));
            let next = meant.map_or("nines --help   lists the commands".to_owned(), |name| {
                format!("did you mean {name}?")
            });
            return Err(Failure::new(Kind::Usage, what, "").next(next));
        }
        command = command.find_subcommand_mut(word).expect("its name was just seen");
    }
    Ok(command.render_long_help().to_string())
}

fn manual(to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    clap_mangen::generate_to(grammar(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_example(command: &Command, path: &str, found: &mut Vec<String>) {
        for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let name = format!("{path} {}", inner.get_name());
            let example = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !example.contains(&format!("nines{name}")) {
                found.push(name.clone());
            }
            without_example(inner, &name, found);
        }
    }

    #[test]
    fn every_command_shows_an_example_of_itself() {
        let mut found = Vec::new();
        without_example(&grammar(), "", &mut found);
        assert_eq!(found, Vec::<String>::new());
        grammar().debug_assert();
    }

    /// Words of a line as a shell splits them, without what follows the command.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (i, part) in line.split('"').enumerate() {
            if i % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        let end = |word: &String| word == "#" || word.starts_with(['<', '>']) || word == "|";
        let command = words.iter().position(end).unwrap_or(words.len());
        words.truncate(command);
        words
    }

    #[test]
    fn every_example_is_understood() {
        for line in EXAMPLES.iter().flat_map(|(_, text)| text.lines()) {
            let words = words(line.trim_start_matches("sudo "));
            if let Err(e) = grammar().try_get_matches_from(&words) {
                panic!("{line}: {e}");
            }
        }
    }

    /// Pages of the manual and the README, with their texts.
    fn pages() -> Vec<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut paths = vec![root.join("README.md")];
        for folder in ["docs/manual", "docs/manual/forwarding"] {
            let entries = std::fs::read_dir(root.join(folder)).unwrap();
            let pages = entries.map(|entry| entry.unwrap().path());
            paths.extend(pages.filter(|path| path.extension().is_some_and(|e| e == "md")));
        }
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
        paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
    }

    /// Commands of nines in a page: parts of lines in its shell blocks, and what stands between
    /// backquotes.
    fn commands(page: &str) -> Vec<String> {
        let (mut found, mut language) = (Vec::new(), None);
        let mut of_line = |line: &str, split: &[&str]| {
            let mut parts = vec![line];
            for separator in split {
                parts = parts.iter().flat_map(|part| part.split(separator)).collect();
            }
            for part in parts {
                let part = part.trim().trim_start_matches("sudo ");
                let part = part.trim_start_matches("NINES_DATAPLANE=ipvs ");
                if let Some(rest) = part.strip_prefix("./target/release/nines ") {
                    found.push(format!("nines {rest}"));
                } else if part.starts_with("nines ") {
                    found.push(part.to_owned());
                }
            }
        };
        for line in page.lines() {
            match (line.strip_prefix("```"), language) {
                (Some(_), Some(_)) => language = None,
                (Some(named), None) => language = Some(named),
                (None, Some("sh" | "console")) => {
                    let after_prompt = line.split_once("# ").filter(|(host, _)| {
                        host.chars().all(char::is_alphanumeric) && !host.is_empty()
                    });
                    of_line(after_prompt.map_or(line, |(_, command)| command), &[" && ", "; "]);
                }
                (None, Some(_)) => {}
                (None, None) => {
                    for span in line.split('`').skip(1).step_by(2) {
                        of_line(span, &[" && "]);
                    }
                }
            }
        }
        found
    }

    /// Whether a sentence names a command, or an option of it, without what it needs.
    fn names_only(words: &[String], kind: clap::error::ErrorKind) -> bool {
        use clap::error::ErrorKind as Kind;
        let option = words.last().is_some_and(|word| word.starts_with("--"));
        let names = words.iter().all(|word| word.chars().all(|c| c.is_lowercase() || c == '-'));
        match kind {
            Kind::MissingRequiredArgument
            | Kind::MissingSubcommand
            | Kind::DisplayHelpOnMissingArgumentOrSubcommand => names,
            Kind::InvalidValue => names && option,
            _ => false,
        }
    }

    #[test]
    fn every_command_of_the_manual_is_understood() {
        let example = [
            ("ADDRESS:PORT", "10.0.0.2:9590"),
            ("ADDRESS", "10.0.0.2"),
            ("ADDR", "10.0.0.2"),
            ("abcd...", "CODE"),
            ("--revision N", "--revision 12"),
            ("PORT", "6081"),
        ];
        let mut seen = 0;
        for (page, text) in pages() {
            for command in commands(&text) {
                let line = example.iter().fold(command.clone(), |line, (a, b)| line.replace(a, b));
                let words = words(&line);
                seen += 1;
                if let Err(e) = grammar().try_get_matches_from(&words)
                    && e.use_stderr()
                    && !names_only(&words, e.kind())
                {
                    panic!("{page}: {command}: {e}");
                }
            }
        }
        assert!(seen > 100, "{seen} commands");
    }

    #[test]
    fn help_of_a_command_is_found_by_its_words() {
        let of =
            |words: &[&str]| of_command(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(of(&["drain"]).unwrap().contains("nines drain r2 --until"));
        assert!(of(&["config", "check"]).unwrap().contains("nines config check cluster.toml"));
        let refused = of(&["dran"]).unwrap_err();
        assert_eq!(refused.next.as_deref(), Some("did you mean drain?"));
    }
}
