#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::path::Path;

fn env(uid: u32) -> Environment {
    Environment {
        uid,
        home: Some("/home/ada".into()),
        xdg_data_home: None,
        xdg_runtime_dir: Some("/run/user/7".into()),
    }
}

fn config(args: &[&str], uid: u32, allowed: Option<&str>) -> Result<Config, ConfigError> {
    let args = Args::try_parse_from(std::iter::once("agentfsd").chain(args.iter().copied())).unwrap();
    Config::new_in(&args, &env(uid), allowed.map(Into::into))
}

fn bases(list: &[&str]) -> Vec<PathBuf> {
    list.iter().map(PathBuf::from).collect()
}

#[test]
fn a_named_store_has_its_socket_inside() {
    let config = config(&["--store", "/s"], 0, None).unwrap();
    assert_eq!(config.paths.store, Path::new("/s"));
    assert_eq!(config.paths.socket, Path::new("/s/run/agentfsd.sock"));
}

#[test]
fn a_named_socket_wins() {
    let config = config(&["--store", "/s", "--socket", "/t/x.sock"], 0, None).unwrap();
    assert_eq!(config.paths.socket, Path::new("/t/x.sock"));
}

#[test]
fn an_overlong_socket_path_is_refused() {
    let long = format!("/{}", "x".repeat(120));
    assert!(matches!(config(&["--socket", &long], 0, None), Err(ConfigError::Path(PathError::SocketTooLong { .. }))));
}

#[test]
fn bases_default_to_the_home_of_a_user_and_to_fixed_places_for_root() {
    assert_eq!(config(&["--store", "/s"], 7, None).unwrap().allow_base, bases(&["/home/ada"]));
    assert_eq!(config(&["--store", "/s"], 0, None).unwrap().allow_base, bases(&["/home", "/root", "/srv", "/opt"]));
}

#[test]
fn options_add_to_the_list_and_the_environment_replaces_its_defaults() {
    let args = ["--store", "/s", "--allow-base", "/a", "--allow-base", "/b", "--allow-base", "/a"];
    assert_eq!(config(&args, 7, None).unwrap().allow_base, bases(&["/home/ada", "/a", "/b"]));
    assert_eq!(config(&args, 7, Some("/x::/y:")).unwrap().allow_base, bases(&["/x", "/y", "/a", "/b"]));
    assert_eq!(config(&["--store", "/s"], 0, Some("")).unwrap().allow_base, bases(&[]));
}

#[test]
fn a_relative_base_is_refused() {
    let refused = config(&["--store", "/s", "--allow-base", "a"], 0, None);
    assert!(matches!(refused, Err(ConfigError::RelativeBase(dir)) if dir == Path::new("a")));
    assert!(config(&["--store", "/s"], 0, Some("/x:y")).is_err());
}

#[test]
fn unknown_options_and_numbers_that_are_none_are_refused() {
    assert!(Args::try_parse_from(["agentfsd", "--nonsense"]).is_err());
    assert!(Args::try_parse_from(["agentfsd", "--ready-fd", "x"]).is_err());
    assert!(Args::try_parse_from(["agentfsd", "stray"]).is_err());
}
