//! ConfigMaps and Secrets as applied: one file each below `objects/`, readable by root only.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use killick_pod::spec::{DataKind, DataObject};
use serde::{Deserialize, Serialize};

use crate::base64;
use crate::file::{Durability, Error, joined_name, make_directories, read_json, write_json};
use crate::roots::Roots;

const VERSION: u32 = 1;

/// An object with what the store adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredObject {
    pub object: DataObject,
    pub uid: String,
    /// RFC 3339.
    pub creation_timestamp: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Created,
    Configured,
    Unchanged,
    /// It was made immutable, and this would change it.
    Immutable,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    kind: DataKind,
    name: String,
    namespace: String,
    uid: String,
    creation_timestamp: String,
    #[serde(default)]
    immutable: bool,
    /// Base64.
    data: BTreeMap<String, String>,
    binary_data: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct ObjectStore {
    directory: PathBuf,
}

impl ObjectStore {
    pub fn new(roots: &Roots) -> ObjectStore {
        ObjectStore { directory: roots.objects() }
    }

    /// Stores `object`; `uid` and `creation_timestamp` are for the case that it is new.
    pub fn put(&self, object: &DataObject, uid: &str, creation_timestamp: &str) -> Result<Put, Error> {
        let directory = self.directory.join(plural(object.kind));
        make_directories(&directory, 0o700)?;
        let known = self.read(object.kind, &object.namespace, &object.name)?;
        let (put, uid, creation_timestamp) = match &known {
            None => (Put::Created, uid, creation_timestamp),
            Some(known) if known.object == *object => return Ok(Put::Unchanged),
            Some(known) if known.object.immutable => return Ok(Put::Immutable),
            Some(known) => (Put::Configured, known.uid.as_str(), known.creation_timestamp.as_str()),
        };
        let encode = |data: &BTreeMap<String, Vec<u8>>| {
            data.iter().map(|(key, value)| (key.clone(), base64::encode(value))).collect()
        };
        let file = File {
            version: VERSION,
            kind: object.kind,
            name: object.name.clone(),
            namespace: object.namespace.clone(),
            uid: uid.to_owned(),
            creation_timestamp: creation_timestamp.to_owned(),
            immutable: object.immutable,
            data: encode(&object.data),
            binary_data: encode(&object.binary_data),
        };
        write_json(&self.path(object.kind, &object.namespace, &object.name), &file, 0o600, Durability::Durable)?;
        Ok(put)
    }

    /// For the shim, which wants the data alone.
    pub fn get(&self, kind: DataKind, kube_namespace: &str, name: &str) -> Result<Option<DataObject>, Error> {
        Ok(self.read(kind, kube_namespace, name)?.map(|stored| stored.object))
    }

    pub fn read(&self, kind: DataKind, kube_namespace: &str, name: &str) -> Result<Option<StoredObject>, Error> {
        if name.contains('/') || kube_namespace.contains('/') {
            return Ok(None);
        }
        let path = self.path(kind, kube_namespace, name);
        let file: File = match read_json(&path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored = file.into_stored().map_err(|why| Error::Content { path: path.clone(), why })?;
        if (stored.object.kind, stored.object.namespace.as_str(), stored.object.name.as_str())
            != (kind, kube_namespace, name)
        {
            return Err(Error::Content { path, why: "holds another object".to_owned() });
        }
        Ok(Some(stored))
    }

    /// All of one kind, sorted by namespace and name; what cannot be read is passed over.
    pub fn list(&self, kind: DataKind) -> Result<Vec<StoredObject>, Error> {
        let directory = self.directory.join(plural(kind));
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &directory)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &directory))?.path();
            let is_whole = path.extension().is_some_and(|extension| extension == "json");
            if is_whole && let Ok(file) = read_json::<File>(&path) {
                found.extend(file.into_stored().ok().filter(|stored| stored.object.kind == kind));
            }
        }
        found.sort_by(|a, b| (&a.object.namespace, &a.object.name).cmp(&(&b.object.namespace, &b.object.name)));
        Ok(found)
    }

    /// False when there was none.
    pub fn delete(&self, kind: DataKind, kube_namespace: &str, name: &str) -> Result<bool, Error> {
        if name.contains('/') || kube_namespace.contains('/') {
            return Ok(false);
        }
        let path = self.path(kind, kube_namespace, name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", &path)(error)),
        }
    }

    fn path(&self, kind: DataKind, kube_namespace: &str, name: &str) -> PathBuf {
        self.directory.join(plural(kind)).join(joined_name(&[kube_namespace, name], ".json"))
    }
}

fn plural(kind: DataKind) -> &'static str {
    match kind {
        DataKind::ConfigMap => "configmaps",
        DataKind::Secret => "secrets",
    }
}

impl File {
    fn into_stored(self) -> Result<StoredObject, String> {
        if self.version != VERSION {
            return Err(format!("version {} of its format; this is for version {VERSION}", self.version));
        }
        let decode = |data: BTreeMap<String, String>| {
            data.into_iter()
                .map(|(key, value)| match base64::decode(&value) {
                    Some(bytes) => Ok((key, bytes)),
                    None => Err(format!("key {key:?} is no base64")),
                })
                .collect::<Result<BTreeMap<_, _>, String>>()
        };
        Ok(StoredObject {
            object: DataObject {
                kind: self.kind,
                name: self.name,
                namespace: self.namespace,
                data: decode(self.data)?,
                binary_data: decode(self.binary_data)?,
                immutable: self.immutable,
            },
            uid: self.uid,
            creation_timestamp: self.creation_timestamp,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_object_is_created_configured_or_unchanged_and_only_root_reads_it() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = Roots { run: scratch.path().into(), root: scratch.path().into(), logs: scratch.path().into() };
        let store = ObjectStore::new(&roots);
        let mut object = DataObject {
            kind: DataKind::Secret,
            name: "token".into(),
            namespace: "default".into(),
            data: [("key".to_owned(), vec![0, 255, 10])].into(),
            ..DataObject::default()
        };
        assert_eq!(store.put(&object, "u1", "t1").unwrap(), Put::Created);
        assert_eq!(store.put(&object, "u2", "t2").unwrap(), Put::Unchanged);
        object.data.insert("more".into(), b"x".to_vec());
        object.immutable = true;
        assert_eq!(store.put(&object, "u2", "t2").unwrap(), Put::Configured);
        let stored = store.read(DataKind::Secret, "default", "token").unwrap().unwrap();
        assert_eq!((stored.object, stored.uid.as_str()), (object.clone(), "u1"));
        object.data.clear();
        assert_eq!(store.put(&object, "u2", "t2").unwrap(), Put::Immutable);
        let path = scratch.path().join("objects/secrets/default_token.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.list(DataKind::Secret).unwrap().len(), 1);
        assert!(store.list(DataKind::ConfigMap).unwrap().is_empty());
        assert!(store.delete(DataKind::Secret, "default", "token").unwrap());
        assert!(!store.delete(DataKind::Secret, "default", "token").unwrap());
        assert_eq!(store.get(DataKind::Secret, "..", "../../etc/passwd").unwrap(), None);
    }
}
