//! What is refused names its reason and leaves no unit, no cgroup and no process.

use crate::container::{Container, Output, same, shell, shown};
use crate::{Done, Test, World, test};
use serde_json::json;

pub fn tests() -> Vec<Test> {
    vec![
        test("a_property_that_could_run_something_is_refused", exec_start),
        test("a_harmless_property_is_the_units", harmless),
        test("a_path_that_is_not_of_the_form_is_refused", form),
        test("a_unit_that_lives_is_not_taken", taken),
        test("a_container_whose_program_is_missing_leaves_no_unit", no_program),
        test("a_limit_that_the_kernel_refuses_leaves_no_unit", bad_limit),
        test("a_state_that_was_lost_at_creation_is_forgotten_with_its_unit", killed),
    ]
}

fn create(container: &Container<'_>) -> Output {
    let dir = container.dir.display().to_string();
    container.oci(&["create", "--bundle", &dir, &container.id])
}

fn refused(container: &Container<'_>, text: &str) -> Done {
    let output = create(container);
    if output.code == 0 || !output.err.contains(text) {
        return Err(format!("wanted {text:?}, got {output:?}"));
    }
    container.is_gone()?;
    container.fails(&["state", &container.id], "container does not exist")
}

fn exec_start(world: &World) -> Done {
    for name in ["ExecStart", "OnFailure", "DeviceAllow"] {
        let key = format!("org.systemd.property.{name}");
        let container = Container::new(world, json!({"annotations": {&key: "'x'"}}))?;
        refused(&container, &format!("annotation {key}: a container may not set this property"))?;
    }
    Ok(())
}

fn harmless(world: &World) -> Done {
    let annotations = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.KillSignal": "int32 10",
        "org.systemd.property.After": "['dbus.service']",
        "org.systemd.property.Description": "'a \"web\" server'",
    });
    let container = Container::new(world, json!({"annotations": annotations}))?;
    container.start()?;
    container.wants(&[("TimeoutStopUSec", "7s"), ("KillSignal", "10"), ("Description", "a \"web\" server")])?;
    let shown = container.shown()?;
    if !shown["After"].split(' ').any(|unit| unit == "dbus.service") {
        return Err(format!("After={}", shown["After"]));
    }
    Ok(())
}

fn form(world: &World) -> Done {
    for (path, text) in [
        ("/a/b", "expected cgroupsPath to be of format"),
        ("a.slice:b", "expected cgroupsPath to be of format"),
        ("a--b.slice:kt:x", "invalid slice name"),
        ("b.slice:kt:a-b.slice", "its place is in"),
    ] {
        let container = Container::new(world, json!({"linux": {"cgroupsPath": path}}))?;
        refused(&container, text)?;
    }
    Ok(())
}

fn taken(world: &World) -> Done {
    let container = Container::new(world, json!({}))?;
    let (slice, unit) = (&container.slice, container.unit());
    shell(&format!("systemd-run -q --scope --slice={slice} --unit={unit} sleep 999 >/dev/null 2>&1 & sleep 0.2"))?;
    crate::container::until("the other one runs", || shown(&unit).is_ok_and(|s| s["ActiveState"] == "active"))?;
    let output = create(&container);
    let still = shown(&unit)?["ActiveState"].clone();
    shell(&format!("systemctl stop {unit}"))?;
    if output.code == 0 || !(output.err.contains("not empty") || output.err.contains("already exists")) {
        return Err(format!("{output:?}"));
    }
    same("the other unit", still.as_str(), "active")
}

fn no_program(world: &World) -> Done {
    let container = Container::new(world, json!({"process": {"args": ["/no/such/program"]}}))?;
    refused(&container, "/no/such/program")
}

fn bad_limit(world: &World) -> Done {
    let container = Container::new(world, json!({"linux": {"resources": {"cpu": {"cpus": "4000"}}}}))?;
    refused(&container, "cpuset.cpus")
}

fn killed(world: &World) -> Done {
    // A runtime that dies while its container waits at the gate takes it along; delete finds what is left.
    let container = Container::new(world, json!({}))?;
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID; sleep 1"]});
    container.change(json!({"hooks": {"createRuntime": [hook]}}))?;
    let output = create(&container);
    if output.code == 0 {
        return Err(format!("{output:?}"));
    }
    let _ = container.oci(&["delete", "--force", &container.id]);
    container.is_gone()
}
