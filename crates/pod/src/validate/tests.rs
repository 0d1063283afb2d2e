//! One pod, one change, and what the report says about it.

mod rules;

use crate::manifest::parse;

/// The report of a manifest, without the file's name.
fn report(text: &str) -> Vec<String> {
    let problems = parse("x", text.as_bytes()).err().unwrap_or_default();
    problems.iter().map(|problem| problem.to_string()[2..].to_owned()).collect()
}

/// A good pod with lines for the pod (two spaces deep), for its first container and for its first probe.
fn pod(spec: &str, container: &str) -> String {
    let lines = |text: &str, indent: &str| -> String { text.lines().map(|line| format!("{indent}{line}\n")).collect() };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: c\n    image: i:1\n{}{}",
        lines(container, "    "),
        lines(spec, "  ")
    )
}

fn check(text: &str, expected: &[&str]) {
    let report = report(text);
    assert_eq!(report.len(), expected.len(), "{text}\n{report:#?}");
    for (line, expected) in report.iter().zip(expected) {
        // Long rules are cut with `…`.
        let holds = match expected.strip_suffix('…') {
            Some(start) => line.starts_with(start),
            None => line == expected,
        };
        assert!(holds, "{text}\n  is {line}\nnot {expected}");
    }
}

/// Fields of the container from line 8, column 5.
fn check_container(fields: &str, expected: &[&str]) {
    check(&pod("", fields), expected);
}

/// Fields of the spec from line 8, column 3.
fn check_spec(fields: &str, expected: &[&str]) {
    check(&pod(fields, ""), expected);
}

fn check_probe(fields: &str, expected: &[&str]) {
    check_container(&format!("livenessProbe: {{{fields}}}"), expected);
}

#[test]
fn the_report_of_the_issue_is_whole_and_sorted() {
    let text = "apiVersion: v1
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
    check(
        text,
        &[
            "3:18: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of …",
            "10:23: spec.containers[0].livenessProbe.httpGet.port: no port named \"http\" in this container; it has: \"metrics\"",
            "11:18: spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "12:27: spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
            "13:11: spec.containers[1].name: Duplicate value: \"web\"",
            "16:7: spec.containers[1].readinessProbe.grpc: not honoured by killick yet: probes by gRPC",
        ],
    );
}

#[test]
fn unknown_fields_and_words_get_a_suggestion() {
    check_container(
        "livenesProbe: {exec: {command: [a]}}",
        &["8:5: spec.containers[0].livenesProbe: unknown field \"livenesProbe\", did you mean \"livenessProbe\"?"],
    );
    check_container(
        "livenessProbe: {CPSocketAction: {port: 80}}",
        &[
            "8:21: spec.containers[0].livenessProbe.CPSocketAction: unknown field \"CPSocketAction\", did you mean \"tcpSocket\"?",
        ],
    );
    check_container(
        "livenessProbe: {HTTPGetAction: {port: 80}}",
        &[
            "8:21: spec.containers[0].livenessProbe.HTTPGetAction: unknown field \"HTTPGetAction\", did you mean \"httpGet\"?",
        ],
    );
    check_spec(
        "restartPolicy: Nerver",
        &[
            "8:18: spec.restartPolicy: Unsupported value: \"Nerver\": supported values: \"Always\", \"Never\", \"OnFailure\", did you mean \"Never\"?",
        ],
    );
    check_container(
        "imagePullPolicy: ifNotPresent",
        &[
            "8:22: spec.containers[0].imagePullPolicy: Unsupported value: \"ifNotPresent\": supported values: \"Always\", \"IfNotPresent\", \"Never\", did you mean \"IfNotPresent\"?",
        ],
    );
    check_spec(
        "readinessProbe: {}",
        &["8:3: spec.readinessProbe: unknown field \"readinessProbe\"; in a pod it belongs to spec.containers[]"],
    );
    check_container(
        "hostNetwork: true",
        &["8:5: spec.containers[0].hostNetwork: unknown field \"hostNetwork\"; in a pod it belongs to spec"],
    );
    check_spec("frobnicate: 1", &["8:3: spec.frobnicate: unknown field \"frobnicate\""]);
    check_spec(
        "affinity: {nodeAfinity: {}}",
        &["8:14: spec.affinity.nodeAfinity: unknown field \"nodeAfinity\", did you mean \"nodeAffinity\"?"],
    );
    check_container(
        "volumeMounts: [{name: dtaa, mountPath: /d}]\n",
        &["8:27: spec.containers[0].volumeMounts[0].name: Not found: \"dtaa\""],
    );
    check(
        &pod("volumes: [{name: data}]", "volumeMounts: [{name: dtaa, mountPath: /d}]"),
        &["8:27: spec.containers[0].volumeMounts[0].name: Not found: \"dtaa\", did you mean \"data\"?"],
    );
}

