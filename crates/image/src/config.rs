//! An image's configuration: what of `config.json` a container needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// The `config` object of an OCI or Docker image configuration. Absent, `null` and empty are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`, as the image has them.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// The whole configuration blob, as far as the store reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigBlob {
    #[serde(deserialize_with = "or_default")]
    pub(crate) architecture: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) os: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) created: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) config: ImageConfig,
    #[serde(deserialize_with = "or_default")]
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<String>,
}

pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Volumes are written as a map to empty objects; a list of keys is accepted too, for our own copies.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Map(BTreeMap<String, serde::de::IgnoredAny>),
        List(Vec<String>),
    }
    Ok(match Option::<Form>::deserialize(from)? {
        None => Vec::new(),
        Some(Form::Map(map)) => map.into_keys().collect(),
        Some(Form::List(list)) => list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_absent_and_empty_fields_read_alike() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":null,"Cmd":["sh"],"Volumes":{"/data":{}},
            "Env":["A=1"],"User":"www-data","Labels":null,"StopSignal":"SIGQUIT","WorkingDir":"/w","ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#;
        let blob: ConfigBlob = serde_json::from_str(text).unwrap();
        assert_eq!(blob.config.cmd, ["sh"]);
        assert_eq!(blob.config.volumes, ["/data"]);
        assert_eq!(blob.config.user, "www-data");
        assert_eq!(blob.config.stop_signal, "SIGQUIT");
        assert!(blob.config.entrypoint.is_empty() && blob.config.labels.is_empty());
        let again: ImageConfig = serde_json::from_str(&serde_json::to_string(&blob.config).unwrap()).unwrap();
        assert_eq!(again, blob.config);
        let empty: ConfigBlob = serde_json::from_str(r#"{"config":null}"#).unwrap();
        assert_eq!(empty, ConfigBlob::default());
    }
}
