//! More of the command line: watching, selecting, several files and documents, images from a stream.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::world::{BUSYBOX, Pod, World, run, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("get_w_prints_a_line_for_each_change", watch),
        test("get_wide_lists_and_selectors_are_kubectls", lists),
        test("a_directory_is_applied_and_deleted_as_one", directory),
        test("of_a_directory_with_one_bad_file_nothing_is_created", bad_directory),
        test("delete_f_goes_on_after_what_is_not_there", delete_goes_on),
        test("logs_of_all_containers_since_a_time_and_of_what_never_ran", logs),
        test("an_image_that_is_brought_later_starts_the_pod_that_waits_for_it", image_later),
        test("a_docker_archive_comes_in_through_a_pipe_and_its_settings_hold", docker_archive),
        test("a_user_that_the_image_does_not_have_is_named", unknown_user),
        test("exec_says_what_kubectl_says", exec_words),
        test("what_hangs_on_a_pod_ends_when_it_is_deleted", ends_with_the_pod),
        test("wrong_words_get_kubectls_answers", wrong_words),
    ]
}

/// Reads until a line has these words, or the process ends.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) -> Result<String, String> {
    let mut seen = String::new();
    for line in lines {
        let line = line.map_err(|error| error.to_string())?;
        if squeezed(&line).contains(words) {
            return Ok(line);
        }
        seen += &format!("{line}\n");
    }
    Err(format!("it ended without {words:?}:\n{seen}"))
}

fn watch(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("watched", "while [ ! -e /tmp/end ]; do sleep 0.1; done", "")
        .replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    let pod = world.apply("watched", &yaml)?;
    pod.wait_running()?;
    let mut child = world
        .command(&["get", "pods", "watched", "-w"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Whatever happens below, it ends.
    let deadline = std::time::Duration::from_secs(world.patience(30));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let _ = ended.recv_timeout(deadline);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    });
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    let outcome = (|| {
        let heading = until(&mut lines, "NAME READY STATUS RESTARTS AGE")?;
        ensure!(heading.starts_with("NAME"), "{heading:?}");
        until(&mut lines, "watched 1/1 Running 0")?;
        pod.shell("touch /tmp/end")?;
        until(&mut lines, "watched 0/1 Completed 0").map(drop)
    })();
    drop(done);
    let _ = child.wait();
    let _ = guard.join();
    outcome
}

fn labelled(world: &World, name: &str, labels: &str) -> String {
    world
        .busybox(name, "exec sleep 600", "")
        .replace(&format!("  name: {name}\n"), &format!("  name: {name}\n  namespace: lists\n  labels: {labels}\n"))
}

fn lists(world: &World) -> Result<(), String> {
    let yaml = [("one", "{app: a, tier: front}"), ("two", "{app: b, tier: back}"), ("three", "{app: c}")]
        .map(|(name, labels)| labelled(world, name, labels))
        .join("---\n");
    let outcome = (|| {
        let created = world.killick_with_input(&["apply", "-f", "-"], &yaml);
        ensure!(created.stdout == "pod/one created\npod/two created\npod/three created\n", "{created:?}");
        for (selector, names) in [
            ("app=a", "pod/one\n"),
            ("app in (a,b)", "pod/one\npod/two\n"),
            ("app in (a,b),tier!=back", "pod/one\n"),
            ("tier", "pod/one\npod/two\n"),
            ("!tier", "pod/three\n"),
            ("app notin (a,b)", "pod/three\n"),
        ] {
            let seen = world.ok(&["get", "pods", "-n", "lists", "-l", selector, "-o", "name"])?;
            ensure!(seen == names, "{selector}: {seen:?}");
        }
        let wide = world.ok(&["get", "pod", "one", "two", "-n", "lists", "-o", "wide"])?;
        let lines: Vec<_> = wide.lines().map(squeezed).collect();
        ensure!(
            lines.len() == 3 && lines[0] == "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
            "{wide}"
        );
        ensure!(lines[1].starts_with("one ") && lines[1].ends_with(" <none> <none>"), "{wide}");
        let all = world.ok(&["get", "pods", "-n", "lists", "-o", "yaml"])?;
        ensure!(
            all.starts_with("apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n")
                && all.ends_with("kind: List\nmetadata:\n  resourceVersion: \"\"\n"),
            "{all}"
        );
        let json: serde_json::Value = serde_json::from_str(&world.ok(&["get", "pods", "-n", "lists", "-o", "json"])?)
            .map_err(|error| error.to_string())?;
        ensure!(json["kind"] == "List" && json["items"].as_array().is_some_and(|items| items.len() == 3), "{json}");
        let labels = world.ok(&["get", "pods", "-n", "lists", "--show-labels", "--no-headers", "three"])?;
        ensure!(labels.trim_end().ends_with("app=c"), "{labels}");
        let described = world.ok(&["describe", "pod", "t", "-n", "lists"])?;
        ensure!(described.matches("Namespace: ").count() == 2, "describe takes the beginning of names:\n{described}");
        Ok(())
    })();
    let deleted = world.killick(&["delete", "pods", "one", "two", "three", "-n", "lists", "--now"]);
    outcome?;
    ensure!(
        deleted.stdout
            == "pod \"one\" deleted from lists namespace\npod \"two\" deleted from lists namespace\npod \"three\" deleted from lists namespace\n",
        "{deleted:?}"
    );
    Ok(())
}

