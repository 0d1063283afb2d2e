//! Propagation of volumes, prepared sources, and the container's own cgroup.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::cgroup::Cgroup;
use killick_container::{CreateRequest, ExecRequest, Join, PidMode, Ptrace, Stdio, UserRequest, create};
use killick_sys::cgroup::Layout;
use killick_sys::facts::Facts;
use killick_sys::pidfd::Exit;
use serde_json::json;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

fn both_ways(test: impl Fn(Host)) {
    isolated(|| {
        test(Host::new());
        test(Host::with(Facts { detached_mounts: false, ..Facts::detect() }));
    });
}

#[test]
fn mounts_propagate_exactly_as_asked() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let shared = host.fresh("shared");
        killick_sys::mount::mount("tmpfs", &shared, "tmpfs", 0, "").unwrap();
        killick_sys::mount::change(&shared, libc::MS_SHARED).unwrap();
        std::fs::create_dir(shared.join("from-host")).unwrap();
        std::fs::create_dir(shared.join("from-container")).unwrap();
        let mounts = with_mounts(json!([
            {"destination": "/private", "source": shared, "options": ["rbind", "rprivate"]},
            {"destination": "/slave", "source": shared, "options": ["rbind", "rslave"]},
            {"destination": "/both", "source": shared, "options": ["rbind", "rshared"]},
        ]));
        let admin = json!(["CAP_SYS_ADMIN"]);
        let changes = json!({"process": {"capabilities": {"bounding": admin, "effective": admin, "permitted": admin}}, "mounts": mounts});
        let container = host.started(&sandbox, &spec(changes));
        killick_sys::mount::mount("tmpfs", &shared.join("from-host"), "tmpfs", 0, "").unwrap();
        std::fs::write(shared.join("from-host/seen"), "").unwrap();
        let script = "ls /private/from-host /slave/from-host /both/from-host; mount -t tmpfs x /both/from-container && touch /both/from-container/made";
        let (output, exit) =
            host.exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None)).unwrap();
        assert_eq!(exit, Exit::Code(0), "{output}");
        assert_eq!(output, "/both/from-host:\nseen\n\n/private/from-host:\n\n/slave/from-host:\nseen\n");
        assert!(exists(&shared.join("from-container/made")));
        end(container.process());
        end_sandbox(sandbox);
        assert!(exists(&shared.join("from-container/made")), "the end of the container unmounts nothing of the host's");
        for path in [shared.join("from-container"), shared.join("from-host"), shared] {
            killick_sys::mount::unmount_detach(&path).unwrap();
        }
    });
}

#[test]
fn bidirectional_propagation_needs_a_shared_source() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let volume = host.fresh("volume");
        let mounts = with_mounts(json!([{"destination": "/both", "source": volume, "options": ["rbind", "rshared"]}]));
        let error = host.run(&sandbox, &spec(json!({"mounts": mounts}))).unwrap_err().to_string();
        assert_eq!(error, format!("path {volume:?} is mounted on \"/\" but it is not a shared mount"));
        end_sandbox(sandbox);
    });
}

#[test]
fn a_prepared_source_is_what_is_mounted() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let volume = host.fresh("volume");
        std::fs::create_dir(volume.join("sub")).unwrap();
        std::fs::write(volume.join("sub/file"), "sub\n").unwrap();
        let source = OwnedFd::from(std::fs::File::open(volume.join("sub")).unwrap());
        let (stdio, output) = pipes();
        let mounts = with_mounts(json!([{"destination": "/data", "source": volume.join("sub"), "options": ["rbind"]}]));
        let spec = spec(json!({"process": {"args": ["cat", "/data/file"]}, "mounts": mounts}));
        let request = CreateRequest {
            id: "prepared".into(),
            spec: &spec,
            rootfs: host.rootfs(),
            join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: vec![(Path::new("/data").into(), source)],
        };
        assert_eq!(run_created(create(&host.facts, request).unwrap(), output).unwrap().0, "sub\n");
        end_sandbox(sandbox);
    });
}

#[test]
fn a_source_may_be_a_descriptor_of_its_maker() {
    both_ways(|host| {
        let dir = host.fresh("volume");
        std::fs::write(dir.join("file"), "through a descriptor\n").unwrap();
        let (volume, file) = (File::open(&dir).unwrap(), File::open(dir.join("file")).unwrap());
        let source = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let spec = spec(json!({
            "process": {"args": ["cat", "/data/file", "/file"]},
            "mounts": with_mounts(json!([
                {"destination": "/data", "type": "bind", "source": source(&volume), "options": ["rbind", "rprivate", "ro"]},
                {"destination": "/file", "type": "bind", "source": source(&file), "options": ["rbind", "rprivate", "rw"]}])),
        }));
        let sandbox = host.sandbox();
        let (stdio, output) = pipes();
        let request = CreateRequest {
            id: "described".into(),
            spec: &spec,
            rootfs: host.rootfs(),
            join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: vec![("/data".into(), volume.into()), ("/file".into(), file.into())],
        };
        let (text, _) = run_created(create(&host.facts, request).unwrap(), output).unwrap();
        assert_eq!(text, "through a descriptor\nthrough a descriptor\n");
        end_sandbox(sandbox);
    });
}

#[test]
fn a_container_is_in_its_cgroup_and_sees_it_read_only() {
    both_ways(|host| {
        let layout = Layout::detect().unwrap();
        let path = format!("killick-test-{}/{}", std::process::id(), host.facts.detached_mounts);
        let cgroup =
            Cgroup::create(&layout, &path, &serde_json::from_value(json!({"pids": {"limit": 50}})).unwrap()).unwrap();
        let sandbox = host.sandbox();
        let mounts = with_mounts(json!([
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}]));
        let spec = spec(json!({"mounts": mounts}));
        let request = |stdio| CreateRequest {
            id: "grouped".into(),
            spec: &spec,
            rootfs: host.rootfs(),
            join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: Some(&cgroup),
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let container = start(create(&host.facts, request(Stdio::null().unwrap())).unwrap());
        assert_eq!(cgroup.processes().unwrap(), [container.pid()]);
        let script = "mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
                      mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo ro";
        let mut pool = cgroup.leaf_pool();
        let leaf = pool.acquire().unwrap();
        let (stdio, output) = pipes();
        let request = ExecRequest::new(args(&["sh", "-c", script]), stdio, Some(leaf.attach()));
        let mut added = killick_container::exec(&host.facts, &container, request).unwrap();
        assert_eq!(added.wait(soon()), killick_container::Progress::Running);
        let process = added.into_process().unwrap();
        assert_eq!(read_all(output), "ro\n50\nro\n");
        assert_eq!(process.wait_blocking().unwrap(), Exit::Code(0));
        pool.release(leaf).unwrap();
        pool.clear().unwrap();
        cgroup.kill_all(soon()).unwrap();
        container.process().wait_blocking().unwrap();
        end_sandbox(sandbox);
        cgroup.remove(soon()).unwrap();
        let _ = cgroup.remove_parent_if_unused();
    });
}
