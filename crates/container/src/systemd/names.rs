//! `cgroupsPath` in systemd's form becomes a unit and a place in the tree: pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bus::Address;

/// A unit of systemd's that is a container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `killick-web.scope`; a slice ends in `.slice`.
    pub name: String,
    /// The slice that a scope is in.
    pub slice: String,
    #[serde(default, skip_serializing_if = "is_host")]
    pub(crate) address: Address,
}

fn is_host(address: &Address) -> bool {
    *address == Address::Host
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead")]
    Form(String),
    #[error("invalid slice name: {0:?}; it is like a-b.slice: no empty part, no slash, letters, digits and :_.\\ only")]
    Slice(String),
    #[error("cgroupsPath names the slice {unit:?} in {slice:?}, but by its name its place is in {place:?}")]
    Place { unit: String, slice: String, place: String },
    #[error("unit name {0:?} is too long: at most {UNIT_NAME_MAX} bytes")]
    Long(String),
}

/// systemd's `UNIT_NAME_MAX` without the final NUL.
pub const UNIT_NAME_MAX: usize = 255;
/// Where a container goes that says no slice.
pub const DEFAULT_SLICE: &str = "system.slice";
const DEFAULT_PREFIX: &str = "killick";

/// Whether a path is meant for systemd: three parts, the first a slice or empty, and no directory among them.
pub fn is_unit_form(path: &str) -> bool {
    let parts: Vec<&str> = path.split(':').collect();
    matches!(parts.as_slice(), [slice, _, name] if (slice.is_empty() || slice.ends_with(".slice")) && !name.is_empty())
        && !path.contains('/')
}

impl Unit {
    /// `slice:prefix:name` is `prefix-name.scope` in the slice; a name that ends in `.slice` is that slice itself. An
    /// empty slice is system.slice.
    pub fn parse(path: &str) -> Result<Unit, NameError> {
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts.as_slice() else { return Err(NameError::Form(path.to_owned())) };
        if name.is_empty() {
            return Err(NameError::Form(path.to_owned()));
        }
        let given = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        slice_parts(given)?;
        if !name.ends_with(".slice") {
            let name = format!("{}-{}.scope", escaped(prefix), escaped(name));
            return Unit { name, slice: given.to_owned(), address: Address::Host }.checked();
        }
        let parts = slice_parts(name)?;
        let place = parts.len().checked_sub(2).map_or("-.slice", |parent| parts[parent].as_str());
        if !slice.is_empty() && *slice != place {
            let (unit, slice) = ((*name).to_owned(), (*slice).to_owned());
            return Err(NameError::Place { unit, slice, place: place.to_owned() });
        }
        Unit { name: (*name).to_owned(), slice: place.to_owned(), address: Address::Host }.checked()
    }

    /// For a container that says nothing: its id in system.slice.
    pub fn of_container(id: &str) -> Result<Unit, NameError> {
        Unit::parse(&format!("{DEFAULT_SLICE}:{DEFAULT_PREFIX}:{id}"))
    }

    /// Another systemd than the host's: a test's.
    pub fn at(mut self, address: Address) -> Unit {
        self.address = address;
        self
    }

    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Where systemd has the unit's cgroup, from the root of the hierarchies.
    pub fn cgroup_path(&self) -> PathBuf {
        let slices = if self.is_slice() { &self.name } else { &self.slice };
        let mut path: PathBuf = slice_parts(slices).unwrap_or_default().iter().map(|part| directory(part)).collect();
        if !self.is_slice() {
            path.push(directory(&self.name));
        }
        path
    }

    fn checked(self) -> Result<Unit, NameError> {
        if self.name.len() > UNIT_NAME_MAX { Err(NameError::Long(self.name)) } else { Ok(self) }
    }
}

