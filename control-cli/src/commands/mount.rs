//! `agentfs mount`, `umount` and `mounts`.

use super::{branch, commit};
use crate::args::{self, materialize::Materialize};
use crate::context::{Context, Told, check_utf8, resolve_base, with_base_as_given};
use crate::error::{CliError, Doing, Kind, Result};
use crate::mounter::{self, Request};
use crate::mountinfo::{self, Elsewhere, Mount};
use crate::output::{count, or_dash, shown, span, table};
use crate::seal;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};
use shm_transport::control::client::Client;
use shm_transport::control::holder::{self, HeldMount};
use shm_transport::control::service;
use shm_transport::control::{BranchInfo, Command, Limit, Limits, MountInfo};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a frontend may take to leave after its mount ended.
const DETACH_MAX: Duration = Duration::from_secs(5);
/// How long its processes may take to leave, before it is asked whether they are dead.
const DYING_MAX: Duration = Duration::from_millis(500);
/// How long to wait for a daemon that is only asked for figures.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// `agentfs mount`.
pub(super) fn mount(context: &Context, args: &args::Mount) -> Result<()> {
    let base = args.base.as_deref().map(resolve_base).transpose()?;
    let mountpoint = check_mountpoint(&args.mountpoint)?;
    if let Some(base) = &base {
        check_apart(&mountpoint, base)?;
    }
    let mut client = context.ensure_held()?;
    commit::recover(context, &mut client);
    let info =
        branch_for(context, &mut client, &args.branch, (base, args.frozen), args.materialize, args.quota.limits())
            .map_err(|e| with_base_as_given(e, args.base.as_deref()))?;
    branch::warn(context, &info);
    if let Some(base) = &info.base {
        check_apart(&mountpoint, base)?;
    }
    let request = Request {
        branch: &args.branch,
        mountpoint: &mountpoint,
        apart_from: info.base.as_deref().filter(|base| base.exists()),
        read_only: args.ro,
        allow_other: args.allow_other,
        give_up_after: args.give_up_after,
        options: &args.options,
    };
    let held = mounter::mount(context, &request).map_err(|e| in_use(e, &mut client, &args.branch))?;
    context.output.result(&json!({"mount": held, "branch": info}), || {
        format!("mounted {} on {}\n", shown(&args.branch), held.name.mountpoint.display())
    })?;
    Ok(())
}

/// The branch of that name, made if there is none. Without a base, one that exists keeps its own.
pub(super) fn branch_for(
    context: &Context,
    client: &mut Client,
    name: &str,
    (base, frozen): (Option<PathBuf>, bool),
    materialize: Materialize,
    limits: Limits,
) -> Result<BranchInfo> {
    if let Some(wanted) = materialize.wanted(base.as_deref())? {
        let branch = seal::Branch { name, base: wanted.base, frozen, reuse: true, limits };
        return seal::branch(context, client, &branch, &wanted).and_then(|made| has_limits(made.info, limits));
    }
    if base.is_none() {
        match context.ask(client, |c| c.branch_show(name)) {
            Err(e) if e.kind == Kind::NotFound => {}
            other => return other.and_then(|info| has_limits(info, limits)),
        }
    }
    let create = Command::BranchCreate { name: name.to_owned(), base, from: None, frozen, reuse: true, limits };
    context.create_branch(client, &create).and_then(|info| has_limits(info, limits))
}

/// Refuses a branch that has other limits than those asked for: they are set where it is made.
fn has_limits(info: BranchInfo, limits: Limits) -> Result<BranchInfo> {
    let has = info.quota.unwrap_or_default();
    let fits = |wanted: Option<Limit>, has: Option<u64>| wanted.is_none_or(|wanted| wanted.max() == has);
    if fits(limits.bytes, has.bytes) && fits(limits.inodes, has.inodes) {
        return Ok(info);
    }
    Err(CliError::new(Kind::Exists, format!("branch {} exists and has other limits", info.name))
        .hint(format!("agentfs branch quota {} shows and sets them", info.name)))
}

fn check_mountpoint(path: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| CliError::new(Kind::Usage, format!("the mountpoint {} {why}", path.display()));
    let spelled = mountinfo::locate(path).doing(|| format!("find {}", path.display()))?;
    let mounts = mountinfo::ours().doing(|| "read the list of mounts".into())?;
    if let Some(mount) = mounts.iter().find(|m| mountinfo::same(&m.mountpoint, &spelled)) {
        let mut error = refuse(&format!("is in use: the branch {} is mounted there", mount.branch));
        error.kind = Kind::Busy;
        return Err(error.hint(format!("agentfs umount {}", spelled.display())));
    }
    let found = std::fs::canonicalize(path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            refuse("does not exist").hint(format!("mkdir {}", path.display()))
        } else {
            refuse(&format!("cannot be reached: {e}"))
        }
    })?;
    check_utf8(&found, Kind::Usage, "mountpoint")?;
    if found.is_dir() { Ok(found) } else { Err(refuse("is not a directory")) }
}

