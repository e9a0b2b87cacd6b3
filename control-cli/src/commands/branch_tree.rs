//! `agentfs branch list --tree`: who was made from whom.

use super::branch::{places, quota};
use crate::output::{or_dash, shown, size, span, table};
use shm_transport::control::BranchInfo;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The branches, each below the one it was made from.
pub(super) fn tree(list: &[BranchInfo]) -> String {
    if list.is_empty() {
        return "no branches\n".into();
    }
    let mut below: BTreeMap<Option<&str>, Vec<&BranchInfo>> = BTreeMap::new();
    for info in list {
        below.entry(parent(info)).or_default().push(info);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let limited = list.iter().any(|info| info.quota.is_some());
    let mut rows = Vec::new();
    // Deepest first from the end, so that no depth of nesting is too much.
    let mut left: Vec<(&BranchInfo, String, String)> = Vec::new();
    for info in below.get(&None).into_iter().flatten().rev() {
        left.push((info, String::new(), String::new()));
    }
    while let Some((info, mark, indent)) = left.pop() {
        let mut row = row(info, &mark, now);
        row.extend(limited.then(|| or_dash(info.quota.as_ref().map(quota).unwrap_or_default())));
        rows.push(row);
        let children = below.get(&Some(info.name.as_str())).map_or(&[][..], Vec::as_slice);
        for (n, child) in children.iter().enumerate().rev() {
            let last = n + 1 == children.len();
            let (branch, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            left.push((child, format!("{indent}{branch}"), format!("{indent}{rest}")));
        }
    }
    let mut head = vec!["BRANCH", "MADE FROM", "CHANGES", "OWN DATA", "SNAPSHOTS", "AGE", "OWNER", "MOUNTED ON"];
    head.extend(limited.then_some("QUOTA"));
    table(&head, &rows)
}

fn parent(info: &BranchInfo) -> Option<&str> {
    info.from.as_deref().map(|from| from.split('@').next().unwrap_or(from))
}

fn row(info: &BranchInfo, mark: &str, now: u64) -> Vec<String> {
    let from = match (&info.from, &info.base) {
        (Some(from), _) => shown(from),
        (None, Some(base)) => shown(&base.display().to_string()),
        (None, None) => String::new(),
    };
    let age = now.saturating_sub(u64::try_from(info.created).unwrap_or(0));
    vec![
        format!("{mark}{}", shown(&info.name)),
        or_dash(from),
        or_dash(info.changes.map(|n| n.to_string()).unwrap_or_default()),
        or_dash(info.own_bytes.map(size).unwrap_or_default()),
        info.snapshots.len().to_string(),
        span(age),
        info.uid.to_string(),
        or_dash(places(info)),
    ]
}

#[cfg(test)]
mod tests;
