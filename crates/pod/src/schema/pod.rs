//! The pod and what belongs to all its containers.

use super::Kind::{Any, Bool, Enum, Int32, Int64, List, Map, Object, Text};
use super::container::{CONTAINER, PROFILE};
use super::metadata::METADATA;
use super::scheduling::{AFFINITY, TOLERATION, TOPOLOGY_SPREAD};
use super::volume::VOLUME;
use super::{Preset, Table, field, ignored, refused};

pub static POD: Table = Table {
    fields: &[
        field("apiVersion", Text),
        field("kind", Text),
        field("metadata", Object(&METADATA)),
        field("spec", Object(&SPEC)),
        ignored("status", Any),
    ],
};

static SPEC: Table = Table {
    fields: &[
        field("containers", List(&Object(&CONTAINER))),
        field("initContainers", List(&Object(&CONTAINER))),
        field("volumes", List(&Object(&VOLUME))),
        field("restartPolicy", Enum(&["Always", "Never", "OnFailure"])).or_text("Always"),
        field("terminationGracePeriodSeconds", Int64).or(Preset::Int(30)),
        field("activeDeadlineSeconds", Int64),
        field("dnsPolicy", Enum(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]))
            .or_text("ClusterFirst"),
        field("dnsConfig", Object(&DNS_CONFIG)),
        field("hostNetwork", Bool),
        field("hostPID", Bool),
        field("hostIPC", Bool),
        field("shareProcessNamespace", Bool),
        field("hostname", Text),
        field("subdomain", Text),
        field("hostAliases", List(&Object(&HOST_ALIAS))),
        field("securityContext", Object(&SECURITY_CONTEXT)),
        field("nodeName", Text),
        ignored("nodeSelector", Map(&Text)),
        ignored("affinity", Object(&AFFINITY)),
        ignored("tolerations", List(&Object(&TOLERATION))),
        ignored("topologySpreadConstraints", List(&Object(&TOPOLOGY_SPREAD))),
        ignored("schedulerName", Text).or_text("default-scheduler"),
        ignored("priority", Int32).or(Preset::Int(0)),
        ignored("priorityClassName", Text),
        ignored("preemptionPolicy", Enum(&["Never", "PreemptLowerPriority"])).or_text("PreemptLowerPriority"),
        ignored("serviceAccountName", Text).or_text("default"),
        ignored("serviceAccount", Text).or_text("default"),
        ignored("automountServiceAccountToken", Bool),
        ignored("enableServiceLinks", Bool).or(Preset::Bool(true)),
        ignored("imagePullSecrets", List(&Object(&LOCAL_REFERENCE))),
        // Only values that change nothing pass `validate`.
        ignored("hostUsers", Bool),
        ignored("setHostnameAsFQDN", Bool),
        ignored("os", Object(&OS)),
        refused("ephemeralContainers", "ephemeral containers"),
        refused("readinessGates", "readiness gates"),
        refused("runtimeClassName", "runtime classes"),
        refused("overhead", "a runtime class's overhead"),
        refused("schedulingGates", "scheduling gates"),
        refused("resourceClaims", "resource claims"),
        refused("resources", "resources of the whole pod"),
        refused("hostnameOverride", "hostnameOverride"),
        refused("workloadRef", "workloads"),
    ],
};

static DNS_CONFIG: Table = Table {
    fields: &[
        field("nameservers", List(&Text)),
        field("searches", List(&Text)),
        field("options", List(&Object(&NAME_VALUE))),
    ],
};

pub(super) static NAME_VALUE: Table = Table { fields: &[field("name", Text), field("value", Text)] };

static HOST_ALIAS: Table = Table { fields: &[field("ip", Text), field("hostnames", List(&Text))] };

static LOCAL_REFERENCE: Table = Table { fields: &[ignored("name", Text)] };

static OS: Table = Table { fields: &[ignored("name", Enum(&["linux", "windows"]))] };

static SECURITY_CONTEXT: Table = Table {
    fields: &[
        field("runAsUser", Int64),
        field("runAsGroup", Int64),
        field("runAsNonRoot", Bool),
        field("fsGroup", Int64),
        field("supplementalGroups", List(&Int64)),
        field("seccompProfile", Object(&PROFILE)),
        field("sysctls", List(&Object(&NAME_VALUE))),
        // The kinds of volumes that we have ignore it, as they do in Kubernetes.
        ignored("fsGroupChangePolicy", Enum(&["Always", "OnRootMismatch"])),
        ignored("seLinuxChangePolicy", Enum(&["MountOption", "Recursive"])),
        ignored("supplementalGroupsPolicy", Enum(&["Merge", "Strict"])),
        ignored("appArmorProfile", Object(&PROFILE)),
        refused("seLinuxOptions", "SELinux labels"),
        refused("windowsOptions", "Windows options"),
    ],
};