#[test]
fn wrong_types_say_what_was_wanted_and_what_to_do() {
    check_container(
        "env: [{name: A, value: 80}, {name: B, value: yes}]",
        &[
            "8:28: spec.containers[0].env[0].value: Invalid value: 80: must be a string, not a number; write \"80\" in quotes",
            "8:50: spec.containers[0].env[1].value: Invalid value: true: must be a string, not a boolean; write \"yes\" in quotes",
        ],
    );
    check_container(
        "command: /bin/sh",
        &[
            "8:14: spec.containers[0].command: Invalid value: \"/bin/sh\": must be a list, not a string; begin each element with \"- \"",
        ],
    );
    check_container(
        "tty: \"true\"\nports: [{containerPort: \"80\"}]",
        &[
            "8:10: spec.containers[0].tty: Invalid value: \"true\": must be true or false, not a string; write it without quotes",
            "9:29: spec.containers[0].ports[0].containerPort: Invalid value: \"80\": must be a whole number, not a string; write it without quotes",
        ],
    );
    check_container(
        "args: [~, {a: b}]\nlifecycle: []",
        &[
            "8:12: spec.containers[0].args[0]: must be a string, not null",
            "8:15: spec.containers[0].args[1]: must be a string, not a map",
            "9:16: spec.containers[0].lifecycle: must be a map, not a list",
        ],
    );
    check_container(
        "ports: [{containerPort: 99999999999}, {containerPort: 1.5}]",
        &[
            "8:29: spec.containers[0].ports[0].containerPort: Invalid value: 99999999999: must be between -2147483648 and 2147483647",
            "8:29: spec.containers[0].ports[0].containerPort: Invalid value: 99999999999: must be between 1 and 65535, inclusive",
            "8:59: spec.containers[0].ports[1].containerPort: Invalid value: 1.5: must be a whole number, not a number",
        ],
    );
    check_container(
        "name: d\nresources: {limits: {cpu: 1 core}}",
        &[
            "8:5: spec.containers[0].name: duplicate field \"name\", already set in line 6",
            "9:31: spec.containers[0].resources.limits[cpu]: Invalid value: \"1 core\": quantities must match the regular expression …",
        ],
    );
}

