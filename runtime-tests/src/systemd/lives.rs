//! A container's life as a unit: made, entered, paused, ended, by whichever way systemd is reached.

use crate::container::{Container, LATE, Layout, run, same, shell, shown, until};
use crate::{Done, Test, World, test};
use serde_json::json;
use std::fs;
use std::process::Command;

pub fn tests() -> Vec<Test> {
    vec![
        test("a_created_container_is_a_scope_and_every_hierarchy_has_its_process", created),
        test("an_exec_is_in_the_scope", exec),
        test("a_paused_container_stops_goes_on_and_can_be_killed", paused),
        test("a_scope_goes_with_its_last_process_and_delete_finds_it_gone", ends),
        test("delete_force_ends_every_process_and_the_unit", forced),
        test("kill_all_reaches_every_process", kill_all),
        test("without_a_path_the_scope_is_in_system_slice", no_path),
        test("the_form_of_the_path_alone_chooses_systemd", by_form),
        test("cgroupfs_on_request_takes_the_path_literally", literal),
        test("a_container_can_be_a_slice", slice),
        test("the_system_bus_serves_where_the_private_socket_does_not", system_bus),
        test("a_container_may_delegate_and_an_exec_still_enters", delegates).on_v2(),
        test("an_oom_kill_of_the_last_process_is_told", oom),
        test("a_systemd_that_executes_itself_anew_is_asked_again", reexec).alone(),
        test("six_containers_at_once_are_six_scopes", many),
    ]
}

fn created(world: &World) -> Done {
    let container = Container::new(world, json!({}))?;
    container.create()?;
    same("status", container.status()?.as_str(), "created")?;
    container.wants(&[
        ("LoadState", "loaded"),
        ("ActiveState", "active"),
        ("SubState", "running"),
        ("Transient", "yes"),
        ("Delegate", "yes"),
        ("CollectMode", "inactive-or-failed"),
        ("Slice", &container.slice),
        ("Description", &format!("killick container {}", container.id)),
        ("MemoryAccounting", "yes"),
        ("CPUAccounting", "yes"),
        ("TasksAccounting", "yes"),
    ])?;
    same("strays", container.strays(&container.pid()?)?, Vec::new())?;
    container.ok(&["start", &container.id])?;
    same("status", container.status()?.as_str(), "running")?;
    same("strays", container.strays(&container.pid()?)?, Vec::new())
}

fn exec(world: &World) -> Done {
    let container = Container::new(world, json!({}))?;
    container.start()?;
    let pid_file = container.dir.join("exec-pid");
    let file = pid_file.display().to_string();
    container.ok(&["exec", "--detach", "--pid-file", &file, &container.id, "sleep", "1000"])?;
    let pid = fs::read_to_string(&pid_file).map_err(|error| error.to_string())?;
    same("strays", container.strays(pid.trim())?, Vec::new())
}

fn paused(world: &World) -> Done {
    let container = Container::new(world, json!({}))?;
    container.start()?;
    container.ok(&["pause", &container.id])?;
    same("status", container.status()?.as_str(), "paused")?;
    container.fails(&["exec", &container.id, "true"], "cannot exec in a paused container")?;
    container.ok(&["resume", &container.id])?;
    same("status", container.status()?.as_str(), "running")?;
    container.ok(&["exec", &container.id, "true"])?;
    container.ok(&["pause", &container.id])?;
    container.ok(&["kill", &container.id, "KILL"])?;
    until("it ends", || container.status().is_ok_and(|status| status == "stopped"))?;
    container.ok(&["delete", &container.id])?;
    container.is_gone()
}

fn ends(world: &World) -> Done {
    let container = Container::new(world, json!({"process": {"args": ["true"]}}))?;
    container.start()?;
    until("it ends", || container.status().is_ok_and(|status| status == "stopped"))?;
    let unit = container.unit();
    until("systemd has let it go", || shown(&unit).is_ok_and(|shown| shown["LoadState"] == "not-found"))?;
    container.ok(&["delete", &container.id])?;
    container.is_gone()
}

const FAMILY: &str = "for i in 1 2 3 4 5; do (while :; do sleep 1000; done) & done; while :; do sleep 1000; done";

fn forced(world: &World) -> Done {
    let container = Container::new(world, json!({"process": {"args": ["sh", "-c", FAMILY]}}))?;
    container.start()?;
    let count = || container.file("pids", "cgroup.procs", "cgroup.procs").map_or(0, |text| text.lines().count());
    until("its children run", || count() > 8)?;
    container.ok(&["delete", "--force", &container.id])?;
    container.is_gone()
}

