//! The store: which names mean which image, and where its layers are unpacked.
//!
//! ```text
//! index.json               names -> image ids, and what is known of each image (written whole)
//! blobs/<hex>              configurations, by digest
//! layers/<hex>/            unpacked layers, whole or absent; 0700 above, for setuid programs lie in them
//! tmp/<name>/              one import at work, locked by its owner; without an owner it is rubbish
//! lock                     held for each change of the index
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use killick_sys::tree;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigBlob, ImageConfig};
use crate::digest;
use crate::error::{Context, Error};
use crate::reference::{self, Reference};

const INDEX_VERSION: u32 = 1;
/// An index larger than this is not ours.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// What an import may use. Every refusal names the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read from the archive, and kept while it is imported.
    pub archive_bytes: u64,
    /// Files in the archive, and in each layer.
    pub entries: u64,
    pub layers: u64,
    /// Each of index, manifest and configuration.
    pub config_bytes: u64,
    /// All layers of an image, unpacked, holes counted.
    pub unpacked_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            archive_bytes: 64 << 30,
            entries: 1_000_000,
            layers: 127,
            config_bytes: 4 << 20,
            unpacked_bytes: 128 << 30,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) limits: Limits,
}

/// An image that a container can start from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration, `sha256:…`: CRI's image id.
    pub id: String,
    /// Digest of the manifest, where the archive had one.
    pub manifest: Option<String>,
    pub names: Vec<String>,
    /// RFC 3339, as the image says; empty if it does not.
    pub created: String,
    /// Unpacked.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// Unpacked directories, bottom first.
    pub layers: Vec<PathBuf>,
}

/// One line of `killick image ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Empty, as the tag is, for an image whose names all moved on.
    pub repository: String,
    pub tag: String,
    pub id: String,
    pub created: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub id: String,
    pub names: Vec<String>,
}

/// Who holds an image: a pod that was started from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub image_id: String,
    /// `pod default/web`, for the refusal's text.
    pub who: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    pub untagged: Vec<String>,
    /// The image's id, if that was its last name.
    pub deleted: Option<String>,
    /// Files that could not be removed, with reasons; the next import or removal tries again.
    pub left_behind: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) version: u32,
    /// `docker.io/library/busybox:latest` -> id.
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) images: BTreeMap<String, Record>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) manifest: Option<String>,
    pub(crate) created: String,
    pub(crate) size_bytes: u64,
    /// Bottom first.
    pub(crate) layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Its name below `layers/`.
    pub(crate) dir: String,
    pub(crate) size_bytes: u64,
}

impl Index {
    pub(crate) fn layer(&self, dir: &str) -> Option<&LayerRecord> {
        self.images.values().flat_map(|record| &record.layers).find(|layer| layer.dir == dir)
    }
}

