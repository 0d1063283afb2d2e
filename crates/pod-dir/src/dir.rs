//! The pod's directory: one part under the run root that dies with the boot, one under the data root that outlives it,
//! and the pod's name, which is taken once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use killick_pod::spec::Pod;
use killick_pod::time::Wall;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::events::{self, EventLog, StoredEvent};
use crate::exits::{self, Exit};
use crate::file::{
    Durability, Error, check_unmounted, joined_name, make_directories, read_json, remove_tree, sync_directory,
    write_json,
};
use crate::lock;
use crate::roots::Roots;
use crate::status_file::StatusFile;

const VERSION: u32 = 1;
/// Leftovers younger than this are left alone.
const LEFTOVER_SECONDS_MIN: i64 = 60;
const STAGED_PREFIX: &str = "pod.json.staged-";

/// One pod's directory, by uid. Having one says nothing about what is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDir {
    roots: Roots,
    uid: String,
}

/// One pod that `list` found.
#[derive(Debug, Clone)]
pub struct Listed {
    pub dir: PodDir,
    pub pod: Pod,
}

/// While it lives nobody else starts this pod's keep.
#[derive(Debug)]
pub struct StartGuard(#[expect(dead_code, reason = "held, not read")] Flock<File>);

#[derive(Serialize)]
struct VersionedRef<'a, T> {
    version: u32,
    content: &'a T,
}

#[derive(Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

impl PodDir {
    /// `None` when `uid` is no uid (36 characters, hexadecimal and hyphens): nothing else ever becomes a path.
    pub fn at(roots: &Roots, uid: &str) -> Option<PodDir> {
        let is_uid = uid.len() == 36
            && uid.bytes().enumerate().all(|(place, byte)| match place {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        is_uid.then(|| PodDir { roots: roots.clone(), uid: uid.to_owned() })
    }

    /// The pod of a run directory's path (`…/pods/<uid>`), as the shim gets it.
    pub fn of_run_directory(roots: &Roots, path: &Path) -> Option<PodDir> {
        PodDir::at(roots, path.file_name()?.to_str()?)
    }

    /// Makes a new pod's directories, writes `pod.json`, takes the name. The name comes last: whoever sees it sees a
    /// whole pod; of two at once one wins. After an error nothing is left.
    pub fn create(roots: &Roots, pod: &Pod) -> Result<PodDir, Error> {
        let Some(dir) = PodDir::at(roots, &pod.metadata.uid) else {
            let why = format!("{:?} is no uid", pod.metadata.uid);
            return Err(Error::Content { path: roots.data_pods(), why });
        };
        let made = dir.make(pod);
        if made.is_err() {
            // The first error is the one to tell. What cannot be removed has no name, so every reader ignores it.
            let _ = remove_tree(&dir.run_dir());
            let _ = remove_tree(&dir.data_dir());
        }
        made.map(|()| dir)
    }

    fn make(&self, pod: &Pod) -> Result<(), Error> {
        make_directories(&self.run_dir(), 0o700)?;
        make_directories(&self.data_dir(), 0o700)?;
        self.write_pod(pod)?;
        sync_directory(&self.roots.data_pods())?;
        self.take_name(&pod.metadata.namespace, &pod.metadata.name)
    }

    /// Takes the pod's name (also for a pod that comes back after a reboot: `/run` was emptied).
    pub fn take_name(&self, kube_namespace: &str, name: &str) -> Result<(), Error> {
        let _guard = self.lock_names()?;
        self.take_name_locked(kube_namespace, name)
    }

    fn lock_names(&self) -> Result<Flock<File>, Error> {
        let names = self.roots.names();
        make_directories(&names, 0o700)?;
        lock_directory(&names)
    }

    fn take_name_locked(&self, kube_namespace: &str, name: &str) -> Result<(), Error> {
        let link = self.roots.names().join(joined_name(&[kube_namespace, name], ""));
        match symlink(&self.uid, &link) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("take the name", &link)(error)),
        }
        let holder = read_name(&self.roots, &link);
        match holder {
            Some(holder) if holder.uid == self.uid => return Ok(()),
            Some(holder) if holder.exists() && !holder.is_gone() => {
                return Err(Error::NameTaken {
                    namespace: kube_namespace.to_owned(),
                    name: name.to_owned(),
                    uid: holder.uid,
                });
            }
            // A name without a pod: its removal was cut short or is at its last steps (whoever removes gives back only a
            // name that is its own), or somebody else put something here.
            _ => {}
        }
        fs::remove_file(&link).map_err(Error::io("remove", &link))?;
        symlink(&self.uid, &link).map_err(Error::io("take the name", &link))
    }

