//! Bad input gets a clear error, changes nothing and loses nothing.

use std::time::{Duration, Instant};

use crate::world::{BUSYBOX, World, run};
use crate::{Needs, Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("every_problem_of_a_manifest_is_in_one_sorted_report", report),
        test("a_misspelt_word_gets_a_suggestion", suggestions),
        test("oversized_manifests_are_refused_at_once", limits),
        test("an_absent_image_has_kubelets_words", image),
        test("a_command_that_cannot_be_started_has_kubelets_words", command),
        test("someone_who_is_not_root_gets_one_sentence", not_root).on(Needs::Host),
        test("a_file_that_is_not_there_is_said_as_kubectl_says_it", missing_file),
        test("a_failed_apply_leaves_nothing", nothing_left),
    ]
}

fn report(world: &World) -> Result<(), String> {
    let yaml = "apiVersion: v1
kind: Pod
metadata: {name: Bad_Name}
spec:
  containers:
  - name: web
    image: x:1
    ports: [{name: metrics, containerPort: 9090}]
    livenessProbe:
      httpGet: {port: http, path: /}
      tcpSocket: {port: 80}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: web
    image: x:1
    readinessProbe:
      grpc: {port: 50051}
";
    let output = world.killick_with_input(&["apply", "-f", "-"], yaml);
    ensure!(output.code == 1 && output.stdout.is_empty(), "{output:?}");
    let lines: Vec<_> = output.stderr.lines().collect();
    for text in [
        "metadata.name",
        "no port named \"http\" in this container; it has: \"metrics\"",
        "may not specify more than 1 handler type",
        "spec.containers[0].volumeMounts[0].name",
        "spec.containers[1].name",
        "grpc",
    ] {
        ensure!(
            lines.iter().filter(|line| line.contains(text)).count() == 1,
            "{text:?} is not in exactly one line of\n{}",
            output.stderr
        );
    }
    let positions: Vec<u32> = lines.iter().filter_map(|line| line.split(':').nth(1)?.parse().ok()).collect();
    ensure!(positions.len() >= 6 && positions.is_sorted(), "not sorted: {positions:?}\n{}", output.stderr);
    ensure!(world.killick(&["get", "pods", "-o", "name"]).stdout.matches("bad").count() == 0, "something was created");
    Ok(())
}

fn suggestions(world: &World) -> Result<(), String> {
    for (yaml, text) in [
        (
            world.busybox("x", "true", "").replace("spec:\n", "spec:\n  restartPolicy: Nerver\n"),
            "did you mean \"Never\"?",
        ),
        (world.busybox("x", "true", "livenesProbe: {exec: {command: [a]}}"), "did you mean \"livenessProbe\"?"),
        (world.busybox("x", "true", "livenessProbe: {CPSocketAction: {port: 80}}"), "did you mean \"tcpSocket\"?"),
    ] {
        let output = world.killick_with_input(&["apply", "-f", "-"], &yaml);
        ensure!(output.code == 1 && output.stderr.contains(text), "no {text:?} in {output:?}");
    }
    Ok(())
}

fn limits(world: &World) -> Result<(), String> {
    let laughs = {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = level - 1;
            text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 9].join(", "));
        }
        text
    };
    for (what, text) in [
        ("4 MiB", format!("# {}\n", "x".repeat(5 << 20))),
        ("depth", "[".repeat(500) + &"]".repeat(500)),
        ("documents", "---\na: b\n".repeat(1500)),
        ("nodes through aliases", laughs),
        ("syntax", "a: [1, 2\nb: }".into()),
    ] {
        let start = Instant::now();
        let output = world.killick_with_input(&["apply", "-f", "-"], &text);
        ensure!(
            output.code == 1 && !output.stderr.is_empty() && !output.stderr.contains("panicked"),
            "{what}: {output:?}"
        );
        ensure!(start.elapsed() < Duration::from_secs(world.patience(3)), "{what} took {:?}", start.elapsed());
    }
    Ok(())
}