fn directory(world: &World) -> Result<(), String> {
    let path = world.directory.join("apply-directory");
    fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    let write = |name: &str, text: &str| fs::write(path.join(name), text).map_err(|error| error.to_string());
    write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: of-directory}\ndata: {word: hello}\n")?;
    write(
        "b.yml",
        &world.busybox(
            "of-directory-one",
            "echo $WORD; exec sleep 600",
            "env: [{name: WORD, valueFrom: {configMapKeyRef: {name: of-directory, key: word}}}]",
        ),
    )?;
    write(
        "c.json",
        &format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "of-directory-two"}}, "spec": {{"terminationGracePeriodSeconds": 1, "containers": [{{"name": "main", "image": "{BUSYBOX}", "command": ["sleep", "600"]}}]}}}}"#
        ),
    )?;
    write("README.txt", "not a manifest: [\n")?;
    let path = path.display().to_string();
    let one = Pod { world, name: "of-directory-one".into() };
    let two = Pod { world, name: "of-directory-two".into() };
    let created = world.killick(&["apply", "-f", &path]);
    ensure!(
        created.code == 0
            && created.stdout
                == "configmap/of-directory created\npod/of-directory-one created\npod/of-directory-two created\n",
        "{created:?}"
    );
    one.wait_running()?;
    two.wait_running()?;
    one.wait(5, "the log", |pod| Ok(world.ok(&["logs", &pod.name])? == "hello\n"))?;
    let again = world.ok(&["apply", "-f", &path])?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")) && again.lines().count() == 3, "{again}");
    let deleted = world.ok(&["delete", "-f", &path, "--now"])?;
    ensure!(deleted.lines().count() == 3 && deleted.contains("configmap \"of-directory\" deleted"), "{deleted}");
    Ok(())
}