fn kill_all(world: &World) -> Done {
    // The host's PID namespace: nothing but the cgroup knows who belongs to the container.
    let container = Container::new(world, json!({"process": {"args": ["sh", "-c", FAMILY]}}))?;
    container.change(json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}}))?;
    container.start()?;
    let procs = || container.file("pids", "cgroup.procs", "cgroup.procs").unwrap_or_default();
    until("its children run", || procs().lines().count() > 8)?;
    container.ok(&["kill", "--all", &container.id, "KILL"])?;
    until("all have ended", || procs().is_empty())?;
    container.ok(&["delete", &container.id])?;
    container.is_gone()
}

fn no_path(world: &World) -> Done {
    let container = Container::new(world, json!({"linux": {"cgroupsPath": ""}}))?;
    container.start()?;
    let unit = format!("killick-{}.scope", container.id);
    let shown = shown(&unit)?;
    same("slice", shown["Slice"].as_str(), "system.slice")?;
    same("state", shown["ActiveState"].as_str(), "active")?;
    container.ok(&["delete", "--force", &container.id])?;
    same("cgroups left", shell(&format!("find /sys/fs/cgroup -name '{unit}'"))?.as_str(), "")
}

fn by_form(world: &World) -> Done {
    let mut container = Container::new(world, json!({}))?;
    container.global.clear();
    container.start()?;
    container.wants(&[("ActiveState", "active")])?;
    same("strays", container.strays(&container.pid()?)?, Vec::new())?;
    // Who made it is known to whoever ends it.
    container.ok(&["delete", "--force", &container.id])?;
    container.is_gone()
}

fn literal(world: &World) -> Done {
    let mut container = Container::new(world, json!({}))?;
    container.global = vec!["--cgroup-manager".into(), "cgroupfs".into()];
    container.start()?;
    container.wants(&[("LoadState", "not-found")])?;
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()?)).map_err(|error| error.to_string())?;
    let path = format!(":/{}", container.path());
    if !text.lines().any(|line| line.ends_with(&path)) {
        return Err(format!("{path} is not in\n{text}"));
    }
    container.ok(&["delete", "--force", &container.id])?;
    same("cgroups left", shell(&format!("find /sys/fs/cgroup -name '{}'", container.path()))?.as_str(), "")
}

fn slice(world: &World) -> Done {
    let container = Container::new(world, json!({}))?;
    let name = container.slice.replace(".slice", "-own.slice");
    container.change(json!({"linux": {"cgroupsPath": format!(":x:{name}"), "resources": {"pids": {"limit": 33}}}}))?;
    container.start()?;
    let shown = shown(&name)?;
    same("state", shown["ActiveState"].as_str(), "active")?;
    same("TasksMax", shown["TasksMax"].as_str(), "33")?;
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()?)).map_err(|error| error.to_string())?;
    if !text.lines().any(|line| line.ends_with(&format!("/{name}"))) {
        return Err(format!("{name} is not in\n{text}"));
    }
    container.ok(&["exec", &container.id, "true"])?;
    container.ok(&["delete", "--force", &container.id])?;
    same("cgroups left", shell(&format!("find /sys/fs/cgroup -name '{name}'"))?.as_str(), "")
}

fn system_bus(world: &World) -> Done {
    let container = Container::new(world, json!({"linux": {"resources": {"pids": {"limit": 44}}}}))?;
    let only_bus = |words: &[&str]| {
        let mut inner = container.command(words);
        let words: Vec<String> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        inner = Command::new("unshare");
        let hide = "mount --bind /dev/null /run/systemd/private && exec \"$@\" </dev/null >/dev/null 2>\"$ERR\"";
        let errors = container.dir.join("bus-err");
        let done = run(inner.args(["-m", "sh", "-c", hide, "sh"]).args(words).env("ERR", &errors));
        if done.code == 0 {
            return Ok(());
        }
        Err(format!("exit code {}: {}", done.code, fs::read_to_string(&errors).unwrap_or_default()))
    };
    let bundle = container.dir.display().to_string();
    let create = || only_bus(&["create", "--bundle", &bundle, &container.id]);
    // As `Container::create`: an emulated machine may be too slow for the deadline once.
    match create() {
        Err(why) if why.contains(LATE) => container.is_gone().and_then(|()| create())?,
        other => other?,
    }
    container.wants(&[("ActiveState", "active"), ("TasksMax", "44")])?;
    only_bus(&["update", "--pids-limit", "55", &container.id])?;
    container.wants(&[("TasksMax", "55")])?;
    only_bus(&["delete", "--force", &container.id])?;
    container.is_gone()
}

