//! PostgreSQL with its data directory on the mount, under pgbench, with data checksums.

use super::{Place, Workload, program};
use crate::chaos::journal::Journal;
use nix::unistd::{User, chown};
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCALE: &str = "2";
const CLIENTS: u64 = 2;
const TRANSACTIONS: u64 = 40;
/// The server refuses to run as root.
const USERS: [&str; 2] = ["postgres", "nobody"];

#[derive(Debug, Serialize, Deserialize)]
struct Left {
    transactions: u64,
}

pub(super) struct Postgres {
    place: Place,
    server: Server,
    transactions: u64,
}

/// The directory of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut dirs: Vec<PathBuf> = versions.flatten().map(|e| e.path().join("bin")).collect();
    dirs.sort();
    dirs.into_iter()
        .rfind(|d| ["initdb", "pg_ctl", "pgbench", "psql", "pg_checksums"].iter().all(|p| d.join(p).is_file()))
}

fn user() -> Option<User> {
    USERS.iter().find_map(|name| User::from_name(name).ok().flatten())
}

pub(super) fn why_not() -> Option<String> {
    if programs().is_none() {
        return Some("no PostgreSQL server below /usr/lib/postgresql".into());
    }
    user().is_none().then(|| format!("no unprivileged user of {}", USERS.join(", ")))
}

struct Server {
    bin: PathBuf,
    user: User,
    data: PathBuf,
    /// Directory of its socket, outside of the mount.
    socket: PathBuf,
}

impl Server {
    fn of(place: &Place) -> Result<Self, String> {
        let bin = programs().ok_or("the server's programs are gone")?;
        let user = user().ok_or("the server's user is gone")?;
        Ok(Self { bin, user, data: place.dir.join("data"), socket: place.control.path("socket") })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(self.bin.join(name), Path::new("/"));
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
        command.env("PGHOST", &self.socket).env("PGDATABASE", "postgres").env("PGUSER", "chaos").env("LC_ALL", "C");
        command
    }

    fn own(&self, dir: &Path) -> Result<(), String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
        chown(dir, Some(self.user.uid), Some(self.user.gid)).map_err(|e| format!("chown {}: {e}", dir.display()))
    }

    fn start(&self, j: &mut Journal) -> Result<(), String> {
        let options =
            format!("-c listen_addresses= -c unix_socket_directories={} -c shared_buffers=4MB", self.socket.display());
        let log = self.socket.join("log");
        j.run(
            self.command("pg_ctl")
                .arg("-D")
                .arg(&self.data)
                .arg("-l")
                .arg(log)
                .args(["-w", "-t", "120", "-o", &options, "start"]),
        )
        .map(drop)
    }

    fn stop(&self, j: &mut Journal) -> Result<(), String> {
        j.run(self.command("pg_ctl").arg("-D").arg(&self.data).args(["-w", "-t", "120", "-m", "fast", "stop"]))?;
        j.run(self.command("pg_checksums").arg("--check").arg("-D").arg(&self.data)).map(drop)
    }

    fn ask(&self, j: &mut Journal, sql: &str) -> Result<String, String> {
        Ok(j.run(self.command("psql").args(["-XAtc", sql]))?.trim().to_owned())
    }

    /// The sums that every transaction keeps equal, and that each was done once.
    fn check(&self, j: &mut Journal, transactions: u64) -> Result<(), String> {
        let sums = self.ask(
            j,
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
             (SELECT count(*) FROM pgbench_history)",
        )?;
        let fields: Vec<&str> = sums.split('|').collect();
        let [accounts, tellers, branches, history, count] = fields[..] else {
            return Err(format!("unexpected sums {sums}"));
        };
        let sums_agree = [tellers, branches, history].iter().all(|sum| *sum == accounts);
        if sums_agree && count == transactions.to_string() {
            Ok(())
        } else {
            Err(format!("after {transactions} transactions the sums and the count are {sums}"))
        }
    }

    fn complaints(&self) -> Result<(), String> {
        let text = std::fs::read_to_string(self.socket.join("log")).unwrap_or_default();
        let bad = ["ERROR:", "PANIC:", "could not"];
        // About a client's connection, which `pg_ctl` and `psql` end as they like: not about files.
        let of_clients = ["could not send data to client", "could not receive data from client"];
        let complains = |l: &&str| bad.iter().any(|b| l.contains(b)) && !of_clients.iter().any(|c| l.contains(c));
        let lines: Vec<&str> = text.lines().filter(complains).take(10).collect();
        if lines.is_empty() { Ok(()) } else { Err(format!("the server's log says: {}", lines.join("\n"))) }
    }
}

impl Postgres {
    pub(super) fn begin(place: &Place, j: &mut Journal) -> Result<Self, String> {
        let server = Server::of(place)?;
        server.own(&server.data)?;
        server.own(&server.socket)?;
        j.run(server.command("initdb").args(["-k", "-A", "trust", "-U", "chaos", "-D"]).arg(&server.data))?;
        server.start(j)?;
        j.run(server.command("pgbench").args(["-i", "-q", "-s", SCALE]))?;
        Ok(Self { place: place.clone(), server, transactions: 0 })
    }
}

impl Workload for Postgres {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        let (clients, each) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
        journal.run(self.server.command("pgbench").args(["-n", "-c", &clients, "-t", &each]))?;
        self.transactions += CLIENTS * TRANSACTIONS;
        self.server.check(journal, self.transactions)?;
        self.server.complaints()
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<(), String> {
        self.server.check(journal, self.transactions)?;
        self.server.stop(journal)?;
        self.server.complaints()?;
        self.place.control.save(&Left { transactions: self.transactions })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // After a violation the server must not outlive the run.
        if self.server.data.join("postmaster.pid").exists() {
            self.server
                .command("pg_ctl")
                .arg("-D")
                .arg(&self.server.data)
                .args(["-m", "immediate", "stop"])
                .output()
                .ok();
        }
    }
}

pub(super) fn verify(place: &Place, journal: &mut Journal) -> Result<(), String> {
    let left: Left = place.control.load()?;
    let server = Server::of(place)?;
    server.start(journal)?;
    let checked = server.check(journal, left.transactions);
    server.stop(journal)?;
    checked.and_then(|()| server.complaints())
}