    /// The pod that has this name now.
    pub fn find(roots: &Roots, kube_namespace: &str, name: &str) -> Option<PodDir> {
        let link = roots.names().join(joined_name(&[kube_namespace, name], ""));
        read_name(roots, &link).filter(PodDir::exists)
    }

    /// Every pod with a readable manifest that holds its name, or lost it with the last boot; sorted by namespace and
    /// name. What is half made, torn or not ours is passed over.
    pub fn list(roots: &Roots) -> Result<Vec<Listed>, Error> {
        let pods = roots.data_pods();
        let entries = match fs::read_dir(&pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &pods)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &pods))?;
            let Some(dir) = entry.file_name().to_str().and_then(|name| PodDir::at(roots, name)) else { continue };
            let Ok(pod) = dir.read_pod() else { continue };
            if dir.is_named_after(&pod) {
                found.push(Listed { dir, pod });
            }
        }
        let key = |listed: &Listed| (listed.pod.metadata.namespace.clone(), listed.pod.metadata.name.clone());
        found.sort_by_key(key);
        Ok(found)
    }

    /// Clears away what a crash left: pods half made or half removed, which nobody lists and nobody keeps. Young ones
    /// are spared (somebody may be at work), and so is everything that could still be a pod. Gives what went wrong.
    pub fn sweep(roots: &Roots, now: Wall) -> Vec<Error> {
        let mut errors = Vec::new();
        for dir in leftovers(roots, now) {
            let mut broken = false;
            dir.unmount_classic();
            for tree in [dir.data_dir(), dir.run_dir()] {
                if let Err(error) = remove_tree(&tree) {
                    broken = true;
                    errors.push(error);
                }
            }
            if !broken {
                errors.extend(dir.give_back_every_name().err());
            }
        }
        errors
    }

    fn is_leftover(&self, now: Wall) -> bool {
        let (run, data) = (self.run_dir(), self.data_dir());
        let age = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            fs::symlink_metadata(path).map(|facts| now.0 - facts.mtime()).unwrap_or(i64::MAX)
        };
        let is_young = age(&run).min(age(&data)) < LEFTOVER_SECONDS_MIN;
        if is_young || self.is_kept().unwrap_or(true) {
            return false;
        }
        if self.is_gone() {
            return true;
        }
        // Accepted in full, but it never got its name and no shim ever spoke for it.
        let named = self.read_pod().is_ok_and(|pod| self.is_named_after(&pod));
        run.is_dir() && !named && self.read_pod().is_ok() && !self.status_path().exists()
    }

    fn give_back_every_name(&self) -> Result<(), Error> {
        let names = self.roots.names();
        let Ok(entries) = fs::read_dir(&names) else { return Ok(()) };
        let _guard = lock_directory(&names)?;
        for entry in entries.flatten() {
            if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&self.uid)) {
                fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn is_named_after(&self, pod: &Pod) -> bool {
        let names = self.roots.names();
        let link = names.join(joined_name(&[&pod.metadata.namespace, &pod.metadata.name], ""));
        match read_name(&self.roots, &link) {
            Some(holder) => holder.uid == self.uid,
            // Without a run directory either, it is a pod of the boot before; with one, it is half made.
            None => !self.run_dir().exists(),
        }
    }

    pub fn uid(&self) -> &str {
        &self.uid
    }

    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    pub fn exists(&self) -> bool {
        self.run_dir().is_dir() || self.data_dir().is_dir()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.roots.run_pods().join(&self.uid)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.roots.data_pods().join(&self.uid)
    }

    pub fn volumes_dir(&self) -> PathBuf {
        self.data_dir().join("volumes")
    }

    pub fn container_dir(&self, container: &str, attempt: u32) -> PathBuf {
        self.data_dir().join("containers").join(container).join(attempt.to_string())
    }

    /// `<ns>_<name>_<uid>` below the log root.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.roots.logs.join(joined_name(&[&pod.metadata.namespace, &pod.metadata.name, &self.uid], ""))
    }

    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    pub fn lock_path(&self) -> PathBuf {
        self.run_dir().join("lock")
    }

    pub fn exits_path(&self) -> PathBuf {
        self.run_dir().join("exits")
    }

    pub fn shim_log(&self) -> PathBuf {
        self.run_dir().join("shim.log")
    }

    pub fn status_path(&self) -> PathBuf {
        self.run_dir().join("status.json")
    }

    pub fn state_path(&self) -> PathBuf {
        self.run_dir().join("state.json")
    }

    pub fn pod_path(&self) -> PathBuf {
        self.data_dir().join("pod.json")
    }

    pub fn events_path(&self) -> PathBuf {
        self.data_dir().join("events")
    }

    /// The probe record ([`crate::record`]).
    pub fn record_path(&self) -> PathBuf {
        self.data_dir().join("record")
    }

    fn deleting_path(&self) -> PathBuf {
        self.data_dir().join("deleting")
    }

    /// The manifest as accepted. It must be this pod's: a directory that was copied or renamed by hand is refused.
    pub fn read_pod(&self) -> Result<Pod, Error> {
        let path = self.pod_path();
        let pod: Pod = read_versioned(&path)?;
        if pod.metadata.uid != self.uid {
            let why = format!("holds the pod with uid {:?}", pod.metadata.uid);
            return Err(Error::Content { path, why });
        }
        Ok(pod)
    }

    /// Waits for the disk. Before the shim has the lock by the CLI, afterwards only by the shim (in a worker).
    pub fn write_pod(&self, pod: &Pod) -> Result<(), Error> {
        let content = VersionedRef { version: VERSION, content: pod };
        write_json(&self.pod_path(), &content, 0o600, Durability::Durable)
    }

    /// Puts a changed manifest beside `pod.json`; the name goes into `Request::UpdatePod`.
    pub fn stage_pod(&self, pod: &Pod) -> Result<String, Error> {
        let name = format!("{STAGED_PREFIX}{}", std::process::id());
        let content = VersionedRef { version: VERSION, content: pod };
        write_json(&self.data_dir().join(&name), &content, 0o600, Durability::Durable)?;
        Ok(name)
    }

    /// The staged manifest of an `UpdatePod`; the shim compares it, and then calls `accept_staged` or `drop_staged`.
    pub fn read_staged(&self, name: &str) -> Result<Pod, Error> {
        read_versioned(&self.staged_path(name)?)
    }

    /// The staged manifest becomes `pod.json`. It is on the disk already: nothing is waited for.
    pub fn accept_staged(&self, name: &str) -> Result<(), Error> {
        fs::rename(self.staged_path(name)?, self.pod_path()).map_err(Error::io("rename to", &self.pod_path()))
    }

    pub fn drop_staged(&self, name: &str) -> Result<(), Error> {
        let path = self.staged_path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn staged_path(&self, name: &str) -> Result<PathBuf, Error> {
        let digits = name.strip_prefix(STAGED_PREFIX).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let why = format!("{name:?} is no staged manifest");
            return Err(Error::Content { path: self.data_dir(), why });
        }
        Ok(self.data_dir().join(name))
    }

    /// What the shim last said; before its first word (or after a reboot) a pod that is pending.
    pub fn read_status(&self) -> Result<StatusFile, Error> {
        match read_json(&self.status_path()) {
            Err(error) if error.is_not_found() => Ok(StatusFile::default()),
            other => other,
        }
    }

    pub fn write_status(&self, status: &StatusFile) -> Result<(), Error> {
        write_json(&self.status_path(), status, 0o600, Durability::Volatile)
    }

    /// The shim's own notes for a take-over; `None` when there are none.
    pub fn read_state<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        match read_versioned(&self.state_path()) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write_state<T: Serialize>(&self, state: &T) -> Result<(), Error> {
        let content = VersionedRef { version: VERSION, content: state };
        write_json(&self.state_path(), &content, 0o600, Durability::Volatile)
    }

    pub fn exits(&self) -> Result<Vec<Exit>, Error> {
        exits::read(&self.exits_path())
    }

    /// Opens the events for appending; `host` is the node's name.
    pub fn event_log(&self, pod_name: &str, host: &str) -> EventLog {
        EventLog::open(self.events_path(), pod_name, host)
    }

    /// The events as people see them: the last word on each, none older than an hour, oldest first.
    pub fn read_events(&self, now: Wall) -> Result<Vec<StoredEvent>, Error> {
        events::read(&self.events_path(), now)
    }

    /// Whether keep lives. While it starts, its starter waits for it; so "no" means that the pod wants reviving.
    pub fn is_kept(&self) -> Result<bool, Error> {
        lock::is_held(&self.lock_path()).map_err(Error::io("ask for the lock of", &self.lock_path()))
    }

    /// Remembers beyond a crash or a reboot that the pod is being deleted: it must not come back to life.
    pub fn mark_deleting(&self) -> Result<(), Error> {
        let path = self.deleting_path();
        File::create(&path).map(drop).map_err(Error::io("create", &path))
    }

    pub fn is_marked_deleting(&self) -> bool {
        self.deleting_path().exists()
    }

    /// Makes the run directory again and takes the name again: what a reboot took. False when the pod has been removed
    /// meanwhile: nothing of it is made then. (The remover takes `pod.json` away first, under the same lock.)
    pub fn restore_run_dir(&self, pod: &Pod) -> Result<bool, Error> {
        let _guard = self.lock_names()?;
        if self.is_gone() {
            return Ok(false);
        }
        make_directories(&self.run_dir(), 0o700)?;
        self.take_name_locked(&pod.metadata.namespace, &pod.metadata.name)?;
        Ok(true)
    }

    /// Whether the manifest is no longer there: the pod is removed, or on its last way.
    pub fn is_gone(&self) -> bool {
        fs::symlink_metadata(self.pod_path()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// For whoever is going to start keep; `None` while somebody else is at it. Two commands at once would otherwise
    /// both find the lock free.
    pub fn begin_start(&self) -> Result<Option<StartGuard>, Error> {
        let path = self.run_dir();
        let directory = File::open(&path).map_err(Error::io("open", &path))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(StartGuard(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(Error::io("lock", &path)(errno.into())),
        }
    }

    /// The last undo: manifest, logs, data, run directory, and then the name. Goes on after an error and returns them
    /// all; while something is still mounted below nothing is touched.
    pub fn remove(&self, pod: &Pod) -> Vec<Error> {
        let trees = [self.log_dir(pod), self.data_dir(), self.run_dir()];
        self.unmount_classic();
        let mut errors: Vec<Error> = trees.iter().filter_map(|tree| check_unmounted(tree).err()).collect();
        if errors.is_empty() {
            errors.extend(self.remove_manifest().err());
        }
        if !errors.is_empty() {
            return errors;
        }
        for tree in trees {
            errors.extend(remove_tree(&tree).err());
        }
        // What is left keeps its name, so that the next try (or the sweep) finds it.
        if errors.is_empty() {
            errors.extend(self.give_name_back(&pod.metadata.namespace, &pod.metadata.name).err());
        }
        errors
    }

    /// On kernels without detached mounts a sandbox has these two in the host's mount namespace; when the note of it was
    /// lost they are still there. (`container::sandbox` makes them.)
    fn unmount_classic(&self) {
        for name in ["shm", "proc"] {
            let _ = killick_sys::mount::unmount_detach(&self.run_dir().join(name));
        }
    }

    /// From here on nobody revives the pod.
    fn remove_manifest(&self) -> Result<(), Error> {
        let _guard = self.lock_names()?;
        match fs::remove_file(self.pod_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.pod_path())(error)),
            _ => Ok(()),
        }
    }

    fn give_name_back(&self, kube_namespace: &str, name: &str) -> Result<(), Error> {
        let names = self.roots.names();
        if !names.exists() {
            return Ok(());
        }
        let _guard = lock_directory(&names)?;
        let link = names.join(joined_name(&[kube_namespace, name], ""));
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(&self.uid)) {
            fs::remove_file(&link).map_err(Error::io("remove", &link))?;
        }
        Ok(())
    }
}

