//! Volumes against the real kernel: what is made, what is mounted, what a hostile container cannot do. Needs root.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands, and fail where they stand")]

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use killick_pod::spec::{DataKind, DataObject, MountPropagation, Pod};
use killick_volume::{
    BindMount, Dirs, Kind, Prepared, RecursiveReadOnly, Surroundings, mounts, pod_files, prepare, teardown,
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, umask};
use serde_json::{Value, json};

struct Place {
    dir: tempfile::TempDir,
    objects: Vec<DataObject>,
    seconds: u64,
}

impl Place {
    fn new() -> Place {
        // The strictest umask: nothing may depend on it.
        umask(Mode::from_bits_truncate(0o077));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pod")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        Place { dir, objects: Vec::new(), seconds: 1_704_207_845 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dirs(&self) -> Dirs {
        Dirs { pod: self.path("pod") }
    }

    fn prepare(&self, pod: &Pod) -> Result<Vec<Prepared>, String> {
        let objects = |kind: DataKind, namespace: &str, name: &str| {
            self.objects.iter().find(|o| o.kind == kind && o.namespace == namespace && o.name == name).cloned()
        };
        let around = Surroundings {
            dirs: &self.dirs(),
            objects: &objects,
            node_memory_bytes: 1 << 30,
            now: SystemTime::UNIX_EPOCH + Duration::new(self.seconds, 123),
        };
        pod.spec.volumes.iter().map(|volume| prepare(pod, volume, &around)).collect()
    }

