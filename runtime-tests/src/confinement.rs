//! Containers without runc: the safe defaults, and each field that changes them, looked at from inside.

use std::time::Duration;

use crate::world::{BUSYBOX, INSIDE_MOUNT, World, indent};
use crate::{Needs, Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("a_plain_container_has_containerds_safe_defaults", defaults),
        test("devices_outside_the_list_are_refused", devices),
        test("security_context_fields_do_what_they_say", security_context),
        test("a_privileged_container_has_everything", privileged),
        test("resources_reach_the_cgroup", resources),
        test("seccomp_runtime_default_refuses_and_unconfined_allows", seccomp),
        test("run_as_non_root_is_enforced_with_kubelets_words", non_root),
        test("environment_and_command_are_expanded", environment),
        test("an_attacker_that_seizes_every_new_process_finds_no_capability_above_its_own", seize),
        test("the_oom_score_is_set_where_the_kernel_allows_it", oom_score).on(Needs::Guest),
        test("the_device_list_is_enforced_by_ebpf_on_cgroup_v2", devices).on(Needs::Guest),
    ]
}

fn with_inside(world: &World, name: &str, more: &str) -> String {
    world.busybox(name, "exec sleep 600", &format!("{INSIDE_MOUNT}\n{more}")) + &world.inside_volume()
}

fn defaults(world: &World) -> Result<(), String> {
    let pod = world.apply("defaults", &with_inside(world, "defaults", ""))?;
    pod.wait_running()?;
    let status = pod.shell("cat /proc/self/status")?;
    for line in [
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        ensure!(status.contains(line), "no {line:?} in\n{status}");
    }
    let mounts = pod.shell("cat /proc/mounts")?;
    let options = |path: &str| {
        mounts
            .lines()
            .rev()
            .find(|line| line.split(' ').nth(1) == Some(path))
            .and_then(|line| line.split(' ').nth(3))
            .unwrap_or("absent")
            .to_string()
    };
    for (path, wanted) in [
        ("/sys", "ro"),
        ("/proc/sys", "ro"),
        ("/proc/bus", "ro"),
        ("/proc/irq", "ro"),
        ("/sys/fs/cgroup", "ro"),
        ("/", "rw"),
        ("/dev", "rw"),
    ] {
        ensure!(options(path).split(',').any(|option| option == wanted), "{path}: {} in\n{mounts}", options(path));
    }
    // Not every kernel has it (CONFIG_MAGIC_SYSRQ).
    let sysrq = options("/proc/sysrq-trigger");
    ensure!(
        sysrq.contains("ro") || !std::path::Path::new("/proc/sysrq-trigger").exists(),
        "/proc/sysrq-trigger: {sysrq}"
    );
    ensure!(options("/dev").contains("nosuid"), "/dev: {}", options("/dev"));
    ensure!(pod.shell("[ -e /proc/kcore ] && wc -c < /proc/kcore || echo 0")?.trim() == "0", "/proc/kcore is readable");
    ensure!(
        pod.shell("ls /proc/acpi /sys/firmware")?
            .lines()
            .filter(|line| !line.is_empty() && !line.ends_with(':'))
            .count()
            == 0,
        "masked directories are not empty"
    );
    ensure!(pod.shell("echo 1 > /proc/sys/kernel/hostname; echo $?")?.trim() != "0", "/proc/sys is writable");
    let devices = pod.shell("ls /dev")?;
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout",
        "stderr",
    ] {
        ensure!(devices.lines().any(|line| line == name), "no /dev/{name} in\n{devices}");
    }
    ensure!(!devices.contains("vda") && !devices.contains("kmsg"), "host devices:\n{devices}");
    let descriptors = pod.shell("ls /proc/self/fd | wc -l")?;
    ensure!(
        descriptors.trim().parse::<u32>().unwrap_or(99) <= 5,
        "leaked descriptors: {}",
        pod.shell("ls -l /proc/self/fd")?
    );
    ensure!(pod.shell("touch /written && rm /written && pwd")? == "/\n", "the root is writable and / is the directory");
    ensure!(pod.shell("/inside mount").is_err(), "a plain container can mount");
    Ok(())
}

