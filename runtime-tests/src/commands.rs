//! The command line as its users know it: kubectl's options, output and exit codes.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{BUSYBOX, NGINX, World, run, squeezed};
use crate::{Needs, Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("apply_says_created_configured_unchanged", apply),
        test("a_changed_image_restarts_only_its_container", image_change),
        test("get_prints_each_format", get),
        test("logs_follow_tail_since_timestamps_and_previous", logs),
        test("exec_carries_streams_exit_codes_and_errors", exec),
        test("exec_with_a_terminal_is_a_terminal", terminal).on(Needs::Host),
        test("delete_takes_kubectls_options", delete),
        test("images_are_imported_listed_tagged_and_removed", images),
        test("plan_prints_what_would_be_done_and_does_nothing", plan),
        test("the_binaries_say_their_version", version),
        test("one_name_is_taken_once_by_concurrent_applies", concurrent),
    ]
}

fn apply(world: &World) -> Result<(), String> {
    let yaml = world.busybox("apply-words", "exec sleep 600", "");
    let pod = world.apply("apply-words", &yaml)?;
    pod.wait_running()?;
    let again = world.killick_with_input(&["apply", "-f", "-"], &yaml);
    ensure!(again.code == 0 && again.stdout == "pod/apply-words unchanged\n", "{again:?}");
    let labelled = yaml.replace("  name: apply-words\n", "  name: apply-words\n  labels: {tier: web}\n");
    let changed = world.killick_with_input(&["apply", "-f", "-"], &labelled);
    ensure!(changed.code == 0 && changed.stdout == "pod/apply-words configured\n", "{changed:?}");
    let rows = world.ok(&["get", "pods", "-l", "tier=web", "--no-headers"])?;
    ensure!(rows.contains("apply-words"), "{rows}");
    let refused = world.killick_with_input(&["apply", "-f", "-"], &labelled.replace("sleep 600", "sleep 601"));
    ensure!(
        refused.code == 1 && refused.stderr.contains("pod updates may not change fields other than"),
        "{refused:?}"
    );
    ensure!(pod.restarts()? == 0, "restarted");
    Ok(())
}

fn image_change(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: image-change}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: one\n    image: {BUSYBOX}\n    command: [sleep, '600']\n  - name: two\n    image: {BUSYBOX}\n    command: [sleep, '600']\n"
    );
    let pod = world.apply("image-change", &yaml)?;
    pod.wait_running()?;
    let changed =
        world.killick_with_input(&["apply", "-f", "-"], &yaml.replacen(BUSYBOX, "killick.local/busybox:1", 1));
    ensure!(changed.stdout == "pod/image-change configured\n", "{changed:?}");
    pod.wait_event(10, "Container one definition changed, will be restarted")?;
    pod.wait(15, "one restarted, two not", |pod| {
        Ok(pod.value("/status/containerStatuses/0/restartCount")? == 1
            && pod.value("/status/containerStatuses/1/restartCount")? == 0
            && pod.row()?[1] == "2/2")
    })
}

fn get(world: &World) -> Result<(), String> {
    let none = world.killick(&["get", "pods", "-n", "empty"]);
    ensure!(none.code == 0 && none.stderr == "No resources found in empty namespace.\n", "{none:?}");
    let absent = world.killick(&["get", "pod", "absent"]);
    ensure!(
        absent.code == 1 && absent.stderr == "Error from server (NotFound): pods \"absent\" not found\n",
        "{absent:?}"
    );
    let kind = world.killick(&["get", "gadgets"]);
    ensure!(
        kind.code == 1 && kind.stderr.contains("error: the server doesn't have a resource type \"gadgets\""),
        "{kind:?}"
    );
    let pod = world.apply(
        "get-formats",
        &world.busybox("get-formats", "exec sleep 600", "").replace("metadata:\n", "metadata:\n  namespace: formats\n"),
    );
    // The pod is in another namespace: it is found there, and by -A.
    let row = world.ok(&["get", "po", "-n", "formats"])?;
    ensure!(squeezed(&row).starts_with("NAME READY STATUS RESTARTS AGE get-formats"), "{row}");
    ensure!(
        world
            .ok(&["get", "pods", "-A", "--no-headers"])?
            .lines()
            .any(|line| squeezed(line).starts_with("formats get-formats")),
        "-A"
    );
    ensure!(world.ok(&["get", "pod/get-formats", "-n", "formats", "-o", "name"])? == "pod/get-formats\n", "-o name");
    let yaml = world.ok(&["get", "pod", "get-formats", "-n", "formats", "-o", "yaml"])?;
    ensure!(
        yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n") && yaml.contains("  restartPolicy: Always\n"),
        "{yaml}"
    );
    let json = world.ok(&["get", "pod", "get-formats", "-n", "formats", "-o", "json"])?;
    ensure!(json.starts_with("{\n    \"apiVersion\": \"v1\",\n"), "{json}");
    let wrong = world.killick(&["get", "pods", "-o", "pdf"]);
    ensure!(
        wrong.code == 1
            && wrong.stderr.contains("error: unable to match a printer suitable for the output format \"pdf\""),
        "{wrong:?}"
    );
    let events = world.ok(&["get", "events", "-n", "formats"])?;
    ensure!(squeezed(&events).starts_with("LAST SEEN TYPE REASON OBJECT MESSAGE"), "{events}");
    ensure!(events.contains("pod/get-formats"), "{events}");
    drop(pod);
    world.ok(&["delete", "pod", "get-formats", "-n", "formats", "--now"])?;
    Ok(())
}