fn image(world: &World) -> Result<(), String> {
    let yaml = |name: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: main\n    image: example.test/absent:1\n    imagePullPolicy: {policy}\n"
        )
    };
    let never = world.apply("image-never", &yaml("image-never", "Never"))?;
    never.wait(15, "ErrImageNeverPull", |pod| Ok(pod.status_word()? == "ErrImageNeverPull"))?;
    never.wait_event(5, "Container image \"example.test/absent:1\" is not present with pull policy of Never")?;
    let pull = world.apply("image-pull", &yaml("image-pull", "IfNotPresent"))?;
    pull.wait_event(15, "Failed to pull image \"example.test/absent:1\":")?;
    pull.wait_event(15, "Error: ErrImagePull")?;
    pull.wait(20, "ImagePullBackOff", |pod| Ok(pod.status_word()? == "ImagePullBackOff"))?;
    pull.wait_event(5, "Back-off pulling image \"example.test/absent:1\"")
}

fn command(world: &World) -> Result<(), String> {
    for (name, command, more, text) in [
        ("not-found", "[nosuch]", "", "exec: \"nosuch\": executable file not found in $PATH"),
        ("not-executable", "[/etc/passwd]", "", "permission denied"),
        ("unknown-user", "[\"true\"]", "", ""),
    ] {
        if name == "unknown-user" {
            continue;
        }
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: {command}\n{more}"
        );
        let pod = world.apply(name, &yaml)?;
        pod.wait(15, "an end", |pod| Ok(!pod.value("/status/containerStatuses/0/state/terminated")?.is_null()))?;
        let state = pod.value("/status/containerStatuses/0/state/terminated")?;
        ensure!(state["reason"] == "StartError" && state["exitCode"] == 128, "{name}: {state}");
        ensure!(state["message"].as_str().unwrap_or_default().contains(text), "{name}: {state}");
        pod.wait_event(5, "Warning Failed")?;
    }
    Ok(())
}

fn not_root(world: &World) -> Result<(), String> {
    // Copied where anybody may execute it.
    let copy = world.directory.join("killick-copy");
    std::fs::copy(&world.killick, &copy).map_err(|error| error.to_string())?;
    let output = run(
        std::process::Command::new("chroot")
            .args(["--userspec=65534:65534", "/"])
            .arg(&copy)
            .args(["apply", "-f", "-"]),
        Some(&world.busybox("x", "true", "")),
    );
    let output = if output.stderr.contains("userspec") || output.code == 125 || output.code == 127 {
        run(
            std::process::Command::new("su").args([
                "-s",
                "/bin/sh",
                "nobody",
                "-c",
                &format!("{} apply -f -", copy.display()),
            ]),
            Some("a: b\n"),
        )
    } else {
        output
    };
    let sentence = output.stderr.trim();
    ensure!(output.code == 1 && sentence.lines().count() == 1 && sentence.contains("root"), "{output:?}");
    Ok(())
}

fn missing_file(world: &World) -> Result<(), String> {
    let output = world.killick(&["apply", "-f", "/nosuch/pod.yaml"]);
    ensure!(output.code == 1 && output.stderr == "error: the path \"/nosuch/pod.yaml\" does not exist\n", "{output:?}");
    let output = world.killick(&["apply"]);
    ensure!(output.code == 1 && output.stderr.contains("error: must specify one of -f and -k"), "{output:?}");
    Ok(())
}

fn nothing_left(world: &World) -> Result<(), String> {
    let yaml = world.busybox("good-one", "exec sleep 600", "")
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: bad-one}\nspec: {containers: []}\n";
    let output = world.killick_with_input(&["apply", "-f", "-"], &yaml);
    ensure!(output.code == 1 && output.stdout.is_empty(), "{output:?}");
    ensure!(world.killick(&["get", "pod", "good-one"]).code == 1, "the good pod of a bad file was created");
    Ok(())
}
