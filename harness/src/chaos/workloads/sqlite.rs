//! SQLite: one process that keeps its database open, a counter and a journal of it in one transaction.

use super::{Place, Workload, program};
use crate::chaos::journal::{Journal, io};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

#[derive(Debug, Serialize, Deserialize)]
struct Counted {
    n: u64,
}

pub(super) struct Sqlite {
    place: Place,
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    n: u64,
    steps: u64,
}

const CHECK: &str = "PRAGMA integrity_check; SELECT n, (SELECT count(*) FROM log), (SELECT max(n) FROM log), \
                     (SELECT count(DISTINCT n) FROM log) FROM counter;";

fn database(place: &Place) -> PathBuf {
    place.dir.join("db")
}

impl Sqlite {
    pub(super) fn begin(place: &Place, journal: &mut Journal) -> Result<Self, String> {
        // All ways of committing, over the processes of a run.
        let mode = ["WAL", "DELETE", "TRUNCATE", "PERSIST"][place.seed as usize % 4];
        let errors = std::fs::File::create(place.control.path("stderr")).map_err(|e| e.to_string())?;
        let mut shell = program("sqlite3", &place.dir)
            .args(["-batch", "-bail", "-list"])
            .arg(database(place))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("sqlite3 cannot be started: {e}"))?;
        let input = shell.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(shell.stdout.take().ok_or("no standard output")?);
        let mut sqlite = Self { place: place.clone(), shell, input, output, n: 0, steps: 0 };
        sqlite.ask(
            journal,
            &format!(
                ".timeout 60000\nPRAGMA journal_mode={mode}; PRAGMA mmap_size=1048576; \
                 CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(0); \
                 CREATE TABLE log(n INTEGER PRIMARY KEY, body BLOB);"
            ),
        )?;
        Ok(sqlite)
    }

    /// What the shell prints for some statements.
    fn ask(&mut self, journal: &mut Journal, sql: &str) -> Result<Vec<String>, String> {
        let (input, output) = (&mut self.input, &mut self.output);
        let asked = journal.try_act(sql, || {
            io(writeln!(input, "{sql}\n.print end-of-answer").and_then(|()| input.flush()))?;
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if io(output.read_line(&mut line))? == 0 {
                    return Ok((lines, false));
                }
                if line.trim_end() == "end-of-answer" {
                    return Ok((lines, true));
                }
                lines.push(line.trim_end().to_owned());
            }
        })?;
        match asked {
            Ok((lines, true)) => Ok(lines),
            other => {
                let said = std::fs::read_to_string(self.place.control.path("stderr")).unwrap_or_default();
                Err(format!("sqlite3 ended at: {sql}\nit said: {other:?} {said}"))
            }
        }
    }
}

impl Workload for Sqlite {
    fn step(&mut self, journal: &mut Journal) -> Result<(), String> {
        let next = self.n + 1;
        let said = self.ask(
            journal,
            "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1; \
             INSERT INTO log SELECT n, randomblob(300) FROM counter; COMMIT; SELECT n FROM counter;",
        )?;
        if said != [next.to_string()] {
            return Err(format!("the counter is {said:?} after transaction {next}"));
        }
        self.n = next;
        self.steps += 1;
        if self.steps.is_multiple_of(60) {
            let said = self.ask(journal, CHECK)?;
            right(&said, self.n)?;
        }
        Ok(())
    }

    fn finish(&mut self, journal: &mut Journal) -> Result<(), String> {
        let said = self.ask(journal, CHECK)?;
        right(&said, self.n)?;
        self.input.write_all(b".quit\n").map_err(|e| format!("quit: {e}"))?;
        let end = self.shell.wait().map_err(|e| format!("wait: {e}"))?;
        if !end.success() {
            return Err(format!("sqlite3 ends with {end}"));
        }
        self.place.control.save(&Counted { n: self.n })
    }
}

fn right(said: &[String], n: u64) -> Result<(), String> {
    // max() of no rows prints nothing.
    let max = if n == 0 { String::new() } else { n.to_string() };
    let want = ["ok".to_owned(), format!("{n}|{n}|{max}|{n}")];
    if said == want { Ok(()) } else { Err(format!("the check says {said:?}, should be {want:?}")) }
}

pub(super) fn verify(place: &Place, journal: &mut Journal) -> Result<(), String> {
    let counted: Counted = place.control.load()?;
    let text = journal.run(program("sqlite3", &place.dir).args(["-bail", "-list"]).arg(database(place)).arg(CHECK))?;
    right(&text.lines().map(str::to_owned).collect::<Vec<_>>(), counted.n)
}
