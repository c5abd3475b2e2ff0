//! Tests as text that a person can read aloud: files of cases, each with its expected output.
//!
//! Decides: the form of a case file, and when a test of cases fails. A file below the folder has
//! the ending `.txt` and looks like this:
//!
//! ```text
//! # A comment. Other lines above the first title are given to all cases of the file.
//! lease 100 ms
//!
//! == the title of a case, as a sentence
//! input, any number of lines
//! ----
//! expected output, up to the next title
//! ```
//!
//! `UPDATE_CASES=1` writes the output into the files instead of comparing it. A folder without
//! cases fails, and so do a file without cases, two cases with the same title, a case without
//! expected output, and a case that prints nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The file that it is in.
    pub file: PathBuf,
    /// Number of the line there that has its title.
    pub line: usize,
    /// Lines above the first title of the file, without comments.
    pub given: String,
    /// The sentence after `== `.
    pub title: String,
    /// Lines between the title and `----`, without comments.
    pub input: String,
    /// Expected output, without empty lines at its end. `None`: the case has no `----`.
    expected: Option<String>,
    /// Lines between the title and `----` as they are in the file.
    written: String,
}

impl Case {
    /// The first case of a text, as if a file of this name had it.
    pub fn of(file: &str, text: &str) -> Self {
        let (_, mut cases) = parse(text).expect("it has a case");
        Self { file: file.into(), ..cases.remove(0) }
    }

    /// Lines of the input, each with its number in the file; comments and empty lines are left out.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = (self.line + 1..).zip(self.written.lines());
        numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }
}

/// Runs all cases below `folder`, and compares what `run` returns for each with its expected
/// output. Panics with all differences, and names the command that accepts them.
pub fn walk(folder: &str, run: impl Fn(&Case) -> String) {
    walk_judged(folder, |case| (run(case), Vec::new()));
}

/// The same where `run` also returns what is wrong with the case itself, a line each. That fails
/// whatever output is expected, and when the output is rewritten.
pub fn walk_judged(folder: &str, run: impl Fn(&Case) -> (String, Vec<String>)) {
    let update = std::env::var_os("UPDATE_CASES").is_some_and(|v| v == "1");
    if let Err(wrong) = walk_with(Path::new(folder), update, &run) {
        let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
        panic!(
            "{wrong}\nIf the new output is right, accept it, and explain it in the commit:\n  \
             UPDATE_CASES=1 cargo nextest run --workspace --locked -E 'package({package}) & test(cases)'\n"
        );
    }
}

type Run<'a> = &'a dyn Fn(&Case) -> (String, Vec<String>);

