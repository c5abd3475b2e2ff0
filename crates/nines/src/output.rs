//! What this process writes for its caller: results to stdout, remarks to stderr.
//!
//! Decides: what happens when nobody reads any more. A closed pipe ends the process quietly, as
//! SIGPIPE ends other programs; any other write error is told and ends it with exit code 9.

use std::{fmt, io, io::Write as _};

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
