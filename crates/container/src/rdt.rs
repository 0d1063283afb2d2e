//! `linux.intelRdt`: a group of the resctrl file system for the container, with its shares of cache and bandwidth.
//!
//! What is done is a list of operations, made from the configuration and what exists, so that it can be tested where no
//! processor has the feature. A host without resctrl refuses the field.

use oci_spec::runtime::{LinuxIntelRdt, Spec};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A container's place in resctrl, and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdt {
    group: PathBuf,
    /// Made for this container alone: it goes with it.
    own: bool,
    monitor: Option<PathBuf>,
}

/// Removed when dropped, unless it was taken out.
#[derive(Debug)]
pub(crate) struct Held(pub(crate) Option<Rdt>);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.take().map(|rdt| rdt.remove());
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Make(PathBuf),
    /// One line into a file that is there.
    Write(PathBuf, String),
    /// A group of others has these shares already, or it is an error.
    Expect(PathBuf, String),
}

/// Where the resctrl file system is mounted.
pub fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next() == Some("resctrl")).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The container's group, made and filled; None where the configuration wants none.
pub(crate) fn create(spec: &Spec, id: &str) -> Result<Option<Rdt>, String> {
    let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(None) };
    let root = mounted().ok_or("linux.intelRdt: this host has no resctrl file system")?;
    create_in(&root, wanted, id).map(Some)
}

fn create_in(root: &Path, wanted: &LinuxIntelRdt, id: &str) -> Result<Rdt, String> {
    let (rdt, ops) = plan(root, wanted, id)?;
    let mut made: Vec<PathBuf> = Vec::new();
    for op in &ops {
        if let Err(why) = perform(op, &mut made) {
            made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            return Err(format!("linux.intelRdt: {why}"));
        }
    }
    Ok(rdt)
}

fn plan(root: &Path, wanted: &LinuxIntelRdt, id: &str) -> Result<(Rdt, Vec<Op>), String> {
    let clos = wanted.clos_id().as_deref().unwrap_or_default();
    let group = match clos {
        "" => root.join(id),
        "/" => root.to_owned(),
        "." | ".." => return Err(format!("linux.intelRdt: invalid intelRdt.ClosID {clos:?}")),
        name if name.contains('/') => return Err(format!("linux.intelRdt: invalid intelRdt.ClosID {name:?}")),
        name => root.join(name),
    };
    let lines = lines(wanted);
    let (own, exists) = (clos.is_empty(), group.is_dir());
    let mut ops = Vec::new();
    match (own, exists) {
        (true, _) => ops.push(Op::Make(group.clone())),
        (false, false) if lines.is_empty() => {
            return Err(format!("linux.intelRdt.closID {clos:?}: no such group, and no schema to make one with"));
        }
        (false, false) => ops.push(Op::Make(group.clone())),
        (false, true) => {}
    }
    let schemata = group.join("schemata");
    let is_anothers = !own && exists;
    ops.extend(lines.into_iter().map(|line| match is_anothers {
        true => Op::Expect(schemata.clone(), line),
        false => Op::Write(schemata.clone(), line),
    }));
    let monitor = wanted.enable_monitoring().unwrap_or(false).then(|| group.join("mon_groups").join(id));
    ops.extend(monitor.clone().map(Op::Make));
    Ok((Rdt { group, own, monitor }, ops))
}

/// In the order of the specification: cache, bandwidth, then the lines as they are, which win.
fn lines(wanted: &LinuxIntelRdt) -> Vec<String> {
    let bandwidth = wanted.mem_bw_schema().as_deref().unwrap_or_default();
    let cache = wanted.l3_cache_schema().as_deref().unwrap_or_default().lines().map(str::trim);
    // A bandwidth among the cache's lines gives way to the one that is given by itself.
    let cache = cache.filter(|line| bandwidth.is_empty() || !line.starts_with("MB:"));
    let whole = wanted.schemata().iter().flatten().map(String::as_str);
    let all = cache.chain(bandwidth.lines().map(str::trim)).chain(whole);
    all.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn perform(op: &Op, made: &mut Vec<PathBuf>) -> Result<(), String> {
    match op {
        Op::Make(dir) => {
            fs::create_dir(dir).map_err(|error| format!("mkdir({}): {error}", dir.display()))?;
            made.push(dir.clone());
            Ok(())
        }
        Op::Write(file, line) => write_line(file, line),
        Op::Expect(file, line) => {
            let text = fs::read_to_string(file).map_err(|error| format!("read({}): {error}", file.display()))?;
            let has = text.lines().any(|now| contains(now, line));
            if has { Ok(()) } else { Err(format!("{}: has not {line:?} but {:?}", file.display(), text.trim())) }
        }
    }
}

fn write_line(file: &Path, line: &str) -> Result<(), String> {
    let opened = OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(format!("{line}\n").as_bytes()));
    written.map_err(|error| format!("write({}, {line:?}): {error}", file.display()))
}

