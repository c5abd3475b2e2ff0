//! What this process writes for its caller: results to stdout, remarks to stderr.
//!
//! Decides: what happens when nobody reads any more. A closed pipe ends the process quietly, as
//! SIGPIPE ends other programs; any other write error is told and ends it with exit code 9.
//! Columns, bold words and JSON look the same in every command.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

/// Writes a result to stdout, with a line end.
macro_rules! outln {
    ($($text:tt)*) => { $crate::output::result(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes a result to stdout as it is.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::result(format_args!($($text)*)) };
}

/// Writes a remark to stderr, with a line end.
macro_rules! errln {
    ($($text:tt)*) => { $crate::output::remark(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes to stdout and hands it over at once.
pub fn result(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    ended(out.write_fmt(text).and_then(|()| out.flush()));
}

/// Writes to stderr. Where even that fails, only a closed pipe ends the process.
pub fn remark(text: fmt::Arguments<'_>) {
    if let Err(e) = io::stderr().lock().write_fmt(text)
        && e.kind() == io::ErrorKind::BrokenPipe
    {
        end();
    }
}

/// Goes on after a write that succeeded; ends the process after one that failed.
pub fn ended(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => end(),
        Err(e) => {
            remark(format_args!("nines: the result cannot be written: {e}\n"));
            std::process::exit(nines_api::failure::Kind::Io.code().into());
        }
    }
}

/// Ends the process as SIGPIPE ends it by default: a shell sees 141 and prints nothing.
fn end() -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    std::process::exit(141)
}

/// Bold on a terminal that wants it.
pub fn bold(text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some()
        || std::env::var("TERM").is_ok_and(|t| t == "dumb")
        || !std::io::stdout().is_terminal();
    if plain { text.to_owned() } else { format!("\x1b[1m{text}\x1b[0m") }
}

/// Columns with two blanks between, as wide as their widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// JSON of a value, as every `-o json` prints it.
pub fn print_json(value: &impl serde::Serialize) {
    outln!("{}", serde_json::to_string_pretty(value).expect("plain data"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["A".into(), "B".into()], vec!["long".into(), "x".into()]];
        assert_eq!(columns(&rows), "A     B\nlong  x\n");
    }
}
