//! `kill -9` of a real process: what it acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const DIR: &str = "AGENTFS_STORE_TEST_DIR";
const OPTIONS: Options =
    Options { segment_bytes: 64 << 10, headroom_bytes: 8 << 10, checkpoint_bytes: 300 << 10, threads: true };

/// The child: commits batches of two keys and acknowledges each.
#[test]
#[ignore = "the child process of the test below"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = LogStore::open(dir.as_ref(), OPTIONS).unwrap();
    let first = store.get(b"next").map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()));
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nready {first}").unwrap();
    for number in first.. {
        let mut batch = Batch::default();
        batch.put(number.to_be_bytes(), vec![number as u8; (number % 300) as usize]);
        batch.put("next", (number + 1).to_le_bytes());
        if number >= 2000 {
            batch.delete((number - 2000).to_be_bytes());
        }
        store.commit(&batch).unwrap();
        // One write of a short line: the reader gets it whole or not at all.
        out.write_all(format!("ack {number}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        if number % 1000 == 0 {
            store.sync().unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::kill::child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acked = None;
        let mut kill_at = None::<Instant>;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(first) = line.strip_prefix("ready ") {
                assert_eq!(first.parse(), Ok(next), "the child found what the last one left");
                kill_at = Some(Instant::now() + Duration::from_millis(20 + round * 45));
            }
            if let Some(number) = line.strip_prefix("ack ") {
                acked = number.parse::<u64>().ok().or(acked);
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                child.kill().unwrap();
                kill_at = None;
            }
        }
        child.wait().unwrap();
        let acked = acked.expect("the child got to work");
        let store = LogStore::open(dir.path(), OPTIONS).unwrap();
        assert!(store.opened().unclean);
        let found = u64::from_le_bytes(store.get(b"next").unwrap().try_into().unwrap());
        // The last batch may have been committed and not acknowledged.
        assert!(found == acked + 1 || found == acked + 2, "round {round}: acknowledged {acked}, found {found}");
        for number in found.saturating_sub(2000)..found {
            assert_eq!(store.get(&number.to_be_bytes()), Some(vec![number as u8; (number % 300) as usize]));
        }
        assert_eq!(store.records(), found.min(2000) + 1);
        drop(store);
        next = found;
    }
}