impl Store {
    /// Makes the store's directories where they are missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store, Error> {
        let root = root.into();
        let store = Store { root, limits: Limits::default() };
        for dir in [store.root.clone(), store.layers(), store.blobs(), store.tmp()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .context(|| format!("create {}", dir.display()))?;
        }
        Ok(store)
    }

    pub fn with_limits(self, limits: Limits) -> Store {
        Store { limits, ..self }
    }

    /// All names, sorted.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let index = self.read_index()?;
        let mut listed: Vec<Listed> = Vec::new();
        for (name, id) in &index.names {
            let Some(record) = index.images.get(id) else { continue };
            let (repository, tag) = split_name(name);
            listed.push(Listed {
                repository,
                tag,
                id: id.clone(),
                created: record.created.clone(),
                size_bytes: record.size_bytes,
            });
        }
        let unnamed = index.images.iter().filter(|(id, _)| !index.names.values().any(|named| named == *id));
        listed.extend(unnamed.map(|(id, record)| Listed {
            repository: String::new(),
            tag: String::new(),
            id: id.clone(),
            created: record.created.clone(),
            size_bytes: record.size_bytes,
        }));
        Ok(listed)
    }

    /// Gives the image that `source` names a second name.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let target = reference::normalise(target)?;
        if target.digest.is_some() {
            return Err(Error::archive(format!("tag {target}: a tag cannot be given to a digest")));
        }
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let id = find(&index, source)?.ok_or_else(|| Error::NotFound(source.to_owned()))?;
        index.names.insert(target.name(), id);
        self.write_index(&index)
    }

    /// Takes one name away, and the image with its last one. By id, all names go.
    pub fn remove(&self, reference: &str, users: &[User]) -> Result<Removed, Error> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let id = find(&index, reference)?.ok_or_else(|| Error::NotFound(reference.to_owned()))?;
        let named =
            reference::normalise(reference).ok().map(|r| r.name()).filter(|name| index.names.get(name) == Some(&id));
        let all: Vec<String> = index.names.iter().filter(|(_, of)| **of == id).map(|(name, _)| name.clone()).collect();
        let untagged: Vec<String> = match named {
            Some(name) => vec![name],
            None => all.clone(),
        };
        let last = untagged.len() == all.len();
        if last {
            let mut who: Vec<&str> =
                users.iter().filter(|user| user.image_id == id).map(|user| user.who.as_str()).collect();
            who.sort_unstable();
            who.dedup();
            if !who.is_empty() {
                return Err(Error::InUse { name: reference.to_owned(), users: who.join(", ") });
            }
        }
        index.names.retain(|name, _| !untagged.contains(name));
        if last {
            index.images.remove(&id);
        }
        self.write_index(&index)?;
        let left_behind = self.collect_garbage(&index);
        Ok(Removed { untagged, deleted: last.then_some(id), left_behind })
    }

    /// The image that a manifest's `image:` means, or `None` if it is not here. Also found by id (`sha256:…`).
    pub fn resolve(&self, reference: &str) -> Result<Option<Image>, Error> {
        let index = self.read_index()?;
        match find(&index, reference)? {
            Some(id) => self.image(&index, &id).map(Some),
            None => Ok(None),
        }
    }

    fn image(&self, index: &Index, id: &str) -> Result<Image, Error> {
        let record = index.images.get(id).ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let blob = self.read_blob(id)?;
        let blob: ConfigBlob =
            serde_json::from_slice(&blob).map_err(|error| self.damaged(format!("configuration {id}: {error}")))?;
        let layers: Vec<PathBuf> = record.layers.iter().map(|layer| self.layers().join(&layer.dir)).collect();
        if let Some(missing) = layers.iter().find(|layer| !layer.is_dir()) {
            return Err(self.damaged(format!("image {id} lacks its layer {}; import it again", missing.display())));
        }
        Ok(Image {
            id: id.to_owned(),
            manifest: record.manifest.clone(),
            names: index.names.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect(),
            created: record.created.clone(),
            size_bytes: record.size_bytes,
            config: blob.config,
            layers,
        })
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn damaged(&self, why: String) -> Error {
        Error::Damaged { store: self.root.display().to_string(), why }
    }

    /// Waits for whoever changes the index now; held by one import only while it commits.
    pub(crate) fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.root.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .context(|| format!("open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::Io { what: format!("flock {}", path.display()), source: errno.into() })
    }

    pub(crate) fn read_index(&self) -> Result<Index, Error> {
        let path = self.root.join("index.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Index { version: INDEX_VERSION, ..Index::default() });
            }
            Err(source) => return Err(Error::Io { what: format!("open {}", path.display()), source }),
        };
        let mut text = Vec::new();
        file.take(INDEX_BYTES_MAX).read_to_end(&mut text).context(|| format!("read {}", path.display()))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|error| self.damaged(format!("index.json: {error}")))?;
        if index.version != INDEX_VERSION {
            return Err(
                self.damaged(format!("index.json has version {}, this killick reads {INDEX_VERSION}", index.version))
            );
        }
        Ok(index)
    }

    pub(crate) fn write_index(&self, index: &Index) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(index).map_err(|error| self.damaged(format!("index.json: {error}")))?;
        write_durably(&self.root, "index.json", &text).map_err(|error| self.disk(error, "write index.json"))
    }

    pub(crate) fn disk(&self, source: io::Error, what: &str) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { store: self.root.display().to_string() }
            }
            _ => Error::Io { what: what.to_owned(), source },
        }
    }

    fn read_blob(&self, id: &str) -> Result<Vec<u8>, Error> {
        let path = self.blobs().join(id.trim_start_matches(digest::PREFIX));
        let mut bytes = Vec::new();
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        file.take(self.limits.config_bytes).read_to_end(&mut bytes).context(|| format!("read {}", path.display()))?;
        if digest::sha256(&bytes) != id {
            return Err(self.damaged(format!("{} is not what its name says; import the image again", path.display())));
        }
        Ok(bytes)
    }

    /// Removes layers and configurations that no image has. The caller holds the lock; errors are for a log, not a reason
    /// to fail: the next call tries again.
    pub(crate) fn collect_garbage(&self, index: &Index) -> Vec<String> {
        let layers: BTreeSet<&str> =
            index.images.values().flat_map(|r| &r.layers).map(|layer| layer.dir.as_str()).collect();
        let blobs: BTreeSet<&str> = index.images.keys().map(|id| id.trim_start_matches(digest::PREFIX)).collect();
        let mut errors = sweep(&self.layers(), |name| layers.contains(name));
        errors.extend(sweep(&self.blobs(), |name| blobs.contains(name)));
        errors
    }
}

fn sweep(dir: &Path, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("read {}: {error}", dir.display())],
    };
    let rubbish = entries.flatten().filter(|entry| !entry.file_name().to_str().is_some_and(&keep));
    rubbish.flat_map(|entry| tree::remove(&entry.path())).collect()
}

/// The id that a name, a name with digest, or an id means.
fn find(index: &Index, written: &str) -> Result<Option<String>, Error> {
    if let Some(hex) = written.strip_prefix(digest::PREFIX).or(Some(written)).filter(|hex| is_hex_prefix(hex)) {
        let prefix = format!("sha256:{hex}");
        let mut ids = index.images.keys().filter(|id| id.starts_with(&prefix));
        match (ids.next(), ids.next()) {
            (Some(id), None) => return Ok(Some(id.clone())),
            (Some(_), Some(_)) => {
                return Err(Error::archive(format!("image id {written} is ambiguous; write more of it")));
            }
            (None, _) if written.starts_with("sha256:") || hex.len() == 64 => return Ok(None),
            (None, _) => {}
        }
    }
    let reference = reference::normalise(written)?;
    Ok(match &reference.digest {
        None => index.names.get(&reference.name()).cloned(),
        Some(digest) => by_digest(index, &reference, digest),
    })
}

fn by_digest(index: &Index, reference: &Reference, digest: &str) -> Option<String> {
    let is_it = |id: &String| {
        id == digest || index.images.get(id).is_some_and(|record| record.manifest.as_deref() == Some(digest))
    };
    index
        .names
        .iter()
        .find(|(name, id)| split_name(name).0 == reference.repository && is_it(id))
        .map(|(_, id)| id.clone())
}

/// 12 digits are what `image ls` shows.
fn is_hex_prefix(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn split_name(name: &str) -> (String, String) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        Some(_) | None => (name.to_owned(), String::new()),
    }
}

/// Temporary file, fsync, rename, fsync of the directory: after it returns, the file outlives the power.
pub(crate) fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let written = (|| {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
