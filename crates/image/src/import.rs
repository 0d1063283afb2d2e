//! An import: spool, unpack beside the store, then one commit under the lock. Until the index is renamed nothing of it
//! can be seen, and whatever ends it earlier is swept away, by itself or by the next one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use killick_sys::tree;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::syncfs;

use crate::archive::{self, Planned, Spooled};
use crate::config::ConfigBlob;
use crate::digest::{self, Hashing};
use crate::error::{Context, Error};
use crate::store::{Imported, Index, LayerRecord, Record, Store, write_durably};
use crate::unpack::{self, Budget};

impl Store {
    /// Reads an OCI layout or docker-archive tar, plain or gzip, from start to end; `name` overrides the archive's own.
    /// On an error nothing of it is kept.
    pub fn import(&self, archive: impl Read, name: Option<&str>) -> Result<Vec<Imported>, Error> {
        let mut work = Work::start(self)?;
        let spool = work.dir.join("spool");
        let archive = archive::spool(archive, &spool, &self.limits, |error, what| self.disk(error, what))?;
        let planned = archive.images(name, &self.limits)?;
        let mut images = Vec::new();
        for plan in &planned {
            images.push(Ready::check(plan, self)?);
        }
        let index = self.read_index()?;
        for image in &mut images {
            image.unpack(&mut work, self, &index)?;
        }
        self.commit(&mut work, images)
    }

    fn commit(&self, work: &mut Work, mut images: Vec<Ready<'_>>) -> Result<Vec<Imported>, Error> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        // What was in the store when we looked may have been removed since: then it is unpacked now.
        for image in &mut images {
            image.unpack(work, self, &index)?;
        }
        // Layers of an import that was killed between its renames and its index are in the way.
        self.collect_garbage(&index);
        sync_file_system(&self.root).map_err(|error| self.disk(error, "sync the store"))?;
        let mut undo = Undo { paths: Vec::new() };
        let mut imported = Vec::new();
        for image in images {
            imported.push(image.keep(work, self, &mut index, &mut undo)?);
        }
        for dir in [self.layers(), self.blobs()] {
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|error| self.disk(error, "sync the store"))?;
        }
        self.write_index(&index)?;
        undo.paths.clear();
        Ok(imported)
    }
}

/// An import's own directory, locked while it lives.
struct Work {
    dir: PathBuf,
    _lock: Flock<File>,
    /// Unpacked into `layers()` so far.
    done: Vec<LayerRecord>,
}

impl Work {
    fn start(store: &Store) -> Result<Work, Error> {
        let _lock = store.lock()?;
        sweep_abandoned(&store.tmp());
        for n in 0..u32::MAX {
            let dir = store.tmp().join(format!("{}-{n}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    let file = File::open(&dir).context(|| format!("open {}", dir.display()))?;
                    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| Error::Io {
                        what: format!("flock {}", dir.display()),
                        source: errno.into(),
                    })?;
                    let work = Work { dir, _lock: lock, done: Vec::new() };
                    work.subdir("spool", store)?;
                    work.subdir("layers", store)?;
                    return Ok(work);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(store.disk(error, &format!("create {}", dir.display()))),
            }
        }
        Err(store.damaged("no free name in tmp/".to_owned()))
    }

    fn subdir(&self, name: &str, store: &Store) -> Result<(), Error> {
        let dir = self.dir.join(name);
        let created = fs::DirBuilder::new().mode(0o700).create(&dir);
        created.map_err(|error| store.disk(error, &format!("create {}", dir.display())))
    }

    fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next import.
        let _ = tree::remove(&self.dir);
    }
}

/// Removes the directories of imports that were killed: nobody holds their lock. The store's lock is held.
fn sweep_abandoned(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let abandoned = match File::open(entry.path()) {
            Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
            Err(_) => false,
        };
        if abandoned {
            let _ = tree::remove(&entry.path());
        }
    }
}

/// Renamed into the store, but not in the index yet.
struct Undo {
    paths: Vec<PathBuf>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            let _ = tree::remove(path);
        }
    }
}