fn logs(world: &World) -> Result<(), String> {
    let line = "i=0; while [ $i -lt 5 ]; do echo out-$i; echo err-$i >&2; i=$((i+1)); done; while [ ! -e /tmp/end ]; do sleep 0.1; done; echo last; exit 1";
    let pod = world.apply("logs", &world.busybox("logs", line, ""))?;
    pod.wait(10, "ten lines", |_| Ok(world.ok(&["logs", "logs"])?.lines().count() == 10))?;
    ensure!(world.ok(&["logs", "logs", "--tail=3"])?.lines().count() == 3, "--tail");
    ensure!(world.ok(&["logs", "logs", "--since=1h"])?.lines().count() == 10, "--since");
    let stamped = world.ok(&["logs", "logs", "--timestamps", "--tail=1"])?;
    ensure!(stamped.starts_with("20") && stamped.contains('T') && stamped.contains("Z "), "{stamped}");
    let mut follow = world
        .command(&["logs", "-f", "logs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    pod.shell("touch /tmp/end")?;
    let mut text = String::new();
    follow.stdout.take().ok_or("no pipe")?.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let _ = follow.wait();
    ensure!(text.ends_with("last\n") && text.lines().count() == 11, "-f ended with {text:?}");
    pod.wait(15, "a restart", |pod| Ok(pod.restarts()? >= 1))?;
    let previous = world.ok(&["logs", "-p", "logs"])?;
    ensure!(previous.ends_with("last\n"), "{previous:?}");
    let wrong = world.killick(&["logs", "logs", "-c", "nope"]);
    ensure!(wrong.code == 1 && wrong.stderr.contains("error: container nope is not valid for pod logs"), "{wrong:?}");
    // A large output comes through whole and is not mixed up.
    let large = world
        .apply("large", &world.busybox("large", "head -c 3000000 /dev/zero | tr '\\0' y; echo; exec sleep 600", ""))?;
    large.wait(20, "3 MB", |_| Ok(world.ok(&["logs", "large"])?.len() == 3_000_001))
}

fn exec(world: &World) -> Result<(), String> {
    let pod = world.apply("exec", &world.busybox("exec", "exec sleep 600", ""))?;
    pod.wait_running()?;
    let output = world.killick(&["exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    ensure!(
        output.code == 7 && output.stdout == "out\n" && output.stderr == "err\ncommand terminated with exit code 7\n",
        "{output:?}"
    );
    let killed = world.killick(&["exec", "exec", "--", "sh", "-c", "kill -9 $$"]);
    ensure!(killed.code == 137, "{killed:?}");
    let mut command = world.command(&["exec", "-i", "exec", "--", "cat"]);
    let echoed = run(&mut command, Some(&"0123456789".repeat(50_000)));
    ensure!(
        echoed.code == 0 && echoed.stdout.len() == 500_000,
        "{} bytes came back, {}",
        echoed.stdout.len(),
        echoed.stderr
    );
    let absent = world.killick(&["exec", "exec", "--", "nosuch"]);
    ensure!(
        absent.code == 1 && absent.stderr.contains("exec: \"nosuch\": executable file not found in $PATH"),
        "{absent:?}"
    );
    let container = world.killick(&["exec", "exec", "-c", "nope", "--", "true"]);
    ensure!(
        container.code == 1 && container.stderr.contains("container nope is not valid for pod exec"),
        "{container:?}"
    );
    let none = world.killick(&["exec", "exec"]);
    ensure!(
        none.code == 1 && none.stderr.contains("you must specify at least one command for the container"),
        "{none:?}"
    );
    // What it leaves running does not hold the client, and is gone with the container.
    let start = Instant::now();
    let detached = world.killick(&["exec", "exec", "--", "sh", "-c", "sleep 333 >/dev/null 2>&1 & echo started"]);
    ensure!(detached.code == 0 && start.elapsed() < Duration::from_secs(world.patience(10)), "{detached:?}");
    Ok(())
}

/// `exec -it` under script(1), which is a terminal of its own.
fn terminal(world: &World) -> Result<(), String> {
    let pod = world.apply("terminal", &world.busybox("terminal", "exec sleep 600", ""))?;
    pod.wait_running()?;
    // busybox's script gives the command a terminal; on the host util-linux's does.
    let inner = format!(
        "KILLICK_RUN={0}/run KILLICK_ROOT={0}/root KILLICK_LOGS={0}/logs {1} exec -it terminal -- sh",
        world.directory.display(),
        world.words(&world.killick).join(" ")
    );
    let mut child = std::process::Command::new("script")
        .args(["-q", "-c", &inner, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("script: {error}"))?;
    let mut input = child.stdin.take().ok_or("no pipe")?;
    std::thread::sleep(Duration::from_secs(world.patience(1)));
    input.write_all(b"tty; test -t 0 && echo is-a-terminal\nexit 3\n").map_err(|error| error.to_string())?;
    let mut text = String::new();
    child.stdout.take().ok_or("no pipe")?.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let _ = child.wait();
    ensure!(text.contains("/dev/pts/") && text.contains("is-a-terminal\r\n"), "{text:?}");
    ensure!(text.contains("command terminated with exit code 3"), "{text:?}");
    Ok(())
}

fn delete(world: &World) -> Result<(), String> {
    let absent = world.killick(&["delete", "pod", "absent"]);
    ensure!(
        absent.code == 1 && absent.stderr == "Error from server (NotFound): pods \"absent\" not found\n",
        "{absent:?}"
    );
    ensure!(world.killick(&["delete", "pod", "absent", "--ignore-not-found"]).code == 0, "--ignore-not-found");
    let both = world.killick(&["delete", "pod", "x", "--now", "--grace-period=5"]);
    ensure!(
        both.code == 1 && both.stderr.contains("--now and --grace-period cannot be specified together"),
        "{both:?}"
    );
    let stubborn = |name: &str| {
        world.busybox(name, "trap '' TERM; while :; do sleep 0.1; done", "").replace("Seconds: 2", "Seconds: 30")
    };
    let pod = world.apply("delete-force", &stubborn("delete-force"))?;
    pod.wait_running()?;
    let start = Instant::now();
    let forced = world.killick(&["delete", "pod", "delete-force", "--grace-period=0", "--force"]);
    ensure!(
        forced.code == 0 && forced.stdout.contains("pod \"delete-force\" force deleted from default namespace"),
        "{forced:?}"
    );
    ensure!(forced.stderr.starts_with("Warning: Immediate deletion does not wait for confirmation"), "{forced:?}");
    ensure!(start.elapsed() < Duration::from_secs(world.patience(10)), "{:?}", start.elapsed());
    let file = world.directory.join("delete.yaml");
    std::fs::write(&file, stubborn("delete-file")).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    world.ok(&["apply", "-f", &file])?;
    let pod = crate::world::Pod { world, name: "delete-file".into() };
    pod.wait_running()?;
    let start = Instant::now();
    let deleted = world.ok(&["delete", "-f", &file, "--grace-period=2"])?;
    ensure!(deleted == "pod \"delete-file\" deleted from default namespace\n", "{deleted:?}");
    ensure!(start.elapsed() < Duration::from_secs(world.patience(12)), "{:?}", start.elapsed());
    Ok(())
}

fn images(world: &World) -> Result<(), String> {
    let list = world.ok(&["image", "ls"])?;
    for name in [BUSYBOX, NGINX] {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
        ensure!(
            list.lines().any(|line| squeezed(line).starts_with(&format!("{repository} {tag} "))),
            "{name} is not in\n{list}"
        );
    }
    world.ok(&["image", "tag", BUSYBOX, "example.test/copy:2"])?;
    ensure!(world.ok(&["image", "ls"])?.contains("example.test/copy"), "tag");
    world.ok(&["image", "rm", "example.test/copy:2"])?;
    ensure!(!world.ok(&["image", "ls"])?.contains("example.test/copy"), "rm");
    let garbage = world.killick_with_input(&["image", "import", "-"], "this is not an archive");
    ensure!(garbage.code == 1 && !garbage.stderr.is_empty() && !garbage.stderr.contains("panicked"), "{garbage:?}");
    Ok(())
}

fn plan(world: &World) -> Result<(), String> {
    let file = world.directory.join("plan.yaml");
    std::fs::write(&file, include_str!("../../examples/livenessProbe-tcp.yaml").replace("liveness-tcp-pod", "planned"))
        .map_err(|error| error.to_string())?;
    let plan = world.ok(&["plan", "-f", &file.display().to_string()])?;
    for text in ["planned", "liveness", "6", "9", "12"] {
        ensure!(plan.contains(text), "no {text:?} in\n{plan}");
    }
    ensure!(world.killick(&["get", "pod", "planned"]).code == 1, "plan made the pod");
    Ok(())
}

fn version(world: &World) -> Result<(), String> {
    ensure!(world.ok(&["version"])?.contains("0.1.0"), "killick version");
    let shim = run(std::process::Command::new(&world.shim).arg("-v"), None);
    ensure!(shim.code == 0 && shim.stdout.contains("0.1.0"), "{shim:?}");
    Ok(())
}

fn concurrent(world: &World) -> Result<(), String> {
    let yaml = world.busybox("one-name", "exec sleep 600", "");
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..6).map(|_| scope.spawn(|| world.killick_with_input(&["apply", "-f", "-"], &yaml))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let pod = crate::world::Pod { world, name: "one-name".into() };
    let created = outputs.iter().filter(|output| output.stdout == "pod/one-name created\n").count();
    ensure!(created == 1, "{created} of 6 created it: {outputs:?}");
    pod.wait_running()?;
    let names = world.ok(&["get", "pods", "-o", "name"])?;
    ensure!(names.matches("pod/one-name\n").count() == 1, "{names}");
    Ok(())
}