fn walk_with(folder: &Path, update: bool, run: Run) -> Result<(), String> {
    let files = files_below(folder);
    if files.is_empty() {
        return Err(format!("there is no case file (*.txt) below {}", folder.display()));
    }
    let (mut wrong, mut judged) = (String::new(), String::new());
    for path in files {
        let name = path.display();
        let text = fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
        let (head, cases) = parse(&text).map_err(|why| format!("{name}: {why}"))?;
        let mut written = head;
        for mut case in cases {
            case.file.clone_from(&path);
            let (got, wrong_in_itself) = run(&case);
            let got = got.trim_end().to_owned();
            wrong_in_itself.iter().for_each(|line| judged.push_str(&format!("{line}\n")));
            if got.is_empty() || got.lines().any(|line| line.starts_with("== ")) {
                return Err(format!("{name}: {}: cannot be an output: {got:?}", case.title));
            }
            written.push_str(&format!("== {}\n{}----\n{got}\n\n", case.title, case.written));
            match &case.expected {
                Some(expected) if *expected == got => {}
                Some(expected) if !expected.is_empty() => {
                    let lines = difference(expected, &got);
                    wrong
                        .push_str(&format!("{name}\n== {}\n{}{lines}\n", case.title, case.written));
                }
                _ => wrong.push_str(&format!("{name}: {}: expects nothing\n{got}\n", case.title)),
            }
        }
        if update {
            fs::write(&path, written.trim_end().to_owned() + "\n").map_err(|e| e.to_string())?;
        }
    }
    if update {
        wrong.clear();
    }
    wrong.push_str(&judged);
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// All case files below a folder, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|end| end == "txt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines above the first title, and the cases.
fn parse(text: &str) -> Result<(String, Vec<Case>), String> {
    let mut parts = text.split_inclusive('\n').fold(vec![String::new()], |mut parts, line| {
        if line.starts_with("== ") {
            parts.push(String::new());
        }
        parts.last_mut().expect("it begins with one").push_str(line);
        parts
    });
    let head = parts.remove(0);
    let given = without_comments(&head);
    let mut next = 1 + head.lines().count();
    let case = |part: String| {
        let line = next;
        next += part.lines().count();
        let (title, rest) = part.split_once('\n').unwrap_or((&part, ""));
        let (written, expected) = match rest.strip_prefix("----\n") {
            Some(expected) => ("", Some(expected)),
            None => match rest.split_once("\n----\n") {
                Some((written, expected)) => (written, Some(expected)),
                None => (rest.trim_end(), None),
            },
        };
        let end = if written.is_empty() { "" } else { "\n" };
        Case {
            file: PathBuf::new(),
            line,
            given: given.clone(),
            title: title.trim_start_matches("== ").to_owned(),
            input: without_comments(written),
            expected: expected.map(|text| text.trim_end().to_owned()),
            written: format!("{written}{end}"),
        }
    };
    let cases: Vec<Case> = parts.into_iter().map(case).collect();
    let titles: BTreeSet<&str> = cases.iter().map(|case| case.title.as_str()).collect();
    if titles.len() != cases.len() {
        return Err("two cases have the same title".into());
    }
    if cases.is_empty() { Err("it has no case".into()) } else { Ok((head, cases)) }
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Lines of both texts: those that are only expected after "-", those that only came after "+".
fn difference(expected: &str, got: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    // Length of the longest common subsequence of the lines from i and from j on.
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            let skip = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { skip };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push_str(&format!("  {}\n", a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && common[i + 1][j] >= common[i][j + 1] {
            out.push_str(&format!("- {}\n", a[i]));
            i += 1;
        } else {
            out.push_str(&format!("+ {}\n", b[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# what it is about\ngiven\n\n== one\n# why\na\n\nb\n----\nA\n\nB\n\n\
        == two, without input\n----\nC\n";

    fn folder(name: &str, text: Option<&str>) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("nines-cases-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("concept")).unwrap();
        if let Some(text) = text {
            fs::write(folder.join("concept/some.txt"), text).unwrap();
        }
        folder
    }

    fn upper(case: &Case) -> String {
        if case.input.is_empty() { "C".into() } else { case.input.to_uppercase() }
    }

    fn judged(run: impl Fn(&Case) -> String) -> impl Fn(&Case) -> (String, Vec<String>) {
        move |case| (run(case), Vec::new())
    }

    fn outcome(name: &str, text: Option<&str>, run: &dyn Fn(&Case) -> String) -> String {
        let folder = folder(name, text);
        let outcome = walk_with(&folder, false, &judged(run));
        fs::remove_dir_all(folder).unwrap();
        outcome.err().unwrap_or_else(|| "passed".into())
    }

    #[test]
    fn a_file_is_read_as_it_says() {
        let (head, cases) = parse(FILE).unwrap();
        assert_eq!(head, "# what it is about\ngiven\n\n");
        let [one, two] = cases.as_slice() else { panic!("{cases:?}") };
        assert_eq!((one.given.as_str(), one.title.as_str()), ("given\n\n", "one"));
        assert_eq!((one.input.as_str(), one.expected.as_deref()), ("a\n\nb\n", Some("A\n\nB")));
        assert_eq!((two.input.as_str(), two.expected.as_deref()), ("", Some("C")));
        assert_eq!(one.lines().collect::<Vec<_>>(), [(6, "a"), (8, "b")]);
        assert_eq!(FILE.lines().nth(two.line - 1), Some("== two, without input"));
    }

    #[test]
    fn another_output_fails_with_the_lines_that_differ() {
        assert_eq!(outcome("same", Some(FILE), &upper), "passed");
        let other = |case: &Case| upper(case).replace('B', "X");
        let told = outcome("other", Some(FILE), &other);
        assert!(told.contains("== one\n") && told.contains("  A\n  \n- B\n+ X\n"), "{told}");
        assert!(!told.contains("== two"), "{told}");
    }

    #[test]
    fn what_compares_nothing_fails() {
        assert!(outcome("empty", None, &upper).contains("there is no case file"));
        assert!(outcome("none", Some("# only words\n"), &upper).contains("it has no case"));
        let twice = format!("{FILE}\n== one\n----\nC\n");
        assert!(outcome("twice", Some(&twice), &upper).contains("the same title"));
        assert!(outcome("no", Some("== one\na\n"), &upper).contains("expects nothing"));
        assert!(outcome("blank", Some("== one\na\n----\n\n"), &upper).contains("expects nothing"));
        let silent = |_: &Case| String::new();
        assert!(outcome("silent", Some(FILE), &silent).contains("cannot be an output"));
    }

    #[test]
    fn an_update_writes_what_came_and_keeps_the_rest() {
        let text = FILE.replace("\nB\n\n", "\nwrong\n\n") + "\n== three\n\nc\n";
        let folder = folder("update", Some(&text));
        walk_with(&folder, true, &judged(upper)).unwrap();
        let written = fs::read_to_string(folder.join("concept/some.txt")).unwrap();
        assert_eq!(written, format!("{FILE}\n== three\n\nc\n----\n\nC\n"));
        walk_with(&folder, false, &judged(upper)).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_wrong_in_itself_fails_also_when_the_output_is_rewritten() {
        let folder = folder("judged", Some(FILE));
        let run = |case: &Case| {
            let place = format!("{}:{}: no", case.file.display(), case.line);
            (upper(case), if case.title == "one" { vec![place] } else { Vec::new() })
        };
        for update in [false, true] {
            let told = walk_with(&folder, update, &run).unwrap_err();
            assert!(told.ends_with("concept/some.txt:4: no\n"), "{told}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
