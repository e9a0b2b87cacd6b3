#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn lines_are_flat_and_kebab_case() {
    let call = Call { v: VERSION, command: Command::AllowBase { path: "/srv".into() } };
    assert_eq!(serde_json::to_string(&call).unwrap(), r#"{"v":1,"op":"allow-base","path":"/srv"}"#);
    let name = MountName { session: SessionId(7), branch: "b".into(), mountpoint: "/mnt".into(), read_only: false };
    let call = Call { v: VERSION, command: Command::AdoptMount { mount: name.clone() } };
    let text = serde_json::to_string(&call).unwrap();
    assert_eq!(text, r#"{"v":1,"op":"adopt-mount","session":7,"branch":"b","mountpoint":"/mnt","read_only":false}"#);
    let Command::AdoptMount { mount } = serde_json::from_str::<Call>(&text).unwrap().command else {
        panic!("another command");
    };
    assert_eq!(mount, name);
}

#[test]
fn the_socket_lies_beside_the_daemons() {
    assert_eq!(socket_path(Path::new("/run/a.sock")), Path::new("/run/a.sock.hold"));
}