/// A mount inside its base would contain itself; one around it would hide it.
fn check_apart(mountpoint: &Path, base: &Path) -> Result<()> {
    let (at, of) = (mountpoint.display(), base.display());
    let why = if mountpoint == base {
        format!("the mountpoint {at} is the base itself")
    } else if mountpoint.starts_with(base) {
        format!("the mountpoint {at} lies inside the base {of}")
    } else if base.starts_with(mountpoint) {
        format!("the mountpoint {at} would hide the base {of}, which lies inside it")
    } else {
        return Ok(());
    };
    Err(CliError::new(Kind::Usage, why)
        .hint("mount outside the base, or use `agentfs run`, which mounts over it for one command alone"))
}

/// `agentfs umount`.
pub(super) fn umount(context: &Context, args: &args::Umount) -> Result<()> {
    let at = mountinfo::locate(&args.mountpoint).doing(|| format!("find {}", args.mountpoint.display()))?;
    let mounted = |at: &Path| {
        let mounts = mountinfo::ours().doing(|| "read the list of mounts".into())?;
        Ok::<_, CliError>(mounts.into_iter().rfind(|m| mountinfo::same(&m.mountpoint, at)))
    };
    let none = || {
        CliError::new(Kind::NotFound, format!("no branch is mounted on {}", args.mountpoint.display()))
            .hint("agentfs mounts lists the mounts")
    };
    // Perhaps named through a symbolic link.
    let other = std::fs::canonicalize(&args.mountpoint).ok();
    let places: Vec<_> = std::iter::once(at.clone()).chain(other.clone()).collect();
    let found = match (mounted(&at)?, other) {
        (Some(mount), _) => Some((at.clone(), mount)),
        (None, Some(other)) => mounted(&other)?.map(|mount| (other, mount)),
        (None, None) => None,
    };
    let Some((at, Mount { branch, device, .. })) = found else {
        let branch = give_back(context, &at, None).ok_or_else(|| elsewhere(context, &places).unwrap_or_else(none))?;
        return told(context, &at, &branch, "had ended already; the branch is free again", &[]);
    };
    let lazy = unmount(&at, args.force, args.lazy)?;
    if lazy && !args.lazy {
        let why = "programs still hold it, so that it was taken out of sight only; it ends with the last of them";
        let said = told(context, &at, &branch, why, &[]);
        give_back(context, &at, Some(&branch));
        return said;
    }
    // A copy in another mount namespace keeps it alive, unless unmounts of this one are propagated there.
    let still_in = if args.force { Vec::new() } else { mountinfo::elsewhere(&device) };
    if let Some(first) = still_in.first() {
        let why = format!(
            "another mount namespace has it as well (that of process {}, {}); the branch stays in use until it is \
             unmounted there, or the processes there have ended",
            first.pid,
            shown(&first.command)
        );
        return told(context, &at, &branch, &why, &still_in);
    }
    // So that a commit right after this finds the branch unmounted; without a daemon there is none to wait for.
    if !args.lazy {
        give_back(context, &at, Some(&branch));
    }
    told(context, &at, &branch, "", &[])
}

/// Why a mount that is listed cannot be unmounted from here.
fn elsewhere(context: &Context, places: &[PathBuf]) -> Option<CliError> {
    let mounts = context.connect_within(ANSWER_MAX).ok()?.mounts().ok()?;
    let mount = mounts.iter().find(|m| places.iter().any(|at| mountinfo::same(&m.mountpoint, at)))?;
    let at = mount.mountpoint.display();
    let message = format!("the branch {} is mounted on {at} in another mount namespace", shown(&mount.branch));
    Some(CliError::new(Kind::Busy, message).hint(
        "a command of `agentfs run`, or a process that it left behind, works on it: the mount ends with the last of them",
    ))
}

fn told(context: &Context, at: &Path, branch: &str, more: &str, still_in: &[Elsewhere]) -> Result<()> {
    context.output.result(&json!({"unmounted": at, "branch": branch, "still_in": still_in}), || {
        let more = if more.is_empty() { String::new() } else { format!(": {more}") };
        format!("unmounted {} from {}{more}\n", shown(branch), at.display())
    })
}

