//! `cargo xtask scenarios`: the named scenarios, with the tests that cover each.
//!
//! Decides: where the tests of a scenario are found, and the page of the manual. A case file of the
//! simulator begins with its number, what happens, and what nines does; a test with real processes
//! has a line `// scenario 5` above it. Which scenarios wait for something is in
//! `xtask/src/scenarios/waiting.rs`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

mod waiting;

/// Case files of the simulator.
const CASES: &str = "crates/nines-sim/tests/cases";
/// Tests with real processes in network namespaces.
const LAB: &str = "crates/nines/tests/lab";
/// The page of the manual.
pub const PAGE: &str = "docs/manual/scenarios.md";
/// Numbers of all scenarios.
const NUMBERS: std::ops::RangeInclusive<u32> = 1..=42;

/// A named scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scenario {
    /// What happens.
    happens: String,
    /// What nines does; of one that waits, what is to come.
    does: String,
    /// What does not come yet of what a case expects.
    unmet: Vec<String>,
    /// Files, and functions in files.
    tests: Vec<String>,
    /// What it waits for; empty: nothing.
    waits: String,
}

/// All scenarios, by number.
pub struct Scenarios(BTreeMap<u32, Scenario>);

/// Reads the cases and tests below `root`; an error tells what is wrong, a line each.
pub fn read(root: &Path) -> Result<Scenarios, String> {
    let mut all = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, text) in files(root, CASES, "txt") {
        match of_case(&name, &text) {
            Ok((number, scenario)) => {
                if all.insert(number, scenario).is_some() {
                    wrong.push(format!("{name}: another file has number {number}"));
                }
            }
            Err(why) => wrong.push(format!("{name}: {why}")),
        }
    }
    for (number, happens, does, waits) in waiting::WITHOUT_CASE {
        let text = |text: &str| text.to_owned();
        let scenario = Scenario {
            happens: text(happens),
            does: text(does),
            waits: text(waits),
            ..Scenario::default()
        };
        if all.insert(*number, scenario).is_some() {
            wrong.push(format!("{number} has a case and waits for nothing: xtask/src/scenarios"));
        }
    }
    for (name, text) in files(root, LAB, "rs") {
        for (numbers, test) in of_tests(&text) {
            for number in numbers {
                match all.get_mut(&number) {
                    Some(scenario) => scenario.tests.push(format!("{name}: {test}")),
                    None => wrong.push(format!("{name}: {test}: there is no scenario {number}")),
                }
            }
        }
    }
    let missing = NUMBERS.filter(|number| !all.contains_key(number));
    wrong.extend(missing.map(|number| format!("nothing says what scenario {number} is")));
    for (number, scenario) in &all {
        if scenario.tests.is_empty() == scenario.waits.is_empty() {
            wrong.push(format!("{number}: it has tests, or waits for something"));
        }
    }
    if wrong.is_empty() { Ok(Scenarios(all)) } else { Err(wrong.join("\n")) }
}

/// Names, from the root, and texts of the files of a folder, sorted.
fn files(root: &Path, folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == ending) {
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            found.push((name, fs::read_to_string(path).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

/// What the head of a case file says: "# 5. What happens." and "# nines: What it does.", each over
/// any number of lines.
fn of_case(name: &str, text: &str) -> Result<(u32, Scenario), String> {
    let head = text.lines().map_while(|line| line.strip_prefix("# "));
    let head = head.collect::<Vec<_>>().join(" ");
    let (happens, does) = head.split_once(" nines: ").ok_or("no line \"# nines: ...\"")?;
    let (number, happens) = happens.split_once(". ").ok_or("no number at its beginning")?;
    let number: u32 = number.parse().map_err(|_| "no number at its beginning")?;
    let file = name.rsplit('/').next().unwrap_or_default();
    if !file.starts_with(&format!("{number:02}-")) {
        return Err(format!("its name does not begin with {number:02}"));
    }
    let unmet = text.lines().filter_map(|line| line.strip_prefix("unmet: "));
    Ok((
        number,
        Scenario {
            happens: happens.to_owned(),
            does: does.to_owned(),
            unmet: unmet.map(str::to_owned).collect(),
            tests: vec![name.to_owned()],
            ..Scenario::default()
        },
    ))
}

/// Tests below a line `// scenario 5` or `// scenarios 5, 6`, each with its numbers.
fn of_tests(text: &str) -> Vec<(Vec<u32>, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let marked = line.strip_prefix("// scenario ").or(line.strip_prefix("// scenarios "));
        let Some(numbers) = marked else { continue };
        let numbers = numbers.split(", ").filter_map(|n| n.parse().ok()).collect();
        let test = lines.find_map(|line| line.strip_prefix("fn ")).unwrap_or_default();
        found.push((numbers, test.split('(').next().unwrap_or_default().to_owned()));
    }
    found
}

/// A text in JSON.
fn quoted(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(plain).collect::<String>())
}

fn quoted_all(texts: &[String]) -> String {
    let all: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", all.join(","))
}

impl Scenarios {
    /// A line of JSON for each scenario, in a list.
    pub fn json(&self) -> String {
        let one = |(number, s): (&u32, &Scenario)| {
            format!(
                "{{\"number\":{number},\"title\":{},\"tests\":{},\"unmet\":{},\"waits\":{}}}",
                quoted(&s.happens),
                quoted_all(&s.tests),
                quoted_all(&s.unmet),
                quoted(&s.waits)
            )
        };
        let all: Vec<String> = self.0.iter().map(one).collect();
        format!("[{}]\n", all.join(",\n "))
    }

    /// A table for a terminal.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (number, scenario) in &self.0 {
            let _ = writeln!(out, "{number:>2}  {}", scenario.happens);
            for test in &scenario.tests {
                let _ = writeln!(out, "      {test}");
            }
            for why in &scenario.unmet {
                let _ = writeln!(out, "      not as it should be: {why}");
            }
            if !scenario.waits.is_empty() {
                let _ = writeln!(out, "      waits for {}", scenario.waits);
            }
        }
        let tested = self.0.values().filter(|s| s.waits.is_empty()).count();
        let unmet = self.0.values().filter(|s| !s.unmet.is_empty()).count();
        let _ = writeln!(
            out,
            "{tested} of {} have tests; {unmet} of them with something that is not as it should be",
            self.0.len()
        );
        out
    }

    /// The page of the manual.
    pub fn page(&self) -> String {
        let mut out = INTRODUCTION.to_owned();
        for (number, s) in &self.0 {
            let mut does = s.does.clone();
            for why in &s.unmet {
                let _ = write!(does, " Not as it should be: {why}.");
            }
            let short = |test: &String| {
                let test = test.rsplit('/').next().unwrap_or(test);
                format!("`{}`", test.replace(": ", "`, `"))
            };
            let tests: Vec<String> = match s.waits.as_str() {
                "" => s.tests.iter().map(short).collect(),
                waits => vec![format!("none yet: it waits for {waits}")],
            };
            let _ = writeln!(out, "| {number} | {} | {does} | {} |", s.happens, tests.join("; "));
        }
        out
    }
}

