//! `nines`: high availability and load balancing for Linux in one binary.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod output;

mod cli;
mod context;
mod demo;
mod local;

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let is = |i: usize, name: &str| words.get(i).and_then(|w| w.rsplit('/').next()) == Some(name);
    // Its options are not ours: `-o` means something else there.
    if is(0, "ipvsadm") {
        return local::ipvsadm::main(&words[1..]);
    }
    if is(1, "ipvsadm") {
        return local::ipvsadm::main(&words[2..]);
    }
    cli::main()
}