/// Waits until the daemon has the mount no more. One whose processes died is given back for them. The branch
/// of it, if there was such a mount.
fn give_back(context: &Context, at: &Path, branch: Option<&str>) -> Option<String> {
    let mut client = context.connect_within(ANSWER_MAX).ok()?;
    let here = |m: &MountInfo| branch.is_none_or(|branch| m.branch == branch) && mountinfo::same(&m.mountpoint, at);
    if branch.is_some() && context.wait_detached(&mut client, here, DYING_MAX).ok()? {
        return None;
    }
    let mounts = client.mounts().ok()?;
    let mut given = None;
    for mount in mounts.iter().filter(|m| here(m)) {
        // Refused while anybody may still serve it, in another mount namespace for instance.
        if client.end_session(mount.session).is_ok() {
            given = Some(mount.branch.clone());
        }
    }
    if branch.is_some() {
        context.wait_detached(&mut client, here, DETACH_MAX).ok();
    }
    given
}

/// What to do about a branch that is in use, by what uses it.
pub(super) fn in_use(error: CliError, client: &mut Client, branch: &str) -> CliError {
    if error.kind != Kind::Busy {
        return error;
    }
    let mounts = client.mounts().unwrap_or_default();
    let Some(mount) = mounts.iter().find(|m| m.branch == branch) else { return error };
    let at = mount.mountpoint.display();
    let visible = mountinfo::ours().unwrap_or_default();
    let is_visible = visible.iter().any(|m| m.branch == branch && mountinfo::same(&m.mountpoint, &mount.mountpoint));
    error.hint(if is_visible {
        format!("agentfs umount {at}; then run this again")
    } else if mount.state == "attached" {
        format!(
            "a command of `agentfs run`, or a process that it left behind, works on it ({at}, in a mount namespace of its own): run this again when it has ended"
        )
    } else {
        format!("the processes of its mount died: `agentfs umount {at}` gives the branch back")
    })
}

/// How often, and how far apart, a busy mount is tried again.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Unmounts; by `fusermount3` where we may not do it ourselves.
///
/// Whether it was only taken out of sight, because programs still hold it.
pub(super) fn unmount(at: &Path, force: bool, lazy: bool) -> Result<bool> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_FORCE, force);
    flags.set(MntFlags::MNT_DETACH, lazy);
    let busy = || {
        CliError::new(Kind::Busy, format!("{} is in use", at.display()))
            .hint("end the programs that use it (fuser -m MNT shows them), or unmount with --lazy or --force")
    };
    // A program that was started a moment ago may hold copies of descriptors until its exec closes them.
    let mut tried = umount2(at, flags);
    for _ in 0..BUSY_TRIES {
        if tried != Err(Errno::EBUSY) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        tried = umount2(at, flags);
    }
    match tried {
        Ok(()) => return Ok(lazy),
        // Aborted, or dead, and still held by programs: out of sight at least.
        Err(Errno::EBUSY) if !lazy && (force || is_dead(at)) => return unmount(at, force, true),
        Err(Errno::EBUSY) => return Err(busy()),
        Err(Errno::EPERM) => {}
        Err(e) => return Err(e).doing(|| format!("unmount {}", at.display())),
    }
    let output = std::process::Command::new("fusermount3")
        .arg("-u")
        .args((lazy || force || is_dead(at)).then_some("-z"))
        .arg("--")
        .arg(at)
        .output()
        .map_err(|e| {
            CliError::new(Kind::Denied, format!("cannot unmount {} without fusermount3: {e}", at.display()))
                .hint("install it (Debian: apt install fuse3), or unmount as root")
        })?;
    if output.status.success() {
        return Ok(lazy);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") { Err(busy()) } else { Err(CliError::new(Kind::Denied, said)) }
}

/// Whether nobody serves a mount any more.
fn is_dead(at: &Path) -> bool {
    let (path, (tell, told)) = (at.to_owned(), std::sync::mpsc::channel());
    // One that waits for its daemon does not answer; then nobody waits for this thread either.
    std::thread::spawn(move || tell.send(nix::sys::statfs::statfs(&path).map(drop)));
    told.recv_timeout(DYING_MAX) == Ok(Err(Errno::ENOTCONN))
}

/// `agentfs mounts`.
pub(super) fn mounts(context: &Context) -> Result<()> {
    let (list, from) = collect(context);
    if let Some(why) = from {
        context.output.note(&format!("the daemon does not answer ({why}); figures are missing"));
    }
    context.output.result(&list, || listing(&list))
}

