//! `nines`: high availability and load balancing for Linux in one binary.

mod api;
mod cli;
mod daemon;
mod demo;
mod failure;
mod health;
mod identity;
mod trust;

fn main() -> std::process::ExitCode {
    cli::main()
}