fn leftovers(roots: &Roots, now: Wall) -> Vec<PodDir> {
    let mut found: Vec<PodDir> = Vec::new();
    for place in [roots.data_pods(), roots.run_pods()] {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let dir = entry.file_name().to_str().and_then(|name| PodDir::at(roots, name));
            found.extend(dir.filter(|dir| dir.is_leftover(now) && !found.contains(dir)));
        }
    }
    found
}

fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let versioned: Versioned<T> = read_json(path)?;
    if versioned.version != VERSION {
        let why = format!("version {} of its format; this is for version {VERSION}", versioned.version);
        return Err(Error::Content { path: path.to_owned(), why });
    }
    Ok(versioned.content)
}

fn read_name(roots: &Roots, link: &Path) -> Option<PodDir> {
    PodDir::at(roots, fs::read_link(link).ok()?.to_str()?)
}

/// The names' directory for oneself: taking a name over and giving it back are two steps each.
fn lock_directory(path: &Path) -> Result<Flock<File>, Error> {
    let directory = File::open(path).map_err(Error::io("open", path))?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| Error::io("lock", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0d7ac1f2-5f0e-4a53-8f3b-3a1f2b3c4d5e";
    const OTHER: &str = "1d7ac1f2-5f0e-4a53-8f3b-3a1f2b3c4d5e";

    fn pod(uid: &str, name: &str) -> Pod {
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": "2024-01-02T03:04:05Z"},
            "spec": {"containers": [], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                     "dnsPolicy": "ClusterFirst"},
        });
        serde_json::from_value(text).unwrap()
    }

    fn roots(scratch: &tempfile::TempDir) -> Roots {
        let at = |name: &str| scratch.path().join(name);
        Roots { run: at("run"), root: at("root"), logs: at("logs") }
    }

    fn names(roots: &Roots) -> Vec<String> {
        PodDir::list(roots).unwrap().into_iter().map(|listed| listed.pod.metadata.name).collect()
    }

    #[test]
    fn a_name_is_taken_once_and_the_loser_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let first = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        let second = PodDir::create(&roots, &pod(OTHER, "web"));
        assert!(matches!(second, Err(Error::NameTaken { uid, .. }) if uid == UID));
        assert!(!PodDir::at(&roots, OTHER).unwrap().exists());
        assert_eq!(PodDir::find(&roots, "default", "web"), Some(first.clone()));
        assert_eq!(PodDir::find(&roots, "other", "web"), None);
        assert_eq!(first.remove(&pod(UID, "web")).len(), 0);
        assert_eq!(PodDir::find(&roots, "default", "web"), None);
        PodDir::create(&roots, &pod(OTHER, "web")).unwrap();
    }

    #[test]
    fn a_pod_that_is_not_to_be_found_any_more_holds_no_name() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let first = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        // In the midst of its removal: the manifest is gone, the rest and the name are not.
        fs::remove_dir_all(first.data_dir()).unwrap();
        let second = PodDir::create(&roots, &pod(OTHER, "web")).unwrap();
        assert_eq!(first.remove(&pod(UID, "web")).len(), 0);
        assert_eq!(PodDir::find(&roots, "default", "web"), Some(second));
    }

    #[test]
    fn half_made_and_hostile_leftovers_are_passed_over() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        assert_eq!(names(&roots), Vec::<String>::new());
        PodDir::create(&roots, &pod(UID, "web")).unwrap();
        let pods = roots.data_pods();
        // Half made: no name. Named by hand: not a uid. Copied: another pod's manifest. Torn, a link, a file.
        let half = PodDir::at(&roots, OTHER).unwrap();
        make_directories(&half.run_dir(), 0o700).unwrap();
        make_directories(&half.data_dir(), 0o700).unwrap();
        half.write_pod(&pod(OTHER, "half")).unwrap();
        fs::create_dir(pods.join("..x")).unwrap();
        let copied = pods.join(UID.replace('0', "2"));
        fs::create_dir(&copied).unwrap();
        fs::copy(half.pod_path(), copied.join("pod.json")).unwrap();
        symlink("/etc", pods.join(UID.replace('0', "3"))).unwrap();
        fs::write(pods.join(UID.replace('0', "4")), "x").unwrap();
        let torn = pods.join(UID.replace('0', "5"));
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join("pod.json"), "{\"version\":1,").unwrap();
        symlink("../../etc", roots.names().join("default_evil")).unwrap();
        assert_eq!(names(&roots), ["web"]);
        assert_eq!(PodDir::find(&roots, "default", "evil"), None);
        // A name whose pod is gone is free.
        let third = UID.replace('0', "6");
        symlink(UID.replace('0', "7"), roots.names().join("default_left")).unwrap();
        PodDir::create(&roots, &pod(&third, "left")).unwrap();
        assert_eq!(names(&roots), ["left", "web"]);
    }

    #[test]
    fn after_a_reboot_a_pod_is_listed_and_can_take_its_name_again() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let dir = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        fs::remove_dir_all(&roots.run).unwrap();
        assert_eq!(names(&roots), ["web"]);
        dir.take_name("default", "web").unwrap();
        dir.take_name("default", "web").unwrap();
        assert_eq!(PodDir::find(&roots, "default", "web"), Some(dir));
    }

    #[test]
    fn a_pod_that_is_removed_while_somebody_revives_it_stays_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let dir = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        let seen = PodDir::list(&roots).unwrap().remove(0);
        assert_eq!(dir.remove(&seen.pod).len(), 0);
        assert!(!seen.dir.restore_run_dir(&seen.pod).unwrap());
        assert!(seen.dir.begin_start().is_err_and(|error| error.is_not_found()));
        assert!(seen.dir.is_gone() && !dir.exists());
        assert_eq!(fs::read_dir(roots.names()).unwrap().count(), 0);
        // A pod of the boot before is restored.
        let dir = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        fs::remove_dir_all(&roots.run).unwrap();
        assert!(dir.restore_run_dir(&pod(UID, "web")).unwrap());
        assert_eq!(PodDir::find(&roots, "default", "web"), Some(dir));
    }

    #[test]
    fn leftovers_of_a_crash_are_swept_and_pods_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let whole = PodDir::create(&roots, &pod(UID, "whole")).unwrap();
        let uid = |digit: &str| UID.replace('0', digit);
        // Half made: everything but the name.
        let half = PodDir::at(&roots, &uid("1")).unwrap();
        make_directories(&half.run_dir(), 0o700).unwrap();
        make_directories(&half.data_dir(), 0o700).unwrap();
        half.write_pod(&pod(&uid("1"), "half")).unwrap();
        // Half removed: the name and the run directory are still there.
        let removed = PodDir::create(&roots, &pod(&uid("2"), "removed")).unwrap();
        fs::remove_dir_all(removed.data_dir()).unwrap();
        // Another version's manifest, and one of the boot before.
        let other = PodDir::create(&roots, &pod(&uid("3"), "other")).unwrap();
        fs::write(other.pod_path(), "{\"version\":9}").unwrap();
        let before = PodDir::create(&roots, &pod(&uid("4"), "before")).unwrap();
        fs::remove_dir_all(before.run_dir()).unwrap();
        fs::remove_file(roots.names().join("default_before")).unwrap();
        // Half removed too, but its keep lives.
        let kept = PodDir::create(&roots, &pod(&uid("5"), "kept")).unwrap();
        fs::remove_dir_all(kept.data_dir()).unwrap();
        let lock_file = File::create(kept.lock_path()).unwrap();
        lock::take(&lock_file).unwrap();

        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert_eq!(PodDir::sweep(&roots, Wall(now)).len(), 0);
        assert!(half.exists() && removed.exists(), "young ones are spared");
        assert_eq!(PodDir::sweep(&roots, Wall(now + 100)).len(), 0);
        assert!(!half.exists() && !removed.exists());
        assert!(whole.exists() && other.exists() && before.exists() && kept.exists());
        assert_eq!(names(&roots), ["before", "whole"]);
        PodDir::create(&roots, &pod(&uid("6"), "removed")).unwrap();
    }

    #[test]
    fn of_many_who_take_one_name_at_once_one_wins() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let winners = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|number| {
                    let roots = &roots;
                    let uid = UID.replace('a', &number.to_string());
                    scope.spawn(move || PodDir::create(roots, &pod(&uid, "web")).is_ok())
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
        assert_eq!(fs::read_dir(roots.data_pods()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(roots.run_pods()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_staged_manifest_of_our_own_naming_is_accepted() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = roots(&scratch);
        let dir = PodDir::create(&roots, &pod(UID, "web")).unwrap();
        let mut changed = pod(UID, "web");
        changed.metadata.labels.insert("a".into(), "b".into());
        let staged = dir.stage_pod(&changed).unwrap();
        assert_eq!(dir.read_staged(&staged).unwrap(), changed);
        dir.accept_staged(&staged).unwrap();
        assert_eq!(dir.read_pod().unwrap(), changed);
        for bad in ["../../x", "pod.json", "pod.json.staged-", "pod.json.staged-1/.."] {
            assert!(dir.read_staged(bad).is_err() && dir.drop_staged(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_version_of_the_format_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PodDir::create(&roots(&scratch), &pod(UID, "web")).unwrap();
        fs::write(dir.state_path(), "{\"version\":2,\"content\":7}").unwrap();
        let error = dir.read_state::<u32>().unwrap_err().to_string();
        assert!(error.ends_with("state.json: version 2 of its format; this is for version 1"), "{error}");
        dir.write_state(&7u32).unwrap();
        assert_eq!(dir.read_state::<u32>().unwrap(), Some(7));
    }
}
