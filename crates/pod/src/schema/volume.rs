//! Volumes of the pod, and where containers want them.

use super::Kind::{Bool, Enum, Int32, List, Object, Quantity, Text};
use super::{Preset, Table, field, refused};

const MODE: Preset = Preset::Int(0o644);

pub fn is_volume_source(name: &str) -> bool {
    name != "name" && VOLUME.field(name).is_some()
}

pub(super) static VOLUME: Table = Table {
    fields: &[
        field("name", Text),
        field("emptyDir", Object(&EMPTY_DIR)),
        field("hostPath", Object(&HOST_PATH)),
        field("configMap", Object(&CONFIG_MAP)),
        field("secret", Object(&SECRET)),
        refused("projected", "projected volumes"),
        refused("downwardAPI", "downwardAPI volumes"),
        refused("persistentVolumeClaim", "persistent volumes"),
        refused("ephemeral", "ephemeral persistent volumes"),
        refused("image", "image volumes"),
        refused("csi", "CSI volumes"),
        refused("nfs", "NFS volumes"),
        refused("iscsi", "iSCSI volumes"),
        refused("fc", "Fibre Channel volumes"),
        refused("gitRepo", "git volumes"),
        refused("flexVolume", "flex volumes"),
        refused("cephfs", "CephFS volumes"),
        refused("rbd", "RBD volumes"),
        refused("glusterfs", "GlusterFS volumes"),
        refused("cinder", "Cinder volumes"),
        refused("flocker", "Flocker volumes"),
        refused("quobyte", "Quobyte volumes"),
        refused("portworxVolume", "Portworx volumes"),
        refused("scaleIO", "ScaleIO volumes"),
        refused("storageos", "StorageOS volumes"),
        refused("vsphereVolume", "vSphere volumes"),
        refused("photonPersistentDisk", "Photon volumes"),
        refused("awsElasticBlockStore", "AWS volumes"),
        refused("gcePersistentDisk", "GCE volumes"),
        refused("azureDisk", "Azure disks"),
        refused("azureFile", "Azure files"),
    ],
};

static EMPTY_DIR: Table = Table { fields: &[field("medium", Text), field("sizeLimit", Quantity)] };

static HOST_PATH: Table = Table {
    fields: &[
        field("path", Text),
        field(
            "type",
            Enum(&[
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ]),
        )
        .or_text(""),
    ],
};

static CONFIG_MAP: Table = Table {
    fields: &[
        field("name", Text),
        field("items", List(&Object(&KEY_TO_PATH))),
        field("defaultMode", Int32).or(MODE),
        field("optional", Bool),
    ],
};

static SECRET: Table = Table {
    fields: &[
        field("secretName", Text),
        field("items", List(&Object(&KEY_TO_PATH))),
        field("defaultMode", Int32).or(MODE),
        field("optional", Bool),
    ],
};

static KEY_TO_PATH: Table = Table { fields: &[field("key", Text), field("path", Text), field("mode", Int32)] };

pub(super) static VOLUME_MOUNT: Table = Table {
    fields: &[
        field("name", Text),
        field("mountPath", Text),
        field("subPath", Text),
        field("subPathExpr", Text),
        field("readOnly", Bool),
        field("recursiveReadOnly", Enum(&["Disabled", "Enabled", "IfPossible"])),
        field("mountPropagation", Enum(&["Bidirectional", "HostToContainer", "None"])),
    ],
};