/// `a-b-c.slice` lies in `a-b.slice`, and that in `a.slice`: all three, from the outermost. None for `-.slice`, the
/// root.
fn slice_parts(slice: &str) -> Result<Vec<String>, NameError> {
    let invalid = || NameError::Slice(slice.to_owned());
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok(Vec::new());
    }
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-:_.\\@".contains(&byte));
    if !plain || name.split('-').any(str::is_empty) || slice.len() > UNIT_NAME_MAX {
        return Err(invalid());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

/// What a unit's name may not have is written as systemd-escape does; a dash stays, since a scope's name is no path.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-:_.\\".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// systemd's `cg_escape`: a directory must not look like one of the kernel's own files.
fn directory(unit: &str) -> String {
    const CONTROLLERS: [&str; 12] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
        "bpf-socket-bind",
    ];
    let stem = unit.rsplit_once('.').map_or("", |(stem, _)| stem);
    let looks_like_a_file = unit.starts_with(['_', '.'])
        || ["notify_on_release", "release_agent", "tasks"].contains(&unit)
        || unit.starts_with("cgroup.")
        || CONTROLLERS.contains(&stem);
    if looks_like_a_file { format!("_{unit}") } else { unit.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(&str, &str, &str), &str>) {
        let found = Unit::parse(path);
        let text = found.as_ref().map_err(ToString::to_string);
        match (text, expected) {
            (Ok(unit), Ok((name, slice, place))) => {
                let at = unit.cgroup_path().display().to_string();
                assert_eq!((unit.name.as_str(), unit.slice.as_str(), at.as_str()), (name, slice, place), "{path}");
            }
            (Err(text), Err(part)) => assert!(text.contains(part), "{path}: {text}"),
            (found, expected) => panic!("{path}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_path_names_a_scope_in_its_slices() {
        check("system.slice:docker:ab12", Ok(("docker-ab12.scope", "system.slice", "system.slice/docker-ab12.scope")));
        check(":k:a", Ok(("k-a.scope", "system.slice", "system.slice/k-a.scope")));
        check(
            "kubepods-burstable-pod1_2.slice:cri-containerd:c",
            Ok((
                "cri-containerd-c.scope",
                "kubepods-burstable-pod1_2.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-c.scope",
            )),
        );
        check("-.slice:k:a", Ok(("k-a.scope", "-.slice", "k-a.scope")));
        // As runc: an empty prefix is one.
        check("a.slice::n", Ok(("-n.scope", "a.slice", "a.slice/-n.scope")));
    }

    #[test]
    fn a_name_that_is_a_slice_is_that_slice() {
        check(":k:a-b.slice", Ok(("a-b.slice", "a.slice", "a.slice/a-b.slice")));
        check("a.slice:k:a-b.slice", Ok(("a-b.slice", "a.slice", "a.slice/a-b.slice")));
        check("-.slice:k:a.slice", Ok(("a.slice", "-.slice", "a.slice")));
        check("b.slice:k:a-b.slice", Err("its place is in \"a.slice\""));
    }

    #[test]
    fn names_are_escaped_as_systemd_does() {
        check("a.slice:k:x+y z", Ok(("k-x\\x2by\\x20z.scope", "a.slice", "a.slice/k-x\\x2by\\x20z.scope")));
        check("cpu.slice:k:x", Ok(("k-x.scope", "cpu.slice", "_cpu.slice/k-x.scope")));
        check("a.slice:_k:x", Ok(("_k-x.scope", "a.slice", "a.slice/__k-x.scope")));
        check("cgroup.x.slice:k:x", Ok(("k-x.scope", "cgroup.x.slice", "_cgroup.x.slice/k-x.scope")));
        check("a.slice:../..:x", Ok(("..\\x2f..-x.scope", "a.slice", "a.slice/_..\\x2f..-x.scope")));
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for path in ["", "/a/b", "a.slice:b", "a.slice:b:c:d", "a.slice:b:"] {
            check(path, Err("expected cgroupsPath to be of format \"slice:prefix:name\""));
        }
        for slice in ["a--b.slice", "a/b.slice", "-a.slice", "a-.slice", ".slice", "a", "a b.slice", "../a.slice"] {
            check(&format!("{slice}:k:x"), Err("invalid slice name"));
        }
        check("x:k:a--b.slice", Err("invalid slice name"));
        check(&format!("a.slice:k:{}", "x".repeat(300)), Err("too long"));
    }

    #[test]
    fn only_the_form_itself_chooses_systemd() {
        for (path, is) in [
            ("system.slice:k:a", true),
            (":k:a", true),
            (":k:a.slice", true),
            ("/system.slice:k:a", false),
            ("a:b:c", false),
            ("a.slice:b:c/d", false),
            ("a.slice:b", false),
            ("/a/b", false),
        ] {
            assert_eq!(is_unit_form(path), is, "{path}");
        }
    }
}