/// Mounts as the daemon has them; if it does not answer, as holder and kernel know them, and why.
pub(super) fn collect(context: &Context) -> (Vec<Value>, Option<String>) {
    let mut held =
        holder::Client::connect(&context.paths.socket).ok().and_then(|mut h| h.mounts().ok()).unwrap_or_default();
    for unit in service::unit_mounts(&context.paths.socket) {
        if held.iter().all(|known| known.name.session != unit.name.session) {
            held.push(unit);
        }
    }
    let asked = context.connect_within(ANSWER_MAX).and_then(|mut client| client.mounts().told());
    match asked {
        Ok(mounts) => (mounts.iter().map(|m| with_holders_view(m, &held)).collect(), None),
        Err(e) => {
            let known = held.iter().map(|h| {
                let value = json!({
                    "session": h.name.session,
                    "branch": h.name.branch,
                    "mountpoint": h.name.mountpoint,
                    "read_only": h.name.read_only,
                    "frontend_pid": h.frontend_pid,
                    "state": if h.waiting.is_some() { "reconnecting" } else { "held" },
                });
                as_held(value, h)
            });
            (known.collect(), Some(e.message))
        }
    }
}

fn with_holders_view(mount: &MountInfo, held: &[HeldMount]) -> Value {
    let value = serde_json::to_value(mount).unwrap_or_default();
    match held.iter().find(|h| h.name.session == mount.session) {
        Some(held) => as_held(value, held),
        None => value,
    }
}

/// Adds what only the holder knows, or the unit.
fn as_held(mut mount: Value, held: &HeldMount) -> Value {
    if let Some(map) = mount.as_object_mut() {
        // Where the two differ, the daemon's view is the later one.
        let waiting = held.waiting.filter(|_| map.get("state").and_then(Value::as_str) != Some("attached"));
        if let Some(waiting) = waiting {
            let seconds = waiting.seconds();
            map.insert("requests_held".into(), waiting.requests.into());
            map.insert("reconnecting_seconds".into(), seconds.into());
            map.insert("given_up".into(), held.give_up_after.is_some_and(|limit| seconds >= limit).into());
        }
        map.insert("give_up_after_seconds".into(), held.give_up_after.into());
        map.insert("frontend_restarts".into(), held.restarts.into());
        map.insert("without".into(), held.without.clone().into());
        map.insert("trouble".into(), held.trouble.clone().into());
    }
    mount
}

/// The state in words: for how long what waits for the daemon has waited.
fn state(mount: &Value) -> String {
    let name = mount.get("state").and_then(Value::as_str).map(shown).unwrap_or_default();
    let number = |key: &str| mount.get(key).and_then(Value::as_u64);
    let Some(seconds) = number("reconnecting_seconds") else { return name };
    let how = if mount.get("given_up").and_then(Value::as_bool) == Some(true) {
        "requests fail".into()
    } else {
        format!("{} held", count(number("requests_held").unwrap_or(0), "request", "requests"))
    };
    format!("{name}, {how}, for {}", count(seconds, "second", "seconds"))
}

/// Mounts as a table.
pub(super) fn listing(list: &[Value]) -> String {
    if list.is_empty() {
        return "no mounts\n".into();
    }
    let text = |m: &Value, key: &str| m.get(key).and_then(Value::as_str).map(shown).unwrap_or_default();
    let number = |m: &Value, key: &str| m.get(key).and_then(Value::as_u64);
    let rows: Vec<_> = list
        .iter()
        .map(|m| {
            let ro = m.get("read_only").and_then(Value::as_bool) == Some(true);
            vec![
                text(m, "branch"),
                text(m, "mountpoint"),
                if ro { "ro".into() } else { "rw".into() },
                state(m),
                or_dash(number(m, "attached_seconds").map(span).unwrap_or_default()),
                or_dash(number(m, "requests").map(|n| n.to_string()).unwrap_or_default()),
                or_dash(number(m, "frontend_pid").map(|n| n.to_string()).unwrap_or_default()),
            ]
        })
        .collect();
    let mut told = table(&["BRANCH", "MOUNTED ON", "MODE", "STATE", "FOR", "REQUESTS", "PID"], &rows);
    for mount in list {
        let without = mount.get("without").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for note in mount.get("trouble").into_iter().chain(without).filter_map(Value::as_str) {
            told += &format!("{}: {}\n", text(mount, "mountpoint"), shown(note));
        }
        for other in mount.get("others").and_then(Value::as_array).into_iter().flatten() {
            let bound = other.get("bound").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let pids: Vec<_> = bound.iter().filter_map(|b| number(b, "pid")).map(|pid| pid.to_string()).collect();
            let whom =
                if pids.is_empty() { "no process any more".into() } else { format!("process {}", pids.join(", ")) };
            told += &format!("{}: shows {} to {whom}\n", text(mount, "mountpoint"), text(other, "branch"));
        }
    }
    told
}
