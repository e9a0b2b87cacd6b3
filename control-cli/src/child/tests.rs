#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use super::run;
use crate::error::Kind;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn why_a_command_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let refused = |program: &str| run(Command::new(program).current_dir(dir.path())).unwrap_err();
    let by_interpreter = refused("./script");
    assert_eq!(by_interpreter.kind, Kind::NotExecutable);
    assert!(by_interpreter.message.contains("interpreter"), "{by_interpreter}");
    assert_eq!(refused("./missing").kind, Kind::CommandNotFound);
    assert_eq!(refused("no-such-command-anywhere").kind, Kind::CommandNotFound);
    assert_eq!(refused(".").kind, Kind::NotExecutable);
}