fn delegates(world: &World) -> Done {
    let script = "mkdir /sys/fs/cgroup/inner && echo 0 >/sys/fs/cgroup/inner/cgroup.procs && \
                  echo '+pids +memory' >/sys/fs/cgroup/cgroup.subtree_control && echo 7 >/sys/fs/cgroup/inner/pids.max && \
                  echo done >/tmp/done; sleep 1000";
    let container = Container::new(world, json!({"process": {"args": ["sh", "-c", script]}}))?;
    container.change(json!({
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]},
        ],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "pid"}, {"type": "cgroup"}]},
    }))?;
    container.start()?;
    until("it has delegated", || container.dir.join("rootfs/tmp/done").exists())?;
    same("pids.max", container.file("", "", "inner/pids.max")?.as_str(), "7")?;
    container.ok(&["exec", &container.id, "true"])?;
    // A reload must not take away what the container did in its own part of the tree.
    shell("systemctl daemon-reload")?;
    same("pids.max", container.file("", "", "inner/pids.max")?.as_str(), "7")?;
    container.ok(&["delete", "--force", &container.id])?;
    container.is_gone()
}

fn oom(world: &World) -> Done {
    let limit = 32 << 20;
    let script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero";
    let change = json!({
        "process": {"args": ["sh", "-c", script]},
        "linux": {"resources": {"memory": {"limit": limit, "swap": limit}}},
    });
    let container = Container::new(world, change)?;
    container.start()?;
    let told = container.dir.join("events");
    let mut events = container.spawn(&["events", "--interval", "1s", &container.id], &told)?;
    let begun = until("events has begun", || fs::read_to_string(&told).is_ok_and(|text| text.contains("\"stats\"")));
    begun.map_err(|why| {
        let text = fs::read_to_string(&told).unwrap_or_default();
        format!("{why}: the container is {:?}, events said {text:?}", container.status())
    })?;
    fs::write(container.dir.join("rootfs/tmp/go"), "").map_err(|error| error.to_string())?;
    let ended = until("it is killed", || container.status().is_ok_and(|status| status == "stopped"));
    let over = until("events ends", || events.try_wait().is_ok_and(|status| status.is_some()));
    let _ = events.kill();
    let _ = events.wait();
    ended.and(over)?;
    let text = fs::read_to_string(&told).unwrap_or_default();
    if !text.contains("\"oom\"") {
        return Err(format!("no oom in {text}"));
    }
    container.ok(&["delete", &container.id])?;
    container.is_gone()
}

/// It takes longer than our deadline where the processor is emulated: then the container is given up, and nothing stays.
fn reexec(world: &World) -> Done {
    let container = Container::new(world, json!({"linux": {"resources": {"pids": {"limit": 20}}}}))?;
    let reexec = || Command::new("systemctl").arg("daemon-reexec").spawn().map_err(|error| error.to_string());
    for round in 0..2 {
        let mut again = reexec()?;
        let made = container.start();
        let _ = again.wait();
        made.map_err(|why| format!("round {round}: {why}"))?;
        same("strays", container.strays(&container.pid()?)?, Vec::new())?;
        let mut again = reexec()?;
        let gone = container.ok(&["delete", "--force", &container.id]);
        let _ = again.wait();
        match gone {
            Err(why) if why.contains(LATE) => container.ok(&["delete", "--force", &container.id]).map(drop)?,
            other => other.map(drop).map_err(|why| format!("round {round}: {why}"))?,
        }
        container.is_gone()?;
    }
    Ok(())
}

fn many(world: &World) -> Done {
    let containers = (0..6).map(|_| Container::new(world, json!({}))).collect::<Result<Vec<_>, _>>()?;
    let results = std::thread::scope(|scope| {
        let handles: Vec<_> = containers.iter().map(|container| scope.spawn(|| container.start())).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| Err("a panic".into()))).collect::<Vec<_>>()
    });
    results.into_iter().collect::<Result<Vec<()>, String>>()?;
    for container in &containers {
        same("strays", container.strays(&container.pid()?)?, Vec::new())?;
        if world.layout == Layout::V2 {
            container.wants(&[("ActiveState", "active")])?;
        }
    }
    Ok(())
}