fn devices(world: &World) -> Result<(), String> {
    let name = format!("devices-{}", std::process::id() % 1000 + world.patience(1) as u32);
    let name = format!("{name}-{:x}", std::time::UNIX_EPOCH.elapsed().map(|t| t.subsec_nanos()).unwrap_or(0));
    let pod = world.apply(&name, &with_inside(world, &name, ""))?;
    pod.wait_running()?;
    ensure!(pod.shell("/inside device c 1 3")? == "opened\n", "/dev/null by another name is allowed");
    for (what, device) in [
        ("/dev/mem", "c 1 1"),
        ("/dev/kmsg", "c 1 11"),
        ("a disk", "b 254 0"),
        ("a loop device", "b 7 0"),
        ("tun", "c 10 200"),
    ] {
        let output = world.killick(&["exec", "-q", &name, "--", "sh", "-c", &format!("/inside device {device}")]);
        ensure!(output.code == 1 && output.stdout.contains("EPERM"), "{what}: {output:?}");
    }
    Ok(())
}

fn security_context(world: &World) -> Result<(), String> {
    let yaml = with_inside(
        world,
        "context",
        "securityContext:\n  runAsUser: 1000\n  runAsGroup: 2000\n  readOnlyRootFilesystem: true\n  allowPrivilegeEscalation: false\n  capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}\nworkingDir: /work/dir",
    )
    .replace("spec:\n", "spec:\n  securityContext: {supplementalGroups: [3000, 3001]}\n");
    let pod = world.apply("context", &yaml)?;
    pod.wait_running()?;
    let id = pod.shell("id")?;
    ensure!(id.contains("uid=1000") && id.contains("gid=2000") && id.contains("3000") && id.contains("3001"), "{id}");
    let status = pod.shell("cat /proc/self/status")?;
    for line in ["NoNewPrivs:\t1", "CapBnd:\t0000000000000400", "CapEff:\t0000000000000000"] {
        ensure!(status.contains(line), "no {line:?} in\n{status}");
    }
    ensure!(pod.shell("touch /x").is_err(), "the root is writable");
    ensure!(pod.shell("pwd")? == "/work/dir\n", "working directory");
    Ok(())
}

fn privileged(world: &World) -> Result<(), String> {
    let pod = world.apply("privileged", &with_inside(world, "privileged", "securityContext: {privileged: true}"))?;
    pod.wait_running()?;
    let status = pod.shell("cat /proc/self/status")?;
    ensure!(status.contains(world.no_filter()), "{status}");
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding =
        own.lines().find(|line| line.starts_with("CapEff:")).unwrap_or("CapEff:").replace("CapEff", "CapBnd");
    ensure!(status.contains(&bounding), "all of {bounding}:\n{status}");
    ensure!(pod.shell("/inside mount")? == "mounted\n", "mount");
    ensure!(pod.shell("ls /dev")?.contains("kmsg"), "the host's devices are not there");
    let mounts = pod.shell("cat /proc/mounts")?;
    let sys = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/sys")).unwrap_or_default();
    ensure!(sys.contains(" rw,"), "/sys is read-only: {sys}");
    Ok(())
}

fn resources(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "resources",
        "exec sleep 600",
        "resources:\n  requests: {cpu: 250m, memory: 32Mi}\n  limits: {cpu: 500m, memory: 64Mi}",
    );
    let pod = world.apply("resources", &yaml)?;
    pod.wait_running()?;
    let uid = pod.uid()?;
    let found = world.shell(&format!("find /sys/fs/cgroup -type d -path '*pod{uid}/main*' | sort | head -50"))?;
    let read = |file: &str| {
        found
            .lines()
            .find_map(|directory| std::fs::read_to_string(format!("{directory}/{file}")).ok())
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    let v1 = found.contains("/memory/");
    let wanted = if v1 {
        vec![
            ("memory.limit_in_bytes", "67108864"),
            ("cpu.shares", "256"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
        ]
    } else {
        vec![("memory.max", "67108864"), ("cpu.max", "50000 100000"), ("memory.oom.group", "1")]
    };
    for (file, value) in wanted {
        ensure!(read(file) == value, "{file} is {:?}, not {value}, in\n{found}", read(file));
    }
    ensure!(squeezed_contains(&pod.describe()?, "QoS Class: Burstable"), "{}", pod.describe()?);
    Ok(())
}

fn squeezed_contains(text: &str, part: &str) -> bool {
    crate::world::squeezed(text).contains(part)
}

fn seccomp(world: &World) -> Result<(), String> {
    let container = |name: &str, more: &str| {
        format!(
            "  - name: {name}\n    image: {BUSYBOX}\n    command: [sh, -c, 'exec sleep 600']\n{}{}",
            indent(INSIDE_MOUNT, 4),
            indent(more, 4)
        )
    };
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: seccomp}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n{}{}{}",
        container("confined", ""),
        container("open", "securityContext: {seccompProfile: {type: Unconfined}}"),
        world.inside_volume()
    );
    let pod = world.apply("seccomp", &yaml)?;
    pod.wait_running()?;
    // keyctl(KEYCTL_GET_KEYRING_ID), unshare(CLONE_NEWUSER), and personality with an argument that is not listed.
    for (what, line) in [
        ("keyctl", "/inside syscall 250 0 -3 0"),
        ("unshare a user namespace", "/inside unshare-user"),
        ("personality", "/inside syscall 135 0x123"),
    ] {
        let output = world.killick(&["exec", "-q", "seccomp", "-c", "confined", "--", "sh", "-c", line]);
        ensure!(output.code == 1 && output.stdout.contains("EPERM"), "{what}: {output:?}");
    }
    ensure!(
        pod.shell_in("confined", "/inside syscall 135 0xffffffff")? == "allowed\n",
        "personality(0xffffffff) is allowed"
    );
    // A call that does not exist yet answers ENOSYS, so that programs fall back.
    let output = world.killick(&["exec", "-q", "seccomp", "-c", "confined", "--", "/inside", "syscall", "9999"]);
    ensure!(output.stdout.contains("ENOSYS"), "an unknown call: {output:?}");
    ensure!(
        pod.shell_in("open", "grep Seccomp: /proc/self/status")?.trim() == world.no_filter(),
        "Unconfined has a filter"
    );
    Ok(())
}