    fn object(&mut self, kind: DataKind, name: &str, data: &[(&str, &[u8])]) {
        self.objects.retain(|known| known.name != name);
        self.objects.push(DataObject {
            kind,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            data: data.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect(),
            ..DataObject::default()
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        assert_eq!(teardown(&self.dirs()), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts are left");
        assert!(!self.path("pod/volumes").exists());
    }
}

/// A pod of one container, with what is given in YAML's flow style: `{name: d, emptyDir: {}}`.
fn pod(volumes: &str, mounts: &str, fs_group: Option<u32>) -> Pod {
    let list = |text: &str| serde_json::from_str::<Value>(&format!("[{}]", json_of(text))).unwrap();
    let mut volumes = list(volumes);
    for volume in volumes.as_array_mut().unwrap() {
        // The defaults that the manifest's reader fills.
        for kind in ["configMap", "secret"] {
            if let Some(source) = volume.get_mut(kind).and_then(Value::as_object_mut) {
                source.entry("defaultMode").or_insert(json!(0o644));
            }
        }
    }
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {"fsGroup": fs_group}, "volumes": volumes,
            "containers": [{"name": "c", "image": "killick.local/busybox:1", "imagePullPolicy": "IfNotPresent", "volumeMounts": list(mounts),
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
        },
    }))
    .unwrap()
}

/// Quotes every word that is no number, boolean or quoted already.
fn json_of(flow: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let end = |word: &mut String, out: &mut String| {
        let bare = word.parse::<u32>().is_ok() || matches!(word.as_str(), "true" | "false" | "");
        match bare {
            true => out.push_str(word),
            false => out.push_str(&serde_json::to_string(word).unwrap()),
        }
        word.clear();
    };
    for c in flow.chars() {
        match c {
            '{' | '}' | '[' | ']' | ',' | ':' | ' ' => {
                end(&mut word, &mut out);
                out.push(c);
            }
            c => word.push(c),
        }
    }
    end(&mut word, &mut out);
    out
}

fn binds(pod: &Pod, prepared: &[Prepared]) -> Result<Vec<BindMount>, String> {
    mounts(
        &pod.spec.containers[0],
        prepared,
        &[("NAME".to_owned(), "sub".to_owned()), ("EMPTY".to_owned(), String::new())],
    )
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn opened(mount: &BindMount) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", mount.source.as_raw_fd())).unwrap()
}

#[test]
fn an_empty_dir_is_open_to_all_and_keeps_what_a_container_made_of_it() {
    let place = Place::new();
    let pod = pod("{name: d, emptyDir: {}}", "{name: d, mountPath: /d}", None);
    let prepared = place.prepare(&pod).unwrap();
    assert_eq!(prepared[0].kind, Kind::EmptyDir);
    assert_eq!(prepared[0].path, place.path("pod/volumes/kubernetes.io~empty-dir/d"));
    assert_eq!(mode(&prepared[0].path), 0o777);
    fs::write(prepared[0].path.join("f"), "kept").unwrap();
    Command::new("chmod").arg("0700").arg(&prepared[0].path).status().unwrap();
    assert_eq!(place.prepare(&pod).unwrap(), prepared);
    assert_eq!(mode(&prepared[0].path), 0o700);
    assert_eq!(fs::read_to_string(prepared[0].path.join("f")).unwrap(), "kept");
    let again: Vec<Prepared> = serde_json::from_str(&serde_json::to_string(&prepared).unwrap()).unwrap();
    assert_eq!(again, prepared);
}

#[test]
fn fs_group_owns_the_directory_and_what_is_made_in_it() {
    let place = Place::new();
    let pod = pod("{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}", "", Some(2000));
    for volume in place.prepare(&pod).unwrap() {
        assert_eq!(mode(&volume.path), 0o2777);
        fs::write(volume.path.join("f"), "").unwrap();
        assert_eq!(fs::metadata(volume.path.join("f")).unwrap().gid(), 2000);
    }
}

#[test]
fn a_memory_volume_is_a_tmpfs_whose_size_is_enforced_and_mounted_once() {
    let place = Place::new();
    let pod =
        pod("{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}, {name: n, emptyDir: {medium: Memory}}", "", None);
    let prepared = place.prepare(&pod).unwrap();
    assert_eq!(prepared[0].kind, Kind::Tmpfs);
    assert_eq!(mode(&prepared[0].path), 0o777);
    let error = fs::write(prepared[0].path.join("big"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(fs::metadata(prepared[0].path.join("big")).unwrap().len(), 1 << 20);
    place.prepare(&pod).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(prepared[0].path.to_str().unwrap()).count(), 1);
    let node = nix::sys::statvfs::statvfs(&prepared[1].path).unwrap();
    assert_eq!(node.blocks() * node.fragment_size(), 1 << 30);
}

#[test]
fn the_pods_memory_limit_bounds_its_memory_volumes() {
    let place = Place::new();
    let mut pod = pod("{name: m, emptyDir: {medium: Memory, sizeLimit: 900Mi}}", "", None);
    pod.spec.containers[0].resources.limits.insert("memory".to_owned(), "64Mi".to_owned());
    let prepared = place.prepare(&pod).unwrap();
    let found = nix::sys::statvfs::statvfs(&prepared[0].path).unwrap();
    assert_eq!(found.blocks() * found.fragment_size(), 64 << 20);
}

#[test]
fn each_host_path_type_is_checked_in_kubelets_words() {
    let place = Place::new();
    let root = place.dir.path();
    fs::write(root.join("file"), "").unwrap();
    symlink("outside", root.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let check = |path: &str, kind: &str, expected: Result<(), &str>| {
        let full = root.join(path).display().to_string();
        let pod = pod(&format!("{{name: h, hostPath: {{path: {full}, type: {kind}}}}}"), "", None);
        let result = place.prepare(&pod).map(|prepared| assert_eq!(prepared[0].path, Path::new(&full)));
        assert_eq!(
            result,
            expected.map_err(|text| format!("hostPath type check failed: {full} is not a {text}")),
            "{path} {kind}"
        );
    };
    check("outside", "Directory", Ok(()));
    check("link", "Directory", Ok(()));
    check("file", "Directory", Err("directory"));
    check("none", "Directory", Err("directory"));
    check("file", "File", Ok(()));
    check("outside", "File", Err("file"));
    check("socket", "Socket", Ok(()));
    check("file", "Socket", Err("socket file"));
    check("file", "CharDevice", Err("character device"));
    check("file", "BlockDevice", Err("block device"));
    check("file", "DirectoryOrCreate", Err("directory"));
    check("outside", "FileOrCreate", Err("file"));
    check("new/dir", "DirectoryOrCreate", Ok(()));
    assert_eq!((mode(&root.join("new")), mode(&root.join("new/dir"))), (0o755, 0o755));
    check("new/file", "FileOrCreate", Ok(()));
    assert_eq!(mode(&root.join("new/file")), 0o644);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let null = pod("{name: h, hostPath: {path: /dev/null, type: CharDevice}}", "{name: h, mountPath: /n}", None);
    assert!(!binds(&null, &place.prepare(&null).unwrap()).unwrap()[0].is_dir);
    let mut dots = pod("{name: h, hostPath: {path: /a}}", "", None);
    let killick_pod::spec::VolumeSource::HostPath(source) = &mut dots.spec.volumes[0].source else { panic!() };
    source.path = "/a/../b".to_owned();
    assert_eq!(place.prepare(&dots).unwrap_err(), "invalid HostPath `/a/../b`: must not contain '..'");
}

#[test]
fn a_missing_host_path_without_a_type_is_made_when_it_is_mounted() {
    let place = Place::new();
    let path = place.path("made/by/mount");
    let pod = pod(&format!("{{name: h, hostPath: {{path: {}}}}}", path.display()), "{name: h, mountPath: /h}", None);
    let prepared = place.prepare(&pod).unwrap();
    assert!(!path.exists());
    let binds = binds(&pod, &prepared).unwrap();
    assert_eq!(opened(&binds[0]), path);
    assert_eq!(mode(&path), 0o755);
    assert!(path.exists());
}

#[test]
fn config_maps_and_secrets_are_laid_out_as_kubelet_does_and_change_at_once() {
    let mut place = Place::new();
    place.object(DataKind::ConfigMap, "cm", &[("a", b"1"), ("b.conf", b"two")]);
    place.object(DataKind::Secret, "s", &[("password", b"\xffpw")]);
    let pod = pod(
        "{name: c, configMap: {name: cm}}, {name: s, secret: {secretName: s, defaultMode: 256, items: [{key: password, path: deep/er/pw, mode: 288}]}}",
        "{name: c, mountPath: /c}, {name: s, mountPath: /s}",
        None,
    );
    let prepared = place.prepare(&pod).unwrap();
    let config = &prepared[0].path;
    assert_eq!(config, &place.path("pod/volumes/kubernetes.io~configmap/c"));
    assert_eq!(fs::read_link(config.join("a")).unwrap(), Path::new("..data/a"));
    let version = fs::read_link(config.join("..data")).unwrap();
    assert_eq!(version, Path::new("..2024_01_02_15_04_05.123"));
    assert_eq!((mode(&config.join(&version)), mode(&config.join(&version).join("a"))), (0o755, 0o644));
    assert_eq!(fs::read(config.join("b.conf")).unwrap(), b"two");
    let secret = &prepared[1].path;
    assert_eq!(fs::read(secret.join("deep/er/pw")).unwrap(), b"\xffpw");
    assert_eq!(fs::metadata(secret.join("deep/er/pw")).unwrap().mode() & 0o7777, 0o440);
    assert_eq!(nix::sys::statfs::statfs(secret).unwrap().filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);
    assert!(binds(&pod, &prepared).unwrap().iter().all(|mount| mount.read_only && mount.is_dir));

    place.seconds += 1;
    place.prepare(&pod).unwrap();
    assert_eq!(fs::read_link(config.join("..data")).unwrap(), version, "nothing changed");
    place.object(DataKind::ConfigMap, "cm", &[("a", b"changed")]);
    place.prepare(&pod).unwrap();
    assert_eq!(fs::read(config.join("a")).unwrap(), b"changed");
    assert!(fs::symlink_metadata(config.join("b.conf")).is_err());
    let mut names: Vec<_> =
        fs::read_dir(config).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["..2024_01_02_15_04_06.123", "..data", "a"]);
}

#[test]
fn with_fs_group_the_group_may_read_a_secret() {
    let mut place = Place::new();
    place.object(DataKind::Secret, "s", &[("k", b"v")]);
    let pod = pod("{name: s, secret: {secretName: s, defaultMode: 256}}", "", Some(2000));
    let prepared = place.prepare(&pod).unwrap();
    let file = fs::metadata(prepared[0].path.join("k")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.gid()), (0o440, 2000));
}

#[test]
fn a_missing_object_or_key_is_named_unless_it_is_optional() {
    let mut place = Place::new();
    place.object(DataKind::ConfigMap, "cm", &[("a", b"1")]);
    let check = |volume: &str, expected: Result<usize, &str>| {
        let result = place.prepare(&pod(volume, "", None));
        let count = result.map(|prepared| fs::read_dir(&prepared[0].path).unwrap().count());
        assert_eq!(count, expected.map_err(str::to_owned), "{volume}");
    };
    check("{name: v, configMap: {name: none}}", Err("configmap \"none\" not found"));
    check("{name: v, secret: {secretName: none}}", Err("secret \"none\" not found"));
    check("{name: w, configMap: {name: none, optional: true}}", Ok(2));
    let items = "items: [{key: b, path: b}]";
    check(
        &format!("{{name: v, configMap: {{name: cm, {items}}}}}"),
        Err("configmap references non-existent config key: b"),
    );
    check(&format!("{{name: x, configMap: {{name: cm, optional: true, {items}}}}}"), Ok(2));
}

#[test]
fn mounts_come_parents_first_with_what_was_asked_for() {
    let place = Place::new();
    let pod = pod(
        "{name: a, emptyDir: {}}, {name: b, emptyDir: {}}",
        "{name: a, mountPath: /x/y/z, readOnly: true}, {name: b, mountPath: /x}, {name: a, mountPath: /x/y, mountPropagation: HostToContainer}",
        None,
    );
    let mut prepared = place.prepare(&pod).unwrap();
    let found = binds(&pod, &prepared).unwrap();
    let paths: Vec<_> = found.iter().map(|m| m.destination.to_str().unwrap()).collect();
    assert_eq!(paths, ["/x", "/x/y", "/x/y/z"]);
    assert!(found[2].read_only && !found[0].read_only);
    assert_eq!(found[1].propagation, MountPropagation::HostToContainer);
    assert_eq!(found[0].recursive_read_only, RecursiveReadOnly::Disabled);
    prepared.pop();
    assert_eq!(binds(&pod, &prepared).unwrap_err(), "cannot find volume \"b\" to mount into container \"c\"");
}

#[test]
fn a_sub_path_is_made_with_the_roots_mode_and_never_leaves_the_volume() {
    let place = Place::new();
    let volume = |mounts: &str| pod("{name: d, emptyDir: {}}", mounts, None);
    let prepared = place.prepare(&volume("")).unwrap();
    let root = prepared[0].path.clone();
    fs::write(root.join("file"), "x").unwrap();
    fs::create_dir(root.join("real")).unwrap();
    fs::write(place.path("outside/secret"), "host").unwrap();
    symlink("real", root.join("inside")).unwrap();
    symlink(root.join("real"), root.join("absolute-inside")).unwrap();
    symlink("../../../../outside", root.join("up")).unwrap();
    symlink(place.path("outside"), root.join("absolute")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    let open = |path: &str| {
        let pod = volume(&format!("{{name: d, mountPath: /d, subPath: {path}}}"));
        binds(&pod, &prepared).map(|mut mounts| mounts.pop().unwrap())
    };
    assert_eq!(opened(&open("a/b").unwrap()), root.join("a/b"));
    assert_eq!((mode(&root.join("a")), mode(&root.join("a/b"))), (0o777, 0o777));
    assert!(!open("file").unwrap().is_dir);
    assert_eq!(opened(&open("inside").unwrap()), root.join("real"));
    assert_eq!(
        opened(&open("inside/../real").unwrap_or_else(|error| {
            assert_eq!(error, "unable to provision SubPath `inside/../real`: must not contain '..'");
            open("real").unwrap()
        })),
        root.join("real")
    );
    assert_eq!(opened(&open("absolute-inside/new").unwrap()), root.join("real/new"));
    for bad in ["up", "up/secret", "absolute", "absolute/secret", "loop", "dangling", "file/x", "dangling/x"] {
        assert_eq!(
            open(bad).unwrap_err(),
            "failed to prepare subPath for volumeMount \"d\" of container \"c\"",
            "{bad}"
        );
    }
    let mut direct = volume("{name: d, mountPath: /d}");
    direct.spec.containers[0].volume_mounts[0].sub_path = Some("/abs".to_owned());
    assert_eq!(binds(&direct, &prepared).unwrap_err(), "error SubPath `/abs` must not be an absolute path");
    direct.spec.containers[0].volume_mounts[0].sub_path = None;
    direct.spec.containers[0].volume_mounts[0].sub_path_expr = Some("$(NAME)/x".to_owned());
    assert_eq!(opened(&binds(&direct, &prepared).unwrap()[0]), root.join("sub/x"));
    direct.spec.containers[0].volume_mounts[0].sub_path_expr = Some("$(EMPTY)".to_owned());
    assert_eq!(binds(&direct, &prepared).unwrap_err(), "missing value for \"EMPTY\"");
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 1);
}

#[test]
fn a_racing_exchange_of_a_component_for_a_link_never_leads_outside() {
    const ROUNDS: usize = 1000;
    let place = Place::new();
    let volume = pod("{name: d, emptyDir: {}}", "{name: d, mountPath: /d, subPath: a/b/c}", None);
    let prepared = place.prepare(&volume).unwrap();
    let root = prepared[0].path.clone();
    let outside = place.path("outside");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir_all(outside.join("b/c")).unwrap();
    symlink(&outside, root.join("evil")).unwrap();
    symlink(outside.join("b"), root.join("a/evil")).unwrap();
    let stop = AtomicBool::new(false);
    let mut inside = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchange = |x: &str, y: &str| {
                    let _ = renameat2(AT_FDCWD, &root.join(x), AT_FDCWD, &root.join(y), RenameFlags::RENAME_EXCHANGE);
                };
                exchange("a", "evil");
                exchange("a", "evil");
                exchange("a/b", "a/evil");
                exchange("a/b", "a/evil");
            }
        });
        for round in 0..ROUNDS {
            let mut wanted = volume.clone();
            if round % 2 == 1 {
                wanted.spec.containers[0].volume_mounts[0].sub_path = Some(format!("a/b/new{round}"));
            }
            if let Ok(found) = binds(&wanted, &prepared) {
                let at = opened(&found[0]);
                assert!(at.starts_with(&root), "round {round}: {}", at.display());
                inside += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0, "the attacker won every race, so nothing was proven");
    let strangers: Vec<_> = fs::read_dir(outside.join("b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(strangers, ["c"], "nothing was made outside");
}

#[test]
fn teardown_removes_what_a_hostile_container_left_and_nothing_else() {
    let place = Place::new();
    let volumes = "{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}";
    let prepared = place.prepare(&pod(volumes, "", None)).unwrap();
    fs::write(place.path("outside/precious"), "host").unwrap();
    for volume in &prepared {
        let root = &volume.path;
        symlink(place.path("outside"), root.join("link")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        symlink("../../../../../outside", root.join("dir/link")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir_all(root.join("mnt/deeper")).unwrap();
        fs::create_dir(root.join("mount point")).unwrap();
        let bound = Command::new("mount")
            .arg("--bind")
            .arg(place.path("outside"))
            .arg(root.join("mount point"))
            .status()
            .unwrap();
        assert!(bound.success());
        fs::create_dir(root.join("locked")).unwrap();
        fs::write(root.join("locked/file"), "").unwrap();
        deep_tree(root, 3000);
    }
    for path in ["locked/file", "locked"] {
        let flagged = Command::new("chattr").arg("+i").arg(prepared[0].path.join(path)).status().unwrap();
        assert!(flagged.success());
    }
    assert_eq!(teardown(&place.dirs()), Vec::<String>::new());
    assert!(!place.path("pod/volumes").exists());
    assert_eq!(fs::read_to_string(place.path("outside/precious")).unwrap(), "host");
    assert_eq!(teardown(&place.dirs()), Vec::<String>::new(), "twice is harmless");
}

/// Deeper than any path may be long.
fn deep_tree(root: &Path, depth: usize) {
    use nix::fcntl::{OFlag, open, openat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut here = open(root, flags, Mode::empty()).unwrap();
    let name = CString::new("deep").unwrap();
    for _ in 0..depth {
        nix::sys::stat::mkdirat(&here, name.as_c_str(), Mode::S_IRWXU).unwrap();
        here = openat(&here, name.as_c_str(), flags, Mode::empty()).unwrap();
    }
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
    let mut file = fs::File::from(openat(&here, c"bottom", flags, Mode::S_IRWXU).unwrap());
    file.write_all(b"x").unwrap();
}

#[test]
fn pod_files_keep_their_inode_and_follow_no_link() {
    let place = Place::new();
    let dir = place.path("pod");
    pod_files::write(&dir, "etc-hosts", b"127.0.0.1\tlocalhost\n", 0o644).unwrap();
    let first = fs::metadata(dir.join("etc-hosts")).unwrap();
    assert_eq!(first.mode() & 0o7777, 0o644);
    pod_files::write(&dir, "etc-hosts", b"short\n", 0o644).unwrap();
    assert_eq!(fs::read(dir.join("etc-hosts")).unwrap(), b"short\n");
    assert_eq!(fs::metadata(dir.join("etc-hosts")).unwrap().ino(), first.ino());
    pod_files::write(&dir, "termination-log", b"", 0o666).unwrap();
    assert_eq!(mode(&dir.join("termination-log")), 0o666);
    fs::write(place.path("outside/f"), "host").unwrap();
    symlink(place.path("outside/f"), dir.join("resolv.conf")).unwrap();
    assert!(pod_files::write(&dir, "resolv.conf", b"x", 0o644).is_err());
    assert_eq!(fs::read_to_string(place.path("outside/f")).unwrap(), "host");
}
