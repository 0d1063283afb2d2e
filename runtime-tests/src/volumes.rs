//! Volumes, from inside the containers that mount them.

use std::fs;

use crate::world::{BUSYBOX, World, indent, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("an_empty_dir_survives_restarts_and_goes_with_the_pod", empty_dir),
        test("an_empty_dir_in_memory_has_its_size_limit", memory),
        test("each_host_path_type_is_checked_with_kubelets_words", host_path),
        test("config_maps_and_secrets_are_files_and_variables", objects),
        test("a_sub_path_never_leaves_its_volume", sub_path),
        test("read_only_mounts_cannot_be_written", read_only),
        test("mount_propagation_goes_only_where_it_is_asked_for", propagation),
    ]
}

/// A pod of one container with volume mounts and volumes.
fn pod_with(name: &str, line: &str, container: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, {line:?}]\n{}  volumes:\n{}",
        indent(container, 4),
        indent(volumes, 2)
    )
}

fn empty_dir(world: &World) -> Result<(), String> {
    let yaml = pod_with(
        "empty-dir",
        "echo run >> /data/runs; sleep 2; exit 1",
        "volumeMounts: [{name: data, mountPath: /data}]",
        "- {name: data, emptyDir: {}}",
    );
    let pod = world.apply("empty-dir", &yaml)?;
    let path = world.directory.join("root/pods").join(pod.uid()?).join("volumes/kubernetes.io~empty-dir/data");
    pod.wait(20, "a restart", |pod| Ok(pod.restarts()? >= 1))?;
    pod.wait(10, "two runs in the volume", |_| {
        Ok(fs::read_to_string(path.join("runs")).unwrap_or_default().lines().count() >= 2)
    })?;
    world.ok(&["delete", "pod", "empty-dir", "--now"])?;
    ensure!(!path.exists(), "{} is still there", path.display());
    Ok(())
}

fn memory(world: &World) -> Result<(), String> {
    let yaml = pod_with(
        "memory-dir",
        "exec sleep 600",
        "volumeMounts: [{name: data, mountPath: /data}]",
        "- {name: data, emptyDir: {medium: Memory, sizeLimit: 2Mi}}",
    );
    let pod = world.apply("memory-dir", &yaml)?;
    pod.wait_running()?;
    ensure!(pod.shell("grep ' /data tmpfs ' /proc/mounts").is_ok(), "not a tmpfs");
    pod.shell("dd if=/dev/zero of=/data/one bs=1M count=1 2>/dev/null")?;
    ensure!(pod.shell("dd if=/dev/zero of=/data/three bs=1M count=3").is_err(), "more than the limit fits");
    Ok(())
}

fn host_path(world: &World) -> Result<(), String> {
    let base = world.directory.join("host-path");
    fs::create_dir_all(base.join("dir")).map_err(|error| error.to_string())?;
    fs::write(base.join("file"), "text\n").map_err(|error| error.to_string())?;
    let base = base.display();
    for (kind, path, problem) in [
        ("Directory", format!("{base}/dir"), None),
        ("DirectoryOrCreate", format!("{base}/made"), None),
        ("File", format!("{base}/file"), None),
        ("FileOrCreate", format!("{base}/made-file"), None),
        ("CharDevice", "/dev/null".into(), None),
        ("", format!("{base}/absent"), None),
        ("Directory", format!("{base}/file"), Some("is not a directory")),
        ("File", format!("{base}/dir"), Some("is not a file")),
        ("Socket", format!("{base}/file"), Some("is not a socket file")),
        ("CharDevice", format!("{base}/file"), Some("is not a character device")),
        ("BlockDevice", format!("{base}/file"), Some("is not a block device")),
    ] {
        let name = format!(
            "host-path-{}-{}",
            if kind.is_empty() { "unset".into() } else { kind.to_lowercase() },
            if problem.is_some() { "bad" } else { "good" }
        );
        let yaml = pod_with(
            &name,
            "exec sleep 600",
            "volumeMounts: [{name: host, mountPath: /host}]",
            &format!("- {{name: host, hostPath: {{path: {path}, type: {kind:?}}}}}"),
        );
        let pod = world.apply(&name, &yaml)?;
        match problem {
            None => {
                pod.wait_running().map_err(|error| format!("{kind} {path}: {error}"))?;
                pod.shell("ls -d /host")?;
            }
            Some(text) => pod.wait_event(
                15,
                &format!("MountVolume.SetUp failed for volume \"host\" : hostPath type check failed: {path} {text}"),
            )?,
        }
    }
    Ok(())
}