#[test]
fn what_is_not_honoured_yet_is_refused_by_name() {
    for (fields, path) in [
        ("ephemeralContainers: [{name: e}]", "3: spec.ephemeralContainers"),
        ("hostUsers: false", "14: spec.hostUsers"),
        ("readinessGates: [{conditionType: x}]", "3: spec.readinessGates"),
        ("runtimeClassName: gvisor", "3: spec.runtimeClassName"),
        ("setHostnameAsFQDN: true", "22: spec.setHostnameAsFQDN"),
        ("os: {name: windows}", "14: spec.os.name"),
        ("resources: {limits: {cpu: 1}}", "3: spec.resources"),
        ("volumes: [{name: v, nfs: {server: s, path: /}}]", "23: spec.volumes[0].nfs"),
        ("volumes: [{name: v, projected: {}}]", "23: spec.volumes[0].projected"),
        ("volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]", "45: spec.volumes[0].emptyDir.sizeLimit"),
        ("volumes: [{name: v, emptyDir: {medium: HugePages}}]", "42: spec.volumes[0].emptyDir.medium"),
        ("securityContext: {seLinuxOptions: {level: x}}", "21: spec.securityContext.seLinuxOptions"),
        ("securityContext: {supplementalGroupsPolicy: Strict}", "47: spec.securityContext.supplementalGroupsPolicy"),
        (
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}",
            "44: spec.securityContext.seccompProfile.type",
        ),
        (
            "securityContext: {appArmorProfile: {type: Localhost, localhostProfile: x}}",
            "45: spec.securityContext.appArmorProfile.type",
        ),
    ] {
        check_spec(fields, &[&format!("8:{path}: not honoured by killick yet: …")]);
    }
    for (fields, path) in [
        ("volumeDevices: [{name: v}]", "5: spec.containers[0].volumeDevices"),
        ("resizePolicy: [{resourceName: cpu}]", "5: spec.containers[0].resizePolicy"),
        ("restartPolicyRules: [{action: Restart}]", "5: spec.containers[0].restartPolicyRules"),
        ("lifecycle: {stopSignal: SIGUSR1}", "17: spec.containers[0].lifecycle.stopSignal"),
        ("resources: {claims: [{name: x}]}", "17: spec.containers[0].resources.claims"),
        ("resources: {limits: {example.com/gpu: 1}}", "26: spec.containers[0].resources.limits[example.com/gpu]"),
        ("resources: {limits: {hugepages-2Mi: 1}}", "26: spec.containers[0].resources.limits[hugepages-2Mi]"),
        ("resources: {limits: {ephemeral-storage: 1Gi}}", "26: spec.containers[0].resources.limits[ephemeral-storage]"),
        ("ports: [{containerPort: 80, hostPort: 80}]", "43: spec.containers[0].ports[0].hostPort"),
        ("securityContext: {procMount: Unmasked}", "34: spec.containers[0].securityContext.procMount"),
        (
            "securityContext: {windowsOptions: {runAsUserName: x}}",
            "23: spec.containers[0].securityContext.windowsOptions",
        ),
        ("env: [{name: A, valueFrom: {fileKeyRef: {key: k}}}]", "33: spec.containers[0].env[0].valueFrom.fileKeyRef"),
    ] {
        check_container(fields, &[&format!("8:{path}: not honoured by killick yet: …")]);
    }
    // What asks for nothing, and what changes nothing.
    check_spec(
        "ephemeralContainers: []\nhostUsers: true\nruntimeClassName: ''\nos: {name: linux}\nsetHostnameAsFQDN: no",
        &[],
    );
    check_spec("securityContext: {appArmorProfile: {type: RuntimeDefault}, fsGroupChangePolicy: Always}", &[]);
    check_container("resources: {requests: {ephemeral-storage: 1Gi}}\nresizePolicy: null", &[]);
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let fields: String = (0..1500).map(|n| format!("  unknown{n}: 1\n")).collect();
    let report = report(&(pod("", "") + &fields));
    assert_eq!(report.len(), 1001);
    assert_eq!(report[1000], "1007:3: 500 more problems are not shown");
}

/// Each would take minutes if a lookup went through a list for each element of another.
#[test]
fn many_problems_take_no_longer_than_few() {
    let start = std::time::Instant::now();
    let many = |text: &str| -> String { (0..5_000).map(|n| text.replace('#', &n.to_string())).collect() };
    for (spec, container) in [
        (many("unknown#: 1\n"), String::new()),
        (format!("volumes: [{}]", many("{name: vol-#},")), format!("volumeMounts: [{}]", many("{name: v-#},"))),
        (String::new(), format!("resources: {{limits: {{{0}}}, requests: {{{0}}}}}", many("a#: 1,"))),
        (String::new(), format!("livenessProbe: {{{}}}", many("a#: 1,"))),
        (String::new(), format!("env: [{}]", many("{name: A, valueFrom: {resourceFieldRef: {containerName: x#}}},"))),
        (String::new(), format!("ports: [{}]", many("{name: p#},"))),
        (format!("initContainers: [{}]", many("{name: c-#},")), String::new()),
    ] {
        assert!(report(&pod(&spec, &container)).len() > 100);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
}