/// An image whose configuration is read and whose layers are known by name.
struct Ready<'a> {
    plan: &'a Planned,
    blob: Vec<u8>,
    created: String,
    layers: Vec<Layer<'a>>,
}

struct Layer<'a> {
    source: &'a Spooled,
    diff_id: String,
    /// Its name in the store if everything in it came from its own tar, and if not: then the layers below matter too.
    alone: String,
    chained: String,
    place: Option<(LayerRecord, Place)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Store,
    Work,
}

impl<'a> Ready<'a> {
    fn check(plan: &'a Planned, store: &Store) -> Result<Ready<'a>, Error> {
        let blob = archive::bytes(&plan.config, &store.limits, "the image's configuration")?;
        let config: ConfigBlob = serde_json::from_slice(&blob)
            .map_err(|error| Error::archive(format!("configuration {}: {error}", plan.config.digest)))?;
        let architecture = archive::this_architecture();
        if !matches!(config.os.as_str(), "" | "linux")
            || !(config.architecture.is_empty() || config.architecture == architecture)
        {
            return Err(Error::archive(format!(
                "the image is for {:?}/{:?}; this machine is linux/{architecture}",
                config.os, config.architecture
            )));
        }
        let (layers, diff_ids) = (plan.layers.len(), config.rootfs.diff_ids.len());
        if layers as u64 > store.limits.layers {
            return Err(Error::TooLarge {
                what: "number of layers".to_owned(),
                name: "layers",
                limit: store.limits.layers,
            });
        }
        if layers != diff_ids {
            return Err(Error::archive(format!("the manifest has {layers} layers, the configuration {diff_ids}")));
        }
        if layers == 0 {
            return Err(Error::archive("the image has no layers: nothing in it can be run"));
        }
        let mut chain = String::new();
        let mut ready = Vec::new();
        for (source, diff_id) in plan.layers.iter().zip(config.rootfs.diff_ids) {
            let alone = digest::hex(&diff_id)
                .ok_or_else(|| {
                    Error::archive(format!("configuration {}: {diff_id:?} is no sha256 digest", plan.config.digest))
                })?
                .to_owned();
            chain = match chain.as_str() {
                "" => diff_id.clone(),
                below => digest::sha256(format!("{below} {diff_id}").as_bytes()),
            };
            let chained = format!("c{}", chain.trim_start_matches(digest::PREFIX));
            ready.push(Layer { source, diff_id, alone, chained, place: None });
        }
        Ok(Ready { plan, blob, created: config.created, layers: ready })
    }

    /// Unpacks what neither the store nor this import has. Called again under the lock, with the index of then.
    fn unpack(&mut self, work: &mut Work, store: &Store, index: &Index) -> Result<(), Error> {
        let mut budget = Budget {
            entries: store.limits.entries,
            entries_limit: store.limits.entries,
            bytes: store.limits.unpacked_bytes,
            bytes_limit: store.limits.unpacked_bytes,
        };
        for at in 0..self.layers.len() {
            let lost = match &self.layers[at].place {
                Some((_, Place::Work)) => false,
                Some((record, Place::Store)) => present(store, index, &record.dir).is_none(),
                None => true,
            };
            if !lost {
                continue;
            }
            // What was made on top of a layer that went away was made without it.
            if self.layers[at].place.take().is_some() {
                self.forget_chained_above(at, work);
            }
            let lowers = self.paths(&self.layers[..at], work, store);
            let layer = &mut self.layers[at];
            let known = [&layer.alone, &layer.chained].into_iter().find_map(|dir| {
                let stored = present(store, index, dir).map(|record| (record.clone(), Place::Store));
                stored.or_else(|| {
                    work.done.iter().find(|done| done.dir == *dir).map(|record| (record.clone(), Place::Work))
                })
            });
            layer.place = Some(match known {
                Some(place) => place,
                None => (layer.unpack(&lowers, work, store, &mut budget)?, Place::Work),
            });
        }
        Ok(())
    }

    fn forget_chained_above(&mut self, at: usize, work: &mut Work) {
        for layer in &mut self.layers[at + 1..] {
            if let Some((record, Place::Work)) = &layer.place
                && record.dir == layer.chained
            {
                work.done.retain(|done| done.dir != record.dir);
                let _ = tree::remove(&work.layers().join(&record.dir));
                layer.place = None;
            }
        }
    }

    fn paths(&self, layers: &[Layer<'_>], work: &Work, store: &Store) -> Vec<PathBuf> {
        let path = |(record, place): &(LayerRecord, Place)| match place {
            Place::Store => store.layers().join(&record.dir),
            Place::Work => work.layers().join(&record.dir),
        };
        layers.iter().filter_map(|layer| layer.place.as_ref().map(path)).collect()
    }

    /// Moves its layers and configuration into the store and its record into the index.
    fn keep(self, work: &Work, store: &Store, index: &mut Index, undo: &mut Undo) -> Result<Imported, Error> {
        let mut layers = Vec::new();
        for (record, place) in self.layers.into_iter().filter_map(|layer| layer.place) {
            let (from, to) = (work.layers().join(&record.dir), store.layers().join(&record.dir));
            // Another image of this archive, or another import, may have brought it already.
            if place == Place::Work && !undo.paths.contains(&to) && present(store, index, &record.dir).is_none() {
                fs::rename(&from, &to).map_err(|error| store.disk(error, &format!("rename to {}", to.display())))?;
                undo.paths.push(to);
            }
            layers.push(record);
        }
        let id = self.plan.config.digest.clone();
        let hex = id.trim_start_matches(digest::PREFIX);
        if !index.images.contains_key(&id) {
            undo.paths.push(store.blobs().join(hex));
        }
        write_durably(&store.blobs(), hex, &self.blob).map_err(|error| store.disk(error, "write a configuration"))?;
        let mut names: Vec<String> = self.plan.names.iter().map(|name| name.name()).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            index.names.insert(name.clone(), id.clone());
        }
        let size_bytes = layers.iter().map(|layer| layer.size_bytes).sum();
        let known = index.images.get(&id).and_then(|record| record.manifest.clone());
        let manifest = self.plan.manifest.clone().or(known);
        index.images.insert(id.clone(), Record { manifest, created: self.created, size_bytes, layers });
        Ok(Imported { id, names })
    }
}

impl Layer<'_> {
    fn unpack(
        &self,
        lowers: &[PathBuf],
        work: &mut Work,
        store: &Store,
        budget: &mut Budget,
    ) -> Result<LayerRecord, Error> {
        let into = work.dir.join("unpacking");
        // Left by an attempt that failed inside the commit.
        let _ = tree::remove(&into);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&into)
            .map_err(|error| store.disk(error, &format!("create {}", into.display())))?;
        let source = Hashing::new(archive::layer_tar(self.source, &store.limits)?);
        let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        let (mut source, unpacked) = unpack::unpack(source, &into, &lowers, budget)
            .map_err(|failure| failure.into_error(&self.source.digest, |error, what| store.disk(error, what)))?;
        // The digest is over the whole stream, and padding may follow the tar's end.
        io::copy(&mut source, &mut io::sink())
            .map_err(|error| unpack::read_error(error, &format!("layer {}", self.source.digest)))?;
        let (_, diff_id) = source.finish();
        if diff_id != self.diff_id {
            return Err(Error::archive(format!(
                "layer {}: unpacked it has the digest {diff_id}; the configuration says {}",
                self.source.digest, self.diff_id
            )));
        }
        let dir = if unpacked.self_contained { &self.alone } else { &self.chained };
        let to = work.layers().join(dir);
        fs::rename(&into, &to).map_err(|error| store.disk(error, &format!("rename to {}", to.display())))?;
        let record = LayerRecord { dir: dir.clone(), size_bytes: unpacked.bytes };
        work.done.push(record.clone());
        Ok(record)
    }
}

/// A layer of the index whose directory is there; one that was lost is unpacked again.
fn present<'a>(store: &Store, index: &'a Index, dir: &str) -> Option<&'a LayerRecord> {
    index.layer(dir).filter(|record| store.layers().join(&record.dir).is_dir())
}

/// Layers are many files: one `syncfs` costs less than an fsync of each.
fn sync_file_system(root: &Path) -> io::Result<()> {
    syncfs(File::open(root)?).map_err(io::Error::from)
}