fn non_root(world: &World) -> Result<(), String> {
    let pod = world
        .apply("non-root", &world.busybox("non-root", "exec sleep 600", "securityContext: {runAsNonRoot: true}"))?;
    pod.wait(15, "CreateContainerConfigError", |pod| Ok(pod.status_word()? == "CreateContainerConfigError"))?;
    let uid = pod.uid()?;
    pod.wait_event(5, &format!("Error: container has runAsNonRoot and image will run as root (pod: \"non-root_default({uid})\", container: main)"))
}

fn environment(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "environment",
        "echo '$(GREETING) $$(GREETING) $(NOPE)'; exec sleep 600",
        "env:\n- {name: WHO, value: world}\n- {name: GREETING, value: \"hello $(WHO)\"}\n- {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n- {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}\nresources: {limits: {memory: 64Mi}}",
    );
    let pod = world.apply("environment", &yaml)?;
    pod.wait_running()?;
    pod.wait(5, "the log", |pod| Ok(!world.ok(&["logs", &pod.name])?.is_empty()))?;
    let log = world.ok(&["logs", "environment"])?;
    ensure!(log == "hello world $(GREETING) $(NOPE)\n", "{log:?}");
    let ip = pod.value("/status/podIP")?;
    let seen = pod.shell("echo $WHO,$NAME,$IP,$LIMIT,$HOSTNAME")?;
    ensure!(
        seen.trim() == format!("world,environment,{},67108864,environment", ip.as_str().unwrap_or_default()),
        "{seen}"
    );
    Ok(())
}

fn seize(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: seize}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: attacker\n    image: {BUSYBOX}\n    command: [sh, -c, 'exec sleep 600']\n    securityContext: {{capabilities: {{add: [SYS_PTRACE]}}, seccompProfile: {{type: Unconfined}}}}\n{}  - name: victim\n    image: {BUSYBOX}\n    command: [sh, -c, 'exec sleep 600']\n{}",
        indent(INSIDE_MOUNT, 4),
        world.inside_volume()
    );
    let pod = world.apply("seize", &yaml)?;
    pod.wait_running()?;
    let world_ref = &pod.world;
    let outcome = std::thread::scope(|scope| {
        let attacker = scope
            .spawn(|| world_ref.killick(&["exec", "-q", "seize", "-c", "attacker", "--", "/inside", "seize", "8"]));
        let end = std::time::Instant::now() + Duration::from_secs(8);
        while std::time::Instant::now() < end {
            // A seized process may be stopped: the exec has its own deadline, and what it says does not matter here.
            let _ = world_ref.shell(&format!("KILLICK_RUN={0}/run KILLICK_ROOT={0}/root KILLICK_LOGS={0}/logs timeout -k 1 2 {1} exec -q seize -c victim -- true || true", world_ref.directory.display(), world_ref.killick.display()));
        }
        attacker.join().map_err(|_| "the attacker's thread panicked".to_string())
    })?;
    ensure!(outcome.code == 0 && outcome.stdout.contains("worse 0"), "{outcome:?}");
    Ok(())
}

fn oom_score(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "oom-score",
        &world.busybox("oom-score", "exec sleep 600", "resources: {limits: {cpu: 100m, memory: 32Mi}}"),
    )?;
    pod.wait_running()?;
    let score = pod.shell("cat /proc/self/oom_score_adj")?;
    ensure!(score.trim() == "-997", "a Guaranteed pod has {score}");
    Ok(())
}