fn bad_directory(world: &World) -> Result<(), String> {
    let path = world.directory.join("bad-directory");
    fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    fs::write(path.join("a.yaml"), world.busybox("bad-directory", "exec sleep 600", ""))
        .map_err(|error| error.to_string())?;
    fs::write(path.join("b.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec: {containers: [{name: X}]}\n")
        .map_err(|error| error.to_string())?;
    let output = world.killick(&["apply", "-f", &path.display().to_string()]);
    ensure!(output.code == 1 && output.stdout.is_empty(), "{output:?}");
    ensure!(output.stderr.lines().all(|line| line.contains("b.yaml:4:")), "{output:?}");
    ensure!(world.killick(&["get", "pod", "bad-directory"]).code == 1, "the good pod was created");
    Ok(())
}

fn delete_goes_on(world: &World) -> Result<(), String> {
    let yaml = ["goes-on-a", "goes-on-b"].map(|name| world.busybox(name, "exec sleep 600", "")).join("---\n");
    let file = world.directory.join("goes-on.yaml");
    fs::write(&file, &yaml).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    world.ok(&["apply", "-f", &file])?;
    world.ok(&["delete", "pod", "goes-on-a", "--now"])?;
    let output = world.killick(&["delete", "-f", &file, "--now"]);
    ensure!(
        output.code == 1
            && output.stdout == "pod \"goes-on-b\" deleted from default namespace\n"
            && output.stderr
                == format!(
                    "Error from server (NotFound): error when deleting \"{file}\": pods \"goes-on-a\" not found\n"
                ),
        "{output:?}"
    );
    ensure!(world.killick(&["get", "pod", "goes-on-b"]).code == 1, "goes-on-b is still there");
    let quiet = world.killick(&["delete", "-f", &file, "--ignore-not-found"]);
    ensure!(quiet.code == 0 && quiet.stderr.is_empty(), "{quiet:?}");
    Ok(())
}

fn logs(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: all-logs}}\nspec:\n  terminationGracePeriodSeconds: 1\n  initContainers:\n  - {{name: first, image: {BUSYBOX}, command: [sh, -c, 'echo init']}}\n  containers:\n  - {{name: a, image: {BUSYBOX}, command: [sh, -c, 'echo early; sleep 3; echo late; exec sleep 600']}}\n  - {{name: b, image: {BUSYBOX}, command: [sh, -c, 'echo side; exec sleep 600']}}\n  - {{name: c, image: 'example.test/absent:2', command: ['true']}}\n"
    );
    let pod = world.apply("all-logs", &yaml)?;
    pod.wait(20, "late", |_| Ok(world.ok(&["logs", "all-logs", "-c", "a"])?.contains("late")))?;
    let some = world.killick(&["logs", "all-logs"]);
    ensure!(
        some.stdout == "early\nlate\n" && some.stderr == "Defaulted container \"a\" out of: a, b, c, first (init)\n",
        "{some:?}"
    );
    let stamped = world.ok(&["logs", "all-logs", "-c", "a", "--timestamps", "--tail=1"])?;
    let time = stamped.split(' ').next().unwrap_or_default();
    ensure!(world.ok(&["logs", "all-logs", "-c", "a", &format!("--since-time={time}")])? == "late\n", "--since-time");
    ensure!(world.ok(&["logs", "all-logs", "-c", "first"])? == "init\n", "an init container's log");
    let all = world.killick(&["logs", "all-logs", "--all-containers", "--prefix"]);
    for line in ["[pod/all-logs/first] init", "[pod/all-logs/a] late", "[pod/all-logs/b] side"] {
        ensure!(all.stdout.lines().any(|seen| seen == line), "no {line:?} in {all:?}");
    }
    let waiting = world.killick(&["logs", "all-logs", "-c", "c"]);
    ensure!(
        waiting.code == 1
            && (waiting
                .stderr
                .contains("container \"c\" in pod \"all-logs\" is waiting to start: image can't be pulled")
                || waiting.stderr.contains(
                    "container \"c\" in pod \"all-logs\" is waiting to start: trying and failing to pull image"
                )),
        "{waiting:?}"
    );
    let previous = world.killick(&["logs", "all-logs", "-c", "a", "-p"]);
    ensure!(
        previous.code == 1
            && previous.stderr
                == "Error from server (BadRequest): previous terminated container \"a\" in pod \"all-logs\" not found\n",
        "{previous:?}"
    );
    let wrong = world.killick(&["logs", "all-logs", "-c", "x"]);
    ensure!(
        wrong.stderr == "error: container x is not valid for pod all-logs out of: a, b, c, first (init)\n",
        "{wrong:?}"
    );
    let absent = world.killick(&["logs", "absent-pod"]);
    ensure!(
        absent.code == 1
            && absent.stderr
                == "error: error from server (NotFound): pods \"absent-pod\" not found in namespace \"default\"\n",
        "{absent:?}"
    );
    Ok(())
}

fn image_later(world: &World) -> Result<(), String> {
    let yaml = world.busybox("image-later", "exec sleep 600", "").replace(BUSYBOX, "example.test/later:1");
    let pod = world.apply("image-later", &yaml)?;
    pod.wait(10, "ImagePullBackOff", |pod| Ok(pod.status_word()? == "ImagePullBackOff"))?;
    world.ok(&["image", "tag", BUSYBOX, "example.test/later:1"])?;
    // kubelet's back-off: asked again 10 s after the first failure.
    pod.wait(25, "running", |pod| Ok(pod.status_word()? == "Running"))?;
    ensure!(pod.restarts()? == 0, "{:?}", pod.row()?);
    let events = squeezed(&pod.describe()?);
    ensure!(events.contains("Pulling image \"example.test/later:1\""), "{events}");
    drop(pod);
    world.ok(&["image", "rm", "example.test/later:1"]).map(drop)
}