fn objects(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: blue, page.html: '<p>hi</p>'}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: password}}\nstringData: {{password: open sesame}}\n---\n{}",
        pod_with(
            "objects",
            "exec sleep 600",
            "env:\n- {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}\n- {name: PASSWORD, valueFrom: {secretKeyRef: {name: password, key: password}}}\n- {name: MAYBE, valueFrom: {secretKeyRef: {name: absent, key: x, optional: true}}}\nenvFrom: [{prefix: S_, configMapRef: {name: settings}}]\nvolumeMounts:\n- {name: settings, mountPath: /settings}\n- {name: password, mountPath: /password}\n- {name: settings, mountPath: /one.html, subPath: page.html}",
            "- {name: settings, configMap: {name: settings}}\n- {name: password, secret: {secretName: password, defaultMode: 0400}}"
        )
    );
    let output = world.killick_with_input(&["apply", "-f", "-"], &yaml);
    ensure!(
        output.stdout == "configmap/settings created\nsecret/password created\npod/objects created\n",
        "{output:?}"
    );
    let pod = crate::world::Pod { world, name: "objects".into() };
    pod.wait_running()?;
    ensure!(pod.shell("cat /settings/colour /one.html")? == "blue<p>hi</p>", "files");
    ensure!(pod.shell("cat /password/password")? == "open sesame", "the secret");
    ensure!(
        pod.shell("stat -L -c %a /password/password")?.trim() == "400",
        "mode {}",
        pod.shell("stat -L -c %a /password/password")?
    );
    ensure!(
        pod.shell("grep ' /password tmpfs ro' /proc/mounts").is_ok(),
        "a secret lies on a tmpfs, read-only:\n{}",
        pod.shell("cat /proc/mounts")?
    );
    ensure!(pod.shell("readlink /settings/colour")?.trim() == "..data/colour", "the atomic writer's links");
    ensure!(
        pod.shell("echo $COLOUR,$PASSWORD,$S_colour,${MAYBE-unset}")? == "blue,open sesame,blue,unset\n",
        "variables"
    );
    drop(pod);
    // An object that is not there: kubelet's reason, and nothing else breaks.
    let yaml = world.busybox(
        "object-absent",
        "exec sleep 600",
        "env: [{name: X, valueFrom: {configMapKeyRef: {name: absent, key: x}}}]",
    );
    let pod = world.apply("object-absent", &yaml)?;
    pod.wait(15, "CreateContainerConfigError", |pod| Ok(pod.status_word()? == "CreateContainerConfigError"))?;
    pod.wait_event(5, "Error: configmap \"absent\" not found")?;
    drop(pod);
    world.ok(&["delete", "configmap", "settings"])?;
    world.ok(&["delete", "secret", "password"])?;
    Ok(())
}

fn sub_path(world: &World) -> Result<(), String> {
    let base = world.directory.join("sub-path");
    fs::create_dir_all(base.join("inside")).map_err(|error| error.to_string())?;
    fs::write(base.join("inside/text"), "inside\n").map_err(|error| error.to_string())?;
    std::os::unix::fs::symlink("/etc", base.join("escape")).map_err(|error| error.to_string())?;
    std::os::unix::fs::symlink("../../..", base.join("inside/up")).map_err(|error| error.to_string())?;
    let volumes = format!("- {{name: host, hostPath: {{path: {}}}}}", base.display());
    let mounts = |sub: &str| format!("volumeMounts: [{{name: host, mountPath: /host, subPath: {sub}}}]");
    let pod = world.apply("sub-path", &pod_with("sub-path", "exec sleep 600", &mounts("inside"), &volumes))?;
    pod.wait_running()?;
    ensure!(pod.shell("cat /host/text")? == "inside\n", "the sub path is not mounted");
    drop(pod);
    let pod =
        world.apply("sub-path-new", &pod_with("sub-path-new", "exec sleep 600", &mounts("made/by/mount"), &volumes))?;
    pod.wait_running()?;
    ensure!(base.join("made/by/mount").is_dir(), "a missing sub path is made");
    drop(pod);
    for (name, sub) in [("sub-path-escape", "escape"), ("sub-path-up", "inside/up")] {
        let pod = world.apply(name, &pod_with(name, "exec sleep 600", &mounts(sub), &volumes))?;
        pod.wait(15, "CreateContainerConfigError", |pod| Ok(pod.status_word()? == "CreateContainerConfigError"))?;
        pod.wait_event(5, "failed to prepare subPath for volumeMount \"host\" of container \"main\"")?;
    }
    Ok(())
}

fn read_only(world: &World) -> Result<(), String> {
    let yaml = pod_with(
        "read-only",
        "exec sleep 600",
        "volumeMounts: [{name: data, mountPath: /ro, readOnly: true}, {name: data, mountPath: /rw}]",
        "- {name: data, emptyDir: {}}",
    );
    let pod = world.apply("read-only", &yaml)?;
    pod.wait_running()?;
    pod.shell("echo x > /rw/file; cat /ro/file")?;
    let output = world.killick(&["exec", "-q", "read-only", "--", "sh", "-c", "echo y > /ro/file"]);
    ensure!(output.code != 0 && output.stderr.contains("Read-only file system"), "{output:?}");
    Ok(())
}

fn propagation(world: &World) -> Result<(), String> {
    let base = world.directory.join("propagation");
    fs::create_dir_all(base.join("late")).map_err(|error| error.to_string())?;
    let path = base.display().to_string();
    world.shell(&format!("mount -t tmpfs killick-test {path} && mount --make-shared {path} && mkdir {path}/late"))?;
    let outcome = (|| {
        let yaml = pod_with(
            "propagation",
            "exec sleep 600",
            "volumeMounts:\n- {name: host, mountPath: /none}\n- {name: host, mountPath: /slave, mountPropagation: HostToContainer}",
            &format!("- {{name: host, hostPath: {{path: {path}}}}}"),
        );
        let pod = world.apply("propagation", &yaml)?;
        pod.wait_running()?;
        world.shell(&format!("mount -t tmpfs killick-test {path}/late && touch {path}/late/seen"))?;
        let none = pod.shell("ls /none/late")?;
        let slave = pod.shell("ls /slave/late")?;
        ensure!(none.trim().is_empty(), "None received a mount of the host");
        ensure!(slave.trim() == "seen", "HostToContainer did not");
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        ensure!(!squeezed(&mounts).contains("/none"), "a mount of the container is seen on the host");
        Ok(())
    })();
    world.shell(&format!("umount {path}/late; umount {path}"))?;
    outcome
}