const INTRODUCTION: &str = "\
# Scenarios

What can go wrong in a cluster, and what nines does then. Each of these has a test, or waits for a
part of nines that is not there yet; the third column says then what is to come. Tests that end in
`.txt` are cases of the simulator, in the folder `crates/nines-sim/tests/cases` of the sources; they
can be read aloud. The others run real agents in network namespaces (`crates/nines/tests/lab`).

This page is made from the tests: `cargo xtask scenarios --write`.

| number | what happens | what nines does | tests |
|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_lists_every_scenario() {
        let page = read(&crate::root()).unwrap().page();
        let committed = fs::read_to_string(crate::root().join(PAGE)).unwrap_or_default();
        assert!(committed == page, "{PAGE} is old; run\n  cargo xtask scenarios --write");
    }

    #[test]
    fn a_case_without_its_words_is_wrong() {
        let of = |name: &str, text: &str| of_case(name, text).map_err(|why| why.clone());
        let text = "# 5. A link\n# breaks.\n# nines: It goes\n# on.\n[nodes]\nunmet: not so\n";
        let (number, scenario) = of("a/05-link.txt", text).unwrap();
        assert_eq!((number, scenario.happens.as_str()), (5, "A link breaks."));
        assert_eq!((scenario.does.as_str(), scenario.unmet.len()), ("It goes on.", 1));
        assert!(of("a/06-link.txt", text).unwrap_err().contains("begin with 05"));
        assert!(of("a/05-link.txt", "# 5. A link breaks.\n").unwrap_err().contains("nines:"));
        assert!(of("a/05-link.txt", "# A link\n# nines: So.\n").unwrap_err().contains("number"));
    }

    #[test]
    fn tests_below_their_numbers_are_found() {
        let text = "// scenarios 5, 31\n#[test]\nfn a_cut() {\n    // scenario 9\n}\nfn b() {}\n\
            /// Words.\n// scenario 41\n#[test]\nfn c() {}\n";
        let found = of_tests(text);
        assert_eq!(found, [(vec![5, 31], "a_cut".to_owned()), (vec![41], "c".to_owned())]);
    }

    #[test]
    fn a_number_without_words_or_with_too_many_is_wrong() {
        let root = std::env::temp_dir().join(format!("nines-scenarios-{}", std::process::id()));
        fs::create_dir_all(root.join(CASES)).unwrap();
        fs::create_dir_all(root.join(LAB)).unwrap();
        let case = "# 12. A.\n# nines: B.\n";
        fs::write(root.join(CASES).join("12-a.txt"), case).unwrap();
        fs::write(root.join(LAB).join("a.rs"), "// scenario 43\nfn a() {}\n").unwrap();
        let wrong = read(&root).err().unwrap();
        fs::remove_dir_all(root).unwrap();
        for part in ["12 has a case", "no scenario 43", "what scenario 5 is"] {
            assert!(wrong.contains(part), "{part}: {wrong}");
        }
    }

    #[test]
    fn texts_are_quoted_for_json() {
        assert_eq!(quoted("a \"b\" \\ \n"), "\"a \\\"b\\\" \\\\ \\u000a\"");
    }
}