/// A docker-archive of one layer with the host's static busybox, piped into `image import -`.
fn import(world: &World, name: &str, user: &str) -> Result<(), String> {
    let work = world.directory.join(format!("archive-{}", name.replace(['/', ':'], "-")));
    let path = work.display();
    world.shell(&format!(
        "mkdir -p {path}/layer/bin {path}/layer/etc && cd {path} && cp /bin/busybox layer/bin/busybox && for a in sh id pwd sleep env; do ln -s busybox layer/bin/$a; done && printf 'app:x:101:102::/srv:/bin/sh\\n' > layer/etc/passwd && printf 'app:x:102:\\nextra:x:103:app\\n' > layer/etc/group && tar -C layer -cf layer.tar ."
    ))?;
    let sum = world.shell(&format!("sha256sum < {path}/layer.tar"))?;
    let digest = sum.split_whitespace().next().unwrap_or_default();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let write = |file: &str, text: &str| fs::write(work.join(file), text).map_err(|error| error.to_string());
    write(
        "config.json",
        &format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"User":"{user}","WorkingDir":"/srv/work","Entrypoint":["sh","-c"],"Cmd":["id; pwd; echo $FROM_IMAGE; exec sleep 600"],"Env":["FROM_IMAGE=yes"],"StopSignal":"SIGKILL"}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
        ),
    )?;
    write("manifest.json", &format!(r#"[{{"Config":"config.json","RepoTags":["{name}"],"Layers":["layer.tar"]}}]"#))?;
    let said = world.shell(&format!(
        "cd {path} && tar -cf - manifest.json config.json layer.tar | gzip | KILLICK_ROOT={0}/root KILLICK_RUN={0}/run KILLICK_LOGS={0}/logs {1} image import -",
        world.directory.display(),
        world.words(&world.killick).join(" ")
    ))?;
    ensure!(said.starts_with(name), "{said}");
    Ok(())
}

fn image_pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 20\n  containers:\n  - {{name: main, image: {image:?}}}\n"
    )
}

fn docker_archive(world: &World) -> Result<(), String> {
    import(world, "test.local/settings:1", "app")?;
    let pod = world.apply("image-settings", &image_pod("image-settings", "test.local/settings:1"))?;
    pod.wait(15, "three lines", |pod| Ok(world.ok(&["logs", &pod.name])?.lines().count() == 3))?;
    let log = world.ok(&["logs", "image-settings"])?;
    ensure!(log == "uid=101(app) gid=102(app) groups=103(extra)\n/srv/work\nyes\n", "{log:?}");
    ensure!(pod.shell("id -u")? == "101\n", "exec is the image's user too");
    let used = world.killick(&["image", "rm", "test.local/settings:1"]);
    ensure!(
        used.code == 1 && used.stderr.contains("is used by pod default/image-settings"),
        "an image in use was removed: {used:?}"
    );
    // The image's own signal ends it at once, not after the grace period.
    let start = std::time::Instant::now();
    world.ok(&["delete", "pod", "image-settings"])?;
    ensure!(start.elapsed().as_secs() < world.patience(10), "{:?}", start.elapsed());
    let removed = world.ok(&["image", "rm", "test.local/settings:1"])?;
    ensure!(removed.starts_with("Untagged: test.local/settings:1\nDeleted: sha256:"), "{removed}");
    Ok(())
}

fn unknown_user(world: &World) -> Result<(), String> {
    import(world, "test.local/nobody:1", "ghost")?;
    let pod = world.apply("unknown-user", &image_pod("unknown-user", "test.local/nobody:1"))?;
    pod.wait_event(15, "unable to find user ghost: no matching entries in passwd file")?;
    let word = pod.status_word()?;
    ensure!(["StartError", "RunContainerError", "CreateContainerError"].contains(&word.as_str()), "STATUS {word}");
    drop(pod);
    world.ok(&["image", "rm", "test.local/nobody:1"]).map(drop)
}

