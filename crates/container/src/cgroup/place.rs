//! Where one more process of a container goes: its cgroup, one below it that the caller names, or where its first
//! process is now.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use killick_sys::cgroup::{self as files, Attach};

use super::{Cgroup, CgroupError};

/// `[controller[,controller]:]path`: below the container's own cgroup, in all hierarchies or in some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Empty: all.
    controllers: Vec<String>,
    path: PathBuf,
}

impl Below {
    /// As runc reads its `--cgroup`; without a controller there is only one.
    pub fn parse(all: &[String]) -> Result<Vec<Below>, String> {
        let one = |text: &String| match text.split_once(':') {
            Some((_, path)) if path.contains(':') => Err(format!("invalid --cgroup argument: {text}")),
            None if all.len() > 1 => Err(format!("invalid --cgroup argument: {text} (missing <controller>: prefix)")),
            None => Ok(Below { controllers: Vec::new(), path: clean(text)? }),
            Some((controllers, path)) => {
                Ok(Below { controllers: controllers.split(',').map(str::to_owned).collect(), path: clean(path)? })
            }
        };
        all.iter().map(one).collect()
    }
}

/// Relative, and never leading out of the container's own.
fn clean(text: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::ParentDir => return Err(format!("{text} is not a sub cgroup path")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

impl Cgroup {
    /// What an exec's child enters. `first` is the container's first process: on v2 it may have delegated and moved
    /// away, and then the container's own cgroup takes no process any more (EBUSY).
    pub fn attach_exec(&self, first: libc::pid_t, below: &[Below]) -> Result<Attach, String> {
        if below.is_empty() {
            return self.place_of(first).and_then(|place| place.attach()).map_err(|error| error.to_string());
        }
        for controller in below.iter().flat_map(|one| &one.controllers) {
            if self.layout.v1_hierarchy(controller).is_none() {
                return Err(format!("unknown controller {controller} in SubCgroupPaths"));
            }
        }
        self.attach_below(below).map_err(|error| error.to_string())
    }

    fn place_of(&self, first: libc::pid_t) -> Result<Cgroup, CgroupError> {
        if !self.layout.is_v2() {
            return Ok(self.clone());
        }
        let text = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap_or_default();
        let now = text.lines().find_map(|line| line.strip_prefix("0::/"));
        match now.filter(|now| Path::new(now) != self.path && Path::new(now).starts_with(&self.path)) {
            Some(now) => Cgroup::open(&self.layout, now),
            None => Ok(self.clone()),
        }
    }

    fn attach_below(&self, below: &[Below]) -> Result<Attach, CgroupError> {
        let mut attach = Attach::default();
        for hierarchy in &self.layout.v1 {
            let named = |one: &&Below| {
                one.controllers.is_empty() || one.controllers.iter().any(|controller| hierarchy.has(controller))
            };
            let path = below.iter().find(named).map_or_else(PathBuf::new, |one| one.path.clone());
            let dir = hierarchy.mount_point.join(&self.path).join(path);
            attach.tasks.push(Arc::new(files::open_write(&dir.join("tasks"))?));
        }
        if let Some(own) = self.unified_dir().filter(|_| self.unified) {
            let everywhere = below.iter().find(|one| one.controllers.is_empty() && self.layout.is_v2());
            let dir = everywhere.map_or(own.clone(), |one| own.join(&one.path));
            attach.dir = Some(files::open_dir(&dir)?);
            attach.procs = Some(files::open_write(&dir.join("cgroup.procs"))?);
        }
        Ok(attach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], expected: Result<&[(&[&str], &str)], &str>) {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let expected = expected.map(|all| {
            let one = |(controllers, path): &(&[&str], &str)| Below {
                controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
                path: path.into(),
            };
            all.iter().map(one).collect::<Vec<_>>()
        });
        assert_eq!(Below::parse(&arguments), expected.map_err(str::to_owned), "{arguments:?}");
    }

    #[test]
    fn a_place_is_below_the_containers_own() {
        check(&[], Ok(&[]));
        check(&["/"], Ok(&[(&[], "")]));
        check(&["a/../b"], Ok(&[(&[], "b")]));
        check(&["cpu,cpuacct:a", "memory:/b"], Ok(&[(&["cpu", "cpuacct"], "a"), (&["memory"], "b")]));
        check(&[".."], Err(".. is not a sub cgroup path"));
        check(&["cpu:a/../../b"], Err("a/../../b is not a sub cgroup path"));
        check(&["cpu:a:b"], Err("invalid --cgroup argument: cpu:a:b"));
        check(&["a", "b"], Err("invalid --cgroup argument: a (missing <controller>: prefix)"));
    }
}
