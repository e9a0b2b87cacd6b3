//! `agentfs-harness`: benchmarks, and the child programs of the tests.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use harness::chaos::workloads::{self, Kind, Place};
use harness::chaos::{self, Control};
use harness::posix::{fsx, pjdfstest};
use harness::{bench, probe, suite, suites};
use std::path::PathBuf;
use std::process::ExitCode;

/// Benchmarks and proofs of AgentFS. The suites run under `cargo test -p harness`.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the test suites and what each proves.
    List,
    /// Measure a branch mount against the host directory on one fresh file system.
    Bench(bench::Options),
    /// Kill the daemon, the frontends or both while real programs work on the mounts, and check that they
    /// see a pause and nothing else.
    Chaos(chaos::Options),
    /// Run pjdfstest on a branch and natively on ext4.
    Pjdfstest(pjdfstest::Options),
    /// Run the tests of a suite by its name, with structured results.
    Suite(suite::Options),
    /// Run fsx on a branch in each way of doing input and output.
    Fsx(fsx::Options),
    /// A child program of a test.
    #[command(hide = true, subcommand)]
    Probe(Probe),
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Run one operation and print its errno by name, or OK.
    Errno {
        /// The operation.
        op: String,
        /// Its paths.
        paths: Vec<PathBuf>,
    },
    /// Change a directory until told to stop, checking every operation.
    Churn {
        /// The directory, empty.
        dir: PathBuf,
        /// Directory outside of the mount for `stop`, `progress` and `model`.
        control: PathBuf,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Work on paths that others work on in other branches, and read only what was written here.
    Same {
        /// The root of the mount.
        root: PathBuf,
        /// What all that is written has in it.
        word: String,
        /// How often.
        rounds: u64,
    },
    /// Be one process of a workload of `chaos`, until `control/stop` exists.
    Work {
        /// The workload.
        kind: String,
        /// Its directory on the mount.
        dir: PathBuf,
        /// Its control directory.
        control: PathBuf,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Check what a former run left.
        #[arg(long)]
        verify: bool,
    },
}

#[expect(clippy::print_stdout, reason = "its output is the purpose of a command")]
fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::List => {
            for (name, promise) in suites::SUITES {
                println!("{name:14} {promise}");
            }
            Ok(())
        }
        Command::Bench(options) => bench::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Pjdfstest(options) => pjdfstest::run(&options),
        Command::Suite(options) => suite::run(&options),
        Command::Fsx(options) => fsx::run(&options),
        Command::Probe(Probe::Errno { op, paths }) => probe::errno(&op, &paths).map(|name| println!("{name}")),
        Command::Probe(Probe::Same { root, word, rounds }) => probe::same::run(&root, &word, rounds),
        Command::Probe(Probe::Churn { dir, control, seed }) => {
            let place = Place { dir, control: Control::new(&control), seed };
            workloads::work(Kind::Writer, &place).map(|operations| println!("{operations} operations"))
        }
        Command::Probe(Probe::Work { kind, dir, control, seed, verify }) => {
            let place = Place { dir, control: Control::new(&control), seed };
            Kind::named(&kind).and_then(|kind| {
                if verify {
                    return workloads::verify(kind, &place);
                }
                workloads::work(kind, &place).map(|operations| println!("{operations} operations"))
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("agentfs-harness: {message}");
            ExitCode::FAILURE
        }
    }
}