fn exec_words(world: &World) -> Result<(), String> {
    let pod = world.apply("exec-words", &world.busybox("exec-words", "exec sleep 600", ""))?;
    pod.wait_running()?;
    let denied = world.killick(&["exec", "exec-words", "--", "/etc/passwd"]);
    ensure!(
        denied.code == 1 && denied.stderr.contains("exec: \"/etc/passwd\": permission denied"),
        "not executable: {denied:?}"
    );
    for (line, code) in [("nosuch", 127), ("/etc/passwd", 126), ("kill -TERM $$", 143)] {
        let output = world.killick(&["exec", "exec-words", "--", "sh", "-c", line]);
        ensure!(output.code == code, "{line}: {output:?}");
    }
    // Without -i the command's input is empty and ours is left alone.
    let mut command = world.command(&["exec", "exec-words", "--", "cat"]);
    let output = run(&mut command, Some("not for it"));
    ensure!(output.code == 0 && output.stdout.is_empty(), "{output:?}");
    let no_dashes = world.killick(&["exec", "exec-words", "ls"]);
    ensure!(
        no_dashes.code == 1
            && no_dashes.stderr.starts_with(
                "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\n"
            ),
        "{no_dashes:?}"
    );
    let done = world.apply(
        "exec-done",
        &world.busybox("exec-done", "true", "").replace("spec:\n", "spec:\n  restartPolicy: Never\n"),
    )?;
    done.wait(15, "Succeeded", |pod| Ok(pod.value("/status/phase")? == "Succeeded"))?;
    let completed = world.killick(&["exec", "exec-done", "--", "true"]);
    ensure!(
        completed.code == 1
            && completed.stderr
                == "error: cannot exec into a container in a completed pod; current phase is Succeeded\n",
        "{completed:?}"
    );
    Ok(())
}

fn wrong_words(world: &World) -> Result<(), String> {
    for (arguments, text) in [
        (vec!["get", "pods", "--nope"], "error: unknown flag: --nope\n"),
        (vec!["nosuch"], "error: unknown command \"nosuch\" for \"killick\"\n"),
        (vec!["exec"], "error: pod, type/name or --filename must be specified\n"),
        (vec!["logs"], "error: expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\n"),
        (vec!["describe", "pod", "absent-pod"], "Error from server (NotFound): pods \"absent-pod\" not found\n"),
        (
            vec!["get", "pods", "absent-a", "absent-b"],
            "Error from server (NotFound): pods \"absent-a\" not found\nError from server (NotFound): pods \"absent-b\" not found\n",
        ),
        (
            vec!["delete", "pod", "x", "--force", "--grace-period=3"],
            "error: --force and --grace-period greater than 0 cannot be specified together\n",
        ),
        (vec!["image", "rm", "absent.test/x:1"], "error: image \"absent.test/x:1\" not found\n"),
        (vec!["image", "import", "/nosuch.tar"], "error: the path \"/nosuch.tar\" does not exist\n"),
    ] {
        let output = world.killick(&arguments);
        ensure!(output.code == 1 && output.stdout.is_empty(), "{arguments:?}: {output:?}");
        ensure!(output.stderr.starts_with(text), "{arguments:?}: {output:?}");
    }
    let empty = world.killick_with_input(&["apply", "-f", "-"], "");
    ensure!(empty.code == 1 && empty.stderr == "error: no objects passed to apply\n", "{empty:?}");
    Ok(())
}

fn ends_with_the_pod(world: &World) -> Result<(), String> {
    let pod = world.apply("hangs-on", &world.busybox("hangs-on", "echo one; exec sleep 600", ""))?;
    pod.wait_running()?;
    pod.wait(5, "the log", |pod| Ok(world.ok(&["logs", &pod.name])? == "one\n"))?;
    std::thread::scope(|scope| {
        let logs = scope.spawn(|| world.killick(&["logs", "-f", "hangs-on"]));
        let exec = scope.spawn(|| world.killick(&["exec", "hangs-on", "--", "sh", "-c", "touch /tmp/in; sleep 300"]));
        let wait = scope.spawn(|| world.killick(&["wait", "--for=delete", "pod/hangs-on", "--timeout=60s"]));
        let started = pod.wait(10, "the exec", |pod| Ok(pod.shell("ls /tmp/in").is_ok()));
        let deleted = world.killick(&["delete", "pod", "hangs-on"]);
        let join = |thread: std::thread::ScopedJoinHandle<'_, crate::world::Output>| {
            thread.join().map_err(|_| "a thread panicked".to_string())
        };
        let (logs, exec, wait) = (join(logs)?, join(exec)?, join(wait)?);
        started?;
        ensure!(deleted.code == 0, "{deleted:?}");
        ensure!(logs.code == 0 && logs.stdout == "one\n", "logs -f: {logs:?}");
        ensure!(exec.code == 137 || exec.code == 143, "exec: {exec:?}");
        ensure!(wait.code == 0, "wait: {wait:?}");
        Ok(())
    })
}
