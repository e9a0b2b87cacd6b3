#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
use super::*;

fn user(runtime: Option<&str>, data: Option<&str>, home: Option<&str>) -> Environment {
    Environment {
        uid: 1000,
        home: home.map(Into::into),
        xdg_data_home: data.map(Into::into),
        xdg_runtime_dir: runtime.map(Into::into),
    }
}

fn resolve(env: &Environment, store: Option<&str>, socket: Option<&str>) -> (String, String) {
    let paths = Paths::resolve_in(env, store.map(Path::new), socket.map(Path::new)).unwrap();
    (paths.store.to_str().unwrap().into(), paths.socket.to_str().unwrap().into())
}

#[test]
fn defaults_follow_the_hierarchy_for_root_and_xdg_for_users() {
    let root = Environment { uid: 0, ..user(Some("/run/user/0"), Some("/data"), Some("/root")) };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(resolve(&root, None, None), pair("/var/lib/agentfs", "/run/agentfs/agentfsd.sock"));
    let full = user(Some("/run/user/1000"), Some("/data"), Some("/home/u"));
    assert_eq!(resolve(&full, None, None), pair("/data/agentfs", "/run/user/1000/agentfs/agentfsd.sock"));
    let bare = user(None, Some("relative/is/ignored"), Some("/home/u"));
    assert_eq!(resolve(&bare, None, None), pair("/home/u/.local/share/agentfs", "/tmp/agentfs-1000/agentfsd.sock"));
    assert!(matches!(Paths::resolve_in(&user(None, None, None), None, None), Err(PathError::NoHome)));
}

#[test]
fn options_win_and_a_store_brings_its_socket() {
    let env = user(Some("/run/user/1000"), None, Some("/home/u"));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(resolve(&env, Some("/s"), None), pair("/s", "/s/run/agentfsd.sock"));
    assert_eq!(resolve(&env, Some("/s"), Some("/k")), pair("/s", "/k"));
    assert_eq!(resolve(&env, None, Some("/k")), pair("/home/u/.local/share/agentfs", "/k"));
    let relative = Paths::resolve_in(&env, Some(Path::new("s")), None).unwrap();
    assert!(relative.store.is_absolute() && relative.socket.is_absolute());
    assert_eq!(relative.holder_socket().file_name().unwrap(), "agentfsd.sock.hold");
    assert_eq!(relative.holder_log(), relative.store.join("log/holder.log"));
    assert_eq!(relative.daemon_log(), relative.store.join("log/agentfsd.log"));
}

#[test]
fn a_socket_path_that_does_not_fit_says_so() {
    let env = user(None, None, Some("/home/u"));
    let long = format!("/{}", "d".repeat(SOCKET_PATH_MAX));
    let error = Paths::resolve_in(&env, None, Some(Path::new(&long))).unwrap_err();
    assert!(error.to_string().contains("--socket"), "{error}");
    let fits = format!("/{}", "d".repeat(SOCKET_PATH_MAX - 1 - ".hold".len()));
    assert!(Paths::resolve_in(&env, None, Some(Path::new(&fits))).is_ok());
}

#[test]
fn the_socket_directory_is_made_private_and_an_open_one_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("new/deep/agentfsd.sock");
    let paths = Paths { store: dir.path().into(), socket };
    paths.prepare_socket_dir().unwrap();
    paths.prepare_socket_dir().unwrap();
    let made = dir.path().join("new/deep");
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(paths.prepare_socket_dir(), Err(PathError::SocketDir { .. })));
}

#[test]
fn a_directory_of_somebody_else_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| Paths { store: dir.path().join(name), socket: dir.path().join("s") };
    let make = |name: &str, entries: &[&str]| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        for entry in entries {
            std::fs::write(dir.path().join(name).join(entry), "").unwrap();
        }
        of(name).check_store()
    };
    of("none").check_store().unwrap();
    make("empty", &[]).unwrap();
    make("begun", &["log", "run", "start.lock", "lock"]).unwrap();
    make("fresh-disk", &["lost+found"]).unwrap();
    make("store", &["FORMAT", "meta", "contents", "a note of the user"]).unwrap();
    // Its metadata is lost or its format is: that is told by who opens it.
    make("damaged", &["meta", "else"]).unwrap();
    let error = make("home", &["log", "thesis.tex"]).unwrap_err().to_string();
    assert!(error.contains("thesis.tex") && error.contains("--store"), "{error}");
}
