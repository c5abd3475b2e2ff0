//! That each `unsafe` block of the kernel program says why it is sound.
//!
//! Decides: where the reason stands: in a comment `// SAFETY:` directly above the statement that
//! has the block, or within it; of an `unsafe fn` under `# Safety` in its doc comment. Clippy does
//! this for the other crates; it is not built for the kernel program's target.

use super::File;

/// The crate that is checked.
const CRATE: &str = "crates/nines-bpf/src/";
/// Characters a reason has at least.
const REASON_CHARS_MIN: usize = 20;

/// What is wrong, a line each.
pub fn check(files: &[File]) -> Vec<String> {
    let ours = files.iter().filter(|file| file.name.starts_with(CRATE));
    ours.flat_map(|file| {
        let wrong = without_reason(&file.text);
        wrong.into_iter().map(|line| format!("{}:{line}: unsafe, and no reason", file.name))
    })
    .collect()
}

/// Numbers of the lines with an `unsafe` that has no reason.
fn without_reason(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut wrong = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let sound = if code.contains("unsafe fn ") || code.contains("unsafe trait ") {
            above(&lines[..i]).any(|line| line == "/// # Safety")
        } else if code.contains("unsafe {") || code.contains("unsafe impl ") {
            has_reason(&lines[..=i])
        } else {
            continue;
        };
        if !sound {
            wrong.push(i + 1);
        }
    }
    wrong
}

/// Doc comments and attributes directly above, from the last one up.
fn above<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let lines = lines.iter().rev().map(|line| line.trim());
    lines.take_while(|line| line.starts_with("//") || line.starts_with("#["))
}

/// Whether the statement that the last line is in has a reason above or in it.
fn has_reason(lines: &[&str]) -> bool {
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let ends = |line: &str| line.is_empty() || line.ends_with([';', '{', '}', ',']);
    let mut first = lines.len() - 1;
    while first > 0 && !ends(lines[first - 1].trim_end()) {
        first -= 1;
    }
    // Comments end as sentences do, not as statements: those above are part of it by now, but for
    // one that ends in a comma.
    while first > 0 && is_comment(lines[first - 1]) {
        first -= 1;
    }
    lines[first..].iter().any(|line| {
        let reason = line.split_once("// SAFETY: ").map(|(_, reason)| reason.trim());
        reason.is_some_and(|reason| reason.chars().count() >= REASON_CHARS_MIN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_reason_above_the_statement_or_in_it() {
        let cases = [
            ("    // SAFETY: the map outlives the program.\n    unsafe { *at }\n", true),
            (
                "    // SAFETY: the map outlives the program,\n    // as maps do.\n    unsafe { *at }\n",
                true,
            ),
            (
                "    // SAFETY: the map outlives the program.\n    let x =\n        unsafe { *at };\n",
                true,
            ),
            (
                "    f(|| {\n        // SAFETY: the map outlives the program.\n        unsafe { *at }\n",
                true,
            ),
            (
                "    f(a,\n        // SAFETY: the map outlives the program.\n        unsafe { *at });\n",
                true,
            ),
            ("    unsafe { *at }\n", false),
            ("    // It is sound.\n    unsafe { *at }\n", false),
            ("    // SAFETY: yes.\n    unsafe { *at }\n", false),
            ("    // SAFETY: the map outlives the program.\n    a();\n    unsafe { *at }\n", false),
            ("    // SAFETY: the map outlives the program.\n\n    unsafe { *at }\n", false),
            ("    // An unsafe { block } in words.\n", true),
            ("    // SAFETY: the map outlives the program.\n    unsafe impl Send for A {}\n", true),
            ("unsafe impl Send for A {}\n", false),
        ];
        for (text, sound) in cases {
            assert_eq!(without_reason(text).is_empty(), sound, "{text}");
        }
    }

    #[test]
    fn an_unsafe_function_says_what_its_callers_owe() {
        let good = "/// Reads.\n///\n/// # Safety\n///\n/// It is there.\n#[inline]\npub unsafe fn a() {}\n";
        assert!(without_reason(good).is_empty());
        assert_eq!(without_reason("/// Reads.\npub unsafe fn a() {}\n"), [2]);
    }

    #[test]
    fn only_the_kernel_program_is_checked() {
        let file = |name: &str| File { name: name.into(), text: "unsafe { a() }\n".into() };
        let files = [file("crates/nines-bpf/src/a.rs"), file("crates/nines-core/src/a.rs")];
        assert_eq!(check(&files), ["crates/nines-bpf/src/a.rs:1: unsafe, and no reason"]);
    }
}
