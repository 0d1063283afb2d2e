//! The API server's rules, one table for each part of a pod.

use super::{check, check_container, check_probe, check_spec, pod};

#[test]
fn names_are_checked_and_unique() {
    let label = "a lowercase RFC 1123 label must consist of …";
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: []}",
        &["3:11: metadata.name: Required value", "4:20: spec.containers: Required value"],
    );
    check("apiVersion: v1\nkind: Pod\n", &["1:1: metadata.name: Required value", "1:1: spec: Required value"]);
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: A}\nspec: {containers: [{}]}",
        &[
            &format!("3:32: metadata.namespace: Invalid value: \"A\": {label}"),
            "4:21: spec.containers[0].name: Required value",
            "4:21: spec.containers[0].image: Required value",
        ],
    );
    check_spec(
        "hostname: A\nsubdomain: b.c\ninitContainers: [{name: c, image: ' i'}, {name: A_b, image: i}]",
        &[
            &format!("8:13: spec.hostname: Invalid value: \"A\": {label}"),
            &format!("9:14: spec.subdomain: Invalid value: \"b.c\": {label}"),
            "10:27: spec.initContainers[0].name: Duplicate value: \"c\"",
            "10:37: spec.initContainers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
            &format!("10:51: spec.initContainers[1].name: Invalid value: \"A_b\": {label}"),
        ],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x, generateName: y-, labels: {'-': a, k: '-'}, annotations: {a b: c}}\nspec: {containers: [{name: c, image: i}]}",
        &[
            "3:21: metadata.generateName: not honoured by killick yet: a generated name",
            "3:48: metadata.labels: Invalid value: \"-\": name part must consist of …",
            "3:59: metadata.labels: Invalid value: \"-\": a valid label must be an empty string or …",
            "3:79: metadata.annotations: Invalid value: \"a b\": name part must consist of …",
        ],
    );
}