/// Whether a line of a schemata file says all that `wanted` says: `L3:0=ff` of `L3:0=000ff;1=000ff`.
fn contains(now: &str, wanted: &str) -> bool {
    let split = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, domains) = line.trim().split_once(':')?;
        let domain = |text: &str| {
            let (domain, share) = text.trim().split_once('=')?;
            let share = share.trim().trim_start_matches('0').to_lowercase();
            Some((domain.trim().to_owned(), share))
        };
        Some((resource.trim().to_owned(), domains.split(';').filter_map(domain).collect()))
    };
    match (split(now), split(wanted)) {
        (Some((resource, now)), Some((other, wanted))) => {
            resource == other && wanted.iter().all(|share| now.contains(share))
        }
        _ => false,
    }
}

impl Rdt {
    /// Files to which a process that joins writes itself.
    pub(crate) fn tasks(&self) -> Result<Vec<OwnedFd>, String> {
        let open = |dir: &PathBuf| {
            let file = dir.join("tasks");
            let opened: Result<File, _> = OpenOptions::new().write(true).open(&file);
            opened.map(OwnedFd::from).map_err(|error| format!("linux.intelRdt: open({}): {error}", file.display()))
        };
        std::iter::once(&self.group).chain(&self.monitor).map(open).collect()
    }

    /// Other shares (`update`), for a group of the container's own.
    pub fn change(&self, l3_cache_schema: Option<&str>, mem_bw_schema: Option<&str>) -> Result<(), String> {
        let schemata = self.group.join("schemata");
        let lines = [l3_cache_schema, mem_bw_schema].into_iter().flatten().flat_map(str::lines);
        lines.filter(|line| !line.trim().is_empty()).try_for_each(|line| write_line(&schemata, line.trim()))
    }

    /// What was made for the container alone; a group of others stays, but not the monitor in it.
    pub fn remove(&self) -> Result<(), String> {
        let own = self.own.then_some(&self.group);
        let mut left = Vec::new();
        for dir in self.monitor.iter().chain(own) {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    left.push(format!("rmdir({}): {error}", dir.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wanted(json: Value) -> LinuxIntelRdt {
        serde_json::from_value(json).unwrap()
    }

    fn planned(root: &Path, json: Value) -> Result<Vec<String>, String> {
        let short = |path: &Path| format!("/{}", path.strip_prefix(root).unwrap().display());
        let (_, ops) = plan(root, &wanted(json), "web")?;
        let show = |op: &Op| match op {
            Op::Make(dir) => format!("mkdir {}", short(dir)),
            Op::Write(file, line) => format!("{} < {line}", short(file)),
            Op::Expect(file, line) => format!("{} has {line}", short(file)),
        };
        Ok(ops.iter().map(show).collect())
    }

    #[test]
    fn groups_are_made_used_or_refused_by_what_the_configuration_names() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("gold")).unwrap();
        let check = |json: Value, expected: &[&str]| assert_eq!(planned(root.path(), json).unwrap(), expected);
        check(json!({}), &["mkdir /web"]);
        check(
            json!({"l3CacheSchema": "L3:0=f;1=f\nMB:0=10", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"]}),
            &["mkdir /web", "/web/schemata < L3:0=f;1=f", "/web/schemata < MB:0=20", "/web/schemata < L2:0=3"],
        );
        check(json!({"closID": "gold"}), &[]);
        check(json!({"closID": "/", "enableMonitoring": true}), &["mkdir /mon_groups/web"]);
        check(json!({"closID": "gold", "memBwSchema": "MB:0=20"}), &["/gold/schemata has MB:0=20"]);
        check(json!({"closID": "new", "schemata": ["MB:0=20"]}), &["mkdir /new", "/new/schemata < MB:0=20"]);
        for (json, words) in [
            (json!({"closID": "new"}), "closID \"new\": no such group"),
            (json!({"closID": ".."}), "invalid intelRdt.ClosID \"..\""),
            (json!({"closID": "a/b"}), "invalid intelRdt.ClosID \"a/b\""),
        ] {
            let error = planned(root.path(), json).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_group_of_others_must_have_the_shares_already_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let gold = root.path().join("gold");
        fs::create_dir_all(gold.join("mon_groups")).unwrap();
        fs::write(gold.join("schemata"), "    MB:0= 20;1=100\n    L3:0=000ff;1=000ff\n").unwrap();
        fs::write(gold.join("tasks"), "").unwrap();
        let json =
            json!({"closID": "gold", "l3CacheSchema": "L3:1=ff", "memBwSchema": "MB:0=20", "enableMonitoring": true});
        let rdt = create_in(root.path(), &wanted(json), "web").unwrap();
        assert!(gold.join("mon_groups/web").is_dir());
        rdt.change(None, Some("MB:0=30")).unwrap();
        assert!(fs::read_to_string(gold.join("schemata")).unwrap().starts_with("MB:0=30\n"));
        rdt.remove().unwrap();
        assert!(gold.is_dir() && !gold.join("mon_groups/web").exists());
        let error =
            create_in(root.path(), &wanted(json!({"closID": "gold", "schemata": ["L3:0=1"]})), "web").unwrap_err();
        assert!(error.contains("has not \"L3:0=1\""), "{error}");
    }

    #[test]
    fn what_was_begun_is_taken_back() {
        let root = tempfile::tempdir().unwrap();
        // This directory has no schemata file, as no file system of this kind would be.
        let error = create_in(root.path(), &wanted(json!({"schemata": ["L3:0=1"]})), "web").unwrap_err();
        assert!(error.starts_with("linux.intelRdt: write("), "{error}");
        assert!(!root.path().join("web").exists());
    }
}