#[test]
fn probes_are_checked() {
    check_probe("", &["8:20: spec.containers[0].livenessProbe: Required value: must specify a handler type"]);
    check_probe("exec: {}", &["8:27: spec.containers[0].livenessProbe.exec.command: Required value"]);
    check_probe("httpGet: {path: /}", &["8:30: spec.containers[0].livenessProbe.httpGet.port: Required value"]);
    check_probe(
        "tcpSocket: {port: 0}",
        &[
            "8:39: spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    check_probe(
        "tcpSocket: {port: '80'}",
        &[
            "8:39: spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: \"80\": must contain at least one letter (a-z)",
        ],
    );
    check_probe(
        "tcpSocket: {port: http}",
        &[
            "8:39: spec.containers[0].livenessProbe.tcpSocket.port: no port named \"http\" in this container; it has no named ports",
        ],
    );
    check_probe(
        "httpGet: {port: 80, scheme: http, httpHeaders: [{name: a b}]}",
        &[
            "8:49: spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"http\": supported values: \"HTTP\", \"HTTPS\", did you mean \"HTTP\"?",
            "8:76: spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must consist …",
        ],
    );
    let probe = "exec: {command: [a]}";
    check_probe(
        &format!("{probe}, successThreshold: 2, periodSeconds: -1, terminationGracePeriodSeconds: 0"),
        &[
            "8:61: spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "8:79: spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "8:114: spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ],
    );
    check_container(
        &format!("readinessProbe: {{{probe}, successThreshold: 2, terminationGracePeriodSeconds: 1}}"),
        &[
            "8:96: spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ],
    );
    check_spec(
        "initContainers: [{name: i, image: i, livenessProbe: {exec: {command: [a]}}, lifecycle: {preStop: {sleep: {seconds: 1}}}}]",
        &[
            "8:55: spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            "8:90: spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check_spec(
        "initContainers: [{name: i, image: i, restartPolicy: Always, startupProbe: {exec: {command: [a]}}}]",
        &[],
    );
    check_spec(
        "initContainers: [{name: i, image: i, restartPolicy: Never}]",
        &["8:55: spec.initContainers[0].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    check_container(
        "restartPolicy: Always",
        &["8:20: spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"],
    );
    check_container(
        "lifecycle: {postStart: {}, preStop: {sleep: {seconds: -1}, exec: {command: [a]}}}",
        &[
            "8:28: spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
            "8:59: spec.containers[0].lifecycle.preStop.sleep.seconds: Invalid value: -1: must be greater than or equal to 0",
            "8:70: spec.containers[0].lifecycle.preStop.exec: Forbidden: may not specify more than 1 handler type",
        ],
    );
}

#[test]
fn volumes_and_mounts_are_checked() {
    check_spec(
        "volumes: [{name: V}, {name: v}, {name: v}, {}]",
        &[
            "8:20: spec.volumes[0].name: Invalid value: \"V\": a lowercase RFC 1123 label …",
            "8:42: spec.volumes[2].name: Duplicate value: \"v\"",
            "8:46: spec.volumes[3].name: Required value",
        ],
    );
    check_spec(
        "volumes: [{name: v, emptyDir: {}, hostPath: {path: /a/../b, type: Dir}}]",
        &[
            "8:37: spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "8:54: spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "8:69: spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \"CharDevice\", …",
        ],
    );
    check_spec(
        "volumes: [{name: v, hostPath: {}}, {name: m, configMap: {}}, {name: s, secret: {secretName: s, defaultMode: 01000, items: [{}, {key: a/b, path: ../x, mode: -1}, {key: a, path: /x}, {key: a, path: ..x}]}}]",
        &[
            "8:33: spec.volumes[0].hostPath.path: Required value",
            "8:59: spec.volumes[1].configMap.name: Required value",
            "8:111: spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "8:126: spec.volumes[2].secret.items[0].key: Required value",
            "8:126: spec.volumes[2].secret.items[0].path: Required value",
            "8:136: spec.volumes[2].secret.items[1].key: Invalid value: \"a/b\": a valid config key …",
            "8:147: spec.volumes[2].secret.items[1].path: Invalid value: \"../x\": must not contain '..'",
            "8:159: spec.volumes[2].secret.items[1].mode: Invalid value: -1: must be a number between …",
            "8:179: spec.volumes[2].secret.items[2].path: Invalid value: \"/x\": must be a relative path",
            "8:199: spec.volumes[2].secret.items[3].path: Invalid value: \"..x\": must not start with '..'",
        ],
    );
    check(
        &pod(
            "volumes: [{name: v}]",
            "volumeMounts:
- {name: v, mountPath: /a, subPath: /x}
- {name: v, mountPath: /a, subPathExpr: a/../b, subPath: c}
- {name: v, mountPropagation: Bidirectional, mountPath: /c}
- {name: v, mountPath: /d, recursiveReadOnly: Enabled, mountPropagation: HostToContainer}
- {mountPath: /e}",
        ),
        &[
            "9:41: spec.containers[0].volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
            "10:28: spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "10:45: spec.containers[0].volumeMounts[1].subPathExpr: Invalid value: \"a/../b\": must not contain '..'",
            "10:45: spec.containers[0].volumeMounts[1].subPathExpr: Invalid value: \"a/../b\": subPathExpr and subPath are mutually exclusive",
            "11:35: spec.containers[0].volumeMounts[2].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            "12:51: spec.containers[0].volumeMounts[3].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            "12:51: spec.containers[0].volumeMounts[3].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
            "13:7: spec.containers[0].volumeMounts[4].name: Required value",
        ],
    );
}

#[test]
fn ports_are_checked() {
    check_container(
        "ports: [{}, {containerPort: 0}, {containerPort: 70000, name: Web}, {containerPort: 1, name: a, protocol: tcp}, {containerPort: 2, name: a, hostIP: x}]",
        &[
            "8:13: spec.containers[0].ports[0].containerPort: Required value",
            "8:33: spec.containers[0].ports[1].containerPort: Required value",
            "8:53: spec.containers[0].ports[2].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "8:66: spec.containers[0].ports[2].name: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "8:110: spec.containers[0].ports[3].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\", did you mean \"TCP\"?",
            "8:141: spec.containers[0].ports[4].name: Duplicate value: \"a\"",
            "8:152: spec.containers[0].ports[4].hostIP: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        &pod(
            "hostNetwork: true",
            "ports: [{containerPort: 80, hostPort: 81}, {containerPort: 53, protocol: UDP}, {containerPort: 53}, {containerPort: 53}]",
        ),
        &[
            "8:29: spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is set to true",
            "8:121: spec.containers[0].ports[3].hostPort: Duplicate value: \"53//TCP\"",
        ],
    );
}

#[test]
fn variables_are_checked() {
    check_container(
        "env:
- {name: a=b}
- {value: x}
- {name: A, valueFrom: {}}
- {name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: A, valueFrom: {fieldRef: {fieldPath: spec.nodename}, secretKeyRef: {name: s, key: k}}}
- {name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['x']\", apiVersion: v2}}}
- {name: A, valueFrom: {resourceFieldRef: {resource: limits.disk}}}
- {name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1Gi, containerName: d}}}
- {name: A, valueFrom: {configMapKeyRef: {name: M}}}",
        &[
            "9:14: spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of …",
            "10:7: spec.containers[0].env[1].name: Required value",
            "11:28: spec.containers[0].env[2].valueFrom: Invalid value: a map: must specify one of: `fieldRef`, …",
            "12:38: spec.containers[0].env[3].valueFrom: Invalid value: a map: may not be specified when `value` is not empty",
            "13:28: spec.containers[0].env[4].valueFrom: Invalid value: a map: may not have more than one field specified at a time",
            "13:51: spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.nodename\": supported values: \"metadata.annotations['KEY']\", …",
            "14:87: spec.containers[0].env[5].valueFrom.fieldRef.apiVersion: Unsupported value: \"v2\": supported values: \"v1\", did you mean \"v1\"?",
            "15:58: spec.containers[0].env[6].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.disk\": supported values: \"limits.cpu\", …",
            "16:79: spec.containers[0].env[7].valueFrom.resourceFieldRef.divisor: Invalid value: \"1Gi\": only divisor's values 1m and 1 are supported with the cpu resource",
            "16:99: spec.containers[0].env[7].valueFrom.resourceFieldRef.containerName: Not found: \"d\"",
            "17:46: spec.containers[0].env[8].valueFrom.configMapKeyRef.key: Required value",
            "17:53: spec.containers[0].env[8].valueFrom.configMapKeyRef.name: Invalid value: \"M\": a lowercase RFC 1123 subdomain …",
        ],
    );
    check_container(
        "envFrom: [{}, {configMapRef: {name: a}, secretRef: {name: b}}, {prefix: \"=\", secretRef: {}}]",
        &[
            "8:15: spec.containers[0].envFrom[0]: Invalid value: a map: must specify one of: `configMapRef` or `secretRef`",
            "8:19: spec.containers[0].envFrom[1]: Invalid value: a map: may not have more than one field specified at a time",
            "8:77: spec.containers[0].envFrom[2].prefix: Invalid value: \"=\": a valid environment variable name …",
            "8:93: spec.containers[0].envFrom[2].secretRef.name: Required value",
        ],
    );
}

#[test]
fn resources_are_checked() {
    check_container(
        "resources: {limits: {cpu: 1, memory: -1}, requests: {cpu: 1500m, memry: 1}}",
        &[
            "8:42: spec.containers[0].resources.limits[memory]: Invalid value: -1: must be greater than or equal to 0",
            "8:63: spec.containers[0].resources.requests[cpu]: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1",
            "8:70: spec.containers[0].resources.requests[memry]: Invalid value: \"memry\": must be a standard resource for containers, did you mean \"memory\"?",
        ],
    );
}

#[test]
fn security_is_checked() {
    check_spec(
        "securityContext: {runAsUser: -1, runAsGroup: 2147483648, supplementalGroups: [-5], seccompProfile: {}, sysctls: [{name: kernel.shm_rmid_forced, value: '1'}, {name: kernel/shm_rmid_forced, value: '0'}, {name: vm.swappiness, value: '1'}, {name: A}, {}]}\nhostIPC: true",
        &[
            "8:32: spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "8:48: spec.securityContext.runAsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
            "8:81: spec.securityContext.supplementalGroups[0]: Invalid value: -5: must be between 0 and 2147483647, inclusive",
            "8:102: spec.securityContext.seccompProfile.type: Required value: type is required when specifying a profile",
            "8:123: spec.securityContext.sysctls[0].name: Forbidden: forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled",
            "8:167: spec.securityContext.sysctls[1].name: Duplicate value: \"kernel/shm_rmid_forced\"",
            "8:167: spec.securityContext.sysctls[1].name: Forbidden: forbidden sysctl: \"kernel/shm_rmid_forced\" not allowed with host IPC enabled",
            "8:211: spec.securityContext.sysctls[2].name: Forbidden: forbidden sysctl: \"vm.swappiness\" not allowlisted",
            "8:246: spec.securityContext.sysctls[3].name: Invalid value: \"A\": must have at most 253 characters and match regex …",
            "8:250: spec.securityContext.sysctls[4].name: Required value",
        ],
    );
    check_container(
        "securityContext: {allowPrivilegeEscalation: false, privileged: true, capabilities: {add: [SYS_ADMIN, net_admin, SYS_ADMN, CAP_KILL], drop: [ALL]}}",
        &[
            "8:49: spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            "8:49: spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            "8:117: spec.containers[0].securityContext.capabilities.add[2]: Invalid value: \"SYS_ADMN\": unknown capability; names are those of capabilities(7) without CAP_, did you mean \"SYS_ADMIN\"?",
            "8:127: spec.containers[0].securityContext.capabilities.add[3]: Invalid value: \"CAP_KILL\": unknown capability; names are those of capabilities(7) without CAP_, did you mean \"KILL\"?",
        ],
    );
    check_container(
        "securityContext: {seccompProfile: {type: Unconfined, localhostProfile: x}}",
        &[
            "8:76: spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"x\": can only be set when seccomp type is Localhost",
        ],
    );
    check_spec(
        "hostPID: true\nshareProcessNamespace: true",
        &[
            "9:26: spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ],
    );
}

#[test]
fn the_rest_of_the_pod_is_checked() {
    check_spec(
        "activeDeadlineSeconds: 0",
        &["8:26: spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    );
    check_spec(
        "dnsPolicy: None",
        &[
            "5:3: spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ],
    );
    check_spec(
        "dnsConfig: {nameservers: [10.0.0.1, x, 10.0.0.3, 10.0.0.4], options: [{value: a}]}",
        &[
            "8:28: spec.dnsConfig.nameservers: Invalid value: a list: must not have more than 3 nameservers",
            "8:39: spec.dnsConfig.nameservers[1]: Invalid value: \"x\": must be a valid IP address, …",
            "8:73: spec.dnsConfig.options[0].name: Required value",
        ],
    );
    check_spec(
        "hostAliases: [{ip: 1.2.3, hostnames: [A_b]}, {}]",
        &[
            "8:22: spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, …",
            "8:41: spec.hostAliases[0].hostnames[0]: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain …",
            "8:48: spec.hostAliases[1].ip: Required value",
        ],
    );
    check_spec(
        "tolerations: [{}, {operator: Exists, value: x}, {key: a, tolerationSeconds: 1, effect: NoSchedule}]",
        &[
            "8:17: spec.tolerations[0].operator: Invalid value: null: operator must be Exists when `key` is empty, …",
            "8:32: spec.tolerations[1].operator: Invalid value: \"Exists\": value must be empty when `operator` is 'Exists'",
            "8:90: spec.tolerations[2].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ],
    );
}

#[test]
fn config_maps_and_secrets_are_checked() {
    check(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a b: x, k: 5, l: z}\nbinaryData: {l: '%', m: YQ==}\n",
        &[
            "4:8: data[a b]: Invalid value: \"a b\": a valid config key must consist of …",
            "4:19: data[k]: Invalid value: 5: must be a string, not a number; write \"5\" in quotes",
            "4:22: data[l]: Invalid value: \"l\": duplicate of key present in binaryData",
            "5:17: binaryData[l]: Invalid value: must be base64; …",
        ],
    );
    check(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: c}\ndata: {k: secret}\nstringdata: {}\n",
        &[
            "4:11: data[k]: Invalid value: must be base64; …",
            "5:1: stringdata: unknown field \"stringdata\", did you mean \"stringData\"?",
        ],
    );
    let big = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{k: {}}}\n", "x".repeat(1 << 20));
    check(&big, &["1:1: Too long: may not be more than 1048576 bytes"]);
}
